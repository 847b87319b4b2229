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
    write_published,
    write_rows,
    write_run,
)

from invdenoise import papers, paths
from invdenoise.report import compare as module
from invdenoise.report.claims import check_claim
from invdenoise.report.compare import (
    COMPARED,
    Results,
    all_numbers,
    beside,
    check_place,
    compare,
    convention_effects,
    counts,
    coverage,
    exceeded,
    parts_of,
    read_results,
)
from invdenoise.report.published import published_value
from invdenoise.tasks.base import columns_of
from invdenoise.tasks.generate import Noise

__all__ = ["run", "toy"]


def number(
    table: pd.DataFrame, method: str, sigma: float = 25, metric: str = "psnr", family: str | None = None
) -> dict:
    """The one row of a comparison."""
    here = table[(table["method"] == method) & (table["metric"] == metric)]
    here = here if metric in module.COUNTS else here[here["sigma"] == sigma]
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
        ("alpha-s25", 25): (-1.0, "not reproduced", "laptop", ""),  # a small training excuses no such miss
        ("alpha-authors-s25", 25): (0.02, "reproduced", "authors", "authors' weights"),
        ("beta", 15): (0.06, "exceeded", "none", ""),
        ("beta", 25): (-0.5, "not reproduced", "none", ""),
    }
    assert set(table[table["method"] == "gamma"]["verdict"]) == {"not run"}
    assert set(table["num_images"].dropna()) == {NUM_PICTURES}


def test_the_network_of_the_noise_level_goes_before_the_one_for_all(toy, tmp_path):
    general, other = rows_of("alpha", 25, 28.0), rows_of("alpha-s50", 25, 20.0)  # the second is trained for 50
    assert number(only(tmp_path, toy, general, other), "alpha")["our_method"] == "alpha"
    own = rows_of("alpha-s25", 25, 27.9)
    found = number(only(tmp_path, toy, general, other, own), "alpha")
    assert (found["our_method"], found["ours"]) == ("alpha-s25", pytest.approx(27.9))


def test_variants_other_sets_and_other_levels_are_left_aside(toy, tmp_path):
    result = rows_of("beta", 25, 29.0)
    strangers = [
        result.assign(variant="raw"),
        rows_of("beta", 25, 29.0, requested="bsd68", dataset="bsd68"),
        rows_of("beta", 50, 29.0),
    ]
    assert number(only(tmp_path, toy, *strangers), "beta")["verdict"] == "not run"
    assert number(only(tmp_path, toy, *strangers, result), "beta")["verdict"] == "reproduced"


def test_a_place_takes_the_variant_that_it_declares(toy, tmp_path, monkeypatch):
    monkeypatch.setitem(toy.declared.compare, TABLE, toy.compare[TABLE].model_copy(update={"variant": "blind"}))
    runs = toy.scores["plain"].runs[0]
    score = toy.scores["plain"].model_copy(update={"runs": (runs, runs.model_copy(update={"variant": "blind"}))})
    monkeypatch.setitem(toy.declared.scores, "plain", score)
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


def test_a_printed_set_to_fetch_by_hand_is_not_available_until_it_is_there(toy, run, tmp_path, monkeypatch):
    monkeypatch.setenv("INVDENOISE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("DATA_MIRROR", raising=False)
    printed = ((ELSEWHERE, "Alpha", "sidd-validation", 15, "psnr", "dB", 39.0, "alpha"),)
    monkeypatch.setattr(paths, "PUBLISHED", write_published(tmp_path / "by-hand", printed))
    assert compare(toy, ELSEWHERE, run)["verdict"].tolist() == ["data not available"]
    folder = tmp_path / "cache" / "sidd-validation"
    folder.mkdir(parents=True)
    (folder / "ValidationGtBlocksSrgb.mat").touch()
    assert compare(toy, ELSEWHERE, run)["verdict"].tolist() == ["not run"]


def test_sizes_and_other_metrics_have_their_own_tolerances(toy, tmp_path):
    small = rows_of("alpha-s25", 25, 10.0, num_parameters=996, budget="smoke", dataset="embedded")
    beta = rows_of("beta", 25, 29.0, ssim=0.904)
    table = only(tmp_path, toy, small, beta)
    size, ssim = number(table, "alpha", metric="parameters"), number(table, "beta", metric="ssim")
    assert (size["ours"], size["difference"], size["verdict"]) == (996, -4, "reproduced")
    assert (ssim["ours"], ssim["verdict"]) == (pytest.approx(0.904), "exceeded")
    assert table[table["metric"] == "flops"]["verdict"].tolist() == ["not run"]  # no score has it


@pytest.mark.parametrize(
    ("ours", "verdict"), [(7.06, "reproduced"), (6.94, "reproduced"), (7.3, "close"), (6, "not reproduced")]
)
def test_the_cost_of_a_network_is_counted(ours, verdict, toy, run, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "gigaflops", lambda method: ours if method == "beta" else None)
    table = compare(toy, TABLE, run)
    found = number(table, "beta", metric="flops")
    assert (found["ours"], found["verdict"], found["our_method"]) == (ours, verdict, "beta")
    assert found["difference"] == pytest.approx(ours - 7)
    assert set(parts_of(table)["sizes"]["metric"]) == {"parameters", "flops"}


def test_the_cost_of_invdn_is_what_the_paper_prints():
    assert module.gigaflops("invdn") == pytest.approx(
        published_value("invdn", "Table 2", "invdn", metric="flops"), rel=0.01
    )
    assert module.gigaflops("bm3d") is None and module.gigaflops("ffdnet-authors-colour") is None


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


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('beta: {label: Beta, ours: {beta: ""}}', 'beta: {label: Beta, ours: {btea: ""}}',
         "toy, Table 1: no method in the runs of plain is called 'btea'; did you mean 'beta'"),
        ("alpha-authors: authors", "alpha-author: authors", "'alpha-author'; did you mean 'alpha-authors'"),
        ("title: PSNR on Set12 (dB)", "variant: blnd", "toy, Table 1: no variant in the runs of plain is called 'blnd'; known: ''"),
        ("title: PSNR on Set12 (dB)", "conventions: {judged: clamped, others: {raw: not clamped}, known: Nothing.}", "called 'raw'"),
    ],
)  # fmt: skip
def test_a_method_or_variant_that_no_score_declares_is_refused(toy, run, tmp_path, old, new, message):
    """Misspelt, it would be "not run" for ever."""
    wrong = write_paper(tmp_path / "wrong", YAML.replace(old, new))["toy"]
    with pytest.raises(ValueError, match=message):
        compare(wrong, TABLE, run)


def test_what_papers_declare_to_compare_and_to_claim_is_scored():
    for paper in papers.papers().values():
        for place in paper.compare:
            check_place(paper, place, papers.papers())
        for claim in paper.claims:
            check_claim(paper, claim, papers.papers())


def test_only_results_at_the_conditions_of_a_place_belong_to_its_numbers(toy, tmp_path, monkeypatch):
    """Without `where` the size may come from any level; with it, from level 15 only. Numbers at 25 have nothing beside them."""
    both = [rows_of("beta", sigma, psnr, budget="none") for sigma, psnr in ((15, 31.0), (25, 29.0))]
    sized = [
        rows_of("alpha-s25", 25, 28.0, num_parameters=1),
        rows_of("alpha-s15", 15, 30.0, num_parameters=1000),
    ]
    before = only(tmp_path, toy, *sized, *both)
    assert number(before, "alpha", metric="parameters")["ours"] == 1
    monkeypatch.setitem(toy.declared.compare, TABLE, toy.compare[TABLE].model_copy(update={"where": {"sigma": [15]}}))
    table = only(tmp_path, toy, *sized, *both)
    assert number(table, "alpha", metric="parameters")["ours"] == 1000
    assert number(table, "beta", 15)["verdict"] == "reproduced" and number(table, "beta", 25)["verdict"] == "not run"
    other = toy.compare[TABLE].model_copy(update={"where": {"dataset": ["bsd68"]}})
    monkeypatch.setitem(toy.declared.compare, TABLE, other)
    assert set(only(tmp_path, toy, *sized, *both)["verdict"]) == {"not run"}


def test_a_place_is_not_restricted_by_what_its_scores_do_not_have(toy, run, monkeypatch):
    wrong = toy.compare[TABLE].model_copy(update={"where": {"sgma": [15]}})
    monkeypatch.setitem(toy.declared.compare, TABLE, wrong)
    message = "toy, Table 1: no condition of plain to restrict it by is called 'sgma'; did you mean 'sigma'"
    with pytest.raises(ValueError, match=message):
        compare(toy, TABLE, run)


def test_two_conditions_of_one_number_are_told_apart_by_where(tmp_path, monkeypatch):
    """Noise is generated at four strengths of the disturbance; the paper prints one number."""
    yaml = """
title: Generated
short: Generated
order: 1
cite: Nobody
scores:
  noise: {task: generate.Noise, runs: [{methods: alpha, sets: set12, conditions: {epsilon: [0.1, 0.2]}}]}
compare:
  Table 5: {metric: akld, reads: noise, across: dataset, rows: {alpha: {label: Alpha, ours: {alpha: ""}}}}
"""
    printed = [("Table 5", "Alpha", "set12", "", "akld", "", 0.06, "alpha")]
    monkeypatch.setattr(paths, "PUBLISHED", write_published(tmp_path / "published", printed, "gen"))
    task = Noise()
    usual = {
        "method": "alpha",
        "variant": "",
        "requested": "set12",
        "dataset": "set12",
        "task": "generate.Noise",
        "budget": "paper",
    }
    rows = [
        usual | {"image": f"{index:02d}", "epsilon": epsilon, "akld": akld, "seed": 0, "seconds": 1.0, "megapixels": 1.0}
        for epsilon, akld in ((0.1, 0.06), (0.2, 0.5))
        for index in range(NUM_PICTURES)
    ]  # fmt: skip
    table = pd.DataFrame(rows, columns=columns_of(task))
    write_rows(table, tmp_path / "results", "alpha", "gen/noise")
    paper = write_paper(tmp_path / "all", yaml, "gen")["gen"]
    results = Results(tmp_path / "results", {"gen": paper})
    with pytest.raises(
        ValueError, match="two results of alpha on set12, at different conditions; choose one by .*where"
    ):
        compare(paper, "Table 5", results)
    chosen = yaml.replace("metric: akld,", "metric: akld, where: {epsilon: [0.1]},")
    paper = write_paper(tmp_path / "one", chosen, "gen")["gen"]
    (line,) = compare(paper, "Table 5", Results(tmp_path / "results", {"gen": paper})).to_dict("records")
    assert line["ours"] == pytest.approx(0.06) and line["num_images"] == NUM_PICTURES


# --- Conventions, and numbers that exceed the print ---


@pytest.fixture
def clamped(tmp_path, toy) -> tuple[papers.Paper, Results]:
    """The paper with a second convention of Table 1, in which Beta was scored at both noise levels, and a reason for Beta."""
    yaml = YAML.replace("{label: Beta, ours: {beta: \"\"}}", """
        label: Beta
        ours: {beta: ""}
        explain: [{of: beta, where: {sigma: [15]}, says: The clamp.}]""")  # fmt: skip
    yaml = yaml.replace(
        "    title: PSNR on Set12 (dB)\n",
        "    title: PSNR on Set12 (dB)\n    conventions: {judged: clamped, others: {raw: not clamped}, known: The paper does not say.}\n",
    )
    runs = "runs: [{methods: [alpha-s15"
    yaml = yaml.replace(
        runs, "runs: [{methods: beta, sets: set12, conditions: {sigma: [15, 25]}, variant: raw}, {methods: [alpha-s15"
    )
    paper = write_paper(tmp_path / "clamped", yaml)["toy"]
    folder = write_run(tmp_path / "both")
    for sigma, psnr in ((15, 31.0), (25, 28.4)):  # clamped: 31.06, exceeded, and 28.50, not reproduced
        write_rows(rows_of("beta", sigma, psnr, variant="raw", budget="none"), folder, f"beta-{sigma}-raw")
    return paper, Results(folder, {"toy": paper})


def test_another_convention_stands_beside_and_does_not_count(clamped, run):
    paper, results = clamped
    table = compare(paper, TABLE, results)
    other = table[(table["convention"] == "not clamped") & (table["metric"] == "psnr")]
    assert other["our_method"].tolist() == ["beta", "beta"]
    assert other["verdict"].tolist() == ["reproduced", "not reproduced"]
    judged = table[table["convention"] == ""].reset_index(drop=True)
    pd.testing.assert_frame_equal(judged, compare(run.papers["toy"], TABLE, run))
    assert counts(all_numbers(results)) == counts(all_numbers(run))


def test_a_table_shows_both_conventions_and_says_which_is_judged(clamped):
    (table,) = beside(*clamped[:1], TABLE, clamped[1])
    assert [line for line in table.markdown.splitlines() if "Beta" in line] == [
        "| Beta (clamped) | 31.00 / **31.06** exceeded | 29.00 / **28.50** not reproduced |",
        "| Beta (not clamped) | 31.00 / **31.00** (reproduced) | 29.00 / **28.40** (not reproduced) |",
    ]


def test_the_effect_of_a_convention_is_counted(clamped, toy, run):
    assert convention_effects(compare(toy, TABLE, run), "psnr") == {}
    effects = convention_effects(compare(clamped[0], TABLE, clamped[1]), "psnr")
    assert effects == {"not clamped": {"numbers": 2, "largest": pytest.approx(0.1), "changed": 1}}


def test_a_number_that_exceeds_the_print_has_a_reason_or_is_unexplained(clamped, toy, run):
    (line,) = exceeded(clamped[0], TABLE, compare(clamped[0], TABLE, clamped[1]))
    assert (line["our_method"], line["sigma"], line["reason"]) == ("beta", 15, "The clamp.")
    assert line["others"] == {"not clamped": pytest.approx(31.0)}
    (line,) = exceeded(toy, TABLE, compare(toy, TABLE, run))
    assert (line["reason"], line["others"]) == ("unexplained", {})


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("{label: Gamma}", "{label: Gamma, explain: [{of: beta, says: So.}]}", "explain is of 'beta'; expected one of ours: none"),
        ("variant: blind", "conventions: {judged: a, others: {blind: b}, known: c}\n    variant: blind", "variant 'blind' is judged"),
        ("title: PSNR on Set12 (dB)", "conventions: {judged: a, others: {}, known: c}", "others is {}"),
    ],
)  # fmt: skip
def test_a_reason_or_convention_of_nothing_is_refused(toy, tmp_path, old, new, message):
    yaml = YAML.replace(
        "reads: plain\n    rows:\n      alpha", "reads: plain\n    variant: blind\n    rows:\n      alpha"
    )
    assert old in yaml
    with pytest.raises(ValueError, match=message):
        write_paper(tmp_path / "wrong", yaml.replace(old, new))


# --- Every number ---


def test_all_numbers_are_those_of_every_place_declared_or_not(run):
    numbers = all_numbers(run)
    per_place = numbers.drop_duplicates([*COMPARED[:3], "dataset", "sigma", "metric"]).groupby("place").size().to_dict()
    assert per_place == {TABLE: 9, TALK: 1, ELSEWHERE: 2, SECTION: 2}
    assert set(numbers[numbers["place"] == SECTION]["verdict"]) == {"not run"}


def test_counts_take_what_is_printed_twice_once(run):
    # Alpha at 15 and 25, its size; Beta at 15 and 25, its SSIM, flops; Gamma at 15, 25 and 50; celeba. The talk, Section 5 and Table 2
    # repeat what is there. Alpha at 25 counts by its first method, although the second one is better.
    numbers = all_numbers(run)
    assert counts(numbers) == {
        "exceeded": 1, "reproduced": 2, "close": 1, "not reproduced": 2, "data not available": 1, "not run": 4
    }  # fmt: skip
    assert sum(counts(numbers).values()) == len({(*number[2:5], *number[6:]) for number in PRINTED})


def test_our_networks_authors_weights_classical_methods_and_sizes_are_counted_apart(run):
    parts = {name: counts(part) for name, part in parts_of(all_numbers(run)).items()}
    assert parts == {
        "ours": {"close": 1, "not reproduced": 1},
        "authors": {"reproduced": 1},
        "classical": {"exceeded": 1, "reproduced": 1, "not reproduced": 1},
        "sizes": {"reproduced": 1},
        "alone": {"data not available": 1, "not run": 4},
    }


def test_a_second_method_of_a_part_adds_no_number(toy, tmp_path):
    """Both of Alpha's are authors' weights; the first one is further away, and counts."""
    for name, psnr in (("alpha-s25", 27.0), ("alpha-authors-s25", 28.0)):
        write_rows(rows_of(name, 25, psnr, budget="authors"), tmp_path / "only", name)
    numbers = all_numbers(Results(tmp_path / "only", {"toy": toy}))
    assert counts(parts_of(numbers)["authors"]) == {"not reproduced": 1}


def test_counts_keep_different_numbers_of_one_method_apart(run):
    numbers = all_numbers(run)
    numbers.loc[numbers["place"] == SECTION, "published"] += 0.5  # the section now prints other numbers
    assert counts(numbers)["not run"] == 5 and sum(counts(numbers).values()) == 12


def test_coverage_counts_a_number_once_at_the_first_place_that_prints_it(run, toy, tmp_path):
    table = coverage(all_numbers(run)).set_index("place")
    assert table["published"].to_dict() == {
        TABLE: 9,
        ELSEWHERE: 1,
        SECTION: 1,
    }  # the talk repeats, so do parts of the others
    assert table["done"].to_dict() == {TABLE: 6, ELSEWHERE: 0, SECTION: 0}
    assert table["published"].sum() == sum(counts(all_numbers(run)).values())
    stand_in = Results(write_run(tmp_path / "other", dataset="embedded"), {"toy": toy})
    left = coverage(all_numbers(stand_in)).set_index("place")["done"].to_dict()
    assert left == {TABLE: 1, ELSEWHERE: 0, SECTION: 0}  # the size
    assert stand_in.stand_in and not run.stand_in


# --- Tables ---


def test_a_table_has_a_row_for_each_of_our_methods(toy, run):
    (table,) = beside(toy, TABLE, run)
    assert table.columns == ("σ = 15", "σ = 25")
    assert {label: [cell["verdict"] for cell in cells] for label, cells in table.rows} == {
        "Alpha (laptop budget)": ["close", "not reproduced"],
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
    assert frame.loc["Alpha (laptop budget)", ("σ = 15", "ours")] == pytest.approx(29.9)
    assert frame.loc["Gamma", ("σ = 25", "published")] == 27.5 and pd.isna(frame.loc["Gamma", ("σ = 25", "ours")])
    assert table.markdown.splitlines() == [
        "|  | σ = 15 | σ = 25 |",
        "| :-- | --: | --: |",
        "| Alpha (laptop budget) | 30.00 / **29.90** close | 28.00 / **27.00** not reproduced |",
        "| Alpha (authors' weights) | 30.00 not run | 28.00 / **28.02** reproduced |",
        "| Beta | 31.00 / **31.06** exceeded | 29.00 / **28.50** not reproduced |",
        "| Gamma | 29.50 not run | 27.50 not run |",
    ]


def test_score_files_are_read_once(run, toy, monkeypatch):
    compare(toy, TABLE, run)
    monkeypatch.setattr(module, "read_scores", lambda *_, **__: pytest.fail("read again"))
    compare(toy, TALK, run)
