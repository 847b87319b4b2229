"""Releasing: all or nothing, never stand-ins, and READMEs that say what was released."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
from made_up import TABLE, toy, write_curve, write_run

from invdenoise import papers, paths, plan
from invdenoise.papers import read_papers
from invdenoise.report import release
from invdenoise.report.claims import claims_markdown, decide_all
from invdenoise.report.compare import Results, beside

__all__ = ["toy"]

TEXT = "# Title\n\n<!-- papers -->\nold numbers\n<!-- end -->\n\nBetween | them\nend"
PAPER_TEXT = f"# Toy\n\n<!-- claims -->\n<!-- end -->\n\n<!-- table: {TABLE} -->\nold\n<!-- end -->\nend"
BENCH = {
    "quantity": "training step", "subject": "Alpha", "setting": "eager", "value": 81.234, "unit": "patches/s", "reference": "Beta",
    "ratio": 1.7, "target": "at least 1.8", "met": False, "hardware": "2 CPU threads, box",
}  # fmt: skip


def write_local(folder: Path, **entries) -> None:
    """A finished local run."""
    write_run(folder, **entries)
    pd.DataFrame(
        [BENCH, BENCH | {"subject": "Beta", "reference": None, "ratio": None, "target": None, "met": None}]
    ).to_csv(folder / "bench.csv", index=False)
    (folder / "report.html").write_text(
        '<p><a href="notebooks/figures/toy/one.html">one</a> <a href="#top">top</a></p>'
    )
    (folder / "figures").mkdir()
    (folder / "figures" / "one.png").write_bytes(b"picture")
    (folder / "figures" / "one.svg").write_text("<svg/>")
    (folder / "figures" / ".half-written.png").touch()


@pytest.fixture
def site(toy, tmp_path, monkeypatch) -> Path:
    """A checkout of the made-up paper with an older release; its `results` folder."""
    results = tmp_path / "results"
    declared = read_papers(tmp_path / "notebooks")
    monkeypatch.setenv("INVDENOISE_RESULTS", str(results))
    monkeypatch.setattr(paths, "RELEASED", results / "released")
    monkeypatch.setattr(paths, "NOTEBOOKS", tmp_path / "notebooks")
    monkeypatch.setattr(papers, "papers", lambda: declared)
    monkeypatch.setattr(release, "README", tmp_path / "README.md")
    (tmp_path / "README.md").write_text(TEXT)
    (tmp_path / "notebooks" / "toy" / "README.md").write_text(PAPER_TEXT)
    (results / "released" / "scores" / "gone").mkdir(parents=True)
    (results / "released" / "scores" / "gone" / "bsd68.csv").write_text("of a network that is no more")
    (results / "released" / "report.html").write_text("older")
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
    assert found.keys() == scores | {"figures/one.png", "bench.csv", "report.html", "measurements.md"}
    assert all(found[name] == (site / name).read_bytes() for name in scores | {"figures/one.png", "bench.csv"})
    assert {path.name for path in site.iterdir()} == {"released", "scores", "figures", "bench.csv", "report.html"}


def test_a_released_page_links_only_to_what_is_released(site):
    write_local(site)
    assert release.main([]) == 0
    assert (site / "released" / "report.html").read_text() == '<p>one <a href="#top">top</a></p>'


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


# --- READMEs ---


def test_the_readme_has_a_row_a_paper_with_claims_and_numbers_by_verdict(site):
    write_local(site)
    assert release.main([]) == 0
    lines = release.README.read_text().splitlines()
    assert "old numbers" not in lines
    assert lines[lines.index("<!-- papers -->") + 3] == (
        "| [Toy](notebooks/toy/README.md) | holds 2, undecided 1, not run 1 | reproduced 1, close 1, smaller budget 1 "
        "| exceeded 1, reproduced 3, not reproduced 1 | data not available 1, not run 4 |"
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
    assert "| Alpha | 30.00 / **29.90** close | 28.00 / **27.00** smaller budget |" in made


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
