"""`make bench`: speed and memory as ratios measured in one run, against the targets that the papers' declarations set.

Times of different machines, or of one machine at different hours, do not compare: contenders take turns, round by round, and the
median of each round's ratio is what is reported.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from invdenoise import kernels, papers, paths
from invdenoise.data.fetch import DataUnavailable
from invdenoise.data.noise import awgn, noise_generator
from invdenoise.data.pictures import load_pictures
from invdenoise.device import can_compile, compile_or_run, hardware
from invdenoise.files import atomic
from invdenoise.layers.lifting import randomise_last_kernels
from invdenoise.methods import load_denoiser
from invdenoise.models.base import DenoisingNetwork
from invdenoise.papers import Bench, Contender
from invdenoise.provenance import commit
from invdenoise.tasks.metrics import psnr

COLUMNS = ("quantity", "subject", "setting", "value", "unit", "reference", "ratio", "target", "met")
SMALLEST = 8  # pixels a side of the image whose training step takes weights and gradients, but hardly any activations
BEYOND = "MiB beyond weights and gradients"
ADDED = "MiB"
NOT_INSTALLED = 3  # exit status of a process that measures
ONE_STEP = "--one-step"  # of the command line: measure the memory of one training step


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


def training_step(bench: Bench) -> list[dict]:
    """Time of a training step of each contender on one batch."""
    names, contenders = {}, {}
    for contender in bench.contenders:
        network = fresh(contender)
        setting, step = _step(network, batch_for(network, bench.batch, bench.sigma), contender.setting == "fastest")
        name = f"{contender.label}, {setting}"
        names[name], contenders[name] = contender, step
    return _rows(
        bench, "training step", names, take_turns(contenders, bench.rounds), bench.batch[0], "patches/s", inverse=True
    )


def batch_for(network: DenoisingNetwork, shape: list[int], sigma: float) -> dict[str, torch.Tensor]:
    """What a network's training loss takes: clean, noisy and, if it asks for it, the noise level in grey levels."""
    torch.manual_seed(0)
    clean = torch.rand(*shape)
    batch = {"clean": clean, "noisy": clean + 0.1 * torch.randn_like(clean), "sigma": torch.tensor(float(sigma))}
    return {key: batch[key] for key in batch if key in inspect.signature(network.training_loss).parameters}


def _step(network: DenoisingNetwork, batch: dict[str, torch.Tensor], fast: bool) -> tuple[str, Callable[[], None]]:
    """The setting in words, and one training step in it, forward and backward."""
    precision = kernels.resolve_precision(network, "fastest" if fast else "float32")
    setting, loss = precision if fast else "eager float32", network.training_loss
    if fast:
        network.to(memory_format=torch.channels_last)
        if kernels.has_kernel(network, "cpu", precision):
            kernels.attach(network, precision)
            setting = f"{precision} in own kernel"
        elif can_compile():
            in_parts = getattr(network, "compiled_loss", None)
            how = {"backend": compile_or_run}  # as training does on a CPU
            loss = in_parts(**how) if in_parts else torch.compile(network.training_loss, **how)
            setting = f"compiled {precision}"

    def run():
        network.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            value, _ = loss(**batch)
        value.backward()

    return setting, run


def inference(bench: Bench) -> list[dict]:
    """Time per megapixel of each contender on the same pictures, and what its fastest setting costs in PSNR where that is declared."""
    clean = [picture.tensor() for picture in load_pictures(bench.set, limit=bench.limit or None)] if bench.set else []
    if not clean:
        torch.manual_seed(0)
        clean = [torch.rand(*bench.batch)]
    noisy = [
        awgn(image, bench.sigma, noise_generator(0, "bench", str(index), bench.sigma))
        for index, image in enumerate(clean)
    ]
    names, contenders, changes = {}, {}, {}
    for contender in bench.contenders:
        method = _ready(contender, clean[0].shape[1])
        if method is None:
            continue
        name = f"{contender.label}, {setting_of(method, contender)}"
        exact = _mean_psnr(method, clean, noisy, bench.sigma) if contender.psnr_change is not None else 0.0
        if contender.setting == "fastest":
            kernels.speed_up(method)
        if contender.psnr_change is not None:
            changes[name] = _mean_psnr(method, clean, noisy, bench.sigma) - exact
        names[name] = contender
        contenders[name] = lambda method=method: [method.denoise(image, bench.sigma) for image in noisy]
    megapixels = sum(image[0, 0].numel() for image in clean) / 1e6
    rows = _rows(bench, "inference", names, take_turns(contenders, bench.rounds), 1 / megapixels, "s/megapixel")
    for name, change in changes.items():
        label, _, setting = name.rpartition(", ")
        bound = names[name].psnr_change
        row = _row("PSNR change of the fast setting", label, setting, change, "dB")
        rows.append(row | {"target": f"within {bound:g}", "met": abs(change) <= bound})
    return rows


def training_memory(bench: Bench) -> list[dict]:
    """Peak memory of a training step beyond weights and gradients, against the values of an option.

    That is the peak of a step on the batch minus the peak of a step on one image of `SMALLEST` pixels a side. The claim of constant
    memory is about activations; weights and gradients grow with the depth in any case.
    """
    ((option, values),) = bench.vary.items()
    rows = []
    for contender in bench.contenders:
        peaks = {value: _peak_memory(contender, {option: value}, bench.batch, bench.sigma) for value in values}
        smallest = f"{option} = {values[0]}"
        for value, peak in peaks.items():
            row = _row("training memory", f"{option} = {value}", contender.label, peak, BEYOND)
            rows.append(row | {"reference": smallest, "ratio": peak / peaks[values[0]]})
        rows[-1] |= _target(contender, rows[-1]["ratio"])
    return rows


def inference_memory(bench: Bench) -> list[dict]:
    """Peak memory of denoising one picture in plain PyTorch, beyond what is taken before: weights, the picture, the libraries."""
    rows: list[dict] = []
    for contender in bench.contenders:
        what = {"model": contender.model, "method": contender.method, "options": contender.options}
        try:
            peak = _measured({**what, "batch": bench.batch, "sigma": bench.sigma, "denoise": True})
        except ImportError:
            print(f"left out: {contender.label}, whose package is not installed", flush=True)
            continue
        row = _row("inference memory", contender.label, "float32", peak, ADDED)
        if rows:
            row |= {"reference": rows[0]["subject"], "ratio": peak / rows[0]["value"]}
            row |= _target(contender, row["ratio"])
        rows.append(row)
    return rows


MEASURES = {
    "training step": training_step,
    "inference": inference,
    "training memory": training_memory,
    "inference memory": inference_memory,
}


def fresh(contender: Contender, **options: Any) -> DenoisingNetwork:
    """A fresh network whose last kernels are not zero, so that nothing is fast for being empty."""
    torch.manual_seed(0)
    return randomise_last_kernels(papers.build(contender.model, **{**contender.options, **options})).eval()


def _ready(contender: Contender, channels: int = 1) -> Any:
    """The method of a contender: with released weights where they are there (time does not depend on them), else fresh."""
    if contender.method is None:
        return fresh(contender)
    try:
        if contender.setting == "as it is":
            method = load_denoiser(contender.method)
            method.denoise(torch.rand(1, channels, 16, 16), 25.0)
            return method
        method = load_denoiser(contender.method)  # a network comes with its kernel, and each setting attaches its own
        return kernels.detach(method) if isinstance(method, torch.nn.Module) else method
    except ImportError:
        print(f"left out: {contender.label}, whose package is not installed", flush=True)
        return None
    except (FileNotFoundError, DataUnavailable):
        if contender.model is None:
            raise
        return fresh(contender).to(memory_format=torch.channels_last)


def setting_of(method: Any, contender: Contender) -> str:
    """A contender's setting in words."""
    if contender.setting == "fastest":
        return kernels.setting(method)
    return "eager float32" if contender.setting == "eager" else contender.setting


def _rows(
    bench: Bench,
    quantity: str,
    names: dict[str, Contender],
    seconds: dict[str, list[float]],
    size: float,
    unit: str,
    inverse: bool = False,
) -> list[dict]:
    """A row a contender; ratios are to the first. `size` per second where `inverse`, else seconds times `size`."""
    first, rows = next(iter(seconds)), []
    for name, values in seconds.items():
        label, _, setting = name.rpartition(", ")
        median = statistics.median(values)
        row = _row(quantity, label, setting, size / median if inverse else median * size, unit)
        if name != first:
            row |= {"reference": first, "ratio": ratio(seconds, name, first)}
            row |= _target(names[name], row["ratio"])
        rows.append(row)
    return rows


def _target(contender: Contender, measured: float) -> dict[str, Any]:
    for bound, value in contender.target.items():
        met = (
            measured >= value if bound == "at_least" else measured <= value if bound == "at_most" else measured < value
        )
        return {"target": f"{bound.replace('_', ' ')} {value:g}", "met": met}
    return {}


def _peak_memory(contender: Contender, options: dict[str, Any], batch: list[int], sigma: float | None) -> float:
    """See `training_memory`; in MiB."""
    options = {**contender.options, **options}
    return _measured({"model": contender.model, "options": options, "batch": batch, "sigma": sigma})


def _measured(what: dict[str, Any]) -> float:
    """The peak of one step in MiB, in a process of its own. ImportError for a method whose package is not installed."""
    command = [sys.executable, "-m", "invdenoise.bench", ONE_STEP, json.dumps(what)]
    # Small thresholds give freed memory back to the system at once, so that the peak is that of live memory.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode == NOT_INSTALLED:
        raise ImportError(what["method"])
    if done.returncode:
        raise RuntimeError(f"memory of {what} could not be measured: {(done.stderr.strip().splitlines() or [''])[-1]}")
    return float(done.stdout.split()[-1])


def _one_step(what: dict[str, Any]) -> int:
    """Measure in this process and print the result; returns the exit status."""
    if what.get("denoise"):
        return _one_picture(what)
    network = fresh(Contender(label="", model=what["model"], options=what["options"])).train()
    smallest = [1, what["batch"][1], SMALLEST, SMALLEST]
    batches = [batch_for(network, shape, what["sigma"]) for shape in (what["batch"], smallest)]
    steps = [lambda batch=batch: network.training_loss(**batch)[0].backward() for batch in batches]
    for step in steps:  # libraries allocate their own buffers, and gradients come to stay
        _added(step)
    whole, least = map(_added, steps)
    print(whole - least)
    return 0


def _one_picture(what: dict[str, Any]) -> int:
    contender = Contender(
        label="", model=what["model"], method=what["method"], options=what["options"], setting="eager"
    )
    torch.manual_seed(0)
    noisy = torch.rand(*what["batch"])
    method = _ready(contender, noisy.shape[1])
    if method is None:
        return NOT_INSTALLED
    try:
        method.denoise(
            torch.rand(1, noisy.shape[1], 16, 16), what["sigma"]
        )  # what is imported at first use does not count
        print(_added(lambda: method.denoise(noisy, what["sigma"])))
    except ImportError:
        return NOT_INSTALLED
    return 0


def _added(step: Callable[[], object]) -> float:
    """MiB that a step adds at its peak."""
    Path("/proc/self/clear_refs").write_text("5")  # start the record of the peak anew
    before = _status("VmRSS")
    step()
    return (_status("VmHWM") - before) / 1024


def _status(key: str) -> int:
    return int(re.search(rf"^{key}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)[1])


def _mean_psnr(method: Any, clean: list[torch.Tensor], noisy: list[torch.Tensor], sigma: float) -> float:
    return statistics.mean(psnr(c, method.denoise(n, sigma)) for c, n in zip(clean, noisy, strict=True))


def _row(quantity: str, subject: str, setting: str, value: float, unit: str) -> dict:
    return {"quantity": quantity, "subject": subject, "setting": setting, "value": value, "unit": unit}


def measurements() -> Iterator[tuple[str, Bench]]:
    """Every declared measurement with the paper that declares it."""
    for name, paper in papers.papers().items():
        for bench in paper.bench:
            yield name, bench


def main(arguments: list[str] | None = None) -> int:
    """Measure and write `results/bench.csv`; 0 when every target is met."""
    parser = argparse.ArgumentParser(prog="python -m invdenoise.bench", description=main.__doc__)
    parser.add_argument("--paper", default="all", help="measurements of one paper; default all")
    parser.add_argument(ONE_STEP, metavar="JSON", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.one_step:
        return _one_step(json.loads(options.one_step))
    rows = []
    try:
        with atomic(paths.results_dir() / "bench.csv") as temporary:  # opened first: measuring takes minutes
            for paper, bench in measurements():
                if options.paper in ("all", paper):
                    print(f"measuring: {paper}, {bench.measure}", flush=True)
                    rows += MEASURES[bench.measure](bench)
            if not rows:
                raise ValueError(f"{options.paper} declares no measurement; papers: {', '.join(papers.papers())}")
            table = pd.DataFrame(rows, columns=COLUMNS).assign(hardware=hardware(), commit=commit())
            table.to_csv(temporary, index=False, float_format="%.4g")
    except (ValueError, RuntimeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(table.drop(columns=["hardware", "commit"]).to_string(index=False, na_rep="", float_format="{:.3g}".format))
    return 0 if all(met for met in table["met"].dropna()) else 1


if __name__ == "__main__":
    sys.exit(main())
