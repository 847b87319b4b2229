"""What `make paper` has to do for a budget: which networks to train, what to evaluate, which figures to draw."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from invdenoise import classical, datasets, paths
from invdenoise.evaluation import noise_levels
from invdenoise.experiments import BUDGETS, experiments
from invdenoise.report import ablation_curves, bench_file
from invdenoise.weights import AUTHORS_DNCNN, weights_path

TABLE_DATASETS = ("bsd68", "set12")
TABLE_SIGMAS = (15, 25, 50)
SWEEP_SIGMAS = noise_levels(5, 95, 5)  # LINN, Figure 5
SWEEP_LIMIT = 17  # pictures, a quarter of BSD68: at 19 noise levels the whole set would take longer than all the rest
SWEEP_NETWORKS = ("dninn-st-s50", "dncnn-s50", "dncnn-authors-s50")
SWEEP_VARIANTS: dict[str, dict[str, Any]] = {"": {}, "-not-adapted": {"adapt": False}, "-exponent-1": {"exponent": 1.0}}

# Notebooks that draw: each reads scores and weights, and trains nothing.
FIGURES = (
    "linn/table1_psnr",
    "linn/fig4_detail_channels",
    "linn/fig5_threshold_adaptation",
    "linn/training_cost",
)

# A smoke run trains one network of each kind, a few steps each.
SMOKE_TRAININGS = ("dninn-st-s25", "dninn-lista-s25", "dninn-st-2scale-s25", "dninn-st-s50", "dninn-lista-s50")
SMOKE_CLASSICAL = ("bm3d", "wavelet-bayes")

# Rough seconds of a job per megapixel on one core, for the time left only.
COST_PER_MEGAPIXEL = {"bm3d": 56, "nlm": 1, "wavelet-bayes": 1, "wavelet-visu": 1}
NETWORK_COST = {"dninn": 1, "dncnn": 10}  # in the precision below
LONG = 900  # seconds from which a job is divided by noise level, so that two cores share it
MEGAPIXELS = {"bsd68": 10.5, "set12": 1.8}
NUM_PICTURES = {"bsd68": 68, "set12": 12}


@dataclass(frozen=True)
class Evaluation:
    """One execution of `evaluate.ipynb`.

    Attributes:
        method: name of the denoiser.
        output: score file below `scores/`.
        parameters: of the notebook.
        cost: expected seconds, roughly.
    """

    method: str
    output: str
    parameters: dict[str, Any]
    cost: float = 10.0

    @property
    def rule(self) -> str:
        """Name of the job in the graph."""
        return "evaluate_" + self.output.removesuffix(".csv").replace("/", "_")

    @property
    def priority(self) -> int:
        """Long jobs first, so that none is left alone at the end."""
        return min(int(self.cost / 20), 90)


@dataclass(frozen=True)
class Plan:
    """The jobs of one budget. `missing` says what is left out and why."""

    budget: str
    results: Path
    trainings: tuple[str, ...]
    evaluations: tuple[Evaluation, ...]
    missing: tuple[str, ...] = field(default=())

    @property
    def weights_budget(self) -> str | None:
        """Budget whose local weights are evaluated; None for the released ones."""
        return None if self.budget == "released" else self.budget

    def weights_files(self, method: str) -> list[str]:
        """Files a job on this method waits for, relative to the checkout where they lie in it."""
        if method not in experiments() or (self.trainings and method not in self.trainings):
            return []
        return [in_graph(self._weights(method))]

    def start_files(self, name: str) -> list[str]:
        """Weights that training of this experiment starts from, when they are trained here too."""
        start = experiments()[name].recipe(self.budget).start
        return [in_graph(self._weights(start))] if start in self.trainings else []

    def figure_parameters(self, figure: str) -> dict[str, Any]:
        """Parameters of a figure's notebook."""
        if figure == "linn/fig4_detail_channels":
            return {"budget": self.budget, "dataset": "bsd68", "method": self.fig4_method}
        return {"scores": "local"}

    def figure_files(self, figure: str) -> list[str]:
        """Files besides the scores that a figure is drawn from and that a later command may change."""
        if figure != "linn/training_cost":
            return []
        bench = bench_file(self.results)
        return [in_graph(file) for file in (*ablation_curves(self.results).values(), *([bench] if bench else []))]

    @cached_property
    def fig4_method(self) -> str:
        """The paper's choice where it is trained, else the soft-threshold network."""
        wanted = "dninn-lista-s50"
        return wanted if wanted in self.trainings or self._weights(wanted).exists() else "dninn-st-s50"

    @cached_property
    def costs(self) -> dict[str, float]:
        """Expected seconds by rule of the graph."""
        costs = {job.rule: job.cost for job in self.evaluations}
        return costs | {f"train_{name}": 20.0 if self.budget == "smoke" else 3600.0 for name in self.trainings}

    def _weights(self, name: str) -> Path:
        if self.weights_budget is None:
            return weights_path(name)
        return self.results / "runs" / name / self.budget / "weights.safetensors"


def make_plan(budget: str) -> Plan:
    """The plan of a budget: "released" evaluates released weights, the others train first.

    Raises:
        ValueError: no such budget.
    """
    if budget not in ("released", *BUDGETS):
        raise ValueError(f"no budget {budget!r}; known: released, {', '.join(BUDGETS)}")
    results = paths.results_dir() if budget == "released" else paths.results_dir() / budget
    missing: list[str] = []
    if budget == "smoke":
        trainings = tuple(name for name in SMOKE_TRAININGS if name in experiments())
        evaluations = _smoke_evaluations(trainings)
        return Plan(budget, results, trainings, evaluations)
    trainings = () if budget == "released" else tuple(experiments())
    networks = _networks(trainings, missing)
    evaluations = [
        _evaluation(method, dataset, [float(sigma)], budget)
        for method, sigma in networks.items()
        for dataset in TABLE_DATASETS
    ]
    for method in _classical(missing):
        for dataset in TABLE_DATASETS:
            whole = _evaluation(method, dataset, TABLE_SIGMAS, budget)
            parts = [_evaluation(method, dataset, [s], budget, f"-s{s:g}") for s in TABLE_SIGMAS]
            evaluations += parts if whole.cost > LONG else [whole]
    for method in SWEEP_NETWORKS:
        for suffix, options in SWEEP_VARIANTS.items():
            if method in networks and (method.startswith("dninn") or not options):
                some = {**options, "limit": SWEEP_LIMIT}
                evaluations.append(_evaluation(method, "bsd68", SWEEP_SIGMAS, budget, f"-sweep{suffix}", some))
    return Plan(budget, results, trainings, tuple(evaluations), tuple(missing))


def _smoke_evaluations(trainings: tuple[str, ...]) -> tuple[Evaluation, ...]:
    small = {"limit": 2}
    jobs = [_evaluation(name, "bsd68", [experiments()[name].sigma], "smoke", options=small) for name in trainings]
    jobs += [_evaluation(name, "bsd68", [25.0], "smoke", options=small) for name in SMOKE_CLASSICAL if _installed(name)]
    for suffix, options in SWEEP_VARIANTS.items():
        few = {**options, "limit": 1}
        jobs.append(_evaluation("dninn-st-s50", "bsd68", [5.0, 50.0, 95.0], "smoke", f"-sweep{suffix}", few))
    return tuple(jobs)


def _networks(trainings: tuple[str, ...], missing: list[str]) -> dict[str, float]:
    """Networks to evaluate and the noise level each is trained for."""
    found = {}
    for name, experiment in experiments().items():
        if trainings or weights_path(name).exists():
            found[name] = experiment.sigma
        else:
            missing.append(f"{name}: no released weights")
    for name, sigma in AUTHORS_DNCNN.items():
        try:
            datasets.fetch("weights", f"weights/dncnn/sigma={sigma}.mat")
            found[name] = float(sigma)
        except datasets.DataUnavailable:
            missing.append(f"{name}: the authors' weights could not be reached")
    return found


def _classical(missing: list[str]) -> list[str]:
    found = [name for name in classical.METHODS if _installed(name)]
    missing += [f"{name}: package not installed" for name in classical.METHODS if name not in found]
    return found


def _installed(name: str) -> bool:
    return name != "bm3d" or importlib.util.find_spec("bm3d") is not None


def _evaluation(
    method: str, dataset: str, sigmas, budget: str, suffix: str = "", options: dict[str, Any] | None = None
) -> Evaluation:
    # DnINN loses thousandths of a decibel in bfloat16, less than a table shows, and gains a factor of ten in time.
    fast = suffix.startswith("-sweep") or (method.startswith("dninn") and budget != "smoke")
    output = f"{method}/{dataset}{suffix}.csv"
    parameters = {
        "method": method, "dataset": dataset, "sigmas": ",".join(f"{s:g}" for s in sigmas), "limit": 0,
        "budget": budget, "output": output, "precision": "bfloat16" if fast else "float32", **(options or {}),
    }  # fmt: skip
    per_megapixel = COST_PER_MEGAPIXEL.get(method) or NETWORK_COST[method.split("-")[0]]
    per_megapixel *= 2 if "2scale" in method else 1
    megapixels = MEGAPIXELS[dataset] * (parameters["limit"] or NUM_PICTURES[dataset]) / NUM_PICTURES[dataset]
    return Evaluation(method, output, parameters, 10 + per_megapixel * megapixels * len(list(sigmas)))


def in_graph(path: Path) -> str:
    """A file as the graph names it: relative to the checkout where it lies in it."""
    return str(path.relative_to(paths.ROOT)) if path.is_relative_to(paths.ROOT) else str(path)
