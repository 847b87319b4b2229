"""NENet: its size, its formula patch by patch, what it refuses, and the authors' weights."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from skimage import io

from invdenoise.data.noise import awgn, noise_generator
from invdenoise.models import nenet
from invdenoise.models.nenet import NENet, read_authors_weights

MIRROR = Path(os.environ.get("DATA_MIRROR") or "no-mirror")
WEIGHTS = MIRROR / "weights" / "winnet" / "NENet" / "net_NENet.pth"
needs_mirror = pytest.mark.skipif(
    not (WEIGHTS.is_file() and (MIRROR / "set12").is_dir()),
    reason="data not available: set DATA_MIRROR to a folder with set12/ and weights/",
)


def image(*size, batch=1, dtype=torch.float64, seed=0):
    return torch.rand(batch, 1, *size, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.fixture
def network(randomised):
    """A network that tells patches apart."""
    network = randomised(NENet(), gain=2.0).double()
    assert network.selection(image(30, 40)).std() > 0.02
    return network


def weights_of_patches(network, patches):
    """Weights of patches `(N, 64)`, each run through the network on its own."""
    x = patches[:, None]
    for convolution in network.convolutions[:-1]:
        x = F.conv1d(x, convolution.weight[:, :, 0]).relu()
    return F.conv1d(x, network.convolutions[-1].weight[:, :, 0]).mean((1, 2)).sigmoid()


def by_hand(network, images):
    """The estimate from the patches of these images `(1, H, W)`, with the singular values of the weighted patches."""
    patches = torch.cat([image[0].unfold(0, 8, 1).unfold(1, 8, 1).reshape(-1, 64) for image in images])
    weights = weights_of_patches(network, patches).detach()
    scaled = (weights.sqrt()[:, None] * patches).numpy()
    return 255 * np.linalg.svd(scaled, compute_uv=False)[-1] / weights.sum().sqrt().item()


def test_number_of_parameters_is_the_published_one():
    assert NENet().num_parameters() == 5 * (16 + 5 * 16 * 16 + 16) == 6560


@pytest.mark.parametrize("size", [(15, 15), (16, 45), (40, 21)], ids=lambda size: f"{size[0]}x{size[1]}")
def test_columns_at_once_give_each_patch_its_weight(size, network, monkeypatch):
    images = image(*size, batch=2)
    expected = torch.stack(
        [weights_of_patches(network, x[0].unfold(0, 8, 1).unfold(1, 8, 1).reshape(-1, 64)) for x in images]
    ).view(2, size[0] - 7, size[1] - 7)
    torch.testing.assert_close(network.selection(images), expected, rtol=0, atol=1e-12)
    monkeypatch.setattr(nenet, "COLUMNS", 5)
    torch.testing.assert_close(network.selection(images), expected, rtol=0, atol=1e-12)


def test_the_estimate_is_the_least_variation_of_weighted_patches(network):
    images = image(30, 40, batch=2)
    single = network(images)
    assert single.tolist() == pytest.approx([by_hand(network, [x]) for x in images], rel=1e-9)
    pooled = network(images, pooled=True)
    assert pooled.shape == (1,) and pooled.item() == pytest.approx(by_hand(network, images), rel=1e-9)
    assert abs(single[0] - single[1]) > 1e-4 * pooled.item()


@pytest.mark.parametrize("sigma", [1, 20, 140])
def test_on_a_flat_image_it_is_the_noise(sigma):
    """Every patch counts the same at the start, and the smallest of 64 sample variances is a little low."""
    noisy = awgn(torch.full((1, 1, 160, 160), 0.5), sigma, torch.Generator().manual_seed(0))
    estimate = NENet().estimate_sigma(noisy)
    assert estimate.dtype == torch.float32 and 0.85 * sigma < estimate.item() < sigma


def test_float32_loses_nothing(network):
    noisy = awgn(image(60, 70, dtype=torch.float32), 1, torch.Generator().manual_seed(0))
    exact = network(noisy.double())
    torch.testing.assert_close(network.float()(noisy).double(), exact, rtol=1e-4, atol=0)


def test_an_image_without_noise_has_none():
    flat = torch.full((1, 1, 20, 20), 0.3, requires_grad=True)
    network = NENet()
    estimate = network(flat)
    assert 0 <= estimate.item() < 0.01
    estimate.backward()
    assert torch.isfinite(flat.grad).all() and all(torch.isfinite(p.grad).all() for p in network.parameters())


def test_weights_too_small_for_a_float_still_give_an_estimate(network):
    noisy = image(30, 40)
    with torch.no_grad():
        network.convolutions[-1].weight.mul_(-1e4 * network._logits(noisy).mean().sign())
    assert network.selection(noisy.float().double()).median() == 0
    estimate = network(noisy, pooled=True)
    estimate.backward()
    assert torch.isfinite(estimate) and all(torch.isfinite(p.grad).all() for p in network.parameters())


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "count"), [((1, 1), 0), ((7, 100), 0), ((8, 8), 1), ((14, 15), 56)])
def test_an_image_with_too_few_patches_is_refused(size, count):
    with pytest.raises(ValueError, match=f"nenet: the image is {size[0]}x{size[1]}, with {count} patches .*64 or more"):
        NENet().estimate_sigma(image(*size))
    assert NENet().estimate_sigma(image(15, 15)).shape == (1,)


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        (torch.rand(1, 3, 20, 20), ValueError, "nenet: the image has 3 channels"),
        (torch.rand(20, 20), ValueError, r"nenet: the image has shape \(20, 20\)"),
        (torch.zeros(1, 1, 20, 20, dtype=torch.uint8), TypeError, "nenet: the image is torch.uint8"),
        (torch.full((1, 1, 20, 20), torch.nan), ValueError, "nenet: 400 of 400 pixels are NaN"),
    ],
    ids=["colour", "2-D", "uint8", "NaN"],
)
def test_what_is_no_gray_image_is_refused(bad, error, message):
    with pytest.raises(error, match=message):
        NENet().estimate_sigma(bad)


def test_kernels_that_use_up_the_patch_are_refused():
    with pytest.raises(ValueError, match="14 layers of size 5 use up the 64 pixels"):
        NENet(num_layers=14)


# -- training ---------------------------------------------------------------------------------------------------------


def test_the_loss_is_the_squared_error_of_the_pooled_estimate(network):
    network.float()
    noisy = image(20, 20, batch=3, dtype=torch.float32)
    for sigma in (30.0, torch.tensor(30.0)):
        loss, logs = network.training_loss(noisy, noisy, sigma)
        assert loss.item() == pytest.approx((network(noisy, pooled=True).item() - 30) ** 2, rel=1e-5)
        assert logs["squared_error"].item() == loss.item() and logs["error"].item() ** 2 == pytest.approx(loss.item())
    loss.backward()
    assert all(torch.isfinite(p.grad).all() and p.grad.abs().max() > 0 for p in network.parameters())


def test_gradients_are_those_of_the_formula(randomised):
    network = randomised(NENet(num_layers=1, num_features=2), gain=2.0).double()
    noisy = image(16, 17)
    parameter = network.convolutions[1].weight
    loss = network.training_loss(noisy, noisy, 10.0)[0]
    (gradient,) = torch.autograd.grad(loss, parameter)
    step = 1e-5
    with torch.no_grad():
        parameter[1, 0, 0, 2] += step
        change = network.training_loss(noisy, noisy, 10.0)[0] - loss
    assert gradient[1, 0, 0, 2].item() == pytest.approx(change.item() / step, rel=1e-3)


def test_a_few_steps_of_training_lower_the_error():
    torch.manual_seed(0)
    network = NENet()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    texture = image(40, 40, dtype=torch.float32).round()  # half of the picture is busy, half is flat
    texture[..., 20:] = 0.5
    errors = []
    for step in range(25):
        noisy = awgn(texture, 20, torch.Generator().manual_seed(step))
        loss = network.training_loss(texture, noisy, 20.0)[0]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        errors.append(loss.item())
    assert min(errors[-5:]) < 0.5 * errors[0]


# -- the authors' weights ---------------------------------------------------------------------------------------------


def read_set12(name):
    return torch.from_numpy(io.imread(MIRROR / "set12" / f"{name}.png")).float()[None, None] / 255


@needs_mirror
def test_the_authors_weights_find_the_noise_level():
    network = read_authors_weights(WEIGHTS)
    assert not network.training
    clean = read_set12("01")
    for sigma in (20, 25, 50):
        noisy = awgn(clean, sigma, noise_generator(0, "set12", "01", sigma))
        assert network.estimate_sigma(noisy).item() == pytest.approx(sigma, rel=0.05)
        assert network.selection(noisy).sub(0.5).abs().max() < 0.001  # no patch is preferred: see the docstring


def test_a_file_that_is_not_there_or_not_weights_is_named(tmp_path):
    path = tmp_path / "net.pth"
    with pytest.raises(FileNotFoundError, match="net.pth: no such file"):
        read_authors_weights(path)
    for content in ({"module.net.0.weight": torch.zeros(16, 1, 3)}, {"a": torch.zeros(2)}, [1, 2]):
        torch.save(content, path)
        with pytest.raises(ValueError, match="net.pth: not the released NENet weights .*fetch the file again"):
            read_authors_weights(path)
