"""Pictures and pairs of pictures of the datasets, the pictures that stand in for them, and the reader's own.

What a set holds decides which function loads it: `load_pictures` for clean pictures, `load_pairs` for noisy pictures
with their clean ones, `load_noisy` for noisy pictures without. Any other combination is a ValueError, so white noise is
never added to a picture that is noisy already.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.resources
import io
import os
import re
import struct
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import putchunk
from torch import Tensor

from invdenoise.data import categories
from invdenoise.data.decode import Stored, read_as, read_upright
from invdenoise.data.fetch import (
    CorruptFile,
    Dataset,
    DataUnavailable,
    RegisteredFile,
    dataset_ids,
    describe,
    fetch_files,
    member_names,
    registered_files,
    unknown_dataset,
)
from invdenoise.files import atomic, sha256

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".pgm", ".ppm", ".tif", ".tiff", ".webp")
LOADERS = {"clean": "load_pictures", "pairs": "load_pairs", "noisy": "load_noisy", "files": "fetch"}
CONTENTS = {
    "clean": "clean pictures",
    "pairs": "pairs of a noisy and a clean picture",
    "noisy": "noisy pictures without clean ones",
}

# Noise of the embedded pairs: its variance at brightness x in [0, 1] is GAIN * x + FLOOR, as in a camera.
GAIN, FLOOR = 0.01, 0.0004


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture as stored: `pixels` is uint8, `(H, W)` gray or `(H, W, 3)` colour; `name` is the file's, no suffix."""

    name: str
    pixels: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        """`(H, W)` gray or `(H, W, 3)` colour."""
        return self.pixels.shape

    @property
    def digest(self) -> str:
        """SHA-256 of what the picture is made of: its pixels, or the file of a `LazyPicture`."""
        return hashlib.sha256(self.pixels.tobytes()).hexdigest()

    def tensor(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The pixels as `(1, C, H, W)` in [0, 1], C 1 or 3."""
        pixels = torch.tensor(self.pixels).to(dtype) / 255
        return pixels[None, None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)[None].contiguous()


class LazyPicture(Picture):
    """A picture that is read each time `pixels` is asked for, and not kept: 162,770 faces would take 19 GB.

    Args:
        name: as in `Picture`.
        read: gives the pixels.
        measure: gives their shape; called once.
        digest: as in `Picture`.
    """

    def __init__(self, name: str, read: Callable[[], np.ndarray], measure: Callable[[], tuple[int, ...]], digest: str):
        for key, value in {"name": name, "_read": read, "_measure": measure, "_digest": digest}.items():
            object.__setattr__(self, key, value)  # the class is frozen

    @property
    def pixels(self) -> np.ndarray:
        return self._read()

    @functools.cached_property
    def shape(self) -> tuple[int, ...]:
        return self._measure()

    @property
    def digest(self) -> str:
        return self._digest


@dataclass(frozen=True, eq=False)
class PictureSet:
    """Pictures in a fixed order, and where they are from.

    Attributes:
        name: the dataset they are from; the embedded set if one stands in.
        requested: the dataset that was asked for.
        pictures: in the order of the registry.
        sha256: hash over the hashes of the files (of the pixels, for embedded pictures), in order. Of members of an archive, over
            its hash and their names.
    """

    name: str
    requested: str
    pictures: tuple[Picture, ...]
    sha256: str

    @property
    def is_stand_in(self) -> bool:
        return self.name != self.requested

    def __len__(self) -> int:
        return len(self.pictures)

    def __iter__(self) -> Iterator[Picture]:
        return iter(self.pictures)

    def choose(self, name: str = "") -> Picture:
        """The picture of that name, or the first; ValueError where there is none, with the names that there are."""
        return _chosen(self.pictures, name, self.name)


@dataclass(frozen=True, eq=False)
class Pair:
    """A noisy picture and the clean one of the same size; pairs of one `scene` show the same things.

    Raises:
        ValueError: the two pictures differ in shape.
    """

    name: str
    noisy: Picture
    clean: Picture
    scene: str

    def __post_init__(self):
        if self.noisy.pixels.shape != self.clean.pixels.shape:
            raise ValueError(
                f"pair {self.name}: {self.noisy.name} has shape {self.noisy.pixels.shape}, {self.clean.name} has shape "
                f"{self.clean.pixels.shape}; expected equal shapes"
            )


@dataclass(frozen=True, eq=False)
class PairSet:
    """Pairs in a fixed order, and where they are from; the attributes are as in `PictureSet`.

    `sha256` is over noisy, clean, noisy, clean, ... in the order of the pairs.
    """

    name: str
    requested: str
    pairs: tuple[Pair, ...]
    sha256: str

    @property
    def is_stand_in(self) -> bool:
        return self.name != self.requested

    @property
    def scenes(self) -> tuple[str, ...]:
        """The scenes, each once, in the order of their first pair."""
        return tuple(dict.fromkeys(pair.scene for pair in self.pairs))

    def __len__(self) -> int:
        return len(self.pairs)

    def __iter__(self) -> Iterator[Pair]:
        return iter(self.pairs)

    def choose(self, name: str = "") -> Pair:
        """The pair of that name, or the first; ValueError where there is none, with the names that there are."""
        return _chosen(self.pairs, name, self.name)


def _chosen(all_of_them: Sequence[Any], name: str, where: str) -> Any:
    by_name = {one.name: one for one in all_of_them}
    if name and name not in by_name:
        raise ValueError(f"{where} has no picture {name!r}; there are {', '.join(by_name)}")
    return by_name[name] if name else all_of_them[0]


# --- Embedded pictures


@dataclass(frozen=True)
class EmbeddedSet:
    """Square crops of pictures that scikit-image ships: (picture, top, left) each. What they hold is as in a Dataset."""

    side: int
    crops: tuple[tuple[str, int, int], ...]
    channels: int = 1
    holds: str = "clean"


# Natural pictures, and PNG only, so that every version of Pillow decodes the same pixels.
# A picture serves either in training sets or in test sets, never in both.
_TEST = (("astronaut", 0, 130), ("astronaut", 300, 90), ("chelsea", 20, 60), ("coffee", 20, 20), ("coffee", 180, 270))
_MOTORCYCLE = tuple(("motorcycle_left", top, left) for top in (60, 250) for left in (20, 200, 380, 560))
_TEXTURES = (("brick", 160, 160), ("grass", 160, 160), ("gravel", 160, 160))
_TISSUE = tuple(("ihc", top, left) for top in (40, 290) for left in (40, 290))
_TRAIN = (*_MOTORCYCLE, *_TEXTURES, *_TISSUE)  # the textures are gray photographs
EMBEDDED = {
    "embedded": EmbeddedSet(192, (("camera", 40, 140), *_TEST)),
    "embedded-train": EmbeddedSet(
        180, (*_MOTORCYCLE, ("brick", 160, 160), ("coins", 60, 100), ("grass", 160, 160), ("gravel", 160, 160))
    ),
    "embedded-colour": EmbeddedSet(192, _TEST, channels=3),
    "embedded-colour-train": EmbeddedSet(180, _TRAIN, channels=3),
    "embedded-pairs": EmbeddedSet(192, _TEST, channels=3, holds="pairs"),
    "embedded-pairs-train": EmbeddedSet(180, _TRAIN, channels=3, holds="pairs"),
    "embedded-noisy": EmbeddedSet(192, _TEST, channels=3, holds="noisy"),
    "embedded-noisy-train": EmbeddedSet(180, _TRAIN, channels=3, holds="noisy"),
}


def embedded(role: str = "test") -> PictureSet:
    """Gray crops of pictures inside scikit-image: six of 192x192 to test on, or twelve of 180x180 to train on.

    The two sets share no picture. They keep every path running without data, and are no benchmark.
    `load_pictures("embedded-colour")` gives colour ones, `load_pairs("embedded-pairs")` pairs.

    Args:
        role: "test" or "train".

    Raises:
        DataUnavailable: the installed scikit-image does not hold these pictures.
    """
    names = {"test": "embedded", "train": "embedded-train"}
    if role not in names:
        raise ValueError(f"role is {role!r}; expected one of {', '.join(names)}")
    return _embedded_pictures(names[role], names[role], None)


def _stand_in_name(dataset: Dataset) -> str:
    kind = {"pairs": "-pairs", "noisy": "-noisy"}.get(dataset.holds, "-colour" if dataset.channels == 3 else "")
    return f"embedded{kind}" + ("-train" if dataset.role == "train" else "")


def _embedded_pictures(name: str, requested: str, limit: int | None) -> PictureSet:
    if EMBEDDED[name].holds == "noisy":
        pictures = [pair.noisy for pair in _embedded_pairs(name, requested, limit)]
    else:
        pictures = list(_crops(name, limit))
    return PictureSet(name, requested, tuple(pictures), _hash_of_pixels(pictures))


def _embedded_pairs(name: str, requested: str, limit: int | None) -> PairSet:
    pairs = []
    for clean in _crops(name, limit):
        noisy = Picture(f"{clean.name}_noisy", _camera_noise(clean))
        scene = clean.name.rsplit("-", 2)[0]  # the picture that it was cut from
        pairs.append(Pair(clean.name, noisy, Picture(f"{clean.name}_clean", clean.pixels), scene))
    return PairSet(name, requested, tuple(pairs), _hash_of_pixels(_both(pairs)))


def _crops(name: str, limit: int | None) -> Iterator[Picture]:
    embedded_set = EMBEDDED[name]
    folder = Path(str(importlib.resources.files("skimage"))) / "data"
    side, mode = embedded_set.side, "L" if embedded_set.channels == 1 else "RGB"
    for stem, top, left in embedded_set.crops[:limit]:
        path = folder / f"{stem}.png"
        if not path.exists():
            raise DataUnavailable(f"{name}: scikit-image has no {path}; install the version of requirements.txt")
        pixels = read_as(path, mode)[top : top + side, left : left + side]
        yield Picture(f"{stem}-{top}-{left}", np.ascontiguousarray(pixels))


def _camera_noise(clean: Picture) -> np.ndarray:
    """The pixels with noise that grows with brightness, clipped and rounded as a camera stores them."""
    # RandomState, because NumPy never changes its stream; the seed depends on the name alone.
    draw = np.random.RandomState(zlib.crc32(clean.name.encode())).standard_normal(clean.pixels.shape)
    brightness = clean.pixels / 255
    noisy = brightness + np.sqrt(GAIN * brightness + FLOOR) * draw
    return np.rint(noisy.clip(0, 1) * 255).astype(np.uint8)


# --- Datasets


def load_pictures(dataset: str, *, limit: int | None = None, stand_in: bool = True) -> PictureSet:
    """The clean pictures of a dataset, verified; gray sets as `(H, W)`, colour sets as `(H, W, 3)`.

    Members of an archive are read in memory. Pictures that are fetched by hand are each a `LazyPicture`; nobody registered
    their hashes, so they are taken as they are.

    Args:
        dataset: an id of `dataset_ids()` or a name in EMBEDDED. Embedded sets need neither mirror nor network.
        limit: at most this many, the first ones; only these are fetched.
        stand_in: if the dataset is unavailable, give embedded pictures with a warning: gray or colour, for testing
            or training, as the dataset. The result's `name` and `is_stand_in` say so too. A corrupt file is an error
            in either case.

    Raises:
        DataUnavailable: the dataset is unavailable, and `stand_in` is False.
        CorruptFile: see `fetch` and `categories.files_of`; or a member of an archive is missing or damaged.
        ValueError: no such dataset, one that does not hold clean pictures, or a limit below 1.
    """
    return _load_single(dataset, "clean", limit, stand_in)


def load_noisy(dataset: str, *, limit: int | None = None, stand_in: bool = True) -> PictureSet:
    """The pictures of a dataset that holds noisy pictures without clean ones; see `load_pictures`."""
    return _load_single(dataset, "noisy", limit, stand_in)


def load_pairs(dataset: str, *, limit: int | None = None, stand_in: bool = True) -> PairSet:
    """The pairs of a noisy and a clean picture of a dataset; `limit` counts pairs, all else as in `load_pictures`."""
    _check_request(dataset, "pairs", limit)
    if dataset in EMBEDDED:
        return _embedded_pairs(dataset, dataset, limit)
    described = describe(dataset)
    named = _named_pairs(described)[:limit]
    files = [file for _, _, noisy, clean in named for file in (noisy, clean)]
    try:
        found = fetch_files(described, files)
    except DataUnavailable as error:
        if not stand_in:
            raise
        pairs = _embedded_pairs(_stand_in_name(described), dataset, limit)
        _warn_of_stand_in("pairs", pairs, error, stacklevel=2)
        return pairs
    pictures = _pictures(described, files, found)
    pairs = [
        Pair(name, noisy, clean, scene)
        for (name, scene, _, _), noisy, clean in zip(named, pictures[::2], pictures[1::2], strict=True)
    ]
    return PairSet(dataset, dataset, tuple(pairs), _hash(file.sha256 for file in files))


def num_pictures(dataset: str) -> int:
    """How many pictures a dataset has to be processed: a pair counts once, a licence file not at all.

    Of pictures that are fetched by hand it is the declared number. Takes the names that `load_pictures` takes, and raises
    ValueError for another one. Nothing is fetched.
    """
    if dataset in EMBEDDED:
        return len(EMBEDDED[dataset].crops)
    described = describe(dataset)
    if described.by_hand:
        return described.by_hand.num_pictures
    if described.members:
        return len(member_names(described.members))
    return len(_named_pairs(described)) if described.holds == "pairs" else len(_picture_files(described))


def split_scenes(pairs: PairSet, held_out: int | float, seed: int | None = None) -> tuple[PairSet, PairSet]:
    """The pairs to train on and the pairs held out, which have no scene in common.

    Crops of one scene show the same things, so a split by crop would test on what was trained on. Both parts keep the
    name and the order of `pairs`; their `sha256` is over the pixels.

    Args:
        held_out: how many scenes to hold out, or, as a float between 0 and 1, which share of them (at least one).
        seed: determines which scenes are drawn. None holds out the last ones.

    Raises:
        ValueError: `held_out` leaves no scene to train on, is negative, or is no share.
    """
    scenes = pairs.scenes
    if isinstance(held_out, float):
        if not 0 < held_out < 1:
            raise ValueError(f"held_out is {held_out:g}; expected a number of scenes, or a share between 0 and 1")
        held_out = max(1, round(held_out * len(scenes)))
    _check_held_out(held_out, len(scenes), f"scenes of {pairs.name}")
    order = list(range(len(scenes))) if seed is None else np.random.RandomState(seed).permutation(len(scenes)).tolist()
    chosen = {scenes[number] for number in order[len(scenes) - held_out :]}
    parts = (tuple(pair for pair in pairs if (pair.scene in chosen) == held) for held in (False, True))
    train, held = (PairSet(pairs.name, pairs.requested, part, _hash_of_pixels(_both(part))) for part in parts)
    return train, held


def join(sets: Sequence[PairSet]) -> PairSet:
    """The pairs of several sets as one, in order. Scenes of different sets count as different; one set stays as it is.

    Names are joined by "+"; `sha256` is over those of the sets. A scene's name is `set/scene` where there are several sets.
    """
    if len(sets) == 1:
        return sets[0]
    pairs = tuple(replace(pair, scene=f"{one.name}/{pair.scene}") for one in sets for pair in one)
    name, requested = ("+".join(getattr(one, key) for one in sets) for key in ("name", "requested"))
    return PairSet(name, requested, pairs, _hash(one.sha256 for one in sets))


def keep_scenes(pairs: PairSet, scenes: Sequence[str]) -> PairSet:
    """The pairs of these scenes, in their order; ValueError for a scene that no pair has. `sha256` is over the pixels."""
    if unknown := [scene for scene in scenes if scene not in pairs.scenes]:
        raise ValueError(f"{pairs.name} has no scene {unknown[0]!r}; it has {', '.join(pairs.scenes)}")
    kept = tuple(pair for pair in pairs if pair.scene in scenes)
    return PairSet(pairs.name, pairs.requested, kept, _hash_of_pixels(_both(kept)))


def leave_out_scenes(pairs: PairSet, scenes: Sequence[str]) -> PairSet:
    """The pairs of all scenes but these; otherwise as `keep_scenes`."""
    keep_scenes(pairs, scenes)
    kept = tuple(pair for pair in pairs if pair.scene not in scenes)
    return PairSet(pairs.name, pairs.requested, kept, _hash_of_pixels(_both(kept)))


def split_last(pictures: PictureSet, held_out: int) -> tuple[PictureSet, PictureSet]:
    """The pictures to train on, and the last `held_out` ones; otherwise as `split_scenes`."""
    _check_held_out(held_out, len(pictures), f"pictures of {pictures.name}")
    kept = len(pictures) - held_out
    parts = (pictures.pictures[:kept], pictures.pictures[kept:])
    train, held = (PictureSet(pictures.name, pictures.requested, part, _hash_of_pixels(part)) for part in parts)
    return train, held


def _check_held_out(held_out: int, available: int, what: str) -> None:
    if isinstance(held_out, bool) or not isinstance(held_out, int) or held_out < 0:
        raise ValueError(f"cannot hold out {held_out!r} {what}; expected a whole number, 0 or more")
    if held_out and held_out >= available:
        raise ValueError(f"cannot hold out {held_out} of {available} {what}; nothing is left to train on")


def _load_single(dataset: str, holds: str, limit: int | None, stand_in: bool) -> PictureSet:
    _check_request(dataset, holds, limit)
    if dataset in EMBEDDED:
        return _embedded_pictures(dataset, dataset, limit)
    described = describe(dataset)
    try:
        return _by_hand(described, limit) if described.by_hand else _registered(described, limit)
    except DataUnavailable as error:
        if not stand_in:
            raise
        pictures = _embedded_pictures(_stand_in_name(described), dataset, limit)
        kind = "noisy" if holds == "noisy" else "gray" if described.channels == 1 else "colour"
        _warn_of_stand_in(f"{kind} pictures", pictures, error, stacklevel=3)
        return pictures


def _registered(dataset: Dataset, limit: int | None) -> PictureSet:
    if dataset.members:
        return _members(dataset, limit)
    files = _picture_files(dataset)[:limit]
    pictures = _pictures(dataset, files, fetch_files(dataset, files))
    return PictureSet(dataset.id, dataset.id, tuple(pictures), _hash(file.sha256 for file in files))


def _members(dataset: Dataset, limit: int | None) -> PictureSet:
    """The pictures that `members` lists of the zip file of a dataset."""
    archives = [file for file in registered_files(dataset) if file.file.lower().endswith(".zip")]
    if len(archives) != 1:
        raise ValueError(f"{dataset.id} has `members` and {len(archives)} zip files; register one, which they are in")
    (path,) = fetch_files(dataset, archives)
    names = _short_names(
        dataset.id, [str(PurePosixPath(name).with_suffix("")) for name in member_names(dataset.members)]
    )
    members = member_names(dataset.members)[:limit]
    mode, pictures = "L" if dataset.channels == 1 else "RGB", []
    try:
        with zipfile.ZipFile(path) as archive:
            there = set(archive.namelist())
            if missing := [member for member in members if member not in there]:
                raise CorruptFile(
                    f"{path} has no {missing[0]}, which {dataset.id} needs; correct `members` of {dataset.id}"
                )
            for name, member in zip(names, members, strict=False):  # a limit must not change a name
                try:
                    pictures.append(Picture(name, _jpeg(archive.read(member), mode)))
                except Exception as error:  # decoders raise whatever they stumble over
                    raise CorruptFile(
                        f"{path}: {member} is damaged ({error}); register an archive in which it is whole"
                    ) from None
    except zipfile.BadZipFile as error:
        raise CorruptFile(f"{path} is no zip file ({error}); register another one") from None
    return PictureSet(dataset.id, dataset.id, tuple(pictures), _hash([archives[0].sha256, *members]))


def _jpeg(content: bytes, mode: str) -> np.ndarray:
    """The pixels of a JPEG file, which always has 8 bits; ValueError for another format or for inks."""
    with Image.open(io.BytesIO(content), formats=("JPEG",)) as image:
        if image.mode not in ("L", "RGB"):
            raise ValueError(f"its colours are {image.mode}, expected gray or RGB")
        return np.array(image.convert(mode))


def _by_hand(dataset: Dataset, limit: int | None) -> PictureSet:
    """The pictures of a dataset that was fetched by hand, which are read when they are used."""
    files = categories.files_of(dataset)
    names = _short_names(dataset.id, [file.with_suffix("").as_posix() for file in files])
    pictures = [_lazy(name, file, dataset.channels) for name, file in zip(names, files[:limit], strict=False)]
    return PictureSet(dataset.id, dataset.id, tuple(pictures), _hash(picture.digest for picture in pictures))


def _lazy(name: str, path: Path, channels: int) -> LazyPicture:
    def read() -> np.ndarray:
        try:
            return read_as(path, "L" if channels == 1 else "RGB")
        except (OSError, ValueError) as error:
            raise CorruptFile(f"{error}; unpack or download it again") from None

    def measure() -> tuple[int, ...]:
        try:
            with Image.open(path) as image:  # the head of the file is enough
                return (image.height, image.width, 3)[: 2 if channels == 1 else 3]
        except OSError:
            return read().shape  # says what is wrong with the file

    return LazyPicture(name, read, measure, sha256(path))


def _check_request(dataset: str, holds: str, limit: int | None) -> None:
    """ValueError for a limit below 1, an unknown set, or a set that another function loads."""
    if limit is not None and limit < 1:
        raise ValueError(f"limit is {limit}; expected 1 or more, or None for all")
    if dataset in EMBEDDED:
        found, title = EMBEDDED[dataset].holds, "made from pictures of scikit-image"
    elif dataset in dataset_ids():
        found, title = describe(dataset).holds, describe(dataset).title
    else:
        raise unknown_dataset(dataset, [*dataset_ids(), *EMBEDDED])
    if found == holds:
        return
    contents = f"holds {CONTENTS[found]}, not {CONTENTS[holds]}" if found in CONTENTS else "holds no pictures to load"
    raise ValueError(f"{dataset} {contents} ({title}); use {LOADERS[found]}({dataset!r})")


def _warn_of_stand_in(what: str, stand_in: PictureSet | PairSet, error: DataUnavailable, stacklevel: int) -> None:
    text = f"{len(stand_in)} {what} of {stand_in.name!r} stand in for {stand_in.requested}: {error}"
    warnings.warn(text, stacklevel=stacklevel + 1)


def _picture_files(dataset: Dataset) -> list[RegisteredFile]:
    if dataset.holds == "files":
        return []
    return [file for file in registered_files(dataset) if file.file.lower().endswith(SUFFIXES)]


def _named_pairs(dataset: Dataset) -> list[tuple[str, str, RegisteredFile, RegisteredFile]]:
    """Name, scene, noisy and clean file of each pair, in the order of their first file in the registry.

    Raises:
        ValueError: a picture belongs to no pair, or a pair has no scene where it should.
    """
    names, pairs = dataset.pairs, {}
    for file in _picture_files(dataset):
        part, path = names.part(file.file)
        if not part:
            where = "lies" if names.noisy.endswith("/") else "ends"
            raise ValueError(f"{dataset.id}: {file.file} {where} neither in {names.noisy} nor in {names.clean}")
        if part in pairs.setdefault(path, {}):
            raise ValueError(f"{dataset.id}: {file.file} and {pairs[path][part].file} are the same part of one pair")
        pairs[path][part] = file
    for pair in pairs.values():
        if len(pair) != 2:
            raise ValueError(
                f"{dataset.id}: {next(iter(pair.values())).file} has no partner; list both files of a pair"
            )
    scene_of = {name: scene for scene, listed in names.scenes.items() for name in listed}
    found = [
        (name, _scene(dataset, path, name, scene_of), pair["noisy"], pair["clean"])
        for name, (path, pair) in zip(_short_names(dataset.id, list(pairs)), pairs.items(), strict=True)
    ]
    if unknown := scene_of.keys() - {name for name, *_ in found}:
        raise ValueError(f"{dataset.id}: scenes lists {min(unknown)}, which is no pair of the set")
    return found


def _scene(dataset: Dataset, path: str, name: str, scene_of: Mapping[str, str]) -> str:
    if scene_of:
        if name not in scene_of:
            raise ValueError(f"{dataset.id}: {name} has no scene; list it under `scenes`")
        return scene_of[name]
    if not dataset.pairs.scene:
        return dataset.id
    found = re.search(dataset.pairs.scene, path)
    if not found:
        raise ValueError(f"{dataset.id}: {path} shows no scene, searched with {dataset.pairs.scene!r}")
    return found[1]


def _short_names(dataset: str, paths: Sequence[str]) -> list[str]:
    """Names of pictures, from their paths without suffix: the last part where that tells them apart, else all that differ.

    A name stands for one picture: it decides the noise, and what a score is about.
    """
    names = [PurePosixPath(path).name for path in paths]
    if len(set(names)) < len(names):
        common = os.path.commonpath([os.path.dirname(path) for path in paths])
        names = [os.path.relpath(path, common or ".").replace("/", "-") for path in paths]
    if len(set(names)) < len(names):
        repeated, _ = Counter(names).most_common(1)[0]
        raise ValueError(f"{dataset}: two pictures are named {repeated}; rename one in the registry")
    return names


def _pictures(dataset: Dataset, files: Sequence[RegisteredFile], found: Sequence[Path]) -> list[Picture]:
    """The pictures of some files of a dataset, which were fetched to the paths `found`."""
    mode = "L" if dataset.channels == 1 else "RGB"
    everything = [file.file for file in _picture_files(dataset)]
    names = _short_names(dataset.id, [str(PurePosixPath(file).with_suffix("")) for file in everything])
    name_of = dict(zip(everything, names, strict=True))  # of all files: a limit must not change a name
    return [Picture(name_of[file.file], read_as(path, mode)) for file, path in zip(files, found, strict=True)]


def _both(pairs: Iterable[Pair]) -> list[Picture]:
    return [picture for pair in pairs for picture in (pair.noisy, pair.clean)]


def _hash_of_pixels(pictures: Iterable[Picture]) -> str:
    return _hash(picture.digest for picture in pictures)


def _hash(hashes: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(hashes).encode()).hexdigest()


# --- The reader's own picture


def read_picture(path: str | Path, bits: int | None = None) -> Picture:
    """A picture file as uint8 gray `(H, W)` or colour `(H, W, 3)`, upright.

    Values are scaled by what they mean: bits in use, black and white, as far as the file tells. Of more than 8 bits the
    upper 8 in use are kept. Transparent parts are laid on white. Of several pages or frames the first is taken. A warning
    that names the file says what was assumed or left out: bits in use, pages, a colour profile, transparency.

    Args:
        path: any common format. A camera's raw file must be developed first.
        bits: how many bits of 16-bit values are in use, 1 to 16. None goes by the file; if it does not tell, by its brightest
            value.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a folder, an empty or damaged file, no picture, a raw file, or one whose black and white are unknown, such as
            32-bit pixels without a declared range.
    """
    path = picture_file(path)
    pixels, notes = read_upright(path, bits)
    for note in notes:
        warnings.warn(f"{path}: {note}", stacklevel=2)
    return Picture(path.stem, pixels)


def picture_file(path: str | Path) -> Path:
    """The path of a file that may be a picture, with `~` as the home folder.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a folder, no regular file, or an empty one.
    """
    path = _expanded(path)
    if not path.exists():
        raise FileNotFoundError(f"no picture {path}; check the name (the current folder is {Path.cwd()})")
    if not path.is_file():
        raise ValueError(
            f"{path} is {'a folder' if path.is_dir() else 'no regular file'}; give the name of one picture"
        )
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty (0 bytes); save or download it again")
    return path


def _expanded(path: str | Path) -> Path:
    """The path with `~` as the home folder. Unlike `Path.expanduser`, a file named "~a.png" is no error."""
    return Path(os.path.expanduser(path))


def write_picture(path: str | Path, pixels: Tensor) -> Path:
    """Write `pixels` with 8 bits and return the path; the suffix is the format. The file is whole or not there.

    Args:
        path: the file; a missing folder is made.
        pixels: floats, `(1, C, H, W)`, `(C, H, W)` or `(H, W)`, C 1 or 3, in [0, 1]; clamped, then rounded.

    Raises:
        ValueError: another shape, NaN or infinite pixels, or a suffix that no format has.
    """
    path = _expanded(path)
    suffixes = {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.SAVE}
    if path.suffix.lower() not in suffixes:
        raise ValueError(f"{path.name} has no suffix of a picture format; name it {path.stem}.png")
    shape = tuple(pixels.shape)
    if pixels.ndim == 4 and shape[0] == 1:
        pixels = pixels[0]
    if pixels.ndim == 2:
        pixels = pixels[None]
    if pixels.ndim != 3 or pixels.shape[0] not in (1, 3) or 0 in shape:
        raise ValueError(
            f"{path}: the picture has shape {shape}; expected (1, C, H, W), (C, H, W) or (H, W) with C 1 or 3"
        )
    if not pixels.is_floating_point():
        raise ValueError(f"{path}: the picture is {pixels.dtype}; expected floats in [0, 1]")
    if not torch.isfinite(pixels).all():
        raise ValueError(
            f"{path}: {int((~torch.isfinite(pixels)).sum())} of {pixels.numel()} values are NaN or infinite"
        )
    levels = (pixels.detach().cpu().double().clamp(0, 1) * 255).round().to(torch.uint8)
    array = levels[0].numpy() if len(levels) == 1 else levels.permute(1, 2, 0).contiguous().numpy()
    with atomic(path) as temporary:
        Image.fromarray(array).save(temporary)
    return path


def write_stored(path: Path, picture: Stored) -> None:
    """Write a picture with its depth, opacity and colour profile, as PNG or TIFF by the suffix. The file is whole or not there.

    Raises:
        ValueError: the suffix is neither .png nor .tif.
    """
    values = picture.values.reshape(*picture.values.shape[:2], -1)
    if picture.alpha is not None:
        values = np.dstack([values, picture.alpha])
    with atomic(path) as temporary:
        if path.suffix == ".tif":
            from tifffile import imwrite  # imported here to start fast

            kind = "minisblack" if values.shape[2] < 3 else "rgb"
            opacity = None if picture.alpha is None else ["unassalpha"]
            imwrite(
                temporary, values.squeeze(2) if values.shape[2] == 1 else values, photometric=kind, planarconfig="contig",
                extrasamples=opacity, iccprofile=picture.profile or None, metadata=None,
            )  # fmt: skip
        elif path.suffix != ".png":
            raise ValueError(f"{path.name} ends in neither .png nor .tif, the formats that keep every picture as it is")
        elif values.dtype == np.uint8:
            plain = values.squeeze(2) if values.shape[2] == 1 else values
            Image.fromarray(plain).save(temporary, format="PNG", icc_profile=picture.profile or None)
        else:
            temporary.write_bytes(_png_of_16_bits(values, picture.profile))


def _png_of_16_bits(values: np.ndarray, profile: bytes) -> bytes:
    """A PNG file of uint16 values `(H, W, C)`, C 1 to 4: gray or colour, the last of two or four is opacity.

    Pillow writes 16 bits of gray only. Rows are stored as differences to the row above (filter 2), which compress better.
    """
    height, width, channels = values.shape
    rows = values.astype(">u2").reshape(height, -1).view(np.uint8)
    rows = np.concatenate([rows[:1], rows[1:] - rows[:-1]])  # modulo 256
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    file = io.BytesIO(b"\x89PNG\r\n\x1a\n")
    file.seek(0, io.SEEK_END)
    putchunk(file, b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0))
    if profile:
        putchunk(file, b"iCCP", b"ICC Profile\0\0" + zlib.compress(profile))
    putchunk(file, b"IDAT", zlib.compress(np.pad(rows, ((0, 0), (1, 0)), constant_values=2).tobytes()))
    putchunk(file, b"IEND")
    return file.getvalue()
