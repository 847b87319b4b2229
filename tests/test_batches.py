"""Training batches: they depend on seed and step alone, and an epoch of the grid takes every position once."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from tiny import tiny_datasets

from invdenoise.data.batches import Pairs, PatchSource, WhiteNoise, stable_seed
from invdenoise.data.fetch import DataUnavailable
from invdenoise.data.pictures import Pair, PairSet, Picture, PictureSet, load_pairs, load_pictures


def arrays(number=2, height=30, width=40, seed=0, channels=1):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (height, width, 3)[: 2 + (channels == 3)], np.uint8) for _ in range(number)]


def picture_set(given=None) -> PictureSet:
    given = arrays() if given is None else given
    return PictureSet("made", "made", tuple(Picture(f"p{k}", pixels) for k, pixels in enumerate(given)), "0123")


def pair_set(given=None, scenes="aabb", change=128) -> PairSet:
    """Pairs whose noisy picture is the clean one plus `change`, modulo 256: a crop tells where it is from."""
    given = arrays(4) if given is None else given
    pairs = [
        Pair(f"p{k}", Picture(f"p{k}_n", pixels + np.uint8(change)), Picture(f"p{k}_c", pixels), scenes[k])
        for k, pixels in enumerate(given)
    ]
    return PairSet("made", "made", tuple(pairs), "0123")


def white(given=None, **options) -> WhiteNoise:
    return WhiteNoise(picture_set(given), **({"patch_size": 20, "batch_size": 5, "sigma": 25, "seed": 0} | options))


def pairs(given=None, **options) -> Pairs:
    return Pairs(pair_set(given), **({"patch_size": 20, "batch_size": 5, "seed": 0} | options))


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def levels_of(patches):
    return (patches * 255).round().to(torch.uint8).numpy()


# --- A pure function of seed and step


@pytest.mark.parametrize("sampling", ["grid", "random"])
@pytest.mark.parametrize("make", [white, pairs])
def test_a_batch_depends_on_seed_and_step_alone(make, sampling):
    forward = [make(sampling=sampling).batch(step) for step in range(8)]
    used = make(sampling=sampling)
    torch.manual_seed(123)
    for step in (7, 3, 3, 0, 5, 1, 6, 2, 4):
        torch.rand(1)
        assert same(used.batch(step), forward[step])
    assert not any(same(forward[0], other) for other in forward[1:])
    other_seed = make(sampling=sampling, seed=1)
    for step in range(8):
        assert not torch.equal(other_seed.batch(step)["clean"], forward[step]["clean"])


# Of the class `PatchSampler` that WhiteNoise replaced, at its last commit 95c9fd7: SHA-256 over the bytes of `clean` and
# `sigma` of the steps 0, 1, 5 and 40 with the pictures and options below. Weights trained before the change go on.
BEFORE = {
    ("grid", True, "batch"): "c81cc52f486453e4",
    ("grid", True, "patch"): "1eab627c2a510860",
    ("grid", False, "batch"): "9f69c248b6c73243",
    ("grid", False, "patch"): "122547852a4b3a3c",
    ("random", True, "batch"): "1518540413fcd468",
    ("random", True, "patch"): "e6ef7ea234aa146b",
    ("random", False, "batch"): "448702790f605739",
    ("random", False, "patch"): "d6a0f7358ff59aaf",
}


@pytest.mark.parametrize(("options", "expected"), BEFORE.items())
def test_gray_batches_are_what_they_were(options, expected):
    sampling, augment, levels = options
    source = white(
        arrays(3, 31, 42), patch_size=12, batch_size=7, sigma=(5.0, 50.0), seed=3,
        sampling=sampling, augment=augment, levels=levels,
    )  # fmt: skip
    digest = hashlib.sha256()
    for step in (0, 1, 5, 40):
        clean, noisy, sigma = (source.batch(step)[key] for key in ("clean", "noisy", "sigma"))
        digest.update(clean.numpy().tobytes())
        digest.update(sigma.numpy().tobytes())
        # Normal numbers may differ in the last bit between processors, so they are compared with a draw made here.
        generator = torch.Generator().manual_seed(stable_seed(3, "noise", step))
        assert torch.equal(noisy, clean + torch.randn(clean.shape, generator=generator) * (sigma / 255))
    assert digest.hexdigest()[:16] == expected


def test_stable_seed_is_a_hash_of_the_text():
    digest = hashlib.sha256(b"0/patches/17").hexdigest()
    assert stable_seed(0, "patches", 17) == int(digest[:16], 16) // 2
    assert len({stable_seed(0, "patches", step) for step in range(1000)}) == 1000


# --- Noise


def test_noise_and_positions_are_drawn_apart():
    """Another noise level keeps the clean patches and the draw."""
    weak, strong = white(sigma=10).batch(3), white(sigma=40).batch(3)
    assert torch.equal(weak["clean"], strong["clean"])
    noise = [batch["noisy"] - batch["clean"] for batch in (weak, strong)]
    torch.testing.assert_close(4 * noise[0], noise[1], rtol=0, atol=1e-6)


def test_a_range_of_levels_gives_each_batch_one_of_its_own():
    blind = white(sigma=[10, 50], batch_size=50)
    levels = [blind.batch(step)["sigma"].item() for step in range(200)]
    assert min(levels) >= 10 and max(levels) <= 50
    # uniform
    assert np.mean(levels) == pytest.approx(30, abs=3) and np.std(levels) == pytest.approx(40 / 12**0.5, abs=2)
    for step in (0, 7):
        batch = blind.batch(step)
        assert (batch["noisy"] - batch["clean"]).std().item() * 255 == pytest.approx(batch["sigma"].item(), rel=0.03)
    assert white(sigma=25).batch(3)["sigma"].item() == 25
    same_patches = white(sigma=25, batch_size=50)  # at any level
    assert torch.equal(blind.batch(5)["clean"], same_patches.batch(5)["clean"])


def test_each_patch_may_have_a_level_of_its_own():
    given = dict(sigma=(10.0, 50.0), batch_size=200)
    batch = white(**given, levels="patch").batch(4)
    sigma = batch["sigma"]
    assert sigma.shape == (200, 1, 1, 1) and sigma.min() >= 10 and sigma.max() <= 50 and sigma.std() > 10
    measured = 255 * (batch["noisy"] - batch["clean"]).std((1, 2, 3))
    assert ((measured / sigma.flatten() - 1).abs() < 0.2).all()  # 400 pixels: a standard error of 0.035
    assert torch.equal(batch["clean"], white(**given).batch(4)["clean"])  # the same patches either way


@pytest.mark.parametrize("channels", [1, 3])
def test_shapes_and_ranges(channels):
    batch = white(arrays(channels=channels)).batch(0)
    assert list(batch) == ["clean", "noisy", "sigma"]
    clean, noisy = batch["clean"], batch["noisy"]
    assert clean.shape == noisy.shape == (5, channels, 20, 20) and clean.dtype == noisy.dtype == torch.float32
    assert clean.min() >= 0 and clean.max() <= 1
    assert noisy.min() < 0 and noisy.max() > 1  # not clipped
    batch = pairs(arrays(4, channels=channels)).batch(0)
    assert list(batch) == ["clean", "noisy"]
    assert {patches.shape for patches in batch.values()} == {(5, channels, 20, 20)}


def test_noise_is_white_and_of_the_level_asked_for():
    for channels in (1, 3):
        batches = [white(arrays(channels=channels), batch_size=50).batch(step) for step in range(10)]
        noise = torch.cat([batch["noisy"] - batch["clean"] for batch in batches])
        assert noise.std().item() == pytest.approx(25 / 255, rel=0.01)
        assert abs(noise.mean().item()) < 0.001
        variance = (25 / 255) ** 2
        assert abs((noise[..., 1:] * noise[..., :-1]).mean().item()) < 0.01 * variance
        assert (noise[:50] - noise[50:100]).std().item() == pytest.approx(2**0.5 * 25 / 255, rel=0.02)
    assert abs((noise[:, 0] * noise[:, 1]).mean().item()) < 0.01 * variance  # each colour has its own


# --- Positions


def positions_of(patches, given, size):
    """(picture, row, column) of each patch."""
    places = {}
    for number, picture in enumerate(given):
        for row in range(picture.shape[0] - size + 1):
            for column in range(picture.shape[1] - size + 1):
                places[picture[row : row + size, column : column + size].tobytes()] = number, row, column
    return [places[patch.transpose(1, 2, 0).tobytes()] for patch in levels_of(patches)]


MIXED_SIZES = [arrays(1, height, width, seed)[0] for seed, (height, width) in enumerate([(30, 41), (20, 25), (45, 20)])]


def test_each_epoch_of_the_grid_takes_every_position_once():
    given = arrays()
    grid = white(given, sampling="grid", augment=False)
    expected = {(n, row, column) for n in range(2) for row in (0, 10) for column in (0, 10, 20)}
    assert len(grid) == len(expected) == 12
    taken = [place for step in range(12) for place in positions_of(grid.batch(step)["clean"], given, 20)]
    epochs = [taken[start : start + 12] for start in range(0, 60, 12)]  # batches of 5 straddle them
    assert all(set(epoch) == expected for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 5  # each in its own order


def test_the_grid_covers_pictures_of_different_sizes():
    grid = white(MIXED_SIZES, sampling="grid", augment=False, batch_size=10)
    expected = [(0, row, column) for row in (0, 10) for column in (0, 10, 20)] + [(1, 0, 0)]
    expected += [(2, row, 0) for row in (0, 10, 20)]
    assert len(grid) == len(expected) == 10
    for step in range(3):
        assert sorted(positions_of(grid.batch(step)["clean"], MIXED_SIZES, 20)) == expected


def test_a_batch_larger_than_an_epoch():
    given = arrays(number=1, height=20)
    grid = white(given, sampling="grid", augment=False, batch_size=7)
    taken = [place[2] for step in range(3) for place in positions_of(grid.batch(step)["clean"], given, 20)]
    assert all(sorted(taken[start : start + 3]) == [0, 10, 20] for start in range(0, 21, 3))


def test_the_grid_of_the_paper_has_90000_patches():
    black = [np.zeros((180, 180), np.uint8)] * 400
    assert len(white(black, patch_size=40, batch_size=32, sampling="grid")) == 90_000


def test_random_positions_reach_every_place_of_every_size_equally_often():
    given = [arrays(1, height, width, width)[0] for height, width in ((22, 21), (20, 24), (23, 20))]
    source = white(given, augment=False, batch_size=50)
    places = [
        (n, row, column)
        for n, picture in enumerate(given)
        for row in range(picture.shape[0] - 19)
        for column in range(picture.shape[1] - 19)
    ]
    assert len(source) == len(places) == 6 + 5 + 4
    taken = [place for step in range(12) for place in positions_of(source.batch(step)["clean"], given, 20)]
    counts = [taken.count(place) for place in places]
    assert sum(counts) == 600 and min(counts) > 20 and max(counts) < 64  # 40 expected, standard deviation 6


@pytest.mark.parametrize("channels", [1, 3])
def test_augmentation_takes_the_eight_turns_and_flips(channels):
    (picture,) = arrays(number=1, height=6, width=6, channels=channels)
    turned = [np.rot90(flipped, turns) for flipped in (picture, picture.swapaxes(0, 1)) for turns in range(4)]
    names = {np.ascontiguousarray(view).tobytes(): number for number, view in enumerate(turned)}
    assert len(names) == 8
    source = white([picture], patch_size=6, batch_size=50)
    patches = [patch for step in range(8) for patch in levels_of(source.batch(step)["clean"])]
    found = [names[patch.transpose(1, 2, 0).tobytes()] for patch in patches]
    counts = [found.count(number) for number in range(8)]
    assert sum(counts) == 400 and min(counts) > 25 and max(counts) < 85  # 50 expected
    (plain, *_) = levels_of(white([picture], patch_size=6, augment=False).batch(0)["clean"])
    assert np.array_equal(plain.transpose(1, 2, 0).squeeze(), picture)


def test_flips_alone_are_four_and_turn_nothing():
    (picture,) = arrays(number=1, height=6, width=6)
    views = [picture[::rows, ::columns] for rows in (1, -1) for columns in (1, -1)]
    numbers = {np.ascontiguousarray(view).tobytes(): number for number, view in enumerate(views)}
    source = white([picture], patch_size=6, batch_size=50, augment="flip")
    found = [numbers[patch.tobytes()] for step in range(8) for patch in levels_of(source.batch(step)["clean"])]
    counts = [found.count(number) for number in range(4)]
    assert sum(counts) == 400 and min(counts) > 65 and max(counts) < 135  # 100 expected, standard deviation 9


# --- Whole faces


@pytest.mark.parametrize("channels", [1, 3])
def test_the_central_square_is_reduced_without_aliasing(channels):
    """A pattern finer than the patch can show becomes its mean, and what lies beside the square does not count."""
    checks = np.indices((64, 64)).sum(0) % 2 * 200
    wide, high = np.full((64, 96), 255), np.full((97, 64), 255)
    wide[:, 16:80], high[16:80] = checks, checks  # the odd row more lies below
    given = [picture.astype(np.uint8) for picture in (wide, high)]
    if channels == 3:
        given = [np.dstack([picture] * 3) for picture in given]
    source = white(given, patch_size=16, crop="centre", augment=False)
    assert len(source) == 2  # each picture has one place
    assert np.abs(levels_of(source.batch(0)["clean"]).astype(int) - 100).max() <= 1


def test_a_square_of_the_patch_size_stays_as_it_is():
    (picture,) = arrays(1, 20, 26)
    source = white([picture], crop="centre", augment=False, sampling="grid")
    assert np.array_equal(levels_of(source.batch(0)["clean"])[0, 0], picture[:, 3:23])


def test_pictures_held_out_stay_whole():
    source = white(arrays(3), crop="centre", validation=1)
    assert [picture.pixels.shape for picture in source.held_out] == [(30, 40)]
    with pytest.raises(ValueError, match="made: p0 has 30x40 pixels; patches of 31x31 do not fit"):
        white(crop="centre", patch_size=31)


@pytest.mark.parametrize("sampling", ["grid", "random"])
@pytest.mark.parametrize("channels", [1, 3])
def test_both_pictures_of_a_pair_are_cut_flipped_and_turned_alike(channels, sampling):
    given = [arrays(1, height, width, width, channels)[0] for height, width in ((30, 40), (25, 21), (20, 50), (33, 20))]
    source = pairs(given, sampling=sampling, batch_size=60)
    for step in range(3):
        batch = source.batch(step)
        assert np.array_equal(levels_of(batch["noisy"]), levels_of(batch["clean"]) + np.uint8(128))


# --- What is held out


def test_the_last_pictures_are_held_out_and_never_cut():
    given = [np.full((30, 40), 10 * number, np.uint8) for number in range(5)]
    source = white(given, validation=2, batch_size=100)
    assert (source.name, source.sha256, source.device) == ("made", "0123", torch.device("cpu"))
    assert isinstance(source.held_out, PictureSet) and source.held_out.name == "validation"
    assert [picture.name for picture in source.held_out] == ["p3", "p4"] and not source.held_out.is_stand_in
    assert set(levels_of(source.batch(0)["clean"]).ravel().tolist()) == {0, 10, 20}
    assert len(white(given).held_out) == 0
    with pytest.raises(ValueError, match="cannot hold out 5 of 5 pictures of made; nothing is left to train on"):
        white(given, validation=5)


def test_the_last_scenes_are_held_out_and_never_cut():
    given = [np.full((30, 40), 10 * number, np.uint8) for number in range(6)]
    source = Pairs(pair_set(given, "abcabc"), validation=1, patch_size=20, batch_size=100)
    assert isinstance(source.held_out, PairSet) and source.held_out.name == "validation"
    assert [pair.name for pair in source.held_out] == ["p2", "p5"]  # both crops of scene c
    assert set(levels_of(source.batch(0)["clean"]).ravel().tolist()) == {0, 10, 30, 40}
    assert len(Pairs(pair_set(given, "abcabc"), patch_size=20, batch_size=1).held_out) == 0
    with pytest.raises(ValueError, match="cannot hold out 3 of 3 scenes of made; nothing is left to train on"):
        Pairs(pair_set(given, "abcabc"), validation=3, patch_size=20, batch_size=1)


def test_pictures_of_another_set_are_validated_on():
    options = dict(set="embedded-colour-train", sigma=25, patch_size=24, batch_size=3)
    plain = WhiteNoise.load(**options)
    source = WhiteNoise.load(**options, validation_set="embedded-colour", validation=2)
    other = load_pictures("embedded-colour")
    assert [picture.name for picture in source.held_out] == [picture.name for picture in other.pictures[:2]]
    assert (
        source.held_out.name == "validation"
        and source.held_out.sha256 == load_pictures("embedded-colour", limit=2).sha256
    )
    assert len(source) == len(plain) and same(source.batch(4), plain.batch(4))  # all of the set is trained on
    assert (source.name, source.sha256) == (plain.name, plain.sha256)
    assert len(WhiteNoise.load(**options, validation_set="embedded-colour").held_out) == 0
    for given, message in (
        (
            {"validation_set": "embedded-colour", "validation": 9},
            "validation is 9, and embedded-colour gives 5 pictures",
        ),
        (
            {"validation_set": "embedded", "validation": 2},
            "embedded-colour-train and embedded: .* is colour and .* is gray",
        ),
        ({"validation_set": "embedded-colour-train", "validation": 2}, "which is trained on; leave it out"),
        ({"validation_set": "embedded-pairs", "validation": 2}, "embedded-pairs holds pairs"),
    ):
        with pytest.raises(ValueError, match=message):
            WhiteNoise.load(**options, **given)


# --- Loading


def test_sources_of_embedded_sets():
    source = WhiteNoise.load(set="embedded-colour-train", sigma=[0, 55], validation=4, patch_size=24, batch_size=2)
    whole = load_pictures("embedded-colour-train")
    assert (source.name, source.sha256) == ("embedded-colour-train", whole.sha256)
    assert [picture.name for picture in source.held_out] == [picture.name for picture in whole.pictures[-4:]]
    assert len(source) == 11 * (180 - 23) ** 2 and source.batch(1)["noisy"].shape == (2, 3, 24, 24)
    source = Pairs.load(set="embedded-pairs-train", validation=1, patch_size=24, batch_size=2)
    whole = load_pairs("embedded-pairs-train")
    assert (source.name, source.sha256) == ("embedded-pairs-train", whole.sha256)
    assert source.held_out.scenes == whole.scenes[-1:]
    assert source.batch(1)["noisy"].shape == (2, 3, 24, 24)


def test_pairs_of_several_sets_with_scenes_kept_for_testing_and_validation():
    first, second = load_pairs("embedded-pairs-train"), load_pairs("embedded-pairs")
    kept, held = f"embedded-pairs/{second.scenes[0]}", f"embedded-pairs-train/{first.scenes[0]}"
    options = dict(set="embedded-pairs-train", also=["embedded-pairs"], patch_size=180, batch_size=2, sampling="random")
    source = Pairs.load(**options, test_scenes=[kept], validation=1, validation_scenes=[held])
    assert source.name == "embedded-pairs-train+embedded-pairs"
    assert source.held_out.scenes == (held,)
    everything = Pairs.load(**options)
    num_held = sum(pair.scene == first.scenes[0] for pair in first)  # one place each: 180 pixels a side
    num_kept = 13**2 * sum(pair.scene == second.scenes[0] for pair in second)  # 192 pixels a side
    assert len(everything) - len(source) == num_held + num_kept
    with pytest.raises(ValueError, match="has no scene 'moon'"):
        Pairs.load(**options, validation=1, validation_scenes=["moon"])
    with pytest.raises(ValueError, match="validation is 2, and validation_scenes names 1"):
        Pairs.load(**options, validation=2, validation_scenes=[held])


def test_nothing_stands_in_for_a_training_set(tmp_path, monkeypatch):
    fixture = tiny_datasets(tmp_path, monkeypatch)
    next(fixture)
    with pytest.raises(DataUnavailable, match="lessons"):
        WhiteNoise.load("lessons", 25, patch_size=4, batch_size=1)
    with pytest.raises(DataUnavailable, match="couples"):
        Pairs.load("couples", patch_size=4, batch_size=1)
    fixture.close()


def test_a_set_of_the_other_kind_is_refused():
    with pytest.raises(ValueError, match=r"sidd-samples holds pairs .* use load_pairs\('sidd-samples'\)"):
        WhiteNoise.load("sidd-samples", 25, patch_size=4, batch_size=1)
    with pytest.raises(ValueError, match=r"embedded-train holds clean pictures"):
        Pairs.load("embedded-train", patch_size=4, batch_size=1)


# --- What is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"given": []}, "made has no picture to train on"),
        (
            {"given": arrays(1) + arrays(1, 30, 19)},
            "made: p1 has 30x19 pixels; patches of 20x20 do not fit.* 19 or less",
        ),
        ({"given": arrays(1) + arrays(1, channels=3)}, "p0 is gray and p1 is colour; expected all gray or all colour"),
        ({"sigma": float("nan")}, "sigma is nan"),
        ({"sigma": [0, 256]}, "sigma is 256"),
        ({"sigma": -1}, "sigma is -1"),
        ({"sigma": [50, 10]}, r"sigma is \[50, 10\]; expected the lowest level first"),
        ({"sigma": [1, 2, 3]}, r"sigma is \[1, 2, 3\]; expected one level, or the lowest and the highest"),
        ({"levels": "patches"}, "levels is 'patches'; expected 'batch' or 'patch'"),
        ({"sampling": "all"}, "sampling is 'all'; expected 'grid' or 'random'"),
        ({"augment": "turn"}, "augment is 'turn'; expected True or False or 'flip'"),
        ({"crop": "center"}, "crop is 'center'; expected 'random' or 'centre'"),
        ({"patch_size": 0}, "patch_size is 0; expected 1 or more"),
        ({"patch_size": 0, "crop": "centre"}, "patch_size is 0; expected 1 or more"),
        ({"batch_size": 0}, "batch_size is 0; expected 1 or more"),
        ({"validation": -1}, "cannot hold out -1 pictures"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        white(**options)


def test_an_unknown_option_is_named():
    for make in (white, pairs):
        with pytest.raises(TypeError, match="'patchsize'"):
            make(patchsize=3)


def test_a_pair_that_is_too_small_is_named():
    with pytest.raises(ValueError, match="made: p3_c has 12x40 pixels; patches of 20x20 do not fit"):
        pairs(arrays(3) + arrays(1, 12))


# --- A source of one's own


def test_another_source_is_a_few_lines():
    class Darker(PatchSource):
        """Patches, and the same at a brightness drawn for each step."""

        def __init__(self, pictures, **cutting):
            super().__init__(pictures, PictureSet("", "", (), ""), [pictures.pictures], **cutting)

        def batch(self, step):
            (clean,) = self.cut(step)
            return {"clean": clean, "noisy": clean * torch.rand((), generator=self.generator("brightness", step))}

    source = Darker(picture_set(), patch_size=20, batch_size=5)
    assert same(source.batch(3), source.batch(3)) and not same(source.batch(3), source.batch(4))
    assert torch.equal(source.batch(3)["clean"], white().batch(3)["clean"])
