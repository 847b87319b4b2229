"""What every denoising network shares: the denoiser's contract and the training loss."""

from __future__ import annotations

from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from invdenoise.denoiser import Denoiser
from invdenoise.provenance import can_compile


class DenoisingNetwork(nn.Module, Denoiser):
    """A network `noisy -> denoised` that is a `Denoiser` and owns its training loss.

    Args:
        sigma: noise level it is trained for, in grey levels; None for a blind network.
    """

    display_name = "network"

    def __init__(self, sigma: float | None = None):
        super().__init__()
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
        """`forward` in the precision chosen by `speed_up`, for a float image of any precision; `(B, C, H, W)` in and out."""
        noisy = noisy.to(next(self.parameters()).dtype)
        with torch.autocast(noisy.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            return self(noisy, *arguments)

    def speed_up(self, precision: str = "bfloat16", compiled: bool | None = None) -> Self:
        """Prepare for many pictures: activations in `precision`, and compiled convolution chains.

        Compilation costs seconds once a process, which a handful of pictures does not earn back; without a compiler, or
        where the network has a kernel of its own, it is left out. In bfloat16 PSNR changes by less than 0.005 dB
        (`make bench` measures it).

        Args:
            precision: "float32" or "bfloat16".
            compiled: None compiles where it helps.
        """
        if precision not in ("float32", "bfloat16"):
            raise ValueError(f"precision is {precision!r}; expected float32 or bfloat16")
        self.precision = precision
        own = precision == "bfloat16" and self.has_kernel(next(self.parameters()).device)
        if can_compile() and not own if compiled is None else compiled:
            for module in self.chains():
                module.compile(dynamic=True)  # one code for pictures of every size
        return self

    def has_kernel(self, device: torch.device) -> bool:
        """Whether the network runs in a kernel of its own in bfloat16 on `device`, and gains nothing from compilation."""
        return False

    def chains(self) -> list[nn.Module]:
        """The parts worth compiling on their own: small, and many of one kind, so that one compilation serves them all."""
        return [self]

    def start_from(self, other: DenoisingNetwork) -> None:
        """Take over the weights of a trained network as a start. ValueError when the networks differ in shape."""
        try:
            self._take_over(other)
        except (AttributeError, RuntimeError) as error:
            raise ValueError(f"{other.name} does not fit as a start: {error}") from None

    def _take_over(self, other: DenoisingNetwork) -> None:
        self.load_state_dict(other.state_dict())

    def num_parameters(self) -> int:
        """Learned parameters."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)
