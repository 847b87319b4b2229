"""The contract of invertible layers, their sequence, and back-propagation with constant memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn


class Invertible(nn.Module):
    """A bijection of a state, a tuple of tensors `(B, ...)`.

    `inverse(*forward(*state)) == state` to rounding. Both return a tuple, even for a state of one tensor.
    `log_det(*state)` is log |det J| for the Jacobian J of `forward` at `state`, shape `(B,)`.
    `forward_log_det(*state)` is `(forward(*state), log_det(*state))`. A layer that computes both from the same
    intermediate results, such as a coupling layer, overrides it and does so in one pass.

    Side inputs, such as a noise level, are part of the state: the layer reads them and returns them unchanged. They
    may have a batch of 1, so the first tensor of the state is never a side input.
    """

    def forward(self, *state: Tensor) -> tuple[Tensor, ...]:
        raise NotImplementedError

    def inverse(self, *state: Tensor) -> tuple[Tensor, ...]:
        raise NotImplementedError

    def log_det(self, *state: Tensor) -> Tensor:
        raise NotImplementedError

    def forward_log_det(self, *state: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        return self(*state), self.log_det(*state)

    def backward_from(
        self, method: str, outputs: tuple[Tensor, ...], grads: tuple[Tensor, ...]
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], dict[nn.Parameter, Tensor]]:
        """The backward pass of `method`, of which only the outputs are known: the inputs are recomputed by the opposite method.

        This takes one pass more than storing the activations and running `method` again. A layer whose two directions evaluate
        the same subnets, such as a coupling layer, overrides it and evaluates them once.

        Args:
            method: "forward", "inverse" or "forward_log_det".
            outputs: of the method, without the log-determinant.
            grads: their gradients; that of the log-determinant, if there is one, comes last.

        Returns:
            The inputs, their gradients, and the gradients of the parameters that are trained.
        """
        opposite = "forward" if method == "inverse" else "inverse"
        with torch.no_grad():
            state = getattr(self, opposite)(*outputs)
        with torch.enable_grad():
            inputs = tuple(s.detach().requires_grad_() for s in state)
            again = _apply(self, method, inputs)
        # A constant log-determinant has no gradient to pass on.
        used, used_grads = zip(*[(y, g) for y, g in zip(again, grads, strict=True) if y.requires_grad], strict=True)
        return state, *gradients(used, used_grads, inputs, self.parameters())


def gradients(
    outputs: Sequence[Tensor], grads: Sequence[Tensor], inputs: Sequence[Tensor], parameters: Iterable[nn.Parameter]
) -> tuple[tuple[Tensor, ...], dict[nn.Parameter, Tensor]]:
    """Gradients of inputs (zero where an output does not depend on one) and of the parameters that are trained, from those of outputs."""
    trained = [p for p in parameters if p.requires_grad]
    found = torch.autograd.grad(outputs, (*inputs, *trained), grads, allow_unused=True)
    of_inputs = tuple(torch.zeros_like(s) if g is None else g for s, g in zip(inputs, found, strict=False))
    return of_inputs, {p: g for p, g in zip(trained, found[len(inputs) :], strict=True) if g is not None}


class InvertibleSequence(Invertible):
    """Invertible layers one after another.

    Args:
        layers: applied first to last by `forward`, inverted last to first by `inverse`.
        constant_memory: keep only the outputs for the backward pass. Every activation is recomputed from them, layer by
            layer, through the inverse (RevNet; Gomez et al. 2017). Peak activation memory is that of one layer,
            whatever the depth; a step takes about 5/3 of the usual time, or 4/3 where layers override `backward_from`. Gradients equal the ordinary ones up to the
            rounding of the inverse. Layers must be deterministic and keep no running statistics. Second derivatives
            are not available: switch it off for those.
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
        return self.forward_log_det(*state)[1]

    def forward_log_det(self, *state: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        *state, log_det = self._run(list(self.layers), "forward_log_det", state)
        return tuple(state), log_det

    def _run(self, layers: list[Invertible], method: str, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        if self.constant_memory and torch.is_grad_enabled():
            parameters = [p for layer in layers for p in layer.parameters()]
            return _Recompute.apply(layers, method, len(state), *state, *parameters)
        return _apply_layers(layers, method, state)


def _apply_layers(layers: list[Invertible], method: str, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The state after these layers; "forward_log_det" adds the sum of their log-determinants at the end."""
    if method != "forward_log_det":
        for layer in layers:
            state = _apply(layer, method, state)
        return state
    total = state[0].new_zeros(len(state[0]))
    for layer in layers:
        *state, log_det = _apply(layer, method, state)
        total = total + log_det
    return *state, total


def _apply(layer: Invertible, method: str, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """What one layer returns, as one flat tuple."""
    if method == "forward_log_det":
        state, log_det = layer.forward_log_det(*state)
        return *state, log_det
    return getattr(layer, method)(*state)


class _Recompute(torch.autograd.Function):
    """A chain of invertible layers of which autograd stores the outputs only.

    One function spans the chain. A function for each layer would store each layer's output, and save nothing.
    Parameters are arguments so that autograd routes their gradients.
    """

    @staticmethod
    def forward(ctx, layers, method, num_state, *tensors):
        outputs = _apply_layers(layers, method, tensors[:num_state])
        ctx.layers, ctx.method = layers, method
        ctx.parameters = tensors[num_state:]
        device = outputs[0].device.type
        ctx.autocast = dict(
            device_type=device, dtype=torch.get_autocast_dtype(device), enabled=torch.is_autocast_enabled(device)
        )
        ctx.save_for_backward(*outputs[:num_state])  # without the log-determinant, which no inverse needs
        return outputs

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, *grads):
        """From the gradients of the outputs, those of the inputs and parameters, from the last layer to the first.

        The gradient of the sum of log-determinants is the same for the log-determinant of each layer.
        """
        state = ctx.saved_tensors
        grads, log_det_grad = grads[: len(state)], grads[len(state) :]
        parameter_grads: dict[nn.Parameter, Tensor] = {}
        with torch.autocast(**ctx.autocast):
            for layer in reversed(ctx.layers):
                state, grads, found = layer.backward_from(ctx.method, state, (*grads, *log_det_grad))
                for p, g in found.items():  # a parameter shared by several layers collects from each
                    parameter_grads[p] = parameter_grads[p] + g if p in parameter_grads else g
        # A shared parameter stands several times among the arguments. Its whole gradient goes to the first.
        return None, None, None, *grads, *(parameter_grads.pop(p, None) for p in ctx.parameters)
