"""Muon and its pair with Adam: orthogonal updates, exact state, and rates that reach both."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import nn

from invdenoise.optim import Muon, Pair, build_optimizer, orthogonalise


def matrices(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("shape", [(16, 144), (144, 16), (3, 144), (16, 9), (12, 12)])
def test_singular_values_end_near_one_and_singular_vectors_stay(shape):
    given = matrices(4, *shape)
    out = orthogonalise(given)
    assert out.shape == given.shape
    left, values, right = torch.linalg.svd(given, full_matrices=False)
    found = left.mT @ out @ right.mT
    diagonal = found.diagonal(dim1=-2, dim2=-1)
    assert (found - torch.diag_embed(diagonal)).abs().max() < 1e-9
    strong = values > 0.05 * values.amax(-1, keepdim=True)  # five steps do not lift what is nearly zero
    assert diagonal[strong].min() > 0.6 and diagonal.max() < 1.25


def test_a_batch_gives_what_each_matrix_gives_alone():
    given = matrices(3, 5, 20)
    out = orthogonalise(given)
    for number in range(3):
        torch.testing.assert_close(orthogonalise(given[number : number + 1])[0], out[number], rtol=0, atol=1e-12)
    torch.testing.assert_close(orthogonalise(given.mT), out.mT, rtol=0, atol=1e-12)
    torch.testing.assert_close(orthogonalise(1e-4 * given), out, rtol=0, atol=1e-6)  # the size does not matter


def test_a_matrix_of_zeros_stays_zero():
    assert torch.equal(orthogonalise(torch.zeros(1, 3, 4)), torch.zeros(1, 3, 4))


def test_update_follows_the_momentum_by_hand():
    """Buffer b <- b + 0.05 (g - b); step along 0.05 g + 0.95 b, orthogonalised, of root mean square 0.2 lr or so."""
    kernel = nn.Parameter(matrices(8, 4, 3, 3))
    expected, buffer = kernel.detach().clone(), torch.zeros(8, 36, dtype=torch.float64)
    optimizer = Muon([kernel], lr=0.01)
    for step in range(3):
        kernel.grad = matrices(8, 4, 3, 3, seed=step + 1)
        grad = kernel.grad.reshape(8, 36)
        buffer = buffer + 0.05 * (grad - buffer)
        update = orthogonalise((0.05 * grad + 0.95 * buffer)[None])[0].view_as(kernel)
        expected = expected - 0.01 * 0.2 * 36**0.5 * update
        before = kernel.detach().clone()
        optimizer.step()
        torch.testing.assert_close(kernel.detach(), expected, rtol=0, atol=1e-12)
        assert (kernel - before).pow(2).mean().sqrt().item() == pytest.approx(0.2 * 0.01, rel=0.25)


def test_kernels_of_one_shape_do_not_disturb_each_other():
    def run(groups):
        kernels = [nn.Parameter(matrices(4, 3, 3, 3, seed=seed)) for seed in range(2)]
        kernels.append(nn.Parameter(matrices(4, 27, seed=2)))  # the same matrix shape without being a kernel
        optimizers = [Muon([kernels[i] for i in group]) for group in groups]
        for step in range(3):
            for number, kernel in enumerate(kernels):
                kernel.grad = matrices(*kernel.shape, seed=10 * step + number)
            for optimizer in optimizers:
                optimizer.step()
        return kernels

    for together, alone in zip(run([(0, 1, 2)]), run([(0,), (1,), (2,)]), strict=True):
        torch.testing.assert_close(together, alone, rtol=0, atol=1e-12)


def test_parameters_without_gradient_stay():
    moved, still = nn.Parameter(matrices(3, 3)), nn.Parameter(matrices(3, 3))
    before = still.detach().clone()
    moved.grad = torch.ones_like(moved)
    Muon([moved, still]).step()
    assert torch.equal(still, before) and not torch.equal(moved, matrices(3, 3))


def test_vectors_are_refused():
    with pytest.raises(ValueError, match=r"shape \(5,\): give it to Adam"):
        Muon([nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.zeros(5))])


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.PReLU(4), nn.Conv2d(4, 1, 3))


def step(model, optimizer, seed):
    optimizer.zero_grad()
    model(matrices(2, 1, 8, 8, seed=seed, dtype=torch.float32)).pow(2).mean().backward()
    optimizer.step()


def through_a_file(state):
    """As a checkpoint does it."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("kind", ["muon", "adam"])
def test_state_goes_on_exactly_after_a_checkpoint(kind):
    model = network()
    optimizer = build_optimizer(model, kind, 0.01, 0.5)
    for seed in range(3):
        step(model, optimizer, seed)
    resumed = network()
    resumed.load_state_dict(through_a_file(model.state_dict()))
    again = build_optimizer(resumed, kind, 0.01, 0.5)
    again.load_state_dict(through_a_file(optimizer.state_dict()))
    for seed in range(3, 6):
        step(model, optimizer, seed)
        step(resumed, again, seed)
    for one, other in zip(model.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("loaded", [False, True], ids=["fresh", "after a checkpoint"])
def test_a_rate_set_on_the_pair_reaches_both(loaded):
    model = network()
    optimizer = build_optimizer(model, "muon", 0.01, 0.5)
    step(model, optimizer, 0)
    if loaded:
        optimizer.load_state_dict(through_a_file(optimizer.state_dict()))
    before = copy.deepcopy(model.state_dict())
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    step(model, optimizer, 1)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    for group in optimizer.param_groups:
        group["lr"] = 0.01
    step(model, optimizer, 2)
    assert not any(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_kernels_go_to_muon_and_vectors_to_adam():
    model = network()
    optimizer = build_optimizer(model, "muon", 0.01, 0.25)
    muon, adam = optimizer.optimizers
    assert isinstance(optimizer, Pair) and isinstance(muon, Muon) and isinstance(adam, torch.optim.Adam)
    assert {id(p) for p in muon.param_groups[0]["params"]} == {id(p) for p in model.parameters() if p.ndim >= 2}
    assert {id(p) for p in adam.param_groups[0]["params"]} == {id(p) for p in model.parameters() if p.ndim < 2}
    assert [group["lr"] for group in optimizer.param_groups] == [0.01, 0.0025]
    assert build_optimizer(model, "adam", 0.01, 0.25).param_groups[0]["lr"] == 0.01
    kernels_only = nn.Conv2d(1, 2, 3, bias=False)
    assert len(build_optimizer(kernels_only, "muon", 0.01, 0.25).optimizers) == 1


@pytest.mark.parametrize(("kind", "rates"), [("adam", [0.01, 0.001]), ("muon", [0.01, 0.001, 0.005, 0.0005])])
def test_weights_taken_over_learn_at_a_rate_of_their_own(kind, rates):
    model = network()
    taken = {"0.weight", "0.bias"}
    optimizer = build_optimizer(model, kind, 0.01, 0.5, taken, 0.1)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx(rates)
    slow = {id(p) for group in optimizer.param_groups[1::2] for p in group["params"]}
    assert slow == {id(p) for name, p in model.named_parameters() if name in taken}
    before = copy.deepcopy(model.state_dict())
    step(model, optimizer, 0)
    moved = {name: (value - before[name]).abs().max().item() for name, value in model.state_dict().items()}
    assert 0 < moved["0.bias"] < 0.2 * moved["2.bias"] and 0 < moved["0.weight"] < moved["2.weight"]
    assert len(build_optimizer(model, kind, 0.01, 0.5, taken, 1.0).param_groups) == len(rates) // 2


def test_factors_of_learning_rates_by_name():
    """The first step of Adam moves every entry by its learning rate, whatever the gradient."""
    model = network()
    factors = {"0.*": 0.1, "*.bias": 0.5, "2.weight": 0.0}
    optimizer = build_optimizer(model, "adam", 0.01, 0.5, {"1.weight"}, 0.2, factors)
    before = copy.deepcopy(model.state_dict())
    step(model, optimizer, 0)
    moved = {name: (value - before[name]).abs().max().item() for name, value in model.state_dict().items()}
    expected = {"0.weight": 0.001, "0.bias": 0.0005, "1.weight": 0.002, "2.bias": 0.005}
    assert {name: moved[name] for name in expected} == pytest.approx(expected, rel=1e-3)
    assert moved["2.weight"] == 0 and model[2].weight.grad is None


@pytest.mark.parametrize("kind", ["adam", "muon"])
def test_without_factors_the_groups_are_those_of_older_checkpoints(kind):
    """Fresh parameters first, whichever are faster."""
    for ratio in (0.1, 3.0):
        groups = build_optimizer(network(), kind, 0.01, 0.5, {"0.weight", "0.bias"}, ratio).param_groups
        assert [group["lr"] for group in groups[::2]] == pytest.approx([0.01, 0.005][: len(groups) // 2])
        assert [group["lr"] for group in groups[1::2]] == pytest.approx(
            [0.01 * ratio, 0.005 * ratio][: len(groups) // 2]
        )


def test_muon_serves_a_network_whose_kernels_are_frozen():
    model = network()
    optimizer = build_optimizer(model, "muon", 0.01, 0.5, lr_factors={"*.weight": 0.0, "1.weight": 1.0})
    before = copy.deepcopy(model.state_dict())
    step(model, optimizer, 0)
    still = {name for name, value in model.state_dict().items() if torch.equal(value, before[name])}
    assert still == {"0.weight", "1.weight", "2.weight"}


def test_a_factor_that_reaches_no_parameter_names_the_nearest():
    with pytest.raises(ValueError, match=r"lr_factors has '0.weigth', which matches no .*nearest are 0.weight"):
        build_optimizer(network(), "adam", 0.01, 0.5, lr_factors={"0.weigth": 0.1})
    with pytest.raises(ValueError, match="lr_factors freezes every parameter"):
        build_optimizer(network(), "adam", 0.01, 0.5, lr_factors={"*": 0.0})


def test_a_closure_gives_the_loss_and_its_gradients():
    model, twin = network(), network()
    twin.load_state_dict(model.state_dict())
    one, two = build_optimizer(model, "muon", 0.01, 0.5), build_optimizer(twin, "muon", 0.01, 0.5)
    inputs = torch.ones(1, 1, 8, 8)

    def closure():
        one.zero_grad()
        loss = model(inputs).square().mean()
        loss.backward()
        return loss

    told = one.step(closure)
    loss = twin(inputs).square().mean()
    loss.backward()
    two.step()
    assert told.item() == loss.item() > 0
    assert all(torch.equal(value, twin.state_dict()[key]) for key, value in model.state_dict().items())


def test_frozen_parameters_are_left_out():
    model = network()
    model[0].weight.requires_grad_(False)
    for kind in ("adam", "muon"):
        optimizer = build_optimizer(model, kind, 0.01, 0.5)
        held = [p for group in optimizer.param_groups for p in group["params"]]
        assert len(held) == 4 and all(p is not model[0].weight for p in held)


def test_pairs_of_other_optimizers_are_refused():
    model = network()
    one, two = Pair([Muon([model[0].weight])]), build_optimizer(model, "muon", 0.01, 0.5)
    with pytest.raises(ValueError):
        one.load_state_dict(two.state_dict())


def test_muon_minimises_a_quadratic():
    target, weight = matrices(6, 2, 3, 3), nn.Parameter(torch.zeros(6, 2, 3, 3, dtype=torch.float64))
    optimizer, losses = Muon([weight]), []
    for number in range(300):
        optimizer.param_groups[0]["lr"] = 0.3 * (1 - number / 300)
        optimizer.zero_grad()
        loss = (weight - target).pow(2).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 1e-4 * losses[0]


def test_a_closure_gives_the_loss():
    weight = nn.Parameter(torch.ones(2, 2))

    def closure():
        loss = weight.pow(2).sum()
        loss.backward()
        return loss

    assert Muon([weight]).step(closure).item() == 4 and weight.sum() < 4
