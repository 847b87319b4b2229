"""Likelihood of noisy pictures: the unit, the bound of the noise, densities in closed form, and the protocol."""

from __future__ import annotations

import math

import pytest
import torch

from invdenoise.data.noise import awgn, noise_generator
from invdenoise.data.pictures import load_pictures
from invdenoise.models.fdn import FDN
from invdenoise.tasks.base import Case, evaluate, make_task, read_scores, write_scores
from invdenoise.tasks.likelihood import IndependentGaussian, Likelihood, bits_per_dimension, noise_bits


class Scale:
    """The flow z = gain (y - centre) to a standard normal z, so that y is N(centre, 1 / gain^2). Remembers what it was given."""

    name = "scale"
    card = {"budget": "none", "sha256": ""}

    def __init__(self, gain=1.0, centre=0.0, multiple=1):
        self.gain, self.centre, self.multiple, self.seen = gain, centre, multiple, []

    def log_likelihood(self, noisy, sharper=1.0):
        self.seen.append(noisy)
        gain = sharper * self.gain
        latent = (gain * (noisy.double() - self.centre)).flatten(1)
        return (-0.5 * latent.square() - 0.5 * math.log(2 * math.pi) + math.log(gain)).sum(1)


def score(method, sigmas=(25,), dataset="embedded-colour", **options):
    task = make_task("likelihood.Likelihood")
    return evaluate(task, method, dataset, {"sigma": list(sigmas)}, limit=options.pop("limit", 1), **options)


def on_one_picture(method, noisy, sigma=25.0):
    task, case = Likelihood(), Case("made", {"sigma": sigma}, {"noisy": noisy}, None)
    return task.score(task.run(method, case), case)


# -- the measure ------------------------------------------------------------------------------------------------------


def test_bits_by_hand():
    # The uniform density on [0, 1] is 1: each of 256 steps is as likely, which takes 8 bits. Half the range takes 7.
    assert bits_per_dimension(0.0, 12) == 8
    assert bits_per_dimension(12 * math.log(2), 12) == pytest.approx(7, abs=1e-12)


def test_the_noise_of_one_step_has_the_entropy_of_a_standard_normal():
    assert noise_bits(255 / 256) == pytest.approx(2.0471, abs=1e-4)  # 0.5 log2(2 pi e)
    assert noise_bits(50) - noise_bits(25) == pytest.approx(1)  # twice the noise is a bit more
    # The entropy of N(0, 25 / 255) in nats, -E[log p] by PyTorch, taken to the same unit.
    entropy = torch.distributions.Normal(0.0, torch.tensor(25 / 255, dtype=torch.float64)).entropy().item()
    assert noise_bits(25) == pytest.approx(bits_per_dimension(-entropy, 1), abs=1e-12)


@pytest.mark.parametrize("sigma", [15, 50])
def test_a_model_that_knows_all_but_the_noise_is_at_the_bound_and_others_are_above(sigma):
    clean = torch.full((1, 3, 200, 200), 0.4)
    noisy = awgn(clean, sigma, torch.Generator().manual_seed(0))
    found = on_one_picture(Scale(255 / sigma, 0.4), noisy, sigma)
    # The mean of 120,000 values of z^2 / 2 has a standard deviation of 0.002 nats.
    assert found["bits_per_dimension"] == pytest.approx(found["noise_bits"], abs=0.01)
    for other in (Scale(1.3 * 255 / sigma, 0.4), Scale(255 / sigma / 1.3, 0.4), Scale(255 / sigma, 0.45)):
        assert on_one_picture(other, noisy, sigma)["bits_per_dimension"] > found["noise_bits"] + 0.02


def test_the_density_of_a_flow_in_closed_form():
    noisy = torch.tensor([[0.0, 1.0], [0.5, -0.5]]).view(1, 1, 2, 2)
    # z = 2 y, so -log p is the sum of z^2 / 2, (0 + 4 + 1 + 1) / 2, and four times log(2 pi) / 2 - log 2.
    nats = 3 + 2 * math.log(2 * math.pi) - 4 * math.log(2)
    found = on_one_picture(Scale(2.0), noisy)
    assert found["bits_per_dimension"] == pytest.approx(nats / 4 / math.log(2) + 8, abs=1e-9)
    assert found["num_dimensions"] == 4


# -- independent Gaussian ---------------------------------------------------------------------------------------------


def test_gaussian_is_the_density_at_its_own_moments():
    torch.manual_seed(0)
    noisy = torch.rand(2, 3, 5, 7)
    expected = []
    for picture in noisy.double():
        normal = [torch.distributions.Normal(channel.mean(), channel.std(correction=0)) for channel in picture]
        expected.append(sum(p.log_prob(channel).sum() for p, channel in zip(normal, picture, strict=True)))
    torch.testing.assert_close(IndependentGaussian().log_likelihood(noisy), torch.stack(expected))


def test_gaussian_agrees_with_the_entropy_of_what_it_is_given():
    torch.manual_seed(0)
    spreads = torch.tensor([0.05, 0.1, 0.3])
    noisy = 0.5 + spreads.view(1, 3, 1, 1) * torch.randn(1, 3, 150, 150)
    found = on_one_picture(IndependentGaussian(), noisy)["bits_per_dimension"]
    entropies = [0.5 * math.log2(2 * math.pi * math.e * (256 * spread) ** 2) for spread in spreads.tolist()]
    assert found == pytest.approx(sum(entropies) / 3, abs=0.01)


def test_gaussian_of_a_flat_picture_is_favoured_by_a_nat_a_channel():
    torch.manual_seed(0)
    flat = 0.5 + 0.1 * torch.randn(4000, 1, 8, 8)
    bits = -IndependentGaussian().log_likelihood(flat).mean().item() / 64 / math.log(2) + 8
    assert noise_bits(25.5) - bits == pytest.approx(1.44 / 64, abs=0.006)


def test_gaussian_of_a_constant_channel_has_no_bound():
    noisy = torch.rand(1, 3, 4, 4)
    noisy[:, 1] = 0.5
    with pytest.raises(ValueError, match="gaussian: a channel is constant.*add noise"):
        IndependentGaussian().log_likelihood(noisy)


# -- the task ---------------------------------------------------------------------------------------------------------


def test_a_row_a_picture_and_level(tmp_path):
    method = make_task("likelihood.Likelihood").load("gaussian")
    scores = score(method, [15, 50], limit=2, seed=3)
    assert scores["sigma"].tolist() == [15, 15, 50, 50] and set(scores["method"]) == {"gaussian"}
    assert scores["noise_bits"].tolist() == 2 * [noise_bits(15)] + 2 * [noise_bits(50)]
    assert (scores["bits_per_dimension"] > scores["noise_bits"] + 0.1).all()
    assert scores["num_dimensions"].tolist() == 4 * [3 * 192 * 192]
    write_scores(scores, tmp_path / "scores.csv")
    read = read_scores(tmp_path)
    assert read["bits_per_dimension"].tolist() == pytest.approx(scores["bits_per_dimension"].tolist(), rel=1e-5)


@pytest.mark.parametrize("dataset", ["embedded", "embedded-colour"])
def test_noise_is_that_of_the_table_of_denoising(dataset):
    method = Scale()
    score(method, [50], dataset, seed=4)
    picture = load_pictures(dataset, limit=1).pictures[0]
    expected = awgn(picture.tensor(), 50, noise_generator(4, dataset, picture.name, 50))
    denoised = next(make_task("awgn.Denoise").cases(load_pictures(dataset, limit=1), 4, 50)).given["noisy"]
    assert torch.equal(method.seen[-1], expected) and torch.equal(expected, denoised)
    assert expected.min() < 0 and expected.max() > 1  # not clipped


def test_a_picture_is_cropped_at_the_bottom_and_right_and_not_padded():
    noisy = torch.rand(1, 1, 11, 14)
    method = Scale(multiple=4)
    found = on_one_picture(method, noisy)
    assert torch.equal(method.seen[0], noisy[..., :8, :12]) and found["num_dimensions"] == 96
    assert found["bits_per_dimension"] == on_one_picture(Scale(), noisy[..., :8, :12])["bits_per_dimension"]
    with pytest.raises(ValueError, match="made has 11x14 pixels; scale needs 12 or more a side"):
        on_one_picture(Scale(multiple=12), noisy)


def test_options_reach_the_method():
    default, sharper = (score(Scale(), options=options)["bits_per_dimension"][0] for options in ({}, {"sharper": 2.0}))
    assert score(Scale(2.0))["bits_per_dimension"][0] == sharper != default


def test_a_flow_network_is_scored_without_gradients():
    torch.manual_seed(0)
    network = FDN(num_blocks=1, num_steps=1)
    network.name = "fdn"
    noisy = 0.5 + 0.1 * torch.randn(1, 3, 17, 14)
    network.initialise(noisy[..., :16, :])
    found = on_one_picture(network, noisy)
    nats = -network.log_likelihood(noisy[..., :16, :]).item()
    assert found["num_dimensions"] == 3 * 16 * 14
    assert found["bits_per_dimension"] == pytest.approx(nats / (3 * 16 * 14) / math.log(2) + 8, abs=1e-5)
    # Actnorm makes unit variances of white noise, so even one step is close to the Gaussian.
    assert found["bits_per_dimension"] == pytest.approx(noise_bits(25.5), abs=0.3)


def test_gradients_are_off():
    class Watching(Scale):
        def log_likelihood(self, noisy):
            assert not torch.is_grad_enabled()
            return super().log_likelihood(noisy)

    assert len(score(Watching())) == 1


@pytest.mark.parametrize(
    ("change", "sigmas", "message"),
    [
        ({"log_likelihood": None}, [25], r"scale has no log_likelihood\(...\), which this task calls.*gaussian"),
        ({"precision": "bfloat16"}, [25], "scale is in bfloat16, .*set precision: float32"),
        ({}, [25, 0], "sigma is 0; expected more"),
        ({}, [300], "sigma is 300; expected a noise level"),
        ({}, [], "condition 'sigma' of likelihood.Likelihood has no value"),
    ],
)
def test_what_cannot_be_scored_is_refused_before_anything_runs(change, sigmas, message):
    method = Scale()
    for key, value in change.items():
        setattr(method, key, value)
    with pytest.raises(ValueError, match=message):
        score(method, sigmas)
    assert not method.seen


def test_wrong_channels_shapes_and_names_are_named():
    method = Scale()
    method.channels = 3
    with pytest.raises(ValueError, match="scale: the image has 1 channels; this method takes 3 channels"):
        score(method, dataset="embedded")
    method.log_likelihood = lambda noisy: torch.zeros(())
    with pytest.raises(
        ValueError, match=r"log_likelihood of scale has shape \(\); expected one value a picture, \(1,\)"
    ):
        score(method)
    with pytest.raises(ValueError, match="no denoiser 'gausian'.*Models of this task: gaussian"):
        make_task("likelihood.Likelihood").load("gausian")
