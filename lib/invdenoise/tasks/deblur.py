"""Deblurring with a known kernel: a denoiser as prior (WINNet's Algorithm 1), the classical methods to beat, scores.

Everywhere the blur is circular and the kernel is known. A kernel is a 2-D float tensor `(h, w)` of sum 1, centred at
`(h // 2, w // 2)` as in SciPy. Sums run in float64 whatever the image is; images keep their dtype and device.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import h5py
import numpy as np
import torch
import torch.nn.functional as F
from skimage import restoration  # loaded where it is first used
from torch import Tensor

from invdenoise import methods
from invdenoise.checks import SIGMA_MAX, check_image, check_sigma
from invdenoise.data.fetch import DataUnavailable, fetch
from invdenoise.data.noise import awgn, noise_generator
from invdenoise.data.pictures import PictureSet
from invdenoise.models.base import Denoiser
from invdenoise.tasks.base import Case, Task, device_of
from invdenoise.tasks.metrics import PSNR, psnr

SIGMA = 2.55  # grey levels: the noise of the paper's experiments, one hundredth of the range

FIRST_RATIO = 10.0  # beta_1 / beta_0 of Algorithm 1
SMALLEST_SIGMA = 1e-3  # grey levels: ratios to less would be ratios to the rounding of float32 images

SUM_TOLERANCE = 1e-3  # of a kernel: a tenth of a per cent of brightness

# Settings of the classical methods: the best in PSNR on the training role of the embedded pictures at noise `SIGMA`, a
# mean over the eight kernels of Levin et al. Half or twice the first costs 0.8 or 1.2 dB, of the second 0.7 or 0.6 dB.
# 40 is, to the nearest ten, also what the Laplacian of these pictures has.
LAPLACIAN_STD = 40.0
NUM_ITERATIONS = 30

MARGIN = 4  # sides of the kernel: in 30 iterations of Richardson-Lucy hardly any error comes that far

KERNELS, STAND_IN = "levin09", "stand-in"  # names of the two sets of kernels in score files
SIDES = (19, 17, 15, 27, 13, 21, 23, 23)  # of the kernels of Levin et al.

MAX_ITERATIONS = 30  # of Algorithm 1; where it converges at all, it takes half as many or fewer

Estimator = Callable[[Tensor], Tensor | float]


# --- Kernels, blur, noise


def levin_kernels() -> list[Tensor]:
    """The eight camera-shake kernels of Levin et al. (CVPR 2009): float64 tensors of sum 1, 13x13 to 27x27, odd sides.

    Read from `Levin09.mat` of the dataset `kernels`, the file that WINNet's authors use, in their order.

    Raises:
        DataUnavailable, CorruptFile: see `fetch`.
    """
    with h5py.File(fetch("kernels", "kernels/Levin09.mat")) as file:
        cells = [file[reference][()] for reference in file["kernels"][()].flat]
    return [torch.from_numpy(np.ascontiguousarray(cell.T)).double() for cell in cells]  # MATLAB stores columns


def stand_in_kernels() -> list[Tensor]:
    """Eight kernels like those of a hand that shakes, made by a formula: float64, sum 1, sides `SIDES`.

    Each is the trace of a point on a smooth path, sampled evenly in time and shared out to the four nearest pixels. They
    stand in for `levin_kernels` where these cannot be had.
    """
    moment = torch.linspace(0, 1, 2000, dtype=torch.float64)
    kernels = []
    for number, side in enumerate(SIDES, start=1):
        half = (side - 3) / 2  # a margin of one pixel, for the sharing out
        phase = 2.4 * number  # about the golden angle: no two kernels look alike
        waves = [
            torch.sin(0.7 * math.pi * moment + start) + 0.5 * torch.sin(2.3 * math.pi * moment + 2 * start)
            for start in (phase, 1.7 * phase + 1)
        ]
        rows, columns = (
            side // 2 + half * (2 * (wave - wave.min()) / (wave.max() - wave.min()) - 1) * reach
            for wave, reach in zip(waves, (1.0, 0.7) if number % 2 else (0.6, 1.0), strict=True)
        )
        kernel = torch.zeros(side, side, dtype=torch.float64)
        for down in (0, 1):
            for right in (0, 1):
                places = (rows.floor() + down, columns.floor() + right)
                shares = [1 - (at - place).abs() for at, place in zip((rows, columns), places, strict=True)]
                kernel.index_put_(tuple(place.long() for place in places), shares[0] * shares[1], accumulate=True)
        kernels.append(kernel / kernel.sum())
    return kernels


def load_kernels() -> tuple[str, list[Tensor]]:
    """The kernels of Levin et al. and `KERNELS`; or, with a warning, kernels that stand in for them and `STAND_IN`.

    Raises:
        CorruptFile: see `fetch`.
    """
    try:
        return KERNELS, levin_kernels()
    except DataUnavailable as error:
        warnings.warn(f"kernels made by a formula stand in for those of Levin et al.: {error}", stacklevel=2)
        return STAND_IN, stand_in_kernels()


def blur(image: Tensor, kernel: Tensor) -> Tensor:
    """The circular convolution of every plane of `image` `(B, C, H, W)` with `kernel`; same shape and dtype.

    Raises:
        TypeError, ValueError: not a finite float image; a kernel that is not 2-D, finite and of sum 1, or that is
            larger than the image.
    """
    check_image(image, None, "blur")
    check_kernel(kernel, image)
    spectrum = torch.fft.rfft2(image.double()) * transfer_function(kernel, image)
    return torch.fft.irfft2(spectrum, s=image.shape[-2:]).to(image.dtype)


def degrade(image: Tensor, kernel: Tensor, sigma: float, generator: torch.Generator) -> Tensor:
    """`image` blurred by `kernel`, plus white Gaussian noise: WINNet's observation, neither clipped nor quantised.

    Args:
        image: float tensor `(B, C, H, W)`, nominal range [0, 1].
        kernel: see `check_kernel`.
        sigma: of the noise in grey levels, 0 to 255; the paper's is `SIGMA`.
        generator: as of `noise.noise_generator`. A picture then meets the same noise with every kernel, as in the
            released code.
    """
    return awgn(blur(image, kernel), sigma, generator)


def check_kernel(kernel: Tensor, image: Tensor) -> None:
    """Refuse what is not a finite float kernel `(h, w)` of sum 1 that fits into `image` `(B, C, H, W)`."""
    if not isinstance(kernel, Tensor) or not kernel.is_floating_point():
        found = kernel.dtype if isinstance(kernel, Tensor) else type(kernel).__name__
        raise TypeError(f"the kernel is {found}; expected a float tensor of shape (h, w)")
    if kernel.ndim != 2 or 0 in kernel.shape:
        raise ValueError(f"the kernel has shape {tuple(kernel.shape)}; expected (h, w), neither of them 0")
    if not torch.isfinite(kernel).all():
        raise ValueError(
            f"{int((~torch.isfinite(kernel)).sum())} of {kernel.numel()} kernel values are NaN or infinite"
        )
    if abs((total := kernel.double().sum().item()) - 1) > SUM_TOLERANCE:
        raise ValueError(f"the kernel sums to {total:g}; expected 1, which keeps the brightness: divide it by its sum")
    height, width = image.shape[-2:]
    if kernel.shape[0] > height or kernel.shape[1] > width:
        raise ValueError(
            f"the kernel is {kernel.shape[0]}x{kernel.shape[1]}, larger than the image of {height}x{width}; "
            "take a larger image, or cut the kernel"
        )


def transfer_function(kernel: Tensor, image: Tensor) -> Tensor:
    """The Fourier transform `(H, W // 2 + 1)` of `kernel` on the grid of `image` `(B, C, H, W)`, complex128."""
    (height, width), (rows, columns) = image.shape[-2:], kernel.shape
    padded = F.pad(kernel.to(image.device, torch.float64), (0, width - columns, 0, height - rows))
    return torch.fft.rfft2(padded.roll((-(rows // 2), -(columns // 2)), (0, 1)))


# --- Plug-and-play


@dataclass(frozen=True, eq=False)
class Step:
    """One pass through the loop of Algorithm 1.

    Attributes:
        number: 1, 2, ...
        tau: weight of the previous image in the data step.
        sigma: noise level that is estimated in `solution`, in grey levels; the denoiser is told a multiple of it.
        solution: x_k `(1, 1, H, W)`, the image of the data step, not clamped.
        denoised: z_k `(1, 1, H, W)`, the image after denoising.
    """

    number: int
    tau: float
    sigma: float
    solution: Tensor
    denoised: Tensor


@dataclass(frozen=True, eq=False)
class Deblurred:
    """What `deblur` gives; printed, one line on how it ended.

    Attributes:
        image: `(1, 1, H, W)` in [0, 1].
        sigma: noise level estimated in the blurred image, in grey levels.
        sigmas: noise level estimated after each data step, in grey levels.
        converged: whether the last of them is at most `sigma`; otherwise the cap on iterations ended the loop.
        estimator: name of what estimated them, where it has one.
    """

    image: Tensor
    sigma: float
    sigmas: tuple[float, ...]
    converged: bool
    estimator: str = ""

    @property
    def iterations(self) -> int:
        return len(self.sigmas)

    def __str__(self) -> str:
        if self.converged:
            end, compared = "converged", "at most"
        else:
            end, compared = "stopped at the cap", "still above"
        return (
            f"{end} after {self.iterations} iteration{'s' if self.iterations > 1 else ''}: "
            f"noise {self.sigmas[-1]:.3g}, {compared} the {self.sigma:.3g} grey levels of the blurred image"
        )


def data_step(blurred: Tensor, previous: Tensor, kernel: Tensor, tau: float) -> Tensor:
    """argmin over x of ||y - k * x||^2 + tau ||x - z||^2, exact by FFT; `(B, C, H, W)`, not clamped.

    Args:
        blurred: y, float tensor `(B, C, H, W)`.
        previous: z, of the same shape.
        kernel: k, see `check_kernel`.
        tau: above 0. At most 1 / (2 sqrt(tau)) is the factor by which noise of y can grow.
    """
    if previous.shape != blurred.shape:
        raise ValueError(
            f"the blurred image has shape {tuple(blurred.shape)}, the previous {tuple(previous.shape)}; they must agree"
        )
    check_image(blurred, None, "data_step, blurred")
    check_image(previous, None, "data_step, previous")
    if not 0 < tau < math.inf:
        raise ValueError(f"tau is {tau:g}; expected a weight above 0, without which the kernel may have no inverse")
    check_kernel(kernel, blurred)
    transfer = transfer_function(kernel, blurred)
    right = transfer.conj() * torch.fft.rfft2(blurred.double()) + tau * torch.fft.rfft2(previous.double())
    spectrum = right / (transfer.abs().square() + tau)
    return torch.fft.irfft2(spectrum, s=blurred.shape[-2:]).to(blurred.dtype)


@torch.no_grad()
def deblur(
    blurred: Tensor,
    kernel: Tensor,
    denoiser: Denoiser,
    estimate_sigma: Estimator,
    *,
    weight: float = 0.23,
    amplification: float = 2.0,
    max_iterations: int = MAX_ITERATIONS,
    on_step: Callable[[Step], None] | None = None,
) -> Deblurred:
    """The image without blur and noise, by alternation of a data step and a denoiser (WINNet, Algorithm 1).

    With sigma_0 the estimated noise of the blurred image y, begin with z = y and sigma = 10 sigma_0, and until
    sigma <= sigma_0 repeat:

        x = argmin ||y - k * x||^2 + tau ||x - z||^2,  tau = weight sigma_0^2 / sigma^2
        sigma = the estimated noise of x
        z = x, denoised at the level `amplification` sigma

    Unlike the paper's, the loop has a cap, since it may settle at a level above sigma_0: where an estimator takes
    texture for noise, and with some kernels where the picture is small. And z is clamped to [0, 1] in each pass, as by
    every denoiser of this library.

    Args:
        blurred: y, one gray picture `(1, 1, H, W)`, nominal range [0, 1], not clipped.
        kernel: k, see `check_kernel`.
        denoiser: any; blind ones ignore the level, DnINN adapts its thresholds to it, WINNet takes it as an input.
        estimate_sigma: gives the noise level of an image `(1, 1, H, W)` in grey levels, as `NENet().estimate_sigma`.
        weight: lambda; the released code has 0.23.
        amplification: of the level that the denoiser is told, which never exceeds 255 (paper: 2).
        max_iterations: the cap. Whether it ended the loop is in the result (`converged`) and in its text.
        on_step: called after each pass; `steps.append` keeps all images, two of the size of the picture a pass.

    Raises:
        TypeError, ValueError: bad image, kernel or setting; several pictures or channels at once; an estimate that is
            not a finite number of grey levels. Errors of the estimator and of the denoiser pass through.
    """
    check_image(blurred, None, "deblur")
    if blurred.shape[:2] != (1, 1):
        raise ValueError(
            f"deblur: the image has shape {tuple(blurred.shape)}; expected one gray picture (1, 1, H, W): "
            "each has its own noise level and stop, so give pictures and channels one by one"
        )
    check_kernel(kernel, blurred)
    for name, value in (("weight", weight), ("amplification", amplification)):
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"deblur: {name} is {value:g}; expected a number above 0")
    if not max_iterations >= 1:
        raise ValueError(f"deblur: max_iterations is {max_iterations}; expected 1 or more")

    sigma_0 = _noise_level(estimate_sigma, blurred)
    ratio, denoised, sigmas = FIRST_RATIO, blurred, []
    while ratio > 1 and len(sigmas) < max_iterations:
        tau = weight / ratio**2
        solution = data_step(blurred, denoised, kernel, tau)
        sigmas.append(_noise_level(estimate_sigma, solution))
        denoised = denoiser.denoise(solution, min(amplification * sigmas[-1], SIGMA_MAX))
        ratio = sigmas[-1] / sigma_0
        if on_step:
            on_step(Step(len(sigmas), tau, sigmas[-1], solution, denoised))
    who = getattr(getattr(estimate_sigma, "__self__", None), "name", "")
    return Deblurred(denoised, sigma_0, tuple(sigmas), converged=ratio <= 1, estimator=who)


def _noise_level(estimate_sigma: Estimator, image: Tensor) -> float:
    """The estimate as a number of grey levels, `SMALLEST_SIGMA` at least."""
    sigma = float(estimate_sigma(image))
    if not math.isfinite(sigma) or sigma < 0:
        raise ValueError(f"the noise estimate of the image is {sigma:g}; expected a number of grey levels, 0 or more")
    return max(sigma, SMALLEST_SIGMA)


# --- Classical methods


def wiener(blurred: Tensor, kernel: Tensor, sigma: float, laplacian_std: float = LAPLACIAN_STD) -> Tensor:
    """The Wiener-Hunt filter of scikit-image on every plane: `(B, C, H, W)` in [0, 1].

    Its prior is a Laplacian that is white; the balance of data and prior is (sigma / laplacian_std)^2. It filters the
    discrete Fourier transform, so its blur is circular too.

    Args:
        blurred: float tensor `(B, C, H, W)`, 3x3 pixels or more.
        kernel: see `check_kernel`.
        sigma: noise level in grey levels, above 0 to 255.
        laplacian_std: standard deviation of the clean picture's Laplacian (4 at the centre, -1 at the four neighbours)
            in grey levels.
    """
    check_image(blurred, None, "wiener")
    check_kernel(kernel, blurred)
    sigma = check_sigma(sigma, needed=True, who="wiener")
    for name, value in (("sigma", sigma), ("laplacian_std", laplacian_std)):
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"wiener: {name} is {value:g}; expected grey levels above 0")
    if min(blurred.shape[-2:]) < 3:
        raise ValueError(f"wiener: the image has shape {tuple(blurred.shape)}; expected 3x3 pixels or more")
    # scikit-image takes a kernel of a certain shape for a spectrum. No kernel of the size of the image has that shape.
    impulse = torch.zeros(1, 1, *blurred.shape[-2:], dtype=torch.float64)
    impulse[..., impulse.shape[-2] // 2, impulse.shape[-1] // 2] = 1
    psf = blur(impulse, kernel.cpu())[0, 0].numpy()
    balance = (sigma / laplacian_std) ** 2
    return _plane_by_plane(blurred, lambda plane: restoration.wiener(plane, psf, balance, clip=False))


def richardson_lucy(blurred: Tensor, kernel: Tensor, num_iterations: int = NUM_ITERATIONS) -> Tensor:
    """Richardson-Lucy deconvolution by scikit-image on every plane: `(B, C, H, W)` in [0, 1].

    The image is continued periodically before and cropped after, so that the blur is circular nearly to the border. The
    method knows no noise level: the number of iterations holds noise down. It takes negative pixels as 0.

    Args:
        blurred: float tensor `(B, C, H, W)`.
        kernel: see `check_kernel`; no value may be negative.
        num_iterations: 1 or more.
    """
    check_image(blurred, None, "richardson_lucy")
    check_kernel(kernel, blurred)
    if (kernel < 0).any():
        raise ValueError(f"richardson_lucy: the smallest kernel value is {kernel.min():g}; expected 0 or more")
    if num_iterations < 1:
        raise ValueError(f"richardson_lucy: num_iterations is {num_iterations}; expected 1 or more")
    rows, columns = kernel.shape
    # SciPy's "same" convolution centres a kernel of even side one pixel earlier; a zero makes the side odd.
    psf = F.pad(kernel.cpu().double(), (0, 1 - columns % 2, 0, 1 - rows % 2)).numpy()
    margins = [(MARGIN * side, MARGIN * side) for side in psf.shape]

    def restore(plane: np.ndarray) -> np.ndarray:
        padded = np.pad(plane.clip(min=0), margins, mode="wrap")
        restored = restoration.richardson_lucy(padded, psf, num_iterations, clip=False)
        return restored[tuple(slice(before, -after) for before, after in margins)]

    return _plane_by_plane(blurred, restore)


def _plane_by_plane(image: Tensor, restore: Callable[[np.ndarray], np.ndarray]) -> Tensor:
    """`restore` applied to each plane `(H, W)` in float64, clamped to [0, 1]; shape, dtype and device of `image`."""
    planes = image.detach().cpu().double().reshape(-1, *image.shape[-2:]).numpy()
    restored = torch.from_numpy(np.stack([restore(plane) for plane in planes]))
    return restored.reshape(image.shape).clamp(0, 1).to(image)


# --- Measure


def deblurring_psnr(clean: Tensor, deblurred: Tensor, kernel: Tensor) -> float:
    """PSNR in dB as in WINNet's deblurring: twice the kernel's half side is cut from each border.

    Half sides are h // 2 rows and w // 2 columns. Otherwise as `metrics.psnr`, float64 and no rounding.

    Args:
        clean, deblurred: one image each, `(1, C, H, W)`, nominal range [0, 1].
        kernel: see `check_kernel`.

    Raises:
        ValueError: nothing is left of the image, or the shapes differ.
    """
    if clean.shape != deblurred.shape:
        raise ValueError(
            f"the clean image has shape {tuple(clean.shape)}, the deblurred {tuple(deblurred.shape)}; they must agree"
        )
    check_kernel(kernel, clean)
    (height, width), (rows, columns) = clean.shape[-2:], (2 * (side // 2) for side in kernel.shape)
    if height <= 2 * rows or width <= 2 * columns:
        raise ValueError(
            f"nothing is left of an image of {height}x{width} without {rows} rows and {columns} columns at each "
            "border; take a larger image"
        )
    inside = (..., slice(rows, height - rows), slice(columns, width - columns))
    return psnr(clean[inside], deblurred[inside])


# --- Estimators of the noise level


class WaveletEstimator:
    """Donoho's estimate, by scikit-image: the median magnitude of the finest diagonal wavelet coefficients, / 0.6745."""

    name, display_name = "wavelet", "wavelet median"

    def estimate_sigma(self, image: Tensor) -> Tensor:
        """The noise level of each image `(B, 1, H, W)` in grey levels, `(B,)`, float32."""
        check_image(image, 1, self.name)
        planes = image.detach().cpu().double()[:, 0].numpy()
        return torch.tensor([255 * restoration.estimate_sigma(plane) for plane in planes], dtype=torch.float32)


def estimator_names() -> list[str]:
    """Names that `load_estimator` knows: networks that estimate and do not denoise, then the wavelet estimator."""
    denoisers = methods.networks_with("denoise")
    return [*(n for n in methods.networks_with("estimate_sigma") if n not in denoisers), WaveletEstimator.name]


def load_estimator(name: str = "", budget: str | None = None) -> Any:
    """The noise estimator of that name; of none, the first of `estimator_names` that is to be had.

    It has a `name`, and `estimate_sigma(image)` gives the noise level of each image `(B, 1, H, W)` in grey levels, `(B,)`.

    Args:
        name: one of `estimator_names`, or empty.
        budget: take our weights of the local run of this budget; None takes the released ones.

    Raises:
        ValueError: no such name.
        FileNotFoundError, DataUnavailable: the weights that are asked for are not there.
    """
    known = estimator_names()
    if name and name not in known:
        raise ValueError(f"no noise estimator {name!r}; known: {', '.join(known)}")
    for candidate in [name] if name else known:
        if candidate == WaveletEstimator.name:
            return WaveletEstimator()
        try:
            return methods.load_network(candidate, budget)
        except (FileNotFoundError, DataUnavailable):
            if name:
                raise
    raise AssertionError("the wavelet estimator is always there")


# --- The task


class Restorer:
    """A classical method of deblurring: `restore(blurred, kernel)`, both as `deblur` takes them."""

    card = {"budget": "none", "sha256": ""}

    def __init__(self, name: str, restore: Callable[[Tensor, Tensor], Tensor]):
        self.name, self.restore = name, restore


RESTORERS = {
    "wiener": Restorer("wiener", partial(wiener, sigma=SIGMA)),  # which is told the true noise level
    "richardson-lucy": Restorer("richardson-lucy", richardson_lucy),
}


class Deblur(Task):
    """Remove a known blur and noise of `SIGMA`, which denoisers are not told.

    Protocol: `degrade` with the noise of (seed, set, picture, `SIGMA`), the same for every kernel and method; `deblurring_psnr`
    before (`psnr_blurred`) and after. A denoiser is used by `deblur` with its defaults; `sigma_estimated` is the estimate of the
    blurred picture, `sigma_last` that of the last data step, and `capped` says whether the cap on iterations ended the loop. These,
    `iterations` and `estimator` are empty for methods in `RESTORERS`.

    Args:
        max_iterations: the cap.
        estimator: see `load_estimator`; of an empty name, the denoiser's own where it has one.
    """

    keys = ("kernel",)
    metrics = (PSNR,)
    columns = (
        "psnr_blurred", "kernels", "kernel_side", "sigma", "estimator", "sigma_estimated", "sigma_last", "iterations", "capped",
        "max_iterations",
    )  # fmt: skip

    def __init__(self, max_iterations: int = MAX_ITERATIONS, estimator: str = ""):
        self.max_iterations, self.estimator = max_iterations, estimator
        self._judges: dict[str, Any] = {}  # by denoiser: what estimates its noise level

    @cached_property
    def _kernels(self) -> tuple[str, list[Tensor]]:
        return load_kernels()

    def load(self, name: str, budget: str | None = None, precision: str = "float32") -> Restorer | Denoiser:
        if name in RESTORERS:
            if self.estimator:
                raise ValueError(f"{name} uses no noise estimate; leave estimator empty")
            return RESTORERS[name]
        try:
            denoiser = super().load(name, budget, precision)
        except ValueError as error:
            raise ValueError(f"{error} Methods that need no denoiser: {', '.join(RESTORERS)}") from None
        self._judge(denoiser, budget)
        return denoiser

    def networks(self, method: str) -> list[str]:
        """The noise estimators, for a denoiser that has none of its own."""
        if self.estimator:
            return [self.estimator]
        known = estimator_names()
        own = [part for part in methods.parts_of(method)[1:] if part in known]
        return [] if own or method in RESTORERS else known

    def _judge(self, denoiser: Denoiser, budget: str | None = None) -> Any:
        """What estimates the noise level for a denoiser; loaded once."""
        if denoiser.name not in self._judges:
            own = getattr(denoiser, "estimator", None)
            judge = own if own is not None and not self.estimator else load_estimator(self.estimator, budget)
            self._judges[denoiser.name] = judge
        return self._judges[denoiser.name]

    def check(
        self, method: Restorer | Denoiser, conditions: Mapping[str, Sequence[Any]], options: Mapping[str, Any]
    ) -> None:
        if getattr(method, "sigma", None) is not None and not method.adapts:
            raise ValueError(f"{method.name} removes the noise of one level, whatever is left; take a blind network")

    def cases(self, pictures: PictureSet, seed: int, kernel: int) -> Iterator[Case]:
        """A case a picture; `kernel` is a number from 1, of `load_kernels`."""
        _, kernels = self._kernels
        if kernel not in range(1, len(kernels) + 1):
            raise ValueError(f"no kernel {kernel}; there are 1 to {len(kernels)}")
        blurring = kernels[kernel - 1]
        for picture in pictures:
            clean = picture.tensor()
            blurred = degrade(clean, blurring, SIGMA, noise_generator(seed, pictures.name, picture.name, SIGMA))
            given = {"blurred": blurred, "kernel": blurring}
            yield Case(picture.name, {"kernel": kernel}, given, clean, clean[0, 0].numel() / 1e6)

    def run(self, method: Restorer | Denoiser, case: Case, **options: Any) -> Deblurred | Tensor:
        device = device_of(method)[0]
        blurred, kernel = (case.given[key].to(device) for key in ("blurred", "kernel"))
        if isinstance(method, Restorer):
            return method.restore(blurred, kernel)
        estimate_sigma = self._judge(method).estimate_sigma
        return deblur(blurred, kernel, method, estimate_sigma, max_iterations=self.max_iterations, **options)

    def score(self, outputs: Deblurred | Tensor, case: Case) -> dict[str, Any]:
        clean, blurred, kernel = case.truth, case.given["blurred"], case.given["kernel"]
        looped = isinstance(outputs, Deblurred)
        image = (outputs.image if looped else outputs).cpu()
        row = {
            "psnr": deblurring_psnr(clean, image, kernel), "psnr_blurred": deblurring_psnr(clean, blurred, kernel),
            "kernels": self._kernels[0], "kernel_side": max(kernel.shape), "sigma": SIGMA,
        }  # fmt: skip
        if looped:
            row |= {
                "estimator": outputs.estimator, "sigma_estimated": outputs.sigma, "sigma_last": outputs.sigmas[-1],
                "iterations": outputs.iterations, "capped": not outputs.converged, "max_iterations": self.max_iterations,
            }  # fmt: skip
        return row

    def warm_up(self, method: Restorer | Denoiser, case: Case, **options: Any) -> None:
        if isinstance(method, Denoiser):
            self._judge(method)
            method.denoise(case.truth[..., :64, :64].to(device_of(method)[0]), SIGMA)
