"""Layers of normalizing flows: actnorm, invertible 1x1 convolution, and a coupling whose scale has another form (FDN, Section III-B)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from invdenoise.layers.coupling import AffineCoupling
from invdenoise.layers.invertible import Invertible

SMALLEST_SPREAD = 1e-6  # of a channel, so that one that is constant in the first batch is not divided by zero
SIGMOID_SHIFT = 2.0  # a fresh layer then scales by 0.88


class ActNorm(Invertible):
    """A scale and a shift for each channel, `y = s1 * x + b1` (FDN, Eq. 6).

    The scale is kept as its logarithm, so it is positive and never zero. A fresh layer is the identity until `initialise`.

    Args:
        num_channels: C of states `(B, C, H, W)`.
    """

    def __init__(self, num_channels: int):
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(1, num_channels, 1, 1))
        self.shift = nn.Parameter(torch.zeros(1, num_channels, 1, 1))

    @torch.no_grad()
    def initialise(self, x: Tensor) -> None:
        """Set scale and shift so that the outputs for `x` have mean 0 and variance 1 in each channel."""
        spread, mean = torch.std_mean(x, dim=(0, 2, 3), correction=0, keepdim=True)
        self.log_scale.copy_(-torch.log(spread.clamp(min=SMALLEST_SPREAD)))
        self.shift.copy_(-mean * torch.exp(self.log_scale))

    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (torch.exp(self.log_scale) * x + self.shift,)

    def inverse(self, x: Tensor) -> tuple[Tensor]:
        return ((x - self.shift) * torch.exp(-self.log_scale),)

    def log_det(self, x: Tensor) -> Tensor:
        return (_num_pixels(x) * self.log_scale.sum()).expand(len(x))


class InvertibleConv1x1(Invertible):
    """One square matrix mixes the channels of every pixel, `y = W x` (FDN, Eq. 8; Glow, Section 3.2).

    It is applied in float32 under autocast too: its inverse would magnify the rounding of bfloat16.

    Args:
        num_channels: C of states `(B, C, H, W)`.
        start: W of a fresh layer `(C, C)`; None is a random rotation (Glow's start).
    """

    def __init__(self, num_channels: int, start: Tensor | None = None):
        super().__init__()
        self.matrix = nn.Parameter(random_rotation(num_channels) if start is None else start.clone())

    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (_mix(self.matrix, x),)

    def inverse(self, x: Tensor) -> tuple[Tensor]:
        return (_mix(torch.linalg.inv(self.matrix.double()).to(x.dtype), x),)

    def log_det(self, x: Tensor) -> Tensor:
        return (_num_pixels(x) * torch.linalg.slogdet(self.matrix.double()).logabsdet).to(x.dtype).expand(len(x))


class SigmoidCoupling(AffineCoupling):
    """Affine coupling that scales by `sigmoid(g2(a') + 2)`, the form of Glow's published code.

    The scale is below 1 and has no lower bound: the inverse may magnify without limit. See `AffineCoupling` for all else.
    """

    def log_scale(self, a: Tensor) -> Tensor:
        return F.logsigmoid(self.phi3(a).to(a.dtype) + SIGMOID_SHIFT)


def random_rotation(num_channels: int) -> Tensor:
    """An orthogonal matrix `(C, C)`, uniformly distributed."""
    rotation, triangle = torch.linalg.qr(torch.randn(num_channels, num_channels, dtype=torch.float64))
    return (rotation * triangle.diagonal().sign()).float()  # without the signs it would not be uniform


def haar_rotation(num_channels: int) -> Tensor:
    """The orthogonal Haar transform `(C, C)` of the four pixels that `Squeeze` put into the channels: LL of all, then LH, HL, HH."""
    corners = torch.tensor([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]) / 2
    return torch.kron(corners, torch.eye(num_channels // 4))


def _mix(matrix: Tensor, x: Tensor) -> Tensor:
    kernel = matrix[:, :, None, None]
    if x.is_meta:  # shapes alone are computed, as for counting operations; autocast does not know this device
        return F.conv2d(x, kernel)
    with torch.autocast(x.device.type, enabled=False):
        return F.conv2d(x, kernel)


def _num_pixels(x: Tensor) -> int:
    return x.shape[-2] * x.shape[-1]
