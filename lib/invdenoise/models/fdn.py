"""FDN: a normalizing flow that tells noise from picture in its latent (Liu et al., "Disentangling Noise from Images")."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from invdenoise.layers.coupling import AffineCoupling, Squeeze
from invdenoise.layers.flow import ActNorm, InvertibleConv1x1, SigmoidCoupling, haar_rotation
from invdenoise.layers.invertible import InvertibleSequence
from invdenoise.models.base import DenoisingNetwork

COUPLINGS = {"bounded": AffineCoupling, "sigmoid": SigmoidCoupling}
MASKS = ("last", "spread")
STARTS = ("random", "haar")


class FDN(DenoisingNetwork):
    """The latent of the noisy picture is standard normal; a part of it is set to zero, and the way back gives the clean picture.

    `encode` turns a noisy picture y into z ~ N(0, I) of the same number of values. Some channels of z, z_C, encode the clean
    picture and the others, z_N, the noise. `decode` with z_N = 0 returns the denoised picture (Section III-A, Eq. 4).

    Takes colour pictures `(B, 3, H, W)` of any size; they are padded to multiples of 2**num_blocks.

    Args:
        num_blocks: DownScale flow blocks: a squeeze, then steps of flow (paper: 2).
        num_steps: steps of flow in each: actnorm, invertible 1x1 convolution, affine coupling (paper: 8).
        clean_share: share of the channels of z that encode the picture, dim(z_C) / dim(z) (paper: 3/4, Table II).
        mask: "last" sets the last channels to zero, "spread" every fourth, or as many as the share asks. The paper does not say which.
        start: of the 1x1 convolutions: "random" rotations (paper), or "haar", the Haar transform after each squeeze and the identity
            after that, so that a fresh network drops the finest diagonal detail.
        scale: of the couplings: "bounded", between 1/e and e as in InvDN, or "sigmoid", below 1 as in Glow. The paper leaves it open.
        distribution_weight: lambda_1 of Eq. 12, for the loss in nats per value. The paper does not give it.
        reconstruction_weight: lambda_2, for the mean absolute error.
        dequantise: add uniform noise of one grey level to what is learned from: real pictures have whole grey levels, of which the
            density has no bound. White noise makes it needless.
        sigma: noise level it is trained for, in grey levels; None for a blind network or real noise.
        constant_memory: recompute activations in the backward pass instead of storing them, see `InvertibleSequence`.
    """

    display_name = "FDN"
    channels = 3
    adapts = False

    def __init__(
        self,
        num_blocks: int = 2,
        num_steps: int = 8,
        clean_share: float = 0.75,
        mask: str = "last",
        start: str = "random",
        scale: str = "bounded",
        distribution_weight: float = 1e-3,
        reconstruction_weight: float = 1.0,
        dequantise: bool = False,
        sigma: float | None = None,
        constant_memory: bool = False,
    ):
        super().__init__(sigma=sigma)
        for key, value, allowed in (("mask", mask, MASKS), ("start", start, STARTS), ("scale", scale, COUPLINGS)):
            if value not in allowed:
                raise ValueError(f"{key} is {value!r}; expected one of {', '.join(allowed)}")
        for key, value in (("num_blocks", num_blocks), ("num_steps", num_steps)):
            if value < 1:
                raise ValueError(f"{key} is {value}; expected 1 or more")
        for key, value in (
            ("distribution_weight", distribution_weight),
            ("reconstruction_weight", reconstruction_weight),
        ):
            if not 0 <= value < math.inf:
                raise ValueError(f"{key} is {value}; expected 0 or more")
        layers = []
        for block in range(num_blocks):
            num_channels = 3 * 4 ** (block + 1)
            layers.append(Squeeze())
            for step in range(num_steps):
                fixed = haar_rotation(num_channels) if step == 0 else torch.eye(num_channels)
                mixing = InvertibleConv1x1(num_channels, None if start == "random" else fixed)
                layers += [ActNorm(num_channels), mixing, COUPLINGS[scale](num_channels, "dense")]
        self.flow = InvertibleSequence(layers, constant_memory)
        self.multiple = 2**num_blocks
        self.distribution_weight, self.reconstruction_weight = distribution_weight, reconstruction_weight
        self.dequantise = dequantise
        self.register_buffer("mask", _mask(num_channels, clean_share, mask), persistent=False)
        # A float, since a running average of weights averages this too.
        self.register_buffer("initialised", torch.zeros(()))

    def encode(self, noisy: Tensor) -> Tensor:
        """z, `(B, 3 * 4**num_blocks, h, w)` with h = H / 2**num_blocks. Height and width must be multiples of 2**num_blocks."""
        return self.flow(noisy)[0]

    def decode(self, latent: Tensor) -> Tensor:
        """The picture `(B, 3, H, W)` of a latent, not clamped. `decode(encode(x)) == x` to rounding."""
        return self.flow.inverse(latent)[0]

    def forward(self, noisy: Tensor) -> Tensor:
        """The denoised picture `(B, 3, H, W)`, not clamped: the decoded latent with z_N = 0."""
        return self.decode(self.mask * self.encode(noisy))

    def log_likelihood(self, noisy: Tensor) -> Tensor:
        """log p(y) of Eq. 10 in nats, `(B,)`: the density of pictures with values in [0, 1], all values of one picture together."""
        (latent,), log_det = self.flow.forward_log_det(noisy.to(self.mask.dtype))
        return _log_normal(latent) + log_det

    @torch.no_grad()
    def sample(self, shape: tuple[int, int, int], temperature: float = 1.0, seed: int | None = None) -> Tensor:
        """Pictures drawn from the learned density of noisy pictures, not clamped.

        Args:
            shape: `(B, H, W)`, H and W multiples of 2**num_blocks.
            temperature: standard deviation of the latent. 1 is the density itself; less gives likelier pictures.
            seed: of the draw; None takes PyTorch's own generator.

        Raises:
            ValueError: a size that is no multiple, or a negative temperature.
        """
        batch, height, width = shape
        if height % self.multiple or width % self.multiple:
            raise ValueError(f"shape is {shape}; expected a height and width that are multiples of {self.multiple}")
        if temperature < 0:
            raise ValueError(f"temperature is {temperature}; expected 0 or more")
        size = (batch, self.mask.shape[1], height // self.multiple, width // self.multiple)
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        return self.decode(temperature * torch.randn(size, generator=generator).to(self.mask))

    @torch.no_grad()
    def initialise(self, noisy: Tensor) -> None:
        """Set each actnorm from the activations of a batch `(B, 3, H, W)` of noisy pictures (Section III-B). Training does it once.

        Of several processes, all take over the first one's.
        """
        state = (noisy,)
        for layer in self.flow:
            if isinstance(layer, ActNorm):
                layer.initialise(*state)
                if torch.distributed.is_available() and torch.distributed.is_initialized():
                    for parameter in layer.parameters():
                        torch.distributed.broadcast(parameter.data, 0)
            state = layer(*state)
        self.initialised.fill_(1)

    def training_loss(
        self, clean: Tensor, noisy: Tensor, sigma: Tensor | float | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """lambda_1 L_dis + lambda_2 L_rec (Eq. 10 to 12), both as means over pixels, channels and pictures."""
        if self.dequantise:
            noisy = noisy + (torch.rand_like(noisy) - 0.5) / 255
        if self.initialised < 0.5:
            self.initialise(noisy)
        (latent,), log_det = self.flow.forward_log_det(noisy)
        distribution = -(_log_normal(latent) + log_det).mean() / latent[0].numel()
        restored = self.decode(self.mask * latent)
        reconstruction = (restored.float() - clean).abs().mean()
        loss = self.distribution_weight * distribution + self.reconstruction_weight * reconstruction
        return loss, {"distribution_loss": distribution.detach(), "reconstruction_loss": reconstruction.detach()}


def _log_normal(latent: Tensor) -> Tensor:
    """log N(z; 0, I) of each latent of a batch."""
    return -0.5 * (latent.float().square() + math.log(2 * math.pi)).flatten(1).sum(1)


def _mask(num_channels: int, clean_share: float, mask: str) -> Tensor:
    """m of Eq. 4, `(1, C, 1, 1)`: 1 for channels of the picture and 0 for those of the noise."""
    num_clean = round(clean_share * num_channels)
    if not 0 < num_clean < num_channels:
        raise ValueError(f"clean_share is {clean_share}; expected between 0 and 1, with a channel left for each part")
    if mask == "last":
        kept = torch.arange(num_channels) < num_clean
    else:  # evenly: the count of kept channels rises by the share with each channel
        counts = torch.arange(num_channels + 1) * num_clean // num_channels
        kept = counts.diff() > 0
    return kept.float().view(1, -1, 1, 1)
