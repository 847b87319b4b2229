"""`make paper`: run the graph, show progress and the time left, and say at the end what matched.

python -m invdenoise.paper --budget released --cores 2
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

import pandas as pd

from invdenoise import datasets, paths
from invdenoise.files import exclusive
from invdenoise.plan import PAPERS, Plan, make_plan

DEFAULT_COST = 15.0  # seconds of a notebook that draws
# What the last lines sum up, by paper: title and file of tidy numbers with their verdicts.
TABLES = {"linn": ("LINN, Table I", "linn-table1.csv"), "winnet": ("WINNet, blind denoising", "winnet-blind.csv")}
NEEDED = ("bsd68", "set12", "weights")
DONE = re.compile(r"Finished jobid: \d+ \(Rule: (.+)\)")
COUNTED = re.compile(r"^(\S+)\s+(\d+)$")
GOAL = "all"  # the graph's first rule, which does nothing itself


def regenerate(budget: str, cores: int, report: Callable[[str], None] = print, paper: str = "all") -> int:
    """Run the graph for a budget, of one paper or all; jobs whose results are there and newer than their inputs are kept.

    Returns:
        0 when everything was made; otherwise the graph's own exit status, after naming the failed job and its log.
    """
    if cores < 1:
        raise ValueError(f"cores is {cores}; expected 1 or more")
    plan = make_plan(budget, paper)
    if budget != "smoke":
        _get_data(report)
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
                    follow(_tee(process.stdout, handle), plan.costs, report)
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


def follow(lines: Iterable[str], costs: dict[str, float], report: Callable[[str], None]) -> None:
    """Turn the graph's log into lines of progress with the time left, which is estimated from jobs done so far."""
    total = done = finished = 0.0
    counting = False
    number = 0
    began = time.monotonic()
    for line in lines:
        line = line.strip()
        if line.startswith("Job stats"):
            counting, total, number = True, 0.0, 0
        elif counting and line.startswith("total"):
            counting = False
            if number:
                report(f"{number} jobs to do")
        elif counting and (found := COUNTED.match(line)) and found[1] != GOAL:
            total += costs.get(found[1], DEFAULT_COST) * int(found[2])
            number += int(found[2])
        elif (found := DONE.search(line)) and found[1] != GOAL:
            done += costs.get(found[1], DEFAULT_COST)
            finished += 1
            left = (time.monotonic() - began) * max(total - done, 0) / done
            report(f"[{finished:.0f}/{number}] {found[1]}   left about {int(left // 60)}:{int(left % 60):02d}")
        elif line.startswith("Error in rule"):
            report(line)


def conclude(plan: Plan, report: Callable[[str], None]) -> None:
    """A few lines on what matched the paper and what did not."""
    for paper in plan.papers:
        title, name = TABLES[paper]
        table = pd.read_csv(plan.results / "tables" / name, keep_default_na=False)
        compared = table[(table["metric"] == "psnr") & (table["verdict"] != "")]
        counts = compared["verdict"].value_counts()
        report(f"{title}: {', '.join(f'{number} {verdict}' for verdict, number in counts.items())}")
    report(f"report: {plan.results / 'report.html'}")


def _get_data(report: Callable[[str], None]) -> None:
    for dataset in NEEDED:
        try:
            datasets.fetch(dataset)
        except datasets.DataUnavailable as error:
            report(f"{dataset} could not be had, embedded pictures stand in: {error}")


def _tee(lines: Iterable[str], handle) -> Iterable[str]:
    for line in lines:
        handle.write(line)
        handle.flush()
        yield line


def _errors(log: Path) -> list[str]:
    """Lines that say what failed: of the jobs, or, when none was started, the graph's last words."""
    lines = log.read_text().splitlines()
    return [line for line in lines if line.startswith(("error:", "Error in rule"))] or lines[-10:]


def main(arguments: list[str] | None = None) -> int:
    """Regenerate the papers; 0 when everything was made."""
    parser = argparse.ArgumentParser(prog="python -m invdenoise.paper", description=main.__doc__)
    parser.add_argument("--budget", default="released")
    parser.add_argument("--paper", default="all", choices=("all", *PAPERS))
    parser.add_argument("--cores", type=int, default=os.cpu_count())
    options = parser.parse_args(arguments)
    try:
        return regenerate(options.budget, options.cores, lambda line: print(line, flush=True), options.paper)
    except (ValueError, RuntimeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
