"""WNNM (Gu, Zhang, Zuo and Feng, CVPR 2014): groups of similar patches become matrices of low rank."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from invdenoise.models.plane import ClassicalDenoiser

WHITE = 255.0
SEARCH = 30  # largest distance of a similar patch along each axis, in pixels
FEEDBACK = 0.1  # share of the removed noise that each iteration puts back ("delta")
STRENGTH = 2 * math.sqrt(2)  # of the weights ("c")
MATCH_EVERY = 2  # iterations
FEWER = 10  # patches of a group less at each matching
TINY = 1e-16
GROUPS = 1024  # matrices at once
KEY_ROWS = 8  # rows of key patches that are matched at once


@dataclass(frozen=True)
class Settings:
    """The authors' settings for a range of noise levels.

    Attributes:
        patch: side of a patch, in pixels.
        group: similar patches of a group before the first matching, which takes `FEWER` already.
        iterations: passes over the picture.
        scale: of the noise level that is estimated to remain ("gamma", "lamada").
    """

    patch: int
    group: int
    iterations: int
    scale: float

    @property
    def stride(self) -> int:
        """Distance of key patches, in pixels."""
        return max(1, self.patch // 2 - 1)


def settings_for(sigma: float) -> Settings:
    """The authors' settings for a noise level in grey levels."""
    if sigma <= 20:
        return Settings(6, 70, 8, 0.54)
    if sigma <= 40:
        return Settings(7, 90, 12, 0.56)
    return Settings(8, 120, 14, 0.58) if sigma <= 60 else Settings(9, 140, 14, 0.58)


class WNNM(ClassicalDenoiser):
    """Weighted nuclear norm minimisation, by the formulas and settings of the authors' MATLAB release.

    In every iteration, patches similar to a key patch stand in the columns of a matrix Y, without the mean of each row. Of its
    singular values s, what noise explains is taken off by weights c sqrt(m) sigma^2 / s (Eq. 10 and 16): large ones, which hold
    the picture, lose least. All patches of all groups are averaged. The next iteration matches patches in the result, to which
    a tenth of the removed noise is added.

    Computes in float32, in grey levels. The singular value decomposition is replaced by the eigenvectors of Y Y' (or Y' Y, the
    smaller one), which give the same matrix. A picture of 481x321 takes one to two minutes on one core.

    Args:
        iterations: fewer or more passes over the picture; None for the authors' number.
    """

    name = "wnnm"
    display_name = "WNNM"
    min_side = 9  # the largest patch

    def __init__(self, iterations: int | None = None):
        if iterations is not None and iterations < 1:
            raise ValueError(f"iterations is {iterations}; expected 1 or more, or None for the authors' number")
        self.iterations = iterations

    def denoise_plane(self, plane: np.ndarray, sigma: float) -> np.ndarray:
        noisy, sigma = torch.from_numpy(WHITE * plane).float(), WHITE * sigma
        settings = settings_for(sigma)
        estimate, size = noisy, settings.group
        rows, columns = (_key_places(side, settings) for side in noisy.shape)
        keys = rows[:, None] * noisy.shape[1] + columns
        for iteration in range(self.iterations or settings.iterations):
            estimate = estimate + FEEDBACK * (noisy - estimate)
            if iteration % MATCH_EVERY == 0:
                size = max(size - FEWER, 1)
                groups = similar_patches(estimate, rows, columns, settings.patch, size)
            if iteration:
                removed = _patches((noisy - estimate) ** 2, settings.patch).mean(1)
                levels = (
                    settings.scale
                    * (sigma**2 - removed[_patch_numbers(keys, noisy.shape, settings.patch)]).abs().sqrt()
                )
            else:
                levels = torch.full((keys.numel(),), float(sigma))
            estimate = _denoise_groups(estimate, groups, levels, settings.patch)
        return (estimate.double() / WHITE).numpy()


def _key_places(side: int, settings: Settings) -> Tensor:
    """Rows, or columns, of the key patches: every `stride` pixels, and the last."""
    last = side - settings.patch
    places = torch.arange(0, last + 1, settings.stride)
    return places if places[-1] == last else torch.cat([places, torch.tensor([last])])


def _patches(image: Tensor, side: int) -> Tensor:
    """All overlapping patches `(number, side**2)` of `(H, W)`, row by row."""
    return image.unfold(0, side, 1).unfold(1, side, 1).flatten(2).flatten(0, 1)


def _patch_numbers(places: Tensor, shape: torch.Size, side: int) -> Tensor:
    """Numbers in `_patches` of the patches whose first pixels have these numbers in the picture."""
    row, column = places.flatten() // shape[1], places.flatten() % shape[1]
    return row * (shape[1] - side + 1) + column


def similar_patches(image: Tensor, rows: Tensor, columns: Tensor, side: int, number: int) -> Tensor:
    """For each key patch the numbers in `_patches` of the `number` most similar ones, nearest first, `(keys, number)`.

    Candidates are all patches up to `SEARCH` pixels away along each axis; the key patch is the first itself. Where fewer are
    within the picture, their number is smaller. Similar is what has the smallest sum of squared differences.

    Args:
        image: `(H, W)`.
        rows, columns: of the first pixels of the key patches, whose product is the grid.
        side: of a patch, in pixels.
    """
    last_row, last_column = image.shape[0] - side, image.shape[1] - side
    across = torch.arange(-min(SEARCH, last_column), min(SEARCH, last_column) + 1)
    number = min(number, (min(SEARCH, last_row) + 1) * (min(SEARCH, last_column) + 1))
    found = []
    for some in rows.split(KEY_ROWS):
        down = torch.arange(-min(SEARCH, last_row), min(SEARCH, last_row) + 1)
        distances = torch.full((len(some), len(columns), len(down), len(across)), torch.inf)
        for i, dy in enumerate(down.tolist()):
            inside = (some + dy >= 0) & (some + dy <= last_row)
            if inside.any():
                distances[inside, :, i] = _row_distances(image, some[inside], dy, columns, across, side)
        nearest = distances.flatten(2).topk(number, largest=False).indices
        candidate_rows = some[:, None, None] + down[nearest // len(across)]
        candidate_columns = columns[:, None] + across[nearest % len(across)]
        found.append((candidate_rows * (last_column + 1) + candidate_columns).flatten(0, 1))
    return torch.cat(found)


def _row_distances(image: Tensor, rows: Tensor, dy: int, columns: Tensor, across: Tensor, side: int) -> Tensor:
    """Sums of squared differences `(rows, columns, across)` to the patches `dy` rows below and `across` columns beside."""
    width, (least, most) = image.shape[1], (int(across[0]), int(across[-1]))
    lines = rows[:, None] + torch.arange(side)
    here, there = image[lines], image[lines + dy]  # (rows, side, W)
    there = torch.nn.functional.pad(there, (-least, most), value=torch.nan)
    # (rows, shifts, W): what a column of a patch differs by, summed over its pixels, and then over the columns of a patch
    shifted = there.unfold(2, width, 1)
    by_column = ((shifted - here[:, :, None]) ** 2).sum(1)
    sums = by_column.unfold(2, side, 1)[:, :, columns].sum(-1)
    return sums.nan_to_num(nan=torch.inf).transpose(1, 2)


def _denoise_groups(image: Tensor, groups: Tensor, levels: Tensor, side: int) -> Tensor:
    """The mean of all patches of all groups, each group denoised at its key patch's noise level."""
    patches = _patches(image, side).contiguous()
    total, count = torch.zeros_like(patches), torch.zeros(len(patches))
    for group, level in zip(groups.split(GROUPS), levels.split(GROUPS), strict=True):
        denoised = shrink_singular_values(patches[group].transpose(1, 2), level)
        total.index_add_(0, group.flatten(), denoised.transpose(1, 2).reshape(-1, side**2))
        count.index_add_(0, group.flatten(), torch.ones(group.numel()))
    return _put_together(total, image.shape, side) / _put_together(
        count[:, None].expand(-1, side**2), image.shape, side
    )


def _put_together(patches: Tensor, shape: torch.Size, side: int) -> Tensor:
    """The sum `(H, W)` of overlapping patches `(number, side**2)`, each at its place."""
    return torch.nn.functional.fold(patches.T[None].contiguous(), tuple(shape), side)[0, 0]


def shrink_singular_values(matrices: Tensor, levels: Tensor) -> Tensor:
    """Matrices whose singular values are shrunk by weights, which are larger for smaller values; the mean of a row stays.

    Without noise a value would be about sqrt(s^2 - m sigma^2). The weights are c sqrt(m) sigma^2 over that, and are computed
    three times, each time from the shrunk values, as in the authors' release.

    Args:
        matrices: `(B, n, m)`, a patch in each column, in grey levels.
        levels: noise level sigma of each matrix, `(B,)`.
    """
    number = matrices.shape[2]
    mean = matrices.mean(2, keepdim=True)
    centred = matrices - mean
    wide = centred.shape[1] <= number
    gram = centred @ centred.mT if wide else centred.mT @ centred
    squares, vectors = torch.linalg.eigh(gram)
    values = squares.clamp(min=0).sqrt()
    variances = levels[:, None] ** 2
    shrunk = (values**2 - number * variances).clamp(min=0).sqrt()
    for _ in range(3):
        shrunk = (values - STRENGTH * math.sqrt(number) * variances / (shrunk + TINY)).clamp(min=0)
    factors = torch.where(values > 0, shrunk / values.clamp(min=TINY), 0)
    kept = vectors * factors[:, None] @ vectors.mT
    return (kept @ centred if wide else centred @ kept) + mean
