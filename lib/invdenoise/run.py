"""`make paper` and `make cluster`: run the graph, show progress and the time left, and say at the end what matched.

python -m invdenoise.run --budget released --cores 2
python -m invdenoise.run --budget laptop --profile profiles/slurm
"""

from __future__ import annotations

import argparse
import contextlib
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
from pathlib import Path
from typing import Any

import yaml

from invdenoise import hermetic, papers, paths
from invdenoise.data.fetch import DataUnavailable, fetch
from invdenoise.device import core_quota
from invdenoise.files import exclusive
from invdenoise.plan import ALL, OVERHEAD, Plan, make_plan
from invdenoise.report.compare import all_numbers, counts
from invdenoise.report.tables import in_words

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
) -> int:
    """Run the graph for a budget, of one paper or all; jobs whose results are there and newer than their inputs are kept.

    Args:
        budget: "released", "smoke", "laptop" or "paper".
        cores: jobs at once on this machine, by default as many as it has cores; with a profile, CPUs of a training job.
        report: called with each line of progress.
        paper: short name of one, or "all".
        profile: of the cluster that jobs are handed to; None runs them here.

    Returns:
        0 when everything was made; 130 when it was stopped; otherwise the graph's own exit status, after naming the failed
        job and its log.

    Raises:
        ValueError: no such budget or paper, a wrong declaration or profile, or fewer cores than 1.
        RuntimeError: another run of this budget is under way, or jobs of an earlier one could not be cancelled.
        OSError: the results folder cannot be written to.
    """
    if cores is not None and cores < 1:
        raise ValueError(f"cores is {cores}; expected 1 or more")
    cluster = None if profile is None else Profile.read(profile)
    if cores is None:
        cores = cluster.cores if cluster else available_cores()
    plan = make_plan(budget, paper)
    if budget != "smoke" or cluster:  # a cluster's nodes may have no network
        _get_data(plan, report)
        plan = make_plan(budget, paper)  # what can be evaluated depends on what could be fetched
    for line in plan.missing:
        report(f"left out: {line}")
    with exclusive(plan.results / "lock", f"make paper ({budget})") as lock:
        submitted = _Submitted(plan.results, report)
        submitted.cancel()  # jobs of a run that was killed
        if cluster and cluster.is_slurm:
            submitted.begin()
        log, began = _Log(plan.results / "paper.log", report), time.time()
        status = _run(_command(plan, paper, cores, cluster), plan.results, lock.fileno(), log, costs(plan), report)
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


def _command(plan: Plan, paper: str, cores: int, cluster: Profile | None) -> list[str]:
    """The graph's command line. No profile of the user or the site counts but the one that is asked for."""
    # Its notes on jobs lie with the results: in the checkout, or where the results are, if they are elsewhere.
    folder = paths.ROOT if plan.results.is_relative_to(paths.ROOT) and os.access(paths.ROOT, os.W_OK) else plan.results
    command = [
        sys.executable, "-m", "snakemake", "--snakefile", str(paths.ROOT / "Snakefile"), "--directory", str(folder),
        "--cores", str(cores), "--config", f"budget={plan.budget}", f"paper={paper}", "--rerun-incomplete", "--keep-going", "--nolock",
        "--rerun-triggers", "mtime", "input", "params", "--profile", "none",
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
    command: list[str], folder: Path, lock: int, log: _Log, expected: dict, report: Callable[[str], None]
) -> int | None:
    """Exit status of the graph; None when it was stopped. It ends with this process, and so do its jobs: see `guard`."""
    # One thread a job, as many jobs as cores: several threads that wait for each other are slow on a busy machine.
    environment = hermetic.variables() | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    reading, writing = os.pipe()
    try:
        with _termination_interrupts():
            process = subprocess.Popen(
                [sys.executable, "-P", str(GUARD), str(reading), str(lock), *command],
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8", errors="replace",
                env=environment, cwd=folder, pass_fds=(reading, lock), start_new_session=True,
            )  # fmt: skip
            try:
                follow(log.written(process.stdout), expected, report)
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


def follow(lines: Iterable[str], expected: dict[str, dict[str, float]], report: Callable[[str], None]) -> None:
    """Turn the graph's log into lines of progress with the time left, which is estimated from jobs done so far.

    Args:
        lines: of the log.
        expected: seconds of the jobs by rule and name, see `costs`.
        report: called with each line of progress.
    """
    total = done = finished = 0.0
    counting = False
    number = 0
    began = time.monotonic()
    for line, name in _jobs(lines):
        if line.startswith("Job stats"):
            counting, total, number = True, 0.0, 0
        elif counting and line.startswith("total"):
            counting = False
            if number:
                report(f"{number} jobs to do")
        elif counting and (found := COUNTED.match(line)) and found[1] != GOAL:
            some = list(expected.get(found[1], {}).values())[: int(found[2])]
            total += sum(some) + OVERHEAD * (int(found[2]) - len(some))
            number += int(found[2])
        elif (found := DONE.search(line)) and found[2] != GOAL:
            done += expected.get(found[2], {}).get(name, OVERHEAD)
            finished += 1
            left = (time.monotonic() - began) * max(total - done, 0) / done
            report(f"[{finished:.0f}/{number}] {name}   left about {in_words(left)}")
        elif line.startswith(FAILED):
            report(f"{line} {name}".strip())


def _jobs(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Lines of the log, and for those that say that a job ended or failed its name: its wildcard, or else its rule.

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
        elif line.startswith(FAILED):
            failed = line
        else:
            yield line, names.get(found[1], found[2]) if (found := DONE.search(line)) else ""
    if failed:
        yield failed, ""


def conclude(plan: Plan, report: Callable[[str], None]) -> None:
    """A few lines on what matched the papers and what did not."""
    numbers = all_numbers(plan.results)
    for paper in plan.papers:
        found = counts(numbers[numbers["paper"] == paper])
        report(
            f"{papers.papers()[paper].short}: {', '.join(f'{number} {verdict}' for verdict, number in found.items())}"
        )
    report(f"report: {plan.results / 'report.html'}")


def _get_data(plan: Plan, report: Callable[[str], None]) -> None:
    """Fetch what the papers of the plan need, before any job starts."""
    entries = [papers.papers()[paper] for paper in plan.papers]
    scores = [score for entry in entries for score in entry.scores.values()]
    runs = [part for score in scores for part in (score.smoke if plan.budget == "smoke" else score.runs)]
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
    parser.add_argument(
        "--cores", type=int, help="jobs at once (default: all cores); with a profile, CPUs of a training job"
    )
    parser.add_argument("--profile", help="hand the jobs to a cluster: a folder such as profiles/slurm")
    options = parser.parse_args(arguments)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # a terminal that cannot show a character shows another
    try:
        return regenerate(
            options.budget, options.cores, lambda line: print(line, flush=True), options.paper, options.profile
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
