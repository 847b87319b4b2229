"""The site in a results folder: `report.html`, a page a paper with its claims, numbers, figures and weights, and the notebooks as pages."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from invdenoise import paths
from invdenoise.files import atomic
from invdenoise.notebooks import write_html
from invdenoise.papers import Paper, resolve
from invdenoise.plan import bench_file
from invdenoise.provenance import VERSION, commit
from invdenoise.report.claims import Decided, claim_counts, decide_all
from invdenoise.report.compare import (
    PARTS,
    Results,
    Table,
    all_numbers,
    beside,
    compare,
    convention_effects,
    counts,
    coverage,
    distinct,
    exceeded,
    parts_of,
)
from invdenoise.report.figures import STYLE
from invdenoise.report.published import Verdict, explained
from invdenoise.report.site import (
    FRONT,
    WEIGHTS,
    notebook_page,
    notebooks,
    paper_of,
    paper_page,
    relative,
    templates,
    title_of,
)
from invdenoise.report.tables import in_digits, number, set_label, signed
from invdenoise.tasks.metrics import PARAMETERS, Metric

# Drawn by report.ipynb itself.
BEFORE_AFTER, CURVES = "before-after.png", "training-curves.png"
CAPTIONS = {
    BEFORE_AFTER: "A photograph that scikit-image ships: with white noise, and denoised by a network trained here. PSNR in dB.",
    CURVES: "Training curves of the released weights, on held-out training pictures.",
}


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


def validated_by(curve: pd.DataFrame) -> str | None:
    """The column of a curve's validation, such as "val_psnr"; None where it was not validated."""
    return next((column for column in curve if column.startswith("val_") and curve[column].notna().any()), None)


def _draw_curve(name: str, curve: pd.DataFrame, folder: Path) -> dict[str, str] | None:
    """Draw a network's validation curve in the site; its address and caption, or None where it was not validated."""
    if (column := validated_by(curve)) is None:
        return None
    curve, metric = curve[curve[column].notna()], column.removeprefix("val_").upper()
    address = f"site/curves/{name}.svg"
    with matplotlib.rc_context(STYLE | {"svg.fonttype": "none"}), atomic(folder / address) as temporary:
        figure = Figure(figsize=(4, 2.6))
        ax = figure.add_subplot(xlabel="patches (thousands)", ylabel=f"validation {metric}")
        ax.plot(curve["patches"] / 1000, curve[column], marker="o", markersize=3)
        figure.savefig(temporary, format="svg", metadata={"Date": None})
    first, last = curve[column].iloc[[0, -1]]
    seen = curve["patches"].iloc[-1]
    caption = f"{name}: validation {metric} from {first:.2f} to {last:.2f} after {seen:,.0f} patches."
    return {"source": address, "caption": caption}


# --- One paper


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


WHY = {
    Verdict.SMALLER_BUDGET: "a moderate miss, after less training than the paper's",
    Verdict.NOT_REPRODUCED: "a larger miss, which less training does not excuse, or one of weights that we did not train",
    Verdict.NO_DATA: "our pictures are not the paper's",
    Verdict.NOT_RUN: "no result of ours, or only of a part of the set",
}


def not_reproduced(paper: Paper, numbers: pd.DataFrame) -> list[dict[str, Any]]:
    """Printed numbers of a paper that ours miss or that have none of ours: a line for each place and verdict, for each of `PARTS`.

    Args:
        numbers: as `compare.all_numbers` gives them.

    Returns:
        `place`, `verdict`, how many distinct `numbers`, `methods` in words, `part` in words, and `why`.
    """
    lines = []
    for part, rows in parts_of(numbers[numbers["paper"] == paper.name]).items():
        missed = distinct(rows)
        for (place, word), found in missed[missed["verdict"].isin(WHY)].groupby(["place", "verdict"], sort=False):
            lines.append({
                "place": place, "verdict": word, "numbers": len(found), "methods": ", ".join(dict.fromkeys(found["label"])),
                "part": PARTS[part], "why": WHY[word],
            })  # fmt: skip
    return lines


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


def figures(paper: Paper, drawn: Path, folder: Path) -> list[dict[str, str]]:
    """The figures of a paper that were drawn: address, caption and the notebook's page, if it is there.

    Args:
        drawn: results folder with the pictures.
        folder: results folder of the site, which addresses start from.
    """
    found = []
    for name, figure in paper.figures.items():
        page = notebook_page(paper.notebook(name))
        for file, caption in figure.captions.items():
            if (picture := drawn / "figures" / file).exists():
                link = page if (folder / page).exists() else ""
                found.append({"source": relative(picture, folder / FRONT), "caption": caption, "page": link})
    return found


def _runs(paper: Paper, folder: Path) -> list[dict[str, str]]:
    """Pages of a paper's executed scores and trainings."""
    scores = sorted((folder / "notebooks" / "scores" / paper.name).rglob("*.html"))
    trained = [folder / "notebooks" / "train" / f"{name}.html" for name in paper.networks]
    found = [*scores, *(page for page in trained if page.exists())]
    places = [page.relative_to(folder / "notebooks") for page in found]
    return [
        {"address": relative(page, folder / FRONT), "title": place.with_suffix("").as_posix()}
        for page, place in zip(found, places, strict=True)
    ]


def _section(paper: Paper, results: Results, numbers: pd.DataFrame, folder: Path) -> dict[str, Any]:
    """All that the page of a paper shows of it."""
    decided = decide_all(paper, results)
    return {
        "name": paper.name, "title": paper.title, "short": paper.short, "about": paper.about, "cite": paper.cite, "claims": decided,
        "counts": paper_counts(paper, numbers, decided), "tables": shown_tables(paper, results), "missing": not_reproduced(paper, numbers),
        "figures": figures(paper, results.folder, folder), "means": all_means(paper, results), "runs": _runs(paper, folder),
        "released_claims": {}, "released_tables": [],
    }  # fmt: skip


# --- The site


HEADINGS = {  # of a paper's page, by what it shows
    "claims": "claims", "tables": "printed numbers", "missing": "what is not reproduced", "figures": "figures", "notebooks": "notebooks",
    "cards": "weights", "means": "all means",
}  # fmt: skip


def write_report(results: Results, released: Results | None, budget: str, folder: Path | None = None) -> Path:
    """Write the site: `report.html`, which is its front page, the pages of papers, weights and notebooks.

    `write_report(read_results(paths.RELEASED), None, "released", paths.RELEASED)` writes the released one anew.

    Args:
        results: of this run, or the released ones. Figures are taken from its folder.
        released: the released results, shown beside where this run had to use pictures that stand in; or None.
        budget: of the weights.
        folder: of the site, `results/` if it is None. Notebooks that were executed there keep their pages. The others are shown as
            they are stored in the checkout.

    Returns:
        Path of the front page.
    """
    folder = paths.results_dir() if folder is None else folder
    environment = templates()
    environment.filters |= {
        "digits": in_digits,
        "signed": signed,
        "number": number,
        "slug": lambda text: str(text).replace(" ", "-"),
    }
    pages = _write_notebooks(folder)
    lines, owners = curves(), {name: paper for paper in results.papers.values() for name in paper.networks}
    trained = []
    for card in cards():
        name = card["experiment"]
        drawn = _draw_curve(name, lines[name], folder) if name in lines else None
        trained.append(card | {"curve": drawn, "paper": owners.get(name)})
    beside_stand_ins = released if results.stand_in else None
    numbers = all_numbers(results)
    done = coverage(numbers if beside_stand_ins is None else all_numbers(beside_stand_ins))
    sections = []
    for paper in results.papers.values():
        section = _section(paper, results, numbers, folder)
        section["notebooks"] = [page for page in pages if page["paper"] == paper.name]
        section["cards"] = [card for card in trained if card["paper"] is paper]
        if beside_stand_ins is not None:
            section["released_claims"] = decide_all(paper, beside_stand_ins)
            section["released_tables"] = shown_tables(paper, beside_stand_ins)
        sections.append(section)
    parts = parts_of(numbers[numbers["paper"].isin(results.papers)])
    own = done[done["paper"].isin(results.papers)]
    decided = [claim for section in sections for claim in section["claims"].values()]
    bench = bench_file(results.folder)

    def write(address: str, template: str, title: str, **values: Any) -> Path:
        text = environment.get_template(template).render(
            title=title, top="../" * address.count("/"), front=FRONT, weights=WEIGHTS, paper_page=paper_page, stand_in=results.stand_in,
            budget=budget, parts=PARTS, **values,
        )  # fmt: skip
        with atomic(folder / address) as temporary:
            temporary.write_text(text, encoding="utf-8")
        return folder / address

    for section in sections:
        here = [(key, heading) for key, heading in HEADINGS.items() if section[key]]
        write(paper_page(section["name"]), "paper.html.j2", section["short"], paper=section, sections=here)
    write(WEIGHTS, "weights.html.j2", "Weights trained here", cards=trained, drawn=_drawn(CURVES, results, folder))
    return write(
        FRONT, "page.html.j2", "Invertible networks for image denoising",
        version=VERSION, commit=commit(), papers=sections, notebooks=[page for page in pages if page["shared"]],
        summary={"claims": claim_counts(decided)} | {name: counts(parts[name]) for name in PARTS}
        | {"published": int(own["published"].sum()), "done": int(own["done"].sum())},
        drawn=_drawn(BEFORE_AFTER, results, folder), bench=[] if bench is None else pd.read_csv(bench).to_dict("records"),
        coverage=done.to_dict("records"), total=int(done["published"].sum()), done=int(done["done"].sum()),
    )  # fmt: skip


def _drawn(file: str, results: Results, folder: Path) -> list[dict[str, str]]:
    """A figure of report.ipynb itself, in a list; an empty one where it was not drawn."""
    pictures = [place / "figures" / file for place in (results.folder, folder)]
    found = [relative(picture, folder / FRONT) for picture in pictures if picture.exists()]
    return [{"source": source, "caption": CAPTIONS[file], "page": ""} for source in found[:1]]


def _write_notebooks(folder: Path) -> list[dict[str, Any]]:
    """Write pages of the stored notebooks that were not executed here.

    Returns:
        For each notebook `address`, `title`, the `paper` that it belongs to, or None, and whether it is `shared`: in no paper's folder.
    """
    pages = []
    for place, notebook in notebooks().items():
        page = folder / (address := notebook_page(place))
        if not page.with_suffix(".ipynb").exists():
            write_html(notebook, page, notebook, folder)
        paper = paper_of(address)
        name = paper.name if paper else None
        pages.append({"address": address, "title": title_of(notebook), "paper": name, "shared": "/" not in place})
    return pages
