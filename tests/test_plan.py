"""The plan: every job of every budget can be started, and what is left out is said."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
from test_report import write_curve

from invdenoise import datasets, paths, plan
from invdenoise.classical import METHODS
from invdenoise.datasets import DataUnavailable
from invdenoise.experiments import experiments
from invdenoise.notebooks import known_parameters
from invdenoise.plan import make_plan
from invdenoise.weights import AUTHORS, AUTHORS_DNCNN

BUDGETS = ("released", "smoke", "laptop", "paper")


@pytest.fixture(autouse=True)
def release(monkeypatch, tmp_path):
    """A release with weights of two networks; everything is installed, and the authors' weights can be had."""
    for name in ("dninn-st-s25", "dninn-st-s50"):
        (tmp_path / f"{name}.safetensors").touch()
    monkeypatch.setattr(paths, "RELEASED_WEIGHTS", tmp_path)
    monkeypatch.setattr(datasets, "fetch", lambda *wanted: tmp_path)
    monkeypatch.setattr(plan.importlib.util, "find_spec", lambda name: "installed")
    return tmp_path


def methods(found: plan.Plan) -> set[str]:
    return {job.method for job in found.evaluations}


@pytest.mark.parametrize("budget", BUDGETS)
def test_notebooks_know_every_parameter_they_are_given(budget):
    found = make_plan(budget)
    known = {name: set(known_parameters(paths.NOTEBOOKS / f"{name}.ipynb")) for name in ("evaluate", "deblur")}
    assert found.evaluations
    for job in found.evaluations:
        assert set(job.parameters) <= known[job.notebook]
    for figure in found.figures:
        assert set(found.figure_parameters(figure)) <= set(known_parameters(paths.NOTEBOOKS / f"{figure}.ipynb"))


@pytest.mark.parametrize("budget", BUDGETS)
def test_no_two_jobs_write_the_same_file_or_share_a_name(budget):
    jobs = make_plan(budget).evaluations
    assert (
        len({job.scores for job in jobs})
        == len({job.rule for job in jobs})
        == len({job.page for job in jobs})
        == len(jobs)
    )
    assert all(job.output == job.parameters["output"] for job in jobs)


@pytest.mark.parametrize("budget", BUDGETS)
def test_results_of_one_budget_stay_out_of_the_others(budget, results):
    found = make_plan(budget)
    assert found.results == (results if budget == "released" else results / budget)
    networks = [job.method for job in found.evaluations if job.method in experiments()]
    where = paths.RELEASED_WEIGHTS if budget == "released" else found.results
    for name in networks:
        weights, *more = found.weights_files(name)
        assert weights.startswith(str(where)) and name in weights and all("nenet" in file for file in more)
    assert found.weights_files("bm3d") == found.weights_files("dncnn-authors-s25") == []


@pytest.mark.parametrize("budget", ["laptop", "paper"])
def test_a_full_run_trains_every_network_of_linn_and_evaluates_it_on_every_picture_of_the_tables(budget):
    found = make_plan(budget, "linn")
    assert set(found.trainings) == {name for name, entry in experiments().items() if entry.paper == "linn"}
    tables = [
        (job.method, job.parameters["dataset"], sigma)
        for job in found.evaluations
        if job.parameters["limit"] == 0
        for sigma in job.parameters["sigmas"].split(",")
    ]
    linn = {name: entry for name, entry in experiments().items() if entry.paper == "linn"}
    levels = {name: [f"{entry.sigma:g}"] for name, entry in linn.items()}
    levels |= {name: [str(sigma)] for name, sigma in AUTHORS_DNCNN.items()}
    levels |= dict.fromkeys(METHODS, ["15", "25", "50"])
    expected = [(name, data, level) for name in levels for data in ("bsd68", "set12") for level in levels[name]]
    assert sorted(tables) == sorted(expected)
    assert all("-sweep" in job.output for job in found.evaluations if job.parameters["limit"])


@pytest.mark.parametrize("budget", ["laptop", "paper"])
def test_a_full_run_of_winnet_evaluates_non_blind_blind_and_told(budget):
    found = make_plan(budget, "winnet")
    assert set(found.trainings) == {"winnet-s25", "winnet-blind", "nenet", "bfcnn"}
    seen: dict[tuple, list[float]] = {}
    deblurred = [job for job in found.evaluations if job.notebook == "deblur"]
    assert {job.method for job in deblurred} == set(plan.DEBLUR_METHODS)
    assert all(job.parameters["kernels"] == "all" for job in deblurred)
    for job in found.evaluations:
        given = job.parameters
        if job.notebook == "deblur":
            continue
        assert given["limit"] == 0
        kind = "blind" if given.get("tell_sigma") is False else "told" if "-told" in job.output else ""
        levels = seen.setdefault((job.method, given["dataset"], kind), [])
        levels += [float(sigma) for sigma in given["sigmas"].split(",")]
    whole = [float(sigma) for sigma in range(5, 150, 20)]
    blind = ("winnet-authors-blind", "winnet-blind", "winnet-authors-nenet", "dncnn-authors-blind", "bfcnn")
    expected = {(name, data, "blind"): whole for name in blind for data in ("bsd68", "set12")}
    expected |= {(name, "set12", "told"): whole for name in blind[:2]}
    for levels in ("", "2level-"):
        expected |= {(f"winnet-authors-{levels}s{sigma}", "set12", ""): [sigma] for sigma in (15, 25, 50)}
    expected |= {(name, data, ""): [25] for name in ("winnet-s25", "winnet-authors-s25") for data in ("bsd68", "set12")}
    assert seen == expected


def test_a_plan_is_of_one_paper_or_of_all():
    jobs = {
        paper: {job.output for job in make_plan("laptop", paper).evaluations} for paper in ("linn", "winnet", "all")
    }
    assert jobs["linn"] and jobs["winnet"] and not jobs["linn"] & jobs["winnet"]
    assert jobs["all"] == jobs["linn"] | jobs["winnet"]
    figures = {paper: make_plan("laptop", paper).figures for paper in ("linn", "winnet", "all")}
    assert figures["all"] == figures["linn"] + figures["winnet"]
    assert all(figure.startswith("winnet/") for figure in figures["winnet"])
    with pytest.raises(ValueError, match="no paper 'lin'; known: all, linn, winnet"):
        make_plan("laptop", "lin")


def test_the_blind_network_waits_for_its_estimator(release):
    found = make_plan("laptop")
    assert found.weights_files("winnet-blind") == [
        plan.in_graph(found.results / "runs" / name / "laptop" / "weights.safetensors")
        for name in ("winnet-blind", "nenet")
    ]
    (release / "winnet-blind.safetensors").touch()
    left_out = make_plan("released")
    assert "winnet-blind" not in methods(left_out)
    assert "winnet-blind: no released weights of nenet, which estimates its noise level" in left_out.missing
    (release / "nenet.safetensors").touch()
    assert "winnet-blind" in methods(make_plan("released"))


def test_sweeps_cover_figure_5_with_and_without_adapted_thresholds():
    jobs = {job.output: job.parameters for job in make_plan("laptop").evaluations if "-sweep" in job.output}
    suffixes = "", "-not-adapted", "-exponent-1"
    own = {suffix: jobs.pop(f"dninn-st-s50/bsd68-sweep{suffix}.csv") for suffix in suffixes}
    fixed = {suffix: jobs.pop(f"dninn-st-s50-fixed/bsd68-sweep{suffix}.csv") for suffix in suffixes}
    assert list(jobs) == ["dncnn-s50/bsd68-sweep.csv", "dncnn-authors-s50/bsd68-sweep.csv"]  # have no thresholds
    for parameters in (*own.values(), *fixed.values(), *jobs.values()):
        assert parameters["sigmas"] == ",".join(str(sigma) for sigma in range(5, 100, 5))
    assert "adapt" not in own[""] and own["-not-adapted"]["adapt"] is False and own["-exponent-1"]["exponent"] == 1


def test_a_smoke_run_has_a_network_of_each_kind_and_few_pictures(monkeypatch):
    monkeypatch.delattr(datasets, "fetch")  # nothing is asked for beforehand
    found = make_plan("smoke")
    assert all(0 < job.parameters["limit"] <= 2 for job in found.evaluations)
    kinds = {(experiments()[name].options.get("shrinkage"), experiments()[name].options.get("num_scales", 1))
             for name in found.trainings}  # fmt: skip
    assert kinds >= {("soft", 1), ("lista", 1), ("soft", 2)}
    assert methods(found) == set(found.trainings) - {"nenet"} | {*plan.SMOKE_CLASSICAL, "wiener"}
    assert found.fig4_method == "dninn-lista-s50"


# --- order ---


def test_a_warm_training_waits_for_the_weights_it_starts_from():
    found = make_plan("laptop")
    waits = {name: found.start_files(name) for name in found.trainings}
    assert waits["dninn-st-s25"] == []
    assert waits["dninn-lista-2scale-s15"] == found.weights_files("dninn-lista-s15")
    for name, files in waits.items():
        start = experiments()[name].recipe("laptop").start
        expected = found.weights_files(start)[:1] if start else []  # without the estimator of a blind network
        assert files == expected + (found.weights_files("nenet") if name == "winnet-blind" else [])
    for budget in ("smoke", "paper"):  # from scratch, but the blind network is tried with the estimator
        plain = make_plan(budget)
        waits = {name: plain.start_files(name) for name in plain.trainings}
        assert {name: files for name, files in waits.items() if files} == {"winnet-blind": plain.weights_files("nenet")}


def test_long_jobs_start_first():
    jobs = {job.output: job for job in make_plan("laptop").evaluations}
    assert jobs["bm3d/bsd68-s25.csv"].priority > jobs["dninn-st-s25/set12.csv"].priority
    assert jobs["dninn-st-2scale-s25/bsd68.csv"].cost > jobs["dninn-st-s25/bsd68.csv"].cost
    assert all(job.priority < 100 for job in jobs.values())  # training comes first


def test_the_graph_waits_for_what_the_plan_says(tmp_path):
    nowhere = {"DATA_MIRROR": str(tmp_path), "INVDENOISE_CACHE": str(tmp_path), "https_proxy": "http://127.0.0.1:9"}
    environment = os.environ | nowhere | {"PYTHONPATH": str(paths.ROOT / "lib")}
    command = [sys.executable, "-m", "snakemake", "--snakefile", "Snakefile", "--config", "budget=laptop"]
    shown = subprocess.run(
        [*command, "--cores", "1", "--nolock", "--dry-run"],
        cwd=paths.ROOT, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert shown.returncode == 0, shown.stdout
    waits = dict(re.findall(r"^(?:local)?rule (\S+):\n    input: (.*)$", shown.stdout, re.MULTILINE))
    found = make_plan("laptop")
    for name in found.trainings:
        assert set(waits[f"train_{name}"].split(", ")) == {"notebooks/train.ipynb", *found.start_files(name)}
    ours = [job for job in found.evaluations if job.method not in AUTHORS]
    for job in ours:
        needed = {f"notebooks/{job.notebook}.ipynb", *found.weights_files(job.method)}
        assert set(waits[job.rule].split(", ")) == needed
    scores = {str(found.results / job.scores) for job in ours}
    for figure in found.figures:
        drawn = scores & {str(found.results / score) for score in found.figure_scores(figure)}
        needed = drawn | {f"notebooks/{figure}.ipynb", *found.figure_files(figure)}
        assert set(waits[figure.replace("/", "_")].split(", ")) == needed
    assert scores < set(waits["report"].split(", "))


@pytest.mark.parametrize("budget", ("released", "smoke", "laptop"))
def test_every_score_is_in_a_figure_and_every_figure_has_its_scores(budget):
    found = make_plan(budget)
    drawn = {figure: set(found.figure_scores(figure)) for figure in found.figures}
    assert set.union(*drawn.values()) == {job.scores for job in found.evaluations}
    assert not drawn.pop("linn/fig4_detail_channels")  # it runs the network itself
    if budget != "released":  # of which this release has few networks
        assert all(drawn.values())
    assert {file for file in drawn["linn/table1_psnr"] if "sweep" in file or "blind" in file} == set()
    assert all("sweep" in file for file in drawn["linn/fig5_threshold_adaptation"])
    assert all(file.startswith("deblurring/") for file in drawn["winnet/deblurring"])


def test_a_figure_that_runs_networks_waits_for_their_weights(release):
    assert make_plan("released").figure_files("winnet/noise_estimation") == []
    (release / "nenet.safetensors").touch()
    assert make_plan("released").figure_files("winnet/noise_estimation") == [str(release / "nenet.safetensors")]
    trained = make_plan("smoke").figure_files("winnet/noise_estimation")
    assert {file.split("/")[-3] for file in trained} == {"winnet-s25", "winnet-blind", "nenet"}
    assert make_plan("smoke").figure_files("linn/fig4_detail_channels")[0].split("/")[-3] == "dninn-lista-s50"


def test_training_costs_are_drawn_anew_when_a_curve_or_a_measurement_changes(tmp_path, monkeypatch):
    monkeypatch.setenv("INVDENOISE_RESULTS", str(tmp_path / "results"))
    monkeypatch.setattr(paths, "RELEASED", tmp_path / "released")
    curve = write_curve(paths.RELEASED / "ablations" / "ablation-none.csv", "ablation-none")
    (paths.RELEASED / "bench.csv").touch()
    found = make_plan("smoke")
    assert found.figure_files("linn/training_cost") == [str(curve), str(paths.RELEASED / "bench.csv")]
    found.results.mkdir(parents=True)
    (found.results / "bench.csv").touch()
    assert found.figure_files("linn/training_cost") == [str(curve), str(found.results / "bench.csv")]
    assert found.figure_files("linn/table1_psnr") == []


# --- what is left out ---


def test_networks_without_released_weights_are_left_out_by_name():
    found = make_plan("released")
    assert methods(found) & experiments().keys() == {"dninn-st-s25", "dninn-st-s50"}
    without = [line for line in found.missing if line.endswith(": no released weights")]
    assert [line.partition(":")[0] for line in without] == [n for n in experiments() if n not in methods(found)]
    assert found.fig4_method == "dninn-st-s50"
    assert not [job for job in found.evaluations if job.output.startswith("dncnn-s50")]  # no sweep of what is not there


def test_figure_4_shows_the_network_of_the_paper_where_there_is_one(release):
    (release / "dninn-lista-s50.safetensors").touch()
    assert make_plan("released").figure_parameters("linn/fig4_detail_channels")["method"] == "dninn-lista-s50"


def test_without_its_package_bm3d_is_left_out(monkeypatch):
    monkeypatch.setattr(plan.importlib.util, "find_spec", lambda name: None)
    for budget in BUDGETS:
        assert "bm3d" not in methods(make_plan(budget)) and "wavelet-bayes" in methods(make_plan(budget))
    assert "bm3d: package not installed" in make_plan("released").missing


def test_without_network_the_authors_weights_are_left_out(monkeypatch, release):
    (release / "nenet.safetensors").touch()
    assert methods(make_plan("released")) > set(AUTHORS) - {"nenet-authors"}

    def out_of_reach(*wanted):
        raise DataUnavailable("no network")

    monkeypatch.setattr(datasets, "fetch", out_of_reach)
    found = make_plan("released")
    assert not methods(found) & set(AUTHORS)
    assert set(found.missing) >= {f"{name}: the authors' weights could not be reached" for name in AUTHORS}


def test_an_unknown_budget_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="no budget 'papper'; known: released, smoke, laptop, paper"):
        make_plan("papper")


def test_the_longest_job_is_shared_out_and_all_noise_levels_are_kept():
    jobs = [job for job in make_plan("released").evaluations if job.method == "bm3d"]
    assert [job.output for job in jobs] == [*(f"bm3d/bsd68-s{s}.csv" for s in (15, 25, 50)), "bm3d/set12.csv"]
    assert [job.parameters["sigmas"] for job in jobs] == ["15", "25", "50", "15,25,50"]
    total = sum(job.cost for job in make_plan("released").evaluations)
    assert max(job.cost for job in make_plan("released").evaluations) < total / 2
