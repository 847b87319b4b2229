"""FFDNet: size and layout of the released files, tiles, and the level that it is told."""

import os
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from invdenoise.data.noise import awgn, noise_generator
from invdenoise.data.pictures import load_pictures
from invdenoise.layers import tiles
from invdenoise.models.ffdnet import FFDNet, read_authors_weights
from invdenoise.tasks.metrics import psnr

MIRROR = Path(os.environ.get("DATA_MIRROR") or "no-mirror")
WEIGHTS = MIRROR / "weights" / "ffdnet"
needs_mirror = pytest.mark.skipif(
    not (WEIGHTS.is_dir() and (MIRROR / "set12").is_dir()),
    reason="data not available: set DATA_MIRROR to a folder with set12/ and weights/ffdnet/",
)


def test_sizes_are_those_of_the_paper():
    # 3x3 kernels and biases: 5 -> 64 -> ... -> 4 for gray (0.49 M), 13 -> 96 -> ... -> 12 for colour (0.85 M).
    assert FFDNet().num_parameters() == 9 * (5 * 64 + 13 * 64**2 + 64 * 4) + 14 * 64 + 4 == 485_316
    assert FFDNet(3, 12, 96).num_parameters() == 9 * (13 * 96 + 10 * 96**2 + 96 * 12) + 11 * 96 + 12 == 852_108


def test_authors_order_of_pixels_goes_down_the_columns(tmp_path):
    """A file whose one kernel passes the second of the four input channels on to the first output channel."""
    kernels = np.zeros((2, 4, 5, 3, 3), "f4")
    kernels[0, :, :4, 1, 1] = np.eye(4)
    kernels[1, 0, 1, 1, 1] = 1
    path = tmp_path / "net.mat"
    with h5py.File(path, "w") as file:
        references = []
        for number, kernel in enumerate(kernels):
            layer = file.create_group(f"#refs#/{number}")
            layer["kernel"] = (kernel if number == 0 else kernel[:, :4]).swapaxes(-1, -2)
            layer["bias"] = np.zeros((1, 4), "f4")
            layer["weights"] = np.array([[layer["kernel"].ref], [layer["bias"].ref]], dtype=h5py.ref_dtype)
            references.append([layer.ref])
        file["net/layers"] = np.array(references, dtype=h5py.ref_dtype)
    network = read_authors_weights(path)
    assert (network.channels, network.depth) == (1, 2)
    block = torch.tensor([[0.1, 0.2], [0.3, 0.4]]).view(1, 1, 2, 2)
    # The second pixel going down the first column is 0.3; it lands at the top left.
    torch.testing.assert_close(network.denoise(block, 25)[0, 0], torch.tensor([[0.3, 0.0], [0.0, 0.0]]))


def test_the_level_reaches_the_network_in_units_of_the_picture():
    torch.manual_seed(0)
    network = FFDNet(1, 3, 8).eval()
    x = torch.rand(2, 1, 8, 6)
    half = F.pixel_unshuffle(x, 2)[:, [0, 2, 1, 3]]
    level = torch.tensor([51.0, 102.0])
    state = torch.cat([half, (level / 255).view(2, 1, 1, 1).expand(2, 1, 4, 3)], 1)
    expected = F.pixel_shuffle(network.layers(state)[:, [0, 2, 1, 3]], 2)
    torch.testing.assert_close(network(x, level), expected)
    torch.testing.assert_close(network(x[:1], 51.0), expected[:1])


def test_noise_level_is_asked_for():
    with pytest.raises(ValueError, match="sigma"):
        FFDNet(1, 3, 8).denoise(torch.rand(1, 1, 8, 8))


@torch.no_grad()
def test_large_pictures_in_tiles_give_the_same(monkeypatch):
    torch.manual_seed(0)
    network = FFDNet(3, 3, 8).eval()
    x = torch.rand(1, 3, 60, 44)
    whole = network(x, 25.0)
    monkeypatch.setattr(tiles, "TILE", 8)
    torch.testing.assert_close(network(x, 25.0), whole, rtol=0, atol=1e-6)


def test_missing_and_wrong_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing.mat"):
        read_authors_weights(tmp_path / "nothing.mat")
    (tmp_path / "bad.mat").write_bytes(b"no HDF5")
    with pytest.raises(ValueError, match=r"bad.mat: not FFDNet weights"):
        read_authors_weights(tmp_path / "bad.mat")


@needs_mirror
def test_gray_file_reaches_what_was_measured_with_another_program():
    network = read_authors_weights(WEIGHTS / "FFDNet_gray.mat")
    assert (network.channels, network.depth, network.num_parameters()) == (1, 15, 485_316)
    pictures = load_pictures("set12", limit=3)
    found = []
    for picture in pictures:
        noisy = awgn(picture.tensor(), 25, noise_generator(0, "set12", picture.name, 25))
        found.append(psnr(picture.tensor(), network.denoise(noisy, 25)))
    assert found == pytest.approx([30.0, 33.4, 30.8], abs=0.1)


@needs_mirror
def test_colour_file_denoises_colour():
    network = read_authors_weights(WEIGHTS / "FFDNet_color.mat")
    assert (network.channels, network.depth, network.num_parameters()) == (3, 12, 852_108)
    clean = load_pictures("embedded-colour", limit=1).pictures[0].tensor()
    noisy = awgn(clean, 25, noise_generator(0, "embedded-colour", "first", 25))
    assert psnr(clean, network.denoise(noisy, 25)) > psnr(clean, noisy) + 8
