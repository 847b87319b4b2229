"""TNRD (Chen and Pock, TPAMI 2017) with its authors' weights: five steps of a diffusion whose filters and functions are learned."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from scipy import fft
from torch import Tensor, nn

from invdenoise.layers.tiles import in_tiles, needs_gradient
from invdenoise.models.base import DenoisingNetwork

WHITE = 255.0  # the network computes in grey levels: its functions are made for them
NUM_CENTRES = 63
REACH = 8  # standard deviations beyond the outermost centre, where every function is 0 in float32
TABLE_STEP = 0.02  # of the table of a function, in standard deviations


class DiffusionStage(nn.Module):
    """One step u - sum_i k_i' * phi_i(k_i * u) - lambda (u - f) (TPAMI, Eq. 7), where k' is k turned by 180 degrees.

    A filter is a combination of DCT atoms without the constant one, of norm 1: it has no mean. A function phi_i is a sum of
    Gaussians. It is looked up in a table with linear interpolation, which changes a pixel by less than 1e-3 grey levels.

    Args:
        filter_size: side of the filters, in pixels.
        centres: of the Gaussians, `(63,)`, in equal distances, in grey levels.
        std: of the Gaussians, in grey levels.
    """

    def __init__(self, filter_size: int, centres: Tensor, std: float):
        super().__init__()
        num_filters = filter_size**2 - 1
        self.filter_size, self.std = filter_size, std
        self.coefficients = nn.Parameter(torch.eye(num_filters))  # (filter, atom)
        self.log_lambda = nn.Parameter(torch.zeros(()))
        self.weights = nn.Parameter(torch.zeros(num_filters, len(centres)))
        self.register_buffer("centres", centres.double(), persistent=False)
        self.register_buffer("atoms", dct_atoms(filter_size), persistent=False)

    @property
    def filters(self) -> Tensor:
        """The filters, `(num_filters, 1, filter_size, filter_size)`."""
        filters = F.normalize(self.coefficients @ self.atoms.to(self.coefficients), dim=1)
        return filters.view(-1, 1, self.filter_size, self.filter_size)

    def influence(self, x: Tensor) -> Tensor:
        """phi_i(x_i) of each channel of `(B, num_filters, H, W)`."""
        low, high = self.centres[0] - REACH * self.std, self.centres[-1] + REACH * self.std
        step = TABLE_STEP * self.std
        grid = torch.arange(low, high, step, dtype=torch.float64, device=x.device)
        gaussians = torch.exp(-(((grid[:, None] - self.centres) / self.std) ** 2) / 2).to(x)
        table = self.weights.to(x) @ gaussians.T  # (num_filters, points of the grid)
        place = ((x - low.to(x)) / step).clamp(0, len(grid) - 1.001)
        index = place.detach().floor()
        first = index.long() + len(grid) * torch.arange(len(table), device=x.device).view(-1, 1, 1)
        below, above = table.flatten()[first], table.flatten()[first + 1]
        return below + (place - index) * (above - below)

    def forward(self, u: Tensor, f: Tensor) -> Tensor:
        """The next estimate; `u` the last one and `f` the noisy image, `(B, 1, H, W)` in grey levels."""
        filters = self.filters.to(u)
        # Two convolutions without padding take 2 (filter_size - 1) pixels off each axis.
        responses = F.conv2d(_mirrored(u, self.filter_size - 1), filters)
        diffusion = F.conv2d(self.influence(responses), filters.flip(-1, -2).transpose(0, 1))
        return u - diffusion - self.log_lambda.exp() * (u - f)


class TNRD(DenoisingNetwork):
    """A chain of diffusion steps, each with filters and functions of its own; takes gray images `(B, 1, H, W)` of any size.

    The estimate starts as the noisy image, and no step clips it. Borders are mirrored in every step. In inference a large
    picture is computed tile by tile, with the same result. 26,645 parameters in its published size.

    Args:
        num_stages: steps (paper: 5).
        filter_size: side of the filters (paper: 5 or 7; the published numbers here are of 7).
        centre_max: outermost centre of the Gaussians, in grey levels (authors' weights: 310, and 387.5 for a noise level of 50).
        std: of the Gaussians, in grey levels (authors' weights: 10 and 12.5, the distance of their centres).
        sigma: noise level it is trained for, in grey levels.
    """

    display_name = "TNRD"
    inference_precision = "float32"
    adapts = False
    channels = 1

    def __init__(
        self,
        num_stages: int = 5,
        filter_size: int = 7,
        centre_max: float = 310.0,
        std: float = 10.0,
        sigma: float | None = 25.0,
    ):
        super().__init__(sigma=sigma)
        for key, value, least in (("num_stages", num_stages, 1), ("filter_size", filter_size, 2)):
            if value < least:
                raise ValueError(f"{key} is {value}; expected {least} or more")
        for key, value in (("centre_max", centre_max), ("std", std)):
            if not value > 0:
                raise ValueError(f"{key} is {value}; expected grey levels, more than 0")
        centres = torch.linspace(-centre_max, centre_max, NUM_CENTRES, dtype=torch.float64)
        self.stages = nn.ModuleList(DiffusionStage(filter_size, centres, std) for _ in range(num_stages))
        self.radius = num_stages * 2 * (filter_size - 1)

    def diffuse(self, noisy: Tensor) -> Tensor:
        """The denoised image, not clamped, computed whole."""
        f = WHITE * noisy
        u = f
        for stage in self.stages:
            u = stage(u, f)
        return u / WHITE

    def forward(self, noisy: Tensor) -> Tensor:
        """The denoised image `(B, 1, H, W)`, not clamped."""
        if self.training or needs_gradient(self, noisy):
            return self.diffuse(noisy)
        return in_tiles(self.diffuse, noisy, self.radius)


def dct_atoms(size: int) -> Tensor:
    """The atoms of the orthonormal DCT-II of `size` x `size` blocks without the constant one, `(size**2 - 1, size**2)`, in float64.

    In the order of the authors' files: the vertical frequency changes fastest. The pixels of an atom are in rows.
    """
    basis = torch.from_numpy(
        fft.dct(torch.eye(size, dtype=torch.float64).numpy(), axis=0, norm="ortho")
    )  # (frequency, place)
    atoms = torch.einsum("ay,bx->bayx", basis, basis)  # horizontal and vertical frequency, row and column
    return atoms.reshape(size**2, size**2)[1:]


def _mirrored(x: Tensor, margin: int) -> Tensor:
    """`x` with `margin` more pixels on each side: its border pixels in reverse, as often as a small image needs."""
    for dim in (-2, -1):
        size = x.shape[dim]
        place = torch.arange(-margin, size + margin, device=x.device) % (2 * size)
        x = x.index_select(dim, torch.where(place < size, place, 2 * size - 1 - place))
    return x


def read_authors_weights(path: str | Path, sigma: float) -> TNRD:
    """The network in a weights file that the authors released, in evaluation mode.

    The files (`JointTraining_7x7_400_180x180_stage=5_sigma=25.mat` of their package) are MATLAB's, version 5. A column of `cof` is a
    stage: coefficients of the filters, the logarithm of lambda, weights of the Gaussians. `MFS` has their centres and precision.

    Args:
        path: the file.
        sigma: noise level it was trained for, in grey levels. The file does not say.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not one of these; the message says why.
    """
    from scipy import io  # here, because nothing else needs it

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; it should hold weights released by the authors of TNRD")
    try:
        content = io.loadmat(path)
        functions = content["MFS"][0, 0]
        centres, precision = functions["means"].ravel().astype(float), float(functions["precision"].item())
        parameters = torch.from_numpy(content["cof"].astype("float32"))
        if len(centres) != NUM_CENTRES or not precision > 0 or not torch.isfinite(parameters).all():
            raise ValueError(
                f"{len(centres)} centres with precision {precision:g}; expected {NUM_CENTRES} and finite parameters"
            )
        num_filters = _num_filters(len(parameters))
        network = TNRD(parameters.shape[1], round((num_filters + 1) ** 0.5), float(centres[-1]), precision**-0.5, sigma)
        with torch.no_grad():
            for stage, column in zip(network.stages, parameters.unbind(1), strict=True):
                coefficients, log_lambda, weights = column.split([num_filters**2, 1, num_filters * NUM_CENTRES])
                stage.coefficients.copy_(coefficients.view(num_filters, num_filters))
                stage.log_lambda.copy_(log_lambda[0])
                stage.weights.copy_(weights.view(num_filters, NUM_CENTRES))
    except Exception as error:  # a damaged file raises errors of many kinds in SciPy
        reason = " ".join(str(error).split())
        raise ValueError(f"{path}: not TNRD weights in MATLAB 5 format ({reason}); fetch the file again") from error
    return network.eval()


def _num_filters(num_parameters: int) -> int:
    """Filters n of a stage with n**2 coefficients, lambda and 63 n weights."""
    for size in range(2, 12):
        if (n := size**2 - 1) * (n + NUM_CENTRES) + 1 == num_parameters:
            return n
    raise ValueError(f"a stage has {num_parameters:,} parameters; expected 5,329 for filters of 7x7")
