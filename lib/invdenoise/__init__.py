"""Invertible networks for image denoising: a reproducible companion to the papers."""

import os
import sys

from invdenoise.provenance import VERSION as __version__

__all__ = ["Denoiser", "__version__", "list_denoisers", "load_denoiser"]

# Idle OpenMP threads wait by spinning, which takes the core from whoever has work: on a busy machine everything becomes
# several times slower. The setting is read when PyTorch is loaded.
if "torch" not in sys.modules:
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def __getattr__(name: str):
    # PyTorch takes seconds to import; it is loaded when a denoiser is first asked for.
    if name in ("load_denoiser", "list_denoisers"):
        from invdenoise import methods

        return getattr(methods, name)
    if name == "Denoiser":
        from invdenoise.models.base import Denoiser

        return Denoiser
    raise AttributeError(f"module 'invdenoise' has no attribute {name!r}")
