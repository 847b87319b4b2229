"""The contract of every denoiser, `denoise(noisy, sigma)`, and what denoising networks share."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from invdenoise.checks import check_image, check_sigma, warn_of_fraction
from invdenoise.layers.transforms import pad_to_multiple


class Denoiser:
    """The contract that notebooks rely on. A subclass implements `estimate` and states its needs in the attributes.

    Attributes:
        name: identifier of the network or method ("dninn-st-s25", "bm3d").
        channels: number of channels that it accepts, or None for any number.
        needs_sigma: whether `denoise` must be given the noise level.
        adapts: whether a method for one noise level can be told another one.
        multiple: height and width are padded to multiples of this, and the result is cropped.
        card: where the weights come from (`budget`, `sha256`, ...); "none" for methods without weights.
    """

    name: str = "denoiser"
    channels: int | None = None
    needs_sigma: bool = False
    adapts: bool = True
    multiple: int = 1
    card: dict = {"budget": "none", "sha256": ""}

    def num_parameters(self) -> int:
        """Number of learned parameters: 0, unless a network says otherwise."""
        return 0

    def estimate(self, noisy: Tensor, sigma: float | None, **options) -> Tensor:
        """The clean image of a checked and padded `noisy` `(B, C, H, W)`; not yet clamped."""
        raise NotImplementedError

    @torch.no_grad()
    def denoise(self, noisy: Tensor, sigma: float | None = None, *, clamp: bool = True, **options) -> Tensor:
        """The denoised image, `(B, C, H, W)` in [0, 1], same dtype and size as `noisy`.

        Args:
            noisy: float tensor `(B, C, H, W)` of any height and width, nominal range [0, 1]; noise may exceed it
                and must not be clipped.
            sigma: standard deviation of the noise in grey levels, 0 to 255; None where the method does not need it. A level
                between 0 and 1 is warned of once: it may be meant as a fraction of white.
            clamp: False leaves the output as it is, for numbers that were measured so.
            options: of the method, such as `adapt=False` for DnINN.

        Raises:
            TypeError: `noisy` is not a float tensor, or `sigma` is not a number.
            ValueError: wrong shape or number of channels, NaN or infinite pixels, another range such as 0..255, a negative or
                missing sigma.
        """
        check_image(noisy, self.channels, self.name)
        sigma = check_sigma(sigma, self.needs_sigma, self.name)
        warn_of_fraction(sigma, self.name)
        padded, (height, width) = pad_to_multiple(noisy, self.multiple)
        denoised = self.estimate(padded, sigma, **options)[..., :height, :width]
        return (denoised.clamp(0, 1) if clamp else denoised).to(noisy.dtype)


class DenoisingNetwork(nn.Module, Denoiser):
    """A network `noisy -> denoised` that is a `Denoiser` and has its own training loss.

    Args:
        sigma: noise level it is trained for, in grey levels. None for a network trained on several levels, or on real
            noise, which has no level.

    Attributes:
        display_name: for tables and figures.
        inference_precision: precision of `kernels.speed_up` for "fastest": "float32" for a network that loses more than
            0.005 dB of PSNR in bfloat16, else "fastest".
        precision: of the activations in `infer`, "float32" or "bfloat16".
    """

    display_name = "network"
    inference_precision = "fastest"

    def __init__(self, sigma: float | None = None):
        super().__init__()
        if sigma is not None and not 0 < sigma <= 255:
            raise ValueError(
                f"sigma is {sigma!r}; expected grey levels, more than 0 and up to 255, or None for no fixed level"
            )
        self.sigma = None if sigma is None else float(sigma)
        self.precision = "float32"

    def training_loss(
        self, clean: Tensor, noisy: Tensor, sigma: Tensor | float | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch, and named figures to log, as many as the network likes.

        The loss is the mean squared error per pixel (LINN, Eq. 11, divided by the number of pixels). A network with
        another loss overrides this. Training passes the batch by keyword, so the names of the arguments are those of
        the data.

        Args:
            clean, noisy: `(B, C, H, W)` in [0, 1]; noise may exceed it.
            sigma: noise level of the batch in grey levels, or of each image `(B,)`; None for noise without a level.
        """
        loss = F.mse_loss(self(noisy), clean)
        return loss, {"mse": loss.detach()}

    def estimate(self, noisy: Tensor, sigma: float | None) -> Tensor:
        return self.infer(noisy)

    def infer(self, noisy: Tensor, *arguments) -> Tensor:
        """`forward` with activations in `self.precision`. Takes a float image of any precision.

        Raises:
            ValueError: network and image are on different devices.
        """
        weight = next(self.parameters())
        if noisy.device != weight.device:
            raise ValueError(f"the image is on {noisy.device}, the network on {weight.device}; move one with .to()")
        noisy = noisy.to(weight.dtype)
        with torch.autocast(noisy.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            return self(noisy, *arguments)

    def chains(self) -> list[nn.Module]:
        """The parts that are compiled one by one. Parts of one kind share a compilation, which saves minutes."""
        return [self]

    def start_from(self, other: DenoisingNetwork) -> frozenset[str]:
        """Warm start: copy the weights of a trained network, and return the names of the parameters that now have them.

        Raises:
            ValueError: the networks differ in shape.
        """
        try:
            self._take_over(other)
        except (AttributeError, RuntimeError) as error:
            raise ValueError(f"{other.name} does not fit as a start: {error}") from None
        return frozenset(name for name, _ in self.named_parameters()) & other.state_dict().keys()

    def _take_over(self, other: DenoisingNetwork) -> None:
        self.load_state_dict(other.state_dict())

    def num_parameters(self) -> int:
        """Number of learned parameters."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)


@torch.no_grad()
def count_macs(network: nn.Module, shape: tuple[int, int, int] = (3, 256, 256)) -> int:
    """Multiplications, each with its addition, that `network` takes for one image, as PyTorch counts them.

    Convolutions and matrix products count; activations, biases and sums do not.

    Args:
        network: called with one image `(1, C, H, W)`, in evaluation mode; its own mode is restored.
        shape: `(C, H, W)` of the image.
    """
    from torch.utils.flop_counter import FlopCounterMode  # here, because loading it takes a second

    image = torch.zeros(1, *shape).to(next(network.parameters()))
    training = network.training
    try:
        with FlopCounterMode(display=False) as counter:
            network.eval()(image)
    finally:
        network.train(training)
    return counter.get_total_flops() // 2
