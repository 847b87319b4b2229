"""Where things are. In a checkout everything hangs on this file's place, and nothing depends on the current folder.

An installed package has what it reads in its own folder `share`, laid out as in a checkout (see setup.py). It writes results to
`results/` of the current folder, and keeps downloads and compiled kernels in the user's cache.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

SHARE = Path(__file__).resolve().with_name("share")
INSTALLED = SHARE.is_dir()
ROOT = SHARE if INSTALLED else Path(__file__).resolve().parents[2]  # the checkout
DATA = ROOT / "data"
SOURCES = DATA / "sources.yaml"  # where each dataset comes from
REGISTRY = DATA / "registry"  # per dataset: files and their SHA-256
PUBLISHED = DATA / "published"  # numbers printed in the papers
NOTEBOOKS = ROOT / "notebooks"  # the shared ones, and a folder for each paper
RELEASED = ROOT / "results" / "released"  # the maintainers' run, tracked
RELEASED_WEIGHTS = ROOT / "results" / "weights"  # weights we stand behind, tracked

PLAIN = re.compile(r"\w[\w.+=-]*")  # a name that is one part of a path


def results_dir() -> Path:
    """What `make paper` and `make train` write to: `results/`, or the folder named by INVDENOISE_RESULTS."""
    return _named_by("INVDENOISE_RESULTS") or (Path.cwd() if INSTALLED else ROOT) / "results"


def cache_dir() -> Path:
    """Downloaded files and compiled kernels: `data/cache/`, or the folder named by INVDENOISE_CACHE."""
    if named := _named_by("INVDENOISE_CACHE"):
        return named
    if not INSTALLED:
        return DATA / "cache"
    import pooch  # here, since `make clean` must do with the standard library

    return pooch.os_cache("invdenoise")


def _named_by(variable: str) -> Path | None:
    """The folder that an environment variable names, or None.

    Fills in `~` and `$HOME`: no shell does so in a settings file of a container, or between quotes.

    Raises:
        ValueError: `~` or a variable in it stands for nothing here.
    """
    value = os.environ.get(variable)
    if not value:
        return None
    try:
        folder = Path(os.path.expandvars(value)).expanduser().absolute()
    except RuntimeError:
        folder = None
    if folder is None or os.path.expandvars(value).startswith("$"):
        raise ValueError(f"{variable} is {value!r}, which names no folder here; give the whole path, from / on")
    return folder


def runs_dir() -> Path:
    """Checkpoints, training curves and weights of local training: `results/runs/<network>/<budget>/`.

    The graph keeps the results of each budget apart; with INVDENOISE_RUNS it names the one folder of runs, which `make train`
    writes to as well.
    """
    return _named_by("INVDENOISE_RUNS") or results_dir() / "runs"


def tables_dir() -> Path:
    return results_dir() / "tables"


def figures_dir() -> Path:
    return results_dir() / "figures"


def plain_name(name: str, what: str) -> str:
    """The name, which becomes a part of a path; ValueError when it could lead out of its folder, or is hidden.

    Args:
        what: is named, for the message.
    """
    if not isinstance(name, str) or not PLAIN.fullmatch(name):
        raise ValueError(
            f"{what} is {name!r}; expected a plain name: letters, digits, and any of _ . - + = after the first, "
            "but no slash"
        )
    return name


def shown(path: Path) -> str:
    """A path as it is printed: from the checkout on where it lies in it, else whole."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)
