"""Denoising of real pairs: what a method is given, which measure, the level that fits best, and files for benchmarks."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.io import loadmat
from test_benchmarks import by_hand, save_blocks, save_boxes  # noqa: F401  (a fixture and what fills its folders)

from invdenoise.data import pictures as datasets
from invdenoise.models.base import Denoiser
from invdenoise.tasks.base import evaluate, make_task, read_scores, write_scores
from invdenoise.tasks.metrics import psnr, ssim
from invdenoise.tasks.real import LEVELS, Denoise, central, submit


class Blend(Denoiser):
    """Mixes the picture with the mean of its neighbours; remembers what it was given."""

    name, channels = "blend", 3

    def __init__(self):
        self.seen = []

    def estimate(self, noisy, sigma, share=0.5, jitter=0.0):
        self.seen.append((sigma, noisy.clone(), share))
        blurred = torch.nn.functional.avg_pool2d(noisy, 3, 1, 1, count_include_pad=False)
        return (1 - share) * noisy + share * blurred + jitter * torch.randn_like(noisy)


class Told(Blend):
    """Blurs by the level that it is told: 20 is right, more is too much."""

    name, needs_sigma = "told", True

    def estimate(self, noisy, sigma, share=None, jitter=0.0):
        return super().estimate(noisy, sigma, min(sigma / 20, 2 - sigma / 20), jitter)


@pytest.fixture(scope="module")
def pairs():
    return list(datasets.load_pairs("embedded-pairs"))


def denoise(method, settings=None, limit=2, task="real.Denoise", **options):
    return evaluate(make_task(task, settings), method, "embedded-pairs", {}, limit=limit, **options)


# -- protocol ---------------------------------------------------------------------------------------------------------


def test_scores_are_those_of_the_protocol(pairs):
    """Pictures as stored; output clamped, not rounded; PSNR over all channels together; nothing is added."""
    method = Blend()
    scores = denoise(method, options={"share": 0.75})
    assert scores["image"].tolist() == [pair.name for pair in pairs[:2]]
    for row, pair, (sigma, given, _) in zip(scores.itertuples(), pairs, method.seen[1:], strict=False):
        noisy, clean = pair.noisy.tensor(), pair.clean.tensor()
        assert sigma is None and torch.equal(given, noisy)
        denoised = (
            0.25 * noisy + 0.75 * torch.nn.functional.avg_pool2d(noisy, 3, 1, 1, count_include_pad=False)
        ).clamp(0, 1)
        error = (denoised - clean).double()
        assert row.psnr == pytest.approx(-10 * math.log10(error.square().mean()), abs=1e-4)
        rounded = (denoised.double() * 255).round() / 255 - clean.double()
        assert row.psnr_rounded == pytest.approx(-10 * math.log10(rounded.square().mean()), abs=1e-4)
        assert row.psnr_rounded != row.psnr
        assert row.psnr_noisy == pytest.approx(psnr(clean, noisy)) and row.psnr_noisy < row.psnr
        assert row.ssim == pytest.approx(ssim(clean, denoised))
        assert row.scene == pair.scene and row.megapixels == 192 * 192 / 1e6
        assert math.isnan(row.sigma_given) and row.level == ""


def test_the_untouched_picture_is_a_method():
    task = make_task("real.Denoise")
    scores = evaluate(task, task.load("noisy"), "embedded-pairs", {}, limit=2)
    assert scores["psnr"].tolist() == pytest.approx(scores["psnr_noisy"].tolist()) and scores["method"][0] == "noisy"
    assert scores["psnr"].tolist() == pytest.approx(scores["psnr_rounded"].tolist())  # it has 8 bits already
    assert task.load("nlm").name == "nlm"


def test_a_central_crop_is_taken_where_it_is_asked_for(pairs):
    method = Blend()
    scores = denoise(method, {"crop": 50}, limit=1)
    clean = pairs[0].clean.tensor()[..., 71:121, 71:121]
    assert torch.equal(method.seen[-1][1], pairs[0].noisy.tensor()[..., 71:121, 71:121])
    assert scores["psnr_noisy"][0] == pytest.approx(psnr(clean, method.seen[-1][1]))
    assert scores["megapixels"][0] == 2500 / 1e6
    assert denoise(Blend(), task="real.DenoiseCrops", settings={"crop": 50}, limit=1)["psnr"][0] == scores["psnr"][0]
    assert make_task("real.DenoiseCrops").crop == 192
    image = torch.arange(20.0).view(1, 1, 4, 5)
    assert torch.equal(central(image, 0), image) and torch.equal(central(image, 9), image)
    assert central(image, 3).tolist() == [[[[1, 2, 3], [6, 7, 8], [11, 12, 13]]]]
    assert torch.equal(central(image, 4), image[..., :4])


def test_what_a_method_draws_depends_on_seed_set_and_picture_alone():
    torch.manual_seed(0)
    state = torch.get_rng_state()
    options = {"jitter": 0.02}
    both = denoise(Blend(), options=options)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(1)
    assert denoise(Blend(), options=options)["psnr"].tolist() == both["psnr"].tolist()
    assert denoise(Blend(), options=options, limit=1)["psnr"][0] == both["psnr"][0]
    assert denoise(Blend(), options=options, seed=1)["psnr"][0] != both["psnr"][0]


def test_scores_are_written_and_read(tmp_path):
    scores = denoise(Blend())
    write_scores(scores, tmp_path / "a.csv")
    back = read_scores(tmp_path / "a.csv")
    assert (
        back["psnr"].tolist() == pytest.approx(scores["psnr"].tolist(), rel=1e-5)
        and back["scene"].tolist() == scores["scene"].tolist()
    )


def test_training_validates_with_it(pairs):
    """The calls of the training loop: cases of held-out pairs, run and score, no warm-up."""
    task = make_task("real.Denoise")
    held_out = datasets.PairSet("validation", "validation", tuple(pairs[:2]), "")
    found = [task.score(task.run(Blend(), case), case)["psnr"] for case in task.cases(held_out, 0)]
    assert found == pytest.approx(denoise(Blend())["psnr"].tolist())


# -- level ------------------------------------------------------------------------------------------------------------


def test_a_level_is_told():
    method = Told()
    scores = denoise(method, {"level": 15})
    assert {sigma for sigma, _, _ in method.seen} == {15} and set(scores["sigma_given"]) == {15}
    assert set(scores["level"]) == {"told"}


def test_the_best_level_is_that_of_the_highest_mean_and_called_an_oracle(pairs):
    levels = [5, 12, 20, 28, 60]
    each = {}
    for level in levels:
        task, found = Denoise(level=level), []
        for pair in pairs[:3]:
            noisy, clean = (central(picture.tensor(), 128) for picture in (pair.noisy, pair.clean))
            found.append(psnr(clean, Told().denoise(noisy, level)))
        each[level] = sum(found) / len(found)
        assert task.level == level
    best = max(each, key=each.get)
    method = Told()
    scores = denoise(method, {"level": "best", "levels": levels}, limit=3)
    assert set(scores["sigma_given"]) == {best} and set(scores["level"]) == {"oracle"}
    tried = [sigma for sigma, noisy, _ in method.seen if noisy.shape[-1] == 128]
    assert tried == [level for level in levels for _ in range(3)]  # once, before anything is timed
    assert [sigma for sigma, _, _ in method.seen[len(tried) :]] == [best] * 4
    assert scores["psnr"].tolist() == denoise(Told(), {"level": best}, limit=3)["psnr"].tolist()
    assert sorted(LEVELS) == list(LEVELS)


def test_two_methods_and_two_sets_have_their_own_best_level():
    task = make_task("real.Denoise", {"level": "best", "levels": [5, 20]})
    first = evaluate(task, Told(), "embedded-pairs", {}, limit=1)
    other = Told()
    other.estimate = lambda noisy, sigma: noisy + (sigma == 20)  # 20 is bad
    second = evaluate(task, other, "embedded-pairs", {}, limit=1)
    assert (first["sigma_given"][0], second["sigma_given"][0]) == (20, 5)


# -- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "settings", "options", "message"),
    [
        ({"denoise": None}, {}, {}, r"blend has no denoise\(...\), which this task calls"),
        ({"channels": 1}, {}, {}, "blend takes 1 channel; real pairs are in colour"),
        ({"needs_sigma": True}, {}, {}, "blend must be told a noise level.*set level to grey levels, or to 'best'"),
        ({}, {}, {"sigma": 25}, "sigma is no option here; set the task's level"),
    ],
)
def test_what_cannot_denoise_is_refused_before_anything_runs(change, settings, options, message):
    method = Blend()
    for key, value in change.items():
        setattr(method, key, value)
    with pytest.raises(ValueError, match=message):
        denoise(method, settings, options=options)
    assert not method.seen


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"level": "beste"}, "level is 'beste'; expected grey levels, 'best', or None"),
        ({"level": 300}, "level: sigma is 300"),
        ({"level": "best", "levels": []}, "levels is empty"),
        ({"levels": [-1]}, "levels: sigma is -1"),
        ({"crop": 2.5}, "crop is 2.5"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        make_task("real.Denoise", settings)


def test_pictures_without_truth_are_refused():
    with pytest.raises(ValueError, match="holds noisy pictures without clean ones"):
        evaluate(make_task("real.Denoise"), Blend(), "embedded-noisy", {})


# -- benchmarks -------------------------------------------------------------------------------------------------------


def test_blocks_of_a_benchmark_are_scored(by_hand):  # noqa: F811
    noisy, clean = save_blocks(by_hand / "phone", "Validation")
    scores = evaluate(make_task("real.Denoise"), Blend(), "phone", {})
    assert scores["image"].tolist() == ["00-00", "00-01", "00-02", "01-00", "01-01", "01-02"]
    assert scores["scene"].tolist() == 3 * ["picture 00"] + 3 * ["picture 01"] and set(scores["dataset"]) == {"phone"}
    error = noisy[1, 2].astype(float) / 255 - clean[1, 2] / 255
    assert scores["psnr_noisy"].iloc[-1] == pytest.approx(-10 * np.log10((error**2).mean()), abs=1e-4)
    assert len(evaluate(make_task("real.Denoise"), Blend(), "phone", {}, limit=4)) == 4


def test_a_missing_benchmark_has_a_stand_in_that_says_so(by_hand):  # noqa: F811
    with pytest.warns(UserWarning, match=r"stand in for phone: .*Fill in their form"):
        scores = evaluate(make_task("real.Denoise"), Blend(), "phone", {}, limit=1)
    assert (scores["dataset"][0], scores["requested"][0]) == ("embedded-pairs", "phone")


def test_blocks_are_submitted_with_8_bits_and_their_time(by_hand, tmp_path):  # noqa: F811
    noisy, _ = save_blocks(by_hand / "phone", "Benchmark")
    lines = []
    (file,) = submit(Blend(), "phone", tmp_path / "out", report=lines.append, share=1.0)
    found = loadmat(file)
    assert file.name == "SubmitSrgb.mat" and lines == [
        "blend on phone: picture 1 of 2",
        "blend on phone: picture 2 of 2",
    ]
    image = torch.from_numpy(noisy[1, 2].astype(np.float32) / 255).permute(2, 0, 1)[None]
    expected = (Blend().denoise(image, share=1.0)[0].permute(1, 2, 0).double() * 255).round().numpy()
    assert found["DenoisedBlocksSrgb"].dtype == np.uint8 and found["DenoisedBlocksSrgb"].shape == noisy.shape
    np.testing.assert_array_equal(found["DenoisedBlocksSrgb"][1, 2], expected)
    assert 0 < found["TimeMPSrgb"].item() < 1000


def test_boxes_are_submitted_without_rounding(by_hand, tmp_path):  # noqa: F811
    boxes = save_boxes(by_hand / "camera")
    files = submit(Told(), "camera", tmp_path, sigma=20)
    assert [file.name for file in files] == ["0001.mat", "0002.mat"]
    found = loadmat(files[1])["Idenoised"][0, 3]
    image = torch.from_numpy(boxes[1][3]).permute(2, 0, 1)[None]
    expected = Told().denoise(image, 20)[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-7)
    assert np.abs(found * 255 - np.rint(found * 255)).max() > 0.1


def test_what_cannot_be_submitted_is_refused(by_hand, tmp_path):  # noqa: F811
    save_blocks(by_hand / "phone", "Validation")
    with pytest.raises(ValueError, match="phone has clean pictures, so nothing is submitted: score it"):
        submit(Blend(), "phone", tmp_path)
    with pytest.raises(ValueError, match="told must be told a noise level"):
        submit(Told(), "phone", tmp_path)
    save_boxes(by_hand / "camera")
    with pytest.raises(ValueError, match="camera has no clean pictures: its makers keep them"):
        evaluate(make_task("real.Denoise"), Blend(), "camera", {})
