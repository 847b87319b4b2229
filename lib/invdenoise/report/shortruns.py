"""Short runs of a paper, one setting changed in each: what the notebooks on them share."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from invdenoise import papers, plan
from invdenoise.papers import Paper, Recipe
from invdenoise.report.tables import read_curve


def short_runs(paper: Paper, changes: Iterable[str], folder: Path) -> pd.DataFrame:
    """A row for each of these changes and each seed: `change`, `seed`, `run` (name of the network), and `psnr`.

    `psnr` is the validation PSNR after the last step in dB, NaN for a run that is not finished. `folder` is a results folder; where
    it has not all runs of the paper, the released ones count (`plan.ablation_curves`).

    Raises:
        ValueError: the paper declares no such change.
    """
    changes, known = list(changes), paper.declared.ablations.changes
    if missing := [change for change in changes if change not in known]:
        raise ValueError(f"{paper.name} declares no change {missing[0]!r}; there are {', '.join(known)}")
    curves = plan.ablation_curves(folder, paper.name)
    rows = [
        {"change": change, "seed": seed, "run": run}
        | {"psnr": read_curve(curves[run])["val_psnr"].iloc[-1] if run in curves else math.nan}
        for change in changes
        for seed, run in paper.declared.ablations.runs(change).items()
    ]
    return pd.DataFrame(rows, columns=["change", "seed", "run", "psnr"])


def networks_of(runs: pd.DataFrame) -> dict[str, object]:
    """The untrained network of each change, by the change's name; seeds differ in its weights alone."""
    return {
        change: papers.network(run).build() for change, run in runs.drop_duplicates("change")[["change", "run"]].values
    }


def recipe_of(runs: pd.DataFrame) -> Recipe:
    """How the first of these runs is trained."""
    return papers.network(runs["run"].iloc[0]).recipe("laptop")


def notes_of(runs: pd.DataFrame, pictures: str = "pictures", when: str = "after the last step") -> list[str]:
    """How many runs are finished, how each is trained, and on what it is validated, as lines of a Markdown list."""
    recipe, finished = recipe_of(runs), int(runs["psnr"].count())
    return [
        f"- finished: {finished} of {len(runs)} runs" + ("" if finished else "; **not run: make ablations**"),
        f"- each: {recipe.steps} steps of {recipe.batch_size} crops, {recipe.patch_size} pixels a side",
        f"- validation: {recipe.validation} {pictures} held out of training, {when}",
    ]
