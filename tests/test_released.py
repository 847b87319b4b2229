"""Released scores: of released weights and registered pictures, by known commits, and the same when computed again."""

from __future__ import annotations

import csv
import functools
import hashlib
import json
import random
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from invdenoise import methods, papers, paths, provenance
from invdenoise.data.fetch import DataUnavailable, describe, fetch, registered_files
from invdenoise.data.noise import awgn, noise_generator
from invdenoise.methods import load_network
from invdenoise.models import classical
from invdenoise.report import audit
from invdenoise.tasks.base import make_task

SCORES = paths.RELEASED / "scores"
ALONE = (
    0.02  # dB that `psnr_rounded` may be off what `psnr` predicts; 0.011 is the most at sigma 5, and 0.005 elsewhere
)
NEARLY_EXACT, THERE = (
    46,
    0.05,
)  # above so many dB outputs hardly leave whole grey levels, and `psnr_rounded` is predicted worse
AGAIN = 0.001  # dB between a released PSNR and the same one computed here, in float32
RECOMPUTED, SMALL = 5, 0.066  # rows, and megapixels

pytestmark = pytest.mark.skipif(not SCORES.exists(), reason="nothing released yet: make release")


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    """Every released row, with its file below the scores and its line."""
    texts = dict.fromkeys(("image", "variant", "weights_sha256", "commit", "budget"), str)
    found = []
    for file in sorted(SCORES.rglob("*.csv")):
        table = pd.read_csv(file, keep_default_na=False, na_values=[""], dtype=texts)
        table[list(texts)] = table[list(texts)].fillna("")
        found.append(table.assign(file=str(file.relative_to(SCORES)), line=range(2, len(table) + 2)))
    return pd.concat(found, ignore_index=True)


def told(rows: pd.DataFrame, *columns: str) -> dict[str, str]:
    """The first of these rows of each file, with some of its columns."""
    first = rows.groupby("file", sort=True).first()
    counts = rows["file"].value_counts()
    return {
        file: f"{counts[file]} rows from line {row['line']}: "
        + ", ".join(f"{column} {row[column]!r}" for column in ("method", *columns))
        for file, row in first.iterrows()
    }


def at_hand(load, what: list[str]):
    """What `load` gives, or None where data is missing, which is noted in `what`."""
    try:
        return load()
    except DataUnavailable as error:
        what.append(str(error).partition(".")[0])
        return None


# --- Where rows come from


def hashes_of(name: str) -> list[str]:
    """Hashes of the released file of a network, and of its parts in the order of their attributes."""
    if name in papers.authors():
        entry = papers.authors()[name]
        with open(paths.REGISTRY / "weights.csv", newline="") as lines:
            (own,) = (line["sha256"] for line in csv.DictReader(lines) if line["file"] == entry.file)
    else:
        entry = papers.network(name)
        own = hashlib.sha256((paths.RELEASED_WEIGHTS / f"{name}.safetensors").read_bytes()).hexdigest()
    return [own, *(found for _, part in sorted(entry.parts.items()) for found in hashes_of(part))]


def same_parts(name: str, commit: str) -> bool:
    """Whether the parts of a network that were trained here had their released weights in a commit already."""
    for part in methods.parts_of(name)[1:]:
        if part not in papers.authors():
            card = provenance.git("show", f"{commit.rstrip('+')}:results/weights/{part}.json")
            if json.loads(card)["sha256"] != hashes_of(part)[0]:
                return False
    return True


def test_every_row_names_released_weights(rows):
    networks = [name for name in rows["method"].unique() if methods.is_network(name)]
    wanted = {name: hashes_of(name) for name in networks}
    right = rows["weights_sha256"] == rows["method"].map(lambda name: "+".join(wanted.get(name, [""])))
    # Rows by older code name the network alone. The commit then tells which weights its parts had.
    alone = ~right & (rows["weights_sha256"] == rows["method"].map(lambda name: wanted.get(name, [""])[0]))
    for (name, commit), own in rows[alone].groupby(["method", "commit"]):
        right[own.index] = same_parts(name, commit)
    assert told(rows[~right], "weights_sha256") == {}


def test_the_budget_of_a_row_is_that_of_its_weights(rows):
    def budget(name: str) -> str:
        if name in papers.authors():
            return "authors"
        if not methods.is_network(name):
            return "none"
        return json.loads((paths.RELEASED_WEIGHTS / f"{name}.json").read_text())["budget"]

    wanted = rows["method"].map({name: budget(name) for name in rows["method"].unique()})
    assert told(rows[rows["budget"] != wanted], "budget") == {}


def registered(dataset: str) -> list[tuple[str, str]]:
    """Names of the pictures of a set in order, with their hashes."""
    with open(paths.REGISTRY / Path(describe(dataset).files).name, newline="") as lines:
        files = [(Path(line["file"]), line["sha256"]) for line in csv.DictReader(lines)]
    return [(file.stem, sha) for file, sha in files if file.suffix in (".png", ".jpg")]


def test_every_row_is_of_registered_pictures(rows):
    """The hash of a row's data is that of the first pictures of the registry, as many as the file has, in order."""
    wrong, missing = [], []
    for (_, dataset, requested), own in rows.groupby(["file", "dataset", "requested"]):
        names = list(dict.fromkeys(own["image"][own["image"] != ""]))
        if describe(requested).holds == "clean" and not describe(requested).members:
            first = registered(requested)[: len(names)]
            fits = names == [name for name, _ in first]
            wanted = hashlib.sha256("\n".join(sha for _, sha in first).encode()).hexdigest()
        else:  # parts of a set of pairs are hashed by pixels, pictures of an archive one by one
            task = make_task(own["task"].iloc[0])
            pictures = task.pictures(requested, None)
            if pictures.is_stand_in:
                missing.append(requested)
                continue
            wanted, fits = pictures.sha256, len(names) == len(pictures)
        if dataset != requested or not fits or set(own["data_sha256"]) != {wanted}:
            wrong.append(own)
    assert told(pd.concat(wrong), "dataset", "data_sha256") == {} if wrong else True
    if missing:
        pytest.skip(f"not checked without the data: {', '.join(sorted(set(missing)))}")


def test_rows_and_cards_count_the_parameters_of_the_code(rows):
    missing, counts, rows = [], {}, rows
    for name in rows["method"].unique():
        if name in papers.authors():
            network = at_hand(lambda name=name: load_network(name, with_parts=False), missing)
            counts[name] = network and network.num_parameters()
        else:
            counts[name] = papers.network(name).build().num_parameters() if methods.is_network(name) else 0
    checked = rows[rows["method"].map(lambda name: counts[name] is not None)]
    wanted = checked["method"].map(counts)
    assert told(checked[checked["num_parameters"] != wanted], "num_parameters") == {}
    cards = {file.stem: json.loads(file.read_text()) for file in paths.RELEASED_WEIGHTS.glob("*.json")}
    built = {name: papers.network(name).build().num_parameters() for name in cards}
    assert {name: card["num_parameters"] for name, card in cards.items()} == built
    if missing:
        pytest.skip(f"authors' weights that are not at hand were not counted: {'; '.join(missing)}")


@pytest.fixture
def history():
    """Skips where the history of the checkout is not at hand."""
    try:
        if provenance.git("rev-parse", "--is-shallow-repository").strip() == b"true":
            pytest.skip("the clone is shallow: git fetch --unshallow")
    except provenance.NoHistory as error:
        pytest.skip(str(error))


def test_rows_were_measured_by_commits_and_in_one_precision_a_table(history):
    files = audit.read_files(paths.RELEASED)
    assert len(files) > 50
    assert [*audit.row_faults(files), *audit.precision_faults(files)] == []


def test_released_weights_have_their_starts_and_did_not_become_worse(history):
    assert list(audit.card_faults()) == []


# --- What rows say


def test_the_noise_of_a_picture_is_the_same_for_every_method(rows):
    own = rows[rows["task"] == "awgn.Denoise"]
    spread = own.groupby(["dataset", "image", "sigma", "seed"])["psnr_noisy"].agg(np.ptp)
    assert spread.max() == 0 and len(spread) > 500
    # A sample of N values has the wanted variance to within a few times sqrt(2 / N).
    excess = own["psnr_noisy"] + 20 * np.log10(own["sigma"] / 255)
    allowed = 5 * 10 / np.log(10) * np.sqrt(2 / (own["megapixels"] * 1e6))
    assert told(own[excess.abs() > allowed], "sigma", "psnr_noisy") == {}


def test_psnr_fits_the_one_after_rounding(rows):
    """Rounding to 8 bits adds an error of variance 1/12 grey level, so an altered PSNR does not fit any more."""
    # Left out: outputs that are not clamped before PSNR, since rounding clamps them; and real pictures, where a method
    # that changes little keeps whole grey levels, so that rounding adds no such error.
    left_out = rows["variant"].str.endswith("not-clamped") | (rows["task"] == "real.Denoise")
    own = rows[rows["psnr_rounded"].notna() & ~left_out]
    predicted = -10 * np.log10(10 ** (-own["psnr"] / 10) + 1 / 12 / 255**2)
    allowed = np.where(own["psnr"] > NEARLY_EXACT, THERE, ALONE)
    assert told(own[(own["psnr_rounded"] - predicted).abs() > allowed], "psnr", "psnr_rounded") == {}
    assert len(own) > 5000


# --- Some rows, computed again


def numpy_psnr(clean: np.ndarray, denoised: np.ndarray) -> float:
    """For 8-bit `clean` and floats `denoised` in [0, 1]."""
    error = clean.astype(np.float64) / 255 - denoised.astype(np.float64)
    return float(10 * np.log10(1 / np.mean(error**2)))


def declared(row) -> tuple[dict, dict]:
    """Settings of the task and options of the method for a row."""
    paper, score = Path(row.file).parts[:2]
    (runs,) = {
        id(runs): runs
        for runs in papers.papers()[paper].scores[score].runs
        if row.method in runs.methods and row.requested in runs.sets and row.variant == runs.variant
    }.values()
    return runs.settings, runs.options


@functools.cache
def png_of(dataset: str, image: str) -> str | None:
    """The registered PNG file of a picture; None where the set has others, such as JPEG, or an archive."""
    files = (row.file for row in registered_files(describe(dataset)))
    return next((file for file in files if Path(file).name == f"{image}.png"), None)


def chosen(rows: pd.DataFrame) -> pd.DataFrame:
    """A classical row and four of networks with different numbers of parameters, of small PNG pictures in float32."""
    own = rows[(rows["task"] == "awgn.Denoise") & (rows["megapixels"] < SMALL)]
    own = own[[png_of(row.dataset, row.image) is not None for row in own.itertuples()]]
    own = own[own["device"].str.split(", ").str[1].isin(["float", "float32"])]
    own = own[own["method"].map(lambda name: name not in classical.METHODS or classical.is_installed(name))]
    draw = random.Random(12)
    sizes = sorted(set(own["num_parameters"]) - {0})
    groups = [0, *draw.sample(sizes, min(RECOMPUTED - 1, len(sizes)))]
    return pd.concat(
        own[own["num_parameters"] == size].sample(1, random_state=draw.randrange(2**31)) for size in groups
    )


def test_some_rows_are_the_same_when_computed_again(rows):
    found, missing = {}, []
    some = chosen(rows)
    for row in some.itertuples():
        settings, options = declared(row)
        file = at_hand(lambda row=row: fetch(row.dataset, png_of(row.dataset, row.image)), missing)
        method = at_hand(lambda row=row, settings=settings: make_task(row.task, settings).load(row.method), missing)
        if file is None or method is None:
            continue
        clean = np.array(Image.open(file))
        noisy = torch.from_numpy(np.atleast_3d(clean).astype(np.float32) / 255).permute(2, 0, 1)[None]
        noisy = awgn(noisy, row.sigma, noise_generator(row.seed, row.dataset, row.image, row.sigma))
        sigma = row.sigma if settings.get("tell_sigma", True) else None
        denoised = method.denoise(noisy, sigma, **options)[0].permute(1, 2, 0).numpy().reshape(clean.shape)
        found[f"{row.file}, line {row.line}"] = row.psnr - numpy_psnr(clean, denoised)
    if missing:
        pytest.skip(f"not computed again without data: {'; '.join(missing)}")
    assert len(found) == RECOMPUTED
    assert {row: difference for row, difference in found.items() if abs(difference) > AGAIN} == {}
