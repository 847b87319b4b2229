"""The one contract of every denoiser, network or classical: `denoise(noisy, sigma)`."""

from __future__ import annotations

import difflib
import math
from numbers import Real

import torch
from torch import Tensor

from invdenoise.transforms import pad_to_multiple

SIGMA_MAX = 255.0  # grey levels: noise as strong as the whole range


class Denoiser:
    """What a notebook may rely on. A subclass implements `estimate` and states its needs in the attributes.

    Attributes:
        name: identifier of the experiment or method ("dninn-st-s25", "bm3d").
        channels: number of channels it accepts, or None for any (treated one by one).
        needs_sigma: whether `denoise` must be given the noise level.
        multiple: height and width are padded to multiples of this, and cropped after.
        card: where the weights come from (`budget`, `sha256`, ...); classical methods have none, and say "none".
    """

    name: str = "denoiser"
    channels: int | None = 1
    needs_sigma: bool = False
    multiple: int = 1
    card: dict = {"budget": "none", "sha256": ""}

    def num_parameters(self) -> int:
        """Learned parameters: none, unless a network says otherwise."""
        return 0

    def estimate(self, noisy: Tensor, sigma: float | None, **options) -> Tensor:
        """The clean image of a checked and padded `noisy` `(B, C, H, W)`; not yet clamped."""
        raise NotImplementedError

    @torch.no_grad()
    def denoise(self, noisy: Tensor, sigma: float | None = None, **options) -> Tensor:
        """The denoised image, `(B, C, H, W)` in [0, 1], same dtype and size as `noisy`.

        Args:
            noisy: float tensor `(B, C, H, W)` of any height and width, nominal range [0, 1]; noise may exceed it
                and must not be clipped.
            sigma: standard deviation of the noise in grey levels, 0 to 255; None where the method does not need it.
            options: switches of the method, such as `adapt=False` for DnINN.

        Raises:
            TypeError: `noisy` is not a float tensor, or `sigma` is not a number.
            ValueError: shape, channels, NaN or infinite pixels, a negative sigma, or a sigma that is missing.
        """
        check_image(noisy, self.channels, self.name)
        sigma = check_sigma(sigma, self.needs_sigma, self.name)
        padded, (height, width) = pad_to_multiple(noisy, self.multiple)
        return self.estimate(padded, sigma, **options)[..., :height, :width].clamp(0, 1).to(noisy.dtype)


def check_image(image: Tensor, channels: int | None, who: str) -> None:
    """Refuse what is not a finite float batch `(B, C, H, W)` with the right number of channels."""
    if not isinstance(image, Tensor):
        raise TypeError(f"{who}: the image is a {type(image).__name__}; expected a float tensor of shape (B, C, H, W)")
    if not image.is_floating_point():
        raise TypeError(
            f"{who}: the image is {image.dtype}; expected floats in [0, 1] (for 8-bit pixels: x.float() / 255)"
        )
    if image.ndim != 4 or 0 in image.shape:
        raise ValueError(f"{who}: the image has shape {tuple(image.shape)}; expected (B, C, H, W), none of them 0")
    if channels is not None and image.shape[1] != channels:
        found, wanted = image.shape[1], f"{channels} channel{'s' if channels > 1 else ''}"
        hint = "; denoise each channel on its own, or convert to gray" if channels == 1 else ""
        raise ValueError(f"{who}: the image has {found} channels; this method takes {wanted}{hint}")
    if not torch.isfinite(image).all():
        bad = int((~torch.isfinite(image)).sum())
        raise ValueError(f"{who}: {bad} of {image.numel()} pixels are NaN or infinite; mend the image first")


def check_sigma(sigma: float | None, needed: bool, who: str) -> float | None:
    """`sigma` as a float in grey levels, or None where it may be missing."""
    if sigma is None:
        if needed:
            raise ValueError(
                f"{who}: sigma is missing; give the noise level in grey levels, e.g. denoise(noisy, sigma=25)"
            )
        return None
    if isinstance(sigma, Tensor) and sigma.ndim == 0:
        sigma = sigma.item()
    if isinstance(sigma, bool) or not isinstance(sigma, Real):
        raise TypeError(f"{who}: sigma is {sigma!r}; expected a number of grey levels, 0 to 255")
    sigma = float(sigma)
    if not math.isfinite(sigma) or not 0 <= sigma <= SIGMA_MAX:
        raise ValueError(f"{who}: sigma is {sigma:g}; expected a noise level in grey levels, 0 to 255")
    return sigma


def load_denoiser(name: str, **options) -> Denoiser:
    """The denoiser of that name, ready to use: a trained network or a classical method.

    Args:
        name: an experiment of `experiments.yaml` ("dninn-st-s25"), authors' weights ("dncnn-authors-s25") or a
            classical method ("bm3d", "wavelet-bayes", "wavelet-visu", "nlm"). `list_denoisers()` names them all.
        options: passed on to the loader (networks: `budget`, `weights`; classical methods: their parameters).

    Raises:
        ValueError: no such name; the message lists the nearest.
        FileNotFoundError: a network whose weights are not there; the message names the command that trains or fetches.
    """
    from invdenoise import classical, weights

    if name in classical.METHODS:
        return classical.load(name, **options)
    if name not in (known := list_denoisers()):
        near = difflib.get_close_matches(name, known) or known
        raise ValueError(f"no denoiser {name!r}; did you mean {', '.join(near)}?")
    return weights.load_network(name, **options)


def list_denoisers() -> list[str]:
    """Every name that `load_denoiser` knows: classical methods, then networks."""
    from invdenoise import classical, weights

    return [*classical.METHODS, *weights.network_names()]
