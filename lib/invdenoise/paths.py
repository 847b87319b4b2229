"""Where things are. Everything hangs on this file's place in the checkout; nothing depends on the current folder."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]  # the checkout
DATA = ROOT / "data"
SOURCES = DATA / "sources.yaml"  # where each dataset comes from
REGISTRY = DATA / "registry"  # per dataset: files and their SHA-256
PUBLISHED = DATA / "published"  # numbers printed in the papers
NOTEBOOKS = ROOT / "notebooks"  # the shared ones, and a folder for each paper
RELEASED = ROOT / "results" / "released"  # the maintainers' run, tracked
RELEASED_WEIGHTS = ROOT / "results" / "weights"  # weights we stand behind, tracked


def results_dir() -> Path:
    """What `make paper` and `make train` write to: `results/`, or the folder named by INVDENOISE_RESULTS."""
    return Path(os.environ.get("INVDENOISE_RESULTS") or ROOT / "results").absolute()


def cache_dir() -> Path:
    """Downloaded files: `data/cache/`, or the folder named by INVDENOISE_CACHE."""
    return Path(os.environ.get("INVDENOISE_CACHE") or DATA / "cache").absolute()


def runs_dir() -> Path:
    """Checkpoints, training curves and weights of local training: `results/runs/<network>/<budget>/`."""
    return results_dir() / "runs"


def tables_dir() -> Path:
    return results_dir() / "tables"


def figures_dir() -> Path:
    return results_dir() / "figures"
