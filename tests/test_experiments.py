"""`experiments.yaml`: the real one holds, and a mistake is named before anything runs."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import yaml

from invdenoise import datasets, paths
from invdenoise.experiments import BUDGETS, ablations, experiment, experiments, read_ablations, read_experiments
from invdenoise.models import DnINN, build

REAL = yaml.safe_load(paths.EXPERIMENTS.read_text())


def read(tree, tmp_path, reader=read_experiments):
    path = tmp_path / f"experiments-{len(list(tmp_path.iterdir()))}.yaml"
    path.write_text(tree if isinstance(tree, str) else yaml.safe_dump(tree))
    return reader(path)


@pytest.mark.parametrize("name", experiments())
def test_every_experiment_can_be_built(name):
    spec = experiment(name)
    network = spec.build()
    assert type(network).__name__ == spec.model and network.sigma == spec.sigma
    assert tuple(spec.recipes) == BUDGETS
    for budget in BUDGETS:
        recipe = spec.recipe(budget)
        assert recipe.data in ("embedded-train", *datasets.dataset_ids())
        assert (recipe.start is None) or budget == "laptop"
    assert spec.recipe("smoke").steps <= 50 and spec.recipe("smoke").data == "embedded-train"


def test_starts_lead_back_to_a_network_trained_from_scratch():
    for spec in experiments().values():
        seen = []
        while start := spec.recipe("laptop").start:
            assert start not in seen
            seen.append(start)
            spec = experiment(start)


def test_dninn_is_trained_as_the_paper_says():
    """LINN, Section III-A."""
    for name, spec in experiments().items():
        if spec.model != "DnINN":
            continue
        recipe = spec.recipe("paper")
        assert (recipe.batch_size, recipe.patch_size, recipe.epochs, recipe.steps) == (32, 40, 30, None), name
        assert (recipe.optimizer, recipe.lr, recipe.schedule) == ("adam", 1e-3, "steps"), name
        assert (recipe.milestones, recipe.gamma, recipe.sampling) == ((20,), 0.1, "grid"), name
        assert (recipe.data, recipe.validation, recipe.start) == ("bsd400", 0, None), name


def test_dninn_has_the_networks_and_noise_levels_of_table_1():
    found = {
        (spec.options.get("shrinkage"), spec.options.get("num_scales", 1), spec.sigma)
        for spec in experiments().values()
        if spec.model == "DnINN" and spec.paper == "linn"
    }
    assert found >= {(s, scales, sigma) for s in ("soft", "lista") for scales in (1, 2) for sigma in (15, 25, 50)}


def test_a_budget_overrides_the_defaults(tmp_path):
    tree = copy.deepcopy(REAL)
    tree["defaults"]["seed"], tree["recipes"]["dninn"]["laptop"]["seed"] = 5, 7
    spec = read(tree, tmp_path)["dninn-st-s25"]
    assert [spec.recipe(budget).seed for budget in BUDGETS] == [5, 7, 5]


def test_unknown_names_list_the_nearest():
    with pytest.raises(ValueError, match="no experiment 'dninn-st-s26'.*did you mean .*dninn-st-s25"):
        experiment("dninn-st-s26")
    with pytest.raises(ValueError, match="budget is 'huge'; expected one of smoke, laptop, paper"):
        experiment("dninn-st-s25").recipe("huge")
    with pytest.raises(ValueError, match="no model 'DnIN'; known: DnINN, DnCNN"):
        build("DnIN")
    with pytest.raises(ValueError, match="DnINN has no option 'num_scale'; known: shrinkage, num_scales"):
        build("DnINN", num_scale=2)
    assert isinstance(build("DnINN", num_scales=1), DnINN)


MISTAKES = {
    "top": (("recipe",), {}, "unknown key 'recipe'; did you mean 'recipes'"),
    "default": (("defaults", "batchsize"), 4, "defaults: unknown key 'batchsize'; did you mean 'batch_size'"),
    "override": (("recipes", "dninn", "laptop", "stepz"), 4, "recipes.dninn.laptop: unknown key 'stepz'.*'steps'"),
    "budget": (("recipes", "dninn", "huge"), {}, "recipes.dninn: unknown key 'huge'; known: laptop, paper, smoke"),
    "experiment": (("experiments", "dncnn-s25", "modle"), "x", "experiments.dncnn-s25: unknown key 'modle'.*'model'"),
    "recipe": (("experiments", "dncnn-s25", "recipe"), "dncn", "dncnn-s25: no recipe 'dncn'; known: .*dninn"),
    "start": (("experiments", "dncnn-s25", "start"), "nobody", "dncnn-s25: start: no experiment 'nobody'"),
    "sampling": (("defaults", "sampling"), "girded", "sampling is 'girded'; expected one of grid, random"),
    "optimizer": (("defaults", "optimizer"), "sgd", "optimizer is 'sgd'; expected one of adam, muon"),
    "levels": (("defaults", "levels"), "image", "levels is 'image'; expected one of batch, patch"),
    "schedule": (("defaults", "schedule"), "flat", "schedule is 'flat'"),
    "precision": (("defaults", "precision"), "half", "precision is 'half'"),
    "zero": (("defaults", "batch_size"), 0, "batch_size is 0; expected more than 0"),
    "negative": (("recipes", "dninn", "laptop", "lr"), -1.0, "recipes.dninn.laptop: lr is -1.0"),
    "not a number": (("recipes", "dninn", "laptop", "clip"), float("nan"), "laptop: clip is nan; expected 0 or more"),
    "negative clip": (("defaults", "clip"), -1.0, "clip is -1.0; expected 0 or more"),
    "infinite rate": (("defaults", "lr"), float("inf"), "lr is inf; expected more than 0"),
    "final": (("defaults", "final"), 0.0, "final is 0.0; expected more than 0"),
    "validation": (("defaults", "validation"), -1, "validation is -1; expected 0 or more"),
    "milestone": (("recipes", "dninn", "paper", "milestones"), ["a"], r"milestones are \('a',\); expected epochs"),
    "average": (("defaults", "ema"), 1.0, "ema is 1.0; expected 0 <= ema < 1"),
    "rate of a start": (("defaults", "start_ratio"), -0.1, "start_ratio is -0.1; expected 0 or more"),
    "both lengths": (("recipes", "dninn", "paper", "steps"), 9, "recipes.dninn.paper: give either steps or epochs"),
    "no length": (("recipes", "dninn", "laptop"), {}, "recipes.dninn.laptop: give either steps or epochs"),
    "epochs": (("recipes", "dninn", "paper", "sampling"), "random", "epochs count passes over the grid"),
    "text for a number": (("recipes", "dninn", "laptop", "lr"), "1e-3", "laptop: lr is '1e-3'; expected float"),
    "fraction": (("recipes", "dninn", "laptop", "steps"), 7.5, "steps is 7.5; expected int"),
    "number for a switch": (("defaults", "compile"), 1, "compile is 1; expected bool"),
    "one milestone": (("recipes", "dninn", "paper", "milestones"), 20, "recipes.dninn.paper: "),
    "empty recipe": (("recipes", "dninn", "smoke"), None, "recipes.dninn.smoke: expected keys"),
    "noise": (("experiments", "dncnn-s25", "sigma"), "high", "experiments.dncnn-s25: sigma is 'high'"),
    "no noise": (("experiments", "dncnn-s25", "sigma"), 0, "experiments.dncnn-s25: sigma is 0"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_named_with_its_place(name, tmp_path):
    place, value, message = MISTAKES[name]
    tree = copy.deepcopy(REAL)
    branch = tree
    for key in place[:-1]:
        branch = branch[key]
    branch[place[-1]] = value
    with pytest.raises(ValueError, match=rf"experiments-0.yaml: .*{message}"):
        read(tree, tmp_path)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (("experiments", "dncnn-s25", "model"), "experiments.dncnn-s25: missing key 'model'"),
        (("experiments", "dncnn-s25", "sigma"), "experiments.dncnn-s25: missing key 'sigma'"),
        (("defaults", "adam_ratio"), "missing key 'adam_ratio'"),
        (("recipes", "dninn", "paper"), "recipes.dninn: missing key 'paper'"),
        (("defaults",), "missing key 'defaults'"),
    ],
    ids=".".join,
)
def test_a_missing_key_is_named(place, message, tmp_path):
    tree = copy.deepcopy(REAL)
    branch = tree
    for key in place[:-1]:
        branch = branch[key]
    del branch[place[-1]]
    with pytest.raises(ValueError, match=message):
        read(tree, tmp_path)


def test_what_is_not_yaml_is_named(tmp_path):
    with pytest.raises(ValueError, match="experiments-0.yaml is not valid YAML"):
        read("defaults: {", tmp_path)
    with pytest.raises(ValueError, match="experiments-1.yaml: expected keys ablations, defaults, experiments, recipes"):
        read("- a list", tmp_path)


def test_ablations_change_what_they_say_and_nothing_else():
    base = ablations()["ablation-none"].recipe("laptop")
    sizes = {"ablation-fixed-thresholds": 134_656, "ablation-lista": 135_151, "ablation-two-scales": 269_318}
    for name, spec in ablations().items():
        changes = REAL["ablations"]["changes"][name.removeprefix("ablation-")]
        recipe = spec.recipe("laptop")
        differing = {key for key, value in dataclasses.asdict(base).items() if getattr(recipe, key) != value}
        assert differing == changes.keys() - {"options"}
        assert spec.options == {"shrinkage": "soft", **changes.get("options", {})}
        assert spec.build().num_parameters() == sizes.get(name, 134_659)
        pixels = recipe.steps * recipe.batch_size * recipe.patch_size**2
        if name != "ablation-paper":
            assert pixels == pytest.approx(base.steps * base.batch_size * base.patch_size**2, rel=0.02)
    assert not ablations().keys() & experiments().keys()
    assert experiment("ablation-adam").recipe("laptop").optimizer == "adam"


def test_a_wrong_ablation_names_its_place(tmp_path):
    tree = copy.deepcopy(REAL)
    tree["ablations"]["changes"]["adam"]["lr0"] = 1.0
    with pytest.raises(ValueError, match="ablations.changes.adam: unknown key 'lr0'; did you mean 'lr'"):
        read(tree, tmp_path, read_ablations)
    tree = copy.deepcopy(REAL)
    tree["ablations"]["of"] = "dninn"
    with pytest.raises(ValueError, match="ablations: of: no experiment 'dninn'"):
        read(tree, tmp_path, read_ablations)
    del tree["ablations"]
    assert read(tree, tmp_path, read_ablations) == {}


@pytest.mark.parametrize("sigma", [0, -1, 256, "25", [55, 0], [0, 0], [1, 2, 3], [0, "55"], None])
def test_a_wrong_noise_level_is_named(sigma, tmp_path):
    tree = copy.deepcopy(REAL)
    tree["experiments"]["dninn-st-s25"]["sigma"] = sigma
    with pytest.raises(ValueError, match="experiments.dninn-st-s25: sigma is .*; expected grey levels"):
        read(tree, tmp_path)


def test_a_range_of_noise_levels_makes_a_blind_network(tmp_path):
    tree = copy.deepcopy(REAL)
    tree["experiments"]["dncnn-s25"]["sigma"] = [0, 55]
    found = read(tree, tmp_path)
    assert (found["dncnn-s25"].sigma, found["dncnn-s25"].sigmas, found["dncnn-s25"].level) == (None, (0, 55), 27.5)
    assert found["dncnn-s25"].build().sigma is None
    assert (found["dncnn-s50"].sigma, found["dncnn-s50"].sigmas, found["dncnn-s50"].level) == (50, (50, 50), 50)
