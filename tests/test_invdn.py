"""InvDN's layers and network: round trips, log-determinants, sizes, losses, draws."""

from __future__ import annotations

import math

import pytest
import pywt
import torch
from torch import nn

from invdenoise.layers.coupling import AffineCoupling, DenseSubnet, HaarDownsampling, ResidualSubnet, Squeeze
from invdenoise.layers.invertible import Invertible, InvertibleSequence
from invdenoise.models.invdn import InvDN, dissimilarity, gradient_distance

SMALL = dict(num_levels=2, num_blocks=2)


def random_network(seed=0, **options) -> InvDN:
    torch.manual_seed(seed)
    return InvDN(**{**SMALL, "identity_start": False, **options})


def numerical_log_det(layer, x):
    jacobian = torch.autograd.functional.jacobian(lambda flat: layer(flat.view_as(x))[0].flatten(), x.flatten())
    return torch.linalg.slogdet(jacobian).logabsdet


# --- Layers


@pytest.mark.parametrize("kind", [HaarDownsampling, Squeeze])
def test_downsampling_halves_the_size_and_comes_back(kind):
    x = torch.randn(2, 3, 6, 10, dtype=torch.float64)
    (y,) = kind()(x)
    assert y.shape == (2, 12, 3, 5)
    torch.testing.assert_close(kind().inverse(y)[0], x, rtol=0, atol=1e-12)


def test_haar_is_that_of_pywavelets_scaled_to_keep_the_range():
    x = torch.rand(1, 3, 8, 6, dtype=torch.float64)
    (y,) = HaarDownsampling()(x)
    LL, (LH, HL, HH) = pywt.dwt2(x.numpy(), "haar", axes=(-2, -1))
    # PyWavelets names a subband by the axis along which it is rough; its filters are sqrt(2) larger along each axis.
    for ours, theirs in zip(y.chunk(4, 1), (LL, HL, LH, HH), strict=True):
        torch.testing.assert_close(ours, torch.from_numpy(theirs) / 2, rtol=0, atol=1e-12)
    torch.testing.assert_close(y[:, :3], torch.nn.functional.avg_pool2d(x, 2), rtol=0, atol=1e-12)


def test_squeeze_keeps_every_pixel_in_its_place():
    x = torch.arange(16.0).view(1, 1, 4, 4)
    (y,) = Squeeze()(x)
    assert y[0, :, 0, 0].tolist() == [0, 1, 4, 5]
    assert y[0, :, 1, 1].tolist() == [10, 11, 14, 15]


@pytest.mark.parametrize("size", [(3, 4), (4, 5)])
def test_an_odd_size_says_so(size):
    with pytest.raises(ValueError, match="expected even numbers"):
        HaarDownsampling()(torch.zeros(1, 3, *size))


@pytest.mark.parametrize(
    "layer",
    [
        HaarDownsampling(),
        Squeeze(),
        AffineCoupling(12, "residual", identity_start=False),
        AffineCoupling(12, "dense", identity_start=False),
    ],
    ids=["haar", "squeeze", "residual", "dense"],
)
def test_log_det_is_that_of_the_numerical_jacobian(layer):
    torch.manual_seed(1)
    layer = layer.double()
    x = torch.randn(1, 12, 2, 2, dtype=torch.float64)
    state, log_det = layer.forward_log_det(x)
    torch.testing.assert_close(log_det[0], numerical_log_det(layer, x), rtol=0, atol=1e-9)
    torch.testing.assert_close(layer.log_det(x), log_det)
    torch.testing.assert_close(state[0], layer(x)[0])


def test_coupling_follows_the_equations():
    torch.manual_seed(0)
    layer = AffineCoupling(12, identity_start=False).double()
    x = torch.randn(1, 12, 4, 4, dtype=torch.float64)
    a = x[:, :3] + layer.phi2(x[:, 3:])
    s = 2 * torch.sigmoid(layer.phi3(a)) - 1
    b = x[:, 3:] * torch.exp(s) + layer.phi4(a)
    torch.testing.assert_close(layer(x)[0], torch.cat([a, b], 1), rtol=0, atol=1e-12)


def test_coupling_scales_within_its_bounds_whatever_the_subnet_says():
    layer = AffineCoupling(12)
    nn.init.constant_(layer.phi3.last.bias, 1e4)
    low, high = torch.zeros(1, 3, 2, 2), torch.ones(1, 9, 2, 2)
    (y,) = layer(torch.cat([low, high], 1))
    torch.testing.assert_close(y[:, 3:], math.e * high)
    torch.testing.assert_close(layer.inverse(y)[0][:, 3:], high)


def test_fresh_coupling_is_the_identity():
    x = torch.randn(1, 12, 4, 4)
    for subnet in ("residual", "dense"):
        assert torch.equal(AffineCoupling(12, subnet)(x)[0], x)


def test_wrong_settings_of_a_coupling_are_named():
    with pytest.raises(ValueError, match="subnet is 'deep'"):
        AffineCoupling(12, "deep")
    with pytest.raises(ValueError, match="num_channels is 3"):
        AffineCoupling(3)


@pytest.mark.parametrize(("subnet", "count"), [(ResidualSubnet, 44_150), (DenseSubnet, 69_494)])
def test_subnet_has_the_size_of_the_released_code(subnet, count):
    assert sum(p.numel() for p in subnet(9, 3).parameters()) == count


# --- Network


@pytest.mark.parametrize(("subnet", "count"), [("residual", 2_640_960), ("dense", 4_355_136)])
def test_network_has_the_size_of_the_paper(subnet, count):
    assert InvDN(subnet=subnet).num_parameters() == count


@pytest.mark.parametrize("options", [{}, {"downsampling": "squeeze"}, {"subnet": "dense"}, {"num_levels": 3}], ids=str)
def test_decode_undoes_encode(options):
    network = random_network(**options)
    x = torch.rand(2, 3, 16, 24)
    low, latent = network.encode(x)
    factor = 2 ** options.get("num_levels", 2)
    assert low.shape == (2, 3, 16 // factor, 24 // factor)
    assert latent.shape == (2, 3 * factor**2 - 3, 16 // factor, 24 // factor)
    torch.testing.assert_close(network.decode(low, latent), x, rtol=0, atol=1e-4)


def test_fresh_network_reduces_by_averaging_and_puts_all_detail_into_the_latent():
    x = torch.rand(1, 3, 8, 8)
    low, _ = InvDN(**SMALL).encode(x)
    torch.testing.assert_close(low, torch.nn.functional.avg_pool2d(x, 4))
    denoised = InvDN(**SMALL).denoise(x)
    torch.testing.assert_close(denoised, torch.nn.functional.interpolate(low, scale_factor=4))


@pytest.mark.parametrize("size", [(1, 1), (5, 7), (16, 18)])
def test_any_size_is_denoised(size):
    x = torch.rand(1, 3, *size)
    denoised = random_network().denoise(x)
    assert denoised.shape == x.shape
    assert torch.isfinite(denoised).all()


def test_gray_pictures_are_refused():
    with pytest.raises(ValueError, match="3"):
        random_network().denoise(torch.rand(1, 1, 8, 8))


def test_mean_of_draws_is_reproducible_and_is_the_mean():
    network = random_network(latent_scale=0.3)
    x = torch.rand(1, 3, 8, 8)
    first = network.estimate(x, None, samples=3, seed=5)
    assert torch.equal(first, network.estimate(x, None, samples=3, seed=5))
    assert not torch.equal(first, network.estimate(x, None, samples=3, seed=9))
    low, _ = network.encode(x)
    by_hand = torch.stack([network.decode(low, network.draw_latent(x, seed)) for seed in (5, 6, 7)]).mean(0)
    torch.testing.assert_close(first, by_hand)
    assert not torch.equal(network.estimate(x, None, samples=1), network.estimate(x, None, samples=1))


def test_a_draw_has_the_latents_shape_and_scale():
    network = random_network(latent_scale=0.25)
    x = torch.rand(4, 3, 64, 64)
    draw = network.draw_latent(x, seed=0)
    assert draw.shape == network.encode(x)[1].shape
    assert draw.std().item() == pytest.approx(0.25, rel=0.02)


def test_flips_make_the_result_follow_the_picture():
    network = random_network()
    x = torch.rand(1, 3, 8, 12)
    denoised = network.denoise(x, flips=True)
    torch.testing.assert_close(network.denoise(x.flip(-1), flips=True), denoised.flip(-1), rtol=0, atol=1e-5)
    torch.testing.assert_close(network.denoise(x.mT, flips=True), denoised.mT, rtol=0, atol=1e-5)
    assert not torch.allclose(network.denoise(x.flip(-1)), network.denoise(x).flip(-1), atol=1e-3)


def test_generated_noise_grows_with_epsilon_and_vanishes_at_zero():
    network = random_network()
    x = torch.rand(1, 3, 9, 8)
    torch.testing.assert_close(network.generate(x, 0.0), x, rtol=0, atol=1e-4)
    small, large = (network.generate(x, epsilon, seed=3) - x for epsilon in (0.01, 0.02))
    assert small.shape == x.shape
    assert (large.norm() / small.norm()).item() == pytest.approx(2, rel=0.05)
    assert not torch.equal(network.generate(x, 0.01, seed=4), network.generate(x, 0.01, seed=3))


# --- Losses


def test_losses_of_a_fresh_network_by_hand():
    torch.manual_seed(0)
    clean = torch.rand(2, 3, 16, 16)
    noisy = clean + 0.1 * torch.randn_like(clean)
    loss, logs = InvDN(**SMALL, latent_scale=0).training_loss(clean=clean, noisy=noisy)
    low = torch.nn.functional.avg_pool2d(noisy, 4)
    target = torch.nn.functional.interpolate(clean, scale_factor=0.25, mode="bicubic", antialias=True)
    restored = torch.nn.functional.interpolate(low, scale_factor=4)
    forward, backward = ((low - target) ** 2).mean(), (((restored - clean) ** 2) + 1e-3).sqrt().mean()
    torch.testing.assert_close(logs, {"forward_loss": forward, "backward_loss": backward})
    torch.testing.assert_close(loss.detach(), forward + backward)


@pytest.mark.parametrize(("forward_norm", "backward_norm"), [("l1", "l1"), ("l2", "l2"), ("l2", "l1")])
def test_norms_of_table_4(forward_norm, backward_norm):
    clean, noisy = torch.zeros(1, 3, 8, 8), torch.full((1, 3, 8, 8), 0.5)
    options = dict(latent_scale=0, forward_norm=forward_norm, backward_norm=backward_norm)
    _, logs = InvDN(**SMALL, **options).training_loss(clean=clean, noisy=noisy)
    value = {"l1": math.sqrt(0.25 + 1e-3), "l2": 0.25}
    assert logs["forward_loss"].item() == pytest.approx(value[forward_norm], rel=1e-5)
    assert logs["backward_loss"].item() == pytest.approx(value[backward_norm], rel=1e-5)


def test_further_terms_are_added_with_their_weights():
    torch.manual_seed(0)
    clean = torch.rand(1, 3, 16, 16)
    plain, _ = InvDN(**SMALL, latent_scale=0).training_loss(clean=clean, noisy=clean)
    network = InvDN(**SMALL, latent_scale=0, gradient_weight=0.5, ssim_weight=2.0)
    both, _ = network.training_loss(clean=clean, noisy=clean)
    restored = network(clean)
    expected = plain + 0.5 * gradient_distance(restored, clean) + 2 * dissimilarity(restored, clean)
    torch.testing.assert_close(both, expected)


def test_gradient_distance_of_a_ramp():
    ramp = 0.1 * torch.arange(6.0).repeat(6, 1)[None, None]
    # Sobel sums 1 + 2 + 1 differences over two pixels along the width, and none along the height.
    assert gradient_distance(ramp, torch.zeros_like(ramp)).item() == pytest.approx(0.8 / 2, rel=1e-5)


def test_dissimilarity_is_zero_for_equal_and_large_for_inverted_pictures():
    x = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert dissimilarity(x, x).item() == pytest.approx(0, abs=1e-5)
    assert dissimilarity(x, 1 - x).item() > 0.8


def test_a_few_steps_lower_the_loss():
    torch.manual_seed(0)
    clean = torch.rand(2, 3, 1, 1).expand(2, 3, 16, 16) * torch.linspace(0, 1, 16)
    noisy = clean + 0.1 * torch.randn(2, 3, 16, 16)
    network = InvDN(**SMALL, latent_scale=0.02)
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    losses = []
    for _ in range(15):
        loss, _ = network.training_loss(clean=clean, noisy=noisy)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]


def test_constant_memory_has_the_same_gradients():
    torch.manual_seed(0)
    clean = torch.rand(1, 3, 16, 16).double()
    usual, recomputed = (
        random_network(latent_scale=0, constant_memory=constant).double() for constant in (False, True)
    )
    for network in (usual, recomputed):
        network.training_loss(clean=clean, noisy=clean)[0].backward()
    for ours, theirs in zip(recomputed.parameters(), usual.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("method", ["forward", "inverse"])
def test_going_back_evaluates_each_subnet_once(method):
    torch.manual_seed(0)
    layer = AffineCoupling(12, identity_start=False).double()
    (outputs,) = getattr(layer, method)(torch.randn(2, 12, 4, 4).double())
    calls = []
    for name in ("phi2", "phi3", "phi4"):
        getattr(layer, name).register_forward_hook(lambda *_, name=name: calls.append(name))
    grads = torch.randn_like(outputs)
    once = layer.backward_from(method, (outputs.detach(),), (grads,))
    assert sorted(calls) == ["phi2", "phi3", "phi4"]
    twice = Invertible.backward_from(layer, method, (outputs.detach(),), (grads,))
    assert len(calls) == 9
    for ours, theirs in zip(once[:2], twice[:2], strict=True):
        torch.testing.assert_close(ours[0], theirs[0])
    assert set(once[2]) == set(twice[2]) == set(layer.parameters())
    for parameter, gradient in once[2].items():
        torch.testing.assert_close(gradient, twice[2][parameter])


def test_constant_memory_stores_the_same_whatever_the_depth():
    def stored(num_blocks):
        network = random_network(num_blocks=num_blocks, constant_memory=True, latent_scale=0)
        sizes: dict[int, int] = {}
        parameters = {p.data_ptr() for p in network.parameters()}

        def keep(tensor):
            if tensor.data_ptr() not in parameters:
                sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        clean = torch.rand(1, 3, 16, 16)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            network.training_loss(clean=clean, noisy=clean)
        return sum(sizes.values())

    assert stored(4) <= 1.01 * stored(1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"downsampling": "pool"}, "downsampling is 'pool'"),
        ({"forward_norm": "l3"}, "forward_norm is 'l3'"),
        ({"num_levels": 0}, "num_levels is 0"),
        ({"num_blocks": 0}, "num_blocks is 0"),
        ({"latent_scale": -1}, "latent_scale is -1"),
    ],
)
def test_wrong_settings_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        InvDN(**options)


def test_negative_number_of_samples_is_refused():
    with pytest.raises(ValueError, match="samples is -1"):
        random_network().denoise(torch.rand(1, 3, 8, 8), samples=-1)


def test_whole_flow_has_the_sum_of_log_dets():
    network = random_network(num_levels=1, num_blocks=1).double()
    x = torch.randn(1, 3, 4, 4, dtype=torch.float64)
    assert isinstance(network.flow, InvertibleSequence)
    torch.testing.assert_close(network.flow.log_det(x)[0], numerical_log_det(network.flow, x), rtol=0, atol=1e-8)
