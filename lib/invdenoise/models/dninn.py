"""DnINN: the image denoising invertible neural network (Huang and Dragotti, EUSIPCO 2021)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from invdenoise.layers.lifting import LINN
from invdenoise.layers.shrinkage import LISTA, SoftThreshold
from invdenoise.layers.transforms import UndecimatedHaar
from invdenoise.models.base import DenoisingNetwork

SHRINKAGES = ("soft", "lista")


class DnINN(DenoisingNetwork):
    """Split, lift, shrink the detail, lift back, merge (LINN, Figure 1).

    Only the shrinkage is not invertible. Its thresholds carry the noise level and may be changed after training
    (Section III-D). With zero thresholds the network returns its input.

    Takes gray images `(B, 1, H, W)` of any size.

    Args:
        shrinkage: "soft" for one soft-threshold per detail channel (DnINN-ST, Eq. 7), "lista" for LISTA (Eq. 10).
        num_scales: number of decompositions; each further one splits the coarse channel (paper: 1 and 2). Scale j uses
            Haar taps 2**j apart, as the undecimated wavelet transform does.
        num_pairs, num_layers, num_features, kernel_size: I, K, M, f of the LINN (paper: 4, 8, 16, 3).
        num_lista_layers: T (paper: 3).
        sigma: noise level N it is trained for, in grey levels; also sets the initial thresholds.
        constant_memory: recompute activations in the backward pass instead of storing them. The shrinkage is not
            invertible and stores its own, so there are two reversible chains, before and after it.
        initial_threshold: of the first scale, in units of sigma.
        identity_start: lifting starts as the identity, so training starts from plain wavelet shrinkage.
        learn_thresholds: False fixes the thresholds at `initial_threshold`, and the lifting adapts to them.
    """

    display_name = "DnINN"
    channels = 1

    def __init__(
        self,
        shrinkage: str = "soft",
        num_scales: int = 1,
        num_pairs: int = 4,
        num_layers: int = 8,
        num_features: int = 16,
        kernel_size: int = 3,
        num_lista_layers: int = 3,
        sigma: float = 25.0,
        constant_memory: bool = False,
        initial_threshold: float = 1.0,
        identity_start: bool = True,
        learn_thresholds: bool = True,
    ):
        super().__init__(sigma=sigma)
        if shrinkage not in SHRINKAGES:
            raise ValueError(f"shrinkage is {shrinkage!r}; expected one of {', '.join(SHRINKAGES)}")
        if num_scales < 1:
            raise ValueError(f"num_scales is {num_scales}; expected 1 or more")

        def shrink(initial: float) -> nn.Module:
            if shrinkage == "soft":
                return SoftThreshold(3, initial)
            return LISTA(3, num_lista_layers, kernel_size, initial)

        self.splits = nn.ModuleList(UndecimatedHaar(dilation=2**j) for j in range(num_scales))
        self.linns = nn.ModuleList(
            LINN(
                num_pairs,
                num_layers,
                num_features,
                kernel_size,
                constant_memory=constant_memory,
                identity_start=identity_start,
            )
            for _ in range(num_scales)
        )
        # Orthonormal Haar keeps white noise at sigma in each subband, so sigma is a good first threshold. Further
        # scales start with small thresholds and change little at first.
        self.shrinkers = nn.ModuleList(shrink(initial_threshold * sigma / 255 / 16**j) for j in range(num_scales))
        self.learn_thresholds = learn_thresholds
        for module in self.shrinkers.modules():
            if isinstance(module, SoftThreshold):
                module.weight.requires_grad_(learn_thresholds)

    def forward(self, noisy: Tensor, threshold_scale: float = 1.0) -> Tensor:
        """The denoised image `(B, 1, H, W)`, not clamped, with every shrinkage threshold times `threshold_scale`."""
        return self._denoise_scale(noisy, 0, threshold_scale)

    def _denoise_scale(self, image: Tensor, scale: int, threshold_scale: float) -> Tensor:
        coarse, detail = self.decompose(image, scale)
        if scale + 1 < len(self.splits):
            coarse = self._denoise_scale(coarse, scale + 1, threshold_scale)
        detail = self.shrinkers[scale](detail, threshold_scale)
        return self.reconstruct(coarse, detail, scale)

    def decompose(self, image: Tensor, scale: int = 0) -> tuple[Tensor, Tensor]:
        """Coarse `(B, 1, H, W)` and detail `(B, 3, H, W)` channels of one scale: z_c and z_d after I lifting pairs."""
        return self.linns[scale](*self.splits[scale](image))

    def reconstruct(self, coarse: Tensor, detail: Tensor, scale: int = 0) -> Tensor:
        """The image with these channels; `reconstruct(*decompose(x)) == x` to rounding."""
        return self.splits[scale].inverse(*self.linns[scale].inverse(coarse, detail))

    def chains(self) -> list[nn.Module]:
        return [net for linn in self.linns for pair in linn for net in (pair.predict, pair.update)]

    @torch.no_grad()
    def _take_over(self, other: DnINN) -> None:
        """Start from a trained network with another noise level, another shrinkage, or fewer scales.

        The lifting networks are copied. Thresholds are copied in proportion to the noise level, where both networks
        have the same shrinkage. LISTA starts from 0.7 times the trained soft-threshold; at 1.0 nearly all coefficients
        are zero and no gradient flows. Scales that `other` lacks stay as they are, and so do thresholds that are not
        learned.
        """
        for own, trained in zip(self.linns, other.linns, strict=False):
            own.load_state_dict(trained.state_dict())
        ratio = self.sigma / other.sigma
        for own, trained in zip(self.shrinkers, other.shrinkers, strict=False):
            if isinstance(own, LISTA) and isinstance(trained, SoftThreshold):
                if self.learn_thresholds:
                    own.shrink[0].weight.copy_(0.7 * ratio * trained.threshold)
                continue
            fixed = {} if self.learn_thresholds else {k: v.clone() for k, v in own.state_dict().items() if v.ndim == 1}
            own.load_state_dict({**trained.state_dict(), **fixed})
            for module in own.modules():
                if isinstance(module, SoftThreshold) and self.learn_thresholds:
                    module.weight.mul_(ratio)

    def estimate(self, noisy: Tensor, sigma: float | None, adapt: bool = True, exponent: float = 2.0) -> Tensor:
        """See `denoise`. Thresholds are scaled by (sigma / N)**exponent; N is the level of training (Section III-D).

        Args:
            sigma: noise level of the image; None means the level of training.
            adapt: False keeps the learned thresholds, whatever `sigma` is.
            exponent: of the adaptation (paper: 2).
        """
        if not 0 <= exponent <= 10:
            raise ValueError(f"exponent is {exponent}; expected 0 (no adaptation) to 10, the paper's is 2")
        scale = 1.0 if sigma is None or not adapt else (sigma / self.sigma) ** exponent
        return self.infer(noisy, scale)
