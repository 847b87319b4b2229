"""The device that computes: its name, its fastest precision, its compiler."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import warnings

import pytest
import torch
import torch._dynamo

from invdenoise import device, kernels
from invdenoise.device import resolve_precision
from invdenoise.kernels import routing
from invdenoise.models.dncnn import DnCNN
from invdenoise.models.dninn import DnINN


@pytest.fixture
def processor(monkeypatch):
    """A function that gives the processor these instruction sets."""

    def has(*flags):
        device._has_bfloat16.cache_clear()
        for module in (device, routing):
            monkeypatch.setattr(module, "processor_flags", lambda: frozenset(flags))

    yield has
    device._has_bfloat16.cache_clear()


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (("avx2", "fma"), "float32"),  # a laptop: it would emulate bfloat16
        (("avx512f", "avx512bw"), "float32"),
        (("avx512f", "avx512_bf16"), "bfloat16"),
        (("amx_bf16", "amx_tile"), "bfloat16"),
        ((), "float32"),  # another system than Linux
    ],
)
def test_the_fastest_precision_is_that_of_the_processor(flags, expected, processor):
    processor(*flags)
    assert resolve_precision("fastest") == expected


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_precision_that_is_asked_for_is_taken(precision, processor):
    processor()
    assert resolve_precision(precision) == resolve_precision(precision, torch.device("cpu")) == precision


def test_an_unknown_precision_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="precision is 'half'; expected fastest, float32 or bfloat16"):
        resolve_precision("half")


def test_a_network_without_a_kernel_is_sped_up_in_the_precision_that_suits_the_processor(processor, monkeypatch):
    monkeypatch.setattr(routing, "has_kernel", lambda *_: False)
    for flags, expected in (("avx2", "float32"), ("avx512_bf16", "bfloat16")):
        processor(flags)
        assert kernels.speed_up(DnINN().eval(), compiled=False).precision == expected
        # It is trained in what the processor has, and asked for it works so; by itself it stays exact.
        assert kernels.resolve_precision(DnCNN(), "fastest") == expected
        assert kernels.speed_up(DnCNN().eval(), "bfloat16", compiled=False).precision == "bfloat16"
        assert kernels.speed_up(DnCNN().eval(), compiled=False).precision == "float32"


@pytest.fixture
def untold(monkeypatch):
    """The compiler has not been tried yet, nothing has been warned of, and `torch.compile` writes where it always does."""
    monkeypatch.setattr(device, "_warned", set())
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    device._compiler_fault.cache_clear()
    yield
    device._compiler_fault.cache_clear()


def compiler_that(tmp_path, monkeypatch, script):
    """Put a compiler of these shell commands first on the PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "g++").write_text(f"#!/bin/bash\n{script}\n")
    (folder / "g++").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("CXX", "g++")


def test_the_compiler_is_the_one_of_torch_compile(monkeypatch):
    from torch._inductor.cpp_builder import get_cpp_compiler

    found = device.cpu_compiler()
    if found is None:
        pytest.skip("no C++ compiler here")
    assert found == get_cpp_compiler()
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert device.cpu_compiler() is None


def test_a_compiler_that_works_is_used_without_a_word(untold):
    if device.cpu_compiler() is None:
        pytest.skip("no C++ compiler here")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert device.can_compile()


def test_a_compiler_without_the_headers_of_python_does_not_count(untold, tmp_path, monkeypatch):
    real = shutil.which("g++")
    if real is None:
        pytest.skip("no g++ here")
    drop = 'a=(); for x in "$@"; do case "$x" in -I*) ;; *) a+=("$x");; esac; done'
    compiler_that(tmp_path, monkeypatch, f'{drop}; exec {real} "${{a[@]}}"')
    with pytest.warns(
        UserWarning, match=r"no compiled network: .*Python.h.*Install the headers of Python 3\.\d+"
    ) as warned:
        assert not device.can_compile()
    assert len(warned) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # told once
        assert not device.can_compile()
        network = kernels.speed_up(DnCNN(2, 2).eval())
    assert network.denoise(torch.rand(1, 1, 8, 9)).shape == (1, 1, 8, 9)


@pytest.mark.parametrize(
    ("script", "remedy"),
    [
        ("exit 1", "Install a newer compiler"),
        ("echo \"g++: fatal error: cannot execute 'cc1plus': No such file or directory\" >&2; exit 1", "apt install g\\+\\+"),
        ("echo 'trial.cpp:3:10: fatal error: omp.h: No such file or directory' >&2; exit 1", "Install OpenMP"),
        ("echo '/usr/bin/ld: error: cannot find -lgomp' >&2; exit 1", "Install OpenMP"),
        ("echo 'fatal error: error writing to /x.s: No space left on device' >&2; exit 1", "Free disk space"),
        ("echo 'g++: fatal error: Killed signal terminated program cc1plus' >&2; exit 1", "Free memory"),
        ('[ "$LC_ALL" = C ] && echo "error: no input" >&2; exit 1', "no input.*newer compiler"),
    ],
)  # fmt: skip
def test_whatever_stops_the_compiler_is_named_with_its_remedy(script, remedy, untold, tmp_path, monkeypatch):
    compiler_that(tmp_path, monkeypatch, script)
    with pytest.warns(UserWarning, match=f"no compiled network: a trial could not be built with g.*{remedy}"):
        assert not device.can_compile()


def test_a_compiler_that_hangs_is_stopped(tmp_path, monkeypatch):
    compiler_that(tmp_path, monkeypatch, "exec sleep 60")
    with pytest.raises(device.CannotBuild, match="took more than 0.2 s for a trial. Name another compiler in CXX"):
        device.run_compiler("a trial", ["g++"], seconds=0.2)


@pytest.mark.parametrize(
    ("spoil", "remedy"),
    [("file", "TORCHINDUCTOR_CACHE_DIR to a folder that can be written"), ("noexec", "TORCHINDUCTOR_CACHE_DIR to a folder on another")],
)  # fmt: skip
def test_a_folder_that_torch_compile_cannot_use_is_named(spoil, remedy, untold, tmp_path, monkeypatch):
    compiler_that(tmp_path, monkeypatch, "exit 0")
    (tmp_path / "file").write_text("")
    if spoil == "file":
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "file" / "cache"))
    else:
        monkeypatch.setattr(device, "forbids_execution", lambda folder: True)
    with pytest.warns(UserWarning, match=remedy):
        assert not device.can_compile()


def test_a_compilation_that_fails_leaves_the_network_to_pytorch(untold, monkeypatch, randomised):
    network = randomised(DnCNN(2, 2, batch_norm=False), gain=0.5).eval()
    noisy, tried = torch.rand(1, 1, 8, 9), []
    expected = network.denoise(noisy)

    def inductor(graph, inputs):
        tried.append(graph)
        raise RuntimeError(
            "Error:\ng++ -fopenmp main.cpp\nmain.cpp:2: fatal error: Python.h: No such file or directory"
        )

    look_up = torch._dynamo.lookup_backend
    monkeypatch.setattr(torch._dynamo, "lookup_backend", lambda name: inductor if name == "inductor" else look_up(name))
    kernels.speed_up(network, compiled=True)
    with pytest.warns(
        UserWarning, match=r"torch.compile failed \(main.cpp:2: fatal.*Install the headers of Python"
    ) as warned:
        torch.testing.assert_close(network.denoise(noisy), expected)
    torch.testing.assert_close(network.denoise(noisy), expected)
    assert len(tried) == len(warned) == 1


# -- threads ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def machine(monkeypatch):
    """A function that makes a machine of so many cores, busy to such an extent; PyTorch has a thread for each core."""
    before = torch.get_num_threads()

    def make(cores, busy, quota=sys.maxsize):
        device._free_cores.cache_clear()
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        monkeypatch.setattr(os, "cpu_count", lambda: cores)
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
        monkeypatch.setattr(device, "_busy_cores", lambda: busy)
        monkeypatch.setattr(device, "core_quota", lambda: quota)
        monkeypatch.setattr(device, "_DEFAULT_THREADS", cores)
        torch.set_num_threads(cores)

    yield make
    torch.set_num_threads(before)
    device._free_cores.cache_clear()


@pytest.mark.parametrize(
    ("cores", "busy", "quota", "threads"),
    [
        (2, 0.0, 99, 2),
        (2, 0.3, 99, 2),
        (2, 1.0, 99, 1),
        (2, 5.0, 99, 1),
        (4, 1.2, 99, 3),
        (4, 0.0, 2, 2),
        (4, 3.0, 2, 1),
    ],
)
def test_threads_are_the_cores_that_others_leave_free(cores, busy, quota, threads, machine):
    machine(cores, busy, quota)
    assert device.use_free_cores() == torch.get_num_threads() == threads


def test_what_the_user_chose_is_left_alone(machine, monkeypatch):
    machine(4, 3.0)
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert device.use_free_cores() == 4
    monkeypatch.delenv("OMP_NUM_THREADS")
    torch.set_num_threads(3)
    assert device.use_free_cores() == torch.get_num_threads() == 3


def test_the_machine_is_looked_at_once(machine, monkeypatch):
    machine(4, 2.0)
    assert device.use_free_cores() == 2
    monkeypatch.setattr(device, "_busy_cores", lambda: pytest.fail("looked again"))  # it is busy with our own work now
    assert device.use_free_cores() == 2


@pytest.mark.parametrize(
    ("line", "busy"),
    [
        ("0.10 0.20 0.30 1/80 123", 0.0),  # this process alone
        ("3.00 2.00 1.00 1/80 123", 0.0),  # others have just ended
        ("0.50 0.20 0.30 6/80 123", 0.5),  # a burst
        ("5.00 2.00 1.00 4/80 123", 3.0),
        ("no such numbers", 0.0),
    ],
)
def test_others_count_while_they_run_and_have_run_for_a_while(line, busy, tmp_path):
    (tmp_path / "loadavg").write_text(f"{line}\n")
    assert device._busy_cores(3, 0.0, tmp_path / "loadavg") == busy
    assert device._busy_cores(3, 0.0, tmp_path / "nothing") == 0


@pytest.mark.parametrize(
    ("file", "text", "cores"), [("cpu.max", "250000 100000\n", 2), ("cpu.max", "50000 100000", 1), ("cpu.max", "max 100000", sys.maxsize)]
)  # fmt: skip
def test_a_container_has_the_cores_of_its_quota(file, text, cores, tmp_path):
    (tmp_path / file).write_text(text)
    assert device.core_quota(tmp_path) == cores
    assert device.core_quota(tmp_path / "nothing") == sys.maxsize


def test_idle_threads_sleep_where_the_library_is_imported_before_pytorch():
    check = "import os, sys; {}; import invdenoise; print(os.environ.get('OMP_WAIT_POLICY'))"
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    too_late = "sys.modules['torch'] = sys"
    for first, given, expected in (
        ("pass", {}, "passive"),
        ("pass", {"OMP_WAIT_POLICY": "active"}, "active"),
        (too_late, {}, "None"),
    ):
        command = [sys.executable, "-c", check.format(first)]
        done = subprocess.run(command, env=environment | given, capture_output=True, text=True, check=True)
        assert done.stdout.split() == [expected]


def test_loading_a_network_for_speed_does_not_load_the_compiler():
    check = (
        "import sys; from invdenoise import kernels; from invdenoise.models.dninn import DnINN; "
        "kernels.speed_up(DnINN().eval()); print('torch._inductor' in sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert shown.stdout.split() == ["False"]


@pytest.mark.parametrize(
    ("flags", "units"),
    [
        ({"avx2", "avx512f", "amx_tile"}, " (AMX)"),
        ({"avx2", "avx512f"}, " (AVX-512)"),
        ({"avx2"}, " (AVX2)"),
        (set(), ""),
    ],
)
def test_processors_of_one_name_are_told_apart_by_their_units(monkeypatch, flags, units):
    monkeypatch.setattr(device, "processor_flags", lambda: frozenset(flags))
    monkeypatch.setattr(device, "_processor", lambda: "box")
    threads = torch.get_num_threads()
    assert device.hardware() == f"{threads} CPU thread{'s' if threads > 1 else ''}, box{units}"


def test_a_gpu_needs_triton_to_compile(monkeypatch):
    monkeypatch.setattr(device, "_compiler_fault", lambda: None)
    monkeypatch.setattr("torch.utils._triton.has_triton", lambda: False)
    assert device.can_compile("cpu") and not device.can_compile("cuda")
