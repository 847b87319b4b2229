"""WINNet's table of blind denoising: the numbers of the slides, typed a second time, and what stands beside them."""

from __future__ import annotations

import pytest

from invdenoise import papers, paths
from invdenoise.report.compare import UNEXPLAINED, Results, beside, compare, exceeded
from invdenoise.report.published import load_published

PLACE = "slide: Experimental Results — Blind denoising"
SIGMAS = [5, 25, 45, 65, 85, 105, 125, 145]
LABELS = ["DnCNN-B", "BUIFD", "BF-CNN", "WINNet"]


@pytest.fixture
def winnet() -> papers.Paper:
    return papers.papers()["winnet"]


@pytest.mark.parametrize(
    "dataset, method, psnr",
    [
        ("bsd68", "dncnn-b", [37.75, 29.15, 26.62, 23.00, 16.07, 13.19, 11.68, 10.79]),
        ("bsd68", "buifd", [37.41, 28.76, 25.61, 23.07, 18.81, 15.98, 14.45, 13.52]),
        ("bsd68", "bf-cnn", [37.73, 29.11, 26.58, 25.12, 24.10, 23.33, 22.70, 22.18]),
        ("bsd68", "winnet-blind", [37.82, 29.13, 26.66, 25.23, 24.23, 23.46, 22.81, 22.23]),
        ("set12", "dncnn-b", [37.88, 30.38, 27.68, 23.52, 15.95, 13.18, 11.78, 10.92]),
        ("set12", "buifd", [37.34, 30.18, 27.01, 24.27, 19.41, 16.28, 14.66, 13.73]),
        ("set12", "bf-cnn", [37.81, 30.33, 27.58, 25.83, 24.54, 23.55, 22.74, 22.07]),
        ("set12", "winnet-blind", [38.22, 30.33, 27.72, 26.03, 24.77, 23.76, 22.94, 22.24]),
    ],
)
def test_blind_denoising_as_printed(dataset, method, psnr):
    table = load_published("winnet").query("dataset == @dataset and method == @method")
    assert table["sigma"].tolist() == SIGMAS
    assert table["value"].tolist() == psnr


def test_the_tables_have_the_rows_and_levels_of_the_slide(winnet, tmp_path):
    tables = beside(winnet, PLACE, Results(tmp_path))
    assert [table.title for table in tables] == ["BSD68", "Set12"]
    for table in tables:
        assert table.columns == tuple(f"σ = {sigma}" for sigma in SIGMAS)
        assert [label for label, _ in table.rows] == LABELS
        assert {cell["verdict"] for _, cells in table.rows for cell in cells} == {"not run"}


def test_authors_weights_have_rows_of_their_own(winnet):
    rows = winnet.rows(PLACE)
    assert {method: list(row.ours) for method, row in rows.items()} == {
        "dncnn-b": ["dncnn-authors-blind"],
        "buifd": [],
        "bf-cnn": ["bfcnn"],
        "winnet-blind": ["winnet-authors-blind", "winnet-authors-nenet", "winnet-blind"],
    }


def test_no_method_of_the_table_is_told_the_noise_level(winnet):
    place = winnet.compare[PLACE]
    assert place.variant == "blind" and list(place.conventions.others) == ["blind-not-clamped"]
    assert set(load_published("winnet")["method"]) == set(winnet.rows(PLACE))
    for runs in winnet.scores["blind"].runs:
        assert runs.settings == {"tell_sigma": False} and runs.conditions == {"sigma": SIGMAS}
        assert (runs.variant, runs.options) in (("blind", {}), ("blind-not-clamped", {"clamp": False}))
    for claim in winnet.claims.values():
        assert claim.test.variant == winnet.compare[PLACE].variant


@pytest.mark.skipif(not (paths.RELEASED / "scores" / "winnet").exists(), reason="nothing released yet: make release")
def test_released_results_stand_beside_all_but_one_method(winnet):
    table = compare(winnet, PLACE, paths.RELEASED)
    table = table[table["convention"] == ""]
    assert set(table[table["verdict"] == "not run"]["method"]) == {"buifd"}
    for family, part in table[table["family"] != ""].groupby("family"):
        assert len(part) == 2 * len(SIGMAS), family


@pytest.mark.skipif(not (paths.RELEASED / "scores" / "winnet").exists(), reason="nothing released yet: make release")
def test_reasons_of_what_exceeds_the_slides_hold(winnet):
    table = compare(winnet, PLACE, paths.RELEASED)
    table = table[table["convention"] == ""]
    above = exceeded(winnet, PLACE, table)
    assert above
    distance = table.dropna(subset="difference").set_index(["family", "dataset", "sigma"])["difference"].abs()
    for line in above:
        if line["reason"].startswith("The estimate of the noise level"):  # with our estimator it is nearer to the print
            key = (line["dataset"], line["sigma"])
            assert distance[("winnet-authors-nenet", *key)] < distance[("winnet-authors-blind", *key)], key
        elif line["reason"] == UNEXPLAINED:
            assert line["sigma"] <= 55, (
                line
            )  # no clamp and no estimate explains what is above the print within the levels of training
