"""Trained weights: safetensors with a card that says where they come from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from invdenoise import datasets, paths
from invdenoise.experiments import experiment, experiments
from invdenoise.files import atomic, sha256
from invdenoise.models import DenoisingNetwork
from invdenoise.models.dncnn import read_authors_weights

# Authors' released DnCNN: our name -> noise level. The file is an item of dataset `weights`.
AUTHORS_DNCNN = {f"dncnn-authors-s{sigma}": sigma for sigma in (15, 25, 50)}


def network_names() -> list[str]:
    """Names that `load_network` knows: the experiments, then the authors' weights."""
    return [*experiments(), *AUTHORS_DNCNN]


def weights_path(name: str, budget: str | None = None) -> Path:
    """File of the released weights of an experiment, or of a local run of `budget`."""
    if budget is None:
        return paths.RELEASED_WEIGHTS / f"{name}.safetensors"
    return paths.runs_dir() / name / budget / "weights.safetensors"


def card_path(weights: Path) -> Path:
    """The card beside a weights file."""
    return weights.with_suffix(".json")


def save_weights(network: torch.nn.Module, path: Path, card: dict[str, Any]) -> None:
    """Write the float32 weights to `path` and the card, with their SHA-256, beside it; each whole or not at all."""
    tensors = {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
    with atomic(path) as temporary:
        save_file(tensors, temporary)
    with atomic(card_path(path)) as temporary:
        temporary.write_text(json.dumps({**card, "sha256": sha256(path)}, indent=2) + "\n")


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
        card = json.loads(path.read_text())
        expected = card["sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a readable card ({error!r}); restore it or train the weights again") from None
    if (found := sha256(weights)) != expected:
        raise ValueError(
            f"{weights} does not match its card (SHA-256 {found[:12]}, card {expected[:12]}): truncated or altered; "
            f"restore it with `git checkout {weights.name}` or train it again"
        )
    return card


def load_network(name: str, budget: str | None = None, weights: Path | str | None = None) -> DenoisingNetwork:
    """A trained network in evaluation mode, laid out for fast inference.

    Args:
        name: an experiment, or "dncnn-authors-s25" and its siblings.
        budget: take the weights of the local run of this budget; None takes the released ones.
        weights: take this file instead.

    Raises:
        ValueError: unknown name, or weights that belong to another network.
        FileNotFoundError: no weights; names the command that trains them.
    """
    if name in AUTHORS_DNCNN:
        sigma = AUTHORS_DNCNN[name]
        network = read_authors_weights(datasets.fetch("weights", f"weights/dncnn/sigma={sigma}.mat"), sigma)
        network.card = {"experiment": name, "budget": "authors", "sha256": ""}
    else:
        network = experiment(name).build()
        path = Path(weights) if weights else weights_path(name, budget)
        if not path.exists():
            command = f"make train EXPERIMENT={name} BUDGET={budget or 'laptop'}"
            raise FileNotFoundError(f"no weights for {name} at {path}; train them with `{command}`")
        network.card = read_card(path)
        if (theirs := network.card["experiment"]) != name:
            raise ValueError(f"{path} holds the weights of {theirs}, not of {name}; load them by that name")
        load_weights(network, path)
    network.name = name
    return network.eval().to(memory_format=torch.channels_last)


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
