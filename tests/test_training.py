"""Training: the same weights however often it is interrupted, and what it refuses."""

from __future__ import annotations

import contextlib
import csv
import errno
import inspect
import json
import math
import os
import re
import resource
import runpy
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import toy
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from invdenoise import papers, paths, training
from invdenoise.data import batches
from invdenoise.data import pictures as datasets
from invdenoise.data.fetch import DataUnavailable
from invdenoise.data.noise import awgn, noise_generator
from invdenoise.data.pictures import Picture, PictureSet
from invdenoise.files import exclusive
from invdenoise.methods import load_network
from invdenoise.models.base import DenoisingNetwork
from invdenoise.tasks.metrics import psnr
from invdenoise.training import load_source, schedule_factor, train

FEW = {"num_features": 4}
DNINN = {"model": "dninn.DnINN", "options": {"num_pairs": 2, "num_layers": 2, "num_features": 4}}

CHILD = """
import os, signal, sys, time
from pathlib import Path
import torch
from invdenoise import paths, training
from invdenoise.data.batches import WhiteNoise

paths.NOTEBOOKS = Path(sys.argv[1])
batch, save, saved = WhiteNoise.batch, torch.save, 0

def slow_batch(self, step):
    time.sleep(0.05)
    return batch(self, step)

def die_in_the_middle(state, path):
    global saved
    saved += 1
    save(state, path)
    if saved == 2:
        os.truncate(path, os.path.getsize(path) // 2)
        os.kill(os.getpid(), signal.SIGKILL)

if sys.argv[2] == "slowly":
    WhiteNoise.batch = slow_batch
if sys.argv[2] == "die":
    torch.save = die_in_the_middle
if sys.argv[2] == "in parts":  # in one go, and in parts: a signal to the second process stops both
    rank, code = os.environ["RANK"], training.main(["a", "--budget", "smoke", "--minutes", "1e-9"])
    folder = Path(sys.argv[3])
    training.train("a", "smoke", report=None, folder=folder / "whole")

    def interrupting_batch(self, step):
        if step == 9 and rank == "1":
            os.kill(os.getpid(), signal.SIGTERM)
        return batch(self, step)

    WhiteNoise.batch = interrupting_batch
    try:
        training.train("a", "smoke", report=None, folder=folder / "parts")
    except KeyboardInterrupt as interrupt:
        print(f"process {rank} of {torch.distributed.get_world_size()} {interrupt}", flush=True)
    WhiteNoise.batch = batch
    training.train("a", "smoke", report=None, folder=folder / "parts")
else:
    code = training.main(sys.argv[3:])
if torch.distributed.is_initialized():
    torch.distributed.destroy_process_group()
sys.exit(code)
"""


@pytest.fixture
def declare(tmp_path, monkeypatch):
    """A function that declares small networks "a" and "b", the second starting from the first, and returns `notebooks/`."""

    def write(
        options=FEW, sigma=25, model="toy.Smooth", source=None, task="awgn.Denoise", others=None, ablations=None, **recipe
    ):  # fmt: skip
        source = {"kind": "batches.WhiteNoise", "set": "embedded-train", **(source or {})}
        entry = {"model": model, "sigma": sigma, "options": options, "source": source, "task": task}
        networks = {"a": entry, **({} if sigma is None else {"b": {**entry, "sigma": 50, "start": "a"}})}
        parts = {} if ablations is None else {"ablations": ablations}
        return toy.declare(tmp_path, monkeypatch, networks | (others or {}), recipe, **parts)

    monkeypatch.setenv("INVDENOISE_RESULTS", str(tmp_path / "results"))
    monkeypatch.setattr(paths, "RELEASED_WEIGHTS", tmp_path / "released")
    return write


def quietly(name="a", budget="smoke", **options):
    return train(name, budget, report=None, **options)


def same_curve(ours, theirs):
    assert [row["step"] for row in ours] == [row["step"] for row in theirs]
    for one, other in zip(ours, theirs, strict=True):
        for key in set(one) - {"seconds"}:
            assert one[key] == other[key] or (math.isnan(one[key]) and math.isnan(other[key])), key


def same_weights(ours, theirs):
    one, other = load_file(ours.weights), load_file(theirs.weights)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)


def trained_at_all(run):
    """Largest change of a weight since the start, where kernels at the end of each network are zero."""
    return max(value.abs().max() for key, value in load_file(run.weights).items() if key.endswith("predict.4.weight"))


def both_ways(tmp_path, monkeypatch, minutes=0.2):
    """The run of "a" in one go and the same in several; both end in the same weights and curve."""
    whole = quietly(folder=tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(training, "time", Clock())
        parts = [quietly(folder=tmp_path / "parts", minutes=minutes)]
        assert not parts[-1].finished
        while not parts[-1].finished:
            parts.append(quietly(folder=tmp_path / "parts", minutes=minutes))
    assert len(parts) > 2
    same_weights(parts[-1], whole)
    same_curve(parts[-1].curve, whole.curve)
    return whole, parts


@contextlib.contextmanager
def small_files(size):
    """No file may grow beyond `size` bytes: writers fail half way, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


class Clock:
    """Seconds that pass only when someone looks."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        self.now += 1
        return self.now


# -- interrupted runs -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {
            "sampling": "grid",
            "augment": False,
            "optimizer": "adam",
            "schedule": "steps",
            "milestones": [1],
            "gamma": 0.1,
        },
        {"precision": "bfloat16", "ema": 0},
        {"precision": "float32", "compile": True},
    ],
    ids=["muon", "adam on the grid", "bfloat16", "float32 in a kernel"],
)
def test_a_run_within_time_limits_ends_as_one_without(settings, declare, tmp_path, monkeypatch):
    declare(**DNINN, **settings)
    whole = quietly(folder=tmp_path / "whole")
    assert whole.finished and whole.step == 24 and trained_at_all(whole) > 1e-3
    monkeypatch.setattr(training, "time", Clock())
    stops = []
    while not stops or stops[-1] < 24:
        stops.append(quietly(folder=tmp_path / "parts", minutes=0.25).step)
        assert (tmp_path / "parts" / "weights.safetensors").exists() == (stops[-1] == 24)
    assert len(stops) > 2 and any(stop % toy.RECIPE["checkpoint_every"] for stop in stops[:-1])
    parts = quietly(folder=tmp_path / "parts")  # once more: there is nothing left to do
    same_weights(parts, whole)
    same_curve(parts.curve, whole.curve)


def child(notebooks, mode, *arguments, launcher=()):
    """A training process on the networks that `notebooks` declares."""
    script = notebooks.with_name("child.py")
    script.write_text(CHILD)
    environment = {**os.environ, "PYTHONPATH": str(paths.ROOT / "lib")}
    command = [sys.executable, *launcher, str(script), str(notebooks), mode, *arguments]

    def heeds_ctrl_c():  # a shell's background jobs, of which these tests may be one, are told to ignore it
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, preexec_fn=heeds_ctrl_c
    )


@pytest.mark.slow
def test_a_killed_run_ends_as_one_that_was_not(declare, tmp_path):
    notebooks = declare(**DNINN)
    whole = quietly(folder=tmp_path / "whole")
    folder = paths.runs_dir() / "a" / "smoke"

    process = child(notebooks, "slowly", "a", "--budget", "smoke")  # killed at whatever it is doing
    waited = time.monotonic()
    while not (folder / "curve.csv").exists():
        assert process.poll() is None and time.monotonic() - waited < 300
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    first = torch.load(folder / "checkpoint.pt", weights_only=True)["step"]
    assert 0 < first < 24 and not (folder / "weights.safetensors").exists()

    process = child(notebooks, "die", "a", "--budget", "smoke")  # killed half way through writing a checkpoint
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    second = torch.load(folder / "checkpoint.pt", weights_only=True)["step"]
    assert second == first + toy.RECIPE["checkpoint_every"]

    resumed = quietly()
    assert resumed.folder == folder
    same_weights(resumed, whole)
    same_curve(resumed.curve, whole.curve)


@pytest.mark.slow
def test_an_interrupted_run_keeps_every_step_and_ends_as_one_that_was_not(declare, tmp_path):
    notebooks = declare(**DNINN, checkpoint_every=1000)
    whole = quietly(folder=tmp_path / "whole")
    folder = paths.runs_dir() / "a" / "smoke"
    process = child(notebooks, "slowly", "a", "--budget", "smoke")
    for line in process.stdout:
        if "  step " in line:
            break
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 130
    step = torch.load(folder / "checkpoint.pt", weights_only=True)["step"]
    assert (
        0 < step < 24 and said.splitlines()[-1] == f"stopped at step {step} of 24; the same command goes on from there"
    )
    resumed = quietly()
    same_weights(resumed, whole)
    same_curve(resumed.curve, whole.curve)


def test_a_run_killed_before_its_last_curve_writes_it_when_started_again(declare):
    declare()
    run = quietly()
    curve = run.folder / "curve.csv"
    written = curve.read_text()
    curve.unlink()
    before = run.weights.read_bytes()
    assert quietly().finished and curve.read_text() == written and run.weights.read_bytes() == before


@pytest.mark.slow
def test_two_processes_train_as_one_and_resume_exactly(declare, tmp_path):
    """Two processes split each batch; their sums differ from those of one in the last digits, and are always the same."""
    notebooks = declare(**DNINN)
    one = quietly(folder=tmp_path / "one")
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    output, _ = (process := child(notebooks, "in parts", str(tmp_path), launcher=launcher)).communicate(timeout=300)
    assert process.returncode == 0, output  # a launcher takes any other status, as of time that is up, for a crash
    assert output.count("time is up at step 0 of 24") == 1 and "Traceback" not in output
    for process in range(2):
        assert f"process {process} of 2 stopped at step 10 of 24" in output
    whole, parts = ({**load_file(tmp_path / name / "weights.safetensors")} for name in ("whole", "parts"))
    for key, value in load_file(one.weights).items():
        assert torch.equal(whole[key], parts[key]), key
        torch.testing.assert_close(whole[key], value, rtol=0, atol=1e-6)
    card = json.loads((tmp_path / "parts" / "weights.json").read_text())
    assert (card["steps"], card["patches"]) == (24, 96)
    assert card["hardware"].startswith("2 processes of 1 CPU thread, ")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_with_a_checkpoint_of_every_step(number, declare, tmp_path, monkeypatch):
    declare(checkpoint_every=1000)
    whole = quietly(folder=tmp_path / "whole")
    before = signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    try:
        with monkeypatch.context() as patch:
            signal_at(7, number, patch)
            with pytest.raises(KeyboardInterrupt, match="stopped at step 8 of 24"):
                quietly()
        assert signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler)
    finally:
        signal.signal(number, before)
    resumed = quietly()
    same_weights(resumed, whole)
    same_curve(resumed.curve, whole.curve)


def signal_at(step, number, patch):
    """Let the process signal itself before a step."""
    batch = batches.WhiteNoise.batch

    def signalling(self, now):
        if now == step:
            os.kill(os.getpid(), number)
        return batch(self, now)

    patch.setattr(batches.WhiteNoise, "batch", signalling)


def test_a_signal_that_is_ignored_does_not_stop_a_run(declare, monkeypatch):
    """As nohup ignores SIGHUP."""
    declare()
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        signal_at(7, signal.SIGHUP, monkeypatch)
        assert quietly().finished and signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("resumed", [False, True], ids=["no checkpoint yet", "after a checkpoint"])
def test_a_checkpoint_that_does_not_fit_is_one_clear_error_and_loses_nothing(resumed, declare, tmp_path, monkeypatch):
    declare()
    whole = quietly(folder=tmp_path / "whole")
    file = paths.runs_dir() / "a" / "smoke" / "checkpoint.pt"
    if resumed:
        with monkeypatch.context() as patch:
            patch.setattr(training, "time", Clock())
            quietly(minutes=0.2)
    before = file.read_bytes() if resumed else None
    with small_files(2000):
        with pytest.raises(OSError, match=r"could not write .*checkpoint.pt: File too large.*INVDENOISE_RESULTS"):
            quietly()
    assert (file.read_bytes() if file.exists() else None) == before
    assert not list(file.parent.glob(".*"))
    same_weights(quietly(), whole)


def test_draws_of_a_network_are_the_same_after_an_interruption(declare, tmp_path, monkeypatch):
    declare({}, None, "toy.Flow", RAMPS, None, validation=0, optimizer="adam", clip=1.0)
    loss_of, drawn = toy.Flow.training_loss, []

    def noisy_loss(network, image):
        drawn.append(torch.rand(()).item())
        loss, parts = loss_of(network, image + torch.randn_like(image))
        return loss, parts

    monkeypatch.setattr(toy.Flow, "training_loss", noisy_loss)
    both_ways(tmp_path, monkeypatch)
    assert drawn[:24] == drawn[24:] and len(set(drawn)) == 24


# -- what does not count -----------------------------------------------------------------------------------------------


def test_settings_of_a_launcher_change_nothing(declare, tmp_path, monkeypatch):
    """They come from a configuration file of the user that no recipe knows."""
    declare(precision="float32")
    expected = quietly(folder=tmp_path / "expected")
    settings = {"MIXED_PRECISION": "bf16", "GRADIENT_ACCUMULATION_STEPS": "4", "DYNAMO_BACKEND": "EAGER"}
    for name, value in settings.items():
        monkeypatch.setenv(f"ACCELERATE_{name}", value)
    AcceleratorState._reset_state(True)
    same_weights(quietly(folder=tmp_path / "set"), expected)
    assert os.environ["ACCELERATE_MIXED_PRECISION"] == "bf16"  # left as it was for others


def test_gradients_that_are_switched_off_are_on_in_training(declare, tmp_path):
    declare()
    expected = quietly(folder=tmp_path / "expected")
    with torch.no_grad():
        same_weights(quietly(folder=tmp_path / "off"), expected)


def test_a_resumed_run_uses_as_many_threads_as_before_and_the_card_tells_all_hardware(declare, monkeypatch):
    declare()
    with monkeypatch.context() as patch:
        patch.setattr(training, "time", Clock())
        assert not quietly(minutes=0.2).finished
        monkeypatch.delenv("OMP_NUM_THREADS")
        try:
            torch.set_num_threads(2)
            assert not quietly(minutes=0.2).finished and torch.get_num_threads() == 1
            monkeypatch.setenv("OMP_NUM_THREADS", "2")  # the user's word counts more
            torch.set_num_threads(2)
            monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
            assert not quietly(minutes=0.2).finished and torch.get_num_threads() == 2
        finally:
            torch.set_num_threads(1)
    card = json.loads((quietly().folder / "weights.json").read_text())
    first, second, third = card["hardware"].split(", then ")
    assert first.startswith("1 CPU thread, ") and second.startswith("2 CPU threads, ")
    assert second.endswith(", ONEDNN_MAX_CPU_ISA=AVX2") and third == first + ", ONEDNN_MAX_CPU_ISA=AVX2"


def test_steps_are_told_from_where_a_run_goes_on_to_its_end(declare):
    declare()
    told = []
    assert not quietly(minutes=1e-9, on_step=lambda *step: told.append(step)).finished
    assert told == [(0, 24)]
    quietly(on_step=lambda *step: told.append(step))
    assert told[1:] == [(step, 24) for step in range(25)]
    quietly(on_step=lambda *step: told.append(step))  # finished already
    assert len(told) == 26


@pytest.mark.parametrize(("threads", "load", "warned"), [(2, 5.0, True), (2, 2.4, False), (1, 5.0, False)])
def test_several_threads_on_a_busy_machine_are_told(threads, load, warned, declare, monkeypatch):
    declare()
    monkeypatch.setattr(training.os, "getloadavg", lambda: (load, 0, 0))
    monkeypatch.setattr(training.os, "cpu_count", lambda: 2)
    monkeypatch.setattr(training.torch, "get_num_threads", lambda: threads)
    lines = []
    train("a", "smoke", report=lines.append)
    found = [line for line in lines if "busy" in line]
    assert found == ["the machine is busy (load 5 on 2 cores); OMP_NUM_THREADS=1 may be faster than 2 threads"] * warned


# -- learning rates of their own ---------------------------------------------------------------------------------------


def test_a_frozen_parameter_does_not_move_and_the_card_says_so(declare):
    declare(lr_factors={"layers.0.*": 0.0}, ema=0.0, optimizer="adam")
    start = trainer_of("a").network.state_dict()
    run = quietly()
    for key, value in load_file(run.weights).items():
        assert torch.equal(value, start[key]) == key.startswith("layers.0."), key
    card = json.loads((run.folder / "weights.json").read_text())
    assert card["recipe"]["lr_factors"] == {"layers.0.*": 0.0}
    assert card["num_parameters"] == load_network("a", "smoke").num_parameters()


def test_other_factors_than_those_of_the_checkpoint_stop_a_resumed_run(declare, monkeypatch):
    declare(lr_factors={"layers.0.*": 0.5})
    with monkeypatch.context() as patch:
        patch.setattr(training, "time", Clock())
        assert not quietly(minutes=0.2).finished
    declare()
    with pytest.raises(ValueError, match=r"lr_factors = {'layers.0.\*': 0.5}, now it is {}"):
        quietly()


def test_a_factor_for_no_parameter_stops_before_the_first_run(declare, capsys):
    declare(lr_factors={"layer.0.*": 0.5})
    assert training.main(["a", "--budget", "smoke"]) == 1
    assert re.search(r"lr_factors has 'layer.0.\*'.*nearest are .*layers.0.(weight|bias)", capsys.readouterr().err)
    assert not paths.runs_dir().exists()


def test_batches_must_divide_among_the_processes(declare, tmp_path):
    declare()
    spec, accelerator = papers.network("a"), SimpleNamespace(num_processes=3)
    with pytest.raises(ValueError, match="batch_size is 4, not a multiple of 3 processes"):
        training._Trainer(spec, "smoke", spec.recipe("smoke"), tmp_path, accelerator, None)


def test_processes_stop_together(declare, tmp_path):
    """A process that has time left stops with one that has none, or it would wait for the other for ever."""
    declare()
    trainer = trainer_of("a")
    votes = []
    trainer.accelerator = SimpleNamespace(
        num_processes=2, device="cpu", reduce=lambda tensor, how: votes.append(tensor.item()) or tensor / 2
    )
    assert not trainer._all(True) and votes == [1]
    trainer.accelerator.reduce = lambda tensor, how: tensor
    assert trainer._all(True) and not trainer._all(False)


def trainer_of(name, budget="smoke"):
    spec = papers.network(name)
    return training._Trainer(spec, budget, spec.recipe(budget), paths.runs_dir() / name, Accelerator(cpu=True), None)


# -- what it refuses --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "key"),
    [
        ({"lr": 1e-4}, "lr = 0.003, now it is 0.0001"),
        ({"options": {"num_features": 5}}, "options = .*'num_features': 4.*'num_features': 5"),
        ({"sigma": 15}, r"sigmas = \(25.0, 25.0\), now it is \(15.0, 15.0\)"),
        ({"seed": 1}, "seed = 0, now it is 1"),
        ({"source": {"set": "embedded"}}, "source = .*'embedded-train'.*'embedded'"),
        ({"source": {"levels": "patch"}}, "source = .*now it is .*'levels': 'patch'"),
        ({"source": {"kind": "toy.Ramps"}}, "source = .*'batches.WhiteNoise'.*'toy.Ramps'"),
        ({"task": "toy.Brighten"}, "task = 'awgn.Denoise', now it is 'toy.Brighten'"),
    ],
    ids=["rate", "network", "sigma", "seed", "set", "levels", "source", "task"],
)
def test_a_checkpoint_of_other_settings_is_not_continued(changed, key, declare, monkeypatch):
    declare()
    monkeypatch.setattr(training, "time", Clock())
    stopped = quietly(minutes=0.5)
    assert not stopped.finished
    declare(**changed)
    before = (stopped.folder / "checkpoint.pt").read_bytes()
    with pytest.raises(ValueError, match=f"{key}.*delete"):
        quietly()
    assert (stopped.folder / "checkpoint.pt").read_bytes() == before


def test_a_checkpoint_older_than_a_setting_was_trained_with_its_default(declare, monkeypatch):
    declare()
    monkeypatch.setattr(training, "time", Clock())
    stopped = quietly(minutes=0.5)
    state = torch.load(stopped.folder / "checkpoint.pt", weights_only=True)
    assert state["settings"].pop("start_ratio") == 1 and state["settings"].pop("lr_factors") == {}
    del state["hardware"], state["threads"]
    torch.save(state, stopped.folder / "checkpoint.pt")
    declare(start_ratio=0.5)
    with pytest.raises(ValueError, match="start_ratio = 1.0, now it is 0.5"):
        quietly()
    declare()
    assert quietly().finished


@pytest.mark.parametrize("part", ["settings", "optimizer", "network", "curve", None])
def test_a_checkpoint_that_lacks_a_part_is_named(part, declare, monkeypatch):
    declare()
    monkeypatch.setattr(training, "time", Clock())
    file = quietly(minutes=0.5).folder / "checkpoint.pt"
    state = torch.load(file, weights_only=True)
    if part == "network":
        del state[part][next(iter(state[part]))]
    else:
        state = [] if part is None else {key: value for key, value in state.items() if key != part}
    torch.save(state, file)
    with pytest.raises(ValueError, match="checkpoint.pt is not a readable checkpoint.*delete it"):
        quietly()


def test_a_checkpoint_that_cannot_be_opened_is_not_called_damaged(declare, monkeypatch):
    declare()
    with monkeypatch.context() as patch:
        patch.setattr(training, "time", Clock())
        quietly(minutes=0.5)

    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(training.torch, "load", refuse)
    with pytest.raises(PermissionError, match="could not read .*checkpoint.pt: Permission denied") as found:
        quietly()
    assert "delete" not in str(found.value)


@pytest.mark.parametrize("name", ["../../../x", "a/b", "/x", "..", ""])
def test_a_name_that_leads_out_of_the_results_is_refused(name, declare, monkeypatch, tmp_path):
    declare()
    spec = papers.network("a")
    monkeypatch.setattr(papers, "network", lambda name: spec)
    before = {*tmp_path.parent.rglob("*")}
    with pytest.raises(ValueError, match="expected a plain name"):
        quietly(name)
    assert {*tmp_path.parent.rglob("*")} == before


def test_pictures_that_changed_stop_a_resumed_run(declare, monkeypatch):
    declare()
    monkeypatch.setattr(training, "time", Clock())
    quietly(minutes=0.5)
    other = datasets.load_pictures("embedded-train", limit=11)
    monkeypatch.setattr(batches, "load_pictures", lambda *_, **__: other)
    with pytest.raises(ValueError, match="data_sha256"):
        quietly()


def test_a_broken_checkpoint_is_named(declare):
    declare()
    folder = paths.runs_dir() / "a" / "smoke"
    folder.mkdir(parents=True)
    (folder / "checkpoint.pt").write_bytes(b"PK\x03\x04 not all there")
    with pytest.raises(ValueError, match="checkpoint.pt is not a readable checkpoint.*delete it"):
        quietly()


def test_a_second_run_at_the_same_time_is_refused(declare):
    declare()
    with exclusive(paths.runs_dir() / "a" / "smoke" / "lock", "the first"):
        with pytest.raises(
            RuntimeError, match=rf"training of a \(smoke\) is already running \(process {os.getpid()}\)"
        ):
            quietly()
        assert not list((paths.runs_dir() / "a").rglob("*.pt"))
    assert quietly().finished


@pytest.mark.parametrize("network", ["winnet.WINNet", "nenet.NENet"])
def test_networks_of_other_kinds_train_on_a_range_of_levels_and_resume(network, declare, tmp_path, monkeypatch):
    small = {"num_pairs": 1, "num_blocks": 1, "num_features": 4, "num_atoms": 15, "num_lista_layers": 1}
    estimates = network == "nenet.NENet"  # it has a squared error of its own, and no task
    declare(
        {} if estimates else small, [0, 55], network, task=None if estimates else "awgn.Denoise", optimizer="adam",
        validation=int(not estimates), clip=1.0,
    )  # fmt: skip
    whole, parts = both_ways(tmp_path, monkeypatch)
    card = json.loads(whole.weights.with_suffix(".json").read_text())
    assert card["sigma"] is None and card["sigmas"] == [0, 55]
    for row in whole.curve:
        assert ("val_psnr" in row, "squared_error" in row) == (not estimates, estimates)
        assert math.isfinite(row["loss"])
    assert ("validation_psnr" in card) == (not estimates)


def test_what_declares_no_task_is_not_validated(declare):
    declare({}, [0, 55], "nenet.NENet", task=None)
    with pytest.raises(
        ValueError, match="validation is 1, but a declares no task that could validate it; set validation: 0"
    ):
        quietly()


def test_what_estimates_one_level_from_a_batch_takes_no_level_a_patch(declare):
    declare({}, [0, 55], "nenet.NENet", {"levels": "patch"}, task=None, validation=0)
    with pytest.raises(ValueError, match="NENet estimates one noise level from a whole batch.*use levels: batch"):
        quietly()


def test_no_pictures_stand_in_for_those_of_training(declare, monkeypatch, tmp_path):
    monkeypatch.setenv("INVDENOISE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("DATA_MIRROR", str(tmp_path / "nowhere"))
    declare(source={"set": "bsd400"})
    with pytest.raises(DataUnavailable):
        quietly()


def test_too_many_validation_pictures_are_refused(declare):
    declare(validation=12)
    with pytest.raises(ValueError, match="cannot hold out 12 of 12 pictures of embedded-train"):
        quietly()


# -- one step ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def watched(monkeypatch):
    """Weights before each step; the loss of steps in `spoiled` is not a number, and that of steps in `exploding` far too large."""
    watched = SimpleNamespace(before=[], spoiled=(), exploding=())
    loss_of = DenoisingNetwork.training_loss

    def training_loss(network, clean, noisy, sigma):
        watched.before.append({key: value.clone() for key, value in network.state_dict().items()})
        loss, logs = loss_of(network, clean, noisy, sigma)
        step = len(watched.before) - 1
        return loss * (math.nan if step in watched.spoiled else 1e9 if step in watched.exploding else 1), logs

    monkeypatch.setattr(DenoisingNetwork, "training_loss", training_loss)
    return watched


def test_a_step_that_is_not_finite_is_skipped_and_counted(declare, watched):
    declare()
    watched.spoiled = (6, 7, 15)
    run = quietly()
    moved = [
        any(not torch.equal(now[key], after[key]) for key in now)
        for now, after in zip(watched.before, watched.before[1:], strict=False)
    ]
    assert [step for step, has in enumerate(moved) if not has] == [6, 7, 15]
    assert [row["skipped"] for row in run.curve] == [2, 3, 3]
    assert all(math.isfinite(row["loss"]) for row in run.curve)
    assert all(torch.isfinite(value).all() for value in load_file(run.weights).values())
    assert json.loads((run.folder / "weights.json").read_text())["skipped_steps"] == 3


@pytest.mark.parametrize(("skip_above", "left_out"), [(0, []), (1e6, [6])])
def test_a_step_whose_gradient_explodes_is_skipped_where_the_recipe_says_so(declare, watched, skip_above, left_out):
    declare(optimizer="adam", skip_above=skip_above)
    watched.exploding = (6,)
    run = quietly()
    moved = [
        any(not torch.equal(now[key], after[key]) for key in now)
        for now, after in zip(watched.before, watched.before[1:], strict=False)
    ]
    assert [step for step, has in enumerate(moved) if not has] == left_out
    assert run.curve[-1]["skipped"] == len(left_out)
    largest = max(row["loss"] for row in run.curve)
    assert largest > 1e3 if not left_out else largest < 1  # what is skipped is not in the mean either


def test_a_skipped_step_leaves_running_statistics_alone(declare, monkeypatch):
    declare({"depth": 3, "num_features": 4}, model="dncnn.DnCNN", optimizer="adam", ema=0)
    loss_of, count = DenoisingNetwork.training_loss, 0

    def overflow_once(network, clean, noisy, sigma):
        nonlocal count
        count += 1
        return loss_of(network, clean, noisy * (math.inf if count == 5 else 1), sigma)

    monkeypatch.setattr(DenoisingNetwork, "training_loss", overflow_once)
    run = quietly()
    assert run.curve[-1]["skipped"] == 1 and math.isfinite(run.curve[-1]["val_psnr"])
    assert all(torch.isfinite(value).all() for value in load_file(run.weights).values())
    assert load_file(run.weights)["layers.3.num_batches_tracked"] == 23


def test_training_that_came_to_nothing_is_an_error(declare, watched):
    declare()
    watched.spoiled = range(24)
    with pytest.raises(RuntimeError, match="training came to nothing, all 24 steps were skipped; lower .* delete"):
        quietly()
    assert not (paths.runs_dir() / "a" / "smoke" / "weights.safetensors").exists()


def test_skipped_steps_and_seconds_add_up_over_interruptions(declare, watched, monkeypatch):
    declare()
    monkeypatch.setattr(training, "time", Clock())
    watched.spoiled = (2,)
    first = quietly(minutes=0.7)
    assert 16 < first.step < 24  # what is left takes less time than what is done
    before = torch.load(first.folder / "checkpoint.pt", weights_only=True)["seconds"]
    card = json.loads((quietly().folder / "weights.json").read_text())
    assert card["skipped_steps"] == 1 and card["seconds"] > before


@pytest.mark.parametrize("decay", [0.8, 0])
def test_the_average_of_the_weights_is_what_is_kept(decay, declare, watched):
    declare(ema=decay)
    run = quietly()
    last = torch.load(run.folder / "checkpoint.pt", weights_only=True)["network"]
    states = [*watched.before[1:], last]
    average = states[0]
    for state in states[1:]:
        average = {key: decay * average[key] + (1 - decay) * state[key] for key in state}
    kept = load_file(run.weights)
    for key in kept:
        torch.testing.assert_close(kept[key], average[key], rtol=0, atol=1e-6)
    assert any(not torch.equal(kept[key], last[key]) for key in kept) == (decay > 0)


def test_the_curve_tells_loss_rate_and_validation(declare, watched):
    declare()
    run = quietly()
    assert [row["step"] for row in run.curve] == [8, 16, 24]
    assert [row["patches"] for row in run.curve] == [32, 64, 96]
    for row in run.curve:
        assert row["mse"] == pytest.approx(row["loss"])
        factor = schedule_factor(papers.network("a").recipe("smoke"), row["step"] - 1, 24, 1)
        assert row["lr"] == pytest.approx(3e-3 * factor)
    # The last picture is held out; its noise is that of (seed, "validation", name, sigma).
    network, picture = load_network("a", "smoke"), datasets.embedded("train").pictures[-1]
    noisy = awgn(picture.tensor(), 25, noise_generator(0, "validation", picture.name, 25))
    assert run.curve[-1]["val_psnr"] == pytest.approx(psnr(picture.tensor(), network.denoise(noisy, 25)), abs=1e-3)
    lines = (run.folder / "curve.csv").read_text().splitlines()
    assert lines[0] == "step,patches,seconds,lr,loss,mse,val_psnr,grad_norm,skipped" and len(lines) == 4


def test_patches_never_come_from_the_validation_pictures(declare):
    declare(validation=2)
    source = trainer_of("a").source
    pictures = datasets.embedded("train").pictures
    assert [picture.name for picture in source.held_out] == [picture.name for picture in pictures[-2:]]
    assert np.array_equal(source._planes[0][0].numpy(), np.concatenate([p.pixels.ravel() for p in pictures[:-2]]))


# -- any network, source and task --------------------------------------------------------------------------------------


def curve_file(run):
    """Columns and rows of `curve.csv`."""
    with open(run.folder / "curve.csv", newline="") as handle:
        rows = list(csv.DictReader(handle))
    return list(rows[0]), [{key: float(value) for key, value in row.items()} for row in rows]


@pytest.fixture
def flows(monkeypatch):
    """Every `toy.Flow` that is built while the test runs."""
    made, build = [], toy.Flow.__init__
    monkeypatch.setattr(toy.Flow, "__init__", lambda network: build(network) or made.append(network))
    return made


RAMPS = {"kind": "toy.Ramps", "set": "made", "steepest": 0.8}


def test_a_network_without_noise_level_and_task_trains_on_a_source_of_its_own(declare, flows, tmp_path, monkeypatch):
    declare({}, None, "toy.Flow", RAMPS, None, validation=0, optimizer="adam", clip=1.0)
    whole, parts = both_ways(tmp_path, monkeypatch)
    card = json.loads(whole.weights.with_suffix(".json").read_text())
    assert card["sigma"] is None and card["sigmas"] is None and card["num_parameters"] == 2
    assert card["source"] == RAMPS and (card["data"], card["steps"]) == ("ramps", 24)
    assert not [key for key in card if key.startswith("validation_")]
    assert whole.curve[-1]["loss"] < whole.curve[0]["loss"]
    # `prepare` saw the first batch, once in each process, before the average of the weights was begun.
    source = training.load_source(papers.network("a"), "smoke")
    assert len(flows) == 1 + len(parts)
    for network in flows:
        assert len(network.seen) == 1 and torch.equal(network.seen[0], source.batch(0)["image"])


def test_the_average_begins_with_what_prepare_has_set(declare, flows):
    declare({}, None, "toy.Flow", RAMPS, None, validation=0)
    trainer = trainer_of("a")
    image = trainer.source.batch(0)["image"]
    for network in (trainer.network, trainer.ema.module):
        assert network.shift.item() == pytest.approx(-image.mean().item())
        assert network.scale.item() == pytest.approx(1 / image.std().item())


def test_every_part_of_a_loss_is_a_column_of_the_curve(declare, monkeypatch):
    declare({}, None, "toy.Flow", RAMPS, None, validation=0)
    kept, loss_of = [], toy.Flow.training_loss

    def watched(network, image):
        loss, parts = loss_of(network, image)
        kept.append({"loss": loss.item(), **{key: torch.as_tensor(value).item() for key, value in parts.items()}})
        return loss, parts

    monkeypatch.setattr(toy.Flow, "training_loss", watched)
    run = quietly()
    columns, rows = curve_file(run)
    assert columns == [
        "step", "patches", "seconds", "lr", "loss", "prior", "log_det", "largest", "one", "grad_norm", "skipped",
    ]  # fmt: skip
    for number, row in enumerate(rows):  # means over the steps since the row before
        steps = kept[8 * number : 8 * (number + 1)]
        for key in ("loss", "prior", "log_det", "largest", "one"):
            assert row[key] == pytest.approx(sum(step[key] for step in steps) / 8, rel=1e-5), key
    assert len(rows) == 3 and rows[0]["loss"] == pytest.approx(rows[0]["prior"] - rows[0]["log_det"], rel=1e-5)


def test_a_part_that_is_not_in_every_step_is_the_mean_of_those_that_have_it(declare, monkeypatch):
    declare({}, None, "toy.Flow", RAMPS, None, validation=0)
    count, loss_of = 0, toy.Flow.training_loss

    def now_and_then(network, image):
        nonlocal count
        count += 1
        loss, _ = loss_of(network, image)
        return loss, {} if count % 2 else {"even": float(count)}

    monkeypatch.setattr(toy.Flow, "training_loss", now_and_then)
    columns, rows = curve_file(quietly())
    assert "even" in columns and [row["even"] for row in rows] == [5, 13, 21]


def test_a_part_may_not_take_the_place_of_a_column(declare, monkeypatch):
    declare({}, None, "toy.Flow", RAMPS, None, validation=0)
    monkeypatch.setattr(toy.Flow, "training_loss", lambda network, image: (network.scale.sum(), {"lr": 1.0}))
    with pytest.raises(ValueError, match="a logs 'lr', which is a column of every curve; choose another name"):
        quietly()


def test_the_first_metric_of_the_task_validates_whichever_way_is_better(declare, tmp_path, monkeypatch):
    """The error of `toy.Brighten` falls where PSNR rises; nothing is chosen by it."""
    declare({}, 25, "toy.Smooth", task="toy.Brighten", validation=2, ema=0.5, optimizer="adam", lr=1e-2, clip=1.0)
    whole, _ = both_ways(tmp_path, monkeypatch)
    columns, rows = curve_file(whole)
    assert columns[5:] == ["mse", "val_error", "grad_norm", "skipped"]
    network = load_network("a", weights=whole.weights)
    errors = []
    for picture in datasets.embedded("train").pictures[-2:]:
        clean = picture.tensor()
        noisy = awgn(clean, 25, noise_generator(0, "validation", picture.name, 25))
        errors.append(255 * (network.denoise(noisy, 25) - clean).abs().mean().item())
    assert rows[-1]["val_error"] == pytest.approx(sum(errors) / 2, rel=1e-5)
    assert rows[-1]["val_error"] < rows[0]["val_error"]
    card = json.loads(whole.weights.with_suffix(".json").read_text())
    assert card["validation_error"] == whole.curve[-1]["val_error"] and "validation_psnr" not in card
    lines = []
    train("a", "smoke", report=lines.append, folder=tmp_path / "told")
    assert f"a (smoke)  step 24  validation error {rows[-1]['val_error']:.2f} grey levels" in lines


def test_a_task_that_measures_no_single_case_cannot_validate(declare, monkeypatch):
    monkeypatch.setattr(toy.Generate, "metrics", ())
    declare(task="toy.Generate")
    with pytest.raises(ValueError, match="a: toy.Generate measures nothing on a single case; set validation: 0"):
        quietly()


def test_a_network_trains_on_pairs(declare, tmp_path, monkeypatch):
    """Batches have no noise level, and pictures are in colour; scenes are held out, not pairs."""
    pairs = {"kind": "batches.Pairs", "set": "embedded-pairs-train"}
    declare(
        {"channels": 3, "num_features": 4}, None, "toy.Smooth", pairs, None, validation=0, optimizer="adam", steps=32
    )
    whole, _ = both_ways(tmp_path, monkeypatch)
    assert whole.curve[-1]["mse"] == pytest.approx(whole.curve[-1]["loss"])
    assert whole.curve[-1]["loss"] < whole.curve[0]["loss"]
    kept = load_file(whole.weights)
    assert kept["layers.0.weight"].shape == (4, 3, 3, 3)
    assert json.loads(whole.weights.with_suffix(".json").read_text())["source"] == pairs


def test_an_option_that_the_source_lacks_is_named(declare):
    declare(source={"level": "patch"})
    with pytest.raises(ValueError, match="a: source batches.WhiteNoise with .*'level'.* cannot be made"):
        quietly()


# -- schedules --------------------------------------------------------------------------------------------------------


def test_paper_schedule_is_that_of_the_paper(monkeypatch):
    """Section III-A: batches of 32 of 9e4 patches, 30 epochs, 1e-3, from epoch 20 on 1e-4."""
    black = [Picture(str(number), np.zeros((180, 180), np.uint8)) for number in range(400)]
    pictures = PictureSet("bsd400", "bsd400", tuple(black), "")
    monkeypatch.setattr(batches, "load_pictures", lambda name, stand_in: {"bsd400": pictures}[name])
    trainer = trainer_of("dninn-st-s25", "paper")
    assert trainer.num_steps == round(30 * 90_000 / 32)
    assert trainer.source.patch_size == 40
    rates = {}
    for step in (0, 56_249, 56_250, 84_374):  # epoch 20 begins at 20 * 90,000 / 32
        trainer.step = step
        trainer._set_lr()
        rates[step] = trainer.optimizer.param_groups[0]["lr"]
    assert rates == pytest.approx({0: 1e-3, 56_249: 1e-3, 56_250: 1e-4, 84_374: 1e-4}, rel=1e-9)


def test_onecycle_warms_up_then_falls_along_a_cosine(declare):
    declare(warmup=4, final=0.1)
    recipe = papers.network("a").recipe("smoke")
    factors = [schedule_factor(recipe, step, 24, 1) for step in range(25)]
    assert factors[:5] == pytest.approx([0.25, 0.5, 0.75, 1, 1])
    assert factors[14] == pytest.approx(0.1 + 0.9 / 2)  # half way
    assert factors[24] == pytest.approx(0.1)
    assert all(a > b for a, b in zip(factors[4:], factors[5:], strict=False))


def test_each_milestone_multiplies_by_gamma(declare):
    declare(schedule="steps", milestones=[2, 3], gamma=0.5)
    recipe = papers.network("a").recipe("smoke")
    factors = [schedule_factor(recipe, step, 24, 2.5) for step in (0, 4, 5, 7, 8, 20)]
    assert factors == [1, 1, 0.5, 0.5, 0.25, 0.25]


def test_epochs_become_steps(declare):
    declare(sampling="grid", epochs=2, steps=None, batch_size=32)
    trainer = trainer_of("a")
    positions = 11 * len(range(0, 180 - 16 + 1, 10)) ** 2
    assert trainer.num_steps == round(2 * positions / 32)


# -- cards and starts -------------------------------------------------------------------------------------------------


def test_the_card_says_where_the_weights_come_from(declare):
    declare()
    run = quietly()
    card = json.loads((run.folder / "weights.json").read_text())
    assert card["experiment"] == "a" and card["budget"] == "smoke" and card["sigma"] == 25
    assert card["model"] == "toy.Smooth" and card["options"] == FEW and card["started_from"] is None
    assert card["steps"] == 24 and card["patches"] == 96 and card["skipped_steps"] == 0
    assert card["recipe"]["lr"] == 3e-3 and card["recipe"]["seed"] == 0
    assert card["data"] == "embedded-train" and card["data_sha256"] == datasets.embedded("train").sha256
    assert card["validation_psnr"] == run.curve[-1]["val_psnr"]
    assert card["num_parameters"] == load_network("a", "smoke").num_parameters()
    assert card["torch"] == torch.__version__


def test_a_finished_run_keeps_its_card_and_mends_its_weights(declare, monkeypatch):
    """The card names the commit that trained the weights, whatever is checked out when the command is given again."""
    declare()
    run = quietly()
    card, weights = (run.folder / "weights.json").read_bytes(), run.weights.read_bytes()
    monkeypatch.setattr(training, "commit", lambda: "another")
    assert quietly().finished and (run.folder / "weights.json").read_bytes() == card
    for spoil in (lambda: run.weights.write_bytes(weights[:-9]), run.weights.unlink):
        spoil()
        assert quietly().finished and run.weights.read_bytes() == weights
    (run.folder / "weights.json").unlink()
    quietly()
    assert json.loads((run.folder / "weights.json").read_text()).keys() == json.loads(card).keys()


def test_a_warm_start_takes_the_other_weights_and_the_card_says_so(declare, watched):
    declare(**DNINN)
    with pytest.raises(FileNotFoundError, match="no weights for a .*`make train EXPERIMENT=a BUDGET=laptop`"):
        quietly("b", "laptop")
    first = quietly("a", "laptop")
    watched.before.clear()
    run = quietly("b", "laptop")
    card, start = (json.loads((folder / "weights.json").read_text()) for folder in (run.folder, first.folder))
    assert card["started_from"] == f"a ({start['sha256'][:12]})"
    kept, begun = load_file(first.weights), watched.before[0]
    for key in kept:
        ratio = 2 if "shrinkers" in key else 1  # thresholds in proportion to the noise, 50 and 25
        torch.testing.assert_close(begun[key], ratio * kept[key])
    assert json.loads((quietly("b", "smoke").folder / "weights.json").read_text())["started_from"] is None


def test_a_start_from_a_blind_network_does_without_its_estimator(declare, tmp_path, monkeypatch):
    small = {"num_pairs": 1, "num_blocks": 1, "num_features": 4, "num_atoms": 16, "num_lista_layers": 1}
    source = {**toy.WHITE, "levels": "patch"}
    blind = {"model": "winnet.WINNet", "options": small, "sigma": [0, 55], "source": source, "task": "awgn.Denoise"}
    toy.declare(
        tmp_path, monkeypatch, recipe={"clip": 1.0},
        networks={
            "a": {**blind, "parts": {"estimator": "judge"}}, "b": {**blind, "sigma": 50, "start": "a"},
            "judge": {"model": "nenet.NENet", "sigma": [0, 55]},
        },
    )  # fmt: skip
    quietly("a", "laptop")
    with pytest.raises(FileNotFoundError, match="no weights for judge"):
        load_network("a", "laptop")
    card = json.loads((quietly("b", "laptop").folder / "weights.json").read_text())
    assert card["started_from"].startswith("a (") and card["sigma"] == 50


def test_weights_taken_over_move_in_proportion_to_their_own_rate(declare):
    def moved(**settings):
        declare(**DNINN, **settings, ema=0.0)
        first = load_file(quietly("a", "laptop").weights)
        ours = load_file(quietly("b", "laptop").weights)
        kernels = [key for key in first if "linns" in key and first[key].ndim == 4]
        return sum((ours[key] - first[key]).square().sum().item() for key in kernels) ** 0.5

    usual = moved()
    shutil.rmtree(paths.runs_dir())
    slow = moved(start_ratio=0.01)
    assert 0 < slow < 0.05 * usual
    shutil.rmtree(paths.runs_dir())
    assert moved(start_ratio=0.0) == 0


# -- command line -----------------------------------------------------------------------------------------------------


def test_command_line_tells_how_it_ended(declare, monkeypatch, capsys, tmp_path):
    declare()
    assert training.main(["a", "nonesuch", "--budget", "smoke"]) == 1
    assert "error: no network 'nonesuch'" in capsys.readouterr().err
    assert not paths.runs_dir().exists()  # a wrong name stops before the first run
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "time", Clock())
        assert training.main(["a", "--budget", "smoke", "--minutes", "0.5"]) == 3
        assert "time is up at step" in capsys.readouterr().out
        with patch.context() as inner:
            inner.setattr(training, "train", lambda *_, **__: SimpleNamespace(finished=True))
            assert training.main(["a", "b", "--budget", "smoke", "--minutes", "0.02"]) == 3
        assert "time is up before b; the same command goes on from there" in capsys.readouterr().out
    assert training.main(["a", "--budget", "smoke", "--out", str(tmp_path / "out")]) == 0
    assert "going on at step" in capsys.readouterr().out
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["a.curve.csv", "a.json", "a.safetensors"]
    assert load_network("a", weights=tmp_path / "out" / "a.safetensors").card["experiment"] == "a"


@pytest.mark.parametrize("variable", ["TORCHELASTIC_RUN_ID", "ACCELERATE_MIXED_PRECISION"])
def test_time_that_is_up_is_no_failure_to_a_launcher(variable, declare, monkeypatch, capsys):
    declare()
    monkeypatch.setenv(variable, "no")
    monkeypatch.setattr(training, "time", Clock())
    assert training.main(["a", "--budget", "smoke", "--minutes", "0.5"]) == 0
    assert "time is up at step" in capsys.readouterr().out


def test_a_folder_that_cannot_be_written_stops_before_training(declare, tmp_path, capsys, monkeypatch):
    declare()
    (tmp_path / "file").write_text("no folder")
    assert training.main(["a", "--budget", "smoke", "--out", str(tmp_path / "file" / "out")]) == 1
    assert re.match("error: .*could not write .*a.safetensors: .*choose a writable folder", capsys.readouterr().err)
    assert not paths.runs_dir().exists()
    monkeypatch.setenv("HOME", str(tmp_path))
    assert training.main(["a", "--budget", "smoke", "--out", "~/out"]) == 0
    assert (tmp_path / "out" / "a.safetensors").exists()


def test_progress_that_nobody_can_read_stops_nothing(declare, monkeypatch):
    """As after the terminal was closed."""
    declare()
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as broken:
        monkeypatch.setattr(sys, "stdout", broken)
        assert training.main(["a", "--budget", "smoke"]) == 0
        monkeypatch.undo()
        with contextlib.suppress(BrokenPipeError):
            broken.close()


@pytest.mark.parametrize("minutes", ["0", "-5", "nan", "inf", "soon"])
def test_a_time_limit_must_be_a_number_above_0(minutes, declare, capsys):
    declare()
    with pytest.raises(SystemExit):
        training.main(["a", f"--minutes={minutes}"])
    assert "argument --minutes" in capsys.readouterr().err


def test_a_budget_that_one_of_several_lacks_stops_before_the_first(declare, capsys):
    declare(ablations={"of": "a", "common": {}, "changes": {"none": {}}})
    assert training.main(["a", "ablation-none", "--budget", "smoke"]) == 1
    assert "budget is 'smoke'; expected one of laptop" in capsys.readouterr().err
    assert not paths.runs_dir().exists()


def test_progress_names_the_loss_of_the_last_steps(declare):
    declare()
    lines = []
    train("a", "smoke", report=lines.append)
    last = [line for line in lines if "step 24/24" in line]
    assert len(last) == 1 and "nan" not in last[0] and "skipped 0" in last[0]


def test_a_failure_under_a_launcher_is_one_message(monkeypatch, capsys):
    """Launchers set WORLD_SIZE; a run that stops before it joins the others has no group to leave."""
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setattr(sys, "argv", ["training", "nonesuch"])
    monkeypatch.delitem(sys.modules, "invdenoise.training")
    with pytest.raises(SystemExit) as stop:
        runpy.run_module("invdenoise.training", run_name="__main__")
    assert stop.value.code == 1 and "no network 'nonesuch'" in capsys.readouterr().err


@pytest.mark.slow
def test_a_trained_network_denoises(declare):
    declare(**DNINN, patch_size=24, batch_size=8, steps=60)
    quietly("a", "smoke")
    network, fresh = load_network("a", "smoke"), papers.network("a").build()
    picture = datasets.embedded("test").pictures[0].tensor()
    noisy = awgn(picture, 25, noise_generator(0, "embedded", "held out", 25))
    gains = [psnr(picture, denoiser.denoise(noisy, 25)) - psnr(picture, noisy) for denoiser in (network, fresh)]
    assert gains[0] > 1 and gains[0] > gains[1] + 0.5, gains


def test_every_declared_network_can_be_trained_on_what_its_source_gives():
    declared = {**papers.networks(), **papers.ablations()}
    kinds = {(spec.model, spec.source.kind): name for name, spec in declared.items() if "smoke" in spec.recipes}
    assert len(kinds) >= 6
    for (model, kind), name in kinds.items():
        batch = load_source(declared[name], "smoke").batch(0)
        loss = inspect.signature(papers.resolve(model, "models").training_loss)
        try:
            loss.bind(None, **batch)
        except TypeError as error:
            pytest.fail(f"{name}: {model}.training_loss does not take a batch of {kind} ({error})")
