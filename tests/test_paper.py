"""`make paper` as its user sees it: progress, the time left, what failed and why, and what matched the paper."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time

import pandas as pd
import pytest

from invdenoise import datasets, paper, paths
from invdenoise.files import exclusive
from invdenoise.plan import make_plan

GRAPH = """
rule all:
    input: "a", "b"
rule first:
    output: "a"
    shell: "echo job 1 says; touch a"
rule second:
    input: "a"
    output: "b"
    shell: "echo error: no such picture >&2; exit 1"
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The results of a run that came to its end, without any data."""
    monkeypatch.setenv("INVDENOISE_RESULTS", str(tmp_path))

    def out_of_reach(*wanted):
        raise datasets.DataUnavailable(f"no {wanted[0]} today")

    monkeypatch.setattr(datasets, "fetch", out_of_reach)
    verdicts = {"psnr": ["reproduced", "close", "reproduced", "", "not run"], "parameters": ["reproduced"]}
    table = pd.DataFrame([(metric, found) for metric in verdicts for found in verdicts[metric]])
    (tmp_path / "tables").mkdir()
    for _, name in paper.TABLES.values():
        table.set_axis(["metric", "verdict"], axis=1).to_csv(tmp_path / "tables" / name, index=False)
    return tmp_path


@pytest.fixture
def graph(monkeypatch):
    """A function that sets what the graph prints and its exit status; returns the list of commands started."""
    started = []

    def prints(text: str, status: int = 0) -> list:
        class Process:
            stdout = text.splitlines(keepends=True)

            def __init__(self, command, **options):
                started.append((command, options["env"]))

            def wait(self):
                return status

        monkeypatch.setattr(paper.subprocess, "Popen", Process)
        return started

    return prints


@pytest.fixture(scope="module")
def log(tmp_path_factory) -> str:
    """What the installed Snakemake prints for a graph whose second job fails."""
    folder = tmp_path_factory.mktemp("graph")
    (folder / "Snakefile").write_text(GRAPH)
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "--keep-going"]
    done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 1
    return done.stdout


def clock(monkeypatch, seconds: float) -> None:
    """Every look at the clock finds it so many seconds later."""
    now = iter(range(10_000))
    monkeypatch.setattr(paper.time, "monotonic", lambda: next(now) * seconds)


# --- progress ---


def test_the_log_of_the_installed_snakemake_is_understood(log):
    said = []
    paper.follow(log.splitlines(keepends=True), {}, said.append)
    assert said[0] == "2 jobs to do"  # the goal is none
    assert said[1].startswith("[1/2] first   left about 0:")
    assert said[2:] == ["Error in rule second:"]


def test_time_left_follows_the_work_left_not_the_number_of_jobs(monkeypatch):
    jobs = {"long": 60.0, "short": 20.0, "last": 20.0}
    lines = ["Job stats:", "job      count", "-------  -----", *(f"{name}  1" for name in jobs), "total  3", "5 1"]
    lines += [f"Finished jobid: {number} (Rule: {name})" for number, name in enumerate(jobs)]
    clock(monkeypatch, 90.0)
    said = []
    paper.follow(lines, jobs, said.append)
    assert said == [
        "3 jobs to do",
        "[1/3] long   left about 1:00",  # 60 of 100 done in 90 s
        "[2/3] short   left about 0:45",
        "[3/3] last   left about 0:00",
    ]


def test_jobs_of_unknown_cost_count_too(monkeypatch):
    clock(monkeypatch, 10.0)
    said = []
    paper.follow(["Job stats:", "figure 4", "total 4", "Finished jobid: 1 (Rule: figure)"], {}, said.append)
    assert said == ["4 jobs to do", "[1/4] figure   left about 0:30"]


def test_nothing_to_do_says_nothing():
    said = []
    paper.follow(["Building DAG of jobs...", "Nothing to be done (all requested files are present)."], {}, said.append)
    assert said == []


# --- the end ---


def test_conclusion_counts_the_verdicts_on_psnr_as_the_report_does(folder):
    linn = "LINN, Table I: 2 reproduced, 1 close, 1 not run"
    blind = "WINNet, blind denoising: 2 reproduced, 1 close, 1 not run"
    for papers, lines in {"all": [linn, blind], "linn": [linn], "winnet": [blind]}.items():
        said = []
        paper.conclude(make_plan("released", papers), said.append)
        assert said == [*lines, f"report: {folder / 'report.html'}"]


def test_missing_data_are_said_and_do_not_stop(graph, folder):
    started = graph("Nothing to be done.\n")
    said = []
    assert paper.regenerate("released", 3, said.append) == 0
    for dataset in ("bsd68", "set12", "weights"):
        assert f"{dataset} could not be had, embedded pictures stand in: no {dataset} today" in said
    assert any(re.fullmatch("left out: dncnn-authors-s25: .* could not be reached", line) for line in said)
    assert said[-1].startswith("report: ")
    ((command, environment),) = started
    assert command[command.index("--cores") + 1] == "3" and "budget=released" in command
    assert (folder / "paper.log").read_text() == "Nothing to be done.\n"


def test_a_smoke_run_asks_for_no_data(graph, folder):
    (folder / "smoke").mkdir()
    (folder / "tables").rename(folder / "smoke" / "tables")
    graph("")
    said = []
    assert paper.regenerate("smoke", 1, said.append) == 0
    assert len(said) == len(paper.TABLES) + 1


def test_a_failed_job_is_named_with_its_error_and_the_log(graph, log, folder):
    graph(log, status=1)
    said = []
    assert paper.regenerate("released", 1, said.append) == 1
    end = said[
        said.index(f"some jobs failed; their messages, and the rest of the log, are in {folder / 'paper.log'}:") :
    ]
    assert end[1:] == ["  error: no such picture", "  Error in rule second:"]


def test_a_graph_that_cannot_start_shows_its_own_words(graph, folder):
    words = 'MissingInputException in rule tour in file "Snakefile", line 36:\nMissing input files for rule tour:'
    graph(f"Building DAG of jobs...\n{words}\n", status=1)
    said = []
    assert paper.regenerate("released", 1, said.append) == 1
    assert words in "\n".join(line.strip() for line in said)


def test_jobs_run_on_the_interpreter_and_library_that_started_them(graph):
    started = graph("")
    paper.regenerate("released", 1, lambda line: None)
    ((command, environment),) = started
    assert command[0] == sys.executable
    assert environment["PYTHONPATH"] == str(paths.ROOT / "lib")
    assert environment["OMP_NUM_THREADS"] == "1"


# --- two at once ---


def test_a_second_run_at_once_is_refused_and_harms_nothing(graph, folder, capsys):
    started = graph("")
    (folder / "paper.log").write_text("of the first run")
    with exclusive(folder / "lock", "make paper (released)"):
        assert paper.main(["--budget", "released", "--cores", "1"]) == 1
    assert re.search(
        r"error: make paper \(released\) is already running \(process \d+\); wait", capsys.readouterr().err
    )
    assert not started and (folder / "paper.log").read_text() == "of the first run"
    assert paper.main(["--budget", "released", "--cores", "1"]) == 0


@pytest.mark.parametrize("cores", ["0", "-1"])
def test_a_number_of_cores_below_1_is_refused(cores, graph, capsys):
    started = graph("")
    assert paper.main(["--budget", "smoke", "--cores", cores]) == 1
    assert capsys.readouterr().err == f"error: cores is {cores}; expected 1 or more\n" and not started


@pytest.mark.slow
def test_a_run_that_is_told_to_end_ends_its_jobs_too(tmp_path):
    """The graph is one that says that it began and then sleeps, in a process of its own."""
    fake = "import subprocess, sys; subprocess.Popen(['sleep', '300']); print('Job stats', flush=True); input()"
    script = tmp_path / "run.py"
    script.write_text(
        "import subprocess, sys\nfrom invdenoise import paper\nreal = subprocess.Popen\n"
        f"paper.subprocess.Popen = lambda command, **options: real([sys.executable, '-c', {fake!r}], **options)\n"
        "sys.exit(paper.main(['--budget', 'smoke', '--cores', '1']))"
    )
    environment = os.environ | {"PYTHONPATH": str(paths.ROOT / "lib"), "INVDENOISE_RESULTS": str(tmp_path)}
    process = subprocess.Popen([sys.executable, str(script)], env=environment, stdout=subprocess.PIPE, text=True)
    log = tmp_path / "smoke" / "paper.log"
    waited = time.monotonic()
    while not (log.exists() and "Job stats" in log.read_text()):
        assert process.poll() is None and time.monotonic() - waited < 120
        time.sleep(0.05)
    process.terminate()
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 130 and "stopped; the same command goes on from here" in said
    with exclusive(tmp_path / "smoke" / "lock", "another run"):  # free, for nothing holds it any more
        pass


def test_an_unknown_budget_is_one_line_on_stderr(capsys):
    assert paper.main(["--budget", "papper"]) == 1
    assert capsys.readouterr().err == "error: no budget 'papper'; known: released, smoke, laptop, paper\n"
