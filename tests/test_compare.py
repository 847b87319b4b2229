"""Printed numbers beside ours, on a made-up paper: which result belongs to which number, verdicts, counts and tables."""

from __future__ import annotations

import pandas as pd
import pytest
from made_up import (
    ELSEWHERE,
    NUM_PICTURES,
    PRINTED,
    SECTION,
    TABLE,
    TALK,
    YAML,
    rows_of,
    run,
    toy,
    write_paper,
    write_rows,
    write_run,
)

from invdenoise.report import compare as module
from invdenoise.report.compare import (
    COMPARED,
    Results,
    all_numbers,
    beside,
    compare,
    counts,
    coverage,
    read_results,
    trained_here,
)

__all__ = ["run", "toy"]


def number(
    table: pd.DataFrame, method: str, sigma: float = 25, metric: str = "psnr", family: str | None = None
) -> dict:
    """The one row of a comparison."""
    here = table[(table["method"] == method) & (table["metric"] == metric)]
    here = here if metric == "parameters" else here[here["sigma"] == sigma]
    (found,) = (here if family is None else here[here["family"] == family]).to_dict("records")
    return found


def only(tmp_path, toy, *rows: pd.DataFrame, place: str = TABLE) -> pd.DataFrame:
    """What `compare` makes of some score rows."""
    for index, part in enumerate(rows):
        write_rows(part, tmp_path / "only", f"{index}")
    return compare(toy, place, Results(tmp_path / "only", {"toy": toy}))


# --- One number ---


def test_every_printed_number_has_a_row_in_the_order_of_the_print(toy, tmp_path):
    table = compare(toy, TABLE, Results(tmp_path / "nothing", {"toy": toy}))
    printed = [number for number in PRINTED if number[0] == TABLE]
    assert tuple(table.columns) == COMPARED
    assert table["published"].tolist() == [number[6] for number in printed]
    assert table["row"].tolist() == [number[1] for number in printed]
    assert set(table["verdict"]) == {"not run"}
    assert table[["ours", "difference", "num_images"]].isna().all(axis=None)
    assert set(table["family"]) == set(table["our_method"]) == {""}
    assert table["label"].tolist() == ["Alpha"] * 3 + ["Beta"] * 4 + ["Gamma"] * 2


def test_numbers_stand_beside_ours_with_difference_and_verdict(toy, run):
    table = compare(toy, TABLE, run)
    found = {
        (row["our_method"], row["sigma"]): (round(row["difference"], 6), row["verdict"], row["budget"], row["our_note"])
        for row in table[(table["metric"] == "psnr") & (table["our_method"] != "")].to_dict("records")
    }
    assert found == {
        ("alpha-s15", 15): (-0.1, "close", "laptop", ""),
        ("alpha-s25", 25): (-1.0, "smaller budget", "laptop", ""),
        ("alpha-authors-s25", 25): (0.02, "reproduced", "authors", "authors' weights"),
        ("beta", 15): (0.06, "exceeded", "none", ""),
        ("beta", 25): (-0.5, "not reproduced", "none", ""),
    }
    assert set(table[table["method"] == "gamma"]["verdict"]) == {"not run"}
    assert set(table["num_images"].dropna()) == {NUM_PICTURES}
    assert trained_here(table).tolist() == (table["budget"] == "laptop").tolist()


def test_the_network_of_the_noise_level_goes_before_the_one_for_all(toy, tmp_path):
    general, other = rows_of("alpha", 25, 28.0), rows_of("alpha-s50", 25, 20.0)  # the second is trained for 50
    assert number(only(tmp_path, toy, general, other), "alpha")["our_method"] == "alpha"
    own = rows_of("alpha-s25", 25, 27.9)
    found = number(only(tmp_path, toy, general, other, own), "alpha")
    assert (found["our_method"], found["ours"]) == ("alpha-s25", pytest.approx(27.9))


def test_variants_other_sets_and_other_levels_are_left_aside(toy, tmp_path):
    result = rows_of("beta", 25, 29.0)
    strangers = [
        result.assign(variant="rounded"),
        rows_of("beta", 25, 29.0, requested="bsd68", dataset="bsd68"),
        rows_of("beta", 50, 29.0),
    ]
    assert number(only(tmp_path, toy, *strangers), "beta")["verdict"] == "not run"
    assert number(only(tmp_path, toy, *strangers, result), "beta")["verdict"] == "reproduced"


def test_a_place_takes_the_variant_that_it_declares(toy, tmp_path, monkeypatch):
    monkeypatch.setitem(toy.declared.compare, TABLE, toy.compare[TABLE].model_copy(update={"variant": "blind"}))
    told, blind = rows_of("beta", 25, 29.0), rows_of("beta", 25, 28.9, variant="blind")
    assert number(only(tmp_path, toy, told), "beta")["verdict"] == "not run"
    assert number(only(tmp_path, toy, told, blind), "beta")["ours"] == pytest.approx(28.9)


@pytest.mark.parametrize(
    ("entries", "expected"),
    [({"dataset": "embedded"}, "data not available"), ({}, "reproduced")],
)
def test_pictures_that_stand_in_are_not_judged(toy, tmp_path, entries, expected):
    found = number(only(tmp_path, toy, rows_of("beta", 25, 29.0, **entries)), "beta")
    assert (found["verdict"], found["ours"]) == (expected, pytest.approx(29.0))
    assert pd.isna(found["difference"]) == (expected != "reproduced")


def test_a_part_of_the_pictures_is_not_judged(toy, tmp_path):
    found = number(only(tmp_path, toy, rows_of("beta", 25, 29.0).iloc[1:]), "beta")
    assert found["verdict"] == "not run" and found["num_images"] == NUM_PICTURES - 1
    assert pd.notna(found["ours"]) and pd.isna(found["difference"])


def test_a_printed_set_that_nobody_has_is_not_available(toy, run, tmp_path):
    table = compare(toy, ELSEWHERE, run).set_index("dataset")["verdict"]
    assert table.to_dict() == {"set12": "close", "celeba": "data not available"}
    unrun = compare(toy, ELSEWHERE, Results(tmp_path / "nothing", {"toy": toy}))
    assert set(unrun["verdict"]) == {"not run"}


def test_sizes_and_other_metrics_have_their_own_tolerances(toy, tmp_path):
    small = rows_of("alpha-s25", 25, 10.0, num_parameters=996, budget="smoke", dataset="embedded")
    beta = rows_of("beta", 25, 29.0, ssim=0.904)
    table = only(tmp_path, toy, small, beta)
    size, ssim = number(table, "alpha", metric="parameters"), number(table, "beta", metric="ssim")
    assert (size["ours"], size["difference"], size["verdict"]) == (996, -4, "reproduced")
    assert (ssim["ours"], ssim["verdict"]) == (pytest.approx(0.904), "exceeded")
    assert table[table["metric"] == "flops"]["verdict"].tolist() == ["not run"]  # no score has it


def test_two_results_for_one_number_are_refused(toy, tmp_path):
    with pytest.raises(ValueError, match="two results of beta on set12 at sigma 25, on set12 and on embedded"):
        only(tmp_path, toy, rows_of("beta", 25, 29.0), rows_of("beta", 25, 29.0, dataset="embedded"))


def test_a_place_or_row_that_is_not_printed_is_named(toy, run, tmp_path):
    yaml = YAML.replace("gamma: {label: Gamma}", "gama: {label: Gamma}")
    wrong = write_paper(tmp_path / "row", yaml)["toy"]
    with pytest.raises(ValueError, match="toy, Table 1: no printed method 'gama'; there is alpha, beta, gamma"):
        compare(wrong, TABLE, run)
    wrong = write_paper(tmp_path / "place", YAML.replace("Table 2:", "Table 3:"))["toy"]
    with pytest.raises(ValueError, match="toy: nothing is printed at 'Table 3'; there is Table 1, slide: Results"):
        compare(wrong, "Table 3", run)


def test_a_folder_without_scores_names_the_command(toy, tmp_path):
    with pytest.raises(FileNotFoundError, match="make paper"):
        read_results(tmp_path, {"toy": toy})


# --- Every number ---


def test_all_numbers_are_those_of_every_place_declared_or_not(run):
    numbers = all_numbers(run)
    per_place = numbers.drop_duplicates([*COMPARED[:3], "dataset", "sigma", "metric"]).groupby("place").size().to_dict()
    assert per_place == {TABLE: 9, TALK: 1, ELSEWHERE: 2, SECTION: 2}
    assert set(numbers[numbers["place"] == SECTION]["verdict"]) == {"not run"}


def test_counts_take_what_is_printed_twice_once(run):
    # PSNR of Table 1: five results and two of Gamma; sizes of Alpha twice; SSIM of Beta; flops; celeba; Gamma at 50. The talk, Section 5
    # and Table 2 repeat what is there.
    assert counts(all_numbers(run)) == {
        "exceeded": 1, "reproduced": 4, "close": 1, "smaller budget": 1, "not reproduced": 1, "data not available": 1, "not run": 4
    }  # fmt: skip


def test_counts_keep_different_numbers_of_one_method_apart(run):
    numbers = all_numbers(run)
    numbers.loc[numbers["place"] == SECTION, "published"] += 0.5  # the section now prints other numbers
    assert counts(numbers)["not run"] == 5


def test_coverage_counts_a_number_at_each_place_however_many_results_stand_beside(run, toy, tmp_path):
    table = coverage(all_numbers(run)).set_index("place")
    assert table["published"].to_dict() == {TABLE: 9, TALK: 1, ELSEWHERE: 2, SECTION: 2}
    assert table["done"].to_dict() == {TABLE: 6, TALK: 1, ELSEWHERE: 1, SECTION: 0}
    stand_in = Results(write_run(tmp_path / "other", dataset="embedded"), {"toy": toy})
    assert coverage(all_numbers(stand_in)).set_index("place")["done"].to_dict() == {
        TABLE: 1,
        TALK: 0,
        ELSEWHERE: 0,
        SECTION: 0,
    }
    assert stand_in.stand_in and not run.stand_in


# --- Tables ---


def test_a_table_has_a_row_for_each_of_our_methods(toy, run):
    (table,) = beside(toy, TABLE, run)
    assert table.columns == ("σ = 15", "σ = 25")
    assert {label: [cell["verdict"] for cell in cells] for label, cells in table.rows} == {
        "Alpha": ["close", "smaller budget"],
        "Alpha (authors' weights)": ["not run", "reproduced"],
        "Beta": ["exceeded", "not reproduced"],
        "Gamma": ["not run", "not run"],
    }
    (unrun,) = [cells[0] for label, cells in table.rows if label == "Alpha (authors' weights)"]
    assert unrun["published"] == 30.0 and unrun["ours"] is None and unrun["difference"] is None


def test_a_place_may_have_a_table_for_each_set(toy, run):
    first, second = beside(toy, ELSEWHERE, run)
    assert (first.title, second.title) == ("Set12", "celeba")
    assert [cell["verdict"] for _, (cell,) in first.rows] == ["close"]
    assert [cell["verdict"] for _, (cell,) in second.rows] == ["data not available"]


def test_metrics_may_make_the_columns(toy, run, monkeypatch):
    across = toy.compare[TABLE].model_copy(update={"across": "metric", "by": "sigma"})
    monkeypatch.setitem(toy.declared.compare, TABLE, across)
    first, second = beside(toy, TABLE, run)
    assert (first.title, first.columns) == ("σ = 15", ("PSNR",)) and second.columns == ("PSNR", "SSIM")
    cells = dict(second.rows)["Beta"]
    assert [second.digits(cell) for cell in cells] == [2, 4] and cells[1]["verdict"] == "reproduced"
    assert dict(second.rows)["Gamma"][1] is None  # its SSIM is not printed


def test_columns_by_what_is_not_printed_are_refused(toy, run, monkeypatch):
    monkeypatch.setitem(toy.declared.compare, TABLE, toy.compare[TABLE].model_copy(update={"across": "kernel"}))
    with pytest.raises(ValueError, match="columns cannot be made by 'kernel'; expected one of dataset, sigma, metric"):
        beside(toy, TABLE, run)


def test_a_table_as_frame_and_as_markdown(toy, run):
    (table,) = beside(toy, TABLE, run)
    frame = table.frame
    assert frame.loc["Alpha", ("σ = 15", "ours")] == pytest.approx(29.9)
    assert frame.loc["Gamma", ("σ = 25", "published")] == 27.5 and pd.isna(frame.loc["Gamma", ("σ = 25", "ours")])
    assert table.markdown.splitlines() == [
        "|  | σ = 15 | σ = 25 |",
        "| :-- | --: | --: |",
        "| Alpha | 30.00 / **29.90** close | 28.00 / **27.00** smaller budget |",
        "| Alpha (authors' weights) | 30.00 not run | 28.00 / **28.02** reproduced |",
        "| Beta | 31.00 / **31.06** exceeded | 29.00 / **28.50** not reproduced |",
        "| Gamma | 29.50 not run | 27.50 not run |",
    ]


def test_score_files_are_read_once(run, toy, monkeypatch):
    compare(toy, TABLE, run)
    monkeypatch.setattr(module, "read_scores", lambda *_, **__: pytest.fail("read again"))
    compare(toy, TALK, run)
