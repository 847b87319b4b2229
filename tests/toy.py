"""A toy paper: networks of a few parameters, a source, tasks, and the `paper.yaml` that declares them."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor, nn

from invdenoise import paths
from invdenoise.data.batches import stable_seed
from invdenoise.data.noise import awgn, noise_generator
from invdenoise.data.pictures import Picture, PictureSet
from invdenoise.models.base import DenoisingNetwork
from invdenoise.papers import BUDGETS
from invdenoise.tasks.base import Case, Task
from invdenoise.tasks.metrics import PSNR, Metric, psnr

RECIPE = {
    "batch_size": 4, "patch_size": 16, "sampling": "random", "augment": True, "seed": 0, "optimizer": "muon", "lr": 3e-3,
    "adam_ratio": 0.5, "schedule": "onecycle", "warmup": 3, "final": 0.01, "clip": 0.05, "ema": 0.8, "precision": "float32",
    "compile": False, "validation": 1, "validate_every": 8, "checkpoint_every": 5, "steps": 24,
}  # fmt: skip
WHITE = {"kind": "batches.WhiteNoise", "set": "embedded-train"}


def declare(folder: Path, monkeypatch: pytest.MonkeyPatch, networks: dict, recipe: dict | None = None, **parts) -> Path:
    """Make a paper "toy" the only one, and return its `notebooks/`.

    Args:
        folder: each call writes a new folder in it, since the papers of a folder are read once.
        networks: name -> what differs from a network trained on white noise.
        recipe: what differs from `RECIPE`, for all budgets.
        parts: further keys of `paper.yaml`.
    """
    use(monkeypatch)
    notebooks = folder / f"notebooks-{len(list(folder.glob('notebooks-*')))}"
    settings = {key: value for key, value in (RECIPE | (recipe or {})).items() if value is not None}
    tree = {
        "title": "A toy", "short": "Toy", "order": 1, "cite": "nobody",
        "recipes": {"quick": {budget: settings for budget in BUDGETS}},
        "networks": {name: {"source": WHITE, "recipe": "quick", **entry} for name, entry in networks.items()},
        **parts,
    }  # fmt: skip
    (notebooks / "toy").mkdir(parents=True)
    (notebooks / "toy" / "paper.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    monkeypatch.setattr(paths, "NOTEBOOKS", notebooks)
    return notebooks


def use(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let declarations name what is in this file: `toy.Smooth`."""
    monkeypatch.setitem(sys.modules, "invdenoise.toy", sys.modules[__name__])


# --- Networks


class Smooth(DenoisingNetwork):
    """A denoiser: the image minus two convolutions of it."""

    name = "smooth"

    def __init__(self, num_features: int = 2, channels: int = 1, sigma: float | None = None):
        super().__init__(sigma)
        self.channels = channels
        self.layers = nn.Sequential(
            nn.Conv2d(channels, num_features, 3, padding=1), nn.ReLU(), nn.Conv2d(num_features, channels, 3, padding=1)
        )

    def forward(self, noisy: Tensor) -> Tensor:
        return noisy - self.layers(noisy)


class Flow(nn.Module):
    """No denoiser and no `Denoiser`: an affine map of `image` to a normal distribution, which must see data first."""

    name = "flow"

    def __init__(self):
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.ones(1, 1, 1, 1)), nn.Parameter(torch.zeros(1, 1, 1, 1))
        self.seen: list[Tensor] = []

    @torch.no_grad()
    def prepare(self, image: Tensor) -> None:
        self.seen.append(image)
        self.shift.fill_(-image.mean().item())
        self.scale.fill_(1 / image.std().item())

    def training_loss(self, image: Tensor) -> tuple[Tensor, dict[str, Any]]:
        latent = (image + self.shift) * self.scale
        prior, log_det = latent.square().mean() / 2, self.scale.abs().log().mean()
        return prior - log_det, {"prior": prior, "log_det": log_det, "largest": latent.abs().max(), "one": 1.0}

    @torch.no_grad()
    def generate(self, latent: Tensor) -> Tensor:
        """Images of latents."""
        return latent / self.scale - self.shift


def read_flow(path: Path, shift: float) -> Flow:
    """A flow with others' weights."""
    network = Flow()
    nn.init.constant_(network.shift, shift + len(path.read_bytes()))
    return network


# --- A source


class Ramps:
    """Brightness that rises from left to right with a random slope: a batch is `image` alone, and nothing is held out."""

    name, held_out = "ramps", ()

    def __init__(self, set: str, steepest: float, patch_size: int, batch_size: int, seed: int):
        self.set, self.steepest, self.seed = set, steepest, seed
        self.patch_size, self.batch_size, self.device = patch_size, batch_size, torch.device("cpu")
        self.sha256 = hashlib.sha256(f"{set}/{steepest}".encode()).hexdigest()

    @classmethod
    def load(cls, set: str, steepest: float = 1.0, *, patch_size: int, batch_size: int, seed: int, **others) -> Ramps:
        return cls(set, steepest, patch_size, batch_size, seed)

    def __len__(self) -> int:
        return 100

    def batch(self, step: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(stable_seed(self.seed, step))
        slopes = self.steepest * torch.rand(self.batch_size, 1, 1, 1, generator=generator)
        return {"image": slopes * torch.linspace(0, 1, self.patch_size).expand(1, 1, self.patch_size, -1)}


# --- Tasks

ERROR = Metric("error", "grey levels", False, 0.1, 0.5, 1)  # the lower the better
SPREAD = Metric("spread", "grey levels", None, 0.1, 0.5)
DISTANCE = Metric("distance", "", False, 0.1, 0.5)


def made_pictures(name: str, limit: int | None = None) -> PictureSet:
    """Three small pictures."""
    rng = np.random.default_rng(0)
    pictures = [Picture(f"p{number}", rng.integers(0, 256, (12, 16), np.uint8)) for number in range(3)]
    return PictureSet(name, name, tuple(pictures[:limit]), f"{name}-sha256")


class Brighten(Task):
    """Undo `gain` on noisy pictures. The error comes first among the metrics."""

    keys = ("sigma", "gain")
    metrics = (ERROR, PSNR)
    columns = ("note",)

    def __init__(self, offset: float = 0.0):
        self.offset = offset

    def pictures(self, name, limit=None):
        return made_pictures(name, limit)

    def cases(self, pictures, seed, sigma, gain=1.0):
        for picture in pictures:
            clean = picture.tensor()
            noisy = awgn(clean, sigma, noise_generator(seed, pictures.name, picture.name, sigma)) * gain + self.offset
            keys = {"sigma": sigma, "gain": gain}
            yield Case(picture.name, keys, {"noisy": noisy}, clean, clean[0, 0].numel() / 1e6)

    def run(self, method, case, **options):
        return method.denoise(case.given["noisy"], case.keys["sigma"], **options)

    def score(self, outputs, case):
        error = 255 * (outputs - case.truth).abs().mean()  # left as a tensor
        return {"error": error, "psnr": psnr(case.truth, outputs), "note": f"gain {case.keys['gain']}"}


class Generate(Task):
    """Draw pictures: no picture is given, and the distance to the true ones is of the whole set."""

    keys = ("temperature",)
    metrics = (SPREAD,)
    set_metrics = (DISTANCE,)

    def pictures(self, name, limit=None):
        return made_pictures(name, limit)

    def cases(self, pictures, seed, temperature):
        for picture in pictures:
            truth = picture.tensor()
            latent = temperature * torch.randn(
                truth.shape, generator=noise_generator(seed, pictures.name, picture.name, 0)
            )
            yield Case(picture.name, {"temperature": temperature}, {"latent": latent}, truth)

    def run(self, method, case, **options):
        return method.generate(case.given["latent"], **options)

    def score(self, outputs, case):
        return {"spread": 255 * outputs.std().numpy()[()]}

    def score_set(self, outputs, cases):
        ours, theirs = (torch.cat(images).mean() for images in (outputs, [case.truth for case in cases]))
        return {"distance": (ours - theirs).abs().item()}


def generator_of(brightness: float) -> SimpleNamespace:
    """A method that has nothing but a name and its verb."""
    return SimpleNamespace(name="drawn", generate=lambda latent: latent + brightness)
