"""Which version and commit made a result."""

from __future__ import annotations

import functools
import hashlib
import os
import subprocess
import warnings
from pathlib import Path

from invdenoise import paths

VERSION = "0.2.0"
UNKNOWN = "unknown"
CHANGED = "+"  # behind a commit: files were changed since
NUM_DIGITS = 12  # of a commit

SOURCES = (".py", ".cpp", ".h", ".j2")
# Variables with which git works on another repository than the checkout; set in hooks, for example.
ELSEWHERE = (
    "GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_OBJECT_DIRECTORY", "GIT_NAMESPACE", "GIT_PREFIX",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_SHALLOW_FILE", "GIT_GRAFT_FILE", "GIT_REPLACE_REF_BASE", "GIT_CONFIG",
    "GIT_CONFIG_PARAMETERS", "GIT_CONFIG_COUNT", "GIT_IMPLICIT_WORK_TREE", "GIT_NO_REPLACE_OBJECTS",
)  # fmt: skip


class NoHistory(RuntimeError):
    """Git cannot be asked about this checkout; the message says why, and what to do."""


def git(*arguments: str) -> bytes:
    """What a git command prints about this checkout, and about no repository around it.

    Raises:
        NoHistory: the folder is no checkout, git is not installed, or the command failed.
    """
    repository = paths.ROOT / ".git"
    if not repository.exists():  # such as an unpacked archive, which may lie in another repository
        raise NoHistory(f"{paths.ROOT} is not a git checkout; get one with `git clone`")
    # With its repository named, git looks for none in the folders above, and serves users who do not own the checkout.
    # It must not run a program that the repository's settings name, nor write to it.
    named = [f"--git-dir={repository}", f"--work-tree={paths.ROOT}"]
    command = ["git", *named, "--no-optional-locks", "-c", "core.fsmonitor=false"]
    environment = {key: value for key, value in os.environ.items() if key not in ELSEWHERE}
    try:
        done = subprocess.run([*command, *arguments], capture_output=True, env=environment, cwd=paths.ROOT)
    except OSError as error:
        raise NoHistory(f"git cannot be run ({error.strerror}); install it") from None
    if done.returncode:
        reason = " ".join(done.stderr.decode(errors="replace").split()) or f"exit status {done.returncode}"
        raise NoHistory(f"`git {arguments[0]}` failed in {paths.ROOT}: {reason}")
    return done.stdout


def changes() -> list[str]:
    """Files that differ from the commit, relative to the checkout: tracked ones, and new ones that decide a result.

    Raises:
        NoHistory: see `git`.
    """
    entries = git("status", "--porcelain", "-z", "--no-renames", "--untracked-files=all").decode(errors="replace")
    found = [(entry[:2], entry[3:]) for entry in entries.split("\0") if entry]
    return [name for state, name in found if state != "??" or _decides(name)]


def _decides(name: str) -> bool:
    """Whether a new file may change results: code, registries and declarations, but no notes of the reader's."""
    return name.startswith(("lib/", "data/")) or name.endswith("/paper.yaml")


@functools.cache
def commit() -> str:
    """The checkout's commit by its first twelve digits, with "+" when files were changed since.

    It is "unknown" outside a checkout. Where it should be known and is not, a warning says why.
    """
    if not (paths.ROOT / ".git").exists():
        return UNKNOWN
    try:
        head = git("rev-parse", "--verify", "HEAD").decode().strip()
        return head[:NUM_DIGITS] + CHANGED * bool(changes())
    except NoHistory as error:
        warnings.warn(f"the commit is recorded as {UNKNOWN!r}: {error}", stacklevel=2)
        return UNKNOWN


def stamp() -> str:
    """Version and commit in a line, as a notebook prints it."""
    return f"invdenoise {VERSION} (commit {commit()})"


@functools.cache
def sources_sha256() -> str:
    """Hash of the library's own code. Unlike the commit, it tells two states with uncommitted changes apart."""
    folder = Path(__file__).parent
    digest = hashlib.sha256()
    for file in sorted(file for file in folder.rglob("*") if file.suffix in SOURCES and file.is_file()):
        content = file.read_bytes()
        digest.update(f"{file.relative_to(folder).as_posix()} {len(content)}\n".encode() + content)
    return digest.hexdigest()
