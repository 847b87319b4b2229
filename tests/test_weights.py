"""Weights travel with a card, and nothing else is loaded."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from invdenoise import datasets, experiments, paths, weights
from invdenoise.denoiser import list_denoisers
from invdenoise.files import sha256
from invdenoise.models import DnCNN, DnINN, NENet, WINNet
from invdenoise.weights import load_network, load_weights, network_names, read_card, save_weights, weights_path

CARD = {"experiment": "dninn-st-s25", "budget": "smoke"}
SMALL = dict(num_pairs=1, num_layers=1, num_features=2)


@pytest.fixture
def saved(tmp_path, randomised):
    """A small network and its weights file."""
    network = randomised(DnINN(**SMALL))
    path = tmp_path / "net.safetensors"
    save_weights(network.to(memory_format=torch.channels_last), path, CARD)
    return network, path


def test_what_is_saved_is_loaded(saved):
    network, path = saved
    again = DnINN(**SMALL)
    load_weights(again, path)
    for key, value in network.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key
    noisy = torch.rand(1, 1, 9, 7)
    torch.testing.assert_close(again.denoise(noisy), network.denoise(noisy), rtol=0, atol=1e-6)
    assert read_card(path) == {**CARD, "sha256": sha256(path)}
    assert sorted(file.name for file in path.parent.iterdir()) == ["net.json", "net.safetensors"]


def test_running_statistics_are_saved_too(tmp_path):
    network = DnCNN(4, 3)
    network(torch.rand(2, 1, 8, 8))
    save_weights(network, tmp_path / "net.safetensors", CARD)
    again = DnCNN(4, 3)
    load_weights(again, tmp_path / "net.safetensors")
    assert torch.equal(again.layers[3].running_mean, network.layers[3].running_mean)
    assert again.layers[3].running_mean.abs().max() > 0


def test_the_experiments_network_comes_ready_to_denoise(monkeypatch, tmp_path, randomised):
    network = randomised(DnINN(), gain=0.3)
    path = weights_path("dninn-st-s25", "smoke")
    assert path == paths.runs_dir() / "dninn-st-s25" / "smoke" / "weights.safetensors"
    monkeypatch.setenv("INVDENOISE_RESULTS", str(tmp_path))
    save_weights(network, weights_path("dninn-st-s25", "smoke"), CARD)
    loaded = load_network("dninn-st-s25", "smoke")
    assert loaded.name == "dninn-st-s25" and loaded.sigma == 25 and not loaded.training
    assert loaded.card["sha256"] == sha256(weights_path("dninn-st-s25", "smoke"))
    noisy = torch.rand(1, 1, 12, 10)
    torch.testing.assert_close(loaded.denoise(noisy), network.denoise(noisy), rtol=0, atol=1e-6)
    monkeypatch.setattr(paths, "RELEASED_WEIGHTS", tmp_path / "released")
    save_weights(randomised(DnINN(), seed=1), tmp_path / "released" / "dninn-st-s25.safetensors", CARD)
    assert not torch.equal(load_network("dninn-st-s25").denoise(noisy), loaded.denoise(noisy))


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize("spoil", [flip_a_bit, truncate])
def test_altered_weights_are_refused(spoil, saved):
    _, path = saved
    spoil(path)
    with pytest.raises(ValueError, match=r"net.safetensors does not match its card \(SHA-256 .*truncated or altered"):
        read_card(path)
    with pytest.raises(ValueError, match="does not match its card"):
        load_network("dninn-st-s25", weights=path)


def test_weights_without_a_card_are_refused(saved):
    _, path = saved
    path.with_suffix(".json").unlink()
    with pytest.raises(FileNotFoundError, match="net.safetensors has no card net.json"):
        load_network("dninn-st-s25", weights=path)


@pytest.mark.parametrize("content", [b"", b"not safetensors", b"\x40\0\0\0\0\0\0\0{"])
def test_what_is_not_safetensors_is_named(content, tmp_path):
    path = tmp_path / "net.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="net.safetensors is not a readable safetensors file"):
        load_weights(DnINN(**SMALL), path)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (DnINN(**{**SMALL, "num_features": 3}), r"predict.0.weight is \(2, 1, 3, 3\) there, \(3, 1, 3, 3\) here"),
        (DnINN(**SMALL, num_scales=2), r"linns.1.layers.0.predict.0.weight is nothing there, \(2, 1, 3, 3\) here"),
        (DnINN("lista", **SMALL), r"shrinkers.0.encode.0.weight is nothing there, \(3, 3, 3, 3\) here"),
        (DnCNN(3, 2), r"layers.0.weight is nothing there"),
    ],
    ids=["features", "scales", "shrinkage", "class"],
)
def test_weights_of_another_network_are_refused(other, message, saved):
    _, path = saved
    before = {key: value.clone() for key, value in other.state_dict().items()}
    with pytest.raises(ValueError, match=f"net.safetensors holds weights of another network: .*{message}"):
        load_weights(other, path)
    assert all(torch.equal(value, before[key]) for key, value in other.state_dict().items())


def test_weights_of_another_experiment_are_refused_even_if_they_would_fit(tmp_path):
    path = tmp_path / "other.safetensors"
    save_weights(DnINN(), path, CARD)
    with pytest.raises(ValueError, match="holds the weights of dninn-st-s25, not of dninn-st-s50"):
        load_network("dninn-st-s50", weights=path)


def test_a_tensor_too_many_is_refused(saved):
    network, path = saved
    save_file({**load_file(path), "zz": torch.zeros(3)}, path)
    with pytest.raises(ValueError, match=r"zz is \(3,\) there, nothing here"):
        load_weights(network, path)


def test_missing_weights_name_the_command(monkeypatch, tmp_path):
    monkeypatch.setattr(paths, "RELEASED_WEIGHTS", tmp_path)
    with pytest.raises(FileNotFoundError, match="`make train EXPERIMENT=dninn-st-s25 BUDGET=laptop`"):
        load_network("dninn-st-s25")
    with pytest.raises(FileNotFoundError, match="`make train EXPERIMENT=dninn-st-s25 BUDGET=paper`"):
        load_network("dninn-st-s25", "paper")


def test_a_budget_that_does_not_exist_is_no_budget_to_train_with():
    for name in ("dninn-st-s25", "dncnn-authors-s25"):
        with pytest.raises(ValueError, match="budget is 'lptop'; expected one of smoke, laptop, paper"):
            load_network(name, "lptop")


def test_the_authors_networks_take_no_weights_of_ours(tmp_path):
    with pytest.raises(ValueError, match="dncnn-authors-s25 is read from its authors' file"):
        load_network("dncnn-authors-s25", weights=tmp_path / "other.safetensors")


def test_a_card_that_cannot_be_read_is_named(saved):
    _, path = saved
    path.with_suffix(".json").write_text('{"experiment": "dninn-')
    with pytest.raises(ValueError, match="net.json"):
        read_card(path)
    path.with_suffix(".json").write_text(json.dumps(CARD))
    with pytest.raises(ValueError, match="net.json"):
        read_card(path)


def test_names_are_those_of_the_experiments_and_the_authors():
    assert set(weights.AUTHORS_DNCNN) == {"dncnn-authors-s15", "dncnn-authors-s25", "dncnn-authors-s50"}
    winnets = {f"winnet-authors-{levels}s{sigma}" for levels in ("", "2level-") for sigma in (15, 25, 50)}
    authors = {*weights.AUTHORS_DNCNN, "dncnn-authors-blind", *winnets, "winnet-authors-blind", "winnet-authors-nenet"}
    assert set(weights.AUTHORS) == authors | {"nenet-authors"}
    assert {"dninn-st-s25", *authors} <= set(network_names()) and set(network_names()) <= set(list_denoisers())
    # What only estimates the noise level is loaded by name too, and is no denoiser.
    assert "nenet-authors" in weights.estimator_names() and "nenet-authors" not in list_denoisers()


def test_every_file_of_the_authors_is_registered():
    registered = (paths.DATA / "registry" / "weights.csv").read_text()
    assert all(f"{released.file}," in registered for released in weights.AUTHORS.values())


def authors_network(name):
    try:
        return load_network(name)
    except datasets.DataUnavailable as error:
        pytest.skip(f"data not available: {error}")


@pytest.mark.parametrize(
    ("name", "sigma", "num_parameters"),
    [
        ("winnet-authors-s15", 15, 173_440),
        ("winnet-authors-2level-s50", 50, 346_880),
        ("winnet-authors-blind", None, 173_440),
        ("dncnn-authors-blind", None, 9 * 64 * (1 + 18 * 64 + 1) + 19 * 64 + 1),
    ],
)
def test_the_authors_networks_come_ready_to_denoise(name, sigma, num_parameters):
    network = authors_network(name)
    assert (network.name, network.sigma, network.num_parameters()) == (name, sigma, num_parameters)
    assert not network.training and network.card["experiment"] == name and network.card["budget"] == "authors"
    flat = torch.full((1, 1, 32, 32), 0.5)
    level = sigma or 20
    noisy = flat + level / 255 * torch.randn(flat.shape, generator=torch.Generator().manual_seed(0))
    assert (network.denoise(noisy, level) - flat).square().mean() < 0.1 * (noisy - flat).square().mean()


def test_the_authors_estimator_comes_by_name():
    network = authors_network("nenet-authors")
    assert isinstance(network, NENet) and network.name == "nenet-authors" and not network.training
    blind = authors_network("winnet-authors-blind")
    assert blind.estimator.name == "nenet-authors"
    mended = authors_network("winnet-authors-nenet")
    assert mended.estimator.name == "nenet" and mended.num_parameters() == blind.num_parameters()
    for key, tensor in mended.linns.state_dict().items():
        torch.testing.assert_close(tensor, blind.linns.state_dict()[key], rtol=0, atol=0)


def test_our_blind_network_comes_with_our_estimator(monkeypatch, tmp_path, randomised):
    entry = experiments.experiment("dninn-st-s25")
    blind, estimator = WINNet(sigma=None), NENet()
    for name, network in (("winnet-blind", blind), ("nenet", estimator)):
        save_weights(
            randomised(network, gain=0.5), tmp_path / f"{name}.safetensors", {"experiment": name, "budget": "laptop"}
        )
    entries = {
        name: dataclasses.replace(entry, name=name, model=model, sigma=None, options={})
        for name, model in (("winnet-blind", "WINNet"), ("nenet", "NENet"))
    }
    monkeypatch.setattr(weights, "experiment", entries.__getitem__)
    monkeypatch.setattr(weights, "experiments", lambda: entries)
    monkeypatch.setattr(paths, "RELEASED_WEIGHTS", tmp_path)
    loaded = load_network("winnet-blind")
    assert loaded.estimator.name == "nenet" and not loaded.estimator.training
    noisy = torch.rand(1, 1, 20, 20)
    torch.testing.assert_close(loaded.estimate_sigma(noisy), estimator.estimate_sigma(noisy))
    assert "nenet" in weights.estimator_names() and "nenet" not in network_names()


@pytest.mark.parametrize("path", sorted(paths.RELEASED_WEIGHTS.glob("*.safetensors")), ids=lambda path: path.stem)
def test_released_weights_are_those_of_their_card(path):
    network = load_network(path.stem)
    assert network.card["experiment"] == path.stem and network.card["sigma"] == network.sigma
    assert network.num_parameters() == network.card["num_parameters"]
