"""The kernel of WINNet's networks against PyTorch's own operations."""

import os
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from invdenoise import device, kernels
from invdenoise.data.noise import awgn, noise_generator
from invdenoise.device import cpu_compiler
from invdenoise.kernels import WINNET, routing
from invdenoise.layers import tiles
from invdenoise.layers.shrinkage import CLISTA, soft_threshold
from invdenoise.models.winnet import PUNet, WINNet, read_authors_weights
from invdenoise.tasks.metrics import psnr

pytestmark = pytest.mark.skipif(cpu_compiler() is None, reason="no C++ compiler")
CPU = torch.device("cpu")
SIZES = [(3, 5), (40, 40), (70, 37), (24, 61)]
SHAPES = [(1, 15, 4), (15, 1, 4), (2, 16, 1), (3, 1, 2)]
AUTHORS = Path(os.environ.get("DATA_MIRROR") or "no-mirror") / "weights" / "winnet"


def whole_kernel(*shape, inputs):
    """A kernel of ones, minus ones and zeros, about three of `inputs` not zero."""
    chosen = torch.rand(shape) < min(1.0, 3 / inputs)
    return chosen * (2.0 * torch.randint(0, 2, shape) - 1)


def thresholds_between(batch, num_layers, num_features):
    """Thresholds that no value equals, so that rounding does not change which values pass.

    Thresholds of layer l are odd multiples of 2**-(l+1), its values multiples of 2**-l.
    """
    steps = 2.0 ** -(1 + torch.arange(num_layers)).view(-1, 1)
    return (2 * torch.randint(0, 2, (batch, num_layers, num_features)) + 1) * steps


def whole_tensors(num_in, num_out, num_blocks, batch):
    """Kernels and thresholds of a `PUNet`."""
    layers = [whole_kernel(32, num_in, 3, 3, inputs=9 * num_in)]
    for _ in range(2 * num_blocks):
        layers += [whole_kernel(32, 1, 5, 5, inputs=25), whole_kernel(32, 32, 1, 1, inputs=64)]
    layers.append(whole_kernel(num_out, 32, 3, 3, inputs=32))
    return layers, thresholds_between(batch, 1 + 2 * num_blocks, 32)


def op_by_op(x, layers, thresholds, dilation):
    """A `PUNet` with these kernels and thresholds `(B, layers, 32)`."""
    first, *middle, last = layers
    thresholds = thresholds[..., None, None].unbind(1)

    def separable(x, depthwise, pointwise):
        x = F.conv2d(x, depthwise, padding=1 + dilation, dilation=dilation, groups=32)
        return F.conv2d(x, pointwise, padding=dilation - 1)

    x = soft_threshold(F.conv2d(x, first, padding=dilation, dilation=dilation), thresholds[0])
    for i in range(0, len(middle), 4):
        inner = soft_threshold(separable(x, *middle[i : i + 2]), thresholds[1 + i // 2])
        x = soft_threshold(x + separable(inner, *middle[i + 2 : i + 4]), thresholds[2 + i // 2])
    return F.conv2d(x, last, padding=dilation, dilation=dilation)


def in_kernel(x, layers, thresholds, dilation):
    weights = torch.cat([kernel.flatten() for kernel in layers])
    sizes = (len(layers) // 4, x.shape[1], len(layers[-1]), dilation)
    return routing.KernelFunction.apply(x, weights, thresholds, len(layers[-1]), WINNET, "punet", *sizes)


def clista(z, kernels, thresholds, _):
    """A `CLISTA` with these kernels and thresholds `(B, layers, 64)`."""
    analyse, synthesise = kernels
    g = F.conv2d(z, analyse, padding=1)
    for threshold in thresholds[..., None, None].unbind(1):
        g = soft_threshold(g + F.conv2d(z - F.conv2d(g, synthesise, padding=1), analyse, padding=1), threshold)
    return F.conv2d(g, synthesise, padding=1)


def clista_in_kernel(z, kernels, thresholds, _):
    weights, channels = torch.cat([kernel.flatten() for kernel in kernels]), z.shape[1]
    sizes = (thresholds.shape[1], channels)
    return routing.KernelFunction.apply(z, weights, thresholds, channels, WINNET, "clista", *sizes)


def gradients(run, x, layers, thresholds, dilation, out_gradient):
    tensors = [t.clone().requires_grad_() for t in (x, thresholds, *layers)]
    out = run(tensors[0], tensors[2:], tensors[1], dilation)
    return [out.detach(), *torch.autograd.grad(out, tensors, out_gradient.to(out.dtype))]


@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize(("num_in", "num_out", "num_blocks"), SHAPES)
@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_output_and_gradients_differ_from_pytorch_by_rounding(size, num_in, num_out, num_blocks, dilation):
    torch.manual_seed(size[0])
    layers, thresholds = whole_tensors(num_in, num_out, num_blocks, batch=3)
    x, out_gradient = torch.randint(-3, 4, (3, num_in, *size)).float(), torch.randn(3, num_out, *size)
    found = gradients(in_kernel, x, layers, thresholds, dilation, out_gradient)
    doubles = [kernel.double() for kernel in layers]
    exact = gradients(op_by_op, x.double(), doubles, thresholds.double(), dilation, out_gradient)
    for ours, theirs in zip(found, exact, strict=True):
        assert theirs.norm() > 0 or min(size) < 5  # taps may miss a small picture
        assert (ours - theirs).norm() <= 1e-5 * theirs.norm()


@pytest.mark.parametrize("num_layers", [1, 4])
@pytest.mark.parametrize("channels", [1, 2, 15, 16])
@pytest.mark.parametrize("size", [(1, 1), *SIZES], ids=lambda size: f"{size[0]}x{size[1]}")
def test_clista_differs_from_pytorch_by_rounding(size, channels, num_layers):
    torch.manual_seed(size[0])
    layers = [whole_kernel(64, channels, 3, 3, inputs=9 * channels), whole_kernel(channels, 64, 3, 3, inputs=64)]
    thresholds = thresholds_between(3, num_layers, 64)
    z, out_gradient = torch.randint(-3, 4, (3, channels, *size)).float(), torch.randn(3, channels, *size)
    found = gradients(clista_in_kernel, z, layers, thresholds, 1, out_gradient)
    doubles = [kernel.double() for kernel in layers]
    exact = gradients(clista, z.double(), doubles, thresholds.double(), 1, out_gradient)
    for ours, theirs in zip(found, exact, strict=True):
        assert theirs.norm() > 0
        assert (ours - theirs).norm() <= 1e-5 * theirs.norm()


def test_a_picture_may_be_one_pixel():
    torch.manual_seed(1)
    layers, thresholds = whole_tensors(1, 15, 4, batch=3)
    x, out_gradient = torch.tensor([-40.0, 7, 30]).view(3, 1, 1, 1), torch.randn(3, 15, 1, 1)
    found = gradients(in_kernel, x, layers, thresholds, 1, out_gradient)
    for ours, theirs in zip(found, gradients(op_by_op, x, layers, thresholds, 1, out_gradient), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-4)


def random_net(*arguments, seed=0):
    """A `PUNet` whose last kernel is not zero."""
    torch.manual_seed(seed)
    net = PUNet(*arguments)
    torch.nn.init.normal_(net.last.weight, std=0.05)
    return net


@torch.no_grad()
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("size", [(20, 1100), (300, 30)], ids=["wide", "tall"])
def test_large_pictures_give_the_same(size, dilation):
    net = random_net(1, 15, 2, 32, dilation)
    x, sigma = torch.rand(1, 1, *size), torch.full((1, 1, 1, 1), 25.0)
    shrink = CLISTA(15)
    for conv in (shrink.analyse, shrink.synthesise):
        torch.nn.init.normal_(conv.weight, std=0.05)
    for part, given in ((net, x), (shrink, net(x, sigma))):
        expected = part(given, sigma)
        kernels.attach(part)
        assert 0 < (part(given, sigma) - expected).abs().max() < 1e-5 * expected.abs().max()


def test_the_noise_level_of_each_image_gets_its_gradient():
    net = random_net(15, 1, 1, 32, 1)
    x, found = torch.rand(2, 15, 6, 7), []
    for use in (kernels.detach, kernels.attach):
        use(net)
        sigma = torch.tensor([20.0, 50.0]).view(2, 1, 1, 1).requires_grad_()
        net.zero_grad()
        net(x, sigma).square().sum().backward()
        found.append([sigma.grad, *(p.grad.clone() for p in net.parameters())])
    for ours, theirs in zip(found[1], found[0], strict=True):
        assert (ours - theirs).norm() <= 1e-4 * theirs.norm()


def test_threads_and_batches_leave_every_number_alone():
    torch.manual_seed(0)
    layers, thresholds = whole_tensors(1, 15, 2, batch=5)
    x, out_gradient = torch.randn(5, 1, 40, 33), torch.randn(5, 15, 40, 33)
    large, before, found = torch.randn(1, 1, 130, 20), torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            outs = gradients(in_kernel, x, layers, thresholds, 1, out_gradient)
            found.append([*outs, in_kernel(large, layers, thresholds[:1], 1)])
    finally:
        torch.set_num_threads(before)
    for ours, ours_too, theirs in zip(*found, strict=True):
        assert torch.equal(ours, theirs) and torch.equal(ours_too, theirs)
    alone = torch.cat([in_kernel(x[i : i + 1], layers, thresholds[i : i + 1], 1) for i in range(5)])
    assert torch.equal(alone, found[0][0])


@pytest.mark.parametrize("layout", ["channels_last", "crop"])
def test_inputs_of_any_layout_are_read(layout):
    net = random_net(15, 1, 1, 32, 1)
    kernels.attach(net)
    whole = torch.rand(2, 15, 12, 10)
    x = whole.to(memory_format=torch.channels_last) if layout == "channels_last" else whole[:, :, 2:9, 1:7]
    assert not x.is_contiguous()
    assert torch.equal(net(x, torch.full((1, 1, 1, 1), 25.0)), net(x.contiguous(), torch.full((1, 1, 1, 1), 25.0)))


def network(randomised):
    return randomised(WINNet(num_pairs=1, num_blocks=1, num_lista_layers=2), gain=0.5)


def test_a_training_step_is_the_same(randomised):
    net = network(randomised)
    clean = torch.rand(2, 1, 12, 14)
    noisy, found = clean + 0.1 * torch.randn_like(clean), []
    for use in (kernels.detach, kernels.attach):
        use(net).zero_grad()
        loss, logs = net.training_loss(clean, noisy, 25.0)
        loss.backward()
        found.append((loss.item(), {k: v.item() for k, v in logs.items()}, [p.grad.clone() for p in net.parameters()]))
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-5) and found[1][1] == pytest.approx(found[0][1], rel=1e-5)
    for ours, theirs in zip(found[1][2], found[0][2], strict=True):
        assert (ours - theirs).norm() <= 1e-3 * theirs.norm()


def test_calls_whose_gradient_is_needed_can_be_left_to_pytorch(monkeypatch, randomised):
    net = network(randomised).eval().requires_grad_(False)
    x, found = torch.rand(1, 1, 8, 9), []
    for use in (kernels.detach, lambda net: kernels.attach(net, gradients=False)):
        use(net)
        sigma = torch.tensor([20.0], requires_grad=True)  # alone asks for a gradient
        (gradient,) = torch.autograd.grad(net(x, sigma).square().sum(), sigma, create_graph=True)
        found.append([gradient, torch.autograd.grad(gradient.sum(), sigma)[0]])
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*found, strict=True))
    calls = []
    monkeypatch.setattr(kernels.Kernel, "call", lambda self, function, *_: calls.append(function))
    net.denoise(x, 20)
    assert len(calls) == 5


def test_it_runs_only_where_it_is_asked_for_and_fits(monkeypatch, randomised):
    calls = []
    run = kernels.Kernel.call
    monkeypatch.setattr(
        kernels.Kernel, "call", lambda self, function, *rest: calls.append(function) or run(self, function, *rest)
    )
    monkeypatch.setattr(routing, "processor_flags", frozenset)
    net, x = network(randomised).eval(), torch.rand(1, 1, 8, 9)
    plain = net.denoise(x)
    assert calls == []
    assert kernels.has_kernel(net, CPU, "float32") and kernels.resolve_precision(net, "fastest") == "float32"
    assert not kernels.has_kernel(net, CPU, "bfloat16") and not kernels.has_kernel(net, "cuda", "float32")
    fast = kernels.speed_up(net).denoise(x)
    assert calls == ["punet_forward"] * 2 + ["clista_forward"] + ["punet_forward"] * 2  # P and U, there and back
    torch.testing.assert_close(fast, plain, rtol=0, atol=1e-5)
    calls.clear()
    net.double().denoise(x.double())
    assert calls == []
    assert not kernels.has_kernel(WINNet(num_features=16), CPU, "float32")
    assert not kernels.has_kernel(WINNet(num_atoms=32), CPU, "float32")


@torch.no_grad()
def test_the_kernel_needs_no_tiles_and_double_precision_keeps_them(monkeypatch, randomised):
    monkeypatch.setattr(tiles, "TILE", 16)
    net, x = kernels.attach(network(randomised)).eval(), torch.rand(1, 1, 40, 20)
    sizes = []
    net.linns[0].layers[0].predict.register_forward_hook(lambda _, given, __: sizes.append(given[0].shape[-2:]))
    fast = net.denoise(x)
    assert sizes == [(40, 20)] * 2
    sizes.clear()
    exact = net.double().denoise(x.double())
    assert len(sizes) == 2 * 3 * 2
    torch.testing.assert_close(fast.double(), exact, rtol=0, atol=1e-5)


def test_matrix_units_for_bfloat16_are_preferred(monkeypatch):
    monkeypatch.setattr(routing, "processor_flags", lambda: frozenset({"amx_bf16"}))
    monkeypatch.setattr("invdenoise.device._has_bfloat16", lambda _: True)
    net = WINNet()
    assert kernels.resolve_precision(net, "fastest") == "bfloat16"
    assert kernels.resolve_precision(net, "float32") == "float32"


def test_without_a_compiler_pytorch_serves(monkeypatch, tmp_path, randomised):
    monkeypatch.setenv("INVDENOISE_CACHE", str(tmp_path))
    monkeypatch.setattr(device, "cpu_compiler", lambda: "false")
    monkeypatch.setattr(device, "_warned", set())
    for attached in (routing._AttachedPUNet, routing._AttachedCLISTA):
        monkeypatch.setattr(attached, "kernels", {"float32": kernels.Kernel("winnet.cpp")})
    net, x = network(randomised).eval(), torch.rand(1, 1, 8, 9)
    plain = net.denoise(x)
    with pytest.warns(UserWarning, match="winnet.cpp could not be built with false"):
        kernels.attach(net)
        assert torch.equal(net.denoise(x), plain)


@pytest.mark.skipif(not AUTHORS.is_dir(), reason="data not available: set DATA_MIRROR to a folder with weights/")
@pytest.mark.parametrize("num_levels", [1, 2])
def test_the_authors_network_keeps_its_psnr(num_levels):
    net = read_authors_weights(AUTHORS / f"WINNet_lvl_{num_levels}_nlvl_25" / "net_WINNet.pth", num_levels, 25.0)
    clean = F.interpolate(torch.rand(1, 1, 9, 11, generator=torch.Generator().manual_seed(0)), (70, 90), mode="bicubic")
    noisy = awgn(clean, 25.0, noise_generator(0, "test", "kernel", 25.0))
    plain = psnr(clean, net.denoise(noisy))
    assert plain > 28
    assert psnr(clean, kernels.speed_up(net, "float32").denoise(noisy)) == pytest.approx(plain, abs=1e-4)
