"""The contract of a task, the loop that scores a method, and the one reader and writer of score files."""

from __future__ import annotations

import csv
import functools
import inspect
import itertools
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd
import torch

from invdenoise import kernels, methods, papers, paths
from invdenoise.data.pictures import load_pictures, num_pictures
from invdenoise.device import hardware
from invdenoise.files import atomic
from invdenoise.models.base import count_macs
from invdenoise.papers import resolve
from invdenoise.provenance import VERSION, commit, sources_sha256
from invdenoise.tasks.metrics import Metric

# Columns of every score file, before and after those of the task.
ABOUT = ("method", "variant", "requested", "dataset", "image")
PROVENANCE = (
    "seconds", "megapixels", "device", "seed", "sigma_train", "num_parameters", "budget", "weights_sha256", "data_sha256",
    "version", "commit", "task", "num_rows",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Case:
    """One picture under one condition.

    Attributes:
        image: name of the picture.
        keys: the conditions, as columns of the row.
        given: what the method is given.
        truth: what its output is scored against.
        megapixels: size of the picture.
    """

    image: str
    keys: dict[str, Any]
    given: dict[str, Any]
    truth: Any
    megapixels: float = math.nan


class Task:
    """What is done with a method and how it is scored. A subclass implements `cases`, `run` and `score`.

    Settings of a task are arguments of its constructor.

    Attributes:
        name, settings: as declared; `make_task` sets them.
        keys: names of the conditions that a case stands for.
        metrics: what is measured on each case, the most important first; the first one validates training.
        set_metrics: what is measured once over all cases, such as a Fréchet distance; these rows have no image.
        columns: further columns of a row.
    """

    name: str = "task"
    settings: dict[str, Any] = {}
    keys: tuple[str, ...] = ()
    metrics: tuple[Metric, ...] = ()
    set_metrics: tuple[Metric, ...] = ()
    columns: tuple[str, ...] = ()

    def load(self, name: str, budget: str | None = None, precision: str = "float32") -> Any:
        """The method of that name. `precision` is of a network's activations; others have one only."""
        if not methods.is_network(name):
            return methods.load_denoiser(name)
        network = methods.load_network(name, budget)
        return network if precision == "float32" else kernels.speed_up(network, precision)

    def networks(self, method: str) -> list[str]:
        """Networks that a job on this method opens besides it. They are tried in turn, and the first that is to be had is used.

        The graph waits for the weights of that one.
        """
        return []

    def pictures(self, name: str, limit: int | None = None) -> Any:
        """The set of that name, or what stands in for it."""
        return load_pictures(name, limit=limit)

    def check(self, method: Any, conditions: Mapping[str, Sequence[Any]], options: Mapping[str, Any]) -> None:
        """ValueError where the method cannot do this task under these conditions with these options."""

    def cases(self, pictures: Any, seed: int, **condition: Any) -> Iterator[Case]:
        """The cases of a set under one condition. A case depends on nothing else than these arguments and the settings."""
        raise NotImplementedError

    def run(self, method: Any, case: Case, **options: Any) -> Any:
        """The method's output for a case, on the CPU."""
        raise NotImplementedError

    def score(self, outputs: Any, case: Case) -> dict[str, Any]:
        """Metrics and further columns of a case."""
        raise NotImplementedError

    def score_set(self, outputs: Sequence[Any], cases: Sequence[Case]) -> dict[str, Any]:
        """Metrics over all cases of a condition, by name."""
        return {}

    def warm_up(self, method: Any, case: Case, **options: Any) -> None:
        """A first, small call, which pays for loading code; it is not timed."""


def make_task(name: str, settings: Mapping[str, Any] | None = None) -> Task:
    """The task that a declaration names; ValueError for an unknown one or unknown settings."""
    kind = resolve(name, "tasks")
    try:
        task = kind(**(settings or {}))
    except TypeError as error:
        raise ValueError(f"task {name} with settings {dict(settings or {})} cannot be made: {error}") from None
    task.name, task.settings = name, dict(settings or {})
    return task


def conditions_of(conditions: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every combination of the conditions' values, the last one changing fastest; a single value counts as a list of one."""
    values = [value if isinstance(value, list | tuple) else [value] for value in conditions.values()]
    return [dict(zip(conditions, combination, strict=True)) for combination in itertools.product(*values)]


def check_conditions(task: Task, conditions: Mapping[str, Any]) -> None:
    """Refuse conditions that cannot be scored.

    Raises:
        ValueError: the task does not know a condition, needs one that is missing, or one has no value or a value twice.
    """
    if unknown := sorted(set(conditions) - set(task.keys)):
        raise ValueError(f"{task.name} has no condition {unknown[0]!r}; known: {', '.join(task.keys) or 'none'}")
    arguments = inspect.signature(task.cases).parameters
    needed = [key for key in task.keys if key in arguments and arguments[key].default is inspect.Parameter.empty]
    if missing := [key for key in needed if key not in conditions]:
        raise ValueError(
            f"{task.name} needs the condition {missing[0]!r}; give its values, "
            f"as in conditions={{{missing[0]!r}: [...]}}"
        )
    for key, value in conditions.items():
        values = list(value) if isinstance(value, list | tuple) else [value]
        if not values:
            raise ValueError(f"condition {key!r} of {task.name} has no value; give one or more")
        if twice := [one for number, one in enumerate(values) if one in values[:number]]:
            raise ValueError(f"condition {key!r} of {task.name} has the value {twice[0]!r} twice; give each once")


def evaluate(
    task: Task,
    method: Any,
    dataset: str,
    conditions: Mapping[str, Any],
    *,
    options: Mapping[str, Any] | None = None,
    variant: str = "",
    seed: int = 0,
    limit: int | None = None,
    report: Callable[[str], None] | None = None,
    resume: Path | None = None,
) -> pd.DataFrame:
    """Scores of a method, one row a case.

    Args:
        method: as `task.load` gives it: anything with a `name` and the verb that the task calls.
        dataset: the set that is asked for; without data others stand in, and the column `dataset` says so.
        conditions: key of the task -> values.
        options: passed on to the method; `variant` is their label.
        seed: of everything random.
        limit: number of pictures, the first in order; None takes all.
        report: called with a line of progress for each condition.
        resume: score file that this is for. Cases already scored by an interrupted run of the same job are not run again.

    `seconds` is the time of the method on one case at a time, after a warm-up. Times are comparable between rows of the
    same `device`, which names the kind of device, the precision, the threads and the processor.

    Raises:
        ValueError: what `check_conditions` or `task.check` refuses, or a `resume` that leads out of its folder.
    """
    options = dict(options or {})
    check_conditions(task, conditions)
    task.check(method, conditions, options)
    pictures = task.pictures(dataset, limit)
    device, used = device_of(method)
    budget, weights = weights_of(method)
    count, trained = getattr(method, "num_parameters", None), getattr(method, "sigma", None)
    common = {
        "method": method.name, "variant": variant, "requested": dataset, "dataset": pictures.name, "device": used, "seed": seed,
        "sigma_train": math.nan if trained is None else trained, "num_parameters": count() if count else 0, "budget": budget,
        "weights_sha256": weights, "data_sha256": pictures.sha256, "version": VERSION,
        "commit": commit(), "task": task.name,
    }  # fmt: skip
    # The commit alone does not tell two states with uncommitted changes apart, so the code's own hash counts as well.
    identity = {
        **common, "settings": task.settings, "options": options, "conditions": dict(conditions), "limit": limit,
        "sources": sources_sha256(),
    }  # fmt: skip
    common["device"] = f"{used}, {_processor(device)}"  # not in the identity: a job may go on on another processor
    journal = _Journal(resume, json.dumps(identity, sort_keys=True, default=str))
    rows: list[dict] = []
    warm = False
    for condition in conditions_of(conditions):
        first, cases, outputs = len(rows), [], []
        for case in task.cases(pictures, seed, **condition):
            where = [case.image, *case.keys.values()]
            if task.set_metrics or (row := journal.row(where)) is None:
                if not warm:
                    task.warm_up(method, case, **options)
                    warm = True
                started = time.perf_counter()
                output = task.run(method, case, **options)
                seconds = time.perf_counter() - started
                row = common | {"image": case.image, **case.keys, "seconds": seconds, "megapixels": case.megapixels}
                row |= _plain(task.score(output, case))
                journal.keep(where, row)
                if task.set_metrics:
                    cases.append(case)
                    outputs.append(output)
            rows.append(row)
        if task.set_metrics:
            rows.append(common | {"image": "", **condition, **_plain(task.score_set(outputs, cases))})
        if report and rows[first:]:
            report(_progress(task, rows[first:], condition))
    table = pd.DataFrame(rows, columns=columns_of(task)).assign(num_rows=len(rows))
    return table


def _progress(task: Task, rows: list[dict], condition: dict[str, Any]) -> str:
    metric = (*task.metrics, *task.set_metrics)[0]
    values = [row[metric.name] for row in rows if row.get(metric.name) is not None]
    mean = sum(values) / len(values) if values else math.nan
    where = ", ".join(
        f"{key} {value:g}" if isinstance(value, float | int) else f"{key} {value}" for key, value in condition.items()
    )
    method = " ".join(filter(None, (rows[0]["method"], rows[0]["variant"])))
    return f"{method} on {rows[0]['dataset']}{', ' if where else ''}{where}: {metric.name} {mean:.{metric.digits}f} {metric.unit}".rstrip()


def columns_of(task: Task | type[Task]) -> list[str]:
    """Columns of a task's score files, in order."""
    measured = [metric.name for metric in (*task.metrics, *task.set_metrics)]
    return [*ABOUT, *task.keys, *measured, *task.columns, *PROVENANCE]


class _Journal:
    """Rows of an unfinished job, kept beside its score file: a job that was killed goes on where it stopped."""

    def __init__(self, scores: Path | None, identity: str):
        self.path = None if scores is None else journal_of(_checked(scores))
        self.rows: dict[str, dict] = {}
        if self.path is None:
            return
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
        if lines[:1] == [identity]:
            for line in lines[1:]:
                try:
                    where, row = json.loads(line)
                except ValueError:  # the line that was being written when the process was killed
                    break
                self.rows[json.dumps(where)] = row
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with atomic(self.path) as temporary, open(temporary, "w", encoding="utf-8") as handle:
            handle.write(identity + "\n")
            for where, row in self.rows.items():
                handle.write(json.dumps([json.loads(where), row]) + "\n")

    def row(self, where: list) -> dict | None:
        return self.rows.get(json.dumps(where))

    def keep(self, where: list, row: dict) -> None:
        if self.path is not None:
            with open(self.path, "a", encoding="utf-8") as handle:
                handle.write(json.dumps([where, row]) + "\n")


def _plain(measured: dict[str, Any]) -> dict[str, Any]:
    """Numbers of NumPy and PyTorch as those of Python, which files and tables hold."""
    return {key: value.item() if hasattr(value, "item") else value for key, value in measured.items()}


def journal_of(scores: Path) -> Path:
    """File of the rows of an unfinished job; hidden, so that no reader takes it for scores."""
    return scores.with_name(f".{scores.stem}.unfinished.jsonl")


def unfinished(scores: Path) -> tuple[int, int, str] | None:
    """How far the unfinished job of a score file is: cases done, cases in all, and the last case in words. None without one."""
    try:
        identity, *rows = map(
            json.loads, journal_of(scores).read_text(encoding="utf-8").rpartition("\n")[0].splitlines()
        )
        pictures, conditions = num_pictures(identity["dataset"]), identity["conditions"]
        total = min(pictures, identity["limit"] or pictures) * len(conditions_of(conditions))
        row = rows[-1][1] if rows else None
    except (OSError, ValueError, KeyError):  # there is none, or it is being written
        return None
    last = "" if row is None else ", ".join([row["image"], *(f"{key} {row[key]}" for key in conditions)])
    return len(rows), total, last


def weights_of(method: Any) -> tuple[str, str]:
    """Budget and SHA-256 of a method's weights, as score rows name them.

    Networks that are its parts count as well: the hash of each follows the method's own after a "+", in the order of the
    parts' names.
    """
    card = getattr(method, "card", {"budget": "none", "sha256": ""})
    children = sorted(method.named_children()) if isinstance(method, torch.nn.Module) else []
    parts = [weights_of(child)[1] for _, child in children if getattr(child, "card", {}).get("sha256")]
    return card["budget"], "+".join([card["sha256"], *parts])


def device_of(method: Any) -> tuple[torch.device, str]:
    """Where a method computes, and that with precision and threads in words. What learns nothing computes on the CPU."""
    parameters = method.parameters() if isinstance(method, torch.nn.Module) else iter(())
    device = getattr(next(parameters, None), "device", torch.device("cpu"))
    threads = torch.get_num_threads()
    precision = getattr(method, "precision", "float")
    return device, f"{device.type}, {precision}, {threads} thread{'s' * (threads > 1)}"


def _processor(device: torch.device) -> str:
    """The processor or GPU without the number of threads, which PyTorch's part of the row has."""
    words = hardware(device)
    return words.split(", ", 1)[-1] if device.type == "cpu" else words


@functools.lru_cache
def gigaflops(method: str, side: int = 256) -> float | None:
    """Operations of a network that is trained here, on a picture of `side` pixels a side, in units of 1e9: see `count_macs`.

    None for other methods.
    """
    if method not in papers.networks():
        return None
    with torch.device("meta"):  # shapes only
        network = papers.network(method).build()
    return count_macs(network, (network.channels or 1, side, side)) / 1e9


# --- Score files


def score_file(name: str, results: Path | None = None) -> Path:
    """The score file of that name, such as "own/mine.csv", below the folder of scores.

    Args:
        name: relative, with slashes; it ends in ".csv".
        results: results folder; default `results/`.

    Raises:
        ValueError: the name leads out of the folder of scores, is hidden, or does not end in ".csv".
    """
    parts = PurePosixPath(name).parts
    if not parts or not name.endswith(".csv") or "\\" in name or any(part.startswith((".", "/")) for part in parts):
        raise ValueError(
            f"{name!r} is no name of a score file; expected one below the folder of scores, such as 'own/mine.csv', "
            "with no part that begins with a dot"
        )
    return (paths.results_dir() if results is None else results) / "scores" / Path(*parts)


def _checked(path: Path) -> Path:
    if ".." in path.parts:
        raise ValueError(f"{path} leads out of its folder; give the path of the score file without '..'")
    return path


def write_scores(scores: pd.DataFrame, path: Path) -> None:
    """Write a score file, whole or not at all, with six significant digits; ValueError for a path with ".."."""
    with atomic(_checked(path)) as temporary:
        scores.to_csv(temporary, index=False, float_format="%.6g", quoting=csv.QUOTE_MINIMAL)
    journal_of(path).unlink(missing_ok=True)


def score_folder(results: Path, score: str) -> Path:
    """Folder of the files of a score, named "paper/score", in a results folder."""
    return results / "scores" / score


def read_scores(*scores: str | Path, results: Path | None = None) -> pd.DataFrame:
    """Rows of some scores as one table.

    Args:
        scores: each "paper/score", a folder, or a score file.
        results: results folder that names are looked up in; default `results/`.

    Raises:
        FileNotFoundError: there are none; names the command that makes them.
        ValueError: a file is not a score file or is cut off, or two rows are of the same.
    """
    results = paths.results_dir() if results is None else results
    places = [place if isinstance(place, Path) else score_folder(results, place) for place in scores]
    files = [file for place in places for file in score_files(place)]
    if not files:
        raise FileNotFoundError(f"no scores in {' or '.join(map(str, places))}; make them with `make paper`")
    table = pd.concat([_read(file) for file in files], ignore_index=True)
    keys = [key for task in table["task"].unique() for key in resolve(task, "tasks").keys]
    same = [*ABOUT, *dict.fromkeys(keys), "seed"]
    twice = table[table.duplicated(same, keep=False)]
    if len(twice):
        first = twice.iloc[0]
        both = twice[(twice[same].astype(str) == first[same].astype(str)).all(axis=1)]["file"].unique()
        where = ", ".join(
            f"{key} {first[key]:g}" if isinstance(first[key], float | int) else f"{key} {first[key]}" for key in keys
        )
        raise ValueError(
            f"{first['method']} on {first['image']} ({where}) is scored twice, in {' and '.join(map(str, both))}; "
            "delete the older file"
        )
    return table.drop(columns="file")


def score_files(place: Path) -> list[Path]:
    """Score files of a folder. Hidden ones are no scores: unfinished files, and JupyterLab's checkpoints."""
    if place.is_file():
        return [place]
    files = place.rglob("*.csv")
    return sorted(file for file in files if not any(part.startswith(".") for part in file.relative_to(place).parts))


def _read(file: Path) -> pd.DataFrame:
    texts = dict.fromkeys(("variant", "image", "budget", "weights_sha256", "commit"), str)
    try:
        table = pd.read_csv(file, keep_default_na=False, na_values=[""], dtype=texts)
    except ValueError as error:  # what pandas raises on an empty or broken file
        raise ValueError(f"{file} is not a score file: {error}; delete it and run again") from None
    needed = [*ABOUT, *PROVENANCE]
    if "task" in table.columns:
        needed += [column for task in table["task"].dropna().unique() for column in columns_of(resolve(task, "tasks"))]
    if missing := [column for column in needed if column not in table.columns]:
        raise ValueError(f"{file} is not a score file: column {missing[0]!r} is missing; delete it and run again")
    wrong = table[table["num_rows"] != len(table)]  # a line that was cut off has another number, or none
    if len(wrong) or not len(table):
        expected = table["num_rows"].max() if len(table) else 0
        raise ValueError(f"{file} has {len(table)} rows of {expected:g}: it was cut off; delete it and run again")
    for column in texts:
        table[column] = table[column].fillna("")
    return table.assign(file=str(file))


def summarise(scores: pd.DataFrame) -> pd.DataFrame:
    """Means over pictures: one row per method, variant, set and condition, with the number of pictures.

    Columns: the task's keys, metrics and further numbers, seconds (per picture), seconds_per_megapixel, num_images, budget,
    num_parameters, sigma_train.
    """
    tasks = [resolve(task, "tasks") for task in scores["task"].unique()]
    keys = ["method", "variant", "requested", "dataset", *dict.fromkeys(key for task in tasks for key in task.keys)]
    named = [m.name for task in tasks for m in (*task.metrics, *task.set_metrics)]
    named += [column for task in tasks for column in task.columns if pd.api.types.is_numeric_dtype(scores[column])]
    groups = scores.groupby(keys, sort=False, dropna=False)
    table = groups[[*dict.fromkeys(named), "seconds"]].mean()
    table["seconds_per_megapixel"] = groups["seconds"].sum() / groups["megapixels"].sum()
    table["num_images"] = groups["image"].agg(lambda images: images[images != ""].nunique())  # "" is the whole set
    for column in ("budget", "num_parameters", "sigma_train", "seed"):
        table[column] = groups[column].first()
    return table.reset_index()
