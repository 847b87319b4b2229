"""The kernel for AMX processors against PyTorch's own operations."""

import subprocess
import warnings

import pytest
import torch

from invdenoise import amx
from invdenoise.lifting import LiftingNet
from invdenoise.models import DnCNN, DnINN

needs_amx = pytest.mark.skipif(not amx.available(), reason="this processor has no AMX")
BF16 = dict(device_type="cpu", dtype=torch.bfloat16)


def integer_net(num_in, num_out, num_layers, num_features=16):
    """A net of small whole numbers, which bfloat16 and float32 hold exactly."""
    net = LiftingNet(num_in, num_out, num_layers, num_features)
    with torch.no_grad():
        for conv in list(net)[::2]:
            conv.weight.copy_((torch.rand_like(conv.weight) < 0.04) * torch.randint_like(conv.weight, -1, 2))
        for shrink in list(net)[1::2]:
            shrink.weight.copy_(torch.randint_like(shrink.weight, 0, 2))
    return net


def gradients(net, x, out_gradient, fused):
    x = x.clone().requires_grad_()
    net.zero_grad()
    with torch.autocast(**BF16, enabled=fused):
        out = net(x)
    out.backward(out_gradient)
    return [out.detach(), x.grad, *(p.grad.clone() for p in net.parameters())]


@needs_amx
@pytest.mark.parametrize("height, width", [(1, 1), (2, 5), (16, 16), (40, 40), (33, 18), (66, 71), (131, 40)])
@pytest.mark.parametrize(
    "num_in, num_out, num_layers, num_features", [(1, 3, 3, 16), (3, 1, 2, 16), (5, 2, 1, 7), (1, 3, 4, 16)]
)
def test_output_and_gradients_are_exact_where_bfloat16_is(height, width, num_in, num_out, num_layers, num_features):
    torch.manual_seed(height)
    net = integer_net(num_in, num_out, num_layers, num_features)
    x = torch.randint(-3, 4, (3, num_in, height, width)).float()
    out_gradient = torch.randint(-2, 3, (3, num_out, height, width)).float()
    for found, expected in zip(
        gradients(net, x, out_gradient, True), gradients(net, x, out_gradient, False), strict=True
    ):
        assert torch.equal(found, expected)
    with torch.no_grad(), torch.autocast(**BF16):
        assert torch.equal(net(x), net.float()(x))


@needs_amx
def test_the_kernel_is_what_runs_under_bfloat16_autocast_and_nothing_else_reaches_it(monkeypatch):
    calls = []
    monkeypatch.setattr(amx, "lifting_net", lambda x, *rest: calls.append(x.shape) or x[:, :1])
    net, x = LiftingNet(3, 1), torch.rand(1, 3, 8, 8)
    net(x)
    LiftingNet(3, 1, num_features=17)(x)
    assert calls == []
    with torch.autocast(**BF16):
        LiftingNet(3, 1, num_features=17)(x)
        LiftingNet(3, 1, kernel_size=5)(x)
        assert calls == []
        net(x)
    assert calls == [x.shape]


@needs_amx
def test_it_is_as_close_to_float32_as_autocast_op_by_op(monkeypatch):
    torch.manual_seed(0)
    net = LiftingNet(1, 3)
    torch.nn.init.normal_(net[-1].weight, std=0.05)
    x, out_gradient = torch.rand(4, 1, 40, 40), torch.randn(4, 3, 40, 40)
    exact = gradients(net, x, out_gradient, False)
    fused = gradients(net, x, out_gradient, True)
    monkeypatch.setattr(amx, "available", lambda: False)
    stepwise = gradients(net, x, out_gradient, True)
    for part in (
        slice(0, 1),
        slice(1, 2),
        slice(2, None),
    ):  # output, gradient of the input, gradients of the parameters
        e, f, s = (torch.cat([t.float().flatten() for t in found[part]]) for found in (exact, fused, stepwise))
        assert 0 < (f - e).norm() <= 1.05 * (s - e).norm()


@needs_amx
def test_the_number_of_threads_leaves_the_output_alone():
    torch.manual_seed(0)
    net = LiftingNet(1, 3)
    torch.nn.init.normal_(net[-1].weight, std=0.05)
    before = torch.get_num_threads()
    try:
        for shape in ((1, 1, 200, 90), (5, 1, 40, 40)):
            x, outs = torch.rand(shape), []
            for threads in (1, 2, 3):
                torch.set_num_threads(threads)
                with torch.no_grad(), torch.autocast(**BF16):
                    outs.append(net(x))
            assert torch.equal(outs[0], outs[1]) and torch.equal(outs[0], outs[2])
    finally:
        torch.set_num_threads(before)


@needs_amx
def test_a_picture_keeps_its_values_in_any_batch():
    net = integer_net(1, 3, 4)
    x = torch.randint(-3, 4, (4, 1, 90, 70)).float()
    with torch.no_grad(), torch.autocast(**BF16):
        together = net(x)
        assert torch.equal(together, torch.cat([net(picture[None]) for picture in x]))


def test_only_networks_that_fit_say_that_they_have_a_kernel(monkeypatch):
    monkeypatch.setattr(amx, "available", lambda: True)
    cpu = torch.device("cpu")
    assert DnINN().has_kernel(cpu) and DnINN(num_scales=2).has_kernel(cpu)
    assert not DnINN().has_kernel(torch.device("cuda"))
    assert not DnINN(num_features=32).has_kernel(cpu)
    assert not DnINN(kernel_size=5).has_kernel(cpu)
    assert not DnCNN().has_kernel(cpu)
    monkeypatch.setattr(amx, "available", lambda: False)
    assert not DnINN().has_kernel(cpu)


def test_a_compiler_that_cannot_build_it_is_named_and_pytorch_serves(monkeypatch, tmp_path):
    monkeypatch.setenv("INVDENOISE_CACHE", str(tmp_path))
    monkeypatch.setattr(amx, "cpu_compiler", lambda: "false")
    with pytest.warns(UserWarning, match="could not be built with false.*GCC 11"):
        assert amx._library.__wrapped__() is None
    assert list(tmp_path.rglob("*.so")) == []


@needs_amx
def test_it_is_built_once(monkeypatch, tmp_path):
    monkeypatch.setenv("INVDENOISE_CACHE", str(tmp_path))
    assert amx._library.__wrapped__() is not None
    (built,) = tmp_path.rglob("*.so")
    stamp = built.stat().st_mtime_ns
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("built again"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert amx._library.__wrapped__() is not None
    assert built.stat().st_mtime_ns == stamp
