"""Train the mixture of EPLL, whose authors' own could not be had, and write it with its card to results/weights.

python notebooks/linn/train_mixture.py

For maintainers: about 20 minutes on one core, 2 GB of memory.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch

from invdenoise import device, provenance
from invdenoise.data.pictures import load_pictures
from invdenoise.models.epll import EPLL, FLOOR, fit, log_likelihood, training_patches
from invdenoise.weights import save_weights, weights_path


def main(arguments: list[str] | None = None) -> int:
    """Train the mixture; 0 when it is written."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--set", default="bsd400", help="pictures to take patches from; every tenth is held out")
    parser.add_argument("--patches", type=int, default=500_000)
    parser.add_argument("--components", type=int, default=200, help="Gaussians (paper: 200)")
    parser.add_argument("--iterations", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="weights file; results/weights/epll-mixture.safetensors if left out")
    options = parser.parse_args(arguments)
    started, generator = time.perf_counter(), torch.Generator().manual_seed(options.seed)
    pictures = load_pictures(options.set)
    images = [picture.tensor()[0, 0] for picture in pictures]
    trained_on = [image for number, image in enumerate(images) if number % 10 or len(images) < 10]
    patches = training_patches(trained_on, options.patches, generator)
    report = lambda line: print(line, flush=True)  # noqa: E731
    mixture, history = fit(patches, options.components, options.iterations, generator, report)
    held_out = log_likelihood(mixture, training_patches(images[::10], 20_000, generator))
    card = {
        "experiment": EPLL.weights, "budget": "laptop", "sigma": None, "model": "Mixture",
        "options": {"num_components": options.components}, "num_parameters": sum(b.numel() for b in mixture.buffers()),
        "about": "Trained here: the mixture of EPLL's authors could not be had.",
        "recipe": {"iterations": options.iterations, "floor": FLOOR, "seed": options.seed}, "started_from": None,
        "steps": options.iterations, "patches": options.patches, "seconds": round(time.perf_counter() - started, 1),
        "log_likelihood": history[-1], "log_likelihood_held_out": held_out, "log_likelihood_by_iteration": history,
        "data": pictures.name, "data_sha256": pictures.sha256, "hardware": device.hardware(), "torch": torch.__version__,
        "commit": provenance.commit(),
    }  # fmt: skip
    path = options.out or weights_path(EPLL.weights)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_weights(mixture, path, card)
    print(f"log-likelihood of a patch {history[-1]:.3f}, of pictures held out {held_out:.3f}; wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
