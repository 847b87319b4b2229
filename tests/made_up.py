"""A made-up paper with printed numbers, claims and scores, for the tests of the report."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from invdenoise import paths
from invdenoise.papers import Paper, ablations, read_papers
from invdenoise.report.compare import Results
from invdenoise.report.published import COLUMNS
from invdenoise.tasks.awgn import Denoise
from invdenoise.tasks.base import columns_of, write_scores

NUM_PICTURES = 12  # of Set12, which the numbers are printed for
TABLE, TALK, ELSEWHERE, SECTION = "Table 1", "slide: Results", "Table 2", "Section 5"
YAML = """
title: A made-up paper
short: Toy
order: 1
cite: Nobody, "A made-up paper", 2020
about: It denoises.
scores:
  plain:
    task: awgn.Denoise
    runs: [{methods: [alpha-s15, alpha-s25, alpha-authors-s25, beta, epsilon], sets: set12, conditions: {sigma: [15, 25]}}]
  few:
    task: awgn.Denoise
    runs: [{methods: [one, two, three], sets: set12, conditions: {sigma: [15, 25]}, limit: 4}]
figures:
  drawn: {reads: plain, captions: {drawn.png: "The <first> figure"}}
  missing: {reads: plain, captions: {missing.png: Not drawn}}
compare:
  Table 1:
    title: PSNR on Set12 (dB)
    reads: plain
    rows:
      alpha: {label: Alpha, ours: {alpha: "", alpha-authors: authors' weights}}
      beta: {label: Beta, ours: {beta: ""}}
      gamma: {label: Gamma}
    note: Beta is not trained.
  "slide: Results":
    reads: plain
    rows: Table 1
    show: false
  Table 2:
    reads: plain
    by: dataset
    rows: {alpha: {label: Alpha, ours: {alpha: ""}}}
    show: false
claims:
  better:
    says: One is better than two.
    place: Section 4
    test: {paired: [[one, two]], reads: few, where: {sigma: [15]}, least: 0}
    note: By the abstract.
  every:
    says: One is better than two at every noise level.
    place: Section 4
    test: {paired: [[one, two]], reads: few, least: 0, every: true}
  size:
    says: One has a quarter of the parameters of two.
    place: Abstract
    test: {ratio: [one, two], reads: few, metric: num_parameters, least: 0.225, most: 0.275}
  absent:
    says: One is better than Gamma.
    place: Abstract
    test: {paired: [[one, gamma]], reads: few, least: 0}
"""
# Beside the paper: ablations with three seeds, and claims about them. `ablated` makes the curves.
ABLATIONS = """
recipes: {plain: {smoke: &short {steps: 40, batch_size: 4, validate_every: 20}, laptop: *short, paper: *short}}
networks:
  net:
    model: dncnn.DnCNN
    sigma: 25
    source: {kind: batches.WhiteNoise, set: bsd400}
    task: awgn.Denoise
    recipe: plain
ablations: {of: net, prefix: toy-ablation, seeds: [0, 1, 2], common: {}, changes: {none: {}, wide: {}, deep: {}}}
"""
# place, row, dataset, sigma, metric, unit, value, method
PRINTED = (
    (TABLE, "Alpha [1]", "set12", 15, "psnr", "dB", 30.0, "alpha"),
    (TABLE, "Alpha [1]", "set12", 25, "psnr", "dB", 28.0, "alpha"),
    (TABLE, "Alpha [1]", "", "", "parameters", "parameters", 1000, "alpha"),
    (TABLE, "Beta [2]", "set12", 15, "psnr", "dB", 31.0, "beta"),
    (TABLE, "Beta [2]", "set12", 25, "psnr", "dB", 29.0, "beta"),
    (TABLE, "Beta [2]", "set12", 25, "ssim", "", 0.9, "beta"),
    (TABLE, "Beta [2]", "", "", "flops", "GFLOPs", 7, "beta"),
    (TABLE, "Gamma [3]", "set12", 15, "psnr", "dB", 29.5, "gamma"),
    (TABLE, "Gamma [3]", "set12", 25, "psnr", "dB", 27.5, "gamma"),
    (TALK, "Alpha", "set12", 25, "psnr", "dB", 28.0, "alpha"),
    (ELSEWHERE, "Alpha", "set12", 15, "psnr", "dB", 30.0, "alpha"),
    (ELSEWHERE, "Alpha", "celeba", 15, "psnr", "dB", 33.0, "alpha"),
    (SECTION, "Alpha", "set12", 25, "psnr", "dB", 28.0, "alpha"),
    (SECTION, "Gamma", "set12", 50, "psnr", "dB", 24.0, "gamma"),
)
# What was scored: method, noise level, distance from the printed PSNR, budget.
SCORED = (
    ("alpha-s15", 15, 30.0 - 0.1, "laptop"),
    ("alpha-s25", 25, 28.0 - 1.0, "laptop"),
    ("alpha-authors-s25", 25, 28.0 + 0.02, "authors"),
    ("beta", 15, 31.0 + 0.06, "none"),
    ("beta", 25, 29.0 - 0.5, "none"),
    ("epsilon", 25, 20.0, "none"),  # in no table
)
DIFFERENCES = {15: (1.0, 2.0, 3.0, 2.0), 25: (-1.0, 1.0, -1.0, 1.0)}  # one - two, a picture each


def write_published(folder: Path, printed=PRINTED, paper: str = "toy") -> Path:
    """The printed numbers as `data/published` has them."""
    rows = [
        dict(zip(("place", "row", "dataset", "sigma", "metric", "unit", "value", "method"), number, strict=True))
        | {"paper": paper, "column": f"σ = {number[3]}", "printed": str(number[6]), "note": ""}
        for number in printed
    ]
    folder.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows, columns=COLUMNS).to_csv(folder / f"{paper}.csv", index=False)
    return folder


def write_paper(folder: Path, yaml: str = YAML, name: str = "toy") -> dict[str, Paper]:
    """The paper's folder below `folder`, read."""
    (folder / name).mkdir(parents=True)
    (folder / name / "paper.yaml").write_text(yaml)
    return read_papers(folder)


def rows_of(method: str, sigma: float | None, psnr, **entries) -> pd.DataFrame:
    """Score rows: a picture for each value of `psnr`, or all of Set12 around one value."""
    if isinstance(psnr, int | float):
        psnr = [psnr + (0.5 if index % 2 else -0.5) for index in range(NUM_PICTURES)]
    usual = {
        "method": method, "variant": "", "requested": "set12", "dataset": "set12", "sigma": sigma, "ssim": 0.9, "psnr_rounded": 1.0,
        "psnr_noisy": 1.0, "seconds": 0.5, "megapixels": 0.07, "device": "cpu", "seed": 0, "num_parameters": 1000, "budget": "laptop",
        "version": "1", "commit": "abc", "task": "awgn.Denoise",
    }  # fmt: skip
    rows = [usual | {"image": f"{index:02d}", "psnr": value} | entries for index, value in enumerate(psnr)]
    return pd.DataFrame(rows, columns=columns_of(Denoise()))


def write_rows(rows: pd.DataFrame, folder: Path, name: str, score: str = "toy/plain") -> None:
    """A score file in a results folder."""
    write_scores(rows.assign(num_rows=len(rows)), folder / "scores" / score / f"{name}.csv")


def write_run(folder: Path, **entries) -> Path:
    """The scores of the paper in a results folder; `entries` are the same in every row."""
    for method, sigma, psnr, budget in SCORED:
        write_rows(rows_of(method, sigma, psnr, budget=budget, **entries), folder, f"{method}-{sigma}")
    write_few(folder, **entries)
    return folder


def write_few(folder: Path, differences=DIFFERENCES, **entries) -> Path:
    """Scores of the methods `one` and `two` on four pictures, which differ by `differences`."""
    base = (30.0, 31.0, 28.0, 25.0)
    for sigma, gaps in differences.items():
        first = [value + gap for value, gap in zip(base, gaps, strict=True)]
        for method, psnr, size in (("one", first, 250), ("two", base, 1000)):
            rows = rows_of(method, sigma, psnr, **{"num_parameters": size, **entries})
            write_rows(rows, folder, f"{method}-{sigma}", "toy/few")
    return folder


def write_curve(file: Path, name: str, psnr: float = 28.0, part: float = 1.0) -> Path:
    """The training curve of an ablation up to a part of its declared length, ending at `psnr`."""
    recipe = ablations()[name].recipe("laptop")
    end = round(part * recipe.steps)
    rows = [
        {"step": step, "patches": step * recipe.batch_size, "val_psnr": psnr - (end - step) / recipe.steps}
        for step in range(recipe.validate_every, end + 1, recipe.validate_every)
    ]
    file.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows, columns=["step", "patches", "val_psnr"]).to_csv(file, index=False)
    return file


def write_seeds(folder: Path, **ends: tuple[float, ...]) -> Path:
    """Finished curves of the made-up paper's ablations in a results folder: change -> last validation PSNR of seeds 0, 1, ..."""
    for change, values in ends.items():
        for seed, psnr in enumerate(values):
            name = f"toy-ablation-{change}-seed{seed}"
            write_curve(folder / "runs" / name / "laptop" / "curve.csv", name, psnr)
    return folder


@pytest.fixture
def toy(tmp_path, monkeypatch) -> Paper:
    """The made-up paper, whose numbers are all that is printed."""
    monkeypatch.setattr(paths, "PUBLISHED", write_published(tmp_path / "published"))
    return write_paper(tmp_path / "notebooks")["toy"]


@pytest.fixture
def run(tmp_path, toy) -> Results:
    """Its scores."""
    return Results(write_run(tmp_path / "results"), {"toy": toy})
