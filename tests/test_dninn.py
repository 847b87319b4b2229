"""DnINN: the paper's sizes, Haar shrinkage at the start, adaptation of thresholds, equal results however computed."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import pywt
import torch

from invdenoise import kernels
from invdenoise.layers import lifting
from invdenoise.layers.lifting import randomise_last_kernels
from invdenoise.layers.shrinkage import SoftThreshold
from invdenoise.models.dncnn import DnCNN
from invdenoise.models.dninn import DnINN

SMALL = dict(num_pairs=2, num_layers=2, num_features=4)


def image(*size, batch=1, dtype=torch.float32, seed=0):
    return torch.rand(batch, 1, *size, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.fixture
def network(randomised):
    """A small network whose every step does something, and which still keeps images in [0, 1] or near."""
    return randomised(DnINN(**SMALL, num_scales=2), gain=0.5).eval()


def thresholds(network):
    """The thresholds of the shrinkage, which carry the noise level; not those inside the lifting networks."""
    return [m.weight for shrink in network.shrinkers for m in shrink.modules() if isinstance(m, SoftThreshold)]


# Table I prints 134.6k, 135.1k, 269.3k and 270.3k.
@pytest.mark.parametrize(
    ("shrinkage", "num_scales", "count"),
    [("soft", 1, 134_659), ("lista", 1, 135_151), ("soft", 2, 269_318), ("lista", 2, 270_302)],
)
def test_number_of_parameters_is_that_of_linn_table_1(shrinkage, num_scales, count):
    network = DnINN(shrinkage, num_scales)
    # Kernels to or from 1 and 3 channels of 16 features, 7 in between, 8 thresholds each; 4 pairs; 3 or 495 to shrink.
    chain = 4 * 2 * (9 * (1 * 16 + 7 * 16 * 16 + 16 * 3) + 8 * 16)
    assert network.num_parameters() == num_scales * (chain + (3 if shrinkage == "soft" else 495)) == count


def test_a_fresh_network_is_undecimated_haar_shrinkage():
    """Away from the border, where PyWavelets repeats the image, it is `iswt2` of soft-thresholded `swt2`."""
    noisy = image(16, 20, dtype=torch.float64)
    ours = DnINN(sigma=25).double()(noisy)[0, 0].detach().numpy()
    ((coarse, details),) = pywt.swt2(noisy[0, 0].numpy(), "haar", level=1)
    shrunk = tuple(pywt.threshold(band, 25 / 255, "soft") for band in details)
    expected = pywt.iswt2([(coarse, shrunk)], "haar")
    np.testing.assert_allclose(ours[1:-1, 1:-1], expected[1:-1, 1:-1], atol=1e-12)
    assert np.abs(ours - noisy[0, 0].numpy()).max() > 0.05


@pytest.mark.parametrize("shrinkage", ["soft", "lista"])
@pytest.mark.parametrize("num_scales", [1, 2])
def test_zero_thresholds_return_the_input(shrinkage, num_scales, randomised):
    network = randomised(DnINN(shrinkage, num_scales, **SMALL))
    if shrinkage == "lista":  # a fresh iteration passes its input on but for the thresholds
        network.shrinkers = DnINN(shrinkage, num_scales, **SMALL).shrinkers
    network.double()
    noisy = image(9, 12, dtype=torch.float64)
    assert (network(noisy) - noisy).abs().max() > 0.01
    assert (network(noisy, threshold_scale=0.0) - noisy).abs().max() < 1e-10
    with torch.no_grad():
        for weight in thresholds(network):
            weight.zero_()
    assert (network(noisy) - noisy).abs().max() < 1e-10
    torch.testing.assert_close(network.float().denoise(noisy.float(), 25), noisy.float(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("shrinkage", ["soft", "lista"])
def test_thresholds_adapt_to_the_noise_level(shrinkage, randomised):
    """Section III-D: lambda (t / N)^2, on the shrinkage of every scale and nowhere else."""
    network = randomised(DnINN(shrinkage, 2, **SMALL, sigma=25), gain=0.5).eval()
    noisy = image(12, 10)
    for level, exponent in ((10, 2.0), (50, 2.0), (50, 1.0), (25, 2.0)):
        scaled = copy.deepcopy(network)
        with torch.no_grad():
            for weight in thresholds(scaled):
                weight.mul_((level / 25) ** exponent)
        options = {} if exponent == 2 else {"exponent": exponent}
        adapted = network.denoise(noisy, level, **options)
        torch.testing.assert_close(adapted, scaled.denoise(noisy), rtol=0, atol=1e-6)
        assert torch.equal(adapted, network.denoise(noisy)) == (level == 25)
    assert torch.equal(network.denoise(noisy, 50, adapt=False), network.denoise(noisy))
    assert torch.equal(network.denoise(noisy, None), network.denoise(noisy, 25))


def test_without_noise_it_returns_the_image(network):
    noisy = image(9, 7)
    torch.testing.assert_close(network.denoise(noisy, 0), noisy, rtol=0, atol=1e-5)


# -- starts -----------------------------------------------------------------------------------------------------------


def test_a_start_at_another_noise_level_scales_the_thresholds(randomised):
    for shrinkage in ("soft", "lista"):
        trained = randomised(DnINN(shrinkage, **SMALL, sigma=20))
        network = DnINN(shrinkage, **SMALL, sigma=50)
        network.start_from(trained)
        own, others = network.state_dict(), trained.state_dict()
        carried = {name for name in own if name.startswith("shrinkers") and own[name].ndim == 1}
        assert len(carried) == len(thresholds(network))
        for name in own:
            torch.testing.assert_close(own[name], others[name] * (2.5 if name in carried else 1))
    same = DnINN(**SMALL, sigma=20)
    trained = randomised(DnINN(**SMALL, sigma=20))
    same.start_from(trained)
    assert torch.equal(same.denoise(image(8, 8)), trained.denoise(image(8, 8)))


def test_lista_starts_as_the_soft_threshold_that_it_follows_a_little_lower(randomised):
    soft = randomised(DnINN("soft", **SMALL, sigma=25), gain=0.5)
    with torch.no_grad():
        soft.shrinkers[0].weight.copy_(torch.tensor([0.2, -0.3, 0.4]))
    lista = DnINN("lista", **SMALL, sigma=50)
    assert all(name.startswith("linns.") for name in lista.start_from(soft))
    noisy = image(12, 10)
    torch.testing.assert_close(lista.decompose(noisy), soft.decompose(noisy), rtol=0, atol=0)
    torch.testing.assert_close(lista.shrinkers[0].shrink[0].threshold, torch.tensor([0.28, 0.42, 0.56]))
    lista.training_loss(torch.zeros_like(noisy), noisy, 25)[0].backward()
    assert lista.shrinkers[0].encode[0].weight.grad.abs().max() > 0


def test_a_second_scale_starts_fresh(randomised):
    one = randomised(DnINN(num_scales=1, **SMALL, sigma=25))
    two = DnINN(num_scales=2, **SMALL, sigma=50)
    fresh = {name: value.clone() for name, value in two.state_dict().items()}
    assert two.start_from(one) == one.state_dict().keys()
    own, others = two.state_dict(), one.state_dict()
    for name in others:
        torch.testing.assert_close(own[name], others[name] * (2 if name.startswith("shrinkers") else 1))
    left = own.keys() - others.keys()
    assert {name.split(".")[0] for name in left} == {"linns", "shrinkers"}
    assert all(name.split(".")[1] == "1" and torch.equal(own[name], fresh[name]) for name in left)


@pytest.mark.parametrize("shrinkage", ["soft", "lista"])
def test_fixed_thresholds_are_neither_learned_nor_taken_over(shrinkage, randomised):
    fixed = DnINN(shrinkage, **SMALL, sigma=50, learn_thresholds=False, initial_threshold=1.5)
    learned = DnINN(shrinkage, **SMALL, sigma=50, initial_threshold=1.5)
    held = {name for name, value in fixed.shrinkers.state_dict().items() if value.ndim == 1}
    assert fixed.num_parameters() == learned.num_parameters() - sum(
        fixed.shrinkers.state_dict()[n].numel() for n in held
    )
    fixed.start_from(randomised(DnINN(shrinkage, **SMALL, sigma=25)))
    for name, value in fixed.shrinkers.state_dict().items():
        assert torch.equal(value, learned.shrinkers.state_dict()[name]) == (name in held)
    noisy = image(12, 10)
    fixed.training_loss(torch.zeros_like(noisy), noisy, 50)[0].backward()
    found = {name: p.grad for name, p in fixed.named_parameters() if "shrinkers" in name}
    assert all((grad is None) == (name.removeprefix("shrinkers.") in held) for name, grad in found.items())
    assert next(iter(fixed.linns[0])).predict[-1].weight.grad.abs().max() > 0


@pytest.mark.parametrize(
    "other",
    [DnCNN(3, 4), DnINN(num_pairs=2, num_layers=2, num_features=5), DnINN("lista", **SMALL)],
    ids=["another class", "other features", "lista to soft"],
)
def test_a_start_that_does_not_fit_is_refused(other):
    other.name = "teacher"
    with pytest.raises(ValueError, match="teacher does not fit as a start"):
        DnINN(**SMALL).start_from(other)


# -- the same result however it is computed ---------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(30, 41), (8, 64), (37, 14), (33, 33)], ids=lambda size: f"{size[0]}x{size[1]}")
def test_tiles_give_the_result_of_the_whole(size, randomised, monkeypatch):
    """Sizes that end inside, at, and just after a tile of 16 or its margin of 3."""
    network = randomised(DnINN(**SMALL), gain=0.5)
    noisy = image(*size, batch=2)
    whole = network(noisy).detach()
    monkeypatch.setattr(lifting, "TILE", 16)
    tiles = count_calls(network.linns[0].layers[0].predict[0])
    with torch.no_grad():
        tiled = network(noisy)
    assert len(tiles) == 2 * -(-size[0] // 16) * -(-size[1] // 16)  # forward and inverse
    torch.testing.assert_close(tiled, whole, rtol=0, atol=1e-6)


def test_tiles_give_the_result_of_the_whole_in_the_network_of_the_paper(randomised, monkeypatch):
    network = randomised(DnINN(num_pairs=1), gain=0.7)
    noisy = image(50, 47)
    whole = network(noisy).detach()
    monkeypatch.setattr(lifting, "TILE", 24)
    torch.testing.assert_close(network.denoise(noisy), whole.clamp(0, 1), rtol=0, atol=1e-6)
    monkeypatch.setattr(network.linns[0].layers[0].predict, "radius", 7)  # a margin too small must show
    assert (network.denoise(noisy) - whole.clamp(0, 1)).abs().max() > 1e-5


def count_calls(module):
    calls = []
    module.register_forward_hook(lambda *_: calls.append(1))
    return calls


def test_memory_layout_and_batch_do_not_change_the_result(network):
    noisy = image(13, 18, batch=3)
    expected = network.denoise(noisy, 40)
    channels_last = copy.deepcopy(network).to(memory_format=torch.channels_last)
    for given in (noisy, noisy.contiguous(memory_format=torch.channels_last)):
        torch.testing.assert_close(channels_last.denoise(given, 40), expected, rtol=0, atol=1e-6)
    for number in range(3):
        alone = network.denoise(noisy[number : number + 1], 40)
        torch.testing.assert_close(alone, expected[number : number + 1], rtol=0, atol=1e-6)


@pytest.mark.parametrize("shrinkage", ["soft", "lista"])
def test_constant_memory_gives_the_same_gradients(shrinkage, randomised):
    noisy, clean = image(8, 9, batch=2, dtype=torch.float64), image(8, 9, batch=2, dtype=torch.float64, seed=1)
    gradients = []
    for switch in (False, True):
        network = randomised(DnINN(shrinkage, 2, **SMALL, constant_memory=switch)).double()
        network.training_loss(clean, noisy, 25.0)[0].backward()
        gradients.append([p.grad for p in network.parameters()])
    assert all(g.abs().max() > 1e-8 for g in gradients[0])
    for ours, theirs in zip(gradients[1], gradients[0], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-8)


def test_speed_up_in_bfloat16_stays_close(network):
    noisy = image(24, 17)
    exact = network.denoise(noisy, 25)
    fast = kernels.speed_up(copy.deepcopy(network), "bfloat16", compiled=False).denoise(noisy, 25)
    assert fast.dtype == torch.float32
    assert 0 < (fast - exact).abs().max() < 0.02 and (fast - exact).pow(2).mean().sqrt() < 0.003
    with pytest.raises(ValueError, match="precision is 'half'; expected fastest, float32 or bfloat16"):
        kernels.speed_up(network, "half")


def test_last_kernels_may_be_drawn_so_that_no_step_is_empty():
    network = DnINN(**SMALL)
    before = copy.deepcopy(network.state_dict())
    torch.manual_seed(0)
    assert randomise_last_kernels(network, std=0.5) is network
    changed = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {f"linns.0.layers.{i}.{net}.4.weight" for i in (0, 1) for net in ("predict", "update")}
    drawn = torch.cat([network.state_dict()[name].flatten() for name in changed])
    assert drawn.std().item() == pytest.approx(0.5, rel=0.2)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"shrinkage": "hard"}, "shrinkage is 'hard'"), ({"num_scales": 0}, "num_scales is 0; expected 1 or more")],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        DnINN(**options)


@pytest.mark.parametrize("exponent", [math.nan, -2, 1e3])
def test_an_exponent_out_of_range_is_refused(exponent):
    with pytest.raises(ValueError, match="exponent is .*; expected 0"):
        DnINN(num_pairs=1).denoise(torch.zeros(1, 1, 8, 8), 10, exponent=exponent)


@pytest.mark.parametrize("sigma", [0, -25, math.nan, 300])
def test_a_noise_level_of_training_must_be_one(sigma):
    with pytest.raises(ValueError, match="sigma is .*; expected grey levels, more than 0"):
        DnINN(num_pairs=1, sigma=sigma)


def test_network_and_image_must_be_on_one_device():
    with pytest.raises(ValueError, match="the image is on cpu, the network on meta; move one"):
        DnINN(num_pairs=1).to("meta").denoise(torch.zeros(1, 1, 8, 8), 10)
