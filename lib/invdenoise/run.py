"""`make paper`: run the graph, show progress and the time left, and say at the end what matched.

python -m invdenoise.run --budget released --cores 2
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from invdenoise import papers, paths
from invdenoise.data.fetch import DataUnavailable, fetch
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


def regenerate(budget: str, cores: int, report: Callable[[str], None] = print, paper: str = ALL) -> int:
    """Run the graph for a budget, of one paper or all; jobs whose results are there and newer than their inputs are kept.

    Returns:
        0 when everything was made; otherwise the graph's own exit status, after naming the failed job and its log.
    """
    if cores < 1:
        raise ValueError(f"cores is {cores}; expected 1 or more")
    plan = make_plan(budget, paper)
    if budget != "smoke":
        _get_data(plan, report)
        plan = make_plan(budget, paper)  # what can be evaluated depends on what could be fetched
    for line in plan.missing:
        report(f"left out: {line}")
    with exclusive(plan.results / "lock", f"make paper ({budget})") as lock:
        log = plan.results / "paper.log"
        command = [
            sys.executable, "-m", "snakemake", "--snakefile", str(paths.ROOT / "Snakefile"), "--directory", str(paths.ROOT),
            "--cores", str(cores), "--config", f"budget={budget}", f"paper={paper}", "--rerun-incomplete", "--keep-going", "--nolock",
            "--rerun-triggers", "mtime", "input", "params", "--default-resources", "mem_mb=3000",
        ]  # fmt: skip
        # One thread a job: several jobs fill the cores better than several threads do.
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(paths.ROOT / "lib")}
        with open(log, "w") as handle:
            # The graph holds the lock as well, for it may outlive this process; its group is that of all its jobs.
            process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment,
                pass_fds=(lock.fileno(),), start_new_session=True,
            )  # fmt: skip
            try:
                with _termination_interrupts():
                    follow(_tee(process.stdout, handle), costs(plan), report)
            except KeyboardInterrupt:
                os.killpg(process.pid, signal.SIGTERM)
                process.stdout.close()
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:  # it waits for its jobs
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
                report("stopped; the same command goes on from here")
                return 130
        status = process.wait()
    if status:
        report(f"some jobs failed; their messages, and the rest of the log, are in {log}:")
        for line in _errors(log):
            report(f"  {line}")
        return status
    conclude(plan, report)
    return 0


@contextlib.contextmanager
def _termination_interrupts() -> Iterator[None]:
    """Let SIGTERM raise KeyboardInterrupt, as Ctrl-C does, where signals may be handled."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


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
    sets = [name for entry in entries for score in entry.scores.values() for runs in score.runs for name in runs.sets]
    needs_weights = any(entry.authors for entry in entries)
    for dataset in dict.fromkeys([*sets, *(["weights"] if needs_weights else [])]):
        try:
            fetch(dataset)
        except (DataUnavailable, ValueError) as error:  # an embedded set needs no fetching
            if isinstance(error, DataUnavailable):
                report(f"{dataset} could not be had, others stand in: {error}")


def _tee(lines: Iterable[str], handle) -> Iterable[str]:
    for line in lines:
        handle.write(line)
        handle.flush()
        yield line


def _errors(log: Path) -> list[str]:
    """Lines that say what failed: of the jobs, or, when none was started, the graph's last words."""
    lines = log.read_text().splitlines()
    failed = [f"{line} {name}".strip() for line, name in _jobs(lines) if line.startswith(("error:", FAILED))]
    return failed or lines[-10:]


def main(arguments: list[str] | None = None) -> int:
    """Regenerate the papers; 0 when everything was made."""
    parser = argparse.ArgumentParser(prog="python -m invdenoise.run", description=main.__doc__)
    parser.add_argument("--budget", default="released")
    parser.add_argument("--paper", default=ALL)
    parser.add_argument("--cores", type=int, default=os.cpu_count())
    options = parser.parse_args(arguments)
    try:
        return regenerate(options.budget, options.cores, lambda line: print(line, flush=True), options.paper)
    except (ValueError, RuntimeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
