"""Facts: what decides a result makes its job again, and nothing else does."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import toy
import yaml

from invdenoise import facts, methods, papers, paths
from invdenoise.plan import Plan, make_plan
from invdenoise.tasks.awgn import Denoise

SETS = {"first": 3, "second": 2}  # made-up sets, with their numbers of pictures
NETWORKS = {"lifted": {"model": "dninn.DnINN", "sigma": 25}, "plain": {"model": "dncnn.DnCNN", "sigma": 25}}
SCORES = {
    "table": {
        "task": "awgn.Denoise",
        "runs": [
            {"methods": ["lifted", "plain"], "sets": "first", "conditions": {"sigma": [25]}},
            {"methods": "nlm", "sets": ["first", "second"], "conditions": {"sigma": [25]}, "limit": 1},
        ],
    },
    "sharp": {"task": "deblur.Deblur", "runs": [{"methods": "wiener", "sets": "second", "conditions": {"kernel": [1]}}]},
    "theirs": {"task": "awgn.Denoise", "runs": [{"methods": "others", "sets": "embedded", "conditions": {"sigma": [25]}}]},
}  # fmt: skip
AUTHORS = {"others": {"file": "weights/others.mat", "read": "dncnn.read_authors_weights"}}
FIGURES = {"bars": {"reads": "table", "parameters": {"width": 3}}, "look": {"inside": "lifted"}}

LIFTED, PLAIN = "scores/toy/table/lifted.first", "scores/toy/table/plain.first"
CLASSICAL = {"scores/toy/table/nlm.first", "scores/toy/table/nlm.second"}
THEIRS, SHARP = "scores/toy/theirs/others.embedded", "scores/toy/sharp/wiener.second"
TABLE = {LIFTED, PLAIN, *CLASSICAL}
SCORED = {*TABLE, THEIRS, SHARP}
BARS, LOOK = "figures/toy/bars", "figures/toy/look"


# --- Notebooks


def cell(kind: str, source: str, *tags: str) -> dict:
    return {"cell_type": kind, "metadata": {"tags": list(tags)} if tags else {}, "source": source.splitlines(keepends=True)}  # fmt: skip


EVALUATE = [
    cell("markdown", "# Scores"),
    cell("code", 'task = "awgn.Denoise"\nseed = 0  # of the noise', "parameters"),
    cell("code", "rows = score(task, seed)  # one a picture\nprint(rows)"),
]
BARS_CELLS = [
    cell("code", "width = 2\nheight = 4", "parameters"),
    cell("code", "from invdenoise.report import tables\ntables.signed(width)"),
]
LOOK_CELLS = [cell("code", 'from invdenoise.data.pictures import load_pictures\nload_pictures("second")')]


def write(file: Path, cells: list[dict], **changes) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    notebook = {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5, **changes}
    file.write_text(json.dumps(notebook), encoding="utf-8")
    return file


def as_saved(cells: list[dict]) -> list[dict]:
    """What JupyterLab makes of a notebook that is opened, run and saved; running the last cell adds an empty one."""
    saved = copy.deepcopy(cells)
    for number, one in enumerate(saved):
        one["id"] = f"cell-{number}"
        one["metadata"] |= {"execution": {"iopub.execute_input": "2030-01-01"}, "trusted": True}
        one["source"] = "".join(one["source"]) + "\n"
        if one["cell_type"] == "code":
            one |= {"execution_count": number, "outputs": [{"output_type": "stream", "name": "stdout", "text": "7"}]}
    return [*saved, cell("code", "")]


def test_a_notebook_that_an_editor_saves_is_the_same(tmp_path):
    before = facts.read_notebook(write(tmp_path / "a.ipynb", EVALUATE))
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}, "language_info": {"version": "3.11.9"}}
    after = facts.read_notebook(write(tmp_path / "a.ipynb", as_saved(EVALUATE), metadata=kernel, nbformat_minor=4))
    assert after == before


@pytest.mark.parametrize(
    ("number", "changed", "code", "page", "parameters"),
    [
        (2, cell("code", "rows = score(task, seed + 1)  # one a picture\nprint(rows)"), True, True, False),
        (2, cell("code", "rows = score(task, seed)  # another comment\nprint(rows)"), False, True, False),
        (2, cell("code", "%time score(task, seed)"), True, True, False),
        (2, cell("code", "rows = score(task, seed)  # one a picture\nprint(rows)", "skip-execution"), True, True, False),
        (2, cell("code", "rows = score(task, seed)  # one a picture\nprint(rows)", "nbval-check-output"), False, False, False),
        (0, cell("markdown", "# Numbers"), False, True, False),
        (1, cell("code", 'task = "awgn.Denoise"\nseed = 7  # of the noise', "parameters"), False, False, True),
        (1, cell("code", 'task = "awgn.Denoise"\nseed = 0  # another comment', "parameters"), False, False, False),
    ],
)  # fmt: skip
def test_code_text_and_parameters_are_told_apart(number, changed, code, page, parameters, tmp_path):
    before = facts.read_notebook(write(tmp_path / "a.ipynb", EVALUATE))
    cells = [*EVALUATE[:number], changed, *EVALUATE[number + 1 :]]
    after = facts.read_notebook(write(tmp_path / "a.ipynb", cells))
    assert (after.code != before.code, after.page != before.page) == (code, page)
    assert (after.parameters != before.parameters) == parameters
    assert before.parameters == {"task": "awgn.Denoise", "seed": 0}


@pytest.mark.parametrize("content", [None, b"", b"<<<<<<< HEAD\n{}", b"[]", b'{"cells": 3}', b"\xff\xfe"])
def test_a_notebook_that_cannot_be_read_stops_nothing_and_changes_when_it_is_mended(content, tmp_path):
    file = tmp_path / "a.ipynb"
    if content is not None:
        file.write_bytes(content)
    broken = facts.read_notebook(file)
    assert facts.read_notebook(file) == broken
    mended = facts.read_notebook(write(file, EVALUATE))
    assert mended.code != broken.code and mended.page != broken.page


# --- Jobs of a made-up paper


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def house(monkeypatch, tmp_path) -> Path:
    """A checkout with one paper, two sets of pictures in a mirror, and a copy of the library's sources; its folder."""
    rows = {name: [f"{name}/{number}.png" for number in range(count)] for name, count in SETS.items()}
    rows |= {"weights": ["weights/others.mat"], "kernels": ["kernels/Levin09.mat"]}
    entries = {}
    for name, files in rows.items():
        holds = {"channels": 1} if name in SETS else {"channels": None, "holds": "files"}
        words = dict.fromkeys(("title", "about", "terms", "terms_short"), name)
        entries[name] = words | holds | {"files": f"registry/{name}.csv", "num_files": len(files), "addresses": {}, "upstream": [], "cite": []}  # fmt: skip
        lines = ["file,bytes,sha256,source_repo,source_path,conversion"]
        lines += [f"{file},{len(file)},{sha256(file.encode())},,,drawn" for file in files]
        registry = tmp_path / "data" / "registry" / f"{name}.csv"
        registry.parent.mkdir(parents=True, exist_ok=True)
        registry.write_text("\n".join(lines) + "\n")
        arrive(tmp_path, *files)
    (tmp_path / "data" / "sources.yaml").write_text(yaml.safe_dump(entries))
    (tmp_path / "data" / "published").mkdir()
    (tmp_path / "data" / "published" / "toy.csv").write_text("paper,value\ntoy,30\n")
    (tmp_path / "weights").mkdir()
    for name in NETWORKS:
        (tmp_path / "weights" / f"{name}.safetensors").touch()
    shutil.copytree(facts.SOURCES, tmp_path / "lib", ignore=shutil.ignore_patterns("__pycache__"))
    for variable, place in (
        ("DATA_MIRROR", "mirror"),
        ("INVDENOISE_CACHE", "cache"),
        ("INVDENOISE_RESULTS", "results"),
    ):
        monkeypatch.setenv(variable, str(tmp_path / place))
    for name, place in (
        ("SOURCES", "data/sources.yaml"),
        ("PUBLISHED", "data/published"),
        ("RELEASED_WEIGHTS", "weights"),
    ):
        monkeypatch.setattr(paths, name, tmp_path / place)
    monkeypatch.setattr(facts, "SOURCES", tmp_path / "lib")
    notebooks = toy.declare(tmp_path, monkeypatch, NETWORKS, scores=SCORES, authors=AUTHORS, figures=FIGURES)
    for name, cells in {"evaluate": EVALUATE, "train": EVALUATE, "report": BARS_CELLS}.items():
        write(notebooks / f"{name}.ipynb", cells)
    write(notebooks / "toy" / "bars.ipynb", BARS_CELLS)
    write(notebooks / "toy" / "look.ipynb", LOOK_CELLS)
    return tmp_path


def arrive(folder: Path, *files: str) -> None:
    """Put files into the mirror, each with its name as its content."""
    for file in files:
        (folder / "mirror" / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / "mirror" / file).write_text(file)


def leave(folder: Path, *files: str) -> None:
    for file in files:
        for place in ("mirror", "cache"):
            (folder / place / file).unlink(missing_ok=True)


def texts(budget: str = "released") -> dict[str, str]:
    papers.read_papers.cache_clear()
    return make_plan(budget).fact_texts()


def different(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


def redeclare(change) -> None:
    """Change the tree of `paper.yaml`."""
    file = paths.NOTEBOOKS / "toy" / "paper.yaml"
    tree = yaml.safe_load(file.read_text())
    change(tree)
    file.write_text(yaml.safe_dump(tree, sort_keys=False))


def test_every_job_has_a_fact_and_asking_again_changes_none(house):
    found = texts()
    assert found.keys() == {*SCORED, BARS, LOOK, "report"}
    assert different(found, texts()) == set()
    assert texts("laptop").keys() == {*SCORED, BARS, LOOK, "report", "train/lifted", "train/plain"}


def test_saving_notebooks_in_an_editor_makes_nothing_again(house):
    before, trained = texts(), texts("laptop")
    for file in paths.NOTEBOOKS.rglob("*.ipynb"):
        write(file, as_saved(json.loads(file.read_text())["cells"]), metadata={"kernelspec": {"name": "other"}})
    assert different(before, texts()) == different(trained, texts("laptop")) == set()


@pytest.mark.parametrize(
    ("notebook", "again"),
    [
        ("evaluate", SCORED),
        ("train", {"train/lifted", "train/plain"}),
        ("toy/bars", {BARS}),
        ("toy/look", {LOOK}),
        ("report", {"report"}),
    ],
)
def test_changed_code_of_a_notebook_is_of_the_jobs_that_execute_it(notebook, again, house):
    before = texts("laptop")
    file = paths.NOTEBOOKS / f"{notebook}.ipynb"
    cells = json.loads(file.read_text())["cells"]
    write(file, [*cells, cell("code", "assert rows")])
    assert different(before, texts("laptop")) == again


def test_text_of_a_notebook_counts_where_its_page_is_what_is_read(house):
    before = texts("laptop")
    for file in paths.NOTEBOOKS.rglob("*.ipynb"):
        write(file, [cell("markdown", "Another introduction."), *json.loads(file.read_text())["cells"]])
    assert different(before, texts("laptop")) == {BARS, LOOK, "report"}


def test_a_saved_parameter_counts_only_where_the_plan_gives_none(house):
    before = texts("laptop")
    for name in ("evaluate", "train"):
        write(paths.NOTEBOOKS / f"{name}.ipynb", [cell("code", "task = 1\nseed = 7", "parameters"), EVALUATE[2]])
    assert different(before, texts("laptop")) == set()
    bars = paths.NOTEBOOKS / "toy" / "bars.ipynb"
    write(bars, [cell("code", "width = 9\nheight = 4", "parameters"), BARS_CELLS[1]])  # the paper declares the width
    assert different(before, texts("laptop")) == set()
    write(bars, [cell("code", "width = 2\nheight = 9", "parameters"), BARS_CELLS[1]])
    assert different(before, texts("laptop")) == {BARS}


def test_pictures_that_arrive_or_go_are_of_the_jobs_on_them(house):
    at_hand = texts()
    leave(house, *(f"first/{number}.png" for number in range(SETS["first"])))
    without = texts()
    assert different(at_hand, without) == {LIFTED, PLAIN, "scores/toy/table/nlm.first"}
    assert "set first: not at hand" in without[LIFTED] and "set first: 3 files" in at_hand[LIFTED]
    leave(house, "kernels/Levin09.mat")
    assert different(without, texts()) == {SHARP}  # the task reads them, not the job's set
    arrive(house, *(f"first/{number}.png" for number in range(SETS["first"])), "kernels/Levin09.mat")
    assert texts() == at_hand


def test_a_job_on_the_first_pictures_depends_on_these_alone(house):
    before = texts()
    leave(house, "first/2.png")
    assert different(before, texts()) == {LIFTED, PLAIN}  # the third job takes one picture
    leave(house, "second/1.png")
    assert different(before, texts()) == {LIFTED, PLAIN, SHARP, LOOK}


def test_where_a_set_is_found_does_not_matter(house):
    before = texts()  # from the mirror into the cache
    shutil.rmtree(house / "mirror")
    assert texts() == before


def test_a_damaged_picture_is_left_to_the_job_that_reads_it(house):
    before = texts()
    (house / "cache" / "first" / "0.png").write_text("cut")
    assert texts() == before


def test_other_pictures_under_the_same_names_make_scores_again(house, monkeypatch):
    before = texts()
    registry = house / "data" / "registry" / "second.csv"
    changed = registry.read_text().replace(sha256(b"second/0.png"), sha256(b"SECOND/0.png"))
    entries = yaml.safe_load(paths.SOURCES.read_text())
    entries["second"]["files"] = "registry/other.csv"  # a registry is read once
    registry.with_name("other.csv").write_text(changed)
    monkeypatch.setattr(paths, "SOURCES", house / "data" / "other.yaml")
    paths.SOURCES.write_text(yaml.safe_dump(entries))
    assert different(before, texts()) == {"scores/toy/table/nlm.second", SHARP, LOOK}


@pytest.mark.parametrize("limit", [1, 2])
def test_the_first_pairs_are_in_the_files_of_both_pictures(limit, house, monkeypatch):
    pairs = {"holds": "pairs", "pairs": {"noisy": "_n", "clean": "_c"}, "channels": 3, "num_files": 4}
    entries = yaml.safe_load(paths.SOURCES.read_text())
    entries["pairs"] = entries["first"] | pairs | {"files": "registry/pairs.csv"}
    files = ["pairs/a_n.png", "pairs/b_n.png", "pairs/notes.txt", "pairs/b_c.png", "pairs/a_c.png"]
    lines = ["file,bytes,sha256,source_repo,source_path,conversion", *(f"{file},{len(file)},{sha256(file.encode())},,,drawn" for file in files)]  # fmt: skip
    (house / "data" / "registry" / "pairs.csv").write_text("\n".join(lines) + "\n")
    monkeypatch.setattr(paths, "SOURCES", house / "data" / "pairs.yaml")
    paths.SOURCES.write_text(yaml.safe_dump(entries))
    arrive(house, *(file for file in files if "/a_" in file))
    found = facts.set_fact("pairs", limit)
    assert found.startswith("2 files") if limit == 1 else found == "not at hand"


# --- The library's code


def edit(house: Path, file: str, old: str, new: str) -> None:
    path = house / "lib" / file
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def add(house: Path, file: str, line: str) -> None:
    path = house / "lib" / file
    path.write_text(f"{path.read_text(encoding='utf-8')}\n{line}\n", encoding="utf-8")


@pytest.mark.parametrize(
    ("file", "again"),
    [
        ("tasks/metrics.py", SCORED | {BARS, "report"}),  # report/tables, which they import, reads scores with it
        ("tasks/awgn.py", TABLE | {THEIRS}),
        ("tasks/deblur.py", {SHARP}),
        ("models/dninn.py", {LIFTED, LOOK}),
        ("models/dncnn.py", {PLAIN, THEIRS}),
        ("models/classical.py", CLASSICAL),
        (
            "layers/lifting.py",
            {LIFTED, PLAIN, THEIRS, LOOK},
        ),  # the kernels know it, and all networks may run in kernels
        ("kernels/winnet.cpp", {LIFTED, PLAIN, THEIRS, LOOK}),
        ("report/tables.py", {BARS, "report"}),
        ("report/page.py", set()),
        ("training.py", set()),
        ("run.py", set()),
        ("plan.py", set()),
        ("bench.py", set()),
        ("data/fetch.py", set()),
    ],
)
def test_changed_code_is_of_the_jobs_that_reach_it(file, again, house):
    before = texts()
    add(house, file, "int one_more = 1;" if file.endswith(".cpp") else "ONE_MORE = 1")
    assert different(before, texts()) == again


def test_comments_docstrings_and_layout_do_not_count(house):
    before = texts()
    for file in ("tasks/metrics.py", "models/dninn.py", "models/base.py"):
        add(house, file, "# a comment\n\n\n")
        edit(house, file, '"""', '"""Another word. ')
    edit(house, "models/dninn.py", "    def __init__(", "    # a comment\n\n    def __init__(")
    add(house, "kernels/winnet.cpp", "// a comment\n/* and\n   another */")
    assert different(before, texts()) == set()
    edit(house, "tasks/metrics.py", "-10 * np.log10", "-11 * np.log10")
    assert different(before, texts()) >= SCORED


def test_a_new_docstring_does_not_count_and_a_string_in_the_code_does():
    def code(source: str) -> str:
        return facts._read_module(source.encode()).code

    assert code("def f():\n    return 1") == code('"""Head."""\ndef f():\n    """One."""\n    return 1')
    assert code("class A:\n    pass") == code('class A:\n    """One."""')
    assert code("def f():\n    return 'a'") != code("def f():\n    return 'b'")
    assert code("x = 1") != code("x = 1.0")


def test_modules_are_parsed_once_and_never_taken_from_an_outdated_note(house, monkeypatch):
    make_plan("released").write_facts()
    before = texts()

    def parse(source):
        raise AssertionError("parsed again")

    with monkeypatch.context() as patch:
        patch.setattr(facts, "_read_module", parse)
        assert texts() == before
    notes = house / "results" / facts.FOLDER / "code.json"
    assert json.loads(notes.read_text())
    add(house, "tasks/deblur.py", "ONE_MORE = 1")
    assert different(before, texts()) == {SHARP}
    notes.write_text("{damaged")
    assert different(before, texts()) == {SHARP}


def test_what_a_task_opens_besides_its_method_counts(house, monkeypatch):
    """Of the networks that it tries in turn the first that is to be had."""
    before, name = make_plan("released"), "toy/table/nlm.first"
    told, files = before.fact_texts(), before.job_files(name)
    tried = {"nlm": ["missing", "plain", "lifted"]}
    monkeypatch.setattr(Denoise, "networks", lambda self, method: tried.get(method, []), raising=False)
    monkeypatch.setattr(methods, "why_not", lambda name, trained=(): "no weights" if name == "missing" else "")
    after = make_plan("released")
    assert different(told, after.fact_texts()) == CLASSICAL
    assert files == [] and after.job_files(name) == after.weights_files("plain") != []


# --- Declarations


def test_a_changed_declaration_is_of_its_jobs(house):
    before = texts()
    runs = SCORES["table"]["runs"]
    redeclare(lambda tree: tree["scores"]["table"]["runs"][1]["conditions"].update(sigma=[25, 50]))
    assert different(before, texts()) == CLASSICAL | {"report"}
    redeclare(lambda tree: tree["scores"]["table"]["runs"].__setitem__(1, runs[1] | {"limit": 2}))
    assert different(before, texts()) == CLASSICAL | {"report"}
    redeclare(lambda tree: tree["scores"]["table"]["runs"].__setitem__(1, runs[1]))
    assert different(before, texts()) == set()
    redeclare(lambda tree: tree["networks"]["lifted"].update(options={"num_scales": 2}))
    assert different(before, texts()) == {LIFTED, LOOK, "report"}
    redeclare(lambda tree: tree["networks"]["lifted"].pop("options"))
    redeclare(lambda tree: tree["figures"]["bars"]["parameters"].update(width=5))
    assert different(before, texts()) == {BARS, "report"}


def test_a_changed_recipe_is_of_the_trainings_with_it(house):
    before = texts("laptop")
    recipe = toy.RECIPE | {"steps": 99}
    redeclare(lambda tree: tree["recipes"]["quick"].update(paper=recipe))
    assert different(before, texts("laptop")) == {"report"}
    redeclare(lambda tree: tree["recipes"]["quick"].update(laptop=recipe))
    assert different(before, texts("laptop")) == {"train/lifted", "train/plain", "report"}


def test_a_changed_printed_number_is_of_the_figures_and_the_report(house):
    before = texts("laptop")
    (paths.PUBLISHED / "toy.csv").write_text("paper,value\ntoy,31\n")
    assert different(before, texts("laptop")) == {BARS, LOOK, "report"}


def test_training_goes_on_whatever_the_code_and_whether_its_pictures_are_at_hand(house):
    redeclare(lambda tree: tree["networks"]["lifted"]["source"].update(set="first"))
    before = texts("laptop")
    add(house, "models/dninn.py", "ONE_MORE = 1")
    leave(house, "first/0.png")
    assert not {name for name in different(before, texts("laptop")) if name.startswith("train/")}


# --- Files


def times(results: Path) -> dict[str, int]:
    return {str(file.relative_to(results)): file.stat().st_mtime_ns for file in results.rglob("*.txt")}


def test_only_facts_that_changed_are_written(house):
    found = make_plan("released")
    found.write_facts()
    before = times(found.results)
    assert set(before) == {f"facts/{name}.txt" for name in found.fact_texts()}
    found.write_facts()
    assert times(found.results) == before
    add(house, "tasks/deblur.py", "ONE_MORE = 1")
    make_plan("released").write_facts()
    after = times(found.results)
    assert {name for name in before if after[name] != before[name]} == {f"facts/{SHARP}.txt"}
    damaged = facts.fact_file(found.results, SHARP)
    damaged.write_bytes(b"\xff")
    make_plan("released").write_facts()
    assert damaged.read_text() == found.fact_texts()[SHARP]


# --- The graph


def jobs_to_do(folder: Path, budget: str) -> set[tuple[str, str]]:
    """Rule and wildcard of each job that Snakemake would do, with its own notes in `folder`."""
    command = [
        sys.executable,
        "-m",
        "snakemake",
        "--snakefile",
        str(paths.ROOT / "Snakefile"),
        "--directory",
        str(folder),
    ]
    command += ["--config", f"budget={budget}", "paper=linn", "--cores", "1", "--nolock", "--dry-run"]
    environment = os.environ | {"PYTHONPATH": str(paths.ROOT / "lib")}
    shown = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert shown.returncode == 0, shown.stdout + shown.stderr
    block = re.compile(r"^(?:local)?rule (\w+):\n((?:    .*\n)*)", re.M)
    return {
        (rule, found[1] if (found := re.search(r"wildcards: \w+=(.*)", lines)) else "")
        for rule, lines in block.findall(shown.stdout)
    }


def touch_results(plan: Plan) -> None:
    """Empty files for all that the graph makes."""
    pages = [*(f"scores/{name}" for name in plan.jobs), *(f"figures/{name}" for name in plan.drawings), "report"]
    made = [plan.results / "scores" / f"{name}.csv" for name in plan.jobs]
    made += [plan.results / "notebooks" / f"{page}.ipynb" for page in pages] + [plan.results / "report.html"]
    for file in made:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


def test_a_changed_fact_makes_its_job_again_and_what_reads_its_result(tmp_path, monkeypatch):
    """And nothing else. The graph's folder is that of the results, as for a read-only checkout."""
    nowhere = {"DATA_MIRROR": tmp_path, "INVDENOISE_CACHE": tmp_path, "https_proxy": "http://127.0.0.1:9"}
    for variable, place in (nowhere | {"INVDENOISE_RESULTS": tmp_path / "results"}).items():
        monkeypatch.setenv(variable, str(place))
    found = make_plan("released", "linn")
    found.write_facts()
    touch_results(found)
    score = "linn/table1/nlm.set12"
    facts.fact_file(found.results, f"scores/{score}").write_text("made with another formula")
    readers = {("draw", name) for name, drawing in found.drawings.items() if f"{score}.csv" in drawing.scores}
    assert readers
    assert jobs_to_do(found.results, "released") == {("score", score), *readers, ("report", ""), ("all", "")}
