"""Every number printed in the papers, and the verdict on ours. Verdicts are computed, never written by hand."""

from __future__ import annotations

import math
from enum import StrEnum
from pathlib import Path

import pandas as pd

from invdenoise import paths
from invdenoise.papers import BUDGETS
from invdenoise.tasks.metrics import Metric

COLUMNS = (
    "paper", "place", "row", "column", "dataset", "sigma", "metric", "unit", "value", "printed", "method", "note",
)  # fmt: skip
NUMBERS = ("sigma", "value")
# A miss up to so many times `Metric.close` may come from a shorter training: 0.5 dB of PSNR. By the same recipe, training one of our
# networks 35 times longer brought 0.51 dB on held-out pictures. A test holds the bound to the released curves.
MODERATE = 2.5
REQUIRED = ("paper", "place", "row", "column", "metric", "value", "printed", "method")


class Verdict(StrEnum):
    """What a comparison with a printed number can come to."""

    EXCEEDED = "exceeded"
    REPRODUCED = "reproduced"
    CLOSE = "close"
    SMALLER_BUDGET = "smaller budget"
    NOT_REPRODUCED = "not reproduced"
    NO_DATA = "data not available"
    NOT_RUN = "not run"


def load_published(paper: str | None = None) -> pd.DataFrame:
    """The printed numbers, one a row, with the columns of `data/published/README.md` and `text`, the file it came from.

    Args:
        paper: keep the numbers that belong to one paper ("linn"), whichever text prints them; None for all.

    Raises:
        ValueError: an unknown paper, or a file with wrong columns or entries; names file, line and value.
        FileNotFoundError: no file to read.
    """
    files = sorted(paths.PUBLISHED.glob("*.csv"))
    if not files:
        raise FileNotFoundError(f"no CSV files in {paths.PUBLISHED}; restore them with: git checkout -- data/published")
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
    published: float, ours: float | None, metric: Metric, *, budget: str | None = None, data_available: bool = True
) -> Verdict:
    """What `ours` says about the number `published`: the first of these that holds. A tolerance includes its edge.

    1. "data not available": the pictures are not the paper's.
    2. "not run": `ours` is None.
    3. "exceeded": better by more than `metric.reproduced`. That is a departure too, and the report explains it or says "unexplained".
    4. "reproduced": within it, whatever the training.
    5. "close": worse, but within `metric.close`, whatever the training.
    6. "smaller budget": worse than that, within `MODERATE` times `metric.close`, of the same sign, and trained under a smaller budget
       than "paper".
    7. "not reproduced": all else. A small training excuses no larger miss and no reversed sign; tables show the budget beside the verdict.

    Distances are rounded to 1e-9 before they are compared. A count has no better direction and no budget: its distance is a fraction of
    the printed value, and it cannot be exceeded. Differences between two methods are claims, see `report.claims`; no budget excuses one.

    Args:
        published, ours: in the metric's unit.
        budget: of our training; None or another word where nothing was trained here.
        data_available: whether the result is of the pictures that the paper names.

    Raises:
        ValueError: a number that is NaN or infinite.
    """
    if bad := [number for number in (published, ours) if number is not None and not math.isfinite(number)]:
        raise ValueError(f"cannot compare {bad[0]} (published {published}, ours {ours}); expected finite numbers")
    if not data_available:
        return Verdict.NO_DATA
    if ours is None:
        return Verdict.NOT_RUN
    counted = metric.higher_is_better is None
    gain = -abs(ours - published) / abs(published) if counted else ours - published
    gain = round(-gain if metric.higher_is_better is False else gain, 9)
    if gain > metric.reproduced:
        return Verdict.EXCEEDED
    if gain >= -metric.reproduced:
        return Verdict.REPRODUCED
    reversed_sign = published * ours < 0
    if gain >= -metric.close and not reversed_sign:
        return Verdict.CLOSE
    moderate = gain >= -round(MODERATE * metric.close, 9) and not reversed_sign and not counted
    return Verdict.SMALLER_BUDGET if moderate and has_smaller_budget(budget) else Verdict.NOT_REPRODUCED


def has_smaller_budget(budget: str | None) -> bool:
    """Whether a network of this budget was trained here for less than the paper's schedule."""
    return budget in BUDGETS and budget != "paper"


def explained(metric: Metric) -> dict[Verdict, str]:
    """What each verdict means for a metric, in a few words made from its tolerances."""
    if metric.higher_is_better is None:
        reproduced, close = (f"within {100 * limit:.3g} %" for limit in (metric.reproduced, metric.close))
        words = {Verdict.NOT_REPRODUCED: "any other count"}
    else:
        margin, close, moderate = (
            f"{limit:g} {metric.unit}".rstrip()
            for limit in (metric.reproduced, metric.close, round(MODERATE * metric.close, 9))
        )
        better, worse = ("above", "below") if metric.higher_is_better else ("below", "above")
        words = {
            Verdict.EXCEEDED: f"more than {margin} {better} the printed value, which is a departure too",
            Verdict.SMALLER_BUDGET: f"up to {moderate} {worse}, after less training than the paper's",
            Verdict.NOT_REPRODUCED: (
                f"further {worse}: more than {moderate}, or more than {close} with the authors' weights, the paper's training, or nothing "
                "to train"
            ),
        }
        reproduced, close = f"within {margin}", f"up to {close} {worse}"
    words |= {Verdict.REPRODUCED: reproduced, Verdict.CLOSE: close}
    words |= {
        Verdict.NO_DATA: "our pictures are not the paper's",
        Verdict.NOT_RUN: "printed only, or ours is of a part of the set",
    }
    return {word: words[word] for word in Verdict if word in words}
