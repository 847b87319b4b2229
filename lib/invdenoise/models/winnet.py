"""WINNet: the wavelet-inspired invertible network, non-blind and blind (Huang and Dragotti, IEEE TIP 2022)."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from invdenoise.layers.invertible import InvertibleSequence
from invdenoise.layers.lifting import LiftingPair
from invdenoise.layers.shrinkage import CLISTA, NoiseAdaptiveThreshold, compose
from invdenoise.layers.tiles import Tiled
from invdenoise.layers.transforms import RedundantDCT
from invdenoise.models.base import DenoisingNetwork
from invdenoise.models.nenet import load_released

ORTHOGONALITY_WEIGHT = 10.0
# The released code adds 0.1 times this term in every tenth batch. 0.01 in every batch has the same mean effect and
# costs little. The loss then depends on weights and batch alone, which exact resuming needs.
SPECTRAL_WEIGHT = 0.01


class SeparableConv(nn.Module):
    """A depthwise 5x5 convolution, then a pointwise 1x1, without bias; `(B, C, H, W)` in and out.

    With `dilation` 2 the depthwise convolution is padded by 3, where 4 would keep the size, and the pointwise one by 1.
    The size stays the same, and a frame of one pixel is zero. The released weights of level 2 were trained so.

    Args:
        num_features: C.
        kernel_size: of the depthwise kernels, odd.
        dilation: distance between their taps.
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
        # In float32: depthwise convolutions multiply no matrices, so bfloat16 is not faster, and its gradients are
        # slower.
        if torch.compiler.is_compiling() and torch.is_grad_enabled():
            x = DepthwiseConv.apply(x.to(conv.weight.dtype), conv.weight, conv.padding[0], conv.dilation[0])
        else:
            x = conv(x)
        return self.pointwise(x)


class DepthwiseConv(torch.autograd.Function):
    """A depthwise convolution whose gradients are written out, for `torch.compile`.

    In libraries, the gradient of depthwise kernels takes several times longer than the rest of a training step. The
    compiler fuses the sums below into one loop. Without compiling they are slower still: see `SeparableConv`.
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
        # Sums over one picture first: it fits the processor's cache.
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
        else:  # one channel: no matrix to multiply, and bfloat16 would take a slow path
            with torch.autocast(kind, enabled=False):
                x = self.conv(x)
        return self.shrink(x.to(dtype), sigma)

    def kernel(self) -> Tensor:
        """The kernel `(C, in_channels, 3, 3)` of the layer without its threshold."""
        return self.conv.weight

    def weighted_kernel(self, weights: Tensor) -> Tensor:
        """Weighted sum over the output channels of `kernel`, flattened; weights `(C,)`."""
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
        # One 9x9 kernel for each middle channel and input channel. The pointwise kernels weight and sum them.
        depthwise = compose(first.depthwise.weight.transpose(0, 1), second.depthwise.weight)
        weighted = first.pointwise.weight * depthwise
        kernel = (second.pointwise.weight.flatten(1) @ weighted.flatten(1)).view_as(depthwise)
        return kernel + nn.init.dirac_(torch.empty_like(kernel))

    def weighted_kernel(self, weights: Tensor) -> Tensor:
        """Weighted sum over the output channels of `kernel`, a 9x9 kernel for each input channel; weights `(C,)`."""
        first, second = self.conv1, self.conv2
        pointwise = (weights @ second.pointwise.weight.flatten(1))[:, None] * first.pointwise.weight.flatten(1)
        inner = (pointwise.T @ second.depthwise.weight.flatten(1)).view_as(second.depthwise.weight)
        full = inner.shape[-1] - 1
        kernel = F.conv2d(first.depthwise.weight.transpose(0, 1), inner.flip(-2, -1), padding=full, groups=len(inner))
        centre = F.pad(weights.view(1, -1, 1, 1), (kernel.shape[-1] // 2,) * 4)
        return kernel + centre


class PUNet(Tiled):
    """A predictor or update network: a convolution, residual blocks, and a convolution that starts at zero.

    Maps `(B, in_channels, H, W)` to `(B, out_channels, H, W)` for noise of `sigma` grey levels, `(B, 1, 1, 1)`.

    Args:
        in_channels, out_channels: channels of the part it reads and of the part it changes.
        num_blocks: residual blocks (WINNet: 4).
        num_features: channels in between (WINNet: 32).
        dilation: distance between the taps of every kernel larger than 1x1.
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
        # Of the receptive field, in pixels. A block has two convolutions.
        self.radius = dilation * (2 * (self.kernel_size // 2) + 2 * num_blocks * (self.block_kernel_size // 2))

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x, sigma)
        return self.last(x)

    def spectral_norm(self) -> Tensor:
        """The spectral norm of each layer's kernel as a matrix, summed over all layers but the last.

        Thresholds count as the identity, and a residual block as one 9x9 kernel. The matrix of a kernel
        `(out, in, k, k)` has `out` rows; in the released code that of a residual block has `in` rows. Its norm times k
        bounds the norm of the convolution.
        """
        return sum(largest_singular_value(layer) for layer in self.layers)


def largest_singular_value(layer: ConvThreshold | ResidualBlock) -> Tensor:
    """The spectral norm of the layer's kernel as a matrix K with few rows, differentiable once.

    It is |K' u| for the left singular vector u, the eigenvector of K K' with the largest eigenvalue. No other unit
    vector gives a larger |K' u|, so the derivative is that of |K' u| with u held fixed. This is far cheaper than to
    differentiate K K'.
    """
    with torch.no_grad():
        matrix = layer.kernel().flatten(1)
        vector = torch.linalg.eigh(matrix @ matrix.T).eigenvectors[:, -1]
    return layer.weighted_kernel(vector).norm()


class NoiseAdaptivePair(LiftingPair):
    """One predict and one update step whose networks adapt to the noise level (WINNet; LINN, Eqs. 2 to 5).

    The noise level, `sigma` `(B, 1, 1, 1)` in grey levels, is a side input: the third part of the state, which passes
    through unchanged.
    """

    def forward(self, coarse: Tensor, detail: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        detail = detail - self.predict.in_tiles(coarse, sigma)
        coarse = coarse + self.update.in_tiles(detail, sigma)
        return coarse, detail, sigma

    def inverse(self, coarse: Tensor, detail: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        coarse = coarse - self.update.in_tiles(detail, sigma)
        detail = detail + self.predict.in_tiles(coarse, sigma)
        return coarse, detail, sigma

    def log_det(self, coarse: Tensor, detail: Tensor, sigma: Tensor) -> Tensor:
        """Zeros of shape `(B,)`, as for every lifting step."""
        return super().log_det(coarse, detail)


class WINNet(DenoisingNetwork):
    """Split, lift, denoise the detail by CLISTA, lift back, merge. Each further level does so with the coarse channel.

    The noise level is an input, and every threshold is proportional to it. So one network serves every level it is
    trained on; a blind network is trained on a range of them. Only CLISTA is not invertible.

    Takes gray images `(B, 1, H, W)` of any size. `NENet`, which estimates the noise level, needs 15x15 pixels or so.

    Args:
        num_levels: K (WINNet: 1 and 2). The kernels of level 1 have no dilation, those of further levels dilation 2.
            The split has none.
        num_pairs: lifting pairs M of a level (WINNet: 4).
        num_blocks, num_features: residual blocks and channels of each predictor and update network (WINNet: 4, 32).
        num_atoms, num_lista_layers: features and iterations of CLISTA (WINNet: 64, 4).
        sigma: noise level it is trained for, in grey levels; None for a blind network, trained on a range of levels.
        boundary: of the split, see `RedundantDCT`; "replicate" for the authors' weights.
        constant_memory: recompute the activations of the lifting steps in the backward pass instead of storing them.

    Attributes:
        estimator: the `NENet` that estimates the noise level where a blind network is not told it. It is trained on its
            own and saved on its own. None until set.
    """

    display_name = "WINNet"
    channels = 1

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
            sigma: noise level in grey levels, a number or one for each image `(B,)`; None is the level of training.
        """
        return self._denoise_level(noisy, self._noise_level(noisy, sigma), 0)

    def _denoise_level(self, image: Tensor, sigma: Tensor, level: int) -> Tensor:
        coarse, detail = self.decompose(image, sigma, level)
        if level + 1 < len(self.linns):
            coarse = self._denoise_level(coarse, sigma, level + 1)
        detail = (
            self.shrinkers[level].in_tiles(detail, sigma).to(image.dtype)
        )  # lifting needs the precision of the state
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
        """See `denoise`. Without `sigma` it takes the level of training; a blind network estimates that of each image.

        Raises:
            ValueError: a blind network has neither `sigma` nor an estimator, or the image is too small to estimate
            from.
        """
        if sigma is None and self.sigma is None:
            sigma = self.estimate_sigma(noisy)
        height, width = noisy.shape[-2:]
        missing = (max(self.min_side - width, 0), max(self.min_side - height, 0))
        padded = F.pad(noisy, (0, missing[0], 0, missing[1]), mode="replicate")
        return self.infer(padded, self.sigma if sigma is None else sigma)[..., :height, :width]

    def estimate_sigma(self, noisy: Tensor) -> Tensor:
        """The noise level of each image in grey levels, `(B,)`, from the estimator."""
        if self.estimator is None:
            raise ValueError(
                f"{self.name}: no noise estimator to find sigma; give the noise level, denoise(noisy, sigma=25), "
                "or set network.estimator to a trained NENet"
            )
        return self.estimator.estimate_sigma(noisy)

    def training_loss(self, clean: Tensor, noisy: Tensor, sigma: Tensor | float) -> tuple[Tensor, dict[str, Tensor]]:
        """WINNet's L_r + L_o + L_s, and the figures to log.

        L_r is half the squared error summed over an image, mean over images. L_o is 10 times `orthogonality`, and L_s
        is 0.01 times `spectral_norm`.

        Args:
            clean, noisy: `(B, 1, H, W)` in [0, 1]; noise may exceed it.
            sigma: noise level of the batch in grey levels, or of each image `(B,)`.

        Returns:
            The loss, and "mse" (per pixel, of the unclamped output), "reconstruction", "orthogonality" and "spectral".
            The last three are the terms of the loss, with their weights.
        """
        squared = (self(noisy, sigma) - clean).square()
        reconstruction = squared.sum() / (2 * len(clean))
        orthogonality = ORTHOGONALITY_WEIGHT * self.orthogonality()
        spectral = SPECTRAL_WEIGHT * self.spectral_norm()
        terms = {"reconstruction": reconstruction, "orthogonality": orthogonality, "spectral": spectral}
        logs = {"mse": squared.mean(), **terms}
        return sum(terms.values()), {name: value.detach() for name, value in logs.items()}

    def orthogonality(self) -> Tensor:
        """`CLISTA.orthogonality`, mean over levels."""
        return sum(shrink.orthogonality() for shrink in self.shrinkers) / len(self.shrinkers)

    def spectral_norm(self) -> Tensor:
        """`PUNet.spectral_norm`, mean over all predictors and update networks."""
        nets = [net for linn in self.linns for pair in linn for net in (pair.predict, pair.update)]
        with torch.autocast(nets[0].last.weight.device.type, enabled=False):
            return sum(net.spectral_norm() for net in nets) / len(nets)

    def num_parameters(self) -> int:
        """Number of learned parameters, without those of the noise estimator."""
        return super().num_parameters() - (self.estimator.num_parameters() if self.estimator else 0)

    def chains(self) -> list[nn.Module]:
        nets = [net for linn in self.linns for pair in linn for net in (pair.predict, pair.update)]
        return [*nets, *self.shrinkers]

    def compiled_loss(self, **options) -> Callable[..., tuple[Tensor, dict[str, Tensor]]]:
        """`training_loss`, after compiling the parts of the network one by one, with options of `torch.compile`.

        The parts are of three kinds: predictors, update networks and CLISTA. The whole loss contains each of them
        several times, and compiling it takes many minutes.
        """
        for chain in self.chains():
            chain.compile(**options)
        return self.training_loss

    def _take_over(self, other: WINNet) -> None:
        """Start from a network with another noise level, to which the thresholds adapt, or with fewer levels."""
        for own, trained in zip(self.linns, other.linns, strict=False):
            own.load_state_dict(trained.state_dict())
        for own, trained in zip(self.shrinkers, other.shrinkers, strict=False):
            own.load_state_dict(trained.state_dict())


# Names in the released files -> ours, applied in this order. `innnet.K.net.I` is lifting pair I of level K. Within a
# predictor or updator, `net.0` is the first convolution and `net.1` to `net.4` are the residual blocks.
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

    The files (`pretrain/WINNet_lvl_1_nlvl_25/net_WINNet.pth` of jjhuangcs/WINNet) are pickled state dicts. PyTorch's
    loader reads them without running code.

    Args:
        path: the file.
        num_levels: levels of the network in it.
        sigma: noise level it was trained for, in grey levels, which the file does not say. None for the blind network,
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
