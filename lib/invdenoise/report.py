"""The report: every published number beside ours on one self-contained page, and the same table for the README."""

from __future__ import annotations

import base64
import json
import math
import statistics
from dataclasses import dataclass
from pathlib import Path

import jinja2
import pandas as pd

import invdenoise
from invdenoise import classical, paths
from invdenoise.evaluation import read_scores, summarise
from invdenoise.experiments import ablations
from invdenoise.files import atomic
from invdenoise.provenance import commit
from invdenoise.published import (
    BLIND,
    OUR_NAMES,
    Verdict,
    compare,
    coverage,
    load_published,
    our_names,
    variant_of,
    whose,
)

TEMPLATE = Path(__file__).with_name("report.html.j2")

# Rows of Table I in the paper's order: identifier of the published numbers -> what to print.
TABLE1_NAMES = {
    "bm3d": "BM3D", "wnnm": "WNNM", "epll": "EPLL", "tnrd": "TNRD", "dncnn": "DnCNN",
    "dninn-st": "DnINN-ST", "dninn-lista": "DnINN-LISTA",
    "dninn-st-2scale": "DnINN-ST, 2 scales", "dninn-lista-2scale": "DnINN-LISTA, 2 scales",
}  # fmt: skip

# What a variant of DnINN is compared with, to see what it alone adds.
VARIANT_PAIRS = {
    "LISTA": [("dninn-lista", "dninn-st"), ("dninn-lista-2scale", "dninn-st-2scale")],
    "a second scale": [("dninn-st-2scale", "dninn-st"), ("dninn-lista-2scale", "dninn-lista")],
}

# Rows of WINNet's table of blind denoising for each dataset, in the slides' order.
BLIND_PLACE = "slide: Experimental Results — Blind denoising"
BLIND_NAMES = {"dncnn-b": "DnCNN-B", "buifd": "BUIFD", "bf-cnn": "BF-CNN", "winnet-blind": "WINNet"}
BLIND_DATASETS = {"bsd68": "BSD68", "set12": "Set12"}


@dataclass(frozen=True)
class Results:
    """Everything a report reads, from one results folder.

    Attributes:
        folder: the results folder.
        summary: means over pictures, as `evaluation.summarise` gives them.
        comparison: every published PSNR beside ours, as `published.compare` gives it.
    """

    folder: Path
    summary: pd.DataFrame
    comparison: pd.DataFrame

    @property
    def stand_in(self) -> bool:
        """Whether some scores are of the embedded pictures instead of the dataset that was asked for."""
        return bool((self.summary["dataset"] != self.summary["requested"]).any())


def read_results(folder: Path) -> Results:
    """The results in a folder (`results/` or `results/released/`); FileNotFoundError when there are no scores."""
    summary = summarise(read_scores(folder / "scores"))
    return Results(folder, summary, compare(load_published(), summary))


def table1(results: Results) -> pd.DataFrame:
    """Table I of LINN, a row per method: name, and per noise level published, ours, difference and verdict.

    A method of which there are our own and its authors' weights has a row for each.
    """
    table = results.comparison
    return _beside(table[(table["paper"] == "linn") & (table["place"] == "Table I")], TABLE1_NAMES)


def blind_table(results: Results) -> pd.DataFrame:
    """WINNet's table of blind denoising, a row per dataset and method: dataset, then the columns of `table1`."""
    table = results.comparison
    table = table[(table["paper"] == "winnet") & (table["place"] == BLIND_PLACE)]
    parts = {name: _beside(table[table["dataset"] == dataset], BLIND_NAMES) for dataset, name in BLIND_DATASETS.items()}
    return pd.concat([part.assign(dataset=name) for name, part in parts.items()], ignore_index=True)


def variant_gains(results: Results) -> pd.DataFrame:
    """What LISTA and a second scale add to DnINN in Table I, in dB: mean of the differences in which only they differ.

    Returns:
        Rows "LISTA" and "a second scale"; columns `published` and `ours`, NaN where not all their networks were run on the paper's pictures.
    """
    table = table1(results).drop_duplicates("method").set_index("method")
    rows = {}
    for gain, pairs in VARIANT_PAIRS.items():

        def mean(column: str, pairs: list[tuple[str, str]] = pairs) -> float:
            columns = [f"{column}_{sigma}" for sigma in _sigmas(table)]
            return statistics.fmean(
                table.loc[more, name] - table.loc[less, name] for more, less in pairs for name in columns
            )

        published = mean("published")
        rows[gain] = {"published": published, "ours": published + mean("difference")}  # no difference, no comparison
    return pd.DataFrame.from_dict(rows, orient="index")


def _beside(table: pd.DataFrame, names: dict[str, str]) -> pd.DataFrame:
    """Rows of `published.compare`, one dataset's, laid out as `table1` says, in the order of `names`."""
    rows = []
    families = table["our_method"].map(without_level)
    for method, name in names.items():
        own = table[table["method"] == method]
        for family in sorted(set(families[own.index]) - {""}) or [""]:
            origin = whose(family)
            row = {"method": method, "name": f"{name} ({origin})" if origin else name}
            for sigma, level in own.groupby("sigma"):
                found = level[families[level.index] == family]
                if found.empty:  # this family was not run here
                    found = level.assign(ours=math.nan, difference=math.nan, verdict=Verdict.NOT_RUN)
                for key in ("published", "ours", "difference", "verdict"):
                    row[f"{key}_{sigma:g}"] = found[key].iloc[0]
            rows.append(row)
    return pd.DataFrame(rows)


def _sigmas(table: pd.DataFrame) -> list[str]:
    """Noise levels of a table of `_beside`, as its columns have them."""
    return [column.removeprefix("published_") for column in table.columns if column.startswith("published_")]


def linn_methods() -> set[str]:
    """Our names, without noise level, of what stands in LINN's table, and of the classical methods beside it."""
    return {name for method in TABLE1_NAMES for name in our_names(method)} | set(classical.METHODS)


def without_level(method: str | float | None) -> str:
    """A method without its noise level; the empty string for none (None or NaN)."""
    if pd.isna(method):
        return ""
    head, _, level = method.rpartition("-s")
    return head if level.isdigit() else method


def done_and_left(results: Results) -> pd.DataFrame:
    """Published numbers and how many of them we have a result beside, by paper and place."""
    done = results.summary
    done = done[done["dataset"] == done["requested"]].copy()
    printed = {ours: method for method, names in OUR_NAMES.items() for ours in names}
    # Published rows name the method without the noise level it was trained for.
    trained = done["method"].map(without_level).map(lambda name: printed.get(name, name))
    belongs = done["variant"] == trained.map(variant_of)
    done, trained = done[belongs], trained[belongs]
    rows = [
        done.assign(method=trained, sigma=done["sigma_test"], metric=metric)[["method", "requested", "sigma", "metric"]]
        for metric in ("psnr", "ssim")
    ]
    sizes = done.assign(method=trained, sigma=math.nan, metric="parameters", requested="")
    rows.append(sizes[["method", "requested", "sigma", "metric"]])
    return coverage(pd.concat(rows).rename(columns={"requested": "dataset"}).drop_duplicates())


def cards() -> list[dict]:
    """The cards of the released weights, in alphabetical order."""
    return [json.loads(path.read_text()) for path in sorted(paths.RELEASED_WEIGHTS.glob("*.json"))]


def curves() -> dict[str, pd.DataFrame]:
    """Training curves of the released weights by experiment."""
    files = sorted(paths.RELEASED_WEIGHTS.glob("*.curve.csv"))
    return {file.name.removesuffix(".curve.csv"): pd.read_csv(file) for file in files}


def finished_ablations(folder: Path) -> dict[str, Path]:
    """Training curves of the ablations that were trained to their declared end, in the order of `experiments.yaml`.

    Args:
        folder: a results folder, which has them with its runs, or the released one, which has them by themselves.

    Returns:
        Files by the ablation's name.
    """
    found = {}
    for name, spec in ablations().items():
        for file in (folder / "runs" / name / "laptop" / "curve.csv", folder / "ablations" / f"{name}.csv"):
            if file.exists() and pd.read_csv(file)["step"].max() == spec.recipe("laptop").steps:
                found[name] = file
    return found


def ablation_curves(folder: Path) -> dict[str, Path]:
    """The ablations to show for a results folder: its own once all are finished, else the released ones.

    Where none were released, its own as far as they are finished. Files by the ablation's name.
    """
    own = finished_ablations(folder)
    return own if len(own) == len(ablations()) else finished_ablations(paths.RELEASED) or own


def bench_file(folder: Path) -> Path | None:
    """Measurements of speed and memory: those of a results folder, else the released ones; None when there are none."""
    return next((place / "bench.csv" for place in (folder, paths.RELEASED) if (place / "bench.csv").exists()), None)


def has_blind(results: Results) -> bool:
    """Whether some method was run without being told the noise level."""
    return bool((results.summary["variant"] == BLIND).any())


def verdict_counts(results: Results, paper: str = "linn", place: str = "Table I") -> dict[str, int]:
    """How many numbers of a place came to each verdict."""
    table = results.comparison
    table = table[(table["paper"] == paper) & (table["place"] == place)]
    return table["verdict"].value_counts().to_dict()


def write_report(results: Results, released: Results | None, budget: str, figures: list[tuple[str, str, str]]) -> Path:
    """Write `results/report.html`.

    Args:
        results: of this run, or the released ones; pictures and pages are taken from its folder.
        released: of the maintainers' run, shown beside when this run had to use the embedded pictures; or None.
        budget: of the weights.
        figures: file name below `figures/`, caption, and executed notebook below `notebooks/`.

    Returns:
        The page's path.
    """
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters["db"] = lambda value: "–" if pd.isna(value) else f"{value:.2f}"
    environment.filters["digits"] = in_digits
    environment.filters["signed"] = lambda value: "" if pd.isna(value) else f"{value:+.2f}"
    pages = sorted((results.folder / "notebooks").rglob("*.html"))
    left = done_and_left(released if results.stand_in and released else results)
    shown = [
        (path.name, _embedded(path), caption, page if (results.folder / page).exists() else "")
        for path, caption, page in _existing(results.folder, figures)
    ]
    blind, released_blind = (
        None if run is None or not has_blind(run) else blind_table(run) for run in (results, released)
    )
    html = environment.from_string(TEMPLATE.read_text()).render(
        results=results, released=released, budget=budget, version=invdenoise.__version__, commit=commit(),
        table=table1(results), released_table=table1(released) if released is not None else None,
        gains=variant_gains(results).to_dict("index"), counts=verdict_counts(results), sigmas=("15", "25", "50"), datasets=list(BLIND_DATASETS.values()),
        blind=blind, released_blind=released_blind, blind_sigmas=_sigmas(blind_table(results)),
        blind_counts=verdict_counts(results, "winnet", BLIND_PLACE),
        beyond=_beyond(results.summary), cards=cards(), coverage=left.to_dict("records"),
        total=int(left["published"].sum()), done=int(left["done"].sum()),
        figures=[figure[1:] for figure in shown if not figure[0].startswith("winnet-")],
        winnet_figures=[figure[1:] for figure in shown if figure[0].startswith("winnet-")],
        bench=_bench(results.folder),
        pages=[(page.relative_to(results.folder), page.relative_to(results.folder / "notebooks").with_suffix("")) for page in pages],
    )  # fmt: skip
    path = paths.results_dir() / "report.html"
    with atomic(path) as temporary:
        temporary.write_text(html)
    return path


def _existing(folder: Path, figures: list[tuple[str, str, str]]) -> list[tuple[Path, str, str]]:
    """The figures that were drawn, in the run's folder or, for those drawn by the report itself, in this one."""
    found = []
    for file, caption, page in figures:
        places = [place / "figures" / file for place in (folder, paths.results_dir())]
        found += [(path, caption, page) for path in places if path.exists()][:1]
    return found


def _bench(folder: Path) -> list[dict]:
    """Rows of `bench.csv`; empty when it was never measured."""
    file = bench_file(folder)
    return [] if file is None else pd.read_csv(file).to_dict("records")


def _beyond(summary: pd.DataFrame) -> list[dict]:
    """What LINN's paper lacks: Set12, SSIM and seconds, one row per method and noise level."""
    table = summary[(summary["variant"] == "") & summary["requested"].isin(["bsd68", "set12", "embedded"])]
    table = table[table["method"].map(without_level).isin(linn_methods())]
    rows = {}
    for entry in table.to_dict("records"):
        row = rows.setdefault((entry["method"], entry["sigma_test"]), {"method": entry["method"]})
        row["sigma"] = entry["sigma_test"]
        for key in ("psnr", "ssim", "seconds"):
            row[f"{key}_{entry['requested']}"] = entry[key]
    return list(rows.values())


def in_digits(value: float) -> str:
    """A measured number in three digits, or as a whole number from 1000 on."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _embedded(image: Path) -> str:
    """The picture as a data address, so that the page needs no other file."""
    return "data:image/png;base64," + base64.b64encode(image.read_bytes()).decode()


def markdown_table(results: Results) -> str:
    """Table I as Markdown for the README: published / ours and the verdict, per noise level."""
    return _markdown("LINN, Table I (BSD68, PSNR in dB)", table1(results))


def variants_markdown(results: Results) -> str:
    """`variant_gains` as a sentence for the README."""
    parts = []
    for gain, row in variant_gains(results).iterrows():
        ours = "not run" if pd.isna(row["ours"]) else f"**{row['ours']:+.3f}**"
        parts.append(f"{gain} {row['published']:+.3f} / {ours}")
    return f"What a variant of DnINN adds, mean of the differences in dB, published / **ours**: {', '.join(parts)}.\n".replace(
        "-0.", "−0."
    )


def blind_markdown(results: Results) -> str:
    """WINNet's table of blind denoising as Markdown for the README, as `markdown_table`."""
    table = blind_table(results)
    return _markdown("WINNet, blind (PSNR in dB)", table.assign(name=table["dataset"] + ", " + table["name"]))


def _markdown(title: str, table: pd.DataFrame) -> str:
    sigmas = _sigmas(table)
    lines = [f"| {title} | {' | '.join(f'σ = {sigma}' for sigma in sigmas)} |", "|---" * (len(sigmas) + 1) + "|"]
    for row in table.to_dict("records"):
        cells = []
        for sigma in sigmas:
            published, ours = row[f"published_{sigma}"], row[f"ours_{sigma}"]
            number = f"{published:.2f}" if pd.isna(ours) else f"{published:.2f} / **{ours:.2f}**"
            cells.append(f"{number} {row[f'verdict_{sigma}']}")
        lines.append(f"| {row['name']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
