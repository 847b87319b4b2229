"""The contract of `denoise`, for every network and classical method alike."""

from __future__ import annotations

import importlib.util
import math

import numpy as np
import pytest
import torch

from invdenoise import checks
from invdenoise.models import classical
from invdenoise.models.base import Denoiser, DenoisingNetwork, count_macs
from invdenoise.models.dncnn import BFCNN, DnCNN
from invdenoise.models.dninn import DnINN
from invdenoise.models.invdn import InvDN
from invdenoise.models.winnet import WINNet

CHEAP = {
    "wavelet-bayes": {"cycle_spins": 0},
    "wavelet-visu": {"cycle_spins": 0},
    "nlm": {"patch_distance": 2},
    "bm3d": {"profile": "lc"},
}
NETWORKS = {
    "DnINN": lambda: DnINN(num_scales=2, num_pairs=1, num_layers=2, num_features=4),
    "DnINN, LISTA": lambda: DnINN("lista", num_pairs=1, num_layers=2, num_features=4),
    "DnCNN": lambda: DnCNN(4, 6).eval(),
    "BF-CNN": lambda: BFCNN(4, 6).eval(),
    "WINNet": lambda: WINNet(num_pairs=1, num_blocks=1, num_features=4, num_atoms=15, num_lista_layers=1).eval(),
}
SLOW = ("bm3d", "nlm")  # seconds on a whole picture


def make(name, randomised):
    if name in NETWORKS:
        network = randomised(NETWORKS[name](), gain=0.4)
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):  # else hardly anything passes
                torch.nn.init.ones_(module.weight)
        return network
    if name == "bm3d" and not importlib.util.find_spec("bm3d"):
        pytest.skip("package not installed: pip install bm3d")
    return classical.load(name, **CHEAP.get(name, {}))


@pytest.fixture(params=[*NETWORKS, *classical.METHODS])
def denoiser(request, randomised) -> Denoiser:
    return make(request.param, randomised)


def noisy(*size, channels=1, batch=1, dtype=torch.float32):
    """Noise around a flat gray, with pixels below 0 and above 1."""
    generator = torch.Generator().manual_seed(0)
    return (0.5 + 0.4 * torch.randn(batch, channels, *size, generator=generator)).to(dtype)


# -- what comes out ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (1, 40), (24, 17)], ids=lambda size: f"{size[0]}x{size[1]}")
def test_the_image_comes_back_in_its_size_and_in_range(size, denoiser):
    given = noisy(*size, batch=2)
    before = given.clone()
    out = denoiser.denoise(given, 25)
    assert out.shape == given.shape and out.dtype == torch.float32 and not out.requires_grad
    assert torch.isfinite(out).all() and out.min() >= 0 and out.max() <= 1
    assert torch.equal(given, before)
    torch.testing.assert_close(out[1:], denoiser.denoise(given[1:], 25), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in (*NETWORKS, *classical.METHODS) if name not in SLOW])
def test_a_picture_of_benchmark_size(name, randomised):
    given = noisy(481, 321)
    out = make(name, randomised).denoise(given, 25)
    assert out.shape == given.shape and out.min() >= 0 and out.max() <= 1
    assert 0.01 < (out - given.clamp(0, 1)).abs().max()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_an_image_of_any_float_type_comes_back_in_its_own(dtype, denoiser):
    given = noisy(24, 17, dtype=dtype)
    out = denoiser.denoise(given, 25)
    assert out.dtype == dtype
    rounding = torch.finfo(dtype).eps if dtype != torch.float64 else 1e-5
    torch.testing.assert_close(out.float(), denoiser.denoise(given.float(), 25), rtol=0, atol=rounding)


@pytest.mark.parametrize("name", ["DnINN", *classical.METHODS])
def test_without_noise_nothing_is_removed(name, randomised):
    denoiser, given = make(name, randomised), noisy(9, 11).clamp(0, 1)
    assert denoiser.needs_sigma or name in NETWORKS
    torch.testing.assert_close(denoiser.denoise(given, 0), given, rtol=0, atol=1e-5)


def test_two_channels_are_two_images_or_refused(denoiser):
    given = noisy(16, 12, channels=2)
    if denoiser.channels is None:
        alone = [denoiser.denoise(given[:, c : c + 1], 25) for c in range(2)]
        torch.testing.assert_close(denoiser.denoise(given, 25), torch.cat(alone, 1), rtol=0, atol=1e-6)
    else:
        with pytest.raises(ValueError, match="the image has 2 channels; this method takes 1 channel; denoise each"):
            denoiser.denoise(given, 25)


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (lambda x: (255 * x).to(torch.uint8), TypeError, "the image is torch.uint8.*x.float"),
        (lambda x: x.long(), TypeError, "the image is torch.int64"),
        (lambda x: x.numpy(), TypeError, "the image is a ndarray; expected a float tensor"),
        (lambda x: x[0], ValueError, r"the image has shape \(1, 8, 8\); expected \(B, C, H, W\)"),
        (lambda x: x[0, 0], ValueError, r"the image has shape \(8, 8\)"),
        (lambda x: x[..., :0], ValueError, r"the image has shape \(1, 1, 8, 0\).*none of them 0"),
        (lambda x: x[:0], ValueError, r"the image has shape \(0, 1, 8, 8\)"),
        (lambda x: x.masked_fill(x > x.median(), math.nan), ValueError, "of 64 pixels are NaN or infinite"),
        (lambda x: x.index_fill(2, torch.tensor([3]), math.inf), ValueError, "8 of 64 pixels are NaN or infinite"),
        (lambda x: 255 * x, ValueError, r"the image has values from .*; expected a picture in \[0, 1\].* x / 255"),
    ],
    ids=["uint8", "int64", "numpy", "3-D", "2-D", "no width", "no image", "NaN", "infinite", "0 to 255"],
)
def test_what_is_no_image_is_refused(spoil, error, message, denoiser):
    with pytest.raises(error, match=message) as found:
        denoiser.denoise(spoil(noisy(8, 8)), 25)
    assert str(found.value).startswith(denoiser.name)


@pytest.mark.parametrize(
    ("sigma", "error", "message"),
    [
        (-1, ValueError, "sigma is -1; expected a noise level in grey levels, 0 to 255"),
        (255.5, ValueError, "sigma is 255.5"),
        (math.nan, ValueError, "sigma is nan"),
        (math.inf, ValueError, "sigma is inf"),
        ("high", TypeError, "sigma is 'high'; expected a number of grey levels"),
        ([25], TypeError, r"sigma is \[25\]"),
        ("25", TypeError, "sigma is '25'; expected a number of grey levels"),
        (True, TypeError, "sigma is True"),
        (np.bool_(True), TypeError, "sigma is np.True_"),
        (torch.tensor(True), TypeError, "sigma is True"),
        (torch.tensor([25.0]), TypeError, r"sigma is tensor\(\[25.\]\)"),
        (25 + 0j, TypeError, "sigma is \\(25\\+0j\\)"),
    ],
    ids=str,
)
def test_what_is_no_noise_level_is_refused(sigma, error, message, denoiser):
    with pytest.raises(error, match=message):
        denoiser.denoise(noisy(8, 8), sigma)


def test_a_missing_noise_level_is_refused_where_it_is_needed(denoiser):
    if denoiser.needs_sigma:
        with pytest.raises(ValueError, match="sigma is missing; give the noise level in grey levels"):
            denoiser.denoise(noisy(8, 8))
    else:
        assert torch.equal(denoiser.denoise(noisy(8, 8)), denoiser.denoise(noisy(8, 8), denoiser.sigma))


def test_any_number_is_a_noise_level(denoiser):
    expected = denoiser.denoise(noisy(16, 16), 25)
    for sigma in (25.0, np.float32(25), np.int64(25), torch.tensor(25.0)):
        assert torch.equal(denoiser.denoise(noisy(16, 16), sigma), expected)


def test_an_unknown_option_is_refused(denoiser):
    with pytest.raises(TypeError, match="strength_of_nothing"):
        denoiser.denoise(noisy(8, 8), 25, strength_of_nothing=1)


def test_a_noise_level_meant_as_a_fraction_is_warned_of(monkeypatch):
    monkeypatch.setattr(checks, "_warned_of_fraction", False)
    with pytest.warns(UserWarning, match="wavelet-visu: sigma is 0.1 of 255 grey levels") as caught:
        classical.load("wavelet-visu", cycle_spins=0).denoise(noisy(8, 8), 0.1)
    assert caught[0].filename == __file__


# -- the base ---------------------------------------------------------------------------------------------------------


def test_a_method_that_needs_multiples_gets_them_and_its_output_is_cropped_and_clamped():
    class Brighter(Denoiser):
        name, multiple, channels = "brighter", 8, 2

        def estimate(self, noisy, sigma):
            assert noisy.shape[-2] % 8 == noisy.shape[-1] % 8 == 0 and sigma == 12.0
            return noisy + 0.5

    given = noisy(9, 5, channels=2)
    assert torch.equal(Brighter().denoise(given, 12), (given + 0.5).clamp(0, 1))
    assert torch.equal(Brighter().denoise(given, 12, clamp=False), given + 0.5)
    with pytest.raises(ValueError, match="brighter: the image has 1 channels; this method takes 2 channels"):
        Brighter().denoise(given[:, :1], 12)
    assert Brighter().num_parameters() == 0 and Brighter().card["budget"] == "none"


def test_a_network_may_take_colour_and_know_no_noise_level():
    """As for real noise: pairs of pictures, in colour, without a sigma."""

    class Colour(DenoisingNetwork):
        channels = 3

        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, noisy):
            return self.conv(noisy)

    network, clean, given = Colour(), torch.rand(2, 3, 9, 7), torch.rand(2, 3, 9, 7)
    assert network.sigma is None
    loss, logs = network.training_loss(clean=clean, noisy=given)
    expected = (network(given) - clean).square().mean()
    torch.testing.assert_close(loss, expected)
    assert loss.requires_grad and logs.keys() == {"mse"} and not logs["mse"].requires_grad
    assert torch.equal(network.denoise(given), network(given).detach().clamp(0, 1))
    with pytest.raises(ValueError, match="the image has 1 channels; this method takes 3 channels"):
        network.denoise(given[:, :1])


# -- cost -------------------------------------------------------------------------------------------------------------


def test_multiplications_of_a_chain_of_convolutions_by_hand():
    network = DnCNN(4, 6)
    expected = 10 * 12 * 9 * (1 * 6 + 2 * 6 * 6 + 6 * 1)  # pixels, kernel, channels in times channels out
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assert count_macs(network, (1, 10, 12)) == expected
    assert network.training and all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_invdn_costs_what_the_paper_prints():
    """InvDN, Table 2: 47.80 G for 256x256, there with biases and activations. On the meta device nothing is computed."""
    assert count_macs(InvDN().to("meta"), (3, 256, 256)) == pytest.approx(47.80e9, rel=0.01)
