"""Printed numbers beside ours: which result belongs to which number is declared in `compare` of each `paper.yaml`."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from invdenoise import papers
from invdenoise.data import benchmarks
from invdenoise.data.fetch import DataUnavailable, describe
from invdenoise.data.pictures import num_pictures
from invdenoise.papers import BUDGETS, Paper, Place, Row, resolve
from invdenoise.report.published import Verdict, has_smaller_budget, load_published, verdict
from invdenoise.report.tables import family, in_cell, is_own, markdown_table, set_label
from invdenoise.tasks.base import gigaflops, read_scores, summarise
from invdenoise.tasks.metrics import FLOPS, PARAMETERS, Metric

COMPARED = (
    "paper", "place", "method", "label", "row", "column", "dataset", "sigma", "metric", "unit", "published", "ours", "difference",
    "verdict", "family", "our_method", "our_note", "convention", "budget", "num_images",
)  # fmt: skip
# What makes two printed numbers the same one. A paper and its talk print many numbers twice.
SAME_NUMBER = ("paper", "method", "dataset", "sigma", "metric", "published")
GROUPS = ("dataset", "sigma", "metric")  # what may make the columns of a table, or a table of its own
UNEXPLAINED = "unexplained"
COUNTS = (PARAMETERS.name, FLOPS.name)  # of a network, whatever it was trained on
IN_COLUMNS = {PARAMETERS.name: "num_parameters"}  # printed metric -> column of score files, where the names differ


class Results:
    """A results folder whose score files are read once, when they are asked for.

    Attributes:
        folder: such as `results/` or `results/released/`.
        papers: the papers whose scores it has, by short name.
    """

    def __init__(self, folder: Path, known: Mapping[str, Paper] | None = None):
        self.folder, self.papers = folder, dict(papers.papers() if known is None else known)
        self._rows: dict[str, pd.DataFrame | None] = {}
        self._means: dict[str, pd.DataFrame] = {}

    def rows(self, score: str) -> pd.DataFrame | None:
        """Rows of a score, named "paper/score"; None where there are none."""
        if score not in self._rows:
            try:
                self._rows[score] = read_scores(score, results=self.folder)
            except FileNotFoundError:
                self._rows[score] = None
        return self._rows[score]

    def means(self, score: str) -> pd.DataFrame | None:
        """Means over pictures of a score, as `summarise` gives them; None where there are none."""
        rows = self.rows(score)
        if rows is not None and score not in self._means:
            self._means[score] = summarise(rows)
        return self._means.get(score)

    def scores(self, paper: Paper) -> list[str]:
        """The scores of a paper that have rows, as "paper/score"."""
        return [name for score in paper.scores if self.rows(name := paper.score_name(score)) is not None]

    def metrics(self, score: str) -> dict[str, Metric]:
        """Metrics of a score's task by name, and the counts of a network."""
        paper, _, own = score.partition("/")
        task = resolve(self.papers[paper].scores[own].task, "tasks")
        return {metric.name: metric for metric in (*task.metrics, *task.set_metrics, PARAMETERS, FLOPS)}

    @property
    def is_empty(self) -> bool:
        """Whether no paper has a score."""
        return not any(self.scores(paper) for paper in self.papers.values())

    @property
    def stand_in(self) -> bool:
        """Whether some scores are of pictures that stand in for the set that was asked for."""
        return any(not is_own(self.rows(score)) for paper in self.papers.values() for score in self.scores(paper))


def read_results(folder: Path, known: Mapping[str, Paper] | None = None) -> Results:
    """The results in a folder; FileNotFoundError when no paper has a score there."""
    results = Results(folder, known)
    if results.is_empty:
        raise FileNotFoundError(f"no scores in {folder / 'scores'}; make them with `make paper`")
    return results


def as_results(results: Results | Path) -> Results:
    return results if isinstance(results, Results) else Results(results)


# --- Names


def scored_methods(score: str, known: Mapping[str, Paper]) -> tuple[list[str], list[str]]:
    """Methods that the runs of a score declare, each also without the noise level of its training; and their variants."""
    paper, _, own = score.partition("/")
    declared = known[paper].scores[own]
    runs = (*declared.runs, *declared.smoke)
    methods = [name for part in runs for method in part.methods for name in (method, family(method))]
    return list(dict.fromkeys(methods)), list(dict.fromkeys(part.variant for part in runs))


def check_name(name: str, known: Iterable[str], where: str, what: str) -> None:
    """ValueError with the nearest name when it is not known."""
    known = list(known)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(map(repr, known))}"
        raise ValueError(f"{where}: no {what} {name!r}; {hint}")


def check_place(paper: Paper, place: str, known: Mapping[str, Paper]) -> None:
    """ValueError where a place of `compare` names a method or variant that none of its scores declares, or a condition that one of them
    does not have: it could never have a result."""
    declared, where = paper.compare[place], f"{paper.name}, {place}"
    found = [scored_methods(paper.score_name(score), known) for score in declared.reads]
    methods, variants = ([name for part in parts for name in part] for parts in zip(*found, strict=True))
    of = f"in the runs of {', '.join(declared.reads)}"
    for row in paper.rows(place).values():
        for name in row.ours:
            check_name(name, methods, where, f"method {of} is called")
    others = declared.conventions.others if declared.conventions else {}
    for variant in (declared.variant, *others):
        check_name(variant, variants, where, f"variant {of} is called")
    for score in declared.reads:
        owner, _, own = paper.score_name(score).partition("/")
        keys = ("dataset", *resolve(known[owner].scores[own].task, "tasks").keys)
        for key in declared.where:
            check_name(key, keys, where, f"condition of {score} to restrict it by is called")


# --- A place


def compare(paper: Paper, place: str, results: Results | Path) -> pd.DataFrame:
    """Each printed number of a place beside ours, with the columns `COMPARED`, in the order of the print.

    A result belongs to a number when it is of one of the row's `ours` ("<ours>-s<sigma>", or else "<ours>"), of the place's scores and
    variant, at the conditions of its `where`, of the set that the print names, and at its noise level. A number has a row for each of
    `ours` with a result. A number without result has one row, in which `ours` is NaN and `family` and `our_method` are empty.

    Results of the place's other `conventions` have rows of their own, whose `convention` is not empty. Their verdict is what it would be.

    Pictures that stand in, and printed sets that nobody can have, come to "data not available"; for the latter, one of `ours` must have
    been run on another set. A mean over fewer pictures than the set has comes to "not run". Both may have `ours`, and have no
    `difference`. Numbers of parameters and of operations depend on no set. The column `dataset` has the names of the place's `sets`.

    Args:
        paper: as declared.
        place: a key of its `compare`.
        results: results folder.

    Raises:
        ValueError: the paper prints nothing at the place, or has no such method or set there; a method or variant that no score of the
            place declares; a condition in `where` that a score does not have; an unknown set; or two results belong to one number.
    """
    results, declared, rows = as_results(results), paper.compare[place], paper.rows(place)
    check_place(paper, place, {**results.papers, paper.name: paper})
    printed = load_published()
    own = printed[printed["paper"] == paper.name]
    here = own[own["place"] == place]
    if here.empty:
        raise ValueError(f"{paper.name}: nothing is printed at {place!r}; there is {', '.join(own['place'].unique())}")
    if not isinstance(declared.rows, str) and (unknown := [row for row in rows if row not in set(here["method"])]):
        raise ValueError(
            f"{paper.name}, {place}: no printed method {unknown[0]!r}; there is {', '.join(here['method'].unique())}"
        )
    for dataset, ours in declared.sets.items():
        check_name(dataset, here["dataset"].unique(), f"{paper.name}, {place}", "printed set is called")
        describe(ours)
    here = here.assign(dataset=here["dataset"].replace(declared.sets))
    scores = [paper.score_name(score) for score in declared.reads]
    metrics = {name: metric for score in reversed(scores) for name, metric in results.metrics(score).items()}
    found = _Means(results, scores, declared.variant, declared.where)
    conventions = declared.conventions.others if declared.conventions else {}
    elsewhere = {words: _Means(results, scores, variant, declared.where) for variant, words in conventions.items()}
    lines = []
    for number in here.to_dict("records"):
        row, metric = rows.get(number["method"]), metrics.get(number["metric"])
        line = _line(number, number["row"] if row is None else row.label)
        if row is None or metric is None:
            lines.append(line)
            continue
        lines += list(_beside(line, row.ours, metric, found)) or [line]
        if metric.name not in COUNTS:
            for words, means in elsewhere.items():
                with_convention = (found | {"convention": words} for found in _beside(line, row.ours, metric, means))
                lines += [one for one in with_convention if one["our_method"]]
    return pd.DataFrame(lines, columns=COMPARED)


class _Means:
    """Means of a place's scores at the conditions `where`, looked up by method, set and noise level."""

    def __init__(self, results: Results, scores: Iterable[str], variant: str, where: Mapping[str, list[Any]]):
        self.by_key: dict[tuple, dict[str, Any]] = {}
        self.by_method: dict[str, dict[str, Any]] = {}
        for score in scores:
            means = results.means(score)
            if means is None:
                continue
            means = means[means["variant"] == variant]
            for condition, values in where.items():
                means = means[means["requested" if condition == "dataset" else condition].isin(values)]
            for mean in means.to_dict("records"):
                key = (mean["method"], mean["requested"], _level(mean.get("sigma")))
                if key in self.by_key:
                    other, here = self.by_key[key]["dataset"], mean["dataset"]
                    which = f"{key[0]} on {key[1]}{'' if key[2] is None else f' at sigma {key[2]:g}'}"
                    if other != here:
                        raise ValueError(
                            f"two results of {which}, on {other} and on {here}; keep the score file of one"
                        )
                    raise ValueError(
                        f"two results of {which}, at different conditions; choose one by the place's `where`"
                    )
                self.by_key[key] = mean
                self.by_method.setdefault(mean["method"], mean)

    def find(self, name: str, dataset: str, sigma: float | None) -> dict[str, Any] | None:
        """Of the network of this noise level, or of the one for all."""
        names = [name] if sigma is None else [f"{name}-s{sigma:g}", name]
        return next((mean for full in names if (mean := self.by_key.get((full, dataset, sigma)))), None)

    def any_of(self, name: str) -> dict[str, Any] | None:
        """Of a method, on whatever set and at whatever noise level."""
        return next((mean for full, mean in self.by_method.items() if name in (full, family(full))), None)


def _level(sigma: Any) -> float | None:
    return None if pd.isna(sigma) else float(sigma)


def _line(number: Mapping[str, Any], label: str) -> dict[str, Any]:
    """A printed number that has nothing beside it."""
    line = {
        key: number[key] for key in ("paper", "place", "method", "row", "column", "dataset", "sigma", "metric", "unit")
    }
    line |= {"label": label, "published": number["value"], "verdict": Verdict.NOT_RUN}
    return line | dict.fromkeys(("family", "our_method", "our_note", "convention", "budget"), "")


def _beside(line: dict[str, Any], ours: Mapping[str, str], metric: Metric, found: _Means) -> Iterator[dict[str, Any]]:
    """The number with each of our results that belong to it."""
    column = IN_COLUMNS.get(metric.name, metric.name)
    elsewhere = some = False
    for name, note in ours.items():
        if metric.name in COUNTS:
            mean = found.any_of(name)
            available = complete = True
            if mean and metric.name == FLOPS.name:
                mean = mean | {column: gigaflops(mean["method"])}
        elif mean := found.find(name, line["dataset"], _level(line["sigma"])):
            available = mean["dataset"] == line["dataset"]
            complete = available and mean["num_images"] >= num_pictures(line["dataset"])
        elif found.any_of(name):
            elsewhere = True
        if not mean or pd.isna(mean.get(column)):
            continue
        some = True
        value = float(mean[column])
        judged = verdict(
            line["published"], value if complete else None, metric,
            budget=mean["budget"] if mean["budget"] in BUDGETS else None, data_available=available,
        )  # fmt: skip
        yield line | {
            "ours": value, "verdict": judged, "family": name, "our_method": mean["method"], "our_note": note, "budget": mean["budget"],
            "num_images": mean["num_images"], **({"difference": value - line["published"]} if complete else {}),
        }  # fmt: skip
    if elsewhere and not some and not _can_be_had(line["dataset"]):
        yield line | {"verdict": Verdict.NO_DATA}


def _can_be_had(dataset: str) -> bool:
    """Whether a printed set is one of `data/sources.yaml`, and at hand if it is fetched by hand; what names no set counts as one."""
    try:
        if dataset and benchmarks.is_by_hand(describe(dataset).id):
            benchmarks.folder_of(dataset)
    except (ValueError, DataUnavailable):
        return False
    return True


# --- Conventions, and numbers that exceed the print


def convention_effects(numbers: pd.DataFrame, metric: str) -> dict[str, dict[str, Any]]:
    """What each convention that is not judged would change.

    Args:
        numbers: of one place, as `compare` gives them.
        metric: whose numbers.

    Returns:
        Convention -> `numbers`, how many were measured in both; `largest`, the largest change in absolute value; and `changed`, how many
        would have another verdict.
    """
    same = ["our_method", "dataset", "sigma"]
    judged = numbers[(numbers["metric"] == metric) & numbers["difference"].notna()]
    first, others = judged[judged["convention"] == ""], judged[judged["convention"] != ""]
    effects = {}
    for convention, part in others.groupby("convention", sort=False):
        both = part.merge(first[[*same, "ours", "verdict"]], on=same, suffixes=("", "_judged"))
        effects[convention] = {
            "numbers": len(both),
            "largest": float((both["ours"] - both["ours_judged"]).abs().max()),
            "changed": int((both["verdict"] != both["verdict_judged"]).sum()),
        }
    return effects


def exceeded(paper: Paper, place: str, numbers: pd.DataFrame) -> list[dict[str, Any]]:
    """The numbers of a place that exceed the print, each with a declared reason or `UNEXPLAINED`.

    Args:
        numbers: of the place, as `compare` gives them.

    Returns:
        Rows of `compare`, with `reason`, and `others`: convention -> our number in it.
    """
    judged = numbers[(numbers["verdict"] == Verdict.EXCEEDED) & (numbers["convention"] == "")]
    same = ["our_method", "dataset", "sigma", "metric"]
    others = {
        key: dict(zip(part["convention"], part["ours"], strict=True))
        for key, part in numbers[numbers["convention"] != ""].groupby(same, sort=False)
    }
    return [
        line
        | {
            "reason": _reason(paper.rows(place)[line["method"]], line),
            "others": others.get(tuple(line[k] for k in same), {}),
        }
        for line in judged.to_dict("records")
    ]


def _reason(row: Row, line: Mapping[str, Any]) -> str:
    fitting = (
        entry.says
        for entry in row.explain
        if entry.of == line["family"] and all(line[key] in values for key, values in entry.where.items())
    )
    return next(fitting, UNEXPLAINED)


# --- Every number


def all_numbers(results: Results | Path) -> pd.DataFrame:
    """Every number that the papers print, declared or not, with the columns `COMPARED`: see `compare`.

    A place that no `compare` names is "not run". Only the convention that is judged is in it.
    """
    results = as_results(results)
    tables = []
    for (name, place), here in load_published().groupby(["paper", "place"], sort=False):
        paper = results.papers.get(name)
        if paper is not None and place in paper.compare:
            numbers = compare(paper, place, results)
            tables.append(numbers[numbers["convention"] == ""])
        else:
            lines = [_line(number, number["row"]) for number in here.to_dict("records")]
            tables.append(pd.DataFrame(lines, columns=COMPARED))
    return pd.concat([table.astype(object) for table in tables], ignore_index=True).infer_objects()


def _which(numbers: pd.DataFrame) -> pd.Series:
    """For each row, what tells its printed number from every other one."""
    keys = numbers[list(SAME_NUMBER)].astype(object)
    return keys.where(keys.notna(), "").apply(tuple, axis="columns")


def distinct(numbers: pd.DataFrame) -> pd.DataFrame:
    """Rows of `all_numbers` with each printed number once.

    What is printed at several places counts once, and as run where it is run at one of them. Where several of our methods stand beside
    a number, the first one that is declared and has a result counts, whatever its verdict.
    """
    order = numbers["verdict"].map({Verdict.NOT_RUN: 2, Verdict.NO_DATA: 1}).fillna(0)
    ordered = numbers.assign(order=order, which=_which(numbers)).sort_values("order", kind="stable")
    return ordered.drop_duplicates("which").sort_index().drop(columns=["order", "which"])


def counts(numbers: pd.DataFrame) -> dict[str, int]:
    """How many distinct numbers came to each verdict, in the order of `Verdict`: see `distinct`."""
    found = distinct(numbers)["verdict"].value_counts()
    return {str(word): int(found[word]) for word in Verdict if word in found}


PARTS = {  # of the printed numbers, by what of ours stands beside them: see `parts_of`
    "ours": "networks trained here",
    "authors": "authors' weights",
    "classical": "classical methods",
    "sizes": "numbers of parameters and operations",
    "alone": "nothing of ours",
}


def parts_of(numbers: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Rows of `all_numbers` by what of ours stands beside the print, for each of `PARTS`.

    "ours": networks trained here; "authors": weights that others trained; "classical": methods that learn nothing; "sizes": numbers of
    parameters and operations, which no training changes; "alone": numbers that have nothing of ours beside them. One number may be in several parts.
    """
    which, tried, size = _which(numbers), numbers["family"] != "", numbers["metric"].isin(COUNTS)
    own, others = numbers["budget"].isin(BUDGETS), numbers["budget"] == "authors"
    return {
        "ours": numbers[tried & ~size & own],
        "authors": numbers[tried & ~size & others],
        "classical": numbers[tried & ~size & ~own & ~others],
        "sizes": numbers[tried & size],
        "alone": numbers[~which.isin(set(which[tried]))],
    }


def coverage(numbers: pd.DataFrame) -> pd.DataFrame:
    """By paper and place, how many distinct numbers are `published`, and how many of them are `done`: have a verdict on ours.

    A number counts at the first place that prints it.
    """
    which = _which(numbers)
    done = set(which[~numbers["verdict"].isin([Verdict.NOT_RUN, Verdict.NO_DATA])])
    first = numbers.assign(which=which, done=which.isin(done)).drop_duplicates("which")
    table = first.groupby(["paper", "place"], sort=False)["done"].agg(published="size", done="sum")
    return table.reset_index()


# --- Tables


@dataclass(frozen=True)
class Table:
    """Printed numbers beside ours, laid out as a table is printed.

    Attributes:
        title: of this table of the place; empty where the place is one table.
        columns: headings.
        rows: label and, for each column, the row of `compare`, or None where nothing is printed.
        metrics: those of the table's scores, by name.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[dict[str, Any] | None, ...]], ...]
    metrics: Mapping[str, Metric]

    def digits(self, cell: Mapping[str, Any]) -> int:
        return self.metrics[cell["metric"]].digits if cell["metric"] in self.metrics else 2

    @property
    def frame(self) -> pd.DataFrame:
        """The table for display: a row a method, and for each heading published, ours, difference and verdict."""
        parts = ("published", "ours", "difference", "verdict")
        lines = [[None if cell is None else cell[part] for cell in cells for part in parts] for _, cells in self.rows]
        columns = pd.MultiIndex.from_product([self.columns, parts])
        return pd.DataFrame(
            lines, columns=columns, index=pd.Index([label for label, _ in self.rows], name=self.title or None)
        )

    @property
    def markdown(self) -> str:
        """The table as Markdown: published / **ours** and the verdict, for each heading."""
        lines = []
        for label, cells in self.rows:
            texts = ["" if cell is None else in_cell(cell, self.digits(cell)) for cell in cells]
            lines.append([label, *texts])
        return markdown_table([self.title or "", *self.columns], lines)


def beside(paper: Paper, place: str, results: Results | Path) -> list[Table]:
    """The tables of a place: one, or one for each value of its `by`.

    A row is a printed method with one of ours in one convention. Its label says when ours was trained on a smaller budget than the
    paper's. A method that has results in some columns only keeps one row: the others are "not run".
    """
    results, declared = as_results(results), paper.compare[place]
    numbers = compare(paper, place, results)
    if wrong := [key for key in (declared.across, declared.by) if key not in (None, *GROUPS)]:
        raise ValueError(
            f"{paper.name}, {place}: columns cannot be made by {wrong[0]!r}; expected one of {', '.join(GROUPS)}"
        )
    if "metric" not in (declared.across, declared.by):
        numbers = numbers[numbers["metric"] == declared.metric]
    numbers = numbers[numbers[declared.across].notna()]
    metrics = {
        name: metric for score in declared.reads for name, metric in results.metrics(paper.score_name(score)).items()
    }
    parts = [("", numbers)] if declared.by is None else numbers.groupby(declared.by, sort=False)
    return [_table(paper, place, declared, _heading(declared.by, value), part, metrics) for value, part in parts]


def _table(
    paper: Paper, place: str, declared: Place, title: str, numbers: pd.DataFrame, metrics: dict[str, Metric]
) -> Table:
    values = list(dict.fromkeys(numbers[declared.across]))
    rows = []
    for method, row in paper.rows(place).items():
        own = numbers[numbers["method"] == method]
        found = dict.fromkeys(zip(own["family"], own["convention"], strict=True))
        run = [key for name in row.ours for key in found if key[0] == name]
        for name, convention in (run or [("", "")]) if len(own) else []:
            cells = []
            for value in values:
                level = own[own[declared.across] == value]
                matching = level[(level["family"] == name) & (level["convention"] == convention)]
                if matching.empty and len(level):  # this method was not run here: only the print stays
                    unrun = {"ours": None, "difference": None, "verdict": Verdict.NOT_RUN, "family": name, "our_method": "",
                             "convention": convention, "budget": ""}  # fmt: skip
                    matching = level.iloc[:1].astype(object).assign(**unrun)
                cells.append(None if matching.empty else matching.iloc[0].to_dict())
            several = any(other for ours, other in found if ours == name)
            judged = declared.conventions.judged if several and not convention else ""
            about = [row.ours.get(name, ""), _budgets(cells), convention or judged]
            about = ", ".join(filter(None, about))
            rows.append((f"{row.label} ({about})" if about else row.label, tuple(cells)))
    return Table(title, tuple(_heading(declared.across, value) for value in values), tuple(rows), metrics)


def _budgets(cells: Iterable[Mapping[str, Any] | None]) -> str:
    """Budgets of the networks of a row that were trained for less than the paper's schedule, in words; empty for others."""
    budgets = dict.fromkeys(cell["budget"] for cell in cells if cell is not None and has_smaller_budget(cell["budget"]))
    return f"{' and '.join(budgets)} budget" if budgets else ""


def _heading(key: str | None, value: Any) -> str:
    """A value of a condition as a heading."""
    if key == "sigma":
        return f"σ = {value:g}"
    return {"dataset": set_label, "metric": str.upper}.get(key, str)(value)
