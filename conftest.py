"""Tests, and notebooks under test, write to temporary folders. A run that changes the checkout fails."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from functools import partial
from pathlib import Path

import pytest

os.environ["OMP_NUM_THREADS"] = "1"  # before PyTorch is imported; kernels and processes that tests start inherit it

ROOT = Path(__file__).resolve().parent
# Caches of tools, and downloads: those are checked by their hash, and only added to.
UNWATCHED = {".git", ".pytest_cache", ".ruff_cache", ".ipynb_checkpoints", "__pycache__", "cache"}
# Outside results/, people edit files like these, possibly while the tests run: a change is named, but is no failure.
BY_HAND = {
    ".cff", ".cpp", ".csv", ".h", ".ipynb", ".j2", ".md", ".py", ".toml", ".txt", ".yaml", ".yml", ".gitignore",
    "Makefile", "Snakefile",
}  # fmt: skip
BEFORE, CHANGED = pytest.StashKey[dict[str, tuple[int, int]]](), pytest.StashKey[list[str]]()
KERNELS = pytest.StashKey[dict[str, str]]()  # environment of the kernels of notebooks under test


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: takes several seconds; leave out with -m 'not slow'")
    folder = tempfile.mkdtemp(prefix="invdenoise-tests-")  # each worker of pytest-xdist has its own
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
    os.environ["INVDENOISE_RESULTS"] = folder
    if not hasattr(config, "workerinput"):  # workers leave the look at the checkout to the process that started them
        config.stash[BEFORE] = _files(ROOT)
    if config.getoption("nbval_lax", False) or config.getoption("nbval", False):
        _fork_kernels(config)
    else:
        config.option.loadscopereorder = False  # of pytest-xdist, which would start files with few tests last


def pytest_collection_modifyitems(items):
    """First the files that run the graph: they take longest, and its jobs keep every core busy."""
    first = {item.path for item in items if item.get_closest_marker("graph")}
    items.sort(key=lambda item: item.path not in first)


def _fork_kernels(config):
    """Let the kernels of notebooks under test be forked, which saves each its imports. All have the environment of this process."""
    import nbval.kernel  # here and below: tests of the library need neither

    from invdenoise import notebooks, warm

    environment = getattr(config, "workerinput", {}).get("kernels")
    if environment is None:
        environment, stack = dict(os.environ), contextlib.ExitStack()
        config.add_cleanup(stack.close)
        environment |= stack.enter_context(warm.server(environment))
        config.stash[KERNELS] = environment
    os.environ["JUPYTER_DEFAULT_PROVISIONER_NAME"] = notebooks.PROVISIONER.name
    environment |= {"INVDENOISE_RESULTS": os.environ["INVDENOISE_RESULTS"]}
    nbval.kernel.start_new_kernel = partial(nbval.kernel.start_new_kernel, env=environment)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node):
    if (kernels := node.config.stash.get(KERNELS, None)) is not None:
        node.workerinput["kernels"] = kernels


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session):
    before = session.config.stash.get(BEFORE, None)
    if before is None:
        return
    after = _files(ROOT)
    changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    session.config.stash[CHANGED] = changed
    if session.exitstatus == pytest.ExitCode.OK and any(map(_by_a_test, changed)):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter, config):
    changed = config.stash.get(CHANGED, [])
    for ours, text in ((True, "FAILED: the tests changed"), (False, "edited while the tests ran:")):
        if names := [name for name in changed if _by_a_test(name) == ours]:
            terminalreporter.write_line(f"{text} {', '.join(names)}", red=ours)
            if ours:
                terminalreporter.write_line(
                    "  write below tmp_path, and do not use the checkout's results while tests run"
                )


def _files(root: Path) -> dict[str, tuple[int, int]]:
    """Size and time of the last change of every watched file, by its path below `root`."""
    found = {}
    for folder, inside, names in os.walk(root):
        inside[:] = [name for name in inside if name not in UNWATCHED and not name.startswith(".venv")]
        for name in names:
            path = os.path.join(folder, name)
            with contextlib.suppress(FileNotFoundError):  # gone since its folder was listed
                state = os.lstat(path)
                found[os.path.relpath(path, root)] = state.st_size, state.st_mtime_ns
    return found


def _by_a_test(name: str) -> bool:
    """Whether nobody changes this file by hand."""
    path = Path(name)
    return path.parts[0] == "results" or (path.suffix or path.name) not in BY_HAND
