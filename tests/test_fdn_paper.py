"""What `notebooks/fdn` declares and writes of FDN: sizes, short runs, and notebooks whose sentences follow from the curves."""

from __future__ import annotations

import json
import math
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
from invdenoise.report.compare import beside, compare
from invdenoise.report.published import published_value
from invdenoise.report.tables import set_label
from invdenoise.tasks.base import columns_of, make_task, write_scores

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


@pytest.mark.parametrize("name", [*NOTEBOOKS, "table4_aerial", "table5_real"])
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


# --- Tables III to V: aerial pictures, real noise, printed sets that are fetched by hand

SETS = {"faces": "celeba-half-test", "flowers": "fdn-flowers-test", "birds": "fdn-birds-test"}
RICE = {"rice1": "rice1-half-test", "rice2": "rice2-half-test"}
REAL = ("polyu-test", "cc15", "nam25", "sidd-mini-val")
LOSS = {15: 34.0, 25: 31.5, 30: 30.5, 50: 28.0, 70: 26.5}  # PSNR of FDN at a noise level
# PSNR of each rival minus that of FDN: as the paper says wherever it says something
BELOW = {
    "bm3d": -0.4, "ircnn-authors-colour": -1.8, "dncnn-authors-colour": -1.5, "ffdnet-authors-colour": -1.6, "dncnn-rice": -1.2,
    "dncnn": -0.5, "invdn": -0.2, "dncnn-real": -0.6,
}  # fmt: skip
ABOUT_SCORES = (
    "same-faces",
    "same-flowers",
    "same-birds",
    "blind",
    "faces",
    "flowers",
    "birds",
    "rice1",
    "rice2",
    "rice1-margin",
    "real-dncnn",
    "real-invdn",
)


def write_score(folder, score, method, dataset, psnr, sigma=None, variant="", pictures=8, **entries):
    """A made-up score file: pictures around `psnr`, which differ between methods a little by chance."""
    task = make_task(PAPER.scores[score].task)
    noisy = 20 * math.log10(255 / sigma) if sigma else 24.0
    usual = {
        "method": method, "variant": variant, "requested": dataset, "dataset": dataset, "ssim": 0.9, "psnr_rounded": psnr, "psnr_noisy": noisy,
        "seconds": 0.5, "megapixels": 0.07, "device": "cpu", "seed": 0, "num_parameters": 4_375_680, "budget": "laptop", "version": "1",
        "commit": "abc", "task": PAPER.scores[score].task, "num_rows": pictures, **({"sigma": sigma} if sigma else {}),
    }  # fmt: skip
    if method == "invdn":
        usual["num_parameters"] = 2_640_960
    chance = sum(map(ord, method)) % 7
    rows = [
        usual | {"image": f"{index:02d}", "psnr": psnr + index % 3 + 0.002 * ((chance + 3 * index) % 5)} | entries
        for index in range(pictures)
    ]
    label = f"{method}.{dataset}{f'.{variant}' if variant else ''}.{sigma or 'real'}"
    frame = pd.DataFrame(rows, columns=columns_of(task))
    write_scores(frame, folder / "scores" / "fdn" / score / f"{label}.csv")


def write_all_scores(folder, sign=1):
    """Scores in which every claim on scores holds; with sign -1, in which none does."""

    def below(name):
        return sign * BELOW[name]

    for kind, dataset in SETS.items():
        for sigma in (15, 25, 50):
            write_score(folder, "categories", f"fdn-{kind}-s{sigma}", dataset, LOSS[sigma], sigma)
            write_score(folder, "blind", f"fdn-{kind}-blind", dataset, LOSS[sigma], sigma, "blind")
            write_score(folder, "blind", f"dncnn-{kind}-blind", dataset, LOSS[sigma] + below("dncnn"), sigma, "blind")
            for name in ("dncnn-authors-colour", "ircnn-authors-colour"):
                write_score(folder, "categories", f"{name}-s{sigma}", dataset, LOSS[sigma] + below(name), sigma)
            for name in ("ffdnet-authors-colour", "bm3d"):
                write_score(folder, "categories", name, dataset, LOSS[sigma] + below(name), sigma)
        write_score(folder, "categories", f"dncnn-{kind}-s50", dataset, LOSS[50] + below("dncnn"), 50)
    for which, dataset in RICE.items():
        for sigma in (30, 50, 70):
            write_score(folder, "aerial", f"fdn-{which}-s{sigma}", dataset, LOSS[sigma], sigma)
            write_score(
                folder, "aerial", "ffdnet-authors-colour", dataset, LOSS[sigma] + below("ffdnet-authors-colour"), sigma
            )
        for name in ("dncnn-authors-colour", "ircnn-authors-colour"):
            write_score(folder, "aerial", f"{name}-s50", dataset, LOSS[50] + below(name), 50)
        write_score(folder, "aerial", f"dncnn-{which}-s50", dataset, LOSS[50] + below("dncnn-rice"), 50)
    for dataset in REAL:
        write_score(folder, "real", "fdn-real", dataset, 38.0)
        for name in ("invdn", "dncnn-real"):
            write_score(folder, "real", name, dataset, 38.0 + below(name))
    return folder


def test_every_network_is_scored_where_it_was_trained_for():
    runs = [(name, part) for name, score in PAPER.scores.items() for part in score.runs]
    for name, network in PAPER.networks.items():
        (score, run), *others = [(score, part) for score, part in runs if name in part.methods]
        assert not others, name
        if network.sigma is None:
            assert score == ("real" if name == "fdn-real" else "blind"), name
        else:
            assert run.conditions == {"sigma": "trained"} and score in ("categories", "aerial"), name
    test_sets = {
        dataset
        for score in ("categories", "blind", "aerial")
        for part in PAPER.scores[score].runs
        for dataset in part.sets
    }
    trained_on = {network.source.set for network in PAPER.networks.values()}
    assert not trained_on & test_sets and all(name.endswith("-test") for name in test_sets)


@pytest.mark.parametrize("model", ["fdn", "dncnn"])
@pytest.mark.parametrize("which", ["rice1", "rice2"])
def test_the_networks_of_aerial_pictures(model, which):
    levels = (30, 50, 70) if model == "fdn" else (50,)
    for sigma in levels:
        network = PAPER.networks[f"{model}-{which}-s{sigma}"]
        laptop, paper = network.recipe("laptop"), network.recipe("paper")
        start = f"{model}-faces-s50" if sigma == 50 else f"{model}-{which}-s50"
        assert (laptop.start, laptop.steps, laptop.batch_size, laptop.augment) == (start, 1500, 4, True)
        assert network.sigma == sigma and network.source_options("laptop")["set"] == f"{which}-half-train"
        assert network.source_options("paper")["set"] == f"{which}-train" and paper.augment is True
        assert paper.patch_size == (64 if model == "fdn" else 50) and paper.start is None


def test_the_network_of_real_noise_sees_what_invdn_sees():
    network, other = PAPER.networks["fdn-real"], papers.papers()["invdn"].networks["invdn"]
    assert network.source == other.source and network.task == other.task
    assert network.build().dequantise and not network.knows_sigma
    laptop, paper = network.recipe("laptop"), network.recipe("paper")
    assert (laptop.start, laptop.steps, laptop.validation) == (
        "fdn-faces-blind",
        1500,
        len(network.source.options["validation_scenes"]),
    )
    assert (paper.patch_size, paper.augment, network.source_options("paper")["set"]) == (144, True, "sidd-medium")
    assert 0 < paper.validation < 10  # SIDD has ten scenes


@pytest.mark.parametrize(("sign", "verdict"), [(1, "holds"), (-1, "does not hold")])
def test_claims_on_scores_follow_the_scores(sign, verdict, results):
    about_scores = {name for name, claim in PAPER.claims.items() if claim.test.reads != papers.ABLATIONS}
    assert about_scores == set(ABOUT_SCORES)
    decided = decide_all(PAPER, write_all_scores(results, sign))
    assert {name: str(decided[name].verdict) for name in ABOUT_SCORES} == dict.fromkeys(ABOUT_SCORES, verdict)
    # 4 rivals at 3 levels; FFDNet at 3 levels and 3 networks at 50
    assert (len(decided["faces"].cells), len(decided["rice1"].cells), len(decided["blind"].cells)) == (12, 6, 9)


def test_one_rival_at_one_level_decides(results):
    write_all_scores(results)
    write_score(results, "categories", "bm3d", SETS["flowers"], LOSS[25] + 0.1, 25)
    write_score(results, "aerial", "ffdnet-authors-colour", RICE["rice1"], LOSS[70] - 1.0, 70)
    verdicts = {name: str(one.verdict) for name, one in decide_all(PAPER, results).items()}
    assert (verdicts["flowers"], verdicts["faces"]) == ("does not hold", "holds")
    assert (verdicts["rice1"], verdicts["rice1-margin"]) == ("holds", "does not hold")
    # Without the network for 70 nothing is decided on RICE1.
    (results / "scores/fdn/aerial" / f"fdn-rice1-s70.{RICE['rice1']}.70.csv").unlink()
    decided = decide_all(PAPER, results)
    assert str(decided["rice1"].verdict) == "not run" and "fdn-rice1" in decided["rice1"].reason
    assert str(decided["rice2"].verdict) == "holds"


def test_numbers_on_our_own_pictures_never_stand_beside_printed_ones(results):
    write_all_scores(results)
    for place in ("Table III", "Table IV", "Table V"):
        table = compare(PAPER, place, results)
        numbers = table[~table["metric"].isin(["parameters", "flops"])]
        assert numbers["ours"].isna().all(), place
        run = numbers["method"].isin({"fdn", "dncnn", "ffdnet", "ircnn"}) & ~(
            (place == "Table V") & (numbers["method"] == "ffdnet")
        )
        assert set(numbers["verdict"][run]) == {"data not available"}, place
    sizes = compare(PAPER, "Table V", results).query("method == 'fdn' and metric in ('parameters', 'flops')")
    assert set(sizes["verdict"]) == {"reproduced"} and "fdn-real" in set(sizes["our_method"])


@pytest.mark.parametrize(
    ("place", "score", "method", "row", "dataset", "whole", "printed", "sigma"),
    [
        ("Table III", "categories", "fdn-faces-s50", "fdn", "celeba-test", 19867, 30.29, 50),
        ("Table III", "categories", "dncnn-authors-colour-s25", "dncnn", "flowers102-test", 2040, 34.17, 25),
        ("Table III", "categories", "bm3d", "bm3d", "cub200-test", 5794, 35.08, 15),
        ("Table IV", "aerial", "fdn-rice1-s70", "fdn", "rice1-test", 83, 30.03, 70),
        ("Table IV", "aerial", "ircnn-authors-colour-s50", "ircnn", "rice2-test", 75, 33.74, 50),
    ],
)  # fmt: skip
def test_who_has_the_papers_sets_fills_its_rows(place, score, method, row, dataset, whole, printed, sigma, results):
    assert dataset in {name for part in PAPER.scores[score].runs if method in part.methods for name in part.sets}
    mean = sum(index % 3 + 0.002 * ((sum(map(ord, method)) % 7 + 3 * index) % 5) for index in range(whole)) / whole
    write_score(results, score, method, dataset, printed - 0.1 - mean, sigma, pictures=whole)
    table = compare(PAPER, place, results)
    (found,) = table[table["ours"].notna()].to_dict("records")
    assert (found["method"], found["dataset"], found["sigma"], found["our_method"]) == (row, dataset, sigma, method)
    assert found["published"] == printed and found["ours"] == pytest.approx(printed - 0.1, abs=1e-3)
    assert found["verdict"] == "close" and found["num_images"] == whole
    titles = [table.title for table in beside(PAPER, place, results)]
    assert set_label(dataset) in titles and len(titles) == len(set(titles)) == len(PAPER.compare[place].sets)


def test_a_part_of_the_papers_set_is_not_judged(results):
    write_score(results, "categories", "fdn-faces-s50", "celeba-test", 30.0, 50, pictures=10)
    table = compare(PAPER, "Table III", results)
    (found,) = table[table["ours"].notna()].to_dict("records")
    assert (found["verdict"], found["num_images"]) == ("not run", 10) and pd.isna(found["difference"])


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        ({"celebA": "celeba-test"}, "no printed set is called 'celebA'; did you mean 'celeba'"),
        ({"celeba": "celeba-tset"}, "no dataset 'celeba-tset'; did you mean celeba-test"),
    ],
)
def test_a_wrong_name_of_a_set_is_refused(sets, message, results, monkeypatch):
    monkeypatch.setitem(
        PAPER.declared.compare, "Table III", PAPER.compare["Table III"].model_copy(update={"sets": sets})
    )
    with pytest.raises(ValueError, match=message):
        compare(PAPER, "Table III", results)


@pytest.mark.slow
def test_table_four_finds_the_lines_that_rise_and_compares_orders(results):
    names = run("table4_aerial")
    assert names["rising_text"].count(" dB at σ") == 4 and "DnCNN on RICE2" in names["rising_text"]
    assert "0 were run here" in names["order_text"] and names["decided"][0].verdict == "not run"
    assert "fdn-rice1-s50 BUDGET=laptop" in names["missing_text"] and "data not available" in names["missing_text"]
    write_all_scores(results)
    names = run("table4_aerial")
    # FDN and FFDNet at three levels, IRCNN and DnCNN at one, on two sets: (6 + 1 + 1) x 2 pairs
    assert "16 were run here" in names["order_text"] and "Rising: none" in names["law_text"]
    counted = names["asked"]["here"].value_counts().to_dict()
    # Made up is DnCNN above FFDNet above IRCNN. In print IRCNN is above both, and on RICE2 FFDNet is above DnCNN.
    assert counted == {"the same": 11, "the other way": 5}
    assert "does not hold" not in names["claim_text"]
    write_score(results, "aerial", "fdn-rice2-s70", RICE["rice2"], 29.0, 70)
    assert "Rising: FDN, same pictures on RICE2" in run("table4_aerial")["law_text"]


@pytest.mark.slow
def test_table_five_counts_in_one_unit_and_says_what_is_not_run(results):
    names = run("table5_real")
    assert names["sizes"]["printed / counted"].round(2).to_dict() == {"FDN": 1.0, "InvDN": 1.01, "DnCNN": 2.01}
    assert "0.05 dB above VDN" in names["lead_text"] and "0.48" in names["cost_text"]
    assert "FDN: **not run**" in names["verdict_text"] and "fdn-real BUDGET=laptop" in names["missing_text"]
    write_all_scores(results)
    names = run("table5_real")
    assert "worse than FDN" in names["verdict_text"] and "does not hold" not in names["claim_text"]
    for name in names["sets"]:
        assert set(names["beaten"].loc[set_label(name)]) == {"none", "InvDN, trained here; DnCNN, trained here"}
    assert "SIDD validation blocks" in names["missing_text"] and "BM3D (oracle level)" in names["missing_text"]


# --- The README


def test_the_readme_lists_every_notebook_and_can_be_filled():
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 120
    for file in FOLDER.glob("*.ipynb"):
        assert f"({file.name})" in text, file.name
    assert text.count("<!-- end -->") == 1 and "<!-- claims -->" in text
    assert all(claim.says in text for claim in PAPER.claims.values())
    named = re.findall(r"EXPERIMENT=([\w-]+)", text)
    assert named and set(named) <= set(PAPER.networks)
