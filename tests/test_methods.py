"""Names become methods: classical ones, networks trained here, and those with their authors' weights."""

from __future__ import annotations

import pytest
import torch
import toy

import invdenoise
from invdenoise import kernels, methods, papers, paths
from invdenoise.data.fetch import DataUnavailable
from invdenoise.data.noise import awgn, noise_generator
from invdenoise.data.pictures import load_pictures
from invdenoise.device import cpu_compiler
from invdenoise.files import sha256
from invdenoise.methods import (
    is_network,
    list_denoisers,
    load_denoiser,
    load_network,
    networks_with,
    parts_of,
    why_not,
)
from invdenoise.models import classical
from invdenoise.models.base import Denoiser
from invdenoise.models.nenet import NENet
from invdenoise.tasks.metrics import psnr
from invdenoise.weights import save_weights, weights_path

needs_compiler = pytest.mark.skipif(cpu_compiler() is None, reason="no C++ compiler")
AUTHORS_FILE = "weights/toy/flow.bin"
BLIND = {"model": "winnet.WINNet", "sigma": [0, 55]}
SMALL_WINNET = {"num_pairs": 1, "num_blocks": 1, "num_features": 4, "num_atoms": 15, "num_lista_layers": 1}
NETWORKS = {
    "plain-s25": {"model": "toy.Smooth", "sigma": 25},
    "plain-s50": {"model": "toy.Smooth", "sigma": 50},
    "judge": {"model": "nenet.NENet", "sigma": [0, 55]},
    "blind": {**BLIND, "options": SMALL_WINNET, "parts": {"estimator": "judge"}},
    "led": {**BLIND, "options": SMALL_WINNET, "parts": {"estimator": "flow-authors"}},
    "flow": {"model": "toy.Flow", "source": {"kind": "toy.Ramps", "set": "made"}},
}
AUTHORS = {
    "smooth-authors": {"file": AUTHORS_FILE, "read": "toy.read_flow", "options": {"shift": 1.0, "sigma": 25}},
    "flow-authors": {"file": AUTHORS_FILE, "read": "toy.read_flow", "options": {"shift": 0.5}, "verb": "generate"},
}


@pytest.fixture
def declared(tmp_path, monkeypatch):
    """A paper of toy networks and no other one; no weights are there, and the authors' file is a file of four bytes."""
    ablations = {"of": "plain-s25", "common": {"steps": 5}, "changes": {"none": {}}}
    toy.declare(tmp_path, monkeypatch, NETWORKS, authors=AUTHORS, ablations=ablations)
    monkeypatch.setattr(paths, "RELEASED_WEIGHTS", tmp_path / "released")
    monkeypatch.setenv("INVDENOISE_RESULTS", str(tmp_path / "results"))
    (tmp_path / "flow.bin").write_bytes(b"four")
    asked = []
    monkeypatch.setattr(methods, "fetch", lambda *where: asked.append(where) or tmp_path / "flow.bin")
    return asked


def keep(name, network=None, budget=None):
    """Weights of a network of `NETWORKS`, released or of a local run; returns the network."""
    network = papers.network(name).build() if network is None else network
    card = {"experiment": name, "budget": budget or "laptop"}
    save_weights(network, weights_path(name, budget), card)
    return network


# -- what there is ----------------------------------------------------------------------------------------------------


def test_denoisers_are_the_classical_methods_then_the_declared_networks_that_denoise(declared):
    networks = ["plain-s25", "plain-s50", "blind", "led", "smooth-authors"]
    assert list_denoisers(everything=True) == [*classical.METHODS, *networks]
    assert networks_with("denoise") == networks
    assert networks_with("generate") == ["flow", "flow-authors"]
    assert networks_with("estimate_sigma") == ["judge", "blind", "led"]
    assert networks_with("dance") == []


def test_only_what_can_be_loaded_is_listed(declared, monkeypatch):
    assert list_denoisers() == [*filter(classical.is_installed, classical.METHODS), "smooth-authors"]
    assert declared == []  # authors' weights are fetched by loading, not by listing
    keep("plain-s25")
    keep("blind")
    assert list_denoisers()[-2:] == ["plain-s25", "smooth-authors"]
    keep("judge")  # which `blind` needs
    keep("plain-s50", budget="smoke")  # a local run, not released
    assert list_denoisers()[-3:] == ["plain-s25", "blind", "smooth-authors"]
    monkeypatch.setattr(classical.METHODS["nlm"], "package", "no_such_package")
    assert "nlm" not in list_denoisers() and "nlm" in list_denoisers(everything=True)
    for name in set(list_denoisers(everything=True)) & {"plain-s50", "led"}:
        with pytest.raises(FileNotFoundError, match=f"no weights for {name} .*`make train EXPERIMENT={name}"):
            load_denoiser(name)


def test_a_network_is_what_a_paper_declares(declared):
    for name in (*NETWORKS, *AUTHORS, "ablation-none"):
        assert is_network(name)
    for name in (*classical.METHODS, "plain", "dninn-st-s25"):
        assert not is_network(name)


def test_parts_are_listed_with_the_network(declared):
    assert parts_of("plain-s25") == ["plain-s25"] and parts_of("flow-authors") == ["flow-authors"]
    assert parts_of("blind") == ["blind", "judge"] and parts_of("led") == ["led", "flow-authors"]
    assert parts_of("bm3d") == parts_of("nothing of that name") == []


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("bm4d", "bm3d"), ("wavelet_bayes", "wavelet-bayes"), ("plain-s24", "plain-s25"), ("smooth-author", "smooth-authors")],
)  # fmt: skip
def test_an_unknown_name_lists_the_nearest(name, nearest, declared):
    with pytest.raises(ValueError, match=f"no denoiser '{name}'; did you mean {nearest}"):
        load_denoiser(name)


def test_what_does_not_denoise_is_no_denoiser(declared):
    keep("flow")
    with pytest.raises(ValueError, match="no denoiser 'flow'"):
        load_denoiser("flow")
    assert isinstance(load_network("flow"), toy.Flow)


def test_options_reach_the_method():
    assert load_denoiser("wavelet-bayes", cycle_spins=1).cycle_spins == 1


def test_a_classical_method_is_its_own_reference():
    assert type(load_denoiser("wavelet-visu", reference=True)) is type(load_denoiser("wavelet-visu"))


def test_a_loaded_denoiser_limits_itself_to_free_cores(declared, monkeypatch):
    limited = []
    monkeypatch.setattr("invdenoise.device.use_free_cores", lambda: limited.append(True))
    keep("plain-s25")
    load_denoiser("plain-s25")
    assert limited == [True]


def test_the_package_offers_the_contract_at_its_top():
    assert invdenoise.load_denoiser is load_denoiser and invdenoise.Denoiser is Denoiser
    assert invdenoise.list_denoisers is list_denoisers
    with pytest.raises(AttributeError, match="has no attribute 'denoise_it'"):
        _ = invdenoise.denoise_it


# -- networks trained here --------------------------------------------------------------------------------------------


def test_a_network_comes_ready_to_denoise(declared, randomised):
    local = keep("plain-s25", randomised(toy.Smooth(sigma=25), gain=0.3), "smoke")
    loaded = load_denoiser("plain-s25", budget="smoke")
    assert loaded.name == "plain-s25" and loaded.sigma == 25 and not loaded.training
    assert weights_path("plain-s25", "smoke") == paths.runs_dir() / "plain-s25" / "smoke" / "weights.safetensors"
    assert loaded.card["sha256"] == sha256(weights_path("plain-s25", "smoke"))
    assert loaded.layers[0].weight.is_contiguous(memory_format=torch.channels_last)
    noisy = torch.rand(1, 1, 12, 10)
    torch.testing.assert_close(loaded.denoise(noisy), local.denoise(noisy), rtol=0, atol=1e-6)
    keep("plain-s25", randomised(toy.Smooth(sigma=25), seed=1))
    assert not torch.equal(load_network("plain-s25").denoise(noisy), loaded.denoise(noisy))


def test_missing_weights_name_the_command_that_trains_them(declared):
    for load in (load_network, load_denoiser):
        with pytest.raises(
            FileNotFoundError, match="no weights for plain-s25 .*`make train EXPERIMENT=plain-s25 BUDGET=laptop`"
        ):
            load("plain-s25")
    with pytest.raises(FileNotFoundError, match="`make train EXPERIMENT=plain-s25 BUDGET=paper`"):
        load_network("plain-s25", "paper")


def test_a_budget_that_does_not_exist_is_no_budget_to_train_with(declared):
    for name in ("plain-s25", "smooth-authors"):
        with pytest.raises(ValueError, match="budget is 'lptop'; expected one of smoke, laptop, paper"):
            load_network(name, "lptop")


def test_weights_of_another_network_are_refused_even_if_they_would_fit(declared):
    keep("plain-s25")
    with pytest.raises(ValueError, match="holds the weights of plain-s25, not of plain-s50"):
        load_network("plain-s50", weights=weights_path("plain-s25"))


def test_altered_weights_and_weights_without_a_card_are_refused(declared):
    keep("plain-s25", budget="smoke")
    path = weights_path("plain-s25", "smoke")
    content = path.read_bytes()
    path.write_bytes(content[:-100])
    with pytest.raises(ValueError, match="does not match its card"):
        load_network("plain-s25", weights=path)
    path.write_bytes(content)
    path.with_suffix(".json").unlink()
    with pytest.raises(FileNotFoundError, match="weights.safetensors has no card weights.json"):
        load_network("plain-s25", weights=path)


def test_a_network_comes_with_its_parts_of_the_same_budget(declared, randomised):
    for budget, seed in ((None, 0), ("smoke", 1)):
        keep("blind", budget=budget)
        keep("judge", randomised(NENet(), seed, gain=0.5), budget)
    noisy = torch.rand(1, 1, 20, 20)
    found = []
    for budget in (None, "smoke"):
        loaded = load_network("blind", budget)
        assert loaded.estimator.name == "judge" and not loaded.estimator.training
        judge = load_network("judge", budget)
        torch.testing.assert_close(loaded.estimate_sigma(noisy), judge.estimate_sigma(noisy))
        found.append(judge.estimate_sigma(noisy).item())
    assert found[0] != found[1]
    assert getattr(load_network("blind", with_parts=False), "estimator", None) is None
    weights_path("judge").unlink()
    with pytest.raises(FileNotFoundError, match="no weights for judge"):
        load_network("blind")


# -- networks with their authors' weights -----------------------------------------------------------------------------


def test_the_authors_file_is_read_as_declared(declared, tmp_path):
    network = load_network("flow-authors")
    assert declared == [("weights", AUTHORS_FILE)]
    assert isinstance(network, toy.Flow) and network.name == "flow-authors" and not network.training
    assert network.shift.item() == 0.5 + len(b"four")  # an option, and the file
    assert network.card == {
        "experiment": "flow-authors", "budget": "authors", "sha256": sha256(tmp_path / "flow.bin"),
    }  # fmt: skip


def test_the_authors_networks_take_no_weights_of_ours(declared, tmp_path):
    with pytest.raises(ValueError, match="flow-authors is read from its authors' file"):
        load_network("flow-authors", weights=tmp_path / "other.safetensors")


# -- what cannot be run -----------------------------------------------------------------------------------------------


def test_a_method_without_its_package_is_left_out(declared, monkeypatch):
    assert why_not("wavelet-bayes") == ""
    monkeypatch.setattr(classical.METHODS["nlm"], "package", "no_such_package")
    assert why_not("nlm") == "package not installed"


def test_a_network_without_weights_is_left_out_unless_it_is_trained_here(declared):
    assert why_not("plain-s25") == "no released weights"
    assert why_not("plain-s25", ("plain-s25",)) == ""
    keep("plain-s25")
    assert why_not("plain-s25") == ""
    keep("blind")
    assert why_not("blind") == "no released weights of judge, which it needs"
    assert why_not("blind", ("judge",)) == ""


def test_a_network_whose_authors_file_cannot_be_had_is_left_out(declared, monkeypatch):
    assert why_not("flow-authors") == ""

    def unreachable(*_):
        raise DataUnavailable("no network")

    monkeypatch.setattr(methods, "fetch", unreachable)
    assert why_not("flow-authors") == "the authors' weights could not be reached"
    keep("led")
    assert why_not("led") == "the authors' weights of flow-authors, which it needs could not be reached"
    with pytest.raises(DataUnavailable, match="no network"):
        load_network("flow-authors")


# -- the papers of the checkout ---------------------------------------------------------------------------------------


def authors_network(name):
    try:
        return load_network(name)
    except DataUnavailable as error:
        pytest.skip(f"data not available: {error}")


def test_the_authors_networks_of_the_checkout():
    winnets = {f"winnet-authors-{levels}s{sigma}" for levels in ("", "2level-") for sigma in (15, 25, 50)}
    dncnns = {"dncnn-authors-s15", "dncnn-authors-s25", "dncnn-authors-s50"}
    authors = {*dncnns, "dncnn-authors-blind", *winnets, "winnet-authors-blind", "winnet-authors-nenet"}
    assert authors | {"nenet-authors"} <= set(papers.authors())
    names = list_denoisers(everything=True)
    assert names[: len(classical.METHODS)] == list(classical.METHODS)
    assert {"dninn-st-s25", *authors} <= set(names) and len(names) == len(set(names))
    # What only estimates the noise level is loaded by name too, and is no denoiser.
    assert {"nenet", "nenet-authors"} <= set(networks_with("estimate_sigma")) - set(names)


def test_all_that_is_offered_as_a_denoiser_can_denoise():
    """By what it can do: a name such as winnet-authors-nenet is that of WINNet, with another estimator inside."""
    for name in list_denoisers():
        method = authors_network(name) if name in papers.authors() else load_denoiser(name, reference=True)
        assert isinstance(method, Denoiser), name
        assert type(method).estimate is not Denoiser.estimate, name


def test_every_file_of_the_authors_is_registered():
    registered = (paths.DATA / "registry" / "weights.csv").read_text()
    assert all(f"{entry.file}," in registered for entry in papers.authors().values())


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


@pytest.mark.parametrize("path", sorted(paths.RELEASED_WEIGHTS.glob("*.safetensors")), ids=lambda path: path.stem)
def test_released_weights_are_those_of_their_card(path):
    network = load_network(path.stem)
    assert network.card["experiment"] == path.stem and network.card["sigma"] == network.sigma
    assert network.num_parameters() == network.card["num_parameters"]


@needs_compiler
@pytest.mark.parametrize("name", ["dninn-st-s25", "dninn-lista-2scale-s25", "winnet-s25"])
def test_the_kernel_is_the_default_and_changes_nothing_that_counts(name, monkeypatch):
    clean = load_pictures("embedded").pictures[0].tensor()[..., :44, :50]
    noisy = awgn(clean, 25, noise_generator(0, "embedded", "crop", 25))
    called, call = [], kernels.Kernel.call
    monkeypatch.setattr(kernels.Kernel, "call", lambda self, *rest: called.append(self) or call(self, *rest))
    exact = load_denoiser(name, reference=True).denoise(noisy, 25)
    assert called == []
    fast = load_denoiser(name)
    found = fast.denoise(noisy, 25)
    assert called and fast.precision == "float32"
    assert 0 < (found - exact).abs().max() < 2e-5
    assert psnr(clean, found) == pytest.approx(psnr(clean, exact), abs=1e-5)
    called.clear()
    fast(noisy)  # its gradient may be asked for
    monkeypatch.setenv("INVDENOISE_KERNELS", "off")
    assert torch.equal(load_denoiser(name).denoise(noisy, 25), exact) and called == []
