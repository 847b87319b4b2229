"""LINN's tables and claims: the printed numbers, typed from the paper a second time, and what stands beside them."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from made_up import write_curve

from invdenoise import papers, paths, plan, weights
from invdenoise.report.claims import decide
from invdenoise.report.compare import Results, beside, compare
from invdenoise.report.published import MODERATE, load_published, published_value
from invdenoise.report.tables import family
from invdenoise.tasks.metrics import PSNR

TABLE, TALK = "Table I", "slide: Simulation Results"
SIZES = {
    "bm3d": None, "wnnm": None, "epll": None, "tnrd": 26_600, "dncnn": 556_000, "dninn-st": 134_700, "dninn-lista": 135_200,
    "dninn-st-2scale": 269_300, "dninn-lista-2scale": 270_300,
}  # fmt: skip
LABELS = [
    "BM3D",
    "WNNM",
    "EPLL",
    "TNRD",
    "DnCNN",
    "DnINN-ST",
    "DnINN-LISTA",
    "DnINN-ST, 2 scales",
    "DnINN-LISTA, 2 scales",
]


@pytest.fixture
def linn() -> papers.Paper:
    return papers.papers()["linn"]


@pytest.mark.parametrize(
    "method, psnr",
    [
        ("bm3d", (31.07, 28.57, 25.63)),
        ("wnnm", (31.37, 28.83, 25.87)),
        ("epll", (31.21, 28.68, 25.67)),
        ("tnrd", (31.42, 28.92, 25.97)),
        ("dncnn", (31.70, 29.19, 26.20)),
        ("dninn-st", (31.58, 29.08, 26.14)),
        ("dninn-lista", (31.59, 29.09, 26.14)),
        ("dninn-st-2scale", (31.62, 29.14, 26.19)),
        ("dninn-lista-2scale", (31.63, 29.14, 26.20)),
    ],
)
@pytest.mark.parametrize("place", [TABLE, TALK])
def test_table_1_in_paper_and_talk(place, method, psnr):
    for sigma, value in zip((15, 25, 50), psnr, strict=True):
        assert published_value("linn", place, method, dataset="bsd68", sigma=sigma) == value
    sizes = load_published("linn").query("place == @place and method == @method and metric == 'parameters'")["value"]
    assert sizes.tolist() == ([] if SIZES[method] is None else [SIZES[method]])


def test_numbers_outside_the_table():
    assert published_value("linn", "Figure 4", "dninn-lista", metric="psnr") == 26.75
    assert published_value("linn", "Section III-A", "dninn-st") == 3
    assert published_value("linn", "Section III-A", "dninn-lista") == 495
    assert published_value("linn", "Section III-D", "dninn-st", metric="claim_db") == 1
    for place in ("Abstract", "Section III-B", "Section IV", "slide: Conclusions"):
        assert published_value("linn", place, "dninn", metric="claim_ratio") == 1 / 4


@pytest.mark.parametrize("place", [TABLE, TALK])
def test_the_table_has_the_rows_of_the_paper_in_its_order(linn, tmp_path, place):
    (table,) = beside(linn, place, Results(tmp_path))
    assert [label for label, _ in table.rows] == LABELS
    assert table.columns == ("σ = 15", "σ = 25", "σ = 50")
    methods = [cells[0]["method"] for _, cells in table.rows]
    assert methods == list(SIZES) == load_published("linn").query("place == @place")["method"].unique().tolist()


def test_both_dncnns_stand_beside_the_printed_one(linn):
    assert linn.rows(TABLE)["dncnn"].ours == {"dncnn": "", "dncnn-authors": "authors' weights"}
    assert linn.rows(TALK) == linn.rows(TABLE)


def test_claims_are_about_what_is_scored(linn):
    scored = {
        name: {known for runs in score.runs for method in runs.methods for known in (method, family(method))}
        for name, score in linn.scores.items()
    }
    for name, claim in linn.claims.items():
        pairs = (*claim.test.paired, *filter(None, [claim.test.ratio]))
        methods = {method for pair in pairs for method in pair}
        assert methods - scored[claim.test.reads] == set(), name


@pytest.mark.skipif(not (paths.RELEASED / "scores" / "linn").exists(), reason="nothing released yet: make release")
def test_released_networks_have_the_printed_size_and_one_scale_has_the_printed_quality(linn):
    table = compare(linn, TABLE, paths.RELEASED)
    sizes = table[(table["metric"] == "parameters") & (table["family"] != "")]
    assert set(sizes["verdict"]) == {"reproduced"} and len(sizes) >= 5
    one_scale = table[
        (table["metric"] == "psnr") & table["family"].isin(["dninn-st", "dninn-lista", "bm3d", "dncnn-authors"])
    ]
    assert len(one_scale) == 12 and set(one_scale["verdict"]) <= {"exceeded", "reproduced"}
    assert pd.notna(one_scale["difference"]).all()


@pytest.mark.skipif(not (paths.RELEASED / "ablations").exists(), reason="nothing released yet: make release")
def test_the_largest_miss_that_a_small_training_excuses_is_what_longer_training_brought():
    """The same network, recipe and held-out pictures; both trainings end with the fall of the learning rate."""
    short = pd.read_csv(paths.RELEASED / "ablations" / "ablation-none.csv").iloc[-1]
    card = weights.read_card(weights.weights_path("dninn-st-s25"))
    assert card["patches"] == 35 * short["patches"]
    gain = card["validation_psnr"] - short["val_psnr"]
    assert gain == pytest.approx(0.51, abs=0.005)
    assert 0 < gain - MODERATE * PSNR.close < 0.05


@pytest.mark.skipif(not (paths.RELEASED / "scores" / "linn").exists(), reason="nothing released yet: make release")
def test_figure_5_is_decided_against_each_dncnn_by_size_and_sign(linn):
    authors, ours = (decide(linn, name, paths.RELEASED) for name in ("unseen-stronger", "unseen-stronger-ours"))
    assert authors.verdict != "holds" or authors.lower >= 0.5
    assert ours.upper < 0 and ours.verdict == "does not hold"  # our DnCNN is better there
    assert "dncnn-s50 (" in ours.trained and "dninn-st-s50 (" in ours.trained  # both were trained here on few patches


# --- Ablations ---


@pytest.fixture
def released(tmp_path, monkeypatch) -> Path:
    """A release with two ablations."""
    for name in ("ablation-none", "ablation-adam"):
        write_curve(tmp_path / "released" / "ablations" / f"{name}.csv", name)
    monkeypatch.setattr(paths, "RELEASED", tmp_path / "released")
    return tmp_path / "released"


def test_ablations_count_once_they_are_finished(tmp_path):
    runs = {name: tmp_path / "runs" / name / "laptop" / "curve.csv" for name in papers.ablations()}
    write_curve(runs["ablation-small-batches"], "ablation-small-batches")  # other steps than most
    write_curve(runs["ablation-none"], "ablation-none", part=0.9)
    write_curve(runs["ablation-seed"], "ablation-seed", part=0.0)  # not yet validated
    write_curve(tmp_path / "runs" / "ablation-adam" / "smoke" / "curve.csv", "ablation-adam")
    assert plan.finished_ablations(tmp_path) == {"ablation-small-batches": runs["ablation-small-batches"]}


def test_own_ablations_are_shown_once_there_are_all_of_them(tmp_path, released):
    *names, last = papers.papers()["linn"].ablations
    own = {name: write_curve(tmp_path / "runs" / name / "laptop" / "curve.csv", name) for name in names}
    shown = plan.ablation_curves(tmp_path)
    assert shown == {name: released / "ablations" / f"{name}.csv" for name in ("ablation-none", "ablation-adam")}
    own[last] = write_curve(tmp_path / "runs" / last / "laptop" / "curve.csv", last)
    assert plan.ablation_curves(tmp_path) == own
    assert list(plan.ablation_curves(tmp_path)) == list(papers.papers()["linn"].ablations)
    assert plan.ablation_curves(released) == shown  # asked for by name


def test_ablations_of_one_paper_do_not_wait_for_those_of_another(tmp_path, released):
    name, *_ = papers.papers()["invdn"].ablations
    own = write_curve(tmp_path / "runs" / name / "laptop" / "curve.csv", name)
    shown = plan.ablation_curves(tmp_path)
    assert shown[name] == own and shown["ablation-none"] == released / "ablations" / "ablation-none.csv"
    assert plan.ablation_curves(tmp_path, "invdn") == {name: own} and name not in plan.ablation_curves(tmp_path, "linn")


def test_some_of_the_ablations_are_shown_where_none_were_released(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "RELEASED", tmp_path / "released")
    assert plan.ablation_curves(tmp_path) == {}
    own = write_curve(tmp_path / "runs" / "ablation-none" / "laptop" / "curve.csv", "ablation-none")
    assert plan.ablation_curves(tmp_path) == {"ablation-none": own}
