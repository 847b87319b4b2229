"""WINNet: the wavelet-inspired invertible network, non-blind and blind (Huang and Dragotti, IEEE TIP 2022)."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from invdenoise.invertible import InvertibleSequence
from invdenoise.kernels import WINNET, InKernel, runs_in_kernel
from invdenoise.lifting import LiftingPair
from invdenoise.models.base import DenoisingNetwork
from invdenoise.models.nenet import load_released
from invdenoise.provenance import processor_flags
from invdenoise.shrinkage import CLISTA, NoiseAdaptiveThreshold, compose
from invdenoise.transforms import RedundantDCT

TILE = 384  # largest side of an inference tile: buffers that the memory allocator keeps, and margins that cost little

ORTHOGONALITY_WEIGHT = 10.0
# The released code adds 0.1 times this term in every tenth batch. A hundredth in every batch pulls as hard in the long
# run, keeps the loss a function of weights and batch alone, which exact resuming needs, and costs little.
SPECTRAL_WEIGHT = 0.01


class SeparableConv(nn.Module):
    """A depthwise 5x5 convolution, then a pointwise 1x1, without bias; `(B, C, H, W)` in and out.

    With `dilation` 2 the depthwise convolution is padded by 3, where 4 would keep the size, and the pointwise one by 1:
    sizes agree, and a frame of one pixel is zero. The released weights of level 2 were trained so.

    Args:
        num_features: C.
        kernel_size: of the depthwise kernels, odd.
        dilation: distance of their taps.
    """

    def __init__(self, num_features: int, kernel_size: int = 5, dilation: int = 1):
        super().__init__()
        frame = dilation - 1
        self.depthwise = nn.Conv2d(
            num_features, num_features, kernel_size, padding=kernel_size // 2 + frame, dilation=dilation,
            groups=num_features, bias=False,
        )  # fmt: skip
        self.pointwise = nn.Conv2d(num_features, num_features, 1, padding=frame, bias=False)
        for conv in (self.depthwise, self.pointwise):
            nn.init.kaiming_uniform_(conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        conv = self.depthwise
        # In float32: bfloat16 is no faster without matrices to multiply, and slower in these gradients.
        if torch.compiler.is_compiling() and torch.is_grad_enabled():
            x = DepthwiseConv.apply(x.to(conv.weight.dtype), conv.weight, conv.padding[0], conv.dilation[0])
        else:
            x = conv(x)
        return self.pointwise(x)


class DepthwiseConv(torch.autograd.Function):
    """A depthwise convolution whose gradients are written out, for `torch.compile`.

    Libraries compute the gradient of depthwise kernels several times slower than all else in a training step; the
    compiler makes one fused loop of the sums below. Uncompiled they are slower still: see `SeparableConv`.
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, padding: int, dilation: int) -> Tensor:
        padded = F.pad(x, (padding,) * 4)
        ctx.save_for_backward(padded, weight)
        ctx.padding, ctx.dilation = padding, dilation
        return F.conv2d(padded, weight, dilation=dilation, groups=len(weight))

    @staticmethod
    def backward(ctx, grad: Tensor):
        padded, weight = ctx.saved_tensors
        reach = ctx.dilation * (weight.shape[-1] - 1)
        turned = weight.flip(-2, -1)
        grad_x = F.conv2d(grad, turned, padding=reach - ctx.padding, dilation=ctx.dilation, groups=len(weight))
        height, width = grad.shape[-2:]
        taps = range(0, reach + 1, ctx.dilation)
        # Over each picture first: it fits the processor's cache.
        sums = [(grad * padded[..., u : u + height, v : v + width]).sum((2, 3)) for u in taps for v in taps]
        return grad_x, torch.stack(sums, dim=2).sum(0).view_as(weight), None, None


class ConvThreshold(nn.Module):
    """A 3x3 convolution and a noise-adaptive soft-threshold."""

    def __init__(self, in_channels: int, num_features: int, kernel_size: int, dilation: int):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, num_features, kernel_size, padding="same", dilation=dilation, bias=False)
        nn.init.kaiming_uniform_(self.conv.weight, mode="fan_out", nonlinearity="relu")
        self.shrink = NoiseAdaptiveThreshold(num_features)

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        if self.conv.in_channels > 1:
            x = self.conv(x)
        else:  # there is no matrix to multiply, and bfloat16 would take a slow path
            with torch.autocast(kind, enabled=False):
                x = self.conv(x)
        return self.shrink(x.to(dtype), sigma)

    def kernel(self) -> Tensor:
        return self.conv.weight

    def weighed_kernel(self, weights: Tensor) -> Tensor:
        """Sum of the kernels of the output channels, with these weights `(C,)`."""
        return weights @ self.conv.weight.flatten(1)


class ResidualBlock(nn.Module):
    """S_2(x + conv_2(S_1(conv_1(x)))) with separable convolutions and noise-adaptive soft-thresholds."""

    def __init__(self, num_features: int, kernel_size: int, dilation: int):
        super().__init__()
        self.conv1 = SeparableConv(num_features, kernel_size, dilation)
        self.shrink1 = NoiseAdaptiveThreshold(num_features)
        self.conv2 = SeparableConv(num_features, kernel_size, dilation)
        self.shrink2 = NoiseAdaptiveThreshold(num_features)

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        return self.shrink2(x + self.conv2(self.shrink1(self.conv1(x), sigma)), sigma)

    def kernel(self) -> Tensor:
        """The kernel `(C, C, 9, 9)` of the block without its thresholds: the identity plus both convolutions."""
        first, second = self.conv1, self.conv2
        # Of each channel between and each channel in; then the pointwise kernels, which weigh and add these up.
        depthwise = compose(first.depthwise.weight.transpose(0, 1), second.depthwise.weight)
        weighed = first.pointwise.weight * depthwise
        kernel = (second.pointwise.weight.flatten(1) @ weighed.flatten(1)).view_as(depthwise)
        return kernel + nn.init.dirac_(torch.empty_like(kernel))

    def weighed_kernel(self, weights: Tensor) -> Tensor:
        """Sum of the kernels of the output channels, with these weights `(C,)`: a kernel 9x9 of each channel in."""
        first, second = self.conv1, self.conv2
        between = (weights @ second.pointwise.weight.flatten(1))[:, None] * first.pointwise.weight.flatten(1)
        inner = (between.T @ second.depthwise.weight.flatten(1)).view_as(second.depthwise.weight)
        full = inner.shape[-1] - 1
        kernel = F.conv2d(first.depthwise.weight.transpose(0, 1), inner.flip(-2, -1), padding=full, groups=len(inner))
        centre = F.pad(weights.view(1, -1, 1, 1), (kernel.shape[-1] // 2,) * 4)
        return kernel + centre


class PUNet(nn.Module):
    """A predictor or update network: a convolution, residual blocks, and a convolution that starts at zero.

    Maps `(B, in_channels, H, W)` to `(B, out_channels, H, W)` for noise of `sigma` grey levels, `(B, 1, 1, 1)`.

    Args:
        in_channels, out_channels: of the part it reads and of the part it changes.
        num_blocks: residual blocks (WINNet: 4).
        num_features: channels in between (WINNet: 32).
        dilation: distance of the taps of every kernel larger than 1x1.
    """

    kernel_size, block_kernel_size = 3, 5

    def __init__(self, in_channels: int, out_channels: int, num_blocks: int, num_features: int, dilation: int):
        super().__init__()
        blocks = [ResidualBlock(num_features, self.block_kernel_size, dilation) for _ in range(num_blocks)]
        first = ConvThreshold(in_channels, num_features, self.kernel_size, dilation)
        self.layers = nn.ModuleList([first, *blocks])
        self.last = nn.Conv2d(
            num_features, out_channels, self.kernel_size, padding="same", dilation=dilation, bias=False
        )
        nn.init.zeros_(self.last.weight)
        # Of the receptive field, in pixels; a block is two convolutions.
        self.radius = dilation * (2 * (self.kernel_size // 2) + 2 * num_blocks * (self.block_kernel_size // 2))
        self.in_kernel = False  # see `DenoisingNetwork.use_kernel`

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        if runs_in_kernel(self, x):
            first, *blocks = self.layers
            convs = [conv for block in blocks for conv in (block.conv1, block.conv2)]
            kernels = [first.conv, *(part for conv in convs for part in (conv.depthwise, conv.pointwise)), self.last]
            shrinks = [first.shrink, *(shrink for block in blocks for shrink in (block.shrink1, block.shrink2))]
            thresholds = NoiseAdaptiveThreshold.stacked(shrinks, sigma, len(x))
            weights = torch.cat([conv.weight.flatten() for conv in kernels])
            sizes = (len(blocks), first.conv.in_channels, self.last.out_channels, self.last.dilation[0])
            return InKernel.apply(x, weights, thresholds, self.last.out_channels, WINNET, "punet", *sizes)
        for layer in self.layers:
            x = layer(x, sigma)
        return self.last(x)

    def has_kernel(self, device: torch.device, precision: str) -> bool:
        """Whether `device` can run the network in a kernel of its own in "float32" or "bfloat16", see `kernels`."""
        channels = (self.layers[0].conv.in_channels, self.last.out_channels)
        fits = max(channels) <= 16 and self.last.in_channels == 32 and self.last.dilation[0] <= 2
        return precision == "float32" and device.type == "cpu" and fits and WINNET.available()

    def spectral_norm(self) -> Tensor:
        """Sum over the layers but the last of the largest singular value of the layer's kernel as a matrix.

        Thresholds count as the identity, and a residual block as one kernel 9x9. The matrix of a kernel
        `(out, in, k, k)` has `out` rows; the released code gives it `in` rows for residual blocks. Its norm bounds that
        of the convolution up to the factor k, and is not that norm.
        """
        return sum(largest_singular_value(layer) for layer in self.layers)


def largest_singular_value(layer: ConvThreshold | ResidualBlock) -> Tensor:
    """The spectral norm of the layer's kernel as a matrix K with few rows, differentiable once.

    It is |K' u| for the singular vector u, the eigenvector of K K' of largest eigenvalue. Its derivative is that of |K' u|
    with u held fixed, since no other unit vector makes that larger: far less work than through K K'.
    """
    with torch.no_grad():
        matrix = layer.kernel().flatten(1)
        vector = torch.linalg.eigh(matrix @ matrix.T).eigenvectors[:, -1]
    return layer.weighed_kernel(vector).norm()


def in_tiles(net: nn.Module, x: Tensor, sigma: Tensor) -> Tensor:
    """`net(x, sigma)`; in inference on large pictures tile by tile, so that memory does not grow with the picture.

    A tile is computed with a margin of the receptive field, `net.radius`, and cropped: the result is the same.
    """
    if runs_in_kernel(net, x):  # which needs little memory, and channels apart
        return net(x, sigma)
    if torch.is_grad_enabled() or max(x.shape[-2:]) <= TILE:
        return net(_laid_out(x), sigma)
    # As few as may be, and as even.
    height, width = (math.ceil(size / math.ceil(size / TILE)) for size in x.shape[-2:])

    def tile(top: int, left: int) -> Tensor:
        above, before = min(top, net.radius), min(left, net.radius)
        rows = slice(top - above, top + height + net.radius)
        columns = slice(left - before, left + width + net.radius)
        return net(_laid_out(x[..., rows, columns]), sigma)[..., above : above + height, before : before + width]

    places = [range(0, size, step) for size, step in zip(x.shape[-2:], (height, width), strict=True)]
    return torch.cat([torch.cat([tile(top, left) for left in places[1]], dim=-1) for top in places[0]], dim=-2)


def _laid_out(x: Tensor) -> Tensor:
    """A copy with the channels of a pixel side by side, which convolutions here are fastest on.

    Always a copy: strides of sizes of 1 are then the same too, and a compiled network is compiled once.
    """
    return x.clone(memory_format=torch.channels_last)


class NoiseAdaptivePair(LiftingPair):
    """One predict and one update step whose networks adapt to the noise level (WINNet; LINN, Eqs. 2 to 5).

    The noise level, `sigma` `(B, 1, 1, 1)` in grey levels, is the third part of the state and passes through unchanged:
    the step stays a bijection that `InvertibleSequence` runs, inverts and back-propagates through as any other.
    """

    def forward(self, coarse: Tensor, detail: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        detail = detail - in_tiles(self.predict, coarse, sigma)
        coarse = coarse + in_tiles(self.update, detail, sigma)
        return coarse, detail, sigma

    def inverse(self, coarse: Tensor, detail: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        coarse = coarse - in_tiles(self.update, detail, sigma)
        detail = detail + in_tiles(self.predict, coarse, sigma)
        return coarse, detail, sigma

    def log_det(self, coarse: Tensor, detail: Tensor, sigma: Tensor) -> Tensor:
        """Zeros of shape `(B,)`, as for any lifting step."""
        return super().log_det(coarse, detail)


class WINNet(DenoisingNetwork):
    """Split, lift, denoise the detail by CLISTA, lift back, merge; once more on the coarse channel for each level.

    Every threshold is proportional to the noise level, which is an input: one network serves the levels it is trained
    on, and blind training takes a range of them. Only CLISTA is not invertible.

    Takes gray images `(B, 1, H, W)` of any size; where the noise level is to be estimated, see `NENet`.

    Args:
        num_levels: K (WINNet: 1 and 2). Level 1 has kernels without dilation, the following ones with dilation 2; the
            split has none.
        num_pairs: lifting pairs M of a level (WINNet: 4).
        num_blocks, num_features: residual blocks and channels of each predictor and update network (WINNet: 4, 32).
        num_atoms, num_lista_layers: features and iterations of CLISTA (WINNet: 64, 4).
        sigma: noise level it is trained for, in grey levels; None for a blind network, trained on a range of levels.
        boundary: of the split, see `RedundantDCT`; "replicate" for the authors' weights.
        constant_memory: recompute activations in the backward pass instead of storing them, but for CLISTA's.

    Attributes:
        estimator: for a blind network, the `NENet` that estimates the noise level where `denoise` is not told it. It is
            trained on its own, is no part of the weights, and is None until set.
    """

    display_name = "WINNet"

    def __init__(
        self,
        num_levels: int = 1,
        num_pairs: int = 4,
        num_blocks: int = 4,
        num_features: int = 32,
        num_atoms: int = 64,
        num_lista_layers: int = 4,
        sigma: float | None = 25.0,
        boundary: str = "exact",
        constant_memory: bool = False,
    ):
        super().__init__(sigma=sigma)
        if num_levels < 1:
            raise ValueError(f"num_levels is {num_levels}; expected 1 or more")
        coarse, detail = 1, RedundantDCT.num_subbands - 1

        def pair(dilation: int) -> NoiseAdaptivePair:
            shape = (num_blocks, num_features, dilation)
            return NoiseAdaptivePair(predict=PUNet(coarse, detail, *shape), update=PUNet(detail, coarse, *shape))

        self.split = RedundantDCT(boundary)
        self.linns = nn.ModuleList(
            InvertibleSequence([pair(min(level, 1) + 1) for _ in range(num_pairs)], constant_memory=constant_memory)
            for level in range(num_levels)
        )
        self.shrinkers = nn.ModuleList(CLISTA(detail, num_atoms, num_lista_layers) for _ in range(num_levels))
        # Padding of dilated separable convolutions takes a pixel from either side before it gives one back.
        self.min_side = 1 if num_levels == 1 else 3
        self.register_module("estimator", None)

    def forward(self, noisy: Tensor, sigma: Tensor | float | None = None) -> Tensor:
        """The denoised image `(B, 1, H, W)`, not clamped.

        Args:
            sigma: noise level in grey levels, one for all or one an image; None is the level it is trained for.
        """
        return self._denoise_level(noisy, self._noise_level(noisy, sigma), 0)

    def _denoise_level(self, image: Tensor, sigma: Tensor, level: int) -> Tensor:
        coarse, detail = self.decompose(image, sigma, level)
        if level + 1 < len(self.linns):
            coarse = self._denoise_level(coarse, sigma, level + 1)
        detail = in_tiles(self.shrinkers[level], detail, sigma).to(image.dtype)  # sums go on in the state's precision
        return self.reconstruct(coarse, detail, sigma, level)

    def decompose(self, image: Tensor, sigma: Tensor | float | None = None, level: int = 0) -> tuple[Tensor, Tensor]:
        """Coarse `(B, 1, H, W)` and detail `(B, 15, H, W)` channels of one level, after the lifting steps."""
        return self.linns[level](*self.split(image), self._noise_level(image, sigma))[:2]

    def reconstruct(
        self, coarse: Tensor, detail: Tensor, sigma: Tensor | float | None = None, level: int = 0
    ) -> Tensor:
        """The image with these channels; with boundary "exact" `reconstruct(*decompose(x)) == x` to rounding."""
        coarse, detail, _ = self.linns[level].inverse(coarse, detail, self._noise_level(coarse, sigma))
        return self.split.inverse(coarse, detail)

    def _noise_level(self, image: Tensor, sigma: Tensor | float | None) -> Tensor:
        """`sigma` as `(B, 1, 1, 1)`, or `(1, 1, 1, 1)` for a number, in the dtype of the image."""
        if sigma is None:
            sigma = self.sigma
        if sigma is None:
            raise ValueError(f"{self.name}: sigma is missing; a blind network is told the noise level or estimates it")
        return torch.as_tensor(sigma, dtype=image.dtype, device=image.device).reshape(-1, 1, 1, 1)

    def estimate(self, noisy: Tensor, sigma: float | None) -> Tensor:
        """See `denoise`. `sigma` None is the level it is trained for; for a blind network each image's, estimated.

        Raises:
            ValueError: a blind network without `sigma` that has no estimator, or an image too small to estimate from.
        """
        if sigma is None and self.sigma is None:
            sigma = self.estimate_sigma(noisy)
        height, width = noisy.shape[-2:]
        missing = (max(self.min_side - width, 0), max(self.min_side - height, 0))
        padded = F.pad(noisy, (0, missing[0], 0, missing[1]), mode="replicate")
        return self.infer(padded, self.sigma if sigma is None else sigma)[..., :height, :width]

    def estimate_sigma(self, noisy: Tensor) -> Tensor:
        """The noise level of each image in grey levels, `(B,)`, by the estimator."""
        if self.estimator is None:
            raise ValueError(
                f"{self.name}: no noise estimator to find sigma; give the noise level, denoise(noisy, sigma=25), "
                "or set network.estimator to a trained NENet"
            )
        return self.estimator.estimate_sigma(noisy)

    def training_loss(self, clean: Tensor, noisy: Tensor, sigma: Tensor | float) -> tuple[Tensor, dict[str, Tensor]]:
        """WINNet's L_r + L_o + L_s, and the figures to log.

        Half the squared error summed over an image, mean over images; ten times the orthogonality of CLISTA and a
        hundredth of the spectral norm of the lifting networks (mean of P and U, over pairs), each a mean over levels.

        Args:
            clean, noisy: `(B, 1, H, W)` in [0, 1]; noise may exceed it.
            sigma: noise level of the batch in grey levels, or of each image `(B,)`.

        Returns:
            The loss, and "mse" (per pixel, of the unclamped output), "reconstruction", "orthogonality" and "spectral";
            the last three as they are added up, weights included.
        """
        squared = (self(noisy, sigma) - clean).square()
        reconstruction = squared.sum() / (2 * len(clean))
        orthogonality = ORTHOGONALITY_WEIGHT * self.orthogonality()
        spectral = SPECTRAL_WEIGHT * self.spectral_norm()
        terms = {"reconstruction": reconstruction, "orthogonality": orthogonality, "spectral": spectral}
        logs = {"mse": squared.mean(), **terms}
        return sum(terms.values()), {name: value.detach() for name, value in logs.items()}

    def orthogonality(self) -> Tensor:
        """L_o: squared Frobenius distance of S after A from the identity, mean over levels."""
        return sum(shrink.orthogonality() for shrink in self.shrinkers) / len(self.shrinkers)

    def spectral_norm(self) -> Tensor:
        """L_s: `PUNet.spectral_norm`, mean over predictor and update network, pairs and levels."""
        nets = [net for linn in self.linns for pair in linn for net in (pair.predict, pair.update)]
        with torch.autocast(nets[0].last.weight.device.type, enabled=False):
            return sum(net.spectral_norm() for net in nets) / len(nets)

    def has_kernel(self, device: torch.device, precision: str) -> bool:
        return all(chain.has_kernel(device, precision) for chain in self.chains())

    def resolve_precision(self, precision: str, device: torch.device | str = "cpu") -> str:
        """See `DenoisingNetwork`; "fastest" is bfloat16, compiled, on processors with matrix units for it (AMX).

        Their peak is many times that of the vector units, which is what bounds the float32 kernel.
        """
        if precision == "fastest" and torch.device(device).type == "cpu" and "amx_bf16" in processor_flags():
            return "bfloat16"
        return super().resolve_precision(precision, device)

    def num_parameters(self) -> int:
        """Learned parameters, without those of the noise estimator."""
        return super().num_parameters() - (self.estimator.num_parameters() if self.estimator else 0)

    def chains(self) -> list[nn.Module]:
        nets = [net for linn in self.linns for pair in linn for net in (pair.predict, pair.update)]
        return [*nets, *self.shrinkers]

    def compiled_loss(self, **options) -> Callable[..., tuple[Tensor, dict[str, Tensor]]]:
        """`training_loss` on networks compiled one by one, with options of `torch.compile`.

        They are of two kinds, and CLISTA. Compiled as a whole the loss holds each of them several times, which takes a
        compiler many minutes.
        """
        for chain in self.chains():
            chain.compile(**options)
        return self.training_loss

    def _take_over(self, other: WINNet) -> None:
        """The start from another noise level, to which thresholds adapt by themselves, or from fewer levels."""
        for own, trained in zip(self.linns, other.linns, strict=False):
            own.load_state_dict(trained.state_dict())
        for own, trained in zip(self.shrinkers, other.shrinkers, strict=False):
            own.load_state_dict(trained.state_dict())


# Names in the released files -> ours, applied in this order. `innnet.K.net.I` is lifting pair I of level K, and within
# a predictor or updator `net.0` is the first convolution and `net.1` to `net.4` are the residual blocks.
_RENAMED = (
    (r"^module\.innnet\.(\d+)\.net\.(\d+)\.", r"linns.\1.layers.\2."),
    (r"\.predictor\.", ".predict."),
    (r"\.updator\.", ".update."),
    (r"\.convOut\.", ".last."),
    (r"\.conv(\d)\.conv1\.", r".conv\1.depthwise."),
    (r"\.conv(\d)\.conv2\.", r".conv\1.pointwise."),
    (r"(predict|update)\.net\.", r"\1.layers."),
    (r"\.soft(\d?)\.thre$", r".shrink\1.weight"),
    (r"^module\.ddnnet\.(\d+)\.", r"shrinkers.\1."),
    (r"\.A\.", ".analyse."),
    (r"\.S\.", ".synthesise."),
    (r"\.net\.(\d+)\.thre$", r".shrink.\1.weight"),
)


def read_authors_weights(path: str | Path, num_levels: int, sigma: float | None) -> WINNet:
    """The network in a weights file that the authors released, in evaluation mode.

    The files (`pretrain/WINNet_lvl_1_nlvl_25/net_WINNet.pth` of jjhuangcs/WINNet) are pickled state dicts; they are
    read by PyTorch's loader that builds tensors only.

    Args:
        path: the file.
        num_levels: levels of the network in it.
        sigma: noise level it was trained for, in grey levels, which the file does not say; None for the blind network,
            which comes without an estimator.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not one of these; the message says why.
    """
    model = WINNet(num_levels, sigma=sigma, boundary="replicate")
    load_released(model, Path(path), "WINNet", _ours)
    return model.eval()


def _ours(name: str, tensor: Tensor) -> tuple[str, Tensor]:
    """A tensor of the released file under our name."""
    for pattern, replacement in _RENAMED:
        name = re.sub(pattern, replacement, name)
    return name, tensor
