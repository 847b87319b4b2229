"""Checks of what a caller hands over: an image, a noise level."""

from __future__ import annotations

import math
import sys
import warnings
from numbers import Real

import torch
from torch import Tensor

SIGMA_MAX = 255.0  # grey levels: noise as strong as the whole range
# Largest magnitude of a picture whose black is 0 and white is 1. The strongest noise has a standard deviation of 1, and stays
# below 7 in a billion pixels; intermediate pictures of deblurring may reach a little more. A picture in 0..255 whose brightest
# pixel is below 20 is black to the eye.
RANGE_MAX = 20.0


def check_image(image: Tensor, channels: int | None, who: str) -> None:
    """Refuse what is not a finite float batch `(B, C, H, W)` with the right number of channels and of nominal range [0, 1].

    Noise may leave [0, 1]; magnitudes above RANGE_MAX are no noise, but another range such as 0..255.

    Raises:
        TypeError: no float tensor.
        ValueError: another shape or number of channels, NaN or infinite pixels, another range.
    """
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
    check_range(image, who)


def check_range(image: Tensor, who: str) -> None:
    """Refuse a float image of any shape, not empty, that is not of the nominal range [0, 1], by ValueError."""
    lowest, highest = (float(end) for end in image.detach().aminmax())
    if max(-lowest, highest) > RANGE_MAX:
        raise ValueError(
            f"{who}: the image has values from {lowest:.4g} to {highest:.4g}; expected a picture in [0, 1], whose noise may exceed "
            "it a little (for pixels in 0..255: x / 255)"
        )


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


_warned_of_fraction = False


def warn_of_fraction(sigma: float | None, who: str) -> None:
    """Warn once of a noise level between 0 and 1, which probably is meant as a fraction of white instead of grey levels.

    Called by a public function; only a call from outside this library warns. Our own algorithms lower the level step by step,
    and may well end below 1.
    """
    global _warned_of_fraction
    if sigma is None or not 0 < sigma < 1 or _warned_of_fraction:
        return
    caller, level = sys._getframe(2), 3  # 1 would be this function, 2 the public one
    while caller.f_back and caller.f_globals.get("__name__", "").startswith("torch."):  # such as torch.no_grad
        caller, level = caller.f_back, level + 1
    if caller.f_globals.get("__name__", "").startswith("invdenoise."):
        return
    _warned_of_fraction = True
    warnings.warn(
        f"{who}: sigma is {sigma:g} of 255 grey levels, which nobody sees; if it is the standard deviation of pixels in [0, 1], "
        f"give {255 * sigma:g}, 255 times as much (this is said once)",
        stacklevel=level,
    )
