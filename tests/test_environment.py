"""One list of exact versions behind pip, conda and this environment; `make` says what there is and installs nothing for it."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

from invdenoise import clean, paths
from invdenoise.files import exclusive

LIB = paths.ROOT / "lib"
MAKEFILE = (paths.ROOT / "Makefile").read_text()
PROJECT = tomllib.loads((paths.ROOT / "pyproject.toml").read_text())["project"]


def requirements(name: str) -> list[str]:
    """Lines of a file of pins."""
    return [line for line in (paths.ROOT / name).read_text().splitlines() if not line.startswith("#")]


REQUIREMENTS, OPTIONAL = requirements("requirements.txt"), requirements("requirements-bm3d.txt")


def normalised(name: str) -> str:
    """The name of a package as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.fixture(scope="module")
def pins() -> dict[str, str]:
    """Version by normalised name."""
    return versions(REQUIREMENTS)


def versions(lines: list[str]) -> dict[str, str]:
    """Version by normalised name."""
    return {normalised(line.partition("==")[0]): line.partition("==")[2] for line in lines}


@pytest.fixture
def make(tmp_path):
    """A function that runs `make` in a bare copy of the checkout's front door, with no environment made yet."""
    for name in ("Makefile", "requirements.txt", "requirements-bm3d.txt"):
        shutil.copy(paths.ROOT / name, tmp_path)

    def run(*arguments: str, **changes: str | None) -> subprocess.CompletedProcess:
        """Keywords change environment variables; None removes one."""
        # `make test BM3D=1` puts what it was given into the environment of the tests.
        given_to_make = (
            "MAKE",
            "MFLAGS",
            "BIN",
            "BM3D",
            "BUDGET",
            "CORES",
            "EXPERIMENT",
            "FIGURE",
            "PAPER",
            "PROFILE",
            "PYTHON",
        )
        inherited = {key: value for key, value in os.environ.items() if key not in given_to_make and key[:4] != "MAKE"}
        given = {key: value for key, value in (inherited | changes).items() if value is not None}
        return subprocess.run(["make", *arguments], cwd=tmp_path, env=given, capture_output=True, text=True)

    return run


def targets() -> list[str]:
    return re.search(r"^\.PHONY: (.+)$", MAKEFILE, re.MULTILINE)[1].split()


# --- pins ---


def test_every_requirement_is_one_exact_version(pins):
    for line in REQUIREMENTS + OPTIONAL:
        assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*==\d+(\.\w+)*", line), line
    assert len(pins | versions(OPTIONAL)) == len(REQUIREMENTS + OPTIONAL), "a package is pinned twice"


def test_torch_is_the_version_that_results_were_made_with(pins):
    assert pins["torch"] == "2.13.0"


@pytest.mark.parametrize("group", ["dependencies", *PROJECT["optional-dependencies"]])
def test_what_the_package_needs_is_pinned(group, pins):
    needs = PROJECT["dependencies"] if group == "dependencies" else PROJECT["optional-dependencies"][group]
    names = [normalised(re.match(r"[A-Za-z0-9._-]+", need)[0]) for need in needs]
    assert names and not set(names) - (versions(OPTIONAL) if group == "bm3d" else pins).keys()


def test_a_package_for_non_commercial_use_is_installed_where_it_is_asked_for_only(make, pins):
    assert "bm3d" in versions(OPTIONAL) and not pins.keys() & versions(OPTIONAL).keys()
    conda = (paths.ROOT / "environment.yml").read_text()
    assert "requirements-bm3d.txt" not in re.sub("#.*", "", conda)
    plain, asked = (make("--dry-run", *more).stdout for more in (["env"], ["env", "BM3D=1"]))
    assert "install" in plain and "requirements-bm3d.txt" not in plain
    assert re.search(r"pip install .*-r requirements-bm3d.txt", asked)


def test_installed_versions_are_the_pinned_ones(pins):
    installed = {normalised(found.metadata["Name"]): found.version for found in importlib.metadata.distributions()}
    optional = versions(OPTIONAL)
    if installed.keys() & optional.keys():  # all of them or none
        pins = pins | optional
    ours = {
        name: installed.get(name, "missing").partition("+")[0] for name in pins
    }  # "+cpu" is another build of the same
    assert ours == pins


def test_conda_pip_make_and_metadata_ask_for_the_same_python():
    conda = yaml.safe_load((paths.ROOT / "environment.yml").read_text())["dependencies"]
    (python,) = [entry for entry in conda if isinstance(entry, str) and entry.startswith("python")]
    (by_pip,) = [entry["pip"] for entry in conda if isinstance(entry, dict)]
    assert by_pip[0] == "-r requirements.txt"
    assert by_pip[1:] in ([], ["-e ."])  # nothing beside the pins but this package
    asked = re.search(r"v == \((\d+), (\d+)\)", MAKEFILE).groups()
    assert python == f"python={'.'.join(asked)}"
    assert PROJECT["requires-python"] == f">={'.'.join(asked)}"
    assert asked == tuple(map(str, sys.version_info[:2]))


# --- the front door ---


@pytest.mark.parametrize("arguments", [(), ("help",), ("BIN=elsewhere/bin",)])
def test_make_alone_lists_every_target_and_makes_nothing(make, arguments, tmp_path):
    before = sorted(tmp_path.iterdir())
    shown = make(*arguments, "PYTHON=no-such-python")
    assert shown.returncode == 0 and shown.stderr == ""
    assert re.findall(r"^  make (\w+) +\S.*$", shown.stdout, re.MULTILINE) == targets()
    assert sorted(tmp_path.iterdir()) == before


def test_commands_named_in_texts_are_targets():
    texts = [paths.ROOT / "README.md", paths.DATA / "README.md", paths.ROOT / "results" / "README.md"]
    texts += [*(paths.ROOT / "lib").rglob("*.py"), *(paths.ROOT / "lib").rglob("*.j2")]
    texts += paths.NOTEBOOKS.rglob("*.ipynb")
    named = {
        word for text in texts for word in re.findall(r"(?:^|[`>])make ([a-z]+)\b", text.read_text(), re.MULTILINE)
    }
    assert named >= {"paper", "test"}
    assert not named - set(targets())


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (
            ["paper", "BUDGET=smoke", "PAPER=linn", "CORES=3"],
            "python -m invdenoise.run --budget smoke --paper linn --cores 3",
        ),
        (["paper", "CORES=1"], "python -m invdenoise.run --budget released --paper all --cores 1"),
        (["paper"], "python -m invdenoise.run --budget released --paper all"),
        (
            ["paper", "FIGURE=linn/table1_psnr"],
            "python -m invdenoise.run --budget released --paper all --figure linn/table1_psnr",
        ),
        (["cluster"], "python -m invdenoise.run --budget released --paper all --profile profiles/slurm"),
        (
            ["cluster", "BUDGET=laptop", "PAPER=linn", "PROFILE=mine", "CORES=8"],
            "python -m invdenoise.run --budget laptop --paper linn --profile mine --cores 8",
        ),
        (["train", "EXPERIMENT=dninn-st-s25"], "python -m invdenoise.training dninn-st-s25 --budget laptop"),
        (
            ["train", "EXPERIMENT=dninn-st-s25", "BUDGET=paper"],
            "python -m invdenoise.training dninn-st-s25 --budget paper",
        ),
    ],
)
def test_a_target_runs_the_command_it_promises(make, arguments, command):
    assert command in make("--dry-run", "BIN=elsewhere/bin", *arguments).stdout.splitlines()


def test_the_environment_has_the_command_and_an_older_one_gets_it(make, tmp_path):
    """Nothing is installed for it: `.ready` is there, so pip does not run."""
    folder = tmp_path / ".venv" / "bin"
    folder.mkdir(parents=True)
    (folder / "python").write_text('#!/bin/sh\nprintf "%s|" "$@"\n')
    (folder / "python").chmod(0o755)
    (tmp_path / ".venv" / ".ready").touch()
    assert make("env").returncode == 0
    done = subprocess.run([folder / "invdenoise", "denoise", "my photo.jpg"], capture_output=True, text=True)
    assert done.stdout == "-m|invdenoise|denoise|my photo.jpg|"


def test_training_without_an_experiment_says_what_to_type(make):
    shown = make("train", "BIN=elsewhere/bin")
    assert shown.returncode == 2
    assert "make train EXPERIMENT=<name> BUDGET=laptop" in shown.stdout


def test_another_python_is_refused_before_anything_is_installed(make, tmp_path):
    older = tmp_path / "python3.10"
    older.write_text(
        f'#!/bin/sh\nexec \'{sys.executable}\' -c "import sys; sys.version_info = (3, 10, 2); exec(sys.argv[1])" "$2"\n'
    )
    older.chmod(0o755)
    shown = make("env", f"PYTHON={older}")
    assert shown.returncode != 0
    assert "needs Python 3.11, found 3.10: make PYTHON=/path/to/python3.11, or conda env create" in shown.stderr
    assert not (tmp_path / ".venv").exists()


@pytest.mark.parametrize("build", ["", "+cpu", "+cu130"])
def test_pins_are_the_same_whichever_build_of_pytorch_is_installed(build, make, tmp_path):
    cuda = ["nvidia-cublas==13.1.0.3", "nvidia_nvtx==13.0.85", "cuda-bindings==13.3.1", "triton==3.9.0"]
    kept = ["networkx==3.6.1", "numpy==2.4.6", "torch==2.13.0", "tritonclient==2.1", "wcwidth==0.9.4"]
    installed = [*(cuda if build != "+cpu" else []), *kept]
    # Makes an environment in which nothing but a list of packages can be had; the optional ones are added to it when asked for.
    python = tmp_path / "python"
    pip = f'case "$*" in *"[bm3d]"*) echo bm3d==4.0.3 >> {tmp_path}/listed;; freeze*) sort {tmp_path}/listed;; esac'
    (tmp_path / "pip").write_text(f"#!/bin/sh\n{pip}\n")
    (tmp_path / "pip").chmod(0o755)
    python.write_text(f"#!/bin/sh\nmkdir -p $3/bin\ncp {tmp_path}/pip $3/bin/pip\n")
    python.chmod(0o755)
    (tmp_path / "listed").write_text("".join(f"{name}{build if 'torch' in name else ''}\n" for name in installed))
    files = [tmp_path / "requirements.txt", tmp_path / "requirements-bm3d.txt"]
    heads = [file.read_text().splitlines()[0] for file in files]
    shown = make("pins", f"PYTHON={python}", "BIN=elsewhere/bin")
    assert shown.returncode == 0, shown.stderr
    written = [file.read_text().splitlines() for file in files]
    assert written == [[heads[0], *kept], [heads[1], "bm3d==4.0.3"]]


# --- CI ---


def test_ci_runs_make_test_at_the_top_and_passes_its_verdict_on(tmp_path):
    script = tmp_path / "checkout" / ".ci" / "run"
    script.parent.mkdir(parents=True)
    shutil.copy2(paths.ROOT / ".ci" / "run", script)
    assert os.access(script, os.X_OK)
    fake = tmp_path / "make"
    fake.write_text('#!/bin/sh\necho "$PWD: make $* with ${DATA_MIRROR-no mirror}"\nexit 7\n')
    fake.chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    environment.pop("DATA_MIRROR", None)
    for mirror, shown in (({}, "no mirror"), ({"DATA_MIRROR": "/pictures"}, "/pictures")):
        done = subprocess.run([script], env=environment | mirror, capture_output=True, text=True)
        assert (done.stdout, done.returncode) == (f"{tmp_path}/checkout: make test BM3D=1 with {shown}\n", 7)


@pytest.fixture
def tools(tmp_path):
    """A folder for BIN whose programs write down their arguments, and the folder of results they would write to."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("python", "ruff"):
        script = (
            f'#!/bin/sh\necho "{name} $*" >> {tmp_path}/commands\necho "$INVDENOISE_RESULTS" >> {tmp_path}/results-of\n'
        )
        (folder / name).write_text(script + 'mkdir -p "$INVDENOISE_RESULTS/scores"\n' * (name == "python"))
        (folder / name).chmod(0o755)
    return folder


def test_make_test_checks_style_code_and_notebooks_and_leaves_results_alone(make, tools, tmp_path, monkeypatch):
    mine = tmp_path / "mine"
    monkeypatch.setenv("INVDENOISE_RESULTS", str(mine))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert make("test", f"BIN={tools}", "CORES=3").returncode == 0
    assert (tmp_path / "commands").read_text().splitlines() == [
        "ruff check .",
        "ruff format --check .",
        "python -m pytest -m not lab --numprocesses 3 --dist loadfile",
        "python -m pytest --numprocesses 3 --dist loadfile --nbval-lax --nbval-current-env notebooks",
    ]
    *_, notebooks = (tmp_path / "results-of").read_text().splitlines()  # the tests choose a folder by themselves
    assert notebooks.startswith(str(tmp_path)) and notebooks != str(mine)
    assert not os.path.exists(notebooks)


def test_tests_take_the_cores_of_the_machine_whatever_the_threads(make, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    shown = make("--dry-run", "test", "BIN=elsewhere/bin").stdout
    assert f"--numprocesses {len(os.sched_getaffinity(0))} " in shown


def test_skipped_tests_are_named_at_the_end(tmp_path):
    shutil.copy(paths.ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_one.py").write_text("import pytest\ndef test_one(): pytest.skip('no pictures here')\n")
    done = subprocess.run([sys.executable, "-m", "pytest"], cwd=tmp_path, capture_output=True, text=True)
    assert "SKIPPED [1] tests/test_one.py:2: no pictures here" in done.stdout.splitlines()[-3:]


# --- clean


def test_lab_opens_the_tour_beside_all_files_of_the_checkout(tmp_path):
    """What JupyterLab is started with: its root is the checkout, the tour is in front, and the list of files begins at the root."""
    seen = tmp_path / "bin" / "jupyter"
    seen.parent.mkdir()
    seen.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path / "seen"}\n')
    seen.chmod(0o755)
    done = subprocess.run(["make", "lab", f"BIN={seen.parent}"], cwd=paths.ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    program, *settings = (tmp_path / "seen").read_text().splitlines()
    given = dict(setting.removeprefix("--").split("=", 1) for setting in settings)
    assert program == "lab" and given["ServerApp.root_dir"] == str(paths.ROOT)
    address = urlsplit(given["LabApp.default_url"])
    assert parse_qs(address.query) == {"file-browser-path": ["/"]}
    assert (paths.ROOT / address.path.removeprefix("/lab/tree/")) == paths.NOTEBOOKS / "00_tour.ipynb"
    assert (paths.NOTEBOOKS / "00_tour.ipynb").is_file() and (paths.ROOT / "README.md").is_file()


@pytest.fixture
def made(tmp_path, monkeypatch):
    """A checkout after `make paper`, with a file in each folder, and a function that cleans it."""
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    results = tmp_path / "results"
    monkeypatch.delenv("INVDENOISE_RESULTS")
    names = "weights/a released/scores/a scores/p/a.csv facts/scores/a notebooks/scores/p/a.ipynb notebooks/figures/p/b.ipynb"
    names += " notebooks/report.html site/p.html tables/a figures/a runs/n/laptop/checkpoint.pt laptop/scores/a smoke/scores/a tour/mine.png"
    for name in [*names.split(), "report.html", "bench.csv", "paper.log", "lock", "README.md"]:
        (results / name).parent.mkdir(parents=True, exist_ok=True)
        (results / name).write_text("x")
    return results


def left(results) -> set[str]:
    return {str(file.relative_to(results)).split("/")[0] for file in results.rglob("*") if file.is_file()}


RELEASED = {"weights", "released", "README.md"}
SLOW = {"scores", "facts", "notebooks", "runs", "laptop", "tour", "bench.csv"}


def test_clean_asks_once_for_all_that_took_long(made):
    asked = []
    clean.clean(made, lambda question: asked.append(question) or False, print)
    assert left(made) == RELEASED | SLOW | {"paper.log", "lock"}
    assert (made / "notebooks/scores/p/a.ipynb").exists() and not (made / "notebooks/figures").exists()
    ((question),) = asked
    assert all(f"{name} (1 file, " in question for name in SLOW)
    clean.clean(made, lambda question: True, print)
    assert left(made) == RELEASED


def test_clean_without_a_terminal_keeps_what_took_long_and_says_so(made):
    environment = os.environ | {"PYTHONPATH": str(LIB), "INVDENOISE_RESULTS": str(made)}
    command = [sys.executable, "-m", "invdenoise.clean"]
    done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 0 and (made / "scores/p/a.csv").exists()
    assert re.search("^kept in .*: .*scores, .*(no terminal to ask at)", done.stdout)


def test_clean_asks_for_everything_in_a_folder_that_may_hold_other_things(made, monkeypatch, tmp_path):
    monkeypatch.setattr(paths, "ROOT", tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / ".snakemake").mkdir(parents=True)
    before = left(made)
    clean.clean(made, None, lambda line: None)
    assert left(made) == before
    clean.clean(made, lambda question: "tables" in question, print)
    assert left(made) == RELEASED and (tmp_path / "elsewhere" / ".snakemake").exists()  # of other folders too


@pytest.mark.parametrize("lock", ["lock", "smoke/lock", "runs/n/laptop/lock"])
def test_clean_waits_for_runs(lock, made):
    before = left(made)
    with exclusive(made / lock, "a run"), pytest.raises(RuntimeError, match="is already running"):
        clean.clean(made, lambda question: True, print)
    (made / "laptop" / "submitted").touch()
    with pytest.raises(RuntimeError, match="SLURM jobs may still write"):
        clean.clean(made, lambda question: True, print)
    assert left(made) == before


def test_cleaning_needs_no_environment(make, tmp_path):
    """The standard library is enough: no environment is made, and none is needed."""
    package = tmp_path / "lib" / "invdenoise"  # copied: a link would lead to this checkout, and to its results
    package.mkdir(parents=True)
    for name in ("__init__", "provenance", "paths", "files", "clean"):
        shutil.copy(LIB / "invdenoise" / f"{name}.py", package)
    for name in ("results/scores/a.csv", "results/tables/a.md", ".snakemake/note"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@" < /dev/null\n')
    python.chmod(0o755)
    shown = make("clean", f"PYTHON={python}", INVDENOISE_RESULTS=None)
    assert shown.returncode == 0 and shown.stdout.startswith(f"kept in {tmp_path / 'results'}: scores"), shown
    assert (tmp_path / "results/scores/a.csv").exists() and (tmp_path / ".snakemake/note").exists()
    assert not (tmp_path / "results/tables").exists() and not (tmp_path / ".venv").exists()
