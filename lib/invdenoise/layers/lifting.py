"""The lifting scheme with learned predict and update steps (LINN, Section II-B)."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

from invdenoise.layers.invertible import Invertible, InvertibleSequence
from invdenoise.layers.shrinkage import SoftThreshold

AnyModule = TypeVar("AnyModule", bound=nn.Module)
TILE = 192  # side of an inference tile: 16 channels of it fit a level-2 cache


class LiftingNet(nn.Sequential):
    """A predictor (P-Net) or update network (U-Net): K times convolution and soft-threshold, then a convolution.

    Maps `(B, in_channels, H, W)` to `(B, out_channels, H, W)`. Convolutions keep the size (zero padding) and have no
    bias. There is one threshold per channel. The parameter counts of Table I imply both.

    In inference a large picture is computed tile by tile, with the same result.

    Args:
        in_channels, out_channels: channels of the part it reads and of the part it changes.
        num_layers: K (paper: 8).
        num_features: M (paper: 16).
        kernel_size: f (paper: 3).
        initial_threshold: soft-thresholds at the start.
        identity_start: the last kernel starts at zero. A fresh lifting step is then the identity, and training starts
            from plain Haar shrinkage. False starts it at random, at a tenth of the size of the other kernels.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        num_layers: int = 8,
        num_features: int = 16,
        kernel_size: int = 3,
        initial_threshold: float = 0.02,
        identity_start: bool = True,
    ):
        layers: list[nn.Module] = []
        channels = in_channels
        for _ in range(num_layers):
            conv = nn.Conv2d(channels, num_features, kernel_size, padding="same", bias=False)
            nn.init.kaiming_normal_(conv.weight, nonlinearity="linear")
            layers += [conv, SoftThreshold(num_features, initial_threshold)]
            channels = num_features
        last = nn.Conv2d(channels, out_channels, kernel_size, padding="same", bias=False)
        if identity_start:
            nn.init.zeros_(last.weight)
        else:
            nn.init.kaiming_normal_(last.weight, nonlinearity="linear")
            last.weight.data.mul_(0.1)
        super().__init__(*layers, last)
        self.radius = (num_layers + 1) * (kernel_size // 2)  # of the receptive field, in pixels

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            return super().forward(x)
        return self._forward_in_tiles(x)

    def _forward_in_tiles(self, x: Tensor) -> Tensor:
        """The same result tile by tile: the activations of a tile stay in the processor's cache.

        A tile is computed with a margin of `radius` and cropped, so only the true border sees zero padding.
        """
        height, width = x.shape[-2:]
        if max(height, width) <= TILE + 2 * self.radius:
            return super().forward(x)
        out = x.new_empty(x.shape[0], self[-1].out_channels, height, width)
        for top in range(0, height, TILE):
            for left in range(0, width, TILE):
                above, before = min(top, self.radius), min(left, self.radius)
                rows = slice(top - above, top + TILE + self.radius)
                columns = slice(left - before, left + TILE + self.radius)
                tile = super().forward(x[..., rows, columns])
                inner = tile[..., above : above + TILE, before : before + TILE]
                out[..., top : top + TILE, left : left + TILE] = inner
        return out


class LiftingPair(Invertible):
    """One predict step and one update step on the state `(coarse, detail)` (LINN, Eqs. 2 to 5).

    Sums have the dtype of the state, which is float32 under autocast: a sum in bfloat16 would not invert.
    """

    def __init__(self, predict: nn.Module, update: nn.Module):
        super().__init__()
        self.predict, self.update = predict, update

    def forward(self, coarse: Tensor, detail: Tensor) -> tuple[Tensor, Tensor]:
        detail = detail - self.predict(coarse)  # Eq. 2
        coarse = coarse + self.update(detail)  # Eq. 3
        return coarse, detail

    def inverse(self, coarse: Tensor, detail: Tensor) -> tuple[Tensor, Tensor]:
        coarse = coarse - self.update(detail)  # Eq. 4
        detail = detail + self.predict(coarse)  # Eq. 5
        return coarse, detail

    def log_det(self, coarse: Tensor, detail: Tensor) -> Tensor:
        """Zeros of shape `(B,)`: each step adds a function of one part to the other part."""
        return coarse.new_zeros(coarse.shape[0])


class LINN(InvertibleSequence):
    """The lifting inspired invertible network: I lifting pairs after a split (LINN, Figure 2).

    The state is `(coarse, detail)` with shapes `(B, coarse_channels, H, W)` and `(B, detail_channels, H, W)`.

    Args:
        num_pairs: I (paper: 4).
        num_layers, num_features, kernel_size: K, M and f of each network (paper: 8, 16, 3).
        coarse_channels, detail_channels: channels of the split (undecimated Haar of a gray image: 1 and 3).
        constant_memory: recompute activations in the backward pass, see `InvertibleSequence`.
        identity_start: see `LiftingNet`.
    """

    def __init__(
        self,
        num_pairs: int = 4,
        num_layers: int = 8,
        num_features: int = 16,
        kernel_size: int = 3,
        coarse_channels: int = 1,
        detail_channels: int = 3,
        constant_memory: bool = False,
        identity_start: bool = True,
    ):
        shape = dict(
            num_layers=num_layers, num_features=num_features, kernel_size=kernel_size, identity_start=identity_start
        )
        pairs = [
            LiftingPair(
                predict=LiftingNet(coarse_channels, detail_channels, **shape),
                update=LiftingNet(detail_channels, coarse_channels, **shape),
            )
            for _ in range(num_pairs)
        ]
        super().__init__(pairs, constant_memory=constant_memory)


@torch.no_grad()
def randomise_last_kernels(network: AnyModule, std: float = 0.01) -> AnyModule:
    """The network itself, with the last kernel of every predictor and update network drawn from a normal distribution.

    These kernels start at zero, so a fresh network skips work that a trained one does: timing it would flatter it.

    Args:
        network: any network; one without lifting steps stays as it is.
        std: standard deviation of the weights.
    """
    for pair in (module for module in network.modules() if isinstance(module, LiftingPair)):
        for net in (pair.predict, pair.update):
            last = [module for module in net.modules() if isinstance(module, nn.Conv2d)][-1]
            nn.init.normal_(last.weight, std=std)
    return network
