"""Shrinkage of detail coefficients: soft-thresholding, and the learned iterations LISTA (LINN) and CLISTA (WINNet)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from invdenoise.layers.tiles import Tiled


def soft_threshold(x: Tensor, threshold: Tensor | float) -> Tensor:
    """sgn(x) max(|x| - threshold, 0), for `threshold >= 0` that broadcasts against `x` (LINN, footnote 1).

    Computed as `x - clip(x)`: one pass over memory less than with two ReLUs, and several times faster.
    """
    if isinstance(threshold, Tensor):
        threshold = threshold.to(x.dtype)  # a float32 parameter must not promote bfloat16 activations
        return x - torch.clamp(x, -threshold, threshold)
    return x - x.clamp(-threshold, threshold)


class SoftThreshold(nn.Module):
    """Soft-thresholding with one learned threshold per channel (LINN, Eq. 7).

    Takes and returns `(B, num_channels, H, W)`. The threshold is the magnitude of the parameter, which may change sign
    in training.

    Args:
        num_channels: channels of the input.
        initial: threshold of every channel at the start, in the units of the coefficients.
    """

    def __init__(self, num_channels: int, initial: float):
        super().__init__()
        self.weight = nn.Parameter(torch.full((num_channels,), float(initial)))

    @property
    def threshold(self) -> Tensor:
        """The thresholds, shape `(num_channels,)`, never negative."""
        return self.weight.abs()

    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        """Shrink `x` by `scale` times the learned thresholds."""
        return soft_threshold(x, (self.threshold * scale).view(-1, 1, 1))


class LISTA(nn.Module):
    """Learned iterative shrinkage-thresholding of the detail channels (LINN, Eq. 10 and Figure 3b).

        g_1 = S_1(Wg_1 * z),    g_t = S_t(We_t * g_{t-1} + Wg_t * z),    out = Ws * g_T

    Takes and returns `(B, num_channels, H, W)`. The iteration starts at g_0 = 0, so its first layer has no We. Kernels
    have no bias.

    Training starts from one soft-threshold. Wg_1 and Ws are the identity. Later layers pass their input on (We is the
    identity, Wg zero) with a small threshold; a threshold of zero would get no gradient.

    Args:
        num_channels: channels of z and of every g_t.
        num_layers: T, the number of iterations (paper: 3).
        kernel_size: side of every kernel, odd (paper: 3).
        initial: threshold of the first layer at the start.
    """

    def __init__(self, num_channels: int, num_layers: int = 3, kernel_size: int = 3, initial: float = 0.1):
        super().__init__()
        if num_layers < 1:
            raise ValueError(f"num_layers is {num_layers}; expected 1 or more")

        def convolution(identity: bool) -> nn.Conv2d:
            conv = nn.Conv2d(num_channels, num_channels, kernel_size, padding="same", bias=False)
            nn.init.dirac_(conv.weight) if identity else nn.init.zeros_(conv.weight)
            return conv

        self.encode = nn.ModuleList(convolution(identity=t == 0) for t in range(num_layers))  # Wg_t
        self.recur = nn.ModuleList(convolution(identity=True) for _ in range(num_layers - 1))  # We_t, t > 1
        self.shrink = nn.ModuleList(
            SoftThreshold(num_channels, initial if t == 0 else initial / 100) for t in range(num_layers)
        )
        self.synthesise = convolution(identity=True)  # Ws

    def forward(self, z: Tensor, scale: float = 1.0) -> Tensor:
        """Denoise `z` with every threshold multiplied by `scale`."""
        g = self.shrink[0](self.encode[0](z), scale)
        for encode, recur, shrink in zip(self.encode[1:], self.recur, self.shrink[1:], strict=True):
            g = shrink(recur(g) + encode(z), scale)
        return self.synthesise(g)


class NoiseAdaptiveThreshold(nn.Module):
    """Soft-thresholding with one learned threshold per channel, in proportion to the noise level (WINNet).

        T = softplus(theta) sigma / 50,    softplus(theta) = ln(1 + exp(20 theta)) / 20

    The softplus keeps T above zero, so that every threshold has a gradient. At the start theta is uniform in [-0.1, 0]
    and softplus(theta) lies between 0.006 and 0.035.

    Args:
        num_channels: channels of the input.
    """

    sharpness = 20.0  # of the softplus
    reference = 50.0  # grey levels at which T is softplus(theta)

    def __init__(self, num_channels: int):
        super().__init__()
        self.weight = nn.Parameter(-0.1 * torch.rand(num_channels))  # theta

    def threshold(self, sigma: Tensor | float) -> Tensor:
        """T, `(num_channels, 1, 1)`, for noise of `sigma` grey levels; `(B, num_channels, 1, 1)` for `(B, 1, 1, 1)`."""
        return F.softplus(self.weight, self.sharpness).view(-1, 1, 1) * (sigma / self.reference)

    def forward(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        return soft_threshold(x, self.threshold(sigma))


class CLISTA(Tiled):
    """Convolutional LISTA: an unfolded convolutional sparse coder that denoises the detail channels (WINNet).

        g_0 = A * z,    g_t = S_t(g_{t-1} + A * (z - S * g_{t-1})),    out = S * g_T

    Takes and returns `(B, num_channels, H, W)`. The T iterations share the analysis kernel A and the synthesis kernel
    S. Each has its own thresholds S_t. Nothing has a bias.

    Unlike the released code, which starts from random kernels, A and S start as a tight frame, one tap wide. Then S * A
    is the identity, `orthogonality` is zero, and the iteration is a soft-threshold of frame coefficients.

    Args:
        num_channels: channels of z.
        num_features: channels of g, at least `num_channels` (WINNet: 64).
        num_layers: T (WINNet: 4).
        kernel_size: side of both kernels, odd (WINNet: 3).
    """

    def __init__(self, num_channels: int, num_features: int = 64, num_layers: int = 4, kernel_size: int = 3):
        super().__init__()
        if num_features < num_channels:
            raise ValueError(f"num_features is {num_features}; expected {num_channels} or more, one for each channel")
        if num_layers < 1:
            raise ValueError(f"num_layers is {num_layers}; expected 1 or more")
        self.analyse = nn.Conv2d(num_channels, num_features, kernel_size, padding="same", bias=False)  # A
        self.synthesise = nn.Conv2d(num_features, num_channels, kernel_size, padding="same", bias=False)  # S
        self.shrink = nn.ModuleList(NoiseAdaptiveThreshold(num_features) for _ in range(num_layers))
        self.radius = (2 * num_layers + 2) * (kernel_size // 2)  # of the receptive field, in pixels
        frame = nn.init.orthogonal_(torch.empty(num_features, num_channels))
        centre = kernel_size // 2
        with torch.no_grad():
            for conv, matrix in ((self.analyse, frame), (self.synthesise, frame.T)):
                conv.weight.zero_()
                conv.weight[..., centre, centre] = matrix

    def forward(self, z: Tensor, sigma: Tensor | float) -> Tensor:
        """Denoise `z` with thresholds for noise of `sigma` grey levels, a number or `(B, 1, 1, 1)`."""
        g = self.analyse(z)
        for shrink in self.shrink:
            g = shrink(g + self.analyse(z - self.synthesise(g)), sigma)
        return self.synthesise(g)

    def orthogonality(self) -> Tensor:
        """Squared Frobenius distance of the kernel of S after A from the identity: WINNet's L_o, without its weight."""
        with torch.autocast(self.analyse.weight.device.type, enabled=False):
            kernel = compose(self.analyse.weight, self.synthesise.weight)
            return (kernel - nn.init.dirac_(torch.empty_like(kernel))).square().sum()


def compose(first: Tensor, second: Tensor) -> Tensor:
    """The kernel of convolution `second` after convolution `first`.

    Kernels `(mid, in, k, k)` and `(out, mid, l, l)` give `(out, in, k + l - 1, k + l - 1)`.
    """
    full = second.shape[-1] - 1
    return F.conv2d(first.transpose(0, 1), second.flip(-2, -1), padding=full).transpose(0, 1)
