"""Split and merge operators: the fixed, redundant transforms in front of the lifting steps."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BOUNDARIES = ("symmetric", "periodic")


def _analyse(x: Tensor, dim: int, step: int, boundary: str) -> tuple[Tensor, Tensor]:
    """Low-pass and high-pass Haar coefficients of `x` along `dim`, each of the size of `x`."""
    size = x.shape[dim]
    if boundary == "periodic":
        neighbour = torch.roll(x, -step, dim)
    else:
        # Half-sample symmetry: the pixel after the last is the last, seen in a mirror. Short images mirror repeatedly.
        ahead = torch.arange(step, size + step, device=x.device) % (2 * size)
        neighbour = x.index_select(dim, torch.where(ahead < size, ahead, 2 * size - 1 - ahead))
    return (x + neighbour) / math.sqrt(2), (x - neighbour) / math.sqrt(2)


def _synthesise(low: Tensor, high: Tensor, dim: int, step: int, boundary: str) -> Tensor:
    """The signal whose Haar coefficients are `low` and `high`: each sample is the mean of the pairs that hold it."""
    here = (low + high) / math.sqrt(2)  # the sample as the first of its pair
    ahead = (low - high) / math.sqrt(2)  # its neighbour, `step` further on
    if boundary == "periodic":
        return (here + torch.roll(ahead, step, dim)) / 2
    size = here.shape[dim]
    if size <= step:  # no sample is the neighbour of another
        return here
    first, rest = here.split([step, size - step], dim)
    return torch.cat([first, (rest + ahead.narrow(dim, 0, size - step)) / 2], dim)


class UndecimatedHaar(nn.Module):
    """The undecimated (stationary) Haar transform of one scale: the split and merge of LINN (Section II-B).

    `forward` takes an image `(B, C, H, W)` of any size and returns `coarse` `(B, C, H, W)` (subband LL) and `detail`
    `(B, 3C, H, W)` (subbands LH, HL, HH in this order; the first letter is the filter along the height). `inverse`
    takes both back: `inverse(*forward(x)) == x` for every size, to rounding.

    Filters are orthonormal, (1, 1)/sqrt(2) and (1, -1)/sqrt(2): white noise keeps its standard deviation in each subband,
    and an image in [0, 1] has coarse coefficients in [0, 2].

    Args:
        dilation: distance between the two taps, 2**scale in an iterated transform ("a trous").
        boundary: "symmetric" (default; no false edge at the border) or "periodic" (PyWavelets' `swt2`).
    """

    num_subbands = 4

    def __init__(self, dilation: int = 1, boundary: str = "symmetric"):
        super().__init__()
        if boundary not in BOUNDARIES:
            raise ValueError(f"boundary is {boundary!r}; expected one of {', '.join(BOUNDARIES)}")
        if dilation < 1:
            raise ValueError(f"dilation is {dilation}; expected 1 or more")
        self.dilation, self.boundary = dilation, boundary

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        how = (self.dilation, self.boundary)
        low, high = _analyse(x, -2, *how)
        LL, LH = _analyse(low, -1, *how)
        HL, HH = _analyse(high, -1, *how)
        return LL, torch.cat([LH, HL, HH], dim=1)

    def inverse(self, coarse: Tensor, detail: Tensor) -> Tensor:
        how = (self.dilation, self.boundary)
        LH, HL, HH = detail.chunk(3, dim=1)
        low = _synthesise(coarse, LH, -1, *how)
        high = _synthesise(HL, HH, -1, *how)
        return _synthesise(low, high, -2, *how)


def pad_to_multiple(x: Tensor, multiple: int) -> tuple[Tensor, tuple[int, int]]:
    """`x` `(B, C, H, W)` extended at the bottom and right so that both sides are multiples, and its original size.

    The border is replicated, which works for images of a single pixel too.
    """
    height, width = x.shape[-2:]
    bottom, right = -height % multiple, -width % multiple
    if bottom or right:
        x = F.pad(x, (0, right, 0, bottom), mode="replicate")
    return x, (height, width)
