"""Noise: additive white Gaussian, and the generator that makes a test image's noise repeatable."""

from __future__ import annotations

import hashlib
import json

import torch
from torch import Tensor

from invdenoise.denoiser import check_sigma


def noise_generator(seed: int, dataset: str, image: str, sigma: float) -> torch.Generator:
    """A CPU generator whose state depends on these four values only: the noise of one test image.

    Neither the order of the images nor the method under test changes the draw. The seed is the first 8 bytes of a
    SHA-256, which, unlike Python's `hash`, is the same in every process and on every machine.

    Args:
        seed: number of the draw; another seed gives independent noise for every image.
        dataset, image: names, "set12" and "01.png".
        sigma: noise level in grey levels; 25 and 25.0 are the same.
    """
    key = json.dumps([int(seed), dataset, image, float(sigma)])
    digest = hashlib.sha256(key.encode()).digest()
    return torch.Generator("cpu").manual_seed(int.from_bytes(digest[:8], "big"))


def awgn(clean: Tensor, sigma: float, generator: torch.Generator) -> Tensor:
    """`clean` plus white Gaussian noise of standard deviation `sigma / 255`: same shape, dtype and device.

    The sum is neither clipped nor quantised, so it leaves [0, 1]. Noise is drawn in float32 on the generator's device
    whatever `clean` is: a generator gives the same noise to a float64 image and to an image on a GPU.

    Args:
        clean: float tensor of any shape, nominal range [0, 1].
        sigma: in grey levels, 0 to 255.
        generator: advanced by one draw per pixel.

    Raises:
        TypeError: `clean` is not a float tensor.
        ValueError: `sigma` is negative, above 255 or not finite.
    """
    if not isinstance(clean, Tensor) or not clean.is_floating_point():
        found = clean.dtype if isinstance(clean, Tensor) else type(clean).__name__
        raise TypeError(f"awgn: the image is {found}; expected a float tensor (for 8-bit pixels: x.float() / 255)")
    sigma = check_sigma(sigma, needed=True, who="awgn")
    noise = torch.randn(clean.shape, generator=generator, dtype=torch.float32, device=generator.device)
    return clean + noise.to(clean) * (sigma / 255)
