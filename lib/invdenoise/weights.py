"""Weights files: safetensors with a card that says where they come from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from invdenoise import paths
from invdenoise.files import atomic, sha256
from invdenoise.paths import plain_name


def weights_path(name: str, budget: str | None = None) -> Path:
    """File of the released weights of a network, or of a local run of `budget`.

    Raises:
        ValueError: the name or the budget is not a plain name, such as "../other".
    """
    plain_name(name, "the network's name")
    if budget is None:
        return paths.RELEASED_WEIGHTS / f"{name}.safetensors"
    return paths.runs_dir() / name / plain_name(budget, "budget") / "weights.safetensors"


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


def read_card(weights: Path) -> dict[str, Any]:
    """The card of a weights file.

    Raises:
        FileNotFoundError: no card.
        ValueError: the card is damaged, or belongs to another file: the weights were altered or truncated.
    """
    path = card_path(weights)
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
            f"{_restore(weights)}train it again"
        )
    return card


def _restore(weights: Path) -> str:
    """How to get back released weights; local ones are kept nowhere else."""
    if not weights.absolute().is_relative_to(paths.RELEASED_WEIGHTS):
        return ""
    return f"restore it with `git checkout {weights.absolute().relative_to(paths.ROOT)}` or "


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
