"""Writing so that nothing is lost: whole files or none, and one writer at a time."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from invdenoise import paths


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, moved onto it when the block ends well; on any error `path` stays as it was.

    What a killed process left of an earlier attempt is removed first; what a running one writes is left to it.

    Raises:
        OSError: the folder is read-only, the disk is full, ...; the message names the file and the remedy.
    """
    temporary, within = None, False
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_left(path)
        handle, temporary = _temporary(path)
        within = True
        yield temporary
        within = False
        with open(temporary, "rb+") as written:
            os.fsync(written.fileno())
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)  # mkstemp makes files private
        os.replace(temporary, path)
    except OSError as error:
        if within and (error.errno is None or error.filename not in (None, temporary, str(temporary))):
            raise  # the block failed at something else than writing this file
        raise OSError(
            error.errno,
            f"could not write {path}: {error.strerror or error}. What was there before is untouched; free space or "
            f"{_another_folder(path)}, then run the same command again",
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
            os.close(handle)


def _another_folder(path: Path) -> str:
    """What to do where the folder of `path` cannot be written to."""
    for folder, variable in ((paths.cache_dir(), "INVDENOISE_CACHE"), (paths.results_dir(), "INVDENOISE_RESULTS")):
        if path.absolute().is_relative_to(folder):
            return f"choose a writable folder with {variable}"
    return "choose a writable folder"


def _beginning(path: Path) -> str:
    return f".{path.stem}-unfinished-"


def _temporary(path: Path) -> tuple[int, Path]:
    """A new file beside `path`, locked until the handle is closed or the process ends, however it ends.

    Unlike a process id in the name, a lock tells the owner's end on other machines of a shared folder too.
    """
    while True:
        handle, name = tempfile.mkstemp(prefix=_beginning(path), suffix=path.suffix, dir=path.parent)
        with contextlib.suppress(OSError):  # a file system without locks, on which nothing is ever taken for left
            fcntl.flock(handle, fcntl.LOCK_EX)
        if os.path.exists(name):
            return handle, Path(name)
        os.close(handle)  # another process took it for left before it was locked


def _remove_left(path: Path) -> None:
    """Remove the temporaries of `path` that no running process holds."""
    pattern = f"{glob.escape(_beginning(path))}????????{glob.escape(path.suffix)}"
    for left in path.parent.glob(pattern):
        with contextlib.suppress(OSError), open(left, "rb+") as handle:  # held, not ours to remove, or gone already
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            left.unlink()


@contextlib.contextmanager
def exclusive(path: Path, what: str) -> Iterator[IO[str]]:
    """Hold the lock file `path` for the block; RuntimeError at once when another process holds it.

    The system lets go of the lock when its process ends, however it ends, so a killed run leaves nothing to clean up. A process
    that is given the descriptor of the open file, which the block gets, holds the lock too.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = open(path, "a+")
    except OSError as error:
        raise OSError(error.errno, f"could not write {path}: {error.strerror}; {_another_folder(path)}") from error
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.seek(0)
            raise RuntimeError(
                f"{what} is already running (process {handle.read().strip() or 'unknown'}); wait for it or "
                "stop it, then run the same command again"
            ) from None
        handle.truncate(0)
        handle.write(str(os.getpid()))
        handle.flush()
        yield handle


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
