"""A name becomes a method ready to use: a classical one, a network trained here, or one with its authors' weights."""

from __future__ import annotations

import difflib
from pathlib import Path

from torch import channels_last, nn

from invdenoise import device, kernels, papers
from invdenoise.data.fetch import DataUnavailable, fetch
from invdenoise.files import sha256
from invdenoise.models import classical
from invdenoise.models.base import Denoiser
from invdenoise.papers import BUDGETS, Network, resolve
from invdenoise.weights import (
    can_be_had,
    card_path,
    load_weights,
    read_card,
    released_weights,
    training_command,
    weights_path,
)

AUTHORS = "authors"  # budget on the card of weights that others trained


def load_network(
    name: str, budget: str | None = None, weights: Path | str | None = None, with_parts: bool = True
) -> nn.Module:
    """A trained network in evaluation mode, laid out for fast inference, with the networks that are its parts.

    Args:
        name: a network of a `paper.yaml`, trained here or with its authors' weights.
        budget: take the weights of the local run of this budget; None takes the released ones.
        weights: take this file instead.
        with_parts: load its parts too, such as the estimator of the noise level.

    Raises:
        ValueError: unknown name, or weights that belong to another network.
        FileNotFoundError: no weights; names the command that trains them.
        DataUnavailable: the authors' file could not be had.
    """
    if budget is not None and budget not in BUDGETS:
        raise ValueError(
            f"budget is {budget!r}; expected one of {', '.join(BUDGETS)}, or None for the released weights"
        )
    if name in papers.authors():
        network, parts = _with_authors_weights(name, weights), papers.authors()[name].parts
    else:
        network, parts = _trained_here(papers.network(name), budget, weights), papers.network(name).parts
    network.name = name
    if with_parts:
        for attribute, part in parts.items():
            setattr(network, attribute, load_network(part, budget))
    return network.eval().to(memory_format=channels_last)


def _with_authors_weights(name: str, weights: Path | str | None) -> nn.Module:
    if weights is not None:
        raise ValueError(f"{name} is read from its authors' file, not from {weights}; leave out weights")
    entry = papers.authors()[name]
    file = fetch("weights", entry.file)
    network = resolve(entry.read, "models")(file, **entry.options)
    network.card = {"experiment": name, "budget": AUTHORS, "sha256": sha256(file)}
    return network


def _trained_here(declared: Network, budget: str | None, weights: Path | str | None) -> nn.Module:
    network = declared.build()
    if weights is None and budget is None:
        path, card = released_weights(declared.name), card_path(weights_path(declared.name))
    else:
        path, card = Path(weights) if weights else weights_path(declared.name, budget), None
        if not path.exists():
            command = training_command(declared.name, budget)
            raise FileNotFoundError(f"no weights for {declared.name} at {path}; train them with `{command}`")
    network.card = read_card(path, card)
    if (theirs := network.card["experiment"]) != declared.name:
        raise ValueError(f"{path} holds the weights of {theirs}, not of {declared.name}; load them by that name")
    load_weights(network, path)
    return network


def load_denoiser(name: str, *, reference: bool = False, **options) -> Denoiser:
    """The denoiser of that name, ready to use: a trained network or a classical method.

    On a CPU, `denoise` of a network runs in the library's C++ kernel where it has one, several times faster than in
    PyTorch. Both compute in float32 and differ by rounding: by at most 2e-5 for pixels in [0, 1]. Calls of the network
    whose gradient is needed take PyTorch's operations. The first use on a machine compiles the kernel, in seconds; where
    that fails, a warning says why, and PyTorch's operations serve. For many pictures in the precision that is fastest on
    this machine, see `kernels.speed_up`.

    Also limits PyTorch to the cores that are free, see `device.use_free_cores`.

    Args:
        name: one of `list_denoisers()`.
        reference: True runs a network by PyTorch's operations alone, as `INVDENOISE_KERNELS=off` does for all.
        options: passed on to the loader (networks: `budget`, `weights`; classical methods: their parameters).

    Raises:
        ValueError: no such name; the message lists the nearest.
        FileNotFoundError: a network whose weights are not there; the message names the command that trains or fetches.
    """
    if name in classical.METHODS:
        return classical.load(name, **options)
    if name not in (known := list_denoisers(everything=True)):
        near = difflib.get_close_matches(name, known) or list_denoisers()
        raise ValueError(f"no denoiser {name!r}; did you mean {', '.join(near)}?")
    device.use_free_cores()
    network = load_network(name, **options)
    return network if reference else kernels.attach(network, "float32", gradients=False)


def list_denoisers(everything: bool = False) -> list[str]:
    """The names that `load_denoiser` can load here: classical methods, then networks.

    Authors' weights that are not here yet count: loading fetches them.

    Args:
        everything: also list methods whose package is not installed, and networks without released weights. Loading one
            of them fails with the command that helps.
    """
    names = [*classical.METHODS, *networks_with("denoise")]
    return names if everything else [name for name in names if not _missing(name)]


def is_network(name: str) -> bool:
    """Whether a paper declares a network of that name."""
    return name in papers.networks() or name in papers.ablations() or name in papers.authors()


def networks_with(verb: str) -> list[str]:
    """Names of the networks that have a method of that name: those trained here, then those with their authors' weights."""
    ours = [name for name, entry in papers.networks().items() if hasattr(resolve(entry.model, "models"), verb)]
    return [*ours, *(name for name, entry in papers.authors().items() if entry.verb == verb)]


def parts_of(name: str) -> list[str]:
    """The network itself and the networks that are its parts; empty for a method that is no network."""
    if not is_network(name):
        return []
    entry = papers.authors()[name] if name in papers.authors() else papers.network(name)
    return [name, *(other for part in entry.parts.values() for other in parts_of(part))]


def why_not(name: str, trained_here: tuple[str, ...] = ()) -> str:
    """Why a method cannot be run, or an empty string. Fetches authors' weights that are not here yet.

    Args:
        trained_here: networks whose weights need not be released, since this run trains them.
    """
    if reason := _missing(name, trained_here):
        return reason
    for part in parts_of(name):
        if part in papers.authors():
            try:
                fetch("weights", papers.authors()[part].file)
            except DataUnavailable:
                return f"the authors' weights{_of(part, name)} could not be reached"
    return ""


def _missing(name: str, trained_here: tuple[str, ...] = ()) -> str:
    """What a method lacks that cannot be fetched, or an empty string."""
    if name in classical.METHODS:
        return "" if classical.is_installed(name) else "package not installed"
    for part in parts_of(name):
        if part not in (*papers.authors(), *trained_here) and not can_be_had(part):
            return f"no released weights{_of(part, name)}"
    return ""


def _of(part: str, name: str) -> str:
    return "" if part == name else f" of {part}, which it needs"
