"""The device that computes: its name, its fastest precision, its compiler."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

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


def test_the_compiler_is_the_one_of_torch_compile(monkeypatch):
    from torch._inductor.cpp_builder import get_cpp_compiler

    device.cpu_compiler.cache_clear()
    found = device.cpu_compiler()
    if found is None:
        pytest.skip("no C++ compiler here")
    assert found == get_cpp_compiler()
    monkeypatch.setenv("CXX", "no-such-compiler")
    device.cpu_compiler.cache_clear()
    assert device.cpu_compiler() is None
    device.cpu_compiler.cache_clear()


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
    device.can_compile.cache_clear()
    monkeypatch.setattr("torch.utils._triton.has_triton", lambda: False)
    monkeypatch.setattr(device, "cpu_compiler", lambda: "g++")
    assert device.can_compile("cpu") and not device.can_compile("cuda")
    device.can_compile.cache_clear()
