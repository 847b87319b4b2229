"""TNRD: size as published, one stage against its formula, tiles, the reader of MATLAB's files, and the authors' weights."""

import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import io, ndimage

from invdenoise.data.noise import awgn, noise_generator
from invdenoise.data.pictures import load_pictures
from invdenoise.layers import tiles
from invdenoise.models.tnrd import TNRD, dct_atoms, read_authors_weights
from invdenoise.papers import resolve
from invdenoise.tasks.metrics import psnr

MIRROR = Path(os.environ.get("DATA_MIRROR") or "no-mirror")
WEIGHTS = MIRROR / "weights" / "tnrd"
needs_mirror = pytest.mark.skipif(
    not (WEIGHTS.is_dir() and (MIRROR / "set12").is_dir()),
    reason="data not available: set DATA_MIRROR to a folder with set12/ and weights/tnrd/",
)


def random_network(**options):
    """A small network whose functions do something."""
    torch.manual_seed(0)
    network = TNRD(**{"num_stages": 2, "filter_size": 3, **options}).eval()
    for stage in network.stages:
        torch.nn.init.normal_(stage.coefficients)
        torch.nn.init.normal_(stage.weights, std=2.0)
        torch.nn.init.constant_(stage.log_lambda, -2.0)
    return network


def test_sizes_are_those_of_the_papers():
    # Five stages of 48 filters with 48 coefficients and 63 weights each, and lambda: LINN's Table I prints 26.6e3.
    assert TNRD().num_parameters() == 5 * (48 * 48 + 48 * 63 + 1) == 26_645
    assert TNRD(filter_size=5).num_parameters() == 10_445


def test_atoms_are_orthonormal_and_have_no_mean():
    atoms = dct_atoms(7)
    torch.testing.assert_close(atoms @ atoms.T, torch.eye(48, dtype=torch.float64))
    assert atoms.sum(1).abs().max() < 1e-12
    vertical = atoms[0].view(7, 7)
    assert vertical.std(1).max() < 1e-12 < vertical.std(0).min()


@torch.no_grad()
def test_a_stage_is_its_formula():
    network = random_network(num_stages=1, centre_max=40.0, std=10.0)
    (stage,) = network.stages
    generator = np.random.default_rng(0)
    u, f = (generator.uniform(0, 255, (9, 11)) for _ in "uf")
    expected = u - math.exp(-2) * (u - f)
    centres = np.linspace(-40, 40, 63)
    for kernel, weights in zip(stage.filters.double().numpy()[:, 0], stage.weights.double().numpy(), strict=True):
        # Mirrored far enough that the border of the second filter sees responses to mirrored pixels too.
        response = ndimage.correlate(np.pad(u, 2, mode="symmetric"), kernel)
        phi = (weights * np.exp(-(((response[..., None] - centres) / 10) ** 2) / 2)).sum(-1)
        expected -= ndimage.convolve(phi, kernel)[2:-2, 2:-2]
    found = stage(*(torch.from_numpy(x)[None, None].float() for x in (u, f)))[0, 0].numpy()
    assert np.abs(found - expected).max() < 2e-3
    assert np.abs(expected - u).max() > 5


def test_functions_are_zero_far_from_their_centres():
    (stage,) = random_network(num_stages=1).stages
    far = torch.full((1, 8, 1, 1), 1000.0)
    assert stage.influence(far).abs().max() < 1e-6 and stage.influence(-far).abs().max() < 1e-6
    assert stage.influence(torch.zeros(1, 8, 1, 1)).abs().max() > 0.1


def test_every_parameter_is_trained():
    network = random_network().train()
    loss, _ = network.training_loss(clean=torch.rand(2, 1, 12, 12), noisy=torch.rand(2, 1, 12, 12))
    loss.backward()
    idle = [name for name, p in network.named_parameters() if p.grad is None or p.grad.abs().max() == 0]
    assert idle == ["stages.0.log_lambda"]  # the estimate starts as the noisy image


@pytest.mark.parametrize("shape", [(1, 1), (2, 5), (33, 20)])
def test_any_size(shape):
    denoised = random_network(filter_size=7).denoise(torch.rand(2, 1, *shape), sigma=25)
    assert denoised.shape == (2, 1, *shape) and torch.isfinite(denoised).all()


@torch.no_grad()
def test_a_large_picture_in_tiles_gives_the_same(monkeypatch):
    network, x = random_network(), torch.rand(1, 1, 70, 50)
    whole = network.diffuse(x)
    monkeypatch.setattr(tiles, "TILE", 16)
    torch.testing.assert_close(network(x), whole, rtol=0, atol=2e-6)
    assert (whole - x).abs().max() > 0.01


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_stages": 0}, "num_stages is 0; expected 1 or more"),
        ({"filter_size": 1}, "filter_size is 1; expected 2 or more"),
        ({"std": 0.0}, "std is 0.0; expected grey levels, more than 0"),
        ({"sigma": 300}, "sigma is 300"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        TNRD(**options)


# -- files ------------------------------------------------------------------------------------------------------------


def write_mat(path, network, **changes):
    """A file as the authors', of a network of ours."""
    columns = [
        torch.cat([stage.coefficients.flatten(), stage.log_lambda.view(1), stage.weights.flatten()])
        for stage in network.stages
    ]
    stage = network.stages[0]
    functions = {"means": stage.centres.numpy()[:, None], "precision": stage.std**-2}
    content = {"cof": torch.stack(columns, 1).detach().double().numpy(), "MFS": functions, **changes}
    io.savemat(path, {name: value for name, value in content.items() if value is not None})


def test_a_file_is_read_into_the_network_that_it_holds(tmp_path):
    network = random_network(num_stages=3, centre_max=387.5, std=12.5)
    write_mat(tmp_path / "net.mat", network)
    read = read_authors_weights(tmp_path / "net.mat", 50)
    assert (len(read.stages), read.sigma, read.training) == (3, 50, False)
    noisy = torch.rand(1, 1, 14, 10)
    torch.testing.assert_close(read.denoise(noisy, 50), network.denoise(noisy, 25), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cof": None}, "cof"),
        ({"MFS": None}, "MFS"),
        ({"cof": np.zeros((100, 2))}, "a stage has 100 parameters"),
        ({"cof": np.full((569, 2), np.nan)}, "finite"),
        ({"MFS": {"means": np.zeros((5, 1)), "precision": 0.01}}, "5 centres"),
        ({"MFS": {"means": np.zeros((63, 1)), "precision": 0.0}}, "precision 0"),
    ],
)
def test_another_file_is_refused(changes, message, tmp_path):
    write_mat(tmp_path / "net.mat", random_network(), **changes)
    with pytest.raises(ValueError, match=f"net.mat: not TNRD weights .*{message}.*fetch the file again"):
        read_authors_weights(tmp_path / "net.mat", 25)


def test_a_damaged_or_missing_file_is_named(tmp_path):
    path = tmp_path / "net.mat"
    with pytest.raises(FileNotFoundError, match=r"net.mat: no such file.*TNRD"):
        read_authors_weights(path, 25)
    write_mat(path, random_network())
    content = path.read_bytes()
    for damaged in (b"", b"no MATLAB file", content[: len(content) // 2]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"net.mat: not TNRD weights in MATLAB 5 format"):
            read_authors_weights(path, 25)


# -- the authors' weights ---------------------------------------------------------------------------------------------


@needs_mirror
@pytest.mark.parametrize(
    ("sigma", "printed"), [(15, (32.19, 34.53, 33.04)), (25, (29.72, 32.53, 30.57)), (50, (26.62, 29.48, 27.10))]
)
def test_the_authors_weights_reach_the_printed_numbers(sigma, printed):
    # Printed for Cameraman, House and Peppers, with another draw of the noise: a picture's PSNR moves by about 0.1 dB.
    network = read_authors_weights(WEIGHTS / f"JointTraining_7x7_400_180x180_stage=5_sigma={sigma}.mat", sigma)
    found = []
    for picture in load_pictures("set12", limit=3):
        noisy = awgn(picture.tensor(), sigma, noise_generator(0, "set12", picture.name, sigma))
        found.append(psnr(network.denoise(noisy, sigma), picture.tensor()))
    assert np.abs(np.subtract(found, printed)).max() < 0.12
    assert abs(np.mean(found) - np.mean(printed)) < 0.06


def test_it_is_declared():
    assert resolve("tnrd.read_authors_weights", "models") is read_authors_weights
