"""What `notebooks/fdn` declares and writes of FDN: sizes, short runs, and notebooks whose sentences follow from the curves."""

from __future__ import annotations

import json
import re
import warnings

import matplotlib
import matplotlib.pyplot as plt
import nbformat
import pandas as pd
import pytest
import torch

from invdenoise import papers, paths
from invdenoise.data.batches import PatchSource
from invdenoise.layers.coupling import AffineCoupling, Squeeze
from invdenoise.layers.flow import SigmoidCoupling
from invdenoise.models.base import count_macs
from invdenoise.report.claims import decide_all
from invdenoise.report.published import published_value

PAPER = papers.papers()["fdn"]
ABLATIONS = PAPER.declared.ablations
FOLDER = paths.NOTEBOOKS / "fdn"
NOTEBOOKS = ("table1_blocks", "table2_split", "fig5_preprocessing", "open_choices")
EMBEDDED = {"dataset": "embedded-colour", "limit": 0}
# Validation PSNR of each change in dB, minus that of `none`: as the paper says wherever it says something
AS_PRINTED = {
    "blocks1-steps1": -0.9, "blocks1-steps2": -0.5, "blocks2-steps1": -0.4, "blocks3-steps1": -0.4, "blocks3-steps2": -0.1,
    "clean-1-8": -0.4, "clean-1-4": -0.2, "clean-1-2": -0.2, "clean-7-8": -0.01, "centre": -0.8, "flip": -0.01, "flip-and-turn": -0.3,
    "haar-start": -0.1, "scale-sigmoid": -0.2, "mask-spread": 0.0, "likelihood-0": -0.3, "likelihood-1e-4": -0.2,
    "likelihood-1e-2": -0.5, "batch-8": -0.1, "batch-16": -0.3, "paper-optimizer": -2.0,
}  # fmt: skip
HOLDING = ("steps", "second-block", "third-block", "share", "share-end", "random-crops", "turns", "flips", "likelihood")


def write_curves(folder, gains=AS_PRINTED, changes=None, seeds=ABLATIONS.seeds):
    """Made-up curves of finished runs; seeds differ by a tenth of a decibel, and a little by chance."""
    for number, change in enumerate(changes or ABLATIONS.changes):
        for seed in seeds:
            name = ABLATIONS.runs(change)[seed]
            recipe = PAPER.ablations[name].recipe("laptop")
            end = 25 + gains.get(change, 0.0) + 0.1 * seed + 0.002 * ((7 * number + 3 * seed) % 5)
            steps = range(recipe.validate_every, recipe.steps + 1, recipe.validate_every)
            rows = [
                {
                    "step": step, "patches": step * recipe.batch_size, "distribution_loss": 0.5,
                    "val_psnr": end - 4 * (1 - step / recipe.steps),
                }
                for step in steps
            ]  # fmt: skip
            file = folder / "runs" / name / "laptop" / "curve.csv"
            file.parent.mkdir(parents=True, exist_ok=True)
            pd.DataFrame(rows).to_csv(file, index=False)
    return folder


@pytest.fixture
def results(tmp_path, monkeypatch):
    """An empty folder of results. Figures are drawn without a screen; nothing released stands in for what is missing."""
    folder = tmp_path / "results"
    monkeypatch.setenv("INVDENOISE_RESULTS", str(folder))
    monkeypatch.setattr(paths, "RELEASED", tmp_path / "released")
    before = matplotlib.get_backend()
    matplotlib.use("agg")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="FigureCanvasAgg is non-interactive")
        yield folder
    plt.close("all")
    matplotlib.use(before)
    torch.set_grad_enabled(True)  # a notebook turns it off for its kernel


def run(name: str, **parameters) -> dict:
    """What the names of a notebook stand for after all its cells were run."""
    names: dict = {}
    for cell in json.loads((FOLDER / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"{name}, {cell['id']}", "exec"), names)
            if cell["id"] == "parameters":
                given = {
                    "scores": "local",
                    **{key: value for key, value in EMBEDDED.items() if key in names},
                    **parameters,
                }
                assert given.keys() <= names.keys()
                names.update(given)
    return names


# --- What is declared


def test_the_network_has_the_printed_size_and_cost():
    network = PAPER.networks["fdn-faces-s50"].build()
    assert network.num_parameters() == 4_375_680
    printed = {name: published_value("fdn", "Table V", "fdn", metric=name) for name in ("parameters", "flops")}
    assert round(network.num_parameters() / 1e6, 2) == printed["parameters"] / 1e6
    # Both passes; a picture of 32 x 32 pixels takes a 64th of one of 256 x 256.
    assert count_macs(network, (3, 32, 32)) * 64 / 1e9 == pytest.approx(printed["flops"], rel=2e-3)


def test_every_flow_is_the_papers_network():
    flows = [network for network in PAPER.networks.values() if network.model == "fdn.FDN"]
    assert len(flows) >= 12 and all("sigma" not in network.options for network in flows)
    for network in flows:
        built = network.build()
        assert built.num_parameters() == 4_375_680, network.name
        assert built.mask.mean().item() == 0.75, network.name


def test_every_ablation_changes_what_it_says_and_nothing_else():
    base = PAPER.ablations["fdn-ablation-none-seed0"]
    common = base.recipe("laptop").model_dump()
    for change, settings in ABLATIONS.changes.items():
        for seed, name in ABLATIONS.runs(change).items():
            entry, recipe = PAPER.ablations[name], PAPER.ablations[name].recipe("laptop").model_dump()
            assert entry.options == {"num_steps": 2, **settings.get("options", {})}, name
            changed = {key for key in recipe if recipe[key] != common[key]} - {"seed"}
            assert changed == set(settings) - {"options"}, name
            assert recipe["seed"] == seed, name
            assert recipe["steps"] * recipe["batch_size"] == common["steps"] * common["batch_size"], name
    assert {len(ABLATIONS.runs(change)) for change in ABLATIONS.changes} == {3}


@pytest.mark.parametrize(
    ("change", "blocks", "couplings", "kept", "channels"),
    [
        ("none", 2, 4, 36, 48), ("blocks1-steps1", 1, 1, 9, 12), ("blocks1-steps2", 1, 2, 9, 12), ("blocks2-steps1", 2, 2, 36, 48),
        ("blocks3-steps1", 3, 3, 144, 192), ("blocks3-steps2", 3, 6, 144, 192), ("clean-1-8", 2, 4, 6, 48), ("clean-1-4", 2, 4, 12, 48),
        ("clean-1-2", 2, 4, 24, 48), ("clean-7-8", 2, 4, 42, 48), ("mask-spread", 2, 4, 36, 48),
    ],
)  # fmt: skip
def test_the_networks_of_tables_one_and_two(change, blocks, couplings, kept, channels):
    network = PAPER.ablations[ABLATIONS.runs(change)[0]].build()
    layers = list(network.flow)
    assert sum(isinstance(layer, Squeeze) for layer in layers) == blocks
    assert sum(isinstance(layer, AffineCoupling) for layer in layers) == couplings
    assert (int(network.mask.sum()), network.mask.shape[1]) == (kept, channels)


def test_the_other_changes_reach_the_network():
    def built(change):
        return PAPER.ablations[ABLATIONS.runs(change)[0]].build()

    assert any(isinstance(layer, SigmoidCoupling) for layer in built("scale-sigmoid").flow)
    assert not any(isinstance(layer, SigmoidCoupling) for layer in built("none").flow)
    weights = [
        built(change).distribution_weight for change in ("none", "likelihood-0", "likelihood-1e-4", "likelihood-1e-2")
    ]
    assert weights == [1e-3, 0, 1e-4, 1e-2]
    assert not torch.equal(built("mask-spread").mask, built("none").mask)
    starts = [list(built(change).flow)[2].matrix for change in ("haar-start", "none")]
    assert starts[0].count_nonzero() == 48 and starts[1].count_nonzero() == 144  # Haar mixes four pixels of one colour


def test_the_claims_are_about_these_runs_and_the_figures_about_these_notebooks():
    about_curves = {name for name, claim in PAPER.claims.items() if claim.test.reads == papers.ABLATIONS}
    assert about_curves >= set(HOLDING)
    for name in NOTEBOOKS:
        figure = PAPER.figures[name]
        assert figure.curves and figure.parameters["scores"] == "local"
        source = (FOLDER / f"{name}.ipynb").read_text(encoding="utf-8")
        drawn = set(re.findall(r'save_figure\(figure, \\"([\w-]+)\\"\)', source))
        assert {f"{one}.png" for one in drawn} == set(figure.captions), name


def test_every_claim_holds_on_curves_that_are_as_the_paper_says(results):
    decided = decide_all(PAPER, write_curves(results))
    assert {name: str(decided[name].verdict) for name in HOLDING} == dict.fromkeys(HOLDING, "holds")


def test_every_claim_fails_on_curves_that_are_the_other_way(results):
    gains = {change: -gain for change, gain in AS_PRINTED.items()} | {
        "clean-7-8": 0.5,
        "flip": 0.5,
        "blocks3-steps1": 0.9,
    }
    decided = decide_all(PAPER, write_curves(results, gains))
    assert {name: str(decided[name].verdict) for name in HOLDING} == dict.fromkeys(HOLDING, "does not hold")


# --- The notebooks


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebooks_have_the_form_of_the_others(name):
    cells = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4).cells
    parameters = [cell for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    assert len(parameters) == 1 and parameters[0].source.startswith('scores = "released"')
    assert cells[0].source.startswith("# FDN") and "Exercises" in cells[-1].source
    assert len(re.findall(r"^\d\. \*\*", cells[-1].source, re.MULTILINE)) == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebooks_come_to_their_end_without_a_run(name, results):
    names = run(name)
    text = "".join(file.read_text(encoding="utf-8") for file in (results / "tables").glob("*.md"))
    assert names["finished"] == 0 and any("**not run: make ablations**" in note for note in names["notes"])
    assert "not run" in text and not re.search(r"\b(nan|inf)\b", text, re.IGNORECASE)


@pytest.mark.slow
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebooks_take_runs_that_are_half_finished(name, results):
    write_curves(results, changes=["none", "clean-1-8", "flip", "likelihood-0", "blocks1-steps1"], seeds=[0])
    names = run(name)
    text = "".join(file.read_text(encoding="utf-8") for file in (results / "tables").glob("*.md"))
    assert names["finished"] > 0 and "25.0" in text and "not run" in text
    assert not re.search(r"\b(nan|inf)\b", text, re.IGNORECASE)


@pytest.mark.slow
def test_table_one_counts_the_pairs_in_the_printed_order(results):
    write_curves(results)
    names = run("table1_blocks")
    assert "9 of them were run, and 9 come in the same order here." in names["order_text"]
    assert names["unchanged"].tolist() == [False] * 3 + [True] * 6 + [False] * 3
    assert names["bound"] == pytest.approx(14.15 + 3.01, abs=0.01)
    assert "does not hold" not in names["claim_text"] and len(list((results / "figures").glob("*.png"))) == 2
    write_curves(results, {**AS_PRINTED, "blocks3-steps2": 0.5})  # a third block helps
    names = run("table1_blocks")
    assert (
        "8 come in the same order" in names["order_text"] and "2 × 2 (2 × 8) and 3 × 2 (3 × 8)" in names["order_text"]
    )
    assert "does not hold" in names["claim_text"]


@pytest.mark.slow
def test_table_two_says_which_share_is_best(results):
    write_curves(results)
    names = run("table2_split")
    assert "Best here: 3/4, in print: 3/4." in names["rise_text"] and "linear" not in names["rise_text"]
    assert names["linear"]["psnr"][0.75] - names["in_decibels"](names["sigma"] ** 2) == pytest.approx(1.25, abs=0.05)
    write_curves(results, {**AS_PRINTED, "clean-1-8": 0.5})
    names = run("table2_split")
    assert "Best here: 1/8" in names["rise_text"] and "like the linear transform" in names["rise_text"]


@pytest.mark.slow
def test_figure_five_cuts_as_training_does(results):
    write_curves(results)
    names = run("fig5_preprocessing")
    assert names["distinct"] == {"none": 8, "centre": 1, "flip": 8, "flip-and-turn": 8}
    assert all(isinstance(names["source_of"](change, names["one"]), PatchSource) for change in names["labels"])
    steep = names["measured"]["steepness (grey levels)"]
    assert steep["centre, reduced"] > 1.5 * steep.iloc[0]
    assert "−0.80" in names["table_text"] and not names["correlations"]  # too few pictures for a mean face


@pytest.mark.slow
def test_conclusions_follow_from_the_curves(results):
    write_curves(results)
    names = run("open_choices")
    kinds = {name: kind for name, (kind, _) in names["conclusions"].items()}
    assert kinds == dict.fromkeys(("weight", "scale", "batch", "optimiser", "start"), "settled") | {"mask": "open"}
    assert "**helps**" in names["likelihood_text"] and "best mean is at the weight 0.001" in names["likelihood_text"]
    assert "`bounded`, since `sigmoid` would cost 0.20 dB" in names["conclusions"]["scale"][1]

    write_curves(results, {**AS_PRINTED, "likelihood-0": 0.4, "scale-sigmoid": 0.3, "likelihood-1e-4": 0.0})
    names = run("open_choices")
    kinds = {name: kind for name, (kind, _) in names["conclusions"].items()}
    assert kinds["scale"] == kinds["weight"] == "against" and kinds["batch"] == "settled"
    assert "`sigmoid` is better than our `bounded` by 0.3" in names["conclusions"]["scale"][1]
    assert "`0` is better than our `0.001` by 0.4" in names["conclusions"]["weight"][1]
    assert "**hurts**" in names["likelihood_text"] and "no reason to learn the density" in names["likelihood_text"]


# --- The README


def test_the_readme_lists_every_notebook_and_can_be_filled():
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 115
    for file in FOLDER.glob("*.ipynb"):
        assert f"({file.name})" in text, file.name
    assert text.count("<!-- end -->") == 2 and "<!-- claims -->" in text
    (place,) = re.findall(r"<!-- table: (.+?) -->", text)
    assert place in PAPER.compare
    assert "fdn-faces-s50 BUDGET=laptop" in text and "fdn-faces-s50" in PAPER.networks
