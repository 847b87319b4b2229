"""Weights files: safetensors with a card that says where they come from."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pooch
import torch
from safetensors.torch import load_file, save_file

from invdenoise import paths
from invdenoise.data.fetch import masked
from invdenoise.files import atomic, sha256
from invdenoise.paths import plain_name

ELSEWHERE = "INVDENOISE_WEIGHTS"  # environment variable: a folder or an address that has released weights


def weights_path(name: str, budget: str | None = None) -> Path:
    """File of the released weights of a network, or of a local run of `budget`.

    Raises:
        ValueError: the name or the budget is not a plain name, such as "../other".
    """
    plain_name(name, "the network's name")
    if budget is None:
        return paths.RELEASED_WEIGHTS / f"{name}.safetensors"
    return paths.runs_dir() / name / plain_name(budget, "budget") / "weights.safetensors"


def can_be_had(name: str) -> bool:
    """Whether `released_weights` has or can fetch the weights of a network. Nothing is fetched; an address is believed."""
    path = weights_path(name)
    if path.exists():
        return True
    elsewhere = os.environ.get(ELSEWHERE, "").strip()
    if not elsewhere or not card_path(path).exists():
        return False
    return "://" in elsewhere or (_folder(elsewhere) / path.name).exists()


def released_weights(name: str) -> Path:
    """File of the released weights of a network. Its card is `card_path(weights_path(name))`.

    An installed package has all cards and the small weights. Others are taken from where INVDENOISE_WEIGHTS says: a folder, or
    an http address, from which they are fetched once, by the SHA-256 of the card, to `cache_dir()/weights`.

    Raises:
        FileNotFoundError: the file is not to be had; names it and the remedies.
        ValueError: the address has another file of that name.
    """
    path = weights_path(name)
    if path.exists():
        return path
    if not card_path(path).exists():
        raise FileNotFoundError(f"no weights for {name} at {path}; train them with `{training_command(name)}`")
    elsewhere = os.environ.get(ELSEWHERE, "").strip()
    if "://" in elsewhere:
        return _fetched(path, elsewhere)
    file = _folder(elsewhere) / path.name if elsewhere else path
    if file.exists():
        return file
    found = f"is not in {file.parent}, which {ELSEWHERE} names" if elsewhere else f"is not in {path.parent}"
    raise FileNotFoundError(f"no weights for {name}: {path.name} {found}; {_remedies(path)}")


def _folder(elsewhere: str) -> Path:
    return Path(os.path.expanduser(os.path.expandvars(elsewhere))).absolute()


def _remedies(path: Path) -> str:
    """How to get released weights that are not where they belong."""
    restore = "" if paths.INSTALLED else f"restore it with `git checkout {paths.shown(path)}`, or "
    return (
        f"{restore}set {ELSEWHERE} to a folder that has it, such as results/weights of a checkout, or to the http address of "
        "such a folder (none is built in)"
    )


def _fetched(path: Path, address: str) -> Path:
    """The weights from an address, verified by the card that came with the library."""
    expected = json.loads(card_path(path).read_text(encoding="utf-8"))["sha256"]
    try:
        file = pooch.retrieve(
            f"{address.rstrip('/')}/{path.name}", f"sha256:{expected}", path.name, paths.cache_dir() / "weights"
        )
    except ValueError as error:  # another hash, or an address of an unknown kind
        raise ValueError(f"{path.name} of {masked(address)} cannot be used: {masked(str(error))}") from None
    except OSError as error:  # what requests raises, too
        reason = masked(" ".join(str(error).split()))
        raise FileNotFoundError(
            f"{path.name} could not be fetched from {masked(address)}: {reason}; {_remedies(path)}"
        ) from None
    return Path(file)


def training_command(name: str, budget: str | None = None) -> str:
    """The command that trains a network; None takes the budget of most released weights."""
    if paths.INSTALLED:
        return f"python -m invdenoise.training {name} --budget {budget or 'laptop'}"
    return f"make train EXPERIMENT={name} BUDGET={budget or 'laptop'}"


def card_path(weights: Path) -> Path:
    """The card beside a weights file."""
    return weights.with_suffix(".json")


def save_weights(network: torch.nn.Module, path: Path, card: dict[str, Any]) -> None:
    """Write the float32 weights to `path` and the card, with their SHA-256, beside it; each whole or not at all."""
    tensors = {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
    with atomic(path) as temporary:
        save_file(tensors, temporary)
    _write_card(path, {**card, "sha256": sha256(path)})


def _write_card(weights: Path, card: dict[str, Any]) -> None:
    with atomic(card_path(weights)) as temporary:
        temporary.write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")


def add_to_card(weights: Path, **entries: Any) -> None:
    """Write further entries on the card of a weights file; raises as `read_card` does, and then changes nothing."""
    _write_card(weights, {**read_card(weights), **entries})


def read_card(weights: Path, card: Path | None = None) -> dict[str, Any]:
    """The card of a weights file.

    Args:
        card: its file; None for the one beside the weights.

    Raises:
        FileNotFoundError: no card.
        ValueError: the card is damaged, or belongs to another file: the weights were altered or truncated.
    """
    path = card or card_path(weights)
    if not path.exists():
        raise FileNotFoundError(
            f"{weights.name} has no card {path.name} beside it; weights without origin are not used"
        )
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
        expected, _, _ = (str(card[key]) for key in ("sha256", "experiment", "budget"))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a readable card ({error!r}); restore it or train the weights again") from None
    if (found := sha256(weights)) != expected:
        raise ValueError(
            f"{weights} does not match its card (SHA-256 {found[:12]}, card {expected[:12]}): truncated or altered; "
            f"{_restore(weights)}"
        )
    return card


def _restore(weights: Path) -> str:
    """How to get back released weights; local ones are kept nowhere else."""
    if weights.absolute().parent == paths.RELEASED_WEIGHTS:
        if paths.INSTALLED:
            return "install the package again"
        return f"restore it with `git checkout {weights.absolute().relative_to(paths.ROOT)}` or train it again"
    return "train it again, or take the file of the same release"


def load_weights(network: torch.nn.Module, path: Path) -> None:
    """Load the file into `network`; ValueError naming the first tensor that does not fit, or an unreadable file."""
    try:
        tensors = load_file(path)
    except Exception as error:
        raise ValueError(f"{path} is not a readable safetensors file ({error}); restore or train it again") from None
    own = network.state_dict()
    for key in sorted(own.keys() | tensors.keys()):
        ours = tuple(own[key].shape) if key in own else "nothing"
        theirs = tuple(tensors[key].shape) if key in tensors else "nothing"
        if ours != theirs:
            raise ValueError(f"{path.name} holds weights of another network: {key} is {theirs} there, {ours} here")
    network.load_state_dict(tensors)
