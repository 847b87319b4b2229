"""Every number printed in the papers, and the verdict on ours. Verdicts are computed, never written by hand."""

from __future__ import annotations

import math
import re
from enum import StrEnum
from pathlib import Path
from typing import Any

import pandas as pd

from invdenoise import datasets
from invdenoise.experiments import BUDGETS
from invdenoise.paths import PUBLISHED, SOURCES

COLUMNS = (
    "paper", "place", "row", "column", "dataset", "sigma", "metric", "unit", "value", "printed", "method", "note",
)  # fmt: skip
NUMBERS = ("sigma", "value")
REQUIRED = ("paper", "place", "row", "column", "metric", "value", "printed", "method")
RESULT_KEYS = ("method", "dataset", "sigma", "metric")  # what a result of ours has in common with a printed one
COMPARED = (
    "paper", "place", "method", "row", "column", "dataset", "sigma", "published", "ours", "difference", "verdict",
    "our_method", "budget", "num_images",
)  # fmt: skip
# Where a printed number stands beside other results than those under its own name alone: authors' weights, other names.
OUR_NAMES = {
    "dncnn": ("dncnn", "dncnn-authors"),
    "winnet-blind": ("winnet-blind", "winnet-authors-blind", "winnet-authors-nenet"),
    "dncnn-b": ("dncnn-authors-blind",),
    "bf-cnn": ("bfcnn",),
}
# Whose weights are behind a method of ours, where they are not our own.
AUTHORS_WEIGHTS, AUTHORS_WITH_OURS = "authors' weights", "authors' weights, our NENet"
BLIND = "blind"  # variant of results whose method was not told the noise level
# Printed methods that are not told the noise level. Their numbers belong to results that were not told either.
NOT_TOLD = frozenset({"winnet-blind", "dncnn-b", "buifd", "bf-cnn"})
# How the names of a noisy picture and of its clean reference end, in the datasets that have both (polyu, cc15, sidd).
PAIRED = re.compile("_(real|mean|NOISY|GT)$")

# Largest distance from the printed value that is "reproduced" and "close". Those of PSNR are the house rule. Scores without a
# unit (SSIM, AKLD) are printed to three digits; parameter counts often to two, so theirs are fractions of the count.
TOLERANCES = {"dB": (0.05, 0.2), "": (0.001, 0.005), "parameters": (0.005, 0.02)}


class Verdict(StrEnum):
    """What a comparison with a printed number can come to."""

    EXCEEDED = "exceeded"
    REPRODUCED = "reproduced"
    CLOSE = "close"
    SMALLER_BUDGET = "smaller budget"
    NOT_REPRODUCED = "not reproduced"
    NO_DATA = "data not available"
    NOT_RUN = "not run"


def whose(our_method: str) -> str:
    """Whose weights a method of ours has, in words; empty for our own."""
    if our_method == "winnet-authors-nenet":
        return AUTHORS_WITH_OURS
    return AUTHORS_WEIGHTS if "authors" in our_method else ""


def load_published(paper: str | None = None) -> pd.DataFrame:
    """The printed numbers, one a row, with the columns of `data/published/README.md` and `text`, the file it came from.

    Args:
        paper: keep the numbers that belong to one paper ("linn"), whichever text prints them; None for all.

    Raises:
        ValueError: an unknown paper, or a file with wrong columns or entries; names file, line and value.
        FileNotFoundError: no file to read.
    """
    files = sorted(PUBLISHED.glob("*.csv"))
    if not files:
        raise FileNotFoundError(f"no CSV files in {PUBLISHED}; restore them with: git checkout -- data/published")
    table = pd.concat([_read(file) for file in files], ignore_index=True)
    if paper is None:
        return table
    known = sorted(table["paper"].unique())
    if paper not in known:
        raise ValueError(f"no published numbers of paper {paper!r}; known: {', '.join(known)}")
    return table[table["paper"] == paper].reset_index(drop=True)


def _read(file: Path) -> pd.DataFrame:
    table = pd.read_csv(file, dtype=str, keep_default_na=False)
    if tuple(table.columns) != COLUMNS:
        raise ValueError(f"{file.name}: columns are {', '.join(table.columns)}; expected {', '.join(COLUMNS)}")
    for column in REQUIRED:
        _refuse(file, table, column, table[column] == "")
    for column in NUMBERS:
        numbers = pd.to_numeric(table[column], errors="coerce")
        _refuse(file, table, column, ~numbers.abs().lt(math.inf) & (table[column] != ""))
        table[column] = numbers
    return table.assign(text=file.stem)


def _refuse(file: Path, table: pd.DataFrame, column: str, bad: pd.Series) -> None:
    if bad.any():
        line = int(bad.idxmax())
        wanted = "a finite number" if column in NUMBERS else "an entry"
        raise ValueError(f"{file.name}, line {line + 2}: {column} is {table[column][line]!r}; expected {wanted}")


def published_value(paper: str, place: str, method: str, **where: str | float | None) -> float:
    """The one printed number of a method at a place, in its unit.

    `published_value("linn", "Table I", "dninn-st", sigma=25)` is a PSNR in dB.

    Args:
        paper, place, method: as in the columns of `load_published`.
        where: further columns, such as `sigma=25` (grey levels; None where none is given), `dataset="bsd68"`,
            `metric="psnr"`.

    Raises:
        LookupError: none or several; the message names the entries to choose from.
        ValueError: an unknown paper or column.
    """
    table = load_published(paper)
    if unknown := sorted(set(where) - set(table.columns)):
        raise ValueError(f"no column {', '.join(unknown)} in the published numbers; known: {', '.join(table.columns)}")
    for column, wanted in {"place": place, "method": method, **where}.items():
        found = table[table[column].isna() if wanted is None else table[column] == wanted]
        if found.empty:
            there = _choices(table[column])
            raise LookupError(f"{paper}: no published number with {column} {wanted!r}; there is {there}")
        table = found
    if len(table) > 1:
        narrow = [f"{c} ({_choices(table[c])})" for c in (*COLUMNS[2:7], "text") if table[c].nunique(dropna=False) > 1]
        raise LookupError(f"{paper}, {place}, {method}: {len(table)} published numbers; narrow by {', '.join(narrow)}")
    return float(table["value"].item())


def _choices(entries: pd.Series) -> str:
    return ", ".join(repr(None if pd.isna(entry) else entry) for entry in entries.unique().tolist())


def verdict(
    published: float,
    ours: float | None,
    *,
    unit: str = "dB",
    higher_is_better: bool = True,
    budget: str | None = None,
    data_available: bool = True,
) -> str:
    """What `ours` says about the number `published`: the first of these that holds, "within" including the edge.

    1. "data not available": whatever was measured, it was not on the paper's images.
    2. "not run": `ours` is None.
    3. "exceeded": better by more than the first tolerance of `TOLERANCES` (PSNR: 0.05 dB).
    4. "reproduced": within it.
    5. "close": within the second (0.2 dB).
    6. "smaller budget": further below, and trained under another budget than "paper".
    7. "not reproduced".

    Distances are rounded to 1e-9 before they are compared. Parameter counts know neither better nor budget: any other
    count is a departure, measured as a fraction of the printed one.

    Args:
        published, ours: in `unit`.
        unit: "dB", "" (a score of order one: SSIM, AKLD) or "parameters".
        budget: that `ours` was trained under; None for a method that is not trained.
        data_available: whether the images that the paper names are at hand.

    Raises:
        ValueError: `ours` in a unit without tolerances, or a number that is NaN or infinite.
    """
    if bad := [number for number in (published, ours) if number is not None and not math.isfinite(number)]:
        raise ValueError(f"cannot compare {bad[0]} (published {published}, ours {ours}); expected finite numbers")
    if not data_available:
        return Verdict.NO_DATA
    if ours is None:
        return Verdict.NOT_RUN
    if unit not in TOLERANCES:
        raise ValueError(f"no tolerance for the unit {unit!r}; known: {', '.join(map(repr, TOLERANCES))}")
    gain = ours - published if higher_is_better else published - ours
    if unit == "parameters":
        gain, budget = -abs(gain) / published, None
    gain = round(gain, 9)
    reproduced, close = TOLERANCES[unit]
    if gain > reproduced:
        return Verdict.EXCEEDED
    if gain >= -reproduced:
        return Verdict.REPRODUCED
    if gain >= -close:
        return Verdict.CLOSE
    return Verdict.NOT_REPRODUCED if budget in (None, "paper") else Verdict.SMALLER_BUDGET


def coverage(done: pd.DataFrame) -> pd.DataFrame:
    """How much of the whole is done: per paper and place, how many numbers are `published` and how many `done`.

    A number that a paper and its talk both print counts at both places.

    Args:
        done: our results, with columns method (without the noise level), dataset, sigma (grey levels) and metric.
            A number with the same four is done; "" or NaN where the paper gives no dataset or sigma.

    Raises:
        ValueError: a column is missing, or a sigma is not a number.
    """
    if missing := [key for key in RESULT_KEYS if key not in done.columns]:
        raise ValueError(f"results lack the columns {', '.join(missing)}; expected {', '.join(RESULT_KEYS)}")
    names = done[["method", "dataset", "metric"]].fillna("").astype(str)
    ours = names.assign(sigma=pd.to_numeric(done["sigma"]).astype(float), done=1).drop_duplicates()
    both = load_published().merge(ours, how="left", on=list(RESULT_KEYS))
    counts = both.groupby(["paper", "place"], sort=False).agg(published=("value", "size"), done=("done", "count"))
    return counts.reset_index()


def compare(published: pd.DataFrame, summary: pd.DataFrame) -> pd.DataFrame:
    """Each printed PSNR on a dataset beside ours, with the columns `COMPARED`, in the order of `published`.

    A result belongs to a number when it was asked for on the same dataset and noise level, has no variant ("blind" for
    methods in `NOT_TOLD`), and is named "<method>-s<sigma>", for a network of that noise level, or else "<method>", for
    one that serves all. A method in `OUR_NAMES` has a row for every name there that has a result. A number without result has one row: `ours`,
    `difference` and `num_images` NaN, `our_method` and `budget` None.

    Pictures that stand in come to "data not available". A mean over fewer pictures than the dataset has comes to
    "not run"; a noisy picture and its clean reference are one. Both keep `ours` and have no `difference`.

    Args:
        published: rows of `load_published`.
        summary: means as `evaluation.summarise` returns them, over one set of pictures for each result.

    Raises:
        ValueError: two results for the same method, variant, dataset and noise level.
    """
    results: dict[tuple, dict[str, Any]] = {}
    for result in summary[summary["variant"].isin(["", BLIND])].to_dict("records"):
        key = _result_key(result["method"], result["requested"], result["sigma_test"], result["variant"])
        if key in results:
            raise ValueError(
                f"two results of {key[0]} on {key[1]} at sigma {key[2]} (on {results[key]['dataset']} and on "
                f"{result['dataset']}); keep the score file of one"
            )
        results[key] = result
    rows = []
    for number in published[(published["metric"] == "psnr") & (published["dataset"] != "")].to_dict("records"):
        found = [_find(results, name, number) for name in our_names(number["method"])]
        rows += [_beside(number, result) for result in found if result] or [_beside(number, None)]
    return pd.DataFrame(rows, columns=COMPARED)


def our_names(method: str) -> tuple[str, ...]:
    """Names, without noise level, of our results that belong to a printed method."""
    return OUR_NAMES.get(method, (method,))


def variant_of(method: str) -> str:
    """The variant of our results that belong to a printed method."""
    return BLIND if method in NOT_TOLD else ""


def _result_key(method: str, dataset: str, sigma: float | None, variant: str) -> tuple[str, str, float | None, str]:
    return method, dataset, None if pd.isna(sigma) else float(sigma), variant


def _find(results: dict[tuple, dict[str, Any]], name: str, number: dict[str, Any]) -> dict[str, Any] | None:
    """The result for a printed number under this name: of the network of its noise level, or of the one for all."""
    where = number["dataset"], number["sigma"], variant_of(number["method"])
    for_level = results.get(_result_key(f"{name}-s{number['sigma']:g}", *where))
    return for_level or results.get(_result_key(name, *where))


def _num_pictures(dataset: str) -> int:
    """How many pictures a dataset has to be denoised: pairs count once, and a licence or the like does not."""
    files = map(Path, pd.read_csv(SOURCES.parent / datasets.describe(dataset).files)["file"])
    pictures = [str(file.with_suffix("")) for file in files if file.suffix.lower() in datasets.SUFFIXES]
    return len({PAIRED.sub("", picture) for picture in pictures})


def _beside(number: dict[str, Any], result: dict[str, Any] | None) -> dict[str, Any]:
    """One row of `compare`."""
    row = {key: number[key] for key in ("paper", "place", "method", "row", "column", "dataset", "sigma")}
    row |= {"published": number["value"], "our_method": None, "budget": None}
    if result is None:
        return row | {"verdict": verdict(number["value"], None)}
    available = result["dataset"] == number["dataset"]
    complete = available and result["num_images"] >= _num_pictures(number["dataset"])
    judged = verdict(
        number["value"],
        result["psnr"] if complete else None,
        budget=result["budget"] if result["budget"] in BUDGETS else None,  # else not trained by us
        data_available=available,
    )
    row |= {"ours": result["psnr"], "verdict": judged, "our_method": result["method"], "budget": result["budget"]}
    row |= {"num_images": result["num_images"]}
    return row | ({"difference": result["psnr"] - number["value"]} if complete else {})
