"""Noise: unit, statistics, and that a test image meets the same noise everywhere."""

import hashlib
import os
import subprocess
import sys

import pytest
import torch

from invdenoise import checks
from invdenoise.data.noise import awgn, noise_generator

KEY = (0, "set12", "01.png", 25)


def draw(*key, size=16):
    return torch.randn(size, generator=noise_generator(*key))


def test_sigma_is_in_grey_levels():
    clean = torch.full((1, 1, 400, 400), 0.5)
    noise = awgn(clean, 25, noise_generator(*KEY)) - clean
    assert noise.std().item() * 255 == pytest.approx(25, rel=0.01)  # standard error 0.2 %
    assert noise.mean().item() * 255 == pytest.approx(0, abs=0.25)  # standard error 0.06


def test_noise_is_white_within_and_between_channels():
    noise = awgn(torch.zeros(1, 2, 300, 300), 255, noise_generator(*KEY))[0]
    a, b = noise
    for x, y in ((a[:, 1:], a[:, :-1]), (a[1:], a[:-1]), (a, b)):
        assert abs((x * y).mean().item()) < 0.02  # standard error 0.003


def test_noise_is_neither_clipped_nor_quantised():
    noisy = awgn(torch.tensor([0.0, 1.0]).repeat(500).reshape(1, 1, 20, 50), 25, noise_generator(*KEY))
    assert noisy.min() < 0 and noisy.max() > 1
    assert noisy.unique().numel() > 990


def test_sigma_zero_leaves_the_image():
    clean = torch.rand(1, 1, 5, 3)
    assert torch.equal(awgn(clean, 0, noise_generator(*KEY)), clean)


def test_noise_scales_with_sigma_and_is_the_same_in_each_dtype():
    clean = torch.zeros(1, 1, 7, 5, dtype=torch.float64)
    weak, strong = (awgn(clean, sigma, noise_generator(*KEY)) for sigma in (10, 40))
    torch.testing.assert_close(4 * weak, strong)
    single = awgn(clean.float(), 10, noise_generator(*KEY))
    assert single.dtype == torch.float32 and weak.dtype == torch.float64
    torch.testing.assert_close(single.double(), weak, rtol=1e-6, atol=0)


def test_generator_repeats():
    assert torch.equal(draw(*KEY), draw(*KEY))
    assert torch.equal(draw(0, "set12", "01.png", 25), draw(0, "set12", "01.png", 25.0))


@pytest.mark.parametrize(
    "other",
    [
        (1, "set12", "01.png", 25),
        (0, "bsd68", "01.png", 25),
        (0, "set12", "02.png", 25),
        (0, "set12", "01.png", 15),
        (0, "set120", "1.png", 25),  # the same letters, divided differently
    ],
)
def test_each_value_changes_the_noise(other):
    assert not torch.isclose(draw(*KEY), draw(*other)).any()


def test_generator_is_the_documented_hash():
    # If this hash changed, new scores would have other noise than the published ones.
    digest = hashlib.sha256(b'[0, "set12", "01.png", 25.0]').hexdigest()
    assert noise_generator(*KEY).initial_seed() == int(digest[:16], 16)
    assert noise_generator(*KEY).device.type == "cpu"


def test_generator_is_the_same_in_another_process():
    program = (
        "from invdenoise.data.noise import noise_generator as g; print(g(0, 'set12', '01.png', 25).initial_seed())"
    )
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": "1"}
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=env)
    assert int(found.stdout) == noise_generator(*KEY).initial_seed()


def test_first_values_of_the_noise():
    # Recorded with PyTorch 2.13 on a CPU. Guards against a version that changes its random numbers.
    expected = torch.tensor([0.474874, -0.626580, -0.475495, -1.040106])
    torch.testing.assert_close(draw(*KEY)[:4], expected, rtol=0, atol=1e-4)


def test_refuses_pixels_in_0_to_255():
    """Noise of a tenth of a grey level would be the result, unsaid."""
    with pytest.raises(ValueError, match=r"awgn: the image has values from 20 to 235; expected a picture in \[0, 1\]"):
        awgn(torch.linspace(20, 235, 64), 25, noise_generator(*KEY))
    assert awgn(torch.zeros(0, 3), 25, noise_generator(*KEY)).shape == (0, 3)


def test_warns_of_a_fraction(monkeypatch):
    monkeypatch.setattr(checks, "_warned_of_fraction", False)
    with pytest.warns(UserWarning, match="awgn: sigma is 0.1 of 255 grey levels"):
        awgn(torch.zeros(3), 0.1, noise_generator(*KEY))


def test_refuses_integers_and_bad_sigma():
    with pytest.raises(TypeError, match="torch.uint8"):
        awgn(torch.zeros(3, dtype=torch.uint8), 25, noise_generator(*KEY))
    with pytest.raises(TypeError, match="ndarray"):
        awgn(torch.zeros(3).numpy(), 25, noise_generator(*KEY))
    for sigma in (-1, 256, float("nan")):
        with pytest.raises(ValueError, match="awgn: sigma is"):
            awgn(torch.zeros(3), sigma, noise_generator(*KEY))
