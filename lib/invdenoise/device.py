"""The device that computes: its name, the precision it is fast in, its compiler."""

from __future__ import annotations

import functools
import os
import shutil
import sys
from pathlib import Path

import torch

PRECISIONS = ("fastest", "float32", "bfloat16")


def hardware(device: torch.device | str = "cpu") -> str:
    """The device in words: the GPU's name, or the number of CPU threads, the processor and its widest arithmetic units.

    Processors of several generations share a name.
    """
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    units = {"amx_tile": "AMX", "avx512f": "AVX-512", "avx2": "AVX2"}
    widest = next((f" ({text})" for flag, text in units.items() if flag in processor_flags()), "")
    return f"{threads} CPU thread{'s' * (threads > 1)}, {_processor()}{widest}"


def resolve_precision(precision: str, device: torch.device | str = "cpu") -> str:
    """The precision of activations on a device: "fastest" is "bfloat16" where the device computes in it, else "float32".

    A processor without bfloat16 emulates it, ten times slower than float32.

    Raises:
        ValueError: `precision` is none of "fastest", "float32" and "bfloat16".
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}; expected {', '.join(PRECISIONS[:-1])} or {PRECISIONS[-1]}")
    if precision != "fastest":
        return precision
    return "bfloat16" if _has_bfloat16(torch.device(device).type) else "float32"


@functools.cache
def _has_bfloat16(kind: str) -> bool:
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return kind == "cpu" and bool(processor_flags() & {"avx512_bf16", "amx_bf16"})


@functools.cache
def processor_flags() -> frozenset[str]:
    """Instruction sets of the processor, as Linux names them; empty on other systems."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return frozenset(next((line for line in lines if line.startswith("flags")), "").partition(":")[2].split())


@functools.cache
def can_compile(device: torch.device | str = "cpu") -> bool:
    """Whether `torch.compile` works for a device: it needs a C++ compiler, and on a GPU Triton too."""
    if torch.device(device).type == "cuda":
        from torch.utils._triton import has_triton

        return has_triton() and cpu_compiler() is not None
    return cpu_compiler() is not None


@functools.cache
def cpu_compiler() -> str | None:
    """The C++ compiler that `torch.compile` uses on a CPU, the one of `CXX` or the system's, or None.

    Asking `torch.compile` itself would load it, which takes longer than denoising a picture.
    """
    wanted = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    return wanted if shutil.which(wanted) else None


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    import platform

    return platform.processor() or platform.machine()
