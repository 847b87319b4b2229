"""InvDN: the invertible denoising network for real noise (Liu et al., CVPR 2021)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from invdenoise.layers.coupling import NUM_LOW, AffineCoupling, HaarDownsampling, Squeeze
from invdenoise.layers.invertible import InvertibleSequence
from invdenoise.layers.transforms import pad_to_multiple
from invdenoise.models.base import DenoisingNetwork

DOWNSAMPLINGS = {"haar": HaarDownsampling, "squeeze": Squeeze}
NORMS = ("l1", "l2")
CHARBONNIER = 1e-3  # the l1 norm is sqrt(d**2 + 1e-3), as in the released code


class InvDN(DenoisingNetwork):
    """A picture becomes a clean low-resolution picture and a latent; a fresh latent brings it back (InvDN, Figure 3).

    `forward` of the invertible part turns a noisy picture into three channels, trained to be the clean picture at 1/4 of the
    size, and a latent with noise and detail. The latent is replaced by a draw from N(0, latent_scale**2), or by zero, and
    the network is run backwards.

    Takes colour pictures `(B, 3, H, W)` of any size; they are padded to multiples of 2**num_levels.

    Args:
        num_levels: downsampling steps (paper: 2).
        num_blocks: coupling layers after each (paper: 8).
        subnet: "residual" (paper) or "dense".
        downsampling: "haar" (paper) or "squeeze".
        latent_scale: standard deviation of a draw (paper: 1). 0 trains and denoises with a latent of zero.
        forward_norm, backward_norm: "l1" or "l2" of the two losses (paper: l2 and l1, Table 4).
        gradient_weight, ssim_weight: of two more terms of the backward loss (paper: tried, not used).
        identity_start: the last convolution of each subnet starts at zero. False is PyTorch's start, the paper's.
        constant_memory: recompute activations in the backward pass instead of storing them, see `InvertibleSequence`.
        sigma: noise level of training in grey levels, for white noise; None for real noise.
    """

    display_name = "InvDN"
    channels = 3

    def __init__(
        self,
        num_levels: int = 2,
        num_blocks: int = 8,
        subnet: str = "residual",
        downsampling: str = "haar",
        latent_scale: float = 1.0,
        forward_norm: str = "l2",
        backward_norm: str = "l1",
        gradient_weight: float = 0.0,
        ssim_weight: float = 0.0,
        identity_start: bool = True,
        constant_memory: bool = False,
        sigma: float | None = None,
    ):
        super().__init__(sigma=sigma)
        for key, value, allowed in (
            ("downsampling", downsampling, DOWNSAMPLINGS),
            ("forward_norm", forward_norm, NORMS),
            ("backward_norm", backward_norm, NORMS),
        ):
            if value not in allowed:
                raise ValueError(f"{key} is {value!r}; expected one of {', '.join(allowed)}")
        for key, value in (("num_levels", num_levels), ("num_blocks", num_blocks)):
            if value < 1:
                raise ValueError(f"{key} is {value}; expected 1 or more")
        if latent_scale < 0:
            raise ValueError(f"latent_scale is {latent_scale}; expected 0 or more")
        layers = []
        for level in range(num_levels):
            layers.append(DOWNSAMPLINGS[downsampling]())
            num_channels = NUM_LOW * 4 ** (level + 1)
            layers += [AffineCoupling(num_channels, subnet, identity_start) for _ in range(num_blocks)]
        self.flow = InvertibleSequence(layers, constant_memory)
        self.multiple, self.num_levels = 2**num_levels, num_levels
        self.latent_scale = float(latent_scale)
        self.forward_norm, self.backward_norm = forward_norm, backward_norm
        self.gradient_weight, self.ssim_weight = gradient_weight, ssim_weight

    def encode(self, noisy: Tensor) -> tuple[Tensor, Tensor]:
        """Low-resolution picture `(B, 3, h, w)` and latent z `(B, 3 * 4**num_levels - 3, h, w)`; h is H / 2**num_levels.

        Height and width must be multiples of 2**num_levels. `decode(*encode(x)) == x` to rounding.
        """
        (state,) = self.flow(noisy)
        return state[:, :NUM_LOW], state[:, NUM_LOW:]

    def decode(self, low: Tensor, latent: Tensor) -> Tensor:
        """The picture `(B, 3, H, W)` with this low-resolution picture and latent; not clamped."""
        return self.flow.inverse(torch.cat([low, latent], 1))[0]

    def forward(self, noisy: Tensor, latent: Tensor | None = None) -> Tensor:
        """The denoised picture `(B, 3, H, W)`, not clamped, from a fresh latent; None is a latent of zero."""
        low, discarded = self.encode(noisy)
        return self.decode(low, torch.zeros_like(discarded) if latent is None else latent)

    def draw_latent(self, noisy: Tensor, seed: int | None = None) -> Tensor:
        """A draw from N(0, latent_scale**2) of the shape of the latent of `noisy`; None takes PyTorch's own generator."""
        batch, _, height, width = noisy.shape
        side = 2**self.num_levels
        return self.latent_scale * _normal((batch, NUM_LOW * (side**2 - 1), height // side, width // side), noisy, seed)

    def training_loss(
        self, clean: Tensor, noisy: Tensor, sigma: Tensor | float | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The forward and the backward loss (Section 3.4), both as means, which keeps the ratio of the released code.

        The released code sums over pixels and weighs the forward loss by 16, the ratio of the two sizes. The target of the
        forward loss is the antialiased bicubic reduction of the clean patch. The network is blind: `sigma` is not used.
        """
        low, discarded = self.encode(noisy)
        side = 2**self.num_levels
        target = F.interpolate(clean, scale_factor=1 / side, mode="bicubic", antialias=True)
        forward = _distance(low, target, self.forward_norm)
        draw = torch.randn_like(discarded) * self.latent_scale if self.latent_scale else torch.zeros_like(discarded)
        restored = self.decode(low, draw)
        backward = _distance(restored, clean, self.backward_norm)
        loss = forward + backward
        if self.gradient_weight:
            loss = loss + self.gradient_weight * gradient_distance(restored, clean)
        if self.ssim_weight:
            loss = loss + self.ssim_weight * dissimilarity(restored, clean)
        return loss, {"forward_loss": forward.detach(), "backward_loss": backward.detach()}

    def estimate(
        self, noisy: Tensor, sigma: float | None, samples: int = 0, flips: bool = False, seed: int | None = None
    ) -> Tensor:
        """See `denoise`. Blind: `sigma` is not used.

        Args:
            samples: latents that are drawn; their results are averaged (Monte-Carlo self-ensemble, Section 4.5: 16).
                0 takes a latent of zero, once.
            flips: average over the eight flips and rotations of the picture.
            seed: of the draws; None takes PyTorch's own generator, so each call has draws of its own.
        """
        if samples < 0:
            raise ValueError(f"samples is {samples}; expected 0 (a latent of zero) or more")
        modes = range(8) if flips else [0]
        return sum(_unflip(self._average(_flip(noisy, mode), samples, seed), mode) for mode in modes) / len(modes)

    def _average(self, noisy: Tensor, samples: int, seed: int | None) -> Tensor:
        if not samples:
            return self.infer(noisy)
        weight = next(self.parameters())
        noisy = noisy.to(weight.dtype)
        with torch.autocast(noisy.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            low, _ = self.encode(noisy)
            seeds = [None if seed is None else seed + number for number in range(samples)]
            return sum(self.decode(low, self.draw_latent(noisy, one)) for one in seeds) / samples

    @torch.no_grad()
    def generate(self, noisy: Tensor, epsilon: float, seed: int | None = None) -> Tensor:
        """Another noisy picture of the same scene: the latent is disturbed, z + epsilon * v with v ~ N(0, 1) (Section 4.6).

        Args:
            noisy: float `(B, 3, H, W)` in [0, 1], any size.
            epsilon: 0 returns `noisy` up to rounding.
            seed: of v; None takes PyTorch's own generator.

        Returns:
            `(B, 3, H, W)`, not clamped.
        """
        padded, (height, width) = pad_to_multiple(noisy, self.multiple)
        low, latent = self.encode(padded.to(next(self.parameters()).dtype))
        latent = latent + epsilon * _normal(latent.shape, latent, seed)
        return self.decode(low, latent)[..., :height, :width].to(noisy.dtype)


def _normal(shape: Sequence[int], like: Tensor, seed: int | None) -> Tensor:
    """Standard normal numbers; with a seed they do not depend on the device."""
    if seed is None:
        return torch.randn(shape, dtype=like.dtype, device=like.device)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(like)


def _distance(x: Tensor, y: Tensor, norm: str) -> Tensor:
    squares = (x.float() - y).square()
    return squares.mean() if norm == "l2" else (squares + CHARBONNIER).sqrt().mean()


def gradient_distance(x: Tensor, y: Tensor) -> Tensor:
    """Mean absolute difference of the Sobel gradients of two pictures `(B, C, H, W)`, both directions."""
    sobel = x.new_tensor([[1, 0, -1], [2, 0, -2], [1, 0, -1]])
    channels = x.shape[1]
    kernels = torch.stack([sobel, sobel.T])[:, None].repeat(channels, 1, 1, 1)
    return F.conv2d(x - y, kernels, groups=channels).abs().mean()


def dissimilarity(x: Tensor, y: Tensor) -> Tensor:
    """Mean of (1 - SSIM) / 2 within 0 and 1, with SSIM over plain 3x3 windows and a range of 1."""
    c1, c2 = 0.01**2, 0.03**2
    mean_x, mean_y = F.avg_pool2d(x, 3, 1), F.avg_pool2d(y, 3, 1)
    var_x = F.avg_pool2d(x * x, 3, 1) - mean_x**2
    var_y = F.avg_pool2d(y * y, 3, 1) - mean_y**2
    cov = F.avg_pool2d(x * y, 3, 1) - mean_x * mean_y
    ssim = (2 * mean_x * mean_y + c1) * (2 * cov + c2) / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    return ((1 - ssim) / 2).clamp(0, 1).mean()


def _flip(x: Tensor, mode: int) -> Tensor:
    """One of the eight flips and rotations; bits of the mode: flip rows, flip columns, transpose."""
    x = x.flip(-2) if mode & 1 else x
    x = x.flip(-1) if mode & 2 else x
    return x.mT if mode & 4 else x


def _unflip(x: Tensor, mode: int) -> Tensor:
    x = x.mT if mode & 4 else x
    x = x.flip(-1) if mode & 2 else x
    return x.flip(-2) if mode & 1 else x
