"""The protocol: which noise, which measure, and score files that say where a number comes from."""

from __future__ import annotations

import math

import pandas as pd
import pytest
import torch

from invdenoise import datasets, evaluation, paths
from invdenoise.datasets import DataUnavailable
from invdenoise.denoiser import Denoiser
from invdenoise.evaluation import COLUMNS, evaluate, noise_levels, read_scores, summarise, write_scores
from invdenoise.metrics import ssim
from invdenoise.noise import awgn, noise_generator


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


@pytest.fixture(scope="module")
def pictures():
    return datasets.load_pictures("embedded")


def test_one_row_a_picture_and_level_with_every_column(pictures):
    scores = evaluate(Blend(), "embedded", [15, 50], limit=2, seed=3, variant="half")
    assert tuple(scores.columns) == COLUMNS and len(scores) == 4
    assert not scores.drop(columns=["weights_sha256", "sigma_estimated"]).isna().any().any()
    names = [picture.name for picture in pictures][:2]
    assert scores["image"].tolist() == 2 * names and scores["sigma_test"].tolist() == [15, 15, 50, 50]
    row = scores.iloc[0]
    assert (row.method, row.variant, row.dataset, row.requested) == ("blend", "half", "embedded", "embedded")
    assert (row.sigma_train, row.seed, row.num_parameters, row.budget) == (25, 3, 0, "none")
    assert row.data_sha256 == datasets.load_pictures("embedded", limit=2).sha256
    assert row.megapixels == 192 * 192 / 1e6 and scores["seconds"].between(0, 10, inclusive="neither").all()


def test_scores_are_those_of_the_protocol(pictures):
    """Noise of (seed, dataset, picture, sigma), not clipped; output clamped, not rounded; PSNR of range 1."""
    scores = evaluate(Blend(0.25), "embedded", [50], limit=2)
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
    evaluate(first, "embedded", [15, 50], limit=3)
    evaluate(second, "embedded", [50, 30, 15], limit=3)  # other method, other order, another level between
    evaluate(other, "embedded", [15, 50], limit=3, seed=1)
    evaluate(few, "embedded", [50], limit=1)
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


def test_an_estimate_beyond_the_largest_level_is_cut_there():
    blind = Blend()
    blind.estimate_sigma = lambda noisy: torch.tensor([300.0])
    scores = evaluate(blind, "embedded", [15], limit=1, tell_sigma=False)
    assert scores["sigma_estimated"].tolist() == [300] and blind.given[-1][0] == 255


def test_limit_takes_the_first_pictures(pictures):
    assert len(evaluate(Blend(), "embedded", [25])) == len(pictures) == 6
    assert evaluate(Blend(), "embedded", [25], limit=1)["image"].tolist() == [pictures.pictures[0].name]
    with pytest.raises(ValueError, match="limit is 0"):
        evaluate(Blend(), "embedded", [25], limit=0)


def test_options_reach_every_call_and_levels_are_reported():
    denoiser, lines = Blend(), []
    evaluate(denoiser, "embedded", [15, 25], limit=2, variant="odd", report=lines.append, adapt=False)
    assert denoiser.options == 5 * [{"adapt": False}]  # one to warm up
    assert [line.split(":")[0] for line in lines] == [f"blend odd on embedded, sigma {s}" for s in (15, 25)]


def test_a_blind_denoiser_is_not_told_the_level_and_its_estimate_is_kept(tmp_path):
    blind = Blend()
    assert evaluate(blind, "embedded", [15], limit=1, tell_sigma=False)["sigma_estimated"].isna().all()
    assert [sigma for sigma, _ in blind.given] == [None, None]
    blind.estimate_sigma = lambda noisy: 255 * (noisy[..., 1:] - noisy[..., :-1]).std().reshape(1) / 2**0.5
    scores = evaluate(blind, "embedded", [15, 75], limit=2, tell_sigma=False)
    assert summarise(scores)["sigma_estimated"].tolist() == pytest.approx([15, 75], rel=0.35)
    assert scores["sigma_estimated"].nunique() == 4
    # It is estimated once a picture, and denoises with that; the first call only warms up.
    assert [sigma for sigma, _ in blind.given[-4:]] == scores["sigma_estimated"].tolist()
    assert evaluate(blind, "embedded", [15], limit=1)["sigma_estimated"].isna().all()
    write_scores(scores, tmp_path / "new.csv")
    write_scores(scores.assign(variant="old").drop(columns="sigma_estimated"), tmp_path / "old.csv")
    back = read_scores(tmp_path)
    assert tuple(back.columns) == COLUMNS and back["sigma_estimated"].notna().sum() == 4


def test_a_name_is_loaded():
    scores = evaluate("wavelet-visu", "embedded", [25], limit=1)
    assert scores["method"].tolist() == ["wavelet-visu"] and math.isnan(scores["sigma_train"].astype(float)[0])


def test_a_stand_in_is_marked(monkeypatch):
    def unavailable(*_):
        raise DataUnavailable("neither mirror nor network")

    monkeypatch.setattr(datasets, "_fetch", unavailable)
    with pytest.warns(UserWarning, match="stand in for bsd68: neither mirror nor network"):
        scores = evaluate(Blend(), "bsd68", [25], limit=2)
    assert set(scores["dataset"]) == {"embedded"} and set(scores["requested"]) == {"bsd68"}
    real = evaluate(Blend(), "embedded", [25], limit=2)
    assert scores["psnr"].tolist() == real["psnr"].tolist()
    assert set(scores["data_sha256"]) == set(real["data_sha256"])


# -- score files ------------------------------------------------------------------------------------------------------


def table(**columns):
    """Scores with the given columns; the others hold fillers."""
    number = len(next(iter(columns.values())))
    filler = {
        "method": "m", "variant": "", "dataset": "set12", "requested": "set12", "image": "01", "sigma_train": 25.0,
        "sigma_test": 25.0, "psnr": 30.0, "psnr_rounded": 29.0, "psnr_noisy": 20.0, "ssim": 0.9, "seconds": 1.0,
        "megapixels": 0.5, "device": "cpu", "seed": 0, "num_parameters": 7, "budget": "none", "weights_sha256": "",
        "data_sha256": "ab", "version": "1", "commit": "c", "sigma_estimated": math.nan,
    }  # fmt: skip
    return pd.DataFrame({key: columns.get(key, [filler[key]] * number) for key in COLUMNS})


def test_score_files_come_back_as_they_were(tmp_path):
    scores = table(image=["01", "NA"], psnr=[31.23456, 28.5], variant=["", "adapt"], sigma_train=[None, 25.0])
    write_scores(scores, tmp_path / "deep" / "a.csv")
    write_scores(table(psnr=[1.0], image=["02"]), tmp_path / "b.csv")
    back = read_scores(tmp_path)
    assert back["image"].tolist() == ["02", "01", "NA"]  # names stay text, and NA is a name
    assert back["variant"].tolist() == ["", "", "adapt"] and back["budget"].tolist() == ["none"] * 3
    assert back["psnr"].tolist() == pytest.approx([1.0, 31.23456, 28.5], abs=1e-4)
    assert back["sigma_train"].isna().tolist() == [False, True, False]
    assert read_scores([tmp_path / "b.csv"])["psnr"].tolist() == [1.0]


def test_sweeps_are_read_alone(tmp_path):
    write_scores(table(psnr=[1.0]), tmp_path / "m-set12.csv")
    write_scores(table(psnr=[2.0]), tmp_path / "m-set12-sweep.csv")
    assert read_scores(tmp_path)["psnr"].tolist() == [1.0]
    assert read_scores(tmp_path, sweeps=True)["psnr"].tolist() == [2.0]


def test_hidden_files_are_no_scores(tmp_path):
    folder = tmp_path / ".kept" / "scores"  # only what is hidden below the folder counts
    write_scores(table(psnr=[1.0]), folder / "m" / "set12.csv")
    (folder / "m" / ".set12-unfinished-0a1b2c3d.csv").write_text("method,vari")
    write_scores(table(psnr=[2.0]), folder / "m" / ".ipynb_checkpoints" / "set12-checkpoint.csv")
    assert read_scores(folder)["psnr"].tolist() == [1.0]


def test_missing_scores_name_the_command(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="no scores in .*`make paper`"):
        read_scores(tmp_path)
    monkeypatch.setenv("INVDENOISE_RESULTS", str(tmp_path))
    write_scores(table(psnr=[3.0]), paths.scores_dir() / "m.csv")
    assert read_scores()["psnr"].tolist() == [3.0]


@pytest.mark.parametrize("content", ["a,b\n1,2\n", "", '"method,\n'], ids=["other columns", "empty", "broken"])
def test_what_is_no_score_file_is_named(content, tmp_path):
    (tmp_path / "odd.csv").write_text(content)
    with pytest.raises(ValueError, match="odd.csv is not a score file"):
        read_scores(tmp_path)


def test_an_interrupted_write_leaves_the_old_scores(tmp_path, monkeypatch):
    path = tmp_path / "a.csv"
    write_scores(table(psnr=[1.0]), path)

    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(pd.DataFrame, "to_csv", stop)
    with pytest.raises(KeyboardInterrupt):
        write_scores(table(psnr=[2.0]), path)
    monkeypatch.undo()
    assert read_scores(tmp_path)["psnr"].tolist() == [1.0] and list(tmp_path.iterdir()) == [path]


def test_summary_by_hand():
    scores = table(
        method=["a", "a", "a", "a", "b"],
        variant=["", "", "", "x", ""],
        sigma_test=[25, 25, 50, 25, 25],
        psnr=[30.0, 32.0, 20.0, 10.0, 29.0],
        ssim=[0.8, 0.9, 0.5, 0.1, 0.7],
        seconds=[1.0, 3.0, 5.0, 7.0, 9.0],
        megapixels=[0.5, 1.5, 0.5, 0.5, 0.25],
        sigma_train=[25.0, 25.0, 25.0, 25.0, None],
        num_parameters=[7, 7, 7, 7, 0],
    )
    summary = summarise(scores)
    keys = summary[["method", "variant", "sigma_test"]].itertuples(index=False, name=None)
    assert list(keys) == [("a", "", 25), ("a", "", 50), ("a", "x", 25), ("b", "", 25)]
    assert summary["psnr"].tolist() == [31, 20, 10, 29]
    assert summary["ssim"].tolist() == pytest.approx([0.85, 0.5, 0.1, 0.7])
    assert summary["seconds"].tolist() == [2, 5, 7, 9]
    assert summary["seconds_per_megapixel"].tolist() == [2, 10, 14, 36]
    assert summary["num_images"].tolist() == [2, 1, 1, 1] and summary["num_parameters"].tolist() == [7, 7, 7, 0]
    assert summary["sigma_train"].isna().tolist() == [False, False, False, True]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [((5, 20, 5), [5, 10, 15, 20]), ((0, 1, 0.1), [0.1 * i for i in range(11)]), ((5, 9, 5), [5]), ((7, 7, 1), [7])],
)
def test_noise_levels_include_the_last(arguments, expected):
    assert noise_levels(*arguments) == pytest.approx(expected)


def test_columns_are_written_in_one_place():
    assert evaluation.COLUMNS == COLUMNS and len(set(COLUMNS)) == len(COLUMNS)


def test_two_files_with_the_same_scores_are_refused(tmp_path):
    scores = evaluate(Blend(), "embedded", [15, 25], limit=1)
    write_scores(scores, tmp_path / "blend" / "embedded.csv")
    write_scores(scores[scores["sigma_test"] == 15], tmp_path / "blend" / "embedded-s15.csv")
    with pytest.raises(
        ValueError, match="scored twice, in .*embedded-s15.csv and .*embedded.csv; delete the older file"
    ):
        read_scores(tmp_path)
    write_scores(scores.assign(variant="other"), tmp_path / "blend" / "embedded-s15.csv")
    assert len(read_scores(tmp_path)) == 4
