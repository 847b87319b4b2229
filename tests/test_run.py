"""`make paper` as its user sees it: progress, the time left, what failed and why, and what matched the papers."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pandas as pd
import pytest
import toy

from invdenoise import methods, papers, paths, run
from invdenoise.data.fetch import DataUnavailable
from invdenoise.files import exclusive
from invdenoise.plan import OVERHEAD, UNMEASURED, make_plan

GRAPH = """
rule all:
    input: "a/one", "b/two"
rule first:
    output: "a/{name}"
    shell: "echo job {wildcards.name} says; touch {output}"
rule second:
    input: "a/one"
    output: "b/{name}"
    shell: "echo error: no such picture >&2; exit 1"
"""
VERDICTS = ("reproduced", "close", "reproduced", "not run")
RUNS = [{"methods": ["smooth-s25", "wavelet-bayes"], "sets": "set12", "conditions": {"sigma": [25]}}]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The results of a run of a toy paper that came to its end, without any data."""
    monkeypatch.setenv("INVDENOISE_RESULTS", str(tmp_path / "results"))

    def out_of_reach(*wanted):
        raise DataUnavailable(f"no {wanted[0]} today")

    for module in (run, methods):
        monkeypatch.setattr(module, "fetch", out_of_reach)
    monkeypatch.setattr(
        run, "subprocess", SimpleNamespace(**vars(subprocess))
    )  # what is replaced in it is replaced here only
    network = {"smooth-s25": {"model": "toy.Smooth", "sigma": 25}}
    author = {"theirs": {"file": "weights/a.pth", "read": "toy.read_flow"}}
    runs = [*RUNS, {"methods": "theirs", "sets": "embedded", "conditions": {"sigma": [25]}}]
    score = {"task": "toy.Brighten", "runs": runs, "smoke": RUNS}
    figure = {"bars": {"reads": "table"}}
    toy.declare(tmp_path, monkeypatch, network, authors=author, scores={"table": score}, figures=figure)
    numbers = [
        {"paper": "toy", "method": f"m{index}", "dataset": "set12", "sigma": 25.0, "metric": "psnr", "published": 30.0,
         "verdict": verdict, "family": "" if verdict == "not run" else f"m{index}"}
        for index, verdict in enumerate(VERDICTS)
    ]  # fmt: skip
    monkeypatch.setattr(run, "all_numbers", lambda results: pd.DataFrame(numbers))
    return tmp_path / "results"


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

        monkeypatch.setattr(run.subprocess, "Popen", Process)
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
    monkeypatch.setattr(run.time, "monotonic", lambda: next(now) * seconds)


def begun(rule: str, number: int, name: str = "") -> list[str]:
    """What Snakemake prints when a job starts."""
    return [f"rule {rule}:", "    output: x", f"    jobid: {number}", *([f"    wildcards: job={name}"] if name else [])]


# --- Progress


def test_the_log_of_the_installed_snakemake_is_understood(log):
    said = []
    run.follow(log.splitlines(keepends=True), {}, said.append)
    assert said[0] == "2 jobs to do"  # the goal is none
    assert re.fullmatch(r"\[1/2\] one   left about \d+ s", said[1])  # named by its wildcard
    assert said[2:] == ["Error in rule second: two"]


def test_time_left_follows_the_work_left_not_the_number_of_jobs(monkeypatch):
    expected = {"score": {"toy/long": 60.0, "toy/short": 20.0}, "draw": {"toy/last": 20.0}}
    lines = ["Job stats:", "job      count", "-------  -----", "score  2", "draw  1", "all  1", "total  4", "5 1"]
    lines += [*begun("score", 2, "toy/long"), *begun("score", 5, "toy/short")]  # two at once
    lines += ["Finished jobid: 2 (Rule: score)", *begun("draw", 1, "toy/last"), "Finished jobid: 5 (Rule: score)"]
    lines += ["Finished jobid: 1 (Rule: draw)", "Finished jobid: 0 (Rule: all)"]
    clock(monkeypatch, 90.0)
    said = []
    run.follow(lines, expected, said.append)
    assert said == [
        "3 jobs to do",
        "[1/3] toy/long   left about 1 min",  # 60 of 100 done in 90 s
        "[2/3] toy/short   left about 45 s",
        "[3/3] toy/last   left about 0 s",
    ]


def test_long_times_are_told_in_hours(monkeypatch):
    expected = {"train": {"a": 3600.0, "b": 3600.0 * 2.9}}
    lines = ["Job stats:", "train 2", "total 2", *begun("train", 1, "a"), "Finished jobid: 1 (Rule: train)"]
    clock(monkeypatch, 3600.0)
    said = []
    run.follow(lines, expected, said.append)
    assert said == ["2 jobs to do", "[1/2] a   left about 2 h 54 min"]


def test_only_the_jobs_to_do_count(monkeypatch):
    """Of a rule's jobs the graph says how many it runs, and the missing ones come first in `costs`."""
    expected = {"score": {"missing": 10.0, "kept": 1000.0}}
    lines = ["Job stats:", "score 1", "report 1", "total 2", *begun("score", 1, "missing")]
    lines += ["Finished jobid: 1 (Rule: score)"]
    clock(monkeypatch, 10.0)
    said = []
    run.follow(lines, expected, said.append)
    assert said[1] == f"[1/2] missing   left about {OVERHEAD:g} s"


def test_jobs_of_unknown_cost_count_too(monkeypatch):
    clock(monkeypatch, 10.0)
    said = []
    run.follow(["Job stats:", "draw 4", "total 4", "Finished jobid: 1 (Rule: draw)"], {}, said.append)
    assert said == ["4 jobs to do", "[1/4] draw   left about 30 s"]


def test_nothing_to_do_says_nothing():
    said = []
    run.follow(["Building DAG of jobs...", "Nothing to be done (all requested files are present)."], {}, said.append)
    assert said == []


def test_costs_are_of_every_job_and_missing_scores_come_first(folder):
    plan = make_plan("laptop")
    found = run.costs(plan)
    assert list(found) == ["score", "draw", "train", "report"]
    jobs = ["toy/table/smooth-s25.set12", "toy/table/wavelet-bayes.set12"]
    assert list(found["score"]) == jobs and set(found["score"].values()) == {UNMEASURED}
    assert list(found["draw"]) == ["toy/bars"] and list(found["train"]) == ["smooth-s25"]
    (plan.results / "scores" / "toy" / "table").mkdir(parents=True)
    (plan.results / "scores" / f"{jobs[0]}.csv").touch()
    assert list(run.costs(plan)["score"]) == jobs[::-1]
    assert found["train"]["smooth-s25"] > run.costs(make_plan("smoke"))["train"]["smooth-s25"]


def test_the_rules_of_the_graph_are_those_that_costs_are_of():
    rules = re.findall(r"^rule (\w+):", (paths.ROOT / "Snakefile").read_text(), re.MULTILINE)
    assert rules[0] == run.GOAL and set(rules[1:]) == set(run.costs(make_plan("smoke")))


# --- The end


def test_conclusion_counts_the_verdicts_of_each_paper(folder):
    said = []
    run.conclude(make_plan("released"), said.append)
    assert said == ["Toy: 2 reproduced, 1 close, 1 not run", f"report: {folder / 'report.html'}"]


def test_missing_data_are_said_and_do_not_stop(graph, folder):
    started = graph("Nothing to be done.\n")
    said = []
    assert run.regenerate("released", 3, said.append) == 0
    assert [line for line in said if "could not be had" in line] == [
        f"{dataset} could not be had, others stand in: no {dataset} today"
        for dataset in ("set12", "embedded", "weights")
    ]
    assert "left out: smooth-s25: no released weights" in said
    assert "left out: theirs: the authors' weights could not be reached" in said
    assert said[-1].startswith("report: ")
    ((command, environment),) = started
    assert command[command.index("--cores") + 1] == "3"
    assert {"budget=released", "paper=all"} <= set(command) and environment["OMP_NUM_THREADS"] == "1"
    assert (folder / "paper.log").read_text() == "Nothing to be done.\n"


def test_a_set_that_needs_no_fetching_is_no_fault(graph, monkeypatch):
    def embedded(dataset, *_):
        raise ValueError(f"no dataset {dataset!r}")

    monkeypatch.setattr(run, "fetch", embedded)
    graph("")
    said = []
    assert run.regenerate("released", 1, said.append) == 0 and not [line for line in said if "could not be had" in line]


def test_a_smoke_run_asks_for_no_data(graph):
    graph("")
    said = []
    assert run.regenerate("smoke", 1, said.append) == 0
    assert len(said) == 2  # a line for the paper, and the report


def test_one_paper_is_passed_on_to_the_graph(graph, capsys):
    started = graph("")
    assert run.main(["--budget", "smoke", "--paper", "toy", "--cores", "1"]) == 0
    assert "paper=toy" in started[0][0]
    assert run.main(["--budget", "smoke", "--paper", "toi"]) == 1
    assert capsys.readouterr().err == "error: no paper 'toi'; known: all, toy\n" and len(started) == 1


def test_a_failed_job_is_named_with_its_error_and_the_log(graph, log, folder):
    graph(log, status=1)
    said = []
    assert run.regenerate("released", 1, said.append) == 1
    start = said.index(f"some jobs failed; their messages, and the rest of the log, are in {folder / 'paper.log'}:")
    assert said[start + 1 :] == ["  error: no such picture", "  Error in rule second: two"]


def test_a_graph_that_cannot_start_shows_its_own_words(graph):
    words = 'MissingInputException in rule draw in file "Snakefile", line 36:\nMissing input files for rule draw:'
    graph(f"Building DAG of jobs...\n{words}\n", status=1)
    said = []
    assert run.regenerate("released", 1, said.append) == 1
    assert words in "\n".join(line.strip() for line in said)


def test_jobs_run_on_the_interpreter_and_library_that_started_them(graph):
    started = graph("")
    run.regenerate("released", 1, lambda line: None)
    ((command, environment),) = started
    assert command[0] == sys.executable
    assert environment["PYTHONPATH"] == str(paths.ROOT / "lib")
    assert environment["OMP_NUM_THREADS"] == "1"


# --- Two at once, and stopping


def test_a_second_run_at_once_is_refused_and_harms_nothing(graph, folder, capsys):
    started = graph("")
    with exclusive(folder / "lock", "make paper (released)"):
        (folder / "paper.log").write_text("of the first run")
        assert run.main(["--budget", "released", "--cores", "1"]) == 1
    message = r"error: make paper \(released\) is already running \(process \d+\); wait"
    assert re.search(message, capsys.readouterr().err)
    assert not started and (folder / "paper.log").read_text() == "of the first run"
    assert run.main(["--budget", "released", "--cores", "1"]) == 0


@pytest.mark.parametrize("cores", ["0", "-1"])
def test_a_number_of_cores_below_1_is_refused(cores, graph, capsys):
    started = graph("")
    assert run.main(["--budget", "smoke", "--cores", cores]) == 1
    assert capsys.readouterr().err == f"error: cores is {cores}; expected 1 or more\n" and not started


def test_an_unknown_budget_is_one_line_on_stderr(capsys):
    assert run.main(["--budget", "papper"]) == 1
    assert capsys.readouterr().err == "error: no budget 'papper'; known: released, smoke, laptop, paper\n"


def test_a_wrong_declaration_is_one_line_on_stderr(graph, tmp_path, monkeypatch, capsys):
    started = graph("")
    toy.declare(tmp_path, monkeypatch, {"smooth": {"model": "toy.Smooth", "sigma": 999}})
    with pytest.raises(ValueError, match="toy/paper.yaml"):
        papers.papers()
    assert run.main(["--budget", "smoke", "--cores", "1"]) == 1
    told = capsys.readouterr().err
    assert told.startswith("error: toy/paper.yaml: networks.smooth: sigma is 999; expected grey levels")
    assert told.count("\n") == 1 and not started


@pytest.mark.parametrize("in_time", [True, False])
def test_ctrl_c_ends_the_graph_and_is_no_failure(in_time, monkeypatch):
    """A graph that waits for its jobs too long is killed, with the jobs."""
    sent = []

    class Output:
        def __iter__(self):
            yield "Job stats:\n"
            raise KeyboardInterrupt

        def close(self):
            pass

    class Process:
        pid, stdout = 4321, Output()

        def __init__(self, command, **options):
            assert options["start_new_session"]  # its process group is that of its jobs

        def wait(self, timeout=None):
            if timeout and not in_time:
                raise subprocess.TimeoutExpired("snakemake", timeout)
            return -15

    monkeypatch.setattr(run.subprocess, "Popen", Process)
    monkeypatch.setattr(run.os, "killpg", lambda *arguments: sent.append(arguments))
    said = []
    assert run.regenerate("smoke", 1, said.append) == 130
    assert said == ["stopped; the same command goes on from here"]
    assert sent == [(4321, signal.SIGTERM), (4321, signal.SIGKILL)][: 1 if in_time else 2]


@pytest.mark.slow
def test_a_run_that_is_told_to_end_ends_its_jobs_too(tmp_path):
    """The graph is one that says that it began and then sleeps, in a process of its own."""
    fake = "import subprocess, sys; subprocess.Popen(['sleep', '300']); print('Job stats', flush=True); input()"
    script = tmp_path / "run.py"
    script.write_text(
        "import subprocess, sys\n"
        "from types import SimpleNamespace\nfrom invdenoise import run\nrun.subprocess = SimpleNamespace(**vars(subprocess))\n"
        f"run.subprocess.Popen = lambda command, **options: subprocess.Popen([sys.executable, '-c', {fake!r}], **options)\n"
        "sys.exit(run.main(['--budget', 'smoke', '--cores', '1']))"
    )
    results = tmp_path / "stopped"
    environment = os.environ | {"PYTHONPATH": str(paths.ROOT / "lib"), "INVDENOISE_RESULTS": str(results)}
    process = subprocess.Popen([sys.executable, str(script)], env=environment, stdout=subprocess.PIPE, text=True)
    log = results / "smoke" / "paper.log"
    waited = time.monotonic()
    while not (log.exists() and "Job stats" in log.read_text()):
        assert process.poll() is None and time.monotonic() - waited < 120
        time.sleep(0.05)
    process.terminate()
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 130 and "stopped; the same command goes on from here" in said
    with exclusive(results / "smoke" / "lock", "another run"):  # free, for nothing holds it any more
        pass
