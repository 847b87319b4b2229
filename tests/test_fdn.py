"""FDN's layers and network: round trips, log-determinants, initialisation, sizes, losses, samples."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from invdenoise.layers.coupling import AffineCoupling, HaarDownsampling, Squeeze
from invdenoise.layers.flow import ActNorm, InvertibleConv1x1, SigmoidCoupling, haar_rotation
from invdenoise.layers.invertible import InvertibleSequence
from invdenoise.models.base import count_macs
from invdenoise.models.fdn import FDN

SMALL = dict(num_blocks=2, num_steps=2)


def random_network(seed=0, **options) -> FDN:
    """A small network whose layers all do something."""
    torch.manual_seed(seed)
    network = FDN(**{**SMALL, **options})
    for name, parameter in network.named_parameters():
        if "last" in name or name.endswith(("log_scale", "shift")):
            nn.init.normal_(parameter, std=0.05)
    return network


def numerical_log_det(function, x):
    jacobian = torch.autograd.functional.jacobian(lambda flat: function(flat.view_as(x)).flatten(), x.flatten())
    return torch.linalg.slogdet(jacobian).logabsdet


# --- Layers


def busy(layer):
    torch.manual_seed(2)
    layer = layer.double()
    for name, parameter in layer.named_parameters():
        nn.init.normal_(parameter, std=0.05 if "phi" in name else 0.3)
    return layer


@pytest.mark.parametrize("kind", [ActNorm, InvertibleConv1x1, SigmoidCoupling])
def test_layers_come_back_and_have_the_log_det_of_their_jacobian(kind):
    layer = busy(kind(12))
    x = torch.randn(2, 12, 2, 3, dtype=torch.float64)
    (y,), log_det = layer.forward_log_det(x)
    assert (y - x).abs().mean() > 0.1
    torch.testing.assert_close(layer.inverse(y)[0], x, rtol=0, atol=1e-9)
    wanted = torch.stack([numerical_log_det(lambda one: layer(one)[0], one[None]) for one in x])
    torch.testing.assert_close(log_det, wanted, rtol=0, atol=1e-9)
    torch.testing.assert_close(layer.log_det(x), log_det)


def test_actnorm_follows_the_equation_and_normalises_what_it_was_initialised_with():
    layer = ActNorm(3)
    x = torch.randn(4, 3, 8, 8) * torch.tensor([1.0, 5.0, 0.1]).view(1, 3, 1, 1) + 2
    assert torch.equal(layer(x)[0], x)
    layer.initialise(x)
    (y,) = layer(x)
    torch.testing.assert_close(y.mean((0, 2, 3)), torch.zeros(3), rtol=0, atol=1e-4)
    torch.testing.assert_close(y.var((0, 2, 3), correction=0), torch.ones(3))
    torch.testing.assert_close(y, layer.log_scale.exp() * x + layer.shift)


def test_actnorm_takes_a_channel_that_is_constant():
    layer = ActNorm(2)
    x = torch.stack([torch.full((3, 4, 4), 0.5), torch.rand(3, 4, 4)], 1)
    layer.initialise(x)
    (y,) = layer(x)
    assert torch.isfinite(y).all() and y[:, 0].abs().max() == 0


def test_convolution_starts_as_a_rotation_and_mixes_each_pixel_alike():
    torch.manual_seed(0)
    layer = InvertibleConv1x1(12)
    torch.testing.assert_close(layer.matrix @ layer.matrix.T, torch.eye(12), rtol=0, atol=1e-6)
    assert not torch.allclose(layer.matrix, InvertibleConv1x1(12).matrix)
    x = torch.randn(1, 12, 3, 5)
    torch.testing.assert_close(layer(x)[0], torch.einsum("ij,bjhw->bihw", layer.matrix, x))


def test_the_haar_start_is_the_transform_of_the_squeezed_pixels():
    x = torch.rand(1, 3, 8, 12)
    (squeezed,) = Squeeze()(x)
    (y,) = InvertibleConv1x1(12, haar_rotation(12))(squeezed)
    torch.testing.assert_close(y, 2 * HaarDownsampling()(x)[0])  # ours is scaled to keep the range
    torch.testing.assert_close(haar_rotation(48) @ haar_rotation(48).T, torch.eye(48))


def test_a_fresh_network_that_starts_from_haar_drops_the_finest_diagonal_detail():
    network = FDN(num_blocks=1, num_steps=2, start="haar")
    x = torch.rand(1, 3, 8, 8)
    (bands,) = HaarDownsampling()(x)
    bands[:, 9:] = 0
    torch.testing.assert_close(network(x), HaarDownsampling().inverse(bands)[0])


def test_convolution_stays_in_float32_under_autocast():
    layer = InvertibleConv1x1(12)
    x = torch.randn(1, 12, 4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        (y,) = layer(x)
        (back,) = layer.inverse(y)
    assert y.dtype == torch.float32
    torch.testing.assert_close(back, x, rtol=0, atol=1e-5)


def test_sigmoid_coupling_scales_by_less_than_one():
    layer = SigmoidCoupling(12)
    x = torch.ones(1, 12, 2, 2)
    torch.testing.assert_close(layer(x)[0][:, 3:], torch.full((1, 9, 2, 2), 1 / (1 + math.exp(-2))))
    nn.init.constant_(layer.phi3.last.bias, 50.0)
    assert layer(x)[0][:, 3:].max() <= 1


@pytest.mark.parametrize("kind", [AffineCoupling, SigmoidCoupling])
def test_gradients_with_constant_memory_are_those_of_ordinary_backpropagation(kind):
    layers = InvertibleSequence(
        [ActNorm(12), InvertibleConv1x1(12), kind(12, "dense"), busy(kind(12, "dense"))]
    ).double()
    x = torch.randn(2, 12, 4, 4, dtype=torch.float64)
    found = []
    for constant_memory in (False, True):
        layers.constant_memory = constant_memory
        leaf = x.clone().requires_grad_()
        (state,), log_det = layers.forward_log_det(leaf)
        (back,) = layers.inverse(state * 0.9)
        (state.square().sum() + (log_det * torch.tensor([1.0, -3.0])).sum() + back.pow(3).sum()).backward()
        found.append([leaf.grad, *(p.grad.clone() for p in layers.parameters())])
        layers.zero_grad()
    for ordinary, constant in zip(*found, strict=True):
        torch.testing.assert_close(constant, ordinary, rtol=1e-7, atol=1e-9)
    assert found[0][1].abs().max() > 0


# --- Network


def test_size_and_cost_are_those_of_the_paper():
    network = FDN()
    assert network.num_parameters() == 4_375_680  # Table V: 4.38 M
    # Both passes. The report counts without data, on PyTorch's meta device.
    assert count_macs(network.to("meta")) == pytest.approx(76.80e9, rel=0.01)


@pytest.mark.parametrize(
    "options", [{}, {"scale": "sigmoid"}, {"num_blocks": 1}, {"num_blocks": 3, "num_steps": 1}], ids=str
)
def test_decode_undoes_encode(options):
    network = random_network(**options)
    network.initialise(torch.rand(4, 3, 16, 24))
    x = torch.rand(2, 3, 16, 24)
    z = network.encode(x)
    side = 2 ** options.get("num_blocks", 2)
    assert z.shape == (2, 3 * side**2, 16 // side, 24 // side)
    torch.testing.assert_close(network.decode(z), x, rtol=0, atol=1e-4)


def test_likelihood_is_that_of_the_change_of_variables():
    network = random_network(num_steps=1).double()
    x = torch.rand(2, 3, 4, 4, dtype=torch.float64)
    z = network.encode(x)
    prior = torch.distributions.Normal(0, 1).log_prob(z).flatten(1).sum(1)
    wanted = [prior[i] + numerical_log_det(network.encode, x[i : i + 1]) for i in range(2)]
    torch.testing.assert_close(
        network.log_likelihood(x), torch.stack(wanted), rtol=0, atol=1e-4
    )  # the prior is summed in float32


def test_denoising_drops_the_noise_channels_of_the_latent_and_nothing_else():
    network = random_network()
    x = torch.rand(1, 3, 16, 16)
    z = network.encode(x)
    changed = z.clone()
    changed[:, 36:] = torch.randn(1, 12, 4, 4)
    expected = network(x)
    torch.testing.assert_close(network(network.decode(changed)), expected, rtol=0, atol=1e-4)
    changed[:, 0] += 1
    assert (network(network.decode(changed)) - expected).abs().max() > 0.01


@pytest.mark.parametrize("share", [1 / 8, 1 / 4, 1 / 2, 3 / 4, 7 / 8])
@pytest.mark.parametrize("mask", ["last", "spread"])
def test_the_mask_has_the_share_that_was_asked_for(share, mask):
    kept = FDN(num_steps=1, clean_share=share, mask=mask).mask.flatten()
    assert kept.sum() == 48 * share and set(kept.tolist()) == {0.0, 1.0}
    if mask == "last":
        assert kept[: int(48 * share)].all()
    else:  # every stretch of 8 channels has its share
        assert (kept.view(6, 8).sum(1) == 8 * share).all()


@pytest.mark.parametrize("size", [(1, 1), (5, 7), (16, 18)])
def test_any_size_is_denoised(size):
    x = torch.rand(1, 3, *size)
    denoised = random_network().denoise(x)
    assert denoised.shape == x.shape and torch.isfinite(denoised).all()


def test_training_initialises_once_and_from_noisy_pictures():
    network = random_network()
    clean, noisy = torch.rand(4, 3, 16, 16), torch.rand(4, 3, 16, 16)
    network.training_loss(clean, noisy)
    z = network.flow.layers[1](network.flow.layers[0](noisy)[0])[0]  # squeeze and the first actnorm
    torch.testing.assert_close(z.mean((0, 2, 3)), torch.zeros(12), rtol=0, atol=1e-4)
    before = copy.deepcopy(network.state_dict())
    network.training_loss(clean, 3 * noisy)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_a_network_that_was_read_from_a_file_is_not_initialised_again():
    trained, fresh = random_network(), FDN(**SMALL)
    batch = torch.rand(4, 3, 16, 16)
    trained.training_loss(batch, batch)
    fresh.load_state_dict(trained.state_dict())
    fresh.training_loss(batch, 3 * batch)
    torch.testing.assert_close(fresh.flow.layers[1].log_scale, trained.flow.layers[1].log_scale, rtol=0, atol=0)


def test_initialised_survives_a_running_average_of_weights():
    network = random_network()
    average = torch.optim.swa_utils.AveragedModel(
        network, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.995), use_buffers=True
    )
    batch = torch.rand(2, 3, 8, 8)
    network.training_loss(batch, batch)
    for _ in range(50):
        average.update_parameters(network)
    assert average.module.initialised > 0.99
    torch.testing.assert_close(average.module.mask, network.mask)


def test_the_loss_has_the_two_terms_of_the_paper():
    network = random_network(distribution_weight=0.25, reconstruction_weight=2.0)
    clean, noisy = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8)
    loss, parts = network.training_loss(clean, noisy)
    torch.testing.assert_close(parts["reconstruction_loss"], (network(noisy) - clean).abs().mean())
    torch.testing.assert_close(parts["distribution_loss"], -network.log_likelihood(noisy).mean() / 192)
    torch.testing.assert_close(loss.detach(), 0.25 * parts["distribution_loss"] + 2 * parts["reconstruction_loss"])


def test_dequantising_spreads_the_input_over_one_grey_level():
    network = random_network(dequantise=True)
    seen = []
    flow = network.flow.forward_log_det
    network.flow.forward_log_det = lambda x: (seen.append(x), flow(x))[1]
    noisy = torch.full((2, 3, 16, 16), 0.5)
    network.training_loss(noisy, noisy)
    spread = (seen[0] - noisy) * 255
    assert spread.abs().max() <= 0.5 and spread.std() == pytest.approx(12**-0.5, rel=0.1)


def test_training_learns_the_density_and_to_denoise():
    torch.manual_seed(0)
    network = FDN(num_blocks=1, num_steps=2, distribution_weight=0.01)
    optimiser = torch.optim.Adam(network.parameters(), 2e-3)
    clean = torch.rand(16, 3, 1, 1).expand(-1, -1, 8, 8)
    first = last = None
    for _ in range(40):
        noisy = clean + 0.1 * torch.randn(clean.shape)
        loss, parts = network.training_loss(clean, noisy)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        first, last = first or parts, parts
    assert last["distribution_loss"] < first["distribution_loss"] - 0.1
    assert last["reconstruction_loss"] < 0.8 * first["reconstruction_loss"]


def test_samples_are_of_the_temperature_and_of_the_seed():
    network = random_network()
    one, same, other = (network.sample((2, 8, 12), seed=seed) for seed in (1, 1, 2))
    assert one.shape == (2, 3, 8, 12) and torch.equal(one, same) and not torch.equal(one, other)
    z = network.encode(network.sample((4, 16, 16), temperature=0.5, seed=0))
    assert z.std().item() == pytest.approx(0.5, rel=0.1)
    with pytest.raises(ValueError, match=r"shape is \(1, 6, 8\).*multiples of 4"):
        network.sample((1, 6, 8))
    with pytest.raises(ValueError, match="temperature is -1"):
        network.sample((1, 8, 8), temperature=-1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask": "first"}, "mask is 'first'; expected one of last, spread"),
        ({"start": "zero"}, "start is 'zero'; expected one of random, haar"),
        ({"scale": "exp"}, "scale is 'exp'; expected one of bounded, sigmoid"),
        ({"num_steps": 0}, "num_steps is 0; expected 1 or more"),
        ({"clean_share": 1.0}, "clean_share is 1.0; expected between 0 and 1"),
        ({"distribution_weight": -1.0}, "distribution_weight is -1.0; expected 0 or more"),
        ({"reconstruction_weight": math.nan}, "reconstruction_weight is nan"),
    ],
    ids=str,
)
def test_wrong_settings_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        FDN(**options)
