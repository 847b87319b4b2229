"""Trained weights: safetensors with a card that says where they come from."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from invdenoise import datasets, paths
from invdenoise.experiments import BUDGETS, experiment, experiments
from invdenoise.files import atomic, sha256
from invdenoise.models import DenoisingNetwork, NENet, WINNet, dncnn, nenet, winnet

ESTIMATOR = "nenet"  # experiment whose weights estimate the noise level for our blind WINNet


@dataclass(frozen=True)
class Released:
    """Weights that a paper's authors released.

    Attributes:
        file: item of dataset `weights`.
        read: makes the network from the file.
        sigma: noise level it was trained for, in grey levels; None for a blind network.
        estimator: name of the weights that estimate the noise level, for a blind WINNet.
    """

    file: str
    read: Callable[[Path], DenoisingNetwork | NENet]
    sigma: float | None = None
    estimator: str | None = None


# DnCNN for one noise level: our name -> level. Also the methods of LINN's tables.
AUTHORS_DNCNN = {f"dncnn-authors-s{sigma}": sigma for sigma in (15, 25, 50)}

AUTHORS: dict[str, Released] = {
    **{
        name: Released(f"weights/dncnn/sigma={sigma}.mat", partial(dncnn.read_authors_weights, sigma=sigma), sigma)
        for name, sigma in AUTHORS_DNCNN.items()
    },
    "dncnn-authors-blind": Released("weights/dncnn/GD_Gray_Blind.mat", partial(dncnn.read_authors_weights, sigma=None)),
    **{
        f"winnet-authors-{'2level-' if num_levels == 2 else ''}s{sigma}": Released(
            f"weights/winnet/WINNet_lvl_{num_levels}_nlvl_{sigma}/net_WINNet.pth",
            partial(winnet.read_authors_weights, num_levels=num_levels, sigma=sigma),
            sigma,
        )
        for num_levels in (1, 2)
        for sigma in (15, 25, 50)
    },
    # The released estimator is untrained (`nenet.read_authors_weights`): the second has ours in its place.
    **{
        name: Released(
            "weights/winnet/WINNet_lvl_1_nlvl_0_55/net_WINNet.pth",
            partial(winnet.read_authors_weights, num_levels=1, sigma=None),
            estimator=estimator,
        )
        for name, estimator in (("winnet-authors-blind", "nenet-authors"), ("winnet-authors-nenet", ESTIMATOR))
    },
    "nenet-authors": Released("weights/winnet/NENet/net_NENet.pth", nenet.read_authors_weights),
}
ESTIMATORS = ("nenet-authors",)  # of AUTHORS, those that do not denoise


def network_names() -> list[str]:
    """Names of the networks that denoise: the experiments, then the authors' weights. `load_network` knows them."""
    ours = [name for name, entry in experiments().items() if entry.model != NENet.__name__]
    return [*ours, *(name for name in AUTHORS if name not in ESTIMATORS)]


def estimator_names() -> list[str]:
    """Names of the networks that estimate the noise level, which `load_network` knows too."""
    return [*(name for name, entry in experiments().items() if entry.model == NENet.__name__), *ESTIMATORS]


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


def load_network(
    name: str, budget: str | None = None, weights: Path | str | None = None, with_estimator: bool = True
) -> DenoisingNetwork | NENet:
    """A trained network in evaluation mode, laid out for fast inference; a blind WINNet with its noise estimator.

    Args:
        name: an experiment, or the authors' weights "dncnn-authors-s25", "winnet-authors-blind" and so on (`AUTHORS`).
        budget: take the weights of the local run of this budget; None takes the released ones.
        weights: take this file instead.
        with_estimator: load the estimator of a blind WINNet too.

    Raises:
        ValueError: unknown name, or weights that belong to another network.
        FileNotFoundError: no weights; names the command that trains them.
    """
    if budget is not None and budget not in BUDGETS:
        raise ValueError(
            f"budget is {budget!r}; expected one of {', '.join(BUDGETS)}, or None for the released weights"
        )
    if name in AUTHORS:
        if weights is not None:
            raise ValueError(f"{name} is read from its authors' file, not from {weights}; leave out weights")
        released = AUTHORS[name]
        network = released.read(datasets.fetch("weights", released.file))
        network.card = {"experiment": name, "budget": "authors", "sha256": ""}
        estimator = released.estimator
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
        estimator = ESTIMATOR if isinstance(network, WINNet) and network.sigma is None else None
    network.name = name
    if estimator and with_estimator:
        network.estimator = load_network(estimator, budget)
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
