"""Shrinkage of detail coefficients: soft-thresholding and its learned iteration, LISTA (LINN, Section II-C)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def soft_threshold(x: Tensor, threshold: Tensor | float) -> Tensor:
    """sgn(x) max(|x| - threshold, 0), for `threshold >= 0` that broadcasts against `x` (LINN, footnote 1).

    Written as `x - clip(x)`: one pass less over memory than the two-sided ReLU, and several times faster.
    """
    if isinstance(threshold, Tensor):
        threshold = threshold.to(x.dtype)  # a float32 parameter must not promote bfloat16 activations
        return x - torch.clamp(x, -threshold, threshold)
    return x - x.clamp(-threshold, threshold)


class SoftThreshold(nn.Module):
    """Soft-thresholding with one learned threshold per channel (LINN, Eq. 7).

    Takes and returns `(B, num_channels, H, W)`. The parameter may change sign in training; its magnitude is the threshold.

    Args:
        num_channels: channels of the input.
        initial: threshold of every channel at the start, in the units of the coefficients.
    """

    def __init__(self, num_channels: int, initial: float):
        super().__init__()
        self.weight = nn.Parameter(torch.full((num_channels,), float(initial)))

    @property
    def threshold(self) -> Tensor:
        """The thresholds in force, shape `(num_channels,)`, never negative."""
        return self.weight.abs()

    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        """Shrink `x` by `scale` times the learned thresholds."""
        return soft_threshold(x, (self.threshold * scale).view(-1, 1, 1))


class LISTA(nn.Module):
    """Learned iterative shrinkage-thresholding of the detail channels (LINN, Eq. 10 and Figure 3b).

        g_1 = S_1(Wg_1 * z),    g_t = S_t(We_t * g_{t-1} + Wg_t * z),    out = Ws * g_T

    Takes and returns `(B, num_channels, H, W)`. The iteration starts at g_0 = 0, so its first layer has no We. Kernels have no bias.
    At the start Wg_1 and Ws are the identity, later layers pass their input on (We identity, Wg zero) and hardly shrink
    (a threshold of exactly zero would get no gradient): the network begins as one soft-threshold.

    Args:
        num_channels: channels of z and of every g_t.
        num_layers: T, soft-thresholds in the chain (paper: 3).
        kernel_size: side of every kernel, odd (paper: 3).
        initial: first threshold at the start.
    """

    def __init__(self, num_channels: int, num_layers: int = 3, kernel_size: int = 3, initial: float = 0.1):
        super().__init__()
        if num_layers < 1:
            raise ValueError(f"num_layers is {num_layers}; expected 1 or more")

        def convolution(identity: bool) -> nn.Conv2d:
            conv = nn.Conv2d(num_channels, num_channels, kernel_size, padding="same", bias=False)
            nn.init.dirac_(conv.weight) if identity else nn.init.zeros_(conv.weight)
            return conv

        self.encode = nn.ModuleList(convolution(identity=t == 0) for t in range(num_layers))  # Wg_t
        self.recur = nn.ModuleList(convolution(identity=True) for _ in range(num_layers - 1))  # We_t, t > 1
        self.shrink = nn.ModuleList(
            SoftThreshold(num_channels, initial if t == 0 else initial / 100) for t in range(num_layers)
        )
        self.synthesise = convolution(identity=True)  # Ws

    def forward(self, z: Tensor, scale: float = 1.0) -> Tensor:
        """Denoise `z` with every threshold multiplied by `scale`."""
        g = self.shrink[0](self.encode[0](z), scale)
        for encode, recur, shrink in zip(self.encode[1:], self.recur, self.shrink[1:], strict=True):
            g = shrink(recur(g) + encode(z), scale)
        return self.synthesise(g)
