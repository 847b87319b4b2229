"""IRCNN: size and dilations as published, tiles, the reader of MXNet's files, and the authors' weights."""

import os
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from skimage import io

from invdenoise.data.noise import awgn, noise_generator
from invdenoise.data.pictures import load_pictures
from invdenoise.layers import tiles
from invdenoise.models import dncnn
from invdenoise.models.ircnn import IRCNN, read_arrays, read_authors_weights
from invdenoise.papers import resolve
from invdenoise.tasks.metrics import psnr

MIRROR = Path(os.environ.get("DATA_MIRROR") or "no-mirror")
WEIGHTS = MIRROR / "weights" / "ircnn"
FILES = {
    15: "model_sigma=16to18-0000.params",
    25: "model_sigma=26to28-0000.params",
    50: "model_sigma=50to52-0000.params",
}
needs_mirror = pytest.mark.skipif(
    not (WEIGHTS.is_dir() and (MIRROR / "set12").is_dir()),
    reason="data not available: set DATA_MIRROR to a folder with set12/ and weights/ircnn/",
)


def noisy_picture(dataset, picture, sigma):
    return awgn(picture.tensor(), sigma, noise_generator(0, dataset, picture.name, sigma))


def packed(arrays, list_magic=0x112, array_magic=0xF993FAC9, storage=0, dtype=0, names=None):
    """The bytes of an MXNet file with these arrays."""
    parts = [struct.pack("<QQQ", list_magic, 0, len(arrays))]
    for array in arrays.values():
        parts.append(struct.pack(f"<IiI{array.ndim}q", array_magic, storage, array.ndim, *array.shape))
        parts.append(struct.pack("<iii", 1, 0, dtype) + array.astype("<f4").tobytes())
    names = list(arrays) if names is None else names
    parts.append(struct.pack("<Q", len(names)))
    parts += [struct.pack("<Q", len(name)) + name.encode() for name in names]
    return b"".join(parts)


def layers(num_channels=1, num_features=2, first=84, count=7):
    """Arrays of a small network, named as in the authors' file for the levels 25 and 26."""
    generator, arrays = np.random.default_rng(0), {}
    widths = [num_channels, *[num_features] * (count - 1), num_channels]
    for number, (num_in, num_out) in enumerate(zip(widths[:-1], widths[1:], strict=True)):
        name = f"arg:convolution{first + number}"
        arrays[f"{name}_weight"] = generator.normal(size=(num_out, num_in, 3, 3)).astype("f4") / 4
        arrays[f"{name}_bias"] = generator.normal(size=num_out).astype("f4") / 4
    return arrays


# -- the network ------------------------------------------------------------------------------------------------------


def test_sizes_are_those_of_the_paper():
    # Seven 3x3 kernels, 64 channels in between, with biases.
    assert IRCNN().num_parameters() == 9 * (64 + 5 * 64**2 + 64) + 6 * 64 + 1 == 185_857
    assert IRCNN(3).num_parameters() == 9 * (3 * 64 + 5 * 64**2 + 64 * 3) + 6 * 64 + 3 == 188_163
    assert [conv.dilation for conv in IRCNN().convolutions] == [(d, d) for d in (1, 2, 3, 4, 3, 2, 1)]
    assert (IRCNN().sigma, IRCNN(sigma=50).sigma, IRCNN().adapts, IRCNN(3).channels) == (25, 50, False, 3)


def test_receptive_field_is_33_pixels():
    torch.manual_seed(0)
    model = IRCNN(1, 6)
    image = torch.randn(30, 1, 41, 41, requires_grad=True)
    model.predict_noise(image)[:, 0, 20, 20].sum().backward()
    rows = image.grad.abs().sum((0, 1, 3)).nonzero().flatten()
    assert (rows.min().item(), rows.max().item()) == (4, 36)


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (32, 47)])
def test_any_size(shape):
    denoised = IRCNN(3, 4).eval().denoise(torch.rand(2, 3, *shape), sigma=25)
    assert denoised.shape == (2, 3, *shape) and torch.isfinite(denoised).all()


@torch.no_grad()
def test_a_large_picture_in_tiles_gives_the_same(monkeypatch):
    torch.manual_seed(0)
    model = IRCNN(1, 6).eval()
    torch.nn.init.normal_(model.convolutions[-1].weight, std=0.3)
    x = torch.rand(1, 1, 70, 50)
    whole = x - model.layers(x)
    monkeypatch.setattr(tiles, "TILE", 16)
    found = model(x)
    torch.testing.assert_close(found, whole, rtol=0, atol=1e-5)
    assert (found - x).abs().max() > 0.01


def test_bad_sizes_are_refused():
    with pytest.raises(ValueError, match="num_channels is 0; expected 1 or more"):
        IRCNN(0)
    with pytest.raises(ValueError, match="sigma is 0"):
        IRCNN(sigma=0)


# -- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_channels", [1, 3])
def test_a_file_is_read_into_the_network_that_it_holds(num_channels, tmp_path):
    arrays, path = layers(num_channels), tmp_path / "net.params"
    path.write_bytes(packed(arrays))
    network = read_authors_weights(path, 25)
    assert (network.channels, network.sigma, network.training) == (num_channels, 25, False)
    noisy = torch.rand(1, num_channels, 9, 11)
    state = noisy
    for number, dilation in enumerate((1, 2, 3, 4, 3, 2, 1)):
        weight, bias = (torch.from_numpy(arrays[f"arg:convolution{84 + number}_{kind}"]) for kind in ("weight", "bias"))
        state = F.conv2d(F.relu(state) if number else state, weight, bias, padding=dilation, dilation=dilation)
    with torch.no_grad():
        torch.testing.assert_close(network(noisy), noisy - state)
        torch.testing.assert_close(network.predict_noise(noisy), state)


@pytest.mark.parametrize(("first", "sigmas"), [(0, (1, 2)), (49, (15, 16)), (84, (25, 26)), (168, (49, 50))])
def test_the_numbers_of_the_layers_tell_the_level(first, sigmas, tmp_path):
    path = tmp_path / "net.params"
    path.write_bytes(packed(layers(first=first)))
    for sigma in sigmas:
        assert read_authors_weights(path, sigma).sigma == sigma
    low, high = sigmas[0] - 1, sigmas[1]
    for sigma in (low, high + 1):
        if 0 < sigma <= 50:
            with pytest.raises(
                ValueError, match=f"levels above {low} and up to {high}, not for {sigma}; take the file"
            ):
                read_authors_weights(path, sigma)


@pytest.mark.parametrize("sigma", [None, 0, -5, 51, float("nan")])
def test_levels_without_a_network_are_refused(sigma, tmp_path):
    with pytest.raises(ValueError, match=f"sigma is {sigma}; expected grey levels, more than 0 and up to 50"):
        read_authors_weights(tmp_path / "net.params", sigma)


def test_every_cut_of_a_file_and_anything_behind_it_is_refused(tmp_path):
    path, content = tmp_path / "net.params", packed(layers())
    for length in [*range(0, 120), *range(120, len(content), 97), len(content) - 1]:
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"net.params: not IRCNN weights in MXNet format \(.*\); fetch the file"):
            read_authors_weights(path, 25)
    path.write_bytes(content + b"\0")
    with pytest.raises(ValueError, match="1 bytes are left at the end"):
        read_authors_weights(path, 25)


def changed(key, value):
    return {**layers(), key: value}


def without(key):
    return {name: array for name, array in layers().items() if name != key}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no MXNet file, but text that is long enough", "the file begins with 0x"),
        (packed(layers(), list_magic=0x113), "the file begins with 0x113; expected 0x112"),
        (packed(layers(), array_magic=0xF993FACA), "array 0 begins with 0xf993faca; expected 0xf993fac9"),
        (packed(layers(), storage=1), "array 0 has storage 1"),
        (packed(layers(), dtype=1), "dtype 1"),
        (packed(layers(), names=list(layers())[:-1]), "14 arrays have 13 names"),
        (packed(layers(), names=14 * ["arg:convolution84_bias"]), "two arrays have the same name"),
        (packed(layers(), names=[*list(layers())[:-1], "arg:dense90_bias"]), "unexpected array 'arg:dense90_bias'"),
        (packed(layers(count=6)), r"layers \[84, 85, 86, 87, 88, 89\]; expected 7"),
        (packed(layers(first=85)), r"layers \[85, .*\]; expected 7"),
        (packed(without("arg:convolution86_bias")), "expected 7 with weight and bias"),
        (packed({}), r"layers \[\]; expected 7"),
        (packed(changed("arg:convolution86_weight", np.zeros((2, 2, 5, 5)))), "size mismatch for weight"),
        (packed(changed("arg:convolution84_weight", np.zeros((2, 1)))), "size mismatch for weight"),
        (packed(changed("arg:convolution84_weight", np.zeros(2))), "tuple index out of range"),
        (packed(changed("arg:convolution86_bias", np.full(2, np.nan))), "array 5 has values that are NaN"),
        (packed(changed("arg:convolution84_bias", np.zeros((2, 0)))), r"array 1 has shape \(2, 0\)"),
        (struct.pack("<QQQIiIq", 0x112, 0, 1, 0xF993FAC9, 0, 1, 2**62) + bytes(12), "bytes should follow where 0"),
        (struct.pack("<QQQIiI", 0x112, 0, 1, 0xF993FAC9, 0, 2**31), "2147483648 dimensions"),
    ],
)  # fmt: skip
def test_what_is_no_such_file_is_refused_with_the_reason(content, message, tmp_path):
    path = tmp_path / "net.params"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"net.params: not IRCNN weights .*{message}.*fetch the file again"):
        read_authors_weights(path, 25)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing.params: no such file.*IRCNN"):
        read_authors_weights(tmp_path / "nothing.params", 25)


def test_arrays_come_in_order_with_shape_and_values(tmp_path):
    arrays, path = {"b": np.arange(6.0).reshape(1, 2, 3), "a": np.array([0.5])}, tmp_path / "net.params"
    path.write_bytes(packed(arrays))
    found = read_arrays(path)
    assert list(found) == ["b", "a"]
    for name, array in arrays.items():
        assert found[name].dtype == np.float32 and np.array_equal(found[name], array)


# -- the authors' weights ---------------------------------------------------------------------------------------------


@needs_mirror
def test_gray_file_reaches_the_printed_values():
    network = resolve("ircnn.read_authors_weights", "models")(WEIGHTS / "gray" / FILES[25], sigma=25)
    assert (network.channels, network.num_parameters()) == (1, 185_857)
    found = [
        psnr(picture.tensor(), network.denoise(noisy_picture("set12", picture, 25)))
        for picture in load_pictures("set12", limit=3)
    ]
    # C.man, House and Peppers as printed for IRCNN, on another draw of the noise.
    assert found == pytest.approx([30.08, 33.06, 30.88], abs=0.1)


@needs_mirror
@pytest.mark.parametrize("sigma", [15, 25, 50])
def test_colour_files_are_close_to_dncnn(sigma):
    network = read_authors_weights(WEIGHTS / "color" / FILES[sigma], sigma)
    rival = dncnn.read_authors_weights(MIRROR / "weights" / "dncnn" / f"color_sigma={sigma}.mat", sigma)
    assert (network.channels, network.num_parameters()) == (3, 188_163)
    for number, file in enumerate(sorted((MIRROR / "fdn_flowers").rglob("*.jpg"))[:3]):
        clean = torch.from_numpy(io.imread(file)[:160, :160]).permute(2, 0, 1)[None].float() / 255
        noisy = awgn(clean, sigma, torch.Generator().manual_seed(number))
        found = psnr(clean, network.denoise(noisy))
        assert found > psnr(clean, noisy) + 2.5  # 3.1 to 12.2 dB: one picture is nearly all texture
        assert found == pytest.approx(psnr(clean, rival.denoise(noisy)), abs=0.5)
