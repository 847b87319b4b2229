"""The READMEs as their readers use them: every block is run as it stands, and what it needs is in the folder.

Two stand-ins: `make` only says what it would run (`make --dry-run`), and `.venv` is the environment that runs the tests.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from invdenoise import papers, paths
from invdenoise.data.pictures import load_pictures

READMES = [paths.ROOT / "README.md", *sorted(paths.NOTEBOOKS.glob("*/README.md"))]
LANGUAGES = ("sh", "python")


def blocks(file: Path) -> list[tuple[str, str]]:
    """Language and text of each fenced block."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", file.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def named(language: str) -> list:
    return [
        pytest.param(text, id=f"{file.parent.name if file.parent != paths.ROOT else 'README'}-{number}")
        for file in READMES
        for number, (kind, text) in enumerate(blocks(file))
        if kind == language
    ]


@pytest.fixture
def folder(tmp_path):
    """A checkout's front door, two pictures of the reader's in the places that the README names, and the stand-ins."""
    for name in ("Makefile", "requirements.txt", "requirements-bm3d.txt"):
        shutil.copy(paths.ROOT / name, tmp_path)
    (pictures,) = load_pictures("embedded-colour", limit=1).pictures
    (tmp_path / "scans").mkdir()
    for name in ("photo.jpg", "scans/one.png"):
        Image.fromarray(pictures.pixels[:64, :64]).save(tmp_path / name)
    scripts = {
        "bin/make": f'exec {shutil.which("make")} --dry-run "$@"',
        ".venv/bin/python": f'exec {sys.executable} "$@"',
        ".venv/bin/invdenoise": 'exec "$(dirname "$0")/python" -m invdenoise "$@"',
    }
    for name, line in scripts.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / ".venv" / "bin" / "activate").write_text(f"PATH={tmp_path}/.venv/bin:$PATH\n")
    return tmp_path


def run(folder: Path, *command: str) -> subprocess.CompletedProcess:
    given = {
        key: value for key, value in os.environ.items() if not key.startswith("MAKE") and key not in ("BIN", "MFLAGS")
    }
    environment = given | {
        "PATH": f"{folder}/bin:{os.environ['PATH']}",
        "PYTHONPATH": str(paths.ROOT / "lib"),
        "PYTHONSAFEPATH": "1",
    }
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_every_block_is_of_a_kind_that_is_run():
    assert {kind for file in READMES for kind, _ in blocks(file)} == set(LANGUAGES)


@pytest.mark.parametrize("text", named("sh"))
def test_commands_run_as_they_stand(text, folder):
    done = run(folder, "sh", "-eu", "-c", text)
    assert done.returncode == 0, done.stderr
    for line in text.splitlines():
        if found := re.match(r"invdenoise denoise photo.jpg.*?(?:--out (\w+))?\s*#", line):
            with Image.open(folder / (found[1] or "denoised") / "photo.png") as after:
                assert after.size == (64, 64)


@pytest.mark.parametrize("text", named("python"))
def test_python_runs_as_it_stands(text, folder):
    done = run(folder, sys.executable, "-c", text)
    assert done.returncode == 0 and done.stdout.strip(), done.stderr


def test_figures_named_in_commands_are_declared():
    figures = {f"{name}/{figure}" for name, paper in papers.papers().items() for figure in paper.figures}
    wanted = {name for file in READMES for name in re.findall(r"FIGURE=([\w/-]+)", file.read_text(encoding="utf-8"))}
    assert wanted and wanted <= figures
