"""NENet: the model-inspired noise estimation network of blind WINNet (Huang and Dragotti, IEEE TIP 2022)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from invdenoise.denoiser import check_image

PATCH = 8  # side of the patches
COLUMNS = 32  # patches side by side that are worked on at a time: memory does not grow with the width
SMALLEST_VARIANCE = 1e-12  # of the estimate, which a flat image without noise would otherwise make 0: no gradient there


class NENet(nn.Module):
    """The standard deviation of white noise in an image, in grey levels, from the smallest variation of its patches.

    Flat 8x8 patches p vary by the noise alone, in every direction. A small 1-D network, run along the pixels of a patch
    row by row, weighs it by w in (0, 1); with C = sum w p p' / sum w, sigma is the root of the smallest eigenvalue
    of C. No mean is removed.

    Takes gray images `(B, 1, H, W)` with at least 64 patches, as those of 15x15 pixels: of fewer, C has no inverse and
    its smallest eigenvalue says nothing. The noise must not be clipped.

    Args:
        num_layers: convolutions between the first and the last (WINNet: 5).
        num_features: their channels (WINNet: 16).
        kernel_size: of every convolution, odd (WINNet: 5). Nothing is padded, and nothing has a bias.
        sigma: unused; an estimator is trained on a range of levels.
    """

    name = "nenet"
    display_name = "NENet"
    sigma = None
    card: dict = {"budget": "none", "sha256": ""}

    def __init__(self, num_layers: int = 5, num_features: int = 16, kernel_size: int = 5, sigma: None = None):
        super().__init__()
        self.left = PATCH**2 - (num_layers + 2) * (kernel_size - 1)  # of the 64 positions, after the last convolution
        if self.left < 1:
            raise ValueError(
                f"{num_layers} layers of size {kernel_size} use up the {PATCH**2} pixels of a patch; take fewer"
            )
        channels = [1, *[num_features] * (num_layers + 1), 1]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(num_in, num_out, (1, kernel_size), bias=False) for num_in, num_out in pairwise(channels)
        )
        # PyTorch's smaller kernels, which the released code starts from, give every patch the same weight, and the
        # gradient little to go by.
        for convolution in self.convolutions:
            nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")

    def forward(self, image: Tensor, pooled: bool = False) -> Tensor:
        """Noise levels in grey levels, `(B,)`, or `(1,)` with `pooled`: one for all images, from all their patches.

        Raises:
            ValueError: the image has too few patches.
        """
        height, width = image.shape[-2:]
        num_patches = max(height - PATCH + 1, 0) * max(width - PATCH + 1, 0) * (len(image) if pooled else 1)
        if num_patches < PATCH**2:
            raise ValueError(
                f"{self.name}: the image is {height}x{width}, with {num_patches} patches of {PATCH}x{PATCH} pixels; "
                f"the noise estimate needs {PATCH**2} or more; give the noise level, denoise(noisy, sigma=25)"
            )
        logits = self._logits(image)
        over = (0, 1, 2) if pooled else (1, 2)
        # Relative to the largest, w adds up to 1 or more even where every w underflows: 0 / 0 is out of reach.
        weights = F.logsigmoid(logits.double())
        weights = (weights - weights.detach().amax(over, keepdim=True)).exp()
        # Eigenvalues of C span six decades at low noise: sums in float32 would lose the smallest.
        moments = sum(
            (patches * weight.flatten(1)[:, None]) @ patches.mT
            for strip, weight in zip(self._strips(image), weights.split(COLUMNS, dim=-1), strict=True)
            for patches in [F.unfold(strip.double(), PATCH)]
        )
        if pooled:
            moments = moments.sum(0, keepdim=True)
        variance = torch.linalg.eigvalsh(moments / weights.sum(over, keepdim=True).view(-1, 1, 1))[:, 0]
        return 255 * variance.clamp(min=SMALLEST_VARIANCE).sqrt().to(image.dtype)

    def selection(self, image: Tensor) -> Tensor:
        """The weight w of each patch, `(B, H - 7, W - 7)` in (0, 1), at the place of its upper left pixel.

        For an image of at least 8x8 pixels.
        """
        return self._logits(image).sigmoid()

    def _logits(self, image: Tensor) -> Tensor:
        return torch.cat([self._logits_of_strip(strip) for strip in self._strips(image)], dim=-1)

    def _strips(self, image: Tensor) -> Iterator[Tensor]:
        """Parts of the image that hold its columns of patches, `COLUMNS` at a time."""
        for left in range(0, image.shape[-1] - PATCH + 1, COLUMNS):
            yield image[..., left : left + COLUMNS + PATCH - 1]

    def _logits_of_strip(self, strip: Tensor) -> Tensor:
        """What the sigmoid turns into the weights of the patches of a strip, `(B, H - 7, W - 7)`.

        Patches in one column overlap: read row by row, the next one down is the same sequence eight pixels on. So the
        convolutions run once over the whole column, 8 H pixels, and a patch takes the mean of its part. The result is
        that of the network on each patch alone, for a sixth of the multiplications.
        """
        batch, _, height, width = strip.shape
        columns = strip.unfold(-1, PATCH, 1).transpose(2, 3)  # (B, 1, W - 7, H, 8)
        x = columns.reshape(-1, 1, 1, height * PATCH).contiguous(memory_format=torch.channels_last)
        for convolution in self.convolutions[:-1]:
            x = convolution(x).relu()
        x = self.convolutions[-1](x).view(batch, width - PATCH + 1, -1)
        return F.avg_pool1d(x, self.left, stride=PATCH).mT

    @torch.no_grad()
    def estimate_sigma(self, image: Tensor) -> Tensor:
        """The noise level of each image `(B, 1, H, W)` in grey levels, `(B,)`, float32.

        Raises:
            TypeError: not a float tensor.
            ValueError: shape, several channels, NaN or infinite pixels, or an image with too few patches.
        """
        check_image(image, 1, self.name)
        return self(image.to(next(self.parameters()).dtype)).float()

    def training_loss(self, clean: Tensor, noisy: Tensor, sigma: Tensor | float) -> tuple[Tensor, dict[str, Tensor]]:
        """Squared error of the noise level in grey levels, with patches of the whole batch together; figures to log.

        Args:
            clean: unused; images of a batch differ, their noise level does not.
            noisy: `(B, 1, H, W)`, not clipped.
            sigma: noise level of the batch in grey levels.
        """
        error = self(noisy, pooled=True) - sigma
        loss = error.square().sum()
        return loss, {"squared_error": loss.detach(), "error": error.detach().sum()}

    def num_parameters(self) -> int:
        """Learned parameters."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)


def read_authors_weights(path: str | Path) -> NENet:
    """The estimator in the weights file that the authors released (`pretrain/NENet/net_NENet.pth` of jjhuangcs/WINNet).

    As measured, this file prefers no patch: on Set12 every weight lies between 0.499 and 0.5, and its kernels lie
    within the bounds, 1 / sqrt(inputs), that PyTorch draws them from. It estimates from all patches alike.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not that one; the message says why.
    """
    model = NENet()
    load_released(model, Path(path), "NENet", _ours)
    return model.eval()


def _ours(name: str, tensor: Tensor) -> tuple[str, Tensor]:
    """`module.net.0`, `.2`, ... of the released file, every other layer a ReLU, and kernels of one dimension."""
    prefix, index, kind = name.rsplit(".", 2)
    if prefix != "module.net":
        return name, tensor
    return f"convolutions.{int(index) // 2}.{kind}", tensor.unsqueeze(2)


def load_released(model: nn.Module, path: Path, what: str, rename: Callable[[str, Tensor], tuple[str, Tensor]]) -> None:
    """Load a state dict that the authors of WINNet released into `model`, tensors under the names that `rename` gives.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: not a state dict, or one of another network.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; it should hold {what} weights released by its authors")
    try:
        released = torch.load(path, map_location="cpu", weights_only=True)  # builds tensors and runs no code
        model.load_state_dict(dict(rename(name, tensor) for name, tensor in released.items()))
    except Exception as error:  # a damaged pickle may raise almost anything
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"{path}: not the released {what} weights ({reason}); fetch the file again") from error
