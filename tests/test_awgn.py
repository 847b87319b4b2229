"""The protocol of denoising white noise: which noise, what the method is told, which measure."""

from __future__ import annotations

import math

import pytest
import torch

from invdenoise.data import pictures as datasets
from invdenoise.data.fetch import DataUnavailable
from invdenoise.data.noise import awgn, noise_generator
from invdenoise.models.base import Denoiser
from invdenoise.tasks.awgn import noise_levels
from invdenoise.tasks.base import evaluate, make_task, read_scores, summarise, write_scores
from invdenoise.tasks.metrics import ssim


class Blend(Denoiser):
    """Mixes the image with its mean; remembers what it was given."""

    name, sigma = "blend", 25.0

    def __init__(self, share=0.5):
        self.share, self.given, self.options = share, [], []

    def estimate(self, noisy, sigma, **options):
        self.given.append((sigma, noisy.clone()))
        self.options.append(options)
        return (1 - self.share) * noisy + self.share * noisy.mean()

    def pictures(self):
        """Noisy pictures by (sigma, number); the warm-up is left out."""
        found, counts = {}, {}
        for sigma, image in self.given[1:]:
            counts[sigma] = counts.get(sigma, -1) + 1
            found[sigma, counts[sigma]] = image
        return found


class Blind(Blend):
    """Needs no noise level."""

    name, sigma = "blind", None


@pytest.fixture(scope="module")
def pictures():
    return datasets.load_pictures("embedded")


def denoise(method, sigmas, dataset="embedded", tell_sigma=True, **options):
    return evaluate(
        make_task("awgn.Denoise", {"tell_sigma": tell_sigma}), method, dataset, {"sigma": sigmas}, **options
    )


def test_one_row_a_picture_and_level_with_every_column(pictures):
    scores = denoise(Blend(), [15, 50], limit=2, seed=3, variant="half")
    assert len(scores) == 4
    assert not scores.drop(columns="sigma_estimated").isna().any().any()
    names = [picture.name for picture in pictures][:2]
    assert scores["image"].tolist() == 2 * names and scores["sigma"].tolist() == [15, 15, 50, 50]
    row = scores.iloc[0]
    assert (row.method, row.variant, row.dataset, row.requested) == ("blend", "half", "embedded", "embedded")
    assert (row.sigma_train, row.seed, row.num_parameters, row.budget) == (25, 3, 0, "none")
    assert row.data_sha256 == datasets.load_pictures("embedded", limit=2).sha256
    assert row.megapixels == 192 * 192 / 1e6 and scores["seconds"].between(0, 10, inclusive="neither").all()


def test_scores_are_those_of_the_protocol(pictures):
    """Noise of (seed, dataset, picture, sigma), not clipped; output clamped, not rounded; PSNR of range 1."""
    scores = denoise(Blend(0.25), [50], limit=2)
    for row, picture in zip(scores.itertuples(), pictures, strict=False):
        clean = picture.tensor()
        noisy = clean + 50 / 255 * torch.randn(clean.shape, generator=noise_generator(0, "embedded", picture.name, 50))
        assert noisy.min() < 0 and noisy.max() > 1
        denoised = (0.75 * noisy + 0.25 * noisy.mean()).clamp(0, 1)
        errors = {
            "psnr": denoised - clean,
            "psnr_rounded": (denoised * 255).round() / 255 - clean,
            "psnr_noisy": noisy - clean,
        }
        for column, error in errors.items():
            expected = -10 * math.log10(error.double().pow(2).mean().item())
            assert getattr(row, column) == pytest.approx(expected, abs=1e-4)
        assert row.ssim == pytest.approx(ssim(clean, denoised), abs=1e-6)
        assert row.psnr_noisy == pytest.approx(20 * math.log10(255 / 50), abs=0.1)
        assert row.psnr != row.psnr_rounded


def test_noise_depends_on_nothing_but_seed_dataset_picture_and_level(pictures):
    first, second, other, few = Blend(), Blend(0.1), Blend(), Blend()
    denoise(first, [15, 50], limit=3)
    denoise(second, [50, 30, 15], limit=3)  # other method, other order, another level between
    denoise(other, [15, 50], limit=3, seed=1)
    denoise(few, [50], limit=1)
    expected = first.pictures()
    assert len(expected) == 6
    for key, image in expected.items():
        assert torch.equal(second.pictures()[key], image)
        assert not torch.equal(other.pictures()[key], image)
    assert torch.equal(few.pictures()[50, 0], expected[50, 0])
    noise = {key: image - pictures.pictures[key[1]].tensor() for key, image in expected.items()}
    for one in noise:
        for two in noise:
            if one < two:  # every picture and level has a draw of its own
                correlation = torch.corrcoef(torch.stack([noise[one].flatten(), noise[two].flatten()]))[0, 1]
                assert abs(correlation) < 0.03
    assert torch.equal(
        expected[50, 2],
        awgn(pictures.pictures[2].tensor(), 50, noise_generator(0, "embedded", pictures.pictures[2].name, 50)),
    )


def test_limit_takes_the_first_pictures(pictures):
    assert len(denoise(Blend(), [25])) == len(pictures) == 6
    assert denoise(Blend(), [25], limit=1)["image"].tolist() == [pictures.pictures[0].name]
    with pytest.raises(ValueError, match="limit is 0"):
        denoise(Blend(), [25], limit=0)


def test_options_reach_every_call_and_levels_are_reported():
    denoiser, lines = Blend(), []
    scores = denoise(denoiser, [15, 25], limit=2, variant="odd", report=lines.append, options={"adapt": False})
    assert denoiser.options == 5 * [{"adapt": False}]  # one to warm up
    means = scores.groupby("sigma")["psnr"].mean()
    assert lines == [f"blend odd on embedded, sigma {s}: psnr {means[s]:.2f} dB" for s in (15, 25)]


# -- blind ------------------------------------------------------------------------------------------------------------


def test_a_blind_denoiser_is_not_told_the_level_and_its_estimate_is_kept(tmp_path):
    blind = Blind()
    assert denoise(blind, [15], limit=1, tell_sigma=False)["sigma_estimated"].isna().all()
    assert [sigma for sigma, _ in blind.given] == [None, None]
    blind.estimate_sigma = lambda noisy: 255 * (noisy[..., 1:] - noisy[..., :-1]).std().reshape(1) / 2**0.5
    scores = denoise(blind, [15, 75], limit=2, tell_sigma=False)
    assert summarise(scores)["sigma_estimated"].tolist() == pytest.approx([15, 75], rel=0.35)
    assert scores["sigma_estimated"].nunique() == 4
    # It is estimated once a picture, and denoises with that; the first call only warms up.
    assert [sigma for sigma, _ in blind.given[-4:]] == scores["sigma_estimated"].tolist()
    assert denoise(blind, [15], limit=1)["sigma_estimated"].isna().all()
    write_scores(scores, tmp_path / "new.csv")
    assert read_scores(tmp_path)["sigma_estimated"].tolist() == pytest.approx(
        scores["sigma_estimated"].tolist(), rel=1e-5
    )


def test_an_estimate_beyond_the_largest_level_is_cut_there():
    blind = Blind()
    blind.estimate_sigma = lambda noisy: torch.tensor([300.0])
    scores = denoise(blind, [15], limit=1, tell_sigma=False)
    assert scores["sigma_estimated"].tolist() == [300] and blind.given[-1][0] == 255


def test_a_method_that_needs_the_level_is_told_it(monkeypatch):
    method = Blend()  # trained for one level
    with pytest.raises(ValueError, match="blend is not blind: it needs the noise level, so tell_sigma cannot be False"):
        denoise(method, [25], tell_sigma=False)
    needs = Blind()
    needs.needs_sigma = True
    with pytest.raises(ValueError, match="blind is not blind"):
        denoise(needs, [25], tell_sigma=False)
    assert not method.given and not needs.given


# -- methods and data -------------------------------------------------------------------------------------------------


def test_a_name_is_loaded():
    task = make_task("awgn.Denoise")
    scores = evaluate(task, task.load("wavelet-visu"), "embedded", {"sigma": [25]}, limit=1)
    assert scores["method"].tolist() == ["wavelet-visu"] and math.isnan(scores["sigma_train"].astype(float)[0])


def test_a_stand_in_is_marked(monkeypatch):
    def unavailable(*_):
        raise DataUnavailable("neither mirror nor network")

    monkeypatch.setattr(datasets, "fetch_files", unavailable)
    with pytest.warns(UserWarning, match="stand in for bsd68: neither mirror nor network"):
        scores = denoise(Blend(), [25], "bsd68", limit=2)
    assert set(scores["dataset"]) == {"embedded"} and set(scores["requested"]) == {"bsd68"}
    real = denoise(Blend(), [25], limit=2)
    assert scores["psnr"].tolist() == real["psnr"].tolist()
    assert set(scores["data_sha256"]) == set(real["data_sha256"])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [((5, 20, 5), [5, 10, 15, 20]), ((0, 1, 0.1), [0.1 * i for i in range(11)]), ((5, 9, 5), [5]), ((7, 7, 1), [7])],
)
def test_noise_levels_include_the_last(arguments, expected):
    assert noise_levels(*arguments) == pytest.approx(expected)
