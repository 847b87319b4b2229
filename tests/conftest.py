"""What the tests share: results in a temporary folder, sums of one thread, networks that are not the identity."""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before PyTorch is imported; processes that tests start inherit it

import pytest


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: takes several seconds; leave out with -m 'not slow'")


@pytest.fixture(scope="session", autouse=True)
def results(tmp_path_factory):
    """Nothing a test runs may touch the results of the checkout."""
    folder = tmp_path_factory.mktemp("results")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INVDENOISE_RESULTS", str(folder))
        yield folder


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
