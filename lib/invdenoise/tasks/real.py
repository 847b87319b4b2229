"""Denoising of real pictures: pairs of a noisy picture and a clean one of the same view, and files for benchmarks.

Real noise has no level, is not white, and depends on the brightness. Nothing is added to a picture here.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from invdenoise.checks import check_sigma
from invdenoise.data import benchmarks
from invdenoise.data.batches import stable_seed
from invdenoise.data.pictures import PairSet
from invdenoise.models.base import Denoiser
from invdenoise.tasks.base import Case, Task, device_of
from invdenoise.tasks.metrics import PSNR, SSIM, psnr, ssim

BEST = "best"  # as a level: the one of LEVELS with the highest mean PSNR on the set itself
LEVELS = (2.5, 5.0, 7.5, 10.0, 15.0, 20.0, 25.0, 30.0, 40.0, 50.0)  # grey levels
FIT_SIDE = 128  # pixels: levels are tried on central crops
MEGAPIXEL = 1024 * 1024  # as the benchmarks count


class Untouched(Denoiser):
    """The noisy picture itself, clamped to [0, 1]: what every denoiser must beat."""

    name = "noisy"
    display_name = "untouched"

    def estimate(self, noisy: Tensor, sigma: float | None) -> Tensor:
        return noisy


OWN = {Untouched.name: Untouched}  # methods of this task


class RealTask(Task):
    """What tasks on pairs share.

    Args:
        crop: central crop of this many pixels a side, of larger pictures; 0 takes them whole.
    """

    verb = ""  # of the method

    def __init__(self, crop: int = 0):
        if isinstance(crop, bool) or not isinstance(crop, int) or crop < 0:
            raise ValueError(f"crop is {crop!r}; expected pixels, or 0 for whole pictures")
        self.crop = crop

    def pictures(self, name: str, limit: int | None = None) -> PairSet:
        return benchmarks.load_real_pairs(name, limit=limit)

    def check(self, method: Any, conditions: Mapping[str, Sequence[Any]], options: Mapping[str, Any]) -> None:
        if not callable(getattr(method, self.verb, None)):
            raise ValueError(f"{method.name} has no {self.verb}(...), which this task calls; choose another method")
        if getattr(method, "channels", None) not in (None, 3):
            raise ValueError(
                f"{method.name} takes {method.channels} channel; real pairs are in colour: choose a colour method"
            )

    def pairs(self, pictures: PairSet, seed: int) -> Iterator[tuple[str, str, Tensor, Tensor, int]]:
        """Name, scene, noisy and clean `(1, C, H, W)`, cropped, and the seed of what a method draws for them."""
        for pair in pictures:
            noisy, clean = (central(picture.tensor(), self.crop) for picture in (pair.noisy, pair.clean))
            yield pair.name, pair.scene, noisy, clean, stable_seed(seed, pictures.name, pair.name)


def central(image: Tensor, side: int) -> Tensor:
    """The central `side` x `side` pixels of an image `(..., H, W)`; all of a smaller side, or where `side` is 0."""
    where = [...]
    for length in image.shape[-2:]:
        start = (length - side) // 2 if 0 < side < length else 0
        where.append(slice(start, start + side if side else None))
    return image[tuple(where)]


@contextlib.contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """PyTorch's default generators seeded for a block, and restored after it: methods may draw random numbers."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


class Denoise(RealTask):
    """Remove the noise of real pictures.

    Protocol: pictures as stored, 8 bits, in [0, 1]; the output clamped to [0, 1] and not rounded (`psnr_rounded` shows what rounding to
    8 bits changes, as most papers on real noise do); PSNR over all pixels and channels together with a range of 1 and no border
    cut; SSIM as in `metrics.ssim`, the mean over channels; `psnr_noisy` of the picture before denoising. What a method draws at
    random depends on the run's seed, the set and the picture alone.

    Options reach the method: `samples=16`. The method "noisy" leaves the picture as it is.

    Args:
        level: for methods that must be told a noise level, which real noise does not have: grey levels; or "best", the level of `levels`
            with the highest mean PSNR against the clean pictures of the very set that is scored. That is an oracle,
            which favours the method; the column `level` says "oracle" then, else "told" or nothing. None tells no level.
        levels: what "best" tries, in grey levels; on central crops of `FIT_SIDE` pixels, which saves time. Its time does not count.
        crop: see `RealTask`.

    Columns: `scene`; `sigma_given`, the level that the method was told, in grey levels; `level`.
    """

    verb = "denoise"
    metrics = (PSNR, SSIM)
    columns = ("psnr_rounded", "psnr_noisy", "sigma_given", "level", "scene")

    def __init__(self, level: float | str | None = None, levels: Sequence[float] = LEVELS, crop: int = 0):
        super().__init__(crop)
        if isinstance(level, str) and level != BEST:
            raise ValueError(f"level is {level!r}; expected grey levels, {BEST!r}, or None")
        self.levels = [check_sigma(value, needed=True, who="levels") for value in levels]
        if not self.levels:
            raise ValueError("levels is empty; expected one or more, in grey levels")
        self.level = level if level == BEST else check_sigma(level, needed=False, who="level")
        self._set: PairSet | None = None  # whose cases are under way
        self._best: dict[tuple, float] = {}

    def load(self, name: str, budget: str | None = None, precision: str = "float32") -> Denoiser:
        return OWN[name]() if name in OWN else super().load(name, budget, precision)

    def check(self, method: Denoiser, conditions: Mapping[str, Sequence[Any]], options: Mapping[str, Any]) -> None:
        super().check(method, conditions, options)
        if getattr(method, "needs_sigma", False) and self.level is None:
            raise ValueError(
                f"{method.name} must be told a noise level, which real noise does not have: set level to grey levels, or to {BEST!r}"
            )
        if "sigma" in options:
            raise ValueError("sigma is no option here; set the task's level")

    def cases(self, pictures: PairSet, seed: int) -> Iterator[Case]:
        """A case a pair."""
        self._set = pictures
        for name, scene, noisy, clean, number in self.pairs(pictures, seed):
            given = {"noisy": noisy, "seed": number, "scene": scene}
            yield Case(name, {}, given, clean, clean[0, 0].numel() / 1e6)

    def run(self, method: Denoiser, case: Case, **options: Any) -> dict[str, Any]:
        sigma = self.level_for(method, **options)
        return {"denoised": self._denoise(method, case.given, sigma, options), "sigma_given": sigma}

    @staticmethod
    def _denoise(method: Denoiser, given: dict[str, Any], sigma: float | None, options: dict[str, Any]) -> Tensor:
        device = device_of(method)[0]
        with seeded(given["seed"], device):
            return method.denoise(given["noisy"].to(device), sigma, **options).cpu()

    def level_for(self, method: Denoiser, **options: Any) -> float | None:
        """The level that a method is told on the set under way, in grey levels."""
        if self.level != BEST:
            return self.level
        key = (method, self._set, repr(sorted(options.items())))
        if key not in self._best:
            scores = {}
            for sigma in self.levels:
                found = []
                for _, _, noisy, clean, number in self.pairs(self._set, 0):
                    given = {"noisy": central(noisy, FIT_SIDE), "seed": number}
                    found.append(psnr(central(clean, FIT_SIDE), self._denoise(method, given, sigma, options)))
                scores[sigma] = sum(found) / len(found)
            self._best[key] = max(scores, key=scores.get)
        return self._best[key]

    def score(self, outputs: dict[str, Any], case: Case) -> dict[str, Any]:
        clean, denoised, sigma = case.truth, outputs["denoised"], outputs["sigma_given"]
        return {
            "psnr": psnr(clean, denoised),
            "ssim": ssim(clean, denoised),
            "psnr_rounded": psnr(clean, denoised, rounded=True),
            "psnr_noisy": psnr(clean, case.given["noisy"]),
            "sigma_given": math.nan if sigma is None else sigma,
            "level": "" if sigma is None else "oracle" if self.level == BEST else "told",
            "scene": case.given["scene"],
        }

    def warm_up(self, method: Denoiser, case: Case, **options: Any) -> None:
        sigma = self.level_for(method, **options)
        self._denoise(method, case.given | {"noisy": case.given["noisy"][..., :64, :64]}, sigma, options)


class DenoiseCrops(Denoise):
    """`Denoise` on central crops of 192 pixels a side, unless told otherwise: fast enough to validate training."""

    def __init__(self, level: float | str | None = None, levels: Sequence[float] = LEVELS, crop: int = 192):
        super().__init__(level, levels, crop)


# --- What benchmarks ask for


def submit(
    method: Denoiser,
    dataset: str,
    out: Path,
    *,
    sigma: float | None = None,
    seed: int = 0,
    report: Callable[[str], None] | None = None,
    **options: Any,
) -> list[Path]:
    """Denoise a benchmark whose clean pictures its makers keep, and write the files that they ask for.

    Blocks are rounded to 8 bits after clamping; the file holds the measured seconds per megapixel too. Boxes are not rounded.

    Args:
        method: a colour denoiser.
        dataset: of `data/sources.yaml`, fetched by hand; see `data.benchmarks`.
        out: folder for the files.
        sigma: noise level that the method is told, in grey levels; None tells none.
        seed: of what the method draws.
        report: called with a line for each picture.
        options: of the method.

    Returns:
        The files written.

    Raises:
        DataUnavailable: the benchmark is not there; the message says how to get it.
        CorruptFile: its files are not what they should be.
        ValueError: the method cannot denoise colour pictures, or the benchmark is not one to submit to.
    """
    task = Denoise(level=sigma)
    task.check(method, {}, options)
    folder = benchmarks.folder_of(dataset)
    layout = benchmarks.layout_of(folder)

    def denoise(image: np.ndarray, *place: int) -> Tensor:
        noisy = torch.from_numpy(image).permute(2, 0, 1)[None].contiguous()
        given = {"noisy": noisy, "seed": stable_seed(seed, dataset, *place)}
        return task._denoise(method, given, task.level, options)[0].permute(1, 2, 0)

    say = report or (lambda line: None)
    if layout == "blocks":
        blocks = benchmarks.read_blocks(folder / f"{benchmarks.UNPAIRED}.mat", benchmarks.UNPAIRED)
        denoised, seconds = np.empty_like(blocks), 0.0
        for picture, block in np.ndindex(blocks.shape[:2]):
            noisy = blocks[picture, block].astype(np.float32) / 255
            began = time.perf_counter()
            clean = denoise(noisy, picture, block)
            seconds += time.perf_counter() - began
            denoised[picture, block] = (clean.double() * 255).round().to(torch.uint8).numpy()
            if block == blocks.shape[1] - 1:
                say(f"{method.name} on {dataset}: picture {picture + 1} of {len(blocks)}")
        per_megapixel = seconds / (blocks.size / 3) * MEGAPIXEL
        return [benchmarks.write_blocks(Path(out), denoised, per_megapixel)]
    if layout == "boxes":
        files = []
        for number, boxes in enumerate(benchmarks.iterate_boxes(folder), start=1):
            found = [denoise(box, number, place).numpy() for place, box in enumerate(boxes)]
            files.append(benchmarks.write_boxes(Path(out), number, found))
            say(f"{method.name} on {dataset}: picture {number}")
        return files
    raise ValueError(f"{dataset} has clean pictures, so nothing is submitted: score it with the task real.Denoise")
