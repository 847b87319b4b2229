"""WINNet: the published sizes, the equations written out, exact inversion, its losses, and the authors' weights."""

from __future__ import annotations

import copy
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from skimage import io

from invdenoise import kernels
from invdenoise.data.noise import awgn, noise_generator
from invdenoise.layers import tiles
from invdenoise.layers.lifting import randomise_last_kernels
from invdenoise.models.nenet import NENet
from invdenoise.models.winnet import DepthwiseConv, PUNet, ResidualBlock, WINNet, read_authors_weights
from invdenoise.models.winnet_plain import PlainWINNet, plain_forward
from invdenoise.tasks.metrics import psnr

MIRROR = Path(os.environ.get("DATA_MIRROR") or "no-mirror")
WEIGHTS = MIRROR / "weights" / "winnet"
needs_mirror = pytest.mark.skipif(
    not (WEIGHTS.is_dir() and (MIRROR / "set12").is_dir()),
    reason="data not available: set DATA_MIRROR to a folder with set12/ and weights/",
)
SMALL = dict(num_pairs=2, num_blocks=1, num_features=4, num_atoms=16, num_lista_layers=2)


def image(*size, batch=1, dtype=torch.float32, seed=0):
    return torch.rand(batch, 1, *size, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def small(randomised, num_levels=1, gain=0.7, **options):
    """A small network whose every step does something, and which keeps images near [0, 1]."""
    return randomised(WINNet(num_levels, **SMALL, **options), gain=gain).eval()


# -- the network is the published one ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("num_levels", "count"), [(1, 173_440), (2, 346_880)])
def test_number_of_parameters_is_the_published_one(num_levels, count):
    # First and last kernels, 4 blocks of two separable convolutions, a threshold per channel after each but the last.
    net = 9 * (1 * 32 + 32 * 15) + 4 * 2 * (32 * 25 + 32 * 32) + (1 + 4 * 2) * 32
    clista = 2 * 9 * 15 * 64 + 4 * 64
    assert WINNet(num_levels).num_parameters() == num_levels * (4 * 2 * net + clista) == count


def threshold(x, module, sigma):
    level = F.softplus(module.weight, beta=20).view(-1, 1, 1) * sigma / 50
    return x.sign() * (x.abs() - level).clamp(min=0)


def predict_or_update(net, x, sigma, dilation):
    """A predictor or update network from its kernels, with the paddings of the released code."""

    def separable(conv, x):
        x = F.conv2d(x, conv.depthwise.weight, padding=1 + dilation, dilation=dilation, groups=x.shape[1])
        return F.conv2d(x, conv.pointwise.weight, padding=dilation - 1)

    first, *blocks = net.layers
    x = threshold(F.conv2d(x, first.conv.weight, padding=dilation, dilation=dilation), first.shrink, sigma)
    for block in blocks:
        inner = threshold(separable(block.conv1, x), block.shrink1, sigma)
        x = threshold(x + separable(block.conv2, inner), block.shrink2, sigma)
    return F.conv2d(x, net.last.weight, padding=dilation, dilation=dilation)


def written_out(network, x, sigma, level=0):
    """WINNet with the border of the released code."""
    dilation = 1 if level == 0 else 2
    n = torch.arange(16, dtype=x.dtype)
    dct = torch.cos(math.pi / 16 * n[:, None] * (n + 0.5)) / 8**0.5
    dct[0] = 1 / 4
    bands = F.conv2d(F.pad(x, (1, 2, 1, 2), mode="replicate"), dct.view(16, 1, 4, 4))
    c, d = bands[:, :1], bands[:, 1:]
    pairs = list(network.linns[level])
    for pair in pairs:
        d = d - predict_or_update(pair.predict, c, sigma, dilation)
        c = c + predict_or_update(pair.update, d, sigma, dilation)

    clista = network.shrinkers[level]
    A, S = (lambda x, k=k: F.conv2d(x, k.weight, padding=1) for k in (clista.analyse, clista.synthesise))
    g = A(d)
    for shrink in clista.shrink:
        g = threshold(g + A(d - S(g)), shrink, sigma)
    d = S(g)
    if level + 1 < len(network.linns):
        c = written_out(network, c, sigma, level + 1)

    for pair in pairs[::-1]:
        c = c - predict_or_update(pair.update, d, sigma, dilation)
        d = d + predict_or_update(pair.predict, c, sigma, dilation)
    bands = F.pad(torch.cat([c, d], dim=1), (2, 1, 2, 1), mode="replicate")
    return F.conv2d(bands, dct.flip(1).view(1, 16, 4, 4)) / 16


@pytest.mark.parametrize("num_levels", [1, 2, 3])
def test_it_is_the_network_written_out(num_levels, randomised):
    network = small(randomised, num_levels, boundary="replicate").double()
    noisy = image(11, 14, batch=2, dtype=torch.float64)
    for sigma in (0.0, 30.0):
        expected = written_out(network, noisy, sigma)
        assert (expected - noisy).abs().max() > 0.01
        torch.testing.assert_close(network(noisy, sigma), expected, rtol=0, atol=1e-12)


def test_each_image_may_have_its_own_noise_level(randomised):
    network = small(randomised, 2)
    noisy, sigmas = image(9, 12, batch=3), torch.tensor([5.0, 25.0, 60.0])
    together = network(noisy, sigmas)
    for number, sigma in enumerate(sigmas.tolist()):
        alone = network(noisy[number : number + 1], sigma)
        torch.testing.assert_close(together[number : number + 1], alone, rtol=0, atol=1e-5)


def test_the_noise_level_scales_every_threshold(randomised):
    """Kernels have no bias, so the network is homogeneous in image and noise level, and linear without noise."""
    network = small(randomised, 2).double()
    x, y = image(10, 9, dtype=torch.float64), image(10, 9, dtype=torch.float64, seed=1)
    torch.testing.assert_close(network(3 * x, 60), 3 * network(x, 20), rtol=0, atol=1e-12)
    torch.testing.assert_close(network(x + 2 * y, 0), network(x, 0) + 2 * network(y, 0), rtol=0, atol=1e-12)
    assert (network(x + 2 * y, 20) - network(x, 20) - 2 * network(y, 20)).abs().max() > 1e-4


def test_a_fresh_network_shrinks_a_frame_of_the_dct():
    network = WINNet(2, **SMALL).double()
    noisy = image(9, 12, dtype=torch.float64)
    torch.testing.assert_close(network.decompose(noisy), network.split(noisy), rtol=0, atol=0)
    torch.testing.assert_close(network(noisy, 0), noisy, rtol=0, atol=1e-10)
    assert (network(noisy, 50) - noisy).abs().max() > 1e-3


# -- invertible -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(3, 3), (5, 12), (17, 16)], ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("level", [0, 1])
def test_lifting_and_split_are_inverted(size, level, randomised):
    network = small(randomised, 2).double()
    x = image(*size, batch=2, dtype=torch.float64)
    coarse, detail = network.decompose(x, 25.0, level)
    assert coarse.shape == x.shape and detail.shape == (2, 15, *size)
    assert (detail - network.split(x)[1]).abs().max() > 0.01
    assert (network.reconstruct(coarse, detail, 25.0, level) - x).abs().max() < 1e-10
    single = network.float()
    parts = single.decompose(x.float(), 25.0, level)
    assert (single.reconstruct(*parts, 25.0, level) - x.float()).abs().max() < 1e-5
    assert (single.reconstruct(*parts, 50.0, level) - x.float()).abs().max() > 1e-4  # another level, another inverse


def test_the_authors_border_is_not_inverted(randomised):
    network = small(randomised, boundary="replicate").double()
    x = image(17, 16, dtype=torch.float64)
    error = (network.reconstruct(*network.decompose(x)) - x).abs()
    assert error[..., 2:-1, 2:-1].max() < 1e-10 and error.max() > 0.05


def test_a_lifting_pair_keeps_volume(randomised):
    pair = small(randomised).linns[0].layers[0].double()
    sizes = (1, 15)

    def flat(vector):
        coarse, detail = vector.view(1, 16, 2, 2).split(sizes, dim=1)
        return torch.cat(pair(coarse, detail, torch.full((1, 1, 1, 1), 25.0).double())[:2], dim=1).flatten()

    x = torch.randn(64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(flat, x)
    assert jacobian.slogdet()[1].item() == pytest.approx(0, abs=1e-10)
    coarse, detail = x.view(1, 16, 2, 2).split(sizes, dim=1)
    assert pair.log_det(coarse, detail, torch.tensor(25.0)).tolist() == [0]


def test_constant_memory_gives_the_same_gradients(randomised):
    clean, noisy = (image(8, 9, batch=2, dtype=torch.float64, seed=seed) for seed in (0, 1))
    gradients = []
    for switch in (False, True):
        network = small(randomised, 2, constant_memory=switch).double()
        sigma = torch.tensor([20.0, 40.0], dtype=torch.float64, requires_grad=True)
        network.training_loss(clean, noisy, sigma)[0].backward()
        gradients.append([sigma.grad, *(p.grad for p in network.parameters())])
    assert all(g.abs().max() > 1e-8 for g in gradients[0])
    for ours, theirs in zip(gradients[1], gradients[0], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-8)


# -- the same result however it is computed ---------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(40, 61), (24, 64)], ids=lambda size: f"{size[0]}x{size[1]}")
def test_tiles_give_the_result_of_the_whole(size, randomised, monkeypatch):
    network = small(randomised, 2)
    noisy = image(*size, batch=2)
    whole = network(noisy).detach()  # with gradients, nothing is tiled
    monkeypatch.setattr(tiles, "TILE", 24)
    calls = []
    network.linns[1].layers[0].predict.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        tiled = network(noisy)
        assert len(calls) == 2 * math.ceil(size[0] / 24) * math.ceil(size[1] / 24)  # forward and inverse
        torch.testing.assert_close(tiled, whole, rtol=0, atol=1e-6)
        network.linns[0].layers[0].predict.radius -= 1  # a margin too small must show
        assert (network(noisy) - whole).abs().max() > 1e-5


def test_the_receptive_field_is_the_radius(randomised):
    for net in (PUNet(1, 15, 1, 4, 2), WINNet(**SMALL).shrinkers[0]):
        randomised(net).double()
        x = torch.randn(1, 15 if net.radius < 9 else 1, 41, 41, dtype=torch.float64, requires_grad=True)
        net(x, torch.zeros(())).square()[..., 20, 20].sum().backward()
        rows = x.grad.abs().sum((0, 1, 3)).nonzero().flatten()
        assert (rows.min().item(), rows.max().item()) == (20 - net.radius, 20 + net.radius)


def test_memory_layout_and_batch_do_not_change_the_result(randomised):
    network = small(randomised, 2)
    noisy = image(13, 18, batch=3)
    expected = network.denoise(noisy, 40)
    channels_last = copy.deepcopy(network).to(memory_format=torch.channels_last)
    for given in (noisy, noisy.contiguous(memory_format=torch.channels_last)):
        torch.testing.assert_close(channels_last.denoise(given, 40), expected, rtol=0, atol=1e-5)
    for number in range(3):
        alone = network.denoise(noisy[number : number + 1], 40)
        torch.testing.assert_close(alone, expected[number : number + 1], rtol=0, atol=1e-5)


def test_speed_up_in_bfloat16_stays_close(randomised):
    network = small(randomised, 2, gain=0.5)
    noisy = image(24, 17)
    exact = network.denoise(noisy, 25)
    fast = kernels.speed_up(copy.deepcopy(network), "bfloat16", compiled=False).denoise(noisy, 25)
    assert fast.dtype == torch.float32
    assert 0 < (fast - exact).abs().max() < 0.02 and (fast - exact).pow(2).mean().sqrt() < 0.003


@pytest.mark.parametrize(("padding", "dilation"), [(2, 1), (3, 2)])
def test_depthwise_convolution_for_the_compiler_is_the_ordinary_one(padding, dilation):
    x = torch.randn(2, 3, 9, 7, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, 1, 5, 5, dtype=torch.float64, requires_grad=True)
    ours = DepthwiseConv.apply(x, weight, padding, dilation)
    theirs = F.conv2d(x, weight, padding=padding, dilation=dilation, groups=3)
    grad = torch.randn_like(theirs)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    for a, b in zip(*(torch.autograd.grad(y, (x, weight), grad) for y in (ours, theirs)), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


@pytest.mark.parametrize("num_levels", [1, 2])
def test_the_plain_form_is_the_network(num_levels, randomised):
    network = small(randomised, num_levels)
    plain = PlainWINNet(num_levels, **SMALL).eval()
    noisy, sigma = image(9, 14, batch=2), torch.tensor([5.0, 50.0]).view(-1, 1, 1, 1)
    with torch.no_grad():
        for shrink in network.shrinkers[0].shrink:  # thresholds that cut
            shrink.weight.fill_(0.5)
        plain.load_state_dict(network.state_dict())
        expected = network(noisy, sigma)
        assert (expected - noisy).abs().max() > 0.05
        torch.testing.assert_close(plain_forward(network, noisy, sigma), expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(plain(noisy, sigma.flatten()), expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(plain.denoise(noisy, 30), network.denoise(noisy, 30), atol=1e-5, rtol=0)


def test_last_kernels_may_be_drawn_so_that_no_step_is_empty():
    network = WINNet(2, **SMALL)
    before = copy.deepcopy(network.state_dict())
    randomise_last_kernels(network)
    changed = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {name for name in before if name.endswith("last.weight")} and len(changed) == 8


# -- denoising --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_levels", [1, 2])
@pytest.mark.parametrize("size", [(1, 1), (2, 9), (24, 17)], ids=lambda size: f"{size[0]}x{size[1]}")
def test_any_size(size, num_levels, randomised):
    network = small(randomised, num_levels)
    out = network.denoise(image(*size, batch=2), 25)
    assert out.shape == (2, 1, *size) and torch.isfinite(out).all()
    with pytest.raises(ValueError, match="3 channels"):
        network.denoise(torch.rand(1, 3, *size), 25)


def test_a_network_for_one_level_takes_another_when_told(randomised):
    network = small(randomised, sigma=15)
    noisy = image(12, 10)
    assert torch.equal(network.denoise(noisy), network.denoise(noisy, 15))
    assert not torch.equal(network.denoise(noisy), network.denoise(noisy, 50))


def test_a_blind_network_estimates_the_level_of_each_image(randomised):
    network = small(randomised, sigma=None)
    flat = torch.full((2, 1, 24, 24), 0.5)
    noisy = flat + torch.tensor([5.0, 40.0]).view(2, 1, 1, 1) / 255 * torch.randn(flat.shape)
    with pytest.raises(ValueError, match="no noise estimator to find sigma; give the noise level"):
        network.denoise(noisy)
    told = network.denoise(noisy, 20)
    network.estimator = NENet()
    levels = network.estimate_sigma(noisy)
    assert 1 < levels[0] < 10 < levels[1] < 60
    blind = network.denoise(noisy)
    for number, level in enumerate(levels.tolist()):
        alone = network.denoise(noisy[number : number + 1], level)
        torch.testing.assert_close(blind[number : number + 1], alone, rtol=0, atol=1e-6)
    torch.testing.assert_close(network.denoise(noisy, 20), told, rtol=0, atol=0)
    with pytest.raises(ValueError, match="the image is 5x9.*give the noise level"):
        network.denoise(image(5, 9))
    with pytest.raises(ValueError, match="sigma is missing; a blind network is told"):
        network(noisy)


def test_the_estimator_is_no_part_of_the_weights_until_it_is_set(randomised):
    blind, told = WINNet(**SMALL, sigma=None), WINNet(**SMALL, sigma=25)
    assert blind.state_dict().keys() == told.state_dict().keys()
    count = blind.num_parameters()
    blind.estimator = NENet()
    assert blind.num_parameters() == count  # its own
    randomised(blind)
    told.start_from(blind)
    torch.testing.assert_close(told.denoise(image(9, 9), 30), blind.denoise(image(9, 9), 30), rtol=0, atol=0)


# -- training ---------------------------------------------------------------------------------------------------------


def test_the_loss_is_the_sum_of_its_three_terms(randomised):
    network = small(randomised, 2).double()
    clean, noisy = (image(10, 12, batch=3, dtype=torch.float64, seed=seed) for seed in (0, 1))
    loss, logs = network.training_loss(clean, noisy, 25.0)
    error = (network(noisy, 25.0) - clean).detach()
    half = 0.5 * sum(image.square().sum() for image in error) / 3
    orthogonality = sum(shrink.orthogonality() for shrink in network.shrinkers) / 2
    nets = [net for linn in network.linns for pair in linn for net in (pair.predict, pair.update)]
    spectral = sum(net.spectral_norm() for net in nets) / len(nets)
    torch.testing.assert_close(loss, half + 10 * orthogonality + 0.01 * spectral, rtol=1e-12, atol=0)
    expected = {
        "mse": error.square().mean(), "reconstruction": half, "orthogonality": 10 * orthogonality,
        "spectral": 0.01 * spectral,
    }  # fmt: skip
    assert logs.keys() == expected.keys() and not any(value.requires_grad for value in logs.values())
    for name, value in expected.items():
        torch.testing.assert_close(logs[name], value.detach(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("autocast", [False, True])
def test_every_parameter_learns(autocast, randomised):
    network = small(randomised, 2)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss, logs = network.training_loss(image(12, 12, batch=2), image(12, 12, batch=2, seed=1), 25.0)
    loss.backward()
    assert all(torch.isfinite(p.grad).all() and p.grad.abs().max() > 0 for p in network.parameters())
    if autocast:  # what regularises is computed in full precision
        exact = network.training_loss(image(4, 4), image(4, 4), 25.0)[1]
        assert all(torch.equal(logs[name], exact[name]) for name in ("orthogonality", "spectral"))


def test_a_few_steps_of_training_denoise():
    torch.manual_seed(0)
    network = WINNet(num_pairs=1, num_blocks=1, num_features=8, num_atoms=16, sigma=None)
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
    ramp = torch.linspace(0, 1, 24)
    clean = (ramp[:, None] * ramp.flip(0))[None, None].repeat(4, 1, 1, 1)
    for step in range(40):
        sigma = 20.0 + step % 3 * 10
        noisy = awgn(clean, sigma, torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        network.training_loss(clean, noisy, sigma)[0].backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1)
        optimizer.step()
    for sigma in (20, 40):
        test = awgn(clean[:1], sigma, torch.Generator().manual_seed(1000))
        assert psnr(clean[:1], network.denoise(test, sigma)) > psnr(clean[:1], test) + 3


def test_the_kernel_of_a_block_is_the_block_without_thresholds(randomised):
    block = randomised(ResidualBlock(3, 5, 1)).double()
    x = torch.randn(2, 3, 15, 13, dtype=torch.float64)
    kernel = block.kernel()
    assert kernel.shape == (3, 3, 9, 9)
    expected = block(x, torch.zeros(()))[..., 4:-4, 4:-4]  # inside, where no zero was padded
    torch.testing.assert_close(F.conv2d(x, kernel), expected, rtol=0, atol=1e-12)


def test_the_spectral_norm_is_that_of_the_matrices(randomised):
    net = randomised(PUNet(15, 1, 2, 4, 1))
    norms = [np.linalg.svd(k.kernel().detach().numpy().reshape(4, -1), compute_uv=False)[0] for k in net.layers]
    assert len(norms) == 3 and net.spectral_norm().item() == pytest.approx(sum(norms), rel=1e-5)
    fresh = WINNet(2, **SMALL)
    assert fresh.spectral_norm().item() > 1  # a block is the identity and more


def test_networks_are_compiled_one_by_one(monkeypatch):
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module, **options: compiled.append((module, options)))
    network = WINNet(2, **SMALL)
    assert network.compiled_loss(mode="default") == network.training_loss
    assert [type(module).__name__ for module, _ in compiled] == ["PUNet"] * 8 + ["CLISTA"] * 2
    assert all(options == {"mode": "default"} for _, options in compiled)


def test_the_average_of_weights_keeps_the_split(randomised):
    network = small(randomised)
    average = torch.optim.swa_utils.AveragedModel(
        network, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9), use_buffers=True
    )
    for _ in range(3):
        average.update_parameters(network)
    noisy = image(9, 9)
    torch.testing.assert_close(average.module.denoise(noisy), network.denoise(noisy), rtol=0, atol=1e-6)


def test_a_second_level_starts_fresh(randomised):
    one, two = small(randomised, 1, sigma=15), WINNet(2, **SMALL, sigma=50)
    fresh = {name: value.clone() for name, value in two.state_dict().items()}
    two.start_from(one)
    own, others = two.state_dict(), one.state_dict()
    for name in own:
        assert torch.equal(own[name], others.get(name, fresh[name])), name
    one.name = "teacher"
    with pytest.raises(ValueError, match="teacher does not fit as a start"):
        WINNet(1, **{**SMALL, "num_features": 5}).start_from(one)


def test_bad_options_are_named():
    with pytest.raises(ValueError, match="num_levels is 0; expected 1 or more"):
        WINNet(0)
    with pytest.raises(ValueError, match="boundary is 'zero'; expected one of exact, replicate"):
        WINNet(boundary="zero")


# -- the authors' weights ---------------------------------------------------------------------------------------------


def authors_file(num_levels, level):
    return WEIGHTS / f"WINNet_lvl_{num_levels}_nlvl_{level}" / "net_WINNet.pth"


def read_set12(name):
    return torch.from_numpy(io.imread(MIRROR / "set12" / f"{name}.png")).float()[None, None] / 255


@needs_mirror
@pytest.mark.parametrize("num_levels", [1, 2])
def test_with_the_authors_weights_it_is_the_network_written_out(num_levels):
    network = read_authors_weights(authors_file(num_levels, 25), num_levels, 25)
    assert not network.training and network.sigma == 25
    noisy = awgn(read_set12("02")[..., 60:92, 60:97], 25, torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(network(noisy), written_out(network, noisy, 25.0), rtol=0, atol=1e-5)


@needs_mirror
@pytest.mark.parametrize(("num_levels", "trained", "sigma"), [(1, "25", 25), (2, "50", 50), (1, "0_55", 100)])
def test_the_authors_weights_denoise(num_levels, trained, sigma):
    network = read_authors_weights(authors_file(num_levels, trained), num_levels, None)
    clean = read_set12("02")[..., 60:156, 60:156]
    noisy = awgn(clean, sigma, noise_generator(0, "set12", "02.png", sigma))
    assert psnr(clean, network.denoise(noisy, sigma)) > psnr(clean, noisy) + 9


@needs_mirror
def test_the_authors_weights_give_what_was_measured():
    """On the evaluation's own draw of the noise, to a tenth of what a verdict tells apart. No paper prints these pictures."""
    network = read_authors_weights(authors_file(1, 25), 1, 25)
    measured = {}
    for name in ("01", "02"):
        clean = read_set12(name)
        noisy = awgn(clean, 25, noise_generator(0, "set12", name, 25))
        measured[name] = psnr(clean, network.denoise(noisy))
    assert measured == pytest.approx({"01": 30.115, "02": 33.164}, abs=0.005)


def test_a_file_that_is_not_there_or_not_weights_is_named(tmp_path):
    path = tmp_path / "net.pth"
    with pytest.raises(FileNotFoundError, match="net.pth: no such file"):
        read_authors_weights(path, 1, 25)
    path.write_bytes(b"<html>not found</html>")
    with pytest.raises(ValueError, match=r"net.pth: not the released WINNet weights \(.*fetch the file again"):
        read_authors_weights(path, 1, 25)
    torch.save(WINNet(num_atoms=16).state_dict(), path)
    with pytest.raises(ValueError, match="net.pth: not the released WINNet weights .*size mismatch"):
        read_authors_weights(path, 1, 25)


def test_nothing_in_a_file_is_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "sprung",))

    torch.save({"weight": Trap()}, tmp_path / "net.pth")
    with pytest.raises(ValueError, match="not the released WINNet weights"):
        read_authors_weights(tmp_path / "net.pth", 1, 25)
    assert not (tmp_path / "sprung").exists()


@needs_mirror
def test_a_damaged_or_wrong_file_is_named(tmp_path):
    cut = tmp_path / "cut.pth"
    cut.write_bytes(authors_file(1, 25).read_bytes()[:400_000])
    for path, num_levels in ((cut, 1), (authors_file(1, 25), 2), (WEIGHTS / "NENet" / "net_NENet.pth", 1)):
        with pytest.raises(ValueError, match=f"{path.name}: not the released WINNet weights .*fetch the file again"):
            read_authors_weights(path, num_levels, 25)
