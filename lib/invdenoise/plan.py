"""What `make paper` has to do for a budget: which networks to train, what to score, which figures to draw."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from invdenoise import facts, methods, papers, paths
from invdenoise.data import benchmarks
from invdenoise.data.fetch import DataUnavailable, dataset_ids
from invdenoise.data.pictures import num_pictures
from invdenoise.models import classical
from invdenoise.papers import BUDGETS, RELEASED, Paper, Runs
from invdenoise.tasks.base import check_conditions, make_task
from invdenoise.weights import weights_path

ALL = "all"  # instead of a paper's name
TRAINED = "trained"  # as the value of a condition: the noise level of the network's training

OVERHEAD = 8.0  # seconds in which a job starts and writes its page
UNMEASURED = 60.0  # seconds of a job of which no score file tells its time


@dataclass(frozen=True)
class Job:
    """One execution of `evaluate.ipynb`: a method on a set, under some conditions.

    Attributes:
        score: "paper/score".
        file: score file below the folder of its score.
        seconds: expected time, from score files of the same job.
    """

    score: str
    task: str
    method: str
    dataset: str
    conditions: dict[str, list[Any]]
    options: dict[str, Any]
    settings: dict[str, Any]
    variant: str
    limit: int
    precision: str
    budget: str
    file: str

    @property
    def name(self) -> str:
        """Name of the job in the graph: its score file below `scores/`, without suffix."""
        return f"{self.score}/{self.file.removesuffix('.csv')}"

    @property
    def parameters(self) -> dict[str, Any]:
        """Parameters of the notebook. All of them are given: a value saved in the notebook must not change a score."""
        return {
            "task": self.task, "method": self.method, "budget": self.budget, "dataset": self.dataset,
            "conditions": self.conditions, "settings": self.settings, "options": self.options, "variant": self.variant,
            "limit": self.limit, "seed": 0, "precision": self.precision, "output": f"{self.name}.csv",
        }  # fmt: skip

    @cached_property
    def seconds(self) -> float:
        """Expected time in seconds, from the released score file of the same job: its rows of these conditions and pictures."""
        file = paths.RELEASED / "scores" / f"{self.name}.csv"
        if not file.exists():
            return UNMEASURED
        rows = pd.read_csv(file, usecols=["image", *self.conditions, "seconds"])
        for key, values in self.conditions.items():
            rows = rows[rows[key].isin(values)]
        if self.limit:
            rows = rows[rows["image"].isin(rows["image"].unique()[: self.limit])]
        return OVERHEAD + float(rows["seconds"].sum())

    @property
    def priority(self) -> int:
        """Long jobs first, so that none is left alone at the end."""
        return min(int(self.seconds / 20), 90)


@dataclass(frozen=True)
class Drawing:
    """One execution of a figure's notebook.

    Attributes:
        name: "paper/figure".
        notebook: below `notebooks/`, without suffix.
        scores: score files that it reads, below `scores/`.
        weights: networks whose weights it opens.
        curves: whether it reads curves of ablations and measurements of speed.
    """

    name: str
    notebook: str
    parameters: dict[str, Any]
    scores: tuple[str, ...]
    weights: tuple[str, ...]
    curves: bool


@dataclass(frozen=True)
class Plan:
    """The jobs of one budget, for some papers or for one figure. `missing` says what is left out and why.

    Networks are trained below `runs`, which all budgets and `make train` share.

    Attributes:
        scores: "paper/score" of all that is to be scored.
        figure: the only drawing, "paper/figure", and then no report is made; empty for all drawings and the report.
    """

    budget: str
    papers: tuple[str, ...]
    results: Path
    trainings: tuple[str, ...]
    jobs: dict[str, Job]
    drawings: dict[str, Drawing]
    missing: tuple[str, ...] = field(default=())
    runs: Path = field(default_factory=paths.runs_dir)
    scores: tuple[str, ...] = ()
    figure: str = ""

    def weights_file(self, network: str) -> Path:
        """The weights that this plan uses of a network."""
        if network in self.trainings:
            return self.runs / network / self.budget / "weights.safetensors"
        return weights_path(network)

    def weights_files(self, method: str) -> list[str]:
        """Files that a job on this method waits for, as the graph names them."""
        return [in_graph(self.weights_file(part)) for part in methods.parts_of(method) if part not in papers.authors()]

    def job_files(self, name: str) -> list[str]:
        """Weights that a score waits for, as the graph names them."""
        opened = dict.fromkeys(self.networks_of(self.jobs[name]))
        return [in_graph(self.weights_file(network)) for network in opened if network not in papers.authors()]

    def networks_of(self, job: Job) -> list[str]:
        """Networks that a job opens: its method's, and of those that its task tries in turn the first that is to be had."""
        task = make_task(job.task, job.settings)
        others = [name for name in task.networks(job.method) if not methods.why_not(name, self.trainings)][:1]
        return [part for name in (job.method, *others) for part in methods.parts_of(name)]

    def start_files(self, network: str) -> list[str]:
        """Weights that training of this network starts from or is tried with, when they are trained here too."""
        entry = papers.network(network)
        needed = [entry.recipe(self.budget).start, *entry.parts.values()]
        return [in_graph(self.weights_file(other)) for other in needed if other in self.trainings]

    def drawing_files(self, name: str) -> list[str]:
        """Files that a drawing waits for, as the graph names them."""
        drawing = self.drawings[name]
        files = [self.results / "scores" / score for score in drawing.scores]
        # A local budget has no weights but those trained here; of the released ones some may be missing.
        there = [
            network
            for network in drawing.weights
            if network in self.trainings or (self.budget == RELEASED and self.weights_file(network).exists())
        ]
        files += [self.weights_file(network) for network in there]
        if drawing.curves:
            files += [*ablation_curves(self.results).values(), *filter(None, [bench_file(self.results)])]
        return [in_graph(file) for file in files]

    def training_parameters(self, network: str) -> dict[str, Any]:
        """Parameters of `train.ipynb`, all of them: a value saved in the notebook must not change the weights."""
        return {"name": network, "budget": self.budget, "minutes": 0}

    @property
    def report_parameters(self) -> dict[str, Any]:
        """Parameters of `report.ipynb`, all of them."""
        return {"scores": "local", "budget": self.budget}

    def fact_texts(self) -> dict[str, str]:
        """What decides each job apart from the files that it waits for; see the module `facts`.

        Returns:
            Texts by name: `scores/<job>`, `figures/<drawing>`, `train/<network>`, and `report` where there is one.
        """
        return _Facts(self).texts()

    def write_facts(self) -> None:
        """Write the facts that changed. What a job would fetch, such as pictures, is fetched first.

        Raises:
            OSError: the results folder cannot be written to; names the remedy.
        """
        for name, text in self.fact_texts().items():
            facts.write_fact(self.results, name, text)


class _Facts:
    """The texts of a plan's facts. What several jobs share is read once."""

    def __init__(self, plan: Plan):
        self.plan = plan
        self.library = facts.Library(plan.results / facts.FOLDER / "code.json")
        self.notebooks: dict[str, facts.Notebook] = {}
        self.sets: dict[tuple, str] = {}

    def texts(self) -> dict[str, str]:
        found = {f"scores/{name}": self.of_score(job) for name, job in self.plan.jobs.items()}
        found |= {f"figures/{name}": self.of_drawing(drawing) for name, drawing in self.plan.drawings.items()}
        found |= {f"train/{name}": self.of_training(name) for name in self.plan.trainings}
        if not self.plan.figure:
            found["report"] = self.of_report()
        self.library.close()
        return {name: "\n".join(lines) + "\n" for name, lines in found.items()}

    def of_score(self, job: Job) -> list[str]:
        """The notebook counts by its code alone: another text around it does not change a score."""
        networks = self.plan.networks_of(job)
        modules = ["tasks.base", *self.library.module_of(job.task, "tasks"), *self.models_of(networks)]
        if job.method in classical.METHODS:
            modules.append("models.classical")
        reached = self.library.reached(modules)
        sets = {(job.dataset, job.limit, None), *((name, 0, file) for name, file in self.library.loads(reached))}
        return [
            f"notebook {self.notebook('evaluate').code}",
            *_parameter_lines(job.parameters),
            *self.network_lines(networks),
            *self.set_lines(sets),
            *self.library.facts(reached),
        ]

    def of_drawing(self, drawing: Drawing) -> list[str]:
        """The notebook counts with its text, since its page is read."""
        notebook, paper = self.notebook(drawing.notebook), papers.papers()[drawing.name.partition("/")[0]]
        parameters = notebook.parameters | drawing.parameters
        networks = [part for name in drawing.weights for part in methods.parts_of(name)]
        reached = self.library.reached([*notebook.imports, *self.models_of(networks)])
        values = [one for value in parameters.values() for one in (value if isinstance(value, list) else [value])]
        named = {value for value in values if isinstance(value, str) and value in dataset_ids()}
        sets = {(name, 0, None) for name in named | notebook.loads}
        sets |= {(name, 0, file) for name, file in self.library.loads(reached)}
        return [
            f"notebook {notebook.page}",
            *_parameter_lines(parameters),
            *self.network_lines(networks),
            *self.set_lines(sets),
            f"printed numbers {_printed_numbers()}",
            f"comparisons {facts.hash_of(paper.declared.model_dump(include={'compare', 'claims'}))}",
            *([f"cards and curves {_cards_and_curves()}"] if drawing.curves else []),
            *self.library.facts(reached),
        ]

    def of_training(self, name: str) -> list[str]:
        """The library's code does not count: a run goes on from its checkpoint, which hours of work may be in.

        No pictures stand in when a network is trained, so the set counts as it is registered.
        """
        entry, budget = papers.network(name), self.plan.budget
        recipe = entry.recipe(budget).model_dump()
        declared = {
            **_declared(name), "source": entry.source.kind, "options of the source": entry.source_options(budget), "task": entry.task,
            **{key: value for key, value in recipe.items() if value not in (None, (), {})},
        }  # fmt: skip
        options = entry.source_options(budget)
        sets = [options["set"], *options.get("also", ()), *filter(None, [options.get("validation_set")])]
        return [
            f"notebook {self.notebook('train').code}",
            *_parameter_lines(self.plan.training_parameters(name)),
            f"network {name} {json.dumps(declared, sort_keys=True, default=str)}",
            *(f"set {name}: {facts.registered_set(name)}" for name in sets),
        ]

    def of_report(self) -> list[str]:
        notebook = self.notebook("report")
        declared = [papers.papers()[paper].declared.model_dump() for paper in self.plan.papers]
        return [
            f"notebook {notebook.page}",
            *_parameter_lines(notebook.parameters | self.plan.report_parameters),
            f"papers {facts.hash_of(declared)}",
            f"printed numbers {_printed_numbers()}",
            f"cards and curves {_cards_and_curves()}",
            f"ablations {facts.hash_of_files(ablation_curves(self.plan.results).values())}",
            *self.library.facts(self.library.reached(notebook.imports)),
        ]

    def notebook(self, name: str) -> facts.Notebook:
        if name not in self.notebooks:
            self.notebooks[name] = facts.read_notebook(paths.NOTEBOOKS / f"{name}.ipynb")
        return self.notebooks[name]

    def models_of(self, networks: Sequence[str]) -> list[str]:
        """Modules of the classes of networks, and the kernels that they may run in."""
        authors = papers.authors()
        named = [authors[name].read if name in authors else papers.network(name).model for name in networks]
        modules = [module for name in named for module in self.library.module_of(name, "models")]
        return [*modules, "kernels"] if networks else []

    def network_lines(self, networks: Iterable[str]) -> list[str]:
        lines = []
        for name in dict.fromkeys(networks):
            file = papers.authors()[name].file if name in papers.authors() else None
            theirs = "" if file is None else f" {self.set_fact('weights', 0, file)}"
            lines.append(f"network {name} {json.dumps(_declared(name), sort_keys=True, default=str)}{theirs}")
        return lines

    def set_lines(self, sets: Iterable[tuple[str, int, str | None]]) -> list[str]:
        return [
            f"set {name}{f', first {limit}' if limit else ''}{f', {file}' if file else ''}: {self.set_fact(name, limit, file)}"
            for name, limit, file in sorted(sets, key=str)
        ]

    def set_fact(self, *which: Any) -> str:
        if which not in self.sets:
            self.sets[which] = facts.set_fact(*which)
        return self.sets[which]


def _parameter_lines(parameters: dict[str, Any]) -> list[str]:
    return [f"parameter {name} = {json.dumps(value, default=str)}" for name, value in sorted(parameters.items())]


def _declared(network: str) -> dict[str, Any]:
    """What a network is, as its paper declares it."""
    if network in papers.authors():
        return papers.authors()[network].model_dump()
    entry = papers.network(network)
    return {"model": entry.model, "options": entry.options, "sigmas": entry.sigmas, "parts": entry.parts}


def _printed_numbers() -> str:
    return facts.hash_of_files(paths.PUBLISHED.glob("*.csv"))


def _cards_and_curves() -> str:
    """Of the released weights."""
    return facts.hash_of_files([*paths.RELEASED_WEIGHTS.glob("*.json"), *paths.RELEASED_WEIGHTS.glob("*.curve.csv")])


def make_plan(budget: str, paper: str = ALL, figure: str = "") -> Plan:
    """The plan of a budget: "released" scores released weights, the others train first.

    Args:
        budget: "released", "smoke", "laptop" or "paper".
        paper: short name of one, or "all".
        figure: "paper/figure" for one figure or table alone, with what it reads; empty for all.

    Raises:
        ValueError: no such budget, paper or figure, or a wrong declaration.
    """
    known = papers.papers()
    if budget not in (RELEASED, *BUDGETS):
        raise ValueError(f"no budget {budget!r}; known: {RELEASED}, {', '.join(BUDGETS)}")
    if paper not in (ALL, *known):
        raise ValueError(f"no paper {paper!r}; known: {ALL}, {', '.join(known)}")
    chosen = list(known.values()) if paper == ALL else [known[paper]]
    results = paths.results_dir() if budget == RELEASED else paths.results_dir() / budget
    scores = [f"{entry.name}/{score}" for entry in chosen for score in entry.scores]
    trainings = _trainings(chosen, budget)
    if figure:
        drawn = {f"{entry.name}/{name}": entry for entry in chosen for name in entry.figures}
        if figure not in drawn:
            raise ValueError(f"no figure or table {figure!r}; known: {', '.join(drawn)}")
        shown = drawn[figure].figures[figure.partition("/")[2]]
        scores = [drawn[figure].score_name(score) for score in shown.reads]
        owners = {figure.partition("/")[0], *(score.partition("/")[0] for score in scores)}
        chosen = [entry for entry in known.values() if entry.name in owners]
        trainings = _trainings(chosen, budget)
        needed = _with_starts([*_scored(scores, budget), *shown.inside], budget) if trainings else set()
        trainings = tuple(name for name in trainings if name in needed)
    missing: dict[str, str] = {}
    jobs = {job.name: job for entry in chosen for job in _jobs(entry, scores, budget, trainings, missing)}
    drawings = {
        drawing.name: drawing
        for entry in chosen
        for drawing in _drawings(entry, budget, jobs)
        if figure in ("", drawing.name)
    }
    left_out, names = tuple(missing.values()), tuple(entry.name for entry in chosen)
    return Plan(
        budget, names, results, trainings, jobs, drawings, left_out, scores=tuple(dict.fromkeys(scores)), figure=figure
    )


def runs_of(score: str, budget: str) -> tuple[str, tuple[Runs, ...]]:
    """The task of a score, "paper/score", and what it runs on a budget."""
    paper, _, name = score.partition("/")
    entry = papers.papers()[paper].scores[name]
    return entry.task, tuple(entry.smoke if budget == "smoke" else entry.runs)


def _scored(scores: Iterable[str], budget: str) -> Iterator[str]:
    """Methods of some scores, and the networks that their tasks may open."""
    for task, all_runs in (runs_of(score, budget) for score in scores):
        for runs in all_runs:
            made = make_task(task, runs.settings)
            for method in runs.methods:
                yield from (method, *made.networks(method))


def _with_starts(names: Iterable[str], budget: str) -> set[str]:
    """Networks, their parts, and those that their training starts from."""
    found: set[str] = set()
    waiting = [part for name in names for part in methods.parts_of(name)]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            start = None if name in papers.authors() else papers.network(name).recipe(budget).start
            waiting += methods.parts_of(start) if start else []
    return found


def _trainings(chosen: list[Paper], budget: str) -> tuple[str, ...]:
    """Networks to train: all of the papers; in a smoke run those that are scored, with their parts."""
    ours = [name for paper in chosen for name in paper.networks]
    if budget == RELEASED:
        return ()
    if budget != "smoke":
        return tuple(ours)
    scored = [
        method for paper in chosen for score in paper.scores.values() for runs in score.smoke for method in runs.methods
    ]
    needed = {part for method in scored for part in methods.parts_of(method)}
    return tuple(name for name in ours if name in needed)


def _jobs(
    paper: Paper, scores: Sequence[str], budget: str, trainings: tuple[str, ...], missing: dict[str, str]
) -> Iterator[Job]:
    """The jobs of these scores that can be done. Each method or set left out gets a line in `missing`, by its name."""
    for name, score in paper.scores.items():
        if f"{paper.name}/{name}" not in scores:
            continue
        for runs in score.smoke if budget == "smoke" else score.runs:
            _check(paper, name, score.task, runs)
            for method in runs.methods:
                if reason := methods.why_not(method, trainings):
                    missing[method] = f"{method}: {reason}"
                    continue
                for dataset in runs.sets:
                    if reason := _not_at_hand(dataset):
                        missing[dataset] = reason
                        continue
                    yield from _parts(paper, name, score.task, runs, method, dataset, budget, trainings)


def _not_at_hand(dataset: str) -> str:
    """How to get a set that must be fetched by hand and is not there, or an empty string. No pictures stand in for it."""
    if benchmarks.is_by_hand(dataset):
        try:
            benchmarks.folder_of(dataset)
        except DataUnavailable as error:
            return str(error)
    return ""


def _check(paper: Paper, score: str, task: str, runs: Runs) -> None:
    """ValueError naming the score where a task, setting, condition, set or method does not exist."""
    try:
        made = make_task(task, runs.settings)
        check_conditions(made, runs.conditions)
        for dataset in runs.sets:
            num_pictures(dataset)
        for method in runs.methods:
            if not methods.is_network(method) and method not in classical.METHODS:
                made.load(method)  # a method of the task's own, which takes no time to load
            for value in runs.conditions.values():
                _values(value, method)
    except ValueError as error:
        raise ValueError(f"{paper.name}/{papers.FILE}: scores.{score}: {error}") from None


def _parts(
    paper: Paper, score: str, task: str, runs: Runs, method: str, dataset: str, budget: str, trainings: tuple[str, ...]
) -> Iterator[Job]:
    """The job, or one for each value of the condition that it is split by."""
    conditions = {key: _values(value, method) for key, value in runs.conditions.items()}
    parts = (
        [conditions]
        if runs.split is None
        else [{**conditions, runs.split: [value]} for value in conditions[runs.split]]
    )
    ours = [part for part in methods.parts_of(method) if part not in papers.authors()]
    local = budget != RELEASED and (not ours or any(part in trainings for part in ours))
    for part in parts:
        which = "" if runs.split is None else f".{runs.split}={part[runs.split][0]:g}"
        file = f"{method}.{dataset}{f'.{runs.variant}' if runs.variant else ''}{which}.csv"
        yield Job(
            f"{paper.name}/{score}", task, method, dataset, part, runs.options, runs.settings, runs.variant, runs.limit,
            runs.precision if methods.is_network(method) else "float32", budget if local else RELEASED, file,
        )  # fmt: skip


def _values(value: Any, method: str) -> list[Any]:
    """Values of a condition for a method."""
    if value != TRAINED:
        return list(value) if isinstance(value, list | tuple) else [value]
    entry = papers.authors().get(method) or (papers.network(method) if methods.is_network(method) else None)
    if entry is None or entry.sigma is None:
        raise ValueError(f"{method} is not trained for one noise level; give the levels instead of {TRAINED!r}")
    return [entry.sigma]


def _drawings(paper: Paper, budget: str, jobs: dict[str, Job]) -> Iterator[Drawing]:
    for name, figure in paper.figures.items():
        parameters = {**figure.parameters, **(figure.smoke if budget == "smoke" else {})}
        if figure.reads:
            parameters["scores"] = "local"
        if figure.inside:
            parameters["budget"] = budget
        read = [paper.score_name(score) for score in figure.reads]
        scores = tuple(f"{job.name}.csv" for job in jobs.values() if job.score in read)
        yield Drawing(f"{paper.name}/{name}", paper.notebook(name), parameters, scores, figure.inside, figure.curves)


def finished_ablations(folder: Path) -> dict[str, Path]:
    """Training curves of the ablations that were trained to their declared end, in the order of declaration.

    Args:
        folder: a results folder, which has them with its runs, or the released one, which has them by themselves.

    Returns:
        Files by the ablation's name.
    """
    found = {}
    for name, entry in papers.ablations().items():
        for file in (folder / "runs" / name / "laptop" / "curve.csv", folder / "ablations" / f"{name}.csv"):
            if file.exists() and _last_step(file, file.stat().st_mtime_ns) == entry.recipe("laptop").steps:
                found[name] = file
    return found


@cache
def _last_step(file: Path, written: int) -> int:
    """Of a training curve. Every claim on ablations asks for all curves, so one that was read is not read again until it is written."""
    with open(file, newline="", encoding="utf-8") as handle:
        return max((int(float(row["step"])) for row in csv.DictReader(handle)), default=0)


def ablation_curves(folder: Path, only: str = "") -> dict[str, Path]:
    """The ablations to show for a results folder. For each paper: its own once all are finished, else the released ones.

    Where none of a paper's were released, its own as far as they are finished. Files by the ablation's name, of all papers or of
    the one named by `only`.
    """
    own, released = finished_ablations(folder), finished_ablations(paths.RELEASED)
    found: dict[str, Path] = {}
    for name, paper in papers.papers().items():
        if only not in ("", name):
            continue
        mine, theirs = ({run: files[run] for run in paper.ablations if run in files} for files in (own, released))
        found |= mine if len(mine) == len(paper.ablations) else theirs or mine
    return found


def bench_file(folder: Path) -> Path | None:
    """Measurements of speed and memory: those of a results folder, else the released ones; None when there are none."""
    return next((place / "bench.csv" for place in (folder, paths.RELEASED) if (place / "bench.csv").exists()), None)


def in_graph(path: Path) -> str:
    """A file as the graph names it: relative to the checkout where that is the current folder, else the whole path.

    The graph's folder is another one where the checkout is read-only.
    """
    inside = Path.cwd() == paths.ROOT and path.is_relative_to(paths.ROOT)
    return str(path.relative_to(paths.ROOT)) if inside else str(path)
