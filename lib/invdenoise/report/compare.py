"""Printed numbers beside ours: which result belongs to which number is declared in `compare` of each `paper.yaml`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from invdenoise import papers
from invdenoise.data.fetch import describe
from invdenoise.data.pictures import num_pictures
from invdenoise.papers import BUDGETS, Paper, Place, resolve
from invdenoise.report.published import Verdict, load_published, verdict
from invdenoise.report.tables import family, in_cell, is_own, markdown_table, set_label
from invdenoise.tasks.base import read_scores, summarise
from invdenoise.tasks.metrics import PARAMETERS, Metric

COMPARED = (
    "paper", "place", "method", "label", "row", "column", "dataset", "sigma", "metric", "unit", "published", "ours", "difference",
    "verdict", "family", "our_method", "our_note", "budget", "num_images",
)  # fmt: skip
# What makes two printed numbers the same one. A paper and its talk print many numbers twice.
SAME_NUMBER = ("paper", "method", "dataset", "sigma", "metric", "published")
GROUPS = ("dataset", "sigma", "metric")  # what may make the columns of a table, or a table of its own
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
        """Metrics of a score's task by name, and the number of parameters."""
        paper, _, own = score.partition("/")
        task = resolve(self.papers[paper].scores[own].task, "tasks")
        return {metric.name: metric for metric in (*task.metrics, *task.set_metrics, PARAMETERS)}

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


# --- A place


def compare(paper: Paper, place: str, results: Results | Path) -> pd.DataFrame:
    """Each printed number of a place beside ours, with the columns `COMPARED`, in the order of the print.

    A result belongs to a number when it is of one of the row's `ours` ("<ours>-s<sigma>", or else "<ours>"), of the place's scores and
    variant, of the set that the print names, and at its noise level. A number has a row for each of `ours` with a result. A number
    without result has one row, in which `ours` is NaN and `family` and `our_method` are empty.

    Pictures that stand in, and printed sets that nobody can have, come to "data not available". A mean over fewer pictures than the
    set has comes to "not run". Both may have `ours`, and have no `difference`. Numbers of parameters depend on no set.

    Args:
        paper: as declared.
        place: a key of its `compare`.
        results: results folder.

    Raises:
        ValueError: the paper prints nothing at the place, or has no such method there; or two results belong to one number.
    """
    results, declared, rows = as_results(results), paper.compare[place], paper.rows(place)
    printed = load_published()
    own = printed[printed["paper"] == paper.name]
    here = own[own["place"] == place]
    if here.empty:
        raise ValueError(f"{paper.name}: nothing is printed at {place!r}; there is {', '.join(own['place'].unique())}")
    if not isinstance(declared.rows, str) and (unknown := [row for row in rows if row not in set(here["method"])]):
        raise ValueError(
            f"{paper.name}, {place}: no printed method {unknown[0]!r}; there is {', '.join(here['method'].unique())}"
        )
    scores = [paper.score_name(score) for score in declared.reads]
    metrics = {name: metric for score in reversed(scores) for name, metric in results.metrics(score).items()}
    found = _Means(results, scores, declared.variant)
    lines = []
    for number in here.to_dict("records"):
        row, metric = rows.get(number["method"]), metrics.get(number["metric"])
        line = _line(number, number["row"] if row is None else row.label)
        beside = [] if row is None or metric is None else list(_beside(line, row.ours, metric, found))
        lines += beside or [line]
    return pd.DataFrame(lines, columns=COMPARED)


class _Means:
    """Means of a place's scores, looked up by method, set and noise level."""

    def __init__(self, results: Results, scores: Iterable[str], variant: str):
        self.by_key: dict[tuple, dict[str, Any]] = {}
        self.by_method: dict[str, dict[str, Any]] = {}
        for score in scores:
            means = results.means(score)
            for mean in [] if means is None else means[means["variant"] == variant].to_dict("records"):
                key = (mean["method"], mean["requested"], _level(mean.get("sigma")))
                if key in self.by_key:
                    raise ValueError(
                        f"two results of {key[0]} on {key[1]}{'' if key[2] is None else f' at sigma {key[2]:g}'}, on "
                        f"{self.by_key[key]['dataset']} and on {mean['dataset']}; keep the score file of one"
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
    return line | dict.fromkeys(("family", "our_method", "our_note", "budget"), "")


def _beside(line: dict[str, Any], ours: Mapping[str, str], metric: Metric, found: _Means) -> Iterator[dict[str, Any]]:
    """The number with each of our results that belong to it."""
    column = IN_COLUMNS.get(metric.name, metric.name)
    elsewhere = []
    for name, note in ours.items():
        if metric.name == PARAMETERS.name:
            mean = found.any_of(name)
            available = complete = True
        elif mean := found.find(name, line["dataset"], _level(line["sigma"])):
            available = mean["dataset"] == line["dataset"]
            complete = available and mean["num_images"] >= num_pictures(line["dataset"])
        elif found.any_of(name):
            elsewhere.append(name)
        if not mean or pd.isna(mean.get(column)):
            continue
        value = float(mean[column])
        judged = verdict(
            line["published"], value if complete else None, metric,
            budget=mean["budget"] if mean["budget"] in BUDGETS else None, data_available=available,
        )  # fmt: skip
        yield line | {
            "ours": value, "verdict": judged, "family": name, "our_method": mean["method"], "our_note": note, "budget": mean["budget"],
            "num_images": mean["num_images"], **({"difference": value - line["published"]} if complete else {}),
        }  # fmt: skip
    if len(elsewhere) == len(ours) and ours and not _can_be_had(line["dataset"]):
        yield line | {"verdict": Verdict.NO_DATA}


def _can_be_had(dataset: str) -> bool:
    """Whether a printed set is one of `data/sources.yaml`; so is what names no set."""
    try:
        return not dataset or describe(dataset) is not None
    except ValueError:
        return False


# --- Every number


def all_numbers(results: Results | Path) -> pd.DataFrame:
    """Every number that the papers print, declared or not, with the columns `COMPARED`: see `compare`.

    A place that no `compare` names is "not run".
    """
    results = as_results(results)
    tables = []
    for (name, place), here in load_published().groupby(["paper", "place"], sort=False):
        paper = results.papers.get(name)
        if paper is not None and place in paper.compare:
            tables.append(compare(paper, place, results))
        else:
            lines = [_line(number, number["row"]) for number in here.to_dict("records")]
            tables.append(pd.DataFrame(lines, columns=COMPARED))
    return pd.concat([table.astype(object) for table in tables], ignore_index=True).infer_objects()


def distinct(numbers: pd.DataFrame) -> pd.DataFrame:
    """Rows of `all_numbers` with each number once for each of our methods: what is printed at several places counts once.

    A number that is not run at one place and is at another counts as run.
    """
    keys = [*SAME_NUMBER, "family"]
    judged = numbers.assign(unrun=numbers["verdict"].isin([Verdict.NOT_RUN, Verdict.NO_DATA]))
    judged = judged.sort_values("unrun", kind="stable").drop_duplicates(keys)
    beside = judged.groupby(list(SAME_NUMBER), dropna=False)["family"].transform(
        lambda families: (families != "").any()
    )
    return judged[(judged["family"] != "") | ~beside].sort_index().drop(columns="unrun")


def counts(numbers: pd.DataFrame) -> dict[str, int]:
    """How many distinct numbers came to each verdict, in the order of `Verdict`. A number counts once for each of our methods."""
    found = distinct(numbers)["verdict"].value_counts()
    return {str(word): int(found[word]) for word in Verdict if word in found}


def trained_here(numbers: pd.DataFrame) -> pd.Series:
    """Which rows of `compare` have results of a network that was trained here."""
    return numbers["budget"].isin(BUDGETS)


def coverage(numbers: pd.DataFrame) -> pd.DataFrame:
    """By paper and place, how many numbers are `published`, and how many of them are `done`: have a verdict on ours beside them.

    A number that a paper and its talk both print counts at both places.
    """
    keys = ["paper", "place", "method", "row", "column", "dataset", "sigma", "metric", "published"]
    done = ~numbers["verdict"].isin([Verdict.NOT_RUN, Verdict.NO_DATA])
    each = numbers.assign(done=done).groupby(keys, sort=False, dropna=False)["done"].any().reset_index()
    table = each.groupby(["paper", "place"], sort=False)["done"].agg(published="size", done="sum")
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

    A row is a printed method with one of ours. A method that has results in some columns only keeps one row: the others are "not run".
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
        run = [name for name in row.ours if name in set(own["family"])]
        for name in (run or [""]) if len(own) else []:
            cells = []
            for value in values:
                level = own[own[declared.across] == value]
                matching = level[level["family"] == name]
                if matching.empty and len(level):  # this method was not run here: only the print stays
                    unrun = {
                        "ours": None,
                        "difference": None,
                        "verdict": Verdict.NOT_RUN,
                        "family": name,
                        "our_method": "",
                    }
                    matching = level.iloc[:1].astype(object).assign(**unrun)
                cells.append(None if matching.empty else matching.iloc[0].to_dict())
            note = row.ours.get(name, "")
            rows.append((f"{row.label} ({note})" if note else row.label, tuple(cells)))
    return Table(title, tuple(_heading(declared.across, value) for value in values), tuple(rows), metrics)


def _heading(key: str | None, value: Any) -> str:
    """A value of a condition as a heading."""
    if key == "sigma":
        return f"σ = {value:g}"
    return {"dataset": set_label, "metric": str.upper}.get(key, str)(value)
