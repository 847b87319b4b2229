"""Training patches: a batch depends on seed and step alone, and an epoch of the grid is just that."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch

from invdenoise.patches import PatchSampler, stable_seed


def pictures(number=2, height=30, width=40, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (height, width), np.uint8) for _ in range(number)]


def sampler(given=None, **options):
    settings = {"patch_size": 20, "batch_size": 5, "sigma": 25, "seed": 0} | options
    return PatchSampler(given or pictures(), **settings)


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("sampling", ["grid", "random"])
def test_a_batch_depends_on_seed_and_step_alone(sampling):
    forward = [sampler(sampling=sampling).batch(step) for step in range(8)]
    used = sampler(sampling=sampling)
    torch.manual_seed(123)
    for step in (7, 3, 3, 0, 5, 1, 6, 2, 4):
        torch.rand(1)
        assert same(used.batch(step), forward[step])
    assert not any(same(forward[0], other) for other in forward[1:])
    other_seed = sampler(sampling=sampling, seed=1)
    for step in range(8):
        assert not torch.equal(other_seed.batch(step)[0], forward[step][0])


def test_noise_and_positions_are_drawn_apart():
    """Another noise level keeps the clean patches and the draw."""
    weak, strong = sampler(sigma=10).batch(3), sampler(sigma=40).batch(3)
    assert torch.equal(weak[0], strong[0])
    torch.testing.assert_close(4 * (weak[1] - weak[0]), strong[1] - strong[0], rtol=0, atol=1e-6)


def test_a_range_of_levels_gives_each_batch_one_of_its_own():
    blind = sampler(sigma=(10.0, 50.0), batch_size=50)
    levels = [blind.batch(step)[2].item() for step in range(200)]
    assert min(levels) >= 10 and max(levels) <= 50
    assert np.mean(levels) == pytest.approx(30, abs=3) and np.std(levels) == pytest.approx(
        40 / 12**0.5, abs=2
    )  # uniform
    for step in (0, 7):
        clean, noisy, sigma = blind.batch(step)
        assert (noisy - clean).std().item() * 255 == pytest.approx(sigma.item(), rel=0.03)
    assert sampler(sigma=25).batch(3)[2].item() == 25
    assert torch.equal(blind.batch(5)[0], sampler(sigma=25, batch_size=50).batch(5)[0])  # the same patches at any level


def test_each_patch_may_have_a_level_of_its_own():
    given = dict(sigma=(10.0, 50.0), batch_size=200)
    clean, noisy, sigma = sampler(**given, levels="patch").batch(4)
    assert sigma.shape == (200, 1, 1, 1) and sigma.min() >= 10 and sigma.max() <= 50 and sigma.std() > 10
    measured = 255 * (noisy - clean).std((1, 2, 3))
    assert ((measured / sigma.flatten() - 1).abs() < 0.2).all()  # 400 pixels: a standard error of 0.035
    assert torch.equal(clean, sampler(**given).batch(4)[0])  # the same patches either way


def test_shapes_and_ranges():
    clean, noisy, _ = sampler().batch(0)
    assert clean.shape == noisy.shape == (5, 1, 20, 20) and clean.dtype == noisy.dtype == torch.float32
    assert clean.min() >= 0 and clean.max() <= 1
    assert noisy.min() < 0 and noisy.max() > 1  # not clipped


def test_noise_is_white_and_of_the_level_asked_for():
    noise = torch.cat([noisy - clean for clean, noisy, _ in map(sampler(batch_size=50, sigma=25).batch, range(10))])
    assert noise.std().item() == pytest.approx(25 / 255, rel=0.01)
    assert abs(noise.mean().item()) < 0.001
    assert abs((noise[..., 1:] * noise[..., :-1]).mean().item()) < 0.01 * (25 / 255) ** 2
    assert (noise[:50] - noise[50:100]).std().item() == pytest.approx(2**0.5 * 25 / 255, rel=0.02)


def positions_of(patches, given, size):
    """(picture, row, column) of each patch."""
    places = {}
    for number, picture in enumerate(given):
        for row in range(picture.shape[0] - size + 1):
            for column in range(picture.shape[1] - size + 1):
                places[picture[row : row + size, column : column + size].tobytes()] = number, row, column
    return [places[(patch[0] * 255).round().to(torch.uint8).numpy().tobytes()] for patch in patches]


def test_each_epoch_of_the_grid_takes_every_position_once():
    given = pictures()
    grid = sampler(given, sampling="grid", augment=False)
    expected = {(n, row, column) for n in range(2) for row in (0, 10) for column in (0, 10, 20)}
    assert len(grid) == len(expected) == 12
    taken = [place for step in range(12) for place in positions_of(grid.batch(step)[0], given, 20)]
    epochs = [taken[start : start + 12] for start in range(0, 60, 12)]  # batches of 5 straddle them
    assert all(set(epoch) == expected for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 5  # each in its own order


def test_a_batch_larger_than_an_epoch():
    given = pictures(number=1, height=20)
    grid = sampler(given, sampling="grid", augment=False, batch_size=7)
    taken = [place[2] for step in range(3) for place in positions_of(grid.batch(step)[0], given, 20)]
    assert all(sorted(taken[start : start + 3]) == [0, 10, 20] for start in range(0, 21, 3))


def test_the_grid_of_the_paper_has_90000_patches():
    black = [np.zeros((180, 180), np.uint8)] * 400
    assert len(PatchSampler(black, 40, 32, 25, 0, "grid")) == 90_000


def test_random_positions_reach_every_place():
    given = pictures(height=22, width=21)
    random = sampler(given, augment=False, batch_size=40)
    assert len(random) == 2 * 3 * 2
    taken = [place for step in range(10) for place in positions_of(random.batch(step)[0], given, 20)]
    counts = [taken.count((n, row, column)) for n in range(2) for row in range(3) for column in range(2)]
    assert sum(counts) == 400 and min(counts) > 12 and max(counts) < 60  # 33 expected


def test_augmentation_takes_the_eight_turns_and_flips():
    (picture,) = pictures(number=1, height=6, width=6)
    turned = [np.rot90(flipped, turns) for flipped in (picture, picture.T) for turns in range(4)]
    names = {np.ascontiguousarray(view).tobytes(): number for number, view in enumerate(turned)}
    assert len(names) == 8
    clean = torch.cat([sampler([picture], patch_size=6, batch_size=50).batch(step)[0] for step in range(8)])
    found = [names[(patch[0] * 255).round().to(torch.uint8).numpy().tobytes()] for patch in clean]
    counts = [found.count(number) for number in range(8)]
    assert sum(counts) == 400 and min(counts) > 25 and max(counts) < 85  # 50 expected
    plain = sampler([picture], patch_size=6, augment=False).batch(0)[0]
    assert torch.equal(plain, torch.from_numpy(picture).expand(5, 1, 6, 6) / 255)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], r"shapes \[\]"),
        ([np.zeros((30, 40), np.uint8), np.zeros((40, 30), np.uint8)], r"\(30, 40\), \(40, 30\).*of one size"),
        ([np.zeros((30, 40, 3), np.uint8)], r"\(30, 40, 3\).*expected gray pictures"),
        ([np.zeros((30, 19), np.uint8)], r"\(30, 19\); patches of 20 do not fit"),
    ],
    ids=["none", "two sizes", "colour", "too small"],
)
def test_pictures_that_do_not_fit_are_named(given, message):
    with pytest.raises(ValueError, match=message):
        PatchSampler(given, 20, 5, 25, 0)


def test_stable_seed_is_a_hash_of_the_text():
    digest = hashlib.sha256(b"0/patches/17").hexdigest()
    assert stable_seed(0, "patches", 17) == int(digest[:16], 16) // 2
    assert len({stable_seed(0, "patches", step) for step in range(1000)}) == 1000
