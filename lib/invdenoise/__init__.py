"""Invertible networks for image denoising: a reproducible companion to LINN, WINNet, InvDN and FDN."""

__version__ = "0.1.0"


def __getattr__(name: str):
    # PyTorch takes seconds to import; it is loaded when a denoiser is first asked for.
    if name in ("load_denoiser", "list_denoisers", "Denoiser"):
        from invdenoise import denoiser

        return getattr(denoiser, name)
    raise AttributeError(f"module 'invdenoise' has no attribute {name!r}")
