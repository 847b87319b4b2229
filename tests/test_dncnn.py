"""DnCNN and BF-CNN: size and shape as published, folding of batch normalisation, and the authors' weights."""

import argparse
import math
import os
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from skimage import io
from torch import nn

from invdenoise.data.noise import awgn, noise_generator
from invdenoise.data.pictures import load_pictures
from invdenoise.layers import tiles
from invdenoise.models.dncnn import BFCNN, DnCNN, fold_batch_norm, read_authors_bias_free, read_authors_weights
from invdenoise.tasks.metrics import psnr

MIRROR = Path(os.environ.get("DATA_MIRROR") or "no-mirror")
WEIGHTS = MIRROR / "weights" / "dncnn"
needs_mirror = pytest.mark.skipif(
    not (WEIGHTS.is_dir() and (MIRROR / "set12").is_dir()),
    reason="data not available: set DATA_MIRROR to a folder with set12/ and weights/",
)


def small(**options):
    """A network with running statistics and normalisation that a mistake in either would show."""
    torch.manual_seed(0)
    model = DnCNN(depth=5, num_features=6, **options)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.running_mean)
            nn.init.uniform_(layer.running_var, 0.5, 2)
            nn.init.normal_(layer.weight)
            nn.init.normal_(layer.bias)
    return model


def write_mat(path, kernels, biases):
    """A file in the layout of the authors', from kernels `(out, in, 3, 3)`."""

    def stored(kernel):  # MATLAB drops a last axis of size 1, which HDF5 shows first
        kernel = kernel.swapaxes(-1, -2)
        return kernel[0] if len(kernel) == 1 else kernel

    with h5py.File(path, "w") as file:
        references = []
        for i, (kernel, bias) in enumerate(zip(kernels, biases, strict=True)):
            layer = file.create_group(f"#refs#/{i}")
            layer["kernel"], layer["bias"] = stored(kernel), bias[None]
            layer["weights"] = np.array([[layer["kernel"].ref], [layer["bias"].ref]], dtype=h5py.ref_dtype)
            activation = file.create_group(f"#refs#/relu{i}")
            activation["leak"] = np.zeros((1, 1))
            references += [[layer.ref], [activation.ref]]
        file["net/layers"] = np.array(references[:-1], dtype=h5py.ref_dtype)


def test_number_of_parameters_is_that_of_linn_table_1():
    # 9 (64 + 15 64^2 + 64) in convolutions without bias, 15 x 2 x 64 in batch normalisation: printed as 556.0k.
    assert DnCNN().num_parameters() == 9 * (64 + 15 * 64**2 + 64) + 15 * 2 * 64 == 556_032


def test_layers_are_as_published():
    kinds = [type(layer) for layer in DnCNN(depth=4, num_features=3).layers]
    middle = [nn.Conv2d, nn.BatchNorm2d, nn.ReLU]
    assert kinds == [nn.Conv2d, nn.ReLU, *middle, *middle, nn.Conv2d]


def test_initialisation_is_he():
    weight = DnCNN().layers[2].weight
    assert weight.std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.02)


def test_receptive_field_is_that_of_the_depth():
    # depth 3x3 convolutions see depth pixels each way: 35x35 for depth 17.
    model = small().eval()
    image = torch.randn(50, 1, 21, 21, requires_grad=True)
    model.predict_noise(image)[:, 0, 10, 10].sum().backward()
    rows = image.grad.abs().sum((0, 1, 3)).nonzero().flatten()
    assert (rows.min().item(), rows.max().item()) == (5, 15)


def test_output_is_the_input_minus_the_predicted_noise():
    model, noisy = small().eval(), torch.rand(2, 1, 7, 9)
    torch.testing.assert_close(model(noisy) + model.predict_noise(noisy), noisy)
    nn.init.zeros_(model.layers[-1].weight)
    assert torch.equal(model(noisy), noisy)


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (32, 47)])
def test_any_size(shape):
    denoised = small().denoise(torch.rand(2, 1, *shape), sigma=25)
    assert denoised.shape == (2, 1, *shape) and torch.isfinite(denoised).all()


def test_gray_and_colour_are_told_apart():
    assert (DnCNN().channels, BFCNN().channels, DnCNN(num_channels=3).channels) == (1, 1, 3)
    with pytest.raises(ValueError, match="3 channels"):
        small().denoise(torch.rand(1, 3, 8, 8))
    with pytest.raises(ValueError, match="1 channels; this method takes 3 channels"):
        small(num_channels=3).denoise(torch.rand(1, 1, 8, 8))
    with pytest.raises(ValueError, match="num_channels is 0; expected 1 for gray or 3 for colour"):
        DnCNN(num_channels=0)


def test_a_colour_network_mixes_its_channels_and_loads_and_folds():
    model, noisy = small(sigma=None, num_channels=3).eval(), torch.rand(2, 3, 9, 12)
    assert model.denoise(noisy).shape == noisy.shape
    red = torch.cat([noisy[:, :1] / 2, noisy[:, 1:]], 1)
    assert (model.predict_noise(noisy) - model.predict_noise(red))[:, 1:].abs().max() > 1e-4
    other = DnCNN(5, 6, None, num_channels=3).eval()
    other.start_from(model)
    assert torch.equal(other(noisy), model(noisy))
    folded = fold_batch_norm(model)
    assert folded.channels == 3
    torch.testing.assert_close(folded(noisy), model(noisy), rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="does not fit as a start"):
        small().start_from(model)


def test_number_of_parameters_in_colour():
    # Two more input channels in the first layer, and two more outputs in the last.
    assert DnCNN(num_channels=3).num_parameters() - DnCNN().num_parameters() == 2 * 2 * 9 * 64


def test_loss_is_the_error_of_the_noise_estimate_and_reaches_all_parameters():
    model = small()
    clean = torch.rand(3, 1, 8, 8)
    noisy = clean + 0.1 * torch.randn_like(clean)
    loss, _ = model.training_loss(clean, noisy, 25)
    torch.testing.assert_close(loss, F.mse_loss(model.predict_noise(noisy), noisy - clean))
    loss.backward()
    assert all(p.grad.abs().sum() > 0 for p in model.parameters())


def test_a_few_steps_of_training_denoise():
    torch.manual_seed(0)
    model = DnCNN(depth=4, num_features=12)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    ramp = torch.linspace(0, 1, 24)
    clean = (ramp[:, None] * ramp.flip(0))[None, None].repeat(8, 1, 1, 1)
    for step in range(60):
        noisy = awgn(clean, 25, torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        model.training_loss(clean, noisy, 25)[0].backward()
        optimizer.step()
    test = awgn(clean[:1], 25, torch.Generator().manual_seed(1000))
    assert psnr(clean[:1], model.denoise(test)) > psnr(clean[:1], test) + 3


def test_denoise_during_training_uses_and_keeps_the_running_statistics():
    model = small()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images = torch.rand(2, 1, 8, 8)
    together = model.denoise(images)
    assert model.training and model.layers[3].training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    torch.testing.assert_close(together[:1], model.denoise(images[:1]))


def test_folding_changes_nothing():
    model = small(sigma=50).double().eval()
    model.name = "dncnn-s50"
    noisy = torch.rand(2, 1, 13, 10, dtype=torch.float64)
    folded = fold_batch_norm(model)
    torch.testing.assert_close(folded(noisy), model(noisy), rtol=0, atol=1e-10)
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in folded.modules())
    assert not folded.training and (folded.sigma, folded.name) == (50, "dncnn-s50")
    torch.testing.assert_close(fold_batch_norm(folded)(noisy), folded(noisy), rtol=0, atol=0)


def test_folding_leaves_the_model_alone():
    model = small()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    folded = fold_batch_norm(model)
    with torch.no_grad():
        for parameter in folded.parameters():
            parameter.add_(1)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


# -- Tiles ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(16, 17), (37, 50), (70, 3), (1, 40), (48, 48)])
@pytest.mark.parametrize("model", [DnCNN(5, 6), DnCNN(3, 4, batch_norm=False), BFCNN(5, 6)], ids=["bn", "bias", "bf"])
def test_a_large_picture_is_denoised_in_tiles_with_the_same_result(model, size, monkeypatch):
    torch.manual_seed(1)
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):  # no longer close to the identity, and with a bias where it has one
            nn.init.normal_(layer.weight, std=1.5 / layer.weight[0].numel() ** 0.5)
            if layer.bias is not None:
                nn.init.normal_(layer.bias)
    noisy = torch.rand(2, 1, *size)
    with torch.no_grad():
        whole = noisy - model.eval().layers(noisy)
    seen = []
    hook = model.layers.register_forward_hook(lambda _, given, __: seen.append(given[0].shape[-2:]))
    monkeypatch.setattr(tiles, "TILE", 16)
    with torch.no_grad():
        found = model(noisy)
    hook.remove()
    torch.testing.assert_close(found, whole, rtol=0, atol=1e-6 * whole.abs().max().item())
    assert len(seen) == -(-size[0] // 16) * -(-size[1] // 16)
    assert max(max(shape) for shape in seen) <= 16 + 2 * model.depth
    assert (found - noisy).abs().max() > 0.01


def test_training_and_gradients_see_the_whole_picture(monkeypatch):
    monkeypatch.setattr(tiles, "TILE", 8)
    model, noisy, seen = small(), torch.rand(1, 1, 20, 20), []
    model.layers.register_forward_hook(lambda _, given, __: seen.append(given[0].shape[-2:]))
    model.train()(noisy)
    with torch.no_grad():
        model(noisy)  # statistics of the batch
    model.eval()(noisy)
    model.requires_grad_(False)(noisy.requires_grad_())
    assert seen == 4 * [(20, 20)]
    model(noisy.detach())
    assert len(seen) == 4 + 9


# -- BF-CNN -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def bias_free():
    """A small BF-CNN whose normalisation does something."""
    torch.manual_seed(0)
    model = BFCNN(depth=5, num_features=6)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.running_var, 0.5, 2)
            nn.init.normal_(layer.weight)
    return model


def test_bf_cnn_is_the_blind_dncnn_without_anything_added():
    model = BFCNN()
    assert (model.depth, model.num_features, model.sigma) == (20, 64, None)
    # DnCNN of the same depth less its 18 x 64 biases of the normalisation.
    assert model.num_parameters() == DnCNN(depth=20, sigma=None).num_parameters() - 18 * 64
    assert not any(name.endswith("bias") for name, _ in model.named_parameters())


def test_bf_cnn_is_homogeneous(bias_free):
    model, noisy = bias_free.double().eval(), torch.rand(2, 1, 9, 8, dtype=torch.float64)
    for factor in (0.1, 7):
        torch.testing.assert_close(model(factor * noisy), factor * model(noisy), rtol=1e-10, atol=0)
    dncnn = small().double().eval()
    assert (dncnn(7 * noisy) - 7 * dncnn(noisy)).abs().max() > 0.1


def test_bf_cnn_scales_by_the_standard_deviation_of_the_batch(bias_free):
    norm = bias_free.layers[3]
    x = 2 + 3 * torch.randn(8, 6, 20, 20)
    before = norm.running_var.clone()
    out = norm(x)
    expected = norm.weight.view(-1, 1, 1) * x / x.std((0, 2, 3)).view(-1, 1, 1)
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(norm.running_var, 0.9 * before + 0.1 * x.var((0, 2, 3)))
    assert not norm.running_mean.any()
    with torch.autocast("cpu", torch.bfloat16):
        assert norm(x.bfloat16()).dtype == torch.bfloat16


def test_bf_cnn_learns_and_folds(bias_free):
    clean = torch.rand(2, 1, 8, 8)
    loss, _ = bias_free.training_loss(clean, clean + 0.1 * torch.randn_like(clean), None)
    loss.backward()
    assert all(p.grad.abs().sum() > 0 for p in bias_free.parameters())
    folded = fold_batch_norm(bias_free.eval())
    torch.testing.assert_close(folded(clean), bias_free(clean), rtol=0, atol=1e-5)
    assert not any(conv.bias.any() for conv in folded.convolutions)


# -- the authors' weights ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
def test_reads_the_layout_of_the_authors(channels, tmp_path):
    model = small(batch_norm=False, num_channels=channels).eval()
    for conv in model.convolutions:
        nn.init.normal_(conv.bias)
    kernels = [conv.weight.detach().numpy() for conv in model.convolutions]
    biases = [conv.bias.detach().numpy() for conv in model.convolutions]
    write_mat(tmp_path / "net.mat", kernels, biases)
    read = read_authors_weights(tmp_path / "net.mat", 15)
    noisy = torch.rand(1, channels, 9, 6)
    assert torch.equal(read(noisy), model(noisy))
    assert read.sigma == 15 and not read.training


def test_bad_files_are_named(tmp_path):
    bad = tmp_path / "bad.mat"
    with pytest.raises(FileNotFoundError, match="bad.mat"):
        read_authors_weights(bad, 25)
    bad.write_bytes(b"<html>not found</html>")
    with pytest.raises(ValueError, match=r"bad.mat: not DnCNN weights.*fetch the file again"):
        read_authors_weights(bad, 25)
    with h5py.File(bad, "w") as file:
        file["other"] = 1
    with pytest.raises(ValueError, match=r"bad.mat: not DnCNN weights"):
        read_authors_weights(bad, 25)
    shapes = [(6, 1), (6, 5), (1, 6)]  # the second kernel takes 5 channels of 6
    write_mat(bad, [np.zeros((*s, 3, 3)) for s in shapes], [np.zeros(s[0]) for s in shapes])
    with pytest.raises(ValueError, match=r"bad.mat: not DnCNN weights.*size mismatch"):
        read_authors_weights(bad, 25)


@needs_mirror
def test_a_truncated_file_is_named(tmp_path):
    cut = tmp_path / "cut.mat"
    cut.write_bytes((WEIGHTS / "sigma=25.mat").read_bytes()[:1_000_000])
    with pytest.raises(ValueError, match="cut.mat: not DnCNN weights"):
        read_authors_weights(cut, 25)


@needs_mirror
@pytest.mark.parametrize(
    ("file", "sigma", "depth"), [("sigma=15", 15, 17), ("sigma=50", 50, 17), ("GD_Gray_Blind", None, 20)]
)
def test_each_of_the_authors_files_denoises(file, sigma, depth):
    model = read_authors_weights(WEIGHTS / f"{file}.mat", sigma)
    assert (model.depth, model.num_features, model.sigma) == (depth, 64, sigma)
    clean, level = read_set12("02")[..., 60:156, 60:156], sigma or 30
    noisy = awgn(clean, level, noise_generator(0, "set12", "02.png", level))
    assert psnr(clean, model.denoise(noisy)) > psnr(clean, noisy) + 8


@needs_mirror
@pytest.mark.parametrize(("file", "sigma"), [("GD_Color_Blind", None), ("color_sigma=25", 25)])
def test_each_of_the_authors_colour_files_denoises(file, sigma):
    model = read_authors_weights(WEIGHTS / f"{file}.mat", sigma)
    assert (model.depth, model.num_features, model.channels, model.sigma) == (20, 64, 3, sigma)
    clean = load_pictures("embedded-colour", limit=1).pictures[0].tensor()[..., 48:144, 48:144]
    noisy = awgn(clean, 25, noise_generator(0, "embedded-colour", "first", 25))
    assert psnr(clean, model.denoise(noisy)) > psnr(clean, noisy) + 9


@needs_mirror
def test_authors_weights_reach_the_published_psnr():
    """On the evaluation's own draw of the noise: each picture to a tenth of what a verdict tells apart, the mean as a verdict has it."""
    # Zhang et al., TIP 2017, Table III, at sigma 25. One draw of the noise moves a picture by more than a verdict's 0.05 dB.
    published = {"01": 30.18, "02": 33.06, "03": 30.87}
    model = read_authors_weights(WEIGHTS / "sigma=25.mat", 25)
    measured = {}
    for image in published:
        clean = read_set12(image)
        noisy = awgn(clean, 25, noise_generator(0, "set12", image, 25))
        measured[image] = psnr(clean, model.denoise(noisy))
    assert measured == pytest.approx({"01": 30.124, "02": 33.111, "03": 30.824}, abs=0.005)
    assert sum(measured.values()) / 3 == pytest.approx(sum(published.values()) / 3, abs=0.05)


def read_set12(image):
    return torch.from_numpy(io.imread(MIRROR / "set12" / f"{image}.png")).float()[None, None] / 255


@pytest.mark.parametrize("network", [DnCNN(8, 16), DnCNN(8, 16, batch_norm=False), BFCNN(8, 16)])
def test_training_starts_from_the_noisy_image(network):
    torch.manual_seed(0)
    noisy = torch.rand(2, 1, 16, 16)
    found = network.train()(noisy)
    assert 0 < (found - noisy).abs().mean() < 0.05
    (found - torch.zeros_like(noisy)).square().mean().backward()
    assert all(
        p.grad is not None and p.grad.abs().max() > 0
        for p in (network.convolutions[0].weight, network.convolutions[-1].weight)
    )


# -- BF-CNN with its authors' weights -----------------------------------------------------------------------------------


def bias_free_state(depth=4, width=3):
    """A training state as the authors', of a small network."""
    torch.manual_seed(0)
    state = {"first_layer.weight": torch.randn(width, 1, 3, 3) / 3}
    for i in range(depth - 2):
        state[f"hidden_layer_list.{i}.weight"] = torch.randn(width, width, 3, 3) / 3
        state[f"bn_layer_list.{i}.weight"] = torch.rand(width) + 0.5
        state[f"bn_layer_list.{i}.bias"] = torch.zeros(width)
        state[f"bn_layer_list.{i}.running_mean"] = torch.zeros(width)
        state[f"bn_layer_list.{i}.running_var"] = torch.rand(width) + 0.5
    return state | {"last_layer.weight": torch.randn(1, width, 3, 3) / 3}


def test_bias_free_file_is_read_into_the_network_that_it_holds(tmp_path):
    state, path = bias_free_state(), tmp_path / "0-55.pt"
    torch.save({"model": [state], "args": argparse.Namespace(max_noise=55)}, path)
    network = read_authors_bias_free(path)
    assert (network.depth, network.sigma, network.training, network.display_name) == (4, None, False, "BF-CNN")
    noisy = torch.rand(1, 1, 9, 11)
    x = F.relu(F.conv2d(noisy, state["first_layer.weight"], padding=1))
    for i in range(2):
        deviation = state[f"bn_layer_list.{i}.running_var"].sqrt() + 1e-5
        gain = (state[f"bn_layer_list.{i}.weight"] / deviation).view(1, -1, 1, 1)
        x = F.relu(gain * F.conv2d(x, state[f"hidden_layer_list.{i}.weight"], padding=1))
    with torch.no_grad():
        torch.testing.assert_close(network(noisy), noisy - F.conv2d(x, state["last_layer.weight"], padding=1))
        torch.testing.assert_close(network(3 * noisy), 3 * network(noisy))


class Harmful:
    """Reports it when it is made from a file."""

    def __reduce__(self):
        return print, ("code of the file was run",)


@pytest.mark.parametrize(
    "content",
    [
        {"model": [bias_free_state()], "args": Harmful()},
        {"model": []},
        {"model": [bias_free_state(), bias_free_state()]},
        {"model": [{"first_layer.weight": torch.zeros(2, 1, 3, 3)}]},
        {"model": [bias_free_state() | {"last_layer.weight": torch.full((1, 3, 3, 3), math.nan)}]},
        {"model": [bias_free_state() | {"bn_layer_list.1.weight": torch.ones(2)}]},
        {},
    ],
)
def test_another_bias_free_file_is_refused_and_runs_no_code(content, tmp_path, capsys):
    path = tmp_path / "0-55.pt"
    torch.save(content, path)
    with pytest.raises(ValueError, match=r"0-55.pt: not BF-CNN weights in PyTorch format \(.*\); fetch the file again"):
        read_authors_bias_free(path)
    assert "code of the file was run" not in capsys.readouterr().out


def test_a_cut_or_missing_bias_free_file_is_named(tmp_path):
    path = tmp_path / "0-55.pt"
    with pytest.raises(FileNotFoundError, match=r"0-55.pt: no such file.*BF-CNN"):
        read_authors_bias_free(path)
    for content in (b"", b"no weights", b"PK\3\4 and no more"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="not BF-CNN weights"):
            read_authors_bias_free(path)


@pytest.mark.skipif(
    not (MIRROR / "weights" / "bfcnn").is_dir(),
    reason="data not available: set DATA_MIRROR to a folder with weights/bfcnn/",
)
def test_the_authors_bias_free_weights_denoise_as_the_fact_sheet_says():
    network = read_authors_bias_free(MIRROR / "weights" / "bfcnn" / "0-55.pt")
    assert network.num_parameters() == 64 * 9 * 2 + 18 * 64**2 * 9 + 19 * 64 + 1
    found = []
    for picture in load_pictures("set12", limit=3):
        noisy = awgn(picture.tensor(), 25, noise_generator(0, "set12", picture.name, 25))
        found.append(psnr(network.denoise(noisy), picture.tensor()))
    assert np.abs(np.subtract(found, (29.9, 33.2, 30.8))).max() < 0.15
