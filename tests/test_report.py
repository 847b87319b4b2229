"""The report on scores made up to known verdicts: its tables, its page, and the README's table."""

from __future__ import annotations

import base64
import json
import statistics
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from invdenoise import paths, plan, report
from invdenoise.datasets import describe
from invdenoise.evaluation import COLUMNS, write_scores
from invdenoise.experiments import ablations
from invdenoise.published import load_published, published_value

# Distance from the number printed in Table I by noise level; what is not here was not run.
DISTANCES = {
    "bm3d": {15: 0.0, 25: 0.0, 50: 0.0},
    "dncnn": {25: -0.1},
    "dncnn-authors": {15: 0.0, 25: 0.0, 50: 0.0},
    "dninn-st": {15: -0.1, 25: -0.04, 50: 0.06},
    "dninn-lista": {25: -0.5},
}
# The same for the authors' WINNet in the blind table, by dataset.
BLIND_DISTANCES = {"bsd68": {5: 0.06, 25: 0.01}, "set12": {25: 0.14, 145: -0.3}}
BLIND_COUNTS = {"exceeded": 2, "reproduced": 1, "not reproduced": 1, "not run": 60}
BLIND_ROWS = ["DnCNN-B", "BUIFD", "BF-CNN", "WINNet (authors' weights)"]
BUDGETS = {"bm3d": "none", "dncnn-authors": "authors"}
COUNTS = {"reproduced": 7, "close": 2, "exceeded": 1, "smaller budget": 1, "not run": 17}
ROWS = ["BM3D", "WNNM", "EPLL", "TNRD", "DnCNN", "DnCNN (authors' weights)"]
ROWS += ["DnINN-ST", "DnINN-LISTA", "DnINN-ST, 2 scales", "DnINN-LISTA, 2 scales"]
PICTURE = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
)


def write_run(folder: Path, dataset: str = "bsd68") -> Path:
    """Score files as an evaluation on BSD68 writes them, on the pictures of `dataset`; a benchmark, and a figure."""
    usual = dict.fromkeys(COLUMNS, "") | {
        "dataset": dataset, "requested": "bsd68", "seed": 0, "seconds": 0.5, "megapixels": 0.15, "ssim": 0.9,
        "num_parameters": 1, "device": "cpu", "version": "1", "commit": "abc", "psnr_rounded": 1, "psnr_noisy": 1,
    }  # fmt: skip
    num_images = describe("bsd68").num_files if dataset == "bsd68" else 6
    for family, distances in DISTANCES.items():
        for sigma, distance in distances.items():
            mean = published_value("linn", "Table I", family.removesuffix("-authors"), sigma=sigma) + distance
            method = family if family == "bm3d" else f"{family}-s{sigma}"
            own = {"method": method, "sigma_test": sigma, "budget": BUDGETS.get(family, "laptop")}
            rows = [
                usual | own | {"image": f"{index:03d}", "psnr": mean + (0.5 if index % 2 else -0.5)}
                for index in range(num_images)
            ]
            write_scores(pd.DataFrame(rows, columns=COLUMNS), folder / "scores" / method / f"bsd68-{sigma}.csv")
    bench = {"quantity": "training step", "subject": "DnINN", "setting": "eager", "value": 81.234, "unit": "patches/s"}
    bench |= {
        "reference": "DnCNN",
        "ratio": 1.7,
        "target": "at least 1.8",
        "met": False,
        "hardware": "2 CPU threads, box",
    }
    reference = bench | {"subject": "DnCNN", "reference": None, "ratio": None, "target": None, "met": None}
    pd.DataFrame([bench, reference]).to_csv(folder / "bench.csv", index=False)
    (folder / "figures").mkdir()
    (folder / "figures" / "one.png").write_bytes(PICTURE)
    (folder / "notebooks" / "linn").mkdir(parents=True)
    (folder / "notebooks" / "linn" / "one.html").write_text("executed")
    return folder


def write_blind(folder: Path, complete: bool = True) -> Path:
    """Scores of the authors' blind WINNet by `BLIND_DISTANCES`, not told the noise level and told it; and of another."""
    usual = dict.fromkeys(COLUMNS, "") | {
        "method": "winnet-authors-blind", "seed": 0, "seconds": 0.5, "megapixels": 0.07, "ssim": 0.9, "budget": "authors",
        "num_parameters": 1, "device": "cpu", "version": "1", "commit": "abc", "psnr_rounded": 1, "psnr_noisy": 1,
    }  # fmt: skip
    for dataset, distances in BLIND_DISTANCES.items():
        num_images = describe(dataset).num_files - (not complete)
        for sigma, distance in distances.items():
            here = {"dataset": dataset, "requested": dataset, "sigma_test": sigma}
            mean = published_value("winnet", report.BLIND_PLACE, "winnet-blind", dataset=dataset, sigma=sigma)
            for kind, entries in {
                "blind": {"variant": "blind", "psnr": mean + distance, "sigma_estimated": sigma - 1},
                "told": {"variant": "", "psnr": mean + distance + 0.4},
                "other": {"variant": "", "psnr": mean, "method": f"winnet-authors-s{sigma}", "sigma_train": sigma},
            }.items():
                rows = [usual | here | entries | {"image": f"{index:03d}"} for index in range(num_images)]
                file = (
                    folder / "scores" / f"{entries.get('method', usual['method'])}" / f"{dataset}-{kind}-s{sigma}.csv"
                )
                write_scores(pd.DataFrame(rows, columns=COLUMNS), file)
    return folder


def write_curve(file: Path, name: str, psnr: float = 28.0, part: float = 1.0) -> Path:
    """The training curve of an ablation up to a part of its declared length, ending at `psnr`."""
    recipe = ablations()[name].recipe("laptop")
    end = round(part * recipe.steps)
    rows = [
        {"step": step, "patches": step * recipe.batch_size, "val_psnr": psnr - (end - step) / recipe.steps}
        for step in range(recipe.validate_every, end + 1, recipe.validate_every)
    ]
    file.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows, columns=["step", "patches", "val_psnr"]).to_csv(file, index=False)
    return file


class Page(HTMLParser):
    """A page taken apart; AssertionError when a tag is not closed in its turn."""

    VOID = {"meta", "img", "br", "hr", "link", "input"}

    def __init__(self, text: str):
        super().__init__()
        self.text, self.open, self.parents, self.attributes, self.tables = text, [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == [], f"never closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        self.attributes += [(tag, key, value or "") for key, value in attributes]
        if tag == "table":
            self.parents.append(self.open[-1])
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag not in self.VOID:
            self.open.append((tag, dict(attributes).get("class")))

    def handle_endtag(self, tag):
        assert self.open and self.open[-1][0] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, data):
        if any(tag in ("td", "th") for tag, _ in self.open):
            self.tables[-1][-1][-1] += data

    def values(self, key: str) -> list[str]:
        """Of an attribute, wherever it stands."""
        return [value for _, name, value in self.attributes if name == key]

    def row(self, name: str, table: int = 0) -> list[str]:
        """Cells after the name."""
        (found,) = [cells[1:] for cells in self.tables[table] if cells[:1] == [name]]
        return found


@pytest.fixture(scope="module", autouse=True)
def weights(tmp_path_factory):
    """One released card."""
    folder = tmp_path_factory.mktemp("weights")
    card = {
        "experiment": "dninn-st-s25",
        "budget": "laptop",
        "num_parameters": 134659,
        "steps": 7500,
        "patches": 240000,
    }
    card |= {
        "seconds": 5400.0,
        "recipe": {"optimizer": "muon"},
        "started_from": None,
        "validation_psnr": None,
        "sigma": 25,
    }
    (folder / "dninn-st-s25.json").write_text(json.dumps(card))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "RELEASED_WEIGHTS", folder)
        yield folder


@pytest.fixture(scope="module")
def local(tmp_path_factory) -> report.Results:
    return report.read_results(write_run(tmp_path_factory.mktemp("local")))


@pytest.fixture(scope="module")
def with_blind(tmp_path_factory) -> report.Results:
    return report.read_results(write_blind(write_run(tmp_path_factory.mktemp("blind"))))


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory) -> report.Results:
    return report.read_results(write_run(tmp_path_factory.mktemp("stand-in"), "embedded"))


@pytest.fixture
def page(monkeypatch):
    """A function that writes the report of a run into its folder and takes it apart."""

    def write(results: report.Results, released: report.Results | None = None, budget: str = "released") -> Page:
        monkeypatch.setenv("INVDENOISE_RESULTS", str(results.folder))
        figures = [("one.png", "The <first> figure", "notebooks/linn/one.html"), ("two.png", "Not drawn", "")]
        return Page(report.write_report(results, released, budget, figures).read_text())

    return write


# --- tables ---


def test_table_1_has_the_rows_of_the_paper_in_its_order(local):
    table = report.table1(local)
    assert list(table["name"]) == ROWS
    printed = load_published("linn").query("place == 'Table I' and metric == 'psnr'")
    assert list(table["method"].unique()) == list(printed["method"].unique())
    for sigma, numbers in printed.groupby("sigma"):
        own = table.drop_duplicates("method").set_index("method")[f"published_{sigma:g}"]
        assert own.to_dict() == dict(zip(numbers["method"], numbers["value"], strict=True))


def test_a_method_run_at_some_noise_levels_keeps_one_row(local):
    table = report.table1(local).set_index("name")
    assert table.filter(like="published_").notna().all(axis=None)
    for name, verdicts in {
        "DnINN-ST": ("close", "reproduced", "exceeded"),
        "DnINN-LISTA": ("not run", "smaller budget", "not run"),
        "DnCNN": ("not run", "close", "not run"),
        "DnCNN (authors' weights)": ("reproduced",) * 3,
        "WNNM": ("not run",) * 3,
    }.items():
        assert tuple(table.loc[name, [f"verdict_{sigma}" for sigma in (15, 25, 50)]]) == verdicts
    assert table.loc["DnINN-LISTA", "ours_25"] == pytest.approx(29.09 - 0.5, abs=1e-4)
    assert table.loc["DnINN-LISTA", "difference_25"] == pytest.approx(-0.5, abs=1e-4)
    assert table.loc["DnINN-LISTA", ["ours_15", "difference_15"]].isna().all()


def test_verdicts_are_counted(local):
    assert report.verdict_counts(local) == COUNTS


def test_coverage_counts_a_printed_number_once_however_many_results_stand_beside(local, stand_in):
    def done(results):
        table = report.done_and_left(results).set_index(["paper", "place"])
        return table.loc[("linn", "Table I"), "done"]

    # PSNR: 3 of BM3D, 3 of DnCNN, 3 of DnINN-ST, 1 of DnINN-LISTA; sizes of the last three.
    assert done(local) == 13
    assert done(stand_in) == 0


def test_the_blind_table_has_the_rows_and_levels_of_the_slide(with_blind, local):
    table = report.blind_table(with_blind)
    assert list(zip(table["dataset"], table["name"], strict=True)) == [
        (dataset, name) for dataset in ("BSD68", "Set12") for name in BLIND_ROWS
    ]
    printed = load_published("winnet")
    for row in table.to_dict("records"):
        numbers = printed[(printed["method"] == row["method"]) & (printed["dataset"] == row["dataset"].lower())]
        assert [row[f"published_{sigma:g}"] for sigma in numbers["sigma"]] == numbers["value"].tolist()
    assert report.verdict_counts(with_blind, "winnet", report.BLIND_PLACE) == BLIND_COUNTS
    unrun = report.blind_table(local)
    assert set(unrun.filter(like="verdict_").stack()) == {"not run"} and len(unrun) == 8


def test_blind_cells_take_the_results_that_were_not_told(with_blind):
    table = report.blind_table(with_blind)
    for dataset, distances in BLIND_DISTANCES.items():
        here = (table["dataset"] == report.BLIND_DATASETS[dataset]) & (table["method"] == "winnet-blind")
        (row,) = table[here].to_dict("records")
        assert {sigma: round(row[f"difference_{sigma}"], 3) for sigma in distances} == distances


def test_a_part_of_the_pictures_is_not_judged_in_the_blind_table(tmp_path):
    results = report.read_results(write_blind(tmp_path, complete=False))
    assert set(report.blind_table(results).filter(like="verdict_").stack()) == {"not run"}


def test_winnet_changes_nothing_about_linn(local, with_blind, page):
    pd.testing.assert_frame_equal(report.table1(with_blind), report.table1(local))
    assert report.markdown_table(with_blind) == report.markdown_table(local)
    beyond = {entry["method"] for entry in report._beyond(with_blind.summary)}
    assert beyond == set(local.summary["method"]) and "bm3d" in beyond
    assert page(with_blind).tables[0] == page(local).tables[0]


def test_coverage_counts_blind_numbers_by_what_was_not_told(with_blind, local):
    def done(results):
        return report.done_and_left(results).set_index("place").loc[report.BLIND_PLACE, "done"]

    assert (done(local), done(with_blind)) == (0, 4)


def test_a_folder_without_scores_names_the_command(tmp_path):
    with pytest.raises(FileNotFoundError, match="make paper"):
        report.read_results(tmp_path)


# --- training curves ---


@pytest.fixture
def released(tmp_path, monkeypatch) -> Path:
    """A release with two ablations."""
    for name in ("ablation-none", "ablation-adam"):
        write_curve(tmp_path / "released" / "ablations" / f"{name}.csv", name)
    monkeypatch.setattr(paths, "RELEASED", tmp_path / "released")
    return tmp_path / "released"


def test_ablations_count_once_they_are_finished(tmp_path):
    runs = {name: tmp_path / "runs" / name / "laptop" / "curve.csv" for name in ablations()}
    write_curve(runs["ablation-small-batches"], "ablation-small-batches")  # other steps than most
    write_curve(runs["ablation-none"], "ablation-none", part=0.9)
    write_curve(runs["ablation-seed"], "ablation-seed", part=0.0)  # not yet validated
    write_curve(tmp_path / "runs" / "ablation-adam" / "smoke" / "curve.csv", "ablation-adam")
    assert report.finished_ablations(tmp_path) == {"ablation-small-batches": runs["ablation-small-batches"]}


def test_own_ablations_are_shown_once_there_are_all_of_them(tmp_path, released):
    *names, last = ablations()
    own = {name: write_curve(tmp_path / "runs" / name / "laptop" / "curve.csv", name) for name in names}
    shown = report.ablation_curves(tmp_path)
    assert shown == {name: released / "ablations" / f"{name}.csv" for name in ("ablation-none", "ablation-adam")}
    own[last] = write_curve(tmp_path / "runs" / last / "laptop" / "curve.csv", last)
    assert report.ablation_curves(tmp_path) == own
    assert list(report.ablation_curves(tmp_path)) == list(ablations())
    assert report.ablation_curves(released) == shown  # asked for by name


def test_some_of_the_ablations_are_shown_where_none_were_released(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "RELEASED", tmp_path / "released")
    assert report.ablation_curves(tmp_path) == {}
    own = write_curve(tmp_path / "runs" / "ablation-none" / "laptop" / "curve.csv", "ablation-none")
    assert report.ablation_curves(tmp_path) == {"ablation-none": own}


def test_own_measurements_go_before_released_ones(tmp_path, released):
    assert report.bench_file(tmp_path) is None
    (released / "bench.csv").touch()
    assert report.bench_file(tmp_path) == released / "bench.csv"
    (tmp_path / "bench.csv").touch()
    assert report.bench_file(tmp_path) == tmp_path / "bench.csv"


# --- page ---


def test_page_shows_published_ours_difference_and_verdict(local, page):
    shown = page(local)
    low, middle, high = ["31.58", "31.48", "-0.10", "close"], ["29.08", "29.04", "-0.04"], ["26.14", "26.20", "+0.06"]
    assert shown.row("DnINN-ST") == [*low, *middle, "reproduced", *high, "exceeded"]
    assert shown.row("WNNM") == ["31.37", "–", "", "not run", "28.83", "–", "", "not run", "25.87", "–", "", "not run"]
    assert [cells[0] for cells in shown.tables[0][2:]] == ROWS
    text = " ".join(shown.text.split())
    for verdict, number in COUNTS.items():
        assert f'<span class="verdict {verdict.replace(" ", "-")}">{verdict}</span> {number}' in text
    assert "notice" not in shown.values("class")


def test_page_needs_no_network_and_no_other_picture(local, page):
    shown = page(local)
    assert "http" not in shown.text.replace("http://www.w3.org", "")
    assert "@import" not in shown.text and "url(" not in shown.text
    (source,) = shown.values("src")
    assert source.startswith("data:image/png;base64,")
    assert base64.b64decode(source.partition(",")[2]) == PICTURE
    links = shown.values("href")
    assert links == ["notebooks/linn/one.html"] * 2  # from the figure, and from the list
    assert all((local.folder / link).exists() for link in links)


def test_the_report_shows_every_figure_that_is_drawn():
    cells = nbformat.read(paths.NOTEBOOKS / "report.ipynb", as_version=4).cells
    (given,) = [cell.source for cell in cells if "write_report" in cell.source]
    drawn = {name for paper in plan.PAPERS for name in plan.FIGURES[paper]}
    assert {name for name in drawn if f"notebooks/{name}.html" in given} == drawn


def test_page_reads_on_a_phone(local, page):
    shown = page(local)
    assert ("meta", "content", "width=device-width, initial-scale=1") in shown.attributes
    assert set(shown.parents) == {("div", "wide")}  # tables scroll, the page does not
    assert ".wide { overflow-x: auto; }" in shown.text and "img { max-width: 100%" in shown.text
    assert ".wide td:first-child { position: sticky; left: 0; background: #fff; }" in shown.text  # names stay in sight
    assert "border-collapse: collapse" not in shown.text  # whose lines would not move with what is sticky


def test_page_escapes_what_it_is_given(local, page):
    shown = page(local)
    assert shown.values("alt") == ["The <first> figure"]


def test_page_tells_speed_training_and_what_is_left(local, page):
    shown = page(local)
    (bench,) = [table for table in shown.tables if table[0][0] == "quantity"]
    assert bench[1] == ["training step", "DnINN", "eager", "81.2 patches/s", "1.70 × DnCNN", "at least 1.8: missed"]
    assert bench[2][3:] == ["81.2 patches/s", "", ""]
    (cards,) = [table for table in shown.tables if table[0][0] == "experiment"]
    assert cards[1] == ["dninn-st-s25", "laptop", "134,659", "7,500", "240,000", "90", "muon", "–", "–"]
    left = report.done_and_left(local)
    assert f"<p>{left['done'].sum()} of {left['published'].sum()} published numbers" in shown.text


def test_stand_ins_are_announced_above_all_numbers_with_the_released_ones_beside(local, stand_in, page):
    shown = page(stand_in, local)
    banner = shown.text.index("These are not the papers' pictures")
    assert shown.values("class").count("notice") == 1
    assert banner < shown.text.index("<table") and banner < shown.text.index("<h2")
    assert shown.row("DnINN-ST", table=0) == page(local).row("DnINN-ST")
    assert shown.row("DnINN-ST", table=1)[:4] == ["31.58", "31.48", "", "data not available"]
    assert shown.text.index("The released run:") < shown.text.index("This run, where no verdict is possible")


def test_stand_ins_before_any_release_stand_alone(stand_in, page):
    shown = page(stand_in)
    assert "These are not the papers' pictures" in shown.text and "The released run:" not in shown.text
    assert "data not available" in shown.row("DnINN-ST", table=0)


def test_winnet_has_its_part_of_the_page_once_it_was_run(local, with_blind, page, monkeypatch):
    assert "WINNet, blind" not in page(local).text
    (with_blind.folder / "figures" / "winnet-one.png").write_bytes(PICTURE)
    monkeypatch.setenv("INVDENOISE_RESULTS", str(with_blind.folder))
    figures = [("winnet-one.png", "WINNet's figure", ""), ("one.png", "LINN's figure", "notebooks/linn/one.html")]
    shown = Page(report.write_report(with_blind, None, "released", figures).read_text())
    first, second = (table for table in shown.tables if table[0][0] in ("BSD68", "Set12"))
    assert [cells[0] for cells in first[1:]] == [cells[0] for cells in second[1:]] == BLIND_ROWS
    assert first[0][1:] == [f"σ = {sigma}" for sigma in range(5, 146, 20)]
    assert first[4][1:4] == ["37.82 / 37.88 +0.06exceeded", "29.13 / 29.14 +0.01reproduced", "26.66 / – not run"]
    assert second[4][8] == "22.24 / 21.94 -0.30not reproduced"
    assert shown.values("alt") == ["LINN's figure", "WINNet's figure"]
    text = " ".join(shown.text.split())
    for verdict, number in BLIND_COUNTS.items():
        assert f'<span class="verdict {verdict.replace(" ", "-")}">{verdict}</span> {number}' in text
    assert set(shown.parents) == {("div", "wide")}


def test_the_released_blind_table_stands_beside_stand_ins(tmp_path, with_blind, page):
    own = write_blind(tmp_path)
    for file in (own / "scores").rglob("*.csv"):
        pd.read_csv(file).assign(dataset="embedded").to_csv(file, index=False)
    shown = page(report.read_results(own), with_blind)
    released, _, here, _ = (table for table in shown.tables if table[0][0] in ("BSD68", "Set12"))
    assert released[4][1].endswith("exceeded") and here[4][1].endswith("data not available")


def test_a_smoke_run_says_that_no_number_is_a_result(local, page):
    assert "No number here is a result" in page(local, budget="smoke").text
    assert "No number here is a result" not in page(local, budget="laptop").text


# --- README ---


def test_markdown_table_holds_the_computed_numbers(local):
    head, rule, *lines = report.markdown_table(local).splitlines()
    assert head.count("|") == rule.count("|") == 5
    cells = {line.split(" | ")[0].removeprefix("| "): line.removesuffix(" |").split(" | ")[1:] for line in lines}
    assert list(cells) == ROWS
    for row in report.table1(local).to_dict("records"):
        for cell, sigma in zip(cells[row["name"]], (15, 25, 50), strict=True):
            ours = "" if pd.isna(row[f"ours_{sigma}"]) else f" / **{row[f'ours_{sigma}']:.2f}**"
            assert cell == f"{row[f'published_{sigma}']:.2f}{ours} {row[f'verdict_{sigma}']}"
    assert cells["DnINN-ST"] == [
        "31.58 / **31.48** close",
        "29.08 / **29.04** reproduced",
        "26.14 / **26.20** exceeded",
    ]


def variants(folder: Path, distances: dict[str, float], dataset: str = "bsd68", num_images: int = 68) -> report.Results:
    """Results in which each of DnINN's networks has its distance from the printed numbers, at all noise levels."""
    usual = dict.fromkeys(COLUMNS, "") | {"dataset": dataset, "requested": "bsd68", "budget": "laptop", "seed": 0}
    for family, distance in distances.items():
        for sigma in (15, 25, 50):
            own = {"method": f"{family}-s{sigma}", "sigma_test": sigma}
            own["psnr"] = published_value("linn", "Table I", family, sigma=sigma) + distance
            rows = [usual | own | {"image": f"{index:03d}"} for index in range(num_images)]
            write_scores(pd.DataFrame(rows, columns=COLUMNS), folder / "scores" / f"{family}-s{sigma}" / "bsd68.csv")
    return report.read_results(folder)


VARIANTS = {"dninn-st": 0.0, "dninn-lista": 0.02, "dninn-st-2scale": -0.04, "dninn-lista-2scale": -0.05}


def test_variant_gains_are_means_of_differences(tmp_path):
    gains = report.variant_gains(results := variants(tmp_path, VARIANTS))
    printed = {
        family: statistics.fmean(published_value("linn", "Table I", family, sigma=sigma) for sigma in (15, 25, 50))
        for family in VARIANTS
    }
    lista = (
        printed["dninn-lista"] - printed["dninn-st"] + printed["dninn-lista-2scale"] - printed["dninn-st-2scale"]
    ) / 2
    assert gains.loc["LISTA", "published"] == pytest.approx(lista) == pytest.approx(0.02 / 6 + 0.02 / 6)
    assert gains.loc["LISTA", "ours"] == pytest.approx(lista + (0.02 - 0.01) / 2)
    assert gains.loc["a second scale", "ours"] - gains.loc["a second scale", "published"] == pytest.approx(
        (-0.04 - 0.07) / 2
    )
    assert report.variants_markdown(results).endswith(
        "LISTA +0.007 / **+0.012**, a second scale +0.050 / **−0.005**.\n"
    )


def test_variant_gains_need_every_network_on_the_papers_pictures(tmp_path):
    some = {family: VARIANTS[family] for family in ("dninn-st", "dninn-lista", "dninn-st-2scale")}
    for results in (variants(tmp_path / "some", some), variants(tmp_path / "other", VARIANTS, "embedded", 6)):
        gains = report.variant_gains(results)
        assert gains["ours"].isna().all() and (gains["published"] > 0).all()
        assert report.variants_markdown(results).count("not run") == 2


def test_measured_numbers_have_three_digits_and_no_exponent():
    assert [report.in_digits(value) for value in (0.00584, 7.871, 526.4, 1038.6, 2083)] == [
        "0.00584", "7.87", "526", "1,039", "2,083"
    ]  # fmt: skip


def test_blind_markdown_names_dataset_and_method(with_blind):
    head, rule, *lines = report.blind_markdown(with_blind).splitlines()
    assert head.count("|") == rule.count("|") == 10 and len(lines) == 8
    cells = {line.split(" | ")[0].removeprefix("| "): line.removesuffix(" |").split(" | ")[1:] for line in lines}
    assert list(cells) == [f"{dataset}, {name}" for dataset in ("BSD68", "Set12") for name in BLIND_ROWS]
    assert cells["BSD68, WINNet (authors' weights)"][:3] == [
        "37.82 / **37.88** exceeded", "29.13 / **29.14** reproduced", "26.66 not run"
    ]  # fmt: skip
    assert cells["Set12, WINNet (authors' weights)"][-1] == "22.24 / **21.94** not reproduced"
