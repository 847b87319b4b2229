"""The lifting scheme with learned predict and update steps (LINN, Section II-B)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from invdenoise.invertible import Invertible, InvertibleSequence
from invdenoise.kernels import LIFTING_NET, InKernel
from invdenoise.shrinkage import SoftThreshold

TILE = 192  # side of an inference tile: 16 channels of it fit a level-2 cache
KERNEL_CHANNELS = 16  # of a pixel in the kernels; networks may have fewer


class LiftingNet(nn.Sequential):
    """A predictor (P-Net) or update network (U-Net): K times convolution and soft-threshold, then a convolution.

    Maps `(B, in_channels, H, W)` to `(B, out_channels, H, W)`. Convolutions keep the size (zero padding) and have no bias,
    and there is one threshold per channel: this is what Table I's parameter counts imply.

    The last kernel starts at zero, so a fresh lifting step is the identity and training starts from plain Haar shrinkage
    (`identity_start`; otherwise it starts at random like the others, at a tenth of their size).

    Args:
        in_channels, out_channels: channels of the conditioning part and of the part it changes.
        num_layers: K (paper: 8).
        num_features: M (paper: 16).
        kernel_size: f (paper: 3).
        initial_threshold: soft-thresholds at the start.
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
        self.in_kernel = False  # see `DenoisingNetwork.use_kernel`

    def forward(self, x: Tensor) -> Tensor:
        precision = "bfloat16" if torch.is_autocast_enabled(x.device.type) else "float32"
        wanted = x.dtype != torch.float64 and (self.in_kernel or precision == "bfloat16")
        if wanted and not torch.compiler.is_compiling() and self.has_kernel(x.device, precision):
            layers = list(self)
            weights = torch.cat([conv.weight.flatten() for conv in layers[::2]])
            thresholds = torch.stack([shrink.threshold for shrink in layers[1::2]])
            num_layers, num_features = thresholds.shape
            sizes = num_layers + 1, x.shape[1], self[-1].out_channels, num_features
            return InKernel.apply(
                x, weights, thresholds, self[-1].out_channels, LIFTING_NET[precision], "lifting_net", *sizes
            )
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            return super().forward(x)
        return self._forward_in_tiles(x)

    def has_kernel(self, device: torch.device, precision: str) -> bool:
        """Whether `device` can run the network in a kernel of its own in "float32" or "bfloat16", see `kernels`.

        Under bfloat16 autocast it is used wherever it is there; in float32 where it is asked for (`in_kernel`).
        """
        channels = max(self[0].in_channels, self[-1].in_channels, self[-1].out_channels)
        fits = len(self) > 1 and channels <= KERNEL_CHANNELS and self[-1].kernel_size[0] == 3
        return device.type == "cpu" and fits and LIFTING_NET[precision].available()

    def _forward_in_tiles(self, x: Tensor) -> Tensor:
        """The same result tile by tile: activations of one tile stay in the processor's cache, and memory small.

        A tile is computed with a margin of one receptive field and cropped, so only the true border sees zero padding.
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

    Sums are taken in the dtype of the state (float32 under autocast): an addition in bfloat16 would not invert.
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
        """Zeros of shape `(B,)`: each step adds to one part a function of the other."""
        return coarse.new_zeros(coarse.shape[0])


class LINN(InvertibleSequence):
    """The lifting inspired invertible network: I lifting pairs after a split (LINN, Figure 2).

    `forward` and `inverse` map `(coarse, detail)` of shapes `(B, coarse_channels, H, W)` and `(B, detail_channels, H, W)`
    to the same shapes.

    Args:
        num_pairs: I (paper: 4).
        num_layers, num_features, kernel_size: K, M and f of each network (paper: 8, 16, 3).
        coarse_channels, detail_channels: of the split (undecimated Haar of a gray image: 1 and 3).
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
