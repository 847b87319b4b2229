"""What `notebooks/invdn/paper.yaml` declares of InvDN: which scenes are trained on, what is tested on them, and what the released network does."""

from __future__ import annotations

import functools
import hashlib

import pytest
import torch

from invdenoise import papers, paths
from invdenoise.data.benchmarks import load_real_pairs
from invdenoise.data.fetch import DataUnavailable
from invdenoise.data.pictures import PairSet, join, leave_out_scenes
from invdenoise.methods import load_network
from invdenoise.models.invdn import InvDN
from invdenoise.tasks.metrics import psnr
from invdenoise.tasks.real import central

PAPER = papers.papers()["invdn"]
NETWORKS = [name for name, network in PAPER.networks.items() if network.source.kind == "batches.Pairs"]
TESTED = sorted({name for runs in PAPER.scores["benchmark"].runs for name in runs.sets} - {"sidd-validation"})

released = pytest.mark.skipif(
    not (paths.RELEASED_WEIGHTS / "invdn.safetensors").exists(), reason="no released weights: make release"
)


@functools.cache
def real_pairs(name: str) -> PairSet:
    """The pairs of a set; skips the test where they are out of reach."""
    try:
        return load_real_pairs(name, stand_in=False)
    except DataUnavailable as error:
        pytest.skip(f"data not available: {str(error).partition('. ')[0]}")


@functools.cache
def trained_on() -> PairSet:
    """The pairs of the source without those of its test scenes."""
    source = PAPER.networks["invdn"].source_options("laptop")
    pairs = join([real_pairs(name) for name in (source["set"], *source["also"])])
    return leave_out_scenes(pairs, source["test_scenes"])


@functools.cache
def hashes(pairs: PairSet) -> set[str]:
    """Of the pixels of each picture, noisy and clean."""
    pictures = (picture for pair in pairs for picture in (pair.noisy, pair.clean))
    return {hashlib.sha256(picture.pixels.tobytes()).hexdigest() for picture in pictures}


def crops(limit: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Middle parts of 128x128 pixels of the first pictures of one camera at ISO 3200, noisy and clean."""
    pairs = [pair for pair in real_pairs("cc15") if pair.name.startswith("d800_iso3200")][:limit]
    return [(central(pair.noisy.tensor(), 128), central(pair.clean.tensor(), 128)) for pair in pairs]


# --- What is trained on


def test_the_network_has_the_size_that_the_paper_prints():
    assert PAPER.networks["invdn"].build().num_parameters() == 2_640_960


def test_every_network_is_trained_on_the_same_pairs():
    assert set(NETWORKS) == set(PAPER.networks)
    sources = [PAPER.networks[name].source_options("laptop") for name in NETWORKS]
    assert all(source == sources[0] for source in sources)


def test_training_validation_and_test_share_no_scene():
    source = PAPER.networks["invdn"].source_options("laptop")
    test, validation = (set(source[key]) for key in ("test_scenes", "validation_scenes"))
    assert test and validation and not test & validation
    assert validation < set(trained_on().scenes)
    assert {f"polyu/{scene}" for scene in real_pairs("polyu-test").scenes} == test


@pytest.mark.parametrize("name", TESTED)
def test_no_picture_of_the_benchmark_is_trained_on(name):
    """By their pixels: the same picture may have another name in another set."""
    trained = trained_on()
    assert len(trained) > 50 and not hashes(trained) & hashes(real_pairs(name))


# --- What it does


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (9, 12), (13, 17), (24, 31)])
def test_three_levels_denoise_pictures_of_any_size(size):
    """Padding to multiples of 8 changes nothing of a picture that is one already."""
    torch.manual_seed(0)
    network = InvDN(num_levels=3, num_blocks=1, identity_start=False).eval()
    noisy = torch.rand(1, 3, *size)
    denoised = network.denoise(noisy)
    assert denoised.shape == noisy.shape and torch.isfinite(denoised).all()
    if all(length % 8 == 0 for length in size):
        torch.testing.assert_close(denoised, network(noisy).clamp(0, 1))


@released
def test_the_released_network_denoises_and_loses_nothing():
    network = load_network("invdn")
    for noisy, clean in crops(2):
        with torch.no_grad():
            assert (network.decode(*network.encode(noisy)) - noisy).abs().max() < 1e-3
        before, zero = psnr(clean, noisy), psnr(clean, network.denoise(noisy))
        assert zero > before + 1, f"{before:.2f} dB became {zero:.2f} dB"


@released
def test_a_draw_costs_little():
    network = load_network("invdn")
    for noisy, clean in crops(2):
        torch.manual_seed(0)
        assert psnr(clean, network.denoise(noisy, samples=1)) > psnr(clean, network.denoise(noisy)) - 0.1
