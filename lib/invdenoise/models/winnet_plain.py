"""WINNet computed the way its equations read: the baseline of `make bench`."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from invdenoise.layers.shrinkage import CLISTA, NoiseAdaptiveThreshold
from invdenoise.models.winnet import PUNet, WINNet


class PlainWINNet(WINNet):
    """The same network and weights as `WINNet`, with the forward pass of `plain_forward`."""

    def forward(self, noisy: Tensor, sigma: Tensor | float | None = None) -> Tensor:
        return plain_forward(self, noisy.contiguous(), self._noise_level(noisy, sigma))


def plain_forward(network: WINNet, noisy: Tensor, sigma: Tensor) -> Tensor:
    """`network(noisy, sigma)`, without anything that makes `WINNet` faster.

    Pictures are computed whole, in PyTorch's default layout. Thresholds are expanded to one number a coefficient, and a
    soft-threshold is the difference of two ReLUs.

    Args:
        noisy: `(B, 1, H, W)`.
        sigma: noise level in grey levels, `(B, 1, 1, 1)` or `(1, 1, 1, 1)`.
    """
    return _denoise_level(network, noisy, sigma, 0)


def _denoise_level(network: WINNet, image: Tensor, sigma: Tensor, level: int) -> Tensor:
    pairs = list(network.linns[level])
    coarse, detail = network.split(image)
    for pair in pairs:
        detail = detail - _predict_or_update(pair.predict, coarse, sigma)
        coarse = coarse + _predict_or_update(pair.update, detail, sigma)
    if level + 1 < len(network.linns):
        coarse = _denoise_level(network, coarse, sigma, level + 1)
    detail = _clista(network.shrinkers[level], detail, sigma)
    for pair in reversed(pairs):
        coarse = coarse - _predict_or_update(pair.update, detail, sigma)
        detail = detail + _predict_or_update(pair.predict, coarse, sigma)
    return network.split.inverse(coarse, detail)


def _predict_or_update(net: PUNet, x: Tensor, sigma: Tensor) -> Tensor:
    first, *blocks = net.layers
    x = _shrink(first.shrink, first.conv(x), sigma)
    for block in blocks:
        inner = _shrink(block.shrink1, block.conv1(x), sigma)
        x = _shrink(block.shrink2, x + block.conv2(inner), sigma)
    return net.last(x)


def _clista(clista: CLISTA, z: Tensor, sigma: Tensor) -> Tensor:
    g = clista.analyse(z)
    for layer in clista.shrink:
        g = _shrink(layer, g + clista.analyse(z - clista.synthesise(g)), sigma)
    return clista.synthesise(g)


def _shrink(layer: NoiseAdaptiveThreshold, x: Tensor, sigma: Tensor) -> Tensor:
    threshold = layer.threshold(sigma).expand_as(x).contiguous()
    return F.relu(x - threshold) - F.relu(-x - threshold)
