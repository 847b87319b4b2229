"""PSNR and SSIM against values worked out by hand, and the conventions of the protocol."""

import math

import numpy as np
import pytest
import torch

from invdenoise.data.noise import awgn, noise_generator
from invdenoise.tasks.metrics import psnr, ssim


@pytest.fixture
def picture():
    """Smooth and detailed at once, 24x31, in [0.1, 0.9]."""
    y, x = np.mgrid[:24, :31]
    return torch.from_numpy(0.5 + 0.2 * np.sin(x / 5) + 0.2 * np.cos(y * x / 20))


def test_psnr_by_hand():
    clean = torch.zeros(1, 8, 8)
    assert psnr(clean, clean + 0.1) == pytest.approx(20, abs=1e-5)  # -10 log10 0.01, float32 image
    one_wrong = torch.tensor([[0.0, 0.0], [0.0, 0.5]])
    assert psnr(torch.zeros(2, 2), one_wrong) == pytest.approx(10 * math.log10(16), abs=1e-9)  # MSE 0.25 / 4


def test_psnr_pools_the_error_over_channels():
    clean = torch.zeros(2, 4, 4)
    denoised = torch.stack([torch.full((4, 4), 0.1), torch.full((4, 4), 0.3)])
    assert psnr(clean, denoised) == pytest.approx(-10 * math.log10((0.01 + 0.09) / 2), abs=1e-5)


@pytest.mark.parametrize("measure", [psnr, ssim])
def test_pictures_in_0_to_255_are_refused(picture, measure):
    with pytest.raises(ValueError, match=r"the denoised image has values from .*; expected \[0, 1\]"):
        measure(picture, 255 * picture)
    assert math.isnan(psnr(picture, torch.full_like(picture, math.nan)))


def test_psnr_of_equal_images_is_infinite_and_silent(picture, recwarn):
    assert psnr(picture, picture) == math.inf
    assert not recwarn.list


@pytest.mark.parametrize(("sigma", "expected"), [(15, 24.61), (25, 20.17), (50, 14.15)])
def test_psnr_of_unclipped_noise(sigma, expected):
    # 20 log10(255 / sigma): lower values mean a clipped or wrongly scaled input.
    clean = torch.full((1, 1, 512, 512), 0.02)  # close to black, where clipping would show
    noisy = awgn(clean, sigma, noise_generator(0, "flat", "black", sigma))
    assert psnr(clean, noisy) == pytest.approx(expected, abs=0.05)


def test_psnr_neither_cuts_borders_nor_clamps():
    corner = torch.zeros(20, 20)
    corner[0, 0] = 2.0
    assert psnr(torch.zeros(20, 20), corner) == pytest.approx(20, abs=1e-9)  # MSE 4 / 400


def test_rounded_goes_through_8_bits():
    clean = torch.full((1, 9, 9), 100 / 255, dtype=torch.float64)
    assert psnr(clean, clean + 0.4 / 255, rounded=True) == math.inf
    assert psnr(clean, clean + 0.6 / 255, rounded=True) == pytest.approx(20 * math.log10(255), abs=1e-9)  # one level
    assert psnr(torch.ones(9, 9), torch.full((9, 9), 1.3), rounded=True) == math.inf
    assert psnr(torch.zeros(9, 9), torch.full((9, 9), -0.3), rounded=True) == math.inf


def test_rounding_costs_a_twelfth_of_a_squared_level():
    generator = torch.Generator().manual_seed(0)
    clean = torch.randint(60, 200, (1, 500, 500), generator=generator).double() / 255
    denoised = awgn(clean, 5, generator)
    expected = 10 * math.log10((25 + 1 / 12) / 25)
    assert psnr(clean, denoised) - psnr(clean, denoised, rounded=True) == pytest.approx(expected, abs=0.002)


def test_ssim_of_flat_images_by_hand():
    # No variance: only the luminance term (2ab + C1) / (a^2 + b^2 + C1), C1 = 0.01^2, is not 1.
    a, b = torch.full((11, 14), 0.5, dtype=torch.float64), torch.full((11, 14), 0.6, dtype=torch.float64)
    assert ssim(a, b) == pytest.approx(0.6001 / 0.6101, abs=1e-12)


def test_ssim_of_one_window_by_its_formula(picture):
    # An 11x11 image has one window: weights exp(-r^2 / 2 1.5^2), normalised; variances with these weights, uncorrected.
    x = picture[:11, :11].numpy()
    y = x + 0.1 * np.random.default_rng(0).standard_normal(x.shape)
    taps = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    weights = np.outer(taps, taps) / taps.sum() ** 2

    def mean(z):
        return (weights * z).sum()

    mx, my = mean(x), mean(y)
    vx, vy, vxy = mean((x - mx) ** 2), mean((y - my) ** 2), mean((x - mx) * (y - my))
    c1, c2 = 0.01**2, 0.03**2
    expected = (2 * mx * my + c1) * (2 * vxy + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    assert ssim(x, y) == pytest.approx(expected, abs=1e-12)
    assert 0.3 < expected < 0.95


def test_ssim_is_one_for_equal_images_and_falls_with_noise(picture):
    assert ssim(picture, picture) == pytest.approx(1, abs=1e-12)
    weak, strong = (ssim(picture, awgn(picture, s, torch.Generator().manual_seed(0))) for s in (5, 25))
    assert 1 > weak > strong > 0


def test_ssim_is_the_mean_over_channels(picture):
    noisy = [awgn(picture, s, torch.Generator().manual_seed(0)) for s in (5, 25)]
    together = ssim(torch.stack([picture, picture]), torch.stack(noisy))
    assert together == pytest.approx(sum(ssim(picture, n) for n in noisy) / 2, abs=1e-12)


def test_ssim_rounded_goes_through_8_bits(picture):
    levels = (picture * 255).round() / 255
    assert ssim(levels, levels + 0.4 / 255, rounded=True) == pytest.approx(1, abs=1e-12)
    assert ssim(levels, levels + 0.4 / 255) < 1 - 1e-9


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (10, 50), (50, 10)])
def test_small_images_have_a_psnr_and_no_ssim(shape):
    clean = torch.zeros(1, 1, *shape)
    assert psnr(clean, clean + 0.1) == pytest.approx(20, abs=1e-5)
    assert math.isnan(ssim(clean, clean + 0.1))


@pytest.mark.parametrize("measure", [psnr, ssim])
def test_shapes_dtypes_and_libraries_agree(measure, picture):
    noisy = awgn(picture, 25, torch.Generator().manual_seed(0))
    expected = measure(picture, noisy)
    assert type(expected) is float
    assert measure(picture.numpy(), noisy.numpy()) == expected
    assert measure(picture[None], noisy[None, None]) == expected
    assert measure(picture.float(), noisy.float()) == pytest.approx(expected, abs=1e-5)
    assert math.isfinite(measure(picture.bfloat16(), noisy.bfloat16()))
    assert measure(picture, noisy.clone().requires_grad_()) == expected


@pytest.mark.parametrize("measure", [psnr, ssim])
def test_refuses_what_is_not_a_pair_of_float_images(measure, picture):
    with pytest.raises(ValueError, match=r"\(1, 24, 31\).*\(1, 24, 30\)"):
        measure(picture, picture[:, :30])
    with pytest.raises(TypeError, match="denoised image is uint8"):
        measure(picture, (picture * 255).byte())
    with pytest.raises(ValueError, match=r"clean image has shape \(2, 1, 24, 31\)"):
        measure(picture.expand(2, 1, -1, -1), picture)
