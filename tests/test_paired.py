"""Methods beside each other on the same pictures: differences and intervals worked out by hand, their words, and their figure."""

from __future__ import annotations

import math

import matplotlib
import numpy as np
import pandas as pd
import pytest

from invdenoise.report import paired
from invdenoise.report.paired import against, better_or_worse, cells, dots, gains, headings, in_words, titles

matplotlib.use("agg")
T_4 = 3.182446305284263  # 97.5 % quantile of Student's t with 3 degrees of freedom
LABELS = {"net": "Net", "rival": "Rival", "slow": "Slow"}


def scores(psnr: dict[str, list[float]], requested="set12", sigma=25.0, **others) -> pd.DataFrame:
    """Rows of some methods on pictures a, b, c, d; the noisy picture has 20 dB."""
    return pd.DataFrame(
        {"method": method, "image": image, "psnr": value, "psnr_noisy": 20.0}
        | {"requested": requested, "dataset": requested, "sigma": sigma, **others}
        for method, values in psnr.items()
        for image, value in zip("abcd", values, strict=False)
    )


ROWS = scores({"net": [30, 31, 32, 33], "rival": [29, 31, 30, 32]})
HALF = T_4 * np.std([1, 0, 2, 1], ddof=1) / 2  # of the interval of net - rival


def test_a_difference_is_the_mean_over_pictures_with_its_t_interval():
    found = against(ROWS, "rival")
    assert list(found.index) == [("set12", "net"), ("set12", "rival")] and found.index.names == ["requested", "method"]
    assert found.loc[("set12", "net")].tolist() == pytest.approx([31.5, 4, 1, 1 - HALF, 1 + HALF])
    assert found.loc[("set12", "rival")].tolist() == pytest.approx([30.5, 4, 0, 0, 0])


def test_pictures_are_paired_by_their_names_whatever_the_order_of_rows():
    shuffled = pd.concat([ROWS[ROWS["method"] == "net"], ROWS[ROWS["method"] == "rival"].iloc[::-1]])
    pd.testing.assert_frame_equal(against(shuffled, "rival"), against(ROWS, "rival"))


def test_methods_are_compared_under_the_same_condition_only():
    rows = pd.concat([ROWS, scores({"net": [40, 40]}, sigma=5.0), scores({"net": [28.0], "rival": [27.0]}, "bsd68")])
    found = against(rows, "rival", within=("requested", "sigma"))
    assert found.loc[("set12", 25.0, "net"), "difference"] == 1
    assert found.loc[("set12", 5.0, "net"), paired.ENDS].isna().all()  # the rival was not run there
    assert found.loc[("set12", 5.0, "net"), "psnr"] == 40
    assert found.loc[("bsd68", 25.0, "net"), paired.ENDS].tolist() == [1, -math.inf, math.inf]


def test_other_columns_may_name_the_methods_and_hold_the_numbers():
    rows = ROWS.assign(family=ROWS["method"].str.upper(), ssim=ROWS["psnr"] / 100)
    found = against(rows, "RIVAL", method="family", metric="ssim")
    assert found.loc[("set12", "NET"), "difference"] == pytest.approx(0.01) and found.columns[0] == "ssim"


def test_a_gain_is_a_difference_to_the_noisy_picture():
    found = gains(ROWS)
    assert found.loc[("set12", "net"), "difference"] == 11.5 and found.loc[("set12", "rival"), "difference"] == 10.5
    half = T_4 * np.std([0, 1, 2, 3], ddof=1) / 2
    assert found.loc[("set12", "net"), "upper"] == pytest.approx(11.5 + half)


def test_nothing_was_run():
    for found in (against(ROWS.iloc[:0], "rival"), gains(ROWS.iloc[:0])):
        assert len(found) == 0 and list(found.columns) == ["psnr", "num_images", *paired.ENDS]
        assert found.index.names == ["requested", "method"] and ("set12", "net") not in found.index


def test_other_pictures_or_a_picture_twice_are_refused():
    with pytest.raises(ValueError, match=r"net and rival were scored on different pictures \(\('set12',\)\): 4 and 3"):
        against(ROWS.iloc[:-1], "rival")
    with pytest.raises(ValueError, match="net has several rows of picture 'a'"):
        against(pd.concat([ROWS, ROWS.iloc[:1]]), "rival")


def test_differences_in_words():
    assert in_words(0.123, -0.05, 0.3) == "+0.12 (−0.05 to +0.30)"
    assert in_words(1.0, -math.inf, math.inf, digits=1) == "+1.0" and in_words(math.nan, math.nan, math.nan) == ""


def test_cells_hold_means_and_differences():
    found = against(ROWS, "rival").loc["set12"].set_axis(pd.MultiIndex.from_product([[25], ["net", "rival"]]))
    table = cells(found, LABELS, {25: "σ = 25", 50: "σ = 50"}, "rival")
    ends = f"{1 - HALF:.2f} to +{1 + HALF:.2f}".replace("-", "−")
    assert table["σ = 25"].tolist() == [f"31.50 (+1.00, {ends})", "30.50", "not run"]
    assert table["σ = 50"].tolist() == ["not run"] * 3 and list(table.index) == list(LABELS.values())


def test_better_and_worse_go_by_the_whole_interval():
    rows = scores(
        {"net": [30, 31, 32, 33], "rival": [29, 31, 30, 32], "slow": [20, 21, 22, 24], "best": [35, 36, 37, 39]}
    )
    table = better_or_worse(against(rows, "net"), {**LABELS, "best": "Best", "gone": "Gone"}, ["set12"], "net", "Net")
    assert list(table.columns) == ["better than Net", "undecided", "worse than Net"] and table.index.name == "set"
    assert table.loc["Set12"].tolist() == ["Best", "Rival", "Slow"]
    assert 1 - HALF < 0 < 1 + HALF  # so the rival is undecided
    alone = better_or_worse(against(ROWS, "net"), {"net": "Net"}, ["set12"], "net", "Net")
    assert alone.loc["Set12"].tolist() == ["none", "none", "none"]


def test_titles_count_pictures_and_name_those_that_stand_in():
    rows = pd.concat([ROWS, scores({"net": [1.0, 2.0]}, "bsd68").assign(dataset="embedded")])
    assert titles(rows, ["set12", "bsd68", "bsd400"]) == {
        "set12": "**Set12**, 4 pictures",
        "bsd68": "**BSD68 – STAND-IN, pictures of embedded**, 2 pictures",
        "bsd400": "**BSD400**",
    }
    assert headings(rows, ["set12", "bsd68", "bsd400"]) == {
        "set12": "Set12", "bsd68": "BSD68\nSTAND-IN", "bsd400": "BSD400",
    }  # fmt: skip


def heights(ax):
    """Height -> (value, lower, upper), from the dots and lines of a panel."""
    lines = [line for line in ax.lines if len(line.get_ydata()) == 2 and len(set(line.get_ydata())) == 1]
    marks = {line.get_ydata()[0]: line.get_xdata()[0] for line in ax.lines if line.get_marker() == "o"}
    return {line.get_ydata()[0]: (marks[line.get_ydata()[0]], *line.get_xdata()) for line in lines}


def test_the_figure_has_a_dot_on_a_line_for_each_method_that_was_run():
    figure = dots(against(ROWS, "rival"), LABELS, {"set12": "Set12"}, marked=["net"], size=(4, 3))
    (ax,) = figure.axes
    assert heights(ax)[0] == pytest.approx((1, 1 - HALF, 1 + HALF)) and heights(ax)[1] == (0, 0, 0)
    assert [text.get_text() for text in ax.texts] == ["not run"] and ax.texts[0].get_position()[1] == 2
    assert [label.get_text() for label in ax.get_yticklabels()] == list(LABELS.values())
    colours = {line.get_ydata()[0]: line.get_color() for line in ax.lines if line.get_marker() == "o"}
    assert colours == {0: paired.COLOURS[1], 1: paired.COLOURS[0]}


def test_levels_have_heights_and_colours_of_their_own_and_a_legend():
    rows = pd.concat([ROWS, scores({"net": [25, 25, 25, 26], "rival": [24, 24, 24, 25]}, sigma=50.0)])
    found = against(rows, "rival", within=("requested", "sigma"))
    levels = {25.0: "σ = 25", 50.0: "σ = 50"}
    figure = dots(found, {"net": "Net", "slow": "Slow"}, {"set12": "A", "bsd68": "B"}, levels, size=(6, 3))
    first, second = figure.axes
    assert {round(height, 6): round(value, 6) for height, (value, *_) in heights(first).items()} == {-0.1: 1, 0.1: 1}
    assert len(first.texts) == 1 and len(second.texts) == 2  # not run
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == list(levels.values())
