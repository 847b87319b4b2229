"""What the tests share: networks that are not the identity. The checkout's conftest.py sets folders and threads."""

from __future__ import annotations

import pytest


@pytest.fixture
def randomised():
    """A function that draws every parameter of a network, seeded, and returns the network.

    Fresh networks are the identity, on which most mistakes do not show. Kernels keep the size of what they pass on.
    """
    import torch

    @torch.no_grad()
    def randomise(network, seed: int = 0, gain: float = 1.0):
        generator = torch.Generator().manual_seed(seed)
        for parameter in network.parameters():
            if parameter.ndim == 1:  # thresholds, of either sign
                parameter.copy_(0.02 * torch.randn(parameter.shape, generator=generator))
            else:
                scale = gain / parameter[0].numel() ** 0.5
                parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
        return network

    return randomise
