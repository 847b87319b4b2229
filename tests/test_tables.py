"""What the notebooks share: reading scores, saying what they are of, numbers as text, Markdown, and files."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pandas as pd
import pytest
from made_up import rows_of, toy, write_run

from invdenoise import paths
from invdenoise.data.fetch import DataUnavailable
from invdenoise.report import tables
from invdenoise.report.tables import (
    as_markdown,
    family,
    in_digits,
    in_words,
    markdown_table,
    notes,
    number,
    pretty,
    read_curve,
    results_folder,
    save_table,
    save_text,
    scores_of,
    set_label,
    signed,
    written,
)

__all__ = ["toy"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The local results folder."""
    monkeypatch.setenv("INVDENOISE_RESULTS", str(tmp_path / "local"))
    return tmp_path / "local"


# --- Reading ---


def test_a_notebook_names_its_results(here):
    assert (results_folder("local"), results_folder("released")) == (here, paths.RELEASED)
    with pytest.raises(ValueError, match="scores is 'loacl'; expected one of released, local"):
        results_folder("loacl")


def test_scores_of_a_paper_are_read_from_the_folder_asked_for(toy, here):
    write_run(here)
    rows = scores_of(toy, "plain", scores="local")
    assert set(rows["method"]) == {"alpha-s15", "alpha-s25", "alpha-authors-s25", "beta", "epsilon"}
    both = scores_of(toy, "plain", "toy/few", scores="local")
    assert set(both["method"]) - set(rows["method"]) == {"one", "two"}


def test_missing_scores_name_what_makes_them(toy, here, tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"no scores of toy/plain in .*local; make them with `make paper`"):
        scores_of(toy, "plain", scores="local")
    monkeypatch.setattr(paths, "RELEASED", tmp_path / "released")
    with pytest.raises(
        FileNotFoundError, match=r'no scores of toy/plain or toy/few in .*scores = "local", after `make paper`'
    ):
        scores_of(toy, "plain", "few")


def test_an_unknown_score_or_paper_is_named(toy):
    with pytest.raises(ValueError, match=r"no score 'toy/plane'; declared: .*toy/plain, toy/few"):
        scores_of(toy, "plane")
    with pytest.raises(ValueError, match="no paper 'tyo'; known: "):
        scores_of("tyo", "plain")


@pytest.mark.parametrize(
    ("columns", "expected"),
    [({"mse": [0.01, 0.001]}, [20, 30]), ({"train_psnr": [21.0, 31.0], "mse": [1, 1]}, [21, 31]), ({}, [math.nan] * 2)],
)
def test_a_curve_has_the_psnr_of_training(tmp_path, columns, expected):
    pd.DataFrame({"step": [1, 2], **columns}).to_csv(tmp_path / "curve.csv", index=False)
    assert read_curve(tmp_path / "curve.csv")["train_psnr"].tolist() == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize(
    ("method", "expected"),
    [("net-s25", "net"), ("net-s2.5", "net"), ("net-s50-fixed", "net-s50-fixed"), ("bm3d", "bm3d"), ("a-soft", "a-soft"), (None, ""), (math.nan, "")],
)  # fmt: skip
def test_a_family_is_a_method_without_its_noise_level(method, expected):
    assert family(method) == expected


# --- What the scores are of ---


def test_notes_say_sets_training_seed_and_version():
    rows = pd.concat(
        [rows_of("a", 25, 30.0), rows_of("b", 25, 30.0, budget="authors"), rows_of("c", 25, 30.0, budget="none")]
    )
    assert notes(rows) == [
        "- Set12: 12 of 12 pictures",
        "- methods by budget of training: authors' weights (1), laptop (1), nothing to train (1)",
        "- seed: 0",
        "- scored by version 1, commit abc",
    ]


def test_stand_ins_and_parts_of_a_set_are_warned_of():
    part = rows_of("a", 25, [30.0, 31.0])
    assert notes(part)[:2] == [
        "- Set12: 2 of 12 pictures",
        "- **A part of Set12. Such means are shown, and not compared with printed ones.**",
    ]
    (first, *others) = notes(part.assign(dataset="embedded"))
    assert first == "- **STAND-IN for Set12: pictures of `embedded`. Nothing here compares with a paper.**"
    assert not any("pictures" in line for line in others)
    assert notes(part.assign(dataset="embedded", requested="embedded"))[0].startswith("- **STAND-IN")
    assert tables.is_own(part) and not tables.is_own(part.assign(dataset="embedded"))


def test_sets_are_called_as_they_are_printed():
    assert [set_label(name) for name in ("bsd68", "set12", "bsd400", "nowhere")] == [
        "BSD68",
        "Set12",
        "BSD400",
        "nowhere",
    ]


# --- Text ---


@pytest.mark.parametrize(
    ("value", "digits", "expected"),
    [
        (0.126, 2, "+0.13"),
        (-0.126, 2, "−0.13"),
        (-0.004, 2, "+0.00"),
        (0.0, 1, "+0.0"),
        (-1234.5, 1, "−1234.5"),
        (math.nan, 2, ""),
    ],
)
def test_differences_always_have_a_sign(value, digits, expected):
    assert signed(value, digits) == expected


def test_numbers_and_times_in_words():
    assert [number(value) for value in (1234.567, 0.0, math.nan, None)] == ["1,234.57", "0.00", "", ""]
    assert number(math.nan, missing="–") == "–"
    assert [in_digits(value) for value in (0.00584, 7.871, 526.4, 1038.6, 2083)] == [
        "0.00584",
        "7.87",
        "526",
        "1,039",
        "2,083",
    ]
    assert [in_words(seconds) for seconds in (0.4, 59, 61, 3570, 4800)] == [
        "0 s",
        "59 s",
        "1 min",
        "1 h 0 min",
        "1 h 20 min",
    ]


def test_markdown_aligns_text_left_and_numbers_right():
    assert markdown_table(["a", "b"], [["x|y", "1"], ["", "2"]]).splitlines() == [
        "| a | b |", "| :-- | --: |", "| x\\|y | 1 |", "|  | 2 |"
    ]  # fmt: skip
    assert markdown_table(["a", "b"], [], text_columns=2).splitlines()[1] == "| :-- | :-- |"
    with pytest.raises(ValueError, match="a line has 1 cells, the header 2"):
        markdown_table(["a", "b"], [["x"]])


def test_a_frame_as_markdown():
    frame = pd.DataFrame(
        {"size": [1200, 3], "difference": [-0.5, math.nan], "note": ["x", None]}, index=pd.Index(["a", "b"], name="net")
    )
    assert as_markdown(frame, missing="–").splitlines() == [
        "| net | size | difference | note |", "| :-- | --: | --: | --: |", "| a | 1,200 | −0.50 | x |", "| b | 3 | – | – |"
    ]  # fmt: skip


def test_a_frame_for_display_is_the_same_at_every_run():
    columns = pd.MultiIndex.from_tuples([("σ = 5", "ours"), ("σ = 5", "difference"), ("σ = 5", "verdict")])
    frame = pd.DataFrame([[30.126, -0.5, "close"], [math.nan, math.nan, "not run"]], columns=columns, index=["a", "b"])
    html = pretty(frame).to_html()
    assert html == pretty(frame.copy()).to_html()
    cells = [line.partition(">")[2].partition("<")[0].strip() for line in html.splitlines() if "<td" in line]
    assert cells == ["30.13", "−0.50", "close", "", "", "not run"]
    assert "1,234" in pretty(pd.DataFrame({"count": [1234]})).to_html()


# --- Files ---


def test_tables_and_texts_are_written_where_they_belong(here):
    table = save_table(pd.DataFrame({"a": [1 / 3]}), "one")
    text = save_text(["# Title", "text\n"], "one")
    assert (table, text) == (here / "tables" / "one.csv", here / "tables" / "one.md")
    assert table.read_text() == "a\n0.333333\n" and text.read_text() == "# Title\n\ntext\n"
    assert save_text("only", "two").read_text() == "only\n"
    assert written(table, text) == [f"- written: `{table}`", f"- written: `{text}`"]  # not in the checkout: whole


def test_a_frame_becomes_a_markdown_table_with_its_index_first():
    frame = pd.DataFrame(
        {"pictures": [68, 12], "difference": [-0.004, float("nan")], "psnr": [29.054, 30.1]}, index=["a", "b"]
    )
    frame.index.name = "method"
    assert tables.as_markdown(frame, digits=2, missing="–").splitlines() == [
        "| method | pictures | difference | psnr |",
        "| :-- | --: | --: | --: |",
        "| a | 68 | +0.00 | 29.05 |",
        "| b | 12 | – | 30.10 |",
    ]


def test_the_first_network_with_weights_is_taken_and_the_others_are_explained(monkeypatch):
    def load(name, budget):
        if name == "there":
            return f"{name} of {budget}"
        raise FileNotFoundError("no weights")

    monkeypatch.setattr(tables, "load_network", load)
    assert tables.first_network("gone", "there") == ("there of None", ["gone: no weights"])
    assert tables.first_network("there", budget="smoke") == ("there of smoke", [])
    with pytest.raises(FileNotFoundError, match="no weights to look into: gone: no weights; lost: no weights"):
        tables.first_network("gone", "lost")


def test_methods_at_hand_are_loaded_and_the_others_are_explained():
    def load(name):
        if name == "gone":
            raise DataUnavailable("no network")
        if name == "bm3d":
            raise ImportError("no package")
        return SimpleNamespace(card={"budget": name}) if name != "plain" else object()

    labels = {"laptop": "Ours", "authors": "Theirs", "plain": "Wavelets", "gone": "Far", "bm3d": "BM3D"}
    found, lines = tables.load_all(labels, load)
    assert list(found) == ["laptop", "authors", "plain"]
    assert lines == [
        "- Ours: budget laptop",
        "- Theirs: authors' weights",
        "- Wavelets: nothing to train",
        "- **Far: not run** (no network)",
        "- **BM3D: not run** (no package)",
    ]
    with pytest.raises(ValueError, match="a bug"):
        tables.load_all({"a": "A"}, lambda name: (_ for _ in ()).throw(ValueError("a bug")))


def test_texts_and_lines_are_displayed_as_markdown(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda *texts: shown.extend(text.data for text in texts))
    tables.show("| a |", ["- one", "- two"])
    assert shown == ["| a |", "- one\n- two"]
