"""The networks, one a file. `build` makes one by its class name."""

from __future__ import annotations

import inspect

from invdenoise.models.base import DenoisingNetwork
from invdenoise.models.dncnn import BFCNN, DnCNN
from invdenoise.models.dninn import DnINN
from invdenoise.models.nenet import NENet
from invdenoise.models.winnet import WINNet

# All denoise but NENet, which estimates the noise level.
MODELS: dict[str, type[DenoisingNetwork | NENet]] = {
    model.__name__: model for model in (DnINN, DnCNN, BFCNN, WINNet, NENet)
}

__all__ = ["BFCNN", "MODELS", "DenoisingNetwork", "DnCNN", "DnINN", "NENet", "WINNet", "build"]


def build(name: str, **options) -> DenoisingNetwork | NENet:
    """A fresh network of class `name` with these options; ValueError names an unknown class or option."""
    if name not in MODELS:
        raise ValueError(f"no model {name!r}; known: {', '.join(MODELS)}")
    known = inspect.signature(MODELS[name]).parameters
    if unknown := [key for key in options if key not in known]:
        raise ValueError(f"{name} has no option {unknown[0]!r}; known: {', '.join(known)}")
    return MODELS[name](**options)
