"""`results/report.html`: claims, printed numbers beside ours, figures and all means, on one page that needs no other file."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from invdenoise import paths
from invdenoise.files import atomic
from invdenoise.papers import Paper, resolve
from invdenoise.plan import bench_file
from invdenoise.provenance import VERSION, commit
from invdenoise.report.claims import Decided, claim_counts, decide_all
from invdenoise.report.compare import (
    Results,
    Table,
    all_numbers,
    beside,
    compare,
    convention_effects,
    counts,
    coverage,
    exceeded,
    parts_of,
)
from invdenoise.report.published import explained
from invdenoise.report.tables import in_digits, number, set_label, signed
from invdenoise.tasks.metrics import PARAMETERS, Metric

TEMPLATE = Path(__file__).with_name("page.html.j2")
CURVES = "training-curves.png"  # drawn by report.ipynb itself


# --- How the weights were trained


def cards() -> list[dict[str, Any]]:
    """The cards of the released weights, in alphabetical order. `validation` is their last validation in words, or empty."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(paths.RELEASED_WEIGHTS.glob("*.json"))]
    return [card | {"validation": _validation(card)} for card in found]


def _validation(card: Mapping[str, Any]) -> str:
    values = {key.removeprefix("validation_"): value for key, value in card.items() if key.startswith("validation_")}
    return ", ".join(f"{metric.upper()} {value:.2f}" for metric, value in values.items() if value is not None)


def curves() -> dict[str, pd.DataFrame]:
    """Training curves of the released weights by network."""
    files = sorted(paths.RELEASED_WEIGHTS.glob("*.curve.csv"))
    return {file.name.removesuffix(".curve.csv"): pd.read_csv(file) for file in files}


# --- One paper


PARTS = {  # of the printed numbers, with what stands beside them
    "ours": "networks trained here",
    "authors": "authors' weights",
    "classical": "classical methods",
    "sizes": "numbers of parameters and operations",
    "alone": "nothing of ours",
}


def paper_counts(paper: Paper, numbers: pd.DataFrame, decided: Mapping[str, Decided]) -> dict[str, dict[str, int]]:
    """How much of a paper came to which verdict.

    Args:
        numbers: as `compare.all_numbers` gives them.
        decided: the paper's claims.

    Returns:
        Verdict -> number, for `claims`, and of distinct printed numbers for each of `PARTS`. `others` is "authors" and "classical" in one.
    """
    parts = parts_of(numbers[numbers["paper"] == paper.name])
    found = {"claims": claim_counts(decided.values())} | {name: counts(parts[name]) for name in PARTS}
    return found | {"others": counts(pd.concat([parts["authors"], parts["classical"]]))}


def shown_tables(paper: Paper, results: Results) -> list[dict[str, Any]]:
    """The places of a paper that the report shows.

    Each has its place, title, note and tables, what their `verdicts` mean, what is known of `conventions` and what another one
    would change (`effects`), and the numbers that are `exceeded`.
    """
    found = []
    for place, declared in paper.compare.items():
        if declared.show:
            tables, numbers = beside(paper, place, results), compare(paper, place, results)
            found.append({
                "place": place, "title": declared.title, "note": declared.note, "tables": tables, "verdicts": _legend(tables),
                "conventions": declared.conventions, "effects": convention_effects(numbers, declared.metric),
                "exceeded": [line | {"digits": tables[0].digits(line), "where": _where(line)} for line in exceeded(paper, place, numbers)],
            })  # fmt: skip
    return found


def _where(line: Mapping[str, Any]) -> str:
    """Set, noise level and metric of a row of `compare`, in words."""
    level = "" if pd.isna(line["sigma"]) else f"σ = {line['sigma']:g}"
    metric = "" if line["metric"] == "psnr" else line["metric"].upper()
    return ", ".join(filter(None, [set_label(line["dataset"]) if line["dataset"] else "", level, metric]))


def _legend(tables: list[Table]) -> list[tuple[Metric, dict[str, str]]]:
    """What the verdicts in some tables mean, for each metric in them."""
    cells = [cell for table in tables for _, row in table.rows for cell in row if cell is not None]
    known = {name: metric for table in tables for name, metric in table.metrics.items()}
    legend = []
    for name in dict.fromkeys(cell["metric"] for cell in cells):
        used = {cell["verdict"] for cell in cells if cell["metric"] == name}
        if name in known:
            words = {str(word): text for word, text in explained(known[name]).items() if word in used}
            legend.append((known[name], words))
    return legend


def all_means(paper: Paper, results: Results) -> list[dict[str, Any]]:
    """Every mean of a paper's scores: name of the score, headings of the sets, their columns, and rows.

    A row is a method under one condition. Its cells are the metrics of the task and seconds per picture, set by set.
    """
    found = []
    for score in results.scores(paper):
        means = results.means(score)
        keys = resolve(paper.scores[score.partition("/")[2]].task, "tasks").keys
        metrics = [m for m in results.metrics(score).values() if m.name in means and m.name != PARAMETERS.name]
        rows: dict[tuple, dict[str, list[str]]] = {}
        for mean in means.to_dict("records"):
            name = " ".join(filter(None, [mean["method"], mean["variant"]]))
            where = tuple(
                "" if pd.isna(mean[key]) else f"{mean[key]:g}" if _is_number(mean[key]) else mean[key] for key in keys
            )
            values = [number(mean[metric.name], metric.digits, "–") for metric in metrics]
            rows.setdefault((name, *where), {})[mean["requested"]] = [*values, number(mean["seconds"], 2, "–")]
        found.append({
            "score": score, "keys": keys, "columns": [*(_heading(metric) for metric in metrics), "s / picture"],
            "sets": {name: _set_heading(part) for name, part in means.groupby("requested", sort=False)}, "rows": rows,
        })  # fmt: skip
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def _heading(metric: Metric) -> str:
    return f"{metric.name.upper()} ({metric.unit})" if metric.unit else metric.name.upper()


def _set_heading(means: pd.DataFrame) -> str:
    """A set, how many of its pictures, and which stand in for them."""
    name = means["requested"].iloc[0]
    counted = " or ".join(str(count) for count in sorted(means["num_images"].unique()))
    others = ", ".join(sorted(set(means["dataset"]) - {name}))
    stand_in = f" of {others}, which stand in" if others else ""
    return f"{set_label(name)}, {counted} pictures{stand_in}"


def figures(paper: Paper, folder: Path) -> list[dict[str, str]]:
    """The figures of a paper that were drawn in a results folder: picture, caption and executed notebook, if it is there."""
    found = []
    for name, figure in paper.figures.items():
        page = f"notebooks/figures/{paper.name}/{name}.html"
        for file, caption in figure.captions.items():
            if (drawn := folder / "figures" / file).exists():
                link = page if (folder / page).exists() else ""
                found.append({"source": _embedded(drawn), "caption": caption, "page": link})
    return found


def _embedded(image: Path) -> str:
    """The picture as a data address, so that the page needs no other file."""
    return "data:image/png;base64," + base64.b64encode(image.read_bytes()).decode()


def _section(paper: Paper, results: Results, numbers: pd.DataFrame, decided: dict[str, Decided]) -> dict[str, Any]:
    """All that the page shows of a paper."""
    return {
        "name": paper.name, "title": paper.title, "short": paper.short, "about": paper.about, "cite": paper.cite, "claims": decided,
        "counts": paper_counts(paper, numbers, decided), "tables": shown_tables(paper, results),
        "figures": figures(paper, results.folder), "means": all_means(paper, results),
    }  # fmt: skip


# --- The page


def write_report(results: Results, released: Results | None, budget: str) -> Path:
    """Write `results/report.html`.

    Args:
        results: of this run, or the released ones. Pictures and executed notebooks are taken from its folder.
        released: the released results, shown beside where this run had to use pictures that stand in; or None.
        budget: of the weights.

    Returns:
        The page's path.
    """
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "digits": in_digits,
        "signed": signed,
        "number": number,
        "slug": lambda text: str(text).replace(" ", "-"),
    }
    beside_stand_ins = released if results.stand_in else None
    numbers = all_numbers(results)
    done = coverage(numbers if beside_stand_ins is None else all_numbers(beside_stand_ins))
    sections = [_section(paper, results, numbers, decide_all(paper, results)) for paper in results.papers.values()]
    for section, paper in zip(sections, results.papers.values(), strict=True):
        section["released_claims"] = {} if beside_stand_ins is None else decide_all(paper, beside_stand_ins)
        section["released_tables"] = [] if beside_stand_ins is None else shown_tables(paper, beside_stand_ins)
    drawn = next(
        (file for folder in (results.folder, paths.results_dir()) if (file := folder / "figures" / CURVES).exists()),
        None,
    )
    pages = sorted((results.folder / "notebooks").rglob("*.html"))
    bench = bench_file(results.folder)
    html = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        stand_in=results.stand_in, budget=budget, version=VERSION, commit=commit(), papers=sections,
        parts=PARTS, cards=cards(), curves="" if drawn is None else _embedded(drawn), bench=[] if bench is None else pd.read_csv(bench).to_dict("records"),
        coverage=done.to_dict("records"), total=int(done["published"].sum()), done=int(done["done"].sum()),
        pages=[(page.relative_to(results.folder).as_posix(), page.relative_to(results.folder / "notebooks").with_suffix("")) for page in pages],
    )  # fmt: skip
    path = paths.results_dir() / "report.html"
    with atomic(path) as temporary:
        temporary.write_text(html, encoding="utf-8")
    return path
