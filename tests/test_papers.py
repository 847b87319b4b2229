"""`paper.yaml`: what is read, and that a mistake is named with its place, its value and the nearest name before anything runs."""

from __future__ import annotations

import copy
import re
import subprocess
import sys

import pytest
import yaml

from invdenoise import papers, paths
from invdenoise.papers import BUDGETS, build, read_papers, resolve

STEPS = {"batch_size": 4, "steps": 40}
MADE_UP = {
    "title": "A made-up paper",
    "short": "Made up",
    "order": 2,
    "cite": "nobody",
    "recipes": {
        "plain": {
            "smoke": {"steps": 2, "source": {"set": "embedded-train"}},
            "laptop": {**STEPS, "seed": 7},
            "paper": {"sampling": "grid", "epochs": 5, "milestones": [3], "optimizer": "adam", "schedule": "steps"},
        },
        "other": {budget: STEPS for budget in BUDGETS},
    },
    "networks": {
        "first-s25": {"model": "dncnn.DnCNN", "sigma": 25, "source": {"kind": "batches.WhiteNoise", "set": "bsd400"}, "recipe": "plain"},
        "second-s50": {"model": "dncnn.DnCNN", "sigma": 50, "source": {"kind": "batches.WhiteNoise", "set": "bsd400"}, "recipe": "plain",
                       "start": "first-s25", "options": {"depth": 4}},
        "blind": {"model": "dncnn.BFCNN", "sigma": [0, 55], "source": {"kind": "batches.WhiteNoise", "set": "bsd400", "levels": "patch"},
                  "recipe": "other", "parts": {"estimator": "theirs"}},
        "unlevelled": {"model": "dncnn.DnCNN", "source": {"kind": "batches.Pairs", "set": "sidd-samples"}, "recipe": "other"},
    },
    "ablations": {"of": "first-s25", "common": {"steps": 20}, "changes": {"none": {}, "adam": {"optimizer": "adam"}, "deep": {"options": {"depth": 9}}}},
    "authors": {"theirs": {"file": "weights/theirs.pth", "read": "dncnn.read_authors_weights", "options": {"sigma": 25}}},
    "scores": {
        "table": {"task": "awgn.Denoise", "runs": [{"methods": ["first-s25", "bm3d"], "sets": "bsd68", "conditions": {"sigma": [25]}}]},
        "sweep": {"task": "awgn.Denoise", "runs": [{"methods": "first-s25", "sets": "bsd68", "conditions": {"sigma": [5, 25]}, "split": "sigma"}]},
    },
    "figures": {
        "bars": {"reads": ["table", "made/sweep"], "captions": {"bars.png": "Bars."}},
        "look": {"notebook": "00_tour", "inside": "first-s25"},
    },
    "compare": {
        "Table 1": {"reads": "table", "rows": {"dncnn": {"label": "DnCNN", "ours": {"first": ""}}, "wnnm": {"label": "WNNM"}}},
        "slide 3": {"reads": "table", "rows": "Table 1", "show": False},
    },
    "claims": {"better": {"says": "First is better.", "place": "Section 1", "test": {"paired": [["first", "bm3d"]], "reads": "table", "least": 0}}},
    "bench": [{"measure": "training step", "batch": [1, 1, 8, 8], "sigma": 25, "contenders": [{"label": "A", "model": "dncnn.DnCNN"}]}],
}  # fmt: skip


@pytest.fixture
def read(tmp_path):
    """A function that reads made-up papers from a new folder: `made` with the changes given, and others."""

    def reader(changes=(), remove=(), text=None, **others):
        folder = tmp_path / f"notebooks-{len(list(tmp_path.iterdir()))}"
        tree = copy.deepcopy(MADE_UP)
        for place, value in dict(changes).items():
            _branch(tree, place)[_step(place.split(" > ")[-1])] = value
        for place in remove:
            del _branch(tree, place)[_step(place.split(" > ")[-1])]
        for name, content in {"made": tree, **others}.items():
            (folder / name).mkdir(parents=True)
            written = content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False)
            (folder / name / "paper.yaml").write_text(text if name == "made" and text is not None else written)
        return read_papers(folder)

    return reader


def _step(key: str) -> str | int:
    return int(key) if key.isdigit() else key


def _branch(tree, place: str):
    for key in place.split(" > ")[:-1]:
        tree = tree[_step(key)]
    return tree


def little(**parts) -> dict:
    """A paper that declares nothing else than these parts."""
    return {"title": "Little", "short": "Little", "order": 1, "cite": "nobody", **parts}


def refuses(read, message: str, *arguments, **others) -> None:
    """`message` is what stands after the file's name."""
    with pytest.raises(ValueError) as error:
        read(*arguments, **others)
    assert str(error.value) == f"made/paper.yaml: {message}"


# --- What is read


def test_networks_are_resolved(read):
    made = read()["made"]
    first, second, blind, unlevelled = made.networks.values()
    assert (first.name, first.paper, first.model, first.sigma, first.sigmas) == (
        "first-s25", "made", "dncnn.DnCNN", 25, (25, 25)
    )  # fmt: skip
    assert first.conditions == {"sigma": 25} and blind.conditions == {"sigma": 27.5}
    assert (blind.sigma, blind.sigmas, blind.level, blind.parts) == (None, (0, 55), 27.5, {"estimator": "theirs"})
    assert (unlevelled.sigma, unlevelled.sigmas, unlevelled.conditions) == (None, None, {})
    assert second.options == {"depth": 4}
    assert made.title == "A made-up paper" and list(made.figures) == ["bars", "look"]


def test_a_budget_overrides_the_defaults_and_its_source(read):
    first = read()["made"].networks["first-s25"]
    assert [first.recipe(budget).seed for budget in BUDGETS] == [0, 7, 0]
    assert [first.recipe(budget).batch_size for budget in BUDGETS] == [32, 4, 32]
    assert first.recipe("paper").milestones == (3,)
    assert first.source_options("smoke") == {"set": "embedded-train", "sigma": 25}
    assert first.source_options("laptop") == {"set": "bsd400", "sigma": 25}
    blind = read()["made"].networks["blind"]
    assert blind.source_options("laptop") == {"set": "bsd400", "levels": "patch", "sigma": [0, 55]}


def test_a_start_counts_in_the_laptop_budget_only(read):
    second = read()["made"].networks["second-s50"]
    assert [second.recipe(budget).start for budget in BUDGETS] == [None, "first-s25", None]


def test_rows_may_be_those_of_another_place(read):
    made = read()["made"]
    assert made.rows("slide 3") == made.rows("Table 1") and list(made.rows("slide 3")) == ["dncnn", "wnnm"]


def test_names_of_scores_and_notebooks(read):
    made = read()["made"]
    assert made.score_name("table") == "made/table" and made.score_name("other/table") == "other/table"
    assert made.notebook("bars") == "made/bars" and made.notebook("look") == "00_tour"


def test_papers_come_in_the_order_that_they_declare(read):
    found = read(zebra=little(order=1), ant=little(order=3), bee=little(order=2))
    assert list(found) == ["zebra", "bee", "made", "ant"]  # of equal order by name


def test_networks_are_built_with_their_options_and_noise_level(read):
    second = read()["made"].networks["second-s50"].build()
    assert type(second).__name__ == "DnCNN" and second.sigma == 50
    assert second.num_parameters() < read()["made"].networks["first-s25"].build().num_parameters()
    assert read()["made"].networks["blind"].build().sigma is None
    wrong = read({"networks > second-s50 > options": {"dept": 4}})["made"].networks["second-s50"]
    with pytest.raises(ValueError, match="second-s50: dncnn.DnCNN with .*'dept': 4.* cannot be built: .*'dept'"):
        wrong.build()


def test_ablations_change_what_they_say_and_nothing_else(read):
    found = read()["made"].ablations
    assert list(found) == ["ablation-none", "ablation-adam", "ablation-deep"]
    base = found["ablation-none"].recipe("laptop")
    assert (base.steps, base.seed, base.batch_size) == (20, 7, 4)  # from `common`, and from the network's recipe
    for name, entry in found.items():
        recipe = entry.recipe("laptop").model_dump()
        differing = {key for key, value in base.model_dump().items() if recipe[key] != value}
        assert differing == ({"optimizer"} if name == "ablation-adam" else set())
        assert entry.options == ({"depth": 9} if name == "ablation-deep" else {})
        assert entry.model == "dncnn.DnCNN" and entry.sigma == 25
    with pytest.raises(ValueError, match="budget is 'paper'; expected one of laptop"):
        found["ablation-adam"].recipe("paper")
    assert read(remove=["ablations"])["made"].ablations == {}


def test_ablations_are_trained_once_per_seed(read):
    made = read({"ablations > seeds": [0, 4]})["made"]
    assert list(made.ablations)[:3] == ["ablation-none-seed0", "ablation-none-seed4", "ablation-adam-seed0"]
    assert len(made.ablations) == 6
    assert [entry.recipe("laptop").seed for entry in made.ablations.values()] == [0, 4] * 3
    assert made.ablations["ablation-deep-seed4"].options == {"depth": 9}
    assert made.declared.ablations.runs("adam") == {0: "ablation-adam-seed0", 4: "ablation-adam-seed4"}
    assert read()["made"].declared.ablations.runs("adam") == {None: "ablation-adam"}


def test_options_of_network_common_and_change_are_merged(read):
    change = {
        "networks > first-s25 > options": {"depth": 7, "num_features": 8},
        "ablations > common > options": {"depth": 5, "num_channels": 3},
    }
    found = read(change)["made"].ablations
    assert found["ablation-adam"].options == {"depth": 5, "num_features": 8, "num_channels": 3}
    assert found["ablation-deep"].options == {"depth": 9, "num_features": 8, "num_channels": 3}


def test_one_pair_may_stand_as_a_flat_list(read):
    test = read({"claims > better > test > paired": ["first@x", "bm3d"]})["made"].claims["better"].test
    assert test.paired == (("first@x", "bm3d"),) and test.methods == ("first@x", "bm3d")
    assert [test.rows_of(name) for name in ("first@x", "bm3d", "bm3d@")] == [("first", "x"), ("bm3d", ""), ("bm3d", "")]
    both = read({"claims > better > test > paired": [["a", "b"], ["c", "b"]]})["made"].claims["better"].test
    assert both.paired == (("a", "b"), ("c", "b")) and both.methods == ("a", "b", "c")
    assert both.model_copy(update={"variant": "y"}).rows_of("a") == ("a", "y")


def test_an_ablation_may_count_in_epochs_only_with_its_own_steps_gone(read):
    change = {"ablations > changes > adam": {"epochs": 2, "sampling": "grid"}}
    refuses(read, "ablations.changes.adam: give either steps or epochs", change)


def test_reading_needs_no_pytorch():
    """The graph reads the declarations before each of its runs."""
    code = "import sys; from invdenoise import papers; papers.papers(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": str(paths.ROOT / "lib")}).returncode == 0


# --- Mistakes

RUN = "scores > table > runs > 0"
MISTAKES = {
    # unknown keys, with the nearest
    "top": ({"recipe": {}}, "unknown key 'recipe'; did you mean 'recipes'?"),
    "recipe": ({"recipes > plain > laptop > stepz": 4}, "recipes.plain.laptop: unknown key 'stepz'; did you mean 'steps'?"),
    "budget": ({"recipes > plain > huge": {}}, "recipes.plain: unknown key 'huge'; known: smoke, laptop, paper"),
    "network": ({"networks > blind > modle": "x"}, "networks.blind: unknown key 'modle'; did you mean 'model'?"),
    "ablations": ({"ablations > chnges": {}}, "ablations: unknown key 'chnges'; did you mean 'changes'?"),
    "ablation": ({"ablations > changes > adam > lr0": 1.0}, "ablations.changes.adam: unknown key 'lr0'; did you mean 'lr'?"),
    "authors": ({"authors > theirs > zzz": "x"}, "authors.theirs: unknown key 'zzz'; known: file, read, options, parts, verb"),
    "run": ({f"{RUN} > limt": 2}, "scores.table.runs item 1: unknown key 'limt'; did you mean 'limit'?"),
    "figure": ({"figures > bars > caption": {}}, "figures.bars: unknown key 'caption'; did you mean 'captions'?"),
    "place": ({"compare > Table 1 > rowz": {}}, "compare.Table 1: unknown key 'rowz'; did you mean 'rows'?"),
    "row": ({"compare > Table 1 > rows > wnnm > lable": "x"}, "compare.Table 1.rows.wnnm: unknown key 'lable'; did you mean 'label'?"),
    "claim": ({"claims > better > test > leest": 0}, "claims.better.test: unknown key 'leest'; did you mean 'least'?"),
    "bench": ({"bench > 0 > round": 1}, "bench item 1: unknown key 'round'; did you mean 'rounds'?"),
    "contender": ({"bench > 0 > contenders > 0 > modl": 1}, "bench item 1.contenders item 1: unknown key 'modl'; did you mean 'model'?"),
    "bound": ({"bench > 0 > contenders > 0 > target": {"at_lest": 1.0}},
              "bench item 1.contenders item 1.target: unknown key 'at_lest'; did you mean 'at_least'?"),
    # values of a recipe
    "text": ({"recipes > plain > laptop > lr": "1e-3"}, "recipes.plain.laptop: lr is '1e-3'; expected a number (YAML wants 1.0e-3)"),
    "large": ({"recipes > plain > laptop > clip": "1.5e3"}, "recipes.plain.laptop: clip is '1.5e3'; expected a number (YAML wants 1.5e+3)"),
    "quoted": ({"recipes > plain > laptop > clip": "2"}, "recipes.plain.laptop: clip is '2'; expected a number (YAML wants 2)"),
    "word": ({"recipes > plain > laptop > lr": "fast"}, "recipes.plain.laptop: lr is 'fast'; expected a number"),
    "negative": ({"recipes > plain > laptop > lr": -1.0}, "recipes.plain.laptop: lr is -1.0; expected more than 0"),
    "infinite": ({"recipes > plain > laptop > lr": float("inf")}, "recipes.plain.laptop: lr is inf; expected a finite number"),
    "not a number": ({"recipes > plain > laptop > clip": float("nan")}, "recipes.plain.laptop: clip is nan; expected a finite number"),
    "clip": ({"recipes > plain > laptop > clip": -1.0}, "recipes.plain.laptop: clip is -1.0; expected 0 or more"),
    "final": ({"recipes > plain > laptop > final": 0.0}, "recipes.plain.laptop: final is 0.0; expected more than 0"),
    "zero": ({"recipes > plain > laptop > batch_size": 0}, "recipes.plain.laptop: batch_size is 0; expected more than 0"),
    "validation": ({"recipes > plain > laptop > validation": -1}, "recipes.plain.laptop: validation is -1; expected 0 or more"),
    "average": ({"recipes > plain > laptop > ema": 1.0}, "recipes.plain.laptop: ema is 1.0; expected less than 1"),
    "start ratio": ({"recipes > plain > laptop > start_ratio": -0.1}, "recipes.plain.laptop: start_ratio is -0.1; expected 0 or more"),
    "fraction": ({"recipes > plain > laptop > steps": 7.5}, "recipes.plain.laptop: steps is 7.5; expected a whole number"),
    "switch": ({"recipes > plain > laptop > compile": 1}, "recipes.plain.laptop: compile is 1; expected true or false"),
    "sampling": ({"recipes > plain > laptop > sampling": "girded"}, "recipes.plain.laptop: sampling is 'girded'; expected one of grid, random"),
    "optimizer": ({"recipes > plain > laptop > optimizer": "sgd"}, "recipes.plain.laptop: optimizer is 'sgd'; expected one of adam, muon"),
    "schedule": ({"recipes > plain > laptop > schedule": "flat"}, "recipes.plain.laptop: schedule is 'flat'; expected one of onecycle, steps"),
    "precision": ({"recipes > plain > laptop > precision": "half"},
                  "recipes.plain.laptop: precision is 'half'; expected one of fastest, float32, bfloat16"),
    "milestone": ({"recipes > plain > paper > milestones": [3, "a"]}, "recipes.plain.paper.milestones: item 2 is 'a'; expected a whole number"),
    "no list": ({"recipes > plain > paper > milestones": 20}, "recipes.plain.paper: milestones is 20; expected a list"),
    "both lengths": ({"recipes > plain > paper > steps": 9}, "recipes.plain.paper: give either steps or epochs"),
    "no length": ({"recipes > plain > laptop": {}}, "recipes.plain.laptop: give either steps or epochs"),
    "epochs": ({"recipes > plain > paper > sampling": "random"},
               "recipes.plain.paper: epochs count passes over the grid of patches; use sampling: grid, or give steps"),
    # values elsewhere
    "split": ({f"{RUN} > split": "kernel"}, "scores.table.runs item 1: split is 'kernel'; expected one of the conditions: sigma"),
    "limit": ({f"{RUN} > limit": -1}, "scores.table.runs item 1: limit is -1; expected 0 or more"),
    "order": ({"order": "first"}, "order is 'first'; expected a whole number"),
    "no sentence": ({"claims > better > says": 3}, "claims.better: says is 3; expected text"),
    "undecided": ({"claims > better > test": {"paired": [["a", "b"]], "reads": "table"}},
                  "claims.better.test: give least, most, or both: without a bound nothing is decided"),
    "two tests": ({"claims > better > test > ratio": ["a", "b"]}, "claims.better.test: give either paired or ratio"),
    "one of a pair": ({"claims > better > test > paired": [["a"]]}, "claims.better.test.paired item 1: missing item 2"),
    "three of a pair": ({"claims > better > test > paired": ["a", "b", "c"]},
                        "claims.better.test.paired: item 1 is ('a', 'b', 'c'); expected 2 or fewer items"),
    "no pairs": ({"claims > better > test > paired": 3}, "claims.better.test: paired is 3; expected a list"),
    "half a list of pairs": ({"claims > better > test > paired": ["a", ["b", "c"]]}, "claims.better.test.paired: item 1 is 'a'; expected a list"),
    "one name": ({"claims > better > test > paired": "a"}, "claims.better.test.paired item 1: missing item 2"),
    "itself": ({"claims > better > test > paired": ["a@x", "a@x"]},
               "claims.better.test: 'a@x' is paired with itself; name two methods, or two variants as method@variant"),
    "itself again": ({"claims > better > test > paired": ["a", "a@"]},
                     "claims.better.test: 'a' is paired with itself; name two methods, or two variants as method@variant"),
    "share of a quotient": ({"claims > better > test": {"ratio": ["a", "b"], "reads": "table", "share": True, "least": 0.5}},
                            "claims.better.test: share counts differences; give paired instead of ratio"),
    "share in per cent": ({"claims > better > test": {"paired": ["a", "b"], "reads": "table", "share": True, "least": 50}},
                          "claims.better.test: a bound of the share is 50; expected 0 to 1"),
    "conditions of curves": ({"claims > better > test": {"paired": ["a", "b"], "reads": "ablations", "where": {"sigma": [25]}, "least": 0}},
                             "claims.better.test: where does not go with reads: ablations, whose curves have one value a seed; remove it"),
    "variant of curves": ({"claims > better > test": {"paired": ["a", "b@x"], "reads": "ablations", "least": 0}},
                          "claims.better.test: 'b@x' names a variant, and ablations have none; remove what follows @"),
    "curves without seeds": ({"claims > better > test": {"paired": ["a", "b"], "reads": "ablations", "least": 0}},
                             "claims.better.test.reads: a claim on ablations needs two seeds or more; list them in ablations.seeds"),
    "score called ablations": ({"scores > ablations": MADE_UP["scores"]["table"]},
                               "scores.ablations: claims read curves by this name; choose another name"),
    "seed twice": ({"ablations > seeds": [0, 1, 0]}, "ablations: seeds are 0, 1, 0; list each seed once"),
    "seed of its own": ({"ablations > seeds": [0, 1], "ablations > changes > adam > seed": 3},
                        "ablations: adam has a seed of its own beside seeds; remove one of the two"),
    "wrong seed": ({"ablations > seeds": [0, 1.5]}, "ablations.seeds: item 2 is 1.5; expected a whole number"),
    "negative seed": ({"ablations > seeds": [-1]}, "ablations.seeds: item 1 is -1; expected 0 or more"),
    "no list of seeds": ({"ablations > seeds": 3}, "ablations: seeds is 3; expected a list"),
    "no contender": ({"bench > 0 > contenders": []}, "bench item 1: contenders is []; expected 1 or more items"),
    "empty contender": ({"bench > 0 > contenders > 0": {"label": "A"}},
                        "bench item 1.contenders item 1: contender 'A' has neither model nor method; give one"),
    "two bounds": ({"bench > 0 > contenders > 0 > target": {"at_least": 1.0, "at_most": 2.0}},
                   "bench item 1.contenders item 1: contender 'A' has 2 targets; give one bound"),
    "no level": ({"bench > 0 > sigma": None}, "bench item 1: training step needs sigma, a noise level in grey levels"),
    "no batch": ({"bench > 0 > batch": []}, "bench item 1: training step needs batch, the shape of a batch such as [32, 1, 40, 40]"),
    "nothing varies": ({"bench > 0 > measure": "training memory"},
                       "bench item 1: training memory varies one option of the model, such as {num_pairs: [4, 8]}; others vary none"),
    # names of other sections
    "no recipe": ({"networks > blind > recipe": "othr"}, "networks.blind: no recipe 'othr'; did you mean 'other'?"),
    "no such recipe": ({"networks > blind > recipe": "zzz"}, "networks.blind: no recipe 'zzz'; known: plain, other"),
    "start": ({"networks > second-s50 > start": "frist-s25"}, "networks.second-s50.start: no network 'frist-s25'; did you mean 'first-s25'?"),
    "start of a recipe": ({"recipes > other > paper > start": "zzz"},
                          "networks.blind.start: no network 'zzz'; known: first-s25, second-s50, blind, unlevelled"),
    "circle": ({"networks > first-s25 > start": "second-s50"},
               "networks.first-s25.start goes in a circle: first-s25 -> second-s50 -> first-s25; train one from scratch"),
    "part": ({"networks > blind > parts": {"estimator": "their"}}, "networks.blind.parts.estimator: no network 'their'; did you mean 'theirs'?"),
    "part of authors": ({"authors > theirs > parts": {"estimator": "blnd"}},
                        "authors.theirs.parts.estimator: no network 'blnd'; did you mean 'blind'?"),
    "ablated": ({"ablations > of": "first"}, "ablations.of: no network 'first'; did you mean 'first-s25'?"),
    "read by a figure": ({"figures > bars > reads": ["table", "sweeps"]}, "figures.bars.reads: no score 'sweeps'; did you mean 'sweep'?"),
    "read elsewhere": ({"figures > bars > reads": "made/tabel"}, "figures.bars.reads: no score 'tabel'; did you mean 'table'?"),
    "paper": ({"figures > bars > reads": "mad/table"}, "figures.bars.reads: no paper 'mad'; did you mean 'made'?"),
    "read by a place": ({"compare > Table 1 > reads": "tabel"}, "compare.Table 1.reads: no score 'tabel'; did you mean 'table'?"),
    "read by a claim": ({"claims > better > test > reads": "zzz"}, "claims.better.test.reads: no score 'zzz'; known: table, sweep"),
    "look inside": ({"figures > look > inside": "first-s52"}, "figures.look.inside: no network 'first-s52'; did you mean 'first-s25'?"),
    "rows": ({"compare > slide 3 > rows": "Table I"}, "compare.slide 3.rows: no place 'Table I'; did you mean 'Table 1'?"),
    "rows in a circle": ({"compare > Table 1 > rows": "slide 3"},
                         "compare.Table 1.rows goes in a circle: Table 1 -> slide 3 -> Table 1; list the rows at one"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_named_with_its_place(name, read):
    changes, message = MISTAKES[name]
    refuses(read, message, changes)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("title", "missing key 'title'"),
        ("networks > blind > model", "networks.blind: missing key 'model'"),
        ("networks > blind > source > set", "networks.blind.source: missing key 'set'"),
        ("recipes > plain > paper", "recipes.plain: missing key 'paper'"),
        ("scores > sweep > task", "scores.sweep: missing key 'task'"),
        (f"{RUN} > sets", "scores.table.runs item 1: missing key 'sets'"),
        ("compare > Table 1 > rows > dncnn > label", "compare.Table 1.rows.dncnn: missing key 'label'"),
        ("claims > better > test", "claims.better: missing key 'test'"),
    ],
)
def test_a_missing_key_is_named(place, message, read):
    refuses(read, message, remove=[place])


def test_what_has_no_keys_lists_the_keys_that_it_needs(read):
    keys = "keys title, short, order, cite, about, recipes, networks, ablations, authors, scores, figures, compare, "
    for text, found in {"- a list": "['a list']", "": "None", "word": "'word'"}.items():
        refuses(read, f"found {found}; expected {keys}claims, bench, anchors", text=text)
    steps = "keys source, batch_size, patch_size"
    with pytest.raises(ValueError, match=rf"made/paper.yaml: recipes.plain: smoke is None; expected {steps}"):
        read({"recipes > plain > smoke": None})


@pytest.mark.parametrize("sigma", [0, -1, 256, "25", "high", True, [55, 0], [0, 0], [1, 2, 3], [0, "55"], {}])
def test_a_wrong_noise_level_is_named(sigma, read):
    levels = "expected grey levels, more than 0 and up to 255, or a range such as [0, 55]"
    refuses(read, f"networks.first-s25: sigma is {sigma!r}; {levels}", {"networks > first-s25 > sigma": sigma})


def test_what_is_not_yaml_is_named_in_one_line(read):
    with pytest.raises(ValueError, match=r"^made/paper.yaml is not valid YAML: expected .* \(line 1, column 9\)$"):
        read(text="title: {")


def test_a_key_that_stands_twice_is_refused(read):
    """YAML would take the last and lose the first."""
    text = "title: a\norder: 1\ntitle: b\n"
    with pytest.raises(
        ValueError, match=r"made/paper.yaml is not valid YAML: key 'title' stands twice .line 3, column 1."
    ):
        read(text=text)
    merged = yaml.safe_dump(MADE_UP) + "anchors: {base: &base {a: 1}, same: {<<: *base, a: 2}}\n"  # no repetition
    assert read(text=merged)["made"].anchors["same"] == {"a": 2}


@pytest.mark.parametrize("section", ["networks", "authors"])
def test_a_network_belongs_to_one_paper(section, read):
    name = "first-s25"
    entry = MADE_UP["authors"]["theirs"] if section == "authors" else MADE_UP["networks"][name]
    twice = little(order=1, recipes=MADE_UP["recipes"], **{section: {name: entry}})
    refuses(read, f"{name} is declared by earlier too; choose another name", earlier=twice)


def test_an_ablation_may_not_take_the_name_of_a_network(read):
    change = {"networks > ablation-adam": MADE_UP["networks"]["first-s25"]}
    refuses(read, "ablation-adam is declared by made too; choose another name", change)


def test_scores_and_networks_of_other_papers_can_be_read(read):
    other = little(order=9, figures={"both": {"reads": "made/table", "inside": ["first-s25", "theirs"]}})
    assert read(other=other)["other"].figures["both"].reads == ("made/table",)
    other["figures"]["both"]["reads"] = "made/tabel"
    with pytest.raises(ValueError) as error:
        read(other=other)
    assert str(error.value) == ("other/paper.yaml: figures.both.reads: no score of made 'tabel'; did you mean 'table'?")


# --- Names


def test_unknown_networks_list_the_nearest():
    name = next(iter(papers.networks()))
    with pytest.raises(ValueError, match=rf"no network '{name}x' in notebooks/\*/paper.yaml; did you mean .*{name}"):
        papers.network(f"{name}x")
    with pytest.raises(ValueError, match="budget is 'huge'; expected one of smoke, laptop, paper"):
        papers.network(name).recipe("huge")
    assert papers.network(name) is papers.networks()[name]
    assert papers.network(next(iter(papers.ablations()))).recipe("laptop").steps


def test_declared_names_lead_to_classes_and_functions():
    from invdenoise.models.dncnn import DnCNN, read_authors_weights
    from invdenoise.tasks.awgn import Denoise

    assert resolve("dncnn.DnCNN", "models") is DnCNN
    assert resolve("dncnn.read_authors_weights", "models") is read_authors_weights
    assert resolve("models.dncnn.DnCNN", "tasks") is DnCNN  # a file of another room
    assert resolve("awgn.Denoise", "tasks") is Denoise
    assert isinstance(build("dncnn.DnCNN", depth=3, num_features=2), DnCNN)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("dncnn.DnCN", "invdenoise/models/dncnn.py has no 'DnCN'; did you mean dncnn.DnCNN?"),
        ("dncnn.zzz", "invdenoise/models/dncnn.py has no 'zzz'"),
        ("dncn.DnCNN", "'dncn.DnCNN' names no file; expected file.Name, of a file in lib/invdenoise/models"),
        ("DnCNN", "'DnCNN' names no file; expected file.Name, of a file in lib/invdenoise/models"),
        ("models.dncn.DnCNN", "'models.dncn.DnCNN' names no file; expected file.Name, of a file in lib/invdenoise/models"),
    ],
)  # fmt: skip
def test_a_name_that_leads_nowhere_is_told(name, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        resolve(name, "models")


def test_a_missing_package_is_not_mistaken_for_a_missing_file(tmp_path, monkeypatch):
    """A file that imports what is not installed says so itself."""
    import invdenoise.models

    (tmp_path / "needy.py").write_text("import no_such_package\n")
    monkeypatch.setattr(invdenoise.models, "__path__", [str(tmp_path)])
    with pytest.raises(ModuleNotFoundError, match="no_such_package"):
        resolve("needy.Net", "models")


def test_wrong_options_of_a_model_are_told():
    with pytest.raises(ValueError, match=r"dncnn.DnCNN with \{'dept': 3\} cannot be built: .*'dept'"):
        build("dncnn.DnCNN", dept=3)
