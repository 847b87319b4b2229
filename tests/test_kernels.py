"""The kernels of LiftingNet against PyTorch's own operations: bfloat16 on AMX, float32 on any processor."""

import copy
import dataclasses
import platform
import subprocess
import warnings

import pytest
import torch

from invdenoise import kernels
from invdenoise.kernels import LIFTING_NET, Kernel
from invdenoise.lifting import LiftingNet
from invdenoise.models import DnCNN, DnINN
from invdenoise.provenance import cpu_compiler

needs_amx = pytest.mark.skipif(not LIFTING_NET["bfloat16"].available(), reason="this processor has no AMX")
needs_compiler = pytest.mark.skipif(cpu_compiler() is None, reason="no C++ compiler")
PRECISIONS = [pytest.param("float32", marks=needs_compiler), pytest.param("bfloat16", marks=needs_amx)]
CPU = torch.device("cpu")
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


def dyadic_net(num_in, num_out, num_layers, num_features):
    """A net whose values, for whole numbers, stay well away from its thresholds.

    Kernels are whole, and the thresholds of layer l odd multiples of 2**-(l+1) where values are multiples of 2**-l: which of them
    pass, and with them the gradients, does not hang on rounding.
    """
    net = LiftingNet(num_in, num_out, num_layers, num_features)
    with torch.no_grad():
        for conv in list(net)[::2]:
            density = min(
                1.0, 5 / (9 * conv.in_channels)
            )  # the values of a layer are about twice those of the one before
            signs = 2 * torch.randint_like(conv.weight, 0, 2) - 1
            conv.weight.copy_((torch.rand_like(conv.weight) < density) * signs)
        for layer, shrink in enumerate(list(net)[1::2]):
            shrink.weight.copy_((2 * torch.randint_like(shrink.weight, 0, 2) + 1) / 2 ** (layer + 1))
    return net


def in_kernel(net, precision):
    """A function that runs the net in its kernel."""

    def run(x):
        net.in_kernel = True
        with torch.autocast(**BF16, enabled=precision == "bfloat16"):
            out = net(x)
        net.in_kernel = False
        return out

    return run


def gradients(net, x, out_gradient, run):
    """What `run` makes of `x`, and the gradients by `x` and by each parameter of `net`."""
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
    in_kernel(LiftingNet(3, 1, num_features=17), precision)(x)
    in_kernel(LiftingNet(3, 1, kernel_size=5), precision)(x)
    in_kernel(LiftingNet(3, 1).double(), precision)(x.double())
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
        assert DnINN().has_kernel(CPU, precision) and DnINN(num_scales=2).has_kernel(CPU, precision)
        assert not DnINN().has_kernel(torch.device("cuda"), precision)
        assert not DnINN(num_features=32).has_kernel(CPU, precision)
        assert not DnINN(kernel_size=5).has_kernel(CPU, precision)
        assert not DnCNN().has_kernel(CPU, precision)
    monkeypatch.setattr(Kernel, "available", lambda _: False)
    assert not any(DnINN().has_kernel(CPU, precision) for precision in LIFTING_NET)


@pytest.mark.parametrize(
    "there, expected", [(("float32", "bfloat16"), "bfloat16"), (("float32",), "float32"), ((), "bfloat16")]
)
def test_the_fastest_precision_is_that_of_the_kernel(monkeypatch, there, expected):
    """On a processor that computes in bfloat16: its matrix units first, then the kernel in float32, then compiled bfloat16."""
    monkeypatch.setattr(Kernel, "available", lambda self: self in [LIFTING_NET[precision] for precision in there])
    monkeypatch.setattr("invdenoise.provenance._has_bfloat16", lambda _: True)
    assert DnINN().resolve_precision("fastest") == expected
    assert DnCNN().resolve_precision("fastest") == "bfloat16"
    assert DnINN().resolve_precision("float32") == "float32"


@needs_compiler
def test_speed_up_in_float32_takes_the_kernel_and_plain_denoising_does_not(monkeypatch, randomised):
    network = randomised(DnINN(num_layers=2), gain=0.5).eval()
    noisy = torch.rand(1, 1, 50, 60)
    plain = network.denoise(noisy, 25)
    calls = []
    call = Kernel.call
    monkeypatch.setattr(Kernel, "call", lambda self, *rest: calls.append(self) or call(self, *rest))
    network.denoise(noisy, 25)
    copy.deepcopy(network).speed_up("float32", compiled=False).denoise(noisy, 25)
    assert calls == []
    fast = network.speed_up("float32").denoise(noisy, 25)
    assert calls == [LIFTING_NET["float32"]] * 16
    assert 0 < (fast - plain).abs().max() < 1e-5


@needs_compiler
def test_training_in_the_kernel_follows_training_without(randomised):
    torch.manual_seed(0)
    clean = torch.rand(2, 1, 24, 24)
    noisy = clean + 0.1 * torch.randn_like(clean)
    losses = {}
    for use in (True, False):
        network = randomised(DnINN(num_layers=2), gain=0.5).use_kernel(use)
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
    monkeypatch.setattr(kernels, "cpu_compiler", lambda: "false")
    kernel = dataclasses.replace(kernel, needs=frozenset())
    monkeypatch.setitem(LIFTING_NET, "float32", kernel)
    net, x = LiftingNet(1, 3, 2, identity_start=False), torch.rand(1, 1, 9, 9)
    expected = net(x)
    with pytest.warns(UserWarning, match=f"{kernel.source} could not be built with false.*GCC 11"):
        assert torch.equal(in_kernel(net, "float32")(x), expected)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # told once
        assert torch.equal(in_kernel(net, "float32")(x), expected)
    assert list(tmp_path.rglob("*.so")) == []


def test_without_a_compiler_pytorch_serves(monkeypatch):
    monkeypatch.setattr(kernels, "cpu_compiler", lambda: None)
    assert not any(kernel.available() for kernel in LIFTING_NET.values())
    assert not DnINN().has_kernel(CPU, "float32")


def test_a_processor_without_the_units_is_not_asked(monkeypatch):
    monkeypatch.setattr(kernels, "processor_flags", lambda: frozenset({"avx2", "fma"}))
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
