"""Checks of what a caller hands over: an image, a noise level."""

from __future__ import annotations

import math
from numbers import Real

import torch
from torch import Tensor

SIGMA_MAX = 255.0  # grey levels: noise as strong as the whole range


def check_image(image: Tensor, channels: int | None, who: str) -> None:
    """Refuse what is not a finite float batch `(B, C, H, W)` with the right number of channels."""
    if not isinstance(image, Tensor):
        raise TypeError(f"{who}: the image is a {type(image).__name__}; expected a float tensor of shape (B, C, H, W)")
    if not image.is_floating_point():
        raise TypeError(
            f"{who}: the image is {image.dtype}; expected floats in [0, 1] (for 8-bit pixels: x.float() / 255)"
        )
    if image.ndim != 4 or 0 in image.shape:
        raise ValueError(f"{who}: the image has shape {tuple(image.shape)}; expected (B, C, H, W), none of them 0")
    if channels is not None and image.shape[1] != channels:
        found, wanted = image.shape[1], f"{channels} channel{'s' if channels > 1 else ''}"
        hint = "; denoise each channel on its own, or convert to gray" if channels == 1 else ""
        raise ValueError(f"{who}: the image has {found} channels; this method takes {wanted}{hint}")
    if not torch.isfinite(image).all():
        bad = int((~torch.isfinite(image)).sum())
        raise ValueError(f"{who}: {bad} of {image.numel()} pixels are NaN or infinite; mend the image first")


def check_sigma(sigma: float | None, needed: bool, who: str) -> float | None:
    """`sigma` as a float in grey levels, or None where it may be missing."""
    if sigma is None:
        if needed:
            raise ValueError(
                f"{who}: sigma is missing; give the noise level in grey levels, e.g. denoise(noisy, sigma=25)"
            )
        return None
    if isinstance(sigma, Tensor) and sigma.ndim == 0:
        sigma = sigma.item()
    if isinstance(sigma, bool) or not isinstance(sigma, Real):
        raise TypeError(f"{who}: sigma is {sigma!r}; expected a number of grey levels, 0 to 255")
    sigma = float(sigma)
    if not math.isfinite(sigma) or not 0 <= sigma <= SIGMA_MAX:
        raise ValueError(f"{who}: sigma is {sigma:g}; expected a noise level in grey levels, 0 to 255")
    return sigma
