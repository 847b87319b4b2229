"""Which parts of a network have a kernel, how they are routed through it, and the fastest way to run a network."""

from __future__ import annotations

from typing import ClassVar, TypeVar

import torch
from torch import Tensor, nn

from invdenoise.device import can_compile, compile_or_run, processor_flags
from invdenoise.device import resolve_precision as device_precision
from invdenoise.kernels.build import LIFTING_NET, WINNET, Kernel
from invdenoise.layers.lifting import LiftingNet
from invdenoise.layers.shrinkage import CLISTA, NoiseAdaptiveThreshold
from invdenoise.layers.tiles import needs_gradient
from invdenoise.models.base import DenoisingNetwork
from invdenoise.models.winnet import PUNet

MAX_CHANNELS = 16  # of the input and the output of a kernel
AnyModule = TypeVar("AnyModule", bound=nn.Module)
AnyNetwork = TypeVar("AnyNetwork", bound=DenoisingNetwork)


class KernelFunction(torch.autograd.Function):
    """A chain of convolutions and soft-thresholds in a kernel, differentiable once in its three tensors.

    Args:
        x: input `(B, C, H, W)`.
        weights: the convolutions' weights, flattened into one vector in the order of the layers.
        thresholds: `(num_layers, num_features)`, or `(B, num_layers, num_features)`; 0 or more.
        out_channels: of the output `(B, out_channels, H, W)`.
        kernel, name: the kernel; it has functions `name`_forward and `name`_backward.
        sizes: further sizes that these functions take after B, H and W.

    The backward pass computes the activations again, so only the three tensors are kept.
    """

    @staticmethod
    def forward(
        ctx, x: Tensor, weights: Tensor, thresholds: Tensor, out_channels: int, kernel: Kernel, name: str, *sizes: int
    ) -> Tensor:
        x, weights, thresholds = (t.detach().float().contiguous() for t in (x, weights, thresholds))
        ctx.save_for_backward(x, weights, thresholds)
        ctx.kernel, ctx.name, ctx.sizes = kernel, name, (len(x), *x.shape[2:], *sizes)
        out = x.new_empty(len(x), out_channels, *x.shape[2:])
        kernel.call(f"{name}_forward", [x, out, weights, thresholds], ctx.sizes)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: Tensor):
        x, weights, thresholds = ctx.saved_tensors
        found = [torch.empty_like(t) for t in (x, weights, thresholds)]
        tensors = [x, gradient.float().contiguous(), found[0], weights, thresholds, *found[1:]]
        ctx.kernel.call(f"{ctx.name}_backward", tensors, ctx.sizes)
        return *found, None, None, None, *(None for _ in ctx.sizes[3:])


class _Attached:
    """Mixed into the class of a part: its `forward` goes through the kernel where the call fits.

    The attributes below also describe the kernel of parts that are not attached.
    """

    kernels: ClassVar[dict[str, Kernel]]  # by the precision of the activations
    beaten_by: ClassVar[frozenset[str]] = frozenset()  # processor flags; PyTorch in bfloat16 is faster with one of them
    kernel_precision: str  # of the kernel that this part is attached to
    kernel_gradients: bool  # whether the kernel also takes calls whose gradient is needed

    @staticmethod
    def fits(part: nn.Module) -> bool:
        """Whether the kernel is made for a part of these sizes."""
        raise NotImplementedError

    def _in_kernel(self, *inputs: Tensor | float) -> bool:
        """Whether the kernel takes this call: on a CPU, in the attached precision, outside `torch.compile`."""
        x = inputs[0]
        if torch.compiler.is_compiling() or x.device.type != "cpu":
            return False
        autocast = torch.is_autocast_enabled("cpu") and x.dtype != torch.float64
        precision = torch.get_autocast_dtype("cpu") if autocast else x.dtype
        if precision != getattr(torch, self.kernel_precision):
            return False
        if not self.kernel_gradients and needs_gradient(self, *inputs):
            return False
        # Asked again: a pickled network may have come from a machine where the kernel could be built.
        return self.kernels[self.kernel_precision].available()


class _AttachedLiftingNet(_Attached, LiftingNet):
    kernels = LIFTING_NET

    @staticmethod
    def fits(part: LiftingNet) -> bool:
        channels = max(part[0].in_channels, part[-1].in_channels, part[-1].out_channels)
        return len(part) > 1 and channels <= MAX_CHANNELS and part[-1].kernel_size[0] == 3

    def forward(self, x: Tensor) -> Tensor:
        if not self._in_kernel(x):
            return super().forward(x)
        convs, shrinks, out_channels = list(self)[::2], list(self)[1::2], self[-1].out_channels
        thresholds = torch.stack([shrink.threshold for shrink in shrinks])
        sizes = (len(convs), x.shape[1], out_channels, thresholds.shape[1])
        kernel = self.kernels[self.kernel_precision]
        return KernelFunction.apply(x, _flat(convs), thresholds, out_channels, kernel, "lifting_net", *sizes)


class _AttachedToWINNet(_Attached):
    """What `PUNet` and `CLISTA` share. Their kernel needs little memory for a picture of any size: no tiles."""

    kernels = {"float32": WINNET}
    beaten_by = frozenset({"amx_bf16"})  # its peak is many times that of the vector units, which limit the kernel

    def in_tiles(self, x: Tensor, sigma: Tensor) -> Tensor:
        return self(x, sigma) if self._in_kernel(x, sigma) else super().in_tiles(x, sigma)


class _AttachedPUNet(_AttachedToWINNet, PUNet):
    @staticmethod
    def fits(part: PUNet) -> bool:
        channels = max(part.layers[0].conv.in_channels, part.last.out_channels)
        return channels <= MAX_CHANNELS and part.last.in_channels == 32 and part.last.dilation[0] <= 2

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        if not self._in_kernel(x, sigma):
            return super().forward(x, sigma)
        first, *blocks = self.layers
        separable = [conv for block in blocks for conv in (block.conv1, block.conv2)]
        convs = [first.conv, *(part for conv in separable for part in (conv.depthwise, conv.pointwise)), self.last]
        shrinks = [first.shrink, *(shrink for block in blocks for shrink in (block.shrink1, block.shrink2))]
        thresholds, out_channels = _thresholds(shrinks, sigma, len(x)), self.last.out_channels
        sizes = (len(blocks), x.shape[1], out_channels, self.last.dilation[0])
        kernel = self.kernels[self.kernel_precision]
        return KernelFunction.apply(x, _flat(convs), thresholds, out_channels, kernel, "punet", *sizes)


class _AttachedCLISTA(_AttachedToWINNet, CLISTA):
    @staticmethod
    def fits(part: CLISTA) -> bool:
        conv = part.analyse
        return conv.in_channels <= MAX_CHANNELS and conv.out_channels == 64 and conv.kernel_size[0] == 3

    def forward(self, z: Tensor, sigma: Tensor | float) -> Tensor:
        if not self._in_kernel(z, sigma):
            return super().forward(z, sigma)
        weights, thresholds = _flat([self.analyse, self.synthesise]), _thresholds(self.shrink, sigma, len(z))
        kernel, channels = self.kernels[self.kernel_precision], z.shape[1]
        return KernelFunction.apply(z, weights, thresholds, channels, kernel, "clista", len(self.shrink), channels)


# A part's class -> the class that runs it in its kernel.
_ATTACHED: dict[type[nn.Module], type[_Attached]] = {
    LiftingNet: _AttachedLiftingNet,
    PUNet: _AttachedPUNet,
    CLISTA: _AttachedCLISTA,
}
_PLAIN = {attached: plain for plain, attached in _ATTACHED.items()}


def _flat(convs: list[nn.Conv2d]) -> Tensor:
    return torch.cat([conv.weight.flatten() for conv in convs])


def _thresholds(shrinks: list[NoiseAdaptiveThreshold] | nn.ModuleList, sigma: Tensor | float, batch: int) -> Tensor:
    """The thresholds of several layers `(batch, num_layers, num_channels)`; `sigma` is a number or `(B, 1, 1, 1)`."""
    return torch.stack([shrink.threshold(sigma).flatten(-3).expand(batch, -1) for shrink in shrinks], dim=1)


def _parts(network: nn.Module) -> list[tuple[nn.Module, type[_Attached]]]:
    """The parts of a network for which there is a kernel, whatever their sizes, each with the class that uses it."""
    plain = {part: _PLAIN.get(type(part), type(part)) for part in network.modules()}
    return [(part, _ATTACHED[kind]) for part, kind in plain.items() if kind in _ATTACHED]


def _usable(part: nn.Module, attached: type[_Attached], device: torch.device, precision: str) -> bool:
    kernel = attached.kernels.get(precision)
    return kernel is not None and device.type == "cpu" and attached.fits(part) and kernel.available()


def attach(network: AnyModule, precision: str = "float32", gradients: bool = True) -> AnyModule:
    """The network itself, with every part that has a kernel routed through it; other parts stay as they are.

    Results equal PyTorch's up to rounding. The kernel is used for activations in `precision` on a CPU: float32 without
    autocast, or bfloat16 under autocast. All other calls take PyTorch's operations as before, among them those in float64
    and those inside `torch.compile`.

    Names of the state dict stay the same. A copy of the network is attached too, with its own weights.

    Args:
        precision: of the activations, "float32" or "bfloat16".
        gradients: True, for training, differentiates in the kernel too, which can be done once. False leaves every call
            whose gradient is needed to PyTorch, which can differentiate it as often as wanted; `denoise` needs none.
    """
    detach(network)
    for part, attached in _parts(network):
        if _usable(part, attached, next(part.parameters()).device, precision):
            # Another class for the same object: copies, pickles and hooks work as for any module.
            part.__class__ = attached
            part.kernel_precision, part.kernel_gradients = precision, gradients
    return network


def detach(network: AnyModule) -> AnyModule:
    """The network itself, run by PyTorch's operations again."""
    for part in network.modules():
        if type(part) in _PLAIN:
            part.__class__ = _PLAIN[type(part)]
            del part.kernel_precision, part.kernel_gradients
    return network


def has_kernel(network: nn.Module, device: torch.device | str, precision: str) -> bool:
    """Whether `attach` would route all those parts of a network for which there are kernels, on this device."""
    parts, device = _parts(network), torch.device(device)
    return bool(parts) and all(_usable(part, attached, device, precision) for part, attached in parts)


def resolve_precision(network: nn.Module, precision: str, device: torch.device | str = "cpu") -> str:
    """The precision of activations on a device: "float32" or "bfloat16".

    "fastest" is that of the network's kernel, bfloat16 before float32. Without a kernel, or where compiled bfloat16
    is faster than the kernel, it is that of `device.resolve_precision`.

    Raises:
        ValueError: `precision` is none of "fastest", "float32" and "bfloat16".
    """
    if precision == "fastest" and not any(attached.beaten_by & processor_flags() for _, attached in _parts(network)):
        for kind in ("bfloat16", "float32"):
            if has_kernel(network, device, kind):
                return kind
    return device_precision(precision, device)


def speed_up(network: AnyNetwork, precision: str = "fastest", compiled: bool | None = None) -> AnyNetwork:
    """The network itself, prepared to denoise many pictures: its chains attached to kernels, or compiled.

    Compiling costs seconds in each process, which a handful of pictures does not earn back. It is left out where the
    network has a kernel, and where no compiler works.

    Args:
        precision: "float32", "bfloat16", or "fastest": the network's own choice, see
            `DenoisingNetwork.inference_precision`.
        compiled: None takes the kernel where there is one and compiles elsewhere. True compiles, False does neither;
            both leave the kernel aside.
    """
    device = next(network.parameters()).device
    network.precision = _inference_precision(network, precision, device)
    detach(network)
    own = has_kernel(network, device, network.precision)
    if compiled is None and own:
        attach(network, network.precision)
    elif can_compile(device) if compiled is None else compiled:
        for chain in network.chains():
            chain.compile(dynamic=True, backend=compile_or_run)  # one compilation serves pictures of every size
    return network


def setting(network: DenoisingNetwork) -> str:
    """What `speed_up` makes of a network, in words: "float32 in own kernel", "compiled bfloat16", or "float32"."""
    device = next(network.parameters()).device
    precision = _inference_precision(network, "fastest", device)
    if has_kernel(network, device, precision):
        return f"{precision} in own kernel"
    return f"compiled {precision}" if can_compile(device) else precision


def _inference_precision(network: DenoisingNetwork, precision: str, device: torch.device) -> str:
    return resolve_precision(network, network.inference_precision if precision == "fastest" else precision, device)
