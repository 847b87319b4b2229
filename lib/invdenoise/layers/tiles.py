"""Inference tile by tile: memory does not grow with the picture."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

TILE = 384  # largest side of a tile: the memory allocator keeps buffers of this size, and margins cost little


def needs_gradient(module: nn.Module, *inputs: Tensor | float) -> bool:
    """Whether PyTorch records a call of `module` for a gradient: it is on, and an input or a parameter asks for it."""
    if not torch.is_grad_enabled():
        return False
    tensors = (*(given for given in inputs if isinstance(given, Tensor)), *module.parameters())
    return any(tensor.requires_grad for tensor in tensors)


def in_tiles(function: Callable[[Tensor], Tensor], x: Tensor, radius: int) -> Tensor:
    """`function(x)`, tile by tile where `x` is large, in memory that depends on the tile only.

    A tile is computed with a margin of `radius` and cropped, so the result is the same to rounding.

    Args:
        function: convolutions with zero padding that keep the size of `x` `(B, C, H, W)`; it is given copies of parts.
        radius: of their receptive field, in pixels.
    """
    if max(x.shape[-2:]) <= TILE:
        return function(_channels_last(x))
    # As few tiles as possible, of nearly equal size.
    height, width = (math.ceil(size / math.ceil(size / TILE)) for size in x.shape[-2:])

    def tile(top: int, left: int) -> Tensor:
        above, before = min(top, radius), min(left, radius)
        rows = slice(top - above, top + height + radius)
        columns = slice(left - before, left + width + radius)
        y = function(_channels_last(x[..., rows, columns]))
        return y[..., above : above + height, before : before + width]

    tops, lefts = (range(0, size, step) for size, step in zip(x.shape[-2:], (height, width), strict=True))
    return torch.cat([torch.cat([tile(top, left) for left in lefts], dim=-1) for top in tops], dim=-2)


class Tiled(nn.Module):
    """A chain of convolutions `(x, sigma) -> y` that keeps the size of `x`.

    Attributes:
        radius: of the receptive field, in pixels.
    """

    radius: int

    def in_tiles(self, x: Tensor, sigma: Tensor) -> Tensor:
        """`self(x, sigma)`, tile by tile where `x` is large and no gradient is needed."""
        if needs_gradient(self, x, sigma):
            return self(_channels_last(x), sigma)
        return in_tiles(lambda tile: self(tile, sigma), x, self.radius)


def _channels_last(x: Tensor) -> Tensor:
    """A copy with the channels of a pixel side by side, the fastest layout for these convolutions.

    Always a copy, so that the strides depend on the shape alone: a compiled network is then compiled once.
    """
    return x.clone(memory_format=torch.channels_last)
