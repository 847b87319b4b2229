"""Where things are written: folders that the environment names, and never the checkout while tests run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from invdenoise import paths

FOLDERS = {"INVDENOISE_RESULTS": paths.results_dir, "INVDENOISE_CACHE": paths.cache_dir}


@pytest.fixture(params=FOLDERS)
def named(request, monkeypatch):
    """A function that sets a variable and returns the folder that it names."""

    def folder(value: str) -> Path:
        monkeypatch.setenv(request.param, value)
        return FOLDERS[request.param]()

    return folder


@pytest.mark.parametrize("value", ["~/mine/r", "$HOME/mine/r", "${HOME}/mine/r", "~/mine/../mine/r/"])
def test_the_home_folder_is_filled_in_where_no_shell_did(value, named, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert os.path.normpath(named(value)) == str(tmp_path / "mine" / "r")


@pytest.mark.parametrize("value", ["~nobody-of-this-name/r", "$NOT_SET_ANYWHERE/r", "${NOT_SET_ANYWHERE}/r"])
def test_a_home_folder_that_does_not_exist_is_an_error(value, named):
    with pytest.raises(
        ValueError, match="INVDENOISE_(RESULTS|CACHE) is .*which names no folder here; give the whole path"
    ):
        named(value)


def test_other_values_are_taken_as_they_are(named, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert named("/somewhere/else~1") == Path("/somewhere/else~1")
    assert named("here/a~b") == tmp_path / "here" / "a~b"


def test_without_the_variables_everything_is_in_the_checkout(monkeypatch):
    for variable in FOLDERS:
        monkeypatch.setenv(variable, "")
    assert (paths.results_dir(), paths.cache_dir()) == (paths.ROOT / "results", paths.ROOT / "data" / "cache")


def test_an_installed_package_writes_to_the_current_folder_and_the_cache_of_the_user(monkeypatch, tmp_path):
    monkeypatch.setattr(paths, "INSTALLED", True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for variable in FOLDERS:
        monkeypatch.setenv(variable, "")
    assert (paths.results_dir(), paths.cache_dir()) == (tmp_path / "results", tmp_path / "cache" / "invdenoise")


# --- Tests write elsewhere


def test_the_results_of_tests_are_in_a_temporary_folder():
    assert not paths.results_dir().is_relative_to(paths.ROOT)


@pytest.fixture
def checkout(tmp_path):
    """A checkout with a result of its user, some code, and our conftest.py; and a function that runs pytest in it."""
    root = tmp_path / "checkout"
    for name in ("results/scores.csv", "lib/code.py", "data/cache/there.npy", ".git/index"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("old")
    (root / "pyproject.toml").write_text("[tool.pytest.ini_options]")
    shutil.copy(paths.ROOT / "conftest.py", root)

    def run(*arguments: str, plugins: bool = False) -> subprocess.CompletedProcess:
        environment = {
            key: value for key, value in os.environ.items() if not key.startswith(("INVDENOISE_", "PYTEST_"))
        }
        if not plugins:  # they take seconds to load
            environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
        return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)

    return root, run


@pytest.mark.parametrize(
    ("does", "status", "told"),
    [
        ("open('results/scores.csv', 'w').write('new')", 1, "FAILED: the tests changed results/scores.csv"),
        (
            "os.makedirs('results/runs'); open('results/runs/a.pt', 'w')",
            1,
            "FAILED: the tests changed results/runs/a.pt",
        ),
        ("os.remove('results/scores.csv')", 1, "FAILED: the tests changed results/scores.csv"),
        ("open('lib/kernel.so', 'w')", 1, "FAILED: the tests changed lib/kernel.so"),
        ("open('lib/code.py', 'w').write('edited')", 0, "edited while the tests ran: lib/code.py"),
        ("open('data/cache/new.npy', 'w'); open('.git/index', 'w')", 0, ""),
        ("path = os.environ['INVDENOISE_RESULTS']; open(path + '/a.csv', 'w')", 0, ""),
    ],
    ids=["a result", "a new result", "a lost result", "a product", "code", "caches", "a temporary result"],
)
def test_a_run_that_changes_the_checkout_fails(does, status, told, checkout):
    root, run = checkout
    (root / "test_it.py").write_text(f"import os\n\ndef test_it():\n    {does}\n")
    done = run("test_it.py")
    assert done.returncode == status and "1 passed" in done.stdout
    lines = [line for line in done.stdout.splitlines() if "tests changed" in line or "edited" in line]
    assert lines == ([told] if told else [])


@pytest.mark.slow
def test_notebooks_under_test_write_elsewhere_too(checkout):
    root, run = checkout
    code = "import os\npath = os.environ['INVDENOISE_RESULTS']\nopen(path + '/a.csv', 'w').close()\n"
    code += f"assert not path.startswith({str(root)!r}) and os.environ['OMP_NUM_THREADS'] == '1'"
    (root / "notebooks").mkdir()
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    nbformat.write(notebook, root / "notebooks" / "it.ipynb")
    done = run("--nbval-lax", "--nbval-current-env", "notebooks", plugins=True)
    assert done.returncode == 0 and "1 passed" in done.stdout, done.stdout
