"""Writing so that nothing is lost: whole files or none, and one writer at a time."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import hashlib
import os
import socket
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from invdenoise import paths

LONGEST = 255  # bytes of a file's name, on nearly every file system
PROBE = 2**20  # bytes; writers that fail on a full disk may leave less than this free


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, moved onto it when the block ends well; on any error `path` stays as it was.

    What a killed process left of an earlier attempt is removed first; what a running one writes is left to it.

    Raises:
        OSError: the folder is read-only, the disk is full, ...; the message names the file and the remedy. Also where
            the library that writes the file raises another error, as PyTorch, safetensors and NumPy do on a full disk.
    """
    temporary, within = None, False
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            os.lstat(path)  # refuses a name that is too long before the work, not after it
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
    except Exception as error:
        cause = error if isinstance(error, OSError) else None
        if within and (cause is None or cause.errno is None):  # a library's own error, which hides that of the system
            cause = _refusal(handle)
        elif within and cause.filename not in (None, temporary, str(temporary)):
            cause = None  # the block failed at something else than writing this file
        if cause is None:
            raise
        raise _could_not_write(path, cause) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
            os.close(handle)


def check_writable(path: Path) -> None:
    """OSError, as `atomic` raises it, when `path` could not be written: asked before long work, not after it."""
    with contextlib.suppress(_Enough), atomic(path):
        raise _Enough


class _Enough(BaseException):
    """Ends a block of `atomic` before anything is written."""


def _could_not_write(path: Path, error: OSError) -> OSError:
    """An error of the same kind whose message names the file and the remedy."""
    return OSError(
        error.errno,
        f"could not write {path}: {error.strerror or error}. What was there before is untouched; "
        f"{_remedy(path, error)}, then run the same command again",
    )


def _refusal(handle: int) -> OSError | None:
    """Why the system takes no more of an open file, or None. Found by writing to its end."""
    try:
        os.lseek(handle, 0, os.SEEK_END)
        left = PROBE
        while left:
            left -= os.write(handle, bytes(left))
        os.fsync(handle)
    except OSError as error:
        return error
    return None


def _remedy(path: Path, error: OSError) -> str:
    """What to do where `path` cannot be written."""
    if error.errno == errno.ENAMETOOLONG:
        return "choose a shorter name"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"free space or {_another_folder(path)}"
    if error.errno == errno.EFBIG:
        return f"raise the limit of file sizes (`ulimit -f`) or {_another_folder(path)}"
    return _another_folder(path)


def _another_folder(path: Path) -> str:
    for folder, variable in ((paths.cache_dir(), "INVDENOISE_CACHE"), (paths.results_dir(), "INVDENOISE_RESULTS")):
        if path.absolute().is_relative_to(folder):
            return f"choose a writable folder with {variable}"
    return "choose a writable folder"


def _beginning(path: Path) -> str:
    """How names of the temporaries of `path` begin: with its name, or a hash where they would become too long."""
    usual = f".{path.stem}-unfinished-"
    if len(os.fsencode(f"{usual}{path.suffix}")) + 8 <= LONGEST:
        return usual
    return f".{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:32]}-unfinished-"


def _temporary(path: Path) -> tuple[int, Path]:
    """A new file beside `path`, locked until the handle is closed or the process ends, however it ends.

    Unlike a process id in the name, a lock also works across the machines of a shared folder.
    """
    while True:
        handle, name = tempfile.mkstemp(prefix=_beginning(path), suffix=path.suffix, dir=path.parent)
        with contextlib.suppress(OSError):  # a file system without locks: there, leftovers are never removed
            fcntl.flock(handle, fcntl.LOCK_EX)
        if os.path.exists(name):
            return handle, Path(name)
        os.close(handle)  # another process took it for a leftover before it was locked


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

    The system releases the lock when its process ends, however it ends, so a killed run leaves nothing to clean up. A
    process that is given the descriptor of the open file, which the block gets, holds the lock too.

    On a file system without locks the block runs after a warning.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = open(path, "a+", encoding="utf-8")
    except OSError as error:
        raise OSError(error.errno, f"could not write {path}: {error.strerror}; {_another_folder(path)}") from error
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RuntimeError(
                f"{what} is already running ({_holder(handle)}); wait for it or stop it, "
                "then run the same command again"
            ) from None
        except OSError as error:
            warnings.warn(
                f"{path} cannot be locked ({error.strerror}), so two runs at once would not notice each other: start "
                f"{what} only once, or {_another_folder(path)}",
                stacklevel=3,
            )
        with contextlib.suppress(OSError):  # a full disk: only the message of a second run needs this note
            os.ftruncate(handle.fileno(), 0)
            os.write(handle.fileno(), f"{os.getpid()} {socket.gethostname()}".encode())
        yield handle


def _holder(handle: IO[str]) -> str:
    """Who holds a lock: a process of this machine that has the file open, else the one noted in it.

    The process that took the lock may be gone, while one that it started still holds it.
    """
    handle.seek(0)
    noted, _, machine = handle.read().strip().partition(" ")
    if machine and machine != socket.gethostname():
        return f"process {noted} on {machine}"
    holders = _processes_with(handle)
    if noted in holders or not holders:
        return f"process {noted or 'unknown'}"
    return f"process {min(holders, key=int)}"


def _processes_with(handle: IO[str]) -> list[str]:
    """Other processes of this machine that have this file open; empty where the system does not tell."""
    own, wanted, found = str(os.getpid()), os.fstat(handle.fileno()), []
    for descriptor in glob.iglob("/proc/[0-9]*/fd/*"):
        process = descriptor.split("/")[2]
        if process == own or process in found:
            continue
        with contextlib.suppress(OSError):  # of another user, or gone
            if os.path.samestat(os.stat(descriptor), wanted):
                found.append(process)
    return found


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
