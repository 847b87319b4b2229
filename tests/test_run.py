"""`make paper` as its user sees it: progress, the time left, what failed and why, and what matched the papers."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import toy
import yaml

from invdenoise import methods, papers, paths, run
from invdenoise.data.fetch import DataUnavailable
from invdenoise.files import exclusive
from invdenoise.plan import OVERHEAD, UNMEASURED, make_plan
from invdenoise.tasks.base import journal_of

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
VERDICTS = (("reproduced", "laptop"), ("close", "authors"), ("reproduced", "none"), ("not run", ""))  # with budgets
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
         "verdict": verdict, "budget": budget, "family": "" if verdict == "not run" else f"m{index}"}
        for index, (verdict, budget) in enumerate(VERDICTS)
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
    assert said[:2] == [
        "2 jobs to do",
        f"about {2 * OVERHEAD:g} s, by the times of the released run",
    ]  # the goal is none
    assert re.fullmatch(r"\[1/2\] one   left about \d+ s", said[2])  # named by its wildcard
    assert said[3:] == ["Error in rule second: two"]


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
        "about 2 min, by the times of the released run",
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
    first = "about 3 h 54 min, by the times of the released run"
    assert said == ["2 jobs to do", first, "[1/2] a   left about 2 h 54 min"]


def test_only_the_jobs_to_do_count(monkeypatch):
    """Of a rule's jobs the graph says how many it runs, and the missing ones come first in `costs`."""
    expected = {"score": {"missing": 10.0, "kept": 1000.0}}
    lines = ["Job stats:", "score 1", "report 1", "total 2", *begun("score", 1, "missing")]
    lines += ["Finished jobid: 1 (Rule: score)"]
    clock(monkeypatch, 10.0)
    said = []
    run.follow(lines, expected, said.append)
    assert said[1:] == ["about 18 s, by the times of the released run", f"[1/2] missing   left about {OVERHEAD:g} s"]


def test_jobs_of_unknown_cost_count_too(monkeypatch):
    clock(monkeypatch, 10.0)
    said = []
    run.follow(["Job stats:", "draw 4", "total 4", "Finished jobid: 1 (Rule: draw)"], {}, said.append)
    assert said == ["4 jobs to do", "about 32 s, by the times of the released run", "[1/4] draw   left about 30 s"]


@pytest.mark.parametrize(("cores", "first"), [(1, "2 min"), (2, "1 min"), (8, "1 min")])  # the longest takes 60 s
def test_the_first_estimate_shares_the_jobs_among_the_cores(cores, first):
    said = []
    lines = ["Job stats:", "score 3", "total 3"]
    run.follow(lines, {"score": {"a": 60.0, "b": 30.0, "c": 10.0}}, said.append, cores=cores)
    assert said[1] == f"about {first}, by the times of the released run"


def test_running_jobs_are_named_now_and_then_with_how_far_they_are(monkeypatch):
    """The log says nothing until a job ends, so what says more is the file of the job's finished cases."""
    monkeypatch.setattr(run, "EVERY", 0.01)
    far = {"toy/a": (30, 60, "p12, sigma 25"), "toy/b": (1, 4, ""), "last": None}
    said, told = [], threading.Event()

    def report(line):
        said.append(line)
        if line.startswith("running"):
            told.set()

    def lines():
        yield from [
            "Job stats:",
            "score 3",
            "draw 1",
            "total 4",
            *begun("score", 1, "toy/a"),
            *begun("score", 2, "toy/b"),
        ]
        yield from begun("draw", 3, "last")
        assert told.wait(10)
        yield "Finished jobid: 1 (Rule: score)"

    asked = []
    expected = {"score": {"toy/a": 60.0, "toy/b": 40.0, "toy/c": 20.0}}
    run.follow(lines(), expected, report, 2, lambda *job: asked.append(job) or far[job[1]])
    (line, *_) = [line for line in said if line.startswith("running")]
    assert re.fullmatch(r"running: toy/a 30 of 60 \(p12, sigma 25\); toy/b 1 of 4   left about \d+ s", line)
    assert ("draw", "last") in asked and said[-1].startswith("[1/4] toy/a   left about ")


def test_a_line_on_many_running_jobs_stays_short():
    said = []
    progress = run._Progress({}, said.append, 8, lambda rule, name: (1, 2, ""))
    for number in range(5):
        for line, name in run._jobs(begun("score", number, f"job{number}")):
            progress.read(line, name)
    progress.tell_running()
    (line,) = said
    assert line.startswith("running: job0 1 of 2; job1 1 of 2; job2 1 of 2; and 2 more   left about ")


def test_how_far_a_job_is_stands_in_its_unfinished_files(folder):
    plan = make_plan("laptop")
    (job,) = [job for job in plan.jobs.values() if job.method == "wavelet-bayes"]
    assert run.how_far(plan, "score", job.name) is None and run.how_far(plan, "draw", "toy/bars") is None
    scores = plan.results / "scores" / f"{job.name}.csv"
    identity = {"dataset": "set12", "limit": None, "conditions": {"sigma": [25]}}
    rows = [[[name, 25], {"image": name, "sigma": 25}] for name in ("01", "02")]
    scores.parent.mkdir(parents=True)
    text = "".join(json.dumps(line) + "\n" for line in (identity, *rows))
    journal_of(scores).write_text(text + '[["03", 25], {"ima')  # a line that is being written
    assert run.how_far(plan, "score", job.name) == (2, 12, "02, sigma 25")
    curve = plan.runs / "smooth-s25" / "laptop" / "curve.csv"
    assert run.how_far(plan, "train", "smooth-s25") is None
    curve.parent.mkdir(parents=True)
    curve.write_text("step,loss\n8,1.0\n16,0.5\n")
    assert run.how_far(plan, "train", "smooth-s25") == (16, 24, "")


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


def test_conclusion_counts_networks_trained_here_apart_from_weights_of_others(folder):
    said = []
    run.conclude(make_plan("released"), said.append)
    assert said == [
        "Toy, networks trained here: 1 reproduced",
        "Toy, authors' weights: 1 close",
        "Toy, classical methods: 1 reproduced",
        "Toy, nothing of ours: 1 not run",
        f"report: {folder / 'report.html'}",
    ]


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
    assert all(line.startswith(("Toy, ", "report: ")) for line in said), said  # what matched, and nothing on data


def test_one_paper_is_passed_on_to_the_graph(graph, capsys):
    started = graph("")
    assert run.main(["--budget", "smoke", "--paper", "toy", "--cores", "1"]) == 0
    assert "paper=toy" in started[0][0]
    assert run.main(["--budget", "smoke", "--paper", "toi"]) == 1
    assert capsys.readouterr().err == "error: no paper 'toi'; known: all, toy\n" and len(started) == 1


def test_one_figure_is_passed_on_to_the_graph_and_its_page_is_named(graph, folder, capsys):
    started = graph("")
    assert run.main(["--figure", "toy/bars", "--cores", "1"]) == 0
    assert "figure=toy/bars" in started[0][0]
    assert capsys.readouterr().out.splitlines()[-1] == f"page: {folder / 'notebooks/figures/toy/bars.html'}"
    assert run.main(["--figure", "toy/lines"]) == 1
    assert capsys.readouterr().err == "error: no figure or table 'toy/lines'; known: toy/bars\n" and len(started) == 1


def test_an_installed_package_says_that_the_notebooks_are_in_a_checkout(monkeypatch, capsys):
    monkeypatch.setattr(paths, "INSTALLED", True)
    assert run.main([]) == 1
    assert "run `make paper` in a checkout" in capsys.readouterr().err


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
    """A graph whose guard does not end it in time is killed, with the jobs."""
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

        def terminate(self):
            sent.append((4321, signal.SIGTERM))

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


# A graph that starts a job, says so, and waits.
WAITING = "import subprocess; print('Job stats', subprocess.Popen(['sleep', '300']).pid, flush=True); import time; time.sleep(300)"
# The front process without what makes a plan, which would load PyTorch.
FRONT = """
import signal, sys
from pathlib import Path
from unittest.mock import MagicMock
for name in ("papers", "plan", "data.fetch", "device", "report.compare", "report.tables"):
    sys.modules["invdenoise." + name] = MagicMock()
from invdenoise import run
run.available_cores = lambda: 1
run.make_plan = lambda *given: MagicMock(results=Path(sys.argv[1]), missing=())
run.costs, run.OVERHEAD = lambda plan: {}, 8.0
run._command = lambda *given: [sys.executable, "-c", sys.argv[2]]
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
sys.exit(run.main(["--budget", "smoke"]))
"""


@pytest.fixture
def front(tmp_path):
    """A function that starts a run in a process of its own; gives the process, the number of its graph's job, and the lock."""
    started = []

    def start(**options) -> tuple[subprocess.Popen, int, Path]:
        (tmp_path / "front.py").write_text(FRONT)
        results = tmp_path / "stopped"
        environment = os.environ | {"PYTHONPATH": str(paths.ROOT / "lib")}
        command = [sys.executable, str(tmp_path / "front.py"), str(results), WAITING]
        usual = {"preexec_fn": lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL)}  # ignored under nohup
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, **(usual | options))
        started.append(process)
        log = results / "paper.log"
        until(lambda: process.poll() is not None or (log.exists() and "Job stats" in log.read_text()))
        return process, int(log.read_text().split()[-1]), results / "lock"

    yield start
    for process in started:
        process.kill()


def until(condition, seconds: float = 120.0) -> None:
    waited = time.monotonic()
    while not condition():
        assert time.monotonic() - waited < seconds
        time.sleep(0.05)


def runs(process: int) -> bool:
    state = Path(f"/proc/{process}/stat")
    return state.exists() and state.read_text().rpartition(")")[2].split()[0] != "Z"


def is_free(lock: Path) -> bool:
    try:
        with exclusive(lock, "another run"):
            return True
    except RuntimeError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL], ids=lambda s: s.name)
def test_a_run_that_ends_ends_its_jobs_too_however_it_ends(number, front):
    process, job, lock = front()
    assert runs(job) and not is_free(lock)
    process.send_signal(number)
    said = process.communicate(timeout=60)[0]
    if number != signal.SIGKILL:
        assert process.returncode == 130 and "stopped; the same command goes on from here" in said
        assert not runs(job) and is_free(lock)
    until(lambda: not runs(job) and is_free(lock), 30)


@pytest.mark.slow
def test_nohup_keeps_a_run_and_the_refusal_of_another_names_a_process_that_can_be_stopped(front):
    process, job, lock = front(preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    process.send_signal(signal.SIGHUP)
    time.sleep(0.5)
    assert process.poll() is None and runs(job)
    with pytest.raises(RuntimeError, match=r"process \d+") as refusal, exclusive(lock, "make paper"):
        pass
    os.kill(int(re.search(r"process (\d+)", str(refusal.value))[1]), signal.SIGTERM)
    until(lambda: not runs(job) and is_free(lock), 30)


# --- What the graph runs with


def test_cores_are_those_of_the_machine_and_not_the_threads_of_a_job(graph, monkeypatch):
    started = graph("")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 5}, raising=False)
    assert run.main(["--budget", "smoke"]) == 0
    ((command, environment),) = started
    assert command[command.index("--cores") + 1] == "3"
    assert (environment["OMP_NUM_THREADS"], environment["OMP_WAIT_POLICY"]) == ("1", "passive")


def test_settings_of_the_user_do_not_reach_the_graph(graph, monkeypatch, tmp_path):
    leaks = {
        "MPLBACKEND": "Qt5Agg", "PYTHONSTARTUP": "/mine.py", "JUPYTER_PATH": "/site", "IPYTHONDIR": "/mine", "LANG": "en_US",
        "SNAKEMAKE_PROFILE": "mine", "MKL_NUM_THREADS": "9", "GIT_DIR": "/elsewhere",
    }  # fmt: skip
    for name, value in leaks.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYTHONPATH", "/shadows")
    monkeypatch.setenv("LC_ALL", "en_US.ISO-8859-1")
    monkeypatch.setenv("https_proxy", "http://proxy:8080")
    monkeypatch.setenv("SSL_CERT_FILE", "/site/ca.pem")
    (tmp_path / "mirror").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATA_MIRROR", "mirror")
    monkeypatch.setenv("INVDENOISE_RESULTS", "out")
    started = graph("")
    assert run.main(["--budget", "smoke"]) == 0
    ((command, environment),) = started
    assert not leaks.keys() & environment.keys()
    assert (environment["PYTHONPATH"], environment["LC_ALL"]) == (str(paths.ROOT / "lib"), "C.UTF-8")
    assert (environment["https_proxy"], environment["SSL_CERT_FILE"]) == ("http://proxy:8080", "/site/ca.pem")
    # The graph runs in another folder.
    assert (environment["DATA_MIRROR"], environment["INVDENOISE_RESULTS"]) == (f"{tmp_path}/mirror", f"{tmp_path}/out")
    assert command[command.index("--profile") + 1] == command[command.index("--workflow-profile") + 1] == "none"


def test_caches_go_to_the_results_where_the_home_cannot_be_written(graph, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "file"))  # a file: no folder can be made in it, by root neither
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    started = graph("")
    assert run.main(["--budget", "smoke"]) == 0
    environment = started[0][1]
    assert environment["XDG_CACHE_HOME"] == str(paths.results_dir() / ".cache")
    assert environment["MPLCONFIGDIR"].startswith(str(paths.results_dir()))


@pytest.mark.parametrize(("inside", "writable"), [(True, True), (True, False), (False, True)])
def test_notes_of_the_graph_lie_with_the_results(inside, writable, graph, folder, monkeypatch):
    """In the checkout, if that is where the results are and it can be written to."""
    started = graph("")
    if inside:
        monkeypatch.setattr(paths, "ROOT", folder.parent)
    monkeypatch.setattr(os, "access", lambda path, mode: writable or path != paths.ROOT)
    assert run.main(["--budget", "smoke", "--cores", "1"]) == 0
    command = started[0][0]
    assert command[command.index("--directory") + 1] == str(paths.ROOT if inside and writable else folder / "smoke")


# --- A disk or a log that cannot be written


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_named_with_the_remedy(number, graph, folder):
    graph(f"Building DAG of jobs...\nOSError: [Errno {number}] {os.strerror(number)}: 'x'\n", status=1)
    said = []
    assert run.regenerate("released", 1, said.append) == 1
    assert re.fullmatch(f"the disk of {folder} is full; free space, or choose .* INVDENOISE_RESULTS.*", said[-1])


def test_a_full_disk_before_the_graph_starts_is_one_line(monkeypatch, capsys):
    def full(*given):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(run, "exclusive", full)
    assert run.main(["--budget", "smoke"]) == 1
    assert re.fullmatch(r"error: the disk of \S+ is full; free space, .*\n", capsys.readouterr().err)


def test_a_log_that_cannot_be_written_stops_nothing(graph, log, folder):
    (folder / "paper.log").mkdir(parents=True)
    graph(log, status=1)
    said = []
    assert run.regenerate("released", 1, said.append) == 1
    assert [line for line in said if line.startswith(f"could not write {folder / 'paper.log'}: ")]
    assert said[-2:] == ["  error: no such picture", "  Error in rule second: two"]


# --- A cluster


@pytest.fixture
def profile(tmp_path):
    """A function that writes a profile of SLURM and returns its folder."""

    def write(**settings):
        folder = tmp_path / "cluster"
        folder.mkdir(exist_ok=True)
        (folder / "config.yaml").write_text(yaml.safe_dump({"executor": "slurm", **settings}))
        return folder

    return write


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A function that says which jobs `squeue` lists, each time it is asked; returns the file of jobs that were cancelled."""
    tools, cancelled = tmp_path / "tools", tmp_path / "cancelled"
    tools.mkdir()
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")

    def lists(*jobs: str, status: int = 0) -> Path:
        lines = "".join(f"echo {job}; " for job in jobs)
        # Jobs end as soon as they are cancelled.
        scripts = {
            "squeue": f"[ -e {cancelled} ] || {{ {lines} true; }}; exit {status}",
            "scancel": f"echo $* > {cancelled}",
        }
        for name, script in scripts.items():
            (tools / name).write_text(f"#!/bin/sh\n{script}\n")
            (tools / name).chmod(0o755)
        return cancelled

    return lists


def after(command: list[str], option: str) -> str:
    return command[command.index(option) + 1]


@pytest.mark.parametrize(
    ("given", "cores", "expected"), [({"cores": 3}, [], "3"), ({"cores": 3}, ["--cores", "8"], "8"), ({}, [], "1")]
)
def test_a_profile_hands_the_graph_to_its_cluster(given, cores, expected, graph, profile, slurm, folder):
    slurm()
    started = graph("")
    place = profile(**given)
    assert run.main(["--budget", "laptop", "--paper", "toy", "--profile", str(place), *cores]) == 0
    command = started[0][0]
    assert after(command, "--workflow-profile") == str(place / "config.yaml") and "paper=toy" in command
    assert after(command, "--cores") == expected and after(command, "--set-threads") == f"train={expected}"
    assert re.fullmatch(r"[\w-]{1,50}", after(command, "--slurm-jobname-prefix"))
    assert "--default-resources" not in command  # those of the profile count
    assert "--nolock" in command and "--keep-going" in command and "--rerun-incomplete" in command
    assert (folder / "laptop" / "paper.log").exists() and not (folder / "laptop" / "submitted").exists()


def test_a_job_that_fails_on_a_cluster_is_named_with_its_error(graph, profile, slurm, folder, log):
    """What jobs say is in their own logs there; why one could not be submitted is in the graph's."""
    slurm()
    old, new = (folder / "smoke" / "slurm" / "rule_score" / f"{name}.log" for name in (1, 2))
    new.parent.mkdir(parents=True)
    for file in (old, new):
        file.write_text(f"Building DAG of jobs...\nerror: no such picture {file.stem}\n")
    os.utime(old, (0, 0))  # of an earlier run
    os.utime(new, (2e9, 2e9))
    message = "Error in rule second:\n    message: SLURM sbatch failed. No account.\n    jobid: 3\n"
    started = graph(log.replace("error: no such picture\n", "") + message, status=1)
    said = []
    assert run.regenerate("smoke", report=said.append, profile=profile()) == 1
    assert "  error: no such picture 2" in said and "  error: no such picture 1" not in said
    assert "  message: SLURM sbatch failed. No account." in said and "  Error in rule second: two" in said
    assert after(started[0][0], "--slurm-logdir") == str(folder / "smoke" / "slurm")


def test_threads_of_a_profile_count_before_its_cores(graph, profile, slurm):
    slurm()
    started = graph("")
    run.regenerate("laptop", profile=profile(**{"set-threads": {"train": 16}}))
    assert "--set-threads" not in started[0][0]


def test_a_cluster_has_its_data_before_any_job_starts(graph, profile, slurm, monkeypatch):
    slurm()
    asked = []
    monkeypatch.setattr(run, "fetch", lambda name: asked.append(name))
    started = graph("")
    run.regenerate("smoke", profile=profile())
    assert "set12" in asked and len(started) == 1
    asked.clear()
    run.regenerate("laptop", profile=profile())
    assert {"set12", "embedded-train"} <= set(asked)  # what is trained on, too


@pytest.mark.parametrize("again", ["cluster", "here"])
def test_jobs_that_a_killed_run_left_on_a_cluster_are_cancelled_first(again, graph, profile, slurm, folder):
    (folder / "laptop").mkdir(parents=True)
    (folder / "laptop" / "submitted").touch()
    ours, other = run.job_prefix(folder / "laptop"), run.job_prefix(folder)
    cancelled = slurm(f"7 {ours}_1-2", "8 mine", f"9 {other}_3-4", f"12 {ours}_1-2")
    graph("")
    said = []
    assert run.regenerate("laptop", 1, said.append, profile=profile() if again == "cluster" else None) == 0
    assert cancelled.read_text() == "7 12\n" and "cancelling 2 SLURM jobs of this folder" in said
    assert not (folder / "laptop" / "submitted").exists()


def test_a_stopped_run_takes_its_jobs_on_a_cluster_along(profile, slurm, folder, monkeypatch):
    """Also when the terminal is gone, to which nothing can be said any more."""
    cancelled = slurm(f"7 {run.job_prefix(folder / 'smoke')}_1-2", "8 mine")

    class Process:
        stdout = SimpleNamespace(close=lambda: None)

        def __init__(self, command, **options):
            pass

        def terminate(self):
            pass

        def wait(self, timeout=None):
            return -15

    def stopped(*given):
        assert (folder / "smoke" / "submitted").exists()
        raise KeyboardInterrupt

    def gone(line):
        if line.startswith(("cancelling", "stopped")):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    cancelled.touch()  # none are left when it starts
    monkeypatch.setattr(run.subprocess, "Popen", Process)
    monkeypatch.setattr(run, "follow", lambda *given, **named: (cancelled.unlink(), stopped()))
    assert run.regenerate("smoke", 1, gone, profile=profile()) == 130
    assert cancelled.read_text() == "7\n" and not (folder / "smoke" / "submitted").exists()


def test_jobs_that_may_be_left_stop_a_run_that_cannot_ask_for_them(graph, slurm, folder):
    (folder / "laptop").mkdir(parents=True)
    (folder / "laptop" / "submitted").touch()
    slurm(status=3)
    started = graph("")
    with pytest.raises(RuntimeError, match=r"squeue cannot be asked \(exit status 3\).*submitted"):
        run.regenerate("laptop", 1)
    assert not started and (folder / "laptop" / "submitted").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"no profile \S+config.yaml; expected a folder with a config.yaml, such as profiles/slurm"),
        ("jobs: 3", "config.yaml names no executor"),
        ("a: [", "config.yaml is not YAML"),
        ("{executor: slurm, cores: all}", "cores is 'all'; expected the CPUs of a training job"),
    ],
)
def test_a_wrong_profile_is_one_line_before_anything_starts(text, message, graph, tmp_path, capsys):
    started = graph("")
    (tmp_path / "wrong").mkdir()
    if text is not None:
        (tmp_path / "wrong" / "config.yaml").write_text(text)
    assert run.main(["--budget", "smoke", "--profile", str(tmp_path / "wrong")]) == 1
    told = capsys.readouterr().err
    assert re.search(message, told) and told.count("\n") == 1 and not started
