"""Training patches: batches that are a pure function of (seed, step)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

GRID_STRIDE = 10  # 225 patches of 40x40 from a picture of 180x180: the 9e4 patches of LINN, Section III-A


def stable_seed(*parts: object) -> int:
    """A 63-bit seed that depends on `parts` alone, the same in every process and version."""
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


class PatchSampler:
    """Batches of clean and noisy gray patches.

    Args:
        pictures: uint8 gray pictures `(H, W)`, all of one size of at least `patch_size`.
        patch_size, batch_size: patches are `(batch_size, 1, patch_size, patch_size)`.
        sigma: noise level in grey levels, or the lowest and highest: levels are uniform in between.
        seed: with the step it determines a batch, whatever was drawn before.
        sampling: "grid" shuffles the stride-10 grid of positions every epoch, "random" takes any position.
        augment: turn and flip each patch in one of eight ways.
        device: pictures live there, and noise is drawn there.
        levels: "batch" has one noise level for all patches of a batch, "patch" one for each. Batch normalisation needs the second:
            by its own statistics a batch of one level looks like that of any other.
    """

    def __init__(
        self,
        pictures: Sequence[np.ndarray],
        patch_size: int,
        batch_size: int,
        sigma: float | tuple[float, float],
        seed: int,
        sampling: str = "random",
        augment: bool = True,
        device: torch.device | str = "cpu",
        levels: str = "batch",
    ):
        shapes = {picture.shape for picture in pictures}
        if len(shapes) != 1 or len(next(iter(shapes))) != 2:
            raise ValueError(f"training pictures have shapes {sorted(shapes)}; expected gray pictures of one size")
        if min(next(iter(shapes))) < patch_size:
            raise ValueError(f"training pictures are {next(iter(shapes))}; patches of {patch_size} do not fit")
        self.pictures = torch.from_numpy(np.stack(pictures)).to(device)
        self.patch_size, self.batch_size, self.seed = patch_size, batch_size, seed
        self.sigmas = sigma if isinstance(sigma, tuple) else (sigma, sigma)
        self.sampling, self.augment, self.levels, self.device = sampling, augment, levels, torch.device(device)
        last = [side - patch_size for side in self.pictures.shape[1:]]
        self.rows, self.columns = (torch.arange(0, end + 1, GRID_STRIDE if sampling == "grid" else 1) for end in last)
        self._shuffled: tuple[int, Tensor] = (-1, torch.empty(0))

    def __len__(self) -> int:
        """Positions a patch can take: an epoch of the grid."""
        return len(self.pictures) * len(self.rows) * len(self.columns)

    def batch(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Clean and noisy patches of a step, and their noise level.

        Patches are float32 `(B, 1, P, P)`, clean in [0, 1], noisy not clipped; the level is a float32 scalar in grey levels, or
        `(B, 1, 1, 1)`, one a patch.
        """
        generator = torch.Generator().manual_seed(stable_seed(self.seed, "patches", step))
        index = self._positions(step, generator)
        index, column = index // len(self.columns), self.columns[index % len(self.columns)]
        picture, row = index // len(self.rows), self.rows[index % len(self.rows)]
        modes = torch.randint(8, (self.batch_size,), generator=generator) if self.augment else None
        clean = self._cut(picture, row, column, modes)
        noise_seed = torch.Generator(self.device).manual_seed(stable_seed(self.seed, "noise", step))
        noise = torch.randn(clean.shape, generator=noise_seed, device=self.device)
        lowest, highest = self.sigmas
        level = torch.Generator().manual_seed(stable_seed(self.seed, "level", step))
        shape = (self.batch_size, 1, 1, 1) if self.levels == "patch" else ()
        sigma = (lowest + (highest - lowest) * torch.rand(shape, generator=level)).to(self.device)
        return clean, clean + noise * (sigma / 255), sigma

    def _positions(self, step: int, generator: torch.Generator) -> Tensor:
        if self.sampling == "random":
            return torch.randint(len(self), (self.batch_size,), generator=generator)
        # Epochs follow each other without a gap: a batch may hold the end of one and the start of the next.
        places = torch.arange(step * self.batch_size, (step + 1) * self.batch_size)
        return torch.stack([self._epoch(int(place) // len(self))[int(place) % len(self)] for place in places])

    def _epoch(self, epoch: int) -> Tensor:
        if self._shuffled[0] != epoch:
            generator = torch.Generator().manual_seed(stable_seed(self.seed, "epoch", epoch))
            self._shuffled = epoch, torch.randperm(len(self), generator=generator)
        return self._shuffled[1]

    def _cut(self, picture: Tensor, row: Tensor, column: Tensor, modes: Tensor | None) -> Tensor:
        along = torch.arange(self.patch_size)
        rows, columns = row[:, None] + along, column[:, None] + along
        if modes is not None:  # bits of the mode: flip rows, flip columns, transpose
            rows = torch.where((modes & 1).bool()[:, None], rows.flip(1), rows)
            columns = torch.where((modes & 2).bool()[:, None], columns.flip(1), columns)
        picture, rows, columns = (index.to(self.device) for index in (picture, rows, columns))
        patches = self.pictures[picture[:, None, None], rows[:, :, None], columns[:, None, :]]
        if modes is not None:
            transpose = (modes & 4).bool().to(self.device)[:, None, None]
            patches = torch.where(transpose, patches.mT, patches)
        return patches.unsqueeze(1).float() / 255
