"""What the notebooks of figures and tables share: reading scores, saying what they are of, and writing tables."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from invdenoise import papers, paths
from invdenoise.data.fetch import DataUnavailable, describe
from invdenoise.data.pictures import EMBEDDED, num_pictures
from invdenoise.files import atomic
from invdenoise.methods import load_network
from invdenoise.papers import Paper
from invdenoise.plan import bench_file
from invdenoise.tasks.base import read_scores

BUDGETS_IN_WORDS = {"none": "nothing to train", "authors": "authors' weights"}
LARGE = 1000  # from here on a measured number is a whole number


# --- Reading


def results_folder(scores: str) -> Path:
    """Folder of the results that a notebook's parameter `scores` names: "released" or "local"; ValueError for another."""
    folders = {"released": paths.RELEASED, "local": paths.results_dir()}
    if scores not in folders:
        raise ValueError(f"scores is {scores!r}; expected one of {', '.join(folders)}")
    return folders[scores]


def scores_of(paper: str | Paper, *names: str, scores: str = "released") -> pd.DataFrame:
    """Rows of some scores of a paper, one row a picture and condition.

    Args:
        paper: its short name.
        names: scores that the paper declares, or "other/score" of another one. Those without rows are left out.
        scores: "released" for the results that come with the repository, "local" for those made here.

    Raises:
        ValueError: unknown paper, score or value of `scores`, or what `read_scores` refuses.
        FileNotFoundError: none of the scores has rows; names the command that makes them.
    """
    folder = results_folder(scores)
    known = papers.papers()
    if isinstance(paper, str):
        if paper not in known:
            raise ValueError(f"no paper {paper!r}; known: {', '.join(known)}")
        paper = known[paper]
    full = [paper.score_name(name) for name in names]
    declared = [f"{owner.name}/{score}" for owner in {**known, paper.name: paper}.values() for score in owner.scores]
    if missing := [name for name in full if name not in declared]:
        raise ValueError(f"no score {missing[0]!r}; declared: {', '.join(declared)}")
    try:
        return read_scores(*full, results=folder)
    except FileNotFoundError:
        other = '; take those made here with scores = "local", after `make paper`' if scores == "released" else ""
        remedy = other or "; make them with `make paper`"
        raise FileNotFoundError(f"no scores of {' or '.join(full)} in {folder}{remedy}") from None


def read_curve(file: Path | str) -> pd.DataFrame:
    """A training curve, a row for each validation.

    `train_psnr` is in every curve (dB, of the noisy patches since the row before): where the file lacks it, it is computed from `mse`.
    A network that logs neither has NaN there.
    """
    curve = pd.read_csv(file)
    if "train_psnr" not in curve:
        curve["train_psnr"] = -10 * np.log10(curve["mse"]) if "mse" in curve else math.nan
    return curve


def read_bench(folder: Path, quantity: str, missing_ok: bool = False) -> pd.DataFrame:
    """Rows of `make bench` on one quantity, such as "training step"; columns `subject`, `setting`, `value`, `unit`, `hardware`, ...

    Args:
        folder: of results; where it has no measurements, the released ones count (`plan.bench_file`).
        missing_ok: give an empty table where nothing was measured.

    Raises:
        FileNotFoundError: nothing was measured; names the command.
    """
    file = bench_file(folder)
    if file is None and not missing_ok:
        raise FileNotFoundError(f"no bench.csv in {folder}; measure the speeds with `make bench`")
    columns = ["quantity", "subject", "setting", "value", "unit", "hardware"]
    bench = pd.DataFrame(columns=columns) if file is None else pd.read_csv(file)
    return bench[bench["quantity"] == quantity]


def family(method: Any) -> str:
    """A method's name without the noise level of its training: "dncnn" for "dncnn-s25"; empty for None and NaN."""
    if pd.isna(method):
        return ""
    head, _, level = method.rpartition("-s")
    return head if level.replace(".", "", 1).isdigit() else method


# --- What the scores are of


def set_label(name: str) -> str:
    """A set's name as it is printed: "BSD68" for "bsd68". A set that is not in `data/sources.yaml` keeps its identifier."""
    try:
        return describe(name).title.partition(",")[0].partition(" (")[0]
    except ValueError:
        return name


def notes(rows: pd.DataFrame) -> list[str]:
    """What some score rows are of, as lines of a Markdown list.

    Sets with their number of pictures, budgets of training, seed and version. Stand-in pictures and parts of a set are warnings in bold.
    """
    lines = []
    for name, part in rows.groupby("requested", sort=False):
        label, counts = set_label(name), _counts(part)
        if not is_own(part):
            found = ", ".join(f"`{other}`" for other in part["dataset"].unique())
            lines.append(f"**STAND-IN for {label}: pictures of {found}. Nothing here compares with a paper.**")
            continue
        whole = num_pictures(name)
        lines.append(f"{label}: {' or '.join(map(str, counts))} of {whole} pictures")
        if counts[0] < whole:
            lines.append(f"**A part of {label}. Such means are shown, and not compared with printed ones.**")
    budgets = rows.groupby("budget")["method"].nunique()
    counted = ", ".join(f"{BUDGETS_IN_WORDS.get(budget, budget)} ({count})" for budget, count in budgets.items())
    lines.append(f"methods by budget of training: {counted}")
    lines.append(f"seed: {', '.join(map(str, rows['seed'].unique()))}")
    versions, commits = (", ".join(map(str, rows[column].unique())) for column in ("version", "commit"))
    lines.append(f"scored by version {versions}, commit {commits}")
    return [f"- {line}" for line in lines]


def is_own(rows: pd.DataFrame) -> bool:
    """Whether every row is of the set that was asked for, and none of pictures that stand in."""
    return bool((rows["dataset"] == rows["requested"]).all() and not rows["requested"].isin(EMBEDDED).any())


def _counts(rows: pd.DataFrame) -> list[int]:
    """Numbers of pictures that the methods were scored on, in ascending order."""
    pictures = rows[rows["image"] != ""]
    return sorted(set(pictures.groupby(["method", "variant"])["image"].nunique())) or [0]


# --- Text


def signed(value: float, digits: int = 2) -> str:
    """A difference as text, always with its sign (a real minus sign); empty for NaN. What rounds to zero is "+0.00"."""
    if pd.isna(value):
        return ""
    text = f"{abs(value):.{digits}f}"
    return ("−" if value < 0 and float(text) else "+") + text


def number(value: float, digits: int = 2, missing: str = "") -> str:
    """A number as text, in thousands with commas; `missing` for NaN."""
    return missing if pd.isna(value) else f"{value:,.{digits}f}"


def in_digits(value: float) -> str:
    """A measured number in three digits, or as a whole number from 1000 on."""
    return f"{value:,.0f}" if abs(value) >= LARGE else f"{value:.3g}"


def in_words(seconds: float) -> str:
    """A time as a reader says it: "45 s", "12 min", "1 h 20 min"."""
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def in_cell(compared: Mapping[str, Any], digits: int = 2) -> str:
    """A row of `compare.compare` as a cell of a Markdown table: published / **ours** and the verdict.

    The verdict is in brackets where ours has another convention than the one that is judged.
    """
    published, ours = compared["published"], compared["ours"]
    numbers = (
        number(published, digits) if pd.isna(ours) else f"{number(published, digits)} / **{number(ours, digits)}**"
    )
    return f"{numbers} ({compared['verdict']})" if compared["convention"] else f"{numbers} {compared['verdict']}"


def markdown_table(header: Sequence[str], lines: Iterable[Sequence[str]], text_columns: int = 1) -> str:
    """A table in Markdown, without a line break at the end.

    Args:
        header: of each column.
        lines: cells as text, as many as the header has.
        text_columns: columns from the left that are aligned to the left; the others are aligned to the right.

    Raises:
        ValueError: a line with another number of cells.
    """
    rule = [":--" if column < text_columns else "--:" for column in range(len(header))]
    table = [list(header), rule, *map(list, lines)]
    for line in table:
        if len(line) != len(header):
            raise ValueError(f"a line has {len(line)} cells, the header {len(header)}: {line}")
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in table)


def pretty(frame: pd.DataFrame, digits: int = 2) -> pd.io.formats.style.Styler:
    """A frame for display in a notebook: numbers with `digits` digits, columns named "difference" with their sign, NaN empty.

    Counts keep no digits. The HTML is the same at every run, so that a stored output does not change by itself.
    """

    def shown(column: Any):
        differences = "difference" in (column if isinstance(column, tuple) else (column,))

        def text(value: Any) -> str:
            if not isinstance(value, int | float | np.number):
                return "" if pd.isna(value) else str(value)
            if pd.isna(value):
                return ""
            if isinstance(value, int | np.integer):
                return f"{value:,}"
            return signed(value, digits) if differences else f"{value:,.{digits}f}"

        return text

    style = frame.style if frame.index.is_unique else frame.reset_index().style
    return style.format({column: shown(column) for column in style.data.columns}).set_uuid("t")


def show(*texts: str | Iterable[str]) -> None:
    """Display texts as Markdown, one below the other, in a notebook. The lines of a list are one text."""
    from IPython.display import Markdown, display  # here, since nothing but a notebook needs it

    display(*(Markdown(text if isinstance(text, str) else "\n".join(text)) for text in texts))


# --- Files


def save_table(frame: pd.DataFrame, name: str, index: bool = False) -> Path:
    """Write `results/tables/<name>.csv`, numbers with six digits; returns its path."""
    path = paths.tables_dir() / f"{name}.csv"
    with atomic(path) as temporary:
        frame.to_csv(temporary, index=index, float_format="%.6g")
    return path


def save_text(text: str | Iterable[str], name: str) -> Path:
    """Write `results/tables/<name>.md`; returns its path. Several texts become paragraphs."""
    path = paths.tables_dir() / f"{name}.md"
    whole = text if isinstance(text, str) else "\n\n".join(text)
    with atomic(path) as temporary:
        temporary.write_text(whole.rstrip("\n") + "\n", encoding="utf-8")
    return path


def written(*files: Path) -> list[str]:
    """Which files were written, as lines of a Markdown list."""
    return [f"- written: `{paths.shown(file)}`" for file in files]


# --- Whole frames, and networks to look into


def as_markdown(frame: pd.DataFrame, digits: int = 2, missing: str = "") -> str:
    """A frame as a Markdown table, its index as the first columns.

    Numbers have `digits` digits, counts none, and NaN is `missing`. Columns whose name contains "difference" show the sign.
    """
    levels = frame.index.nlevels
    header = [*(str(name or "") for name in frame.index.names), *map(str, frame.columns)]

    def text(value: Any, column: str) -> str:
        if isinstance(value, int | np.integer) and not isinstance(value, bool):
            return f"{value:,}"
        if isinstance(value, float | np.floating):
            return (signed(value, digits) or missing) if "difference" in column else number(value, digits, missing)
        return missing if pd.isna(value) else str(value)

    lines = [
        [*map(str, index if levels > 1 else [index]), *map(text, values, header[levels:])]
        for index, values in zip(frame.index, frame.itertuples(index=False, name=None), strict=True)
    ]
    return markdown_table(header, lines, text_columns=levels)


def load_all(labels: Mapping[str, str], load: Callable[[str], Any]) -> tuple[dict[str, Any], list[str]]:
    """Those methods that can be loaded, by their names, and a line of a Markdown list for each: who trained it, or why it is not run.

    Args:
        labels: name -> what it is called.
        load: gives the method of a name; one whose weights, data or package are missing is left out.
    """
    found, lines = {}, []
    for name, label in labels.items():
        try:
            found[name] = load(name)
            budget = getattr(found[name], "card", {"budget": "none"})["budget"]
            lines.append(f"- {label}: {BUDGETS_IN_WORDS.get(budget, f'budget {budget}')}")
        except (FileNotFoundError, DataUnavailable, ImportError) as error:
            lines.append(f"- **{label}: not run** ({error})")
    return found, lines


def first_network(*names: str, budget: str = papers.RELEASED) -> tuple[Any, list[str]]:
    """The first of some networks whose weights are there, and why each network before it was passed over.

    Args:
        names: networks of the papers, the most wanted first.
        budget: "released", or that of a local run. Weights of authors belong to every budget.

    Raises:
        ValueError: a name or budget that does not exist.
        FileNotFoundError: no weights of any of them.
    """
    reasons = []
    for name in names:
        try:
            return load_network(name, None if budget == papers.RELEASED else budget), reasons
        except (FileNotFoundError, DataUnavailable) as error:
            reasons.append(f"{name}: {error}")
    raise FileNotFoundError(f"no weights to look into: {'; '.join(reasons)}")
