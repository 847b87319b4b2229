"""What made a result, and which precision is the fastest here."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from invdenoise import provenance
from invdenoise.models import DnCNN, DnINN
from invdenoise.provenance import resolve_precision


@pytest.fixture
def processor(monkeypatch):
    """A function that gives the processor these instruction sets."""

    def has(*flags):
        provenance._has_bfloat16.cache_clear()
        monkeypatch.setattr(provenance, "processor_flags", lambda: frozenset(flags))

    yield has
    provenance._has_bfloat16.cache_clear()


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
    monkeypatch.setattr(DnINN, "has_kernel", lambda *_: False)
    for flags, expected in (("avx2", "float32"), ("avx512_bf16", "bfloat16")):
        processor(flags)
        assert DnINN().eval().speed_up(compiled=False).precision == expected
        # It is trained in what the processor has, and asked for it works so; by itself it stays exact.
        assert DnCNN().resolve_precision("fastest") == expected
        assert DnCNN().eval().speed_up("bfloat16", compiled=False).precision == "bfloat16"
        assert DnCNN().eval().speed_up(compiled=False).precision == "float32"


def test_the_compiler_is_the_one_of_torch_compile(monkeypatch):
    from torch._inductor.cpp_builder import get_cpp_compiler

    provenance.cpu_compiler.cache_clear()
    found = provenance.cpu_compiler()
    if found is None:
        pytest.skip("no C++ compiler here")
    assert found == get_cpp_compiler()
    monkeypatch.setenv("CXX", "no-such-compiler")
    provenance.cpu_compiler.cache_clear()
    assert provenance.cpu_compiler() is None
    provenance.cpu_compiler.cache_clear()


def test_loading_a_network_for_speed_does_not_load_the_compiler():
    check = "import sys; from invdenoise.models import DnINN; DnINN().eval().speed_up(); print('torch._inductor' in sys.modules)"
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
    monkeypatch.setattr(provenance, "processor_flags", lambda: frozenset(flags))
    monkeypatch.setattr(provenance, "_processor", lambda: "box")
    threads = torch.get_num_threads()
    assert provenance.hardware() == f"{threads} CPU thread{'s' if threads > 1 else ''}, box{units}"
