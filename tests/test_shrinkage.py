"""Soft-thresholding, LISTA and CLISTA against their formulas."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from invdenoise.layers.shrinkage import CLISTA, LISTA, NoiseAdaptiveThreshold, SoftThreshold, compose, soft_threshold


def test_values_by_hand():
    x = torch.tensor([-2.0, -0.5, -0.3, 0.0, 0.3, 0.5, 1.25])
    expected = torch.tensor([-1.5, 0.0, 0.0, 0.0, 0.0, 0.0, 0.75])
    assert torch.equal(soft_threshold(x, 0.5), expected)
    assert torch.equal(soft_threshold(x, torch.tensor(0.5)), expected)
    assert torch.equal(soft_threshold(x, 0.0), x)


def test_gradient_is_one_outside_and_zero_inside():
    x = torch.tensor([-2.0, -0.2, 0.3, 3.0], requires_grad=True)
    threshold = torch.tensor(0.5, requires_grad=True)
    weights = torch.tensor([1.0, 10.0, 100.0, 1000.0])
    (soft_threshold(x, threshold) * weights).sum().backward()
    assert torch.equal(x.grad, torch.tensor([1.0, 0.0, 0.0, 1000.0]))
    assert threshold.grad.item() == 1 - 1000  # minus the sign of x, where x is outside


def test_there_is_one_threshold_per_channel_and_its_sign_does_not_matter():
    shrink = SoftThreshold(3, 0.25)
    assert shrink.threshold.tolist() == [0.25] * 3
    with torch.no_grad():
        shrink.weight.copy_(torch.tensor([0.5, -1.0, 0.0]))
    x = torch.full((2, 3, 2, 2), 2.0)
    assert shrink(x)[1, :, 1, 1].tolist() == [1.5, 1.0, 2.0]
    assert shrink(x, scale=1.5)[0, :, 0, 0].tolist() == [1.25, 0.5, 2.0]


def test_thresholds_do_not_promote_bfloat16():
    assert SoftThreshold(2, 0.1)(torch.ones(1, 2, 3, 3, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_lista_has_the_parameters_of_the_paper():
    """Three layers of three channels: six kernels 3x3 of 3 to 3 channels and nine thresholds."""
    assert sum(p.numel() for p in LISTA(3).parameters()) == 6 * 9 * 3 * 3 + 9 == 495


def test_lista_starts_as_one_soft_threshold():
    z = torch.randn(2, 3, 6, 5)
    distance = (LISTA(3, initial=0.4)(z) - soft_threshold(z, 0.4)).abs().max()
    assert 0 < distance <= 2 * 0.4 / 100 + 1e-6  # the two later thresholds are 1 % of the first
    torch.testing.assert_close(LISTA(3, num_layers=1, initial=0.4)(z), soft_threshold(z, 0.4))


def test_lista_learns_every_parameter_from_the_start():
    lista = LISTA(3, initial=0.4)
    (lista(torch.randn(2, 3, 6, 5)) ** 2).sum().backward()
    assert all(p.grad.abs().max() > 0 for p in lista.parameters())


@pytest.mark.parametrize("num_layers", [1, 2, 4])
def test_lista_follows_equation_10(num_layers, randomised):
    lista = randomised(LISTA(2, num_layers, kernel_size=5), gain=2.0).double()
    z = torch.randn(1, 2, 7, 6, dtype=torch.float64)

    def convolve(x, layer):
        return F.conv2d(x, layer.weight, padding=2)

    def shrink(x, layer):
        return x.sign() * (x.abs() - 0.5 * layer.weight.abs().view(-1, 1, 1)).clamp(min=0)

    g = torch.zeros_like(z)
    for t in range(num_layers):
        passed_on = convolve(g, lista.recur[t - 1]) if t else 0  # g_0 is 0
        g = shrink(passed_on + convolve(z, lista.encode[t]), lista.shrink[t])
    torch.testing.assert_close(lista(z, 0.5), convolve(g, lista.synthesise), rtol=0, atol=1e-12)


def test_lista_needs_a_layer():
    with pytest.raises(ValueError, match="num_layers is 0; expected 1 or more"):
        LISTA(3, 0)


# -- WINNet -----------------------------------------------------------------------------------------------------------


def test_noise_adaptive_thresholds_by_hand():
    shrink = NoiseAdaptiveThreshold(3)
    with torch.no_grad():
        shrink.weight.copy_(torch.tensor([-0.1, 0.0, 0.3]))
    expected = (1 + (20 * torch.tensor([-0.1, 0.0, 0.3])).exp()).log() / 20
    assert expected[0].item() == pytest.approx(0.00635, abs=1e-5) and expected[1].item() == pytest.approx(
        0.03466, abs=1e-5
    )
    torch.testing.assert_close(shrink.threshold(50).flatten(), expected)
    torch.testing.assert_close(shrink.threshold(15).flatten(), 0.3 * expected)
    x = torch.full((2, 3, 1, 1), -1.0)
    per_image = shrink(x, torch.tensor([50.0, 0.0]).view(2, 1, 1, 1))
    torch.testing.assert_close(per_image.flatten(1), torch.stack([expected - 1, x[0].flatten()]))


def test_noise_adaptive_thresholds_start_small_and_always_learn():
    torch.manual_seed(0)
    shrink = NoiseAdaptiveThreshold(500)
    start = shrink.threshold(50)
    assert 0.0063 < start.min() < 0.008 and 0.03 < start.max() < 0.0347
    with torch.no_grad():
        shrink.weight.fill_(-0.5)
    shrink(torch.ones(1, 500, 1, 1), 25.0).sum().backward()
    assert (shrink.weight.grad != 0).all() and shrink.threshold(25).min() > 0


def test_noise_adaptive_thresholds_do_not_promote_bfloat16():
    shrink = NoiseAdaptiveThreshold(2)
    assert shrink(torch.ones(1, 2, 3, 3, dtype=torch.bfloat16), torch.full((1, 1, 1, 1), 25.0)).dtype == torch.bfloat16


def test_clista_has_the_published_parameters():
    assert sum(p.numel() for p in CLISTA(15).parameters()) == 2 * 9 * 15 * 64 + 4 * 64 == 17_536


@pytest.mark.parametrize("num_layers", [1, 3])
def test_clista_follows_its_equations(num_layers, randomised):
    clista = randomised(CLISTA(2, 5, num_layers, kernel_size=5)).double()
    z = torch.randn(1, 2, 9, 8, dtype=torch.float64)

    def A(x):
        return F.conv2d(x, clista.analyse.weight, padding=2)

    def S(x):
        return F.conv2d(x, clista.synthesise.weight, padding=2)

    g = A(z)
    for shrink in clista.shrink:
        threshold = F.softplus(shrink.weight, 20).view(-1, 1, 1) * 30 / 50
        inner = g + A(z - S(g))
        g = inner.sign() * (inner.abs() - threshold).clamp(min=0)
    torch.testing.assert_close(clista(z, 30.0), S(g), rtol=0, atol=1e-12)


def test_clista_starts_as_a_tight_frame():
    clista = CLISTA(3, 8).double()
    assert clista.orthogonality().item() < 1e-12  # the frame was drawn in float32
    z = torch.randn(2, 3, 6, 5, dtype=torch.float64)
    torch.testing.assert_close(clista(z, 0.0), z, rtol=0, atol=1e-6)
    assert (clista(z, 50.0) - z).abs().max() > 1e-3
    clista(z, 50.0).square().sum().backward()
    assert all(p.grad.abs().max() > 0 for p in clista.parameters())


def test_orthogonality_is_the_distance_of_the_composed_kernel_from_the_identity(randomised):
    clista = randomised(CLISTA(3, 4)).double()
    # The response to an impulse in each channel is the kernel of S after A.
    impulse = torch.zeros(3, 3, 5, 5, dtype=torch.float64)
    for channel in range(3):
        impulse[channel, channel, 2, 2] = 1
    response = clista.synthesise(clista.analyse(impulse))
    torch.testing.assert_close(clista.orthogonality(), (response - impulse).square().sum(), rtol=1e-12, atol=0)


def test_composed_kernels_are_one_convolution_after_the_other():
    first = torch.randn(4, 2, 3, 3, dtype=torch.float64)
    second = torch.randn(3, 4, 5, 5, dtype=torch.float64)
    x = torch.randn(1, 2, 11, 12, dtype=torch.float64)
    kernel = compose(first, second)
    assert kernel.shape == (3, 2, 7, 7)
    torch.testing.assert_close(F.conv2d(x, kernel), F.conv2d(F.conv2d(x, first), second), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((15, 14), "num_features is 14; expected 15 or more"),
        ((15, 64, 0), "num_layers is 0; expected 1 or more"),
    ],
)
def test_bad_options_of_clista_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        CLISTA(*arguments)
