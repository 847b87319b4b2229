"""`make bench`: speed and memory as ratios measured in one run, against the targets the project sets itself.

Times of different machines, or of one machine at different hours, do not compare: contenders take turns, round by round, and the
median of each round's ratio is what is reported.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from invdenoise import datasets, paths
from invdenoise.denoiser import Denoiser, load_denoiser
from invdenoise.files import atomic
from invdenoise.metrics import psnr
from invdenoise.models import DenoisingNetwork, DnCNN, DnINN, WINNet
from invdenoise.models.winnet import PUNet
from invdenoise.noise import awgn, noise_generator
from invdenoise.provenance import can_compile, commit, hardware
from invdenoise.shrinkage import NoiseAdaptiveThreshold
from invdenoise.weights import load_network

COLUMNS = ("quantity", "subject", "setting", "value", "unit", "reference", "ratio", "target", "met")
MEMORY_PAIRS = (4, 8, 16)
PATCH, BATCH = 40, 32  # LINN, Section III-A
WINNET_BATCH = 16  # of recipe `winnet` in experiments.yaml
PICTURE = (321, 481)  # pixels, as BSD68's


def take_turns(contenders: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each contender in each round; every one is run twice beforehand, to compile and to warm up."""
    for run in contenders.values():
        run()
        run()
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, run in contenders.items():
            started = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started)
    return seconds


def ratio(seconds: dict[str, list[float]], slow: str, fast: str) -> float:
    """Median over rounds of slow / fast."""
    return statistics.median(a / b for a, b in zip(seconds[slow], seconds[fast], strict=True))


def training_step(rounds: int = 5) -> list[dict]:
    """Time of a training step: ours, our own eager float32 form, and eager DnCNN of the paper's size."""
    torch.manual_seed(0)
    clean = torch.rand(BATCH, 1, PATCH, PATCH)
    noisy = clean + 0.1 * torch.randn_like(clean)

    def step(network, fast: bool):
        precision = network.resolve_precision("fastest" if fast else "float32")
        own = fast and network.has_kernel(clean.device, precision)
        network.use_kernel(own)
        if fast:
            network.to(memory_format=torch.channels_last)
        compiled = fast and can_compile() and not own
        loss = torch.compile(network.training_loss) if compiled else network.training_loss

        def run():
            network.zero_grad(set_to_none=True)
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
                value, _ = loss(clean, noisy, 25.0)
            value.backward()

        return run

    fastest = DnINN()
    ours = f"DnINN, {_fastest_setting(fastest)}"
    contenders = {
        ours: step(_woken(fastest), fast=True),
        "DnINN, eager float32": step(_woken(DnINN()), fast=False),
        "DnCNN, eager float32": step(DnCNN(), fast=False),
    }
    seconds = take_turns(contenders, rounds)
    rows = []
    for name, values in seconds.items():
        subject, setting = name.split(", ")
        row = _row("training step", subject, setting, BATCH / statistics.median(values), "patches/s")
        if name != ours:
            row |= {"reference": ours, "ratio": ratio(seconds, name, ours)}
        rows.append(row)
    rows[1] |= {"target": "at least 1.8", "met": rows[1]["ratio"] >= 1.8}
    return rows


def inference(rounds: int = 3) -> list[dict]:
    """Time per megapixel of each denoiser in its fastest setting on the same pictures, and what that setting costs in PSNR."""
    sigma = 25.0
    pictures = [picture.tensor() for picture in datasets.load_pictures("bsd68", limit=2)]
    noisy = [awgn(clean, sigma, noise_generator(0, "bench", str(index), sigma)) for index, clean in enumerate(pictures)]
    megapixels = sum(clean[0, 0].numel() for clean in pictures) / 1e6
    denoisers = _contenders()
    exact = {name: _mean_psnr(denoiser, pictures, noisy, sigma) for name, denoiser in denoisers.items()}
    for denoiser in denoisers.values():
        if hasattr(denoiser, "speed_up"):
            denoiser.speed_up()

    def over(denoiser: Denoiser):
        return lambda: [denoiser.denoise(image, sigma) for image in noisy]

    seconds = take_turns({name: over(denoiser) for name, denoiser in denoisers.items()}, rounds)
    rows = []
    for name, denoiser in denoisers.items():
        setting = _fastest_setting(denoiser) if hasattr(denoiser, "speed_up") else "as it is"
        row = _row("inference", name, setting, statistics.median(seconds[name]) / megapixels, "s/megapixel")
        row |= {"reference": "DnCNN", "ratio": ratio(seconds, name, "DnCNN")}
        if name == "DnINN":
            row |= {"target": "at most 0.7", "met": row["ratio"] <= 0.7}
        rows.append(row)
        change = _mean_psnr(denoiser, pictures, noisy, sigma) - exact[name]
        if hasattr(denoiser, "speed_up"):
            cost = _row("PSNR change of the fast setting", name, setting, change, "dB")
            rows.append(cost | {"target": "within 0.005", "met": abs(change) <= 0.005})
    return rows


def winnet(rounds: int = 3) -> list[dict]:
    """Time of WINNet's training step and of its inference in the fastest setting, each against our eager form and the plain one."""
    torch.manual_seed(0)
    clean = torch.rand(WINNET_BATCH, 1, PATCH, PATCH)
    noisy = clean + 0.1 * torch.randn_like(clean)
    picture, sigma = torch.rand(1, 1, *PICTURE), torch.tensor(25.0)

    def step(network: WINNet, fast: bool):
        precision = network.resolve_precision("fastest" if fast else "float32")
        own = fast and network.has_kernel(clean.device, precision)
        network.use_kernel(own)
        loss = network.compiled_loss() if fast and can_compile() and not own else network.training_loss

        def run():
            network.zero_grad(set_to_none=True)
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
                value, _ = loss(clean, noisy, sigma)
            value.backward()

        return run

    def picture_in(network: WINNet):
        return lambda: network.denoise(picture, 25.0)

    ours, eager, plain = _fastest_setting(WINNet()), "eager float32", "plain float32"
    training = {name: step(_woken_winnet(), name == ours) for name in (ours, eager)}
    pictures = {ours: picture_in(_woken_winnet().speed_up()), eager: picture_in(_woken_winnet())}
    training[plain] = step(_plain(_woken_winnet()), False)
    pictures[plain] = picture_in(_plain(_woken_winnet()))
    rows = []
    for quantity, contenders, target in (("training step", training, 5), ("inference", pictures, 10)):
        seconds = take_turns(contenders, rounds)
        for name, values in seconds.items():
            median = statistics.median(values)
            if quantity == "training step":
                row = _row(quantity, "WINNet", name, WINNET_BATCH / median, "patches/s")
            else:
                row = _row(quantity, "WINNet", name, median / picture.numel() * 1e6, "s/megapixel")
            if name != ours:
                row |= {"reference": f"WINNet, {ours}", "ratio": ratio(seconds, name, ours)}
            rows.append(row)
        rows[-1] |= {"target": f"at least {target}", "met": rows[-1]["ratio"] >= target}
    return rows


def training_memory() -> list[dict]:
    """Peak memory of a training step against the number of lifting pairs, stored activations and recomputed."""
    rows = []
    for setting in ("ordinary", "constant-memory"):
        peaks = {pairs: _peak_memory(pairs, setting == "constant-memory") for pairs in MEMORY_PAIRS}
        for pairs, peak in peaks.items():
            row = _row("training memory", f"{pairs} pairs", setting, peak, "MiB")
            rows.append(row | {"reference": f"{MEMORY_PAIRS[0]} pairs", "ratio": peak / peaks[MEMORY_PAIRS[0]]})
        if setting == "constant-memory":
            rows[-1] |= {"target": "below 1.1", "met": rows[-1]["ratio"] < 1.1}
    return rows


def _peak_memory(pairs: int, constant: bool) -> float:
    """MiB that one training step adds at its peak, measured in a process of its own."""
    command = [sys.executable, "-m", "invdenoise.bench", "--one-step", str(pairs), str(int(constant))]
    # Small thresholds give freed memory back to the system at once, so that the peak is that of live memory.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(
            f"memory of {pairs} pairs could not be measured: {(done.stderr.split(chr(10)) or [''])[-2:]}"
        )
    return float(done.stdout.split()[-1])


def _one_step(pairs: int, constant: bool) -> None:
    network = _woken(DnINN(num_pairs=pairs, constant_memory=constant))
    clean = torch.rand(2, 1, 128, 128)

    def step():
        network.training_loss(clean, clean + 0.1, 25.0)[0].backward()

    step()  # libraries allocate their own buffers, and gradients come to stay
    Path("/proc/self/clear_refs").write_text("5")  # start the record of the peak anew
    before = _status("VmRSS")
    step()
    print((_status("VmHWM") - before) / 1024)


def _status(key: str) -> int:
    return int(re.search(rf"^{key}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)[1])


def _fastest_setting(network: DenoisingNetwork) -> str:
    """What `speed_up` makes of a network here, in words."""
    precision = network.fastest_precision()
    if network.has_kernel(torch.device("cpu"), precision):
        return f"{precision} in own kernel"
    return f"compiled {precision}" if can_compile() else precision


def _woken(network: DnINN) -> DnINN:
    """A fresh network whose last kernels are not zero, so that nothing is fast for being empty."""
    for linn in network.linns:
        for pair in linn:
            torch.nn.init.normal_(pair.predict[-1].weight, std=0.01)
            torch.nn.init.normal_(pair.update[-1].weight, std=0.01)
    return network


def plain_winnet(network: WINNet, noisy: Tensor, sigma: Tensor) -> Tensor:
    """`network(noisy, sigma)`, one level, the way its equations read: the form that targets of speed refer to.

    Whole pictures in PyTorch's own layout, thresholds expanded to a number a coefficient, and soft-thresholds as two ReLUs. Our eager
    form, which is what runs without a compiler, has done without these already.

    Args:
        noisy: `(B, 1, H, W)`.
        sigma: noise level in grey levels, `(B, 1, 1, 1)` or a number's worth.
    """

    def shrink(layer: NoiseAdaptiveThreshold, x: Tensor) -> Tensor:
        threshold = layer.threshold(sigma).expand_as(x).contiguous()
        return F.relu(x - threshold) - F.relu(-x - threshold)

    def through(net: PUNet, x: Tensor) -> Tensor:
        first, *blocks = net.layers
        x = shrink(first.shrink, first.conv(x))
        for block in blocks:
            x = shrink(block.shrink2, x + block.conv2(shrink(block.shrink1, block.conv1(x))))
        return net.last(x)

    (linn,), (sparse,) = network.linns, network.shrinkers
    coarse, detail = network.split(noisy)
    for pair in linn:
        detail = detail - through(pair.predict, coarse)
        coarse = coarse + through(pair.update, detail)
    g = sparse.analyse(detail)
    for layer in sparse.shrink:
        g = shrink(layer, g + sparse.analyse(detail - sparse.synthesise(g)))
    detail = sparse.synthesise(g)
    for pair in reversed(list(linn)):
        coarse = coarse - through(pair.update, detail)
        detail = detail + through(pair.predict, coarse)
    return network.split.inverse(coarse, detail)


def _plain(network: WINNet) -> WINNet:
    """`network` whose forward pass is `plain_winnet`."""

    def forward(noisy: Tensor, sigma: Tensor | float | None = None) -> Tensor:
        return plain_winnet(network, noisy.contiguous(), torch.as_tensor(sigma).reshape(-1, 1, 1, 1))

    network.forward = forward
    return network


def _woken_winnet() -> WINNet:
    """The same for WINNet, in evaluation mode."""
    network = WINNet().eval()
    for pair in network.linns[0]:
        torch.nn.init.normal_(pair.predict.last.weight, std=0.01)
        torch.nn.init.normal_(pair.update.last.weight, std=0.01)
    return network


def _contenders() -> dict[str, Denoiser]:
    """The denoisers at noise level 25, with released weights where they are there (time does not depend on them)."""
    found: dict[str, Denoiser] = {}
    for label, name, fresh in (
        ("DnCNN", "dncnn-authors-s25", lambda: DnCNN(batch_norm=False)),
        ("DnINN", "dninn-st-s25", lambda: _woken(DnINN())),
        ("DnINN, 2 scales", "dninn-st-2scale-s25", lambda: _woken(DnINN(num_scales=2))),
    ):
        try:
            found[label] = load_network(name)
        except (FileNotFoundError, datasets.DataUnavailable):
            found[label] = fresh().eval().to(memory_format=torch.channels_last)
    try:
        found["BM3D"] = load_denoiser("bm3d", num_threads=0)
        found["BM3D"].denoise(torch.rand(1, 1, 16, 16), 25.0)
    except ImportError:
        found.pop("BM3D", None)
    return found


def _mean_psnr(denoiser: Denoiser, pictures, noisy, sigma: float) -> float:
    return statistics.mean(psnr(c, denoiser.denoise(n, sigma)) for c, n in zip(pictures, noisy, strict=True))


def _row(quantity: str, subject: str, setting: str, value: float, unit: str) -> dict:
    return {"quantity": quantity, "subject": subject, "setting": setting, "value": value, "unit": unit}


def main(arguments: list[str] | None = None) -> int:
    """Measure and write `results/bench.csv`; 0 when every target is met."""
    parser = argparse.ArgumentParser(prog="python -m invdenoise.bench", description=main.__doc__)
    parser.add_argument("--one-step", nargs=2, type=int, metavar=("PAIRS", "CONSTANT"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.one_step:
        _one_step(options.one_step[0], bool(options.one_step[1]))
        return 0
    rows = []
    try:
        with atomic(paths.results_dir() / "bench.csv") as temporary:  # opened first: measuring takes minutes
            for measure in (training_step, inference, winnet, training_memory):
                print(f"measuring: {measure.__name__.replace('_', ' ')}", flush=True)
                rows += measure()
            table = pd.DataFrame(rows, columns=COLUMNS).assign(hardware=hardware(), commit=commit())
            table.to_csv(temporary, index=False, float_format="%.4g")
    except (ValueError, RuntimeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(table.drop(columns=["hardware", "commit"]).to_string(index=False, na_rep="", float_format="{:.3g}".format))
    return 0 if all(met for met in table["met"].dropna()) else 1


if __name__ == "__main__":
    sys.exit(main())
