"""Sentences of the papers about results, decided from our scores and training curves: a paired difference with its interval."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from invdenoise import paths, plan
from invdenoise.papers import ABLATIONS, BUDGETS, Paper, Test, resolve
from invdenoise.report.compare import Results, as_results, check_name, scored_methods
from invdenoise.report.tables import BUDGETS_IN_WORDS, family, is_own, markdown_table, set_label, signed
from invdenoise.tasks.metrics import Metric

LEVEL = 0.95  # of the intervals
INTERVAL = f"{100 * LEVEL:.0f} % t interval of the mean over {{}}s"
SHARE_INTERVAL = f"{100 * LEVEL:.0f} % Wilson interval of the share of {{}}s"
EXACT = "known exactly"
SHARE_UNIT, SHARE_DIGITS = "%", 1
PICTURE, SEED = "picture", "seed"  # what differences are averaged over
FEWEST_SEEDS = 2  # without two there is no interval
OTHER_DIGITS = 3  # after the decimal point, of what has no `Metric`
MOST_NAMED = 4  # so many cells of one verdict are named in a line


class Decision(StrEnum):
    """What a claim can come to."""

    HOLDS = "holds"
    FAILS = "does not hold"
    UNDECIDED = "undecided"
    NOT_RUN = "not run"


@dataclass(frozen=True)
class Cell:
    """The difference of one pair under one condition, or the share above 0: an estimate with its interval, over n pictures or seeds."""

    pair: tuple[str, str]
    condition: Mapping[str, Any]
    estimate: float
    lower: float
    upper: float
    n: int
    verdict: Decision
    share: bool = False

    @property
    def where(self) -> str:
        """The condition in words: "Set12, sigma 25"."""
        others = [f"{key} {_plain(value)}" for key, value in self.condition.items() if key != "dataset"]
        return ", ".join([*([set_label(self.condition["dataset"])] if "dataset" in self.condition else []), *others])

    def words(self, unit: str, digits: int) -> str:
        """Pair, condition and estimate with its interval, for a list."""
        found = f"{_number(self.estimate, self.share, digits)} {unit}".rstrip()
        ends = f" ({_ends(self, digits)})" if math.isfinite(self.lower) else ""
        return ", ".join(filter(None, [" − ".join(self.pair), self.where, found + ends]))


@dataclass(frozen=True)
class Decided:
    """A claim and what our scores say about it.

    Attributes:
        says, place, note: as declared.
        verdict: see `Decision`.
        estimate: the mean difference, in `unit`, the share (0 to 1), or the quotient; NaN when it was not run.
        lower, upper: ends of the interval; NaN where there is none.
        n: number of pictures, or of seeds.
        over: "picture" or "seed".
        interval: what the interval is of.
        unit, digits: how the estimate is printed.
        share: whether the estimate is a share, which is printed in per cent.
        budgets: method -> budgets of its training.
        patches: method -> fewest and most patches that its networks were trained on, their warm starts not counted; only those trained here.
        tested: the statistic and its bounds in words.
        cells: each pair under each condition.
        every: whether the claim is about every cell.
        reason: why it was not run.
    """

    says: str
    place: str
    note: str
    verdict: Decision
    estimate: float = math.nan
    lower: float = math.nan
    upper: float = math.nan
    n: int = 0
    over: str = PICTURE
    interval: str = ""
    unit: str = ""
    digits: int = OTHER_DIGITS
    share: bool = False
    budgets: Mapping[str, tuple[str, ...]] | None = None
    patches: Mapping[str, tuple[int, int]] | None = None
    tested: str = ""
    cells: tuple[Cell, ...] = ()
    every: bool = False
    reason: str = ""

    @property
    def found(self) -> str:
        """Our estimate in words: with its interval and the number of pictures, and for `every` the number of cells."""
        if self.verdict == Decision.NOT_RUN:
            return f"not run: {self.reason}"
        if self.interval == EXACT:
            return f"{self.estimate:.{self.digits}f}"
        ends = f"no interval of one {self.over}"
        if math.isfinite(self.lower):
            ends = _ends(self, self.digits)
        text = f"{_number(self.estimate, self.share, self.digits)} {self.unit}".rstrip()
        text += f" ({ends}; {self.n} {self.over}{'s' * (self.n != 1)})"
        if not self.every:
            return text
        parts = []
        for word in Decision:
            cells = [cell for cell in self.cells if cell.verdict == word]
            if cells:
                named = "; ".join(
                    f"{cell.where or ' − '.join(cell.pair)}: {_number(cell.estimate, cell.share, self.digits)}"
                    for cell in cells
                )
                few = word != Decision.HOLDS and len(cells) <= MOST_NAMED
                parts.append(f"{word} in {len(cells)}" + (f" ({named})" if few else ""))
        return f"{', '.join(parts)} of {len(self.cells)} cells; {'share' if self.share else 'mean'} {text}"

    @property
    def trained(self) -> str:
        """How the methods were trained, in words: "laptop budget: dninn-st (7,200 to 448,000 patches); authors' weights: dncnn-authors"."""
        by_budget: dict[str, list[str]] = {}
        for name, budgets in (self.budgets or {}).items():
            for budget in budgets:
                words = f"{budget} budget" if budget in BUDGETS else BUDGETS_IN_WORDS.get(budget, budget)
                by_budget.setdefault(words, []).append(name + self._seen(name))
        return "; ".join(f"{budget}: {', '.join(names)}" for budget, names in by_budget.items())

    def _seen(self, name: str) -> str:
        """How many patches a method's networks have seen, in brackets; empty where no card says it."""
        if name not in (self.patches or {}):
            return ""
        ends = [f"{end:,}" for end in dict.fromkeys(self.patches[name])]
        return f" ({' to '.join(ends)} patches)"


class _NotRun(Exception):
    """A claim cannot be decided; the message says why."""


def decide(paper: Paper, claim: str, results: Results | Path) -> Decided:
    """What our scores say about a claim of a paper.

    The statistic is the difference first - second, on the same pictures under the same conditions: for each picture the mean over pairs
    and conditions, then the mean over pictures with its 95 % t interval. For a `share` it is the share of pictures whose mean
    difference is above 0, with its 95 % Wilson interval. The claim holds when the whole interval lies within the declared bounds, does
    not hold when it lies outside of them, and is undecided otherwise. Where it is about every cell, each cell has an interval: the claim
    holds when all lie within, and does not hold when one lies outside. Intervals are not corrected for the number of cells. A quotient
    is known exactly and has no interval.

    A claim on ablations is decided likewise, over seeds instead of pictures: `plan.ablation_curves` are the curves, the last validation
    is the value. Seeds that are finished for every method of the claim count.

    It is "not run" when a method has no rows or lacks some conditions, when pictures stand in for the set that was asked for, when the
    two methods of a pair were scored on different pictures, or when fewer than two seeds are finished. How the methods were trained
    changes no verdict; it is told beside.

    Args:
        paper, claim: the paper, and a key of its `claims`.
        results: results folder.

    Raises:
        ValueError: a method or variant that the score does not declare, or a condition or metric that it does not have.
    """
    results, declared = as_results(results), paper.claims[claim]
    test = declared.test
    check_claim(paper, claim, {**results.papers, paper.name: paper})
    if test.reads == ABLATIONS:
        over, metric = SEED, _validated_by(paper)
    else:
        over, metric = PICTURE, results.metrics(paper.score_name(test.reads)).get(test.metric)
    unit, digits = ("", OTHER_DIGITS) if metric is None else (metric.unit, metric.digits + 1)
    about = {
        "says": declared.says, "place": declared.place, "note": declared.note, "tested": _in_words(test, unit, over), "over": over,
        "share": test.share,
    }  # fmt: skip
    if test.share:
        unit, digits = SHARE_UNIT, SHARE_DIGITS
    try:
        parts, keys = _of_seeds(paper, test, results) if over == SEED else _of_pictures(paper, test, results)
        by_method: dict[str, list[pd.DataFrame]] = {}
        for name, part in parts.items():
            by_method.setdefault(test.rows_of(name)[0], []).append(part)
        rows = {name: pd.concat(found) for name, found in by_method.items()}
        training = {
            "budgets": {name: tuple(part["budget"].unique()) for name, part in rows.items()},
            "patches": _patches(rows),
        }
        if test.ratio is not None:
            return Decided(**about, **_quotient(parts, test), **training)
        return Decided(**about, **_difference(parts, test, keys, over), **training, unit=unit, digits=digits)
    except _NotRun as reason:
        return Decided(**about, verdict=Decision.NOT_RUN, reason=str(reason))


def decide_all(paper: Paper, results: Results | Path) -> dict[str, Decided]:
    """Each claim of a paper, decided, by its name."""
    results = as_results(results)
    return {claim: decide(paper, claim, results) for claim in paper.claims}


def claim_counts(decided: Iterable[Decided]) -> dict[str, int]:
    """How many claims came to each verdict."""
    found = [one.verdict for one in decided]
    return {str(word): found.count(word) for word in Decision if word in found}


def claims_markdown(decided: Iterable[Decided]) -> str:
    """Claims as a Markdown table: what the paper says, what we found, and the verdict."""
    lines = [[one.says, one.place, one.found, f"**{one.verdict}**"] for one in decided]
    return markdown_table(["the paper says", "place", "ours", "verdict"], lines, text_columns=4)


def check_claim(paper: Paper, claim: str, known: Mapping[str, Paper]) -> None:
    """ValueError where a claim names a method or variant that its score does not declare, or a change that is no ablation.

    A printed method that has none of ours, such as a rival that is not run, is no mistake: the claim is "not run".
    """
    test, where = paper.claims[claim].test, f"{paper.name}, claim {claim!r}"
    if test.reads == ABLATIONS:
        for name in test.methods:
            check_name(name, paper.declared.ablations.changes, where, "change of the ablations is called")
        check_name(test.metric, [_validated_by(paper).name], where, "metric in the curves of the ablations is called")
        return
    methods, variants = scored_methods(paper.score_name(test.reads), known)
    printed = [method for place in paper.compare for method, row in paper.rows(place).items() if not row.ours]
    for method, variant in map(test.rows_of, test.methods):
        check_name(method, [*methods, *printed], where, f"method in the runs of {test.reads} is called")
        check_name(variant, variants, where, f"variant in the runs of {test.reads} is called")


def _validated_by(paper: Paper) -> Metric:
    """The metric in the curves of a paper's ablations: the first one of the task that validates them."""
    ablated = paper.declared.ablations.of
    task = paper.networks[ablated].task
    if task is None:
        raise ValueError(f"{paper.name}: {ablated} has no task, so curves of its ablations decide nothing; give it one")
    return resolve(task, "tasks").metrics[0]


# --- Rows


def _patches(parts: Mapping[str, pd.DataFrame]) -> dict[str, tuple[int, int]]:
    """Fewest and most patches of each method's networks, from their curves, or the cards of the very weights that were scored."""
    files = [*paths.RELEASED_WEIGHTS.glob("*.json"), *paths.runs_dir().glob("*/*/weights.json")]
    cards = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    seen = {card["sha256"]: card["patches"] for card in cards if "sha256" in card and "patches" in card}
    found = {}
    for name, part in parts.items():
        if "patches" in part:  # rows of curves have them
            patches = part["patches"].tolist()
        else:
            patches = [seen[sha] for sha in part["weights_sha256"].unique() if sha in seen]
        if patches:
            found[name] = (min(patches), max(patches))
    return found


def _of_pictures(paper: Paper, test: Test, results: Results) -> tuple[dict[str, pd.DataFrame], list[str]]:
    """Rows of each declared method, and the columns that tell conditions apart."""
    score = paper.score_name(test.reads)
    rows = _rows(results, score, test)
    parts = {}
    for name in test.methods:
        method, variant = test.rows_of(name)
        parts[name] = _of_method(rows[rows["variant"] == variant], method, name, score)
        if test.ratio is None and not is_own(parts[name]):
            sets = ", ".join(map(set_label, parts[name]["requested"].unique()))
            raise _NotRun(f"{name} was scored on pictures that stand in for {sets}")
    owner, _, own = score.partition("/")
    return parts, ["requested", *resolve(results.papers[owner].scores[own].task, "tasks").keys]


def _of_seeds(paper: Paper, test: Test, results: Results) -> tuple[dict[str, pd.DataFrame], list[str]]:
    """The end of each finished curve of each change, a row a seed; no conditions."""
    files = plan.ablation_curves(results.folder)
    parts = {}
    for change in test.methods:
        runs = {seed: files[name] for seed, name in paper.declared.ablations.runs(change).items() if name in files}
        ends = [dict(pd.read_csv(file).iloc[-1]) | {"seed": seed, "budget": "laptop"} for seed, file in runs.items()]
        part = pd.DataFrame(ends, columns=["seed", "budget", "patches", f"val_{test.metric}"])
        parts[change] = part.astype({"patches": int}).rename(columns={f"val_{test.metric}": test.metric})
    remedy = "train them with make ablations"
    if few := [change for change, part in parts.items() if len(part) < FEWEST_SEEDS]:
        raise _NotRun(f"fewer than {FEWEST_SEEDS} finished seeds of {', '.join(few)}; {remedy}")
    seeds = set.intersection(*(set(part["seed"]) for part in parts.values()))
    if len(seeds) < FEWEST_SEEDS:
        raise _NotRun(f"fewer than {FEWEST_SEEDS} seeds are finished for every method; {remedy}")
    return {name: part[part["seed"].isin(seeds)] for name, part in parts.items()}, []


def _rows(results: Results, score: str, test: Test) -> pd.DataFrame:
    """The rows of all methods and variants at the conditions that count for a test."""
    rows = results.rows(score)
    if rows is None:
        raise _NotRun(f"no scores of {score}")
    rows = rows[rows["image"] != ""]
    for key, values in test.where.items():
        column = "requested" if key == "dataset" else key
        if column not in rows:
            raise ValueError(f"{score} has no condition {key!r} to restrict a claim by")
        rows = rows[rows[column].isin(values)]
    if test.metric not in rows:
        raise ValueError(f"{score} has no column {test.metric!r} to decide a claim by")
    return rows


def _of_method(rows: pd.DataFrame, method: str, name: str, score: str) -> pd.DataFrame:
    """Rows of a method under its own name, and of its networks where they run at the noise level of their training.

    `name` is how the claim names it.
    """
    exact = rows[rows["method"] == method]
    trained = rows[rows["method"].map(family) == method]
    if "sigma" in rows:
        trained = trained[trained["method"] == [f"{method}-s{sigma:g}" for sigma in trained["sigma"]]]
        own = trained.set_index(["requested", "sigma"]).index
        exact = exact[~exact.set_index(["requested", "sigma"]).index.isin(own)]
    part = pd.concat([exact, trained[~trained.index.isin(exact.index)]])
    if part.empty:
        raise _NotRun(f"no scores of {name}")
    return part


# --- Statistics


def _quotient(parts: Mapping[str, pd.DataFrame], test: Test) -> dict[str, Any]:
    values = []
    for name in test.ratio:
        found = parts[name][test.metric].unique()
        if len(found) != 1:
            raise ValueError(f"{name} has several values of {test.metric}: {', '.join(map(str, found))}")
        values.append(float(found[0]))
    quotient = values[0] / values[1]
    return {
        "verdict": _judge(quotient, quotient, test), "estimate": quotient, "lower": quotient, "upper": quotient, "interval": EXACT
    }  # fmt: skip


def _difference(parts: Mapping[str, pd.DataFrame], test: Test, keys: list[str], over: str) -> dict[str, Any]:
    differences = pd.concat([_paired(parts, pair, test, keys, over) for pair in test.paired], ignore_index=True)
    estimate = share_interval if test.share else interval
    cells = []
    for (first, second, *values), cell in differences.groupby(["first", "second", *keys], sort=False, dropna=False):
        value, lower, upper = estimate(cell["difference"])
        where = {"dataset" if key == "requested" else key: value for key, value in zip(keys, values, strict=True)}
        cells.append(
            Cell((first, second), where, value, lower, upper, len(cell), _judge(lower, upper, test), test.share)
        )
    single = ["seed"] if over == SEED else ["requested", "image"]
    means = differences.groupby(single)["difference"].mean()
    value, lower, upper = estimate(means)
    verdict = _judge(lower, upper, test)
    if test.every:
        verdicts = {cell.verdict for cell in cells}
        verdict = next((word for word in (Decision.FAILS, Decision.UNDECIDED) if word in verdicts), Decision.HOLDS)
    return {
        "verdict": verdict, "estimate": value, "lower": lower, "upper": upper, "n": len(means),
        "interval": (SHARE_INTERVAL if test.share else INTERVAL).format(over), "cells": tuple(cells), "every": test.every,
    }  # fmt: skip


def _paired(
    parts: Mapping[str, pd.DataFrame], pair: tuple[str, str], test: Test, keys: list[str], over: str
) -> pd.DataFrame:
    """Differences of a pair, a row a picture and condition, or a row a seed."""
    first, second = (parts[name] for name in pair)
    single = ["seed"] if over == SEED else [*keys, "image", "seed"]
    both = first.merge(second, "outer", on=single, suffixes=("_first", "_second"), indicator=True)
    for side, name in (("right_only", pair[0]), ("left_only", pair[1])):
        if len(lacking := both[both["_merge"] == side]):
            cell = lacking.iloc[0]
            where = ", ".join([set_label(cell["requested"]), *(f"{key} {_plain(cell[key])}" for key in keys[1:])])
            raise _NotRun(f"no score of {name} on {where}, picture {cell['image']}, where the other method has one")
    difference = both[f"{test.metric}_first"] - both[f"{test.metric}_second"]
    if not np.isfinite(difference).all():
        raise _NotRun(
            f"{test.metric} of {' or '.join(pair)} is not finite {'for' if over == SEED else 'on'} every {over}"
        )
    for key, values in test.where.items():
        column = "requested" if key == "dataset" else key
        if missing := [value for value in values if value not in set(both[column])]:
            raise _NotRun(f"no scores of {' and '.join(pair)} at {key} {missing[0]}")
    return both[single].assign(first=pair[0], second=pair[1], difference=difference)


def interval(values: Iterable[float]) -> tuple[float, float, float]:
    """Mean of some values, and the ends of its 95 % t interval; infinite ends for a single value."""
    from scipy.special import stdtrit  # imported here to start fast

    values = np.asarray(list(values), float)
    n, mean = len(values), float(np.mean(values))
    if n == 1:
        return mean, -math.inf, math.inf
    half = float(stdtrit(n - 1, (1 + LEVEL) / 2)) * float(np.std(values, ddof=1)) / math.sqrt(n)
    return mean, mean - half, mean + half


def share_interval(differences: Iterable[float]) -> tuple[float, float, float]:
    """Share of some differences that are above 0, and the ends of its 95 % interval after Wilson (1927)."""
    from scipy.special import ndtri  # imported here to start fast

    above = np.asarray(list(differences), float) > 0
    n, share, z = len(above), float(above.mean()), float(ndtri((1 + LEVEL) / 2))
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    # Of none and of all, one end is 0 or 1 exactly; rounding must not carry it over a bound there.
    return share, 0.0 if share == 0 else centre - half, 1.0 if share == 1 else centre + half


def _number(value: float, share: bool, digits: int) -> str:
    """A difference with its sign, or a share in per cent without one."""
    return f"{100 * value:.{digits}f}" if share else signed(value, digits)


def _ends(one: Cell | Decided, digits: int) -> str:
    """An interval in words; that of a share says its unit again."""
    lower, upper = (_number(end, one.share, digits) for end in (one.lower, one.upper))
    return f"{lower} to {upper}{f' {SHARE_UNIT}' if one.share else ''}"


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def _in_words(test: Test, unit: str, over: str) -> str:
    """The statistic of a test and its bounds."""
    scale, unit = (100, SHARE_UNIT) if test.share else (1, unit)
    least, most = (None if bound is None else f"{scale * bound:g}" for bound in (test.least, test.most))
    if least is None or most is None:
        bounds = f"at most {most}" if least is None else f"at least {least}"
    else:
        bounds = f"between {least} and {most}"
    bounds = f"{bounds} {unit}".rstrip().replace("-", "−")
    if test.ratio is not None:
        return f"{test.metric} of {' / '.join(test.ratio)}, {bounds}"
    pairs = ", ".join(" − ".join(pair) for pair in test.paired)
    where = "".join(f", {key} {'/'.join(map(str, values))}" for key, values in test.where.items())
    metric = f"validation {test.metric}" if over == SEED else test.metric
    whole = f"share of {over}s above 0" if test.share else "mean"
    every = f"{'share ' if test.share else ''}in every cell"
    return f"{metric}, {pairs}{where}: {every if test.every else whole} {bounds}"


def _judge(lower: float, upper: float, test: Test) -> Decision:
    """Where an interval lies to the bounds of a test; a bound itself counts as within."""
    least = -math.inf if test.least is None else test.least
    most = math.inf if test.most is None else test.most
    if least <= lower and upper <= most:
        return Decision.HOLDS
    return Decision.FAILS if upper < least or lower > most else Decision.UNDECIDED
