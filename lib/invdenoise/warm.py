"""Starting jobs without waiting for imports: a server that has imported what notebooks need forks a process for each.

    python -m invdenoise.warm MODULE ...     as `python -m MODULE ...`, but forked where a server answers

A small page computes for a second, but its runner and its kernel import papermill, PyTorch and matplotlib for several. `make paper`
starts a server for its graph; INVDENOISE_WARM names its socket. Without one (jobs on a cluster, a command typed by hand), or when it
refuses, `start` returns None, and the caller starts the process as usual. Linux only.

A fork inherits what modules read from the environment while they were imported. So the server refuses a job whose environment differs
from its own in more than `READ_LATER`, such as a training with several threads. It has one thread and computes nothing: a fork
would copy locks that other threads hold, and lose thread pools.

A job ends with its starter: when that dies, the system closes its connection, and the server kills the job and its process group. When
the server dies, the system kills its jobs.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial

ADDRESS = "INVDENOISE_WARM"
# Beginnings of variables that no module reads while it is imported.
READ_LATER = tuple("INVDENOISE_ JUPYTER_ JPY_ IPYTHONDIR PYTEST_ TMP TEMP PWD OLDPWD SHLVL _".split())
LARGEST = 2**17  # bytes of a message, which arrives whole or not at all
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux
# What runners and kernels need; an optimiser imports torch._dynamo when it is made.
MODULES = ("invdenoise.notebooks", "ipykernel.kernelapp", "matplotlib.pyplot", "invdenoise.training", "torch._dynamo")


class Job:
    """A forked process, with as much of `subprocess.Popen` as its starters use. It is killed when this object is dropped."""

    stdin = stdout = stderr = None

    def __init__(self, connection: socket.socket, pid: int):
        self._connection, self.pid = connection, pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Exit status, negative for a signal; None while the process runs."""
        if self.returncode is None and select.select([self._connection], [], [], 0)[0]:
            self.wait()
        return self.returncode

    def wait(self) -> int:
        """Exit status, negative for a signal: that of SIGKILL when the server died."""
        if self.returncode is None:
            try:
                answer = self._connection.recv(LARGEST)
            except ConnectionError:
                answer = b""
            self.returncode = int(answer or -signal.SIGKILL)
            self._connection.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)


def start(
    function: str,
    arguments: Sequence[str],
    environment: Mapping[str, str],
    folder: str,
    streams: Sequence[int] = (0, 1, 2),
) -> Job | None:
    """A job forked by the server that its environment names; None where there is none, or where it refuses.

    Args:
        function: "module:name", called with the arguments; gives the exit status.
        folder: that it runs in.
        streams: descriptors that become its standard input, output and error.
    """
    if not (address := environment.get(ADDRESS)):
        return None
    request = json.dumps([function, list(arguments), dict(environment), os.path.abspath(folder)]).encode()
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        connection.connect(address)
        socket.send_fds(connection, [request], list(streams))
        return Job(connection, int(connection.recv(LARGEST)))
    except (OSError, ValueError):  # no server, a request that is too large, or an empty answer: a refusal
        connection.close()
        return None


# --- The server


@contextlib.contextmanager
def server(environment: Mapping[str, str], hold: Sequence[int] = ()) -> Iterator[dict[str, str]]:
    """A server for the block, which ends with this process too. Gives the variables that name it, none where it cannot be.

    Args:
        environment: of the server, and so of the jobs that it can fork.
        hold: descriptors that stay open until the server and its jobs have ended.
    """
    with (
        tempfile.TemporaryDirectory(prefix="invdenoise-", ignore_cleanup_errors=True) as folder,
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener,
    ):
        try:
            listener.bind(f"{folder}/warm")
        except OSError:  # the path is too long
            yield {}
            return
        listener.listen(128)  # the first jobs wait until the server has imported
        reading, writing = os.pipe()
        given = (reading, listener.fileno())
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "invdenoise.warm", "--serve", *map(str, given)], env=dict(environment), cwd=folder,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, pass_fds=(*given, *hold), start_new_session=True,
        )  # fmt: skip
        os.close(reading)
        listener.close()  # else jobs would wait for a server that could not start
        try:
            yield {ADDRESS: f"{folder}/warm"}
        finally:
            os.close(writing)
            process.wait()


def _serve(caller: int, listener: socket.socket) -> int:
    """Serve until the pipe `caller` is closed at its other end; in a job, its exit status."""
    if caller in select.select([caller, listener], [], [])[0]:  # a graph without anything to do
        return 0
    environment = dict(os.environ)
    for name in MODULES:
        importlib.import_module(name)
    if len(os.listdir("/proc/self/task")) > 1:
        print("warning: a module started a thread when it was imported, so jobs are not forked", file=sys.stderr)
        return 1
    gc.freeze()  # the collector would write to memory that is shared
    job = _fork_until_end(caller, listener, _of_imports(environment))
    return 0 if job is None else job()


def _fork_until_end(caller: int, listener: socket.socket, environment: dict[str, str]) -> Callable[[], int] | None:
    """What to run, in each new process; None in the server, at its end."""
    jobs: dict[int, socket.socket] = {}  # number of the process -> connection of its starter
    woken, waking = socket.socketpair()
    waking.setblocking(False)
    signal.set_wakeup_fd(waking.fileno())
    signal.signal(signal.SIGCHLD, lambda *_: None)  # without a handler nothing would be written to `waking`
    while True:
        watched = [caller, listener, woken, *(connection for connection in jobs.values() if connection.fileno() >= 0)]
        for ready in select.select(watched, [], [])[0]:
            if ready is caller:
                _kill(jobs)
                for pid in jobs:
                    os.waitpid(pid, 0)
                return None
            if ready is woken:
                woken.recv(LARGEST)
                _reap(jobs)
            elif ready is not listener:  # a starter died
                _kill([pid for pid, connection in jobs.items() if connection is ready])
                ready.close()
            elif (job := _fork(listener, jobs, environment)) is not None:
                for ours in (listener, woken, waking, *jobs.values()):
                    ours.close()
                os.close(caller)
                return job


def _fork(listener: socket.socket, jobs: dict[int, socket.socket], wanted: dict[str, str]) -> Callable[[], int] | None:
    """Answer a request; in the new process, what to run."""
    connection = listener.accept()[0]
    text, streams, *_ = socket.recv_fds(connection, LARGEST, 3)
    try:
        function, arguments, environment, folder = json.loads(text)
    except ValueError:  # its starter died, or the request was cut off
        environment = {}
    if _of_imports(environment) == wanted:
        server = os.getpid()
        if (pid := os.fork()) == 0:
            connection.close()
            _become(server, environment, folder, streams)
            module, _, name = function.partition(":")
            return partial(getattr(importlib.import_module(module), name), arguments)
        jobs[pid] = connection
        with contextlib.suppress(OSError):  # the job has ended
            os.setpgid(pid, pid)
        with contextlib.suppress(OSError):  # its starter died, of which `connection` will tell
            connection.send(str(pid).encode())
    else:
        connection.close()
    for stream in streams:
        os.close(stream)
    return None


def _of_imports(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that modules may read while they are imported."""
    threads = environment.get("OMP_NUM_THREADS")  # Snakemake sets those of other libraries to the same number
    same = [name for name in environment if name.endswith("_THREADS") and environment[name] == threads]
    kept = {name: value for name, value in environment.items() if name not in same and not name.startswith(READ_LATER)}
    return kept | {"OMP_NUM_THREADS": threads}


def _become(server: int, environment: Mapping[str, str], folder: str, streams: Sequence[int]) -> None:
    """Make a fork of the server what a new process would be."""
    with contextlib.suppress(PermissionError):  # the server has done it
        os.setpgid(0, 0)
    ctypes.CDLL(None).prctl(DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != server:  # it died before that
        os._exit(1)
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    tempfile.tempdir = None  # chosen by TMPDIR
    sys.modules["numpy"].random.seed()  # else all jobs would draw the same; Python seeds its own generator after a fork
    sys.modules["torch"].default_generator.seed()


def _reap(jobs: dict[int, socket.socket]) -> None:
    """Tell starters how their jobs ended."""
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            connection = jobs.pop(ended[0])
            with contextlib.suppress(OSError):
                connection.send(str(os.waitstatus_to_exitcode(ended[1])).encode())
            connection.close()


def _kill(jobs: Iterable[int]) -> None:
    for pid in jobs:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)


# --- The command


def main(arguments: list[str]) -> int:
    """Ask the server for a process and wait for it, or run the module here; with --serve, be the server."""
    if arguments[:1] == ["--serve"]:
        caller, listener = map(int, arguments[1:])
        return _serve(caller, socket.socket(fileno=listener))
    module, *rest = arguments
    job = start(f"{module}:command", rest, os.environ, os.getcwd())
    if job is None:
        sys.argv[:] = arguments
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        return 0
    for number in FORWARDED:
        signal.signal(number, lambda number, _: job.send_signal(number))
    status = job.wait()
    return 128 - status if status < 0 else status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
