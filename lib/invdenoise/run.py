"""`make paper` and `make cluster`: run the graph, show progress and the time left, and say at the end what matched.

python -m invdenoise.run --budget released --cores 2
python -m invdenoise.run --budget released --figure <paper>/<figure>
python -m invdenoise.run --budget laptop --profile profiles/slurm
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import errno
import hashlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from invdenoise import hermetic, papers, paths, warm
from invdenoise.data.fetch import DataUnavailable, fetch
from invdenoise.device import core_quota, has_gpu
from invdenoise.files import exclusive
from invdenoise.plan import ALL, OVERHEAD, Plan, make_plan, runs_of
from invdenoise.report.compare import PARTS, all_numbers, counts, parts_of
from invdenoise.report.tables import in_words
from invdenoise.tasks.base import unfinished

RULE = re.compile(r"^(?:local)?rule (\w+):$")
STARTED = re.compile(r"^jobid: (\d+)$")
WILDCARDS = re.compile(r"^wildcards: \w+=(.+)$")
DONE = re.compile(r"Finished jobid: (\d+) \(Rule: (.+)\)")
COUNTED = re.compile(r"^(\S+)\s+(\d+)$")
FAILED = "Error in rule"
GOAL = "all"  # the graph's first rule, which does nothing itself
GUARD = Path(__file__).with_name("guard.py")
GRACE = 15.0  # seconds in which the guard ends the graph and its jobs
FULL = (errno.ENOSPC, errno.EDQUOT)
CANCELLED = 120.0  # seconds to wait for SLURM to cancel jobs
EVERY = 60.0  # seconds between two lines on the jobs that are running
AT_ONCE = 3  # jobs that such a line names
EXPECTED = 120.0  # seconds during which a run that has just begun is believed to be as fast as the released one


@dataclass(frozen=True)
class Profile:
    """A Snakemake profile: how jobs are handed to a cluster."""

    file: Path
    settings: dict[str, Any]

    @classmethod
    def read(cls, place: str | Path) -> Profile:
        """The profile in a folder, or the file itself.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it is not YAML, or no mapping.
        """
        path = Path(place).expanduser().absolute()
        if path.is_dir():
            named = (path / "profile.yaml", path / "config.yaml")
            path = next((file for file in named if file.exists()), path / "config.yaml")
        if not path.is_file():
            raise FileNotFoundError(f"no profile {path}; expected a folder with a config.yaml, such as profiles/slurm")
        try:
            settings = yaml.safe_load(path.read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
        if not isinstance(settings, dict) or not isinstance(settings.get("executor"), str):
            raise ValueError(f"{path} names no executor; expected a line such as `executor: slurm`")
        return cls(path, settings)

    @property
    def is_slurm(self) -> bool:
        return self.settings["executor"] == "slurm"

    @property
    def cores(self) -> int:
        """CPUs of a training job."""
        cores = self.settings.get("cores", 1)
        if type(cores) is not int or cores < 1:
            raise ValueError(f"{self.file}: cores is {cores!r}; expected the CPUs of a training job, 1 or more")
        return cores


def available_cores() -> int:
    """CPU cores that this process may use. OMP_NUM_THREADS does not count: it is about the threads of one job."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(allowed, core_quota())


def regenerate(
    budget: str,
    cores: int | None = None,
    report: Callable[[str], None] = print,
    paper: str = ALL,
    profile: str | Path | None = None,
    figure: str = "",
) -> int:
    """Run the graph for a budget, of one figure, one paper or all; jobs whose results are there and newer than their inputs are kept.

    Args:
        budget: "released", "smoke", "laptop" or "paper".
        cores: jobs at once on this machine, by default as many as it has cores; with a profile, CPUs of a training job.
        report: called with each line of progress.
        paper: short name of one, or "all".
        profile: of the cluster that jobs are handed to; None runs them here.
        figure: "paper/figure": this one alone with the scores that it reads, and no report.

    Returns:
        0 when everything was made; 130 when it was stopped; otherwise the graph's own exit status, after naming the failed
        job and its log.

    Raises:
        ValueError: no such budget, paper or figure, a wrong declaration or profile, fewer cores than 1, or no checkout.
        RuntimeError: another run of this budget is under way, or jobs of an earlier one could not be cancelled.
        OSError: the results folder cannot be written to.
    """
    if cores is not None and cores < 1:
        raise ValueError(f"cores is {cores}; expected 1 or more")
    if paths.INSTALLED:
        raise ValueError(
            "the notebooks are no part of the installed package; run `make paper` in a checkout (`git clone`)"
        )
    cluster = None if profile is None else Profile.read(profile)
    if cores is None:
        cores = cluster.cores if cluster else available_cores()
    plan = make_plan(budget, paper, figure)
    if budget != "smoke" or cluster:  # a cluster's nodes may have no network
        _get_data(plan, report)
        plan = make_plan(budget, paper, figure)  # what can be evaluated depends on what could be fetched
    for line in plan.missing:
        report(f"left out: {line}")
    with exclusive(plan.results / "lock", f"make paper ({budget})") as lock:
        submitted = _Submitted(plan.results, report)
        submitted.cancel()  # jobs of a run that was killed
        if cluster and cluster.is_slurm:
            submitted.begin()
        log, began = _Log(plan.results / "paper.log", report), time.time()
        command = _command(plan, paper, figure, cores, cluster)
        following = partial(follow, expected=costs(plan), report=report, cores=cores, watch=partial(how_far, plan))
        status = _run(command, plan.results, lock.fileno(), log, following, here=cluster is None)
        submitted.cancel()
    if status is None:
        with contextlib.suppress(OSError):  # the terminal may be gone
            report("stopped; the same command goes on from here")
        return 130
    if status:
        report(f"some jobs failed; their messages, and the rest of the log, are in {log.path}:")
        lines = [*_lines_of_jobs(plan.results, began), *log.lines]
        for line in _errors(lines):
            report(f"  {line}")
        if any(os.strerror(number) in line for line in lines for number in FULL):
            report(_full(plan.results))
        return status
    conclude(plan, report)
    return 0


def _command(plan: Plan, paper: str, figure: str, cores: int, cluster: Profile | None) -> list[str]:
    """The graph's command line. No profile of the user or the site counts but the one that is asked for."""
    # Its notes on jobs lie with the results: in the checkout, or where the results are, if they are elsewhere.
    folder = paths.ROOT if plan.results.is_relative_to(paths.ROOT) and os.access(paths.ROOT, os.W_OK) else plan.results
    command = [
        sys.executable, "-m", "snakemake", "--snakefile", str(paths.ROOT / "Snakefile"), "--directory", str(folder),
        "--cores", str(cores), "--config", f"budget={plan.budget}", f"paper={paper}",
        *([f"figure={figure}"] if figure else []), "--rerun-incomplete", "--keep-going", "--nolock", "--rerun-triggers", "mtime", "input", "params", "--profile", "none",
    ]  # fmt: skip
    if cluster is None:
        return [*command, "--workflow-profile", "none", "--default-resources", "mem_mb=3000"]
    command += ["--workflow-profile", str(cluster.file)]
    # A node would count its own cores, and not those of the job.
    if plan.budget != "smoke" and "set-threads" not in cluster.settings:
        command += ["--set-threads", f"train={cores}"]
    if cluster.is_slurm:
        command += ["--slurm-jobname-prefix", job_prefix(plan.results), "--slurm-logdir", str(_job_logs(plan.results))]
    return command


def _run(
    command: list[str], folder: Path, lock: int, log: _Log, following: Callable[[Iterable[str]], None], here: bool
) -> int | None:
    """Exit status of the graph; None when it was stopped. It ends with this process, and so do its jobs: see `guard`.

    Args:
        here: jobs run on this machine, where they are forked if that is possible.
    """
    # One thread a job, as many jobs as cores: several threads that wait for each other are slow on a busy machine.
    environment = hermetic.variables() | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    reading, writing = os.pipe()
    try:
        with _termination_interrupts(), _forked_jobs(environment, lock, here) as address:
            process = subprocess.Popen(
                [sys.executable, "-P", str(GUARD), str(reading), str(lock), *command],
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8", errors="replace",
                env=environment | address, cwd=folder, pass_fds=(reading, lock), start_new_session=True,
            )  # fmt: skip
            try:
                following(log.written(process.stdout))
                return process.wait()
            except KeyboardInterrupt:
                process.terminate()
                process.stdout.close()
                try:
                    process.wait(GRACE)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
                return None
    finally:
        os.close(writing)
        os.close(reading)


@contextlib.contextmanager
def _forked_jobs(environment: dict[str, str], lock: int, here: bool) -> Iterator[dict[str, str]]:
    """Variables with which jobs are forked instead of started (see `warm`); none where they cannot be.

    A GPU is lost in a fork of a process that has looked for it, as some modules do while they are imported.
    """
    if not here or sys.platform != "linux" or has_gpu():
        yield {}
        return
    with warm.server(environment, hold=(lock,)) as address:
        yield address


@contextlib.contextmanager
def _termination_interrupts() -> Iterator[None]:
    """Let SIGTERM and SIGHUP raise KeyboardInterrupt, as Ctrl-C does, where signals may be handled and are not ignored (nohup)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Log:
    """The graph's log, in memory and in a file as far as that can be written."""

    def __init__(self, path: Path, report: Callable[[str], None]):
        self.path, self.report = path, report
        self.lines: list[str] = []

    def written(self, lines: Iterable[str]) -> Iterator[str]:
        """The same lines, each after it was written."""
        with contextlib.ExitStack() as stack:
            handle = None
            with self._or_a_message():
                handle = stack.enter_context(open(self.path, "wb", buffering=0))
            for line in lines:
                self.lines.append(line.rstrip("\n"))
                if handle is not None and not handle.closed:
                    with self._or_a_message(handle):
                        handle.write(line.encode())
                yield line

    @contextlib.contextmanager
    def _or_a_message(self, handle: Any = None) -> Iterator[None]:
        """Let a log that cannot be written stop nothing."""
        try:
            yield
        except OSError as error:
            self.report(f"could not write {self.path}: {error.strerror}; the run goes on without its log")
            if handle is not None:
                handle.close()


def _full(folder: Path) -> str:
    return (
        f"the disk of {folder} is full; free space, or choose another folder with INVDENOISE_RESULTS, then run the same "
        "command again: it goes on from here"
    )


# --- Jobs on SLURM


def job_prefix(results: Path) -> str:
    """How the names of all SLURM jobs begin that write to this results folder."""
    return f"invdenoise-{hashlib.sha256(str(results).encode()).hexdigest()[:12]}"


def _job_logs(results: Path) -> Path:
    """Where SLURM writes what jobs say. Snakemake deletes the logs of jobs that succeeded."""
    return results / "slurm"


def _lines_of_jobs(results: Path, began: float) -> list[str]:
    """What the SLURM jobs of a run said that failed in it."""
    logs = [log for log in _job_logs(results).rglob("*.log") if log.stat().st_mtime >= began]
    return [line for log in sorted(logs) for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]


class _Submitted:
    """SLURM jobs of this results folder. They outlive a graph that is killed, and would write beside those of the next.

    A file says that there may be some. It stays until they are known to have ended.
    """

    def __init__(self, results: Path, report: Callable[[str], None]):
        self.file, self.prefix, self.report = results / "submitted", job_prefix(results), report

    def begin(self) -> None:
        self.file.touch()

    def cancel(self) -> None:
        """Cancel what is left of them, and wait until it has ended.

        Raises:
            RuntimeError: SLURM cannot be asked, or does not end them in time.
        """
        if not self.file.exists():
            return
        if left := self._running():
            with contextlib.suppress(OSError):  # the terminal may be gone
                self.report(f"cancelling {len(left)} SLURM job{'s' * (len(left) != 1)} of this folder")
            subprocess.run(["scancel", *left], capture_output=True)
            waited = time.monotonic()
            while left := self._running():
                if time.monotonic() - waited > CANCELLED:
                    raise RuntimeError(f"SLURM has not cancelled its jobs {', '.join(left)}; try again when they ended")
                time.sleep(1)
        self.file.unlink()

    def _running(self) -> list[str]:
        """Numbers of the jobs that have not ended."""
        command = ["squeue", "--noheader", "--user", str(os.getuid()), "--format", "%i %j"]
        try:
            asked = subprocess.run(command, capture_output=True, text=True)
            problem = asked.returncode and (asked.stderr.strip() or f"exit status {asked.returncode}")
        except OSError as error:
            asked, problem = None, str(error)
        if problem:
            raise RuntimeError(
                f"SLURM jobs of an earlier run may still write here, and squeue cannot be asked ({problem}); run this where "
                f"squeue works, or delete {self.file} when none of them runs any more"
            )
        jobs = (line.split() for line in asked.stdout.splitlines())
        return [number for number, name in jobs if name.startswith(f"{self.prefix}_")]


# --- Progress


def costs(plan: Plan) -> dict[str, dict[str, float]]:
    """Expected seconds of the jobs of each rule of the graph, by name; those whose result is missing come first."""
    training = 20.0 if plan.budget == "smoke" else 3600.0
    scores = {name: job.seconds for name, job in plan.jobs.items()}
    left = sorted(scores, key=lambda name: (plan.results / "scores" / f"{name}.csv").exists())
    return {
        "score": {name: scores[name] for name in left},
        "draw": dict.fromkeys(plan.drawings, 2 * OVERHEAD),
        "train": dict.fromkeys(plan.trainings, training),
        "report": {"report": 2 * OVERHEAD},
    }


def how_far(plan: Plan, rule: str, name: str) -> tuple[int, int, str] | None:
    """How far a running job is: steps done, steps in all, and the last one in words; None where it does not tell."""
    if rule == "score":
        return unfinished(plan.results / "scores" / f"{name}.csv")
    if rule != "train":
        return None
    with contextlib.suppress(OSError, ValueError, KeyError):
        with open(plan.runs / name / plan.budget / "curve.csv", newline="", encoding="utf-8") as handle:
            rows = list(csv.DictReader(handle))
        if rows and (steps := papers.network(name).recipe(plan.budget).steps):
            return int(rows[-1]["step"]), steps, ""
    return None


def follow(
    lines: Iterable[str],
    expected: dict[str, dict[str, float]],
    report: Callable[[str], None],
    cores: int = 1,
    watch: Callable[[str, str], tuple[int, int, str] | None] | None = None,
) -> None:
    """Turn the graph's log into lines of progress with the time left, which is estimated from what is done so far.

    Args:
        lines: of the log.
        expected: seconds of the jobs by rule and name, see `costs`.
        report: called with each line of progress.
        cores: jobs at once, for the first estimate.
        watch: tells of a rule and a name how far that job is. Now and then a line names the running jobs with it.
    """
    progress, ended = _Progress(expected, report, cores, watch), threading.Event()

    def tell() -> None:
        while not ended.wait(EVERY):
            with contextlib.suppress(OSError):  # the terminal may be gone
                progress.tell_running()

    if watch is not None:
        threading.Thread(target=tell, daemon=True).start()
    try:
        for line, name in _jobs(lines):
            progress.read(line, name)
    finally:
        ended.set()


class _Progress:
    """Which jobs of the graph are to be done, running and done, as its log tells."""

    def __init__(self, expected: dict, report: Callable[[str], None], cores: int, watch: Callable | None):
        self.expected, self.report, self.cores, self.watch = expected, report, cores, watch
        self.total = self.done = self.longest = 0.0  # seconds
        self.number = self.finished = 0
        self.running: dict[str, str] = {}  # name -> rule
        self.counting, self.rule = False, ""
        self.began = time.monotonic()

    def read(self, line: str, name: str) -> None:
        """Take in a line of the log; `name` as `_jobs` gives it."""
        if line.startswith("Job stats"):
            self.counting, self.total, self.longest, self.number = True, 0.0, 0.0, 0
        elif self.counting and line.startswith("total"):
            self.counting = False
            if self.number:
                at_once = min(self.cores, self.number)
                self.report(f"{self.number} jobs to do")
                self.report(
                    f"about {in_words(max(self.total / at_once, self.longest))}, by the times of the released run"
                )
        elif self.counting and (found := COUNTED.match(line)) and found[1] != GOAL:
            some = list(self.expected.get(found[1], {}).values())[: int(found[2])]
            self.total += sum(some) + OVERHEAD * (int(found[2]) - len(some))
            self.longest = max(self.longest, *some, OVERHEAD)
            self.number += int(found[2])
        elif found := RULE.match(line):
            self.rule = found[1]
        elif WILDCARDS.match(line):
            self.running[name] = self.rule
        elif (found := DONE.search(line)) and found[2] != GOAL:
            self.running.pop(name, None)
            self.done += self._cost(found[2], name)
            self.finished += 1
            self.report(f"[{self.finished}/{self.number}] {name}   left about {in_words(self._left(self.done))}")
        elif line.startswith(FAILED):
            self.running.pop(name, None)
            self.report(f"{line} {name}".strip())

    def tell_running(self) -> None:
        """A line on the running jobs that tell how far they are."""
        done, told = self.done, []
        for name, rule in list(self.running.items()):
            if (far := self.watch(rule, name)) is not None:
                number, steps, last = far
                done += self._cost(rule, name) * min(number / steps, 1)
                told.append(f"{name} {number} of {steps}{f' ({last})' if last else ''}")
        if told:
            more = f"; and {len(told) - AT_ONCE} more" if len(told) > AT_ONCE else ""
            left = in_words(self._left(done, EXPECTED))
            self.report(f"running: {'; '.join(told[:AT_ONCE])}{more}   left about {left}")

    def _cost(self, rule: str, name: str) -> float:
        return self.expected.get(rule, {}).get(name, OVERHEAD)

    def _left(self, done: float, as_expected: float = 0.0) -> float:
        """Seconds until all is done, when so many seconds' worth of work is.

        Args:
            as_expected: seconds of work at the expected speed that are added to what was seen, so that a few cases at the start
                do not make the estimate jump.
        """
        seen = time.monotonic() - self.began + as_expected
        return seen * max(self.total - done, 0) / (done + as_expected * min(self.cores, max(self.number, 1)))


def _jobs(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Lines of the log, and for those that say that a job began, ended or failed its name: its wildcard, or else its rule.

    The log tells a failed job's number after the line that says so, and its wildcard only where it started.
    """
    names: dict[str, str] = {}
    number = failed = ""
    for line in map(str.strip, lines):
        if found := STARTED.match(line):
            number = found[1]
            if failed:
                yield failed, names.get(number, "")
                failed = ""
        elif found := WILDCARDS.match(line):
            names[number] = found[1]
            yield line, found[1]
        elif line.startswith(FAILED):
            failed = line
        else:
            yield line, names.get(found[1], found[2]) if (found := DONE.search(line)) else ""
    if failed:
        yield failed, ""


def conclude(plan: Plan, report: Callable[[str], None]) -> None:
    """What matched the papers and what did not, a line for each of `PARTS`; of a figure alone, where its page is."""
    if plan.figure:
        report(f"page: {plan.results / 'notebooks' / 'figures' / f'{plan.figure}.html'}")
        return
    numbers = all_numbers(plan.results)
    for paper in plan.papers:
        parts = parts_of(numbers[numbers["paper"] == paper])
        for part, heading in PARTS.items():
            if found := counts(parts[part]):
                words = ", ".join(f"{number} {verdict}" for verdict, number in found.items())
                report(f"{papers.papers()[paper].short}, {heading}: {words}")
    report(f"report: {plan.results / 'report.html'}")


def _get_data(plan: Plan, report: Callable[[str], None]) -> None:
    """Fetch what the papers of the plan need, before any job starts."""
    entries = [papers.papers()[paper] for paper in plan.papers]
    runs = [part for score in plan.scores for part in runs_of(score, plan.budget)[1]]
    scored = [name for part in runs for name in part.sets]
    trained_on = [papers.network(name).source_options(plan.budget)["set"] for name in plan.trainings]
    weights = ["weights"] if any(entry.authors for entry in entries) else []
    for dataset in dict.fromkeys([*scored, *trained_on, *weights]):
        try:
            fetch(dataset)
        except DataUnavailable as error:
            consequence = "nothing is trained on it" if dataset in trained_on else "others stand in"
            report(f"{dataset} could not be had, {consequence}: {error}")
        except ValueError:  # an embedded set needs no fetching
            pass


def _errors(lines: list[str]) -> list[str]:
    """Lines that say what failed: of the jobs, or, when none was started, the graph's last words."""
    reasons = ("error:", FAILED, "message: SLURM")
    failed = [f"{line} {name}".strip() for line, name in _jobs(lines) if line.startswith(reasons)]
    return failed or lines[-10:]


def main(arguments: list[str] | None = None) -> int:
    """Regenerate the papers; 0 when everything was made."""
    parser = argparse.ArgumentParser(prog="python -m invdenoise.run", description=main.__doc__)
    parser.add_argument("--budget", default="released")
    parser.add_argument("--paper", default=ALL)
    parser.add_argument("--figure", default="", help="one figure or table alone, <paper>/<figure>")
    parser.add_argument(
        "--cores", type=int, help="jobs at once (default: all cores); with a profile, CPUs of a training job"
    )
    parser.add_argument("--profile", help="hand the jobs to a cluster: a folder such as profiles/slurm")
    options = parser.parse_args(arguments)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # a terminal that cannot show a character shows another
    try:
        return regenerate(
            options.budget, options.cores, partial(print, flush=True), options.paper, options.profile, options.figure
        )
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130
    except (ValueError, RuntimeError, OSError) as error:
        nameless = isinstance(error, OSError) and error.errno in FULL and "/" not in str(error)
        print(f"error: {_full(paths.results_dir()) if nameless else error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
