"""The whole graph on the smoke budget: all of it once, then nothing, then only what is missing, then a failure."""

from __future__ import annotations

import html
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from links import follow

from invdenoise import methods, papers, paths, plan
from invdenoise.files import sha256
from invdenoise.report import site
from invdenoise.report.compare import PARTS
from invdenoise.tasks.base import columns_of, conditions_of, make_task
from invdenoise.weights import weights_path

pytestmark = pytest.mark.graph

SCORE = "linn/table1/wavelet-bayes.bsd68"
NETWORK = "dninn-lista-s25"
FAILING = f"linn/table1/{NETWORK}.bsd68"


class Graph:
    """A results folder and what `make paper BUDGET=smoke` makes in it."""

    def __init__(self, folder: Path):
        self.environment = os.environ | {"INVDENOISE_RESULTS": str(folder), "PYTHONPATH": str(paths.ROOT / "lib")}
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("INVDENOISE_RESULTS", str(folder))
            self.plan = plan.make_plan("smoke")
        self.results = self.plan.results
        self.pages = [f"scores/{name}" for name in self.plan.jobs]
        self.pages += [f"train/{name}" for name in self.plan.trainings]
        self.pages += [*(f"figures/{name}" for name in self.plan.drawings), "report"]
        self.first = self.run()

    def run(self) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "invdenoise.run", "--budget", "smoke"]
        return subprocess.run(command, env=self.environment, cwd="/", capture_output=True, text=True)

    def written(self) -> dict[str, int]:
        """When each result was written last, without the graph's own notes."""
        notes = {"lock", "paper.log", ".snakemake"}
        inside = ((path, path.relative_to(self.results)) for path in self.results.rglob("*"))
        files = [path for path, place in inside if path.is_file() and not notes & set(place.parts)]
        return {str(path.relative_to(self.results)): path.stat().st_mtime_ns for path in files}


@pytest.fixture(scope="module")
def graph(tmp_path_factory) -> Graph:
    made = Graph(tmp_path_factory.mktemp("smoke"))
    if made.first.returncode:
        pytest.fail(made.first.stdout + made.first.stderr)
    return made


def conclusion(done: subprocess.CompletedProcess) -> list[str]:
    """What the command says after its last job: lines for each paper, and where the report is."""
    lines = done.stdout.splitlines()
    return lines[max(place for place, line in enumerate(lines) if line.startswith("[")) + 1 :]


def test_one_command_makes_everything(graph):
    lines = graph.first.stdout.splitlines()
    assert f"{len(graph.pages)} jobs to do" in lines
    *verdicts, last = conclusion(graph.first)
    counted = f"[{len(graph.pages)}/{len(graph.pages)}] report   left about 0 s"
    assert lines[-len(verdicts) - 2] == counted
    named = [line.partition(":")[0].rpartition(", ")[::2] for line in verdicts]
    assert list(dict.fromkeys(paper for paper, _ in named)) == [paper.short for paper in papers.papers().values()]
    assert {part for _, part in named} <= set(PARTS.values())
    assert last == f"report: {graph.results / 'report.html'}"
    pictures = {pd.read_csv(path)["dataset"][0] for path in (graph.results / "scores").rglob("*.csv")}
    stand_ins = {name for name in pictures if name.startswith("embedded")}
    assert stand_ins in (set(), pictures)
    assert stand_ins or pictures == {job.dataset for job in graph.plan.jobs.values()}
    banner = "These are not the papers' pictures." if stand_ins else "No number here is a result."
    assert banner in (graph.results / "report.html").read_text()


def test_every_planned_score_is_there_with_its_rows_and_its_origin(graph):
    found = {str(path.relative_to(graph.results / "scores")) for path in (graph.results / "scores").rglob("*.csv")}
    assert found == {f"{name}.csv" for name in graph.plan.jobs}
    for name, job in graph.plan.jobs.items():
        scores = pd.read_csv(graph.results / "scores" / f"{name}.csv", keep_default_na=False)
        task = make_task(job.task, job.settings)
        assert list(scores.columns) == columns_of(task)
        expected = [condition for condition in conditions_of(job.conditions) for _ in range(job.limit)]
        assert scores[list(job.conditions)].to_dict("records") == expected
        assert set(scores["method"]) == {job.method} and set(scores["requested"]) == {job.dataset}
        assert set(scores["variant"]) == {job.variant} and set(scores["task"]) == {job.task}
        if "psnr" in scores:
            assert scores["psnr"].between(5, 60).all()
        parts = methods.parts_of(job.method) if job.method in graph.plan.trainings else []
        assert set(scores["weights_sha256"]) == {"+".join(sha256(graph.plan.weights_file(part)) for part in parts)}


def test_every_notebook_ran_to_its_end_and_has_a_page(graph):
    for name in graph.pages:
        notebook = nbformat.read(graph.results / "notebooks" / f"{name}.ipynb", as_version=4)
        code = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
        code = [cell for cell in code if "skip-execution" not in cell.metadata.get("tags", [])]  # needs someone at it
        assert code and all(cell.execution_count for cell in code), name
        page = (graph.results / "notebooks" / f"{name}.html").read_text()
        assert "</html>" in page
        assert not re.search(r"<(script|img|link)[^>]* (src|href)=\"(?!data:)", page), "needs more than this file"
    assert not list(graph.results.rglob("*.failed.ipynb"))


def test_the_report_shows_every_figure_that_is_drawn(graph):
    """A notebook whose inputs a smoke run has not, such as measurements, may draw nothing."""
    drawn = {path.name for path in (graph.results / "figures").glob("*.png")}
    declared = [figure.captions for paper in papers.papers().values() for figure in paper.figures.values()]
    captions = {file: caption for of_figure in declared for file, caption in of_figure.items()}
    assert {"linn-table1.png", "linn-fig4.png", "linn-fig5.png", "winnet-blind.png"} <= drawn & captions.keys()
    pages = [(graph.results / "site" / f"{paper}.html").read_text() for paper in papers.papers()]
    page = html.unescape("".join(pages))
    assert all((f"<figcaption>{caption}" in page) == (file in drawn) for file, caption in captions.items())


def test_every_page_is_reached_from_the_report_and_every_link_works(graph):
    reached = follow(graph.results / "report.html")
    assert {graph.results / "notebooks" / f"{name}.html" for name in graph.pages} <= reached
    assert {graph.results / site.notebook_page(place) for place in site.notebooks()} <= reached


def test_a_smoke_run_touches_no_released_weights(graph):
    trained = [
        methods.load_network(name, weights=graph.plan.weights_file(name), with_parts=False)
        for name in graph.plan.trainings
    ]
    assert {network.card["budget"] for network in trained} == {"smoke"}
    assert not any(weights_path(name).is_relative_to(graph.results) for name in graph.plan.trainings)


def test_the_same_command_again_does_nothing(graph):
    before = graph.written()
    again = graph.run()
    assert again.returncode == 0
    left_out = [f"left out: {line}" for line in graph.plan.missing]
    assert again.stdout.splitlines() == [*left_out, *conclusion(graph.first)]
    assert graph.written() == before


def test_a_missing_score_is_made_again_with_what_hangs_on_it_and_no_more(graph):
    score = graph.results / "scores" / f"{SCORE}.csv"
    old = pd.read_csv(score)
    before = graph.written()
    score.unlink()
    again = graph.run()
    assert again.returncode == 0
    hang_on_it = [name for name, drawing in graph.plan.drawings.items() if f"{SCORE}.csv" in drawing.scores]
    assert set(hang_on_it) == {"linn/table1_psnr", "linn/training_cost", "winnet/nonblind_set12", "fdn/across_papers"}
    assert f"{len(hang_on_it) + 2} jobs to do" in again.stdout.splitlines()
    after = graph.written()
    assert after.keys() == before.keys()
    changed = {name for name in after if after[name] != before[name]}
    pages = {
        f"notebooks/{name}.ipynb" for name in (f"scores/{SCORE}", *(f"figures/{one}" for one in hang_on_it), "report")
    }
    assert {name for name in changed if name.endswith(".ipynb")} == pages
    assert {name for name in changed if name.startswith(("scores", "runs"))} == {f"scores/{SCORE}.csv"}
    assert "report.html" in changed
    same = [column for column in old.columns if column != "seconds"]
    pd.testing.assert_frame_equal(pd.read_csv(score)[same], old[same])


def test_a_failure_is_named_and_leaves_all_other_results(graph):
    """Last, for it leaves a network without new scores."""
    weights = graph.plan.weights_file(NETWORK)
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    before = graph.written()
    score, page = f"scores/{FAILING}.csv", f"notebooks/scores/{FAILING}"
    earlier = (graph.results / score).read_bytes()
    failed = graph.run()
    assert failed.returncode == 1
    assert f"Error in rule score: {FAILING}" in failed.stdout
    assert re.search(r"error: evaluate.ipynb failed in cell \d+: ValueError: .* does not match its card", failed.stdout)
    assert str(graph.results / "paper.log") in failed.stdout
    after = graph.written()
    assert f"{page}.failed.ipynb" in after and f"{page}.ipynb" not in after
    assert (graph.results / score).read_bytes() == earlier
    kept = before.keys() - {score, f"{page}.ipynb", f"{page}.html"}
    assert {name: after[name] for name in kept if name in after} == {name: before[name] for name in kept}
    assert "left about" not in failed.stdout  # nothing that hangs on it was drawn from a part of the scores
    again = graph.run()  # the score that was kept does not pass for a new one
    assert again.returncode == 1 and f"Error in rule score: {FAILING}" in again.stdout
    assert (graph.results / score).read_bytes() == earlier
