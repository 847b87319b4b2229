"""What a method costs, of networks worked out by hand."""

from __future__ import annotations

import math

import pytest
import toy

from invdenoise import methods, papers, paths
from invdenoise.costs import cost_of, crops_seen
from invdenoise.data.fetch import DataUnavailable
from invdenoise.weights import save_weights, weights_path


@pytest.fixture(autouse=True)
def declared(tmp_path, monkeypatch):
    networks = {
        "gray": {"model": "toy.Smooth", "sigma": 25},
        "colour": {"model": "toy.Smooth", "options": {"channels": 3}},
    }
    authors = {"theirs": {"file": "weights/a.pth", "read": "toy.read_flow"}}
    toy.declare(tmp_path, monkeypatch, networks, authors=authors)
    monkeypatch.setattr(paths, "RELEASED_WEIGHTS", tmp_path / "released")


@pytest.mark.parametrize(("method", "channels"), [("gray", 1), ("colour", 3)])
def test_a_network_costs_its_convolutions_at_every_pixel(method, channels):
    found = cost_of(method, channels, 16)
    weights = 2 * 9 * channels * 2  # two convolutions of 3 x 3, between the channels and two features
    assert found["macs_per_pixel"] == weights and found["parameters"] == weights + 2 + channels
    assert found["label"] == f"network `{method}`" and found["title"] == "network" and found["method"] == method


def test_what_is_no_network_costs_nothing_that_is_counted():
    found = cost_of("nlm", 1, 16)
    assert found["label"] == found["title"] == methods.load_denoiser("nlm").display_name
    assert math.isnan(found["parameters"]) and math.isnan(found["macs_per_pixel"])


def test_authors_weights_that_cannot_be_had_are_called_by_their_name(monkeypatch):
    def unreachable(*_):
        raise DataUnavailable("no network")

    monkeypatch.setattr(methods, "fetch", unreachable)
    found = cost_of("theirs", 1, 16)
    assert found["label"] == "theirs" and math.isnan(found["macs_per_pixel"])


def test_crops_come_from_the_card():
    assert crops_seen("nlm") == crops_seen("theirs") == crops_seen("gray") == ""
    card = {"budget": "laptop", "patches": 12000, "started_from": None}
    for name, start in (("gray", None), ("colour", "gray (0123)")):
        network = papers.network(name).build()
        save_weights(network, weights_path(name), {**card, "experiment": name, "started_from": start})
    assert (crops_seen("gray"), crops_seen("colour")) == ("12,000", "12,000 +")
