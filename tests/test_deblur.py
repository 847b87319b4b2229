"""Deblurring: blur and data step against dense references, the loop of Algorithm 1, gains, classical methods, scores."""

import numpy as np
import pandas as pd
import pytest
import scipy.ndimage
import torch
from skimage.restoration import estimate_sigma

from invdenoise import methods
from invdenoise.data.fetch import DataUnavailable, fetch
from invdenoise.data.noise import awgn, noise_generator
from invdenoise.data.pictures import embedded
from invdenoise.methods import load_denoiser
from invdenoise.models.base import Denoiser
from invdenoise.models.dncnn import DnCNN
from invdenoise.models.nenet import NENet
from invdenoise.models.winnet import WINNet
from invdenoise.tasks import deblur as deblurring
from invdenoise.tasks.base import ABOUT, PROVENANCE, evaluate, make_task, read_scores, write_scores
from invdenoise.tasks.deblur import (
    SIGMA,
    WaveletEstimator,
    blur,
    data_step,
    deblur,
    deblurring_psnr,
    degrade,
    levin_kernels,
    load_estimator,
    load_kernels,
    richardson_lucy,
    stand_in_kernels,
    wiener,
)
from invdenoise.tasks.metrics import psnr

# A warning of a library would end up in the notebooks.
pytestmark = pytest.mark.filterwarnings("error")

IDENTITY = torch.ones(1, 1)


def random_kernel(rows, columns, seed=0):
    kernel = torch.rand(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return kernel / kernel.sum()


def random_image(*shape, seed=1, dtype=torch.float64):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def generator():
    return noise_generator(0, "embedded", "picture", SIGMA)


def wavelet_estimate(image):
    """Donoho's estimate from the finest wavelet coefficients, in grey levels."""
    return 255 * estimate_sigma(image[0, 0].double().numpy())


class Recorder(Denoiser):
    """Halves the contrast, and notes what it was given."""

    def __init__(self):
        self.seen = []

    def estimate(self, noisy, sigma):
        self.seen.append((noisy, sigma))
        return 0.5 * noisy + 0.25


@pytest.fixture(scope="module")
def levin():
    try:
        return levin_kernels()
    except DataUnavailable as error:
        pytest.skip(f"data not available: {error}")


@pytest.fixture(scope="module")
def shake():
    """The bent streak of a hand that moves and slows down, 15x15 and without symmetry."""
    time = torch.linspace(0, 1, 200, dtype=torch.float64)
    rows, columns = (1 + 12 * time).round().long(), (1 + 12 * time**2).round().long()
    kernel = torch.zeros(15, 15, dtype=torch.float64).index_put((rows, columns), 1 + time, accumulate=True)
    return kernel / kernel.sum()


@pytest.fixture(scope="module")
def clean():
    """The head of the cameraman, `(1, 1, 96, 96)`."""
    return embedded("test").pictures[0].tensor()[..., :96, 40:136]


@pytest.fixture(scope="module")
def blurred(clean, shake):
    return degrade(clean, shake, SIGMA, generator())


# --- Kernels, blur, noise


def test_levin_kernels(levin):
    assert [tuple(kernel.shape) for kernel in levin] == [(side, side) for side in (19, 17, 15, 27, 13, 21, 23, 23)]
    for kernel in levin:
        assert kernel.dtype == torch.float64 and kernel.min() >= 0
        assert kernel.sum().item() == pytest.approx(1, abs=1e-12)


def test_levin_kernels_stand_upright(levin):
    # The second file of the dataset holds the same arrays in NumPy's order.
    try:
        converted = np.load(fetch("kernels", "kernels/levin09.npz"))
    except DataUnavailable as error:
        pytest.skip(f"data not available: {error}")
    for i, kernel in enumerate(levin):
        np.testing.assert_array_equal(kernel, converted[f"k{i}"])
    assert not torch.equal(levin[0], levin[0].T)


@pytest.mark.parametrize("size", [(3, 3), (5, 3), (4, 6), (2, 1), (9, 12)])
@pytest.mark.parametrize("shape", [(9, 12), (10, 13)])
def test_blur_is_scipys_circular_convolution(size, shape):
    image, kernel = random_image(2, 3, *shape), random_kernel(*size)
    expected = scipy.ndimage.convolve(image.numpy(), kernel.numpy()[None, None], mode="wrap")
    torch.testing.assert_close(blur(image, kernel), torch.from_numpy(expected), rtol=0, atol=1e-12)


def test_blur_keeps_the_dtype_and_computes_in_float64():
    image, kernel = random_image(1, 1, 20, 31, dtype=torch.float32), random_kernel(5, 5).float()
    assert torch.equal(blur(image, kernel), blur(image.double(), kernel.double()).float())


def test_degrade_is_blur_then_the_noise_of_awgn():
    image, kernel = random_image(1, 1, 40, 30, dtype=torch.float32), random_kernel(3, 5)
    observed = degrade(image, kernel, SIGMA, generator())
    assert torch.equal(observed, awgn(blur(image, kernel), SIGMA, generator()))
    assert (observed - blur(image, kernel)).std().item() * 255 == pytest.approx(SIGMA, rel=0.06)  # 3 standard errors
    assert torch.equal(observed, degrade(image, kernel, SIGMA, generator()))


# --- The data step


@pytest.mark.parametrize("size", [(3, 3), (2, 4), (5, 1)])
@pytest.mark.parametrize("tau", [0.0023, 0.23])
def test_data_step_is_the_least_squares_solution(size, tau):
    shape, kernel = (6, 5), random_kernel(*size)
    y, z = random_image(1, 1, *shape), random_image(1, 1, *shape, seed=2)
    columns = [scipy.ndimage.convolve(unit.reshape(shape), kernel.numpy(), mode="wrap").ravel() for unit in np.eye(30)]
    system = np.vstack([np.stack(columns, axis=1), np.sqrt(tau) * np.eye(30)])
    right = np.concatenate([y.numpy().ravel(), np.sqrt(tau) * z.numpy().ravel()])
    expected = np.linalg.lstsq(system, right, rcond=None)[0].reshape(1, 1, *shape)
    np.testing.assert_allclose(data_step(y, z, kernel, tau), expected, rtol=0, atol=1e-10)


def test_noise_grows_in_the_data_step_by_its_bound_at_most():
    noise, zero, kernel = (
        torch.randn(1, 1, 64, 64, generator=generator()),
        torch.zeros(1, 1, 64, 64),
        random_kernel(9, 9),
    )
    for tau in (0.0023, 0.23):
        growth = data_step(noise, zero, kernel, tau).norm() / noise.norm()
        assert 0.1 < growth * 2 * tau**0.5 <= 1


def test_data_step_refuses_what_it_cannot_solve():
    image = random_image(1, 1, 6, 5)
    for tau in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="tau is"):
            data_step(image, image, IDENTITY, tau)
    with pytest.raises(ValueError, match=r"shape \(1, 1, 6, 5\), the previous \(1, 1, 5, 6\)"):
        data_step(image, image.mT, IDENTITY, 1)


# --- Algorithm 1


def test_deblur_takes_the_steps_of_algorithm_1():
    y, kernel = random_image(1, 1, 16, 12), random_kernel(3, 5)
    levels = [3.0, 12.0, 7.0, 3.0]  # of y, then of each data step; the last is not above the first
    answers, denoiser, steps = iter(levels), Recorder(), []
    result = deblur(y, kernel, denoiser, lambda image: next(answers), on_step=steps.append)

    assert result.converged and result.iterations == 3
    assert (result.sigma, list(result.sigmas)) == (levels[0], levels[1:])
    assert [sigma for _, sigma in denoiser.seen] == [24, 14, 6]
    assert [step.tau for step in steps] == pytest.approx([0.23 / 100, 0.23 * 9 / 144, 0.23 * 9 / 49])
    z = y
    for number, step in enumerate(steps, start=1):
        x = data_step(y, z, kernel, step.tau)
        z = (0.5 * x + 0.25).clamp(0, 1)
        assert step.number == number
        assert torch.equal(step.solution, x) and torch.equal(step.denoised, z)
    assert torch.equal(result.image, z)


def test_denoiser_is_told_255_grey_levels_at_most():
    answers, denoiser = iter([20.0, 200.0, 1.0]), Recorder()
    deblur(random_image(1, 1, 8, 8), IDENTITY, denoiser, lambda image: next(answers))
    assert [sigma for _, sigma in denoiser.seen] == [255, 2]


def test_cap_is_reported():
    answers = iter([2.5, *[3.0] * 9])
    capped = deblur(random_image(1, 1, 8, 8), IDENTITY, Recorder(), lambda image: next(answers), max_iterations=4)
    assert not capped.converged and capped.iterations == 4
    assert str(capped) == (
        "stopped at the cap after 4 iterations: noise 3, still above the 2.5 grey levels of the blurred image"
    )
    # The cap and convergence may fall together.
    answers = iter([2.5, 2.0])
    done = deblur(random_image(1, 1, 8, 8), IDENTITY, Recorder(), lambda image: next(answers), max_iterations=1)
    assert done.converged
    assert str(done) == "converged after 1 iteration: noise 2, at most the 2.5 grey levels of the blurred image"


def test_identity_kernel_without_noise_gives_the_image_back(clean):
    result = deblur(clean, IDENTITY, load_denoiser("wavelet-bayes"), lambda image: 0.0)
    assert result.converged and result.iterations == 1
    torch.testing.assert_close(result.image, clean, rtol=0, atol=1e-4)  # a fortieth of a grey level


def test_flat_image_gives_itself_back():
    flat = torch.full((1, 1, 24, 32), 0.5)
    result = deblur(flat, random_kernel(5, 5), load_denoiser("wavelet-bayes"), wavelet_estimate)
    assert result.converged
    torch.testing.assert_close(result.image, flat, rtol=0, atol=1e-5)


# Over three draws of the noise the two gain 6.4 and 5.7 dB at least; Wiener gains 5.5 dB, Richardson-Lucy 4.8 dB.
@pytest.mark.parametrize(("name", "gain"), [("wavelet-bayes", 6.1), ("nlm", 5.4)])
def test_gain_over_the_blurred_image(name, gain, clean, shake, blurred):
    result = deblur(blurred, shake, load_denoiser(name), wavelet_estimate)
    assert result.converged and 5 <= result.iterations <= 25
    assert deblurring_psnr(clean, result.image, shake) - deblurring_psnr(clean, blurred, shake) > gain


def test_deblur_repeats_bit_for_bit(shake, blurred):
    first, second = (deblur(blurred, shake, load_denoiser("nlm"), wavelet_estimate) for _ in range(2))
    assert torch.equal(first.image, second.image) and first.sigmas == second.sigmas


def test_dninn_adapts_to_the_level_of_each_step(clean, shake, blurred):
    told = []
    dninn = load_denoiser("dninn-st-s25")
    estimate = dninn.estimate
    dninn.estimate = lambda noisy, sigma: told.append(sigma) or estimate(noisy, sigma)
    result = deblur(blurred, shake, dninn, wavelet_estimate, max_iterations=4)
    assert told == [2 * sigma for sigma in result.sigmas]
    assert deblurring_psnr(clean, result.image, shake) - deblurring_psnr(clean, blurred, shake) > 4


def test_blind_winnet_with_its_estimator(blurred, shake, randomised):
    # Neither is trained: this checks that they fit together, and what images they take.
    winnet = randomised(WINNet(num_pairs=1, num_blocks=1, num_features=4, num_atoms=15, sigma=None))
    nenet = NENet()
    result = deblur(blurred[..., :31, :22], shake, winnet, nenet.estimate_sigma, max_iterations=2)
    assert result.image.shape == (1, 1, 31, 22) and result.image.isfinite().all()
    assert result.sigma == nenet.estimate_sigma(blurred[..., :31, :22]).item()
    with pytest.raises(ValueError, match="7x9.*noise estimate needs 64"):
        deblur(blurred[..., :7, :9], random_kernel(3, 3), winnet, nenet.estimate_sigma)


@pytest.mark.parametrize("shape", [(2, 1, 16, 16), (1, 3, 16, 16)])
def test_deblur_refuses_several_planes(shape):
    with pytest.raises(ValueError, match="one by one"):
        deblur(random_image(*shape), IDENTITY, Recorder(), wavelet_estimate)


@pytest.mark.parametrize("setting", [{"weight": 0}, {"amplification": float("nan")}, {"max_iterations": 0}])
def test_deblur_refuses_bad_settings(setting):
    with pytest.raises(ValueError, match=f"{next(iter(setting))} is"):
        deblur(random_image(1, 1, 16, 16), IDENTITY, Recorder(), wavelet_estimate, **setting)


@pytest.mark.parametrize("estimate", [float("nan"), float("inf"), -1.0])
def test_deblur_refuses_a_bad_estimate(estimate):
    with pytest.raises(ValueError, match=f"the noise estimate of the image is {estimate:g}"):
        deblur(random_image(1, 1, 16, 16), IDENTITY, Recorder(), lambda image: estimate)


# --- Classical methods


@pytest.mark.parametrize("size", [(3, 3), (4, 2), (13, 13)])
def test_wiener_inverts_a_circular_blur(size):
    # The spectrum of a 13x24 image has the shape of the last kernel, which scikit-image then takes for a spectrum.
    image, kernel = random_image(1, 1, 13, 24), 0.2 * random_kernel(*size)
    kernel[size[0] // 2, size[1] // 2] += 0.8  # its transfer function is 0.6 at least
    torch.testing.assert_close(wiener(blur(image, kernel), kernel, 1e-3), image, rtol=0, atol=1e-6)


def test_wiener_minimises_its_criterion():
    # ||y - k * x||^2 + balance ||Laplacian of x||^2, solved densely.
    shape, kernel, sigma, std = (5, 6), random_kernel(3, 2), 8.0, 20.0
    y = 0.4 + 0.2 * random_image(1, 1, *shape)  # the solution stays within [0, 1]
    laplacian = np.array([[0, -1, 0], [-1, 4, -1], [0, -1, 0]])
    units = [unit.reshape(shape) for unit in np.eye(30)]
    rows = [
        np.stack([scipy.ndimage.convolve(unit, weights, mode="wrap").ravel() for unit in units], axis=1)
        for weights in (kernel.numpy(), sigma / std * laplacian)
    ]
    right = np.concatenate([y.numpy().ravel(), np.zeros(30)])
    expected = np.linalg.lstsq(np.vstack(rows), right, rcond=None)[0].reshape(1, 1, *shape)
    np.testing.assert_allclose(wiener(y, kernel, sigma, std), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("size", [(9, 7), (6, 8)])
def test_richardson_lucy_is_circular(size, blurred):
    y, kernel = blurred[..., :40, :50].double(), random_kernel(*size)
    estimate = torch.full_like(y, 0.5)
    mirrored = torch.flip(torch.nn.functional.pad(kernel, (0, 1 - size[1] % 2, 0, 1 - size[0] % 2)), (0, 1))
    for _ in range(10):
        estimate = estimate * blur(y.clamp(min=0) / blur(estimate, kernel), mirrored)
    torch.testing.assert_close(richardson_lucy(y, kernel, 10), estimate.clamp(0, 1), rtol=0, atol=1e-4)


def test_classical_methods_gain(clean, shake, blurred):
    before = deblurring_psnr(clean, blurred, shake)
    assert deblurring_psnr(clean, wiener(blurred, shake, SIGMA), shake) > before + 5.2
    assert deblurring_psnr(clean, richardson_lucy(blurred, shake), shake) > before + 4.5


def test_classical_methods_treat_each_plane_on_its_own(blurred, shake):
    planes = torch.stack([blurred[0, :, :30, :40], blurred[0, :, 20:50, 50:90]], dim=1).repeat(2, 1, 1, 1)
    for method in (lambda y: wiener(y, shake, SIGMA), lambda y: richardson_lucy(y, shake, 3)):
        restored = method(planes)
        assert restored.shape == planes.shape and restored.dtype == torch.float32
        assert 0 <= restored.min() and restored.max() <= 1
        assert torch.equal(restored[1:, 1:], method(planes[:1, 1:]))


def test_laplacian_std_is_that_of_the_training_pictures():
    squares = []
    for picture in embedded("train"):
        pixels = picture.pixels.astype(float)
        centre, laplacian = pixels[1:-1, 1:-1], 0
        for neighbour in (pixels[:-2, 1:-1], pixels[2:, 1:-1], pixels[1:-1, :-2], pixels[1:-1, 2:]):
            laplacian = laplacian + centre - neighbour
        squares.append(np.mean(laplacian**2))
    assert round(np.sqrt(np.mean(squares)), -1) == deblurring.LAPLACIAN_STD


def test_settings_of_the_classical_methods_are_near_the_best(levin):
    def mean(method, kernel, pictures):
        found = []
        for picture in pictures:
            clean = picture.tensor()
            y = degrade(clean, kernel, SIGMA, noise_generator(0, "embedded-train", picture.name, SIGMA))
            found.append(deblurring_psnr(clean, method(y), kernel))
        return np.mean(found)

    where = levin[0], embedded("train").pictures
    default = mean(lambda y: wiener(y, levin[0], SIGMA), *where)
    for factor in (0.5, 2):
        assert default > mean(lambda y, f=factor: wiener(y, levin[0], SIGMA, f * deblurring.LAPLACIAN_STD), *where)
    where = levin[4], embedded("train").pictures[:1]
    default = mean(lambda y: richardson_lucy(y, levin[4]), *where)
    for num_iterations in (12, 75):
        assert default > mean(lambda y, n=num_iterations: richardson_lucy(y, levin[4], n), *where)


@pytest.mark.parametrize(("setting", "value"), [("sigma", 0), ("sigma", -1), ("laplacian_std", 0)])
def test_wiener_refuses_bad_settings(setting, value):
    with pytest.raises(ValueError, match=f"wiener: {setting} is {value}"):
        wiener(random_image(1, 1, 8, 8), IDENTITY, **({"sigma": SIGMA} | {setting: value}))


def test_classical_methods_refuse_what_they_cannot_take():
    with pytest.raises(ValueError, match="3x3 pixels or more"):
        wiener(random_image(1, 1, 2, 9), IDENTITY, SIGMA)
    with pytest.raises(ValueError, match="num_iterations is 0"):
        richardson_lucy(random_image(1, 1, 8, 8), IDENTITY, 0)
    with pytest.raises(ValueError, match="smallest kernel value is -0.5"):
        richardson_lucy(random_image(1, 1, 8, 8), torch.tensor([[1.5, -0.5]]))


# --- Measure


def test_psnr_cuts_twice_the_half_side_of_the_kernel():
    clean, kernel = random_image(1, 1, 20, 16), random_kernel(5, 3)  # 4 rows and 2 columns are cut
    wrong = clean + 1
    wrong[..., 4:16, 2:14] = clean[..., 4:16, 2:14]
    assert deblurring_psnr(clean, wrong, kernel) == float("inf")
    for place in ((4, 2), (15, 13)):
        altered = clean.clone()
        altered[0, 0, place[0], place[1]] += 0.1
        assert deblurring_psnr(clean, altered, kernel) == pytest.approx(10 * np.log10(12 * 12 / 0.01))
    assert deblurring_psnr(clean, wrong, IDENTITY) == psnr(clean, wrong)


def test_psnr_refuses_other_shapes_and_small_images():
    with pytest.raises(ValueError, match=r"\(1, 1, 20, 16\), the deblurred \(1, 1, 20, 18\)"):
        deblurring_psnr(torch.zeros(1, 1, 20, 16), torch.zeros(1, 1, 20, 18), IDENTITY)
    with pytest.raises(ValueError, match="nothing is left of an image of 8x20 without 4 rows and 4 columns"):
        deblurring_psnr(torch.zeros(1, 1, 8, 20), torch.zeros(1, 1, 8, 20), random_kernel(5, 5))


# --- Images and kernels that none of them takes

USES = {
    "blur": lambda image, kernel: blur(image, kernel),
    "degrade": lambda image, kernel: degrade(image, kernel, SIGMA, generator()),
    "data_step": lambda image, kernel: data_step(image, image, kernel, 1),
    "deblur": lambda image, kernel: deblur(image, kernel, Recorder(), wavelet_estimate),
    "wiener": lambda image, kernel: wiener(image, kernel, SIGMA),
    "richardson_lucy": lambda image, kernel: richardson_lucy(image, kernel),
    "deblurring_psnr": lambda image, kernel: deblurring_psnr(image, image, kernel),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize(
    ("kernel", "error", "message"),
    [
        (torch.ones(1, 1, 1), ValueError, r"shape \(1, 1, 1\); expected \(h, w\)"),
        (torch.ones(0, 3), ValueError, r"shape \(0, 3\)"),
        (torch.ones(1, 1, dtype=torch.int64), TypeError, "torch.int64"),
        (np.ones((1, 1)), TypeError, "ndarray"),
        (torch.tensor([[1, float("nan")]]), ValueError, "1 of 2 kernel values are NaN"),
        (torch.tensor([[-1.0]]), ValueError, "sums to -1; expected 1"),
        (torch.full((3, 3), 255.0), ValueError, "sums to 2295; .*divide it by its sum"),
        (torch.full((17, 5), 1 / 85), ValueError, "17x5, larger than the image of 16x20"),
        (torch.full((5, 21), 1 / 105), ValueError, "5x21, larger than the image of 16x20"),
    ],
)
def test_bad_kernels_are_refused(use, kernel, error, message):
    with pytest.raises(error, match=message):
        USES[use](random_image(1, 1, 16, 20), kernel)


@pytest.mark.parametrize("use", ["blur", "degrade", "data_step", "deblur", "wiener", "richardson_lucy"])
def test_bad_images_are_refused(use):
    with pytest.raises(TypeError, match="torch.uint8"):
        USES[use](torch.zeros(1, 1, 16, 16, dtype=torch.uint8), IDENTITY)
    with pytest.raises(ValueError, match=r"shape \(16, 16\)"):
        USES[use](torch.zeros(16, 16), IDENTITY)
    broken = torch.zeros(1, 1, 16, 16)
    broken[0, 0, 3, 4] = float("nan")
    with pytest.raises(ValueError, match="1 of 256 pixels are NaN"):
        USES[use](broken, IDENTITY)


# --- Stand-in kernels and estimators


def unavailable(*_):
    raise DataUnavailable("no network")


def test_stand_in_kernels_are_kernels(clean):
    kernels = stand_in_kernels()
    assert [tuple(kernel.shape) for kernel in kernels] == [(side, side) for side in deblurring.SIDES]
    for kernel, again in zip(kernels, stand_in_kernels(), strict=True):
        deblurring.check_kernel(kernel, clean)
        assert torch.equal(kernel, again) and kernel.dtype == torch.float64
        assert kernel.min() >= 0 and kernel.sum().item() == pytest.approx(1, abs=1e-12)
        assert 5 <= (kernel > 0).sum() < kernel.numel() / 2  # a trace: neither a dot nor a blot
        # It uses its square: most of one side, and a good part of the other.
        extents = sorted(int((kernel.sum(axis) > 0).sum()) / len(kernel) for axis in (0, 1))
        assert extents[0] > 0.4 and extents[1] > 0.8
        assert deblurring_psnr(clean, blur(clean, kernel), kernel) < 30


def test_stand_ins_have_the_sides_of_the_real_kernels(levin):
    assert deblurring.SIDES == tuple(kernel.shape[0] for kernel in levin)
    name, kernels = load_kernels()
    assert name == deblurring.KERNELS and all(torch.equal(*pair) for pair in zip(kernels, levin, strict=True))


def test_kernels_stand_in_aloud_where_the_real_ones_are_missing(monkeypatch):
    monkeypatch.setattr(deblurring, "fetch", unavailable)
    with pytest.warns(UserWarning, match="kernels made by a formula stand in .* no network"):
        name, kernels = load_kernels()
    assert name == deblurring.STAND_IN and len(kernels) == 8


def test_wavelet_estimator_takes_each_image_on_its_own():
    images = torch.cat([awgn(torch.full((1, 1, 64, 48), 0.5), sigma, generator()) for sigma in (5, 40)])
    found = WaveletEstimator().estimate_sigma(images)
    assert found.dtype == torch.float32
    assert found.tolist() == pytest.approx([wavelet_estimate(image[None]) for image in images])
    assert found.tolist() == pytest.approx([5, 40], rel=0.1)
    with pytest.raises(ValueError, match="3 channels"):
        WaveletEstimator().estimate_sigma(torch.zeros(1, 3, 16, 16))


def test_estimator_falls_back_to_the_one_that_is_always_there(monkeypatch):
    asked = []

    def missing(name, budget):
        asked.append((name, budget))
        raise FileNotFoundError(f"no weights for {name}")

    monkeypatch.setattr(methods, "load_network", missing)
    assert isinstance(load_estimator("", "smoke"), WaveletEstimator)
    assert asked == [("nenet", "smoke"), ("nenet-authors", "smoke")]
    with pytest.raises(FileNotFoundError, match="no weights for nenet"):
        load_estimator("nenet")
    with pytest.raises(ValueError, match="no noise estimator 'nanet'; known: nenet, nenet-authors, wavelet"):
        load_estimator("nanet")


# --- Scores


class Half(Recorder):
    name = "half"


class Told:
    """An estimator whose answers are given, the last one for ever."""

    def __init__(self, *levels, name="told"):
        self.levels, self.name = list(levels), name

    def estimate_sigma(self, image):
        return self.levels.pop(0) if len(self.levels) > 1 else self.levels[0]


@pytest.fixture
def stand_in(monkeypatch):
    """The kernels that need no data."""
    kernels = stand_in_kernels()
    monkeypatch.setattr(deblurring, "load_kernels", lambda: (deblurring.STAND_IN, kernels))
    return kernels


def scores_of(method, kernels, settings=None, **options):
    """Scores on the embedded pictures, of a method or of the one of that name."""
    task = make_task("deblur.Deblur", settings)
    method = task.load(method) if isinstance(method, str) else method
    return evaluate(task, method, "embedded", {"kernel": kernels}, **options)


def half_with(*levels):
    """A denoiser with an estimator of its own."""
    denoiser = Half()
    denoiser.estimator = Told(*levels)
    return denoiser


def test_scores_of_a_classical_method(stand_in):
    lines = []
    scores = scores_of("wiener", [5, 3], seed=7, limit=2, report=lines.append)
    assert list(scores.columns) == [
        *ABOUT, "kernel", "psnr", "psnr_blurred", "kernels", "kernel_side", "sigma", "estimator", "sigma_estimated",
        "sigma_last", "iterations", "capped", "max_iterations", *PROVENANCE,
    ]  # fmt: skip
    assert list(zip(scores["kernel"], scores["kernel_side"], strict=True)) == [(5, 13), (5, 13), (3, 15), (3, 15)]
    for row in scores.to_dict("records"):
        picture = next(one for one in embedded("test") if one.name == row["image"])
        clean, kernel = picture.tensor(), stand_in[row["kernel"] - 1]
        y = degrade(clean, kernel, SIGMA, noise_generator(7, "embedded", picture.name, SIGMA))
        assert row["psnr_blurred"] == deblurring_psnr(clean, y, kernel)
        assert row["psnr"] == deblurring_psnr(clean, wiener(y, kernel, SIGMA), kernel)
        assert (row["method"], row["kernels"], row["seed"], row["sigma"]) == ("wiener", "stand-in", 7, SIGMA)
        assert (row["budget"], row["num_parameters"], row["device"][:5]) == ("none", 0, "cpu, ")
    loop = ["estimator", "iterations", "capped", "max_iterations", "sigma_estimated", "sigma_last"]
    assert scores[loop].isna().all(axis=None)
    first = scores[scores["kernel"] == 5].mean(numeric_only=True)
    assert lines[0] == f"wiener on embedded, kernel 5: psnr {first['psnr']:.2f} dB"
    again = scores_of("richardson-lucy", [5], seed=7, limit=1)
    clean = embedded("test").pictures[0].tensor()
    y = degrade(clean, stand_in[4], SIGMA, noise_generator(7, "embedded", embedded("test").pictures[0].name, SIGMA))
    assert again["psnr"].item() == deblurring_psnr(clean, richardson_lucy(y, stand_in[4]), stand_in[4])


def test_scores_of_a_denoiser_say_how_the_loop_ended(stand_in):
    denoiser = half_with(3.0, 9.0, 2.0, 3.0, 9.0, 9.0)  # the first picture converges, the second does not
    scores = scores_of(denoiser, [1], {"max_iterations": 2}, limit=2)
    assert scores["iterations"].tolist() == [2, 2] and scores["capped"].tolist() == [False, True]
    assert scores["sigma_estimated"].tolist() == [3, 3] and scores["sigma_last"].tolist() == [2, 9]
    assert set(scores["estimator"]) == {"told"} and set(scores["max_iterations"]) == {2}
    assert [sigma for _, sigma in denoiser.seen[1:]] == [18, 4, 18, 18]  # the first call warms up
    steps = iter([3.0, 9.0, 2.0])
    picture = embedded("test").pictures[0]
    y = degrade(picture.tensor(), stand_in[0], SIGMA, noise_generator(0, "embedded", picture.name, SIGMA))
    alone = deblur(y, stand_in[0], Half(), lambda image: next(steps), max_iterations=2)
    assert scores["psnr"].iloc[0] == deblurring_psnr(picture.tensor(), alone.image, stand_in[0])


def test_a_blind_network_is_judged_by_its_own_estimator(stand_in, monkeypatch):
    asked = []

    def load_estimator(name, budget):
        asked.append(name)
        return Told(2.0, name=name or "any")

    monkeypatch.setattr(deblurring, "load_estimator", load_estimator)
    own = half_with(2.0)
    assert scores_of(own, [1], limit=1)["estimator"].item() == "told" and not asked
    assert scores_of(own, [1], {"estimator": "other"}, limit=1)["estimator"].item() == "other"
    assert scores_of(Half(), [1, 2], limit=1)["estimator"].tolist() == ["any", "any"]
    assert asked == ["other", ""]  # once a task


def test_a_denoiser_is_loaded_with_its_estimator_of_the_same_budget(monkeypatch):
    asked = []
    monkeypatch.setattr(deblurring, "load_estimator", lambda name, budget: asked.append((name, budget)) or Told(2.0))
    task = make_task("deblur.Deblur", {"estimator": "wavelet"})
    assert task.load("wavelet-bayes", "smoke").name == "wavelet-bayes" and asked == [("wavelet", "smoke")]


def test_scores_refuse_what_is_not_there(stand_in):
    for number in (0, 9, -1):
        with pytest.raises(ValueError, match=f"no kernel {number}; there are 1 to 8"):
            scores_of("wiener", [number])
    with pytest.raises(ValueError, match="no denoiser 'weiner'.*need no denoiser: wiener, richardson-lucy"):
        scores_of("weiner", [1])
    with pytest.raises(ValueError, match="wiener uses no noise estimate; leave estimator empty"):
        scores_of("wiener", [1], {"estimator": "wavelet"})


def test_a_denoiser_of_one_level_only_is_refused(stand_in):
    """The loop needs a denoiser that follows the level, or that is blind."""
    with pytest.raises(
        ValueError, match="dncnn removes the noise of one level, whatever is left; take a blind network"
    ):
        network = DnCNN(3, 2, sigma=25)
        network.name = "dncnn"
        scores_of(network, [1], limit=1)


def test_score_files_come_back_as_they_were(stand_in, tmp_path):
    looped = scores_of(half_with(3.0, 9.0, 2.0, 3.0, 9.0, 2.0), [1, 2], limit=1)
    classical = scores_of("wiener", [1, 2], limit=1)
    for scores in (looped, classical):
        write_scores(scores, tmp_path / f"{scores['method'].iloc[0]}.csv")
    (tmp_path / ".half-unfinished-12345678.csv").write_text("half")
    back = read_scores(tmp_path)
    for found, expected in ((back[:2], looped), (back[2:].reset_index(drop=True), classical)):
        pd.testing.assert_frame_equal(found, expected, rtol=1e-5, check_dtype=False)
    assert back["iterations"].tolist()[:2] == [2, 2] and back["iterations"].isna().sum() == 2
    assert back["capped"].sum() == 0 and back["capped"].isna().sum() == 2


def test_an_interrupted_evaluation_goes_on_with_the_next_picture(stand_in, tmp_path):
    file = tmp_path / "half.csv"
    denoiser = half_with(3.0, 2.0)
    estimate, count = denoiser.estimate, 0

    def estimate_or_stop(noisy, sigma):
        nonlocal count
        count += 1
        if count == 4:  # the warm-up and two pictures are done
            raise KeyboardInterrupt
        return estimate(noisy, sigma)

    denoiser.estimate = estimate_or_stop
    with pytest.raises(KeyboardInterrupt):
        scores_of(denoiser, [1, 2], {"max_iterations": 1}, limit=2, resume=file)
    resumed = scores_of(denoiser, [1, 2], {"max_iterations": 1}, limit=2, resume=file)
    assert count == 4 + 1 + 2
    whole = scores_of(half_with(3.0, 2.0), [1, 2], {"max_iterations": 1}, limit=2)
    assert resumed["psnr"].tolist() == whole["psnr"].tolist() and len(resumed) == 4
