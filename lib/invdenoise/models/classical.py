"""Denoisers that learn nothing: BM3D, wavelet shrinkage and non-local means, taken from libraries."""

from __future__ import annotations

import importlib.util
import math

import numpy as np
import pywt
from skimage import restoration  # loaded where it is first used

from invdenoise.models.plane import ClassicalDenoiser

COLOUR = 3  # channels of a colour picture
FLAT = 1e-6  # range of a colour difference that counts as none
BM3D_PROFILES = {"np": "BM3DProfile", "lc": "BM3DProfileLC", "vn": "BM3DProfileVN"}
THRESHOLD_MODES = ("soft", "hard")


class BM3D(ClassicalDenoiser):
    """BM3D (Dabov et al., TIP 2007) and CBM3D, its form for colour, by the authors' package `bm3d` 4.

    Three channels are red, green and blue. CBM3D takes them to an opponent colour space, finds similar blocks in the
    luminance, and filters every channel with them (Dabov et al., ICIP 2007). Any other number of channels is denoised channel
    by channel.

    The package's licence allows non-commercial use only, so it does not come with this library: `make env BM3D=1`.
    It chooses its shrinkage constants by itself where the 2007 paper has fixed ones.

    Args:
        profile: "np", the package's default; "lc", three times faster and 0.3 dB worse; "vn", made for high noise.
        exact_variance: compute the variance of each block's coefficients from the noise spectrum (Mäkinen et al., TIP 2020),
            the package's default. It was made for correlated noise and is no part of the 2007 method; for white noise it
            takes two to three times as long for 0.03 to 0.04 dB (BSD68).
        num_threads: 1 for results that are equal bit for bit from run to run, 0 for all cores. Several threads add up
            in changing order, which moves pixels by about 1e-4 and PSNR by less than 0.001 dB.

    Raises:
        ImportError: the package is not installed.
    """

    name = "bm3d"
    display_name = "BM3D"
    package = "bm3d"
    # Two 8x8 blocks a side. The package refuses less than one block, and may crash the interpreter at exactly one.
    min_side = 16

    def __init__(self, profile: str = "np", exact_variance: bool = False, num_threads: int = 1):
        if profile not in BM3D_PROFILES:
            raise ValueError(f"profile is {profile!r}; expected one of {', '.join(BM3D_PROFILES)}")
        try:
            import bm3d
        except ImportError as error:
            raise ImportError(
                f"BM3D needs the package bm3d ({error}). Install it with `make env BM3D=1`, or `pip install bm3d`; "
                "its licence allows non-commercial use only."
            ) from None
        self._bm3d, self._bm3d_rgb = bm3d.bm3d, bm3d.bm3d_rgb
        self._profile = getattr(bm3d, BM3D_PROFILES[profile])()
        self._profile.num_threads = num_threads
        if not exact_variance:
            self._profile.nf = 0  # size of the transforms of the spectrum

    def denoise_plane(self, plane: np.ndarray, sigma: float) -> np.ndarray:
        return self._bm3d(plane, sigma, self._profile)

    def denoise_image(self, image: np.ndarray, sigma: float) -> np.ndarray:
        if len(image) != COLOUR or _has_flat_colour(image):
            return super().denoise_image(image, sigma)
        return self._bm3d_rgb(image.transpose(1, 2, 0), sigma, self._profile).transpose(2, 0, 1)


def _has_flat_colour(image: np.ndarray) -> bool:
    """Whether an opponent channel of `(3, H, W)` is constant, as in a gray picture stored as colour: CBM3D divides by its range."""
    red, green, blue = image
    return min(map(np.ptp, (red + green + blue, red - blue, red - 2 * green + blue))) < FLAT


class WaveletShrinkage(ClassicalDenoiser):
    """Thresholding of orthogonal wavelet coefficients, averaged over shifts of the image, by scikit-image.

    Averaging over shifts ("cycle spinning", Coifman and Donoho 1995) removes most artefacts of the decimated transform.
    Shifts are circular. A colour picture is denoised channel by channel, which leaves out what its channels have in common.

    Args:
        wavelet: an orthogonal wavelet of PyWavelets, "haar", "db2", "sym4".
        num_levels: scales of the decomposition; fewer where the image is too small for them.
        mode: "soft" (as published) or "hard".
        cycle_spins: largest shift s along each axis, for a mean over (s + 1)**2 shifts; 0 is the decimated transform.
    """

    rule: str  # scikit-image's name for the choice of the threshold

    def __init__(self, wavelet: str = "db2", num_levels: int = 4, mode: str = "soft", cycle_spins: int = 3):
        if not pywt.Wavelet(wavelet).orthogonal:
            raise ValueError(f"wavelet is {wavelet!r}; expected an orthogonal one, as 'db2', which keeps noise white")
        if num_levels < 1:
            raise ValueError(f"num_levels is {num_levels}; expected 1 or more")
        if mode not in THRESHOLD_MODES:
            raise ValueError(f"mode is {mode!r}; expected one of {', '.join(THRESHOLD_MODES)}")
        if cycle_spins < 0:
            raise ValueError(f"cycle_spins is {cycle_spins}; expected 0 or more")
        self.wavelet, self.num_levels, self.mode, self.cycle_spins = wavelet, num_levels, mode, cycle_spins
        self.min_side = 2 * (pywt.Wavelet(wavelet).dec_len - 1)  # PyWavelets allows smaller sides no level

    def denoise_plane(self, plane: np.ndarray, sigma: float) -> np.ndarray:
        options = {
            "sigma": sigma,
            "wavelet": self.wavelet,
            "wavelet_levels": min(self.num_levels, pywt.dwtn_max_level(plane.shape, self.wavelet)),
            "mode": self.mode,
            "method": self.rule,
        }
        return restoration.cycle_spin(
            plane, restoration.denoise_wavelet, max_shifts=self.cycle_spins, workers=1, func_kw=options
        )


class BayesShrink(WaveletShrinkage):
    """Wavelet shrinkage, one threshold a subband, from the subband's variance (Chang, Yu and Vetterli, TIP 2000)."""

    name = "wavelet-bayes"
    display_name = "BayesShrink"
    rule = "BayesShrink"


class VisuShrink(WaveletShrinkage):
    """Wavelet shrinkage with the universal threshold sigma sqrt(2 ln(number of pixels)) (Donoho and Johnstone 1994).

    Removes nearly all noise and much of the picture. With `mode="hard"` cycle spinning makes good most of the loss.
    """

    name = "wavelet-visu"
    display_name = "VisuShrink"
    rule = "VisuShrink"


class NonLocalMeans(ClassicalDenoiser):
    """Non-local means (Buades, Coll and Morel, CVPR 2005) in the fast variant with flat patches, by scikit-image.

    Patch distances are corrected for the noise they contain. The patches of three channels, red, green and blue, are compared
    in all of them together, so a pixel has the same weights in each. Any other number of channels is denoised channel by
    channel.

    Args:
        patch_size: side of the patches compared, in pixels.
        patch_distance: largest distance of compared patches along each axis, in pixels.
        strength: cut-off distance h over sigma; scikit-image recommends 0.8 for the fast variant.
    """

    name = "nlm"
    display_name = "NLM"
    min_side = 2  # scikit-image loses an axis of size 1

    def __init__(self, patch_size: int = 5, patch_distance: int = 6, strength: float = 0.8):
        for key, value in (("patch_size", patch_size), ("patch_distance", patch_distance)):
            if value < 1:
                raise ValueError(f"{key} is {value}; expected 1 pixel or more")
        if not 0 < strength < math.inf:
            raise ValueError(f"strength is {strength}; expected more than 0")
        self.patch_size, self.patch_distance, self.strength = patch_size, patch_distance, strength

    def denoise_plane(self, plane: np.ndarray, sigma: float) -> np.ndarray:
        return self._denoise(plane, sigma, channel_axis=None)

    def denoise_image(self, image: np.ndarray, sigma: float) -> np.ndarray:
        return (
            self._denoise(image, sigma, channel_axis=0) if len(image) == COLOUR else super().denoise_image(image, sigma)
        )

    def _denoise(self, pixels: np.ndarray, sigma: float, channel_axis: int | None) -> np.ndarray:
        return restoration.denoise_nl_means(
            pixels,
            patch_size=self.patch_size,
            patch_distance=self.patch_distance,
            h=self.strength * sigma,
            sigma=sigma,
            fast_mode=True,
            preserve_range=True,
            channel_axis=channel_axis,
        )


def is_installed(name: str) -> bool:
    """Whether the package that a classical method needs is there."""
    package = METHODS[name].package
    return not package or importlib.util.find_spec(package) is not None


METHODS: dict[str, type[ClassicalDenoiser]] = {
    method.name: method for method in (BM3D, BayesShrink, VisuShrink, NonLocalMeans)
}


def load(name: str, **options) -> ClassicalDenoiser:
    """The classical method of that name, with its parameters as options: `load("wavelet-bayes", cycle_spins=0)`.

    Raises:
        ValueError: no such method, or a parameter out of range.
        TypeError: no such parameter.
        ImportError: the method's package is not installed.
    """
    if name not in METHODS:
        raise ValueError(f"no classical method is called {name!r}; expected one of {', '.join(METHODS)}")
    return METHODS[name](**options)
