"""What `make paper` has to do for a budget: which networks to train, what to evaluate, which figures to draw."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path
from typing import Any

from invdenoise import classical, datasets, deblurring, paths
from invdenoise.evaluation import noise_levels
from invdenoise.experiments import BUDGETS, experiments
from invdenoise.report import ablation_curves, bench_file
from invdenoise.weights import AUTHORS, AUTHORS_DNCNN, ESTIMATOR, estimator_names, weights_path

TABLE_DATASETS = ("bsd68", "set12")
TABLE_SIGMAS = (15, 25, 50)
SWEEP_SIGMAS = noise_levels(5, 95, 5)  # LINN, Figure 5
SWEEP_LIMIT = 8  # pictures of BSD68: at 19 noise levels the whole set would take longer than all the rest
SWEEP_NETWORKS = ("dninn-st-s50", "dninn-st-s50-fixed", "dncnn-s50", "dncnn-authors-s50")
SWEEP_VARIANTS: dict[str, dict[str, Any]] = {"": {}, "-not-adapted": {"adapt": False}, "-exponent-1": {"exponent": 1.0}}

BLIND_SIGMAS = noise_levels(5, 145, 20)  # WINNet, slide "Blind denoising"
DEBLUR_METHODS = ("winnet-authors-blind", "winnet-blind", "dninn-st-s25", "dncnn-authors-blind", *deblurring.CLASSICAL)
DEBLUR_LIMIT = 7  # pictures of Set12, those of 256x256: each is denoised some dozen times for each of eight kernels
SCORES = {"evaluate": "scores", "deblur": "deblurring"}  # where a notebook's score files are
BLIND_NETWORKS = ("winnet-authors-blind", "winnet-authors-nenet", "winnet-blind", "dncnn-authors-blind", "bfcnn")
TOLD_NETWORKS = ("winnet-authors-blind", "winnet-blind")  # blind ones that can be told the noise level

# Notebooks that draw, by paper: each reads scores and weights, and trains nothing.
FIGURES = {
    "linn": ("linn/table1_psnr", "linn/fig4_detail_channels", "linn/fig5_threshold_adaptation", "linn/training_cost"),
    "winnet": (
        "winnet/nonblind_set12",
        "winnet/blind_table",
        "winnet/noise_estimation",
        "winnet/deblurring",
        "winnet/learned_kernels",
    ),
}
PAPERS = tuple(FIGURES)
# Scores that each is drawn from, as patterns below the results folder.
DRAWN_FROM = {
    "linn/table1_psnr": ("scores/*/bsd68.csv", "scores/*/bsd68-s[0-9]*.csv", "scores/*/set12.csv"),
    "linn/fig4_detail_channels": (),
    "linn/fig5_threshold_adaptation": ("scores/*/bsd68-sweep*.csv",),
    "linn/training_cost": ("scores/dninn-st-s25/bsd68.csv",),
    "winnet/nonblind_set12": ("scores/*/set12.csv",),
    "winnet/blind_table": ("scores/*/*-blind*.csv", "scores/*/*-told.csv"),
    "winnet/noise_estimation": ("scores/winnet*/*-blind*.csv", "scores/winnet*/*-told.csv"),
    "winnet/deblurring": ("deblurring/*.csv",),
    "winnet/learned_kernels": ("scores/winnet*/*.csv",),
}
LOOKS_INSIDE = ("winnet/noise_estimation", "winnet/deblurring", "winnet/learned_kernels")  # they also run a network

# A smoke run trains one network of each kind, a few steps each.
SMOKE_TRAININGS = {
    "linn": ("dninn-st-s25", "dninn-lista-s25", "dninn-st-2scale-s25", "dninn-st-s50", "dninn-lista-s50"),
    "winnet": ("winnet-s25", "winnet-blind", "nenet"),
}
SMOKE_CLASSICAL = ("bm3d", "wavelet-bayes")

# Rough seconds of a job per megapixel on one core, for the time left only.
COST_PER_MEGAPIXEL = {"bm3d": 30, "nlm": 1, "wavelet-bayes": 1, "wavelet-visu": 1}
NETWORK_COST = {"dninn": 4, "dncnn": 20, "bfcnn": 25, "winnet": 10}  # in the precision below, on a common laptop
LONG = 900  # seconds from which a job is divided by noise level, so that two cores share it
MEGAPIXELS = {"bsd68": 10.5, "set12": 1.8}
NUM_PICTURES = {"bsd68": 68, "set12": 12}


@dataclass(frozen=True)
class Evaluation:
    """One execution of `evaluate.ipynb` or `deblur.ipynb`.

    Attributes:
        method: name of the denoiser.
        output: score file below the notebook's folder of scores.
        parameters: of the notebook.
        cost: expected seconds, roughly.
        notebook: "evaluate" or "deblur".
    """

    method: str
    output: str
    parameters: dict[str, Any]
    cost: float = 10.0
    notebook: str = "evaluate"

    @property
    def scores(self) -> str:
        """The score file below the results folder."""
        return f"{SCORES[self.notebook]}/{self.output}"

    @property
    def page(self) -> str:
        """The executed notebook below the folder of executed ones."""
        return f"{self.notebook}/{self.output.removesuffix('.csv')}.ipynb"

    @property
    def rule(self) -> str:
        """Name of the job in the graph."""
        return f"{self.notebook}_" + self.output.removesuffix(".csv").replace("/", "_")

    @property
    def priority(self) -> int:
        """Long jobs first, so that none is left alone at the end."""
        return min(int(self.cost / 20), 90)


@dataclass(frozen=True)
class Plan:
    """The jobs of one budget, for some papers. `missing` says what is left out and why."""

    budget: str
    papers: tuple[str, ...]
    results: Path
    trainings: tuple[str, ...]
    evaluations: tuple[Evaluation, ...]
    missing: tuple[str, ...] = field(default=())

    @property
    def figures(self) -> tuple[str, ...]:
        """Notebooks that draw."""
        return tuple(figure for paper in self.papers for figure in FIGURES[paper])

    @property
    def weights_budget(self) -> str | None:
        """Budget whose local weights are evaluated; None for the released ones."""
        return None if self.budget == "released" else self.budget

    def weights_files(self, method: str) -> list[str]:
        """Files a job on this method waits for, relative to the checkout where they lie in it."""
        needed = [method]
        if method == "winnet-blind" or method in AUTHORS:
            needed.append(ESTIMATOR if method == "winnet-blind" else AUTHORS[method].estimator)
        ours = [name for name in needed if name in experiments() and (not self.trainings or name in self.trainings)]
        return [in_graph(self._weights(name)) for name in ours]

    def start_files(self, name: str) -> list[str]:
        """Weights that training of this experiment starts from or is tried with, when they are trained here too."""
        needed = [experiments()[name].recipe(self.budget).start, ESTIMATOR if name == "winnet-blind" else None]
        return [in_graph(self._weights(other)) for other in needed if other in self.trainings]

    def figure_parameters(self, figure: str) -> dict[str, Any]:
        """Parameters of a figure's notebook."""
        if figure == "linn/fig4_detail_channels":
            return {"budget": self.budget, "dataset": "bsd68", "method": self.fig4_method}
        parameters = {"scores": "local"}
        if figure in LOOKS_INSIDE:
            parameters["budget"] = self.budget
        if figure == "winnet/noise_estimation" and self.budget != "smoke":
            parameters["dataset"] = "set12"
        return parameters

    def figure_scores(self, figure: str) -> list[str]:
        """The score files that a figure is drawn from, below the results folder."""
        scores = [job.scores for job in self.evaluations]
        return [score for score in scores if any(fnmatch(score, pattern) for pattern in DRAWN_FROM[figure])]

    def figure_files(self, figure: str) -> list[str]:
        """Files besides the scores that a figure is drawn from and that a later command may change."""
        if figure == "linn/fig4_detail_channels":
            return self.weights_files(self.fig4_method)
        if figure in LOOKS_INSIDE:
            ours = [name for name, entry in experiments().items() if entry.paper == "winnet"]
            return [
                in_graph(self._weights(name)) for name in ours if name in self.trainings or self._weights(name).exists()
            ]
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


def make_plan(budget: str, paper: str = "all") -> Plan:
    """The plan of a budget: "released" evaluates released weights, the others train first.

    Args:
        budget: "released", "smoke", "laptop" or "paper".
        paper: one of `PAPERS`, or "all".

    Raises:
        ValueError: no such budget or paper.
    """
    if budget not in ("released", *BUDGETS):
        raise ValueError(f"no budget {budget!r}; known: released, {', '.join(BUDGETS)}")
    if paper not in ("all", *PAPERS):
        raise ValueError(f"no paper {paper!r}; known: all, {', '.join(PAPERS)}")
    papers = PAPERS if paper == "all" else (paper,)
    results = paths.results_dir() if budget == "released" else paths.results_dir() / budget
    if budget == "smoke":
        trainings = tuple(name for paper in papers for name in SMOKE_TRAININGS[paper])
        evaluations = [job for paper in papers for job in _SMOKE_EVALUATIONS[paper](trainings)]
        return Plan(budget, papers, results, trainings, tuple(evaluations))
    trainings = () if budget == "released" else tuple(n for n, entry in experiments().items() if entry.paper in papers)
    missing: list[str] = []
    networks = _networks(papers, trainings, missing)
    evaluations = [job for paper in papers for job in _EVALUATIONS[paper](networks, budget, missing)]
    return Plan(budget, papers, results, trainings, tuple(evaluations), tuple(missing))


def _networks(papers: tuple[str, ...], trainings: tuple[str, ...], missing: list[str]) -> dict[str, float | None]:
    """Networks to evaluate and the noise level each is trained for; None for a blind one."""
    found = {}
    released = tuple(name for name, entry in experiments().items() if entry.paper in papers)
    for name in trainings or released:
        if not trainings and not weights_path(name).exists():
            missing.append(f"{name}: no released weights")
        elif name == "winnet-blind" and not trainings and not weights_path(ESTIMATOR).exists():
            missing.append(f"{name}: no released weights of {ESTIMATOR}, which estimates its noise level")
        elif name not in estimator_names():
            found[name] = experiments()[name].sigma
    for name in AUTHORS:
        if name in AUTHORS_DNCNN and "linn" not in papers or name not in AUTHORS_DNCNN and "winnet" not in papers:
            continue
        if AUTHORS[name].estimator == ESTIMATOR and ESTIMATOR not in trainings and not weights_path(ESTIMATOR).exists():
            missing.append(f"{name}: no released weights of {ESTIMATOR}, which estimates its noise level")
            continue
        try:
            datasets.fetch("weights", AUTHORS[name].file)
            if name not in estimator_names():
                found[name] = AUTHORS[name].sigma
        except datasets.DataUnavailable:
            missing.append(f"{name}: the authors' weights could not be reached")
    return found


def _linn(networks: dict[str, float | None], budget: str, missing: list[str]) -> list[Evaluation]:
    """Table I and Figure 5."""
    one_level = {name: sigma for name, sigma in networks.items() if name.startswith(("dninn", "dncnn")) and sigma}
    evaluations = [
        _evaluation(method, dataset, [sigma], budget)
        for method, sigma in one_level.items()
        for dataset in TABLE_DATASETS
    ]
    for method in _classical(missing):
        for dataset in TABLE_DATASETS:
            evaluations += _shared_out(method, dataset, TABLE_SIGMAS, budget)
    for method in SWEEP_NETWORKS:
        for suffix, options in SWEEP_VARIANTS.items():
            if method in networks and (method.startswith("dninn") or not options):
                some = {**options, "limit": SWEEP_LIMIT}
                evaluations.append(_evaluation(method, "bsd68", SWEEP_SIGMAS, budget, f"-sweep{suffix}", some))
    return evaluations


def _winnet(networks: dict[str, float | None], budget: str, missing: list[str]) -> list[Evaluation]:
    """PSNR against size on Set12, the blind table, and what knowing the noise level is worth."""
    evaluations = []
    for method, sigma in networks.items():
        if method.startswith("winnet") and sigma:
            sets = TABLE_DATASETS if sigma == 25 and "2level" not in method else ("set12",)
            evaluations += [_evaluation(method, dataset, [sigma], budget) for dataset in sets]
    for method in BLIND_NETWORKS:
        if method in networks:
            for dataset in TABLE_DATASETS:
                evaluations += _shared_out(method, dataset, BLIND_SIGMAS, budget, "-blind", {"tell_sigma": False})
            if method in TOLD_NETWORKS:
                evaluations.append(_evaluation(method, "set12", BLIND_SIGMAS, budget, "-told"))
    for method in DEBLUR_METHODS:
        # DnINN belongs to another paper: its released weights serve where it is not trained in the same run.
        at_hand = method in networks or (method.startswith("dninn") and weights_path(method).exists())
        if at_hand or method in deblurring.CLASSICAL:
            weights = budget if method in networks else "released"
            evaluations.append(_deblurring(method, weights, "all", DEBLUR_LIMIT, deblurring.MAX_ITERATIONS))
    return evaluations


_EVALUATIONS = {"linn": _linn, "winnet": _winnet}


def _smoke_linn(trainings: tuple[str, ...]) -> list[Evaluation]:
    small = {"limit": 2}
    networks = [name for name in trainings if name.startswith("dninn")]
    jobs = [_evaluation(name, "bsd68", [experiments()[name].sigma], "smoke", options=small) for name in networks]
    jobs += [_evaluation(name, "bsd68", [25.0], "smoke", options=small) for name in SMOKE_CLASSICAL if _installed(name)]
    for suffix, options in SWEEP_VARIANTS.items():
        few = {**options, "limit": 1}
        jobs.append(_evaluation("dninn-st-s50", "bsd68", [5.0, 50.0, 95.0], "smoke", f"-sweep{suffix}", few))
    return jobs


def _smoke_winnet(trainings: tuple[str, ...]) -> list[Evaluation]:
    few = {"limit": 1}
    blind = {"limit": 1, "tell_sigma": False}
    return [
        _evaluation("winnet-s25", "set12", [25.0], "smoke", options=few),
        _evaluation("winnet-blind", "set12", [25.0, 65.0], "smoke", "-blind", blind),
        _evaluation("winnet-blind", "set12", [25.0, 65.0], "smoke", "-told", few),
        _deblurring("winnet-blind", "smoke", "5", 1, 2),
        _deblurring("wiener", "released", "5", 1, 2),
    ]


_SMOKE_EVALUATIONS = {"linn": _smoke_linn, "winnet": _smoke_winnet}


def _classical(missing: list[str]) -> list[str]:
    found = [name for name in classical.METHODS if _installed(name)]
    missing += [f"{name}: package not installed" for name in classical.METHODS if name not in found]
    return found


def _installed(name: str) -> bool:
    return name != "bm3d" or importlib.util.find_spec("bm3d") is not None


def _shared_out(
    method: str, dataset: str, sigmas, budget: str, suffix: str = "", options: dict[str, Any] | None = None
) -> list[Evaluation]:
    """One job, or one a noise level where that one would be long: several cores share them then."""
    whole = _evaluation(method, dataset, sigmas, budget, suffix, options)
    if whole.cost <= LONG:
        return [whole]
    return [_evaluation(method, dataset, [sigma], budget, f"{suffix}-s{sigma:g}", options) for sigma in sigmas]


def _evaluation(
    method: str, dataset: str, sigmas, budget: str, suffix: str = "", options: dict[str, Any] | None = None
) -> Evaluation:
    # The fastest setting costs a network thousandths of a decibel, less than a table shows, and is several times faster. Only
    # DnCNN of LINN's table, a few pictures at one level, is left in its authors' precision.
    table = not suffix and method.startswith("dncnn")
    fast = budget != "smoke" and method not in classical.METHODS and not table
    output = f"{method}/{dataset}{suffix}.csv"
    parameters = {
        "method": method, "dataset": dataset, "sigmas": ",".join(f"{s:g}" for s in sigmas), "limit": 0,
        "budget": budget, "output": output, "precision": "fastest" if fast else "float32", **(options or {}),
    }  # fmt: skip
    per_megapixel = COST_PER_MEGAPIXEL.get(method) or NETWORK_COST[method.split("-")[0]]
    per_megapixel *= 2 if "2scale" in method or "2level" in method else 1
    megapixels = MEGAPIXELS[dataset] * (parameters["limit"] or NUM_PICTURES[dataset]) / NUM_PICTURES[dataset]
    return Evaluation(method, output, parameters, 10 + per_megapixel * megapixels * len(list(sigmas)))


def _deblurring(method: str, budget: str, kernels: str, limit: int, max_iterations: int) -> Evaluation:
    network = method not in deblurring.CLASSICAL
    output = f"{method}-set12.csv"
    parameters = {
        "method": method, "dataset": "set12", "kernels": kernels, "limit": limit, "max_iterations": max_iterations,
        "budget": budget, "output": output, "precision": "fastest" if network and budget != "smoke" else "float32",
    }  # fmt: skip
    passes = 8 * 15 if network else 8  # kernels, and iterations of each
    per_megapixel = NETWORK_COST[method.split("-")[0]] if network else 2
    return Evaluation(method, output, parameters, 10 + per_megapixel * 0.0655 * limit * passes, "deblur")


def in_graph(path: Path) -> str:
    """A file as the graph names it: relative to the checkout where it lies in it."""
    return str(path.relative_to(paths.ROOT)) if path.is_relative_to(paths.ROOT) else str(path)
