"""The C++ kernels: compiled on first use, cached, loaded through ctypes."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import functools
import hashlib
import os
import platform
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from invdenoise import paths
from invdenoise.device import (
    CannotBuild,
    forbids_execution,
    found_compiler,
    processor_flags,
    run_compiler,
    warn_once,
)
from invdenoise.files import atomic

SWITCH = "INVDENOISE_KERNELS"  # environment variable; "off" leaves everything to PyTorch

_OPENMP = () if platform.system() == "Darwin" else ("-fopenmp",)  # Apple's compiler has none
_FLAGS = ("-O3", "-std=c++17", "-fPIC", *_OPENMP)
_NATIVE = "-mcpu=native" if platform.machine() in ("aarch64", "arm64") else "-march=native"


@dataclasses.dataclass(frozen=True)
class Kernel:
    """C functions on contiguous tensors, in one source file of this folder.

    A source may define `int available()`, which says whether the operating system lets this process use the units.

    Args:
        source: name of the file.
        flags: compiler flags, added to those of all kernels.
        needs: instruction sets that the processor must have, as Linux names them.
    """

    source: str
    flags: tuple[str, ...] = (_NATIVE,)
    needs: frozenset[str] = frozenset()

    def available(self) -> bool:
        """Whether the kernel runs here. Builds it the first time; warns once where a build fails."""
        if os.environ.get(SWITCH, "").lower() == "off" or not processor_flags() >= self.needs:
            return False
        return self._library is not None

    def call(self, function: str, tensors: Sequence[Tensor], sizes: Sequence[int]) -> None:
        """Call a function with the addresses of these tensors, these sizes, and the number of threads."""
        pointers = [ctypes.c_void_p(t.data_ptr()) for t in tensors]
        getattr(self._library, function)(*pointers, *map(ctypes.c_int, (*sizes, torch.get_num_threads())))

    @functools.cached_property
    def _library(self) -> ctypes.CDLL | None:
        """The loaded kernel. None where it cannot be built, after a warning, or where the system refuses the units."""
        try:
            library = self._load()
        except CannotBuild as fault:
            warn_once("C++ kernel", fault, f", or set {SWITCH}=off to silence this")
            return None
        usable = getattr(library, "available", None)
        return library if usable is None or usable() else None

    def _load(self) -> ctypes.CDLL:
        compiler = found_compiler()
        source = Path(__file__).with_name(self.source)
        flags = [*_FLAGS, *self.flags]
        built = paths.cache_dir() / "kernels" / f"{source.stem}-{self._key(source, compiler, flags)}.so"
        found = built.exists()
        if not found:
            self._build(source, compiler, flags, built)
        try:
            return ctypes.CDLL(str(built))
        except OSError as error:
            if found and not _forbidden(built, error):  # damaged, or built where other libraries are installed
                self._build(source, compiler, flags, built)
                with contextlib.suppress(OSError):
                    return ctypes.CDLL(str(built))
            raise self._cannot_load(built, error) from error

    @staticmethod
    def _cannot_load(built: Path, error: OSError) -> CannotBuild:
        if _forbidden(built, error):
            remedy = "Set INVDENOISE_CACHE to a folder whose file system allows execution (mounted without noexec)"
        else:
            remedy = "Set INVDENOISE_CACHE to a folder that only this machine uses"
        return CannotBuild(f"{built} could not be loaded ({error})", remedy)

    @staticmethod
    def _key(source: Path, compiler: str, flags: Sequence[str]) -> str:
        """A hash of all that a build depends on: the sources, the compiler, its flags, and the processor.

        Kernels use every instruction of the processor they are built on, and machines may share a cache.
        """
        texts = [file.read_text(encoding="utf-8") for file in (source, *sorted(source.parent.glob("*.h")))]
        depends_on = [*texts, compiler, *flags, platform.machine(), *sorted(processor_flags())]
        return hashlib.sha256("\0".join(depends_on).encode()).hexdigest()[:16]

    @staticmethod
    def _build(source: Path, compiler: str, flags: Sequence[str], built: Path) -> None:
        try:
            with tempfile.TemporaryDirectory() as folder, atomic(built) as temporary:
                compiled = f"{folder}/{source.stem}.o"
                run_compiler(source.name, [compiler, *flags, "-c", str(source), "-o", compiled])
                # Linked without an OpenMP library: PyTorch has loaded one, and a second would add idle threads.
                run_compiler(source.name, [compiler, "-shared", compiled, "-o", str(temporary)])
        except OSError as error:
            raise CannotBuild(
                f"{source.name} could not be built ({error.__cause__ or error})",
                "Set INVDENOISE_CACHE to a folder that can be written",
            ) from error


def _forbidden(built: Path, error: OSError) -> bool:
    """Whether the system refuses to run what lies in this folder: a mount without execution, or a policy."""
    refusals = ("failed to map segment", "Operation not permitted", "Permission denied")
    return forbids_execution(built.parent) or any(refusal in str(error) for refusal in refusals)


_AMX_UNITS = ("fma", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512bf16", "amx-tile", "amx-bf16")
# `LiftingNet`, by the precision of its activations.
LIFTING_NET = {
    "float32": Kernel("lifting_net.cpp"),
    "bfloat16": Kernel(
        "lifting_net_amx.cpp",
        flags=tuple(f"-m{unit}" for unit in _AMX_UNITS),
        needs=frozenset({"avx512bw", "avx512dq", "avx512vl", "avx512_bf16", "amx_tile", "amx_bf16"}),
    ),
}
# `PUNet` and `CLISTA` in float32. The flags let the compiler fuse a product with a sum, and take a minimum in one
# instruction.
WINNET = Kernel(
    "winnet.cpp", flags=(_NATIVE, "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros")
)
