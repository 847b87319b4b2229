"""Claims decided from made-up scores: every verdict, with estimates and intervals worked out by hand."""

from __future__ import annotations

import json
import math

import pandas as pd
import pytest
from made_up import ABLATIONS, YAML, rows_of, run, toy, write_curve, write_few, write_paper, write_rows, write_seeds

from invdenoise import papers, paths
from invdenoise.report.claims import claim_counts, claims_markdown, decide, decide_all, interval, share_interval
from invdenoise.report.compare import Results

__all__ = ["run", "toy"]

# Differences 1, 2, 3, 2: mean 2, standard deviation sqrt(2 / 3), t quantile 3.182446 at three degrees of freedom.
HALF = 3.182446 * math.sqrt(2 / 3) / 2


def decided(tmp_path, claim="better", score_folder=None, replace=()):
    """A claim of the paper with parts of its declaration replaced, on the scores of `made_up.write_few`."""
    yaml = YAML
    for old, new in dict(replace).items():
        assert old in yaml
        yaml = yaml.replace(old, new)
    paper = write_paper(tmp_path / "claimed", yaml)["toy"]
    folder = write_few(tmp_path / "few") if score_folder is None else score_folder
    return decide(paper, claim, Results(folder, {"toy": paper}))


BOUND = "reads: few, where: {sigma: [15]}, least: 0"


@pytest.mark.parametrize(
    ("bounds", "verdict"),
    [
        ("least: 0", "holds"),
        ("least: 0.70", "holds"),  # the lower end is 0.7008
        ("least: 0.71", "undecided"),
        ("least: 3.29", "undecided"),  # the upper end is 3.2992
        ("least: 3.30", "does not hold"),
        ("most: 3.30", "holds"),
        ("most: 3.29", "undecided"),
        ("most: 0.70", "does not hold"),
        ("least: 0.5, most: 3.5", "holds"),
        ("least: 1.5, most: 2.5", "undecided"),
        ("least: -1, most: 0.5", "does not hold"),
        ("least: 4, most: 5", "does not hold"),
    ],
)
def test_a_claim_is_decided_by_the_interval_of_the_mean_difference(toy, tmp_path, bounds, verdict):
    found = decided(tmp_path, replace={BOUND: f"reads: few, where: {{sigma: [15]}}, {bounds}"})
    assert found.verdict == verdict
    assert (found.estimate, found.n, found.unit) == (pytest.approx(2), 4, "dB")
    assert (found.lower, found.upper) == (pytest.approx(2 - HALF, abs=1e-6), pytest.approx(2 + HALF, abs=1e-6))
    assert found.interval == "95 % t interval of the mean over pictures"


def test_the_estimate_is_told_with_interval_pictures_and_training(toy, tmp_path):
    found = decided(tmp_path)
    assert found.found == "+2.000 dB (+0.701 to +3.299; 4 pictures)"
    assert found.tested == "psnr, one − two, sigma 15: mean at least 0 dB"
    assert found.trained == "laptop budget: one, two"
    assert (found.says, found.place, found.note) == ("One is better than two.", "Section 4", "By the abstract.")


def test_a_picture_counts_with_its_mean_over_conditions_and_pairs(toy, tmp_path):
    # Mean over both noise levels: (1-1)/2, (2+1)/2, (3-1)/2, (2+1)/2 = 0, 1.5, 1, 1.5: mean 1, standard deviation sqrt(1/2).
    found = decided(tmp_path, replace={BOUND: "reads: few, least: 0"})
    assert (found.estimate, found.n) == (pytest.approx(1), 4)
    assert found.lower == pytest.approx(1 - 3.182446 * math.sqrt(0.5) / 2, abs=1e-6)
    # The pair two - one has the opposite differences, so that the mean over both pairs is zero on every picture.
    found = decided(
        tmp_path / "pairs", replace={f"[[one, two]], {BOUND}": "[[one, two], [two, one]], reads: few, least: 0"}
    )
    assert (found.estimate, found.lower, found.upper, found.n) == (0, 0, 0, 4)
    assert len(found.cells) == 4


def test_cells_have_their_own_intervals(toy, tmp_path):
    low, high = decided(tmp_path, "every").cells
    assert low.words("dB", 2) == f"one − two, Set12, sigma 15, +2.00 dB (+{2 - HALF:.2f} to +{2 + HALF:.2f})"
    assert (low.pair, low.condition, low.n) == (("one", "two"), {"dataset": "set12", "sigma": 15}, 4)
    assert (low.estimate, low.verdict) == (pytest.approx(2), "holds")
    # Differences -1, 1, -1, 1: mean 0, standard deviation sqrt(4 / 3).
    half = 3.182446 * math.sqrt(4 / 3) / 2
    assert (high.estimate, high.upper) == (pytest.approx(0), pytest.approx(half, abs=1e-6))
    assert high.verdict == "undecided"


@pytest.mark.parametrize(
    ("second", "verdict", "found"),
    [
        ((2.0, 3.0, 4.0, 3.0), "holds", "holds in 2 of 2 cells; mean +2.500 dB"),
        (
            (-1.0, 1.0, -1.0, 1.0),
            "undecided",
            "holds in 1, undecided in 1 (Set12, sigma 25: +0.000) of 2 cells; mean +1.000 dB",
        ),
        (
            (-1.0, -2.0, -3.0, -2.0),
            "does not hold",
            "holds in 1, does not hold in 1 (Set12, sigma 25: −2.000) of 2 cells; mean +0.000 dB",
        ),
    ],
)
def test_a_claim_about_every_cell_needs_every_cell(toy, tmp_path, second, verdict, found):
    folder = write_few(tmp_path / "scores", {15: (1.0, 2.0, 3.0, 2.0), 25: second})
    one = decided(tmp_path, "every", folder)
    assert one.verdict == verdict and one.found.startswith(found)


def test_one_failed_cell_outweighs_undecided_ones(toy, tmp_path):
    folder = write_few(tmp_path / "scores", {15: (-1.0, 1.0, -1.0, 1.0), 25: (-1.0, -2.0, -3.0, -2.0)})
    assert decided(tmp_path, "every", folder).verdict == "does not hold"


def test_a_quotient_is_known_exactly(toy, tmp_path):
    found = decided(tmp_path, "size")
    assert (found.verdict, found.estimate, found.interval, found.found) == ("holds", 0.25, "known exactly", "0.250")
    assert (
        decided(tmp_path / "less", "size", replace={"least: 0.225, most: 0.275": "least: 0.26"}).verdict
        == "does not hold"
    )


def test_a_quotient_of_what_varies_is_refused(toy, tmp_path):
    with pytest.raises(ValueError, match="one has several values of psnr"):
        decided(tmp_path, "size", replace={"metric: num_parameters": "metric: psnr"})


def test_a_small_training_excuses_no_claim_and_stands_beside(toy, tmp_path, monkeypatch):
    """The network that saw little is the second one; both are told."""
    folder, cards = tmp_path / "scores", tmp_path / "cards"
    opposite = {15: (-1.0, -2.0, -3.0, -2.0)}
    write_few(folder, opposite, budget="smoke", weights_sha256="abc")
    cards.mkdir()
    monkeypatch.setattr(paths, "RELEASED_WEIGHTS", cards)
    (cards / "few.json").write_text(json.dumps({"sha256": "abc", "patches": 22400}))
    (cards / "other.json").write_text(json.dumps({"sha256": "abd", "patches": 1}))
    found = decided(tmp_path, "better", folder)
    assert found.verdict == "does not hold"
    assert found.trained == "smoke budget: one (22,400 patches), two (22,400 patches)"


def test_patches_of_several_networks_are_a_range(toy, tmp_path, monkeypatch):
    folder, cards = tmp_path / "scores", tmp_path / "cards"
    cards.mkdir()
    monkeypatch.setattr(paths, "RELEASED_WEIGHTS", cards)
    for sigma, sha, patches in ((15, "aa", 7200), (25, "bb", 448000)):
        (cards / f"{sha}.json").write_text(json.dumps({"sha256": sha, "patches": patches}))
        write_rows(rows_of(f"one-s{sigma}", sigma, [31.0, 32.0], weights_sha256=sha), folder, f"one-{sigma}", "toy/few")
        write_rows(rows_of("two", sigma, [30.0, 31.0], budget="none"), folder, f"two-{sigma}", "toy/few")
    found = decided(
        tmp_path, "every", folder, replace={"methods: [one, two, three]": "methods: [one-s15, one-s25, two]"}
    )
    assert found.trained == "laptop budget: one (7,200 to 448,000 patches); nothing to train: two"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("paired: [[one, two]], reads: few, where", "paired: [[one, tow]], reads: few, where",
         "toy, claim 'better': no method in the runs of few is called 'tow'; did you mean 'two'"),
        (BOUND, f"variant: blnd, {BOUND}", "no variant in the runs of few is called 'blnd'; known: ''"),
    ],
)  # fmt: skip
def test_a_method_or_variant_that_no_score_declares_is_refused(toy, tmp_path, old, new, message):
    with pytest.raises(ValueError, match=message):
        decided(tmp_path, replace={old: new})


def test_networks_count_at_the_noise_level_of_their_training(toy, tmp_path):
    folder = tmp_path / "scores"
    for sigma, psnr in ((15, 31.0), (25, 29.0)):
        write_rows(rows_of(f"one-s{sigma}", sigma, [psnr, psnr + 1]), folder, f"one-{sigma}", "toy/few")
        write_rows(rows_of("two", sigma, [psnr - 1, psnr]), folder, f"two-{sigma}", "toy/few")
    write_rows(rows_of("one-s50", 15, [1.0, 2.0]), folder, "other", "toy/few")  # not at its own level
    methods = {"methods: [one, two, three]": "methods: [one-s15, one-s25, one-s50, two]"}
    found = decided(tmp_path, "every", folder, replace=methods)
    assert [(cell.condition["sigma"], cell.estimate) for cell in found.cells] == [(15, 1.0), (25, 1.0)]
    assert found.verdict == "holds" and found.budgets == {"one": ("laptop",), "two": ("laptop",)}


def test_rows_of_another_variant_do_not_count(toy, tmp_path):
    folder = write_few(tmp_path / "scores")
    write_rows(rows_of("one", 15, [0.0] * 4, variant="other"), folder, "other", "toy/few")
    assert decided(tmp_path, "better", folder).estimate == pytest.approx(2)


# --- Not run ---


def test_a_method_without_scores_is_named(toy, run, tmp_path):
    found = decide(toy, "absent", run)
    assert (found.verdict, found.found) == ("not run", "not run: no scores of gamma")
    nothing = decide(toy, "better", Results(tmp_path / "nothing", {"toy": toy}))
    assert nothing.found == "not run: no scores of toy/few" and math.isnan(nothing.estimate)


def test_pictures_that_stand_in_decide_nothing(toy, tmp_path):
    found = decided(tmp_path, "better", write_few(tmp_path / "scores", dataset="embedded"))
    assert found.found == "not run: one was scored on pictures that stand in for Set12"
    assert decided(tmp_path / "size", "size", write_few(tmp_path / "other", dataset="embedded")).verdict == "holds"


def test_another_number_of_pictures_decides_nothing(toy, tmp_path):
    folder = write_few(tmp_path / "scores")
    write_rows(rows_of("two", 15, [30.0, 31.0, 28.0], num_parameters=1000), folder, "two-15", "toy/few")
    found = decided(tmp_path, "better", folder)
    assert found.found == "not run: no score of two on Set12, sigma 15, picture 03, where the other method has one"


def test_a_condition_that_was_not_scored_decides_nothing(toy, tmp_path):
    found = decided(tmp_path, replace={BOUND: "reads: few, where: {sigma: [15, 50]}, least: 0"})
    assert found.found == "not run: no scores of one and two at sigma 50"


def test_what_is_not_finite_decides_nothing(toy, tmp_path):
    folder = write_few(tmp_path / "scores")
    write_rows(rows_of("two", 15, [30.0, math.inf, 28.0, 25.0]), folder, "two-15", "toy/few")
    assert "psnr of one or two is not finite" in decided(tmp_path, "better", folder).found


def test_a_misspelt_condition_or_metric_is_refused(toy, tmp_path):
    with pytest.raises(ValueError, match="toy/few has no condition 'sgma'"):
        decided(tmp_path, replace={BOUND: "reads: few, where: {sgma: [15]}, least: 0"})
    with pytest.raises(ValueError, match="toy/few has no column 'prsn'"):
        decided(tmp_path / "metric", replace={BOUND: "reads: few, metric: prsn, least: 0"})


# --- Variants ---

PAIR = "paired: [[one, two]], reads: few, where"
VARIANTS = {
    "limit: 4}]": "limit: 4}, {methods: one, sets: set12, conditions: {sigma: [15]}, variant: mean, limit: 4}]",
    PAIR: 'paired: ["one@mean", one], reads: few, where',
}


def test_two_variants_of_one_method_are_a_pair(toy, tmp_path):
    folder = write_few(tmp_path / "scores")  # one at sigma 15: 31, 33, 31, 27
    rows = rows_of("one", 15, [31.5, 33.5, 31.5, 27.5], variant="mean", num_parameters=250)
    write_rows(rows, folder, "one-15.mean", "toy/few")
    found = decided(tmp_path, "better", folder, replace=VARIANTS)
    assert (found.verdict, found.estimate, found.n) == ("holds", pytest.approx(0.5), 4)
    assert found.tested == "psnr, one@mean − one, sigma 15: mean at least 0 dB"
    assert found.trained == "laptop budget: one"
    # With `variant`, a name without @ takes the rows of that variant; "one@" takes those without one.
    other = {**VARIANTS, PAIR: 'paired: [one, "one@"], variant: mean, reads: few, where'}
    assert decided(tmp_path / "other", "better", folder, replace=other).estimate == pytest.approx(0.5)


def test_a_variant_that_was_not_scored_or_not_declared_is_named(toy, tmp_path):
    assert decided(tmp_path, replace=VARIANTS).found == "not run: no scores of one@mean"
    wrong = {**VARIANTS, PAIR: 'paired: ["one@meen", one], reads: few, where'}
    with pytest.raises(ValueError, match="no variant in the runs of few is called 'meen'; did you mean 'mean'"):
        decided(tmp_path / "wrong", replace=wrong)


# --- Shares ---


@pytest.mark.parametrize(
    ("bounds", "verdict", "words"),
    [
        ("least: 0.3", "holds", "at least 30 %"),  # the lower end is 0.3006
        ("least: 0.5", "undecided", "at least 50 %"),
        ("least: 0.96", "does not hold", "at least 96 %"),  # the upper end is 0.9544
        ("least: 0.25, most: 0.96", "holds", "between 25 and 96 %"),
    ],
)
def test_a_share_of_pictures_is_decided_by_its_interval(toy, tmp_path, bounds, verdict, words):
    folder = write_few(tmp_path / "scores", {15: (0.1, -9.0, 0.2, 0.3)})
    found = decided(tmp_path, "better", folder, {BOUND: f"reads: few, where: {{sigma: [15]}}, share: true, {bounds}"})
    # Three of four. Wilson with z = 1.959964: centre (0.75 + 0.480182) / 1.960365, half width 0.326931.
    assert (found.verdict, found.estimate, found.n) == (verdict, 0.75, 4)
    assert (found.lower, found.upper) == (pytest.approx(0.300642, abs=1e-6), pytest.approx(0.954413, abs=1e-6))
    assert found.interval == "95 % Wilson interval of the share of pictures"
    assert found.found == "75.0 % (30.1 to 95.4 %; 4 pictures)"
    assert found.tested == f"psnr, one − two, sigma 15: share of pictures above 0 {words}"
    (cell,) = found.cells
    assert cell.words(found.unit, found.digits) == "one − two, Set12, sigma 15, 75.0 % (30.1 to 95.4 %)"


def test_a_tie_is_no_gain_and_a_picture_counts_with_its_mean(toy, tmp_path):
    replace = {BOUND: "reads: few, share: true, least: 0.5"}
    # Means over both levels: 0, 1.5, 1, 1.5 (see above): the first one is a tie.
    assert decided(tmp_path, replace=replace).estimate == 0.75
    every = {"reads: few, least: 0, every: true": "reads: few, share: true, least: 0.2, every: true"}
    found = decided(tmp_path / "every", "every", replace=every)
    assert [cell.estimate for cell in found.cells] == [1.0, 0.5]
    assert found.found.startswith(
        "holds in 1, undecided in 1 (Set12, sigma 25: 50.0) of 2 cells; share 75.0 % (30.1 to"
    )
    assert found.tested == "psnr, one − two: share in every cell at least 20 %"


def test_the_share_agrees_with_wilson():
    # Ends for 0 and 10 of 10 are exact: 0, and 1 - z**2 / (10 + z**2) = 0.722467 from the other side.
    assert share_interval([1.0] * 10) == (1.0, pytest.approx(0.722467, abs=1e-6), 1.0)
    assert share_interval([-1.0] * 10) == (0.0, 0.0, pytest.approx(1 - 0.722467, abs=1e-6))
    assert share_interval([1.0])[1] == pytest.approx(1 / (1 + 1.959964**2), abs=1e-6)


# --- Curves of ablations ---


@pytest.fixture
def ablated(tmp_path, monkeypatch):
    """A function that decides a claim on ablations of the made-up paper; `ends` are PSNR of seeds 0, 1, ..."""
    monkeypatch.setattr(paths, "RELEASED", tmp_path / "released")

    def decider(test="paired: [wide, none], least: 0", curve=None, **ends):
        number = len(list(tmp_path.iterdir()))
        claim = f"claims:\n  curves: {{says: Wider is better., place: Section 4, test: {{reads: ablations, {test}}}}}\n"
        yaml = YAML.replace("\nscores:\n", ABLATIONS + "scores:\n").replace("claims:\n", claim)
        paper = write_paper(tmp_path / f"ablated-{number}", yaml)["toy"]
        monkeypatch.setattr(papers, "papers", lambda: {"toy": paper})
        folder = write_seeds(tmp_path / f"curves-{number}", **ends)
        if curve is not None:
            curve(folder)
        return decide(paper, "curves", Results(folder, {"toy": paper}))

    return decider


def test_a_claim_on_ablations_is_decided_over_seeds(ablated):
    found = ablated(none=(30.0, 31.0, 29.0), wide=(31.0, 33.0, 32.0))
    # Differences 1, 2, 3: mean 2, standard deviation 1, t quantile 4.302653 at two degrees of freedom.
    half = 4.302653 / math.sqrt(3)
    assert (found.verdict, found.estimate, found.n, found.over) == ("undecided", pytest.approx(2), 3, "seed")
    assert (found.lower, found.upper) == (pytest.approx(2 - half, abs=1e-6), pytest.approx(2 + half, abs=1e-6))
    assert found.interval == "95 % t interval of the mean over seeds"
    assert found.found == "+2.000 dB (−0.484 to +4.484; 3 seeds)"
    assert found.tested == "validation psnr, wide − none: mean at least 0 dB"
    assert found.trained == "laptop budget: wide (160 patches), none (160 patches)"  # 40 steps of 4 patches
    assert [cell.words("dB", 1) for cell in found.cells] == ["wide − none, +2.0 dB (−0.5 to +4.5)"]
    assert ablated(none=(30.0, 31.0), wide=(31.0, 32.0)).verdict == "holds"  # two equal differences


def test_each_pair_of_ablations_is_a_cell(ablated):
    test = "paired: [[wide, none], [deep, none]], least: 0, every: true"
    found = ablated(test, none=(30.0, 31.0, 29.0), wide=(31.0, 32.0, 30.0), deep=(29.0, 30.0, 28.0))
    assert found.found == (
        "holds in 1, does not hold in 1 (deep − none: −1.000) of 2 cells; mean +0.000 dB (+0.000 to +0.000; 3 seeds)"
    )
    share = ablated("paired: [wide, none], share: true, least: 0.2", none=(30.0, 31.0), wide=(31.0, 32.0))
    assert share.found == "100.0 % (34.2 to 100.0 %; 2 seeds)"  # lower end 1 / (1 + z**2 / 2)
    assert share.tested == "validation psnr, wide − none: share of seeds above 0 at least 20 %"


def test_seeds_count_that_are_finished_for_every_method(ablated):
    found = ablated(none=(30.0, 31.0, 29.0), wide=(31.0, 33.0))
    assert (found.n, found.estimate) == (2, pytest.approx(1.5))
    few = ablated(none=(30.0, 31.0, 29.0), wide=(31.0,))
    assert few.found == "not run: fewer than 2 finished seeds of wide; train them with make ablations"

    def without_seed_0(folder):
        (folder / "runs" / "toy-ablation-wide-seed0" / "laptop" / "curve.csv").unlink()

    few = ablated(none=(30.0, 31.0), wide=(30.0, 31.0, 32.0), curve=without_seed_0)
    assert few.found == "not run: fewer than 2 seeds are finished for every method; train them with make ablations"


def test_a_curve_that_was_not_trained_to_its_end_does_not_count(ablated):
    def half_way(folder):
        for seed in (0, 1):
            name = f"toy-ablation-wide-seed{seed}"
            write_curve(folder / "runs" / name / "laptop" / "curve.csv", name, part=0.5)

    found = ablated(none=(30.0, 31.0), curve=half_way)
    assert found.found == "not run: fewer than 2 finished seeds of wide; train them with make ablations"
    assert math.isnan(found.estimate) and found.budgets is None


def test_a_change_or_metric_that_no_ablation_has_is_refused(ablated):
    with pytest.raises(
        ValueError, match="toy, claim 'curves': no change of the ablations is called 'wied'; did you mean"
    ):
        ablated("paired: [wied, none], least: 0")
    with pytest.raises(ValueError, match="no metric in the curves of the ablations is called 'ssim'; known: 'psnr'"):
        ablated("paired: [wide, none], metric: ssim, least: 0")


def test_a_curve_that_is_not_finite_decides_nothing(ablated):
    found = ablated(none=(30.0, 31.0), wide=(math.nan, 32.0))
    assert found.found == "not run: psnr of wide or none is not finite for every seed"


# --- All of them ---


def test_claims_are_counted_and_shown_in_the_order_of_the_paper(toy, run):
    found = decide_all(toy, run)
    assert list(found) == ["better", "every", "size", "absent"]
    assert claim_counts(found.values()) == {"holds": 2, "undecided": 1, "not run": 1}
    assert claims_markdown(found.values()).splitlines()[2] == (
        "| One is better than two. | Section 4 | +2.000 dB (+0.701 to +3.299; 4 pictures) | **holds** |"
    )


def test_one_picture_has_no_interval():
    assert interval([3.0]) == (3.0, -math.inf, math.inf)


def test_intervals_agree_with_the_textbook():
    # Student's example of 1908, additional hours of sleep: mean 1.58, 95 % interval 0.70 to 2.46.
    hours = [1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4]
    assert interval(pd.Series(hours)) == (
        pytest.approx(1.58),
        pytest.approx(0.70, abs=0.005),
        pytest.approx(2.46, abs=0.005),
    )


def test_a_claim_on_one_picture_is_undecided(toy, tmp_path):
    folder = tmp_path / "scores"
    for method, psnr in (("one", 31.0), ("two", 30.0)):
        write_rows(rows_of(method, 15, [psnr]), folder, method, "toy/few")
    found = decided(tmp_path, "better", folder)
    assert found.verdict == "undecided" and found.found == "+1.000 dB (no interval of one picture; 1 picture)"
