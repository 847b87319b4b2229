"""NENet: the model-inspired noise estimation network of blind WINNet (Huang and Dragotti, IEEE TIP 2022)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from invdenoise.checks import check_image

PATCH = 8  # side of the patches
COLUMNS = 32  # columns of patches computed together: memory does not grow with the width
SMALLEST_VARIANCE = 1e-12  # a flat image without noise has variance 0, where the square root has no gradient


class NENet(nn.Module):
    """The standard deviation of white noise in an image, in grey levels, from the smallest variance among its patches.

    Flat 8x8 patches p vary by the noise alone, in every direction. A small 1-D network reads the pixels of a patch row
    by row and gives it a weight w in (0, 1). With C = sum w p p' / sum w, sigma is the square root of the smallest
    eigenvalue of C. No mean is removed.

    Takes gray images `(B, 1, H, W)` with at least 64 patches, such as 15x15 pixels. With fewer, C is singular and its
    smallest eigenvalue is 0. The noise must not be clipped.

    Args:
        num_layers: convolutions between the first and the last (WINNet: 5).
        num_features: their channels (WINNet: 16).
        kernel_size: of every convolution, odd (WINNet: 5). Nothing is padded, and nothing has a bias.
        sigma: None; an estimator is trained on a range of levels.
    """

    name = "nenet"
    display_name = "NENet"
    sigma = None
    card: dict = {"budget": "none", "sha256": ""}

    def __init__(self, num_layers: int = 5, num_features: int = 16, kernel_size: int = 5, sigma: None = None):
        super().__init__()
        self.left = PATCH**2 - (num_layers + 2) * (kernel_size - 1)  # positions left of 64 after the last convolution
        if self.left < 1:
            raise ValueError(
                f"{num_layers} layers of size {kernel_size} use up the {PATCH**2} pixels of a patch; take fewer"
            )
        channels = [1, *[num_features] * (num_layers + 1), 1]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(num_in, num_out, (1, kernel_size), bias=False) for num_in, num_out in pairwise(channels)
        )
        # The released code starts from PyTorch's smaller kernels. They give every patch the same weight, and hardly any
        # gradient flows.
        for convolution in self.convolutions:
            nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")

    def forward(self, image: Tensor, pooled: bool = False) -> Tensor:
        """Noise levels in grey levels, `(B,)`. With `pooled`, one level from the patches of all images, `(1,)`.

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
        # Divided by the largest weight, the sum is 1 or more even where every w underflows: no 0 / 0.
        weights = F.logsigmoid(logits.double())
        weights = (weights - weights.detach().amax(over, keepdim=True)).exp()
        # At low noise the eigenvalues of C span six decades, and sums in float32 would lose the smallest.
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
        """The weight w of each patch, `(B, H - 7, W - 7)` in (0, 1), at its upper left pixel.

        The image needs at least 8x8 pixels.
        """
        return self._logits(image).sigmoid()

    def _logits(self, image: Tensor) -> Tensor:
        return torch.cat([self._logits_of_strip(strip) for strip in self._strips(image)], dim=-1)

    def _strips(self, image: Tensor) -> Iterator[Tensor]:
        """Overlapping strips of the image, each with `COLUMNS` columns of patches."""
        for left in range(0, image.shape[-1] - PATCH + 1, COLUMNS):
            yield image[..., left : left + COLUMNS + PATCH - 1]

    def _logits_of_strip(self, strip: Tensor) -> Tensor:
        """The weights of the patches of a strip before the sigmoid, `(B, H - 7, W - 7)`.

        Patches of one column overlap. Read row by row, the next patch down is the same sequence shifted by eight
        pixels. So the convolutions run once over the whole column, 8 H pixels, and a patch takes the mean over its
        part. The result is that of the network on each patch alone, with a sixth of the multiplications.
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
        """Squared error of the noise level in grey levels, estimated from the whole batch, and figures to log.

        Args:
            clean: unused.
            noisy: `(B, 1, H, W)`, not clipped, all with the same noise level.
            sigma: noise level of the batch in grey levels.

        Raises:
            ValueError: `sigma` has a level for each patch.
        """
        if isinstance(sigma, Tensor) and sigma.numel() > 1:
            raise ValueError(
                f"{type(self).__name__} estimates one noise level from a whole batch, but this one has {sigma.numel()}; "
                "use levels: batch"
            )
        error = self(noisy, pooled=True) - sigma
        loss = error.square().sum()
        return loss, {"squared_error": loss.detach(), "error": error.detach().sum()}

    def num_parameters(self) -> int:
        """Number of learned parameters."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)


def read_authors_weights(path: str | Path) -> NENet:
    """The estimator in the weights file that the authors released (`pretrain/NENet/net_NENet.pth` of jjhuangcs/WINNet).

    These weights prefer no patch: on Set12 every w lies between 0.499 and 0.5, so all patches count alike. The kernels
    lie within the bounds 1 / sqrt(inputs) of PyTorch's random start.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not that one; the message says why.
    """
    model = NENet()
    load_released(model, Path(path), "NENet", _ours)
    return model.eval()


def _ours(name: str, tensor: Tensor) -> tuple[str, Tensor]:
    """A tensor of the released file under our name. There, every other layer is a ReLU, and kernels are 1-D."""
    prefix, index, kind = name.rsplit(".", 2)
    if prefix != "module.net":
        return name, tensor
    return f"convolutions.{int(index) // 2}.{kind}", tensor.unsqueeze(2)


def load_released(model: nn.Module, path: Path, what: str, rename: Callable[[str, Tensor], tuple[str, Tensor]]) -> None:
    """Load a state dict that the authors of WINNet released into `model`.

    Args:
        what: name of the network, for messages.
        rename: a name and a tensor of the file -> our name and tensor.

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
