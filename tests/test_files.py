"""Files are whole or not there, and one run writes at a time."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import resource
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from invdenoise import files, paths
from invdenoise.files import atomic, check_writable, exclusive, sha256


def test_the_file_appears_whole_and_with_the_usual_permissions(tmp_path):
    path = tmp_path / "new" / "folder" / "file.txt"
    mask = os.umask(0o027)
    try:
        with atomic(path) as temporary:
            temporary.write_text("half")
            assert temporary.parent == path.parent and temporary.suffix == ".txt"
            assert not path.exists()
            temporary.write_text("whole")
    finally:
        os.umask(mask)
    assert path.read_text() == "whole" and list(path.parent.iterdir()) == [path]
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@pytest.mark.parametrize("error", [ValueError("a mistake"), KeyboardInterrupt(), OSError(errno.EIO, "bad disk")])
def test_an_error_in_the_block_keeps_the_old_file(error, tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(type(error)):
        with atomic(path) as temporary:
            temporary.write_text("new and not finished")
            raise error
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


@pytest.fixture
def variables(tmp_path, monkeypatch):
    """Results and cache in folders of their own."""
    for variable in ("INVDENOISE_RESULTS", "INVDENOISE_CACHE"):
        monkeypatch.setenv(variable, str(tmp_path / variable))


@pytest.mark.parametrize("folder", ["INVDENOISE_RESULTS", "INVDENOISE_CACHE", "elsewhere"])
def test_the_remedy_names_the_variable_of_the_folder(folder, variables, tmp_path):
    with pytest.raises(OSError, match="could not write .*No space left") as found:
        with atomic(tmp_path / folder / "file.txt"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    named = [name for name in ("INVDENOISE_RESULTS", "INVDENOISE_CACHE") if f"folder with {name}" in str(found.value)]
    assert named == [folder] * (folder != "elsewhere")


@pytest.mark.parametrize(
    ("fail", "message"),
    [
        (lambda: open("/nonexistent/source"), "/nonexistent/source"),
        (lambda: exec("raise OSError('no such mode')"), "no such"),
    ],
    ids=["a source that is missing", "a format that cannot be written"],
)
def test_what_else_fails_in_the_block_keeps_its_own_words(fail, message, tmp_path):
    with pytest.raises(OSError, match=message) as found:
        with atomic(tmp_path / "file.txt"):
            fail()
    assert "could not write" not in str(found.value) and not list(tmp_path.iterdir())


def test_a_full_disk_is_one_clear_error(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(
        OSError, match=r"could not write .*file.txt: No space left on device.*choose a writable folder"
    ) as found:
        with atomic(path) as temporary:
            temporary.write_text("as much as fits")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert found.value.errno == errno.ENOSPC
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("write", ["torch", "safetensors", "numpy", "python"])
def test_a_file_that_does_not_fit_is_one_clear_error_whatever_library_writes_it(write, tmp_path):
    """No file may grow beyond 100 kB: libraries fail half way, as on a full disk, with errors of their own."""
    path = tmp_path / "file.bin"
    path.write_text("old")
    values = torch.zeros(100_000)
    writers = {
        "torch": lambda file: torch.save(values, file),
        "safetensors": lambda file: save_file({"values": values}, file),
        "numpy": lambda file: values.numpy().tofile(file),
        "python": lambda file: file.write_bytes(bytes(400_000)),
    }
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(
            OSError, match=r"could not write .*file.bin: File too large.*choose a writable folder"
        ) as found:
            with atomic(path) as temporary:
                writers[write](temporary)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert found.value.errno == errno.EFBIG
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_name_as_long_as_the_file_system_takes_is_written(tmp_path):
    longest = tmp_path / ("ä" * 125 + ".txt")  # two bytes each
    for text in ("first", "second"):
        with atomic(longest) as temporary:
            temporary.write_text(text)
    assert longest.read_text() == "second" and list(tmp_path.iterdir()) == [longest]


@pytest.mark.parametrize("ask", [atomic, check_writable], ids=["written", "asked before"])
def test_a_name_that_is_too_long_has_a_remedy_of_its_own(ask, tmp_path):
    with pytest.raises(OSError, match="could not write .*choose a shorter name") as found:
        written = ask(tmp_path / ("x" * 260 + ".txt"))
        if ask is atomic:
            with written as temporary:
                temporary.write_text("new")
    assert "free space" not in str(found.value) and not list(tmp_path.iterdir())


def test_asking_whether_a_file_can_be_written_changes_nothing(tmp_path):
    path = tmp_path / "new" / "file.txt"
    check_writable(path)
    assert not list(path.parent.iterdir())
    path.write_text("old")
    check_writable(path)
    assert path.read_text() == "old" and list(path.parent.iterdir()) == [path]
    with pytest.raises(OSError, match="could not write .*choose a writable folder"):
        check_writable(path / "file.txt")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is always full")
def test_a_write_that_the_system_refuses_is_one_clear_error(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(OSError, match="could not write .*No space left on device"):
        with atomic(path), open("/dev/full", "w") as full:
            full.write("x" * 100_000)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("refused", ["mkstemp", "mkdir", "replace"])
def test_a_folder_that_cannot_be_written_is_one_clear_error(refused, tmp_path, monkeypatch):
    """Simulated, because permissions do not hold back a superuser."""

    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    path = tmp_path / "file.txt"
    path.write_text("old")
    place = {"mkstemp": files.tempfile, "mkdir": Path, "replace": files.os}[refused]
    with monkeypatch.context() as patch:
        patch.setattr(place, refused, refuse)
        with pytest.raises(PermissionError, match=r"could not write .*file.txt: Permission denied.*writable folder"):
            with atomic(path) as temporary:
                temporary.write_text("new")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_what_a_killed_process_left_is_removed_by_the_next_write_and_what_a_running_one_writes_is_kept(tmp_path):
    path, other = tmp_path / "a[1].txt", tmp_path / "a[1]-b.txt"  # names that a pattern could take for more
    code = f"""
import time, pathlib
from invdenoise.files import atomic
with atomic(pathlib.Path({str(path)!r})) as one, atomic(pathlib.Path({str(other)!r})) as two:
    one.write_text("half")
    two.write_text("half")
    print(one.name, two.name, flush=True)
    time.sleep(600)
"""
    environment = {**os.environ, "PYTHONPATH": str(paths.ROOT / "lib")}
    writer = subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)
    try:
        left = writer.stdout.readline().split()
        with atomic(path) as mine:
            with atomic(path) as also_mine:
                also_mine.write_text("first")
            mine.write_text("second")
        assert {file.name for file in tmp_path.iterdir()} == {path.name, *left}
    finally:
        writer.send_signal(signal.SIGKILL)
        writer.communicate()
    with atomic(path) as temporary:
        temporary.write_text("third")
    assert {file.name for file in tmp_path.iterdir()} == {path.name, left[1]} and path.read_text() == "third"


def test_a_hidden_file_of_the_reader_is_not_taken_for_a_temporary(tmp_path):
    mine = [tmp_path / name for name in (".file-20240101.txt", ".file-unfinished-long-story.txt", ".file.txt")]
    for file in mine:
        file.write_text("kept")
    with atomic(tmp_path / "file.txt") as temporary:
        temporary.write_text("new")
    assert {*tmp_path.iterdir()} == {tmp_path / "file.txt", *mine}


def test_a_temporary_that_was_removed_before_it_was_locked_is_made_anew(tmp_path, monkeypatch):
    make, made = files.tempfile.mkstemp, []

    def stolen(**where):
        handle, name = make(**where)
        made.append(name)
        if len(made) == 1:
            os.unlink(name)
        return handle, name

    monkeypatch.setattr(files.tempfile, "mkstemp", stolen)
    with atomic(tmp_path / "file.txt") as temporary:
        assert str(temporary) == made[1]
        temporary.write_text("new")
    assert (tmp_path / "file.txt").read_text() == "new"


def test_a_lock_that_cannot_be_written_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OSError, match="could not write .*lock.*choose a writable folder"):
        with exclusive(tmp_path / "file" / "lock", "training"):
            pass


def test_a_lock_is_free_again_after_the_block_and_after_an_error(tmp_path):
    lock = tmp_path / "run" / "lock"
    with pytest.raises(KeyError):
        with exclusive(lock, "training"):
            raise KeyError
    with exclusive(lock, "training"):
        with pytest.raises(RuntimeError, match=rf"training is already running \(process {os.getpid()}\); wait for it"):
            with exclusive(lock, "training"):
                pass
    with exclusive(lock, "training"):
        pass


def test_a_lock_of_another_process_holds_until_it_is_killed(tmp_path):
    lock = tmp_path / "lock"
    code = f"""
import time, pathlib
from invdenoise.files import exclusive
with exclusive(pathlib.Path({str(lock)!r}), "training"):
    print("held", flush=True)
    time.sleep(600)
"""
    environment = {**os.environ, "PYTHONPATH": str(paths.ROOT / "lib")}
    holder = subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(RuntimeError, match=rf"the run is already running \(process {holder.pid}\)"):
            with exclusive(lock, "the run"):
                pass
        assert lock.read_text().split()[0] == str(holder.pid)  # being refused leaves the note of the holder
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.communicate()
    with exclusive(lock, "the run"):
        assert lock.read_text().split()[0] == str(os.getpid())


@pytest.mark.skipif(
    not Path("/proc/self/fd").exists(), reason="this system does not tell which files a process has open"
)
def test_a_lock_that_outlives_its_process_names_the_one_that_holds_it(tmp_path):
    lock = tmp_path / "lock"
    code = f"""
import os, pathlib, subprocess
from invdenoise.files import exclusive
with exclusive(pathlib.Path({str(lock)!r}), "training") as handle:
    print(subprocess.Popen(["sleep", "600"], pass_fds=[handle.fileno()], stdout=subprocess.DEVNULL).pid, flush=True)
    os._exit(9)
"""
    environment = {**os.environ, "PYTHONPATH": str(paths.ROOT / "lib")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)
    left = int(done.stdout)
    try:
        with pytest.raises(RuntimeError, match=rf"the run is already running \(process {left}\)"):
            with exclusive(lock, "the run"):
                pass
    finally:
        os.kill(left, signal.SIGKILL)


def test_a_lock_of_another_machine_names_it(tmp_path):
    lock = tmp_path / "lock"
    with open(lock, "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        handle.write("12 elsewhere")
        handle.flush()
        with pytest.raises(RuntimeError, match=r"the run is already running \(process 12 on elsewhere\)"):
            with exclusive(lock, "the run"):
                pass


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_warned_of_and_used(code, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(files.fcntl, "flock", refuse)
    with pytest.warns(
        UserWarning, match="lock cannot be locked .*start training only once, or choose a writable folder"
    ):
        with exclusive(tmp_path / "lock", "training"):
            with atomic(tmp_path / "file.txt") as temporary:
                temporary.write_text("new")
    assert (tmp_path / "file.txt").read_text() == "new"


def test_sha256(tmp_path):
    (tmp_path / "file").write_bytes(b"abc" * 100_000)
    assert sha256(tmp_path / "file") == hashlib.sha256(b"abc" * 100_000).hexdigest()
