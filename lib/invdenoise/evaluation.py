"""The one evaluation protocol: which noise, which measure, which row of the score file."""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pandas as pd
import torch

import invdenoise
from invdenoise import datasets, paths
from invdenoise.denoiser import SIGMA_MAX, Denoiser, load_denoiser
from invdenoise.files import atomic
from invdenoise.metrics import psnr, ssim
from invdenoise.noise import awgn, noise_generator
from invdenoise.provenance import commit

COLUMNS = (
    "method", "variant", "dataset", "requested", "image", "sigma_train", "sigma_test", "psnr", "psnr_rounded",
    "psnr_noisy", "ssim", "seconds", "megapixels", "device", "seed", "num_parameters", "budget", "weights_sha256",
    "data_sha256", "version", "commit", "sigma_estimated",
)  # fmt: skip
SCORED = ["method", "variant", "requested", "dataset", "image", "sigma_test", "seed"]  # of which there is one score
LATER = {"sigma_estimated"}  # columns that older score files lack


def evaluate(
    denoiser: Denoiser | str,
    dataset: str,
    sigmas: Iterable[float],
    *,
    seed: int = 0,
    limit: int | None = None,
    variant: str = "",
    tell_sigma: bool = True,
    report: Callable[[str], None] | None = None,
    **options,
) -> pd.DataFrame:
    """Scores of a denoiser, one row a picture and noise level, with the columns `COLUMNS`.

    Protocol: white Gaussian noise drawn in float32 on the CPU from a generator seeded by (seed, dataset, picture,
    sigma), neither clipped nor quantised; the output clamped to [0, 1] and not rounded (`psnr_rounded` shows what
    8-bit rounding changes); PSNR with a range of 1 and no border cut; SSIM as in `metrics.ssim`.

    Args:
        denoiser: a denoiser, or the name of one.
        dataset: id of a gray dataset; without data the embedded pictures stand in, and the column `dataset` says so.
        sigmas: noise levels in grey levels.
        seed: of the noise.
        limit: number of pictures, the first in order; None takes all.
        variant: label of the `options`, which are passed to `denoise` (`adapt=False` and the like), or of `tell_sigma`.
        tell_sigma: False keeps the noise level from the denoiser. One that estimates it has its estimate, in grey levels,
            in the column `sigma_estimated`.
        report: called with a line of progress for each noise level.

    `seconds` is the time of `denoise` on one picture at a time, with that of estimating the noise level, after one warm-up picture.
    """
    if isinstance(denoiser, str):
        denoiser = load_denoiser(denoiser)
    pictures = datasets.load_pictures(dataset, limit=limit)
    device, used = device_of(denoiser)
    common = {
        "method": denoiser.name, "variant": variant, "dataset": pictures.name, "requested": dataset,
        "device": used,
        "sigma_train": getattr(denoiser, "sigma", None), "seed": seed, "version": invdenoise.__version__,
        "budget": denoiser.card["budget"], "weights_sha256": denoiser.card["sha256"],
        "num_parameters": denoiser.num_parameters(), "data_sha256": pictures.sha256, "commit": commit(),
    }  # fmt: skip
    rows = []
    warm = False
    for sigma in sigmas:
        for picture in pictures:
            clean = picture.tensor()
            noisy = awgn(clean, sigma, noise_generator(seed, pictures.name, picture.name, sigma)).to(device)
            told = sigma if tell_sigma else None
            if not warm:  # first calls pay for allocation and code loading
                denoiser.denoise(noisy[..., :64, :64], told, **options)
                warm = True
            started = time.perf_counter()
            estimated = math.nan if tell_sigma else _estimated(denoiser, noisy)
            level = told if math.isnan(estimated) else min(estimated, SIGMA_MAX)
            denoised = denoiser.denoise(noisy, level, **options).cpu()  # which waits for a GPU
            seconds = time.perf_counter() - started
            rows.append(common | {
                "image": picture.name, "sigma_test": sigma, "psnr": psnr(clean, denoised),
                "psnr_rounded": psnr(clean, denoised, rounded=True), "psnr_noisy": psnr(clean, noisy.cpu()),
                "ssim": ssim(clean, denoised), "seconds": seconds, "megapixels": clean[0, 0].numel() / 1e6,
                "sigma_estimated": estimated,
            })  # fmt: skip
        if report:
            mean = sum(row["psnr"] for row in rows[-len(pictures) :]) / len(pictures)
            report(f"{denoiser.name} {variant} on {pictures.name}, sigma {sigma:g}: {mean:.2f} dB".replace("  ", " "))
    return pd.DataFrame(rows, columns=COLUMNS)


def device_of(denoiser: Denoiser | None) -> tuple[torch.device, str]:
    """Where a denoiser computes, and that with precision and threads in words. What learns nothing computes on the CPU."""
    parameters = denoiser.parameters() if isinstance(denoiser, torch.nn.Module) else iter(())
    device = getattr(next(parameters, None), "device", torch.device("cpu"))
    threads = torch.get_num_threads()
    precision = getattr(denoiser, "precision", "float")
    return device, f"{device.type}, {precision}, {threads} thread{'s' * (threads > 1)}"


def _estimated(denoiser: Denoiser, noisy: torch.Tensor) -> float:
    """The noise level that the denoiser sees in `noisy`, in grey levels; NaN where it does without."""
    estimate = getattr(denoiser, "estimate_sigma", None)
    return math.nan if estimate is None else float(estimate(noisy))


def write_scores(scores: pd.DataFrame, path: Path) -> None:
    """Write a score file, whole or not at all."""
    with atomic(path) as temporary:
        scores.to_csv(temporary, index=False, float_format="%.6g", quoting=csv.QUOTE_MINIMAL)


def read_scores(folder: Path | Sequence[Path] | None = None, sweeps: bool = False) -> pd.DataFrame:
    """All score files below a folder (default: `results/scores`), or those listed, as one table.

    Sweeps over many noise levels (`*-sweep*.csv`) are read only when asked for, and then alone. Hidden files are not
    scores: a killed process leaves unfinished ones, and JupyterLab keeps checkpoints in a hidden folder.

    Raises:
        FileNotFoundError: there are none; names the command that makes them.
        ValueError: a file is not a score file, or two files hold scores of the same.
    """
    folder = paths.scores_dir() if folder is None else folder
    if isinstance(folder, Path):
        files = sorted(
            file
            for file in folder.rglob("*.csv")
            if ("-sweep" in file.stem) == sweeps
            and not any(part.startswith(".") for part in file.relative_to(folder).parts)
        )
    else:
        files = list(folder)
    if not files:
        raise FileNotFoundError(f"no scores in {folder}; make them with `make paper`")
    tables = []
    for file in files:
        try:
            table = pd.read_csv(file, keep_default_na=False, na_values=[""], dtype={"variant": str, "image": str})
        except ValueError as error:  # what pandas raises on an empty or broken file
            raise ValueError(f"{file} is not a score file: {error}; delete it and run again") from None
        if missing := set(COLUMNS) - set(table.columns) - LATER:
            raise ValueError(
                f"{file} is not a score file: column {sorted(missing)[0]!r} is missing; delete it and run again"
            )
        tables.append(table.reindex(columns=COLUMNS).assign(file=str(file)))
    scores = pd.concat(tables, ignore_index=True)
    scores["variant"] = scores["variant"].fillna("")
    twice = scores[scores.duplicated(SCORED, keep=False)]
    if len(twice):
        first = twice.iloc[0]
        same = twice[(twice[SCORED] == first[SCORED]).all(axis=1)]["file"].unique()
        raise ValueError(
            f"{first['method']} on {first['image']} at {first['sigma_test']:g} is scored twice, in {' and '.join(same)}; "
            "delete the older file"
        )
    return scores.drop(columns="file")


def summarise(scores: pd.DataFrame) -> pd.DataFrame:
    """Means over pictures: one row per method, variant, dataset and noise level, with the number of pictures.

    Columns: psnr, psnr_rounded, psnr_noisy, ssim, seconds (per picture), sigma_estimated, seconds_per_megapixel, num_images,
    budget, num_parameters, sigma_train.
    """
    keys = ["method", "variant", "requested", "dataset", "sigma_test"]
    groups = scores.groupby(keys, sort=False, dropna=False)
    table = groups[["psnr", "psnr_rounded", "psnr_noisy", "ssim", "seconds", "sigma_estimated"]].mean()
    table["seconds_per_megapixel"] = groups["seconds"].sum() / groups["megapixels"].sum()
    table["num_images"] = groups.size()
    for column in ("budget", "num_parameters", "sigma_train"):
        table[column] = groups[column].first()
    return table.reset_index()


def noise_levels(first: float, last: float, step: float) -> list[float]:
    """first, first + step, ..., last."""
    return [first + i * step for i in range(math.floor((last - first) / step + 1e-9) + 1)]
