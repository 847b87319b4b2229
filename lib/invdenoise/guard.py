"""Run a command, and end it with everything it started when the process that asked for it ends, however that ends.

    python -P guard.py PIPE LOCK COMMAND...

PIPE is the reading end of a pipe whose writing end only the caller holds: the system closes that when the caller dies, even
by SIGKILL. LOCK is a descriptor of a locked file; this process and the command hold it until both have ended. The caller starts
this in a new session, so that it leads the process group of all that the command starts.

Uses the standard library only: started by its path, it loads nothing of the package.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading

GRACE = 10.0  # seconds from SIGTERM to SIGKILL
POLL = 0.1  # seconds between two looks at the command


def guard(pipe: int, lock: int, command: list[str]) -> int:
    """Exit status of the command; a command that was ended, or that died by a signal, ends this process too, by SIGKILL."""
    end = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: end.set())
    child = subprocess.Popen(command, pass_fds=(lock,))
    threading.Thread(target=_wait_for_caller, args=(pipe, end), daemon=True).start()
    while child.poll() is None and not end.wait(POLL):
        pass
    if child.poll() is None:
        os.killpg(0, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(GRACE)
    if end.is_set() or child.returncode < 0:  # jobs may have outlived the command
        os.killpg(0, signal.SIGKILL)
    return child.returncode


def _wait_for_caller(pipe: int, end: threading.Event) -> None:
    os.read(pipe, 1)  # nothing is ever written: this returns when the caller has closed its end, or died
    end.set()


if __name__ == "__main__":
    sys.exit(guard(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]))
