"""Generation of noisy pictures: new noise for a real picture, and how like the real noise it is."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from invdenoise.data.batches import stable_seed
from invdenoise.data.noise_models import poisson_gaussian, resampled, white_gaussian
from invdenoise.data.pictures import PairSet
from invdenoise.tasks.base import Case, device_of
from invdenoise.tasks.metrics import Metric
from invdenoise.tasks.real import RealTask, seeded

# OpenCV's 7-tap "Gaussian" without a sigma is this table, and not a sampled Gaussian.
WINDOW = (1 / 32, 7 / 64, 7 / 32, 9 / 32, 7 / 32, 7 / 64, 1 / 32)
SMALLEST_VARIANCE = 1e-10
LARGEST_RATIO = 10.0  # of two variances, either way
FLOOR_DRAWS = 4  # pairs of draws that the floor is a mean of

# The mean over draws and pixels of a divergence; 0.042 for two draws of the same white noise.
AKLD = Metric("akld", "", False, 0.005, 0.02, 3)


# --- The measure


def variance_map(noisy: Tensor, clean: Tensor) -> Tensor:
    """Local variance of the noise of each pixel and channel: float64 `(B, C, H, W)`, at least 1e-10.

    The squared difference of the two pictures, averaged with the weights `WINDOW` in both directions; borders are
    continued by reflection. The mean of the noise is not subtracted, so a shift of colour counts as variance.

    Args:
        noisy, clean: float tensors `(B, C, H, W)` in [0, 1], 4x4 pixels or more; or of shapes that broadcast.
    """
    squared = (noisy.double() - clean.double()).square()
    if min(squared.shape[-2:]) < 4:
        raise ValueError(f"the picture has shape {tuple(squared.shape)}; expected 4x4 pixels or more")
    height, width = squared.shape[-2:]
    planes = F.pad(squared.flatten(0, 1)[:, None], (3, 3, 3, 3), mode="reflect")
    planes = sum(weight * planes[..., shift : shift + height, :] for shift, weight in enumerate(WINDOW))
    planes = sum(weight * planes[..., shift : shift + width] for shift, weight in enumerate(WINDOW))
    return planes.reshape(squared.shape).clamp(min=SMALLEST_VARIANCE)


def divergence(generated: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """KL(N(0, generated) || N(0, real)) of each pixel for two variance maps, and where their ratio was clipped.

    With the ratio rho = generated / real, clipped to [0.1, 10], it is (rho - 1 - ln rho) / 2: from 0 to 3.35.
    """
    ratio = generated / real
    rho = ratio.clamp(1 / LARGEST_RATIO, LARGEST_RATIO)
    return 0.5 * (rho - 1 - rho.log()), rho != ratio


def akld(noisy: Tensor, clean: Tensor, generated: Sequence[Tensor]) -> tuple[float, float]:
    """Average KL divergence of generated noise from real noise (Yue et al., ECCV 2020), and the share of clipped ratios.

    The noise of a pixel counts as N(0, v) with v from `variance_map`. The divergence is computed for every generated
    picture and then averaged over pixels, channels and pictures. Generated pictures are clamped to [0, 1], not rounded.

    The lower the better; 0 for a copy of the noisy picture, so the number alone rewards copying. A new draw of the
    same white noise has 0.042, since a window has the weight of 25 pixels only. A picture without noise has 0.70.

    Args:
        noisy, clean: the real pair, float tensors `(1, C, H, W)` in [0, 1].
        generated: one or more pictures of that shape.

    Raises:
        TypeError, ValueError: not floats, shapes that differ, NaN or infinite pixels, or no generated picture.
    """
    _check_pair(noisy, clean, generated)
    real = variance_map(noisy, clean)
    total = clipped = 0.0
    for picture in generated:
        values, cut = divergence(variance_map(picture.to(noisy).clamp(0, 1), clean), real)
        total += values.mean().item()
        clipped += cut.double().mean().item()
    return total / len(generated), clipped / len(generated)


def akld_floor(noisy: Tensor, clean: Tensor, seed: int = 0, draws: int = FLOOR_DRAWS) -> float:
    """AKLD between two independent draws of the real noise's own model: the floor of a generator that does not see it.

    A second shot of the same view would be the best reference, but pairs have only one. Both draws therefore are the real
    noise with random phases, with its local variance and correlations; see `noise_models.resampled`. Less than this takes
    a look at the noisy picture itself.
    """
    _check_pair(noisy, clean, [noisy])
    clean = clean.double()
    noise, spread = noisy.double() - clean, variance_map(noisy, clean).sqrt()
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(draws):
        one, other = ((clean + resampled(noise, spread, generator)).clamp(0, 1) for _ in range(2))
        found.append(akld(one, clean, [other])[0])
    return sum(found) / len(found)


def correlation(noisy: Tensor, clean: Tensor, generated: Sequence[Tensor]) -> float:
    """Correlation coefficient of generated and real noise over pixels and channels, averaged over the generated pictures.

    1 for a copy of the noisy picture, 0 for new noise; NaN where one of the two has no noise. Arguments and errors as `akld`.
    """
    _check_pair(noisy, clean, generated)
    real, found = (noisy.double() - clean.double()).flatten(), []
    for picture in generated:
        other = (picture.to(noisy).clamp(0, 1).double() - clean.double()).flatten()
        moments = torch.stack([real - real.mean(), other - other.mean()])
        products = moments @ moments.T
        found.append((products[0, 1] / (products[0, 0] * products[1, 1]).sqrt()).item())
    return sum(found) / len(found)


def strength(noisy: Tensor, clean: Tensor, generated: Sequence[Tensor]) -> float:
    """Root of the mean squared generated noise over that of the real noise; NaN or infinite where that is zero."""
    _check_pair(noisy, clean, generated)
    reference = clean.double()
    squares = [(picture.to(noisy).clamp(0, 1).double() - reference).square().mean() for picture in generated]
    return (torch.stack(squares).mean() / (noisy.double() - reference).square().mean()).sqrt().item()


def _check_pair(noisy: Tensor, clean: Tensor, generated: Sequence[Tensor]) -> None:
    if not len(generated):
        raise ValueError("no generated picture is given; expected one or more")
    for name, picture in (("noisy", noisy), ("clean", clean), *(("generated", picture) for picture in generated)):
        if not isinstance(picture, Tensor) or not picture.is_floating_point():
            found = picture.dtype if isinstance(picture, Tensor) else type(picture).__name__
            raise TypeError(f"the {name} picture is {found}; expected floats in [0, 1] (for 8-bit pixels: x / 255)")
        if picture.ndim != 4 or picture.shape != noisy.shape or len(picture) != 1:
            raise ValueError(
                f"the {name} picture has shape {tuple(picture.shape)}, the noisy one {tuple(noisy.shape)}; expected "
                "(1, C, H, W), and all alike"
            )
        if not torch.isfinite(picture).all():
            bad = int((~torch.isfinite(picture)).sum())
            raise ValueError(f"{bad} of {picture.numel()} pixels of the {name} picture are NaN or infinite")


# --- Generators that learn nothing


class NoiseModel:
    """A generator that is shown the clean picture: `generate(noisy, clean=clean)`, tensors `(1, C, H, W)` in [0, 1]."""

    card = {"budget": "none", "sha256": ""}
    needs_clean = True

    def __init__(self, name: str, display_name: str, draw: Callable[[Tensor, Tensor], Tensor]):
        self.name, self.display_name, self._draw = name, display_name, draw

    def generate(self, noisy: Tensor, *, clean: Tensor) -> Tensor:
        return self._draw(noisy, clean)


NOISE_MODELS = {
    model.name: model
    for model in (
        NoiseModel("white-gaussian", "white Gaussian", white_gaussian),
        NoiseModel("poisson-gaussian", "Poisson-Gaussian", poisson_gaussian),
        NoiseModel("copy", "copy of the noisy picture", lambda noisy, clean: noisy),
    )
}


# --- The task


class Noise(RealTask):
    """Give a real picture new noise of the kind that it has.

    There are two kinds of generators, called once a draw; both draw from PyTorch's default generator, which is seeded for each picture:

    - A method that alters the latent of the noisy picture: `generate(noisy, epsilon, **options)`. `epsilon` is the strength of the
      disturbance, in its own units. It never sees the clean picture, but it sees the noise that it should imitate.
    - A model of the noise, with an attribute `needs_clean` that is true: `generate(noisy, clean=clean)`. It may measure noise on
      the pair, and adds new noise to the clean picture. `epsilon` means nothing to it and may be left out; rows at the
      values of another method make the two comparable. Those here are `NOISE_MODELS`.

    Protocol: `draws` generated pictures of the central crop, clamped to [0, 1] and not rounded; `akld` as in the function, averaged over
    the draws. Since a copy of the noisy picture has the AKLD 0, three columns tell what it is worth: `correlation` of
    generated and real noise (1 is a copy, 0 is new noise), `akld_floor` (what two draws of the same noise have), and
    `noise_ratio`, the strength of generated noise over that of real noise. `clipped` is the share of pixels whose ratio of variances was cut.

    Args:
        draws: of each picture. The mean does not depend on their number, its spread does.
        crop: see `RealTask`; 256 is the side of the blocks that AKLD was published on.
    """

    verb = "generate"
    keys = ("epsilon",)
    metrics = (AKLD,)
    columns = ("correlation", "akld_floor", "noise_ratio", "clipped", "draws", "scene")

    def __init__(self, draws: int = 50, crop: int = 256):
        super().__init__(crop)
        if isinstance(draws, bool) or not isinstance(draws, int) or draws < 1:
            raise ValueError(f"draws is {draws!r}; expected 1 or more")
        self.draws = draws

    def load(self, name: str, budget: str | None = None, precision: str = "float32") -> Any:
        if name in NOISE_MODELS:
            return NOISE_MODELS[name]
        try:
            return super().load(name, budget, precision)
        except ValueError as error:
            raise ValueError(f"{error} Models of noise: {', '.join(NOISE_MODELS)}") from None

    def check(self, method: Any, conditions: Mapping[str, Sequence[Any]], options: Mapping[str, Any]) -> None:
        super().check(method, conditions, options)
        values = conditions.get("epsilon", [])
        values = values if isinstance(values, list | tuple) else [values]
        if not values and not getattr(method, "needs_clean", False):
            raise ValueError(
                f"{method.name} needs a condition epsilon, the strength of the disturbance, such as [2.0e-4]"
            )
        for value in values:
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
                raise ValueError(f"epsilon is {value!r}; expected a number, 0 or more")
        if getattr(method, "precision", "float32") == "bfloat16":
            raise ValueError(
                f"{method.name} is in bfloat16, which rounds off such a disturbance; set precision: float32"
            )

    def cases(self, pictures: PairSet, seed: int, epsilon: float = math.nan) -> Iterator[Case]:
        """A case a pair. All values of `epsilon` meet the same random numbers."""
        for name, scene, noisy, clean, number in self.pairs(pictures, seed):
            given = {"noisy": noisy, "seed": number, "scene": scene, "clean": clean}
            yield Case(name, {"epsilon": epsilon}, given, clean, self.draws * clean[0, 0].numel() / 1e6)

    def run(self, method: Any, case: Case, **options: Any) -> list[Tensor]:
        return self._generate(method, case, self.draws, options)

    @staticmethod
    def _generate(method: Any, case: Case, draws: int, options: dict[str, Any]) -> list[Tensor]:
        device = device_of(method)[0]
        noisy = case.given["noisy"].to(device)
        if getattr(method, "needs_clean", False):
            told = {"clean": case.given["clean"].to(device)}
        else:
            told = {"epsilon": case.keys["epsilon"]}
        with seeded(case.given["seed"], device), torch.no_grad():
            return [method.generate(noisy, **told, **options).cpu() for _ in range(draws)]

    def score(self, outputs: list[Tensor], case: Case) -> dict[str, Any]:
        noisy, clean = case.given["noisy"], case.truth
        value, clipped = akld(noisy, clean, outputs)
        return {
            "akld": value,
            "correlation": correlation(noisy, clean, outputs),
            "akld_floor": akld_floor(noisy, clean, stable_seed(case.given["seed"], "floor")),
            "noise_ratio": strength(noisy, clean, outputs),
            "clipped": clipped,
            "draws": self.draws,
            "scene": case.given["scene"],
        }

    def warm_up(self, method: Any, case: Case, **options: Any) -> None:
        self._generate(method, case, 1, options)
