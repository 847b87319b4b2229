"""The contract of invertible layers: round trips, log-determinants, and back-propagation with constant memory."""

from __future__ import annotations

import gc
import math

import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from invdenoise.layers.invertible import Invertible, InvertibleSequence
from invdenoise.layers.lifting import LINN, LiftingNet, LiftingPair
from invdenoise.layers.transforms import RedundantDCT, UndecimatedHaar
from invdenoise.models.dninn import DnINN
from invdenoise.models.winnet import WINNet

SMALL = dict(num_layers=2, num_features=4)


class Bend(Invertible):
    """Doubles positive and halves negative details, so that its log-determinant depends on the state."""

    def forward(self, coarse, detail):
        return coarse, torch.where(detail > 0, 2 * detail, detail / 2)

    def inverse(self, coarse, detail):
        return coarse, torch.where(detail > 0, detail / 2, 2 * detail)

    def log_det(self, coarse, detail):
        return math.log(2) * detail.sign().flatten(1).sum(1)


class AffineCoupling(Invertible):
    """detail -> detail * exp(s) + t; s and t depend on coarse and on sigma, a side input that passes unchanged."""

    def __init__(self):
        super().__init__()
        self.net = nn.Conv2d(1, 6, 3, padding=1)

    def scale_and_shift(self, coarse, sigma):
        scale, shift = self.net(coarse * sigma).chunk(2, dim=1)
        return torch.tanh(scale), shift

    def forward(self, coarse, detail, sigma):
        return self.forward_log_det(coarse, detail, sigma)[0]

    def inverse(self, coarse, detail, sigma):
        scale, shift = self.scale_and_shift(coarse, sigma)
        return coarse, (detail - shift) * torch.exp(-scale), sigma

    def log_det(self, coarse, detail, sigma):
        return self.forward_log_det(coarse, detail, sigma)[1]

    def forward_log_det(self, coarse, detail, sigma):
        scale, shift = self.scale_and_shift(coarse, sigma)
        return (coarse, detail * torch.exp(scale) + shift, sigma), scale.flatten(1).sum(1)


class Update(Invertible):
    """A lifting step that takes the side input too. Its log-determinant is a constant, without a gradient."""

    def __init__(self):
        super().__init__()
        self.net = nn.Conv2d(3, 1, 3, padding=1)

    def forward(self, coarse, detail, sigma):
        return coarse + torch.tanh(self.net(detail)) * sigma, detail, sigma

    def inverse(self, coarse, detail, sigma):
        return coarse - torch.tanh(self.net(detail)) * sigma, detail, sigma

    def log_det(self, coarse, detail, sigma):
        return coarse.new_zeros(len(coarse))


def couplings(constant_memory=False) -> InvertibleSequence:
    inner = InvertibleSequence([AffineCoupling(), Update()])
    return InvertibleSequence([Update(), AffineCoupling(), Update(), inner, AffineCoupling()], constant_memory)


class Decomposition(nn.Module):
    """The two directions of one scale of DnINN, or of one level of WINNet."""

    def __init__(self, network, **where):
        super().__init__()
        self.network = network
        self.forward = lambda image: network.decompose(image, **where)
        self.inverse = lambda coarse, detail: network.reconstruct(coarse, detail, **where)


def pair() -> LiftingPair:
    return LiftingPair(LiftingNet(1, 3, **SMALL), LiftingNet(3, 1, **SMALL))


def nested(**options) -> InvertibleSequence:
    inner = InvertibleSequence([pair(), InvertibleSequence([Bend(), pair()])])
    return InvertibleSequence([LINN(2, **SMALL), inner, pair()], **options)


# Largest error of the round trip of unit normal numbers in float32: about five times what was measured.
BLOCKS = {
    "haar": (UndecimatedHaar, 1e-6),
    "haar dilated": (lambda: UndecimatedHaar(4, "periodic"), 1e-6),
    "lifting pair": (pair, 3e-6),
    "linn": (lambda: LINN(4, **SMALL), 5e-5),
    "linn of the paper": (LINN, 5e-5),
    "nested sequence": (nested, 1e-4),
    "recomputing sequence": (lambda: nested(constant_memory=True), 1e-4),
    "dct": (RedundantDCT, 5e-6),
    "affine coupling": (couplings, 1e-4),
    "dninn": (lambda: Decomposition(DnINN(num_scales=2, **SMALL), scale=1), 2e-5),
    "dninn of the paper": (lambda: Decomposition(DnINN(num_scales=2), scale=1), 2e-5),
    "winnet": (lambda: Decomposition(WINNet(2, num_features=4, num_blocks=1), sigma=25.0, level=1), 1e-5),
}


def state_of(block, dtype, height=7, width=10, batch=2, seed=0):
    """Unit normal numbers that `block` takes: an image, or coarse and detail parts."""
    generator = torch.Generator().manual_seed(seed)
    if isinstance(block, InvertibleSequence) and any(isinstance(layer, AffineCoupling) for layer in block):
        return coupling_state(batch, height, width, dtype)
    channels = (1,) if isinstance(block, UndecimatedHaar | RedundantDCT | Decomposition) else (1, 3)
    return tuple(torch.randn(batch, c, height, width, generator=generator, dtype=dtype) for c in channels)


def as_tuple(state):
    return state if isinstance(state, tuple) else (state,)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("name", BLOCKS)
def test_inverse_undoes_forward(name, dtype, randomised):
    build, tolerance = BLOCKS[name]
    block = randomised(build()).to(dtype)
    state = state_of(block, dtype)
    forward = block(*state)
    back = as_tuple(block.inverse(*forward))
    assert len(back) == len(state)
    for given, got in zip(state, back, strict=True):
        assert got.dtype == dtype
        assert (got - given).abs().max() < (1e-10 if dtype == torch.float64 else tolerance)
    if len(forward) == len(state):  # a redundant transform has a left inverse only
        assert max((f - s).abs().max() for f, s in zip(forward, state, strict=True)) > 0.1, "the block is the identity"
        again = block(*block.inverse(*state))
        for given, got in zip(state, again, strict=True):
            assert (got - given).abs().max() < (1e-10 if dtype == torch.float64 else tolerance)


def test_a_fresh_lifting_network_is_the_identity_until_it_has_learned(randomised):
    state = state_of(LINN(), torch.float32)
    linn = LINN(2, **SMALL)
    assert all(torch.equal(a, b) for a, b in zip(linn(*state), state, strict=True))
    randomised(linn)
    assert not torch.equal(linn(*state)[0], state[0])


def test_lifting_pair_follows_equations_2_and_3():
    block = LiftingPair(predict=lambda c: 10 * c.expand(-1, 3, -1, -1), update=lambda d: d.sum(1, keepdim=True))
    coarse, detail = block(torch.ones(1, 1, 2, 2), torch.ones(1, 3, 2, 2))
    assert torch.equal(detail, torch.full((1, 3, 2, 2), 1.0 - 10))
    assert torch.equal(coarse, torch.full((1, 1, 2, 2), 1.0 - 27))


# -- log-determinants -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "build", [pair, lambda: LINN(3, **SMALL), nested, Bend], ids=["pair", "linn", "nested", "bend"]
)
def test_log_det_is_that_of_the_numerical_jacobian(build, randomised):
    block = randomised(build()).double()
    state = state_of(block, torch.float64, 2, 3, batch=2, seed=4)
    log_det = block.log_det(*state)
    assert log_det.shape == (2,)
    sizes = [part[0].numel() for part in state]
    for image in range(2):
        parts = tuple(part[image : image + 1] for part in state)

        def flat(x, parts=parts):
            pieces = x.split(sizes)
            outputs = block(*(piece.view_as(part) for piece, part in zip(pieces, parts, strict=True)))
            return torch.cat([output.flatten() for output in outputs])

        jacobian = torch.autograd.functional.jacobian(flat, torch.cat([part.flatten() for part in parts]))
        assert log_det[image].item() == pytest.approx(torch.linalg.slogdet(jacobian).logabsdet.item(), abs=1e-9)
    if isinstance(block, LINN | LiftingPair):
        assert torch.equal(log_det, torch.zeros(2, dtype=torch.float64))
    else:
        assert log_det.abs().min() > 0.5 and log_det[0] != log_det[1]


def coupling_state(batch=2, height=2, width=3, dtype=torch.float64):
    """Coarse and detail, and a noise level for each image."""
    sigma = torch.linspace(0.5, 2, batch, dtype=dtype).view(-1, 1, 1, 1)
    return *state_of(None, dtype, height, width, batch), sigma


@pytest.mark.parametrize("constant_memory", [False, True], ids=["ordinary", "constant memory"])
def test_forward_log_det_is_the_output_and_the_log_det_of_the_numerical_jacobian(constant_memory, randomised):
    block = randomised(couplings(constant_memory)).double()
    state = coupling_state()
    outputs, log_det = block.forward_log_det(*state)
    for found, expected in zip(outputs, block(*state), strict=True):
        assert torch.equal(found, expected)
    assert torch.equal(log_det, block.log_det(*state)) and torch.equal(outputs[2], state[2])
    for given, got in zip(state, block.inverse(*outputs), strict=True):
        torch.testing.assert_close(got, given, rtol=0, atol=1e-10)
    for image in range(2):
        coarse, detail, sigma = (part[image : image + 1] for part in state)

        def flat(x, shape=detail.shape, sigma=sigma):
            coarse, detail = x.split([6, 18])
            return torch.cat([y.flatten() for y in block(coarse.view(1, 1, 2, 3), detail.view(shape), sigma)[:2]])

        jacobian = torch.autograd.functional.jacobian(flat, torch.cat([coarse.flatten(), detail.flatten()]))
        assert log_det[image].item() == pytest.approx(torch.linalg.slogdet(jacobian).logabsdet.item(), abs=1e-9)
    assert log_det.abs().min() > 0.1 and (log_det[0] - log_det[1]).abs() > 0.1


@pytest.mark.parametrize("build", [pair, nested, Bend], ids=["pair", "nested", "bend"])
def test_forward_log_det_of_every_layer_is_its_two_methods(build, randomised):
    block, state = randomised(build()), state_of(None, torch.float32)
    outputs, log_det = block.forward_log_det(*state)
    assert isinstance(outputs, tuple) and torch.equal(log_det, block.log_det(*state))
    assert all(torch.equal(a, b) for a, b in zip(outputs, block(*state), strict=True))


@pytest.mark.parametrize("constant_memory", [False, True], ids=["ordinary", "constant memory"])
def test_one_pass_runs_each_layer_once(constant_memory, randomised):
    block, calls = randomised(couplings(constant_memory)).double(), []
    nets = [module for module in block.modules() if isinstance(module, nn.Conv2d)]
    for net in nets:
        net.register_forward_hook(lambda net, *_: calls.append(net))
    for run in (block.forward_log_det, block.log_det, block):
        calls.clear()
        run(*coupling_state())
        assert calls == nets


@pytest.mark.parametrize("used", ["outputs", "log_det", "both"])
def test_recomputed_gradients_of_output_and_log_det_are_the_ordinary_ones(used, randomised):
    results = []
    for block in both(couplings, randomised):
        inputs = [part.clone().requires_grad_() for part in coupling_state(3, 5, 6)]
        outputs, log_det = block.forward_log_det(*inputs)
        loss = 0
        if used != "log_det":
            loss = loss + loss_of(outputs, (1.0, 0.5, 0.1))
        if used != "outputs":
            loss = loss + (log_det * torch.tensor([0.3, -0.2, 0.5])).pow(2).sum()
        loss.backward()
        gradients = [tensor.grad for tensor in (*inputs, *block.parameters())]
        results.append(
            [
                torch.zeros_like(t) if g is None else g
                for t, g in zip([*inputs, *block.parameters()], gradients, strict=True)
            ]
        )
    assert_same(results[1], results[0])
    assert sum(gradient.abs().max() > 1e-4 for gradient in results[0]) >= 8, "the gradients are too small to tell"


def test_gradcheck_of_output_and_log_det(randomised):
    chain = randomised(couplings(constant_memory=True), gain=0.5).double()
    inputs = [part.requires_grad_() for part in coupling_state(1)]
    parameters = list(chain.parameters())[::3]

    def run(*tensors):  # parameters are arguments so that gradcheck moves them
        outputs, log_det = chain.forward_log_det(*tensors[:3])
        return *outputs[:2], log_det

    assert torch.autograd.gradcheck(run, (*inputs, *parameters), eps=1e-6, atol=1e-6)


# -- constant memory --------------------------------------------------------------------------------------------------


def loss_of(outputs, weights=(1.0, 0.5)):
    """A loss whose gradient differs from place to place; a weight of None leaves an output unused."""
    used = [(out, w) for out, w in zip(outputs, weights, strict=True) if w is not None]
    return sum(w * (out.float() if out.dtype == torch.bfloat16 else out).pow(3).mean() for out, w in used)


def gradients(block, direction, state, needs=(True, True), weights=(1.0, 0.5)):
    """Output, and gradients with respect to the inputs (None where not needed) and the parameters."""
    block.zero_grad()
    inputs = [part.clone().requires_grad_(need) for part, need in zip(state, needs, strict=True)]
    outputs = getattr(block, direction)(*inputs)
    loss_of(outputs, weights).backward()
    return outputs, [x.grad for x in inputs], [p.grad for p in block.parameters()]


def assert_same(found, expected, tolerance=1e-8):
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance)


def both(build, randomised):
    """The same chain that stores and that recomputes its activations, in float64."""
    plain, recomputing = (randomised(build(constant_memory=switch)).double() for switch in (False, True))
    return plain, recomputing


@pytest.mark.parametrize("needs", [(True, True), (False, True), (False, False)], ids=["both", "one", "no input"])
@pytest.mark.parametrize("weights", [(1.0, 0.5), (1.0, None), (None, 0.5)], ids=["all outputs", "coarse", "detail"])
@pytest.mark.parametrize("direction", ["forward", "inverse"])
def test_recomputed_gradients_are_the_ordinary_ones(direction, weights, needs, randomised):
    state = state_of(None, torch.float64)
    plain, recomputing = both(nested, randomised)
    expected = gradients(plain, direction, state, needs, weights)
    found = gradients(recomputing, direction, state, needs, weights)
    assert_same(found[0], expected[0], 0)
    assert_same(found[1], expected[1])
    # The last update of a chain does not change the detail: ordinary gradients are None there, recomputed ones are 0.
    zeros = [torch.zeros_like(p) if g is None else g for p, g in zip(plain.parameters(), expected[2], strict=True)]
    assert_same([torch.zeros_like(z) if g is None else g for z, g in zip(zeros, found[2], strict=True)], zeros)
    assert sum(z.abs().max() > 1e-4 for z in zeros) > 20, "the gradients are too small to tell"


def test_shared_parameters_collect_the_gradients_of_every_use(randomised):
    def build(constant_memory):
        torch.manual_seed(0)
        shared, other = pair(), pair()
        other.update = shared.update
        return InvertibleSequence([shared, other, shared], constant_memory)

    state = state_of(None, torch.float64)
    plain, recomputing = both(build, randomised)
    expected, found = (gradients(block, "forward", state) for block in (plain, recomputing))
    assert_same(found[1], expected[1])
    assert_same(found[2], expected[2])


def test_gradients_add_up_over_both_directions_in_one_loss(randomised):
    """As a denoising network uses its lifting steps: forward, then inverse, with other work in between."""
    state = state_of(None, torch.float64)
    results = []
    for block in both(lambda **switch: LINN(3, **SMALL, **switch), randomised):
        coarse, detail = (part.clone().requires_grad_() for part in state)
        scaled = 2 * coarse  # used by the chain and again after it
        c, d = block(scaled, detail)
        outputs = block.inverse(c + scaled, torch.tanh(d))
        loss_of(outputs).backward()
        results.append([coarse.grad, detail.grad, *(p.grad for p in block.parameters())])
    assert_same(results[1], results[0])


def test_frozen_parameters_get_no_gradient_and_change_no_other(randomised):
    state = state_of(None, torch.float64)
    results = []
    for block in both(lambda **switch: LINN(2, **SMALL, **switch), randomised):
        block.layers[0].predict[0].weight.requires_grad_(False)
        results.append(gradients(block, "forward", state))
    assert results[1][2][0] is None
    assert_same(results[1][2], results[0][2])


def test_gradcheck_of_a_chain_of_four_blocks(randomised):
    chain = randomised(InvertibleSequence([pair(), Bend(), pair(), LINN(1, **SMALL)], constant_memory=True)).double()
    inputs = [part.requires_grad_() for part in state_of(chain, torch.float64, 2, 3, batch=1)]
    parameters = [p for p in chain.parameters()][::4]

    def run(*tensors):  # parameters are arguments so that gradcheck moves them
        return chain(*tensors[:2])

    assert torch.autograd.gradcheck(run, (*inputs, *parameters), eps=1e-6, atol=1e-6)


def test_inputs_are_left_as_they_were_and_outputs_are_the_same_without_gradients(randomised):
    chain = randomised(LINN(3, **SMALL, constant_memory=True))
    state = state_of(chain, torch.float32)
    before = [part.clone() for part in state]
    outputs, _, _ = gradients(chain, "forward", state)
    assert all(torch.equal(a, b) for a, b in zip(state, before, strict=True))
    with torch.no_grad():
        quiet = chain(*state)
    assert all(torch.equal(a, b) for a, b in zip(quiet, outputs, strict=True))
    assert not quiet[0].requires_grad


def test_second_derivatives_are_refused(randomised):
    chain = randomised(LINN(1, **SMALL, constant_memory=True))
    coarse, detail = (part.requires_grad_() for part in state_of(chain, torch.float32))
    (gradient,) = torch.autograd.grad(chain(coarse, detail)[0].pow(2).sum(), coarse, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pytest.mark.parametrize("inside", [True, False], ids=["backward inside", "backward outside"])
def test_bfloat16_autocast_trains_every_kernel(inside, randomised):
    """Casts of the weights made without a graph must not be taken for those of the recomputation."""
    state = state_of(None, torch.float32)
    results = []
    for switch in (False, True):
        block = randomised(LINN(3, **SMALL, constant_memory=switch))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            outputs = block.inverse(*(torch.tanh(part) for part in block(*state)))
            loss = loss_of(outputs)
            if inside:
                loss.backward()
        if not inside:
            loss.backward()
        assert outputs[0].dtype == torch.float32
        results.append([p.grad for p in block.parameters()])
    for ours, theirs in zip(results[1], results[0], strict=True):
        assert (ours - theirs).norm() < 0.05 * theirs.norm() + 1e-6


def saved_bytes(num_pairs, constant_memory, randomised, method="forward"):
    """Bytes and number of the tensors that the backward pass keeps, in autograd or in Python; parameters left out."""
    chain = randomised(LINN(num_pairs, **SMALL, constant_memory=constant_memory))
    kept = {}

    def pack(tensor):
        if tensor.data_ptr() not in given:
            kept[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    state = tuple(part.requires_grad_() for part in state_of(chain, torch.float32, 16, 16))
    gc.collect()
    given = {thing.data_ptr() for thing in gc.get_objects() if type(thing) in (torch.Tensor, nn.Parameter)}
    with saved_tensors_hooks(pack, lambda tensor: tensor):
        outputs = getattr(chain, method)(*state)
    if method == "forward_log_det":  # the log-determinant itself is a result, not kept for the backward pass
        outputs, log_det = outputs
        given.add(log_det.data_ptr())
        del log_det
    assert outputs[0].requires_grad
    gc.collect()
    for thing in gc.get_objects():
        if type(thing) is torch.Tensor:
            pack(thing)
    return sum(kept.values()), len(kept)


def test_what_is_kept_for_the_backward_pass_does_not_grow_with_depth(randomised):
    short, long = (saved_bytes(pairs, True, randomised) for pairs in (4, 16))
    state = 2 * 16 * 16 * 4 * 4  # batch, height, width, channels, bytes
    assert short == long == (state, 2)  # the outputs and nothing else
    assert saved_bytes(16, True, randomised, "forward_log_det") == long
    ordinary_short, ordinary_long = (saved_bytes(pairs, False, randomised) for pairs in (4, 16))
    assert ordinary_long[0] > 3.5 * ordinary_short[0] > 30 * state


def test_recomputation_lets_go_of_one_layer_before_the_next(randomised):
    """The backward pass, too, may keep the graph of one layer only."""
    alive, most = 0, 0

    class Counted(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            nonlocal alive, most
            alive += 1
            most = max(most, alive)
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            nonlocal alive
            alive -= 1
            return grad

    class Counting(LiftingPair):
        def forward(self, coarse, detail):
            return super().forward(Counted.apply(coarse) if torch.is_grad_enabled() else coarse, detail)

    layers = [Counting(LiftingNet(1, 3, **SMALL), LiftingNet(3, 1, **SMALL)) for _ in range(6)]
    chain = randomised(InvertibleSequence(layers, constant_memory=True))
    state = tuple(part.requires_grad_() for part in state_of(chain, torch.float32))
    loss_of(chain(*state)).backward()
    assert (most, alive) == (1, 0)


@pytest.mark.slow
def test_training_takes_the_same_course(randomised):
    """Thirty steps of a small denoiser, with and without recomputation."""
    curves = []
    for switch in (False, True):
        network = randomised(DnINN(num_pairs=2, **SMALL, constant_memory=switch), gain=0.2)
        optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
        losses = []
        for step in range(30):
            generator = torch.Generator().manual_seed(step)
            clean = torch.rand(4, 1, 1, 1, generator=generator).expand(-1, -1, 16, 16).contiguous()
            noisy = clean + 0.1 * torch.randn(clean.shape, generator=generator)
            optimizer.zero_grad()
            loss, _ = network.training_loss(clean, noisy, 25.0)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        curves.append(losses)
    assert curves[0] == pytest.approx(curves[1], rel=1e-3)
    assert math.log(curves[0][-1] / curves[0][0]) < -0.5, "nothing was learned"
