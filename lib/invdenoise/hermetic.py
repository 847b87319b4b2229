"""The environment of what makes results. Settings of the user or the site that are not named here do not reach it.

The graph, its jobs and their kernels run in it: a locale, a matplotlibrc, a kernel of another Python, a start-up file or a module
on PYTHONPATH changes no result.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from invdenoise import paths

# What says where things are on this machine and how to reach the network and devices. It decides whether a job runs, not its result.
KEPT = {
    "PATH", "HOME", "USER", "LOGNAME", "SHELL", "TMPDIR", "XDG_CACHE_HOME", "CONDA_PREFIX", "VIRTUAL_ENV", "LOCPATH",
    "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE",
    "CC", "CXX", "CPATH", "C_INCLUDE_PATH", "CPLUS_INCLUDE_PATH", "LIBRARY_PATH", "CUDA_HOME", "CUDA_VISIBLE_DEVICES",
    "CUDA_DEVICE_ORDER", "NVIDIA_VISIBLE_DEVICES", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "OMP_NUM_THREADS", "OMP_WAIT_POLICY",
    "PYTHONDONTWRITEBYTECODE",
}  # fmt: skip
KEPT_BEGINNINGS = ("INVDENOISE_", "LD_", "DYLD_", "SLURM_")


def variables() -> dict[str, str]:
    """Environment variables for a process that makes results."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name.upper() in KEPT or name.startswith(KEPT_BEGINNINGS)  # proxies are also written in lower case
    }
    cache = _cache_folder()
    if mirror := os.environ.get("DATA_MIRROR"):
        kept["DATA_MIRROR"] = str(Path(mirror).absolute()) if Path(mirror).is_dir() else mirror
    return kept | {
        "INVDENOISE_RESULTS": str(paths.results_dir()),  # whole paths, for jobs run in another folder
        "INVDENOISE_CACHE": str(paths.cache_dir()),
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
        "PYTHONUTF8": "1",
        "PYTHONPATH": str(paths.ROOT / "lib"),
        "PYTHONNOUSERSITE": "1",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # else every kernel prints a warning of its debugger
        "TQDM_DISABLE": "1",  # nobody watches, and a bar of progress would stay in the page
        "MATPLOTLIBRC": str(_matplotlib() / "mpl-data" / "matplotlibrc"),
        "MPLCONFIGDIR": str(cache / "invdenoise" / "matplotlib"),  # its cache of fonts
        "XDG_CACHE_HOME": str(cache),
    }


@contextlib.contextmanager
def applied() -> Iterator[None]:
    """These variables for this process and what it starts, with empty folders for the settings of Jupyter and IPython."""
    before = dict(os.environ)
    with tempfile.TemporaryDirectory(prefix="invdenoise-", ignore_cleanup_errors=True) as folder:
        settings = {
            name: f"{folder}/{name.lower()}"
            for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR")
        }
        wanted = variables() | settings | {"JUPYTER_NO_CONFIG": "1", "JUPYTER_PREFER_ENV_PATH": "1"}
        _replace(wanted)
        try:
            yield
        finally:
            _replace(before)


def _matplotlib() -> Path:
    """Its folder, found without importing it, which would take longer than the rest of this module."""
    return Path(importlib.util.find_spec("matplotlib").origin).parent


def _replace(environment: dict[str, str]) -> None:
    for name in os.environ.keys() - environment.keys():
        del os.environ[name]
    os.environ.update(environment)


def _cache_folder() -> Path:
    """Where caches of the user go; where that cannot be written, as without a home, a folder of the results."""
    usual = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    try:
        usual.mkdir(parents=True, exist_ok=True)
    except OSError:
        return paths.results_dir() / ".cache"
    return usual if os.access(usual, os.W_OK | os.X_OK) else paths.results_dir() / ".cache"
