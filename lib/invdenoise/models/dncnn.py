"""DnCNN (Zhang, Zuo, Chen, Meng and Zhang, TIP 2017) with the authors' weights, and BF-CNN, its form without bias."""

from __future__ import annotations

import argparse
import pickle
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from invdenoise.layers.tiles import in_tiles, needs_gradient
from invdenoise.models.base import DenoisingNetwork


class Chain(nn.Sequential):
    """Layers in order. `torch.compile` leaves out classes of PyTorch's own, so `nn.Sequential` would not be compiled."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


class DnCNN(DenoisingNetwork):
    """Convolutions that predict the noise, which is subtracted from the input (Section III, Figure 1).

    A convolution and ReLU; depth - 2 times a convolution, batch normalisation and ReLU; a convolution. Kernels are 3x3
    with zero padding. Takes images `(B, num_channels, H, W)` of any size. In inference a large picture is computed tile by
    tile, with the same result.

    `training_loss` is the mean squared error per pixel. The published loss (Eq. 1) is half the squared error summed
    over each patch, which differs by a constant factor.

    Args:
        depth: convolutions (paper: 17 for one noise level, 20 for the blind network).
        num_features: channels in between (paper: 64).
        sigma: noise level it is trained for, in grey levels; None for a blind network, or for real noise.
        batch_norm: True as published, where convolutions have no bias. False for convolutions with bias and no
            normalisation: the form of the authors' weights and of `fold_batch_norm`.
        num_channels: 1 for gray, 3 for colour.
    """

    display_name = "DnCNN"
    inference_precision = "float32"  # bfloat16 costs 0.006 dB at one noise level, up to 0.1 dB in the blind network
    adapts = False
    normalisation: type[nn.Module] = nn.BatchNorm2d

    def __init__(
        self,
        depth: int = 17,
        num_features: int = 64,
        sigma: float | None = None,
        batch_norm: bool = True,
        num_channels: int = 1,
    ):
        super().__init__(sigma=sigma)
        if depth < 2:
            raise ValueError(f"depth is {depth}; expected 2 or more: a first and a last convolution")
        if num_channels < 1:
            raise ValueError(f"num_channels is {num_channels}; expected 1 for gray or 3 for colour")
        self.depth, self.num_features, self.channels = depth, num_features, num_channels
        channels = [num_channels, *[num_features] * (depth - 1), num_channels]
        layers: list[nn.Module] = []
        for i, (num_in, num_out) in enumerate(pairwise(channels)):
            conv = nn.Conv2d(num_in, num_out, 3, padding=1, bias=not batch_norm)
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)
            layers.append(conv)
            if batch_norm and 0 < i < depth - 1:
                layers.append(self.normalisation(num_out))
            if i < depth - 1:
                layers.append(nn.ReLU(inplace=True))
        with torch.no_grad():
            conv.weight.mul_(0.01)  # the last convolution: training starts close to the identity
        self.layers = Chain(*layers)

    @property
    def convolutions(self) -> list[nn.Conv2d]:
        """The convolutions, first to last."""
        return [layer for layer in self.layers if isinstance(layer, nn.Conv2d)]

    def predict_noise(self, noisy: Tensor) -> Tensor:
        """The noise in `noisy`, `(B, C, H, W)`, in units of the image."""
        # Training needs all activations at once, and batch normalisation the mean over whole pictures.
        if self.training or torch.compiler.is_compiling() or needs_gradient(self, noisy):
            return self.layers(noisy)
        return in_tiles(self.layers, noisy, radius=self.depth)  # each 3x3 convolution looks one pixel further

    def forward(self, noisy: Tensor) -> Tensor:
        """The denoised image `(B, C, H, W)`, not clamped."""
        return noisy - self.predict_noise(noisy)

    def chains(self) -> list[nn.Module]:
        return [self.layers]  # not the network: a compiled one would not be run in tiles

    def estimate(self, noisy: Tensor, sigma: float | None) -> Tensor:
        """See `denoise`. Normalises with the running statistics, even during training.

        With the statistics of the batch, one image would change the result of another, and `denoise` would change the
        network.
        """
        training = self.training
        try:
            return self.eval().infer(noisy)
        finally:
            self.train(training)


class BiasFreeBatchNorm(nn.BatchNorm2d):
    """Batch normalisation that only scales: it divides by the standard deviation and multiplies by a learned gain.

    It neither subtracts a mean nor adds a bias. In evaluation it uses the running variance and is linear.
    """

    def __init__(self, num_features: int):
        super().__init__(num_features)
        self.register_parameter("bias", None)

    def forward(self, x: Tensor) -> Tensor:
        variance = self.running_var
        if self.training:
            variance = x.float().var((0, 2, 3)).to(variance)  # in float32: bfloat16 has too few digits
            with torch.no_grad():
                self.running_var.lerp_(variance, self.momentum)
        gain = self.weight * (variance + self.eps).rsqrt()
        return x * gain.view(-1, 1, 1).to(x.dtype)


class BFCNN(DnCNN):
    """BF-CNN: the blind DnCNN without any additive constant.

    In evaluation `forward(a * noisy) == a * forward(noisy)` for a > 0. It therefore also denoises at noise levels that
    it was not trained on (Mohan, Kadkhodaie, Simoncelli and Fernandez-Granda, ICLR 2020).

    Args:
        depth, num_features, num_channels: as in the blind DnCNN (paper: 20, 64, 1).
        sigma: None; the network is blind.
    """

    display_name = "BF-CNN"
    normalisation = BiasFreeBatchNorm

    def __init__(self, depth: int = 20, num_features: int = 64, sigma: float | None = None, num_channels: int = 1):
        super().__init__(depth, num_features, sigma, num_channels=num_channels)


def fold_batch_norm(model: DnCNN) -> DnCNN:
    """The same denoiser with every batch normalisation merged into the convolution before it, for faster inference.

    A new network in evaluation mode, on the device and in the dtype of `model`. It equals `model` in evaluation mode to
    rounding.
    """
    folded = DnCNN(model.depth, model.num_features, model.sigma, batch_norm=False, num_channels=model.channels)
    folded.to(next(model.parameters()))
    folded.name = model.name
    followed = [(conv, norm) for conv, norm in pairwise([*model.layers, None]) if isinstance(conv, nn.Conv2d)]
    with torch.no_grad():
        for target, (conv, norm) in zip(folded.convolutions, followed, strict=True):
            weight, bias = conv.weight, conv.bias
            if isinstance(norm, nn.BatchNorm2d):
                statistics = (norm.running_mean, norm.running_var, norm.eps)
                weight, bias = fuse_conv_bn_weights(weight, bias, *statistics, norm.weight, norm.bias)
            target.weight.copy_(weight)
            if bias is not None:  # else it stays 0
                target.bias.copy_(bias)
    return folded.eval()


def read_authors_weights(path: str | Path, sigma: float | None) -> DnCNN:
    """The network in a weights file that the authors released, in evaluation mode. Depth and channels are those of the file.

    The files (`model/specifics/sigma=25.mat` and `color_sigma=25.mat` of cszn/DnCNN) are MATLAB 7.3, that is HDF5, in MatConvNet's layout. Batch
    normalisation is already merged into the convolutions, which have a bias.

    Args:
        path: the file.
        sigma: noise level it was trained for, in grey levels; None for the blind network. The file does not say.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not one of these; the message says why.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; it should hold weights released by the authors of DnCNN")
    try:
        convolutions = read_convolutions(path)
        first = convolutions[0][0]
        model = DnCNN(len(convolutions), first.shape[0], sigma, batch_norm=False, num_channels=first.shape[1])
        for target, (weight, bias) in zip(model.convolutions, convolutions, strict=True):
            target.load_state_dict({"weight": weight, "bias": bias})
    except (OSError, KeyError, IndexError, TypeError, AttributeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path}: not DnCNN weights in MATLAB 7.3 format ({reason}); fetch the file again") from error
    return model.eval()


def read_convolutions(path: Path) -> list[tuple[Tensor, Tensor]]:
    """Weight `(out, in, 3, 3)` and bias `(out,)` of each convolution in the file, first to last."""
    import h5py  # here, because nothing else needs it

    with h5py.File(path) as file:
        layers = [file[reference] for reference in file["net/layers"][()].ravel()]
        # Layers without weights have none, or an empty cell, which MATLAB stores as numbers instead of references.
        cells = [layer["weights"] for layer in layers if "weights" in layer]
        weights = [cell[()].ravel() for cell in cells if cell.dtype == h5py.ref_dtype]
        arrays = [(file[kernel][()], file[bias][()]) for kernel, bias in weights]
    convolutions = []
    for kernel, bias in arrays:
        # HDF5 gives MATLAB's (height, width, in, out) in reverse order, and MATLAB drops a last axis of size 1.
        if kernel.ndim == 3:
            kernel = kernel[None]
        weight = torch.from_numpy(kernel).transpose(-1, -2)
        convolutions.append((weight, torch.from_numpy(bias).flatten()))
    return convolutions


def read_authors_bias_free(path: str | Path) -> DnCNN:
    """BF-CNN with the weights that its authors released, in evaluation mode: blind, for noise levels from 0 to 55.

    The file (`pretrained/dncnn/bias_free/0-55.pt` of LabForComputationalVision/bias_free_denoising) is a pickled training state.
    PyTorch's loader reads it without running code; the one class in it beyond tensors, the record of command-line arguments, is
    let through. Its normalisation divides by the standard deviation plus 1e-5, and is merged into the convolutions here; every
    bias is zero.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not one of these; the message says why.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; it should hold weights released by the authors of BF-CNN")
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            (state,) = torch.load(path, map_location="cpu", weights_only=True)["model"]
        middle = [state[f"hidden_layer_list.{i}.weight"] * _gain(state, i) for i in range(_num_normalised(state))]
        weights = [state["first_layer.weight"], *middle, state["last_layer.weight"]]
        model = DnCNN(len(weights), weights[0].shape[0], batch_norm=False, num_channels=weights[0].shape[1])
        for target, weight in zip(model.convolutions, weights, strict=True):
            if not torch.isfinite(weight).all():
                raise ValueError("weights that are NaN or infinite")
            target.load_state_dict({"weight": weight, "bias": torch.zeros(len(weight))})
    except (
        OSError,
        EOFError,
        KeyError,
        TypeError,
        AttributeError,
        ValueError,
        RuntimeError,
        pickle.UnpicklingError,
    ) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path}: not BF-CNN weights in PyTorch format ({reason}); fetch the file again") from error
    model.display_name = BFCNN.display_name
    return model.eval()


def _num_normalised(state: dict[str, Tensor]) -> int:
    """Convolutions of BF-CNN that are followed by a normalisation: all but the first and the last."""
    return sum(name.endswith(".running_var") for name in state)


def _gain(state: dict[str, Tensor], number: int) -> Tensor:
    """What normalisation multiplies the output channels of a convolution by, `(out, 1, 1, 1)`."""
    gain = state[f"bn_layer_list.{number}.weight"] / (state[f"bn_layer_list.{number}.running_var"].sqrt() + 1e-5)
    return gain.view(-1, 1, 1, 1)
