"""Which version and commit made a result."""

from __future__ import annotations

import functools
import subprocess

from invdenoise import paths

VERSION = "0.2.0"


@functools.cache
def commit() -> str:
    """The checkout's commit, with "+" when tracked files were changed since; "unknown" outside a checkout."""
    command = ["git", "-C", str(paths.ROOT), "describe", "--always", "--abbrev=12", "--dirty=+", "--match="]
    try:
        found = subprocess.run(command, capture_output=True, text=True)
    except OSError:  # no git on this machine
        return "unknown"
    return found.stdout.strip() or "unknown"
