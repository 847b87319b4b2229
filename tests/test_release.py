"""Releasing: all or nothing, never stand-ins, and READMEs that say what was released."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest
import toy as toy_module
from links import follow
from made_up import TABLE, toy, write_curve, write_run

from invdenoise import papers, paths, plan
from invdenoise.data.fetch import describe, registered_files
from invdenoise.files import sha256
from invdenoise.papers import read_papers
from invdenoise.report import audit, release
from invdenoise.report.claims import claims_markdown, decide_all
from invdenoise.report.compare import Results, beside
from invdenoise.weights import add_to_card, read_card, save_weights, weights_path

__all__ = ["toy"]

TEXT = "# Title\n\n<!-- papers -->\nold numbers\n<!-- end -->\n\nBetween | them\nend"
PAPER_TEXT = f"# Toy\n\n<!-- claims -->\n<!-- end -->\n\n<!-- table: {TABLE} -->\nold\n<!-- end -->\nend"
BENCH = {
    "quantity": "training step", "subject": "Alpha", "setting": "eager", "value": 81.234, "unit": "patches/s", "reference": "Beta",
    "ratio": 1.7, "target": "at least 1.8", "met": False, "hardware": "2 CPU threads, box",
}  # fmt: skip


# The made-up methods that are networks, declared beside what the made-up paper has.
TRAINED, AUTHORS, FILE = ("alpha-s15", "alpha-s25", "one", "two"), "alpha-authors-s25", "weights/dncnn/sigma=25.mat"
TRAINING = {
    "num_parameters": 5, "steps": 1, "patches": 4, "seconds": 60.0, "recipe": {"optimizer": "adam"}, "started_from": None
}  # fmt: skip
SOURCE = "{kind: batches.WhiteNoise, set: embedded-train}"
NETWORK = f"{{model: toy.Smooth, source: {SOURCE}, task: awgn.Denoise, recipe: quick, sigma: 25}}"
DECLARED = f"""
recipes: {{quick: {{smoke: {{steps: 1}}, laptop: {{steps: 1}}, paper: {{steps: 1}}}}}}
networks: {{{", ".join(f"{name}: {NETWORK}" for name in TRAINED)}}}
authors: {{{AUTHORS}: {{file: "{FILE}", read: toy.read_flow}}}}
"""
IGNORED = "/results/*\n!/results/weights\n!/results/released\n"


def git(site: Path, *arguments: str) -> str:
    """Run git in the checkout of the site."""
    settings = ("-c", "user.name=me", "-c", "user.email=me@here", "-c", "commit.gpgsign=false")
    command = ["git", "-C", str(site.parent), *settings, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def commit(site: Path) -> str:
    """Commit all; the commit's first digits."""
    git(site, "add", "--all")
    git(site, "commit", "--quiet", "--allow-empty", "--message", "some")
    return git(site, "rev-parse", "--short=12", "HEAD")


def write_weights(name: str, shift: float = 0.0, **card) -> str:
    """Released weights with their card; their hash."""
    network = toy_module.Smooth()
    network.layers[0].bias.data.fill_(shift)
    save_weights(
        network,
        weights_path(name),
        {"experiment": name, "budget": "laptop", "commit": "0" * 12, "validation_psnr": 28.0, **TRAINING, **card},
    )
    return read_card(weights_path(name))["sha256"]


def hash_of(method: str) -> str:
    if method in TRAINED:
        return sha256(weights_path(method))
    return next(file.sha256 for file in registered_files(describe("weights")) if file.file == FILE) * (
        method == AUTHORS
    )


def edit(file: Path, row: int | slice = slice(None), **entries) -> None:
    """Change columns of a score file, in one row or in all."""
    table = pd.read_csv(file, dtype=str, keep_default_na=False)
    for column, value in entries.items():
        table.loc[row, column] = table["method"].map(value)[row] if callable(value) else value
    table.to_csv(file, index=False)


def write_local(folder: Path, **entries) -> None:
    """A finished local run, measured with the released weights by a commit."""
    write_run(folder, **entries)
    head = git(folder, "rev-parse", "--short=12", "HEAD")
    for file in (folder / "scores").rglob("*.csv"):
        edit(file, weights_sha256=hash_of, commit=head, device="cpu, float32, 1 thread, box")
    pd.DataFrame(
        [BENCH, BENCH | {"subject": "Beta", "reference": None, "ratio": None, "target": None, "met": None}]
    ).to_csv(folder / "bench.csv", index=False)
    (folder / "report.html").write_text("of the local run")
    (folder / "figures").mkdir()
    (folder / "figures" / "one.png").write_bytes(b"picture")
    (folder / "figures" / "one.svg").write_text("<svg/>")
    (folder / "figures" / ".half-written.png").touch()


@pytest.fixture
def site(toy, tmp_path, monkeypatch) -> Path:
    """A checkout of the made-up paper with weights and an older release, all committed; its `results` folder."""
    results = tmp_path / "results"
    toy_module.use(monkeypatch)
    with open(tmp_path / "notebooks" / "toy" / "paper.yaml", "a") as handle:
        handle.write(DECLARED)
    read_papers.cache_clear()  # the made-up paper was read before
    declared = read_papers(tmp_path / "notebooks")
    monkeypatch.setenv("INVDENOISE_RESULTS", str(results))
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    monkeypatch.setattr(paths, "RELEASED", results / "released")
    monkeypatch.setattr(paths, "RELEASED_WEIGHTS", results / "weights")
    monkeypatch.setattr(paths, "NOTEBOOKS", tmp_path / "notebooks")
    monkeypatch.setattr(papers, "papers", lambda: declared)
    monkeypatch.setattr(release, "README", tmp_path / "README.md")
    (tmp_path / "README.md").write_text(TEXT)
    (tmp_path / "notebooks" / "toy" / "README.md").write_text(PAPER_TEXT)
    (tmp_path / "code.py").write_text("x = 1\n")
    (tmp_path / ".gitignore").write_text(IGNORED)
    (results / "released" / "scores" / "gone").mkdir(parents=True)
    (results / "released" / "scores" / "gone" / "bsd68.csv").write_text("of a network that is no more")
    (results / "released" / "report.html").write_text("older")
    for number, name in enumerate(TRAINED):
        write_weights(name, number)
    git(results, "init", "--quiet")
    commit(results)
    return results


@pytest.fixture
def ablated(site, monkeypatch):
    """The papers' own ablations, beside the made-up paper."""
    own = read_papers(Path(release.__file__).parents[3] / "notebooks")
    monkeypatch.setattr(papers, "papers", lambda: read_papers(site.parent / "notebooks") | own)
    monkeypatch.setattr(release, "read_results", lambda folder: Results(folder, read_papers(site.parent / "notebooks")))
    return next(paper for paper in own.values() if paper.ablations)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_release_replaces_the_older_one_whole(site):
    write_local(site)
    assert release.main([]) == 0
    scores = {f"scores/{name}" for name in contents(site / "scores")}
    found = contents(site / "released")
    assert found.keys() == scores | {
        "figures/one.png",
        "bench.csv",
        "measurements.md",
        "report.html",
        "site/toy.html",
        "site/weights.html",
    }
    assert all(found[name] == (site / name).read_bytes() for name in scores | {"figures/one.png", "bench.csv"})
    assert {path.name for path in site.iterdir()} == {
        "released",
        "weights",
        "scores",
        "figures",
        "bench.csv",
        "report.html",
    }


def test_scores_of_no_paper_are_not_released(site):
    write_local(site)
    for place in ("own/mine.csv", "toy/former/alpha-s15-15.csv"):
        (site / "scores" / place).parent.mkdir()
        (site / "scores" / place).write_text("the reader's own, or of a score that is no more declared")
    assert release.main([]) == 0
    assert {folder.name for folder in (site / "released" / "scores").glob("*/*")} == {"plain", "few"}


def test_the_released_site_is_written_anew_from_what_is_released(site):
    (site.parent / "notebooks" / "toy" / "look.ipynb").write_text(
        '{"cells": [{"cell_type": "markdown", "id": "a", "metadata": {}, "source": "# A look"}], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}'
    )
    commit(site)
    write_local(site)
    (site / "notebooks" / "scores" / "toy").mkdir(parents=True)
    (site / "notebooks" / "scores" / "toy" / "one.html").write_text("executed, and not released")
    assert release.main([]) == 0
    reached = {str(file.relative_to(site / "released")) for file in follow(site / "released" / "report.html")}
    assert reached == {"report.html", "site/toy.html", "site/weights.html", "site/notebooks/toy/look.html"}
    assert "Weights: released." in (site / "released" / "report.html").read_text()


def test_measurements_stay_when_they_were_not_taken_again(site):
    write_local(site)
    assert release.main([]) == 0
    measured = (site / "bench.csv").read_bytes()
    (site / "bench.csv").unlink()
    assert release.main([]) == 0
    assert (site / "released" / "bench.csv").read_bytes() == measured


def test_measurements_on_another_processor_stay_beside_the_new_ones(site):
    write_local(site)
    assert release.main([]) == 0
    bench = pd.read_csv(site / "bench.csv")
    for hardware in (
        "2 CPU threads, Other (R) CPU 9",
        "1 CPU threads, Other (R) CPU 9",
    ):  # the second replaces the first
        bench.assign(hardware=hardware, value=9.5).to_csv(site / "bench.csv", index=False)
        assert release.main([]) == 0
    released = site / "released"
    assert {file.name for file in released.glob("bench*.csv")} == {"bench.csv", "bench-box.csv"}
    made = (released / "measurements.md").read_text()
    assert made.index("## 1 CPU threads, Other (R) CPU 9") < made.index("## 2 CPU threads, box")
    assert "9.5 patches/s" in made and "81.2 patches/s" in made


def test_finished_ablations_are_released_and_earlier_ones_stay(site, ablated):
    write_local(site)
    none, adam, seed, paper = (
        f"{ablated.declared.ablations.prefix}-{change}" for change in ("none", "adam", "seed", "paper")
    )
    write_curve(site / "released" / "ablations" / f"{none}.csv", none, psnr=27.0)
    write_curve(site / "released" / "ablations" / f"{adam}.csv", adam, psnr=26.5)
    write_curve(site / "released" / "ablations" / "ablation-gone.csv", none, psnr=25.0)  # no more declared
    write_curve(site / "runs" / none / "laptop" / "curve.csv", none, psnr=28.0)  # made again
    write_curve(site / "runs" / seed / "laptop" / "curve.csv", seed, psnr=27.9)
    write_curve(site / "runs" / paper / "laptop" / "curve.csv", paper, psnr=27.0, part=0.5)
    assert release.main([]) == 0
    last = {file.stem: pd.read_csv(file)["val_psnr"].iloc[-1] for file in (site / "released" / "ablations").iterdir()}
    assert last == {none: 28.0, seed: 27.9, adam: 26.5}
    assert (site / "runs" / seed / "laptop" / "curve.csv").exists()


def test_a_released_ablation_goes_when_its_declared_length_changes(site, ablated, monkeypatch):
    write_local(site)
    (name, entry), *_ = ablated.ablations.items()
    write_curve(site / "released" / "ablations" / f"{name}.csv", name)
    longer = entry.recipe("laptop").model_copy(update={"steps": 2 * entry.recipe("laptop").steps})
    monkeypatch.setattr(entry, "recipes", {"laptop": longer})
    assert plan.finished_ablations(paths.RELEASED) == {}
    assert release.main([]) == 0
    assert not (site / "released" / "ablations").exists()


# --- what is refused, and what a failure leaves ---


def unchanged(site) -> bool:
    return (
        release.README.read_text() == TEXT
        and (site.parent / "notebooks" / "toy" / "README.md").read_text() == PAPER_TEXT
    )


def test_stand_ins_are_not_released(site, capsys):
    write_local(site, dataset="embedded")
    before = contents(site / "released")
    assert release.main([]) == 1
    assert capsys.readouterr().err.startswith("error: these scores are of embedded pictures; run `make data`")
    assert contents(site / "released") == before and unchanged(site)


def test_a_run_without_report_is_not_released(site):
    write_local(site)
    (site / "report.html").unlink()
    before = contents(site / "released")
    with pytest.raises(RuntimeError, match=r"no .*report\.html; run `make paper` first"):
        release.release()
    assert contents(site / "released") == before


def test_a_run_that_was_never_measured_is_not_released(site, capsys):
    write_local(site)
    (site / "bench.csv").unlink()
    before = contents(site)
    assert release.main([]) == 1
    missing = site / "bench.csv"
    assert capsys.readouterr().err == f"error: no {missing}, and none released before; run `make bench` first\n"
    assert contents(site) == before and unchanged(site)


@pytest.mark.parametrize("broken", ["copytree", "rename"])
def test_a_failure_midway_keeps_the_older_release_and_leaves_nothing_behind(site, monkeypatch, broken):
    write_local(site)
    before = contents(site)

    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    if broken == "copytree":
        monkeypatch.setattr(shutil, "copytree", full)
    else:
        rename = Path.rename
        monkeypatch.setattr(Path, "rename", lambda path, to: full() if path.name == "fresh" else rename(path, to))
    assert release.main([]) == 1
    assert contents(site) == before and unchanged(site)


# --- refusals: the origin of results ---

SCORES = "toy/plain/alpha-s25-25.csv"


def refusal(site, capsys) -> str:
    """What the refused release says; nothing may have changed."""
    before = contents(site.parent)
    assert release.main([]) == 1
    assert contents(site.parent) == before
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "new"), [("code.py", False), ("lib/new.py", True), ("results/weights/new.json", False)]
)
def test_a_changed_checkout_is_refused(site, capsys, name, new):
    write_local(site)
    file = site.parent / name
    file.parent.mkdir(exist_ok=True)
    if not new:
        file.touch()
        commit(site)
    file.write_text("x = 2\n")
    assert f"the checkout has uncommitted changes ({name}); commit or undo them" in refusal(site, capsys)


def test_what_releasing_writes_is_no_change(site):
    write_local(site)
    assert release.main([]) == 0
    assert git(site, "status", "--porcelain") != ""
    assert release.main([]) == 0


@pytest.mark.parametrize(
    ("file", "row", "entries", "message"),
    [
        (SCORES, 2, {"weights_sha256": "feed" * 16}, "was measured with weights feedfeedfeed, the released ones are {released}"),
        (SCORES, 2, {"weights_sha256": ""}, "names no hash of its weights"),
        (SCORES, 2, {"commit": "0123456789ab"}, "names commit 0123456789ab, which this repository does not have"),
        (SCORES, 2, {"commit": "--all"}, "names commit --all, which this repository does not have"),
        (SCORES, 2, {"commit": "unknown"}, "names no commit"),
        (SCORES, 2, {"commit": ""}, "names no commit"),
        ("toy/plain/alpha-authors-s25-25.csv", 2, {"weights_sha256": ""}, "names no hash of its weights"),
        ("toy/plain/alpha-authors-s25-25.csv", 2, {"weights_sha256": "12" * 32}, "was measured with weights 121212121212, the released"),
        ("toy/plain/beta-15.csv", 2, {"weights_sha256": "12" * 32}, "names weights 121212121212, but no paper declares a network beta"),
    ],
)  # fmt: skip
def test_a_row_of_unknown_origin_is_refused(site, capsys, file, row, entries, message):
    write_local(site)
    edit(site / "scores" / file, row, **entries)
    method = file.split("/")[2].rpartition("-")[0]
    message = message.format(released=hash_of(method)[:12])
    said = refusal(site, capsys)
    assert said.startswith("error: this run is not released:\n")
    assert f"  {site / 'scores' / file}, line 4 ({method} on 02): {message}" in said
    assert said.endswith("; delete the file and run `make paper` again\n") and said.count("\n") == 2


def test_rows_by_changed_code_are_refused_a_line_a_file(site, capsys):
    write_local(site)
    head = git(site, "rev-parse", "--short=12", "HEAD")
    edit(site / "scores" / SCORES, slice(3, None), commit=f"{head}+")
    said = refusal(site, capsys)
    assert f"{SCORES}, line 5 and 8 more (alpha-s25 on 03): was measured by code with uncommitted changes" in said
    assert said.count("\n") == 2


def test_replaced_weights_make_their_scores_unfit(site, capsys):
    write_local(site)
    write_weights("alpha-s25", 9.0)
    commit(site)
    assert "alpha-s25-25.csv, line 2 and 11 more (alpha-s25 on 00): was measured with weights" in refusal(site, capsys)


def test_the_weights_of_parts_count(site, monkeypatch):
    entry = papers.networks()["alpha-s25"]
    monkeypatch.setattr(entry, "parts", {"second": "alpha-authors-s25", "first": "alpha-s15"})
    own, first, second = map(hash_of, ("alpha-s25", "alpha-s15", "alpha-authors-s25"))
    head = git(site, "rev-parse", "HEAD")
    assert audit.released_weights("alpha-s25") == f"{own}+{first}+{second}"
    assert audit.wrong_weights("alpha-s25", f"{own}+{first}+{second}", "") == ""
    assert audit.wrong_weights("alpha-s25", f"{own}+{second}+{first}", head) == (
        f"was measured with weights {own[:12]}+{second[:12]}+{first[:12]}, "
        f"the released ones are {own[:12]}+{first[:12]}+{second[:12]}"
    )
    # An older row names the network's own weights alone; its commit tells those of the parts.
    assert audit.wrong_weights("alpha-s25", own, head[:12]) == ""
    for unknown in ("", "unknown", "0123456789ab"):
        assert "was measured when alpha-s15" in audit.wrong_weights("alpha-s25", own, unknown)
    write_weights("alpha-s15", 5.0)
    assert "was measured when alpha-s15, a part of alpha-s25" in audit.wrong_weights("alpha-s25", own, head[:12])
    weights_path("alpha-s15").unlink()
    assert "no released weights of alpha-s25 or of one of its parts" in audit.wrong_weights("alpha-s25", own, head)


def test_many_faults_are_counted(site, capsys):
    write_local(site)
    for file in (site / "scores").rglob("*.csv"):
        for row in range(4):
            edit(file, row, commit=f"{row:012}")
    said = refusal(site, capsys)
    found = sum(4 for _ in (site / "scores").rglob("*.csv"))
    assert said.count("\n") == 22 and said.endswith(f"  ... and {found - 20} more\n")


@pytest.mark.parametrize("change", [slice(0, 3), slice(None)], ids=["in a file", "between files"])
def test_one_method_in_two_precisions_in_one_table_is_refused(site, capsys, change):
    write_local(site)
    few = site / "scores" / "toy" / "few"
    edit(few / "one-15.csv", change, device="cpu, bfloat16, 1 thread, box")
    said = refusal(site, capsys)
    assert re.search(
        r"one was measured in (bfloat16|float32) in .*one-15.csv and in (bfloat16|float32) in .*, and one table shows",
        said,
    )
    assert said.count("\n") == 2
    for name in ("one-15.csv", "one-25.csv"):  # another precision than another method's is no fault
        edit(few / name, device="cpu, bfloat16, 2 threads, other")
    assert release.main([]) == 0


def test_a_start_is_found_in_the_history_and_else_refused(site, capsys):
    write_local(site)
    former = sha256(weights_path("one"))
    write_weights("one", 5.0, validation_psnr=28.5, started_from=f"two ({hash_of('two')[:12]})")
    add_to_card(weights_path("alpha-s25"), started_from=f"one ({former[:12]})")
    commit(site)
    for name in ("one-15.csv", "one-25.csv"):
        edit(site / "scores" / "toy" / "few" / name, weights_sha256=hash_of)
    assert audit.faults(site) == []
    for start in ("one (0123456789ab)", f"other ({former[:12]})", "one", "one ()"):
        add_to_card(weights_path("alpha-s25"), started_from=start)
        commit(site)
        said = refusal(site, capsys)
        assert (
            f"alpha-s25.json: started from {start}, which is neither in {site / 'weights'} nor in its history; commit"
            in said
        )
    add_to_card(weights_path("alpha-s25"), started_from=f"one ({hash_of('one')[:12]})")
    add_to_card(weights_path("one"), started_from="two (0123456789ab)")  # the start of the start
    commit(site)
    said = refusal(site, capsys)
    assert (
        "alpha-s25.json: started from two (0123456789ab)" in said
        and "one.json: started from two (0123456789ab)" in said
    )


def test_lower_validation_is_refused_unless_the_card_gives_a_reason(site, capsys):
    former = hash_of("alpha-s25")
    write_weights("alpha-s25", 9.0, validation_psnr=27.9)
    commit(site)
    write_local(site)
    said = refusal(site, capsys)
    assert (
        f"alpha-s25.json: validation_psnr fell from 28.0000 to 27.9000 with the weights that replaced {former[:12]}"
        in said
    )
    assert "--accept alpha-s25 --reason '...'" in said and said.count("\n") == 2
    for arguments, message in (
        (["alpha-s25"], "give a reason why weights of alpha-s25"),
        (["alpha-s25", "--reason", " "], "give a reason why weights of alpha-s25"),
        (["alpha-s15", "--reason", "x"], "the validation of alpha-s15 did not become worse"),
        (["alpha-s16", "--reason", "x"], "no released weights of alpha-s16"),
        (["../alpha-s15", "--reason", "x"], "expected a plain name"),
        (["", "--reason", "x"], "expected a plain name"),
    ):
        before = contents(site.parent)
        assert release.main(["--accept", *arguments]) == 1
        assert message in capsys.readouterr().err and contents(site.parent) == before
    assert release.main(["--accept", "alpha-s25", "--reason", "Half the time."]) == 0
    assert "commit it, then run `make release`" in capsys.readouterr().out
    card = read_card(weights_path("alpha-s25"))
    assert card["lower_validation"] == {"replaced": former, "validation_psnr": 28.0, "reason": "Half the time."}
    assert "uncommitted changes (results/weights/alpha-s25.json)" in refusal(site, capsys)
    commit(site)
    assert release.main([]) == 0


def test_a_reason_is_for_the_weights_that_it_was_given_for(site):
    write_weights("alpha-s25", 9.0, validation_psnr=27.9)
    commit(site)
    reason = read_card(audit.accept_lower("alpha-s25", "Half the time.").with_suffix(".safetensors"))[
        "lower_validation"
    ]
    commit(site)
    assert list(audit.card_faults()) == []
    write_weights("alpha-s25", 10.0, validation_psnr=27.8, lower_validation=reason)
    commit(site)
    (fault,) = audit.card_faults()
    assert "fell from 27.9000 to 27.8000" in fault
    write_weights("alpha-s25", 11.0, validation_psnr=27.85)  # better than what it replaces
    commit(site)
    assert list(audit.card_faults()) == []


def test_weights_that_were_not_validated_cannot_replace_validated_ones(site):
    write_weights("alpha-s25", 9.0)
    card = weights_path("alpha-s25").with_suffix(".json")
    card.write_text(card.read_text().replace("validation_psnr", "other"))
    commit(site)
    (fault,) = audit.card_faults()
    assert "validation_psnr was 28.0000 and is missing" in fault


def test_new_weights_by_changed_code_are_refused_and_older_ones_stay(site):
    write_weights("alpha-s15", 7.0, commit="0123456789ab+")
    (site / "released" / "report.html").write_text("with those weights")
    commit(site)  # they were released once
    assert list(audit.card_faults()) == []
    write_weights("alpha-s25", 9.0, commit="0123456789ab+")
    commit(site)
    (fault,) = audit.card_faults()
    assert re.search(
        r"alpha-s25.json: trained by code with uncommitted changes \(commit 0123456789ab\+\); train it again", fault
    )
    former = {file: file.read_bytes() for file in (site / "weights").glob("alpha-s15.*")}
    write_weights("alpha-s25", 1.0)
    write_weights("alpha-s15", 8.0)
    (site / "released" / "report.html").write_text("with others")
    commit(site)
    for file, content in former.items():  # brought back
        file.write_bytes(content)
    commit(site)
    assert list(audit.card_faults()) == []


def test_damaged_weights_are_refused(site, capsys):
    write_local(site)
    weights_path("two").write_bytes(b"other")
    commit(site)
    assert "two.safetensors does not match its card" in refusal(site, capsys)


def test_without_history_nothing_is_released(site, capsys):
    write_local(site)
    shutil.rmtree(site.parent / ".git")
    assert "the origin of results cannot be checked" in refusal(site, capsys)


def test_a_score_file_that_lost_a_row_is_not_released(site, capsys):
    write_local(site)
    file = site / "scores" / SCORES
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))
    assert f"error: {file} has 11 rows of 12: it was cut off; delete it and run again" in refusal(site, capsys)


# --- READMEs ---


def test_the_readme_has_a_row_a_paper_with_claims_and_numbers_by_verdict(site):
    write_local(site)
    assert release.main([]) == 0
    lines = release.README.read_text().splitlines()
    assert "old numbers" not in lines
    assert lines[lines.index("<!-- papers -->") + 3] == (
        "| [Toy](notebooks/toy/README.md) | holds 2, undecided 1, not run 1 | close 1, not reproduced 1 "
        "| exceeded 1, reproduced 2, not reproduced 1 | data not available 1, not run 4 |"
    )


def test_a_papers_readme_has_its_claims_and_tables(site, toy):
    write_local(site)
    assert release.main([]) == 0
    results = Results(paths.RELEASED, {"toy": toy})
    made = (site.parent / "notebooks" / "toy" / "README.md").read_text()
    (table,) = beside(toy, TABLE, results)
    assert made == (
        f"# Toy\n\n<!-- claims -->\n{claims_markdown(decide_all(toy, results).values())}\n<!-- end -->\n\n"
        f"<!-- table: {TABLE} -->\n{table.markdown}\n<!-- end -->\nend"
    )
    assert "| One is better than two. | Section 4 | +2.000 dB (+0.701 to +3.299; 4 pictures) | **holds** |" in made
    assert "| 30.00 / **29.90** close | 28.00 / **27.00** not reproduced |" in made


def test_a_papers_readme_without_blocks_and_a_paper_without_readme_are_left_alone(site):
    write_local(site)
    readme = site.parent / "notebooks" / "toy" / "README.md"
    readme.write_text("# Toy\n")
    assert release.main([]) == 0 and readme.read_text() == "# Toy\n"
    readme.unlink()
    assert release.main(["--readme"]) == 0 and not readme.exists()


def test_the_measurements_have_a_page_of_their_own(site):
    write_local(site)
    assert release.main([]) == 0
    made = (site / "released" / "measurements.md").read_text()
    assert "| training step | Alpha, eager | 81.2 patches/s | 1.70 × Beta | at least 1.8: missed |" in made
    assert "| training step | Beta, eager | 81.2 patches/s |  |  |" in made


def test_only_what_stands_between_the_markers_changes(site):
    write_local(site)
    assert release.main([]) == 0
    empty = re.compile(r"(<!-- [^\n]+ -->\n).*?(<!-- end -->)", re.DOTALL)
    for file, text in ((release.README, TEXT), (site.parent / "notebooks" / "toy" / "README.md", PAPER_TEXT)):
        made = file.read_text()
        assert made != text and empty.sub(r"\1\2", made) == empty.sub(r"\1\2", text)
    before = contents(site.parent)
    assert release.main(["--readme"]) == 0  # nothing else changes, and the same again
    assert contents(site.parent) == before


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("README.md", "# Title", "README.md has no place for the papers: <!-- papers --> ... <!-- end -->"),
        ("README.md", "<!-- papers -->\nno end", "1 of 1 places to fill are not closed by <!-- end -->"),
        (
            "README.md",
            f"{TEXT}\n<!-- claims -->\n<!-- end -->",
            "<!-- claims --> does not belong here; expected papers",
        ),
        (
            "notebooks/toy/README.md",
            "<!-- table: Table 9 -->\n<!-- end -->",
            "toy compares nothing at 'Table 9'; there is Table 1",
        ),
    ],
)
def test_a_readme_that_cannot_be_filled_is_refused_and_nothing_is_written(site, capsys, file, text, message):
    write_local(site)
    release.release()
    (site.parent / file).write_text(text)
    before = contents(site.parent)
    assert release.main(["--readme"]) == 1
    assert message in capsys.readouterr().err
    assert contents(site.parent) == before


def test_readmes_without_released_measurements_name_the_remedy(site, capsys):
    write_local(site)
    release.release()
    (site / "released" / "bench.csv").unlink()
    assert release.main(["--readme"]) == 1
    missing = site / "released" / "bench.csv"
    assert capsys.readouterr().err == f"error: no {missing}; run `make bench`, then `make release`\n"
    assert unchanged(site)


@pytest.mark.skipif(not (paths.RELEASED / "scores").exists(), reason="nothing released yet: make release")
def test_the_pages_of_this_checkout_are_up_to_date():
    for path, text in release.made_anew().items():
        assert path.exists() and path.read_text(encoding="utf-8") == text, f"{path}: run `make readme`"
