"""Split and merge operators: the fixed, redundant transforms before the lifting steps."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BOUNDARIES = ("symmetric", "periodic")
DCT_BOUNDARIES = ("exact", "replicate")


def _analyse(x: Tensor, dim: int, step: int, boundary: str) -> tuple[Tensor, Tensor]:
    """Low-pass and high-pass Haar coefficients of `x` along `dim`, each of the size of `x`."""
    size = x.shape[dim]
    if boundary == "periodic":
        neighbour = torch.roll(x, -step, dim)
    else:
        # Half-sample symmetry: the last pixel is repeated, then the others in reverse. Short images mirror repeatedly.
        ahead = torch.arange(step, size + step, device=x.device) % (2 * size)
        neighbour = x.index_select(dim, torch.where(ahead < size, ahead, 2 * size - 1 - ahead))
    return (x + neighbour) / math.sqrt(2), (x - neighbour) / math.sqrt(2)


def _synthesise(low: Tensor, high: Tensor, dim: int, step: int, boundary: str) -> Tensor:
    """The signal with Haar coefficients `low` and `high`: a sample is the mean of its values in two pairs."""
    here = (low + high) / math.sqrt(2)  # first sample of a pair
    ahead = (low - high) / math.sqrt(2)  # second sample, `step` pixels later
    if boundary == "periodic":
        return (here + torch.roll(ahead, step, dim)) / 2
    size = here.shape[dim]
    if size <= step:  # no sample is the neighbour of another
        return here
    first, rest = here.split([step, size - step], dim)
    return torch.cat([first, (rest + ahead.narrow(dim, 0, size - step)) / 2], dim)


class UndecimatedHaar(nn.Module):
    """The undecimated (stationary) Haar transform of one scale: the split and merge of LINN (Section II-B).

    `forward` takes an image `(B, C, H, W)` of any size. It returns `coarse` `(B, C, H, W)`, the subband LL, and
    `detail` `(B, 3C, H, W)`, the subbands LH, HL, HH in this order; the first letter is the filter along the height.
    `inverse(*forward(x)) == x` for every size, to rounding.

    Filters are orthonormal, (1, 1)/sqrt(2) and (1, -1)/sqrt(2). White noise keeps its standard deviation in each
    subband, and an image in [0, 1] has coarse coefficients in [0, 2].

    Args:
        dilation: distance between the two taps; 2**scale in an iterated transform ("a trous").
        boundary: "symmetric" (no false edge at the border) or "periodic" (as PyWavelets' `swt2`).
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


class RedundantDCT(nn.Module):
    """A redundant transform by the orthonormal DCT of length 16 on 4x4 windows: the split and merge of WINNet.

    A window is read row by row as a vector of 16 pixels and transformed by the 1-D DCT-II. Filter k is row k of the
    16x16 matrix, folded to 4x4. This is not the separable 2-D DCT.

    `forward` takes an image `(B, 1, H, W)` of any size. It returns `coarse` `(B, 1, H, W)`, coefficient 0, and `detail`
    `(B, 15, H, W)`, coefficients 1 to 15. The window of a pixel reaches from one pixel before it to two pixels after it
    along both axes; the image is replicated beyond its border. Filter 0 is the constant 1/4, so an image in [0, 1] has
    coarse coefficients in [0, 4]. White noise keeps its standard deviation in every channel.

    Autocast is off inside: the coefficients carry the image itself, which bfloat16 would round.

    Args:
        boundary: how `inverse` treats the border.
            "exact": a pixel is the mean of its values in the windows that hold it, 16 of them inside and 4 in a
            corner. `inverse(*forward(x)) == x` for every size, to rounding.
            "replicate": as in the released code, the mean is always over 16 windows. Windows outside the image take the
            coefficients of the nearest window. The inside is restored. Two rows at the top, two columns at the left,
            one row at the bottom and one column at the right are not.
    """

    num_subbands = 16
    side = 4  # of the windows
    before, after = 1, 2  # pixels of a window on either side of its place

    def __init__(self, boundary: str = "exact"):
        super().__init__()
        if boundary not in DCT_BOUNDARIES:
            raise ValueError(f"boundary is {boundary!r}; expected one of {', '.join(DCT_BOUNDARIES)}")
        self.boundary = boundary
        n = torch.arange(self.num_subbands, dtype=torch.float64)
        matrix = torch.cos(math.pi / self.num_subbands * n[:, None] * (n + 0.5)) * math.sqrt(2 / self.num_subbands)
        matrix[0] /= math.sqrt(2)
        # Not part of the weights: the formula gives them. float64, rounded to the image's dtype at use.
        self.register_buffer("filters", matrix.view(-1, 1, self.side, self.side), persistent=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(x.device.type, enabled=False):
            padded = F.pad(x, (self.before, self.after, self.before, self.after), mode="replicate")
            coefficients = F.conv2d(padded, self.filters.to(x.dtype))
        return coefficients[:, :1], coefficients[:, 1:]

    def inverse(self, coarse: Tensor, detail: Tensor) -> Tensor:
        coefficients = torch.cat([coarse, detail], dim=1)
        height, width = coarse.shape[-2:]
        # The windows that hold a pixel belong to the pixels from two before it to one after it.
        margins = (self.after, self.before, self.after, self.before)
        with torch.autocast(coarse.device.type, enabled=False):
            if self.boundary == "replicate":
                coefficients = F.pad(coefficients, margins, mode="replicate")
                num_windows = coarse.new_tensor(self.num_subbands)
            else:
                coefficients = F.pad(coefficients, margins)
                rows, columns = self._num_windows(height, coarse), self._num_windows(width, coarse)
                num_windows = rows[:, None] * columns
            # Correlation with the turned filters sums a pixel's values over its windows.
            total = F.conv2d(coefficients, self.filters.to(coarse.dtype).flip(-2, -1).transpose(0, 1))
        return total / num_windows

    def _num_windows(self, size: int, like: Tensor) -> Tensor:
        """Number of windows along one axis that hold each of `size` pixels: 2, 3, 4, ..., 4, 3."""
        place = torch.arange(size, device=like.device)
        first, last = (place - self.after).clamp(min=0), (place + self.before).clamp(max=size - 1)
        return (last - first + 1).to(like)


def pad_to_multiple(x: Tensor, multiple: int) -> tuple[Tensor, tuple[int, int]]:
    """`x` `(B, C, H, W)` padded at the bottom and right so that both sides are multiples, and its original size.

    The border is replicated, which also works for an image of one pixel.
    """
    height, width = x.shape[-2:]
    bottom, right = -height % multiple, -width % multiple
    if bottom or right:
        x = F.pad(x, (0, right, 0, bottom), mode="replicate")
    return x, (height, width)
