"""The numbers printed in the papers, read as they are printed, and the verdicts on ours."""

from __future__ import annotations

import dataclasses
import itertools
import re

import pandas as pd
import pytest

from invdenoise import papers, paths
from invdenoise.report import published
from invdenoise.report.published import Verdict, explained, load_published, published_value, verdict
from invdenoise.tasks.metrics import PARAMETERS, PSNR, SSIM, Metric

IDENTITY = ["text", "paper", "place", "row", "column", "dataset", "sigma", "metric"]
PRINTED = re.compile(r"(\d+(?:\.\d+)?)(?:/(\d+))?(?:×10\^(\d+))?\s?(M|million|dB|%)?")
# Identifiers that papers not yet declared will be compared under: a typo would never match a result.
OWN = {"invdn", "fdn", "fdn-blind"}
NUMBER = "linn,Table I,DnINNST,σN = 25,bsd68,25,psnr,dB,29.08,29.08,dninn-st,"
AKLD = Metric("akld", "", False, 0.001, 0.005, 3)


def parse(printed: str, note: str) -> float:
    """The number in a printed string; the last one counts, words before it such as "around" do not."""
    number, divisor, power, suffix = PRINTED.findall(printed)[-1]
    value = float(number) / float(divisor or 1) * 10 ** int(power or 0)
    return value * (1e6 if suffix in ("M", "million") or "in millions" in note else 1)


def row(paper, place, method, metric="psnr", **where):
    """Printed values of a method in the order of the file."""
    table = load_published(paper).query("place == @place and method == @method and metric == @metric")
    for column, wanted in where.items():
        table = table[table[column] == wanted]
    return table["value"].tolist()


@pytest.fixture
def one_text(tmp_path, monkeypatch):
    """Write a text of one number, with entries replaced, in place of the real ones."""

    def write(**entries):
        number = dict(zip(published.COLUMNS, NUMBER.split(","), strict=True))
        pd.DataFrame([number | entries]).to_csv(tmp_path / "linn.csv", index=False)
        monkeypatch.setattr(paths, "PUBLISHED", tmp_path)
        return tmp_path / "linn.csv"

    return write


# --- the numbers, typed here from the papers a second time ---


@pytest.mark.parametrize(
    "method, parameters, flops, dnd, sidd",
    [
        ("invdn", [2.64e6], [47.80], (39.57, 0.9522), (39.28, 0.955)),
        ("danet", [63.01e6], [65.62], (39.58, 0.9545), (39.25, 0.955)),
        ("vdn", [7.81e6], [99.00], (39.38, 0.9518), (39.26, 0.955)),
        ("mirnet", [31.78e6], [1569.88], (39.88, 0.9563), None),
        ("gradnet", [1.60e6], [], (39.44, 0.9543), (38.34, 0.946)),
        ("bm3d", [], [], (34.51, 0.8507), (25.65, 0.685)),
        ("neat-image", [], [], (35.11, 0.8778), None),
    ],
)
def test_invdn_table_2(method, parameters, flops, dnd, sidd):
    assert row("invdn", "Table 2", method, "parameters") == parameters
    assert row("invdn", "Table 2", method, "flops") == flops
    for dataset, scores in (("dnd", dnd), ("sidd", sidd)):
        for metric, value in zip(("psnr", "ssim"), scores or (None, None), strict=True):
            assert row("invdn", "Table 2", method, metric, dataset=dataset) == ([] if value is None else [value])


def test_invdn_ablations_and_akld():
    table = load_published("invdn").set_index("method")
    by_method = table[table["place"] == "Table 3"]["value"].to_dict()
    blocks = list(itertools.product((8, 16), (1, 2, 3)))
    psnr = (38.00, 38.40, 37.69, 38.30, 38.61, 38.15)
    assert by_method == {f"invdn-down{d}-blocks{b}": p for (b, d), p in zip(blocks, psnr, strict=True)}
    losses = table[table["place"] == "Table 4"]["value"]
    assert losses.tolist() == [38.67, 38.29, 38.88, 38.73, 38.74, 38.80, 38.78]
    assert losses.idxmax() == "invdn-l2-l1"  # Section 4.4: L2 forward and L1 backward is best
    akld = table[table["place"] == "Table 5"]["value"].to_dict()
    assert akld == dict(cbdnet=0.728, ulrd=0.545, grdn=0.443, danet=0.212, invdn=0.059) | {"noise-flow": 0.312}
    assert published_value("invdn", "Section 4.5", "invdn") == 83.35


@pytest.mark.parametrize(
    "dataset, psnr, blind",
    [
        ("celeba", (35.74, 32.95, 30.29), 33.52),
        ("flower", (37.38, 34.82, 31.71), 35.18),
        ("cub-200", (35.30, 32.94, 29.79), 33.20),
    ],
)
def test_fdn_table_3(dataset, psnr, blind):
    assert row("fdn", "Table III", "fdn", dataset=dataset) == list(psnr)
    assert published_value("fdn", "Table III", "fdn-blind", dataset=dataset, sigma=None) == blind


def test_fdn_other_tables():
    assert published_value("fdn", "Table III", "ircnn", dataset="flower", sigma=50) == 30.8
    assert published_value("fdn", "Table III", "ffdnet-blind", dataset="cub-200") == 33.07
    assert row("fdn", "Table V", "fdn") + row("fdn", "Table V", "fdn", "ssim") == [39.31, 0.955]
    assert row("fdn", "Table V", "fdn", "parameters") + row("fdn", "Table V", "fdn", "flops") == [4.38e6, 76.80]
    assert published_value("fdn", "Table I", "fdn-flow3-sof8") == 29.90
    assert published_value("fdn", "Table II", "fdn-clean-3-4") == 30.19


def test_fdn_improvements_follow_from_its_table_4():
    table = load_published("fdn").query("place == 'Table IV'")
    ours = table[table["method"] == "fdn"].set_index(["dataset", "sigma"])["value"]
    others = table[table["method"] != "fdn"].groupby(["dataset", "sigma"])["value"].max()
    gain = (ours - others).round(2)
    assert row("fdn", "Section IV-D", "fdn", "claim_db") == [
        gain["rice1"].min(), gain["rice1"].max(), gain["rice2", 50], gain["rice2", 70]
    ]  # fmt: skip


def test_numbers_of_the_later_papers():
    place = "slide: Results on 4x super-resolution"
    metrics = ("psnr", "fid", "lpips", "niqe")
    scores = [published_value("indigo", place, "indigo", sigma=0, metric=metric) for metric in metrics]
    assert scores == [28.15, 22.33, 0.0889, 4.1564]
    assert published_value("indigo", place, "dps", sigma=0.1 * 255, metric="lpips") == 0.1698
    table = load_published("durrnet").query("method == 'durrnet'")
    assert table["value"].tolist() == [23.80, 0.814, 24.24, 0.812]
    table = load_published("advinn").query("method == 'advinn-cgt'")
    assert table["value"].tolist() == [2.66, 0.03, 0.996, 0.0118, 1.594, 100.0]


def test_shared_figures_agree_between_texts_except_two_noted():
    table = load_published().query("dataset == 'sidd'")
    spread = table.groupby(["method", "metric"])["value"].nunique()
    assert spread[spread > 1].index.tolist() == [("aindnet", "ssim"), ("gradnet", "ssim")]
    noted = table[table["note"].str.contains("InvDN, Table 2, prints")]
    assert set(noted["method"]) == {"aindnet", "gradnet"}


# --- tidiness ---


def test_every_value_is_what_is_printed():
    table = load_published()
    parsed = [parse(*entry) for entry in zip(table["printed"], table["note"], strict=True)]
    assert table["value"].tolist() == pytest.approx(parsed, rel=1e-12)


def test_no_number_stands_twice_in_a_text():
    table = load_published()
    assert not table[table.duplicated(IDENTITY, keep=False)].to_dict("records")


def test_units_and_identifiers():
    table = load_published()
    units = table.groupby("metric")["unit"].unique().map(list).to_dict()
    expected = dict(psnr="dB", ssim="", akld="", parameters="parameters", flops="GFLOPs", claim_db="dB", asr="%")
    assert {metric: units[metric] for metric in expected} == {metric: [unit] for metric, unit in expected.items()}
    for column in ("paper", "dataset", "metric", "method"):
        assert table[column].str.fullmatch(r"[a-z0-9_-]*").all()
    assert OWN <= set(table["method"])
    assert table["sigma"].dropna().between(0, 255).all()
    assert table.query("metric == 'psnr'")["value"].between(10, 45).all()
    assert table.query("metric == 'ssim'")["value"].between(0.5, 1).all()
    assert set(table["text"]) == {"linn", "linn_slides", "inn_slides", "invdn", "fdn"}


def test_every_declared_place_and_method_is_printed():
    """A misspelt place or method would stand beside nothing, which no run would tell."""
    table = load_published()
    for name, paper in papers.papers().items():
        for place, compared in paper.compare.items():
            here = table[(table["paper"] == name) & (table["place"] == place)]
            declared = set(paper.rows(place)) if not isinstance(compared.rows, str) else set()
            assert len(here) and declared <= set(here["method"]), (name, place)


# --- looking up ---


def test_unknown_paper_names_the_known_ones():
    with pytest.raises(ValueError, match="'lin'.*advinn, durrnet, fdn, indigo, invdn, linn, winnet"):
        load_published("lin")


def test_lookup_of_none_or_several_says_what_there_is():
    with pytest.raises(LookupError, match="place 'Table 1'.*'Table I'"):
        published_value("linn", "Table 1", "bm3d")
    with pytest.raises(LookupError, match="sigma 20.*15.0, 25.0, 50.0"):
        published_value("linn", "Table I", "bm3d", sigma=20)
    with pytest.raises(LookupError, match=r"3 published numbers.*sigma \(15.0, 25.0, 50.0\)"):
        published_value("linn", "Table I", "bm3d")
    with pytest.raises(ValueError, match="no column sgma.*sigma"):
        published_value("linn", "Table I", "bm3d", sgma=25)


@pytest.mark.parametrize(
    "entries, message",
    [
        ({"value": "29,08"}, "line 2: value is '29,08'; expected a finite number"),
        ({"value": "nan"}, "value is 'nan'"),
        ({"sigma": "inf"}, "sigma is 'inf'"),
        ({"value": ""}, "value is ''; expected a finite number"),
        ({"method": ""}, "method is ''"),
        ({"extra": "1"}, "linn.csv: columns are .*extra; expected paper, place"),
    ],
)
def test_a_broken_file_is_refused_by_line(one_text, entries, message):
    one_text()
    assert load_published()["value"].tolist() == [29.08]
    one_text(**entries)
    with pytest.raises(ValueError, match=message):
        load_published()


def test_no_files_names_the_remedy(one_text):
    one_text().unlink()
    with pytest.raises(FileNotFoundError, match="git checkout -- data/published"):
        load_published()


# --- the verdict ---


@pytest.mark.parametrize(
    "ours, expected",
    [
        (29.1301, "exceeded"),
        (29.13, "reproduced"),  # 0.05 above, although 29.13 - 29.08 > 0.05 in floating point
        (29.08, "reproduced"),
        (29.03, "reproduced"),
        (29.0299, "close"),
        (28.88, "close"),
        (28.8799, "not reproduced"),
    ],
)
def test_verdict_edges(ours, expected):
    assert verdict(29.08, ours, PSNR) == expected
    assert verdict(29.08, ours, PSNR, budget="paper") == expected
    smaller = "smaller budget" if expected == "not reproduced" else expected
    assert verdict(29.08, ours, PSNR, budget="laptop") == verdict(29.08, ours, PSNR, budget="smoke") == smaller


@pytest.mark.parametrize("budget", ["laptop", "smoke"])
def test_a_small_training_excuses_a_moderate_miss_and_no_larger_one(budget):
    assert verdict(29.08, 28.58, PSNR, budget=budget) == "smaller budget"  # half a decibel
    for ours in (28.5799, 28.2, 20.0, -5.0):
        assert verdict(29.08, ours, PSNR, budget=budget) == "not reproduced"
    assert verdict(0.95, 0.9375, SSIM, budget=budget) == "smaller budget"
    assert verdict(0.95, 0.9374, SSIM, budget=budget) == "not reproduced"


@pytest.mark.parametrize("budget", ["laptop", "paper", "authors", None])
def test_a_reversed_sign_is_not_reproduced_however_small_the_distance(budget):
    """A gain of 0.1 dB that came out as a loss of 0.05 dB: 0.15 dB apart, which would be close."""
    assert verdict(0.1, -0.05, PSNR, budget=budget) == "not reproduced"
    assert verdict(1.0, -0.43, PSNR, budget=budget) == "not reproduced"
    assert verdict(0.1, -0.05 + 0.1, PSNR, budget=budget) == "reproduced"
    assert verdict(-0.1, 0.2, PSNR, budget=budget) == "exceeded"  # better than what was printed
    gap = dataclasses.replace(PSNR, higher_is_better=False)
    assert verdict(-0.1, 0.05, gap, budget=budget) == "not reproduced"


@pytest.mark.parametrize("tenths", range(100, 500, 7))
def test_edges_hold_wherever_rounding_falls(tenths):
    printed = tenths / 10
    assert verdict(printed, printed + 0.05, PSNR) == verdict(printed, printed - 0.05, PSNR) == Verdict.REPRODUCED
    assert verdict(printed, printed - 0.2, PSNR) == Verdict.CLOSE


@pytest.mark.parametrize("budget", [None, "none", "authors", "paper"])
def test_only_a_smaller_training_of_ours_excuses_a_result(budget):
    assert verdict(29.08, 20.0, PSNR, budget=budget) == "not reproduced"


def test_data_come_before_all_and_running_before_the_number():
    assert verdict(29.08, None, PSNR, data_available=False) == "data not available"
    assert verdict(29.08, 29.08, PSNR, data_available=False) == "data not available"
    assert verdict(29.08, None, PSNR, budget="laptop") == "not run"


def test_lower_can_be_better():
    assert verdict(0.059, 0.040, AKLD) == "exceeded"
    assert verdict(0.059, 0.060, AKLD) == "reproduced"
    assert verdict(0.059, 0.064, AKLD) == "close"
    assert verdict(0.059, 0.071, AKLD, budget="laptop") == "smaller budget"
    assert verdict(0.059, 0.212, AKLD, budget="laptop") == "not reproduced"


def test_tolerances_are_those_of_the_metric():
    assert (PSNR.reproduced, PSNR.close) == (0.05, 0.2)  # the house rule
    assert verdict(0.95, 0.955, SSIM) == "exceeded" and verdict(0.95, 0.945, SSIM) == "close"
    assert verdict(29.08, 29.085, PSNR) == "reproduced"


def test_a_parameter_count_is_right_or_wrong_whatever_the_training():
    assert verdict(134_700, 134_659, PARAMETERS, budget="smoke") == "reproduced"
    for count, expected in ((980, "close"), (1020, "close"), (500, "not reproduced"), (1021, "not reproduced")):
        assert verdict(1000, count, PARAMETERS, budget="smoke") == expected


def test_verdict_refuses_what_is_no_number():
    for printed, ours in ((29.08, float("nan")), (float("inf"), 29.08)):
        with pytest.raises(ValueError, match="expected finite numbers"):
            verdict(printed, ours, PSNR)


def test_verdicts_are_plain_text():
    assert f"{verdict(29.08, 29.0, PSNR)}" == "close"


def test_explanations_follow_from_the_tolerances():
    words = explained(PSNR)
    assert words[Verdict.EXCEEDED] == "more than 0.05 dB above the printed value, which is a departure too"
    assert (words[Verdict.REPRODUCED], words[Verdict.CLOSE]) == ("within 0.05 dB", "up to 0.2 dB below")
    assert words[Verdict.SMALLER_BUDGET].startswith("up to 0.5 dB below")
    assert words[Verdict.NOT_REPRODUCED].startswith(
        "further below: more than 0.5 dB, or more than 0.2 dB with the authors' weights"
    )
    assert list(words) == list(Verdict)
    assert explained(AKLD)[Verdict.EXCEEDED] == "more than 0.001 below the printed value, which is a departure too"
    counted = explained(PARAMETERS)
    assert (counted[Verdict.REPRODUCED], counted[Verdict.CLOSE]) == ("within 0.5 %", "within 2 %")
    assert Verdict.EXCEEDED not in counted and Verdict.SMALLER_BUDGET not in counted
