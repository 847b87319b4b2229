"""IRCNN (Zhang, Zuo, Gu and Zhang, CVPR 2017) with its authors' weights: seven dilated convolutions, a network for each level."""

from __future__ import annotations

import math
import re
import struct
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from invdenoise.layers.tiles import in_tiles, needs_gradient
from invdenoise.models.base import DenoisingNetwork
from invdenoise.models.dncnn import Chain

DILATIONS = (1, 2, 3, 4, 3, 2, 1)  # Section 3.2
SIGMA_MAX = 50  # highest level of the authors' networks, in grey levels

# MXNet's file of arrays, little-endian.
LIST_MAGIC = 0x112
ARRAY_MAGIC = 0xF993FAC9
DENSE, FLOAT32 = 0, 0  # MXNet's numbers for a storage and a dtype
DIMENSIONS_MAX = 4
NAME = re.compile(r"arg:convolution(\d+)_(weight|bias)")


class IRCNN(DenoisingNetwork):
    """Dilated convolutions that predict the noise, which is subtracted from the input (Section 3.2).

    Seven 3x3 convolutions with ReLU between them. The dilations see as far as 16 convolutions without, 33x33 pixels. Zero padding
    keeps the size. Takes images `(B, num_channels, H, W)` of any size. In inference a large picture is computed tile by tile,
    with the same result.

    The authors trained with batch normalisation in the five middle layers. Their released weights have it merged, and this
    class has none.

    Args:
        num_channels: 1 for gray, 3 for colour.
        num_features: channels in between (paper: 64).
        sigma: noise level it is trained for, in grey levels.
    """

    display_name = "IRCNN"
    inference_precision = "float32"
    adapts = False

    def __init__(self, num_channels: int = 1, num_features: int = 64, sigma: float | None = 25.0):
        super().__init__(sigma=sigma)
        for key, value in (("num_channels", num_channels), ("num_features", num_features)):
            if value < 1:
                raise ValueError(f"{key} is {value}; expected 1 or more")
        self.channels = num_channels
        channels = [num_channels, *[num_features] * (len(DILATIONS) - 1), num_channels]
        layers: list[nn.Module] = []
        for (num_in, num_out), dilation in zip(pairwise(channels), DILATIONS, strict=True):
            conv = nn.Conv2d(num_in, num_out, 3, padding=dilation, dilation=dilation)
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
            nn.init.zeros_(conv.bias)
            layers += [conv, nn.ReLU(inplace=True)]
        with torch.no_grad():
            conv.weight.mul_(0.01)  # the last convolution: training starts close to the identity
        self.layers = Chain(*layers[:-1])

    @property
    def convolutions(self) -> list[nn.Conv2d]:
        """The convolutions, first to last."""
        return [layer for layer in self.layers if isinstance(layer, nn.Conv2d)]

    def predict_noise(self, noisy: Tensor) -> Tensor:
        """The noise in `noisy`, `(B, C, H, W)`, in units of the image."""
        if self.training or torch.compiler.is_compiling() or needs_gradient(self, noisy):
            return self.layers(noisy)
        return in_tiles(self.layers, noisy, radius=sum(DILATIONS))

    def forward(self, noisy: Tensor) -> Tensor:
        """The denoised image `(B, C, H, W)`, not clamped."""
        return noisy - self.predict_noise(noisy)

    def chains(self) -> list[nn.Module]:
        return [self.layers]  # not the network: a compiled one would not be run in tiles


def read_authors_weights(path: str | Path, sigma: float) -> IRCNN:
    """The network in a weights file made from the authors' release, in evaluation mode; gray or colour as the file is.

    The authors trained 25 networks, for the levels 2, 4, ..., 50. The one for `sigma` has the number ceil(sigma / 2), from 1. The
    files are MXNet's (`IRCNN/*/model_sigma=26to28-0000.params` of WolframRhodium/Super-Resolution-Zoo) and each holds one. Its
    layers are numbered through all 25 networks, which tells for which levels it is; the name of the file is not read.

    Args:
        sigma: noise level in grey levels, more than 0 and up to 50.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not one of these, or is of another level; the message says why.
    """
    path = Path(path)
    if sigma is None or not 0 < sigma <= SIGMA_MAX:
        raise ValueError(
            f"sigma is {sigma!r}; expected grey levels, more than 0 and up to {SIGMA_MAX}: IRCNN has a network for each two levels"
        )
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; it should hold weights released by the authors of IRCNN")
    try:
        number, convolutions = _read_convolutions(path)
        weight = convolutions[0][0]
        network = IRCNN(weight.shape[1], weight.shape[0], sigma)
        for target, (weight, bias) in zip(network.convolutions, convolutions, strict=True):
            target.load_state_dict({"weight": weight, "bias": bias})
    except (OSError, IndexError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path}: not IRCNN weights in MXNet format ({reason}); fetch the file again") from error
    if number != math.ceil(sigma / 2):
        raise ValueError(
            f"{path} is the network for noise levels above {2 * number - 2} and up to {2 * number}, not for {sigma:g}; "
            "take the file of that level"
        )
    return network.eval()


def _read_convolutions(path: Path) -> tuple[int, list[tuple[Tensor, Tensor]]]:
    """Number of the network, 1 to 25, and weight `(out, in, 3, 3)` and bias `(out,)` of each convolution, first to last."""
    found: dict[int, dict[str, Tensor]] = {}
    for name, array in read_arrays(path).items():
        match = NAME.fullmatch(name)
        if match is None:
            raise ValueError(f"unexpected array {name!r}")
        found.setdefault(int(match[1]), {})[match[2]] = torch.from_numpy(array)
    first = min(found, default=0)
    complete = all(len(layer) == 2 for layer in found.values())
    if first % len(DILATIONS) or set(found) != set(range(first, first + len(DILATIONS))) or not complete:
        raise ValueError(f"layers {sorted(found)}; expected {len(DILATIONS)} with weight and bias")
    layers = [found[layer] for layer in sorted(found)]
    return first // len(DILATIONS) + 1, [(layer["weight"], layer["bias"]) for layer in layers]


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The named arrays of an MXNet file (`mx.nd.save` of version 1), in order; dense float32 of 1 to 4 dimensions.

    Nothing in the file is executed, and every length is checked against the size of the file.

    Raises:
        ValueError: anything else; the message says what, without the path.
    """
    content = _Content(path.read_bytes())
    (magic, reserved), (num_arrays,) = content.numbers("QQ"), content.numbers("Q")
    if (magic, reserved) != (LIST_MAGIC, 0):
        raise ValueError(f"the file begins with {magic:#x}; expected {LIST_MAGIC:#x}")
    arrays = []
    while len(arrays) < num_arrays:  # a false number ends at the end of the file
        magic, storage, num_dimensions = content.numbers("IiI")
        if magic != ARRAY_MAGIC:
            raise ValueError(f"array {len(arrays)} begins with {magic:#x}; expected {ARRAY_MAGIC:#x}")
        if storage != DENSE or not 0 < num_dimensions <= DIMENSIONS_MAX:
            raise ValueError(f"array {len(arrays)} has storage {storage} and {num_dimensions} dimensions")
        shape = content.numbers(f"{num_dimensions}q")
        *_, dtype = content.numbers("iii")  # after the device that it was saved from
        if dtype != FLOAT32 or min(shape) < 1:
            raise ValueError(f"array {len(arrays)} has shape {shape} and dtype {dtype}")
        arrays.append(np.frombuffer(content.take(4 * math.prod(shape)), "<f4").reshape(shape).astype(np.float32))
        if not np.isfinite(arrays[-1]).all():
            raise ValueError(f"array {len(arrays) - 1} has values that are NaN or infinite")
    (num_names,) = content.numbers("Q")
    if num_names != num_arrays:
        raise ValueError(f"{num_arrays} arrays have {num_names} names")
    names = [bytes(content.take(*content.numbers("Q"))).decode() for _ in arrays]
    if content.left:
        raise ValueError(f"{content.left} bytes are left at the end")
    if len(set(names)) < len(names):
        raise ValueError("two arrays have the same name")
    return dict(zip(names, arrays, strict=True))


class _Content:
    """The bytes of a file, taken from the front."""

    def __init__(self, content: bytes):
        self._rest = memoryview(content)

    @property
    def left(self) -> int:
        return len(self._rest)

    def take(self, num_bytes: int) -> memoryview:
        if num_bytes > self.left:
            raise ValueError(f"{num_bytes} bytes should follow where {self.left} are left")
        taken, self._rest = self._rest[:num_bytes], self._rest[num_bytes:]
        return taken

    def numbers(self, layout: str) -> tuple[int, ...]:
        layout = "<" + layout
        return struct.unpack(layout, self.take(struct.calcsize(layout)))
