"""The benchmark: fair turns, the right median, memory that is what it says, and an exit status that tells."""

from __future__ import annotations

import pandas as pd
import pytest

from invdenoise import bench, paths
from invdenoise.kernels import LIFTING_NET, Kernel
from invdenoise.models import DnCNN, DnINN


def row(quantity: str, **entries) -> dict:
    return bench._row(quantity, "ours", "fast", 1.25, "s") | entries


@pytest.fixture
def measured(monkeypatch, tmp_path):
    """A function that runs the command on made-up measurements; returns its exit status and the table it wrote."""
    monkeypatch.setenv("INVDENOISE_RESULTS", str(tmp_path))

    def run(*rows: dict) -> tuple[int, pd.DataFrame]:
        def nothing():
            return []

        def made_up():
            return list(rows)

        for name in ("training_step", "winnet", "training_memory"):
            monkeypatch.setattr(bench, name, nothing)
        monkeypatch.setattr(bench, "inference", made_up)
        return bench.main([]), pd.read_csv(tmp_path / "bench.csv")

    return run


def test_contenders_take_turns_after_two_runs_to_warm_up():
    calls = []
    seconds = bench.take_turns({name: lambda name=name: calls.append(name) for name in "abc"}, rounds=3)
    assert "".join(calls) == "aabbcc" + "abc" * 3
    assert list(seconds) == ["a", "b", "c"]
    assert all(len(values) == 3 and min(values) >= 0 for values in seconds.values())


def test_seconds_are_of_the_contender_alone(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(bench.time, "perf_counter", lambda: now[0])

    def lasting(seconds):
        def run():
            now[0] += seconds

        return run

    found = bench.take_turns({"slow": lasting(3.0), "fast": lasting(2.0)}, rounds=2)
    assert found == {"slow": [3.0, 3.0], "fast": [2.0, 2.0]}
    assert bench.ratio(found, "slow", "fast") == 1.5


def test_ratio_is_the_median_of_each_round_s_own():
    # Rounds 4/2, 9/3, 10/1: one slow moment of the machine moves neither side alone.
    assert bench.ratio({"slow": [4.0, 9.0, 10.0], "fast": [2.0, 3.0, 1.0]}, "slow", "fast") == 3.0
    with pytest.raises(ValueError):
        bench.ratio({"slow": [4.0, 9.0], "fast": [2.0]}, "slow", "fast")


def test_memory_of_a_step_grows_with_the_pairs_unless_they_are_recomputed(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(paths.ROOT / "lib"))
    ordinary = bench._peak_memory(2, constant=False) / bench._peak_memory(1, constant=False)
    constant = bench._peak_memory(2, constant=True) / bench._peak_memory(1, constant=True)
    assert ordinary > 1.7  # 1.93 where it was measured: all but the pictures doubles
    assert constant < 1.1


@pytest.mark.parametrize(
    ("kernels", "bfloat16", "compiler", "dninn", "dncnn"),
    [
        (("bfloat16", "float32"), True, True, "bfloat16 in own kernel", "compiled bfloat16"),
        (("float32",), True, True, "float32 in own kernel", "compiled bfloat16"),
        (("float32",), False, True, "float32 in own kernel", "compiled float32"),
        ((), False, True, "compiled float32", "compiled float32"),
        ((), True, False, "bfloat16", "bfloat16"),
    ],
)
def test_the_setting_is_named_as_it_runs(monkeypatch, kernels, bfloat16, compiler, dninn, dncnn):
    there = [LIFTING_NET[precision] for precision in kernels]
    monkeypatch.setattr(Kernel, "available", lambda self: self in there)
    monkeypatch.setattr("invdenoise.provenance._has_bfloat16", lambda _: bfloat16)
    monkeypatch.setattr(bench, "can_compile", lambda: compiler)
    assert bench._fastest_setting(DnINN()) == dninn
    assert bench._fastest_setting(DnCNN()) == dncnn


@pytest.mark.parametrize("met, status", [(True, 0), (False, 1)])
def test_exit_status_tells_whether_targets_are_met(measured, met, status):
    rows = row("speed", target="at most 0.7", met=True), row("cost", target="within 0.005", met=met), row("memory")
    found, table = measured(*rows)
    assert found == status
    assert list(table["met"].dropna().map(str)) == ["True", str(met)]


def test_measurements_are_written_with_the_machine_and_the_commit(measured):
    _, table = measured(row("speed", reference="theirs", ratio=0.5))
    assert tuple(table.columns) == (*bench.COLUMNS, "hardware", "commit")
    assert table.loc[0, ["quantity", "subject", "setting", "value", "unit", "reference", "ratio"]].to_list() == [
        "speed", "ours", "fast", 1.25, "s", "theirs", 0.5
    ]  # fmt: skip
    assert "CPU thread" in table.loc[0, "hardware"]


def test_measurements_without_targets_miss_none(measured):
    assert measured(row("speed"))[0] == 0
