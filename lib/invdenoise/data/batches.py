"""Training batches. Each batch is a pure function of (seed, step), so a stopped run resumes bit for bit.

A source is any class with `load(...)`, `batch(step)`, `len`, and the attributes `name`, `sha256`, `held_out` and
`device`. Those that cut patches from pictures share `PatchSource`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from invdenoise.checks import check_sigma
from invdenoise.data.benchmarks import load_real_pairs
from invdenoise.data.pictures import (
    LazyPicture,
    PairSet,
    Picture,
    PictureSet,
    join,
    keep_scenes,
    leave_out_scenes,
    load_pictures,
    split_last,
    split_scenes,
)

GRID_STRIDE = 10  # 225 patches of 40x40 from a picture of 180x180: the 9e4 patches of LINN, Section III-A
# Largest size of pixels kept in memory. Of a larger set that was fetched by hand, each batch reads the pictures it needs.
KEPT_BYTES = 1_000_000_000


def stable_seed(*parts: object) -> int:
    """A 63-bit seed that depends on `parts` alone: the same in every process and version."""
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


class PatchSource:
    """What sources of patches share: positions, cutting, augmentation, random numbers.

    A subclass says in `load` what is cut, and makes `batch(step)` from `self.cut(step)` and `self.generator(...)`.

    Args:
        data: the set that the pictures are from; it gives `name` and `sha256`.
        held_out: the part of it that is not trained on; its name becomes "validation".
        layers: one or more lists of pictures to cut patches from. The n-th pictures of all layers have one shape, and
            are cut at the same place, flipped and turned alike. Sizes may differ within a layer.
        patch_size, batch_size: patches are `(batch_size, C, patch_size, patch_size)`.
        sampling: "grid" shuffles the stride-10 grid of positions every epoch, "random" takes any position.
        augment: True turns and flips each patch in one of eight ways; "flip" flips it or not, upside down and left to right, in one
            of four (of these, upside down makes an impossible face: FDN, Section III-D); False leaves it.
        seed: with the step it determines a batch.
        device: pictures live there, and noise is drawn there.

    Attributes:
        name, sha256: of `data`.
        held_out: pictures or pairs for validation, possibly none.
        device: where batches are.

    Raises:
        ValueError: a picture is smaller than a patch, gray and colour are mixed, or an option has no such value.
    """

    def __init__(
        self,
        data: PictureSet | PairSet,
        held_out: PictureSet | PairSet,
        layers: Sequence[Sequence[Picture]],
        *,
        patch_size: int,
        batch_size: int,
        sampling: str = "random",
        augment: bool | str = True,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ):
        _check_positive(patch_size=patch_size, batch_size=batch_size)
        _check_choice("sampling", sampling, ("grid", "random"))
        _check_choice("augment", augment, (True, False, "flip"))
        pictures = layers[0]
        _check_pictures(pictures, patch_size, data.name)
        self.name, self.sha256 = data.name, data.sha256
        self.held_out = replace(held_out, name="validation", requested="validation")
        self.patch_size, self.batch_size, self.seed = patch_size, batch_size, seed
        self.sampling, self.augment, self.device = sampling, augment, torch.device(device)

        sizes = torch.tensor([picture.shape[:2] for picture in pictures])
        self._widths, self._areas = sizes[:, 1], sizes.prod(1)
        self._layers = layers
        lazy = any(isinstance(picture, LazyPicture) for layer in layers for picture in layer)
        num_bytes = int(self._areas.sum()) * len(layers) * (1 if len(pictures[0].shape) == 2 else 3)
        self._read_each_batch = lazy and num_bytes > KEPT_BYTES
        if not self._read_each_batch:
            self._planes, self._layers = self._planes_of(range(len(pictures))), []
        self._offsets = _starts(self._areas)  # of each picture among all pixels
        self._stride = GRID_STRIDE if sampling == "grid" else 1
        rows, self._columns = ((sizes - patch_size) // self._stride + 1).unbind(1)  # positions along each side
        self._first = _starts(rows * self._columns)  # of each picture among all positions
        self._length = int((rows * self._columns).sum())
        self._shuffled: tuple[int, Tensor] = (-1, torch.empty(0))

    def __len__(self) -> int:
        """Positions a patch can take: an epoch of the grid."""
        return self._length

    def generator(self, purpose: str, step: int, device: torch.device | str = "cpu") -> torch.Generator:
        """Random numbers that depend on the seed, the purpose and the step alone."""
        return torch.Generator(device).manual_seed(stable_seed(self.seed, purpose, step))

    def cut(self, step: int) -> list[Tensor]:
        """The patches of a step, float32 `(B, C, P, P)` in [0, 1], one tensor a layer."""
        generator = self.generator("patches", step)
        position = self._positions(step, generator)
        modes = None
        if self.augment:
            num_modes = 4 if self.augment == "flip" else 8
            modes = torch.randint(num_modes, (self.batch_size,), generator=generator)

        picture = torch.searchsorted(self._first, position, right=True) - 1
        position = position - self._first[picture]
        row, column = (self._stride * where for where in _divmod(position, self._columns[picture]))
        along = torch.arange(self.patch_size)
        rows, columns = row[:, None] + along, column[:, None] + along
        if modes is not None:  # bits of the mode: flip rows, flip columns, transpose
            rows = torch.where((modes & 1).bool()[:, None], rows.flip(1), rows)
            columns = torch.where((modes & 2).bool()[:, None], columns.flip(1), columns)
        if self._read_each_batch:
            used, which = torch.unique(picture, return_inverse=True)
            planes, offsets = self._planes_of(used.tolist()), _starts(self._areas[used])[which]
        else:
            planes, offsets = self._planes, self._offsets[picture]
        rows = offsets[:, None] + rows * self._widths[picture, None]
        index = rows.to(self.device)[:, :, None] + columns.to(self.device)[:, None, :]
        layers = [torch.stack([plane[index] for plane in colours], 1) for colours in planes]
        if modes is not None:
            transpose = (modes & 4).bool().to(self.device)[:, None, None, None]
            layers = [torch.where(transpose, patches.mT, patches) for patches in layers]
        return [patches.float() / 255 for patches in layers]

    def _planes_of(self, numbers: Iterable[int]) -> list[Tensor]:
        """The pixels of some pictures one after another, uint8 `(C, number)` on the device, one tensor a layer."""
        numbers = list(numbers)
        return [_planes([layer[number] for number in numbers]).to(self.device) for layer in self._layers]

    def _positions(self, step: int, generator: torch.Generator) -> Tensor:
        if self.sampling == "random":
            return torch.randint(len(self), (self.batch_size,), generator=generator)
        # Epochs follow each other without a gap: a batch may hold the end of one and the start of the next.
        places = range(step * self.batch_size, (step + 1) * self.batch_size)
        return torch.stack([self._epoch(place // len(self))[place % len(self)] for place in places])

    def _epoch(self, epoch: int) -> Tensor:
        if self._shuffled[0] != epoch:
            self._shuffled = epoch, torch.randperm(len(self), generator=self.generator("epoch", epoch))
        return self._shuffled[1]


class WhiteNoise(PatchSource):
    """Clean patches, and the same with white Gaussian noise.

    Args:
        pictures: clean pictures, all gray or all colour.
        sigma: noise level in grey levels, or the lowest and highest: levels are uniform in between.
        levels: "batch" has one noise level for all patches of a batch, "patch" one for each. Batch normalisation needs
            "patch": it divides by the statistics of the batch, which hide a level that all patches share.
        validation: the last pictures, this many, are held out.
        held_out: other pictures to validate on; all of `pictures` are then trained on, and `validation` is their number.
        crop: "random" cuts patches out of a picture. "centre" takes its largest central square, reduced to `patch_size` (Lanczos,
            antialiased), so that a patch shows a whole face: FDN, Section III-D and Figure 5a. Pictures held out stay whole.
        cutting: `patch_size` and the other options of `PatchSource`.

    Raises:
        ValueError: also if `held_out` has another number of pictures, or other channels.
    """

    def __init__(
        self,
        pictures: PictureSet,
        sigma: float | Sequence[float],
        levels: str = "batch",
        *,
        validation: int = 0,
        held_out: PictureSet | None = None,
        crop: str = "random",
        **cutting,
    ):
        _check_choice("levels", levels, ("batch", "patch"))
        _check_choice("crop", crop, ("random", "centre"))
        self.levels, self.sigmas = levels, _range_of_levels(sigma)
        if held_out is None:
            train, held_out = split_last(pictures, validation)
        else:
            train = pictures
            if len(held_out) != validation:
                raise ValueError(
                    f"validation is {validation}, and {held_out.name} gives {len(held_out)} pictures to validate on"
                )
            _check_channels([*train.pictures[:1], *held_out], f"{train.name} and {held_out.name}")
        chosen = train.pictures
        if crop == "centre":
            chosen = _centres(chosen, cutting["patch_size"], pictures.name)
        super().__init__(pictures, held_out, [chosen], **cutting)

    @classmethod
    def load(
        cls,
        set: str,
        sigma: float | Sequence[float],
        levels: str = "batch",
        *,
        validation_set: str = "",
        validation: int = 0,
        **options,
    ) -> Self:
        """The source on a set that `load_pictures` knows. DataUnavailable if it is out of reach: nothing stands in.

        Args:
            validation_set: its first `validation` pictures are validated on, instead of the last ones of `set`.
        """
        pictures, held_out = load_pictures(set, stand_in=False), None
        if validation_set == set:
            raise ValueError(
                f"validation_set is {set!r}, which is trained on; leave it out to hold out its last pictures"
            )
        if validation_set and validation > 0:
            held_out = load_pictures(validation_set, limit=validation, stand_in=False)
        elif validation_set:
            held_out = PictureSet(validation_set, validation_set, (), "")
        return cls(pictures, sigma, levels, validation=validation, held_out=held_out, **options)

    def batch(self, step: int) -> dict[str, Tensor]:
        """Patches of a step: `clean` in [0, 1], `noisy` not clipped, and `sigma` in grey levels.

        `sigma` is a float32 scalar, or `(B, 1, 1, 1)` with levels "patch".
        """
        (clean,) = self.cut(step)
        noise = torch.randn(clean.shape, generator=self.generator("noise", step, self.device), device=self.device)
        lowest, highest = self.sigmas
        shape = (self.batch_size, 1, 1, 1) if self.levels == "patch" else ()
        sigma = lowest + (highest - lowest) * torch.rand(shape, generator=self.generator("level", step))
        sigma = sigma.to(self.device)
        return {"clean": clean, "noisy": clean + noise * (sigma / 255), "sigma": sigma}


class Pairs(PatchSource):
    """Patches of noisy pictures, and the same patches of the clean ones.

    Args:
        pairs: all gray or all colour.
        validation: the pairs of the last scenes, this many, are held out.
        validation_scenes: the scenes to hold out, by name; `validation` is then their number, or 0 for none of them.
        cutting: `patch_size` and the other options of `PatchSource`.

    Raises:
        ValueError: a scene that no pair has.
    """

    def __init__(
        self,
        pairs: PairSet,
        *,
        validation: int = 0,
        validation_scenes: Sequence[str] = (),
        **cutting,
    ):
        if validation_scenes and validation not in (0, len(validation_scenes)):
            raise ValueError(
                f"validation is {validation}, and validation_scenes names {len(validation_scenes)}; "
                f"expected validation: {len(validation_scenes)}, or 0"
            )
        if validation_scenes:
            held_out, train = keep_scenes(pairs, validation_scenes), leave_out_scenes(pairs, validation_scenes)
        else:
            train, held_out = split_scenes(pairs, validation)
        super().__init__(pairs, held_out, [[pair.clean for pair in train], [pair.noisy for pair in train]], **cutting)

    @classmethod
    def load(cls, set: str, also: Sequence[str] = (), test_scenes: Sequence[str] = (), **options) -> Self:
        """The source on sets that `load_real_pairs` knows. DataUnavailable if one is out of reach: nothing stands in.

        Args:
            also: further sets.
            test_scenes: scenes that are kept for testing: neither trained on nor validated on.
        """
        pairs = join([load_real_pairs(name, stand_in=False) for name in (set, *also)])
        return cls(leave_out_scenes(pairs, test_scenes) if test_scenes else pairs, **options)

    def batch(self, step: int) -> dict[str, Tensor]:
        """Patches of a step: `clean` and `noisy`, both in [0, 1]."""
        return dict(zip(("clean", "noisy"), self.cut(step), strict=True))


def _check_choice(key: str, value: object, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise ValueError(f"{key} is {value!r}; expected {' or '.join(map(repr, allowed))}")


def _check_positive(**values: int) -> None:
    for key, value in values.items():
        if value < 1:
            raise ValueError(f"{key} is {value}; expected 1 or more")


def _check_channels(pictures: Sequence[Picture], name: str) -> None:
    for picture in pictures:
        if len(picture.shape) != len(pictures[0].shape):
            kinds = [f"{one.name} is {'gray' if len(one.shape) == 2 else 'colour'}" for one in (pictures[0], picture)]
            raise ValueError(f"{name}: {' and '.join(kinds)}; expected all gray or all colour")


def _check_pictures(pictures: Sequence[Picture], patch_size: int, name: str) -> None:
    if not pictures:
        raise ValueError(f"{name} has no picture to train on")
    _check_channels(pictures, name)
    smallest = min(pictures, key=lambda picture: min(picture.shape[:2]))
    height, width = smallest.shape[:2]
    if min(height, width) < patch_size:
        raise ValueError(
            f"{name}: {smallest.name} has {height}x{width} pixels; patches of {patch_size}x{patch_size} do not fit, "
            f"use patch_size {min(height, width)} or less"
        )


def _centres(pictures: Sequence[Picture], side: int, name: str) -> list[Picture]:
    """The largest central square of each picture, reduced to `side` pixels a side; ValueError for a smaller one."""
    _check_positive(patch_size=side)
    _check_pictures(pictures, side, name)
    return [_centre(picture, side) for picture in pictures]


def _centre(picture: Picture, side: int) -> Picture:
    if not isinstance(picture, LazyPicture):
        return Picture(picture.name, _central_square(picture, side))
    shape = (side, side, *picture.shape[2:])
    return LazyPicture(picture.name, partial(_central_square, picture, side), lambda: shape, picture.digest)


def _central_square(picture: Picture, side: int) -> np.ndarray:
    pixels = picture.pixels
    height, width = pixels.shape[:2]
    length = min(height, width)
    top, left = (height - length) // 2, (width - length) // 2
    square = Image.fromarray(np.ascontiguousarray(pixels[top : top + length, left : left + length]))
    return np.array(square.resize((side, side), Image.Resampling.LANCZOS))


def _range_of_levels(sigma: float | Sequence[float]) -> tuple[float, float]:
    levels = sigma if isinstance(sigma, (list, tuple)) else (sigma, sigma)
    if len(levels) != 2:
        raise ValueError(f"sigma is {sigma}; expected one level, or the lowest and the highest")
    lowest, highest = (check_sigma(level, needed=True, who="WhiteNoise") for level in levels)
    if lowest > highest:
        raise ValueError(f"sigma is {sigma}; expected the lowest level first")
    return lowest, highest


def _planes(pictures: Sequence[Picture]) -> Tensor:
    """The pixels of all pictures one after another, uint8 `(C, number)`."""
    flat = [picture.pixels.reshape(-1, 1 if picture.pixels.ndim == 2 else 3) for picture in pictures]
    return torch.from_numpy(np.ascontiguousarray(np.concatenate(flat).T))


def _starts(lengths: Tensor) -> Tensor:
    """Where each part starts when parts of these lengths follow each other."""
    return lengths.cumsum(0) - lengths


def _divmod(dividend: Tensor, divisor: Tensor) -> tuple[Tensor, Tensor]:
    return dividend // divisor, dividend % divisor
