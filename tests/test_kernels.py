"""The kernels of LiftingNet against PyTorch's own operations: bfloat16 on AMX, float32 on any processor."""

import copy
import ctypes
import dataclasses
import pickle
import platform
import shutil
import subprocess
import warnings
from pathlib import Path

import pytest
import torch

from invdenoise import device, kernels
from invdenoise.device import cpu_compiler
from invdenoise.kernels import LIFTING_NET, WINNET, Kernel, build
from invdenoise.layers.lifting import LiftingNet
from invdenoise.models.dncnn import DnCNN
from invdenoise.models.dninn import DnINN

needs_amx = pytest.mark.skipif(not LIFTING_NET["bfloat16"].available(), reason="this processor has no AMX")
needs_compiler = pytest.mark.skipif(cpu_compiler() is None, reason="no C++ compiler")
PRECISIONS = [pytest.param("float32", marks=needs_compiler), pytest.param("bfloat16", marks=needs_amx)]
CPU = torch.device("cpu")
BF16 = dict(device_type="cpu", dtype=torch.bfloat16)


@pytest.fixture(autouse=True)
def nothing_warned_of(monkeypatch):
    """A fault is named once in a process; every test sees it."""
    monkeypatch.setattr(device, "_warned", set())


def integer_net(num_in, num_out, num_layers, num_features=16):
    """A net of small whole numbers, which bfloat16 and float32 hold exactly."""
    net = LiftingNet(num_in, num_out, num_layers, num_features)
    with torch.no_grad():
        for conv in list(net)[::2]:
            conv.weight.copy_((torch.rand_like(conv.weight) < 0.04) * torch.randint_like(conv.weight, -1, 2))
        for shrink in list(net)[1::2]:
            shrink.weight.copy_(torch.randint_like(shrink.weight, 0, 2))
    return net


def dyadic_net(num_in, num_out, num_layers, num_features):
    """A net whose values, for whole numbers, stay well away from its thresholds.

    Kernels are whole numbers. The thresholds of layer l are odd multiples of 2**-(l+1), its values multiples of 2**-l.
    So rounding does not change which values pass, nor the gradients.
    """
    net = LiftingNet(num_in, num_out, num_layers, num_features)
    with torch.no_grad():
        for conv in list(net)[::2]:
            density = min(1.0, 5 / (9 * conv.in_channels))  # values grow about twofold from layer to layer
            signs = 2 * torch.randint_like(conv.weight, 0, 2) - 1
            conv.weight.copy_((torch.rand_like(conv.weight) < density) * signs)
        for layer, shrink in enumerate(list(net)[1::2]):
            shrink.weight.copy_((2 * torch.randint_like(shrink.weight, 0, 2) + 1) / 2 ** (layer + 1))
    return net


def in_kernel(net, precision):
    """A function that runs the net in its kernel, where it has one, and leaves it as it was."""

    def run(x):
        kernels.attach(net, precision)
        with torch.autocast(**BF16, enabled=precision == "bfloat16"):
            out = net(x)
        kernels.detach(net)
        return out

    return run


def gradients(net, x, out_gradient, run):
    """The output of `run(x)`, and the gradients with respect to `x` and each parameter of `net`."""
    x = x.clone().requires_grad_()
    net.zero_grad()
    out = run(x)
    out.backward(out_gradient)
    return [out.detach(), x.grad, *(p.grad.clone() for p in net.parameters())]


def in_parts(found):
    """Output, gradient of the input, gradients of kernels, gradients of thresholds: one vector each."""
    parts = [found[:1], found[1:2], found[2::2], found[3::2]]
    return [torch.cat([t.double().flatten() for t in part]) for part in parts]


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
    fused = in_kernel(net, "bfloat16")
    for found, expected in zip(
        gradients(net, x, out_gradient, fused), gradients(net, x, out_gradient, net), strict=True
    ):
        assert torch.equal(found, expected)
    with torch.no_grad():
        assert torch.equal(fused(x), net.float()(x))


SIZES = [(1, 1), (3, 5), (40, 40), (2, 70), (33, 18), (70, 97), (131, 40)]
SHAPES = [(1, 3, 8, 16), (3, 1, 8, 16), (5, 2, 1, 7), (16, 16, 2, 16), (2, 4, 3, 12)]


@needs_compiler
@pytest.mark.parametrize("height, width", SIZES)
@pytest.mark.parametrize("num_in, num_out, num_layers, num_features", SHAPES)
def test_float32_output_differs_from_pytorch_by_rounding(height, width, num_in, num_out, num_layers, num_features):
    torch.manual_seed(height)
    net = LiftingNet(num_in, num_out, num_layers, num_features, identity_start=False)
    x = torch.randn(3, num_in, height, width)
    with torch.no_grad():
        found, exact = in_kernel(net, "float32")(x), net.double()(x.double())
    assert (found - exact).norm() <= 5e-6 * exact.norm()


@needs_compiler
@pytest.mark.parametrize("height, width", SIZES)
@pytest.mark.parametrize("num_in, num_out, num_layers, num_features", SHAPES)
def test_float32_gradients_differ_from_pytorch_by_rounding(height, width, num_in, num_out, num_layers, num_features):
    torch.manual_seed(height)
    net = dyadic_net(num_in, num_out, num_layers, num_features)
    x = torch.randint(-3, 4, (3, num_in, height, width)).float()
    out_gradient = torch.randn(3, num_out, height, width)
    found = in_parts(gradients(net, x, out_gradient, in_kernel(net, "float32")))
    exact = in_parts(gradients(net.double(), x.double(), out_gradient.double(), net))
    for ours, theirs in zip(found, exact, strict=True):
        assert theirs.norm() > 0 or height * width < 100  # a small picture may lie under every threshold
        assert (ours - theirs).norm() <= 1e-5 * theirs.norm()


@needs_compiler
def test_values_at_the_threshold_stop_the_gradient():
    net = LiftingNet(1, 1, 1, 1)
    with torch.no_grad():
        for conv in (net[0], net[2]):
            conv.weight.copy_(torch.eye(3)[1].outer(torch.eye(3)[1])[None, None])
        net[1].weight.fill_(0.5)
    x = torch.tensor([-1.0, -0.5, 0.0, 0.25, 0.5, 1.0]).view(1, 1, 1, 6)
    out, by_x, _, by_threshold, _ = gradients(net, x, torch.ones_like(x), in_kernel(net, "float32"))
    assert out.flatten().tolist() == [-0.5, 0, 0, 0, 0, 0.5]
    assert by_x.flatten().tolist() == [1, 0, 0, 0, 0, 1]
    assert by_threshold.item() == 0  # one value rises with the threshold, one falls


@needs_compiler
@pytest.mark.parametrize("layout", ["channels_last", "crop", "expanded"])
def test_inputs_and_gradients_of_any_layout_are_read(layout):
    torch.manual_seed(0)
    net = LiftingNet(3, 2, 2, identity_start=False)
    x, out_gradient = torch.randn(2, 3, 20, 30), torch.randn(2, 2, 20, 30)
    if layout == "channels_last":
        x, out_gradient = (t.contiguous(memory_format=torch.channels_last) for t in (x, out_gradient))
        net.to(memory_format=torch.channels_last)
    elif layout == "crop":
        x, out_gradient = x[..., 3:-2, 1:-4], out_gradient[..., 3:-2, 1:-4]
    else:
        x, out_gradient = x[:1].expand(2, -1, -1, -1), out_gradient[:, :1].expand(-1, 2, -1, -1)
    x = x.detach().requires_grad_()

    def both(run):
        net.zero_grad()
        out = run(x)
        return [out, *torch.autograd.grad(out, [x, *net.parameters()], out_gradient)]

    for found, expected in zip(both(in_kernel(net, "float32")), both(net), strict=True):
        assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())


@pytest.mark.parametrize("precision", PRECISIONS)
def test_what_runs_in_the_kernel_and_what_does_not(monkeypatch, precision):
    calls = []
    monkeypatch.setattr(Kernel, "call", lambda self, function, *_: calls.append((self, function)))
    net, x = LiftingNet(3, 1), torch.rand(1, 3, 8, 8)
    net(x)
    with torch.autocast(**BF16):  # in the precision of the kernel, but not attached
        net(x)
    in_kernel(LiftingNet(3, 1, num_features=17), precision)(x)
    in_kernel(LiftingNet(3, 1, kernel_size=5), precision)(x)
    in_kernel(LiftingNet(3, 1).double(), precision)(x.double())
    kernels.attach(net, precision)
    with torch.autocast(**BF16, enabled=precision == "float32"):  # attached, but for the other precision
        net(x)
    assert calls == []
    in_kernel(net, precision)(x)
    assert calls == [(LIFTING_NET[precision], "lifting_net_forward")]


@needs_amx
def test_it_is_as_close_to_float32_as_autocast_op_by_op(monkeypatch):
    torch.manual_seed(0)
    net = LiftingNet(1, 3)
    torch.nn.init.normal_(net[-1].weight, std=0.05)
    x, out_gradient = torch.rand(4, 1, 40, 40), torch.randn(4, 3, 40, 40)
    exact = in_parts(gradients(net, x, out_gradient, net))
    fused = in_parts(gradients(net, x, out_gradient, in_kernel(net, "bfloat16")))
    monkeypatch.setattr(Kernel, "available", lambda _: False)
    stepwise = in_parts(gradients(net, x, out_gradient, in_kernel(net, "bfloat16")))
    for e, f, s in zip(exact, fused, stepwise, strict=True):
        assert 0 < (f - e).norm() <= 1.05 * (s - e).norm()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_number_of_threads_leaves_the_output_alone(precision):
    torch.manual_seed(0)
    net = LiftingNet(1, 3)
    torch.nn.init.normal_(net[-1].weight, std=0.05)
    before = torch.get_num_threads()
    try:
        for shape in ((1, 1, 200, 90), (1, 1, 131, 33), (5, 1, 40, 40)):
            x, outs = torch.rand(shape), []
            for threads in (1, 2, 3):
                torch.set_num_threads(threads)
                with torch.no_grad():
                    outs.append(in_kernel(net, precision)(x))
            assert torch.equal(outs[0], outs[1]) and torch.equal(outs[0], outs[2])
    finally:
        torch.set_num_threads(before)


@needs_compiler
def test_gradients_of_several_threads_add_up():
    torch.manual_seed(0)
    net = LiftingNet(1, 3, 3, identity_start=False)
    x, out_gradient = torch.rand(5, 1, 20, 24), torch.randn(5, 3, 20, 24)
    before = torch.get_num_threads()
    try:
        found = {}
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found[threads] = gradients(net, x, out_gradient, in_kernel(net, "float32"))
            again = gradients(net, x, out_gradient, in_kernel(net, "float32"))
            assert all(torch.equal(a, b) for a, b in zip(found[threads], again, strict=True))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[1][1], found[3][1])
    for one, several in zip(in_parts(found[1]), in_parts(found[3]), strict=True):
        assert (one - several).norm() <= 1e-5 * one.norm()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_picture_keeps_its_values_in_any_batch(precision):
    torch.manual_seed(0)
    net = LiftingNet(1, 3, 4, identity_start=False)
    x = torch.rand(4, 1, 90, 70)
    with torch.no_grad():
        run = in_kernel(net, precision)
        assert torch.equal(run(x), torch.cat([run(picture[None]) for picture in x]))


def test_only_networks_that_fit_say_that_they_have_a_kernel(monkeypatch):
    monkeypatch.setattr(Kernel, "available", lambda _: True)
    for precision in LIFTING_NET:
        assert kernels.has_kernel(DnINN(), CPU, precision) and kernels.has_kernel(DnINN(num_scales=2), "cpu", precision)
        assert not kernels.has_kernel(DnINN(), "cuda", precision)
        assert not kernels.has_kernel(DnINN(num_features=32), CPU, precision)
        assert not kernels.has_kernel(DnINN(kernel_size=5), CPU, precision)
        assert not kernels.has_kernel(DnCNN(), CPU, precision)
    monkeypatch.setattr(Kernel, "available", lambda _: False)
    assert not any(kernels.has_kernel(DnINN(), CPU, precision) for precision in LIFTING_NET)


@pytest.mark.parametrize(
    "there, expected", [(("float32", "bfloat16"), "bfloat16"), (("float32",), "float32"), ((), "bfloat16")]
)
def test_the_fastest_precision_is_that_of_the_kernel(monkeypatch, there, expected):
    """Where the processor computes in bfloat16: its matrix units, else the float32 kernel, else compiled bfloat16."""
    monkeypatch.setattr(Kernel, "available", lambda self: self in [LIFTING_NET[precision] for precision in there])
    monkeypatch.setattr("invdenoise.device._has_bfloat16", lambda _: True)
    assert kernels.resolve_precision(DnINN(), "fastest") == expected
    assert kernels.resolve_precision(DnCNN(), "fastest") == "bfloat16"
    assert kernels.resolve_precision(DnINN(), "float32") == "float32"
    with pytest.raises(ValueError, match="precision is 'half'; expected fastest, float32 or bfloat16"):
        kernels.resolve_precision(DnINN(), "half")


@pytest.mark.parametrize(
    "there, bfloat16, compiler, dninn, dncnn",
    [
        (("bfloat16", "float32"), True, True, "bfloat16 in own kernel", "compiled float32"),
        (("float32",), True, True, "float32 in own kernel", "compiled float32"),
        ((), False, True, "compiled float32", "compiled float32"),
        ((), True, False, "bfloat16", "float32"),
    ],
)
def test_the_setting_is_named_as_it_runs(monkeypatch, there, bfloat16, compiler, dninn, dncnn):
    compiled = []
    monkeypatch.setattr(Kernel, "available", lambda self: self in [LIFTING_NET[precision] for precision in there])
    monkeypatch.setattr("invdenoise.device._has_bfloat16", lambda _: bfloat16)
    monkeypatch.setattr("invdenoise.kernels.routing.can_compile", lambda _: compiler)
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module, **_: compiled.append(module))
    for network, expected in ((DnINN(), dninn), (DnCNN(), dncnn)):
        compiled.clear()
        assert kernels.setting(network) == expected
        kernels.speed_up(network)
        assert network.precision in expected and bool(compiled) == ("compiled" in expected)
        attached = [part for part in network.modules() if hasattr(part, "kernel_precision")]
        assert len(attached) == (8 if "own kernel" in expected else 0)


@needs_compiler
def test_speed_up_in_float32_takes_the_kernel_and_plain_denoising_does_not(monkeypatch, randomised):
    network = randomised(DnINN(num_layers=2), gain=0.5).eval()
    noisy = torch.rand(1, 1, 50, 60)
    plain = network.denoise(noisy, 25)
    calls = []
    call = Kernel.call
    monkeypatch.setattr(Kernel, "call", lambda self, *rest: calls.append(self) or call(self, *rest))
    network.denoise(noisy, 25)
    kernels.speed_up(copy.deepcopy(network), "float32", compiled=False).denoise(noisy, 25)
    assert calls == []
    fast = kernels.speed_up(network, "float32").denoise(noisy, 25)
    assert calls == [LIFTING_NET["float32"]] * 16
    assert 0 < (fast - plain).abs().max() < 1e-5
    calls.clear()
    assert torch.equal(kernels.detach(network).denoise(noisy, 25), plain) and calls == []


@needs_compiler
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda network: pickle.loads(pickle.dumps(network))])
def test_a_copy_is_attached_too_and_uses_its_own_weights(copied, monkeypatch, randomised):
    network = randomised(DnINN(num_layers=2), gain=0.5).eval()
    names, noisy = list(network.state_dict()), torch.rand(1, 1, 20, 30)
    kernels.attach(network)
    assert list(network.state_dict()) == names
    before = network.denoise(noisy, 25)
    other = randomised(copied(network), seed=1, gain=0.5)
    calls = []
    call = Kernel.call
    monkeypatch.setattr(Kernel, "call", lambda self, *rest: calls.append(self) or call(self, *rest))
    found = other.denoise(noisy, 25)
    assert len(calls) == 16 and torch.equal(network.denoise(noisy, 25), before)
    expected = randomised(DnINN(num_layers=2), seed=1, gain=0.5).eval().denoise(noisy, 25)
    assert 0 < (found - expected).abs().max() < 1e-5 < (found - before).abs().max()


@needs_compiler
def test_calls_whose_gradient_is_needed_can_be_left_to_pytorch(monkeypatch, randomised):
    plain = randomised(DnINN(num_layers=2), gain=0.5).eval()
    network = kernels.attach(copy.deepcopy(plain), gradients=False)
    noisy, direction, calls = torch.rand(1, 1, 20, 22), torch.randn(1, 1, 20, 22), []
    call = Kernel.call
    monkeypatch.setattr(Kernel, "call", lambda self, *rest: calls.append(self) or call(self, *rest))
    exact = plain(noisy).detach()
    assert torch.equal(network(noisy), exact) and calls == []  # the parameters ask for gradients

    def curvature(net):  # the gradient of a gradient, which the kernel cannot give
        x = noisy.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(net(x).square().sum(), x, create_graph=True)
        return torch.autograd.grad((gradient * direction).sum(), x)[0]

    assert torch.equal(curvature(network), curvature(plain)) and calls == []
    for net in (network, plain):
        net.requires_grad_(False)
    assert torch.equal(curvature(network), curvature(plain)) and calls == []  # the picture asks
    torch.testing.assert_close(network(noisy), exact, rtol=0, atol=1e-5)
    torch.testing.assert_close(network.denoise(noisy), exact.clamp(0, 1), rtol=0, atol=1e-5)
    assert len(calls) == 2 * 16
    calls.clear()
    with torch.inference_mode():
        torch.testing.assert_close(network(noisy), exact, rtol=0, atol=1e-5)
    assert len(calls) == 16


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_network_in_another_precision_runs_in_it(dtype, monkeypatch, randomised):
    monkeypatch.setattr(Kernel, "call", lambda *_: pytest.fail("the float32 kernel was called"))
    plain = randomised(DnINN(num_layers=2), gain=0.5).eval().to(dtype)
    network = kernels.attach(copy.deepcopy(plain), gradients=False)
    noisy = torch.rand(1, 1, 12, 14)
    assert torch.equal(network.denoise(noisy), plain.denoise(noisy))


@needs_compiler
def test_a_pickled_network_works_where_the_kernel_cannot_be_built(monkeypatch, randomised):
    plain = randomised(DnINN(num_layers=2), gain=0.5).eval()
    stored = pickle.dumps(kernels.attach(copy.deepcopy(plain), gradients=False))
    monkeypatch.setattr(device, "cpu_compiler", lambda: None)
    monkeypatch.setitem(LIFTING_NET, "float32", fresh(LIFTING_NET["float32"]))
    noisy = torch.rand(1, 1, 12, 14)
    with pytest.warns(UserWarning, match="there is no C.. compiler"):
        assert torch.equal(pickle.loads(stored).denoise(noisy), plain.denoise(noisy))
    monkeypatch.setenv("INVDENOISE_KERNELS", "off")
    monkeypatch.setattr(Kernel, "call", lambda *_: pytest.fail("switched off"))
    assert torch.equal(pickle.loads(stored).denoise(noisy), plain.denoise(noisy))


@needs_compiler
def test_the_average_of_weights_is_attached_and_follows(randomised):
    network = kernels.attach(randomised(DnINN(num_layers=2), gain=0.5))
    average = torch.optim.swa_utils.AveragedModel(network)
    average.update_parameters(network)
    noisy = torch.rand(1, 1, 20, 30)
    assert torch.equal(average.module.denoise(noisy, 25), network.denoise(noisy, 25))
    average.update_parameters(randomised(network, seed=1, gain=0.5))
    assert not torch.equal(average.module.denoise(noisy, 25), network.denoise(noisy, 25))


@needs_compiler
def test_compiled_code_leaves_the_kernel_aside(monkeypatch, randomised):
    net = randomised(LiftingNet(1, 3, 2))
    x, calls = torch.rand(1, 1, 9, 12), []
    expected = net(x)
    kernels.attach(net)
    monkeypatch.setattr(Kernel, "call", lambda self, *_: calls.append(self))
    net(x)
    assert len(calls) == 1
    net.compile(backend="eager", fullgraph=True)
    torch.testing.assert_close(net(x), expected, rtol=0, atol=1e-6)
    assert len(calls) == 1


@needs_compiler
def test_training_in_the_kernel_follows_training_without(randomised):
    torch.manual_seed(0)
    clean = torch.rand(2, 1, 24, 24)
    noisy = clean + 0.1 * torch.randn_like(clean)
    losses = {}
    for use in (True, False):
        network = randomised(DnINN(num_layers=2), gain=0.5)
        if use:
            kernels.attach(network)
        optimizer = torch.optim.SGD(network.parameters(), 1.0)  # Adam would blow up the rounding of gradients near zero
        losses[use] = []
        for _ in range(5):
            optimizer.zero_grad()
            loss, _ = network.training_loss(clean, noisy, 25.0)
            loss.backward()
            optimizer.step()
            losses[use].append(loss.item())
    assert losses[False][-1] < 0.99 * losses[False][0]
    assert losses[True] == pytest.approx(losses[False], rel=1e-3)


def fresh(kernel):
    """The same kernel, not built or loaded yet."""
    return dataclasses.replace(kernel)


@pytest.mark.parametrize("kernel", LIFTING_NET.values(), ids=LIFTING_NET)
def test_a_compiler_that_cannot_build_it_is_named_and_pytorch_serves(monkeypatch, tmp_path, kernel):
    monkeypatch.setenv("INVDENOISE_CACHE", str(tmp_path))
    monkeypatch.setattr(device, "cpu_compiler", lambda: "false")
    kernel = dataclasses.replace(kernel, needs=frozenset())
    monkeypatch.setitem(LIFTING_NET, "float32", kernel)
    net, x = LiftingNet(1, 3, 2, identity_start=False), torch.rand(1, 1, 9, 9)
    expected = net(x)
    with pytest.warns(UserWarning, match=f"{kernel.source} could not be built with false.*GCC 11"):
        assert torch.equal(in_kernel(net, "float32")(x), expected)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # told once
        assert torch.equal(in_kernel(net, "float32")(x), expected)
        assert not fresh(WINNET).available()  # nor for another kernel with the same fault
    assert list(tmp_path.rglob("*.so")) == []


def test_without_a_compiler_pytorch_serves_after_one_warning(monkeypatch):
    monkeypatch.setattr(device, "cpu_compiler", lambda: None)
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setitem(LIFTING_NET, "float32", fresh(LIFTING_NET["float32"]))
    with pytest.warns(UserWarning) as warned:
        assert not kernels.has_kernel(DnINN(), CPU, "float32") and not fresh(WINNET).available()
        network = kernels.attach(DnINN(num_layers=2))
    assert torch.isfinite(network.denoise(torch.rand(1, 1, 9, 9))).all()
    (message,) = [str(warning.message) for warning in warned]
    assert "there is no C++ compiler 'no-such-compiler'. PyTorch's own operations are used" in message
    assert "apt install g++" in message and "INVDENOISE_KERNELS=off" in message


SOURCE = '#include "common.h"\nextern "C" int answer() { return ANSWER; }\n'


@pytest.fixture
def folder(monkeypatch, tmp_path):
    """A folder with the source of a small kernel and the header that all kernels share; an empty cache beside it."""
    sources = tmp_path / "sources"
    sources.mkdir()
    shutil.copy(Path(build.__file__).with_name("common.h"), sources)
    monkeypatch.setattr(build, "__file__", str(sources / "build.py"))
    monkeypatch.setenv("INVDENOISE_CACHE", str(tmp_path / "cache"))
    (sources / "small.cpp").write_text(SOURCE)
    with open(sources / "common.h", "a") as header:
        header.write("constexpr int ANSWER = 41;\n")
    return sources


@needs_compiler
def test_a_change_of_the_shared_header_builds_it_again(folder):
    assert Kernel("small.cpp")._library.answer() == 41
    header = folder / "common.h"
    header.write_text(header.read_text().replace("ANSWER = 41", "ANSWER = 42"))
    assert Kernel("small.cpp")._library.answer() == 42
    assert len(list(folder.parent.rglob("cache/**/*.so"))) == 2


@needs_compiler
def test_a_damaged_kernel_is_built_again(folder):
    assert Kernel("small.cpp")._library.answer() == 41
    (built,) = folder.parent.rglob("cache/**/*.so")
    copy_of_it = built.with_suffix(".damaged")  # the loaded file itself must stay whole
    copy_of_it.write_bytes(built.read_bytes()[:1000])
    copy_of_it.replace(built)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Kernel("small.cpp")._library.answer() == 41


def without_headers(folder, monkeypatch):
    (folder / "small.cpp").write_text("#include <no_such_header>\n" + SOURCE)


def without_a_compiler_that_starts(folder, monkeypatch):
    monkeypatch.setattr(device, "cpu_compiler", lambda: "/no/such/compiler")


def without_a_cache_to_write_to(folder, monkeypatch):
    (folder.parent / "file").write_text("")
    monkeypatch.setenv("INVDENOISE_CACHE", str(folder.parent / "file" / "cache"))


def without_the_right_to_execute(folder, monkeypatch):
    def refuse(path):
        raise OSError(f"{path}: failed to map segment from shared object")

    monkeypatch.setattr(ctypes, "CDLL", refuse)


def without_execution(folder, monkeypatch):
    without_the_libraries_of_the_builder(folder, monkeypatch)
    monkeypatch.setattr(build, "forbids_execution", lambda folder: True)


def without_the_libraries_of_the_builder(folder, monkeypatch):
    def refuse(path):
        raise OSError("libc.so.6: version `GLIBC_2.99' not found")

    monkeypatch.setattr(ctypes, "CDLL", refuse)


@needs_compiler
@pytest.mark.parametrize(
    "spoil, cause, remedy",
    [
        (without_headers, "small.cpp could not be built.*no_such_header", "Install the compiler's headers"),
        (without_a_compiler_that_starts, "/no/such/compiler could not be started", "Name a C.. compiler in CXX"),
        (
            without_a_cache_to_write_to,
            "small.cpp could not be built .*Not a directory",
            "Set INVDENOISE_CACHE.*written",
        ),
        (without_the_right_to_execute, "could not be loaded .*failed to map", "Set INVDENOISE_CACHE.*noexec"),
        (without_execution, "could not be loaded", "Set INVDENOISE_CACHE.*noexec"),
        (without_the_libraries_of_the_builder, "could not be loaded .*GLIBC", "Set INVDENOISE_CACHE.*this machine"),
    ],
)
def test_whatever_is_wrong_is_named_once_with_its_remedy(spoil, cause, remedy, folder, monkeypatch):
    spoil(folder, monkeypatch)
    kernel = Kernel("small.cpp")
    with pytest.warns(UserWarning, match=f"no C.. kernel: .*{cause}.*{remedy}") as warned:
        assert not kernel.available() and not kernel.available() and not Kernel("small.cpp").available()
    assert len(warned) == 1


def test_kernels_can_be_switched_off(monkeypatch):
    monkeypatch.setenv("INVDENOISE_KERNELS", "off")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not any(kernel.available() for kernel in (*LIFTING_NET.values(), WINNET))
        assert not kernels.has_kernel(DnINN(), CPU, "float32")
    if cpu_compiler():
        monkeypatch.delenv("INVDENOISE_KERNELS")
        assert LIFTING_NET["float32"].available()


def test_a_processor_without_the_units_is_not_asked(monkeypatch):
    monkeypatch.setattr(build, "processor_flags", lambda: frozenset({"avx2", "fma"}))
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("built"))
    assert not fresh(LIFTING_NET["bfloat16"]).available()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_it_is_built_once_for_each_processor(monkeypatch, tmp_path, precision):
    monkeypatch.setenv("INVDENOISE_CACHE", str(tmp_path))
    kernel = LIFTING_NET[precision]
    assert fresh(kernel).available()
    (built,) = tmp_path.rglob("*.so")
    stamp = built.stat().st_mtime_ns
    run = subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("built again"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fresh(kernel).available()
    assert built.stat().st_mtime_ns == stamp
    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(platform, "machine", lambda: "another")
    assert fresh(kernel).available()
    assert len(list(tmp_path.rglob("*.so"))) == 2
