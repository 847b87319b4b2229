"""The whole graph on the smoke budget: all of it once, then nothing, then only what is missing, then a failure."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from invdenoise import paths, plan
from invdenoise.evaluation import COLUMNS
from invdenoise.files import sha256

pytestmark = pytest.mark.graph

SCORE = "wavelet-bayes/bsd68"
NETWORK = "dninn-lista-s25"


class Graph:
    """A results folder and what `make paper BUDGET=smoke` makes in it."""

    def __init__(self, folder: Path):
        self.environment = os.environ | {"INVDENOISE_RESULTS": str(folder), "PYTHONPATH": str(paths.ROOT / "lib")}
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("INVDENOISE_RESULTS", str(folder))
            self.plan = plan.make_plan("smoke")
        self.results = self.plan.results
        pages = [job.page.removesuffix(".ipynb") for job in self.plan.evaluations]
        pages += [f"train/{name}" for name in self.plan.trainings]
        self.pages = [*pages, *self.plan.figures, "00_tour", "report"]
        self.first = self.run()

    def run(self) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "invdenoise.paper", "--budget", "smoke"]
        return subprocess.run(command, env=self.environment, cwd="/", capture_output=True, text=True)

    def written(self) -> dict[str, int]:
        """When each result was written last."""
        files = [path for path in self.results.rglob("*") if path.is_file() and path.name not in ("lock", "paper.log")]
        return {str(path.relative_to(self.results)): path.stat().st_mtime_ns for path in files}


@pytest.fixture(scope="module")
def graph(tmp_path_factory) -> Graph:
    made = Graph(tmp_path_factory.mktemp("smoke"))
    if made.first.returncode:
        pytest.fail(made.first.stdout + made.first.stderr)
    return made


def test_one_command_makes_everything(graph):
    lines = graph.first.stdout.splitlines()
    assert lines[0] == f"{len(graph.pages)} jobs to do"
    assert re.match(rf"\[{len(graph.pages)}/{len(graph.pages)}\] report   left about 0:00", lines[-4])
    assert lines[-1] == f"report: {graph.results / 'report.html'}"
    pictures = {pd.read_csv(path)["dataset"][0] for path in (graph.results / "scores").rglob("*.csv")}
    assert pictures in ({"bsd68", "set12"}, {"embedded"})
    banner = "These are not the papers' pictures." if "embedded" in pictures else "No number here is a result."
    assert banner in (graph.results / "report.html").read_text()


def test_every_planned_score_is_there_with_its_rows_and_its_origin(graph):
    found = {str(path.relative_to(graph.results / "scores")) for path in (graph.results / "scores").rglob("*.csv")}
    denoised = [job for job in graph.plan.evaluations if job.notebook == "evaluate"]
    assert found == {job.output for job in denoised}
    for job in denoised:
        scores = pd.read_csv(graph.results / "scores" / job.output, keep_default_na=False)
        levels = [float(sigma) for sigma in job.parameters["sigmas"].split(",")]
        assert tuple(scores.columns) == COLUMNS
        assert list(scores["sigma_test"]) == [sigma for sigma in levels for _ in range(job.parameters["limit"])]
        assert set(scores["method"]) == {job.method}
        assert scores["psnr"].between(5, 60).all()
        weights = graph.results / "runs" / job.method / "smoke" / "weights.safetensors"
        assert set(scores["weights_sha256"]) == {sha256(weights) if job.method in graph.plan.trainings else ""}


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


def test_the_report_links_to_pages_that_are_there(graph):
    links = re.findall(r'href="([^"#]+)"', (graph.results / "report.html").read_text())
    assert {f"notebooks/{name}.html" for name in graph.pages if name != "report"} <= set(links)
    assert all((graph.results / link).exists() for link in links)


def test_the_same_command_again_does_nothing(graph):
    before = graph.written()
    again = graph.run()
    assert again.returncode == 0
    assert again.stdout.splitlines() == graph.first.stdout.splitlines()[-3:]
    assert graph.written() == before


def test_a_missing_score_is_made_again_with_what_hangs_on_it_and_no_more(graph):
    score = graph.results / "scores" / f"{SCORE}.csv"
    old = pd.read_csv(score)
    before = graph.written()
    score.unlink()
    again = graph.run()
    assert again.returncode == 0
    hang_on_it = [name for name in graph.plan.figures if f"scores/{SCORE}.csv" in graph.plan.figure_scores(name)]
    assert hang_on_it == ["linn/table1_psnr"]
    assert again.stdout.splitlines()[0] == "3 jobs to do"
    after = graph.written()
    assert after.keys() == before.keys()
    changed = {name for name in after if after[name] != before[name]}
    pages = {f"notebooks/{name}.ipynb" for name in (f"evaluate/{SCORE}", *hang_on_it, "report")}
    assert {name for name in changed if name.endswith(".ipynb")} == pages
    assert {name for name in changed if name.startswith(("scores", "runs"))} == {f"scores/{SCORE}.csv"}
    assert "report.html" in changed
    same = [column for column in COLUMNS if column != "seconds"]
    pd.testing.assert_frame_equal(pd.read_csv(score)[same], old[same])


def test_a_failure_is_named_and_leaves_all_other_results(graph):
    """Last, for it leaves a network without new scores."""
    weights = graph.results / "runs" / NETWORK / "smoke" / "weights.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    before = graph.written()
    job, score = f"evaluate_{NETWORK}_bsd68", f"scores/{NETWORK}/bsd68.csv"
    earlier = (graph.results / score).read_bytes()
    failed = graph.run()
    assert failed.returncode == 1
    assert f"Error in rule {job}:" in failed.stdout
    assert re.search(r"error: evaluate.ipynb failed in cell \d+: ValueError: .* does not match its card", failed.stdout)
    assert str(graph.results / "paper.log") in failed.stdout
    page = f"notebooks/evaluate/{NETWORK}/bsd68"
    after = graph.written()
    assert f"{page}.failed.ipynb" in after and f"{page}.ipynb" not in after
    assert (graph.results / score).read_bytes() == earlier
    kept = before.keys() - {score, f"{page}.ipynb", f"{page}.html"}
    assert {name: after[name] for name in kept if name in after} == {name: before[name] for name in kept}
    assert "left about" not in failed.stdout  # nothing that hangs on it was drawn from a part of the scores
    again = graph.run()  # the score that was kept does not pass for a new one
    assert again.returncode == 1 and f"Error in rule {job}:" in again.stdout
    assert (graph.results / score).read_bytes() == earlier
