"""Muon for convolution kernels, beside Adam for everything else."""

from __future__ import annotations

import difflib
import fnmatch
import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping

import torch
from torch import Tensor, nn

# Coefficients of the quintic Newton-Schulz iteration (Jordan et al., Muon, 2024): steep at zero, so that five steps bring
# every singular value between about 0.7 and 1.2.
_QUINTIC = (3.4445, -4.7750, 2.0315)


def orthogonalise(matrices: Tensor, num_steps: int = 5) -> Tensor:
    """Nearly orthogonal matrices with the singular vectors of `matrices` `(B, rows, columns)`.

    Newton-Schulz iterations in the dtype of the input; singular values end between about 0.7 and 1.2.
    """
    a, b, c = _QUINTIC
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-12)
    for _ in range(num_steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Momentum whose update of each kernel is orthogonalised, for parameters of two or more dimensions.

    A kernel `(out, in, h, w)` is the matrix `(out, in*h*w)`. Kernels of one shape are orthogonalised in one batch.
    The update is scaled by 0.2 sqrt(max(out, in*h*w)), which gives it the root mean square of an Adam update, so that
    learning rates carry over (Liu et al., 2025). PyTorch's own `torch.optim.Muon` takes matrices only.

    Args:
        parameters: kernels, or groups of them with settings of their own.
        lr: learning rate.
        momentum: of the Nesterov average of gradients.
        num_steps: Newton-Schulz iterations.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter] | Iterable[dict],
        lr: float = 2e-3,
        momentum: float = 0.95,
        num_steps: int = 5,
    ):
        super().__init__(parameters, dict(lr=lr, momentum=momentum, num_steps=num_steps))
        for group in self.param_groups:
            if flat := [tuple(p.shape) for p in group["params"] if p.ndim < 2]:
                raise ValueError(
                    f"Muon takes kernels and matrices; found a parameter of shape {flat[0]}: give it to Adam"
                )

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            by_shape: dict[tuple[int, int], list[nn.Parameter]] = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None:
                    by_shape[p.shape[0], p[0].numel()].append(p)
            for shape, params in by_shape.items():
                self._update(params, shape, group)
        return loss

    def _update(self, params: list[nn.Parameter], shape: tuple[int, int], group: dict) -> None:
        grads = [p.grad for p in params]
        for p in params:
            self.state[p].setdefault("momentum", torch.zeros_like(p))
        buffers = [self.state[p]["momentum"] for p in params]
        torch._foreach_lerp_(buffers, grads, 1 - group["momentum"])
        nesterov = torch._foreach_lerp(grads, buffers, group["momentum"])
        updates = orthogonalise(torch.stack([u.reshape(shape) for u in nesterov]), group["num_steps"])
        scale = group["lr"] * 0.2 * math.sqrt(max(shape))
        for p, update in zip(params, updates, strict=True):
            p.add_(update.view_as(p), alpha=-scale)


class Pair(torch.optim.Optimizer):
    """Several optimizers stepped, saved and scheduled as one; their groups keep their own settings."""

    def __init__(self, optimizers: Iterable[torch.optim.Optimizer]):
        self.optimizers = list(optimizers)
        super().__init__([p for o in self.optimizers for g in o.param_groups for p in g["params"]], {})
        self.param_groups = [group for o in self.optimizers for group in o.param_groups]

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for optimizer in self.optimizers:
            optimizer.step()
        return loss

    def state_dict(self) -> dict:
        return {"optimizers": [o.state_dict() for o in self.optimizers]}

    def load_state_dict(self, state_dict: dict) -> None:
        for optimizer, state in zip(self.optimizers, state_dict["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        self.param_groups = [group for o in self.optimizers for group in o.param_groups]


def lr_factors_of(model: nn.Module, lr_factors: Mapping[str, float]) -> dict[str, float]:
    """Parameter name -> product of the factors whose patterns match it, for every trainable parameter.

    Args:
        lr_factors: pattern, in which `*` stands for any part of a dotted name -> factor.

    Raises:
        ValueError: a pattern matches no trainable parameter (names the nearest), or every parameter would be frozen.
    """
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    for pattern in lr_factors:
        if not any(fnmatch.fnmatchcase(name, pattern) for name in names):
            near = difflib.get_close_matches(pattern, names, n=3, cutoff=0.0)
            raise ValueError(
                f"lr_factors has {pattern!r}, which matches no trainable parameter; the nearest are {', '.join(near)}"
            )
    found = {
        name: math.prod(factor for pattern, factor in lr_factors.items() if fnmatch.fnmatchcase(name, pattern))
        for name in names
    }
    if found and not any(found.values()):
        raise ValueError("lr_factors freezes every parameter; give at least one a factor above 0")
    return found


def build_optimizer(
    model: nn.Module,
    kind: str,
    lr: float,
    adam_ratio: float,
    taken_over: Collection[str] = (),
    start_ratio: float = 1.0,
    lr_factors: Mapping[str, float] | None = None,
) -> torch.optim.Optimizer:
    """The optimizer of a recipe over `model`.

    Args:
        model: its trainable parameters are optimized.
        kind: "adam" (beta 0.9, 0.999), or "muon" on kernels with Adam on thresholds and other vectors.
        lr: learning rate.
        adam_ratio: that of the vectors beside Muon, as a fraction of `lr`.
        taken_over: names of parameters that come from a trained network.
        start_ratio: their learning rate, as a fraction of that of fresh ones.
        lr_factors: see `papers.Recipe`. A factor of 0 freezes the parameter: it no longer requires a gradient.

    Raises:
        ValueError: see `lr_factors_of`.
    """
    factors = lr_factors_of(model, lr_factors or {})
    rates: dict[tuple[bool, float], list[nn.Parameter]] = defaultdict(list)
    for name, parameter in model.named_parameters():
        if name not in factors:
            continue
        if factors[name] == 0:
            parameter.requires_grad_(False)
            continue
        taken = name in taken_over and start_ratio != 1
        rates[taken, factors[name] * (start_ratio if taken else 1)].append(parameter)
    # Fresh parameters first: checkpoints hold the groups in this order.
    ordered = sorted(rates.items(), key=lambda item: (item[0][0], -item[0][1]))

    def groups(wanted: Callable[[nn.Parameter], bool], lr: float) -> list[dict]:
        found = [{"params": [p for p in params if wanted(p)], "lr": lr * factor} for (_, factor), params in ordered]
        return [group for group in found if group["params"]]

    if kind == "adam":
        return torch.optim.Adam(groups(lambda p: True, lr), lr=lr)
    optimizers: list[torch.optim.Optimizer] = []
    if kernels := groups(lambda p: p.ndim >= 2, lr):
        optimizers.append(Muon(kernels, lr=lr))
    if vectors := groups(lambda p: p.ndim < 2, lr * adam_ratio):
        optimizers.append(torch.optim.Adam(vectors, lr=lr * adam_ratio))
    return Pair(optimizers)
