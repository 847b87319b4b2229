"""What made a result: the checkout's commit, the device, its compiler."""

from __future__ import annotations

import functools
import subprocess
from pathlib import Path

import torch

from invdenoise import paths


@functools.cache
def commit() -> str:
    """The checkout's commit, with "+" when tracked files were changed since; "unknown" outside a checkout."""
    command = ["git", "-C", str(paths.ROOT), "describe", "--always", "--abbrev=12", "--dirty=+", "--match="]
    try:
        found = subprocess.run(command, capture_output=True, text=True)
    except OSError:  # no git on this machine
        return "unknown"
    return found.stdout.strip() or "unknown"


def hardware(device: torch.device | str = "cpu") -> str:
    """The device in words: the GPU's name, or the number of CPU threads and the processor."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{torch.get_num_threads()} CPU threads, {_processor()}"


@functools.cache
def can_compile() -> bool:
    """Whether `torch.compile` works here: it needs a C++ compiler on a CPU and Triton on a GPU."""
    if torch.cuda.is_available():
        from torch.utils._triton import has_triton

        return has_triton()
    return cpu_compiler() is not None


@functools.cache
def cpu_compiler() -> str | None:
    """The C++ compiler that `torch.compile` uses on a CPU, or None."""
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        return get_cpp_compiler()
    except Exception:
        return None


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    import platform

    return platform.processor() or platform.machine()
