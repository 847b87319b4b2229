"""What every denoising network shares: the denoiser's contract and the training loss."""

from __future__ import annotations

from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from invdenoise.denoiser import Denoiser
from invdenoise.provenance import can_compile, resolve_precision


class DenoisingNetwork(nn.Module, Denoiser):
    """A network `noisy -> denoised` that is a `Denoiser` and owns its training loss.

    Args:
        sigma: noise level it is trained for, in grey levels; None for a blind network.
    """

    display_name = "network"

    def __init__(self, sigma: float | None = None):
        super().__init__()
        if sigma is not None and not 0 < sigma <= 255:
            raise ValueError(
                f"sigma is {sigma!r}; expected grey levels, more than 0 and up to 255, or None for a blind network"
            )
        self.sigma = None if sigma is None else float(sigma)
        self.precision = "float32"

    def training_loss(self, clean: Tensor, noisy: Tensor, sigma: float | None) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean squared error per pixel (LINN, Eq. 11, divided by the number of pixels), and the figures to log.

        Args:
            clean, noisy: `(B, C, H, W)` in [0, 1]; noise may exceed it.
            sigma: noise level of the batch in grey levels.
        """
        loss = F.mse_loss(self(noisy), clean)
        return loss, {"mse": loss.detach()}

    def estimate(self, noisy: Tensor, sigma: float | None) -> Tensor:
        return self.infer(noisy)

    def infer(self, noisy: Tensor, *arguments) -> Tensor:
        """`forward` in the precision chosen by `speed_up`, for a float image of any precision; `(B, C, H, W)` in and out.

        ValueError when network and image are on different devices.
        """
        weight = next(self.parameters())
        if noisy.device != weight.device:
            raise ValueError(f"the image is on {noisy.device}, the network on {weight.device}; move one with .to()")
        noisy = noisy.to(weight.dtype)
        with torch.autocast(noisy.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            return self(noisy, *arguments)

    def speed_up(self, precision: str = "fastest", compiled: bool | None = None) -> Self:
        """Prepare for many pictures: activations in `precision`, and convolution chains in a kernel of their own or compiled.

        Compilation costs seconds once a process, which a handful of pictures does not earn back; it is left out where the
        network has a kernel, and without a compiler. Where "fastest" is bfloat16, PSNR changes by less than 0.005 dB (`make bench`
        measures it).

        Args:
            precision: "float32", "bfloat16", or "fastest", see `fastest_precision`.
            compiled: None takes a kernel where there is one and compiles elsewhere.
        """
        device = next(self.parameters()).device
        fastest = precision == "fastest"
        self.precision = self.fastest_precision(device) if fastest else self.resolve_precision(precision, device)
        own = self.has_kernel(device, self.precision)
        self.use_kernel(own and compiled is None)
        if can_compile(device) and not own if compiled is None else compiled:
            for module in self.chains():
                module.compile(dynamic=True)  # one code for pictures of every size
        return self

    def has_kernel(self, device: torch.device, precision: str) -> bool:
        """Whether `device` can run the network's chains in a kernel of their own in "float32" or "bfloat16", see `kernels`."""
        return False

    def use_kernel(self, use: bool = True) -> Self:
        """Run chains of float32 activations in their kernel where there is one: faster, and differentiable once.

        PyTorch's own operations are the reference, so they are what runs unless this is called.
        """
        for chain in self.chains():
            chain.in_kernel = use
        return self

    def resolve_precision(self, precision: str, device: torch.device | str = "cpu") -> str:
        """The precision of activations on a device: "float32" or "bfloat16".

        "fastest" is that of the network's kernel on the device, bfloat16 before float32; without one, see `provenance`.
        """
        if precision == "fastest":
            for kind in ("bfloat16", "float32"):
                if self.has_kernel(torch.device(device), kind):
                    return kind
        return resolve_precision(precision, device)

    def fastest_precision(self, device: torch.device | str = "cpu") -> str:
        """The fastest precision of inference that changes PSNR by less than 0.005 dB."""
        return self.resolve_precision("fastest", device)

    def chains(self) -> list[nn.Module]:
        """The parts worth compiling on their own: small, and many of one kind, so that one compilation serves them all."""
        return [self]

    def start_from(self, other: DenoisingNetwork) -> frozenset[str]:
        """Take over the weights of a trained network as a start, and return the names of the parameters that have them.

        ValueError when the networks differ in shape.
        """
        try:
            self._take_over(other)
        except (AttributeError, RuntimeError) as error:
            raise ValueError(f"{other.name} does not fit as a start: {error}") from None
        return frozenset(name for name, _ in self.named_parameters()) & other.state_dict().keys()

    def _take_over(self, other: DenoisingNetwork) -> None:
        self.load_state_dict(other.state_dict())

    def num_parameters(self) -> int:
        """Learned parameters."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)
