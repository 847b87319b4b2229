"""DnINN: the image denoising invertible neural network (Huang and Dragotti, EUSIPCO 2021)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from invdenoise.lifting import LINN
from invdenoise.models.base import DenoisingNetwork
from invdenoise.shrinkage import LISTA, SoftThreshold
from invdenoise.transforms import UndecimatedHaar

SHRINKAGES = ("soft", "lista")


class DnINN(DenoisingNetwork):
    """Split, lift, shrink the detail, lift back, merge (LINN, Figure 1).

    The only step that is not invertible is the shrinkage, so its thresholds carry the noise level and may be changed
    after training (Section III-D). With zero thresholds the network returns its input.

    Takes gray images `(B, 1, H, W)` of any size.

    Args:
        shrinkage: "soft" for one soft-threshold per detail channel (DnINN-ST, Eq. 7), "lista" for LISTA (Eq. 10).
        num_scales: how often the decomposition is iterated on the coarse channel (paper: 1 and 2). Scale j uses
            Haar taps 2**j apart, as the undecimated wavelet transform does.
        num_pairs, num_layers, num_features, kernel_size: I, K, M, f of the LINN (paper: 4, 8, 16, 3).
        num_lista_layers: T (paper: 3).
        sigma: noise level N it is trained for, in grey levels; also sets the thresholds at the start.
        constant_memory: recompute activations in the backward pass instead of storing them. The chains before and after the
            shrinkage are two reversible chains with ordinary storage between them.
        initial_threshold: of the first scale at the start, in units of sigma.
        identity_start: lifting starts as the identity, so that training starts from plain wavelet shrinkage.
        learn_thresholds: False fixes the thresholds of the shrinkage at `initial_threshold`, which the lifting then has to suit.
    """

    display_name = "DnINN"

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
        # Orthonormal Haar keeps white noise at sigma in each subband: a good first threshold. The second scale meets
        # what the first has left over, and starts out doing little.
        self.shrinkers = nn.ModuleList(shrink(initial_threshold * sigma / 255 / 16**j) for j in range(num_scales))
        self.learn_thresholds = learn_thresholds
        for module in self.shrinkers.modules():
            if isinstance(module, SoftThreshold):
                module.weight.requires_grad_(learn_thresholds)

    def forward(self, noisy: Tensor, threshold_scale: float = 1.0) -> Tensor:
        """The denoised image `(B, 1, H, W)`, not clamped, with every threshold of the shrinkage times `threshold_scale`."""
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

    def has_kernel(self, device: torch.device, precision: str) -> bool:
        return all(net.has_kernel(device, precision) for net in self.chains())

    def chains(self) -> list[nn.Module]:
        return [net for linn in self.linns for pair in linn for net in (pair.predict, pair.update)]

    @torch.no_grad()
    def _take_over(self, other: DnINN) -> None:
        """The start from a trained sibling: another noise level, a soft-threshold for LISTA, or fewer scales.

        The lifting networks are taken over, and so are thresholds between networks of one kind, in proportion to the noise
        level. LISTA begins as the soft-threshold that it follows, lowered to 0.7: those of a trained network may be so high that
        hardly a coefficient is left, and LISTA would get no gradient. Scales that `other` lacks stay as they are, and so do
        thresholds that are not learned.
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
        """See `denoise`. Thresholds are scaled by (sigma / N)**exponent, N the training level (Section III-D: 2).

        Args:
            sigma: noise level of the image; None takes it to be the training level.
            adapt: False keeps the learned thresholds whatever `sigma` is.
            exponent: of the adaptation.
        """
        if not 0 <= exponent <= 10:
            raise ValueError(f"exponent is {exponent}; expected 0 (no adaptation) to 10, the paper's is 2")
        scale = 1.0 if sigma is None or not adapt else (sigma / self.sigma) ** exponent
        return self.infer(noisy, scale)
