"""The contract of invertible layers, their sequence, and back-propagation with constant memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn


class Invertible(nn.Module):
    """A bijection of a state, a tuple of tensors `(B, ...)`.

    `inverse(*forward(*state)) == state` to rounding; both return a tuple also when the state is a single tensor.
    `log_det(*state)` is the logarithm of |det| of the Jacobian of `forward` at `state`, shape `(B,)`.
    """

    def forward(self, *state: Tensor) -> tuple[Tensor, ...]:
        raise NotImplementedError

    def inverse(self, *state: Tensor) -> tuple[Tensor, ...]:
        raise NotImplementedError

    def log_det(self, *state: Tensor) -> Tensor:
        raise NotImplementedError


class InvertibleSequence(Invertible):
    """Invertible layers one after another.

    Args:
        layers: applied first to last by `forward`, inverted last to first by `inverse`.
        constant_memory: keep only the outputs for the backward pass and recompute every activation from them, layer by
            layer, by running the other direction (RevNet; Gomez et al. 2017). Peak activation memory is that of one
            layer whatever the depth; a step costs about 5/3 of the usual time. Gradients equal the ordinary ones up
            to the rounding of the inverse. Layers must be deterministic and keep no running statistics, and second
            derivatives are not available: switch it off for those.
    """

    def __init__(self, layers: Iterable[Invertible], constant_memory: bool = False):
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.constant_memory = constant_memory

    def __len__(self) -> int:
        return len(self.layers)

    def __iter__(self) -> Iterator[Invertible]:
        return iter(self.layers)

    def forward(self, *state: Tensor) -> tuple[Tensor, ...]:
        return self._run(list(self.layers), "forward", state)

    def inverse(self, *state: Tensor) -> tuple[Tensor, ...]:
        return self._run(list(self.layers)[::-1], "inverse", state)

    def log_det(self, *state: Tensor) -> Tensor:
        total = state[0].new_zeros(state[0].shape[0])
        for layer in self.layers:
            total = total + layer.log_det(*state)
            state = layer(*state)
        return total

    def _run(self, layers: list[Invertible], direction: str, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        if self.constant_memory and torch.is_grad_enabled():
            parameters = [p for layer in layers for p in layer.parameters()]
            return _Recompute.apply(layers, direction, len(state), *state, *parameters)
        return _apply_layers(layers, direction, state)


def _apply_layers(layers: list[Invertible], direction: str, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    for layer in layers:
        state = getattr(layer, direction)(*state)
    return state


class _Recompute(torch.autograd.Function):
    """A chain of invertible layers of which autograd stores the outputs only.

    One function spans the chain: a function per layer would store each layer's output, and save nothing.
    Parameters are arguments so that autograd routes their gradients.
    """

    @staticmethod
    def forward(ctx, layers, direction, num_state, *tensors):
        state = _apply_layers(layers, direction, tensors[:num_state])
        ctx.layers, ctx.direction = layers, direction
        ctx.needed = tensors[num_state:]
        device = state[0].device.type
        ctx.autocast = dict(
            device_type=device, dtype=torch.get_autocast_dtype(device), enabled=torch.is_autocast_enabled(device)
        )
        ctx.save_for_backward(*state)
        return state

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, *grads):
        state = ctx.saved_tensors
        opposite = "inverse" if ctx.direction == "forward" else "forward"
        # An output that the loss does not use comes without a gradient.
        grads = tuple(torch.zeros_like(s) if g is None else g for s, g in zip(state, grads, strict=True))
        parameter_grads: dict[nn.Parameter, Tensor] = {}
        with torch.autocast(**ctx.autocast):
            for layer in reversed(ctx.layers):
                with torch.no_grad():
                    state = getattr(layer, opposite)(*state)
                with torch.enable_grad():
                    inputs = tuple(s.detach().requires_grad_() for s in state)
                    outputs = getattr(layer, ctx.direction)(*inputs)
                trained = [p for p in layer.parameters() if p.requires_grad]
                found = torch.autograd.grad(outputs, (*inputs, *trained), grads, allow_unused=True)
                grads = tuple(
                    torch.zeros_like(s) if g is None else g for s, g in zip(inputs, found[: len(inputs)], strict=True)
                )
                for p, g in zip(trained, found[len(inputs) :], strict=True):
                    if g is not None:  # a parameter shared by several layers collects from each
                        parameter_grads[p] = parameter_grads[p] + g if p in parameter_grads else g
        # A shared parameter stands several times among the arguments; its whole gradient goes to the first.
        return None, None, None, *grads, *(parameter_grads.pop(p, None) for p in ctx.needed)
