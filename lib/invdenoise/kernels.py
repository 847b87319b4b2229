"""Networks in C++ of their own on a CPU, several times faster than op by op: built on first use and called through ctypes.

Each is built in seconds with the system's C++ compiler. Where there is none, PyTorch runs the same network, to the same accuracy.
"""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import hashlib
import platform
import subprocess
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from invdenoise import paths
from invdenoise.files import atomic
from invdenoise.provenance import cpu_compiler, processor_flags

_OPENMP = () if platform.system() == "Darwin" else ("-fopenmp",)  # Apple's compiler has none
_FLAGS = ("-O3", "-std=c++17", "-fPIC", *_OPENMP)
_NATIVE = "-mcpu=native" if platform.machine() in ("aarch64", "arm64") else "-march=native"


@dataclasses.dataclass(frozen=True)
class Kernel:
    """C functions on contiguous tensors, in one source file beside this module.

    Where the source has an `int available()`, it says whether the system lets this process use the processor's units.

    Args:
        source: name of the file.
        flags: of the compiler, besides those of all kernels.
        needs: instruction sets that the processor must have, as Linux names them.
    """

    source: str
    flags: tuple[str, ...] = (_NATIVE,)
    needs: frozenset[str] = frozenset()

    def available(self) -> bool:
        """Whether processor, system and compiler are there. Builds the kernel the first time."""
        return processor_flags() >= self.needs and cpu_compiler() is not None and self._library is not None

    def call(self, function: str, tensors: Sequence[Tensor], sizes: Sequence[int]) -> None:
        """Call a function with the addresses of these tensors, these sizes, and the number of threads to use."""
        pointers = [ctypes.c_void_p(t.data_ptr()) for t in tensors]
        getattr(self._library, function)(*pointers, *map(ctypes.c_int, (*sizes, torch.get_num_threads())))

    @functools.cached_property
    def _library(self) -> ctypes.CDLL | None:
        """The built kernel; None, with a warning, where it cannot be built or the system refuses the units."""
        source, compiler = Path(__file__).with_name(self.source), cpu_compiler()
        flags = [*_FLAGS, *self.flags]
        # Built for this very processor, while a cache may be shared by several.
        made_of = [source.read_text(), compiler, *flags, platform.machine(), *sorted(processor_flags())]
        key = hashlib.sha256(" ".join(made_of).encode()).hexdigest()[:16]
        built = paths.cache_dir() / "kernels" / f"{source.stem}-{key}.so"
        try:
            if not built.exists():
                # Linked on its own, without an OpenMP library: the one that PyTorch has loaded serves both.
                with tempfile.TemporaryDirectory() as folder, atomic(built) as temporary:
                    compiled = f"{folder}/{source.stem}.o"
                    for arguments in (
                        [*flags, "-c", str(source), "-o", compiled],
                        ["-shared", compiled, "-o", str(temporary)],
                    ):
                        subprocess.run([compiler, *arguments], check=True, capture_output=True, text=True)
            library = ctypes.CDLL(str(built))
        except (OSError, subprocess.CalledProcessError) as error:
            reason = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
            warnings.warn(
                f"the kernel {self.source} could not be built with {compiler} ({reason[0] if reason else error}); "
                "PyTorch's own are used, several times slower. A newer compiler (GCC 11, Clang 12) mends it.",
                stacklevel=2,
            )
            return None
        usable = getattr(library, "available", None)
        return library if usable is None or usable() else None


_AMX_UNITS = ("fma", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512bf16", "amx-tile", "amx-bf16")
# LiftingNet by the precision of its activations.
LIFTING_NET = {
    "float32": Kernel("simd.cpp"),
    "bfloat16": Kernel(
        "amx.cpp",
        flags=tuple(f"-m{unit}" for unit in _AMX_UNITS),
        needs=frozenset({"avx512bw", "avx512dq", "avx512vl", "avx512_bf16", "amx_tile", "amx_bf16"}),
    ),
}
# PUNet and CLISTA. The flags allow a product and a sum rounded once, and one instruction for the smaller of two numbers.
WINNET = Kernel(
    "winnet.cpp", flags=(_NATIVE, "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros")
)


def runs_in_kernel(chain: nn.Module, x: Tensor) -> bool:
    """Whether a part of a network takes `x` in its float32 kernel: where it was asked to (`in_kernel`), and has one."""
    wanted = chain.in_kernel and x.dtype != torch.float64 and not torch.compiler.is_compiling()
    return wanted and chain.has_kernel(x.device, "float32")


class InKernel(torch.autograd.Function):
    """A chain of convolutions and thresholds in a kernel, differentiable once in its three tensors.

    Args:
        x: input `(B, C, H, W)`.
        weights: kernels of all convolutions, flattened into one vector.
        thresholds: `(num_layers, num_features)`, or these of each picture of the batch, at least 0.
        out_channels: of the output `(B, out_channels, H, W)`.
        kernel, name: the functions are `name`_forward and `name`_backward.
        sizes: what they are told besides B, H and W.

    Only the input is kept for the backward pass, which computes the activations anew.
    """

    @staticmethod
    def forward(
        ctx, x: Tensor, weights: Tensor, thresholds: Tensor, out_channels: int, kernel: Kernel, name: str, *sizes: int
    ) -> Tensor:
        x, weights, thresholds = (t.detach().float().contiguous() for t in (x, weights, thresholds))
        ctx.save_for_backward(x, weights, thresholds)
        ctx.kernel, ctx.name, ctx.sizes = kernel, name, (len(x), *x.shape[2:], *sizes)
        out = x.new_empty(len(x), out_channels, *x.shape[2:])
        kernel.call(f"{name}_forward", [x, out, weights, thresholds], ctx.sizes)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: Tensor):
        x, weights, thresholds = ctx.saved_tensors
        found = [torch.empty_like(t) for t in (x, weights, thresholds)]
        tensors = [x, gradient.float().contiguous(), found[0], weights, thresholds, *found[1:]]
        ctx.kernel.call(f"{ctx.name}_backward", tensors, ctx.sizes)
        return *found, None, None, None, *(None for _ in ctx.sizes[3:])
