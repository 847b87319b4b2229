"""One loop that trains every network, and resumes exactly.

    python -m invdenoise.training NAME --budget laptop
    python -m invdenoise.training --minutes 9 NAME NAME     # several, within a time limit

The loop knows four things of a network: it is built from its declaration, `prepare(**batch)` runs once before anything else where
there is such a method, `training_loss(**batch)` gives the loss and the figures to log, and its task validates it.

A run lives in `results/runs/<network>/<budget>/`: `checkpoint.pt` (everything needed to go on), `curve.csv`, and at the end
`weights.safetensors` with its card. Kill it at any moment and start it again: it ends in the same weights, bit for bit,
on the same kind of machine with the same number of processes. Stopped with Ctrl-C, SIGTERM or SIGHUP it keeps every
step; killed otherwise, those up to the last checkpoint.

Several processes share each batch:

    torchrun --nproc_per_node 2 -m invdenoise.training NAME
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import dataclasses
import math
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from invdenoise import kernels, papers, paths
from invdenoise.data.batches import stable_seed
from invdenoise.device import THREADS, can_compile, compile_or_run, hardware, use_free_cores
from invdenoise.files import atomic, check_writable, exclusive
from invdenoise.methods import load_network
from invdenoise.optim import build_optimizer, lr_factors_of
from invdenoise.papers import BUDGETS, Network, Recipe, resolve
from invdenoise.paths import plain_name
from invdenoise.provenance import VERSION, commit
from invdenoise.tasks.base import make_task
from invdenoise.weights import read_card, save_weights, weights_path

# Columns of a curve before and after the figures that the network logs; the metric that validates has a column `val_<metric>`.
BEFORE = ("step", "patches", "seconds", "lr", "loss")
AFTER = ("grad_norm", "skipped")

# Variables of the environment that change results by rounding or more. Those that are set stand on the card.
ROUNDING = (
    "ATEN_CPU_CAPABILITY", "CUBLAS_WORKSPACE_CONFIG", "DNNL_DEFAULT_FPMATH_MODE", "DNNL_MAX_CPU_ISA",
    "INVDENOISE_KERNELS", "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS", "NVIDIA_TF32_OVERRIDE", "ONEDNN_DEFAULT_FPMATH_MODE", "ONEDNN_MAX_CPU_ISA",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Run:
    """What training left: the folder, where it stands, and the curve."""

    folder: Path
    step: int
    num_steps: int
    curve: list[dict[str, float]]

    @property
    def finished(self) -> bool:
        return self.step == self.num_steps

    @property
    def weights(self) -> Path:
        return self.folder / "weights.safetensors"


@torch.enable_grad()
def train(
    name: str,
    budget: str = "laptop",
    minutes: float | None = None,
    report: Callable[[str], None] | None = print,
    folder: Path | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> Run:
    """Train a network, or go on where it was interrupted.

    Args:
        name: network or ablation of a `paper.yaml`.
        budget: "smoke", "laptop" or "paper".
        minutes: stop after this time with a checkpoint; call again to go on. None trains to the end.
        report: called with a line of progress now and then; None is silent.
        folder: where the run lives; default `results/runs/<name>/<budget>`.
        on_step: called with the number of steps done and of all steps, before the first step of this call and after each, as for a
            bar of progress. A finished run takes no step.

    Returns:
        The run; `run.finished` says whether its weights are written.

    Raises:
        ValueError: unknown name or budget, a name that is no plain name, or a checkpoint made with other settings.
        DataUnavailable: the pictures cannot be had; no others stand in for them.
        RuntimeError: the same run is under way in another process, or training came to nothing.
        OSError: a file could not be written, as on a full disk; the last checkpoint is kept.
        KeyboardInterrupt: Ctrl-C, SIGTERM or SIGHUP stopped it, after the checkpoint was written.
    """
    deadline = math.inf if minutes is None else time.monotonic() + 60 * minutes
    spec = papers.network(name)
    recipe = spec.recipe(budget)
    folder = folder or paths.runs_dir() / plain_name(name, "the network's name") / budget
    accelerator = _accelerator()
    if accelerator.device.type == "cuda":  # equal results from run to run, and "float32" means it
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    else:
        use_free_cores()
    if not accelerator.is_main_process:
        return _Trainer(spec, budget, recipe, folder, accelerator, None).run(deadline)
    with exclusive(folder / "lock", f"training of {name} ({budget})"):
        return _Trainer(spec, budget, recipe, folder, accelerator, report, on_step).run(deadline)


def _accelerator() -> Accelerator:
    """Device and processes. Other settings of a launcher are left aside: its mixed precision, for one, is no recipe's."""
    others = [name for name in os.environ if name.startswith("ACCELERATE_") and name != "ACCELERATE_USE_CPU"]
    kept = {name: os.environ.pop(name) for name in others}
    try:
        return Accelerator(cpu=not torch.cuda.is_available(), mixed_precision="no")
    finally:
        os.environ.update(kept)


class _Loss(nn.Module):
    """The network's training loss as a forward pass, which is what data-parallel wrappers synchronise."""

    def __init__(self, network: nn.Module, recipe: Recipe, device: torch.device):
        super().__init__()
        self.network = network
        precision = kernels.resolve_precision(network, recipe.precision, device)
        self.autocast = dict(device_type=device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16")
        self.loss = network.training_loss
        if recipe.compile and kernels.has_kernel(network, device, precision):
            kernels.attach(network, precision)
        elif recipe.compile and can_compile(device):
            # On a GPU CUDA graphs: one launch a step. On a CPU a compiler that fails is no reason to stop.
            how = {"mode": "reduce-overhead"} if device.type == "cuda" else {"backend": compile_or_run}
            in_parts = getattr(network, "compiled_loss", None)
            self.loss = in_parts(**how) if in_parts else torch.compile(network.training_loss, **how)

    def forward(self, **batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, and the figures to log."""
        with torch.autocast(**self.autocast):
            loss, logs = self.loss(**batch)
        return loss, {name: torch.as_tensor(value, device=loss.device).detach().float() for name, value in logs.items()}


class _Trainer:
    def __init__(
        self,
        spec: Network,
        budget: str,
        recipe: Recipe,
        folder: Path,
        accelerator: Accelerator,
        report: Callable[[str], None] | None,
        on_step: Callable[[int, int], None] | None = None,
    ):
        self.spec, self.budget, self.recipe, self.folder = spec, budget, recipe, folder
        self.accelerator, self.report, self.on_step = accelerator, report, on_step
        world = accelerator.num_processes
        if recipe.batch_size % world:
            raise ValueError(f"batch_size is {recipe.batch_size}, not a multiple of {world} processes")
        if recipe.validation and spec.task is None:
            raise ValueError(
                f"validation is {recipe.validation}, but {spec.name} declares no task that could validate it; set validation: 0"
            )
        self.task = make_task(spec.task) if recipe.validation else None
        if self.task and not self.task.metrics:
            raise ValueError(f"{spec.name}: {spec.task} measures nothing on a single case; set validation: 0")
        self.source = load_source(spec, budget, accelerator.device)
        self.epoch_steps = len(self.source) / recipe.batch_size
        self.num_steps = recipe.steps or round(recipe.epochs * self.epoch_steps)

        torch.manual_seed(recipe.seed)
        network = spec.build()
        self.taken_over: frozenset[str] = frozenset()  # parameters that a start has given values to
        self.started_from = self._warm_start(network)
        network.to(accelerator.device, memory_format=torch.channels_last)
        if hasattr(network, "prepare"):
            network.prepare(**self.source.batch(0))
        # Validated in it too.
        network.precision = kernels.resolve_precision(network, recipe.precision, accelerator.device)
        self.num_parameters = _num_parameters(network)  # also those that the recipe freezes
        self.optimizer = build_optimizer(
            network,
            recipe.optimizer,
            recipe.lr,
            recipe.adam_ratio,
            self.taken_over,
            recipe.start_ratio,
            recipe.lr_factors,
        )
        self.buffers = list(network.buffers())
        self.base_lrs = [group["lr"] for group in self.optimizer.param_groups]
        self.ema = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema), use_buffers=True)
        if recipe.compile and network.precision == "bfloat16":  # validated in the kernel of training
            kernels.attach(self.ema.module, "bfloat16")
        self.loss = accelerator.prepare(_Loss(network, recipe, accelerator.device))
        self.network = network
        self.step, self.skipped, self.seconds, self.curve = 0, 0, 0.0, []
        self.logged: list[dict[str, float]] = []  # loss and figures of each step since the last row of the curve
        self.hardware: list[str] = []  # all that it was trained on

    def run(self, deadline: float) -> Run:
        self._resume()
        already = self.step == self.num_steps
        if not already:
            if self.report and (warning := _busy()):
                self.report(warning)
            with _stop_signal() as stop:
                self._loop(deadline, stop)
                stopped = not self._all(not stop.is_set())
            if stopped:
                raise KeyboardInterrupt(f"stopped at step {self.step} of {self.num_steps}")
        elif self.report:
            self.report(f"{self.spec.name} ({self.budget}): already trained, {self.step} steps")
        run = Run(self.folder, self.step, self.num_steps, self.curve)
        if run.finished and self.accelerator.is_main_process:
            self._check_trained()
            self._write_curve()  # a run killed after its last checkpoint may not have come to it
            # Whole weights of an earlier call keep their card: it names the commit and the machine that trained them.
            if not (already and _whole(run.weights)):
                save_weights(self.averaged(), run.weights, self._card())
        self.accelerator.wait_for_everyone()
        return run

    def _check_trained(self) -> None:
        """RuntimeError when what would be kept was not trained, or is not a number."""
        spoilt = [name for name, value in self.averaged().state_dict().items() if not torch.isfinite(value).all()]
        if self.skipped == self.num_steps or spoilt:
            reason = f"{spoilt[0]} is not finite" if spoilt else f"all {self.skipped} steps were skipped"
            raise RuntimeError(
                f"{self.spec.name} ({self.budget}): training came to nothing, {reason}; lower the learning rate or clip, "
                f"delete {self.folder}, and train again"
            )

    def averaged(self) -> nn.Module:
        """The network whose weights are kept."""
        return self.ema.module if self.recipe.ema else self.network

    def _loop(self, deadline: float, stop: threading.Event) -> None:
        recipe, rank, world = self.recipe, self.accelerator.process_index, self.accelerator.num_processes
        params = [p for p in self.network.parameters() if p.requires_grad]
        recent: deque[dict[str, float]] = deque(maxlen=50)
        began, told, first = time.monotonic(), 0.0, self.step
        before = self.seconds
        self._note_hardware()
        self.network.train()
        if self.on_step:
            self.on_step(self.step, self.num_steps)
        while self.step < self.num_steps and self._all(time.monotonic() < deadline and not stop.is_set()):
            lr = self._set_lr()
            # What the network draws depends on the step alone, so that a resumed run draws the same.
            seed = stable_seed(recipe.seed, "step", self.step, rank)
            torch.default_generator.manual_seed(seed)  # `torch.manual_seed` looks for devices, which takes longer
            if self.accelerator.device.type == "cuda":
                torch.cuda.manual_seed(seed)
            buffers = [buffer.clone() for buffer in self.buffers]
            batch = self.source.batch(self.step)
            batch = {key: value[rank::world] if value.ndim else value for key, value in batch.items()}
            loss, logs = self.loss(**batch)
            if taken := logs.keys() & {*BEFORE, *AFTER}:
                raise ValueError(
                    f"{self.spec.name} logs {min(taken)!r}, which is a column of every curve; choose another name"
                )
            self.accelerator.backward(loss)
            norm = torch.nn.utils.clip_grad_norm_(params, recipe.clip or math.inf).item()
            figures = torch.stack([loss.detach().float(), *logs.values()])
            value, *others = self.accelerator.reduce(figures, "mean").tolist()
            if math.isfinite(value) and norm < (recipe.skip_above or math.inf):  # a norm that is NaN is below nothing
                self.optimizer.step()
                self.ema.update_parameters(self.network)
                self.logged.append({"loss": value, **dict(zip(logs, others, strict=True))})
                recent.append(self.logged[-1])
            else:  # the forward pass may have spoilt running statistics
                self.skipped += 1
                for buffer, kept in zip(self.buffers, buffers, strict=True):
                    buffer.copy_(kept)
            self.optimizer.zero_grad(set_to_none=True)
            self.step += 1
            self.seconds = before + time.monotonic() - began
            if self.on_step:
                self.on_step(self.step, self.num_steps)

            last = self.step == self.num_steps
            if self.step % recipe.validate_every == 0 or last:
                row = {"step": self.step, "patches": self.step * recipe.batch_size, "seconds": self.seconds, "lr": lr}
                row |= means(self.logged) | self._validate() | {"grad_norm": norm, "skipped": self.skipped}
                self.curve.append(row)
                self.logged = []
                self._say_validation()
            if self.step % recipe.checkpoint_every == 0 or last:
                self._save_checkpoint()
            if self.report and (time.monotonic() - told > 15 or last):
                told = time.monotonic()
                self._say(means(recent)["loss"], (self.step - first) / max(told - began, 1e-9))
        if self.step % recipe.checkpoint_every and self.step < self.num_steps:
            self._save_checkpoint()

    def _all(self, mine: bool) -> bool:
        """Whether it is so in all processes. They must agree: one that stopped would leave the others waiting."""
        if self.accelerator.num_processes == 1:
            return mine
        votes = torch.tensor(float(mine), device=self.accelerator.device)
        return self.accelerator.reduce(votes, "mean").item() == 1

    def _note_hardware(self) -> None:
        """Add to `hardware` what this process trains on, if it is new: sums depend on it in their last digits."""
        world = self.accelerator.num_processes
        here = f"{world} processes of " * (world > 1) + hardware(self.accelerator.device)
        here = ", ".join([here, *(f"{name}={os.environ[name]}" for name in ROUNDING if os.environ.get(name))])
        if here not in self.hardware:
            self.hardware.append(here)

    def _set_lr(self) -> float:
        factor = schedule_factor(self.recipe, self.step, self.num_steps, self.epoch_steps)
        for group, base in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
            group["lr"] = base * factor
        return self.recipe.lr * factor

    @property
    def _measure(self) -> str:
        """Column of the metric that validates."""
        return f"val_{self.task.metrics[0].name}"

    @torch.no_grad()
    def _validate(self) -> dict[str, float]:
        """Mean of the task's first metric over the held-out pictures, of the weights that are kept; empty without a task.

        A network trained on a range of noise levels is told the level, and validated in the middle of the range.
        """
        if self.task is None:
            return {}
        network, metric = self.averaged().eval(), self.task.metrics[0].name
        cases = self.task.cases(self.source.held_out, 0, **self.spec.conditions)  # the same for runs of every seed
        values = [float(self.task.score(self.task.run(network, case), case)[metric]) for case in cases]
        self.network.train()
        return {self._measure: sum(values) / len(values)}

    def _warm_start(self, network: nn.Module) -> str | None:
        if self.recipe.start is None:
            return None
        local = weights_path(self.recipe.start, self.budget)
        trained = load_network(self.recipe.start, self.budget if local.exists() else None, with_parts=False)
        self.taken_over = network.start_from(trained)
        return f"{self.recipe.start} ({trained.card['sha256'][:12]})"

    # -- checkpoints -------------------------------------------------------------------------------------------------

    def _settings(self) -> dict[str, Any]:
        """What must agree for a checkpoint to be continued."""
        return {
            "experiment": self.spec.name, "model": self.spec.model, "options": self.spec.options, "sigmas": self.spec.sigmas,
            **self.recipe.model_dump(), "source": self._source, "task": self.spec.task, "started_from": self.started_from,
            "data_sha256": self.source.sha256,
        }  # fmt: skip

    @property
    def _source(self) -> dict[str, Any]:
        """What it is trained on, with all options."""
        return {"kind": self.spec.source.kind, **self.spec.source_options(self.budget)}

    def _save_checkpoint(self) -> None:
        if not self.accelerator.is_main_process:
            return
        state = {
            "settings": self._settings(), "step": self.step, "skipped": self.skipped, "seconds": self.seconds,
            "curve": self.curve, "logged": self.logged, "network": self.network.state_dict(), "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(), "hardware": self.hardware, "threads": torch.get_num_threads(),
        }  # fmt: skip
        with atomic(self.folder / "checkpoint.pt") as temporary:
            torch.save(state, temporary)
        self._write_curve()

    def _write_curve(self) -> None:
        between = [key for row in self.curve for key in row if key not in (*BEFORE, *AFTER)]
        with (
            atomic(self.folder / "curve.csv") as temporary,
            open(temporary, "w", newline="", encoding="utf-8") as handle,
        ):
            writer = csv.DictWriter(handle, [*BEFORE, *dict.fromkeys(between), *AFTER], restval=math.nan)
            writer.writeheader()
            writer.writerows(self.curve)

    def _resume(self) -> None:
        path = self.folder / "checkpoint.pt"
        if not path.exists():
            return
        try:
            # "cpu" serves every device: each part below copies its state to where it lives.
            state = torch.load(path, map_location="cpu", weights_only=True)
            theirs = dict(state["settings"])
        except OSError as error:
            raise OSError(
                error.errno, f"could not read {path}: {error.strerror or error}; the file was left alone"
            ) from error
        except Exception as error:
            raise ValueError(_unreadable(path, error)) from None
        # A checkpoint from before a key existed was trained with its default.
        usual = {key: field.default for key, field in Recipe.model_fields.items()}
        for key, our in self._settings().items():
            if (their := theirs.get(key, usual.get(key))) != our:
                raise ValueError(
                    f"{path} was trained with {key} = {their!r}, now it is {our!r}; "
                    f"restore the setting, or delete {self.folder} to train from the start"
                )
        if unknown := theirs.keys() - self._settings().keys():
            raise ValueError(
                f"{path} was trained with {min(unknown)}, which is no setting; delete {self.folder} to train from the start"
            )
        try:
            self.network.load_state_dict(state["network"])
            self.ema.load_state_dict(state["ema"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step, self.skipped, self.seconds = state["step"], state["skipped"], state["seconds"]
            self.curve, self.logged = state["curve"], state["logged"]
            self.hardware, threads = state.get("hardware", []), state.get("threads", 0)
        except Exception as error:  # whatever a damaged file makes of these
            raise ValueError(_unreadable(path, error)) from None
        if 0 < threads <= (os.cpu_count() or 1) and not os.environ.get(THREADS):
            torch.set_num_threads(threads)  # sums in parts of the same size
        if self.report:
            self.report(f"{self.spec.name} ({self.budget}): going on at step {self.step} of {self.num_steps}")

    def _card(self) -> dict[str, Any]:
        return {
            "experiment": self.spec.name,
            "budget": self.budget,
            "sigma": self.spec.sigma,
            "sigmas": self.spec.sigmas,
            "model": self.spec.model,
            "options": self.spec.options,
            "num_parameters": self.num_parameters,
            "source": self._source,
            "recipe": self.recipe.model_dump(exclude={"source"}),
            "started_from": self.started_from,
            "steps": self.step,
            "patches": self.step * self.recipe.batch_size,
            "skipped_steps": self.skipped,
            "seconds": round(self.seconds, 1),
            **self._validated(),
            "data": self.source.name,
            "data_sha256": self.source.sha256,
            "hardware": ", then ".join(self.hardware) or hardware(self.accelerator.device),
            "torch": torch.__version__,
            "version": VERSION,
            "commit": commit(),
        }

    # -- progress ----------------------------------------------------------------------------------------------------

    def _validated(self) -> dict[str, float]:
        """The last validation, as the card names it."""
        return {} if self.task is None else {f"validation_{self.task.metrics[0].name}": self.curve[-1][self._measure]}

    def _say(self, loss: float, rate: float) -> None:
        left = (self.num_steps - self.step) / rate
        self.report(
            f"{self.spec.name} ({self.budget})  step {self.step}/{self.num_steps}  loss {loss:.4g}  "
            f"{rate * self.recipe.batch_size:.0f} patches/s  left {int(left // 60)} min {int(left % 60)} s  "
            f"skipped {self.skipped}"
        )

    def _say_validation(self) -> None:
        if self.report and self.task:
            metric = self.task.metrics[0]
            value = f"{self.curve[-1][self._measure]:.{metric.digits + 1}f} {metric.unit}".rstrip()
            self.report(f"{self.spec.name} ({self.budget})  step {self.step}  validation {metric.name} {value}")


def load_source(spec: Network, budget: str, device: torch.device | str = "cpu") -> Any:
    """What a network is trained on under a budget, with its held-out part.

    Raises:
        ValueError: options that the source does not have, or values that it refuses.
        DataUnavailable: the pictures cannot be had; no others stand in for them.
    """
    recipe, options = spec.recipe(budget), spec.source_options(budget)
    shared = {
        key: getattr(recipe, key) for key in ("validation", "patch_size", "batch_size", "sampling", "augment", "seed")
    }
    try:
        return resolve(spec.source.kind, "data").load(**options, **shared, device=device)
    except TypeError as error:
        raise ValueError(f"{spec.name}: source {spec.source.kind} with {options} cannot be made: {error}") from None


def schedule_factor(recipe: Recipe, step: int, num_steps: int, epoch_steps: float) -> float:
    """What the learning rate is multiplied by at `step`: see `papers.Recipe`."""
    if recipe.schedule == "steps":
        return recipe.gamma ** sum(step >= milestone * epoch_steps for milestone in recipe.milestones)
    if step < recipe.warmup:
        return (step + 1) / recipe.warmup
    progress = (step - recipe.warmup) / max(num_steps - recipe.warmup, 1)
    return recipe.final + (1 - recipe.final) * (1 + math.cos(math.pi * progress)) / 2


@contextlib.contextmanager
def _stop_signal() -> Iterator[threading.Event]:
    """An event that Ctrl-C, SIGTERM and SIGHUP set instead of ending the process in the middle of a step.

    A second Ctrl-C breaks off at once. A signal that somebody else handles or ignores, such as SIGHUP under nohup, is
    left alone. Only the main thread can handle signals; in another one the event is never set.
    """
    stop = threading.Event()
    usual = {}
    if threading.current_thread() is threading.main_thread():
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        defaults = (signal.SIG_DFL, signal.default_int_handler)
        usual = {number: handler for number, handler in handlers.items() if handler in defaults}

    def handle(number: int, frame: object) -> None:
        stop.set()
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, usual[signal.SIGINT])

    for number in usual:
        signal.signal(number, handle)
    try:
        yield stop
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler)


def _busy() -> str:
    """A warning where several threads share the cores with other processes, which slows them down; else ""."""
    try:
        load, cores, threads = os.getloadavg()[0], os.cpu_count() or 1, torch.get_num_threads()
    except (AttributeError, OSError):  # this system does not say
        return ""
    if threads == 1 or load < cores + 1:  # a run that has just ended is a load of up to `cores`
        return ""
    return f"the machine is busy (load {load:.0f} on {cores} cores); {THREADS}=1 may be faster than {threads} threads"


def _unreadable(path: Path, error: Exception) -> str:
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    return f"{path} is not a readable checkpoint ({reason[:200]}); restore it, or delete it to train from the start"


def _whole(weights: Path) -> bool:
    try:
        read_card(weights)
    except (OSError, ValueError):
        return False
    return True


def _num_parameters(network: nn.Module) -> int:
    """Learned parameters, as the network counts them where it does: one that has another as a part may leave it out."""
    count = getattr(network, "num_parameters", None)
    return count() if count else sum(p.numel() for p in network.parameters() if p.requires_grad)


def means(rows: Collection[dict[str, float]]) -> dict[str, float]:
    """Mean of each figure over the steps that have it; of no step, a loss that is not a number."""
    values: dict[str, list[float]] = {}
    for row in rows:
        for key, value in row.items():
            values.setdefault(key, []).append(value)
    return {key: sum(found) / len(found) for key, found in values.items()} or {"loss": math.nan}


def main(arguments: list[str] | None = None) -> int:
    """Train networks one after another within a time limit.

    Exit status: 0 when all are finished, 3 when time ran out, 130 when stopped by a signal, 1 after an error. Under
    torchrun or accelerate, time that ran out is 0 too: they take any other status for a crash and print a traceback.
    """
    parser = argparse.ArgumentParser(prog="python -m invdenoise.training", description=main.__doc__)
    parser.add_argument("names", nargs="+", metavar="NAME")
    parser.add_argument("--budget", default="laptop", choices=BUDGETS)
    parser.add_argument("--minutes", type=_positive, help="stop after this time with a checkpoint (all runs together)")
    parser.add_argument(
        "--out", type=Path, help="folder for <name>.safetensors, its card and curve, besides the run's own"
    )
    options = parser.parse_args(arguments)
    out = options.out and options.out.expanduser()
    end = math.inf if options.minutes is None else time.monotonic() + 60 * options.minutes
    alone = int(os.environ.get("WORLD_SIZE", 1)) == 1  # several processes agree on the time inside `train`
    first = int(os.environ.get("RANK", 0)) == 0
    tell = _tell if first else lambda line: None
    time_is_up = 0 if _launched() else 3
    try:
        for name in options.names:  # what is wrong with a name, a declaration or the folder stops before the first run
            spec = papers.network(name)
            lr_factors_of(spec.build(), spec.recipe(options.budget).lr_factors)
            if out:
                check_writable(out / f"{plain_name(name, 'the network')}.safetensors")
        for name in options.names:
            left = None if options.minutes is None else (end - time.monotonic()) / 60
            if left is not None and left <= 0 and alone:
                tell(f"time is up before {name}; the same command goes on from there")
                return time_is_up
            run = train(name, options.budget, left, report=tell)
            if not run.finished:
                tell(f"time is up at step {run.step} of {run.num_steps}; the same command goes on from there")
                return time_is_up
            if out and first:
                _copy_out(run, name, out)
    except KeyboardInterrupt as interrupt:
        tell(f"{str(interrupt) or 'stopped'}; the same command goes on from there")
        return 130
    except (ValueError, RuntimeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _launched() -> bool:
    """Whether torchrun or accelerate started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ or "ACCELERATE_MIXED_PRECISION" in os.environ


def _tell(line: str) -> None:
    """Print a line. Where nobody can read it any more, as in a closed terminal, training goes on in silence."""
    try:
        print(line, flush=True)
    except OSError:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")


def _positive(text: str) -> float:
    """A number above 0, for the command line."""
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return value


def _copy_out(run: Run, name: str, out: Path) -> None:
    for source, suffix in (
        ("weights.safetensors", "safetensors"),
        ("weights.json", "json"),
        ("curve.csv", "curve.csv"),
    ):
        content = (run.folder / source).read_bytes()
        with atomic(out / f"{name}.{suffix}") as temporary:
            temporary.write_bytes(content)


if __name__ == "__main__":
    code = main()
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    sys.exit(code)
