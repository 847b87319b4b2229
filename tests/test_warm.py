"""Jobs forked from a warm server: the same as others, only sooner; and nothing outlives what asked for it."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from invdenoise import hermetic, paths, warm
from invdenoise.files import exclusive

pytestmark = pytest.mark.slow

METADATA = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
ONE = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}  # as of the graph
LOOK = """
import os, sys
import random
forked = "torch" in sys.modules  # nothing has imported it yet
import matplotlib, numpy, torch
from matplotlib import pyplot
pyplot.figure(figsize=(1, 1)).gca().plot([1, 2])
names = sorted(set(os.environ) - {"JPY_PARENT_PID", "JPY_SESSION_NAME", "INVDENOISE_WARM"})
print(divisor, 10 / divisor, os.getcwd(), sys.path[0], torch.get_num_threads(), matplotlib.get_backend(), names)
"""
CHANCE = "print(forked, random.random(), numpy.random.rand(), torch.initial_seed())"
SLEEP = "import os, pathlib, time\npathlib.Path(place).write_text(f'{os.getpid()} {os.getpgid(0)}')\ntime.sleep(300)"


def write(path: Path, *cells: str, **parameters) -> Path:
    first = "\n".join(f"{name} = {value!r}" for name, value in parameters.items())
    nodes = [new_code_cell(first, metadata={"tags": ["parameters"]}), *map(new_code_cell, cells)]
    nbformat.write(new_notebook(cells=nodes, metadata=METADATA), path)
    return path


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> dict[str, str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INVDENOISE_RESULTS", str(tmp_path_factory.mktemp("results")))
        return hermetic.variables() | ONE


@pytest.fixture(scope="module")
def address(environment):
    """What names a server that is ready."""
    with warm.server(environment) as found:
        yield found


def command(notebook: Path, output: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "invdenoise.warm", "invdenoise.notebooks", str(notebook), str(output), *arguments]


def outputs(notebook: Path) -> list[dict]:
    cells = nbformat.read(notebook, as_version=4).cells
    return [dict(output) for cell in cells if cell.cell_type == "code" for output in cell.outputs]


def test_a_forked_page_is_like_any_other(environment, address, tmp_path):
    notebook = write(tmp_path / "look.ipynb", LOOK, CHANCE, divisor=2)
    found, chances = {}, {}
    for name, variables in {"forked": address, "again": address, "started": {}}.items():
        output = tmp_path / name / "look.ipynb"
        done = subprocess.run(
            command(notebook, output, "-p", "divisor", "4"), env=environment | variables, cwd=tmp_path
        )
        assert done.returncode == 0 and output.with_suffix(".html").exists()
        *found[name], last = outputs(output)
        chances[name] = last["text"].split()
    assert found["forked"] == found["again"] == found["started"]
    assert found["forked"][0]["text"].startswith(f"4 2.5 {paths.ROOT} ") and "image/png" in found["forked"][1]["data"]
    assert "inline" in found["forked"][0]["text"]
    assert [words[0] for words in chances.values()] == ["True", "True", "False"]
    assert len({word for words in chances.values() for word in words[1:]}) == 9  # chance is not copied


def test_a_failure_is_told_alike(environment, address, tmp_path):
    notebook = write(tmp_path / "fails.ipynb", "1 / divisor", divisor=0)
    told = []
    for variables in (address, {}):
        output = tmp_path / "out" / "fails.ipynb"
        done = subprocess.run(command(notebook, output), env=environment | variables, capture_output=True, text=True)
        assert done.returncode == 1 and not output.exists()
        (failed,) = output.parent.glob("*.ipynb")
        told.append([line for line in done.stderr.splitlines() if "IPKernelApp" not in line])
        assert outputs(failed)[-1]["ename"] == "ZeroDivisionError"
    assert told[0] == told[1] and told[0][0].startswith("error: fails.ipynb failed in cell 2: ZeroDivisionError")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_a_job_ends_with_its_starter(number, environment, address, tmp_path):
    sleeper = Sleeper(tmp_path)
    process = subprocess.Popen(sleeper.command, env=environment | address, stderr=subprocess.DEVNULL)
    sleeper.wait(process)
    process.send_signal(number)
    assert process.wait(60) == (128 + number if number == signal.SIGTERM else -number)
    sleeper.must_end()


class Sleeper:
    """A page whose kernel writes its number down and sleeps."""

    def __init__(self, folder: Path):
        self.place = folder / "kernel"
        self.command = command(write(folder / "sleeps.ipynb", SLEEP, place=str(self.place)), folder / "out.ipynb")
        self.kernel = 0

    def wait(self, process: subprocess.Popen) -> None:
        until(lambda: process.poll() is not None or (self.place.exists() and self.place.read_text().count(" ") == 1))
        self.kernel, group = map(int, self.place.read_text().split())
        assert self.kernel == group
        server = parent(self.kernel)
        assert "--serve" in Path(f"/proc/{server}/cmdline").read_text()
        assert len(Path(f"/proc/{server}/task/{server}/children").read_text().split()) == 2  # its runner is forked too

    def must_end(self) -> None:
        until(lambda: not runs(self.kernel), 30)


def until(condition, seconds: float = 120.0) -> None:
    waited = time.monotonic()
    while not condition():
        assert time.monotonic() - waited < seconds
        time.sleep(0.05)


def stat(process: int) -> list[str]:
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()


def parent(process: int) -> int:
    return int(stat(process)[1])


def runs(process: int) -> bool:
    return Path(f"/proc/{process}").exists() and stat(process)[0] != "Z"


def test_jobs_end_with_the_server(environment, tmp_path):
    sleeper = Sleeper(tmp_path)
    with warm.server(environment) as address:
        process = subprocess.Popen(sleeper.command, env=environment | address)
        sleeper.wait(process)
        os.kill(parent(sleeper.kernel), signal.SIGKILL)
        assert process.wait(60) == 128 + signal.SIGKILL
        sleeper.must_end()


# `make paper` with a graph of one page.
FRONT = """
import sys
from pathlib import Path
from unittest.mock import MagicMock
from invdenoise import run
run.make_plan = lambda *_: MagicMock(results=Path(sys.argv[1]), missing=())
run.costs, run.has_gpu = (lambda plan: {}), (lambda: False)
run._command = lambda *_: [sys.executable, "-m", "snakemake", "--cores", "1", "--snakefile", sys.argv[2]]
sys.exit(run.main(["--budget", "smoke", "--cores", "1"]))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=lambda number: number.name)
def test_forked_jobs_end_with_the_command(number, environment, tmp_path):
    sleeper, results = Sleeper(tmp_path), tmp_path / "results"
    usual = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.default_int_handler)}
    rule = f"rule:\n    output: {str(tmp_path / 'out.ipynb')!r}\n    shell: {shlex.join(sleeper.command)!r}\n"
    (tmp_path / "Snakefile").write_text(rule)
    command = [sys.executable, "-c", FRONT, str(results), str(tmp_path / "Snakefile")]
    process = subprocess.Popen(command, env=environment, **usual)
    sleeper.wait(process)
    process.send_signal(number)
    assert process.wait(60) == (130 if number == signal.SIGINT else -number)
    if number == signal.SIGINT:
        assert not runs(sleeper.kernel)
    sleeper.must_end()

    def is_free() -> bool:
        try:
            with exclusive(results / "lock", "another run"):
                return True
        except RuntimeError:
            return False

    until(is_free, 30)


# --- Without a server


@pytest.mark.parametrize("changed", [{"OMP_NUM_THREADS": "2"}, {"LC_ALL": "C"}, {"MPLBACKEND": "svg"}], ids=str)
def test_what_imports_read_must_be_as_in_the_server(changed, environment, address, tmp_path):
    """A training with several threads, for example, is started as ever."""
    assert warm.start("invdenoise.notebooks:command", [], environment | address | changed, str(tmp_path)) is None


def test_other_variables_may_differ(environment, address, tmp_path):
    others = {"INVDENOISE_RUNS": "x", "TMPDIR": "/tmp", "VECLIB_MAXIMUM_THREADS": "1", "PWD": "/", "IPYTHONDIR": "x"}
    job = warm.start("invdenoise.notebooks:command", ["--help"], environment | address | others, str(tmp_path))
    assert job.wait() == 0 and job.poll() == 0


def test_a_page_is_made_where_no_server_answers(environment, tmp_path):
    address = str(tmp_path / "nobody")
    output = tmp_path / "out.ipynb"
    notebook = write(tmp_path / "plain.ipynb", "print(2 * number)", number=1)
    done = subprocess.run(command(notebook, output, "-p", "number", "4"), env=environment | {warm.ADDRESS: address})
    assert done.returncode == 0 and outputs(output)[0]["text"] == "8\n"


def test_a_server_without_jobs_imports_nothing_and_leaves_nothing(environment):
    before = os.times().children_user
    with warm.server(environment) as address:
        folder = Path(address[warm.ADDRESS]).parent
        assert folder.exists()
    assert not folder.exists()
    assert os.times().children_user - before < 1.0


def test_a_path_that_is_too_long_for_a_socket_leaves_jobs_to_start_as_ever(environment, monkeypatch, tmp_path):
    deep = tmp_path / ("x" * 120)
    deep.mkdir()
    monkeypatch.setattr(warm.tempfile, "tempdir", str(deep))
    with warm.server(environment) as address:
        assert address == {}
