"""PSNR and SSIM: the one place that says range, rounding, border and channels; and what each metric means to a verdict.

SSIM is scikit-image's. Its PSNR, one line, would take seconds to import, with all of SciPy's statistics.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from skimage.metrics import structural_similarity
from torch import Tensor

from invdenoise.checks import RANGE_MAX


@dataclass(frozen=True)
class Metric:
    """How a metric is read and judged.

    Attributes:
        name: column of score files, and name in `data/published`.
        unit: "dB", "%", ... or empty.
        higher_is_better: None for a count, of which any other value is a departure.
        reproduced, close: largest distance from the printed value that has this verdict, in `unit`; for a count, as a fraction of it.
        digits: after the decimal point, where it is printed.
    """

    name: str
    unit: str
    higher_is_better: bool | None
    reproduced: float
    close: float
    digits: int = 2


PSNR = Metric("psnr", "dB", True, 0.05, 0.2)
SSIM = Metric("ssim", "", True, 0.001, 0.005, 4)
# Counts are printed to two or three digits.
PARAMETERS = Metric("parameters", "parameters", None, 0.005, 0.02, 0)
# Papers count biases and activations or not, which is less than 1 % of a network of convolutions.
FLOPS = Metric("flops", "GFLOPs", None, 0.01, 0.05)

SSIM_WINDOW = 11  # pixels: scikit-image cuts its Gaussian of sigma 1.5 at 3.5 standard deviations


def psnr(clean: Tensor | np.ndarray, denoised: Tensor | np.ndarray, rounded: bool = False) -> float:
    """Peak signal-to-noise ratio in dB for the peak 1: -10 log10 of the mean squared error.

    `inf` for equal images, `nan` where an image has a pixel that is not a number.

    The mean is over all pixels and channels in float64. No border is cut, and nothing is clamped or rounded.

    Args:
        clean, denoised: one image each, `(H, W)`, `(C, H, W)` or `(1, C, H, W)`, floats of nominal range [0, 1].
        rounded: clamp both to [0, 1] and round them to 8 bits first, as many papers do. Adds about 1/12 squared grey
            level to the error of a float image: 0.005 dB less at 29 dB, 0.03 dB less at 38 dB.

    Raises:
        TypeError: an image is not of floats.
        ValueError: the shapes differ or are not those of one image.
    """
    clean, denoised = _image_pair(clean, denoised, rounded)
    with np.errstate(divide="ignore"):  # equal images: log of 0
        return float(-10 * np.log10(np.mean((clean - denoised) ** 2)))


def ssim(clean: Tensor | np.ndarray, denoised: Tensor | np.ndarray, rounded: bool = False) -> float:
    """Structural similarity index, 1 for equal images; `nan` for an image under 11 pixels high or wide.

    As in Wang et al. (2004): Gaussian weights of sigma 1.5, population covariance, K1 = 0.01, K2 = 0.03, data range 1.
    The mean is over the positions at which the 11x11 window lies within the image, then over channels. A smaller image
    has no such position, hence no SSIM.

    Arguments and errors are those of `psnr`.
    """
    clean, denoised = _image_pair(clean, denoised, rounded)
    if min(clean.shape[-2:]) < SSIM_WINDOW:
        return float("nan")
    similarity = structural_similarity(
        clean,
        denoised,
        data_range=1,
        channel_axis=0,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    return float(similarity)


def _image_pair(clean, denoised, rounded: bool) -> tuple[np.ndarray, np.ndarray]:
    """Both images as float64 arrays `(C, H, W)` of equal shape."""
    pair = [_image(image, name) for image, name in ((clean, "clean"), (denoised, "denoised"))]
    if pair[0].shape != pair[1].shape:
        raise ValueError(f"the clean image has shape {pair[0].shape}, the denoised {pair[1].shape}; they must agree")
    if rounded:
        pair = [np.rint(image.clip(0, 1) * 255) / 255 for image in pair]
    return pair[0], pair[1]


def _image(image, name: str) -> np.ndarray:
    """`image` as a float64 array `(C, H, W)`."""
    if isinstance(image, Tensor):
        image = image.detach().cpu().double().numpy() if image.is_floating_point() else image.cpu().numpy()
    image = np.asarray(image)
    if not np.issubdtype(image.dtype, np.floating):
        raise TypeError(f"the {name} image is {image.dtype}; expected floats in [0, 1] (for 8-bit pixels: x / 255)")
    shape = image.shape
    if image.ndim == 4 and shape[0] == 1:
        image = image[0]
    if image.ndim == 2:
        image = image[np.newaxis]
    if image.ndim != 3 or 0 in shape:
        raise ValueError(f"the {name} image has shape {shape}; expected one image: (H, W), (C, H, W) or (1, C, H, W)")
    if np.abs(image).max() > RANGE_MAX:  # NaN compares false, and stays NaN
        raise ValueError(
            f"the {name} image has values from {image.min():.4g} to {image.max():.4g}; expected [0, 1] (for pixels in 0..255: x / 255)"
        )
    return image.astype(np.float64)
