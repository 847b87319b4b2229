"""The site on made-up scores: claims, tables, figures, means, notebooks, links, and what a reader without data or network sees."""

from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from links import follow
from made_up import PRINTED, SECTION, TABLE, rows_of, run, toy, write_published, write_rows, write_run

from invdenoise import paths
from invdenoise.papers import Conventions, Row
from invdenoise.plan import bench_file
from invdenoise.report import page, site
from invdenoise.report.claims import decide_all
from invdenoise.report.compare import Results, all_numbers, coverage

__all__ = ["run", "toy"]

PICTURE = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
)
YAML_ROWS = {
    "alpha": {"label": "Alpha", "ours": {"alpha": "", "alpha-authors": "authors' weights"}},
    "gamma": {"label": "Gamma"},
}
CARD = {
    "experiment": "alpha-s25", "budget": "laptop", "num_parameters": 134659, "steps": 7500, "patches": 240000, "seconds": 5400.0,
    "recipe": {"optimizer": "muon"}, "started_from": None, "validation_psnr": None, "sigma": 25,
}  # fmt: skip
BENCH = {
    "quantity": "training step", "subject": "Alpha", "setting": "eager", "value": 81.234, "unit": "patches/s", "reference": "Beta",
    "ratio": 1.7, "target": "at least 1.8", "met": False, "hardware": "2 CPU threads, box",
}  # fmt: skip


class Page(HTMLParser):
    """A page taken apart; AssertionError when a tag is not closed in its turn."""

    VOID = {"meta", "img", "br", "hr", "link", "input"}

    def __init__(self, text: str):
        super().__init__()
        self.text, self.open, self.parents, self.attributes, self.tables, self.words = text, [], [], [], [], ""
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
        self.words += data
        if any(tag in ("td", "th") for tag, _ in self.open):
            self.tables[-1][-1][-1] += data

    def values(self, key: str) -> list[str]:
        """Of an attribute, wherever it stands."""
        return [value for _, name, value in self.attributes if name == key]

    def all_with(self, *header: str) -> list[list[list[str]]]:
        """Tables one of whose header rows begins with these cells."""
        return [table for table in self.tables if any(row[: len(header)] == list(header) for row in table[:2])]

    def row(self, name: str, *header: str) -> list[str]:
        """Cells after the name, in the one table with this header."""
        (table,) = self.all_with(*header)
        (found,) = [cells[1:] for cells in table if cells[:1] == [name]]
        return found


@pytest.fixture(autouse=True)
def weights(tmp_path, monkeypatch) -> Path:
    """One released card, and nothing else released."""
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "alpha-s25.json").write_text(json.dumps(CARD))
    monkeypatch.setattr(paths, "RELEASED_WEIGHTS", folder)
    monkeypatch.setattr(paths, "RELEASED", tmp_path / "released")
    monkeypatch.setattr(paths, "NOTEBOOKS", tmp_path / "notebooks")  # where the made-up paper is
    return folder


@pytest.fixture
def local(run) -> Results:
    """A run with a figure, its executed notebook, and measurements."""
    pd.DataFrame(
        [BENCH, BENCH | {"subject": "Beta", "reference": None, "ratio": None, "target": None, "met": None}]
    ).to_csv(run.folder / "bench.csv", index=False)
    (run.folder / "figures").mkdir()
    (run.folder / "figures" / "drawn.png").write_bytes(PICTURE)
    (run.folder / "notebooks" / "figures" / "toy").mkdir(parents=True)
    (run.folder / "notebooks" / "figures" / "toy" / "drawn.html").write_text(
        '<a href="../../../report.html">Report</a>'
    )
    return run


@pytest.fixture
def stand_in(toy, tmp_path) -> Results:
    return Results(write_run(tmp_path / "stand-in", dataset="embedded"), {"toy": toy})


@pytest.fixture
def shown(monkeypatch):
    """A function that writes the site of a run into its folder and takes it apart: the page of the paper, with `front` and `weights`."""

    def write(results: Results, released: Results | None = None, budget: str = "released") -> Page:
        monkeypatch.setenv("INVDENOISE_RESULTS", str(results.folder))
        front = page.write_report(results, released, budget)
        follow(front)
        found = Page((front.parent / "site" / "toy.html").read_text())
        found.front, found.weights = Page(front.read_text()), Page((front.parent / "site" / "weights.html").read_text())
        return found

    return write


# --- Summary ---


def test_the_summary_keeps_our_networks_apart(toy, local, shown):
    found = page.paper_counts(toy, all_numbers(local), decide_all(toy, local))
    assert found == {
        "claims": {"holds": 2, "undecided": 1, "not run": 1},
        "ours": {"close": 1, "not reproduced": 1},  # PSNR of Alpha at two levels
        "authors": {"reproduced": 1},
        "classical": {"exceeded": 1, "reproduced": 1, "not reproduced": 1},
        "sizes": {"reproduced": 1},
        "others": {"exceeded": 1, "reproduced": 2, "not reproduced": 1},
        "alone": {"data not available": 1, "not run": 4},
    }
    front = shown(local).front
    (summary,) = front.all_with("paper", "claims")
    assert [" ".join(cell.split()) for cell in summary[1]] == [
        "Toy", "holds 2 undecided 1 not run 1", "close 1 not reproduced 1", "reproduced 1",
        "exceeded 1 reproduced 1 not reproduced 1", "reproduced 1", "data not available 1 not run 4",
    ]  # fmt: skip
    words = " ".join(front.words.split())
    assert "4 claims about results: holds 2 undecided 1 not run 1" in words
    assert (
        "11 printed numbers, of which 6 have one of ours beside them: networks trained here: close 1 not reproduced 1"
        in words
    )
    assert "classical methods: exceeded 1 reproduced 1 not reproduced 1" in words
    assert "Not there: data not available 1 not run 4" in words
    assert words.index("claims about results") < words.index("Contents") < words.index("All verdicts")


def test_a_paper_says_what_is_not_reproduced_and_why(toy, local, shown):
    lines = page.not_reproduced(toy, all_numbers(local))
    assert [(line["part"], line["place"], line["verdict"], line["numbers"], line["methods"]) for line in lines] == [
        ("networks trained here", TABLE, "not reproduced", 1, "Alpha"),
        ("classical methods", TABLE, "not reproduced", 1, "Beta"),
        ("nothing of ours", TABLE, "not run", 3, "Beta, Gamma"),
        ("nothing of ours", "Table 2", "data not available", 1, "Alpha"),
        ("nothing of ours", SECTION, "not run", 1, "Gamma"),
    ]
    (table,) = shown(local).all_with("place", "verdict")
    assert [row[1] for row in table[1:]] == [line["verdict"] for line in lines]
    assert table[4][-1] == "our pictures are not the paper's"


# --- A paper ---


def test_claims_stand_before_numbers(local, shown):
    written = shown(local)
    assert written.text.index("One is better than two.") < written.text.index("PSNR on Set12 (dB)")
    claims = written.all_with("the paper says")[0]
    assert [row[0].split(".")[0] for row in claims[1:]] == [
        "One is better than two", "One is better than two at every noise level", "One has a quarter of the parameters of two",
        "One is better than Gamma",
    ]  # fmt: skip
    assert [row[3] for row in claims[1:]] == ["holds", "undecided", "holds", "not run"]
    assert (
        claims[1][2].startswith("+2.000 dB (+0.701 to +3.299; 4 pictures)")
        and "Training: laptop budget: one, two" in claims[1][2]
    )
    assert "one − two, Set12, sigma 25, +0.000 dB" in claims[2][2] and "cell by cell" not in claims[1][2]
    assert claims[3][2].startswith("0.250") and "one / two, between 0.225 and 0.275" in claims[3][2]
    assert claims[4][2].startswith("not run: no scores of gamma")


def test_a_table_shows_published_ours_difference_and_verdict(local, shown):
    written = shown(local)
    header = ("method", "published", "ours", "diff.", "verdict")
    assert written.row("Alpha (laptop budget)", *header) == [
        "30.00",
        "29.90",
        "−0.10",
        "close",
        "28.00",
        "27.00",
        "−1.00",
        "not reproduced",
    ]
    assert written.row("Gamma", *header) == ["29.50", "–", "", "not run", "27.50", "–", "", "not run"]
    assert [cells[0] for cells in written.all_with(*header)[0][2:]] == [
        "Alpha (laptop budget)",
        "Alpha (authors' weights)",
        "Beta",
        "Gamma",
    ]
    assert "Beta is not trained." in written.words
    assert (
        "exceeded, more than 0.05 dB above the printed value, which is a departure too; reproduced, within 0.05 dB; close, up to 0.2 dB"
        in written.words
    )
    assert len(written.all_with(*header)) == 1  # the talk repeats the table, and is not shown


def test_a_wide_table_has_one_column_a_level(local, shown, tmp_path, monkeypatch):
    more = tuple((TABLE, "Beta [2]", "set12", sigma, "psnr", "dB", 26.0, "beta") for sigma in (35, 50, 75))
    monkeypatch.setattr(paths, "PUBLISHED", write_published(tmp_path / "more", (*PRINTED, *more)))
    cells = shown(local).row("Beta", "method", "σ = 15", "σ = 25", "σ = 35", "σ = 50", "σ = 75")
    assert cells == ["31.00 / 31.06 +0.06exceeded", "29.00 / 28.50 −0.50not reproduced"] + ["26.00 / – not run"] * 3
    assert shown(local).row("Gamma", "method", "σ = 15", "σ = 25")[2:] == ["", "", ""]  # not printed there


def test_verdicts_have_colours_of_their_own(local, shown):
    written = shown(local)
    style = written.text[: written.text.index("</style>")]
    colours = {}
    for line in style.splitlines():
        for rule in line.split("}"):
            names, _, body = rule.partition("{")
            for name in names.split(","):
                colours[name.strip()] = body.strip()
    verdicts = [".exceeded", ".reproduced", ".close", ".smaller-budget", ".not-reproduced"]
    assert len({colours[name] for name in verdicts}) == len(verdicts)
    assert len({colours[name] for name in (".holds", ".undecided", ".does-not-hold")}) == 3
    assert {"verdict exceeded", "verdict not-reproduced", "verdict holds"} <= set(written.values("class"))


def test_figures_come_with_their_captions_and_notebooks_and_open_in_full_size(local, shown):
    written = shown(local)
    assert written.values("alt") == ["The <first> figure"]  # escaped, and the other one was not drawn
    (source,) = written.values("src")
    assert (local.folder / "site" / source).read_bytes() == PICTURE
    links = [link for link in written.values("href") if not link.startswith("#")]
    assert links == ["../report.html", source, "../notebooks/figures/toy/drawn.html"]


def test_all_means_are_there_set_by_set(toy, local, shown, tmp_path):
    write_rows(rows_of("beta", 25, 27.0, requested="bsd68", dataset="bsd68").iloc[:2], local.folder, "more")
    plain, few = page.all_means(toy, Results(local.folder, {"toy": toy}))
    assert (plain["score"], few["score"]) == ("toy/plain", "toy/few")
    assert plain["keys"] == ("sigma",) and plain["columns"] == ["PSNR (dB)", "SSIM", "s / picture"]
    assert plain["rows"]["beta", "25"] == {"set12": ["28.50", "0.9000", "0.50"], "bsd68": ["27.00", "0.9000", "0.50"]}
    assert plain["sets"] == {"set12": "Set12, 12 pictures", "bsd68": "BSD68, 2 pictures"}
    tables = shown(Results(local.folder, {"toy": toy})).all_with("method", "σ")
    assert len(tables) == 2 and ["epsilon", "25", "20.00", "0.9000", "0.50", "", "", ""] in tables[0]


def test_what_exceeds_the_print_is_listed_with_its_reason(local, shown, toy, monkeypatch):
    header = ("method", "at", "published")
    assert shown(local).row("Beta", *header) == ["Set12, σ = 15", "31.00", "31.06", "+0.06", "–", "unexplained"]
    assert "1 of our results, a departure too; 1 of them unexplained" in shown(local).words
    explained = {
        **YAML_ROWS,
        "beta": {"label": "Beta", "ours": {"beta": ""}, "explain": [{"of": "beta", "says": "A reason."}]},
    }
    rows = {name: Row.model_validate(row) for name, row in explained.items()}
    monkeypatch.setitem(toy.declared.compare, TABLE, toy.compare[TABLE].model_copy(update={"rows": rows}))
    assert shown(local).row("Beta", *header)[-1] == "A reason."
    assert "1 of our results, a departure too; 0 of them unexplained" in shown(local).words


def test_both_conventions_are_shown_and_what_is_known_of_them(local, shown, toy, monkeypatch):
    conventions = Conventions(judged="clamped", others={"raw": "not clamped"}, known="The paper does not say.")
    monkeypatch.setitem(toy.declared.compare, TABLE, toy.compare[TABLE].model_copy(update={"conventions": conventions}))
    runs = toy.scores["plain"].runs
    more = toy.scores["plain"].model_copy(update={"runs": (*runs, runs[0].model_copy(update={"variant": "raw"}))})
    monkeypatch.setitem(toy.declared.scores, "plain", more)
    assert "The paper does not say. Judged here: clamped. Not clamped:\nnot run." in shown(local).words
    write_rows(rows_of("beta", 15, 31.0, variant="raw", budget="none"), local.folder, "raw")
    written = shown(Results(local.folder, {"toy": toy}))
    assert "measured for 1 of the numbers, which change by up to 0.06; 1 would have another verdict" in written.words
    header = ("method", "published", "ours", "diff.", "verdict")
    assert written.row("Beta (not clamped)", *header)[:4] == ["31.00", "31.00", "+0.00", "(reproduced)"]
    assert written.row("Beta (clamped)", *header)[3] == "exceeded"
    assert written.row("Beta", "method", "at", "published")[4] == "not clamped: 31.00 (+0.00)"
    assert "verdict aside" in written.values("class")


# --- The rest ---


def test_the_page_tells_speed_training_and_what_is_left(local, shown):
    written = shown(local).front
    (bench,) = written.all_with("quantity")
    assert bench[1] == ["training step", "Alpha", "eager", "81.2 patches/s", "1.70 × Beta", "at least 1.8: missed"]
    assert bench[2][3:] == ["81.2 patches/s", "", ""]
    (cards,) = shown(local).weights.all_with("network")
    assert cards[1] == ["alpha-s25", "laptop", "134,659", "7,500", "240,000", "90", "muon", "–", "–"]
    left = coverage(all_numbers(local))
    assert (left["done"].sum(), left["published"].sum()) == (6, 11)
    assert "6 of 11 distinct printed numbers" in written.words
    assert ["toy", SECTION, "1", "0"] in written.all_with("paper", "place")[0]


def test_own_measurements_go_before_released_ones(tmp_path):
    own, released = tmp_path / "own", tmp_path / "released"
    assert bench_file(own) is None
    for folder in (released, own):
        folder.mkdir()
        (folder / "bench.csv").touch()
        assert bench_file(own) == folder / "bench.csv"


def test_a_card_tells_its_last_validation(weights, local, shown):
    (weights / "alpha-s25.json").write_text(json.dumps(CARD | {"validation_psnr": 28.125}))
    (weights / "other.json").write_text(json.dumps(CARD | {"experiment": "other", "validation_fid": 3.0}))
    (cards,) = shown(local).weights.all_with("network")
    assert [row[-1] for row in cards[1:]] == ["PSNR 28.12", "FID 3.00"]


def test_each_card_is_shown_whole_with_its_curve(weights, local, shown):
    (weights / "alpha-s25.curve.csv").write_text("patches,val_psnr,val_ssim\n1000,28.0,\n2000,28.5,\n")
    assert {name: curve["val_psnr"].tolist() for name, curve in page.curves().items()} == {"alpha-s25": [28.0, 28.5]}
    written = shown(local).weights
    assert written.values("alt") == ["alpha-s25: validation PSNR from 28.00 to 28.50 after 2,000 patches."]
    assert (local.folder / "site" / "curves" / "alpha-s25.svg").read_text().count("<use") >= 2
    assert "seconds5400.0" in written.words and "optimizer muon" in written.words
    assert "alpha-s25" in written.values("id")


def test_a_curve_without_validation_is_not_drawn(weights, local, shown):
    (weights / "alpha-s25.curve.csv").write_text("patches,val_psnr\n1000,\n")
    assert shown(local).weights.values("src") == []


def test_the_first_screen_has_a_picture_before_and_after(local, shown):
    assert shown(local).front.values("src") == []
    (local.folder / "figures" / page.BEFORE_AFTER).write_bytes(PICTURE)
    front = shown(local).front
    assert front.values("src") == [f"figures/{page.BEFORE_AFTER}"]
    assert front.text.index(page.BEFORE_AFTER) < front.text.index("<h2")


def test_the_pages_need_no_network(local, shown):
    written = shown(local)
    for one in (written, written.front, written.weights):
        assert "http" not in one.text
        assert "@import" not in one.text and "url(" not in one.text and "<script" not in one.text
        assert "notice" not in one.values("class")


def test_the_pages_read_on_a_phone_and_in_the_dark(local, shown):
    written = shown(local)
    for one in (written, written.front, written.weights):
        assert ("meta", "content", "width=device-width, initial-scale=1") in one.attributes
        assert set(one.parents) == {("div", "wide")}  # tables scroll, the page does not
        assert "overflow-x: auto;" in one.text and "figure img { max-width: 100%" in one.text
        # Names stay in sight, and a shade says that a table goes on.
        assert ".wide td:first-child { position: sticky; left: 0; background: var(--paper); }" in one.text
        assert "linear-gradient(270deg, var(--shade), transparent) right" in one.text
        assert "border-collapse: collapse" not in one.text  # whose lines would not move with what is sticky
        light, dark = one.text.split("@media (prefers-color-scheme: dark)")[:2]
        colours = set(re.findall(r"--[a-z-]+(?=:)", light))
        assert colours == set(re.findall(r"--[a-z-]+(?=:)", dark.split("* {")[0])) and "--paper" in colours


# --- Notebooks as pages ---


LINKS = (
    "# On *Alpha*\n\n[next](../shared.ipynb), [paper](README.md), [`code`](../../lib/code.py), [gone](gone.ipynb), "
    "[out](https://example.org/a), [here](#On-Alpha) and `[no](link)`."
)


@pytest.fixture
def stored(local) -> Results:
    """The run in a checkout with three stored notebooks."""
    for place, text in (
        ("toy/drawn", LINKS),
        ("toy/other", "no heading"),
        ("shared", "# Shared\n\n[back](toy/drawn.ipynb)"),
    ):
        picture = nbformat.v4.new_output("display_data", {"image/png": base64.b64encode(PICTURE).decode()})
        cells = [nbformat.v4.new_markdown_cell(text), nbformat.v4.new_code_cell("x < 1", outputs=[picture])]
        nbformat.write(nbformat.v4.new_notebook(cells=cells), paths.NOTEBOOKS / f"{place}.ipynb")
    (paths.NOTEBOOKS / "toy" / "README.md").touch()
    return local


def test_links_of_notebooks_lead_to_pages_or_become_text(stored, shown):
    shown(stored)
    text = (stored.folder / "notebooks" / "figures" / "toy" / "drawn.html").read_text()
    for link in (
        '<a href="../../../site/notebooks/shared.html">next</a>', '<a href="../../../site/toy.html">paper</a>',
        " <code>code</code>,", " gone,", '<a href="https://example.org/a">out</a>', '<a href="#On-Alpha">here</a>',
        "<code>[no](link)</code>", '<a href="../../../report.html">Report</a>', "As stored with the notebook",
    ):  # fmt: skip
        assert link in text, link
    assert (
        '<a href="../../notebooks/figures/toy/drawn.html">back</a>'
        in (stored.folder / "site" / "notebooks" / "shared.html").read_text()
    )


def test_every_notebook_has_a_page_and_every_link_works(stored, shown):
    written = shown(stored)
    reached = follow(stored.folder / "report.html")
    pages = [site.notebook_page(place) for place in site.notebooks()]
    assert pages == ["site/notebooks/shared.html", "notebooks/figures/toy/drawn.html", "site/notebooks/toy/other.html"]
    assert {stored.folder / one for one in pages} <= reached
    assert ">On Alpha</a>" in written.text and ">other</a>" in written.text and ">Shared</a>" in written.front.text
    text = (stored.folder / "notebooks" / "figures" / "toy" / "drawn.html").read_text()
    assert re.findall(r'alt="([^"]*)"', text)[0].startswith("Picture of: On Alpha next, paper, code, gone")


def test_an_executed_notebook_keeps_its_page(stored, shown):
    executed = stored.folder / "notebooks" / "figures" / "toy" / "drawn.html"
    before = executed.read_text()
    executed.with_suffix(".ipynb").touch()
    shown(stored)
    assert executed.read_text() == before


def test_a_site_in_another_folder_shows_the_figures_where_they_are(stored, tmp_path):
    front = page.write_report(stored, None, "released", tmp_path / "elsewhere")
    assert stored.folder / "figures" / "drawn.png" in follow(front)


# --- What is no result ---


def test_stand_ins_are_told_and_the_released_run_is_shown_beside(stand_in, local, shown):
    written = shown(stand_in, local)
    for one in (written, written.front):
        banner = one.text.index("These are not the papers' pictures")
        assert one.values("class").count("notice") == 1 and banner < one.text.index("<h2") < one.text.index("<table")
    header = ("method", "published", "ours", "diff.", "verdict")
    released, here = written.all_with(*header)
    assert [row for row in released if row[0] == "Alpha (laptop budget)"][0][1:5] == [
        "30.00",
        "29.90",
        "−0.10",
        "close",
    ]
    assert [row for row in here if row[0] == "Alpha (laptop budget)"][0][1:5] == [
        "30.00",
        "29.90",
        "",
        "data not available",
    ]
    first, second = written.all_with("the paper says")
    assert [row[3] for row in first[1:]] == ["holds", "undecided", "holds", "not run"]
    assert [row[3] for row in second[1:]] == ["not run", "not run", "holds", "not run"]  # a size needs no pictures
    assert "6 of 11 distinct printed numbers" in written.front.words


def test_stand_ins_without_a_released_run_are_told_too(stand_in, shown):
    written = shown(stand_in)
    assert "These are not the papers' pictures." in written.words and "The released run:" not in written.words
    assert "which stand in" in written.words


def test_a_released_run_is_not_shown_beside_the_papers_pictures(local, shown):
    assert "The released run:" not in shown(local, local).words


def test_a_smoke_run_says_that_no_number_is_a_result(local, shown):
    assert "No number here is a result" in shown(local, budget="smoke").words
    assert "No number here is a result" not in shown(local, budget="laptop").words
