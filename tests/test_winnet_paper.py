"""What `notebooks/winnet/paper.yaml` declares of WINNet: its networks, its budgets, and the jobs that they lead to."""

from __future__ import annotations

import pytest

from invdenoise import methods, papers, paths
from invdenoise.data.fetch import dataset_ids
from invdenoise.data.pictures import EMBEDDED
from invdenoise.models import classical
from invdenoise.papers import BUDGETS
from invdenoise.plan import make_plan

PAPER = papers.papers()["winnet"]
LEVELS = list(range(5, 150, 20))


@pytest.fixture
def everything(monkeypatch, tmp_path):
    """Every package is installed, the authors' weights can be had, and no weights are released; the folder of weights."""
    monkeypatch.setattr(methods, "fetch", lambda *wanted: tmp_path)
    monkeypatch.setattr(classical, "is_installed", lambda name: True)
    monkeypatch.setattr(paths, "RELEASED_WEIGHTS", tmp_path)
    return tmp_path


# --- Networks


@pytest.mark.parametrize("name", PAPER.networks)
def test_every_network_can_be_built_and_trained(name):
    entry = PAPER.networks[name]
    network = entry.build()
    assert f"{type(network).__module__}.{type(network).__name__}" == f"invdenoise.models.{entry.model}"
    assert getattr(network, "sigma", None) == entry.sigma
    if entry.task:
        assert papers.resolve(entry.task, "tasks")().metrics[0].name == "psnr"
    assert papers.resolve(entry.source.kind, "data").__name__ == "WhiteNoise"
    for budget in BUDGETS:
        assert entry.source_options(budget)["set"] in (*EMBEDDED, *dataset_ids())
        assert entry.recipe(budget).start == ("winnet-blind" if (name, budget) == ("winnet-s25", "laptop") else None)
        assert entry.task or entry.recipe(budget).validation == 0
    assert entry.recipe("smoke").steps <= 50 and entry.source_options("smoke")["set"] == "embedded-train"


def test_networks_are_blind_from_0_to_55_or_trained_for_25():
    assert {name: entry.sigmas for name, entry in PAPER.networks.items()} == {
        "winnet-s25": (25, 25), "winnet-blind": (0, 55), "nenet": (0, 55), "bfcnn": (0, 55)
    }  # fmt: skip
    assert {name: entry.level for name, entry in PAPER.networks.items() if entry.sigma is None} == dict.fromkeys(
        ("winnet-blind", "nenet", "bfcnn"), 27.5
    )


def test_winnet_is_trained_as_its_authors_do():
    """Huang and Dragotti, TIP 2022, released code; NENet with its own schedule."""
    for name in ("winnet-s25", "winnet-blind"):
        recipe = PAPER.networks[name].recipe("paper")
        assert (recipe.batch_size, recipe.epochs, recipe.optimizer, recipe.lr) == (32, 50, "adam", 1e-3)
        assert (recipe.schedule, recipe.milestones, recipe.gamma, recipe.clip) == ("steps", (30,), 0.1, 1.0)
        assert recipe.patch_size == (50 if name == "winnet-blind" else 40) and recipe.validation == 0
    recipe = PAPER.networks["nenet"].recipe("paper")
    assert (recipe.epochs, recipe.milestones, recipe.gamma, recipe.optimizer) == (8, (2, 4, 6), 0.1, "adam")


def test_a_blind_network_sees_a_noise_level_a_patch_in_our_training_and_one_a_batch_in_the_paper_s():
    blind = PAPER.networks["winnet-blind"]
    assert blind.source_options("laptop") == {"set": "bsd400", "sigma": [0, 55], "levels": "patch"}
    assert blind.source_options("paper") == {"set": "bsd400", "sigma": [0, 55]}


# --- Jobs


@pytest.mark.parametrize("budget", ["laptop", "paper"])
def test_a_full_run_scores_non_blind_blind_and_told(budget, everything):
    plan = make_plan(budget, "winnet")
    assert set(plan.trainings) == set(PAPER.networks)
    seen: dict[tuple, list[float]] = {}
    raw: dict[tuple, list[float]] = {}
    for job in plan.jobs.values():
        if job.score == "winnet/deblur":
            continue
        assert job.limit == 0 and job.task == "awgn.Denoise"
        assert (
            (job.settings == {"tell_sigma": False}) == job.variant.startswith("blind") == (job.score == "winnet/blind")
        )
        assert (job.options == {"clamp": False}) == (job.variant == "blind-not-clamped")
        if job.variant == "blind-not-clamped":
            raw.setdefault((job.method, job.dataset), []).extend(job.conditions["sigma"])
            continue
        seen.setdefault((job.method, job.dataset, job.score.split("/")[1]), []).extend(job.conditions["sigma"])
    blind = ("winnet-authors-blind", "winnet-blind", "winnet-authors-nenet", "dncnn-authors-blind", "bfcnn")
    expected = {(name, data, "blind"): LEVELS for name in blind for data in ("bsd68", "set12")}
    expected |= {(name, "set12", "told"): LEVELS for name in blind[:2]}
    for scales in ("", "2level-"):
        expected |= {(f"winnet-authors-{scales}s{sigma}", "set12", "nonblind"): [sigma] for sigma in (15, 25, 50)}
    both = ("winnet-s25", "winnet-authors-s25")
    expected |= {(name, data, "nonblind"): [25] for name in both for data in ("bsd68", "set12")}
    assert seen == expected
    both = [(name, data) for name in ("dncnn-authors-blind", "winnet-authors-blind") for data in ("bsd68", "set12")]
    assert raw == dict.fromkeys(both, LEVELS)


def test_deblurring_takes_every_kernel_and_the_pictures_of_256_pixels(everything):
    (everything / "dninn-st-s25.safetensors").touch()
    jobs = [job for job in make_plan("laptop", "winnet").jobs.values() if job.score == "winnet/deblur"]
    assert {job.method for job in jobs} == {
        "winnet-authors-blind", "winnet-blind", "dninn-st-s25", "dncnn-authors-blind", "wiener", "richardson-lucy"
    }  # fmt: skip
    for job in jobs:
        assert (job.task, job.dataset, job.limit, job.settings) == ("deblur.Deblur", "set12", 7, {"max_iterations": 30})
        assert job.conditions == {"kernel": [1, 2, 3, 4, 5, 6, 7, 8]}


def test_deblurring_with_another_paper_s_network_takes_its_released_weights(everything):
    plan = make_plan("laptop", "winnet")
    assert plan.missing == ("dninn-st-s25: no released weights",)
    (everything / "dninn-st-s25.safetensors").touch()
    plan = make_plan("laptop", "winnet")
    assert plan.jobs["winnet/deblur/dninn-st-s25.set12"].budget == "released" and plan.missing == ()
    assert make_plan("laptop").jobs["winnet/deblur/dninn-st-s25.set12"].budget == "laptop"


def test_the_blind_network_waits_for_its_estimator(everything):
    plan = make_plan("laptop")
    files = [str(plan.weights_file(name)) for name in ("winnet-blind", "nenet")]
    assert [str(paths.ROOT / file) for file in plan.weights_files("winnet-blind")] == files
    assert plan.weights_files("winnet-authors-nenet") == plan.weights_files("nenet")
    assert plan.weights_files("winnet-authors-blind") == []  # all of it is its authors'
    (everything / "winnet-blind.safetensors").touch()
    plan = make_plan("released")
    assert "winnet-blind" not in {job.method for job in plan.jobs.values()}
    assert "winnet-blind: no released weights of nenet, which it needs" in plan.missing
    (everything / "nenet.safetensors").touch()
    assert "winnet-blind" in {job.method for job in make_plan("released").jobs.values()}


def test_training_waits_for_its_start_and_the_blind_one_for_its_estimator(everything):
    plan = make_plan("laptop", "winnet")
    waits = {name: plan.start_files(name) for name in plan.trainings}
    blind, estimator = plan.weights_files("winnet-blind")
    assert waits == {"winnet-s25": [blind], "winnet-blind": [estimator], "nenet": [], "bfcnn": []}
    for budget in ("smoke", "paper"):  # from scratch, but the blind network is tried with the estimator
        plan = make_plan(budget, "winnet")
        waits = {name: files for name in plan.trainings if (files := plan.start_files(name))}
        assert waits == {"winnet-blind": plan.weights_files("nenet")}


def test_a_smoke_run_trains_what_it_scores_and_takes_few_pictures(everything):
    plan = make_plan("smoke", "winnet")
    assert set(plan.trainings) == {"winnet-s25", "winnet-blind", "nenet"}
    assert {job.method for job in plan.jobs.values()} == {"winnet-s25", "winnet-blind", "wiener"}
    assert {job.limit for job in plan.jobs.values()} == {1}
    assert {job.score for job in plan.jobs.values()} == {f"winnet/{score}" for score in PAPER.scores}


def test_without_network_what_its_authors_trained_is_left_out(everything, monkeypatch):
    from invdenoise.data.fetch import DataUnavailable

    def out_of_reach(*wanted):
        raise DataUnavailable("no network")

    (everything / "nenet.safetensors").touch()
    scored = PAPER.authors.keys() - {"nenet-authors", "bfcnn-authors"}  # an estimator of the level, and not scored yet
    assert {job.method for job in make_plan("released", "winnet").jobs.values()} >= scored
    monkeypatch.setattr(methods, "fetch", out_of_reach)
    plan = make_plan("released", "winnet")
    assert not {job.method for job in plan.jobs.values()} & PAPER.authors.keys()
    reason = "the authors' weights could not be reached"
    assert set(plan.missing) >= {f"{name}: {reason}" for name in scored}


# --- Figures


def test_figures_read_the_scores_that_they_show(everything):
    drawings = make_plan("laptop").drawings
    reads = {
        name.removeprefix("winnet/"): {file.rpartition("/")[0] for file in drawing.scores}
        for name, drawing in drawings.items()
        if name.startswith("winnet/")
    }
    blind, told = "winnet/blind", "winnet/told"
    assert reads == {
        "nonblind_set12": {"winnet/nonblind", "linn/table1"}, "blind_table": {blind}, "noise_estimation": {blind, told},
        "deblurring": {"winnet/deblur"}, "learned_kernels": {"winnet/nonblind", blind, told}, "tour": set(),
    }  # fmt: skip


def test_a_figure_that_runs_networks_waits_for_their_weights(everything):
    assert make_plan("released").drawing_files("winnet/noise_estimation") == [
        str(paths.results_dir() / "scores" / file)
        for file in make_plan("released").drawings["winnet/noise_estimation"].scores
    ]
    (everything / "nenet.safetensors").touch()
    assert make_plan("released").drawing_files("winnet/noise_estimation")[-1] == str(everything / "nenet.safetensors")
    plan = make_plan("smoke")
    weights = [file for file in plan.drawing_files("winnet/noise_estimation") if file.endswith(".safetensors")]
    assert {file.split("/")[-3] for file in weights} == {"winnet-s25", "winnet-blind", "nenet"}
    assert plan.drawings["winnet/noise_estimation"].parameters["dataset"] == "embedded"
    assert make_plan("laptop").drawings["winnet/noise_estimation"].parameters["dataset"] == "set12"
