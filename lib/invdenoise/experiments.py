"""`experiments.yaml` as checked objects. A name or key that does not exist stops here, before anything runs."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from invdenoise import paths

BUDGETS = ("smoke", "laptop", "paper")
_POSITIVE = (
    "batch_size", "patch_size", "lr", "adam_ratio", "final", "gamma", "validate_every", "checkpoint_every", "steps", "epochs"
)  # fmt: skip
PRECISIONS = ("fastest", "float32", "bfloat16")


@dataclass(frozen=True)
class Recipe:
    """How one run is trained; the keys are explained at the top of `experiments.yaml`."""

    data: str
    batch_size: int
    patch_size: int
    sampling: str
    augment: bool
    optimizer: str
    lr: float
    adam_ratio: float
    schedule: str
    clip: float
    ema: float
    precision: str
    compile: bool
    validation: int
    validate_every: int
    checkpoint_every: int
    seed: int
    warmup: int = 0
    final: float = 1.0
    steps: int | None = None
    epochs: int | None = None
    milestones: tuple[int, ...] = ()
    gamma: float = 1.0
    start: str | None = None
    start_ratio: float = 1.0
    levels: str = "batch"

    def __post_init__(self):
        for item in dataclasses.fields(self):  # YAML reads 1e-3 as text: it wants 1.0e-3
            value, kinds = getattr(self, item.name), item.type.replace("None", "NoneType").split(" | ")
            if type(value).__name__ not in [kind.split("[")[0] for kind in kinds] + ["int"] * ("float" in kinds):
                raise ValueError(f"{item.name} is {value!r}; expected {item.type}")
        _one_of("sampling", self.sampling, ("grid", "random"))
        _one_of("levels", self.levels, ("batch", "patch"))
        _one_of("optimizer", self.optimizer, ("adam", "muon"))
        _one_of("schedule", self.schedule, ("onecycle", "steps"))
        _one_of("precision", self.precision, PRECISIONS)
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give either steps or epochs")
        if self.epochs is not None and self.sampling != "grid":
            raise ValueError("epochs count passes over the grid of patches; use sampling: grid, or give steps")
        for key in _POSITIVE:
            if (value := getattr(self, key)) is not None and not 0 < value < math.inf:
                raise ValueError(f"{key} is {value}; expected more than 0")
        for key in ("clip", "start_ratio", "validation", "warmup", "seed"):
            if not 0 <= getattr(self, key) < math.inf:
                raise ValueError(f"{key} is {getattr(self, key)}; expected 0 or more")
        for milestone in self.milestones:
            if type(milestone) is not int or milestone < 1:
                raise ValueError(f"milestones are {self.milestones!r}; expected epochs, each 1 or more")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema is {self.ema}; expected 0 <= ema < 1")


_RECIPE_KEYS = {f.name for f in dataclasses.fields(Recipe)}


@dataclass(frozen=True)
class Experiment:
    """One network to train.

    Attributes:
        name: identifier used in every file, card, score and row.
        paper: short name of the paper it belongs to.
        model: class in `invdenoise.models`.
        sigma: noise level in grey levels; None for a network trained on a range of levels.
        sigmas: lowest and highest noise level of training; both `sigma` where there is one.
        options: arguments of the class.
        recipes: budget -> Recipe.
    """

    name: str
    paper: str
    model: str
    sigma: float | None
    sigmas: tuple[float, float]
    recipes: dict[str, Recipe]
    options: dict[str, Any] = field(default_factory=dict)

    def recipe(self, budget: str) -> Recipe:
        """The settings of a budget; ValueError when there is none of that name."""
        _one_of("budget", budget, tuple(self.recipes))
        return self.recipes[budget]

    @property
    def level(self) -> float:
        """The noise level at which it is validated: `sigma`, or the middle of the range."""
        return sum(self.sigmas) / 2

    def build(self):
        """A fresh, untrained network; ValueError naming the experiment when its class cannot take these arguments."""
        from invdenoise import models

        try:
            return models.build(self.model, sigma=self.sigma, **self.options)
        except TypeError as error:
            raise ValueError(
                f"{self.name}: {self.model} with sigma = {self.sigma} and options {self.options} cannot be built: {error}"
            ) from None


def experiment(name: str) -> Experiment:
    """The experiment or ablation of that name; ValueError naming the nearest when there is none."""
    known = experiments() | ablations()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3) or list(known)
        raise ValueError(f"no experiment {name!r} in experiments.yaml; did you mean {', '.join(near)}?")
    return known[name]


def experiments() -> dict[str, Experiment]:
    """Every experiment of the checkout's `experiments.yaml`, in its order."""
    return read_experiments(paths.EXPERIMENTS)


def ablations() -> dict[str, Experiment]:
    """Short trainings that differ in one lever each: `ablation-<change>`, budget laptop only. Their curves are what is kept."""
    return read_ablations(paths.EXPERIMENTS)


@functools.lru_cache
def read_experiments(path: Path) -> dict[str, Experiment]:
    """The experiments declared in the file `path`.

    Raises:
        ValueError: a key, recipe or value that is unknown or missing; names file, place and value. Models and their
            options are checked by `Experiment.build`, so that reading the file does not import PyTorch.
    """
    try:
        tree = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"{path.name} is not valid YAML: {error}") from None
    _keys(tree, {"defaults", "recipes", "experiments", "ablations"}, path.name, optional={"ablations"})
    _keys(tree["defaults"], _RECIPE_KEYS, f"{path.name}: defaults", optional=_RECIPE_KEYS)
    recipes = {
        family: _read_recipes(budgets, tree["defaults"], f"{path.name}: recipes.{family}")
        for family, budgets in tree["recipes"].items()
    }
    found = {}
    for name, entry in tree["experiments"].items():
        place = f"{path.name}: experiments.{name}"
        _keys(entry, {"paper", "model", "sigma", "recipe", "options", "start"}, place, optional={"options", "start"})
        if entry["recipe"] not in recipes:
            raise ValueError(f"{place}: no recipe {entry['recipe']!r}; known: {', '.join(recipes)}")
        sigmas = _read_sigmas(entry["sigma"], place)
        budgets = recipes[entry["recipe"]]
        if "start" in entry:  # the paper trains from scratch, and a smoke run has nothing to start from
            budgets = {**budgets, "laptop": dataclasses.replace(budgets["laptop"], start=entry["start"])}
        sigma = sigmas[0] if sigmas[0] == sigmas[1] else None
        found[name] = Experiment(name, entry["paper"], entry["model"], sigma, sigmas, budgets, entry.get("options", {}))
    for entry in found.values():
        for recipe in entry.recipes.values():
            if recipe.start and recipe.start not in found:
                raise ValueError(f"{path.name}: experiments.{entry.name}: start: no experiment {recipe.start!r}")
    return found


@functools.lru_cache
def read_ablations(path: Path) -> dict[str, Experiment]:
    """The ablations declared in the file `path`; ValueError as `read_experiments`, for keys of recipes and for the network's name."""
    place, known = f"{path.name}: ablations", read_experiments(path)
    tree = yaml.safe_load(path.read_text()).get("ablations")
    if tree is None:
        return {}
    _keys(tree, {"of", "common", "changes"}, place)
    if tree["of"] not in known:
        raise ValueError(f"{place}: of: no experiment {tree['of']!r}")
    base, found = known[tree["of"]], {}
    for change, overrides in tree["changes"].items():
        where = f"{place}.changes.{change}"
        _keys(overrides, _RECIPE_KEYS | {"options"}, where, optional=_RECIPE_KEYS | {"options"})
        settings = {**tree["common"], **overrides}
        options = {**base.options, **settings.pop("options", {})}
        try:
            recipe = dataclasses.replace(base.recipe("laptop"), **settings)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{where}: {error}") from None
        name = f"ablation-{change}"
        found[name] = dataclasses.replace(base, name=name, options=options, recipes={"laptop": recipe})
    return found


def _read_recipes(budgets: dict, defaults: dict, place: str) -> dict[str, Recipe]:
    optional = {f.name for f in dataclasses.fields(Recipe) if f.default is not dataclasses.MISSING}
    _keys(budgets, set(BUDGETS), place)
    recipes = {}
    for budget, overrides in budgets.items():
        _keys(overrides, _RECIPE_KEYS, f"{place}.{budget}", optional=_RECIPE_KEYS)
        settings = {**defaults, **overrides}
        _keys(settings, _RECIPE_KEYS, f"{place}.{budget}", optional=optional)
        try:
            settings["milestones"] = tuple(settings.get("milestones", ()))
            recipes[budget] = Recipe(**settings)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{place}.{budget}: {error}") from None
    return recipes


def _read_sigmas(sigma: Any, place: str) -> tuple[float, float]:
    """Lowest and highest noise level of `sigma: 25` or `sigma: [0, 55]`."""
    ends = sigma if isinstance(sigma, list) else [sigma, sigma]
    numbers = len(ends) == 2 and all(type(end) in (int, float) for end in ends)
    if not numbers or not 0 <= ends[0] <= ends[1] <= 255 or ends[1] == 0:
        raise ValueError(
            f"{place}: sigma is {sigma!r}; expected grey levels, more than 0 and up to 255, or a range such as [0, 55]"
        )
    return float(ends[0]), float(ends[1])


def _keys(found: Any, allowed: set[str], place: str, optional: set[str] = frozenset()) -> None:
    if not isinstance(found, dict):
        raise ValueError(f"{place}: expected keys {', '.join(sorted(allowed))}, found {found!r}")
    if unknown := sorted(set(found) - allowed):
        near = difflib.get_close_matches(unknown[0], allowed, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(sorted(allowed))}"
        raise ValueError(f"{place}: unknown key {unknown[0]!r}{hint}")
    if missing := sorted(allowed - optional - set(found)):
        raise ValueError(f"{place}: missing key {missing[0]!r}")


def _one_of(key: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{key} is {value!r}; expected one of {', '.join(allowed)}")
