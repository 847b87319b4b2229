"""Noise of a real picture, modelled: its variance where it is as strong as brightness says, and new draws of it.

Everything is measured on a pair of float tensors `(1, C, H, W)` in [0, 1], noisy and clean; the noise is their
difference. Its mean is not subtracted: a shift of colour counts as noise here as in `tasks.generate.akld`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 8  # pixels a side: variances are of 64 values, whose own standard deviation is 18 % if the noise is white
END = 0.02  # blocks that come nearer to black or white are left out: noise is clipped there
TOO_MUCH = 4.0  # times the fitted variance: such a block has an edge that is not at the same place in both pictures
NUM_PASSES = 10
SMALLEST = 1e-8  # of a fitted variance, a fortieth of a grey level squared: keeps the weights finite


def variance(noisy: Tensor, clean: Tensor) -> Tensor:
    """The mean squared noise of each channel, `(1, C, 1, 1)`."""
    return (noisy - clean).square().mean((2, 3), keepdim=True)


def fit_affine_variance(noisy: Tensor, clean: Tensor) -> tuple[Tensor, Tensor]:
    """Gain a and floor b of the variance a x + b at brightness x, per channel `(1, C, 1, 1)`.

    The model is that of Foi, Trimeche, Katkovnik and Egiazarian (IEEE TIP 2008): a Poisson part, whose variance rises
    with brightness, and a Gaussian part. A camera's tone curve may turn the sign of a, which is therefore free.

    The fit is a line through the points (mean of the clean picture, mean squared noise) of all blocks of 8x8 pixels, by
    weighted least squares. A sample variance errs in proportion to the true one, so a weight is the inverse square of
    the fitted variance, which takes a few passes. Blocks near black or white and blocks of far too large a variance are
    left out. If too few are left, or all are equally bright, a is 0 and b is `variance`.
    """
    if min(noisy.shape[-2:]) < BLOCK:
        return torch.zeros_like(variance(noisy, clean)), variance(noisy, clean)
    means = F.avg_pool2d(clean.double(), BLOCK).flatten(2)[0]
    spreads = F.avg_pool2d((noisy - clean).double().square(), BLOCK).flatten(2)[0]
    lines = [_line(x, y) for x, y in zip(means, spreads, strict=True)]
    gain, floor = (torch.stack(part).reshape(1, -1, 1, 1).to(noisy) for part in zip(*lines, strict=True))
    flat = torch.isnan(gain)
    return torch.where(flat, 0, gain), torch.where(flat, variance(noisy, clean), floor)


def _line(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Slope and intercept of the line through points, robust; NaN where the points do not determine it."""
    inside = (x > END) & (x < 1 - END)
    x, y = x[inside], y[inside]
    nothing = torch.tensor(torch.nan, dtype=torch.float64)
    if len(x) < 8 or x.std() < 0.01:
        return nothing, nothing
    fitted, kept = y.median().expand_as(y), torch.ones_like(y, dtype=torch.bool)
    for _ in range(NUM_PASSES):
        weight = kept / fitted.clamp(min=SMALLEST).square()
        weight = weight / weight.sum()
        centre, height = (weight * x).sum(), (weight * y).sum()
        slope = (weight * (x - centre) * (y - height)).sum() / (weight * (x - centre).square()).sum()
        fitted = height + slope * (x - centre)
        kept = y <= TOO_MUCH * fitted.clamp(min=SMALLEST)
        if kept.sum() < 8 or x[kept].std() < 0.01:
            return nothing, nothing
    return slope, height - slope * centre


def white_gaussian(noisy: Tensor, clean: Tensor) -> Tensor:
    """`clean` with new white Gaussian noise, of the same variance in each channel as the noise of `noisy`."""
    return clean + variance(noisy, clean).sqrt() * torch.randn_like(clean)


def poisson_gaussian(noisy: Tensor, clean: Tensor) -> Tensor:
    """`clean` with new independent noise whose variance follows brightness as fitted; the Poisson part as a Gaussian."""
    gain, floor = fit_affine_variance(noisy, clean)
    return clean + (gain * clean + floor).clamp(min=0).sqrt() * torch.randn_like(clean)


def resampled(noise: Tensor, spread: Tensor, generator: torch.Generator) -> Tensor:
    """New noise with the local variance, the spatial correlation and the correlation of channels of `noise`.

    The noise is divided by its local standard deviation. The phases of its Fourier transform are shifted by random ones,
    the same for all channels, which keeps every spectrum (Theiler et al., Physica D 1992). The result gets its local
    standard deviation back.

    Args:
        noise: float64 `(1, C, H, W)`.
        spread: its local standard deviation, of the same shape, above 0.
        generator: of the phases, on the CPU.
    """
    white = torch.randn(noise.shape[-2:], generator=generator, dtype=torch.float64).to(noise.device)
    phases = torch.fft.rfft2(white)
    spectrum = torch.fft.rfft2(noise / spread) * phases / phases.abs().clamp(min=1e-12)
    return torch.fft.irfft2(spectrum, s=noise.shape[-2:]) * spread
