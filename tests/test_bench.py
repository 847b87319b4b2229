"""The benchmark: fair turns, the right median, memory that is what it says, and an exit status that tells."""

from __future__ import annotations

from subprocess import CompletedProcess

import numpy as np
import pandas as pd
import pytest
import torch
import toy

from invdenoise import bench, kernels, methods, papers, paths
from invdenoise.data.fetch import DataUnavailable
from invdenoise.data.pictures import Picture, PictureSet
from invdenoise.kernels.build import Kernel
from invdenoise.models import classical
from invdenoise.papers import Bench, Contender

SMALL = {"num_features": 2}


def row(quantity: str, **entries) -> dict:
    return bench._row(quantity, "ours", "fast", 1.25, "s") | entries


def declared(measure: str, *contenders: dict, **entries) -> Bench:
    """A measurement of small networks, as a paper declares it."""
    usual = {"measure": measure, "batch": [2, 1, 8, 8], "sigma": 25, "rounds": 1}
    return Bench.model_validate(usual | {"contenders": list(contenders)} | entries)


def small(label: str, **entries) -> dict:
    return {"label": label, "model": "toy.Smooth", "options": SMALL} | entries


def made_up_times(monkeypatch, **seconds: list[float]) -> None:
    """Contenders, in their order, take these seconds in each round; none is run."""

    def take_turns(contenders, rounds):
        assert len(contenders) == len(seconds)
        return dict(zip(contenders, seconds.values(), strict=True))

    monkeypatch.setattr(bench, "take_turns", take_turns)


@pytest.fixture(autouse=True)
def plain(monkeypatch):
    """Nothing is compiled and no kernel is built; declarations may name the toy networks."""
    toy.use(monkeypatch)
    monkeypatch.setattr(bench, "can_compile", lambda: False)
    monkeypatch.setattr("invdenoise.kernels.routing.can_compile", lambda _: False)
    monkeypatch.setattr(Kernel, "available", lambda self: False)
    monkeypatch.setattr("invdenoise.device._has_bfloat16", lambda _: False)


@pytest.fixture
def measured(monkeypatch, tmp_path):
    """A function that runs the command on made-up measurements; returns its exit status and the table it wrote."""
    monkeypatch.setenv("INVDENOISE_RESULTS", str(tmp_path))
    measurement = declared("training step", small("A"))
    monkeypatch.setattr(bench, "measurements", lambda: [("first", measurement), ("second", measurement)])

    def run(*rows: dict, arguments=()) -> tuple[int, pd.DataFrame]:
        monkeypatch.setitem(bench.MEASURES, "training step", lambda _: list(rows))
        return bench.main(list(arguments)), pd.read_csv(tmp_path / "bench.csv")

    return run


# --- Turns and ratios


def test_contenders_take_turns_after_two_runs_to_warm_up():
    calls = []
    seconds = bench.take_turns({name: lambda name=name: calls.append(name) for name in "abc"}, rounds=3)
    assert "".join(calls) == "aabbcc" + "abc" * 3
    assert list(seconds) == ["a", "b", "c"]
    assert all(len(values) == 3 and min(values) >= 0 for values in seconds.values())


def test_seconds_are_of_the_contender_alone(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(bench.time, "perf_counter", lambda: now[0])

    def lasting(seconds):
        def run():
            now[0] += seconds

        return run

    found = bench.take_turns({"slow": lasting(3.0), "fast": lasting(2.0)}, rounds=2)
    assert found == {"slow": [3.0, 3.0], "fast": [2.0, 2.0]}
    assert bench.ratio(found, "slow", "fast") == 1.5


def test_ratio_is_the_median_of_each_round_s_own():
    # Rounds 4/2, 9/3, 10/1: one slow moment of the machine moves neither side alone.
    assert bench.ratio({"slow": [4.0, 9.0, 10.0], "fast": [2.0, 3.0, 1.0]}, "slow", "fast") == 3.0
    with pytest.raises(ValueError):
        bench.ratio({"slow": [4.0, 9.0], "fast": [2.0]}, "slow", "fast")


# --- What is declared is measured


def test_a_training_step_is_told_in_patches_a_second_with_its_ratio(monkeypatch):
    made_up_times(monkeypatch, ours=[1.0, 2.0, 4.0], eager=[4.0, 4.0, 6.0], theirs=[0.5, 1.0, 1.0])
    rows = bench.training_step(
        declared("training step", small("Ours"), small("Ours", setting="eager", target={"at_least": 1.9}), small("Theirs", setting="eager"))
    )  # fmt: skip
    assert [(found["subject"], found["setting"], found["value"], found["unit"]) for found in rows] == [
        ("Ours", "float32", 1.0, "patches/s"), ("Ours", "eager float32", 0.5, "patches/s"), ("Theirs", "eager float32", 2.0, "patches/s"),
    ]  # fmt: skip
    assert "ratio" not in rows[0]  # the first is the reference
    assert [(found["reference"], found["ratio"]) for found in rows[1:]] == [
        ("Ours, float32", 2.0),
        ("Ours, float32", 0.5),
    ]
    assert (rows[1]["target"], rows[1]["met"]) == ("at least 1.9", True) and "target" not in rows[2]


@pytest.mark.parametrize(
    ("target", "met"),
    [
        ({"at_least": 2.0}, True), ({"at_least": 2.1}, False), ({"at_most": 2.0}, True), ({"at_most": 1.9}, False),
        ({"below": 2.1}, True), ({"below": 2.0}, False),
    ],
)  # fmt: skip
def test_a_target_is_met_by_its_direction(target, met, monkeypatch):
    made_up_times(monkeypatch, ours=[1.0], theirs=[2.0])
    found = bench.training_step(declared("training step", small("Ours"), small("Theirs", target=target)))[1]
    ((bound, value),) = target.items()
    assert found["target"] == f"{bound.replace('_', ' ')} {value:g}" and found["met"] is met


def test_a_training_step_is_forward_and_backward_on_the_batch(monkeypatch):
    seen, real = [], toy.Smooth.training_loss

    def training_loss(self, clean, noisy, sigma=None):
        seen.append((tuple(clean.shape), float(sigma), self))
        return real(self, clean, noisy, sigma)

    monkeypatch.setattr(toy.Smooth, "training_loss", training_loss)
    rows = bench.training_step(declared("training step", small("A"), small("B", setting="eager"), rounds=2))
    assert len(seen) == 2 * 2 + 2 * 2 and {found[:2] for found in seen} == {((2, 1, 8, 8), 25.0)}
    networks = {id(found[2]): found[2] for found in seen}.values()
    assert len(networks) == 2
    assert all(parameter.grad is not None for network in networks for parameter in network.parameters())
    assert all(found["value"] > 0 for found in rows) and rows[1]["ratio"] > 0


def test_a_network_runs_in_its_kernel_compiled_or_as_it_is(monkeypatch):
    """The setting that a row names is the one that ran."""
    network, batch = toy.Smooth(), {"clean": torch.rand(1, 1, 8, 8), "noisy": torch.rand(1, 1, 8, 8)}
    assert bench._step(network, batch, fast=False)[0] == "eager float32"
    assert bench._step(network, batch, fast=True)[0] == "float32"
    compiled, attached = [], []
    monkeypatch.setattr(bench, "can_compile", lambda: True)
    monkeypatch.setattr(torch, "compile", lambda function, backend: compiled.append(function) or function)
    setting, step = bench._step(network, batch, fast=True)
    step()
    assert setting == "compiled float32" and len(compiled) == 1
    monkeypatch.setattr(kernels, "has_kernel", lambda *_: True)
    monkeypatch.setattr(kernels, "attach", lambda *arguments: attached.append(arguments))
    assert bench._step(network, batch, fast=True)[0] == "float32 in own kernel"
    assert attached == [(network, "float32")] and len(compiled) == 1


def test_contenders_are_fresh_networks_that_are_not_the_identity():
    entry = {"label": "DnINN", "model": "dninn.DnINN", "options": {"num_pairs": 1, "num_layers": 2, "num_features": 2}}
    network = bench.fresh(Contender.model_validate(entry))
    noisy = torch.rand(1, 1, 16, 16)
    with torch.no_grad():
        assert (network(noisy) - noisy).abs().max() > 1e-4
    assert not network.training
    again = bench.fresh(Contender.model_validate(entry))
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), again.parameters(), strict=True))
    assert sum(p.numel() for p in bench.fresh(Contender.model_validate(entry), num_pairs=2).parameters()) > 1.5 * sum(
        p.numel() for p in network.parameters()
    )


@pytest.fixture
def pictures(monkeypatch):
    """Two small pictures stand for every set."""
    ramp = np.tile(np.arange(0, 240, 10, dtype=np.uint8), (16, 1))
    asked = []

    def load_pictures(name, limit=None):
        asked.append((name, limit))
        return PictureSet(name, name, (Picture("a", ramp), Picture("b", ramp[:, ::-1].copy())), "")

    monkeypatch.setattr(bench, "load_pictures", load_pictures)
    return asked


def test_inference_is_told_in_seconds_a_megapixel(monkeypatch, pictures):
    made_up_times(monkeypatch, theirs=[2.0, 2.0, 4.0], ours=[1.0, 1.0, 1.0])
    theirs, ours = bench.inference(
        declared("inference", small("Theirs"), small("Ours", target={"at_most": 0.6}), set="bsd68", limit=2)
    )
    assert pictures == [("bsd68", 2)]
    megapixels = 2 * 16 * 24 / 1e6
    assert theirs["value"] == pytest.approx(2.0 / megapixels) and ours["value"] == pytest.approx(1.0 / megapixels)
    assert theirs["unit"] == "s/megapixel" and "ratio" not in theirs
    assert (ours["reference"], ours["ratio"], ours["target"], ours["met"]) == (
        "Theirs, float32",
        0.5,
        "at most 0.6",
        True,
    )


def test_inference_without_a_set_is_of_noise_of_the_declared_shape(monkeypatch):
    seen, real = [], toy.Smooth.denoise

    def denoise(self, noisy, sigma=None):
        seen.append((tuple(noisy.shape), sigma))
        return real(self, noisy, sigma)

    monkeypatch.setattr(toy.Smooth, "denoise", denoise)
    (found,) = bench.inference(declared("inference", small("A"), batch=[1, 1, 12, 20], rounds=2))
    assert seen == [((1, 1, 12, 20), 25.0)] * 4
    assert found["value"] > 0


@pytest.mark.parametrize("met", [True, False])
def test_inference_says_what_the_fast_setting_costs(met, monkeypatch, pictures):
    """The fast setting is made to darken by half a grey level."""
    darkening = 0.5 if not met else 1e-6
    real = toy.Smooth.denoise

    def speed_up(network):
        network.denoise = lambda noisy, sigma=None: (real(network, noisy, sigma) - darkening / 255).clamp(0, 1)
        return network

    monkeypatch.setattr(kernels, "speed_up", speed_up)
    rows = bench.inference(declared("inference", small("A", psnr_change=0.0005), small("B"), set="bsd68", limit=2))
    cost = [found for found in rows if found["quantity"] == "PSNR change of the fast setting"]
    assert [found["subject"] for found in cost] == ["A"] and cost[0]["setting"] == "float32"
    assert cost[0]["unit"] == "dB" and cost[0]["target"] == "within 0.0005" and cost[0]["met"] is met
    assert (abs(cost[0]["value"]) > 0.0005) is not met


def test_a_method_is_measured_with_its_weights_or_fresh_without_them(monkeypatch):
    loaded, asked = toy.Smooth(3), []

    def load_denoiser(name):
        asked.append(name)
        if name == "there":
            return loaded
        raise {"gone": FileNotFoundError, "unreachable": DataUnavailable, "uninstalled": ImportError}[name](name)

    monkeypatch.setattr(bench, "load_denoiser", load_denoiser)

    def ready(**entries):
        return bench._ready(Contender.model_validate({"label": "A", **entries}))

    assert ready(method="there") is loaded
    for name in ("gone", "unreachable"):
        network = ready(method=name, model="toy.Smooth", options={"num_features": 5})
        assert network.layers[0].out_channels == 5
    assert ready(method="uninstalled", setting="as it is") is None
    with pytest.raises(FileNotFoundError):
        ready(method="gone")  # no model to take instead
    assert asked == ["there", "gone", "unreachable", "uninstalled", "gone"]


def test_a_method_without_its_package_is_left_out(monkeypatch, pictures, capsys):
    monkeypatch.setattr(bench, "load_denoiser", lambda name: (_ for _ in ()).throw(ImportError(name)))
    rows = bench.inference(
        declared(
            "inference", small("Ours"), {"label": "BM3D", "method": "bm3d", "setting": "as it is"}, set="bsd68", limit=1
        )
    )
    assert [found["subject"] for found in rows] == ["Ours"]
    assert "left out: BM3D, whose package is not installed" in capsys.readouterr().out


def test_a_method_that_is_no_network_runs_as_it_is(monkeypatch, pictures):
    made_up_times(monkeypatch, ours=[1.0], other=[3.0])
    other = {"label": "Wavelets", "method": "wavelet-visu", "setting": "as it is"}
    found = bench.inference(declared("inference", small("Ours"), other, set="bsd68", limit=1))[1]
    assert (found["subject"], found["setting"], found["ratio"]) == ("Wavelets", "as it is", 3.0)


def test_a_colour_batch_is_measured_in_colour(monkeypatch):
    """Also by methods that are not networks, and by networks whose loss knows no noise level."""
    seen, real, loss = [], classical.BayesShrink.denoise, toy.Smooth.training_loss

    def denoise(self, noisy, sigma=None):
        seen.append(tuple(noisy.shape))
        return real(self, noisy, sigma)

    monkeypatch.setattr(classical.BayesShrink, "denoise", denoise)
    other = {"label": "Wavelets, colour", "method": "wavelet-bayes", "setting": "as it is"}
    colour = small("Ours", options={"channels": 3})
    found = bench.inference(declared("inference", colour, other, batch=[1, 3, 12, 20]))
    assert [row["subject"] for row in found] == ["Ours", "Wavelets, colour"]
    assert seen == [(1, 3, 16, 16), *[(1, 3, 12, 20)] * 3]

    def training_loss(self, clean, noisy):
        assert clean.shape == noisy.shape == (2, 3, 8, 8)
        return loss(self, clean, noisy)

    monkeypatch.setattr(toy.Smooth, "training_loss", training_loss)
    (row,) = bench.training_step(declared("training step", colour, batch=[2, 3, 8, 8]))
    assert row["value"] > 0


def test_contenders_that_cannot_be_told_apart_are_refused():
    with pytest.raises(ValueError, match="training step has two contenders 'A, eager'; give each a label of its own"):
        declared("training step", small("A", setting="eager"), small("B"), small("A", setting="eager"))
    assert declared("training step", small("A", setting="eager"), small("A"))
    with pytest.raises(
        ValueError, match="training memory has two contenders 'A'"
    ):  # whose rows do not name the setting
        declared("training memory", small("A", setting="eager"), small("A"), vary={"num_features": [1, 2]})


def test_memory_is_told_for_each_value_of_the_option(monkeypatch):
    def peak(contender, options, batch, sigma):
        assert (batch, sigma) == ([2, 1, 8, 8], 25)
        return 50.0 if contender.options.get("constant_memory") else 12.5 * options["num_pairs"]

    monkeypatch.setattr(bench, "_peak_memory", peak)
    ordinary = {"label": "ordinary", "model": "dninn.DnINN"}
    constant = {
        "label": "constant",
        "model": "dninn.DnINN",
        "options": {"constant_memory": True},
        "target": {"below": 1.1},
    }
    rows = bench.training_memory(declared("training memory", ordinary, constant, vary={"num_pairs": [4, 8, 16]}))
    assert [(found["setting"], found["subject"], found["ratio"]) for found in rows] == [
        *(("ordinary", f"num_pairs = {pairs}", pairs / 4) for pairs in (4, 8, 16)),
        *(("constant", f"num_pairs = {pairs}", 1.0) for pairs in (4, 8, 16)),
    ]
    assert {found["reference"] for found in rows} == {"num_pairs = 4"} and {found["unit"] for found in rows} == {
        bench.BEYOND
    }
    assert [(found["target"], found["met"]) for found in rows if "target" in found] == [("below 1.1", True)]
    assert "target" in rows[-1]  # of the largest value


@pytest.mark.slow
def test_memory_of_a_step_grows_with_the_pairs_unless_they_are_recomputed(monkeypatch):
    """Each peak is measured in a process of its own."""
    monkeypatch.setenv("PYTHONPATH", str(paths.ROOT / "lib"))

    def growth(constant: bool) -> float:
        options = {"num_layers": 4, "num_features": 8, "constant_memory": constant}
        contender = Contender(label="", model="dninn.DnINN", options=options)
        few, many = (bench._peak_memory(contender, {"num_pairs": pairs}, [2, 1, 128, 128], 25) for pairs in (1, 2))
        return many / few

    assert growth(constant=False) > 1.7  # 1.93 where it was measured: all but the pictures doubles
    assert growth(constant=True) < 1.15


@pytest.mark.slow
def test_memory_of_weights_and_gradients_is_left_out(monkeypatch):
    """InvDN's gradients grow with its blocks, and would hide that the activations do not."""
    monkeypatch.setenv("PYTHONPATH", str(paths.ROOT / "lib"))

    def growth(constant: bool) -> float:
        contender = Contender(label="", model="invdn.InvDN", options={"constant_memory": constant})
        few, many = (bench._peak_memory(contender, {"num_blocks": blocks}, [2, 3, 64, 64], 25) for blocks in (2, 6))
        return many / few

    assert growth(constant=False) > 2
    assert growth(constant=True) < 1.2


@pytest.mark.slow
def test_memory_of_denoising_is_that_of_the_picture(monkeypatch):
    """DnCNN keeps two maps of all features at a time: with four times the features it takes nearly four times the memory."""
    monkeypatch.setenv("PYTHONPATH", str(paths.ROOT / "lib"))
    sizes = [
        {"label": str(size), "model": "dncnn.DnCNN", "options": {"depth": 4, "num_features": size}} for size in (16, 64)
    ]
    rows = bench.inference_memory(declared("inference memory", *sizes, batch=[1, 1, 256, 256]))
    one_map = 64 * 256 * 256 * 4 / 2**20
    assert rows[1]["value"] == pytest.approx(2 * one_map, rel=0.6)
    assert 2 < rows[1]["ratio"] < 5 and rows[1]["reference"] == "16"


def test_memory_of_a_method_that_is_not_installed_is_left_out(monkeypatch, capsys):
    def run(command, **_):
        found = "bm3d" not in command[-1]
        return CompletedProcess(command, 0 if found else bench.NOT_INSTALLED, stdout="12.5\n", stderr="")

    monkeypatch.setattr(bench.subprocess, "run", run)
    rival = {"label": "BM3D", "method": "bm3d", "setting": "as it is", "target": {"at_most": 2}}
    other = {"label": "Wavelets", "method": "wavelet-bayes", "setting": "as it is", "target": {"below": 1}}
    rows = bench.inference_memory(declared("inference memory", small("Ours"), rival, other))
    assert [(row["subject"], row["value"]) for row in rows] == [("Ours", 12.5), ("Wavelets", 12.5)]
    assert rows[1]["ratio"] == 1 and rows[1]["met"] is False
    assert "left out: BM3D" in capsys.readouterr().out


def test_memory_that_cannot_be_measured_says_why(monkeypatch):
    said = "Traceback\nMemoryError: no more\n"
    monkeypatch.setattr(bench.subprocess, "run", lambda *_, **__: CompletedProcess([], 1, stdout="", stderr=said))
    wrong = Contender(label="", model="dninn.DnINN", options={"num_pairs": 1})
    with pytest.raises(
        RuntimeError, match=r"memory of .*'num_pairs': 9.* could not be measured: MemoryError: no more$"
    ):
        bench._peak_memory(wrong, {"num_pairs": 9}, [1, 1, 8, 8], 25)


def test_everything_that_the_papers_declare_can_be_measured():
    """Models and methods that do not exist would be found after minutes of measuring."""
    found = list(bench.measurements())
    assert {paper for paper, _ in found} <= set(papers.papers()) and found
    for _, measurement in found:
        assert measurement.measure in bench.MEASURES
        for contender in measurement.contenders:
            if contender.model:
                bench.fresh(contender, **{option: values[0] for option, values in measurement.vary.items()})
            if contender.method:
                assert contender.method in classical.METHODS or methods.is_network(contender.method)


# --- The command


@pytest.mark.parametrize("met, status", [(True, 0), (False, 1)])
def test_exit_status_tells_whether_targets_are_met(measured, met, status):
    rows = row("speed", target="at most 0.7", met=True), row("cost", target="within 0.005", met=met), row("memory")
    found, table = measured(*rows)
    assert found == status
    assert list(table["met"].dropna().map(str)) == ["True", str(met)] * 2  # of two papers


def test_measurements_without_targets_miss_none(measured):
    assert measured(row("speed"))[0] == 0


def test_one_paper_may_be_measured_alone(measured, capsys):
    assert len(measured(row("speed"))[1]) == 2
    assert len(measured(row("speed"), arguments=["--paper", "second"])[1]) == 1
    assert capsys.readouterr().out.count("measuring: second, training step") == 2
    assert measured(row("speed"), arguments=["--paper", "third"])[0] == 1
    assert "error: third declares no measurement; papers: " in capsys.readouterr().err


def test_measurements_are_written_with_the_machine_and_the_commit(measured):
    _, table = measured(row("speed", reference="theirs", ratio=0.5))
    assert tuple(table.columns) == (*bench.COLUMNS, "hardware", "commit")
    assert table.loc[0, ["quantity", "subject", "setting", "value", "unit", "reference", "ratio"]].to_list() == [
        "speed", "ours", "fast", 1.25, "s", "theirs", 0.5
    ]  # fmt: skip
    assert "CPU thread" in table.loc[0, "hardware"]


def test_a_folder_that_cannot_be_written_stops_before_measuring(monkeypatch, tmp_path, capsys):
    (tmp_path / "file").touch()
    monkeypatch.setenv("INVDENOISE_RESULTS", str(tmp_path / "file"))
    monkeypatch.setattr(bench, "MEASURES", {name: lambda _: pytest.fail("measured") for name in bench.MEASURES})
    assert bench.main([]) == 1
    assert "error: " in (told := capsys.readouterr()).err and "measuring" not in told.out
