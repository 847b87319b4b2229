"""Pictures to train and test on: fetched once, verified at every use, never replaced unsaid.

`data/sources.yaml` says where each dataset comes from and on what terms; `data/registry/` lists the SHA-256 of every
file. A file is taken from the cache, from the mirror that DATA_MIRROR names (a folder or an http address), or from its
public address, in this order. `python -m invdenoise.datasets [ids]` fetches, and reports what is there.
"""

from __future__ import annotations

import argparse
import csv
import difflib
import functools
import hashlib
import importlib.resources
import os
import shlex
import shutil
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, urlsplit

import numpy as np
import pooch
import requests
import torch
import yaml
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from invdenoise import paths
from invdenoise.files import atomic, sha256

CONNECT_SECONDS = 5  # a host that has not answered by then is taken to be out of reach
READ_SECONDS = 30  # silence in the middle of a file
REMEMBER_SECONDS = 60  # for so long a host is not asked again whether it answers
SUFFIXES = (".png", ".jpg", ".jpeg")

REMEDY = "Connect to the network, or set DATA_MIRROR to a folder or address that has the files; then run `make data`"

# Pictures inside the scikit-image package: side of the crops, then (picture, top, left) of each. Natural pictures, and
# PNG only, so that every version of Pillow decodes the same pixels. No picture serves both in training and in testing.
EMBEDDED = {
    "embedded": (
        192,
        [
            ("camera", 40, 140),
            ("astronaut", 0, 130),
            ("astronaut", 300, 90),
            ("chelsea", 20, 60),
            ("coffee", 20, 20),
            ("coffee", 180, 270),
        ],
    ),
    "embedded-train": (
        180,
        [
            *(("motorcycle_left", top, left) for top in (60, 250) for left in (20, 200, 380, 560)),
            ("brick", 160, 160),
            ("coins", 60, 100),
            ("grass", 160, 160),
            ("gravel", 160, 160),
        ],
    ),
}
ROLES = {"test": "embedded", "train": "embedded-train"}
TRAINING_SETS = ("bsd400",)  # the train role stands in for these, the test role for all others


class DataUnavailable(RuntimeError):
    """A dataset is neither in the cache nor within reach. The only error that embedded pictures may stand in for."""


class CorruptFile(RuntimeError):
    """A file is there, and is not the file of the registry: truncated, altered, or an error page in its place."""


@dataclass(frozen=True)
class Source:
    """An entry of `data/sources.yaml`; the head of that file explains the fields."""

    id: str
    title: str
    about: str
    files: str
    num_files: int
    channels: int | None
    addresses: dict[str, str]
    terms: str
    terms_short: str
    upstream: list[str]
    cite: list[str]


@dataclass(frozen=True)
class RegisteredFile:
    """A line of `data/registry/<id>.csv`. `conversion` is empty where the public address holds these very bytes."""

    file: str
    bytes: int
    sha256: str
    source_repo: str
    source_path: str
    conversion: str


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture as stored: `pixels` is uint8, `(H, W)` gray or `(H, W, 3)` colour; `name` is the file's, no suffix."""

    name: str
    pixels: np.ndarray

    def tensor(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The pixels as `(1, C, H, W)` in [0, 1], C 1 or 3."""
        pixels = torch.tensor(self.pixels).to(dtype) / 255
        return pixels[None, None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)[None].contiguous()


@dataclass(frozen=True, eq=False)
class PictureSet:
    """Pictures in a fixed order, and what they are.

    Attributes:
        name: the dataset they are from; "embedded" or "embedded-train" where these stand in.
        requested: the dataset that was asked for.
        pictures: in the order of the registry.
        sha256: hash over the hashes of the files (of the pixels, for embedded pictures), in order.
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


# --- What there is


def dataset_ids() -> list[str]:
    """Every dataset of `data/sources.yaml`, in its order."""
    return list(_sources(paths.SOURCES))


def describe(dataset: str) -> Source:
    """What a dataset is, where it comes from and on what terms; ValueError for an unknown name."""
    sources = _sources(paths.SOURCES)
    if dataset not in sources:
        raise ValueError(_unknown(dataset, [*sources]))
    return sources[dataset]


def _unknown(dataset: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(str(dataset), known)
    return f"no dataset {dataset!r}; " + (
        f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(known)}"
    )


@functools.cache
def _sources(path: Path) -> dict[str, Source]:
    entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    return {name: Source(id=name, **entry) for name, entry in entries.items()}


@functools.cache
def _registry(path: Path) -> tuple[RegisteredFile, ...]:
    with open(path, newline="", encoding="utf-8") as lines:
        return tuple(RegisteredFile(**{**row, "bytes": int(row["bytes"])}) for row in csv.DictReader(lines))


def _files(source: Source) -> tuple[RegisteredFile, ...]:
    return _registry(paths.SOURCES.parent / source.files)


# --- Fetching


def fetch(dataset: str, file: str | None = None) -> list[Path] | Path:
    """Verified local paths of a dataset's files in the order of the registry, or of the one `file`.

    Args:
        dataset: an id of `dataset_ids()`.
        file: as the registry spells it, "weights/dncnn/sigma=25.mat".

    Raises:
        CorruptFile: a file in the cache, in the mirror or at the address is not the registered one.
        DataUnavailable: a file is not in the cache and could not be had.
        ValueError: no such dataset, or no such file in it.
    """
    source = describe(dataset)
    if file is None:
        return _fetch(source, _files(source))
    wanted = [row for row in _files(source) if row.file == file]
    if not wanted:
        near = difflib.get_close_matches(file, [row.file for row in _files(source)], n=1)
        raise ValueError(f"{dataset} has no file {file!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
    return _fetch(source, wanted)[0]


def _fetch(source: Source, files: Sequence[RegisteredFile]) -> list[Path]:
    harvest = _gather(source, files)
    if harvest.corrupt:
        raise harvest.corrupt[0]
    if harvest.missing:
        raise DataUnavailable(
            f"{source.id}: {len(harvest.missing)} of {len(files)} files are not in the cache and could not be had. "
            f"Tried: {'; '.join(harvest.tried)}. {REMEDY}"
        )
    return harvest.have


@dataclass
class _Harvest:
    """What came of trying to have some files."""

    have: list[Path] = field(default_factory=list)
    missing: list[RegisteredFile] = field(default_factory=list)
    corrupt: list[CorruptFile] = field(default_factory=list)
    tried: list[str] = field(default_factory=list)  # for the first missing file: each place, and why it failed


def _gather(source: Source, files: Sequence[RegisteredFile]) -> _Harvest:
    harvest = _Harvest()
    for file in files:
        path = paths.cache_dir() / file.file
        tried: list[str] = []
        try:
            if path.exists():
                _verify(path, file, str(path), f"mend it with `rm {shlex.quote(str(path))} && make data`")
            elif not _bring(path, file, source, tried):
                harvest.missing.append(file)
                harvest.tried = harvest.tried or tried
                continue
            harvest.have.append(path)
        except CorruptFile as error:
            harvest.corrupt.append(error)
    return harvest


def _verify(path: Path, file: RegisteredFile, called: str, remedy: str) -> None:
    if (found := sha256(path)) != file.sha256:
        raise CorruptFile(
            f"{called} is not the registered {file.file}: SHA-256 {found[:12]}… of {path.stat().st_size} bytes, "
            f"expected {file.sha256[:12]}… of {file.bytes} bytes; {remedy}"
        )


def _bring(path: Path, file: RegisteredFile, source: Source, tried: list[str]) -> bool:
    """Whether the verified file is now at `path`; `tried` grows by the places that do not have it, and why.

    Raises:
        CorruptFile: a place gave other bytes, and no further place gave the right ones.
    """
    corrupt = None
    for place in _places(file, source):
        if obstacle := _obstacle(place):
            tried.append(obstacle)
            continue
        remedy = "check the network (a login page?)" if isinstance(place, str) else "replace it in the mirror"
        try:
            with atomic(path) as temporary:
                _copy(place, temporary)
                _verify(temporary, file, str(place), f"{remedy}, then run `make data`")
            return True
        except CorruptFile as error:
            corrupt = corrupt or error
        except _BrokenOff as error:
            tried.append(str(error))
    if corrupt:
        raise corrupt
    if file.conversion:
        tried.append(f"no public address has {file.file}, which was converted ({file.conversion})")
    return False


def _places(file: RegisteredFile, source: Source) -> list[Path | str]:
    """Where a file may be taken from, paths in a mirror folder and addresses, the first choice first."""
    places: list[Path | str] = []
    if mirror := os.environ.get("DATA_MIRROR"):
        if mirror.startswith(("http://", "https://")):
            places.append(f"{mirror.rstrip('/')}/{quote(file.file)}")
        elif "://" in mirror:
            raise ValueError(f"DATA_MIRROR is {mirror!r}; expected a folder, or an address with http:// or https://")
        else:
            # A notebook runs in its own folder, so a relative mirror may also be meant as seen from the checkout.
            folder = Path(mirror).expanduser()
            places.append((folder.absolute() if folder.is_dir() else paths.ROOT / folder) / file.file)
    if not file.conversion:
        places.append(source.addresses[file.source_repo].format(path=quote(file.source_path)))
    return places


def _obstacle(place: Path | str) -> str:
    """Why a file cannot be had from there, or an empty string."""
    if isinstance(place, Path):
        return "" if place.is_file() and os.access(place, os.R_OK) else f"the mirror has no readable {place}"
    host = urlsplit(place).netloc
    reason = _out_of_reach(host, place)
    return f"{host}: {reason}" if reason else ""


class _BrokenOff(Exception):
    """A host that answers did not deliver a file; the message says why."""


def _copy(place: Path | str, target: Path) -> None:
    if isinstance(place, Path):
        shutil.copyfile(place, target)
        return
    try:
        pooch.HTTPDownloader(timeout=(CONNECT_SECONDS, READ_SECONDS))(place, str(target), None)
    except requests.RequestException as error:
        if error.response is None or error.response.status_code != 404:  # 404 says nothing about the other files
            _hosts[urlsplit(place).netloc] = time.monotonic(), _reason(error)
        raise _BrokenOff(f"{place}: {_reason(error)}") from None


_hosts: dict[str, tuple[float, str]] = {}  # host -> when it was asked, and why it does not answer ("" if it does)


def _out_of_reach(host: str, address: str) -> str:
    """Why a host does not answer, empty if it does, within CONNECT_SECONDS. One question serves many files.

    The question is put in a thread because the time-out of a request covers neither the look-up of a name nor
    the trying of several addresses one after another.
    """
    asked, reason = _hosts.get(host, (-float("inf"), ""))
    if time.monotonic() - asked < REMEMBER_SECONDS:
        return reason
    answers: list[str] = []

    def ask() -> None:
        try:
            requests.head(address, timeout=CONNECT_SECONDS)
            answers.append("")
        except requests.RequestException as error:
            answers.append(_reason(error))

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(CONNECT_SECONDS)
    reason = answers[0] if answers else f"no answer within {CONNECT_SECONDS} s"
    _hosts[host] = time.monotonic(), reason
    return reason


def _reason(error: requests.RequestException) -> str:
    """In a few words why a request failed; the library's own messages run over several lines."""
    if error.response is not None:
        return f"{error.response.status_code} {error.response.reason}"
    if isinstance(error, requests.Timeout):
        return "no answer in time"
    cause = error.args[0] if error.args else error
    return f"no connection ({type(getattr(cause, 'reason', cause)).__name__})"


# --- Pictures


def load_pictures(dataset: str, *, limit: int | None = None, stand_in: bool = True) -> PictureSet:
    """The pictures of a dataset, verified; gray sets as `(H, W)`, colour sets as `(H, W, 3)`.

    Args:
        dataset: an id of `dataset_ids()`, or "embedded" and "embedded-train", which need neither mirror nor network.
        limit: at most so many, the first ones; only these are fetched.
        stand_in: where the dataset cannot be had, give embedded pictures (gray in any case) with a warning. The
            result's `name` and `is_stand_in` say so too. A corrupt file is an error whatever `stand_in` is.

    Raises:
        DataUnavailable: the dataset cannot be had, and `stand_in` is False.
        CorruptFile: see `fetch`.
        ValueError: no such dataset, none that holds pictures, or a limit below 1.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit is {limit}; expected 1 or more, or None for all pictures")
    if dataset in EMBEDDED:
        return _embedded(dataset, dataset, limit)
    if dataset not in dataset_ids():
        raise ValueError(_unknown(dataset, [*dataset_ids(), *EMBEDDED]))
    source = describe(dataset)
    if source.channels is None:
        raise ValueError(f"{dataset} holds no pictures to load ({source.title}); use fetch({dataset!r})")
    files = [file for file in _files(source) if file.file.lower().endswith(SUFFIXES)][:limit]
    try:
        found = _fetch(source, files)
    except DataUnavailable as error:
        if not stand_in:
            raise
        pictures = _embedded(ROLES["train" if dataset in TRAINING_SETS else "test"], dataset, limit)
        warnings.warn(
            f"{len(pictures)} gray pictures of {pictures.name!r} stand in for {dataset}: {error}", stacklevel=2
        )
        return pictures
    mode = "L" if source.channels == 1 else "RGB"
    pictures = tuple(Picture(path.stem, _decode(path, mode)) for path in found)
    return PictureSet(dataset, dataset, pictures, _hash(file.sha256 for file in files))


def embedded(role: str = "test") -> PictureSet:
    """Gray crops of pictures inside scikit-image: six of 192x192 to test on, or twelve of 180x180 to train on.

    The roles share no picture. They keep every path running without data, and are no benchmark.

    Args:
        role: "test" or "train".

    Raises:
        DataUnavailable: the installed scikit-image does not hold these pictures.
    """
    if role not in ROLES:
        raise ValueError(f"role is {role!r}; expected one of {', '.join(ROLES)}")
    return _embedded(ROLES[role], ROLES[role], None)


def _embedded(name: str, requested: str, limit: int | None) -> PictureSet:
    side, crops = EMBEDDED[name]
    folder = Path(str(importlib.resources.files("skimage"))) / "data"
    pictures = []
    for stem, top, left in crops[:limit]:
        path = folder / f"{stem}.png"
        if not path.exists():
            raise DataUnavailable(f"{name}: scikit-image has no {path}; install the version of requirements.txt")
        pixels = _decode(path, "L")[top : top + side, left : left + side]
        pictures.append(Picture(f"{stem}-{top}-{left}", np.ascontiguousarray(pixels)))
    hashes = (hashlib.sha256(picture.pixels.tobytes()).hexdigest() for picture in pictures)
    return PictureSet(name, requested, tuple(pictures), _hash(hashes))


def _hash(hashes: Iterator[str]) -> str:
    return hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def _decode(path: Path, mode: str) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image.convert(mode))


# --- The reader's own picture


def read_picture(path: str | Path) -> Picture:
    """A picture file of any format that Pillow reads, as uint8 gray `(H, W)` or colour `(H, W, 3)`, upright.

    Of 16 bits the upper 8 are kept. Transparent parts are laid on white. Of several frames the first is taken.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a folder, an empty or truncated file, no picture, or pixels that are neither 8 nor 16 bits.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"no picture {path}; check the name (the current folder is {Path.cwd()})")
    if not path.is_file():
        raise ValueError(f"{path} is a folder; give the name of one picture")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty (0 bytes); save or download it again")
    try:
        with Image.open(path) as image:
            return Picture(path.stem, _eight_bits(image, path))
    except UnidentifiedImageError:
        raise ValueError(f"{path} is no picture that Pillow can read; save it as PNG, JPEG or TIFF") from None
    except Image.DecompressionBombError as error:
        raise ValueError(f"{path} is too large: {error}; cut or shrink it") from None
    except (OSError, SyntaxError, EOFError) as error:  # what Pillow's decoders raise
        raise ValueError(f"{path} breaks off or is damaged ({error}); save or download it again") from None


def _eight_bits(image: Image.Image, path: Path) -> np.ndarray:
    sixteen_bits = image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM")
    if not sixteen_bits and image.mode in ("I", "F"):
        raise ValueError(f"{path} has 32-bit pixels, whose black and white are unknown; save it with 8 or 16 bits")
    image = ImageOps.exif_transpose(image)
    if sixteen_bits:
        return (np.array(image) >> 8).astype(np.uint8)
    gray = image.mode in ("1", "L", "LA", "La")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.array(image.convert("L" if gray else "RGB"))


def write_picture(path: str | Path, pixels: Tensor) -> Path:
    """Write `pixels` with 8 bits and return the path; the suffix is the format. The file is whole or not there.

    Args:
        path: the file; its folder is made if need be.
        pixels: floats, `(1, C, H, W)`, `(C, H, W)` or `(H, W)`, C 1 or 3, in [0, 1]; clamped, then rounded.

    Raises:
        ValueError: another shape, NaN or infinite pixels, or a suffix that no format has.
    """
    path = Path(path).expanduser()
    suffixes = {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.SAVE}
    if path.suffix.lower() not in suffixes:
        raise ValueError(f"{path.name} has no suffix of a picture format; name it {path.stem}.png")
    shape = tuple(pixels.shape)
    if pixels.ndim == 4 and shape[0] == 1:
        pixels = pixels[0]
    if pixels.ndim == 2:
        pixels = pixels[None]
    if pixels.ndim != 3 or pixels.shape[0] not in (1, 3) or 0 in shape:
        raise ValueError(f"the picture has shape {shape}; expected (1, C, H, W), (C, H, W) or (H, W) with C 1 or 3")
    if not pixels.is_floating_point():
        raise ValueError(f"the picture is {pixels.dtype}; expected floats in [0, 1]")
    if not torch.isfinite(pixels).all():
        raise ValueError(f"{int((~torch.isfinite(pixels)).sum())} of {pixels.numel()} values are NaN or infinite")
    levels = (pixels.detach().cpu().double().clamp(0, 1) * 255).round().to(torch.uint8)
    array = levels[0].numpy() if len(levels) == 1 else levels.permute(1, 2, 0).contiguous().numpy()
    with atomic(path) as temporary:
        Image.fromarray(array).save(temporary)
    return path


# --- python -m invdenoise.datasets


def main(arguments: Sequence[str] | None = None) -> int:
    """Fetch datasets and print a table of what is there. Returns 1 if a file is corrupt; 0 otherwise."""
    parser = argparse.ArgumentParser(prog="python -m invdenoise.datasets", description="Fetch and verify the datasets.")
    parser.add_argument("ids", nargs="*", help="datasets to fetch (default: all)")
    harvests: list[tuple[Source, _Harvest]] = []
    try:
        for source in [describe(dataset) for dataset in parser.parse_args(arguments).ids or dataset_ids()]:
            files = _files(source)
            print(f"{source.id}: {len(files)} files, {_megabytes(files)} MB ... ", end="", flush=True)
            harvests.append((source, _gather(source, files)))
            print(_status(harvests[-1][1]), flush=True)
    except (ValueError, OSError) as error:
        parser.error(str(error))

    line = "{:<26}{:>6}{:>6}{:>10}  {:<36}{}".format
    print("\n" + line("dataset", "files", "have", "size (MB)", "terms", "status"))
    for source, harvest in harvests:
        files = _files(source)
        print(line(source.id, len(files), len(harvest.have), _megabytes(files), source.terms_short, _status(harvest)))

    for error in (error for _, harvest in harvests for error in harvest.corrupt):
        print(f"\ncorrupt: {error}")
    missing: dict[str, list[str]] = {}
    for source, harvest in harvests:
        if harvest.missing:
            missing.setdefault("; ".join(harvest.tried), []).append(source.id)
    for tried, datasets in missing.items():
        print(f"\nmissing: {', '.join(datasets)}. Tried: {tried}")
    if missing:
        print(f"\n{REMEDY}. Until then, pictures of scikit-image stand in for missing ones, and every score says so.")
    return int(any(harvest.corrupt for _, harvest in harvests))


def _megabytes(files: Sequence[RegisteredFile]) -> str:
    return f"{sum(file.bytes for file in files) / 1e6:.1f}"


def _status(harvest: _Harvest) -> str:
    parts = [f"{len(harvest.corrupt)} corrupt"] if harvest.corrupt else []
    converted = sum(bool(file.conversion) for file in harvest.missing)
    if out_of_reach := len(harvest.missing) - converted:
        parts.append(f"{out_of_reach} missing: could not be reached")
    if converted:
        parts.append(f"{converted} missing: only a mirror has them")
    return ", ".join(parts) or "complete"


if __name__ == "__main__":
    sys.exit(main())
