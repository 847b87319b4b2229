"""What the notebooks on short runs share: a row a run, and what the runs are."""

from __future__ import annotations

import pytest
import toy
from made_up import write_curve

from invdenoise import papers, paths
from invdenoise.report.shortruns import networks_of, notes_of, recipe_of, short_runs

NETWORK = {"a": {"model": "toy.Smooth", "sigma": 25}}
ABLATIONS = {
    "of": "a",
    "common": {"steps": 8},
    "seeds": [0, 1],
    "changes": {"none": {}, "wide": {"options": {"num_features": 3}}},
}


@pytest.fixture
def paper(tmp_path, monkeypatch):
    """A toy paper with two changes and two seeds, of which one run is finished."""
    monkeypatch.setattr(paths, "RELEASED", tmp_path / "released")
    toy.declare(tmp_path, monkeypatch, NETWORK, ablations=ABLATIONS)
    return papers.papers()["toy"]


def test_each_change_and_seed_has_a_row_finished_or_not(paper, tmp_path):
    run = paper.declared.ablations.runs("wide")[1]
    write_curve(tmp_path / "runs" / run / "laptop" / "curve.csv", run, psnr=28.5)
    runs = short_runs(paper, ["wide", "none"], tmp_path)
    assert runs[["change", "seed"]].values.tolist() == [["wide", 0], ["wide", 1], ["none", 0], ["none", 1]]
    assert runs["psnr"].notna().tolist() == [False, True, False, False]
    assert runs["psnr"][1] == 28.5 and runs["run"].tolist() == list(paper.ablations)[2:] + list(paper.ablations)[:2]
    assert notes_of(runs, "whole pictures")[::2] == [
        "- finished: 1 of 4 runs", "- validation: 1 whole pictures held out of training, after the last step"
    ]  # fmt: skip
    assert recipe_of(runs).steps == 8


def test_nothing_finished_names_the_command(paper, tmp_path):
    assert notes_of(short_runs(paper, ["none"], tmp_path))[0] == "- finished: 0 of 2 runs; **not run: make ablations**"


def test_an_unknown_change_is_named(paper, tmp_path):
    with pytest.raises(ValueError, match="toy declares no change 'narrow'; there are none, wide"):
        short_runs(paper, ["narrow"], tmp_path)


def test_a_change_has_its_own_network(paper, tmp_path):
    found = networks_of(short_runs(paper, ["none", "wide"], tmp_path))
    assert [network.layers[0].out_channels for network in found.values()] == [2, 3] and list(found) == ["none", "wide"]
