"""What a caller may hand over: finite float images `(B, C, H, W)`, and noise levels in grey levels."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from invdenoise.checks import SIGMA_MAX, check_image, check_sigma


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("shape", "channels"), [((1, 1, 1, 1), 1), ((2, 3, 5, 4), 3), ((1, 7, 2, 2), None)])
def test_images_of_any_float_type_size_and_range_pass(shape, channels, dtype):
    check_image(torch.full(shape, -3.5, dtype=dtype), channels, "who")


@pytest.mark.parametrize(
    ("image", "channels", "error", "message"),
    [
        (torch.zeros(1, 1, 8, 8).numpy(), 1, TypeError, "who: the image is a ndarray; expected a float tensor"),
        (torch.zeros(1, 1, 8, 8, dtype=torch.uint8), 1, TypeError, r"who: the image is torch.uint8.*x.float\(\) / 255"),
        (torch.zeros(1, 1, 8, 8, dtype=torch.complex64), 1, TypeError, "who: the image is torch.complex64"),
        (torch.zeros(1, 8, 8), 1, ValueError, r"who: the image has shape \(1, 8, 8\); expected \(B, C, H, W\)"),
        (torch.zeros(1, 1, 0, 8), 1, ValueError, r"who: the image has shape \(1, 1, 0, 8\).*none of them 0"),
        (torch.zeros(1, 3, 8, 8), 1, ValueError, "has 3 channels; this method takes 1 channel; denoise each channel"),
        (torch.zeros(1, 1, 8, 8), 3, ValueError, "has 1 channels; this method takes 3 channels$"),
        (torch.full((1, 1, 2, 3), math.nan), 1, ValueError, "who: 6 of 6 pixels are NaN or infinite"),
        (torch.tensor([[[[0.0, -math.inf]]]]), None, ValueError, "who: 1 of 2 pixels are NaN or infinite"),
    ],
    ids=["numpy", "uint8", "complex", "3-D", "no height", "too many", "too few", "NaN", "infinite"],
)
def test_what_is_no_image_is_refused(image, channels, error, message):
    with pytest.raises(error, match=message):
        check_image(image, channels, "who")


@pytest.mark.parametrize(
    "sigma", [25, 25.0, np.float32(25), np.int64(25), torch.tensor(25), torch.tensor(25.0)], ids=repr
)
def test_any_number_is_a_noise_level(sigma):
    found = check_sigma(sigma, needed=True, who="who")
    assert type(found) is float and found == 25


def test_the_ends_of_the_range_and_a_missing_level_pass():
    assert (check_sigma(0, True, "who"), check_sigma(255, True, "who"), SIGMA_MAX) == (0, 255, 255)
    assert check_sigma(None, needed=False, who="who") is None
    with pytest.raises(ValueError, match=r"who: sigma is missing; give the noise level.*denoise\(noisy, sigma=25\)"):
        check_sigma(None, needed=True, who="who")


@pytest.mark.parametrize(
    ("sigma", "error", "message"),
    [
        (-0.5, ValueError, "who: sigma is -0.5; expected a noise level in grey levels, 0 to 255"),
        (256, ValueError, "who: sigma is 256"),
        (math.nan, ValueError, "who: sigma is nan"),
        (-math.inf, ValueError, "who: sigma is -inf"),
        ("25", TypeError, "who: sigma is '25'; expected a number of grey levels"),
        (True, TypeError, "who: sigma is True"),
        ([25], TypeError, r"who: sigma is \[25\]"),
        (torch.tensor([25.0]), TypeError, r"who: sigma is tensor\(\[25.\]\)"),
        (25 + 0j, TypeError, r"who: sigma is \(25\+0j\)"),
    ],
    ids=str,
)
def test_what_is_no_noise_level_is_refused(sigma, error, message):
    with pytest.raises(error, match=message):
        check_sigma(sigma, needed=False, who="who")
