"""Soft-thresholding and LISTA against their formulas."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from invdenoise.shrinkage import LISTA, SoftThreshold, soft_threshold


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
