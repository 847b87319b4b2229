"""One list of exact versions behind pip, conda and this environment; `make` says what there is and installs nothing for it."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib

import pytest
import yaml

from invdenoise import paths

MAKEFILE = (paths.ROOT / "Makefile").read_text()
PROJECT = tomllib.loads((paths.ROOT / "pyproject.toml").read_text())["project"]
REQUIREMENTS = [line for line in (paths.ROOT / "requirements.txt").read_text().splitlines() if not line.startswith("#")]


def normalised(name: str) -> str:
    """The name of a package as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.fixture(scope="module")
def pins() -> dict[str, str]:
    """Version by normalised name."""
    return {normalised(line.partition("==")[0]): line.partition("==")[2] for line in REQUIREMENTS}


@pytest.fixture
def make(tmp_path):
    """A function that runs `make` in a bare copy of the checkout's front door, with no environment made yet."""
    for name in ("Makefile", "requirements.txt"):
        shutil.copy(paths.ROOT / name, tmp_path)

    def run(*arguments: str) -> subprocess.CompletedProcess:
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))}
        return subprocess.run(["make", *arguments], cwd=tmp_path, env=clean, capture_output=True, text=True)

    return run


def targets() -> list[str]:
    return re.search(r"^\.PHONY: (.+)$", MAKEFILE, re.MULTILINE)[1].split()


# --- pins ---


def test_every_requirement_is_one_exact_version(pins):
    for line in REQUIREMENTS:
        assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*==\d+(\.\w+)*", line), line
    assert len(pins) == len(REQUIREMENTS), "a package is pinned twice"


def test_torch_is_the_version_that_results_were_made_with(pins):
    assert pins["torch"] == "2.13.0"


@pytest.mark.parametrize("group", ["dependencies", *PROJECT["optional-dependencies"]])
def test_what_the_package_needs_is_pinned(group, pins):
    needs = PROJECT["dependencies"] if group == "dependencies" else PROJECT["optional-dependencies"][group]
    names = [normalised(re.match(r"[A-Za-z0-9._-]+", need)[0]) for need in needs]
    assert names and not set(names) - pins.keys()


def test_installed_versions_are_the_pinned_ones(pins):
    installed = {normalised(found.metadata["Name"]): found.version for found in importlib.metadata.distributions()}
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
        (["train", "EXPERIMENT=dninn-st-s25"], "python -m invdenoise.training dninn-st-s25 --budget laptop"),
        (
            ["train", "EXPERIMENT=dninn-st-s25", "BUDGET=paper"],
            "python -m invdenoise.training dninn-st-s25 --budget paper",
        ),
    ],
)
def test_a_target_runs_the_command_it_promises(make, arguments, command):
    assert command in make("--dry-run", "BIN=elsewhere/bin", *arguments).stdout.splitlines()


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
    python = tmp_path / "python"  # makes an environment in which nothing but a list of packages can be had
    python.write_text(
        "#!/bin/sh\nmkdir -p $3/bin\n"
        f"printf '#!/bin/sh\\n[ $1 = install ] || cat {tmp_path}/listed\\n' > $3/bin/pip\nchmod +x $3/bin/pip\n"
    )
    python.chmod(0o755)
    (tmp_path / "listed").write_text("".join(f"{name}{build if 'torch' in name else ''}\n" for name in installed))
    head = (tmp_path / "requirements.txt").read_text().splitlines()[0]
    shown = make("pins", f"PYTHON={python}", "BIN=elsewhere/bin")
    assert shown.returncode == 0, shown.stderr
    assert (tmp_path / "requirements.txt").read_text().splitlines() == [head, *kept]


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
        assert (done.stdout, done.returncode) == (f"{tmp_path}/checkout: make test with {shown}\n", 7)


def test_make_test_checks_style_code_and_notebooks(make):
    commands = make("--dry-run", "test", "BIN=elsewhere/bin", "CORES=3").stdout.splitlines()
    assert commands == [
        "ruff check .",
        "ruff format --check .",
        "python -m pytest --numprocesses 3 --dist loadfile",
        "python -m pytest --numprocesses 3 --dist loadfile --nbval-lax --nbval-current-env notebooks",
    ]
