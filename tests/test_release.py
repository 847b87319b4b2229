"""Releasing: all or nothing, never stand-ins, and a README that says what was released."""

from __future__ import annotations

import dataclasses
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
from test_report import write_blind, write_curve, write_run

from invdenoise import paths, release, report
from invdenoise.experiments import ablations

TEXT = "# Title\n\n<!-- table1 -->\nold numbers\n<!-- end -->\n<!-- variants -->\n<!-- end -->\n\n<!-- blind -->\n<!-- end -->\n\nBetween | them\n\n<!-- bench -->\n<!-- end -->\nend"


def write_local(folder: Path, **kind) -> None:
    """A finished local run."""
    write_run(folder, **kind)
    (folder / "report.html").write_text('<p><a href="notebooks/linn/one.html">one</a> <a href="#top">top</a></p>')
    (folder / "figures" / "one.svg").write_text("<svg/>")
    (folder / "figures" / ".half-written.png").touch()


@pytest.fixture
def site(tmp_path, monkeypatch) -> Path:
    """A checkout with an older release; its `results` folder."""
    results = tmp_path / "results"
    monkeypatch.setenv("INVDENOISE_RESULTS", str(results))
    monkeypatch.setattr(paths, "RELEASED", results / "released")
    monkeypatch.setattr(release, "README", tmp_path / "README.md")
    (tmp_path / "README.md").write_text(TEXT)
    (results / "released" / "scores" / "gone").mkdir(parents=True)
    (results / "released" / "scores" / "gone" / "bsd68.csv").write_text("of a network that is no more")
    (results / "released" / "report.html").write_text("older")
    return results


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_release_replaces_the_older_one_whole(site):
    write_local(site)
    assert release.main([]) == 0
    scores = {f"scores/{name}" for name in contents(site / "scores")}
    found = contents(site / "released")
    assert found.keys() == scores | {"figures/one.png", "bench.csv", "report.html"}
    assert all(found[name] == (site / name).read_bytes() for name in scores | {"figures/one.png", "bench.csv"})
    assert {path.name for path in site.iterdir()} == {
        "released", "scores", "figures", "notebooks", "bench.csv", "report.html"
    }  # fmt: skip


def test_a_released_page_links_only_to_what_is_released(site):
    write_local(site)
    assert release.main([]) == 0
    assert (site / "released" / "report.html").read_text() == '<p>one <a href="#top">top</a></p>'


def test_the_readme_is_made_from_what_was_released(site):
    write_local(site)
    assert release.main([]) == 0
    made = release.README.read_text()
    assert report.markdown_table(report.read_results(site / "released")) in made
    assert "| training step | DnINN, eager | 81.2 patches/s | 1.70 × DnCNN | at least 1.8: missed |" in made
    assert "| training step | DnCNN, eager | 81.2 patches/s |  |  |" in made
    assert report.variants_markdown(report.read_results(site / "released")) in made
    assert "old numbers" not in made


def test_the_readme_has_the_blind_table_of_what_was_released(site):
    write_local(site)
    write_blind(site)
    assert release.main([]) == 0
    made = release.README.read_text()
    assert report.blind_markdown(report.read_results(site / "released")) in made
    assert "| 37.82 / **37.88** exceeded | 29.13 / **29.14** reproduced | 26.66 not run |" in made


def test_measurements_of_deblurring_are_released_and_stay(site):
    write_local(site)
    (site / "deblurring").mkdir()
    (site / "deblurring" / "wiener.csv").write_text("psnr")
    assert release.main([]) == 0
    (site / "deblurring" / "wiener.csv").unlink()
    (site / "deblurring").rmdir()
    assert release.main([]) == 0
    assert (site / "released" / "deblurring" / "wiener.csv").read_text() == "psnr"


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
    made = release.README.read_text()
    assert made.index("On 1 CPU threads, Other (R) CPU 9:") < made.index("On 2 CPU threads, box:")
    assert "9.5 patches/s" in made and "81.2 patches/s" in made


def test_finished_ablations_are_released_and_earlier_ones_stay(site):
    write_local(site)
    write_curve(site / "released" / "ablations" / "ablation-none.csv", "ablation-none", psnr=27.0)
    write_curve(site / "released" / "ablations" / "ablation-adam.csv", "ablation-adam", psnr=26.5)
    write_curve(site / "released" / "ablations" / "ablation-gone.csv", "ablation-none", psnr=25.0)  # no more declared
    write_curve(site / "runs" / "ablation-none" / "laptop" / "curve.csv", "ablation-none", psnr=28.0)  # made again
    write_curve(site / "runs" / "ablation-seed" / "laptop" / "curve.csv", "ablation-seed", psnr=27.9)
    write_curve(site / "runs" / "ablation-paper" / "laptop" / "curve.csv", "ablation-paper", psnr=27.0, part=0.5)
    assert release.main([]) == 0
    last = {file.stem: pd.read_csv(file)["val_psnr"].iloc[-1] for file in (site / "released" / "ablations").iterdir()}
    assert last == {"ablation-none": 28.0, "ablation-seed": 27.9, "ablation-adam": 26.5}
    assert (site / "runs" / "ablation-seed" / "laptop" / "curve.csv").exists()


def test_a_released_ablation_goes_when_its_declared_length_changes(site, monkeypatch):
    write_local(site)
    write_curve(site / "released" / "ablations" / "ablation-none.csv", "ablation-none")
    spec = ablations()["ablation-none"]
    longer = dataclasses.replace(spec.recipe("laptop"), steps=2 * spec.recipe("laptop").steps)
    changed = {"ablation-none": dataclasses.replace(spec, recipes={"laptop": longer})}
    monkeypatch.setattr(report, "ablations", lambda: changed)
    assert release.main([]) == 0
    assert not (site / "released" / "ablations").exists()


# --- what is refused, and what a failure leaves ---


def test_stand_ins_are_not_released(site, capsys):
    write_local(site, dataset="embedded")
    before = contents(site / "released")
    assert release.main([]) == 1
    assert capsys.readouterr().err.startswith("error: these scores are of the embedded pictures; run `make data`")
    assert contents(site / "released") == before and release.README.read_text() == TEXT


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
    assert contents(site) == before and release.README.read_text() == TEXT


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
    assert contents(site) == before and release.README.read_text() == TEXT


# --- README ---


def test_only_what_stands_between_the_markers_changes(site):
    write_local(site)
    release.release()
    made = release.readme_text(TEXT)
    empty = re.compile(r"(<!-- \w+ -->\n).*?(<!-- end -->)", re.DOTALL)
    assert empty.sub(r"\1\2", made) == empty.sub(r"\1\2", TEXT)
    assert made.index("DnINN-ST") < made.index("Between | them") < made.index("training step")
    assert release.readme_text(made) == made


@pytest.mark.parametrize("name", ["table1", "blind", "bench"])
def test_a_readme_without_a_place_for_a_table_is_refused(site, name):
    write_local(site)
    release.release()
    with pytest.raises(ValueError, match=f"no place for {name}: <!-- {name} --> ... <!-- end -->"):
        release.readme_text(TEXT.replace(f"<!-- {name} -->", ""))


def test_refreshing_the_readme_leaves_the_release_alone(site):
    write_local(site)
    release.release()
    before = contents(site)
    assert release.main(["--readme"]) == 0
    assert contents(site) == before
    assert release.README.read_text() == release.readme_text(TEXT)


def test_a_readme_without_released_measurements_names_the_remedy(site, capsys):
    write_local(site)
    release.release()
    (site / "released" / "bench.csv").unlink()
    assert release.main(["--readme"]) == 1
    missing = site / "released" / "bench.csv"
    assert capsys.readouterr().err == f"error: no {missing}; run `make bench`, then `make release`\n"
    assert release.README.read_text() == TEXT


@pytest.mark.skipif(not paths.RELEASED.exists(), reason="nothing released yet: make release")
def test_the_readme_of_this_checkout_is_up_to_date():
    text = release.README.read_text()
    assert release.readme_text(text) == text, "run `make readme`"
