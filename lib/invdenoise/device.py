"""The device that computes: its name, the precision it is fast in, its threads, its compiler."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

PRECISIONS = ("fastest", "float32", "bfloat16")
THREADS = "OMP_NUM_THREADS"  # environment variable: the number of threads, instead of `use_free_cores`
_DEFAULT_THREADS = torch.get_num_threads()


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


def has_gpu() -> bool:
    """Whether PyTorch finds a GPU, of any make."""
    return torch.accelerator.is_available()


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


# --- Threads


def use_free_cores() -> int:
    """Limit PyTorch to the cores that no other process uses, and return its number of threads.

    PyTorch starts one thread a core. Its threads wait for each other in every layer, so on a busy machine they lose more
    time than they save: two threads are several times slower than one.

    Only the first call in a process measures. Nothing is changed where OMP_NUM_THREADS is set, after
    `torch.set_num_threads`, or on another system than Linux. To choose yourself, set OMP_NUM_THREADS, or call
    `torch.set_num_threads` after this function.
    """
    if os.environ.get(THREADS) or torch.get_num_threads() != _DEFAULT_THREADS:
        return torch.get_num_threads()
    threads = min(_DEFAULT_THREADS, _free_cores())
    if threads != _DEFAULT_THREADS:
        torch.set_num_threads(threads)
    return threads


@functools.cache
def _free_cores() -> int:
    """Cores that this process may use and others leave free, at least 1."""
    cores = os.cpu_count() or 1
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores
    return max(1, min(allowed, core_quota(), round(cores - _busy_cores())))


def core_quota(folder: Path = Path("/sys/fs/cgroup")) -> int:
    """Cores that a container may use; `os.cpu_count` shows all those of its host."""
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:  # version 1 of control groups
            quota, period = ((folder / "cpu" / f"cpu.cfs_{what}_us").read_text() for what in ("quota", "period"))
        return max(1, round(int(quota) / int(period))) if int(quota) > 0 else sys.maxsize
    except (OSError, ValueError, ZeroDivisionError):  # no such file, or "max": no limit
        return sys.maxsize


def _busy_cores(samples: int = 10, pause: float = 0.01, loads: Path = Path("/proc/loadavg")) -> float:
    """Cores kept busy by other processes: the mean over the last minute or the last 0.1 s, whichever is less.

    The mean over a minute still counts a process that has just ended, such as the last run of the same script. A short
    sample alone would count a burst.
    """
    running = []
    try:
        for _ in range(samples):
            minute, _, _, now, _ = loads.read_text().split()
            running.append(int(now.split("/")[0]) - 1)  # without this process
            time.sleep(pause)
    except (OSError, ValueError):
        return 0.0
    return min(float(minute), sum(running) / len(running))


# --- The compiler


class CannotBuild(Exception):
    """What cannot be compiled or loaded here, with the cause and the remedy, which is a sentence without a full stop."""

    def __init__(self, cause: str, remedy: str):
        super().__init__(f"{cause}. {remedy}")
        self.cause, self.remedy = cause, remedy


_warned: set[str] = set()  # remedies already named in a warning: one fault, one warning


def warn_once(what: str, fault: CannotBuild, otherwise: str = "") -> None:
    """Warn that PyTorch's own operations take over; only the first time for a remedy.

    Args:
        what: is missing, such as "C++ kernel".
        otherwise: another way than the remedy, such as ", or set X=off".
    """
    if fault.remedy not in _warned:
        _warned.add(fault.remedy)
        warnings.warn(
            f"no {what}: {fault.cause}. PyTorch's own operations are used; they are several times slower. "
            f"{fault.remedy}{otherwise}.",
            stacklevel=3,
        )


def can_compile(device: torch.device | str = "cpu") -> bool:
    """Whether `torch.compile` works for a device: it needs a C++ compiler that works, and on a GPU Triton too.

    The first call compiles a few lines, which takes a fraction of a second, and warns with cause and remedy if that
    fails.
    """
    if torch.device(device).type == "cuda":
        from torch.utils._triton import has_triton

        if not has_triton():
            return False
    fault = _compiler_fault()
    if fault is not None:
        warn_once("compiled network", fault)
    return fault is None


def cpu_compiler() -> str | None:
    """The C++ compiler that `torch.compile` uses on a CPU, the one of `CXX` or the system's, or None.

    It is on the PATH, which does not mean that it works. Asking `torch.compile` itself would load it, which takes longer
    than denoising a picture.
    """
    wanted = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    return wanted if shutil.which(wanted) else None


def found_compiler() -> str:
    """`cpu_compiler()`; CannotBuild where there is none."""
    compiler = cpu_compiler()
    if compiler is None:
        raise CannotBuild(
            f"there is no C++ compiler {os.environ.get('CXX', 'g++')!r}",
            "Install one (Debian: apt install g++; conda: conda install gxx; macOS: xcode-select --install), "
            "or name yours in CXX",
        )
    return compiler


def compile_or_run(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable:
    """Backend for `torch.compile`: PyTorch's own one, or the network as it is where compiling fails, after a warning.

    `can_compile` tries a few lines. This catches what it cannot foresee, such as a compiler too old for PyTorch or a
    full disk.
    """
    from torch._dynamo import lookup_backend  # here, because loading it takes seconds

    try:
        return lookup_backend("inductor")(graph, inputs)
    except Exception as error:  # of PyTorch, of the compiler or of the system: none may stop the user's work
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        # Only the compiler's errors: the message also holds its command, with the flags and headers searched for.
        errors = [line for line in lines if "error:" in line] or lines[:3]
        cause, remedy = errors[0], _remedy("\n".join(errors), "Update the C++ compiler and PyTorch")
        warn_once("compiled network", CannotBuild(f"torch.compile failed ({cause[:300]})", remedy))
        return graph.forward


# What compiled code includes besides the standard library. Apple's compiler comes without OpenMP.
_TRIAL = """#include <Python.h>
#include <vector>
{openmp}
extern "C" int answer() { return std::vector<int>(3).size() + PY_MAJOR_VERSION; }
"""


@functools.cache
def _compiler_fault() -> CannotBuild | None:
    """Why `torch.compile` would fail on a CPU, found by compiling and linking a few lines where it compiles."""
    apple = sys.platform == "darwin"
    keeps = os.environ.get("TORCHINDUCTOR_CACHE_DIR")  # where torch.compile writes, else the system's temporary folder
    try:
        compiler = found_compiler()
        if keeps:
            os.makedirs(keeps, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=keeps) as folder:
            source, built = Path(folder) / "trial.cpp", Path(folder) / "trial.so"
            source.write_text(_TRIAL.replace("{openmp}", "" if apple else "#include <omp.h>"))
            include = [f"-I{sysconfig.get_path('include')}"]
            flags = ["-undefined", "dynamic_lookup"] if apple else ["-fopenmp"]
            run_compiler("a trial", [compiler, "-shared", "-fPIC", *include, *flags, str(source), "-o", str(built)])
            if forbids_execution(Path(folder)):
                raise CannotBuild(
                    f"programs in {Path(folder).parent} must not be executed (its file system is mounted noexec)",
                    "Set TORCHINDUCTOR_CACHE_DIR to a folder on another file system",
                )
    except CannotBuild as fault:
        return fault
    except OSError as error:
        return CannotBuild(
            f"a trial could not be compiled ({error})", "Set TORCHINDUCTOR_CACHE_DIR to a folder that can be written"
        )
    return None


def forbids_execution(folder: Path) -> bool:
    """Whether the file system of a folder is mounted so that no program in it can be run or loaded."""
    return bool(os.statvfs(folder).f_flag & getattr(os, "ST_NOEXEC", 0))


def run_compiler(what: str, command: Sequence[str], seconds: float = 300) -> None:
    """Run a compiler; CannotBuild with the first error that it prints, and with the remedy.

    Args:
        what: is compiled, for the message.
        seconds: after which it is stopped.
    """
    compiler = command[0]
    try:
        # Messages in English, in which they are searched below.
        environment = os.environ | {"LC_ALL": "C", "LANGUAGE": "C"}
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL, timeout=seconds,
            env=environment,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise CannotBuild(
            f"{compiler} took more than {seconds:g} s for {what}", "Name another compiler in CXX"
        ) from None
    except OSError as error:
        raise CannotBuild(f"{compiler} could not be started ({error})", "Name a C++ compiler in CXX") from error
    if done.returncode == 0:
        return
    lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
    message = next((line for line in lines if "error" in line), lines[0])
    remedy = _remedy("\n".join(lines), "Install a newer compiler (GCC 11, Clang 12)")
    raise CannotBuild(f"{what} could not be built with {compiler} ({message})", remedy)


def _remedy(message: str, otherwise: str) -> str:
    """What to do about a compiler's message, or `otherwise`."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    remedies = {
        ("Python.h",): f"Install the headers of Python {version} (Debian: apt install python{version}-dev)",
        ("No space left", "Disk quota exceeded"): "Free disk space, or set TMPDIR to a folder on another disk",
        ("Permission denied", "Read-only file system"): "Set TMPDIR to a folder that can be written",
        ("Killed", "out of memory", "Cannot allocate"): "Free memory: the system stopped the compiler",
        ("omp.h", "-lgomp", "libgomp", "-lomp", "-fopenmp"): (
            "Install OpenMP for the compiler (Debian: apt install g++, for Clang libomp-dev; conda: conda install gxx)"
        ),
        ("No such file or directory", "file not found", "cannot find", "cannot execute"): (
            "Install the compiler's headers (Debian: apt install g++ libc6-dev; conda: conda install gxx)"
        ),
    }
    return next((remedy for signs, remedy in remedies.items() if any(sign in message for sign in signs)), otherwise)


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    import platform

    return platform.processor() or platform.machine()
