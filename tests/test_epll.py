"""EPLL: likelihoods against SciPy's, the filter against its formula, fitting on patches of known origin, and the command that trains it."""

import runpy
import sys

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from invdenoise import paths
from invdenoise.models import epll
from invdenoise.models.epll import EPLL, FLOOR, Likelihood, Mixture, fit, log_likelihood, training_patches
from invdenoise.weights import load_weights, read_card


def covariance(seed, scale=0.02):
    """A covariance of patches without mean."""
    factors = scale * torch.randn(64, 64, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    factors -= factors.mean(0)
    return factors @ factors.T / 8


def mixture_of(*covariances, shares=None):
    mixture = Mixture(len(covariances))
    upper = torch.triu_indices(64, 64)
    mixture.covariances.copy_(torch.stack(covariances)[:, upper[0], upper[1]])
    if shares:
        mixture.log_shares.copy_(torch.tensor(shares).log())
    return mixture


def drawn(covariance, number, seed):
    values, vectors = torch.linalg.eigh(covariance)
    normal = torch.randn(number, 64, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (normal * values.clamp(min=0).sqrt() @ vectors.T).float()


def test_likelihoods_are_those_of_gaussians():
    parts = [covariance(0), covariance(1, 0.05)]
    mixture, patches = mixture_of(*parts, shares=[0.3, 0.7]), drawn(parts[1], 20, 2)
    likelihood = Likelihood(mixture, 0.01)
    found = likelihood(likelihood.products(patches))
    for k, (part, share) in enumerate(zip(parts, (0.3, 0.7), strict=True)):
        normal = multivariate_normal(np.zeros(64), (part + 0.01 * torch.eye(64)).numpy())
        np.testing.assert_allclose(found[:, k], normal.logpdf(patches.numpy()) + np.log(share), rtol=1e-4)


def test_products_are_the_upper_half_of_the_outer_product():
    patches = torch.randn(5, 64)
    upper = torch.triu_indices(64, 64)
    expected = torch.einsum("ni,nj->ijn", patches, patches)[upper[0], upper[1]]
    torch.testing.assert_close(Likelihood(Mixture(1), 1.0).products(patches), expected)


def test_a_patch_is_filtered_by_its_most_likely_component_and_keeps_its_mean():
    rough, smooth = covariance(0, 0.2), covariance(1, 0.002)
    mixture, variance = mixture_of(smooth, rough), 0.01
    patches = torch.cat([drawn(smooth, 3, 2), drawn(rough, 4, 3)]) + 0.4
    noise = variance * torch.eye(64, dtype=torch.float64)
    filters = torch.linalg.solve(mixture.matrices() + noise, mixture.matrices()).float()
    found = epll._wiener(patches, Likelihood(mixture, variance), filters)
    for patch, result, part in zip(patches, found, 3 * [smooth] + 4 * [rough], strict=True):
        mean = patch.mean()
        wiener = part @ torch.linalg.inv(part + noise)
        torch.testing.assert_close(result.double(), wiener @ (patch - mean).double() + mean, rtol=0, atol=1e-4)
    assert (found[3:] - patches[3:]).abs().max() < (patches[3:] - 0.4).abs().max() / 2


def test_patches_are_put_back_where_they_were():
    image = torch.rand(11, 14)
    torch.testing.assert_close(epll._average(epll._patches(image), image.shape), image)


def test_fitting_raises_the_likelihood_and_finds_the_components():
    parts = [covariance(0, 0.05), covariance(1, 0.3)]
    patches = torch.cat([drawn(parts[0], 3000, 2), drawn(parts[1], 1000, 3)])
    patches -= patches.mean(1, keepdim=True)
    lines = []
    mixture, history = fit(patches, 2, 12, torch.Generator().manual_seed(0), lines.append)
    assert np.all(np.diff(history) > -1e-3) and history[-1] > history[0] + 1
    assert len(lines) == 12 and lines[-1] == f"iteration 12 of 12: log-likelihood of a patch {history[-1]:.3f}"
    order = mixture.matrices().diagonal(dim1=1, dim2=2).sum(1).argsort()
    shares = mixture.log_shares.exp()[order]
    torch.testing.assert_close(shares, torch.tensor([0.75, 0.25]), rtol=0, atol=0.03)
    for found, true in zip(mixture.matrices()[order], parts, strict=True):
        assert torch.linalg.norm(found - true) < 0.3 * torch.linalg.norm(true)
    assert log_likelihood(mixture, patches) == pytest.approx(history[-1], abs=0.05)
    again, _ = fit(patches, 2, 12, torch.Generator().manual_seed(0), lines.append)
    torch.testing.assert_close(again.covariances, mixture.covariances, rtol=0, atol=0)


def test_training_patches_come_from_every_image_and_have_no_mean():
    images = [torch.rand(9, 20), 5 + torch.rand(30, 8)]
    patches = training_patches(images, 101, torch.Generator().manual_seed(0))
    assert patches.shape == (101, 64) and patches.mean(1).abs().max() < 1e-5
    whole = epll._patches(images[0])
    whole = whole - whole.mean(1, keepdim=True)
    assert all((whole - patch).abs().sum(1).min() < 1e-4 for patch in patches[:50])


@pytest.mark.parametrize("shape", [(1, 1), (8, 8), (13, 30)])
def test_any_size(shape):
    noisy = torch.rand(1, 2, *shape)
    method = EPLL(mixture_of(covariance(0), covariance(1)))
    denoised = method.denoise(noisy, 25)
    assert denoised.shape == noisy.shape and torch.isfinite(denoised).all()
    torch.testing.assert_close(method.denoise(noisy, 0), noisy)


# -- weights ------------------------------------------------------------------------------------------------------------


def test_the_maintainers_command_writes_the_mixture_with_its_card(tmp_path, monkeypatch, capsys):
    path = tmp_path / "mixture.safetensors"
    options = [
        "--set",
        "embedded-train",
        "--patches",
        "600",
        "--components",
        "3",
        "--iterations",
        "2",
        "--out",
        str(path),
    ]
    monkeypatch.setattr(sys, "argv", ["train_mixture.py", *options])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(paths.NOTEBOOKS / "linn" / "train_mixture.py"), run_name="__main__")
    assert ended.value.code == 0 and f"wrote {path}" in capsys.readouterr().out
    card, mixture = read_card(path), Mixture(3)
    load_weights(mixture, path)
    assert (card["experiment"], card["patches"], card["steps"], card["data"]) == (
        "epll-mixture",
        600,
        2,
        "embedded-train",
    )
    assert len(card["log_likelihood_by_iteration"]) == 2 and card["log_likelihood"] > 0
    assert (mixture.matrices().diagonal(dim1=1, dim2=2) >= FLOOR - 1e-9).all()
