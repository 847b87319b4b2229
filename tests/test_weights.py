"""Weights travel with a card, and nothing else is loaded."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import Server, free_port

from invdenoise import paths
from invdenoise.files import sha256
from invdenoise.models.dncnn import DnCNN
from invdenoise.models.dninn import DnINN
from invdenoise.weights import (
    add_to_card,
    can_be_had,
    card_path,
    load_weights,
    read_card,
    released_weights,
    save_weights,
    weights_path,
)

CARD = {"experiment": "made", "budget": "smoke"}
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


def test_weights_without_a_card_are_refused(saved):
    _, path = saved
    path.with_suffix(".json").unlink()
    with pytest.raises(FileNotFoundError, match="net.safetensors has no card net.json"):
        read_card(path)


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


def test_a_tensor_too_many_is_refused(saved):
    network, path = saved
    save_file({**load_file(path), "zz": torch.zeros(3)}, path)
    with pytest.raises(ValueError, match=r"zz is \(3,\) there, nothing here"):
        load_weights(network, path)


def test_a_card_that_cannot_be_read_is_named(saved):
    _, path = saved
    path.with_suffix(".json").write_text('{"experiment": "dninn-')
    with pytest.raises(ValueError, match="net.json"):
        read_card(path)
    path.with_suffix(".json").write_text(json.dumps(CARD))
    with pytest.raises(ValueError, match="net.json"):
        read_card(path)


def test_released_weights_and_those_of_local_runs_have_their_places():
    assert weights_path("made") == paths.RELEASED_WEIGHTS / "made.safetensors"
    assert weights_path("made", "smoke") == paths.runs_dir() / "made" / "smoke" / "weights.safetensors"


@pytest.mark.parametrize(
    "name",
    [
        "../../../x",
        "..",
        ".",
        "",
        "/x",
        "a/b",
        "a/../../b",
        "a\\b",
        ".hidden",
        "-x",
        "a b",
        "a\n",
        "a\0",
        "~x",
        None,
        5,
    ],
)
def test_a_name_that_leads_out_of_its_folder_is_refused(name):
    with pytest.raises(ValueError, match="the network's name is .*; expected a plain name: .* but no slash"):
        weights_path(name)
    if name is not None:  # which stands for the released weights
        with pytest.raises(ValueError, match="budget is .*; expected a plain name"):
            weights_path("made", name)


def test_entries_are_added_to_a_card(saved):
    network, path = saved
    before = read_card(path)
    add_to_card(path, reason="größer", numbers={"one": 1.5})
    assert read_card(path) == before | {"reason": "größer", "numbers": {"one": 1.5}}
    flip_a_bit(path)
    card = path.with_suffix(".json").read_bytes()
    with pytest.raises(ValueError, match="truncated or altered"):
        add_to_card(path, reason="other")
    assert path.with_suffix(".json").read_bytes() == card


def test_only_released_weights_are_restored_by_git(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "RELEASED_WEIGHTS", tmp_path / "weights")
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    for folder, remedy in (
        ("weights", "altered; restore it with `git checkout weights/net.safetensors` or"),
        ("runs", "altered; train"),
    ):
        path = tmp_path / folder / "net.safetensors"
        save_weights(DnINN(**SMALL), path, CARD)
        truncate(path)
        with pytest.raises(ValueError, match=remedy):
            read_card(path)


def test_an_interrupted_save_leaves_the_old_weights(saved, monkeypatch):
    network, path = saved
    before = path.read_bytes()

    def stop(tensors, temporary):
        temporary.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr("invdenoise.weights.save_file", stop)
    with pytest.raises(KeyboardInterrupt):
        save_weights(network, path, CARD)
    assert path.read_bytes() == before and read_card(path)["experiment"] == "made"
    assert sorted(file.name for file in path.parent.iterdir()) == ["net.json", "net.safetensors"]


# --- Released weights that are elsewhere


@pytest.fixture
def split(tmp_path, monkeypatch, saved):
    """An installed package that has the card of "net" and not its weights; the folder that has them."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    saved[1].rename(elsewhere / "net.safetensors")
    monkeypatch.setattr(paths, "RELEASED_WEIGHTS", tmp_path)  # with net.json
    monkeypatch.setattr(paths, "INSTALLED", True)
    monkeypatch.setenv("INVDENOISE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("INVDENOISE_WEIGHTS", raising=False)
    monkeypatch.setenv("no_proxy", "*")
    return elsewhere


def card_of(name: str):
    return read_card(released_weights(name), card_path(weights_path(name)))


def test_weights_that_are_nowhere_are_named_with_the_remedies(split, monkeypatch, tmp_path):
    assert not can_be_had("net")
    with pytest.raises(FileNotFoundError) as caught:
        released_weights("net")
    assert str(caught.value) == (
        f"no weights for net: net.safetensors is not in {tmp_path}; set INVDENOISE_WEIGHTS to a folder that has it, such as "
        "results/weights of a checkout, or to the http address of such a folder (none is built in)"
    )
    monkeypatch.setenv("INVDENOISE_WEIGHTS", str(tmp_path / "wrong"))
    assert not can_be_had("net")
    with pytest.raises(FileNotFoundError, match=f"is not in {tmp_path}/wrong, which INVDENOISE_WEIGHTS names; set "):
        released_weights("net")


def test_a_network_that_was_never_released_is_to_be_trained(split):
    with pytest.raises(FileNotFoundError, match="`python -m invdenoise.training other --budget laptop`"):
        released_weights("other")


def test_weights_are_taken_from_a_folder_by_the_card_of_the_package(split, monkeypatch):
    monkeypatch.setenv("INVDENOISE_WEIGHTS", str(split))
    assert can_be_had("net") and not can_be_had("other")
    assert released_weights("net") == split / "net.safetensors" and card_of("net")["experiment"] == "made"
    flip_a_bit(split / "net.safetensors")
    with pytest.raises(ValueError, match="does not match its card .*, or take the file of the same release"):
        card_of("net")


def test_weights_are_fetched_once_from_an_address_and_verified(split, monkeypatch, tmp_path):
    server = Server(split)
    monkeypatch.setenv("INVDENOISE_WEIGHTS", server.address + "/")
    assert can_be_had("net")
    assert released_weights("net") == tmp_path / "cache" / "weights" / "net.safetensors"
    assert card_of("net")["sha256"] == sha256(split / "net.safetensors")
    server.close()
    assert card_of("net")["experiment"] == "made"  # from the cache


def test_other_weights_at_an_address_are_refused(split, monkeypatch, tmp_path):
    flip_a_bit(split / "net.safetensors")
    server = Server(split)
    monkeypatch.setenv("INVDENOISE_WEIGHTS", server.address)
    with pytest.raises(ValueError, match="net.safetensors of http.* cannot be used: .*hash"):
        released_weights("net")
    server.close()
    assert not list((tmp_path / "cache").rglob("net*"))


def test_an_address_that_does_not_answer_is_one_line_without_its_password(split, monkeypatch):
    monkeypatch.setenv("INVDENOISE_WEIGHTS", f"http://me:secret@127.0.0.1:{free_port()}")
    with pytest.raises(
        FileNotFoundError, match="net.safetensors could not be fetched from http://.*; set INVDENOISE"
    ) as error:
        released_weights("net")
    assert "secret" not in str(error.value) and "\n" not in str(error.value)
