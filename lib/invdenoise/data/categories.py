"""Clean pictures that are fetched by hand: which files of a folder are a set, as its makers' lists say.

Each layout is for a training and a test set that share a folder; `by_hand` in `data/sources.yaml` names it. A layout may lie
in a folder of its own inside, as archives unpack it: `cub200/CUB_200_2011/images.txt`.

- "celeba": `list_eval_partition.txt` and `img_align_celeba/`. Part 0 is for training, part 1 (validation) for testing, since FDN
  tests on it (Section IV-A).
- "flowers102": `setid.mat` and `jpg/`. FDN exchanges the parts (Section IV-A): `tstid` is for training, `trnid` and `valid` are for
  testing.
- "cub200": `images.txt`, `train_test_split.txt` and `images/`.
- "rice": `label/<number>.png`. The last sixth by number is for testing: FDN states no split.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

from invdenoise.data.fetch import CorruptFile, Dataset, folder_of

NEEDED = {
    "celeba": ("list_eval_partition.txt", "img_align_celeba"),
    "cub200": ("images.txt", "train_test_split.txt", "images"),
    "flowers102": ("setid.mat", "jpg"),
    "rice": ("label",),
}


def files_of(dataset: Dataset) -> list[Path]:
    """The pictures of a set with `by_hand`, in the order of the makers' list, of RICE by number.

    A warning says if there are more of them than declared.

    Raises:
        DataUnavailable: the folder is not there.
        CorruptFile: a list is missing or damaged, or a picture is missing.
    """
    by_hand = dataset.by_hand
    folder = _inside(folder_of(dataset.id), NEEDED[by_hand.layout])
    training = dataset.role == "train"
    read = {"celeba": _celeba, "cub200": _cub200, "flowers102": _flowers102, "rice": _rice}[by_hand.layout]
    files = read(folder, training)
    there = {
        parent: {file.name for file in parent.iterdir()}
        for parent in {file.parent for file in files}
        if parent.is_dir()
    }
    if missing := [file for file in files if file.name not in there.get(file.parent, ())]:
        raise CorruptFile(
            f"{dataset.id}: {len(missing)} of {len(files)} pictures are missing, the first is {missing[0]}; unpack the pictures again"
        )
    if len(files) < by_hand.num_pictures:
        raise CorruptFile(
            f"{folder} has {len(files)} pictures of {dataset.id}; expected {by_hand.num_pictures}: unpack it again"
        )
    if len(files) > by_hand.num_pictures:
        warnings.warn(
            f"{dataset.id} has {len(files)} pictures in {folder}, more than the {by_hand.num_pictures} of the paper; scores on them do "
            "not compare with its tables",
            stacklevel=5,  # the caller of `load_pictures`
        )
    return files


def _inside(folder: Path, needed: Sequence[str]) -> Path:
    """The folder, or one inside it, that has all that a layout needs."""
    places = [folder, *sorted(place for place in folder.iterdir() if place.is_dir())]
    best = max(places, key=lambda place: sum((place / name).exists() for name in needed))  # the first of equal ones
    if missing := [name for name in needed if not (best / name).exists()]:
        raise CorruptFile(
            f"{best} has no {missing[0]}; expected {', '.join(needed)} there: download and unpack what is missing"
        )
    return best


# --- The layouts


def _celeba(folder: Path, training: bool) -> list[Path]:
    part = "0" if training else "1"
    lines = _table(folder / "list_eval_partition.txt", {"0", "1", "2"})
    return [folder / "img_align_celeba" / name for name, found in lines if found == part]


def _cub200(folder: Path, training: bool) -> list[Path]:
    part = "1" if training else "0"
    names = dict(_table(folder / "images.txt"))
    parts = dict(_table(folder / "train_test_split.txt", {"0", "1"}))
    if names.keys() != parts.keys():
        odd = min(names.keys() ^ parts.keys())
        raise CorruptFile(f"{folder}: images.txt and train_test_split.txt differ at picture {odd}; download both again")
    return [folder / "images" / name for number, name in names.items() if parts[number] == part]


def _flowers102(folder: Path, training: bool) -> list[Path]:
    from scipy.io import loadmat  # imported here to start fast

    path = folder / "setid.mat"
    try:
        content = loadmat(path)
        numbers = [int(n) for key in (["tstid"] if training else ["trnid", "valid"]) for n in content[key].ravel()]
    except Exception as error:  # SciPy raises whatever its parser stumbles over
        raise CorruptFile(f"{path} has no lists trnid, valid and tstid ({error}); download it again") from None
    return [folder / "jpg" / f"image_{number:05d}.jpg" for number in numbers]


def _rice(folder: Path, training: bool) -> list[Path]:
    files = [file for file in (folder / "label").iterdir() if file.suffix.lower() == ".png"]
    if odd := [file for file in files if not file.stem.isdecimal()]:
        raise CorruptFile(f"{odd[0]} is not named by a number, by which the set is split; unpack the folder again")
    files.sort(key=lambda file: int(file.stem))
    num_training = len(files) - len(files) // 6
    return files[:num_training] if training else files[num_training:]


def _table(path: Path, allowed: set[str] | None = None) -> list[tuple[str, str]]:
    """The two columns of a text file; CorruptFile for a line with other columns, or another value in the second."""
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        columns = line.split()
        if len(columns) != 2 or allowed and columns[1] not in allowed:
            last = f" with {' or '.join(sorted(allowed))} in the second" if allowed else ""
            raise CorruptFile(f"{path}, line {number} is {line[:60]!r}; expected two columns{last}: download it again")
        rows.append((columns[0], columns[1]))
    return rows
