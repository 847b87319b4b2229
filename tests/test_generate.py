"""Generated noise: AKLD against its closed forms, what it rewards, models of noise, and the task."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from invdenoise.data import pictures as datasets
from invdenoise.data.noise_models import fit_affine_variance, poisson_gaussian, resampled, variance, white_gaussian
from invdenoise.tasks.base import evaluate, make_task, read_scores, summarise, write_scores
from invdenoise.tasks.generate import (
    NOISE_MODELS,
    WINDOW,
    akld,
    akld_floor,
    correlation,
    divergence,
    strength,
    variance_map,
)

SHAPE = (1, 3, 192, 192)
GRAY = torch.full(SHAPE, 0.5)
# A window's mean of squares is close to a Gamma variable of shape k: its relative variance is 2 sum(w^2)^2 = 1 / k.
SHAPE_K = 1 / (2 * sum(w * w for w in WINDOW) ** 2)


def white(seed: int, sigma: float = 0.05) -> torch.Tensor:
    return GRAY + sigma * torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


def closed_form(ratio: float) -> float:
    """The divergence for variances known exactly, whose ratio is `ratio`."""
    return 0.5 * (ratio - 1 - math.log(ratio))


# -- AKLD -------------------------------------------------------------------------------------------------------------


def test_the_window_is_a_mean_and_borders_are_reflected():
    assert sum(WINDOW) == 1
    rng = np.random.default_rng(0)
    noisy, clean = rng.random((2, 1, 2, 9, 12))
    expected = (noisy - clean) ** 2
    for axis in (2, 3):
        expected = ndimage.correlate1d(expected, WINDOW, axis, mode="mirror")  # SciPy's name for reflection
    found = variance_map(torch.from_numpy(noisy), torch.from_numpy(clean))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)
    assert variance_map(GRAY, GRAY).unique().tolist() == [1e-10]
    with pytest.raises(ValueError, match=r"shape \(1, 1, 3, 9\); expected 4x4"):
        variance_map(torch.zeros(1, 1, 3, 9), torch.zeros(1, 1, 3, 9))


@pytest.mark.parametrize("scale", [1.0, 0.5, 0.8, 1.25, 2.0, -1.5])
def test_noise_scaled_by_a_constant_has_the_closed_form(scale):
    """The real noise times k has everywhere k^2 times its variance: no sampling error is left."""
    real = white(0, 0.02)
    value, clipped = akld(real, GRAY, [GRAY + scale * (real - GRAY)])
    assert value == pytest.approx(closed_form(scale**2), abs=1e-4) and clipped == 0


def test_ratios_are_clipped_at_ten_both_ways():
    real = white(0, 0.02)
    faint, strong = (akld(real, GRAY, [GRAY + k * (real - GRAY)]) for k in (0.2, 5.0))
    assert faint == (pytest.approx(0.5 * (math.log(10) + 0.1 - 1)), 1)  # 0.70
    assert strong == (pytest.approx(0.5 * (10 - 1 - math.log(10))), 1)  # 3.35
    assert akld(real, GRAY, [GRAY]) == faint  # no noise at all
    values, cut = divergence(torch.tensor([1.0, 10.0, 10.001]), torch.ones(3))
    assert values[0] == 0 and cut.tolist() == [False, False, True]
    assert akld(GRAY, GRAY, [GRAY]) == (0, 0)  # both at the smallest variance


@pytest.mark.parametrize("scale", [0.5, 0.8, 1.0, 1.25])
def test_independent_noise_of_known_strength_has_the_known_akld(scale):
    """Two independent Gamma variables of shape k: the mean of their quotient is k / (k - 1), that of its logarithm 0."""
    ratio = scale**2
    expected = 0.5 * (ratio * SHAPE_K / (SHAPE_K - 1) - 1 - math.log(ratio))
    value, _ = akld(white(0), GRAY, [white(seed, 0.05 * scale) for seed in (1, 2, 3)])
    assert value == pytest.approx(expected, rel=0.06)
    assert {0.5: 0.33, 0.8: 0.071, 1.0: 0.042, 1.25: 0.125}[scale] == pytest.approx(value, abs=0.006)


def test_direction_is_generated_relative_to_real():
    one, two = white(0, 0.02), GRAY + 2 * (white(0, 0.02) - GRAY)
    assert akld(one, GRAY, [two])[0] == pytest.approx(closed_form(4), abs=1e-4)
    assert akld(two, GRAY, [one])[0] == pytest.approx(closed_form(1 / 4), abs=1e-4)


def test_divergences_are_averaged_and_not_the_variance_maps():
    real, draws = white(0), [white(seed) for seed in range(1, 9)]
    each = [akld(real, GRAY, [draw])[0] for draw in draws]
    assert akld(real, GRAY, draws)[0] == pytest.approx(sum(each) / len(each))
    mean = torch.stack([variance_map(draw, GRAY) for draw in draws]).mean(0)
    averaged = divergence(mean, variance_map(real, GRAY))[0].mean().item()
    assert averaged < 0.7 * akld(real, GRAY, draws)[0]


def test_generated_pictures_are_clamped_and_a_shift_of_colour_counts():
    bright = torch.full(SHAPE, 0.999)
    noise = 0.05 * torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    clipped = (bright + noise).clamp(0, 1)
    assert akld(clipped, bright, [bright + noise])[0] == 0  # what is above 1 is cut first
    shift = 0.05
    value, _ = akld(white(0), GRAY, [white(1) + shift])
    assert value == pytest.approx(akld(white(0), GRAY, [white(1, 0.05 * 2**0.5)])[0], rel=0.1)


def test_a_copy_has_no_akld_and_the_correlation_of_one():
    real = white(0)
    assert akld(real, GRAY, [real])[0] == 0 and correlation(real, GRAY, [real]) == pytest.approx(1)
    assert abs(correlation(real, GRAY, [white(1)])) < 0.02
    assert correlation(real, GRAY, [2 * GRAY - real]) == pytest.approx(-1)
    share = 0.6  # of the real noise, in noise of the same strength
    mixed = GRAY + share * (real - GRAY) + (1 - share**2) ** 0.5 * (white(1) - GRAY)
    assert correlation(real, GRAY, [mixed]) == pytest.approx(share, abs=0.01)
    assert correlation(real, GRAY, [real, white(1)]) == pytest.approx(0.5, abs=0.01)  # a mean over pictures
    assert math.isnan(correlation(real, GRAY, [GRAY]))
    assert strength(real, GRAY, [white(1, 0.1)]) == pytest.approx(2, rel=0.01)


def test_the_floor_is_what_new_noise_of_the_same_kind_has():
    assert akld_floor(white(0), GRAY) == pytest.approx(akld(white(0), GRAY, [white(1)])[0], rel=0.05)
    assert (
        akld_floor(white(0), GRAY, seed=1) == akld_floor(white(0), GRAY, seed=1) != akld_floor(white(0), GRAY, seed=2)
    )
    # Noise that is smooth has fewer independent values in a window, so honest draws of it differ by more.
    smooth = [
        torch.from_numpy(ndimage.gaussian_filter(white(seed).numpy() - 0.5, (0, 0, 1.5, 1.5))) * 4 + 0.5
        for seed in (0, 1)
    ]
    floor, honest = akld_floor(smooth[0], GRAY), akld(smooth[0], GRAY, smooth[1:])[0]
    assert floor > 3 * akld_floor(white(0), GRAY)
    assert floor == pytest.approx(honest, rel=0.35)


def test_resampled_noise_keeps_strength_and_correlations():
    first, second = (white(seed).double() - 0.5 for seed in (0, 1))
    noise = first.clone()
    noise[:, 1] = 0.8 * first[:, 0] + 0.6 * second[:, 1]  # channels 0 and 1 are correlated
    noise = noise + noise.roll(1, 3)  # and neighbours in a row
    spread = torch.full_like(noise, 0.1)
    new = resampled(noise, spread, torch.Generator().manual_seed(0))
    assert abs(torch.corrcoef(torch.stack([noise.flatten(), new.flatten()]))[0, 1]) < 0.05
    assert new.square().mean() == pytest.approx(noise.square().mean().item(), rel=0.02)
    for a, b in ((new[0, 0], new[0, 1]), (new[0, 0, :, 1:], new[0, 0, :, :-1]), (new[0, 0, 1:], new[0, 0, :-1])):
        found = torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1].item()
        expected = 0.8 if a.shape == b.shape == (192, 192) else 0.5 if a.shape == (192, 191) else 0
        assert found == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((GRAY, GRAY, []), ValueError, "no generated picture"),
        ((GRAY, GRAY, [GRAY[..., 1:]]), ValueError, r"generated picture has shape \(1, 3, 192, 191\), the noisy one"),
        ((GRAY, GRAY[:, :1], [GRAY]), ValueError, r"clean picture has shape \(1, 1, 192, 192\)"),
        ((GRAY, GRAY, [GRAY.to(torch.uint8)]), TypeError, "generated picture is torch.uint8"),
        ((GRAY / 0, GRAY, [GRAY]), ValueError, "pixels of the noisy picture are NaN or infinite"),
    ],
)
def test_wrong_pictures_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        akld(*arguments)


# -- models of noise --------------------------------------------------------------------------------------------------


def ramp(gain: torch.Tensor, floor: torch.Tensor, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """A picture of all brightnesses, with noise of the variance gain x + floor."""
    clean = torch.linspace(0.05, 0.9, 256).expand(1, 3, 256, 256).contiguous()
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed))
    return clean + (gain * clean + floor).sqrt() * noise, clean


def test_gain_and_floor_are_found_for_each_channel():
    gain = torch.tensor([0.01, 0.002, -0.0009]).view(1, 3, 1, 1)
    floor = torch.tensor([0.0004, 0.001, 0.001]).view(1, 3, 1, 1)
    found = fit_affine_variance(*ramp(gain, floor))
    assert found[0].flatten().tolist() == pytest.approx(gain.flatten().tolist(), rel=0.06)
    assert found[1].flatten().tolist() == pytest.approx(floor.flatten().tolist(), rel=0.2)


def test_the_fit_survives_edges_that_are_not_in_place():
    gain, floor = torch.tensor(0.004), torch.tensor(0.0005)
    noisy, clean = ramp(gain, floor)
    noisy[..., ::24, :] += 0.5  # a line in every third row of blocks
    found = fit_affine_variance(noisy, clean)
    assert found[0].flatten().tolist() == pytest.approx([0.004] * 3, rel=0.12)
    assert variance(noisy, clean).mean() > 4 * (gain * 0.475 + floor)  # which the plain variance does not


def test_a_picture_of_one_brightness_has_a_floor_only():
    gain, floor = fit_affine_variance(white(0), GRAY)
    assert gain.unique().tolist() == [0] and torch.equal(floor, variance(white(0), GRAY))
    assert torch.equal(fit_affine_variance(white(0)[..., :5, :5], GRAY[..., :5, :5])[0], torch.zeros(1, 3, 1, 1))


def test_camera_noise_of_the_embedded_pairs_is_recognised():
    pair = next(iter(datasets.load_pairs("embedded-pairs")))
    gain, floor = fit_affine_variance(pair.noisy.tensor(), pair.clean.tensor())
    assert gain.flatten().tolist() == pytest.approx([datasets.GAIN] * 3, rel=0.1)
    assert floor.flatten().tolist() == pytest.approx([datasets.FLOOR] * 3, abs=2e-4)


def test_models_draw_new_noise_of_the_right_strength():
    gain, floor = torch.tensor(0.01), torch.tensor(0.0004)
    noisy, clean = ramp(gain, floor)
    torch.manual_seed(5)
    drawn = {model: model(noisy, clean) for model in (white_gaussian, poisson_gaussian)}
    for picture in drawn.values():
        assert strength(noisy, clean, [picture]) == pytest.approx(1, abs=0.02)
        assert abs(correlation(noisy, clean, [picture])) < 0.02
    dark, bright = (
        (drawn[poisson_gaussian] - clean)[..., part].square().mean() for part in (slice(0, 32), slice(224, 256))
    )
    assert bright / dark == pytest.approx(((gain * 0.85 + floor) / (gain * 0.103 + floor)).item(), rel=0.1)
    scores = {model: akld(noisy, clean, [picture])[0] for model, picture in drawn.items()}
    assert scores[poisson_gaussian] == pytest.approx(0.043, abs=0.004) and scores[white_gaussian] > 0.1


# -- the task ---------------------------------------------------------------------------------------------------------


class Disturb:
    """Adds epsilon times white noise to the noisy picture, which it alone is given."""

    name = "disturb"

    def __init__(self):
        self.seen = []

    def generate(self, noisy, epsilon, gain=1.0):
        self.seen.append((noisy, epsilon))
        return noisy + gain * epsilon * torch.randn_like(noisy)


def generate(method, conditions=None, settings=None, **options):
    task = make_task("generate.Noise", {"draws": 3, "crop": 64} | (settings or {}))
    return evaluate(task, method, "embedded-pairs", conditions or {}, limit=options.pop("limit", 2), **options)


def test_a_row_a_picture_and_epsilon(tmp_path):
    method = Disturb()
    scores = generate(method, {"epsilon": [0.0, 0.01, 0.1]}, seed=2)
    assert scores["epsilon"].tolist() == [0, 0, 0.01, 0.01, 0.1, 0.1]
    pairs = list(datasets.load_pairs("embedded-pairs", limit=2))
    assert scores["image"].tolist() == 3 * [pair.name for pair in pairs] and scores["scene"].tolist() == 6 * [
        pairs[0].scene
    ]
    assert len(method.seen) == 1 + 6 * 3 and {tuple(noisy.shape) for noisy, _ in method.seen} == {(1, 3, 64, 64)}
    assert torch.equal(method.seen[1][0], pairs[0].noisy.tensor()[..., 64:128, 64:128])  # the central crop
    assert scores["akld"].tolist()[:2] == [0, 0] and scores["correlation"].tolist()[:2] == pytest.approx([1, 1])
    by_epsilon = scores.groupby("epsilon")[["akld", "correlation", "noise_ratio", "akld_floor"]].mean()
    assert by_epsilon["akld"].is_monotonic_increasing and by_epsilon["correlation"].is_monotonic_decreasing
    assert by_epsilon["akld_floor"].nunique() == 1 and 0.03 < by_epsilon["akld_floor"].iloc[0] < 0.08
    assert by_epsilon["noise_ratio"].is_monotonic_increasing
    path = tmp_path / "scores.csv"
    write_scores(scores, path)
    assert summarise(read_scores(path))["akld"].tolist() == pytest.approx(by_epsilon["akld"].tolist(), rel=1e-4)


def test_scores_are_those_of_the_functions_and_repeat():
    torch.manual_seed(7)
    state = torch.get_rng_state()
    first = generate(Disturb(), {"epsilon": [0.05]}, limit=1)
    assert torch.equal(torch.get_rng_state(), state)  # the caller's random numbers are left alone
    torch.manual_seed(8)
    method = Disturb()
    again = generate(method, {"epsilon": [0.02, 0.05]}, limit=2)
    same = again[(again["epsilon"] == 0.05) & (again["image"] == first["image"][0])].iloc[0]
    assert same["akld"] == first["akld"][0] and same["correlation"] == first["correlation"][0]
    assert generate(Disturb(), {"epsilon": [0.05]}, limit=1, seed=1)["akld"][0] != first["akld"][0]
    twice = generate(Disturb(), {"epsilon": [0.025]}, limit=1, options={"gain": 2.0})
    assert twice["akld"][0] == pytest.approx(first["akld"][0], rel=1e-5)


def test_noise_models_by_name_and_what_akld_says_of_them():
    task = make_task("generate.Noise")
    scores = {name: generate(task.load(name)).iloc[0] for name in NOISE_MODELS}
    assert set(scores) == {"white-gaussian", "poisson-gaussian", "copy"} and math.isnan(scores["copy"]["epsilon"])
    assert scores["copy"]["akld"] == 0 and scores["copy"]["correlation"] == pytest.approx(1)
    assert scores["poisson-gaussian"]["akld"] < 0.7 * scores["white-gaussian"]["akld"]
    for name in ("white-gaussian", "poisson-gaussian"):
        assert abs(scores[name]["correlation"]) < 0.05 and scores[name]["noise_ratio"] == pytest.approx(1, abs=0.07)
        assert scores[name]["akld"] > 0.9 * scores[name]["akld_floor"]
    # At the values of another method, so that a claim can compare the two.
    labelled = generate(task.load("white-gaussian"), {"epsilon": [1e-4, 1e-3]})
    assert labelled["akld"].tolist() == 2 * labelled["akld"].tolist()[:2]


@pytest.mark.parametrize(
    ("change", "conditions", "message"),
    [
        ({}, {}, "disturb needs a condition epsilon"),
        ({}, {"epsilon": []}, "condition 'epsilon' of generate.Noise has no value"),
        ({}, {"epsilon": [0.1, -1.0]}, "epsilon is -1.0; expected a number, 0 or more"),
        ({}, {"epsilon": "0.1"}, "epsilon is '0.1'"),
        ({}, {"sigma": [25]}, "generate.Noise has no condition 'sigma'"),
        ({"generate": None}, {"epsilon": [0.1]}, r"disturb has no generate\(...\)"),
        ({"channels": 1}, {"epsilon": [0.1]}, "disturb takes 1 channel; real pairs are in colour"),
        ({"precision": "bfloat16"}, {"epsilon": [0.1]}, "disturb is in bfloat16, .*set precision: float32"),
    ],
)
def test_what_cannot_generate_is_refused_before_anything_runs(change, conditions, message):
    method = Disturb()
    for key, value in change.items():
        setattr(method, key, value)
    with pytest.raises(ValueError, match=message):
        generate(method, conditions)
    assert not method.seen


def test_wrong_settings_and_names_are_named():
    with pytest.raises(ValueError, match="draws is 0"):
        make_task("generate.Noise", {"draws": 0})
    with pytest.raises(ValueError, match="crop is -1"):
        make_task("generate.Noise", {"crop": -1})
    with pytest.raises(ValueError, match="no denoiser 'pink'.*Models of noise: white-gaussian, poisson-gaussian, copy"):
        make_task("generate.Noise").load("pink")
