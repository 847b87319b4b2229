"""`notebooks/<paper>/paper.yaml` as checked objects: all that shared code knows of a paper.

Reading needs no PyTorch, so that the graph starts fast. A name or key that does not exist stops here, before anything runs.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import math
import re
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from invdenoise import paths

BUDGETS = ("smoke", "laptop", "paper")
RELEASED = "released"  # not a budget of training: the weights that come with the repository
FILE = "paper.yaml"
ABLATIONS = "ablations"  # as what a claim reads: curves of the paper's ablations instead of a score

Positive = Annotated[float, Field(gt=0, lt=math.inf)]
NotNegative = Annotated[float, Field(ge=0, lt=math.inf)]


def _as_tuple(value: Any) -> Any:
    """YAML has lists only; one value alone counts as a list of one."""
    if isinstance(value, list):
        return tuple(_as_tuple(item) if isinstance(item, list) else item for item in value)
    return (value,) if isinstance(value, str) else value


Listed = BeforeValidator(_as_tuple)
Several = Annotated[tuple[str, ...], Listed]


class Declared(BaseModel):
    """What all parts of a declaration share: unknown keys are refused, values keep their type, nothing changes later."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


# --- Training


class Recipe(Declared):
    """How one run is trained. A budget overrides the defaults below.

    Attributes:
        source: options of the network's source that this budget changes, such as another set of pictures.
        batch_size, patch_size: a batch is `batch_size` patches, `patch_size` pixels a side.
        sampling: "grid" is the stride-10 grid of patches, shuffled every epoch; "random" takes any position.
        augment: true turns and flips each patch in one of eight ways, "flip" only flips it, false leaves it.
        optimizer: "adam", or "muon" on convolution kernels with Adam on the rest, at `lr * adam_ratio`.
        schedule: "onecycle" is a linear warm-up, then a cosine to `lr * final`; "steps" multiplies by `gamma` at each milestone (epochs).
        start: network whose trained weights are the start; `start_ratio` is their learning rate as a fraction of `lr`.
        lr_factors: pattern of parameter names ("estimator.*") -> their learning rate as a fraction of `lr`; 0 freezes them.
            `*` stands for any part of a name. Factors of all patterns that match, and `start_ratio`, are multiplied.
        clip: largest norm of the gradient; 0 leaves it alone.
        skip_above: a step whose gradient has a larger norm is left out and counted, as one that is not finite; 0 leaves none out. It is for
            networks that run backwards, where a few batches explode and what they teach is wrong in any length.
        ema: decay of the averaged weights, which are the ones kept; 0 keeps the last.
        precision: of activations (weights stay float32): "float32", "bfloat16", or "fastest", see `kernels.resolve_precision`.
        compile: use a kernel of our own or torch.compile where there is one.
        validation: pictures (of pairs: scenes) held out of training, on which runs are compared; never a test set.
        validate_every, checkpoint_every: in steps.
        steps, epochs: length, one of the two; an epoch is one pass over the grid.
    """

    source: dict[str, Any] = {}
    batch_size: int = Field(32, gt=0)
    patch_size: int = Field(40, gt=0)
    sampling: Literal["grid", "random"] = "random"
    augment: bool | Literal["flip"] = True
    optimizer: Literal["adam", "muon"] = "muon"
    lr: Positive = 3.0e-3
    adam_ratio: Positive = 0.5
    schedule: Literal["onecycle", "steps"] = "onecycle"
    warmup: int = Field(200, ge=0)
    final: Positive = 0.002
    milestones: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Listed] = ()
    gamma: Positive = 1.0
    start: str | None = None
    start_ratio: NotNegative = 1.0
    lr_factors: dict[str, NotNegative] = {}
    clip: NotNegative = 0.05
    skip_above: NotNegative = 0.0
    ema: float = Field(0.998, ge=0, lt=1)
    precision: Literal["fastest", "float32", "bfloat16"] = "fastest"
    compile: bool = True
    validation: int = Field(20, ge=0)
    validate_every: int = Field(500, gt=0)
    checkpoint_every: int = Field(250, gt=0)
    seed: int = Field(0, ge=0)
    steps: int | None = Field(None, gt=0)
    epochs: float | None = Field(None, gt=0, lt=math.inf)

    @model_validator(mode="after")
    def _one_length(self):
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give either steps or epochs")
        if self.epochs is not None and self.sampling != "grid":
            raise ValueError("epochs count passes over the grid of patches; use sampling: grid, or give steps")
        return self


class Recipes(Declared):
    """A recipe for each budget."""

    smoke: Recipe
    laptop: Recipe
    paper: Recipe


class SourceOf(BaseModel):
    """What a network is trained on: `kind` names the class (`batches.WhiteNoise`), further keys are its options."""

    model_config = ConfigDict(extra="allow", frozen=True)
    kind: str
    set: str

    @property
    def options(self) -> dict[str, Any]:
        return {"set": self.set, **(self.model_extra or {})}


class NetworkEntry(Declared):
    """A network to train, as declared."""

    model: str
    options: dict[str, Any] = {}
    sigma: float | tuple[float, float] | None = None
    source: SourceOf
    task: str | None = None
    recipe: str
    start: str | None = None
    parts: dict[str, str] = {}

    @model_validator(mode="before")
    @classmethod
    def _grey_levels(cls, entry: Any):
        if not isinstance(entry, dict) or entry.get("sigma") is None:
            return entry
        sigma = entry["sigma"]
        ends = sigma if isinstance(sigma, list | tuple) else [sigma, sigma]
        if len(ends) != 2 or any(type(end) not in (int, float) for end in ends) or not _are_levels(*ends):
            raise ValueError(
                f"sigma is {sigma!r}; expected grey levels, more than 0 and up to 255, or a range such as [0, 55]"
            )
        return {**entry, "sigma": tuple(ends) if isinstance(sigma, list) else sigma}


def _are_levels(lowest: float, highest: float) -> bool:
    return 0 <= lowest <= highest <= 255 and highest > 0


class Network:
    """A network to train, with everything resolved.

    Attributes:
        name: identifier used in every file, card, score and row.
        paper: short name of the paper it belongs to.
        model: class, as `file.Class` below `invdenoise.models`.
        options: arguments of the class, without `sigma`.
        sigma: noise level in grey levels; None for a range of levels, or for a network that knows none.
        sigmas: lowest and highest level of training; None where there is none.
        source: kind and options of what it is trained on.
        task: task whose first metric validates it; None for no validation.
        recipes: budget -> Recipe.
        parts: attributes that are trained networks of their own, such as an estimator of the noise level.
    """

    def __init__(self, name: str, paper: str, entry: NetworkEntry, recipes: dict[str, Recipe]):
        self.name, self.paper, self.model, self.options = name, paper, entry.model, entry.options
        self.source, self.task, self.parts, self.recipes = entry.source, entry.task, entry.parts, recipes
        self.knows_sigma = entry.sigma is not None
        ends = entry.sigma if isinstance(entry.sigma, tuple) else (entry.sigma, entry.sigma)
        self.sigmas = tuple(float(end) for end in ends) if self.knows_sigma else None
        self.sigma = self.sigmas[0] if self.knows_sigma and self.sigmas[0] == self.sigmas[1] else None

    def recipe(self, budget: str) -> Recipe:
        """The settings of a budget; ValueError when there is none of that name."""
        if budget not in self.recipes:
            raise ValueError(f"budget is {budget!r}; expected one of {', '.join(self.recipes)}")
        return self.recipes[budget]

    @property
    def conditions(self) -> dict[str, float]:
        """Conditions of its task at which it is validated: the noise level, or the middle of the range."""
        return {"sigma": self.level} if self.knows_sigma else {}

    @property
    def level(self) -> float:
        """The noise level in grey levels, or the middle of the range."""
        return sum(self.sigmas) / 2

    def source_options(self, budget: str) -> dict[str, Any]:
        """Options of the source for a budget."""
        level = {} if not self.knows_sigma else {"sigma": self.sigma if self.sigma is not None else list(self.sigmas)}
        return {**self.source.options, **level, **self.recipe(budget).source}

    def build(self):
        """A fresh, untrained network; ValueError naming it when its class cannot take these arguments."""
        options = {**self.options, **({"sigma": self.sigma} if self.knows_sigma else {})}
        try:
            return resolve(self.model, "models")(**options)
        except TypeError as error:
            raise ValueError(f"{self.name}: {self.model} with {options} cannot be built: {error}") from None


class Ablations(Declared):
    """Short trainings of one network that differ in one setting each: `<prefix>-<change>`, budget laptop only.

    Attributes:
        of: the network.
        prefix: of the names.
        seeds: each change is trained once per seed, as `<prefix>-<change>-seed<seed>`; empty trains it once, without a suffix.
        common: settings of the recipe, for all changes.
        changes: name -> settings of the recipe. `options` of the network are merged: the network's, the common ones, then the change's.
    """

    of: str
    prefix: str = "ablation"
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Listed] = ()
    common: dict[str, Any]
    changes: dict[str, dict[str, Any]]

    @model_validator(mode="after")
    def _one_source_of_seeds(self):
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds are {', '.join(map(str, self.seeds))}; list each seed once")
        own = [name for name, settings in {"common": self.common, **self.changes}.items() if "seed" in settings]
        if self.seeds and own:
            raise ValueError(f"{own[0]} has a seed of its own beside seeds; remove one of the two")
        return self

    def runs(self, change: str) -> dict[int | None, str]:
        """Names of a change's trainings by seed; the only seed is None where `seeds` is empty."""
        name = f"{self.prefix}-{change}"
        return {seed: f"{name}-seed{seed}" for seed in self.seeds} or {None: name}


class Authors(Declared):
    """Weights that others trained.

    Attributes:
        file: item of dataset `weights`.
        read: function below `invdenoise.models` that makes the network from the file.
        options: its further arguments; `sigma` among them is the noise level of training.
        parts: see `Network`.
    """

    file: str
    read: str
    options: dict[str, Any] = {}
    parts: dict[str, str] = {}
    verb: str = "denoise"

    @property
    def sigma(self) -> float | None:
        """Noise level of training in grey levels; None for a blind network."""
        return self.options.get("sigma")


# --- Scores, figures


class Runs(Declared):
    """Methods, each on every one of the sets under these conditions: a job each.

    Attributes:
        methods, sets: names.
        conditions: key of the task -> values; "trained" stands for the noise level of a network's training.
        options: passed to the method's verb; `variant` is their label in the rows.
        settings: arguments of the task.
        limit: number of pictures, the first in order; 0 takes all.
        precision: of a network's activations.
        split: a condition; each of its values becomes a job of its own, which several cores share.
    """

    methods: Several
    sets: Several
    conditions: dict[str, Any] = {}
    options: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    variant: str = ""
    limit: int = Field(0, ge=0)
    precision: Literal["fastest", "float32", "bfloat16"] = "fastest"
    split: str | None = None

    @model_validator(mode="after")
    def _splits_a_condition(self):
        if self.split is not None and self.split not in self.conditions:
            raise ValueError(f"split is {self.split!r}; expected one of the conditions: {', '.join(self.conditions)}")
        return self


class Score(Declared):
    """Score files of one task. `smoke` replaces `runs` in a smoke run."""

    task: str
    runs: Annotated[tuple[Runs, ...], Listed]
    smoke: Annotated[tuple[Runs, ...], Listed] = ()


class Figure(Declared):
    """A notebook that draws.

    Attributes:
        notebook: path below `notebooks/`, without suffix; default `<paper>/<name>`.
        reads: scores, of this paper or as "paper/score".
        inside: networks whose weights it opens; it then has a parameter `budget`.
        curves: whether it also reads curves of ablations and measurements of speed.
        parameters: of the notebook; `smoke` overrides them in a smoke run.
        captions: file below `figures/` -> its caption in the report.
    """

    notebook: str | None = None
    reads: Several = ()
    inside: Several = ()
    curves: bool = False
    parameters: dict[str, Any] = {}
    smoke: dict[str, Any] = {}
    captions: dict[str, str] = {}


# --- Printed numbers and claims


class Explanation(Declared):
    """Why some of our numbers exceed the printed ones.

    Attributes:
        of: one of the row's `ours`.
        where: printed column ("sigma", "dataset") -> values that it is about; all when missing.
        says: the reason, or what was tried to find one.
    """

    of: str
    where: dict[Literal["dataset", "sigma", "metric"], list[Any]] = {}
    says: str


class Row(Declared):
    """A printed method beside ours.

    Attributes:
        label: what to print.
        ours: our methods, without noise level -> what to add to the label in brackets ("authors' weights"). The first one counts.
        explain: reasons for numbers that exceed the print. One without a reason is shown as unexplained.
    """

    label: str
    ours: dict[str, str] = {}
    explain: Annotated[tuple[Explanation, ...], Listed] = ()

    @model_validator(mode="after")
    def _explains_its_own(self):
        for entry in self.explain:
            if entry.of not in self.ours:
                raise ValueError(f"explain is of {entry.of!r}; expected one of ours: {', '.join(self.ours) or 'none'}")
        return self


class Conventions(Declared):
    """How a printed number may have been measured, where that changes it.

    Attributes:
        judged: convention of the place's `variant`, in a few words: verdicts are on these numbers.
        others: variant of our results -> its convention. They are shown beside, and not counted.
        known: what is known of the paper's own convention.
    """

    judged: str
    others: dict[str, str] = Field(min_length=1)
    known: str


class Place(Declared):
    """Printed numbers of one table, beside ours.

    Attributes:
        title: what to print above.
        metric: whose numbers; the rest of the place is compared, but not in this table.
        reads: scores that ours are taken from.
        across: condition that makes the columns.
        by: condition or "dataset" that makes a table of its own for each value.
        where: condition or "dataset" -> values: only our results at these belong to a printed number; all when missing.
        sets: printed set -> the set of `data/sources.yaml` that it is, where the names differ ("celeba" -> "celeba-test").
        variant: of our results; the one that is judged.
        conventions: other variants that differ in how the number is measured.
        rows: printed method -> ours; or the name of another place that has the same rows.
        show: whether the report shows the table; False for one that repeats another.
        note: a sentence below the table.
    """

    title: str = ""
    metric: str = "psnr"
    reads: Several
    across: str = "sigma"
    by: str | None = None
    where: dict[str, list[Any]] = {}
    sets: dict[str, str] = {}
    variant: str = ""
    conventions: Conventions | None = None
    rows: dict[str, Row] | str
    show: bool = True
    note: str = ""

    @model_validator(mode="after")
    def _judges_one_variant(self):
        if self.conventions is not None and self.variant in self.conventions.others:
            raise ValueError(f"variant {self.variant!r} is judged; conventions.others lists the ones that are not")
        return self


def _as_pairs(value: Any) -> Any:
    """A flat list of names is one pair."""
    found = _as_tuple(value)
    flat = isinstance(found, tuple) and found and all(isinstance(item, str) for item in found)
    return (found,) if flat else found


class Test(Declared):
    """How a claim is decided: from differences `first - second` over pictures or seeds, or from a quotient.

    Attributes:
        paired: pairs of our methods, without noise level; the claim is about the mean of their differences. "method@variant" takes
            the method's rows of that variant. One pair may stand as a flat list.
        ratio: two methods, named likewise: a quotient of `metric`, known exactly.
        reads: score. "ablations" reads the training curves of the paper's ablations: methods are changes, and each seed has one
            value, the last validation.
        metric: of the score.
        where: condition or "dataset" -> values that count; all when missing.
        variant: of the rows of methods that name none.
        share: the statistic is the share of pictures whose difference is above 0, instead of the mean difference.
        least, most: bounds of the statistic. The claim holds when the whole interval lies within, and does not when it lies outside.
        every: the claim is about each pair under each condition, not about the mean.
    """

    paired: Annotated[tuple[tuple[str, str], ...], BeforeValidator(_as_pairs)] = ()
    ratio: Annotated[tuple[str, str] | None, Listed] = None
    reads: str
    metric: str = "psnr"
    where: dict[str, list[Any]] = {}
    variant: str = ""
    share: bool = False
    least: float | None = None
    most: float | None = None
    every: bool = False

    @model_validator(mode="after")
    def _can_decide(self):
        if bool(self.paired) == (self.ratio is not None):
            raise ValueError("give either paired or ratio")
        bounds = [bound for bound in (self.least, self.most) if bound is not None]
        if not bounds:
            raise ValueError("give least, most, or both: without a bound nothing is decided")
        if self.share and self.ratio is not None:
            raise ValueError("share counts differences; give paired instead of ratio")
        if self.share and (bad := [bound for bound in bounds if not 0 <= bound <= 1]):
            raise ValueError(f"a bound of the share is {bad[0]:g}; expected 0 to 1")
        if same := [first for first, second in self.paired if self.rows_of(first) == self.rows_of(second)]:
            raise ValueError(f"{same[0]!r} is paired with itself; name two methods, or two variants as method@variant")
        if self.reads == ABLATIONS:
            self._can_read_curves()
        return self

    def _can_read_curves(self) -> None:
        for key in ("ratio", "where", "variant"):
            if getattr(self, key):
                raise ValueError(
                    f"{key} does not go with reads: {ABLATIONS}, whose curves have one value a seed; remove it"
                )
        if named := [name for name in self.methods if "@" in name]:
            raise ValueError(f"{named[0]!r} names a variant, and {ABLATIONS} have none; remove what follows @")

    @property
    def methods(self) -> tuple[str, ...]:
        """Every method as it is declared, once."""
        return tuple(dict.fromkeys(name for pair in (*self.paired, *filter(None, [self.ratio])) for name in pair))

    def rows_of(self, name: str) -> tuple[str, str]:
        """Method and variant of a declared "method" or "method@variant"."""
        method, at, variant = name.partition("@")
        return method, variant if at else self.variant


class Claim(Declared):
    """A sentence of the paper about results, in our words, and what decides it."""

    says: str
    place: str
    test: Test
    note: str = ""


class Contender(Declared):
    """One side of a measurement of speed or memory.

    Attributes:
        label: what to print; one label may run in several settings.
        setting: "fastest", or "eager" for PyTorch operation by operation; "as it is" for a method that is no network.
        model: fresh network, as `file.Class`; `options` are its arguments.
        method: a name of `load_denoiser` instead, where its weights count.
        target: bound of the ratio to the reference, such as {at_least: 5}.
        psnr_change: largest change of PSNR in dB that the fast setting may make.
    """

    label: str
    setting: Literal["fastest", "eager", "as it is"] = "fastest"
    model: str | None = None
    options: dict[str, Any] = {}
    method: str | None = None
    target: dict[Literal["at_least", "at_most", "below"], float] = {}
    psnr_change: float | None = None

    @model_validator(mode="after")
    def _can_be_made(self):
        if self.model is None and self.method is None:
            raise ValueError(f"contender {self.label!r} has neither model nor method; give one")
        if len(self.target) > 1:
            raise ValueError(f"contender {self.label!r} has {len(self.target)} targets; give one bound")
        return self


class Bench(Declared):
    """Contenders that take turns in one measurement; ratios are to the first.

    Attributes:
        measure: what is measured.
        rounds: how often everyone takes a turn.
        batch: shape of a training batch `(B, C, H, W)`, or of a picture.
        sigma: noise level in grey levels.
        set, limit: pictures of an inference, instead of noise of shape `batch`.
        vary: for memory, option of the model -> its values.
    """

    measure: Literal["training step", "inference", "training memory", "inference memory"]
    contenders: Annotated[tuple[Contender, ...], Listed, Field(min_length=1)]
    rounds: int = Field(3, gt=0)
    batch: list[int] = []
    sigma: float | None = None
    set: str | None = None
    limit: int = Field(0, ge=0)
    vary: dict[str, list[Any]] = {}

    @model_validator(mode="after")
    def _can_be_measured(self):
        if self.sigma is None:
            raise ValueError(f"{self.measure} needs sigma, a noise level in grey levels")
        if not self.batch and self.set is None:
            raise ValueError(f"{self.measure} needs batch, the shape of a batch such as [32, 1, 40, 40]")
        if (self.measure == "training memory") != (len(self.vary) == 1):
            raise ValueError(
                "training memory varies one option of the model, such as {num_pairs: [4, 8]}; others vary none"
            )
        names = [one.label if self.vary else f"{one.label}, {one.setting}" for one in self.contenders]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"{self.measure} has two contenders {twice[0]!r}; give each a label of its own")
        return self


class PaperFile(Declared):
    """The whole of a `paper.yaml`."""

    title: str
    short: str
    order: int
    cite: str
    about: str = ""
    recipes: dict[str, Recipes] = {}
    networks: dict[str, NetworkEntry] = {}
    ablations: Ablations | None = None
    authors: dict[str, Authors] = {}
    scores: dict[str, Score] = {}
    figures: dict[str, Figure] = {}
    compare: dict[str, Place] = {}
    claims: dict[str, Claim] = {}
    bench: Annotated[tuple[Bench, ...], Listed] = ()
    anchors: Any = None  # a place for YAML anchors; not read


class Paper:
    """A paper as declared, with its networks resolved. Other attributes are those of `PaperFile`."""

    def __init__(self, name: str, declared: PaperFile):
        self.name, self.declared = name, declared
        place = f"{name}/{FILE}"
        families = {
            family: {budget: getattr(recipes, budget) for budget in BUDGETS}
            for family, recipes in declared.recipes.items()
        }
        self.networks: dict[str, Network] = {}
        for network, entry in declared.networks.items():
            where = f"{place}: networks.{network}"
            recipes = families[_known(entry.recipe, families, where, "recipe")]
            if entry.start is not None:  # the paper trains from scratch, and a smoke run has nothing to start from
                recipes = {**recipes, "laptop": recipes["laptop"].model_copy(update={"start": entry.start})}
            self.networks[network] = Network(network, name, entry, recipes)
        self.ablations = self._read_ablations(place)
        self._check_references(place)

    def __getattr__(self, key: str):
        return getattr(self.__dict__["declared"], key)

    def _read_ablations(self, place: str) -> dict[str, Network]:
        declared = self.declared.ablations
        if declared is None:
            return {}
        base = self.networks[_known(declared.of, self.networks, f"{place}: ablations.of", "network")]
        entry = self.declared.networks[declared.of]
        found = {}
        for change, overrides in declared.changes.items():
            where = f"{place}: ablations.changes.{change}"
            settings = {**base.recipe("laptop").model_dump(exclude_unset=True), **declared.common, **overrides}
            settings.pop("options", None)
            options = {**base.options, **declared.common.get("options", {}), **overrides.get("options", {})}
            changed = entry.model_copy(update={"options": options})
            for seed, name in declared.runs(change).items():
                recipe = checked(Recipe, settings if seed is None else {**settings, "seed": seed}, where)
                found[name] = Network(name, self.name, changed, {"laptop": recipe})
        return found

    def _check_references(self, place: str) -> None:
        """Names of one section that stand in another section of the same file."""
        trained = {**self.networks, **self.authors}
        if ABLATIONS in self.scores:
            raise ValueError(f"{place}: scores.{ABLATIONS}: claims read curves by this name; choose another name")
        for name, network in self.networks.items():
            for recipe in network.recipes.values():
                if recipe.start is not None:
                    _known(recipe.start, self.networks, f"{place}: networks.{name}.start", "network")
            for attribute, part in network.parts.items():
                _known(part, trained, f"{place}: networks.{name}.parts.{attribute}", "network")
        for author, entry in self.authors.items():
            for attribute, part in entry.parts.items():
                _known(part, trained, f"{place}: authors.{author}.parts.{attribute}", "network")
        for where, compared in self.compare.items():
            if isinstance(compared.rows, str):
                _known(compared.rows, self.compare, f"{place}: compare.{where}.rows", "place")
        starts = {name: network.recipe("laptop").start for name, network in self.networks.items()}
        if way := _circle(starts):
            raise ValueError(
                f"{place}: networks.{way[0]}.start goes in a circle: {' -> '.join(way)}; train one from scratch"
            )
        same = {name: entry.rows if isinstance(entry.rows, str) else None for name, entry in self.compare.items()}
        if way := _circle(same):
            raise ValueError(
                f"{place}: compare.{way[0]}.rows goes in a circle: {' -> '.join(way)}; list the rows at one"
            )

    def rows(self, place: str) -> dict[str, Row]:
        """Rows of a place of `compare`, its own or those of the place that it names."""
        rows = self.compare[place].rows
        return self.rows(rows) if isinstance(rows, str) else rows

    def score_name(self, score: str) -> str:
        """A score as "paper/score"."""
        return score if "/" in score else f"{self.name}/{score}"

    def notebook(self, figure: str) -> str:
        """A figure's notebook below `notebooks/`, without suffix."""
        return self.figures[figure].notebook or f"{self.name}/{figure}"


# --- Reading


def papers() -> dict[str, Paper]:
    """Every paper of the checkout by its short name, in the order that the papers declare."""
    return read_papers(paths.NOTEBOOKS)


@functools.lru_cache
def read_papers(folder: Path) -> dict[str, Paper]:
    """The papers declared in `<folder>/*/paper.yaml`.

    Raises:
        ValueError: a key, name or value that is unknown or missing; names file, place and value. Models and their options
            are checked by `Network.build`, so that reading does not import PyTorch.
    """
    found = {}
    for file in sorted(folder.glob(f"*/{FILE}")):
        place = f"{file.parent.name}/{FILE}"
        try:
            tree = yaml.load(file.read_text(encoding="utf-8"), _Loader)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark
            raise ValueError(
                f"{place} is not valid YAML: {error.problem} (line {mark.line + 1}, column {mark.column + 1})"
            ) from None
        except yaml.YAMLError as error:  # such as a character that no text may have
            raise ValueError(f"{place} is not valid YAML: {' '.join(str(error).split())}") from None
        found[file.parent.name] = Paper(file.parent.name, checked(PaperFile, tree, place))
    ordered = dict(sorted(found.items(), key=lambda item: (item[1].order, item[0])))
    owners: dict[str, str] = {}
    for name, paper in ordered.items():
        named = {
            "network": (*paper.networks, *paper.ablations, *paper.authors),
            "score": paper.scores,
            "figure": paper.figures,
        }
        for what, names in named.items():
            for one in names:
                paths.plain_name(one, f"{name}/{FILE}: the name of a {what}")
        for method in named["network"]:
            if method in owners:
                raise ValueError(f"{name}/{FILE}: {method} is declared by {owners[method]} too; choose another name")
            owners[method] = name
    for paper in ordered.values():
        _check_shared(paper, ordered, owners)
    return ordered


def _check_shared(paper: Paper, known: dict[str, Paper], methods: dict[str, str]) -> None:
    """Names of a paper's sections that may belong to another paper: scores, and networks to look into."""
    place = f"{paper.name}/{FILE}"
    reads = [(f"figures.{name}.reads", score) for name, entry in paper.figures.items() for score in entry.reads]
    reads += [(f"compare.{name}.reads", score) for name, entry in paper.compare.items() for score in entry.reads]
    for name, entry in paper.claims.items():
        where = f"claims.{name}.test.reads"
        if entry.test.reads != ABLATIONS:
            reads.append((where, entry.test.reads))
        elif paper.declared.ablations is None or len(paper.declared.ablations.seeds) < 2:
            raise ValueError(
                f"{place}: {where}: a claim on {ABLATIONS} needs two seeds or more; list them in ablations.seeds"
            )
    for where, score in reads:
        other, _, own = paper.score_name(score).partition("/")
        _known(other, known, f"{place}: {where}", "paper")
        _known(own, known[other].scores, f"{place}: {where}", "score" if other == paper.name else f"score of {other}")
    for name, entry in paper.figures.items():
        for network in entry.inside:
            _known(network, methods, f"{place}: figures.{name}.inside", "network")


class _Loader(yaml.SafeLoader):
    """YAML in which no key may stand twice: of two networks of one name the first would silently be lost."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key in [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]:
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"key {key.value!r} stands twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return node


def networks() -> dict[str, Network]:
    """Every network that the papers train, without ablations."""
    return {name: network for paper in papers().values() for name, network in paper.networks.items()}


def ablations() -> dict[str, Network]:
    """The short trainings that differ in one setting each. Their curves are what is kept."""
    return {name: network for paper in papers().values() for name, network in paper.ablations.items()}


def authors() -> dict[str, Authors]:
    """Every network with its authors' weights."""
    return {name: entry for paper in papers().values() for name, entry in paper.authors.items()}


def network(name: str) -> Network:
    """The network or ablation of that name; ValueError naming the nearest when there is none."""
    known = networks() | ablations()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3) or list(known)
        raise ValueError(f"no network {name!r} in notebooks/*/{FILE}; did you mean {', '.join(near)}?")
    return known[name]


def resolve(name: str, room: str) -> Any:
    """What a declaration names: "file.Thing" below `invdenoise.<room>`, or "room.file.Thing" in another room.

    Raises:
        ValueError: no such file, or nothing of that name in it.
    """
    module, _, thing = name.rpartition(".")
    for candidate in (f"invdenoise.{room}.{module}", f"invdenoise.{module}") if module else ():
        try:
            found = importlib.import_module(candidate)
        except ModuleNotFoundError as error:
            if not candidate.startswith(str(error.name)):
                raise  # something that the file imports
            continue
        if not hasattr(found, thing):
            near = difflib.get_close_matches(thing, dir(found), n=1)
            hint = f"; did you mean {module}.{near[0]}?" if near else ""
            raise ValueError(f"{candidate.replace('.', '/')}.py has no {thing!r}{hint}")
        return getattr(found, thing)
    raise ValueError(f"{name!r} names no file; expected file.Name, of a file in lib/invdenoise/{room}")


def build(model: str, **options) -> Any:
    """A fresh network of class `model` ("file.Class") with these options; ValueError names an unknown class or option."""
    try:
        return resolve(model, "models")(**options)
    except TypeError as error:
        raise ValueError(f"{model} with {options} cannot be built: {error}") from None


# --- Messages


def checked(kind: type[BaseModel], tree: Any, place: str):
    """`tree` as an object of `kind`; ValueError with place, value and, for an unknown key, the nearest."""
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        raise ValueError(f"{place}: {_in_words(kind, error.errors()[0])}") from None


EXPECTED = {  # type of an error of pydantic -> what to say
    "int_type": "a whole number", "int_from_float": "a whole number", "bool_type": "true or false", "string_type": "text",
    "tuple_type": "a list", "list_type": "a list", "dict_type": "keys with values", "finite_number": "a finite number",
}  # fmt: skip


def _in_words(kind: type[BaseModel], error: Any) -> str:
    """The first error of pydantic as a sentence: where, what stands there, what was expected."""
    steps = [step for step in error["loc"] if not re.fullmatch(r"\w*\[.*\]|function-.*", str(step))]
    value, context, message = error["input"], error.get("ctx", {}), error["type"]
    bad_key = "[key]" in error["loc"]
    inside = f"{_path(steps[:-1])}: " if steps[:-1] else ""
    if message == "extra_forbidden" or bad_key:
        known = re.findall(r"'(\w+)'", context["expected"]) if bad_key else _keys(kind, steps[:-1])
        near = difflib.get_close_matches(str(steps[-1]), known, n=1)
        return f"{inside}unknown key {steps[-1]!r}; {f'did you mean {near[0]!r}?' if near else _listed(known)}"
    if message == "missing":
        return f"{inside}missing {'item ' + str(steps[-1] + 1) if isinstance(steps[-1], int) else f'key {steps[-1]!r}'}"
    if message == "value_error":
        return (f"{_path(steps)}: " if steps else "") + error["msg"].removeprefix("Value error, ")
    if message in ("model_type", "model_attributes_type"):
        expected = f"keys {', '.join(_keys(kind, steps))}"
    elif message == "float_type":
        expected = "a number" + _number_of_yaml(value)
    elif message == "literal_error":
        expected = "one of " + ", ".join(re.findall(r"'([^']+)'", context["expected"]))
    elif message == "greater_than":
        expected = f"more than {context['gt']:g}"
    elif message == "greater_than_equal":
        expected = f"{context['ge']:g} or more"
    elif message == "less_than":
        expected = "a finite number" if math.isinf(context["lt"]) else f"less than {context['lt']:g}"
    elif message in ("too_short", "too_long"):
        few, number = message == "too_short", context.get("min_length", context.get("max_length"))
        expected = f"{number} or {'more' if few else 'fewer'} items"
    else:
        expected = EXPECTED.get(message) or error["msg"][0].lower() + error["msg"][1:]
    found = f"{_path(steps[-1:])} is {value!r}" if steps else f"found {value!r}"
    return f"{inside}{found}; expected {expected}"


def _path(steps: list[Any]) -> str:
    """Keys joined by dots; places in a list are counted from 1."""
    path = ""
    for step in steps:
        path += f" item {step + 1}" if isinstance(step, int) else f".{step}"
    return path.lstrip(". ")


def _number_of_yaml(value: Any) -> str:
    """How to write a number that YAML reads as text: `1e-3` has no dot, `"25"` has quotes."""
    found = re.fullmatch(r"([+-]?\d+)(\.\d*)?(?:[eE]([+-]?)(\d+))?", value) if isinstance(value, str) else None
    if found is None:
        return ""
    whole, fraction, sign, exponent = found.groups()
    power = f"e{sign or '+'}{exponent}" if exponent else ""
    return f" (YAML wants {whole}{fraction or ('.0' if power else '')}{power})"


def _keys(kind: Any, steps: list[Any]) -> list[str]:
    """Keys that the part of `kind` at these steps may have."""
    left = list(steps)
    while left:
        annotation = kind.model_fields[left.pop(0)].annotation
        models = [found for found in _arguments(annotation) if isinstance(found, type) and issubclass(found, BaseModel)]
        if not models:
            return []
        kind = models[0]
        if any(typing.get_origin(found) in (dict, tuple) for found in (annotation, *typing.get_args(annotation))):
            left = left[1:]  # the name of an entry, or its place in a list
    return list(kind.model_fields)


def _arguments(kind: Any) -> list[Any]:
    """A type and the types inside of it, at any depth."""
    return [kind, *(found for argument in typing.get_args(kind) for found in _arguments(argument))]


def _known(name: str, known: Iterable[str], place: str, what: str) -> str:
    """The name; ValueError with the nearest when it is not known."""
    known = list(known)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        raise ValueError(f"{place}: no {what} {name!r}; {f'did you mean {near[0]!r}?' if near else _listed(known)}")
    return name


def _listed(known: Iterable[str]) -> str:
    return f"known: {', '.join(known) or 'none'}"


def _circle(following: dict[str, str | None]) -> list[str]:
    """The first name from which following leads to a name met before, with all names on the way; empty where there is none."""
    for name in following:
        way = [name]
        while (other := following[way[-1]]) is not None:
            way.append(other)
            if other in way[:-1]:
                return way
    return []
