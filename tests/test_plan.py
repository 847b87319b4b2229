"""The plan: what a made-up paper declares becomes jobs, in the right order; what is left out is said."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import toy
import yaml

from invdenoise import facts, methods, papers, paths, plan
from invdenoise.data import benchmarks
from invdenoise.data.fetch import DataUnavailable
from invdenoise.models import classical
from invdenoise.notebooks import known_parameters
from invdenoise.plan import OVERHEAD, UNMEASURED, make_plan

BUDGETS = ("released", "smoke", "laptop", "paper")
ALL_SETS = {"sets": ["bsd68", "set12"], "conditions": {"sigma": "trained"}}
NETWORKS = {
    "smooth-s25": {"model": "toy.Smooth", "sigma": 25},
    "smooth-s50": {"model": "toy.Smooth", "sigma": 50, "start": "smooth-s25"},
    "judge": {"model": "toy.Flow"},
    "blind": {"model": "toy.Smooth", "sigma": [0, 55], "parts": {"estimator": "judge"}},
    "unscored": {"model": "toy.Smooth", "sigma": 15},
}
PARTS = {
    "authors": {
        "smooth-authors": {"file": "weights/a.pth", "read": "toy.read_flow", "options": {"sigma": 25}},
        "blind-authors": {"file": "weights/b.pth", "read": "toy.read_flow", "parts": {"estimator": "judge"}},
    },
    "scores": {
        "table": {
            "task": "toy.Brighten",
            "runs": [
                {"methods": ["smooth-s25", "smooth-s50", "smooth-authors"], **ALL_SETS},
                {"methods": "bm3d", "sets": "bsd68", "conditions": {"sigma": [15, 25, 50]}, "split": "sigma"},
                {"methods": ["wavelet-bayes"], "sets": "bsd68", "conditions": {"sigma": [15, 25]}, "limit": 3},
            ],
            "smoke": [{"methods": ["smooth-s25", "bm3d"], "sets": "bsd68", "conditions": {"sigma": [25]}, "limit": 1}],
        },
        "sweep": {
            "task": "toy.Brighten",
            "runs": [
                {"methods": ["blind", "blind-authors"], "sets": "set12", "conditions": {"sigma": [5, 25], "gain": [1.0, 2.0]},
                 "options": {"adapt": False}, "settings": {"offset": 0.5}, "variant": "raw", "precision": "bfloat16"},
            ],
            "smoke": [{"methods": "blind", "sets": "set12", "conditions": {"sigma": [25]}, "limit": 2}],
        },
    },
    "figures": {
        "bars": {"reads": "table", "parameters": {"height": 3, "set": "bsd68"}, "smoke": {"set": "embedded"}},
        "both": {"reads": ["sweep", "toy/table"]},
        "look": {"notebook": "00_tour", "inside": ["blind", "judge", "unscored"]},
        "cost": {"reads": "table", "curves": True},
    },
    "ablations": {"of": "smooth-s25", "common": {"steps": 8}, "changes": {"none": {}, "adam": {"optimizer": "adam"}}},
}  # fmt: skip
RELEASED = ("smooth-s25", "judge", "blind")  # the networks with released weights


@pytest.fixture(autouse=True)
def can_be_had(monkeypatch, tmp_path):
    """Every package is installed, and the authors' weights can be fetched."""
    monkeypatch.setattr(methods, "fetch", lambda *wanted: tmp_path)
    monkeypatch.setattr(classical, "is_installed", lambda name: True)


@pytest.fixture
def made_up(monkeypatch, tmp_path):
    """The only paper is a made-up one, with released weights of some of its networks; the folder of `notebooks/`."""
    monkeypatch.setattr(paths, "RELEASED", tmp_path / "released")
    monkeypatch.setattr(paths, "RELEASED_WEIGHTS", tmp_path / "weights")
    monkeypatch.setenv("INVDENOISE_RESULTS", str(tmp_path / "results"))
    (tmp_path / "weights").mkdir()
    for name in RELEASED:
        (tmp_path / "weights" / f"{name}.safetensors").touch()
    return toy.declare(tmp_path, monkeypatch, NETWORKS, **PARTS)


def redeclare(tmp_path: Path, monkeypatch, **changes) -> None:
    toy.declare(tmp_path, monkeypatch, NETWORKS, **(PARTS | changes))


def scored(found: plan.Plan) -> set[str]:
    return {job.method for job in found.jobs.values()}


# --- Jobs


def test_a_job_is_a_method_on_a_set(made_up):
    found = make_plan("laptop")
    table = [name for name in found.jobs if name.startswith("toy/table/")]
    assert table == [
        *(f"toy/table/{method}.{dataset}" for method in ("smooth-s25", "smooth-s50", "smooth-authors") for dataset in ("bsd68", "set12")),
        *(f"toy/table/bm3d.bsd68.sigma={sigma}" for sigma in (15, 25, 50)),
        "toy/table/wavelet-bayes.bsd68",
    ]  # fmt: skip
    assert [name for name in found.jobs if name not in table] == [
        f"toy/sweep/{method}.set12.raw" for method in ("blind", "blind-authors")
    ]


@pytest.mark.parametrize("budget", BUDGETS)
def test_a_figure_alone_has_the_scores_that_it_reads_and_no_more(budget, made_up):
    whole, alone = make_plan(budget), make_plan(budget, figure="toy/bars")
    assert list(alone.drawings) == ["toy/bars"] and alone.scores == ("toy/table",)
    assert alone.jobs == {name: job for name, job in whole.jobs.items() if job.score == "toy/table"}
    assert alone.drawings["toy/bars"] == whole.drawings["toy/bars"]
    assert alone.fact_texts() == {
        name: text
        for name, text in whole.fact_texts().items()
        if name
        in {f"scores/{job}" for job in alone.jobs}
        | {f"train/{name}" for name in alone.trainings}
        | {"figures/toy/bars"}
    }


def test_a_figure_alone_trains_what_it_needs_and_what_that_starts_from(made_up):
    assert make_plan("laptop", figure="toy/bars").trainings == ("smooth-s25", "smooth-s50")
    assert make_plan("laptop", figure="toy/look").trainings == ("judge", "blind", "unscored")
    assert make_plan("laptop", figure="toy/look").jobs == {}
    assert make_plan("released", figure="toy/bars").trainings == ()


def test_a_figure_may_read_scores_of_another_paper():
    for name, entry in papers.papers().items():
        for figure, declared in entry.figures.items():
            alone = make_plan("smoke", figure=f"{name}/{figure}")
            assert set(alone.scores) == {entry.score_name(score) for score in declared.reads}
            assert {job.score for job in alone.jobs.values()} <= set(alone.scores)
            assert set(alone.drawings[f"{name}/{figure}"].scores) == {f"{job}.csv" for job in alone.jobs}


def test_an_unknown_figure_names_those_that_exist(made_up):
    with pytest.raises(
        ValueError, match=r"^no figure or table 'toy/table'; known: toy/bars, toy/both, toy/look, toy/cost$"
    ):
        make_plan("released", figure="toy/table")


def test_a_job_gives_the_notebook_every_parameter(made_up):
    found = make_plan("laptop").jobs
    assert found["toy/sweep/blind.set12.raw"].parameters == {
        "task": "toy.Brighten", "method": "blind", "budget": "laptop", "dataset": "set12",
        "conditions": {"sigma": [5, 25], "gain": [1.0, 2.0]}, "settings": {"offset": 0.5}, "options": {"adapt": False},
        "variant": "raw", "limit": 0, "seed": 0, "precision": "bfloat16", "output": "toy/sweep/blind.set12.raw.csv",
    }  # fmt: skip
    known = set(known_parameters(paths.ROOT / "notebooks" / "evaluate.ipynb"))
    assert all(job.parameters.keys() == known for job in found.values())


def test_trained_stands_for_the_network_s_own_noise_level(made_up):
    found = make_plan("laptop").jobs
    levels = {name.split("/")[-1]: job.conditions for name, job in found.items() if ".set12" in name}
    assert levels["smooth-s25.set12"] == {"sigma": [25]} and levels["smooth-s50.set12"] == {"sigma": [50]}
    assert levels["smooth-authors.set12"] == {"sigma": [25]}


def test_a_split_job_is_shared_out_and_all_values_are_kept(made_up):
    jobs = [job for job in make_plan("laptop").jobs.values() if job.method == "bm3d"]
    assert [job.conditions for job in jobs] == [{"sigma": [15]}, {"sigma": [25]}, {"sigma": [50]}]


def test_precision_is_of_networks_only(made_up):
    found = make_plan("laptop").jobs
    assert found["toy/table/smooth-s25.bsd68"].precision == "fastest"
    assert found["toy/table/smooth-authors.bsd68"].precision == "fastest"
    assert found["toy/table/wavelet-bayes.bsd68"].precision == "float32"


def test_a_smoke_run_has_its_own_jobs_and_trains_what_they_need(made_up):
    found = make_plan("smoke")
    assert set(found.jobs) == {"toy/table/smooth-s25.bsd68", "toy/table/bm3d.bsd68", "toy/sweep/blind.set12"}
    assert set(found.trainings) == {"smooth-s25", "judge", "blind"}  # with the part, without what is not scored
    assert found.missing == ()


@pytest.mark.parametrize("budget", ["laptop", "paper"])
def test_a_full_run_trains_every_network(budget, made_up):
    found = make_plan(budget)
    assert sorted(found.trainings) == sorted(NETWORKS)
    assert make_plan("released").trainings == ()
    weights = found.weights_file("unscored")
    assert (
        weights == paths.results_dir() / "runs" / "unscored" / budget / "weights.safetensors"
    )  # as `make train` has it


@pytest.mark.parametrize("budget", BUDGETS)
def test_results_of_one_budget_stay_out_of_the_others(budget, made_up):
    found = make_plan(budget)
    assert found.results == (paths.results_dir() if budget == "released" else paths.results_dir() / budget)
    where = paths.RELEASED_WEIGHTS if budget == "released" else paths.runs_dir()
    files = found.weights_files("blind")
    assert [("judge" in file, "blind" in file) for file in files] == [(False, True), (True, False)]
    assert all(file.startswith(str(where)) for file in files)
    assert found.weights_files("bm3d") == found.weights_files("smooth-authors") == []
    assert found.weights_files("blind-authors") == files[1:]  # of others, with a part of ours


@pytest.mark.parametrize("budget", BUDGETS)
def test_a_job_loads_the_weights_of_its_plan(budget, made_up):
    used = {job.method: job.budget for job in make_plan(budget).jobs.values()}
    assert used["smooth-s25"] == used["blind"] == budget
    assert used["bm3d"] == budget  # has no weights
    if budget in ("laptop", "paper"):
        assert used["smooth-authors"] == budget and used["blind-authors"] == budget


def test_networks_of_another_paper_are_the_released_ones(made_up):
    other = {"title": "Other", "short": "Other", "order": 2, "cite": "nobody",
             "scores": {"table": PARTS["scores"]["table"] | {"runs": [{"methods": "smooth-s25", **ALL_SETS}]}}}  # fmt: skip
    (made_up / "other").mkdir()
    (made_up / "other" / "paper.yaml").write_text(yaml.safe_dump(other))
    found = make_plan("laptop", "other")
    assert found.trainings == () and {job.budget for job in found.jobs.values()} == {"released"}
    assert found.weights_files("smooth-s25") == [str(paths.RELEASED_WEIGHTS / "smooth-s25.safetensors")]
    assert {job.budget for job in make_plan("laptop").jobs.values() if job.score == "other/table"} == {"laptop"}


def test_a_plan_is_of_one_paper_or_of_all(made_up):
    (made_up / "other").mkdir()
    other = {"title": "Other", "short": "Other", "order": 2, "cite": "nobody", "figures": {"f": {"reads": "toy/table"}},
             "scores": {"table": {"task": "toy.Brighten", "runs": [{"methods": "nlm", "sets": "set12", "conditions": {"sigma": [9]}}]}}}  # fmt: skip
    (made_up / "other" / "paper.yaml").write_text(yaml.safe_dump(other))
    found = {paper: make_plan("laptop", paper) for paper in ("toy", "other", "all")}
    assert {paper: entry.papers for paper, entry in found.items()} == {
        "toy": ("toy",), "other": ("other",), "all": ("toy", "other")
    }  # fmt: skip
    assert list(found["all"].jobs) == [*found["toy"].jobs, *found["other"].jobs]
    assert list(found["all"].drawings) == [*found["toy"].drawings, "other/f"]
    assert found["other"].trainings == () and found["all"].trainings == found["toy"].trainings
    assert len(found["all"].drawings["other/f"].scores) == 10 and found["other"].drawings["other/f"].scores == ()


# --- Order


def test_a_warm_training_waits_for_the_weights_it_starts_from(made_up):
    found = make_plan("laptop")
    waits = {name: found.start_files(name) for name in found.trainings}
    assert waits["smooth-s50"] == [str(found.weights_file("smooth-s25"))]
    assert waits["blind"] == [str(found.weights_file("judge"))]  # it is tried with its estimator
    assert not any(waits[name] for name in ("smooth-s25", "judge", "unscored"))
    assert make_plan("paper").start_files("smooth-s50") == []  # from scratch


def test_expected_time_is_that_of_the_released_rows_of_the_same_job(made_up):
    rows = [
        {"image": image, "sigma": sigma, "seconds": seconds}
        for sigma, seconds in ((15, 1.0), (25, 10.0), (50, 100.0))
        for image in ("a", "b", "c", "d")
    ]
    file = paths.RELEASED / "scores" / "toy" / "table" / "wavelet-bayes.bsd68.csv"
    file.parent.mkdir(parents=True)
    pd.DataFrame(rows).to_csv(file, index=False)
    found = make_plan("released").jobs
    assert found["toy/table/wavelet-bayes.bsd68"].seconds == OVERHEAD + 3 * (1 + 10)  # three pictures, two levels
    assert found["toy/table/smooth-s25.bsd68"].seconds == UNMEASURED
    rows = [{"image": "a", "sigma": 25, "seconds": 1900.0}]
    pd.DataFrame(rows).to_csv(file.with_name("smooth-s25.bsd68.csv"), index=False)
    found = make_plan("released").jobs
    long, short = found["toy/table/smooth-s25.bsd68"], found["toy/table/wavelet-bayes.bsd68"]
    assert long.priority > short.priority  # long jobs start first
    pd.DataFrame(rows).assign(seconds=1e6).to_csv(file, index=False)
    assert make_plan("released").jobs["toy/table/wavelet-bayes.bsd68"].priority < 100  # training comes first


# --- Figures


def test_a_figure_reads_the_files_of_its_scores(made_up):
    found = make_plan("laptop")
    drawings = found.drawings
    assert set(drawings) == {"toy/bars", "toy/both", "toy/look", "toy/cost"}
    assert set(drawings["toy/bars"].scores) == {f"{name}.csv" for name in found.jobs if name.startswith("toy/table/")}
    assert set(drawings["toy/both"].scores) == {f"{name}.csv" for name in found.jobs}
    assert drawings["toy/look"].scores == ()
    assert {drawing.notebook for drawing in drawings.values()} == {"toy/bars", "toy/both", "00_tour", "toy/cost"}
    assert found.drawing_files("toy/both") == [
        str(found.results / "scores" / file) for file in drawings["toy/both"].scores
    ]


def test_a_figure_is_given_its_parameters(made_up):
    full, small = make_plan("laptop").drawings, make_plan("smoke").drawings
    assert full["toy/bars"].parameters == {"height": 3, "set": "bsd68", "scores": "local"}
    assert small["toy/bars"].parameters == {"height": 3, "set": "embedded", "scores": "local"}
    assert full["toy/look"].parameters == {"budget": "laptop"} and small["toy/look"].parameters == {"budget": "smoke"}


def test_a_figure_waits_for_the_weights_that_it_looks_into(made_up):
    released = [str(paths.RELEASED_WEIGHTS / f"{name}.safetensors") for name in ("blind", "judge")]
    assert make_plan("released").drawing_files("toy/look") == released  # `unscored` is not released
    for budget, names in {"laptop": ("blind", "judge", "unscored"), "smoke": ("blind", "judge")}.items():
        found = make_plan(budget)
        assert found.drawing_files("toy/look") == [str(found.weights_file(name)) for name in names]


def test_curves_and_measurements_are_inputs_of_the_figures_that_show_them(made_up):
    def curve(file: Path, last: int) -> str:
        file.parent.mkdir(parents=True, exist_ok=True)
        pd.DataFrame({"step": [4, last]}).to_csv(file, index=False)
        return str(file)

    found = make_plan("smoke")
    scores = [str(found.results / "scores" / file) for file in found.drawings["toy/cost"].scores]
    assert found.drawing_files("toy/cost") == scores
    none = curve(paths.RELEASED / "ablations" / "ablation-none.csv", 8)
    curve(paths.RELEASED / "ablations" / "ablation-adam.csv", 7)  # was not trained to its end
    (paths.RELEASED / "bench.csv").touch()
    assert found.drawing_files("toy/cost") == [*scores, none, str(paths.RELEASED / "bench.csv")]
    found.results.mkdir(parents=True)
    (found.results / "bench.csv").touch()
    own = [curve(found.results / "runs" / name / "laptop" / "curve.csv", 8) for name in papers.ablations()]
    assert found.drawing_files("toy/cost") == [*scores, *own, str(found.results / "bench.csv")]
    Path(own[1]).unlink()  # of the own ones some are missing: the released ones are shown
    assert found.drawing_files("toy/cost") == [*scores, none, str(found.results / "bench.csv")]
    assert found.drawing_files("toy/bars") == scores


# --- What is left out


def test_networks_without_released_weights_are_left_out_by_name(made_up):
    found = make_plan("released")
    assert scored(found) == {"smooth-s25", "smooth-authors", "bm3d", "wavelet-bayes", "blind", "blind-authors"}
    assert found.missing == ("smooth-s50: no released weights",)
    (paths.RELEASED_WEIGHTS / "judge.safetensors").unlink()
    found = make_plan("released")
    assert not scored(found) & {"blind", "blind-authors"}
    needed = "no released weights of judge, which it needs"
    left_out = {"smooth-s50: no released weights", f"blind: {needed}", f"blind-authors: {needed}"}
    assert set(found.missing) == left_out
    assert "blind" in scored(make_plan("laptop"))  # which trains it


@pytest.mark.parametrize("budget", BUDGETS)
def test_without_its_package_a_method_is_left_out(budget, made_up, monkeypatch):
    monkeypatch.setattr(classical, "is_installed", lambda name: name != "bm3d")
    found = make_plan(budget)
    assert "bm3d" not in scored(found) and "smooth-s25" in scored(found)
    assert "bm3d: package not installed" in found.missing


def test_without_network_the_authors_weights_are_left_out(made_up, monkeypatch):
    def out_of_reach(*wanted):
        raise DataUnavailable("no network")

    monkeypatch.setattr(methods, "fetch", out_of_reach)
    found = make_plan("released")
    assert not scored(found) & {"smooth-authors", "blind-authors"} and "blind" in scored(found)
    reason = "the authors' weights could not be reached"
    assert set(found.missing) >= {f"smooth-authors: {reason}", f"blind-authors: {reason}"}


def test_a_set_to_fetch_by_hand_is_scored_once_its_files_are_there(made_up, tmp_path, monkeypatch):
    """No pictures stand in for it."""
    monkeypatch.setenv("INVDENOISE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("DATA_MIRROR", raising=False)
    runs = [{"methods": "nlm", "sets": ["bsd68", "sidd-validation"], "conditions": {"sigma": [25]}}]
    redeclare(
        tmp_path, monkeypatch, scores={"table": {"task": "toy.Brighten", "runs": runs}}, figures={}, ablations=None
    )
    found = make_plan("released")
    assert [job.dataset for job in found.jobs.values()] == ["bsd68"]
    (line,) = found.missing
    assert line.startswith("sidd-validation (SIDD validation blocks, sRGB) is not in ") and "\n" not in line
    assert str(tmp_path / "cache" / "sidd-validation") in line and "https://" in line
    (tmp_path / "cache" / "sidd-validation").mkdir(parents=True)
    for name in benchmarks.PAIRED:
        (tmp_path / "cache" / "sidd-validation" / f"{name}.mat").touch()
    found = make_plan("released")
    assert [job.dataset for job in found.jobs.values()] == ["bsd68", "sidd-validation"] and found.missing == ()


# --- Mistakes


def test_an_unknown_budget_or_paper_is_refused_with_the_known_ones(made_up):
    with pytest.raises(ValueError, match="no budget 'papper'; known: released, smoke, laptop, paper"):
        make_plan("papper")
    with pytest.raises(ValueError, match="no paper 'toi'; known: all, toy"):
        make_plan("laptop", "toi")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "toy.Brigten"}, r"invdenoise/toy.py has no 'Brigten'; did you mean toy.Brighten\?"),
        ({"settings": {"ofset": 1}}, r"task toy.Brighten with settings \{'ofset': 1\} cannot be made: .*'ofset'"),
        ({"conditions": {"sgima": [1]}}, "toy.Brighten has no condition 'sgima'; known: sigma, gain"),
        ({"sets": "bsd86"}, r"no dataset 'bsd86'; did you mean bsd68"),
        ({"methods": "bm3"}, r"no denoiser 'bm3'; did you mean bm3d"),
        ({"methods": "smooth-s26"}, r"no denoiser 'smooth-s26'; did you mean .*smooth-s25"),
        ({"methods": "blind"}, "blind is not trained for one noise level; give the levels instead of 'trained'"),
        ({"methods": "nlm"}, "nlm is not trained for one noise level; give the levels instead of 'trained'"),
        ({"methods": "blind-authors"}, "blind-authors is not trained for one noise level"),
    ],
)
def test_a_wrong_name_in_a_score_stops_before_anything_runs(change, message, made_up, tmp_path, monkeypatch):
    run = {"methods": "smooth-s25", **ALL_SETS, **change}
    score = {"task": run.pop("task", "toy.Brighten"), "runs": [run]}
    redeclare(tmp_path, monkeypatch, scores={"table": score, "sweep": PARTS["scores"]["sweep"]})
    with pytest.raises(ValueError, match=f"^toy/paper.yaml: scores.table: {message}"):
        make_plan("laptop")


# --- The papers of the checkout


@pytest.mark.parametrize("budget", BUDGETS)
def test_notebooks_know_every_parameter_they_are_given(budget):
    found = make_plan(budget)
    known = set(known_parameters(paths.NOTEBOOKS / "evaluate.ipynb"))
    assert found.jobs and found.drawings
    assert all(job.parameters.keys() == known for job in found.jobs.values())
    for drawing in found.drawings.values():
        # All of them: a value saved in a notebook must not change a figure or a table of the papers.
        assert set(drawing.parameters) == set(known_parameters(paths.NOTEBOOKS / f"{drawing.notebook}.ipynb"))
    given = {"train": found.training_parameters("any"), "report": found.report_parameters}
    for name, parameters in given.items():
        assert parameters.keys() == set(known_parameters(paths.NOTEBOOKS / f"{name}.ipynb"))


@pytest.mark.parametrize("budget", BUDGETS)
def test_no_two_jobs_write_the_same_file(budget):
    """Jobs are kept by name, so one of two with the same name would be lost."""
    found = make_plan(budget)
    left_out = [line.split(" (")[0].partition(":")[0] for line in found.missing]  # methods, and sets with their titles
    declared = [
        len(runs.conditions[runs.split]) if runs.split else 1
        for paper in papers.papers().values()
        for score in paper.scores.values()
        for runs in (score.smoke if budget == "smoke" else score.runs)
        for method in runs.methods
        for dataset in runs.sets
        if not {method, dataset} & set(left_out)
    ]
    assert len(found.jobs) == sum(declared) > 0


@pytest.mark.parametrize("budget", ["released", "smoke", "laptop"])
def test_every_score_is_in_a_figure_and_every_figure_has_its_scores(budget):
    found = make_plan(budget)
    drawn = {name: set(drawing.scores) for name, drawing in found.drawings.items()}
    assert set.union(*drawn.values()) == {f"{name}.csv" for name in found.jobs}
    for name, files in drawn.items():
        paper, _, figure = name.partition("/")
        assert bool(files) == bool(papers.papers()[paper].figures[figure].reads)


def test_the_graph_waits_for_what_the_plan_says(tmp_path, monkeypatch):
    """Snakemake's own words, in a process without data or network, against the plan."""
    nowhere = {"DATA_MIRROR": str(tmp_path), "INVDENOISE_CACHE": str(tmp_path), "https_proxy": "http://127.0.0.1:9"}
    monkeypatch.setenv("INVDENOISE_RESULTS", str(tmp_path / "results"))
    environment = os.environ | nowhere | {"PYTHONPATH": str(paths.ROOT / "lib")}
    monkeypatch.chdir(tmp_path)  # files have their whole path then
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(paths.ROOT / "Snakefile")]
    command += ["--config", "budget=laptop", "--cores", "1", "--nolock", "--dry-run"]
    shown = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert shown.returncode == 0, shown.stdout + shown.stderr
    block = re.compile(
        r"^(?:local)?rule (\w+):\n    input: (.*)\n    output: .*\n(?:    (?!wildcards).*\n)*(?:    wildcards: \w+=(.*)\n)?",
        re.M,
    )
    waits = {(rule, name): set(files.split(", ")) for rule, files, name in block.findall(shown.stdout)}
    authors = papers.authors()
    found = make_plan("laptop")

    def fact(name: str) -> str:
        return str(facts.fact_file(found.results, name))

    for name in found.trainings:
        assert waits["train", name] == {fact(f"train/{name}"), *found.start_files(name)}
    ours = {name: job for name, job in found.jobs.items() if job.method not in authors}
    assert ours and {name for rule, name in waits if rule == "score"} == set(ours)
    for name in ours:
        assert waits["score", name] == {fact(f"scores/{name}"), *found.job_files(name)}
    theirs = {str(found.results / "scores" / f"{name}.csv") for name in found.jobs.keys() - ours.keys()}
    for name in found.drawings:
        needed = {fact(f"figures/{name}"), *found.drawing_files(name)}
        assert waits["draw", name] == needed - theirs
    files = {str(found.results / "scores" / f"{name}.csv") for name in ours}
    pages = {str(found.results / "notebooks" / "figures" / f"{name}.ipynb") for name in found.drawings}
    assert waits["report", ""] > files | pages | {fact("report")}
    notebooks = {file for inputs in waits.values() for file in inputs if Path(file).is_relative_to(paths.NOTEBOOKS)}
    assert not notebooks  # an editor may save them at any time


def test_files_have_their_whole_path_where_the_graph_is_not_in_the_checkout(tmp_path, monkeypatch):
    """As for a read-only checkout, whose graph has its folder in the results."""
    notebook, score = paths.NOTEBOOKS / "a.ipynb", tmp_path / "results" / "a.csv"
    monkeypatch.chdir(paths.ROOT)
    assert (plan.in_graph(notebook), plan.in_graph(score)) == ("notebooks/a.ipynb", str(score))
    monkeypatch.chdir(tmp_path)
    assert (plan.in_graph(notebook), plan.in_graph(score)) == (str(notebook), str(score))
