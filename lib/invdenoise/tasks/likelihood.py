"""The density of noisy pictures: how well a model of them, such as a normalizing flow, predicts new ones."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from invdenoise.checks import check_image, check_sigma
from invdenoise.data.noise import awgn, noise_generator
from invdenoise.data.pictures import PictureSet
from invdenoise.tasks.base import Case, Task, device_of
from invdenoise.tasks.metrics import Metric

BITS = Metric("bits_per_dimension", "bits", False, 0.01, 0.05, 3)
STEPS = 256  # a density over [0, 1] is counted in steps of 1/256, as the literature on flows does for 8-bit pictures


# --- The measure


def bits_per_dimension(log_likelihood: float, num_dimensions: int) -> float:
    """-log2 p per value of a picture, in steps of 1/256: -log_likelihood / (num_dimensions ln 2) + 8. The lower the better.

    Args:
        log_likelihood: natural logarithm of the density of a picture, all values together, with values in [0, 1]: FDN, Eq. 10
            with its sign turned.
        num_dimensions: number of its values, pixels times channels.
    """
    return -log_likelihood / (num_dimensions * math.log(2)) + math.log2(STEPS)


def noise_bits(sigma: float) -> float:
    """Entropy of white Gaussian noise per value, in the unit of `bits_per_dimension`: 0.5 log2(2 pi e s^2).

    No density that does not see the noise can have a lower `bits_per_dimension`, in the mean over draws of the noise and for any
    clean picture: what it has more is its divergence from the Gaussian around that picture.

    Args:
        sigma: in grey levels, more than 0. White is 255 grey levels and 256 steps, so s = 256 sigma / 255. Without that factor
            the bound would be 0.0056 bits too low.
    """
    return 0.5 * math.log2(2 * math.pi * math.e * (STEPS * sigma / 255) ** 2)


# --- A model that learns nothing


class IndependentGaussian:
    """Independent pixels: in each channel, a Gaussian with the mean and variance of that very picture.

    The simplest density: a model that is worth its name has fewer bits. It sees the picture that it scores, which favours it by about
    1.44 / (H W) bits: a flat picture can come out that much below `noise_bits`.
    """

    name = "gaussian"
    display_name = "independent Gaussian"
    channels = None
    card = {"budget": "none", "sha256": ""}

    def log_likelihood(self, noisy: Tensor) -> Tensor:
        """ln p(y) in nats, float64 `(B,)`, of noisy pictures `(B, C, H, W)` with values in [0, 1].

        Raises:
            ValueError: a channel of a picture is constant, where the density has no bound.
        """
        channels = noisy.double().flatten(2)
        variance = channels.var(-1, correction=0)
        if (variance <= 0).any():
            raise ValueError(f"{self.name}: a channel is constant, where the density has no bound; add noise to it")
        # The mean of the squared differences is the variance, so each value costs the Gaussian's entropy.
        return -0.5 * channels.shape[-1] * (math.log(2 * math.pi * math.e) + variance.log()).sum(1)


OWN = {IndependentGaussian.name: IndependentGaussian}  # methods of this task


# --- The task


class Likelihood(Task):
    """Measure the density that a method gives to pictures with white Gaussian noise.

    The method has `log_likelihood(noisy, **options) -> Tensor`: the natural logarithm of the density of each noisy picture
    `(B, C, H, W)`, with values in [0, 1], as `(B,)` (FDN, Eq. 10 with its sign turned). It is not told the noise level. The
    method "gaussian" is `IndependentGaussian`.

    Protocol: the noise of `awgn.Denoise`, the same draw for the same seed, set, picture and sigma, neither clipped nor quantised;
    `bits_per_dimension` as in the function; activations in float32. A picture whose sides are no multiples of `method.multiple` is
    cropped at the bottom and right, and never padded: padding would add values that are easy to predict.

    Columns: `noise_bits`, which no model can go below in the mean; `num_dimensions`, the values that were scored.
    """

    keys = ("sigma",)
    metrics = (BITS,)
    columns = ("noise_bits", "num_dimensions")

    def load(self, name: str, budget: str | None = None, precision: str = "float32") -> Any:
        if name in OWN:
            return OWN[name]()
        try:
            return super().load(name, budget, precision)
        except ValueError as error:
            raise ValueError(f"{error} Models of this task: {', '.join(OWN)}") from None

    def check(self, method: Any, conditions: Mapping[str, Sequence[Any]], options: Mapping[str, Any]) -> None:
        if not callable(getattr(method, "log_likelihood", None)):
            raise ValueError(
                f"{method.name} has no log_likelihood(...), which this task calls; choose a normalizing flow, or "
                f"{', '.join(OWN)}"
            )
        values = conditions.get("sigma", [])
        for value in values if isinstance(values, list | tuple) else [values]:
            if not check_sigma(value, needed=True, who="likelihood"):
                raise ValueError("sigma is 0; expected more: without noise, pictures of 8 bits have no bounded density")
        if getattr(method, "precision", "float32") == "bfloat16":
            raise ValueError(f"{method.name} is in bfloat16, which is too coarse for a density; set precision: float32")

    def cases(self, pictures: PictureSet, seed: int, sigma: float) -> Iterator[Case]:
        """A case a picture; `sigma` in grey levels. The noisy pictures are those of `awgn.Denoise`."""
        for picture in pictures:
            clean = picture.tensor()
            noisy = awgn(clean, sigma, noise_generator(seed, pictures.name, picture.name, sigma))
            yield Case(picture.name, {"sigma": sigma}, {"noisy": noisy}, clean, clean[0, 0].numel() / 1e6)

    def run(self, method: Any, case: Case, **options: Any) -> dict[str, Any]:
        """`log_likelihood` of the noisy picture in nats, and `num_dimensions`, the number of its values after cropping.

        Raises:
            ValueError: another number of channels than the method's, or a picture smaller than `method.multiple`.
        """
        return self._run(method, case.given["noisy"], case.image, options)

    @staticmethod
    @torch.no_grad()
    def _run(method: Any, noisy: Tensor, image: str, options: Mapping[str, Any]) -> dict[str, Any]:
        multiple = getattr(method, "multiple", 1)
        height, width = (size - size % multiple for size in noisy.shape[-2:])
        if not height or not width:
            raise ValueError(
                f"{image} has {noisy.shape[-2]}x{noisy.shape[-1]} pixels; {method.name} needs {multiple} or more a side"
            )
        noisy = noisy[..., :height, :width].to(device_of(method)[0])
        check_image(noisy, getattr(method, "channels", None), method.name)
        found = method.log_likelihood(noisy, **options)
        if found.shape != (1,):
            raise ValueError(
                f"log_likelihood of {method.name} has shape {tuple(found.shape)}; expected one value a picture, (1,)"
            )
        return {"log_likelihood": found.item(), "num_dimensions": noisy.numel()}

    def score(self, outputs: dict[str, Any], case: Case) -> dict[str, Any]:
        num_dimensions = outputs["num_dimensions"]
        return {
            "bits_per_dimension": bits_per_dimension(outputs["log_likelihood"], num_dimensions),
            "noise_bits": noise_bits(case.keys["sigma"]),
            "num_dimensions": num_dimensions,
        }

    def warm_up(self, method: Any, case: Case, **options: Any) -> None:
        self._run(method, case.given["noisy"][..., :64, :64], case.image, options)


__all__ = ["BITS", "IndependentGaussian", "Likelihood", "bits_per_dimension", "noise_bits"]
