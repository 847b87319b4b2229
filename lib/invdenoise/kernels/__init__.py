"""C++ kernels for the networks that PyTorch runs slowly on a CPU, attached to a network from outside; see README.md."""

from invdenoise.kernels.build import LIFTING_NET, WINNET, Kernel
from invdenoise.kernels.routing import attach, detach, has_kernel, resolve_precision, setting, speed_up

__all__ = [
    "LIFTING_NET",
    "WINNET",
    "Kernel",
    "attach",
    "detach",
    "has_kernel",
    "resolve_precision",
    "setting",
    "speed_up",
]
