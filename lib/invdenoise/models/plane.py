"""What classical methods share: they are told the noise level, and denoise a gray plane."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from invdenoise.models.base import Denoiser


class ClassicalDenoiser(Denoiser):
    """A method for one gray plane and a known noise level. Channels are denoised one by one where it has no form for colour.

    Runs on the CPU, in float64, wherever the image lies. At sigma 0 it returns its input.

    Attributes:
        display_name: name for tables and figures.
        min_side: a lower or narrower plane is extended by reflection before, and cropped after.
        package: that it needs besides those of this library.
    """

    display_name = "classical method"
    package = ""
    channels = None
    needs_sigma = True
    min_side = 1

    def denoise_plane(self, plane: np.ndarray, sigma: float) -> np.ndarray:
        """The denoised `plane`, both `(H, W)` in float64. `sigma` is above 0 and on the scale of the pixels, [0, 1]."""
        raise NotImplementedError

    def denoise_image(self, image: np.ndarray, sigma: float) -> np.ndarray:
        """The denoised `image`, both `(C, H, W)`, else as `denoise_plane`. A method with a form for colour overrides this."""
        return np.stack([self.denoise_plane(plane, sigma) for plane in image])

    def estimate(self, noisy: Tensor, sigma: float) -> Tensor:
        if sigma == 0:
            return noisy
        height, width = noisy.shape[-2:]
        images = _extend(noisy.detach().cpu().double().numpy(), self.min_side)
        denoised = np.stack([self.denoise_image(image, sigma / 255) for image in images])
        return torch.from_numpy(denoised[..., :height, :width]).to(noisy.device)


def _extend(images: np.ndarray, side: int) -> np.ndarray:
    """`images` `(B, C, H, W)` with H and W at least `side`, reflected at the bottom and right as often as that takes."""
    bottom, right = (max(side - size, 0) for size in images.shape[-2:])
    return np.pad(images, ((0, 0), (0, 0), (0, bottom), (0, right)), mode="symmetric")
