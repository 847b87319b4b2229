"""What keeps a run from being released: results whose code, weights or starts cannot be found again.

Every fault is a sentence that names the file, the row and the remedy.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from invdenoise import methods, papers, paths
from invdenoise.data.fetch import describe, registered_files
from invdenoise.files import sha256
from invdenoise.papers import resolve
from invdenoise.provenance import CHANGED, UNKNOWN, NoHistory, changes, git
from invdenoise.tasks.base import read_scores, score_files, score_folder
from invdenoise.weights import add_to_card, card_path, read_card, weights_path

AGAIN = "delete the file and run `make paper` again"
LOWER = "lower_validation"  # on a card: why weights were released that validate worse than those before
STARTED = re.compile(
    r"(\S+) \(([0-9a-f]{8,64})\)"
)  # as a card names a start: network and first digits of its weights' hash
COMMIT = re.compile(r"[0-9a-f]{7,40}")


def faults(results: Path) -> list[str]:
    """All that speaks against releasing the run in a results folder; empty when nothing does.

    Raises:
        FileNotFoundError, ValueError: scores that cannot be read, or a file that is cut off.
    """
    files = read_files(results)
    try:
        return [*tree_faults(), *row_faults(files), *precision_faults(files), *card_faults()]
    except NoHistory as error:
        return [f"the origin of results cannot be checked: {error}"]


# --- The checkout


def tree_faults() -> list[str]:
    """Uncommitted changes. Released results and READMEs do not count: they are made by releasing."""
    released = f"{paths.RELEASED.relative_to(paths.ROOT).as_posix()}/"
    found = [name for name in changes() if not name.startswith(released) and Path(name).name != "README.md"]
    if not found:
        return []
    return [f"the checkout has uncommitted changes ({_some(found)}); commit or undo them"]


def _some(names: list[str], most: int = 3) -> str:
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


# --- Score rows


@dataclass(frozen=True)
class ScoreFile:
    """A score file of a paper, with its rows in the order of its lines; `score` is "paper/score"."""

    score: str
    path: Path
    rows: pd.DataFrame


def read_files(results: Path) -> list[ScoreFile]:
    """The score files of all papers in a results folder; raises as `read_scores` does."""
    scores = [paper.score_name(score) for paper in papers.papers().values() for score in paper.scores]
    return [
        ScoreFile(score, path, read_scores(path))
        for score in scores
        for path in score_files(score_folder(results, score))
    ]


def row_faults(files: list[ScoreFile]) -> Iterator[str]:
    """Rows measured with other weights than the released ones, or by code that is in no commit."""
    known: dict[str, bool] = {}
    for file in files:
        for _, rows in file.rows.groupby(["method", "weights_sha256", "commit"], sort=False):
            first = rows.iloc[0]
            more = f" and {len(rows) - 1} more" if len(rows) > 1 else ""
            image = first["image"] or "the whole set"
            where = f"{file.path}, line {rows.index[0] + 2}{more} ({first['method']} on {image})"
            if reason := wrong_weights(first["method"], first["weights_sha256"], first["commit"]):
                yield f"{where}: {reason}; {AGAIN}"
            if reason := _wrong_commit(first["commit"], known):
                yield f"{where}: {reason}; {AGAIN}"


def wrong_weights(method: str, found: str, commit: str) -> str:
    """What is wrong with the hash of the weights that a row names, or an empty string.

    Older rows name the network's own weights alone, without its parts. They are right when the parts were the same in
    their commit.
    """
    if not methods.is_network(method):
        return f"names weights {found[:12]}, but no paper declares a network {method}" if found else ""
    wanted = released_weights(method)
    if wanted is None:
        return f"there are no released weights of {method} or of one of its parts"
    if not found:
        return "names no hash of its weights"
    if found == wanted:
        return ""
    own, plus, _ = wanted.partition("+")
    if plus and found == own:
        return _changed_part(method, commit)
    return f"was measured with weights {_short(found)}, the released ones are {_short(wanted)}"


def _changed_part(method: str, commit: str) -> str:
    """The part of a network whose weights were others in a commit, in words; or an empty string."""
    for part in methods.parts_of(method)[1:]:
        if part not in papers.authors() and _sha_at(commit.removesuffix(CHANGED), part) != released_weights(part):
            return f"was measured when {part}, a part of {method}, had other weights"
    return ""


def _short(hashes: str) -> str:
    return "+".join(each[:12] for each in hashes.split("+"))


def released_weights(method: str) -> str | None:
    """Hash of a network's weights as its rows name it, see `tasks.base.weights_of`; None where there are no weights.

    That of weights trained here is of the file in `results/weights`, that of authors' weights is the registered one.
    """
    others = papers.authors()
    entry = others.get(method) or papers.network(method)
    if method in others:
        own = next((file.sha256 for file in registered_files(describe("weights")) if file.file == entry.file), None)
    else:
        own = sha256(path) if (path := weights_path(method)).exists() else None
    hashes = [own, *(released_weights(part) for _, part in sorted(entry.parts.items()))]
    return None if None in hashes else "+".join(hashes)


def _wrong_commit(found: str, known: dict[str, bool]) -> str:
    """What is wrong with the commit that a row names, or an empty string. `known` keeps what git said."""
    if found in ("", UNKNOWN):
        return "names no commit"
    if found.endswith(CHANGED):
        return f"was measured by code with uncommitted changes (commit {found})"
    if found not in known:
        known[found] = COMMIT.fullmatch(found) is not None and _in_history(found)
    return "" if known[found] else f"names commit {found}, which this repository does not have{_shallow()}"


def _in_history(commit: str) -> bool:
    try:
        git("cat-file", "-e", f"{commit}^{{commit}}")
    except NoHistory:
        return False
    return True


def _shallow() -> str:
    shallow = git("rev-parse", "--is-shallow-repository").strip() == b"true"
    return " (the clone is shallow: `git fetch --unshallow` first)" if shallow else ""


def precision_faults(files: list[ScoreFile]) -> Iterator[str]:
    """Methods with rows of several precisions in one table: in one score, or in the scores that a comparison reads."""
    found: dict[str, dict[str, dict[str, Path]]] = {}  # score -> method -> precision -> a file
    for file in files:
        for (method, device), _ in file.rows.groupby(["method", "device"], sort=False):
            found.setdefault(file.score, {}).setdefault(method, {}).setdefault(precision_of(device), file.path)
    told = set()
    for table in sorted(_tables()):
        for method in sorted({method for score in table for method in found.get(score, {})}):
            which = {
                precision: path for score in table for precision, path in found.get(score, {}).get(method, {}).items()
            }
            if len(which) > 1 and (method, *which) not in told:
                told.add((method, *which))
                where = " and ".join(f"in {precision} in {path}" for precision, path in which.items())
                yield f"{method} was measured {where}, and one table shows both; use one precision: {AGAIN}"


def _tables() -> set[tuple[str, ...]]:
    """Scores that are shown together, as "paper/score": each by itself, and those that a comparison reads."""
    found = set()
    for paper in papers.papers().values():
        for reads in [*((score,) for score in paper.scores), *(place.reads for place in paper.compare.values())]:
            found.add(tuple(map(paper.score_name, reads)))
    return found


def precision_of(device: str) -> str:
    """Precision of the activations, from the column `device`: "cpu, bfloat16, 1 thread"."""
    return device.split(", ")[1] if ", " in device else device


# --- Weights


def card_faults() -> Iterator[str]:
    """Released weights with a lost start, with lower validation than those before, or newly trained by changed code."""
    last = git("log", "-1", "--format=%H", "--", str(paths.RELEASED)).decode().strip()
    for file in sorted(paths.RELEASED_WEIGHTS.glob("*.safetensors")):
        try:
            card = read_card(file)
        except (OSError, ValueError) as error:
            yield str(error)
            continue
        where = card_path(file)
        if lost := lost_start(card):
            yield (
                f"{where}: started from {lost}, which is neither in {paths.RELEASED_WEIGHTS} nor in its history"
                f"{_shallow()}; commit the weights that it started from, or train it again"
            )
        if reason := lower_validation(file.stem, card):
            yield f"{where}: {reason}"
        if str(card.get("commit", "")).endswith(CHANGED) and not _was_released(file.stem, card["sha256"], last):
            changed = f"trained by code with uncommitted changes (commit {card['commit']})"
            yield f"{where}: {changed}; train it again from a commit"


def _was_released(name: str, sha: str, last: str) -> bool:
    """Whether weights were in the checkout at the last release or before it.

    Args:
        last: the release's commit; empty where nothing was released yet.
    """
    return bool(last) and any(where and card["sha256"] == sha for where, card in versions(name, last))


def _sha_at(commit: str, name: str) -> str:
    """Hash on the card of a network's weights in a commit; empty where it had none."""
    if not COMMIT.fullmatch(commit):  # to git, no commit at all would be what is staged
        return ""
    card = card_path(weights_path(name)).relative_to(paths.ROOT).as_posix()
    try:
        return json.loads(git("show", f"{commit}:{card}"))["sha256"]
    except (NoHistory, ValueError, KeyError):
        return ""


def lost_start(card: dict[str, Any]) -> str | None:
    """The first start that cannot be found, following starts of starts; None when all are found.

    A start is found when the weights of its network in `results/weights`, now or in a commit before, have its hash.
    """
    start, seen = card.get("started_from"), set()
    while start and start not in seen:
        seen.add(start)
        match = STARTED.fullmatch(start)
        found = next((c for _, c in versions(match[1]) if c["sha256"].startswith(match[2])), None) if match else None
        if found is None:
            return start
        start = found.get("started_from")
    return None


def versions(name: str, last: str = "HEAD") -> Iterator[tuple[str, dict[str, Any]]]:
    """Released weights of a network, the latest first: "" or the commit, and the card.

    A commit whose card is of other weights is left out, and so are commits after `last`.
    """
    file = weights_path(name)
    if file.exists():
        yield "", read_card(file)
    inside = file.relative_to(paths.ROOT).as_posix()
    for commit in git("log", "--format=%H", last, "--", inside).decode().split():
        try:
            content, card = (
                git("show", f"{commit}:{inside}"),
                git("show", f"{commit}:{card_path(Path(inside)).as_posix()}"),
            )
            read = json.loads(card)
        except (NoHistory, ValueError):  # the commit that removed it, or one with a damaged card
            continue
        if hashlib.sha256(content).hexdigest() == read.get("sha256"):
            yield commit, read


def lower_validation(name: str, card: dict[str, Any]) -> str:
    """What is wrong when weights validate worse than those that they replaced; empty when their card gives a reason."""
    before = next((other for _, other in versions(name) if other["sha256"] != card["sha256"]), None)
    measure = next((key for key in before or () if key.startswith("validation_")), None)
    if measure is None or (fall := _fall(name, before[measure], card.get(measure))) == "":
        return ""
    accepted = card.get(LOWER) or {}
    if accepted.get("replaced") == before["sha256"] and str(accepted.get("reason", "")).strip():
        return ""
    return (
        f"{measure} {fall} with the weights that replaced {before['sha256'][:12]}; bring those back from the history "
        f"of {weights_path(name).name}, or give a reason: "
        f"`python -m invdenoise.report.release --accept {name} --reason '...'`"
    )


def _fall(name: str, before: float, now: float | None) -> str:
    """How a validation became worse, in words; empty when it did not."""
    if now is None:
        return f"was {before:.4f} and is missing"
    declared = papers.networks().get(name)
    metrics = resolve(declared.task, "tasks").metrics if declared and declared.task else ()
    worse = now > before if metrics and metrics[0].higher_is_better is False else now < before
    return f"fell from {before:.4f} to {now:.4f}" if worse else ""


def accept_lower(name: str, reason: str) -> Path:
    """Write on the card of released weights why they replaced weights that validate better; returns the card's path.

    Raises:
        ValueError: the reason is empty, or the validation did not become worse.
        FileNotFoundError: no released weights of that name.
    """
    file = weights_path(name)
    if not file.exists():
        raise FileNotFoundError(f"no released weights of {name} at {file}")
    if not reason.strip():
        raise ValueError(f"give a reason why weights of {name} with lower validation are released: --reason '...'")
    card = {key: value for key, value in read_card(file).items() if key != LOWER}
    if not lower_validation(name, card):
        raise ValueError(f"the validation of {name} did not become worse; there is nothing to accept")
    before = next(other for _, other in versions(name) if other["sha256"] != card["sha256"])
    measured = {key: value for key, value in before.items() if key.startswith("validation_")}
    add_to_card(file, **{LOWER: {"replaced": before["sha256"], **measured, "reason": reason.strip()}})
    return card_path(file)
