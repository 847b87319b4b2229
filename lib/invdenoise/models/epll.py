"""EPLL (Zoran and Weiss, ICCV 2011): every patch of the picture becomes likely under a mixture of Gaussians, and its training."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from invdenoise.models.plane import ClassicalDenoiser

SIDE = 8  # of a patch, in pixels
SCHEDULE = (1, 4, 8, 16, 32)  # beta sigma^2 of each iteration
FLOOR = (1 / 255) ** 2  # added to every variance: a patch is known to a grey level at best
CHUNK = 4096  # patches at once


class Mixture(nn.Module):
    """A mixture of Gaussians without mean, for patches of 8x8 pixels in [0, 1] whose mean has been taken off.

    Args:
        num_components: Gaussians (paper: 200).

    Attributes:
        log_shares: logarithms of the components' probabilities, `(num_components,)`.
        covariances: on and above the diagonal, row by row, `(num_components, 2080)`.
    """

    def __init__(self, num_components: int = 200):
        super().__init__()
        num_pixels = SIDE**2
        upper = torch.triu_indices(num_pixels, num_pixels)
        self.register_buffer("log_shares", torch.full((num_components,), -math.log(num_components)))
        self.register_buffer("covariances", torch.eye(num_pixels)[upper[0], upper[1]].repeat(num_components, 1))

    def matrices(self) -> Tensor:
        """The covariances, `(num_components, 64, 64)`, in float64."""
        num_pixels = SIDE**2
        upper = torch.triu_indices(num_pixels, num_pixels)
        whole = torch.zeros(len(self.covariances), num_pixels, num_pixels, dtype=torch.float64)
        whole[:, upper[0], upper[1]] = whole[:, upper[1], upper[0]] = self.covariances.double()
        return whole


class Likelihood:
    """Log-probabilities of patches under each component, with `variance` added to every pixel.

    The quadratic form of a patch u is the inner product of an inverse covariance with u u', of which the upper half counts.
    So the forms of all components are one matrix product.
    """

    def __init__(self, mixture: Mixture, variance: float):
        values, vectors = torch.linalg.eigh(mixture.matrices())
        values = values.clamp(min=0) + variance
        inverse = vectors / values[:, None] @ vectors.mT
        num_pixels = SIDE**2
        self.upper = torch.triu_indices(num_pixels, num_pixels)
        twice = torch.where(self.upper[0] == self.upper[1], 1.0, 2.0)
        self.forms = (-0.5 * twice * inverse[:, self.upper[0], self.upper[1]]).float().T.contiguous()
        constants = mixture.log_shares.double() - 0.5 * (values.log().sum(1) + num_pixels * math.log(2 * math.pi))
        self.constants = constants.float()

    def products(self, patches: Tensor) -> Tensor:
        """The upper half of u u' of each patch, `(2080, number)`."""
        pixels = patches.T.contiguous()
        found, start = pixels.new_empty(len(self.forms), len(patches)), 0
        for i in range(SIDE**2):  # faster than looking up both factors of every product
            end = start + SIDE**2 - i
            torch.mul(pixels[i], pixels[i:], out=found[start:end])
            start = end
        return found

    def __call__(self, products: Tensor) -> Tensor:
        """Joint log-probability of patch and component, `(number, num_components)`."""
        return products.T @ self.forms + self.constants


class EPLL(ClassicalDenoiser):
    """Half-quadratic splitting of the expected patch log likelihood, with a mixture of 200 Gaussians for patches of 8x8.

    In each of five iterations every overlapping patch is denoised by the Wiener filter of its most likely component at the
    noise level 1 / sqrt(beta), and the picture becomes the average of the patches, weighed against the noisy picture: beta is
    1, 4, 8, 16 and 32 times 1 / sigma^2. A patch's mean is taken off before and put back after.

    The authors' mixture could not be had: `notebooks/linn/train_mixture.py` trains another.
    Ten to twenty seconds on one core for a picture of 481x321.

    Args:
        learned: the mixture.
    """

    name = "epll"
    display_name = "EPLL"
    min_side = SIDE
    weights = "epll-mixture"

    def __init__(self, learned: Mixture):
        self.mixture = learned

    def num_parameters(self) -> int:
        """Shares and covariances of the mixture."""
        return sum(values.numel() for values in self.mixture.buffers())

    def denoise_plane(self, plane: np.ndarray, sigma: float) -> np.ndarray:
        noisy = torch.from_numpy(plane).float()
        estimate, covariances = noisy, self.mixture.matrices()
        for weight in SCHEDULE:
            variance = sigma**2 / weight  # 1 / beta
            likelihood = Likelihood(self.mixture, variance)
            noise = variance * torch.eye(SIDE**2, dtype=torch.float64)
            filters = torch.linalg.solve(covariances + noise, covariances).float()  # of a row: u' (S + I/beta)^-1 S
            mean_of_patches = _average(_wiener(_patches(estimate), likelihood, filters), noisy.shape)
            estimate = (noisy + weight * mean_of_patches) / (1 + weight)
        return estimate.double().numpy()


def _patches(image: Tensor) -> Tensor:
    """All overlapping patches of `(H, W)`, `(number, 64)`."""
    return image.unfold(0, SIDE, 1).unfold(1, SIDE, 1).flatten(2).flatten(0, 1)


def _wiener(patches: Tensor, likelihood: Likelihood, filters: Tensor) -> Tensor:
    """Each patch, denoised by the filter of its most likely component."""
    denoised = []
    for some in patches.split(CHUNK):
        mean = some.mean(1, keepdim=True)
        centred = some - mean
        component = likelihood(likelihood.products(centred)).argmax(1)
        result = torch.empty_like(centred)
        for k in component.unique().tolist():
            members = component == k
            result[members] = centred[members] @ filters[k]
        denoised.append(result + mean)
    return torch.cat(denoised)


def _average(patches: Tensor, shape: torch.Size) -> Tensor:
    """The picture `(H, W)` in which a pixel is the mean of its values in all patches `(number, 64)`."""
    together = F.fold(patches.T[None].contiguous(), tuple(shape), SIDE)[0, 0]
    count = F.fold(torch.ones(1, SIDE**2, len(patches)), tuple(shape), SIDE)[0, 0]
    return together / count


# -- training -----------------------------------------------------------------------------------------------------------


def training_patches(images: Sequence[Tensor], number: int, generator: torch.Generator) -> Tensor:
    """`number` patches at random places, as many of each image `(H, W)` in [0, 1], without their mean: `(number, 64)`."""
    found = []
    for place, image in enumerate(images):
        count = number * (place + 1) // len(images) - number * place // len(images)
        row, column = (torch.randint(side - SIDE + 1, (count,), generator=generator) for side in image.shape)
        within = torch.arange(SIDE)
        found.append(image[(row[:, None] + within)[:, :, None], (column[:, None] + within)[:, None]].flatten(1))
    patches = torch.cat(found)
    return patches - patches.mean(1, keepdim=True)


def fit(
    patches: Tensor,
    num_components: int,
    num_iterations: int,
    generator: torch.Generator,
    report: Callable[[str], None] = print,
) -> tuple[Mixture, list[float]]:
    """A mixture fitted by expectation maximisation, and the mean log-likelihood of a patch (nats) before each iteration.

    Starts from components around randomly chosen patches: each patch belongs to the chosen one whose direction is nearest.

    Args:
        patches: `(number, 64)` without mean.
    """
    mixture = Mixture(num_components)
    chosen = F.normalize(patches[torch.randperm(len(patches), generator=generator)[:num_components]], dim=1)
    history: list[float] = []
    for iteration in range(num_iterations + 1):
        likelihood = Likelihood(mixture, 0.0 if iteration else FLOOR)
        shares, moments, total = torch.zeros(num_components), torch.zeros_like(mixture.covariances), 0.0
        for some in patches.split(CHUNK):
            products = likelihood.products(some)
            if iteration:
                joint = likelihood(products)
                total += torch.logsumexp(joint, 1).double().sum().item()
                members = joint.softmax(1)
            else:
                members = F.one_hot((some @ chosen.T).abs().argmax(1), num_components).float()
            shares += members.sum(0)
            moments.addmm_(members.T, products.T)
        if iteration:
            history.append(total / len(patches))
            report(f"iteration {iteration} of {num_iterations}: log-likelihood of a patch {history[-1]:.3f}")
        diagonal = (likelihood.upper[0] == likelihood.upper[1]).float()
        mixture.covariances.copy_(moments / shares.clamp(min=1)[:, None] + FLOOR * diagonal)
        mixture.log_shares.copy_((shares.clamp(min=1) / shares.clamp(min=1).sum()).log())
    return mixture, history


def log_likelihood(mixture: Mixture, patches: Tensor) -> float:
    """Mean log-likelihood of patches `(number, 64)` without mean, in nats."""
    likelihood = Likelihood(mixture, 0.0)
    parts = [torch.logsumexp(likelihood(likelihood.products(some)), 1).double() for some in patches.split(CHUNK)]
    return torch.cat(parts).mean().item()
