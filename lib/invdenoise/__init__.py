"""Invertible networks for image denoising: a reproducible companion to the papers."""

from invdenoise.provenance import VERSION as __version__

__all__ = ["Denoiser", "__version__", "list_denoisers", "load_denoiser"]


def __getattr__(name: str):
    # PyTorch takes seconds to import; it is loaded when a denoiser is first asked for.
    if name in ("load_denoiser", "list_denoisers"):
        from invdenoise import methods

        return getattr(methods, name)
    if name == "Denoiser":
        from invdenoise.models.base import Denoiser

        return Denoiser
    raise AttributeError(f"module 'invdenoise' has no attribute {name!r}")
