"""Inference tile by tile: memory does not grow with the picture."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

TILE = 384  # largest side of a tile: the memory allocator keeps buffers of this size, and margins cost little


class Tiled(nn.Module):
    """A chain of convolutions `(x, sigma) -> y` that keeps the size of `x`.

    Attributes:
        radius: of the receptive field, in pixels.
    """

    radius: int

    def in_tiles(self, x: Tensor, sigma: Tensor) -> Tensor:
        """`self(x, sigma)`, tile by tile where `x` is large and no gradient is needed.

        A tile is computed with a margin of `radius` and cropped, so the result is the same.
        """
        if torch.is_grad_enabled() or max(x.shape[-2:]) <= TILE:
            return self(_channels_last(x), sigma)
        # As few tiles as possible, of nearly equal size.
        height, width = (math.ceil(size / math.ceil(size / TILE)) for size in x.shape[-2:])

        def tile(top: int, left: int) -> Tensor:
            above, before = min(top, self.radius), min(left, self.radius)
            rows = slice(top - above, top + height + self.radius)
            columns = slice(left - before, left + width + self.radius)
            y = self(_channels_last(x[..., rows, columns]), sigma)
            return y[..., above : above + height, before : before + width]

        tops, lefts = (range(0, size, step) for size, step in zip(x.shape[-2:], (height, width), strict=True))
        return torch.cat([torch.cat([tile(top, left) for left in lefts], dim=-1) for top in tops], dim=-2)


def _channels_last(x: Tensor) -> Tensor:
    """A copy with the channels of a pixel side by side, the fastest layout for these convolutions.

    Always a copy, so that the strides depend on the shape alone: a compiled network is then compiled once.
    """
    return x.clone(memory_format=torch.channels_last)
