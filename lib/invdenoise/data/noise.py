"""White Gaussian noise, and the generator that makes the noise of a test picture repeatable."""

from __future__ import annotations

import hashlib
import json

import torch
from torch import Tensor

from invdenoise.checks import check_range, check_sigma, warn_of_fraction


def noise_generator(seed: int, dataset: str, image: str, sigma: float) -> torch.Generator:
    """A CPU generator for the noise of one test picture; its state depends on these four values only.

    Neither the order of the pictures nor the method under test changes the noise. The seed is the first 8 bytes of a
    SHA-256. Unlike Python's `hash`, it is the same in every process and on every machine.

    Args:
        seed: another seed gives independent noise for every picture.
        dataset, image: names, "set12" and "01.png".
        sigma: noise level in grey levels; 25 and 25.0 give the same noise.
    """
    key = json.dumps([int(seed), dataset, image, float(sigma)])
    digest = hashlib.sha256(key.encode()).digest()
    return torch.Generator("cpu").manual_seed(int.from_bytes(digest[:8], "big"))


def awgn(clean: Tensor, sigma: float, generator: torch.Generator) -> Tensor:
    """`clean` plus white Gaussian noise of standard deviation `sigma / 255`: same shape, dtype and device.

    The sum is neither clipped nor rounded, so it leaves [0, 1]. The noise is drawn in float32 on the generator's
    device. So one generator gives the same noise to a float64 image and to an image on a GPU.

    Args:
        clean: float tensor of any shape, nominal range [0, 1].
        sigma: in grey levels, 0 to 255; a level between 0 and 1 is warned of once.
        generator: advances by one number a value of `clean`.

    Raises:
        TypeError: `clean` is not a float tensor.
        ValueError: `sigma` is negative, above 255 or not finite, or `clean` has another range, such as 0..255.
    """
    if not isinstance(clean, Tensor) or not clean.is_floating_point():
        found = clean.dtype if isinstance(clean, Tensor) else type(clean).__name__
        raise TypeError(f"awgn: the image is {found}; expected a float tensor (for 8-bit pixels: x.float() / 255)")
    sigma = check_sigma(sigma, needed=True, who="awgn")
    if clean.numel():
        check_range(clean, "awgn")
    warn_of_fraction(sigma, "awgn")
    noise = torch.randn(clean.shape, generator=generator, dtype=torch.float32, device=generator.device)
    return clean + noise.to(clean) * (sigma / 255)
