"""FFDNet (Zhang, Zuo and Zhang, TIP 2018) with its authors' weights: one network for all noise levels, which it is told."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from invdenoise.layers.tiles import in_tiles
from invdenoise.models.base import DenoisingNetwork
from invdenoise.models.dncnn import read_convolutions


class FFDNet(DenoisingNetwork):
    """A chain of convolutions on the picture at half size and a map of the noise level (Section III, Figure 1).

    The picture `(B, C, H, W)` is rearranged to four times the channels at half the size; the noise level is one more
    channel. 3x3 convolutions with ReLU predict the clean picture, rearranged in the same way. In inference a large
    picture is computed tile by tile, with the same result.

    Args:
        num_channels: 1 for gray pictures, 3 for colour.
        depth, num_features: convolutions and channels in between (paper: 15 and 64 for gray, 12 and 96 for colour).
    """

    display_name = "FFDNet"
    needs_sigma = True
    multiple = 2
    inference_precision = "float32"

    def __init__(self, num_channels: int = 1, depth: int = 15, num_features: int = 64):
        super().__init__()
        self.channels = num_channels
        channels = [4 * num_channels + 1, *[num_features] * (depth - 1), 4 * num_channels]
        layers: list[nn.Module] = []
        for num_in, num_out in zip(channels[:-1], channels[1:], strict=True):
            layers += [nn.Conv2d(num_in, num_out, 3, padding=1), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers[:-1])
        self.depth = depth

    @property
    def convolutions(self) -> list[nn.Conv2d]:
        """The convolutions, first to last."""
        return [layer for layer in self.layers if isinstance(layer, nn.Conv2d)]

    def forward(self, noisy: Tensor, sigma: Tensor | float) -> Tensor:
        """The denoised picture, not clamped; `sigma` in grey levels, one for the batch or `(B,)`. H and W must be even."""
        half = _columns_first(F.pixel_unshuffle(noisy, 2))
        level = torch.as_tensor(sigma, dtype=half.dtype, device=half.device) / 255
        level = level.reshape(-1, 1, 1, 1).expand(len(half), 1, *half.shape[-2:])
        state = torch.cat([half, level], 1)
        if torch.is_grad_enabled() or self.training:
            restored = self.layers(state)
        else:
            restored = in_tiles(self.layers, state, radius=self.depth)
        return F.pixel_shuffle(_columns_first(restored), 2)

    def training_loss(self, clean: Tensor, noisy: Tensor, sigma: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean squared error per pixel (Eq. 6 up to a constant factor)."""
        loss = F.mse_loss(self(noisy, sigma), clean)
        return loss, {"mse": loss.detach()}

    def estimate(self, noisy: Tensor, sigma: float | None) -> Tensor:
        return self.infer(noisy, sigma)


def _columns_first(x: Tensor) -> Tensor:
    """The four pixels of a block in the order of the authors' files, which goes down the columns; its own inverse."""
    return x.unflatten(1, (-1, 2, 2)).transpose(2, 3).flatten(1, 3)


def read_authors_weights(path: str | Path) -> FFDNet:
    """The network in a weights file that the authors released, in evaluation mode; gray or colour as the file is.

    The files (`models/FFDNet_gray.mat` and `FFDNet_color.mat` of cszn/FFDNet) are MATLAB 7.3 with MatConvNet's layout, and
    batch normalisation is merged into the convolutions.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not one of these; the message says why.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; it should hold weights released by the authors of FFDNet")
    try:
        convolutions = read_convolutions(path)
        network = FFDNet(len(convolutions[-1][1]) // 4, len(convolutions), len(convolutions[0][1]))
        for target, (weight, bias) in zip(network.convolutions, convolutions, strict=True):
            target.load_state_dict({"weight": weight, "bias": bias})
    except (OSError, KeyError, IndexError, TypeError, AttributeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path}: not FFDNet weights in MATLAB 7.3 format ({reason}); fetch the file again") from error
    return network.eval()
