"""Denoising of additive white Gaussian noise: the protocol of every PSNR table."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from invdenoise.checks import SIGMA_MAX
from invdenoise.data.noise import awgn, noise_generator
from invdenoise.data.pictures import PictureSet
from invdenoise.models.base import Denoiser
from invdenoise.tasks.base import Case, Task, device_of
from invdenoise.tasks.metrics import PSNR, SSIM, psnr, ssim


class Denoise(Task):
    """Remove white Gaussian noise of known or unknown level.

    Protocol: noise drawn in float32 on the CPU from a generator seeded by (seed, set, picture, sigma), neither clipped nor
    quantised; the output clamped to [0, 1], unless the option `clamp` is False, and not rounded (`psnr_rounded` shows what
    8-bit rounding changes); PSNR with a range of 1 and no border cut; SSIM as in `metrics.ssim`.

    Args:
        tell_sigma: False keeps the noise level from the method. One that estimates it has its estimate, in grey levels, in the
            column `sigma_estimated`; its time counts.
    """

    keys = ("sigma",)
    metrics = (PSNR, SSIM)
    columns = ("psnr_rounded", "psnr_noisy", "sigma_estimated")

    def __init__(self, tell_sigma: bool = True):
        self.tell_sigma = tell_sigma

    def check(self, method: Denoiser, conditions: Mapping[str, Sequence[Any]], options: Mapping[str, Any]) -> None:
        if not self.tell_sigma and (method.needs_sigma or getattr(method, "sigma", None) is not None):
            raise ValueError(f"{method.name} is not blind: it needs the noise level, so tell_sigma cannot be False")

    def cases(self, pictures: PictureSet, seed: int, sigma: float) -> Iterator[Case]:
        """A case a picture; `sigma` in grey levels."""
        for picture in pictures:
            clean = picture.tensor()
            noisy = awgn(clean, sigma, noise_generator(seed, pictures.name, picture.name, sigma))
            given = {"noisy": noisy, "sigma": sigma if self.tell_sigma else None}
            yield Case(picture.name, {"sigma": sigma}, given, clean, clean[0, 0].numel() / 1e6)

    def run(self, method: Denoiser, case: Case, **options: Any) -> dict[str, Any]:
        noisy, sigma = case.given["noisy"].to(device_of(method)[0]), case.given["sigma"]
        estimated = math.nan
        if sigma is None and hasattr(method, "estimate_sigma"):
            estimated = float(method.estimate_sigma(noisy))
            sigma = min(estimated, SIGMA_MAX)
        return {"denoised": method.denoise(noisy, sigma, **options).cpu(), "sigma_estimated": estimated}

    def score(self, outputs: dict[str, Any], case: Case) -> dict[str, Any]:
        clean, denoised = case.truth, outputs["denoised"]
        return {
            "psnr": psnr(clean, denoised),
            "ssim": ssim(clean, denoised),
            "psnr_rounded": psnr(clean, denoised, rounded=True),
            "psnr_noisy": psnr(clean, case.given["noisy"]),
            "sigma_estimated": outputs["sigma_estimated"],
        }

    def warm_up(self, method: Denoiser, case: Case, **options: Any) -> None:
        corner = case.given["noisy"][..., :64, :64].to(device_of(method)[0])
        method.denoise(corner, case.given["sigma"], **options)


def noise_levels(first: float, last: float, step: float) -> list[float]:
    """first, first + step, ..., last, in grey levels."""
    return [first + i * step for i in range(math.floor((last - first) / step + 1e-9) + 1)]


__all__ = ["Denoise", "noise_levels"]
