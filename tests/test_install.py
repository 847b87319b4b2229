"""A wheel, installed into a folder and used in an empty one: whole, without the checkout, and without writing into itself."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from invdenoise import papers, paths
from invdenoise.weights import card_path, weights_path

SMALL, LARGE = "dninn-st-s25", "invdn"
USE = """
import json, torch, invdenoise
from invdenoise import list_denoisers, load_denoiser, papers, paths
from invdenoise.data.fetch import dataset_ids, describe, registered_files
from invdenoise.report.published import load_published

noisy = torch.rand(1, 1, 33, 20, generator=torch.Generator().manual_seed(0))
try:
    load_denoiser("{large}")
except FileNotFoundError as found:
    error = str(found)
print(json.dumps({{
    "file": invdenoise.__file__, "listed": list_denoisers(), "papers": list(papers.papers()), "sets": len(dataset_ids()),
    "files": sum(len(registered_files(describe(name))) for name in dataset_ids()), "published": len(load_published()),
    "mean": load_denoiser("{small}").denoise(noisy, 25).mean().item(), "error": error,
    "results": str(paths.results_dir()), "cache": str(paths.cache_dir()),
}}))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy, since a build leaves files in its checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    ignored = shutil.ignore_patterns(
        "__pycache__", "cache", "*.ipynb", "*.egg-info", "released", "runs", "scores", "smoke"
    )
    for name in ("lib", "notebooks", "data", "results/weights"):
        shutil.copytree(paths.ROOT / name, source / name, ignore=ignored)
    for name in ("setup.py", "pyproject.toml", "LICENSE"):
        shutil.copy(paths.ROOT / name, source)
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(source))
    (made,) = folder.glob("invdenoise-*.whl")
    return made


def pip(*arguments: str) -> None:
    command = [
        sys.executable,
        "-m",
        "pip",
        "--disable-pip-version-check",
        "--quiet",
        arguments[0],
        "--no-index",
        *arguments[1:],
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A function that runs a command with the installed package in a given folder; and where the package is."""
    target, home = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("home")
    pip("install", "--no-deps", "--no-compile", "--target", str(target), str(wheel))
    kept = {
        key: value for key, value in os.environ.items() if not key.startswith(("INVDENOISE_", "DATA_MIRROR", "XDG_"))
    }
    environment = kept | {
        "PYTHONPATH": str(target), "HOME": str(home), "INVDENOISE_KERNELS": "off", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONSAFEPATH": "1",
    }  # fmt: skip

    def run(folder: Path, *command: str, **changes: str) -> subprocess.CompletedProcess:
        return subprocess.run(command, cwd=folder, env=environment | changes, capture_output=True, text=True)

    return run, target, home


def test_the_wheel_has_what_the_library_reads_and_no_large_weights(wheel):
    with zipfile.ZipFile(wheel) as archive:
        sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
    share = {name.removeprefix("invdenoise/share/"): size for name, size in sizes.items() if "/share/" in name}
    expected = [
        *paths.NOTEBOOKS.glob("*/paper.yaml"),
        paths.SOURCES,
        *paths.REGISTRY.glob("*.csv"),
        *paths.PUBLISHED.glob("*.csv"),
    ]
    expected += [file for file in paths.RELEASED_WEIGHTS.glob("*.json")]
    weights = [file for file in paths.RELEASED_WEIGHTS.glob("*.safetensors") if file.stat().st_size < 3e6]
    assert {name: size for name, size in share.items() if "README" not in name} == {
        file.relative_to(paths.ROOT).as_posix(): file.stat().st_size for file in [*expected, *weights]
    }
    assert {"invdenoise/kernels/winnet.cpp", "invdenoise/kernels/common.h", "invdenoise/report/page.html.j2"} <= set(
        sizes
    )


def test_it_is_used_in_an_empty_folder(installed, tmp_path):
    run, target, home = installed
    before = sorted(target.rglob("*"))
    done = run(tmp_path, sys.executable, "-c", USE.format(small=SMALL, large=LARGE))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["file"] == str(target / "invdenoise" / "__init__.py")
    assert (
        found["papers"] == list(papers.papers())
        and found["sets"] > 20
        and found["files"] > 1000
        and found["published"] > 300
    )
    assert {SMALL, "nlm", "winnet-blind"} <= set(found["listed"]) and LARGE not in found["listed"]
    assert 0.3 < found["mean"] < 0.7
    assert found["error"] == (
        f"no weights for {LARGE}: {LARGE}.safetensors is not in {target}/invdenoise/share/results/weights; set INVDENOISE_WEIGHTS "
        "to a folder that has it, such as results/weights of a checkout, or to the http address of such a folder (none is built in)"
    )
    assert found["results"] == str(tmp_path / "results") and found["cache"] == str(home / ".cache" / "invdenoise")
    assert list(tmp_path.iterdir()) == [] and sorted(target.rglob("*")) == before


def test_its_command_denoises_and_takes_large_weights_from_a_checkout(installed, tmp_path):
    assert card_path(weights_path(LARGE)).exists()
    run, target, _ = installed
    pixels = np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    command = [str(target / "bin" / "invdenoise"), "denoise", "a.png", "--method", LARGE]
    done = run(tmp_path, *command, INVDENOISE_WEIGHTS=str(paths.RELEASED_WEIGHTS))
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "denoised" / "a.png") as after:
        assert after.size == (40, 24) and np.asarray(after).std() < pixels.std()
