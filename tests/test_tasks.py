"""The loop that scores any method in any task, and score files that say where a number comes from."""

from __future__ import annotations

import math

import pandas as pd
import pytest
import torch
import toy

from invdenoise import paths, provenance
from invdenoise.data.noise import awgn, noise_generator
from invdenoise.kernels import routing
from invdenoise.models.base import Denoiser
from invdenoise.tasks import base
from invdenoise.tasks.base import (
    ABOUT,
    PROVENANCE,
    Task,
    check_conditions,
    columns_of,
    conditions_of,
    evaluate,
    journal_of,
    make_task,
    read_scores,
    score_file,
    score_folder,
    summarise,
    weights_of,
    write_scores,
)
from invdenoise.tasks.metrics import psnr
from invdenoise.weights import save_weights, weights_path


class Dim(Denoiser):
    """Divides by `gain`; counts its calls, and fails at the one that is asked for."""

    name, sigma = "dim", 25.0

    def __init__(self, fails_at: int | None = None):
        self.calls, self.fails_at, self.seen = 0, fails_at, []

    def estimate(self, noisy, sigma, gain=2.0):
        self.calls += 1
        self.seen.append((noisy, sigma, gain))
        if self.calls == self.fails_at:
            raise KeyboardInterrupt
        return noisy / gain


@pytest.fixture(autouse=True)
def toys(monkeypatch):
    """Tasks of the toy paper, by name."""
    toy.use(monkeypatch)


CONDITIONS = {"sigma": [5, 10], "gain": [1.0, 2.0]}


def brighten(method=None, conditions=CONDITIONS, **options):
    settings = options.pop("settings", {})
    return evaluate(make_task("toy.Brighten", settings), method or Dim(), "made", conditions, **options)


def without_time(scores):
    return scores.drop(columns="seconds")


# -- tasks by name ----------------------------------------------------------------------------------------------------


def test_a_task_is_made_from_its_name_and_settings():
    task = make_task("toy.Brighten", {"offset": 0.25})
    assert isinstance(task, toy.Brighten) and task.offset == 0.25
    assert (task.name, task.settings) == ("toy.Brighten", {"offset": 0.25})
    assert make_task("awgn.Denoise").settings == {}


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("toy.Brigthen", {}, "toy.py has no 'Brigthen'; did you mean toy.Brighten"),
        ("toys.Brighten", {}, "'toys.Brighten' names no file"),
        ("toy.Brighten", {"ofset": 1}, r"task toy.Brighten with settings \{'ofset': 1\} cannot be made: .*'ofset'"),
    ],
)
def test_an_unknown_task_or_setting_is_named(name, settings, message):
    with pytest.raises(ValueError, match=message):
        make_task(name, settings)


def test_conditions_are_combined_with_the_last_changing_fastest():
    assert conditions_of({"sigma": [15, 50], "kernel": (1, 2)}) == [
        {"sigma": 15, "kernel": 1}, {"sigma": 15, "kernel": 2}, {"sigma": 50, "kernel": 1}, {"sigma": 50, "kernel": 2},
    ]  # fmt: skip
    assert conditions_of({"sigma": 15, "quality": "high"}) == [{"sigma": 15, "quality": "high"}]
    assert conditions_of({}) == [{}] and conditions_of({"sigma": []}) == []


# -- rows -------------------------------------------------------------------------------------------------------------


def test_a_row_has_the_keys_and_metrics_of_its_task():
    scores = brighten(seed=3, variant="half")
    keys = ["sigma", "gain", "error", "psnr", "note"]
    assert list(scores.columns) == [*ABOUT, *keys, *PROVENANCE] == columns_of(toy.Brighten())
    assert len(scores) == 12 and set(scores["num_rows"]) == {12}
    assert scores["error"].dtype == scores["psnr"].dtype == float  # the task gives a tensor
    assert scores["image"].tolist() == 4 * ["p0", "p1", "p2"]
    found = list(zip(scores["sigma"], scores["gain"], strict=True))[::3]
    assert found == [(5, 1.0), (5, 2.0), (10, 1.0), (10, 2.0)]
    for row in scores.itertuples():
        picture = next(one for one in toy.made_pictures("made") if one.name == row.image)
        clean = picture.tensor()
        noisy = awgn(clean, row.sigma, noise_generator(3, "made", row.image, row.sigma)) * row.gain
        denoised = (noisy / 2).clamp(0, 1)
        assert row.error == pytest.approx(255 * (denoised - clean).abs().mean().item(), rel=1e-5)
        assert row.psnr == pytest.approx(psnr(clean, denoised)) and row.note == f"gain {row.gain}"
        assert row.megapixels == 12 * 16 / 1e6 and 0 < row.seconds < 10


def test_a_row_says_what_it_was_made_from(monkeypatch):
    monkeypatch.setattr(base, "commit", lambda: "0123456789ab+")
    row = brighten(seed=3, variant="half", limit=1).iloc[0]
    assert (row.method, row.variant, row.dataset, row.requested) == ("dim", "half", "made", "made")
    assert (row.sigma_train, row.seed, row.num_parameters, row.budget) == (25, 3, 0, "none")
    assert (row.data_sha256, row.weights_sha256, row.task) == ("made-sha256", "", "toy.Brighten")
    assert (row.version, row.commit) == (provenance.VERSION, "0123456789ab+")


def test_a_row_names_precision_threads_and_processor(monkeypatch):
    """Without the processor, times of two machines would look comparable."""
    for processor in ("AMD EPYC (AVX-512)", "Other(R) CPU, 9 cores"):
        monkeypatch.setattr(base, "hardware", lambda device, name=processor: f"1 CPU thread, {name}")
        assert brighten(limit=1)["device"].unique().tolist() == [f"cpu, float, 1 thread, {processor}"]


def test_a_row_of_a_network_says_its_weights_precision_and_size():
    network = toy.Smooth(sigma=10)
    network.card = {"budget": "laptop", "sha256": "beef"}
    row = brighten(network, limit=1).iloc[0]
    assert (row.budget, row.weights_sha256, row.sigma_train) == ("laptop", "beef", 10)
    assert row.num_parameters == 2 * 10 + 19 and row.device.startswith("cpu, float32, 1 thread, ")


def test_a_row_names_the_weights_of_a_networks_parts_too():
    """Two networks of the same weights with different parts give different scores."""
    network, others = toy.Smooth(sigma=10), [toy.Smooth() for _ in range(2)]
    network.card, others[0].card, others[1].card = (
        {"budget": budget, "sha256": sha}
        for budget, sha in (("laptop", "beef"), ("authors", "cafe"), ("laptop", "face"))
    )
    assert weights_of(network) == ("laptop", "beef")
    network.zeroth, network.first = others  # by name: first, zeroth
    assert weights_of(network) == ("laptop", "beef+face+cafe")
    others[1].part = toy.Smooth()
    others[1].part.card = {"budget": "laptop", "sha256": "0123"}
    assert weights_of(network) == ("laptop", "beef+face+0123+cafe")
    assert brighten(network, limit=1)["weights_sha256"].unique().tolist() == ["beef+face+0123+cafe"]
    assert weights_of(Dim()) == ("none", "") and weights_of(toy.generator_of(0.5)) == ("none", "")


def test_limit_takes_the_first_pictures_and_options_reach_every_call():
    method, lines = Dim(), []
    scores = brighten(method, {"sigma": [5, 10]}, limit=2, variant="odd", options={"gain": 4.0}, report=lines.append)
    assert scores["image"].tolist() == ["p0", "p1"] * 2 and scores["gain"].tolist() == [1.0] * 4
    assert [gain for *_, gain in method.seen] == [4.0] * 4
    means = scores.groupby("sigma", sort=False)["error"].mean()
    # The first metric, with its unit and digits.
    assert lines == [f"dim odd on made, sigma {s}: error {means[s]:.1f} grey levels" for s in (5, 10)]


def test_settings_of_the_task_reach_its_cases():
    plain, brighter = Dim(), Dim()
    brighten(plain, limit=1)
    brighten(brighter, limit=1, settings={"offset": 0.25})
    for one, other in zip(plain.seen, brighter.seen, strict=True):
        torch.testing.assert_close(other[0], one[0] + 0.25)


def test_a_condition_that_the_task_does_not_know_is_refused_before_anything_runs():
    method = Dim()
    with pytest.raises(ValueError, match="toy.Brighten has no condition 'kernel'; known: sigma, gain"):
        brighten(method, {"sigma": [5], "kernel": [1]})
    assert method.calls == 0


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        ({}, r"toy.Brighten needs the condition 'sigma'; give its values, as in conditions=\{'sigma': \[...\]\}"),
        ({"gain": [1.0]}, "toy.Brighten needs the condition 'sigma'"),
        ({"sigma": []}, "condition 'sigma' of toy.Brighten has no value; give one or more"),
        ({"sigma": [5, 10, 5]}, "condition 'sigma' of toy.Brighten has the value 5 twice; give each once"),
        ({"sigma": [5, 5.0]}, "has the value 5.0 twice"),
    ],
)
def test_conditions_that_cannot_be_scored_are_refused_before_anything_runs(conditions, message, tmp_path):
    method = Dim()
    with pytest.raises(ValueError, match=message):
        brighten(method, conditions, resume=tmp_path / "dim.csv")
    assert method.calls == 0 and not list(tmp_path.iterdir())


def test_a_condition_with_a_default_may_be_left_out():
    assert brighten(conditions={"sigma": 5}, limit=1)["gain"].tolist() == [1.0]
    check_conditions(make_task("toy.Generate"), {"temperature": (0.5, 1.0)})
    with pytest.raises(ValueError, match="toy.Generate needs the condition 'temperature'"):
        check_conditions(make_task("toy.Generate"), {})
    with pytest.raises(ValueError, match="awgn.Denoise needs the condition 'sigma'"):
        check_conditions(make_task("awgn.Denoise"), {})


def test_what_the_task_refuses_is_not_run(monkeypatch):
    def check(task, method, conditions, options):
        raise ValueError(f"{method.name} at {conditions['sigma']} with {options}")

    monkeypatch.setattr(toy.Brighten, "check", check)
    method = Dim()
    with pytest.raises(ValueError, match=r"dim at \[5\] with \{'gain': 3\}"):
        brighten(method, {"sigma": [5]}, options={"gain": 3})
    assert method.calls == 0


def test_the_warm_up_is_one_call_that_is_not_timed(monkeypatch):
    cases = []
    monkeypatch.setattr(
        toy.Brighten, "warm_up", lambda task, method, case, **options: cases.append((case.image, options))
    )
    brighten(options={"gain": 3.0})
    assert cases == [("p0", {"gain": 3.0})]


# -- another verb -----------------------------------------------------------------------------------------------------


def test_a_method_with_another_verb_is_scored_with_a_row_for_the_whole_set():
    lines = []
    task, method = make_task("toy.Generate"), toy.generator_of(0.5)
    scores = evaluate(task, method, "made", {"temperature": [0.5, 1.0]}, report=lines.append)
    assert list(scores.columns) == [*ABOUT, "temperature", "spread", "distance", *PROVENANCE]
    assert scores["image"].tolist() == ["p0", "p1", "p2", ""] * 2 and set(scores["num_rows"]) == {8}
    assert scores["temperature"].tolist() == [0.5] * 4 + [1.0] * 4
    cases, sets = scores[scores["image"] != ""], scores[scores["image"] == ""]
    assert cases["distance"].isna().all() and cases["spread"].notna().all()
    assert sets["spread"].isna().all() and sets["seconds"].isna().all()
    for row in sets.itertuples():
        found = list(task.cases(toy.made_pictures("made"), 0, temperature=row.temperature))
        ours = torch.cat([case.given["latent"] + 0.5 for case in found]).mean()
        theirs = torch.cat([case.truth for case in found]).mean()
        assert row.distance == pytest.approx((ours - theirs).abs().item())
        assert (row.method, row.task, row.num_parameters) == ("drawn", "toy.Generate", 0)
    assert lines[1].startswith("drawn on made, temperature 1: spread ") and lines[1].endswith(" grey levels")


def test_scores_of_a_whole_set_are_read_and_summarised(tmp_path):
    scores = evaluate(make_task("toy.Generate"), toy.generator_of(0.5), "made", {"temperature": [0.5, 1.0]})
    write_scores(scores, tmp_path / "drawn.csv")
    back = read_scores(tmp_path)
    assert back["image"].tolist() == scores["image"].tolist()
    summary = summarise(back)
    assert summary["temperature"].tolist() == [0.5, 1.0] and summary["num_images"].tolist() == [3, 3]
    assert summary["distance"].tolist() == pytest.approx(
        scores.loc[scores["image"] == "", "distance"].tolist(), rel=1e-4
    )
    assert summary["spread"].tolist() == pytest.approx(
        scores.groupby("temperature")["spread"].mean().tolist(), rel=1e-4
    )


# -- a network trained here, in a task of its own ---------------------------------------------------------------------


def test_a_task_loads_what_papers_declare(tmp_path, monkeypatch):
    toy.declare(tmp_path, monkeypatch, {"plain": {"model": "toy.Smooth", "sigma": 25}})
    monkeypatch.setattr(paths, "RELEASED_WEIGHTS", tmp_path)
    save_weights(toy.Smooth(sigma=25), weights_path("plain"), {"experiment": "plain", "budget": "laptop"})
    monkeypatch.setattr(routing, "can_compile", lambda device: False)  # which would take seconds
    task = make_task("toy.Brighten")
    assert isinstance(task.load("plain"), toy.Smooth) and task.load("plain").precision == "float32"
    assert task.load("plain", precision="bfloat16").precision == "bfloat16"
    assert task.load("wavelet-bayes").name == "wavelet-bayes"
    with pytest.raises(ValueError, match="no denoiser 'plan'; did you mean plain"):
        task.load("plan")
    with pytest.raises(FileNotFoundError, match="BUDGET=smoke"):
        task.load("plain", "smoke")


# -- interrupted evaluations ------------------------------------------------------------------------------------------


def test_an_interrupted_evaluation_goes_on_case_by_case(tmp_path):
    file = tmp_path / "scores" / "dim.csv"
    whole = brighten()
    with pytest.raises(KeyboardInterrupt):
        brighten(Dim(fails_at=8), resume=file)
    assert journal_of(file).exists() and not file.exists()
    again = Dim()
    resumed = brighten(again, resume=file)
    assert again.calls == 12 - 7
    pd.testing.assert_frame_equal(without_time(resumed), without_time(whole), check_dtype=False)
    write_scores(resumed, file)
    assert list(file.parent.iterdir()) == [file]  # what is finished needs no journal
    fresh = Dim()
    brighten(fresh, resume=file)
    assert fresh.calls == 12


def test_a_line_that_was_cut_off_is_scored_again(tmp_path):
    file = tmp_path / "dim.csv"
    with pytest.raises(KeyboardInterrupt):
        brighten(Dim(fails_at=6), resume=file)
    journal = journal_of(file)
    journal.write_text(journal.read_text()[:-40])  # five rows were kept, and the last of them is cut
    again = Dim()
    resumed = brighten(again, resume=file)
    assert again.calls == 12 - 4
    pd.testing.assert_frame_equal(without_time(resumed), without_time(brighten()), check_dtype=False)
    assert len(journal.read_text().splitlines()) == 1 + 12


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 1}, {"limit": 2}, {"settings": {"offset": 0.1}}, {"options": {"gain": 3.0}}, {"variant": "other"},
        {"conditions": {"sigma": [5, 10], "gain": [1.0, 3.0]}},
    ],
    ids=lambda other: next(iter(other)),
)  # fmt: skip
def test_an_interrupted_evaluation_of_other_settings_starts_anew(other, tmp_path):
    file = tmp_path / "dim.csv"
    with pytest.raises(KeyboardInterrupt):
        brighten(Dim(fails_at=8), resume=file)
    again, alone = Dim(), Dim()
    resumed = brighten(again, resume=file, **other)
    expected = brighten(alone, **other)
    assert again.calls == alone.calls == len(expected)
    pd.testing.assert_frame_equal(without_time(resumed), without_time(expected), check_dtype=False)


@pytest.mark.parametrize(
    ("owner", "attribute", "value"),
    [
        (base, "commit", lambda: "another"),
        (base, "sources_sha256", lambda: "another"),  # two states with uncommitted changes have the same commit
        (Dim, "card", {"budget": "smoke", "sha256": "beef"}),
    ],
    ids=["commit", "uncommitted", "weights"],
)
def test_an_interrupted_evaluation_by_other_code_or_weights_starts_anew(owner, attribute, value, tmp_path, monkeypatch):
    file = tmp_path / "dim.csv"
    with pytest.raises(KeyboardInterrupt):
        brighten(Dim(fails_at=8), resume=file)
    monkeypatch.setattr(owner, attribute, value)
    again = Dim()
    brighten(again, resume=file)
    assert again.calls == 12


def test_an_interrupted_evaluation_goes_on_on_another_processor_and_says_so(tmp_path, monkeypatch):
    file = tmp_path / "dim.csv"
    monkeypatch.setattr(base, "hardware", lambda device: "1 CPU thread, old")
    with pytest.raises(KeyboardInterrupt):
        brighten(Dim(fails_at=8), resume=file)
    monkeypatch.setattr(base, "hardware", lambda device: "1 CPU thread, new")
    again = Dim()
    resumed = brighten(again, resume=file)
    assert again.calls == 12 - 7
    assert resumed["device"].str.rpartition(", ")[2].tolist() == 7 * ["old"] + 5 * ["new"]


def test_a_task_over_a_whole_set_starts_anew_for_it_needs_every_output(tmp_path):
    calls = []

    def generate(latent):
        calls.append(latent)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return latent

    method = toy.generator_of(0.0)
    method.generate = generate
    task, file = make_task("toy.Generate"), tmp_path / "drawn.csv"
    with pytest.raises(KeyboardInterrupt):
        evaluate(task, method, "made", {"temperature": [1.0]}, resume=file)
    scores = evaluate(task, method, "made", {"temperature": [1.0]}, resume=file)
    assert len(calls) == 3 + 3 and scores["distance"].notna().sum() == 1


# -- score files ------------------------------------------------------------------------------------------------------

FILLER = {
    "method": "m", "variant": "", "requested": "set12", "dataset": "set12", "image": "01", "sigma": 25.0, "psnr": 30.0,
    "ssim": 0.9, "psnr_rounded": 29.0, "psnr_noisy": 20.0, "sigma_estimated": math.nan, "seconds": 1.0, "megapixels": 0.5,
    "device": "cpu", "seed": 0, "sigma_train": 25.0, "num_parameters": 7, "budget": "none", "weights_sha256": "",
    "data_sha256": "ab", "version": "1", "commit": "c", "task": "awgn.Denoise",
}  # fmt: skip


def table(**columns):
    """Scores of denoising with the given columns; the others hold fillers."""
    number = len(next(iter(columns.values())))
    given = {key: columns.get(key, [filler] * number) for key, filler in FILLER.items()}
    return pd.DataFrame(given | {"num_rows": [number] * number})


def test_the_filler_has_the_columns_of_the_task():
    assert list(table(psnr=[1.0]).columns) == columns_of(make_task("awgn.Denoise"))


def test_score_files_come_back_as_they_were(tmp_path):
    scores = table(image=["01", "NA"], psnr=[31.23456, 28.5], variant=["", "adapt"], sigma_train=[None, 25.0])
    write_scores(scores, tmp_path / "deep" / "a.csv")
    write_scores(table(psnr=[1.0], image=["02"]), tmp_path / "b.csv")
    back = read_scores(tmp_path)
    assert back["image"].tolist() == ["02", "01", "NA"]  # names stay text, and NA is a name
    assert back["variant"].tolist() == ["", "", "adapt"] and back["budget"].tolist() == ["none"] * 3
    assert back["psnr"].tolist() == pytest.approx([1.0, 31.23456, 28.5], abs=1e-4)
    assert back["sigma_train"].isna().tolist() == [False, True, False]
    assert back["weights_sha256"].tolist() == [""] * 3
    assert read_scores(tmp_path / "b.csv")["psnr"].tolist() == [1.0]


def test_scores_of_any_task_come_back_as_they_were(tmp_path):
    scores = brighten(variant="1e5")
    write_scores(scores, tmp_path / "dim.csv")
    back = read_scores(tmp_path)
    pd.testing.assert_frame_equal(back, scores, rtol=1e-5, check_dtype=False)


def test_scores_are_looked_up_by_paper_and_name(tmp_path, monkeypatch):
    monkeypatch.setenv("INVDENOISE_RESULTS", str(tmp_path))
    for score, value in (("toy/table", 1.0), ("toy/sweep", 2.0)):
        assert score_folder(tmp_path, score) == tmp_path / "scores" / score
        write_scores(table(psnr=[value], sigma=[value]), score_folder(tmp_path, score) / "m.csv")
    assert read_scores("toy/table")["psnr"].tolist() == [1.0]
    assert read_scores("toy/sweep", "toy/table", results=tmp_path)["psnr"].tolist() == [2.0, 1.0]


def test_a_score_file_is_named_below_the_folder_of_scores(tmp_path, monkeypatch):
    monkeypatch.setenv("INVDENOISE_RESULTS", str(tmp_path))
    assert score_file("own/a b.sigma=5.csv") == tmp_path / "scores" / "own" / "a b.sigma=5.csv"
    assert score_file("m.csv", tmp_path / "other") == tmp_path / "other" / "scores" / "m.csv"


@pytest.mark.parametrize(
    "name",
    [
        "../../x.csv",
        "own/../../../x.csv",
        "/x.csv",
        "//x.csv",
        "own/../x.csv",
        ".x.csv",
        "own/.x.csv",
        "a\\..\\x.csv",
        "x",
        "",
        "own/",
    ],
)
def test_a_name_that_leads_out_of_the_folder_of_scores_is_refused(name):
    with pytest.raises(ValueError, match="is no name of a score file; expected one below the folder of scores"):
        score_file(name)


def test_nothing_is_written_to_a_path_that_leads_out_of_its_folder(tmp_path):
    outside, method = tmp_path / "scores" / ".." / ".." / "x.csv", Dim()
    (tmp_path / "scores").mkdir()
    before = sorted(tmp_path.parent.iterdir())
    with pytest.raises(ValueError, match=r"x.csv leads out of its folder; .* without '\.\.'"):
        write_scores(table(psnr=[1.0]), outside)
    with pytest.raises(ValueError, match="x.csv leads out of its folder"):
        brighten(method, resume=outside)
    assert sorted(tmp_path.parent.iterdir()) == before and method.calls == 0


def test_hidden_files_are_no_scores(tmp_path):
    folder = tmp_path / ".kept" / "scores"  # only what is hidden below the folder counts
    write_scores(table(psnr=[1.0]), folder / "m" / "set12.csv")
    (folder / "m" / ".set12-unfinished-0a1b2c3d.csv").write_text("method,vari")
    write_scores(table(psnr=[2.0]), folder / "m" / ".ipynb_checkpoints" / "set12-checkpoint.csv")
    assert read_scores(folder)["psnr"].tolist() == [1.0]
    assert journal_of(folder / "m" / "set12.csv").name.startswith(".")


def test_missing_scores_name_the_command(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="no scores in .*`make paper`"):
        read_scores(tmp_path)
    monkeypatch.setenv("INVDENOISE_RESULTS", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="no scores in .*scores/toy/table; make them with `make paper`"):
        read_scores("toy/table")


@pytest.mark.parametrize("content", ["a,b\n1,2\n", "", '"method,\n'], ids=["other columns", "empty", "broken"])
def test_what_is_no_score_file_is_named(content, tmp_path):
    (tmp_path / "odd.csv").write_text(content)
    with pytest.raises(ValueError, match="odd.csv is not a score file"):
        read_scores(tmp_path)


@pytest.mark.parametrize("column", ["image", "megapixels", "task", "num_rows", "sigma", "ssim", "sigma_estimated"])
def test_a_missing_column_is_named(column, tmp_path):
    write_scores(table(psnr=[1.0]).drop(columns=column), tmp_path / "m.csv")
    with pytest.raises(ValueError, match=f"m.csv is not a score file: column '{column}' is missing; delete it"):
        read_scores(tmp_path)


@pytest.mark.parametrize(
    ("cut", "left"),
    [
        (lambda lines: lines[:-1], 2),  # the last row
        (lambda lines: [lines[0], *lines[2:]], 2),  # the first row
        (lambda lines: lines[:1], 0),
        (lambda lines: [*lines[:-1], lines[-1].rpartition(",")[0] + ","], 3),  # the end of the last row
    ],
    ids=["last", "first", "all", "end"],
)
def test_a_score_file_that_lost_rows_is_refused(cut, left, tmp_path):
    file = tmp_path / "m.csv"
    write_scores(table(psnr=[1.0, 2.0, 3.0], image=["a", "b", "c"]), file)
    file.write_text("\n".join(cut(file.read_text().splitlines())) + "\n")
    with pytest.raises(ValueError, match=f"m.csv has {left} rows of .: it was cut off; delete it and run again"):
        read_scores(tmp_path)


def test_an_interrupted_write_leaves_the_old_scores(tmp_path, monkeypatch):
    path = tmp_path / "a.csv"
    write_scores(table(psnr=[1.0]), path)

    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(pd.DataFrame, "to_csv", stop)
    with pytest.raises(KeyboardInterrupt):
        write_scores(table(psnr=[2.0]), path)
    monkeypatch.undo()
    assert read_scores(tmp_path)["psnr"].tolist() == [1.0] and list(tmp_path.iterdir()) == [path]


def test_two_files_with_the_same_scores_are_refused(tmp_path):
    scores = brighten(limit=1)
    write_scores(scores, tmp_path / "dim" / "made.csv")
    part = scores[scores["sigma"] == 10].assign(num_rows=2)
    write_scores(part, tmp_path / "dim" / "made-s10.csv")
    with pytest.raises(
        ValueError,
        match=r"dim on p0 \(sigma 10, gain 1\) is scored twice, in .*made-s10.csv and .*made.csv; delete the older file",
    ):
        read_scores(tmp_path)
    for different in ({"variant": "other"}, {"seed": 1}, {"dataset": "embedded"}):
        write_scores(part.assign(**different), tmp_path / "dim" / "made-s10.csv")
        assert len(read_scores(tmp_path)) == 6


def test_scores_of_several_tasks_are_read_together(tmp_path):
    """A condition that a task does not have is empty in its rows, and tells no rows apart."""
    write_scores(brighten(limit=1), tmp_path / "dim.csv")
    write_scores(table(psnr=[1.0]), tmp_path / "m.csv")
    back = read_scores(tmp_path)
    assert back["gain"].isna().tolist() == [False] * 4 + [True] and back["ssim"].isna().tolist() == [True] * 4 + [False]
    summary = summarise(back)
    assert summary["num_images"].tolist() == [1] * 5 and summary["psnr"].iloc[-1] == 1
    write_scores(table(psnr=[1.0]), tmp_path / "n.csv")
    with pytest.raises(ValueError, match="m on 01 .*is scored twice"):
        read_scores(tmp_path)


def test_summary_by_hand():
    """Means over pictures: of three pictures, neither their median nor the middle of their range."""
    scores = table(
        method=["a", "a", "a", "a", "a", "b"],
        variant=["", "", "", "", "x", ""],
        sigma=[25, 25, 25, 50, 25, 25],
        image=["01", "02", "03", "01", "01", "01"],
        psnr=[30.0, 32.0, 37.0, 20.0, 10.0, 29.0],
        ssim=[0.8, 0.9, 0.4, 0.5, 0.1, 0.7],
        seconds=[1.0, 3.0, 8.0, 5.0, 7.0, 9.0],
        megapixels=[0.5, 1.5, 1.0, 0.5, 0.5, 0.25],
        sigma_train=[25.0, 25.0, 25.0, 25.0, 25.0, None],
        num_parameters=[7, 7, 7, 7, 7, 0],
    )
    summary = summarise(scores)
    keys = summary[["method", "variant", "sigma"]].itertuples(index=False, name=None)
    assert list(keys) == [("a", "", 25), ("a", "", 50), ("a", "x", 25), ("b", "", 25)]
    assert summary["psnr"].tolist() == [33, 20, 10, 29]
    assert summary["ssim"].tolist() == pytest.approx([0.7, 0.5, 0.1, 0.7])
    assert summary["seconds"].tolist() == [4, 5, 7, 9]
    assert summary["seconds_per_megapixel"].tolist() == [4, 10, 14, 36]
    assert summary["num_images"].tolist() == [3, 1, 1, 1] and summary["num_parameters"].tolist() == [7, 7, 7, 0]
    assert summary["sigma_train"].isna().tolist() == [False, False, False, True]


def test_a_task_that_is_not_written_says_so():
    for call in (
        lambda task: task.cases(None, 0),
        lambda task: task.run(None, None),
        lambda task: task.score(None, None),
    ):
        with pytest.raises(NotImplementedError):
            call(Task())
    assert Task().score_set([], []) == {}
