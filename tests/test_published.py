import itertools
import re

import pandas as pd
import pytest

from invdenoise import datasets, published
from invdenoise.published import TOLERANCES, Verdict, compare, coverage, load_published, published_value, verdict

IDENTITY = ["text", "paper", "place", "row", "column", "dataset", "sigma", "metric"]
PRINTED = re.compile(r"(\d+(?:\.\d+)?)(?:/(\d+))?(?:×10\^(\d+))?\s?(M|million|dB|%)?")
# Our trained identifiers and the classical methods: a typo in one of them would never match a result.
OWN = {"dninn-st", "dninn-lista", "dninn-st-2scale", "dninn-lista-2scale", "winnet-blind", "invdn", "fdn", "fdn-blind"}
NUMBER = "linn,Table I,DnINNST,σN = 25,bsd68,25,psnr,dB,29.08,29.08,dninn-st,"


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
        monkeypatch.setattr(published, "PUBLISHED", tmp_path)
        return tmp_path / "linn.csv"

    return write


# --- the numbers, typed here from the papers a second time ---


@pytest.mark.parametrize(
    "method, size, psnr",
    [
        ("bm3d", None, (31.07, 28.57, 25.63)),
        ("wnnm", None, (31.37, 28.83, 25.87)),
        ("epll", None, (31.21, 28.68, 25.67)),
        ("tnrd", 26_600, (31.42, 28.92, 25.97)),
        ("dncnn", 556_000, (31.70, 29.19, 26.20)),
        ("dninn-st", 134_700, (31.58, 29.08, 26.14)),
        ("dninn-lista", 135_200, (31.59, 29.09, 26.14)),
        ("dninn-st-2scale", 269_300, (31.62, 29.14, 26.19)),
        ("dninn-lista-2scale", 270_300, (31.63, 29.14, 26.20)),
    ],
)
@pytest.mark.parametrize("place", ["Table I", "slide: Simulation Results"])
def test_linn_table_1_in_paper_and_talk(place, method, size, psnr):
    for sigma, value in zip((15, 25, 50), psnr, strict=True):
        assert published_value("linn", place, method, dataset="bsd68", sigma=sigma) == value
    assert row("linn", place, method, "parameters") == ([] if size is None else [size])


def test_linn_numbers_outside_the_table():
    assert published_value("linn", "Figure 4", "dninn-lista", metric="psnr") == 26.75
    assert published_value("linn", "Section III-A", "dninn-st") == 3
    assert published_value("linn", "Section III-A", "dninn-lista") == 495
    assert published_value("linn", "Section III-D", "dninn-st", metric="claim_db") == 1
    for place in ("Abstract", "Section III-B", "Section IV", "slide: Conclusions"):
        assert published_value("linn", place, "dninn", metric="claim_ratio") == 1 / 4


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
def test_winnet_blind_denoising(dataset, method, psnr):
    table = load_published("winnet").query("dataset == @dataset and method == @method")
    assert table["sigma"].tolist() == [5, 25, 45, 65, 85, 105, 125, 145]
    assert table["value"].tolist() == psnr


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
    assert verdict(29.08, ours) == expected
    assert verdict(29.08, ours, budget="paper") == expected
    smaller = "smaller budget" if expected == "not reproduced" else expected
    assert verdict(29.08, ours, budget="laptop") == verdict(29.08, ours, budget="smoke") == smaller


@pytest.mark.parametrize("tenths", range(100, 500, 7))
def test_edges_hold_wherever_rounding_falls(tenths):
    printed = tenths / 10
    assert verdict(printed, printed + 0.05) == verdict(printed, printed - 0.05) == Verdict.REPRODUCED
    assert verdict(printed, printed - 0.2) == Verdict.CLOSE


def test_data_come_before_all_and_running_before_the_number():
    assert verdict(29.08, None, data_available=False) == "data not available"
    assert verdict(29.08, 29.08, data_available=False) == "data not available"
    assert verdict(29.08, None, budget="laptop") == "not run"
    assert verdict(47.8, None, unit="GFLOPs") == "not run"


def test_lower_can_be_better():
    how = dict(unit="", higher_is_better=False)
    assert verdict(0.059, 0.040, **how) == "exceeded"
    assert verdict(0.059, 0.060, **how) == "reproduced"
    assert verdict(0.059, 0.064, **how) == "close"
    assert verdict(0.059, 0.212, **how, budget="laptop") == "smaller budget"


def test_a_parameter_count_is_right_or_wrong_whatever_the_training():
    how = dict(unit="parameters", higher_is_better=False, budget="smoke")
    assert verdict(134_700, 134_659, **how) == "reproduced"
    assert verdict(1000, 980, **how) == verdict(1000, 1020, **how) == "close"
    assert verdict(1000, 500, **how) == verdict(1000, 1021, **how) == "not reproduced"


def test_verdict_refuses_what_cannot_be_compared():
    with pytest.raises(ValueError, match="unit 's'; known: 'dB'"):
        verdict(1.0, 1.0, unit="s")
    for published_, ours in ((29.08, float("nan")), (float("inf"), 29.08)):
        with pytest.raises(ValueError, match="expected finite numbers"):
            verdict(published_, ours)


def test_verdicts_are_plain_text():
    assert f"{verdict(29.08, 29.0)}" == "close"
    assert TOLERANCES["dB"] == (0.05, 0.2)


# --- coverage ---


def test_coverage_counts_each_printed_number_once():
    done = pd.DataFrame(
        [
            ("bm3d", "bsd68", 25, "psnr"),
            ("bm3d", "bsd68", 25.0, "psnr"),  # the same again, from a second run
            ("dninn-st", None, None, "parameters"),
            ("bm3d", "bsd68", 30, "psnr"),  # in no paper
        ],
        columns=["method", "dataset", "sigma", "metric"],
    )
    counts = coverage(done).set_index(["paper", "place"])
    assert counts.loc["linn", "Table I"].to_dict() == {"published": 33, "done": 2}
    assert counts.loc["linn", "slide: Simulation Results"].to_dict() == {"published": 33, "done": 2}
    assert counts["done"].sum() == 4
    assert counts["published"].sum() == len(load_published())
    assert coverage(done.iloc[:0])["done"].sum() == 0


def test_coverage_of_everything_is_everything():
    counts = coverage(load_published())
    assert (counts["done"] == counts["published"]).all()


def test_coverage_names_missing_columns():
    with pytest.raises(ValueError, match="lack the columns sigma, metric"):
        coverage(pd.DataFrame(columns=["method", "dataset"]))


# --- beside ours ---


def summary_of(*results):
    """A summary of (method, psnr) results: BSD68 at sigma 25, all pictures, unless entries say otherwise."""
    usual = dict(variant="", requested="bsd68", dataset="bsd68", sigma_test=25.0, num_images=68, budget="laptop")
    columns = ["method", "psnr", *usual]
    return pd.DataFrame([usual | result for result in results], columns=columns)


def table_1(*results, method="dninn-st", sigma=25):
    """What `compare` makes of Table I's row of a method at a noise level."""
    table = compare(load_published("linn").query("place == 'Table I'"), summary_of(*results))
    return table.query("method == @method and sigma == @sigma").to_dict("records")


def test_compare_has_a_row_for_each_printed_psnr():
    table = load_published()
    numbers = table[(table["metric"] == "psnr") & (table["dataset"] != "")]
    compared = compare(table, summary_of())
    assert tuple(compared.columns) == published.COMPARED
    assert compared["published"].tolist() == numbers["value"].tolist()
    assert compared["column"].tolist() == numbers["column"].tolist()
    assert set(compared["verdict"]) == {"not run"}
    assert compared[["ours", "difference", "our_method", "budget", "num_images"]].isna().all(axis=None)


def test_compare_takes_the_network_of_the_noise_level_before_the_one_for_all():
    own, general = dict(method="dninn-st-s25", psnr=29.0), dict(method="dninn-st", psnr=28.0)
    other = dict(method="dninn-st-s50", psnr=20.0)  # trained for 50, tested at 25
    (found,) = table_1(general, other, own)
    assert (found["our_method"], found["ours"], found["verdict"]) == ("dninn-st-s25", 29.0, "close")
    assert found["difference"] == pytest.approx(-0.08)
    assert (found["published"], found["budget"], found["num_images"]) == (29.08, "laptop", 68)
    assert table_1(other, general)[0]["our_method"] == "dninn-st"
    assert table_1(other)[0]["verdict"] == "not run"


def test_compare_leaves_variants_other_datasets_and_other_levels_aside():
    result = dict(method="bm3d", psnr=28.57, budget="none")
    assert table_1(result, method="bm3d")[0]["verdict"] == "reproduced"
    for entries in (dict(variant="rounded"), dict(requested="set12", dataset="set12"), dict(sigma_test=50.0)):
        assert table_1(result | entries, method="bm3d")[0]["verdict"] == "not run"


def test_compare_puts_authors_weights_beside_our_own():
    own, authors = dict(method="dncnn-s25", psnr=28.0), dict(method="dncnn-authors-s25", psnr=29.2, budget="authors")
    rows = table_1(authors, own, method="dncnn")
    assert [row["our_method"] for row in rows] == ["dncnn-s25", "dncnn-authors-s25"]
    assert [row["verdict"] for row in rows] == ["smaller budget", "reproduced"]
    assert [row["our_method"] for row in table_1(authors, method="dncnn")] == ["dncnn-authors-s25"]
    assert [row["our_method"] for row in table_1(method="dncnn")] == [None]


def blind_table(*results, method="winnet-blind", sigma=25, dataset="bsd68"):
    """What `compare` makes of WINNet's blind table for a method, noise level and dataset."""
    table = compare(load_published("winnet"), summary_of(*results))
    return table.query("method == @method and sigma == @sigma and dataset == @dataset").to_dict("records")


def test_compare_puts_blind_results_beside_blind_numbers_under_our_names():
    own, authors = dict(method="winnet-blind", psnr=29.0), dict(method="winnet-authors-blind", psnr=29.2)
    rows = blind_table(authors | dict(variant="blind", budget="authors"), own | dict(variant="blind"))
    assert [(row["our_method"], row["verdict"]) for row in rows] == [
        ("winnet-blind", "close"), ("winnet-authors-blind", "exceeded")
    ]  # fmt: skip
    for method, ours in (("dncnn-b", "dncnn-authors-blind"), ("bf-cnn", "bfcnn")):
        (found,) = blind_table(dict(method=ours, psnr=29.13, variant="blind"), method=method)
        assert (found["our_method"], found["verdict"]) == (ours, "reproduced")
        assert blind_table(dict(method=method, psnr=29.13, variant="blind"), method=method)[0]["verdict"] == "not run"


def test_compare_keeps_told_and_blind_results_apart():
    told = dict(method="winnet-authors-blind", psnr=29.13)
    assert blind_table(told)[0]["verdict"] == "not run"
    (found,) = blind_table(told, told | dict(variant="blind", psnr=29.0))
    assert (found["ours"], found["verdict"]) == (29.0, "close")
    assert table_1(dict(method="bm3d", psnr=28.57, variant="blind"), method="bm3d")[0]["verdict"] == "not run"
    assert blind_table(told | dict(variant="rounded"))[0]["verdict"] == "not run"


def test_compare_refuses_two_blind_results_for_one_number():
    blind = dict(method="bfcnn", psnr=29.0, variant="blind")
    with pytest.raises(ValueError, match="two results of bfcnn on bsd68 at sigma 25.0"):
        blind_table(blind, blind | dict(dataset="embedded"), method="bf-cnn")


def test_methods_that_are_not_told_are_those_of_the_blind_table():
    assert set(load_published("winnet")["method"]) == published.NOT_TOLD
    assert published.variant_of("winnet-blind") == "blind" and published.variant_of("dninn-st") == ""
    assert published.our_names("bf-cnn") == ("bfcnn",) and published.our_names("bm3d") == ("bm3d",)


@pytest.mark.parametrize("budget", ["none", "authors", "paper"])
def test_only_a_smaller_training_of_ours_excuses_a_result(budget):
    far = dict(method="bm3d", psnr=20.0)
    assert table_1(far | dict(budget=budget), method="bm3d")[0]["verdict"] == "not reproduced"
    assert table_1(far | dict(budget="smoke"), method="bm3d")[0]["verdict"] == "smaller budget"


def test_compare_judges_neither_stand_ins_nor_a_part_of_the_dataset():
    result = dict(method="dninn-st-s25", psnr=29.08)
    for entries, expected in ((dict(dataset="embedded"), "data not available"), (dict(num_images=67), "not run")):
        (found,) = table_1(result | entries)
        assert (found["verdict"], found["ours"]) == (expected, 29.08)
        assert pd.isna(found["difference"])


@pytest.mark.parametrize(("dataset", "pairs"), [("polyu", 100), ("cc15", 15), ("sidd", 13)])
def test_compare_counts_a_noisy_picture_and_its_reference_as_one(dataset, pairs):
    printed = load_published("invdn").query("place == 'Table 2' and method == 'invdn' and metric == 'psnr'").iloc[:1]
    printed = printed.assign(dataset=dataset)
    result = dict(method="invdn", psnr=39.0, requested=dataset, dataset=dataset, sigma_test=None)
    for num_images, complete in ((pairs, True), (pairs - 1, False)):
        (found,) = compare(printed, summary_of(result | dict(num_images=num_images))).to_dict("records")
        assert (found["verdict"] != "not run", pd.notna(found["difference"])) == (complete, complete)


def test_where_there_are_no_pairs_every_picture_counts():
    for source in map(datasets.describe, datasets.dataset_ids()):
        if source.channels and source.id not in ("polyu", "cc15", "sidd"):
            assert published._num_pictures(source.id) == source.num_files, source.id


def test_compare_matches_numbers_without_a_noise_level():
    real = load_published("invdn").query("place == 'Table 2' and dataset == 'sidd' and method == 'invdn'")
    result = dict(method="invdn", psnr=39.3, requested="sidd", dataset="sidd", sigma_test=None)
    assert compare(real, summary_of(result))["difference"].tolist() == pytest.approx([0.02])


def test_compare_refuses_two_results_for_one_number():
    result = dict(method="bm3d", psnr=28.57)
    with pytest.raises(ValueError, match="two results of bm3d on bsd68 at sigma 25.0 .on bsd68 and on embedded"):
        table_1(result, result | dict(dataset="embedded"))
