"""Benchmarks of real noise that must be fetched by hand: readers of their files, writers of the files to submit.

Their makers ask for a form or a login, so no file of theirs is registered: in `data/sources.yaml` such a dataset has no
files, and its text says how to get it. The files lie in a folder with the dataset's id, in the cache or in the folder that
DATA_MIRROR names. (`categories` reads clean pictures that are fetched by hand.) What is in the folder decides how it is read:

- "pairs of blocks": two MATLAB files with noisy and clean 8-bit blocks `(pictures, blocks, H, W, 3)`, `PAIRED`.
- "blocks": one such file with noisy blocks only, `UNPAIRED`. Results are submitted with `write_blocks`.
- "boxes": `info.mat` with boxes, and pictures `images_srgb/0001.mat`. Results are submitted with `write_boxes`.
- "pictures": folders of whole PNG pictures, `*_NOISY_SRGB_*.PNG` and `*_GT_SRGB_*.PNG`. Only crops are kept: all pictures
  together would take 30 GB.
"""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np

from invdenoise.data import pictures
from invdenoise.data.decode import read_as
from invdenoise.data.fetch import (
    CorruptFile,
    DataUnavailable,
    at_hand,
    dataset_ids,
    describe,
    folder_of,
    is_by_hand,
)
from invdenoise.data.pictures import Pair, PairSet, Picture
from invdenoise.files import atomic, sha256

PAIRED = ("ValidationNoisyBlocksSrgb", "ValidationGtBlocksSrgb")  # MATLAB files, and the variables in them
UNPAIRED = "BenchmarkNoisyBlocksSrgb"
SUBMITTED = "SubmitSrgb.mat"
INFO, IMAGES, NOISY = "info.mat", "images_srgb", "InoisySRGB"
NUM_BOXES = 20  # of a picture with boxes
NOISY_FILE = re.compile(r"_NOISY_SRGB_\d+\.(png|PNG)$")
SCENE = re.compile(r"^\d+_(\d+)_")  # <instance>_<scene>_<camera>_<ISO>_<shutter>_<light>_<brightness>
EVALUATION = "1.0"  # version of the evaluation that bundles of boxes are for

CROPS, SIDE = 4, 256  # of a whole picture: 0.5 GB for the 320 pairs of the training set

__all__ = ["at_hand", "folder_of", "is_by_hand"]  # they moved to `fetch`; others know them from here


# --- What is in a folder


def layout_of(folder: Path) -> str:
    """How a benchmark's folder is read: "pairs of blocks", "blocks", "boxes" or "pictures".

    Raises:
        CorruptFile: files are missing, or none is known.
    """
    paired = [f"{name}.mat" for name in PAIRED]
    if any((folder / name).exists() for name in paired):
        _demand(folder, paired)
        return "pairs of blocks"
    if (folder / f"{UNPAIRED}.mat").exists():
        return "blocks"
    if (folder / INFO).exists() or (folder / IMAGES).exists():
        _demand(folder, [INFO, IMAGES])
        return "boxes"
    if next(_noisy_files(folder), None):
        return "pictures"
    raise CorruptFile(
        f"{folder} has no benchmark in it: expected {' and '.join(paired)}; or {UNPAIRED}.mat; or {INFO} and {IMAGES}/; "
        "or folders with *_NOISY_SRGB_*.PNG and *_GT_SRGB_*.PNG. Unpack what was downloaded there"
    )


def _demand(folder: Path, names: Sequence[str]) -> None:
    if missing := [name for name in names if not (folder / name).exists()]:
        there = next(name for name in names if name not in missing)
        raise CorruptFile(f"{folder} has {there} but not {missing[0]}, which belongs to it; download that as well")


# --- MATLAB files


def read_variable(path: Path, name: str) -> np.ndarray:
    """A numeric variable of a MATLAB file of version 5 to 7.3, with the axes in MATLAB's order.

    Raises:
        FileNotFoundError: no such file.
        CorruptFile: no MATLAB file, or one without this variable.
    """
    if not path.exists():
        raise FileNotFoundError(f"no file {path}; download it there")
    try:
        if h5py.is_hdf5(path):
            with h5py.File(path) as file:
                found = {name: file[name][()].T} if name in file else {}  # HDF5 has MATLAB's axes in reverse
                names = list(file)
        else:
            from scipy.io import loadmat, whosmat  # imported here to start fast

            names = [row[0] for row in whosmat(path)]
            found = loadmat(path, variable_names=[name])
    except Exception as error:  # SciPy raises whatever its parser stumbles over
        raise CorruptFile(f"{path} cannot be read as a MATLAB file ({error}); download it again") from None
    if name not in found:
        raise CorruptFile(f"{path} has no variable {name}; it has {', '.join(names) or 'none'}. Download it again")
    return found[name]


def read_blocks(path: Path, variable: str) -> np.ndarray:
    """8-bit colour blocks `(pictures, blocks, H, W, 3)` of a MATLAB file; errors as `read_variable`."""
    blocks = read_variable(path, variable)
    if blocks.ndim != 5 or blocks.shape[-1] != 3 or blocks.dtype != np.uint8:
        raise CorruptFile(
            f"{path}: {variable} is {blocks.dtype} of shape {blocks.shape}; expected uint8 (pictures, blocks, H, W, 3)"
        )
    return blocks


def write_blocks(path: Path, denoised: np.ndarray, seconds_per_megapixel: float) -> Path:
    """Write the file that is submitted for denoised blocks, `SUBMITTED`, and return its path.

    Args:
        path: the file, or a folder that it is put into.
        denoised: uint8 `(pictures, blocks, H, W, 3)`, as `read_blocks` gives the noisy ones.
        seconds_per_megapixel: of denoising; a megapixel is 1024 x 1024 here, as in the makers' scripts.

    Raises:
        ValueError: another shape or type.
    """
    from scipy.io import savemat  # imported here to start fast

    if denoised.ndim != 5 or denoised.shape[-1] != 3 or denoised.dtype != np.uint8:
        raise ValueError(
            f"the denoised blocks are {denoised.dtype} of shape {denoised.shape}; expected uint8 (pictures, blocks, H, W, 3): "
            "round to 8 bits after clamping"
        )
    path = path if path.suffix == ".mat" else path / SUBMITTED
    with atomic(path) as temporary:
        savemat(
            temporary, {"DenoisedBlocksSrgb": denoised, "TimeMPSrgb": float(seconds_per_megapixel)}, appendmat=False
        )
    return path


# --- Boxes


def read_boxes(folder: Path) -> list[np.ndarray]:
    """The boxes of each picture: int `(boxes, 4)`, rows (top, left, bottom, right) counted from 0, the ends excluded.

    The file counts from 1 and includes both ends.

    Raises:
        CorruptFile: `info.mat` is not what it should be.
    """
    path = folder / INFO
    try:
        with h5py.File(path) as file:
            info = file["info"]
            found = [np.asarray(file[reference][()]).T for reference in info["boundingboxes"][()].flat]
    except (OSError, KeyError, ValueError, AttributeError) as error:
        raise CorruptFile(f"{path} has no info.boundingboxes ({error}); download it again") from None
    boxes = []
    for number, box in enumerate(found, start=1):
        if box.ndim != 2 or box.shape[1] != 4 or (box < 1).any() or (box[:, :2] > box[:, 2:]).any():
            raise CorruptFile(
                f"{path}: the boxes of picture {number} are not rows of (top, left, bottom, right) from 1 on"
            )
        boxes.append(np.rint(box).astype(int) - [1, 1, 0, 0])
    return boxes


def iterate_boxes(folder: Path) -> Iterator[list[np.ndarray]]:
    """What lies in the boxes of each picture: float32 `(H, W, 3)` in [0, 1], in the order of `read_boxes`.

    Raises:
        FileNotFoundError, CorruptFile: a picture is missing, is no colour picture, or is too small for its boxes.
    """
    for number, boxes in enumerate(read_boxes(folder), start=1):
        path = folder / IMAGES / f"{number:04d}.mat"
        picture = read_variable(path, NOISY)
        if picture.ndim != 3 or picture.shape[2] != 3 or not np.issubdtype(picture.dtype, np.floating):
            raise CorruptFile(f"{path}: {NOISY} is {picture.dtype} of shape {picture.shape}; expected floats (H, W, 3)")
        height, width = picture.shape[:2]
        if (boxes[:, 2] > height).any() or (boxes[:, 3] > width).any():
            raise CorruptFile(f"{path} is {height}x{width}, smaller than its boxes in {folder / INFO}")
        yield [
            np.ascontiguousarray(picture[top:bottom, left:right], np.float32)
            for top, left, bottom, right in boxes.tolist()
        ]


def write_boxes(folder: Path, number: int, denoised: Sequence[np.ndarray]) -> Path:
    """Write what is submitted for one picture with boxes, `0001.mat` for number 1, and return its path.

    Args:
        folder: what it is put into.
        number: of the picture, from 1.
        denoised: the `NUM_BOXES` boxes, floats `(H, W, 3)` in [0, 1], not rounded; stored as float32.

    Raises:
        ValueError: another number of boxes, 8-bit values, or values outside [0, 1].
    """
    from scipy.io import savemat  # imported here to start fast

    if len(denoised) != NUM_BOXES:
        raise ValueError(f"picture {number} has {len(denoised)} boxes; expected {NUM_BOXES}")
    cells = np.empty(NUM_BOXES, dtype=object)
    for place, box in enumerate(denoised):
        box = np.asarray(box)
        if box.ndim != 3 or box.shape[2] != 3 or not np.issubdtype(box.dtype, np.floating):
            raise ValueError(
                f"box {place + 1} of picture {number} is {box.dtype} {box.shape}; expected floats (H, W, 3)"
            )
        if not (np.isfinite(box).all() and box.min() >= 0 and box.max() <= 1):
            raise ValueError(f"box {place + 1} of picture {number} has values outside [0, 1]; clamp it")
        cells[place] = box.astype(np.float32)
    path = folder / f"{number:04d}.mat"
    with atomic(path) as temporary:
        savemat(temporary, {"Idenoised": cells, "israw": False, "eval_version": EVALUATION}, appendmat=False)
    return path


# --- Pairs


def load_real_pairs(dataset: str, *, limit: int | None = None, stand_in: bool = True) -> PairSet:
    """Pairs of any dataset that has them, registered or fetched by hand; arguments and errors as `pictures.load_pairs`.

    Of whole pictures `CROPS` crops of `SIDE` pixels a side are taken, see `crop_pairs`; `limit` counts pictures.

    Raises:
        ValueError: also for a benchmark whose clean pictures its makers keep.
    """
    if dataset not in dataset_ids() or not is_by_hand(dataset) or describe(dataset).by_hand:
        return pictures.load_pairs(dataset, limit=limit, stand_in=stand_in)
    if limit is not None and limit < 1:
        raise ValueError(f"limit is {limit}; expected 1 or more, or None for all")
    try:
        folder = folder_of(dataset)
    except DataUnavailable as error:
        if not stand_in:
            raise
        name = "embedded-pairs" + ("-train" if describe(dataset).role == "train" else "")
        pairs = replace(pictures.load_pairs(name, limit=limit), requested=dataset)
        warnings.warn(f"{len(pairs)} pairs of {name!r} stand in for {dataset}: {error}", stacklevel=2)
        return pairs
    layout = layout_of(folder)
    if layout == "pairs of blocks":
        return block_pairs(folder, dataset, limit)
    if layout == "pictures":
        return crop_pairs(folder, dataset, limit)
    raise ValueError(f"{dataset} has no clean pictures: its makers keep them. Denoise it with `real.submit`")


def block_pairs(folder: Path, name: str, limit: int | None = None) -> PairSet:
    """Blocks of a folder of the layout "pairs of blocks"; `limit` counts blocks. All blocks of a picture are one scene."""
    files = [folder / f"{variable}.mat" for variable in PAIRED]
    noisy, clean = (read_blocks(file, variable) for file, variable in zip(files, PAIRED, strict=True))
    if noisy.shape != clean.shape:
        raise CorruptFile(f"{files[0]} has blocks {noisy.shape}, {files[1]} {clean.shape}; download both again")
    pairs = []
    for place in list(np.ndindex(noisy.shape[:2]))[:limit]:
        block = "{:02d}-{:02d}".format(*place)
        both = (Picture(f"{block}_{role}", blocks[place]) for role, blocks in (("noisy", noisy), ("clean", clean)))
        pairs.append(Pair(block, *both, scene=f"picture {place[0]:02d}"))
    return PairSet(name, name, tuple(pairs), _hash(sha256(file) for file in files))


def crop_pairs(
    folder: Path, name: str, limit: int | None = None, crops: int = CROPS, side: int = SIDE, seed: int = 0
) -> PairSet:
    """Crops of a folder of the layout "pictures", at places that depend on the seed and the picture's name alone.

    Args:
        limit: number of pictures, the first in order of their names.
        crops: of each picture, `side` pixels a side.

    Raises:
        CorruptFile: a picture without its clean one, smaller than a crop, not decodable, or in a folder whose name does
            not tell the scene.
    """
    pairs, hashes = [], []
    for noisy in sorted(_noisy_files(folder))[:limit]:
        clean = noisy.with_name(noisy.name.replace("_NOISY_", "_GT_"))
        scene = SCENE.match(noisy.parent.name)
        if not clean.exists():
            raise CorruptFile(f"{noisy} has no clean picture {clean.name} beside it; download it again")
        if scene is None:
            raise CorruptFile(
                f"{noisy.parent} does not tell the scene; expected a name such as 0001_001_S6_00100_00060_3200_L"
            )
        both = [_decode(file) for file in (noisy, clean)]
        height, width = both[0].shape[:2]
        if both[1].shape != both[0].shape or min(height, width) < side:
            raise CorruptFile(
                f"{noisy} is {height}x{width}; expected {side}x{side} or more, and the same of {clean.name}"
            )
        hashes += [sha256(noisy), sha256(clean)]
        stem = noisy.stem.replace("_NOISY_SRGB", "")
        digest = hashlib.sha256(f"{seed}/{stem}".encode()).digest()
        draw = np.random.RandomState(int.from_bytes(digest[:4], "big"))  # NumPy never changes its stream
        for number in range(crops):
            top, left = (int(draw.randint(0, length - side + 1)) for length in (height, width))
            parts = [np.ascontiguousarray(picture[top : top + side, left : left + side]) for picture in both]
            crop = f"{stem}-{number}"
            pairs.append(
                Pair(crop, Picture(f"{crop}_noisy", parts[0]), Picture(f"{crop}_clean", parts[1]), f"scene {scene[1]}")
            )
    return PairSet(name, name, tuple(pairs), _hash([*hashes, f"{crops}/{side}/{seed}"]))


def _noisy_files(folder: Path) -> Iterator[Path]:
    return (file for file in folder.rglob("*") if NOISY_FILE.search(file.name))


def _decode(path: Path) -> np.ndarray:
    try:
        return read_as(path, "RGB")
    except ValueError as error:
        raise CorruptFile(f"{error}; download it again") from None


def _hash(hashes) -> str:
    return hashlib.sha256("\n".join(hashes).encode()).hexdigest()
