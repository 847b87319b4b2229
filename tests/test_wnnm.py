"""WNNM: settings, matching against a slow search, shrinkage against its definition, and quality on a picture with texture."""

import math

import numpy as np
import pytest
import torch

from invdenoise.models import wnnm
from invdenoise.models.wnnm import WNNM, settings_for, shrink_singular_values, similar_patches


@pytest.mark.parametrize(
    ("sigma", "patch", "group", "iterations", "scale", "stride"),
    [(15, 6, 70, 8, 0.54, 2), (20.5, 7, 90, 12, 0.56, 2), (50, 8, 120, 14, 0.58, 3), (75, 9, 140, 14, 0.58, 3)],
)
def test_settings_are_the_authors(sigma, patch, group, iterations, scale, stride):
    found = settings_for(sigma)
    assert (found.patch, found.group, found.iterations, found.scale, found.stride) == (
        patch,
        group,
        iterations,
        scale,
        stride,
    )


def slow_search(image, row, column, side, number):
    """The nearest patches of one key patch, and their distances, by definition."""
    key = image[row : row + side, column : column + side]
    found = []
    for y in range(max(0, row - 30), min(image.shape[0] - side, row + 30) + 1):
        for x in range(max(0, column - 30), min(image.shape[1] - side, column + 30) + 1):
            distance = ((image[y : y + side, x : x + side] - key) ** 2).sum().item()
            found.append((distance, y * (image.shape[1] - side + 1) + x))
    return sorted(found)[:number]


@pytest.mark.parametrize("shape", [(45, 70), (12, 9), (9, 80)])
def test_matching_finds_the_nearest_patches_in_the_window(shape):
    image = 255 * torch.rand(*shape, generator=torch.Generator().manual_seed(0))
    settings = settings_for(25)
    rows, columns = (wnnm._key_places(side, settings) for side in shape)
    assert rows[-1] == shape[0] - 7 and columns[-1] == shape[1] - 7 and rows[0] == columns[0] == 0
    groups = similar_patches(image, rows, columns, 7, 5)
    assert groups.shape[0] == len(rows) * len(columns)
    for key in range(0, len(groups), 37):
        row, column = rows[key // len(columns)].item(), columns[key % len(columns)].item()
        expected = slow_search(image, row, column, 7, groups.shape[1])
        assert groups[key].tolist() == [number for _, number in expected]
        assert groups[key, 0] == row * (shape[1] - 6) + column  # the key patch itself


@pytest.mark.parametrize("shape", [(36, 60), (36, 20)])
def test_shrinkage_is_its_definition(shape):
    generator = np.random.default_rng(0)
    # Two strong components in noise of 20
    picture = generator.normal(size=(2, shape[0], 2)) @ generator.normal(size=(2, 2, shape[1])) * 60
    noisy = picture + 20 * generator.normal(size=(2, *shape))
    found = shrink_singular_values(torch.from_numpy(noisy), torch.tensor([20.0, 5.0], dtype=torch.float64)).numpy()
    for matrix, level, result in zip(noisy, (20.0, 5.0), found, strict=True):
        mean = matrix.mean(1, keepdims=True)
        u, s, vt = np.linalg.svd(matrix - mean, full_matrices=False)
        shrunk = np.sqrt(np.maximum(s**2 - shape[1] * level**2, 0))
        for _ in range(3):
            with np.errstate(divide="ignore"):
                shrunk = np.maximum(s - 2 * math.sqrt(2) * math.sqrt(shape[1]) * level**2 / (shrunk + 1e-16), 0)
        np.testing.assert_allclose(result, u * shrunk @ vt + mean, atol=1e-6)
        assert 0 < (shrunk > 0).sum() < len(s) or level == 5


def test_shrinkage_without_noise_changes_nothing():
    matrices = torch.randn(3, 36, 50, dtype=torch.float64)
    torch.testing.assert_close(shrink_singular_values(matrices, torch.zeros(3, dtype=torch.float64)), matrices)
    flat = torch.full((1, 36, 50), 7.0, dtype=torch.float64)
    torch.testing.assert_close(shrink_singular_values(flat, torch.ones(1, dtype=torch.float64)), flat)


def test_repeated_texture_is_denoised():
    rows, columns = torch.meshgrid(torch.arange(48.0), torch.arange(40.0), indexing="ij")
    clean = 0.5 + 0.3 * torch.sin(0.9 * rows + 0.5 * columns)[None, None]
    noisy = clean + 25 / 255 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    denoised = WNNM(iterations=4).denoise(noisy, 25)
    assert ((denoised - clean) ** 2).mean() < ((noisy - clean) ** 2).mean() / 12


@pytest.mark.parametrize("shape", [(1, 1), (5, 30), (9, 9)])
def test_any_size_and_any_number_of_channels(shape):
    noisy = torch.rand(1, 2, *shape)
    denoised = WNNM(iterations=1).denoise(noisy, 25)
    assert denoised.shape == noisy.shape and torch.isfinite(denoised).all()
    torch.testing.assert_close(WNNM(iterations=1).denoise(noisy, 0), noisy)


def test_a_wrong_number_of_iterations_is_refused():
    with pytest.raises(ValueError, match="iterations is 0; expected 1 or more, or None for the authors' number"):
        WNNM(iterations=0)
