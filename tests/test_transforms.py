"""The undecimated Haar and the redundant DCT: exact at every size, and equal to a reference where there is one."""

from __future__ import annotations

import numpy as np
import pytest
import pywt
import scipy.fft
import torch

from invdenoise.layers.transforms import BOUNDARIES, RedundantDCT, UndecimatedHaar, pad_to_multiple

SIZES = [(1, 1), (1, 7), (3, 5), (5, 4), (8, 8), (33, 20)]


def noise(*shape, dtype=torch.float64, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("dilation", [1, 2, 4])
@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_inverse_returns_the_image(size, dilation, boundary):
    haar = UndecimatedHaar(dilation, boundary)
    image = noise(2, 3, *size)
    coarse, detail = haar(image)
    assert coarse.shape == image.shape and detail.shape == (2, 9, *size)
    assert (haar.inverse(coarse, detail) - image).abs().max() < 1e-10
    # In float32 numbers up to 4 carry an error of 2e-7 each; two passes add up to less than 1e-6.
    assert (haar.inverse(*haar(image.float())) - image.float()).abs().max() < 1e-6


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_inverse_returns_a_picture_of_benchmark_size(boundary):
    image = noise(1, 1, 481, 321, dtype=torch.float32)
    for dilation in (1, 4):
        haar = UndecimatedHaar(dilation, boundary)
        assert (haar.inverse(*haar(image)) - image).abs().max() < 1e-6


def test_an_inconsistent_detail_is_averaged_over_the_pairs_that_hold_a_pixel():
    """After shrinkage no image has these coefficients; the inverse is the mean of both estimates, one at the border."""
    low, high = torch.tensor([[1.0, 2, 3]]).view(1, 1, 1, 3), torch.zeros(1, 1, 1, 3)
    haar = UndecimatedHaar()
    zero = torch.zeros(1, 2, 1, 3)
    image = haar.inverse(low, torch.cat([high, zero], 1))
    # A height of 1 passes low / sqrt(2) on; along the width a pair gives low / sqrt(2) to both its pixels.
    assert image.flatten().tolist() == pytest.approx([1 / 2, (2 + 1) / 4, (3 + 2) / 4])


@pytest.mark.parametrize("size", [(8, 8), (16, 4), (8, 12)])
def test_periodic_boundary_is_the_stationary_transform_of_pywavelets(size):
    """Same shift, same signs, at two levels; `H`, high-pass along the height, is our HL."""
    image = noise(*size)
    coarse = image[None, None]
    ours = []
    for dilation in (1, 2):
        coarse, detail = UndecimatedHaar(dilation, "periodic")(coarse)
        LH, HL, HH = detail[0].numpy()
        ours.insert(0, (coarse[0, 0].numpy(), (HL, LH, HH)))
    theirs = pywt.swt2(image.numpy(), "haar", level=2)
    for (A, details), (their_A, their_details) in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(A, their_A, atol=1e-12)
        np.testing.assert_allclose(details, their_details, atol=1e-12)
    np.testing.assert_allclose(pywt.iswt2(ours, "haar"), image.numpy(), atol=1e-12)


def test_inverse_of_shrunk_coefficients_is_that_of_pywavelets():
    image = noise(8, 12)
    haar = UndecimatedHaar(1, "periodic")
    coarse, detail = haar(image[None, None])
    detail = detail.clamp(-0.3, 0.3)
    LH, HL, HH = detail[0].numpy()
    expected = pywt.iswt2([(coarse[0, 0].numpy(), (HL, LH, HH))], "haar")
    np.testing.assert_allclose(haar.inverse(coarse, detail)[0, 0].numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("dilation", [1, 2, 4, 16])
@pytest.mark.parametrize("size", [(1, 1), (3, 5), (9, 6)])
def test_symmetric_boundary_mirrors_the_image_as_numpy_does(size, dilation):
    image = noise(*size)
    padded = np.pad(image.numpy(), ((0, dilation), (0, dilation)), mode="symmetric")
    rows = {"L": padded[: size[0]] + padded[dilation:], "H": padded[: size[0]] - padded[dilation:]}
    bands = {}
    for first, part in rows.items():
        bands[first + "L"] = (part[:, : size[1]] + part[:, dilation:]) / 2
        bands[first + "H"] = (part[:, : size[1]] - part[:, dilation:]) / 2
    coarse, detail = UndecimatedHaar(dilation)(image[None, None])
    np.testing.assert_allclose(coarse[0, 0], bands["LL"], atol=1e-12)
    for ours, name in zip(detail[0], ("LH", "HL", "HH"), strict=True):
        np.testing.assert_allclose(ours, bands[name], atol=1e-12)


def test_edges_show_in_the_subband_of_their_direction():
    image = torch.zeros(1, 1, 8, 8)
    image[..., 4:, :] = 1  # a horizontal edge: changes along the height
    LH, HL, HH = (band.abs().max().item() for band in UndecimatedHaar()(image)[1][0])
    assert (LH, HH) == (0, 0) and HL == pytest.approx(1)
    LH, HL, HH = (band.abs().max().item() for band in UndecimatedHaar()(image.mT)[1][0])
    assert (HL, HH) == (0, 0) and LH == pytest.approx(1)


def test_subbands_of_several_channels_are_grouped_by_subband():
    image = torch.zeros(1, 2, 6, 6)
    image[:, 1, 3:] = 1
    detail = UndecimatedHaar()(image)[1]
    assert [band.abs().max().item() > 0 for band in detail[0]] == [False, False, False, True, False, False]


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("dilation", [1, 4])
def test_white_noise_keeps_its_standard_deviation_in_each_subband(dilation, boundary):
    coarse, detail = UndecimatedHaar(dilation, boundary)(0.1 * noise(1, 1, 400, 400, dtype=torch.float32))
    for band in torch.cat([coarse, detail], 1)[0]:
        assert band.std().item() == pytest.approx(0.1, rel=0.02)
        assert abs(band.mean().item()) < 0.002
        # Coefficients whose taps do not overlap stay independent.
        apart = band[:, : -2 * dilation] * band[:, 2 * dilation :]
        assert abs(apart.mean().item()) < 0.02 * 0.1**2


def test_periodic_transform_is_a_tight_frame():
    image = noise(1, 1, 6, 10)
    energy = sum(part.pow(2).sum() for part in UndecimatedHaar(2, "periodic")(image))
    assert energy.item() == pytest.approx(4 * image.pow(2).sum().item())


def test_a_flat_image_has_coarse_coefficients_of_twice_its_value_and_no_detail():
    coarse, detail = UndecimatedHaar()(torch.ones(1, 1, 3, 4))
    assert torch.allclose(coarse, torch.tensor(2.0)) and not detail.any()


def test_no_false_edge_at_a_symmetric_border():
    ramp = torch.linspace(0, 1, 9).expand(1, 1, 9, 9)
    assert UndecimatedHaar()(ramp)[1].abs().max() < 0.2 < UndecimatedHaar(boundary="periodic")(ramp)[1].abs().max()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1, "zero"), "boundary is 'zero'; expected one of symmetric, periodic"),
        ((0,), "dilation is 0; expected 1 or more"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        UndecimatedHaar(*arguments)


@pytest.mark.parametrize(("size", "padded"), [((1, 1), (4, 4)), ((3, 9), (4, 12)), ((8, 4), (8, 4))])
def test_padding_replicates_the_border(size, padded):
    image = noise(1, 2, *size)
    out, original = pad_to_multiple(image, 4)
    assert original == size and out.shape == (1, 2, *padded)
    expected = np.pad(
        image.numpy(), ((0, 0), (0, 0), *((0, p - s) for p, s in zip(padded, size, strict=True))), mode="edge"
    )
    np.testing.assert_array_equal(out.numpy(), expected)
    assert pad_to_multiple(image, 1)[0] is image


# -- the redundant DCT of WINNet --------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_the_dct_is_inverted(size):
    dct = RedundantDCT()
    image = noise(2, 1, *size)
    coarse, detail = dct(image)
    assert coarse.shape == image.shape and detail.shape == (2, 15, *size)
    assert (dct.inverse(coarse, detail) - image).abs().max() < 1e-10
    assert (dct.inverse(*dct(image.float())) - image.float()).abs().max() < 2e-6  # the mean of 16 sums of 16


def test_coefficients_are_the_1d_dct_of_a_window_row_by_row():
    image = noise(1, 1, 7, 9)
    coefficients = torch.cat(RedundantDCT()(image), dim=1)
    window = image[0, 0, 2:6, 4:8]  # from one pixel before (3, 5) to two after
    expected = scipy.fft.dct(window.flatten().numpy(), norm="ortho")
    np.testing.assert_allclose(coefficients[0, :, 3, 5], expected, atol=1e-12)
    corner = np.pad(image[0, 0].numpy(), ((1, 2), (1, 2)), mode="edge")[:4, :4]
    np.testing.assert_allclose(coefficients[0, :, 0, 0], scipy.fft.dct(corner.ravel(), norm="ortho"), atol=1e-12)


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_the_released_merge_is_exact_inside_and_only_there(size):
    image = torch.rand(1, 1, *size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    exact, released = RedundantDCT(), RedundantDCT("replicate")
    parts = released(image)
    for ours, theirs in zip(exact(image), parts, strict=True):
        assert torch.equal(ours, theirs)  # the split is the same
    error = (released.inverse(*parts) - image).abs()[0, 0]
    inside = error[2:-1, 2:-1]
    assert not inside.numel() or inside.max() < 1e-10
    if min(size) > 4:
        for line in (error[0], error[1], error[-1], error[:, 0], error[:, 1], error[:, -1]):
            assert line.max() > 0.01
        assert error.max() > 0.1
    np.testing.assert_allclose(exact.inverse(*parts)[0, 0, 2:-1, 2:-1], released.inverse(*parts)[0, 0, 2:-1, 2:-1])


def test_an_inconsistent_dct_is_averaged_over_the_windows_that_hold_a_pixel():
    """One coefficient of the constant 1/4 reaches the pixels of its window, each divided by its number of windows."""
    coarse, detail = torch.zeros(1, 1, 8, 8), torch.zeros(1, 15, 8, 8)
    coarse[..., 0, 4] = 4.0  # rows -1 to 2, columns 3 to 6
    image = RedundantDCT().inverse(coarse, detail)[0, 0]
    assert image[:, 4].tolist() == pytest.approx([1 / (2 * 4), 1 / (3 * 4), 1 / (4 * 4), 0, 0, 0, 0, 0])
    assert (image[0] != 0).tolist() == [False] * 3 + [True] * 4 + [False]


def test_white_noise_keeps_its_standard_deviation_in_each_channel():
    coarse, detail = RedundantDCT()(0.1 * noise(1, 1, 300, 300, dtype=torch.float32))
    for channel in torch.cat([coarse, detail], 1)[0, :, 2:-2, 2:-2]:
        assert channel.std().item() == pytest.approx(0.1, rel=0.03)


def test_a_flat_image_has_dct_coefficients_of_four_times_its_value_and_no_detail():
    coarse, detail = RedundantDCT()(torch.ones(1, 1, 3, 4))
    torch.testing.assert_close(coarse, torch.full((1, 1, 3, 4), 4.0))
    assert detail.abs().max() < 1e-6


@pytest.mark.parametrize("boundary", ["exact", "replicate"])
def test_autocast_does_not_round_the_image(boundary):
    dct, image = RedundantDCT(boundary), noise(1, 1, 12, 9, dtype=torch.float32)
    expected = dct.inverse(*dct(image))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(dct.inverse(*dct(image)), expected)


def test_filters_are_no_weights():
    assert not RedundantDCT().state_dict() and not list(RedundantDCT().parameters())


def test_a_bad_dct_boundary_is_named():
    with pytest.raises(ValueError, match="boundary is 'zero'; expected one of exact, replicate"):
        RedundantDCT("zero")
