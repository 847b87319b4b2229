"""What `notebooks/linn/paper.yaml` declares of LINN / DnINN: its networks, its budgets, and the jobs that they lead to."""

from __future__ import annotations

import pytest

from invdenoise import methods, papers, paths
from invdenoise.data.fetch import dataset_ids
from invdenoise.data.pictures import EMBEDDED
from invdenoise.models import classical
from invdenoise.papers import BUDGETS
from invdenoise.plan import Plan, make_plan

PAPER = papers.papers()["linn"]
TABLE_1 = ("bsd68", "set12")
CLASSICAL = ("bm3d", "nlm", "wavelet-bayes", "wavelet-visu")


@pytest.fixture
def everything(monkeypatch, tmp_path):
    """Every package is installed, the authors' weights can be had, and no weights are released; the folder of weights."""
    monkeypatch.setattr(methods, "fetch", lambda *wanted: tmp_path)
    monkeypatch.setattr(classical, "is_installed", lambda name: True)
    monkeypatch.setattr(paths, "RELEASED_WEIGHTS", tmp_path)
    return tmp_path


def scored(plan: Plan, score: str) -> list[tuple]:
    """Method, set and condition of the jobs of a score, one for each noise level."""
    jobs = [job for job in plan.jobs.values() if job.score == f"linn/{score}"]
    return sorted((job.method, job.dataset, sigma) for job in jobs for sigma in job.conditions["sigma"])


# --- Networks


@pytest.mark.parametrize("name", PAPER.networks)
def test_every_network_can_be_built_and_trained(name):
    entry = PAPER.networks[name]
    network = entry.build()
    assert f"{type(network).__module__}.{type(network).__name__}" == f"invdenoise.models.{entry.model}"
    assert network.sigma == entry.sigma
    assert papers.resolve(entry.task, "tasks")().metrics[0].name == "psnr"
    assert papers.resolve(entry.source.kind, "data").__name__ == "WhiteNoise"
    for budget in BUDGETS:
        recipe = entry.recipe(budget)
        assert entry.source_options(budget)["set"] in (*EMBEDDED, *dataset_ids())
        assert (recipe.start is None) or budget == "laptop"
    assert entry.recipe("smoke").steps <= 50 and entry.source_options("smoke")["set"] == "embedded-train"


def test_starts_lead_back_to_a_network_trained_from_scratch():
    for entry in PAPER.networks.values():
        seen = []
        while start := entry.recipe("laptop").start:
            assert start not in seen
            seen.append(start)
            entry = PAPER.networks[start]
        assert len(seen) <= 3


def test_dninn_is_trained_as_the_paper_says():
    """LINN, Section III-A."""
    found = {name: entry for name, entry in PAPER.networks.items() if entry.model == "dninn.DnINN"}
    assert len(found) == 13
    for name, entry in found.items():
        recipe = entry.recipe("paper")
        assert (recipe.batch_size, recipe.patch_size, recipe.epochs, recipe.steps) == (32, 40, 30, None), name
        assert (recipe.optimizer, recipe.lr, recipe.schedule) == ("adam", 1e-3, "steps"), name
        assert (recipe.milestones, recipe.gamma, recipe.sampling) == ((20,), 0.1, "grid"), name
        assert (recipe.validation, recipe.start) == (0, None), name
        assert entry.source_options("paper") == {"set": "bsd400", "sigma": entry.sigma}, name


def test_dninn_has_the_networks_and_noise_levels_of_table_1():
    found = {
        (entry.options.get("shrinkage"), entry.options.get("num_scales", 1), entry.sigma)
        for entry in PAPER.networks.values()
        if entry.model == "dninn.DnINN"
    }
    assert found >= {(s, scales, sigma) for s in ("soft", "lista") for scales in (1, 2) for sigma in (15, 25, 50)}


def test_ablations_change_what_they_say_and_nothing_else():
    changes = PAPER.declared.ablations.changes
    base = PAPER.ablations["ablation-none"].recipe("laptop")
    sizes = {"ablation-fixed-thresholds": 134_656, "ablation-lista": 135_151, "ablation-two-scales": 269_318}
    assert len(PAPER.ablations) == len(changes) > 15
    for name, entry in PAPER.ablations.items():
        change, recipe = changes[name.removeprefix("ablation-")], entry.recipe("laptop")
        differing = {key for key, value in base.model_dump().items() if getattr(recipe, key) != value}
        assert differing == change.keys() - {"options"}
        assert entry.options == {"shrinkage": "soft", **change.get("options", {})}
        assert entry.build().num_parameters() == sizes.get(name, 134_659)
        pixels = recipe.steps * recipe.batch_size * recipe.patch_size**2
        if name != "ablation-paper":  # the paper's training takes its own length
            assert pixels == pytest.approx(base.steps * base.batch_size * base.patch_size**2, rel=0.02)


# --- Jobs


@pytest.mark.parametrize("budget", ["laptop", "paper"])
def test_a_full_run_trains_every_network_and_scores_it_on_every_picture_of_table_1(budget, everything):
    plan = make_plan(budget, "linn")
    assert set(plan.trainings) == set(PAPER.networks) and plan.missing == ()
    levels = {name: [entry.sigma] for name, entry in (PAPER.networks | PAPER.authors).items()}
    levels |= dict.fromkeys(CLASSICAL, [15, 25, 50])
    expected = [(name, data, level) for name in levels for data in TABLE_1 for level in levels[name]]
    assert scored(plan, "table1") == sorted(expected)
    assert {job.limit for job in plan.jobs.values() if job.score == "linn/table1"} == {0}


def test_dncnn_is_scored_in_its_authors_precision_and_dninn_in_the_fastest(everything):
    jobs = make_plan("laptop", "linn").jobs.values()
    precisions = {
        (job.method.split("-")[0], job.precision)
        for job in jobs
        if job.score == "linn/table1"
        if methods.is_network(job.method)
    }
    assert precisions == {("dncnn", "float32"), ("tnrd", "float32"), ("dninn", "fastest")}


def test_sweeps_cover_figure_5_with_and_without_adapted_thresholds(everything):
    jobs = [job for job in make_plan("laptop", "linn").jobs.values() if job.score == "linn/sweep"]
    assert {job.dataset for job in jobs} == {"bsd68"} and {job.limit for job in jobs} == {8}
    assert all(job.conditions == {"sigma": list(range(5, 100, 5))} for job in jobs)
    found = {(job.method, job.variant): job.options for job in jobs}
    variants = {"": {}, "not-adapted": {"adapt": False}, "exponent-1": {"exponent": 1.0}}
    own = {
        (name, variant): options
        for name in ("dninn-st-s50", "dninn-st-s50-fixed")
        for variant, options in variants.items()
    }
    assert found == own | {("dncnn-s50", ""): {}, ("dncnn-authors-s50", ""): {}}  # these have no thresholds


def test_a_warm_training_waits_for_the_weights_it_starts_from(everything):
    plan = make_plan("laptop", "linn")
    waits = {name: plan.start_files(name) for name in plan.trainings}
    assert waits["dninn-st-s25"] == []
    assert waits["dninn-lista-2scale-s15"] == plan.weights_files("dninn-lista-s15")
    for name, files in waits.items():
        start = PAPER.networks[name].recipe("laptop").start
        assert files == (plan.weights_files(start) if start else [])
    for budget in ("smoke", "paper"):  # from scratch
        plan = make_plan(budget, "linn")
        assert not any(plan.start_files(name) for name in plan.trainings)


def test_a_smoke_run_has_a_network_of_each_kind_and_few_pictures(everything):
    plan = make_plan("smoke", "linn")
    assert all(0 < job.limit <= 2 and job.precision == "float32" for job in plan.jobs.values())
    options = [PAPER.networks[name].options for name in plan.trainings]
    kinds = {(entry.get("shrinkage"), entry.get("num_scales", 1)) for entry in options}
    assert kinds >= {("soft", 1), ("lista", 1), ("soft", 2)}
    assert {job.method for job in plan.jobs.values()} == {*plan.trainings, "bm3d", "wavelet-bayes"}
    assert {"dninn-lista-s50", "dninn-st-s25"} <= set(plan.trainings)  # Figure 4 and the tour look into them


def test_long_jobs_start_first(everything):
    """Their expected times are those of the released scores."""
    jobs = make_plan("laptop", "linn").jobs
    assert jobs["linn/table1/bm3d.bsd68.sigma=25"].priority > jobs["linn/table1/dninn-st-s25.set12"].priority
    assert jobs["linn/table1/dninn-st-2scale-s25.bsd68"].seconds > jobs["linn/table1/dninn-st-s25.bsd68"].seconds
    times = [job.seconds for job in jobs.values()]
    assert max(times) < sum(times) / 2  # BM3D's job is shared out: two cores end about together


def test_only_networks_with_released_weights_are_scored_by_a_released_plan(everything):
    for name in ("dninn-st-s25", "dninn-st-s50"):
        (everything / f"{name}.safetensors").touch()
    plan = make_plan("released", "linn")
    assert {job.method for job in plan.jobs.values()} & PAPER.networks.keys() == {"dninn-st-s25", "dninn-st-s50"}
    assert plan.missing == tuple(
        f"{name}: no released weights" for name in PAPER.networks if name not in ("dninn-st-s25", "dninn-st-s50")
    )


# --- Figures


def test_figures_read_their_own_score(everything):
    drawings = make_plan("laptop", "linn").drawings
    assert {name.removeprefix("linn/") for name in drawings} == set(PAPER.figures)
    reads = {name: {file.split("/")[1] for file in drawing.scores} for name, drawing in drawings.items()}
    assert reads == {
        "linn/table1_psnr": {"table1"}, "linn/fig5_threshold_adaptation": {"sweep"}, "linn/training_cost": {"table1"},
        "linn/fig4_detail_channels": set(), "linn/tour": set(),
    }  # fmt: skip
    assert drawings["linn/tour"].notebook == "00_tour"
    assert [name for name, drawing in drawings.items() if drawing.curves] == ["linn/training_cost"]


def test_figure_4_shows_the_network_of_the_paper(everything):
    """LINN, Figure 4: LISTA, at noise level 50."""
    for budget in ("laptop", "smoke"):
        plan = make_plan(budget, "linn")
        assert plan.drawings["linn/fig4_detail_channels"].parameters["method"] == "dninn-lista-s50"
        assert plan.drawing_files("linn/fig4_detail_channels") == plan.weights_files("dninn-lista-s50")
