"""What a caller may hand over: finite float images `(B, C, H, W)`, and noise levels in grey levels."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch

from invdenoise import checks
from invdenoise.checks import RANGE_MAX, SIGMA_MAX, check_image, check_range, check_sigma, warn_of_fraction


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("shape", "channels"), [((1, 1, 1, 1), 1), ((2, 3, 5, 4), 3), ((1, 7, 2, 2), None)])
def test_images_of_any_float_type_size_and_range_pass(shape, channels, dtype):
    check_image(torch.full(shape, -3.5, dtype=dtype), channels, "who")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_pixels_in_0_to_255_are_refused_and_the_strongest_noise_is_not(dtype):
    noise = torch.randn(1, 1, 1000, 1000, generator=torch.Generator().manual_seed(0))
    check_image((1 + noise * SIGMA_MAX / 255).to(dtype), 1, "who")
    check_image(torch.tensor([[[[-RANGE_MAX, RANGE_MAX]]]], dtype=dtype), 1, "who")
    for image, ends in (
        (torch.linspace(20, 235, 64), "values from 20 to 235"),
        (torch.tensor([0.0, 0.0, 65504.0]), "values from 0 to 6[.]55.*e[+]04"),
        (torch.tensor([-128.0, 0.0]), "values from -128 to 0"),
    ):
        with pytest.raises(ValueError, match=rf"who: the image has {ends}; expected a picture in \[0, 1\].* x / 255"):
            check_image(image.to(dtype)[None, None, None], 1, "who")
        with pytest.raises(ValueError, match="who: the image has values from"):
            check_range(image.to(dtype), "who")


@pytest.fixture
def unwarned(monkeypatch):
    monkeypatch.setattr(checks, "_warned_of_fraction", False)


def test_a_noise_level_below_1_is_warned_of_once(unwarned):
    def public(sigma):
        warn_of_fraction(sigma, "who")

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for sigma in (None, 0, 1, 25):
            public(sigma)
    with pytest.warns(
        UserWarning, match="who: sigma is 0.1 of 255 grey levels.* give 25.5, 255 times as much"
    ) as caught:
        public(0.1)
    assert len(caught) == 1 and caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        public(0.2)


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
