"""Predictor and update networks on the matrix units of recent x86 processors (`amx.cpp`), several times faster than op by op.

It serves bfloat16 on processors with AMX (Intel Xeon, 2023 and later) and is built with the system's C++ compiler in seconds when it
is first asked for. Elsewhere PyTorch runs the same networks, to the same accuracy: `LiftingNet` in `lifting.py` says what is computed.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import subprocess
import tempfile
import warnings
from pathlib import Path

import torch
from torch import Tensor

from invdenoise import paths
from invdenoise.files import atomic
from invdenoise.provenance import can_compile, cpu_compiler

CHANNELS = 16  # of a pixel in the kernel; networks may have fewer
_SOURCE = Path(__file__).with_suffix(".cpp")
_FLAGS = [
    *("-O3", "-std=c++17", "-fPIC", "-fopenmp"),
    *(
        f"-m{unit}"
        for unit in ("fma", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512bf16", "amx-tile", "amx-bf16")
    ),
]
_NEEDS = {"avx512bw", "avx512dq", "avx512vl", "avx512_bf16", "amx_tile", "amx_bf16"}


def serves(device: torch.device, channels: int, kernel_size: int) -> bool:
    """Whether networks of at most this many channels, with kernels of this side, run here on `device`."""
    return device.type == "cpu" and channels <= CHANNELS and kernel_size == 3 and available()


@functools.cache
def available() -> bool:
    """Whether processor, system and compiler are there. Builds the kernel the first time."""
    return _processor_has(_NEEDS) and can_compile() and _library() is not None


def lifting_net(x: Tensor, weights: Tensor, thresholds: Tensor, out_channels: int) -> Tensor:
    """The output `(B, out_channels, H, W)` of a `LiftingNet` for `x` `(B, C, H, W)`, differentiable in all three tensors.

    Args:
        x: float32 input.
        weights: kernels `(out, in, 3, 3)` of all convolutions, first to last, flattened into one float32 vector.
        thresholds: `(num_layers, num_features)`, at least 0: one row for every convolution but the last.
        out_channels: of the last convolution.
    """
    return _LiftingNet.apply(x, weights, thresholds, out_channels)


class _LiftingNet(torch.autograd.Function):
    """Only the input is kept for the backward pass, which computes the activations anew while they fit the cache."""

    @staticmethod
    def forward(ctx, x, weights, thresholds, out_channels):
        x, weights, thresholds = (t.detach().float().contiguous() for t in (x, weights, thresholds))
        ctx.save_for_backward(x, weights, thresholds)
        out = x.new_empty(x.shape[0], out_channels, *x.shape[2:])
        _call("lifting_net_forward", [x, out, weights, thresholds], x, thresholds, out_channels)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        x, weights, thresholds = ctx.saved_tensors
        gradient = gradient.float().contiguous()
        found = [torch.empty_like(t) for t in (x, weights, thresholds)]
        tensors = [x, gradient, found[0], weights, thresholds, found[1], found[2]]
        _call("lifting_net_backward", tensors, x, thresholds, gradient.shape[1])
        return *found, None


def _call(function: str, tensors: list[Tensor], x: Tensor, thresholds: Tensor, out_channels: int) -> None:
    batch, in_channels, height, width = x.shape
    num_layers, num_features = thresholds.shape
    sizes = (batch, height, width, num_layers + 1, in_channels, out_channels, num_features, torch.get_num_threads())
    pointers = [ctypes.c_void_p(t.data_ptr()) for t in tensors]
    getattr(_library(), function)(*pointers, *map(ctypes.c_int, sizes))


@functools.cache
def _library() -> ctypes.CDLL | None:
    """The built kernel; None, with a warning, where it cannot be built or the system refuses the matrix units."""
    compiler = cpu_compiler()
    key = hashlib.sha256(_SOURCE.read_bytes() + " ".join([compiler, *_FLAGS]).encode()).hexdigest()[:16]
    built = paths.cache_dir() / "kernels" / f"amx-{key}.so"
    try:
        if not built.exists():
            # Linked on its own, without an OpenMP library: the one that PyTorch has loaded serves both.
            with tempfile.TemporaryDirectory() as folder, atomic(built) as temporary:
                compiled = f"{folder}/amx.o"
                for arguments in (
                    [*_FLAGS, "-c", str(_SOURCE), "-o", compiled],
                    ["-shared", compiled, "-o", str(temporary)],
                ):
                    subprocess.run([compiler, *arguments], check=True, capture_output=True, text=True)
        library = ctypes.CDLL(str(built))
    except (OSError, subprocess.CalledProcessError) as error:
        reason = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
        warnings.warn(
            f"the kernel {_SOURCE.name} could not be built with {compiler} ({reason[0] if reason else error}); "
            "PyTorch's own are used, several times slower. A newer compiler (GCC 11, Clang 12) mends it.",
            stacklevel=2,
        )
        return None
    return library if library.lifting_net_available() else None


def _processor_has(flags: set[str]) -> bool:
    info = Path("/proc/cpuinfo")
    if not info.exists():  # not Linux, whose way of asking for the matrix units the kernel uses
        return False
    line = next((line for line in info.read_text().splitlines() if line.startswith("flags")), "")
    return flags <= set(line.split())
