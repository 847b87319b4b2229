"""The house: a paper is one folder. Shared code names no paper and no method, imports point one way, and a new paper needs its own files only."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from links import follow
from PIL import Image

from invdenoise import papers, paths

LIB = paths.ROOT / "lib" / "invdenoise"
ROOMS = ("layers", "models", "kernels", "data", "tasks", "report")
# Files that belong to papers, or list them: everything else is shared.
OWN = ("notebooks/*/**", "data/published/*", "data/sources.yaml", "data/registry/*", "lib/invdenoise/models/*", "lib/invdenoise/kernels/*",
       "results/**", "README.md", "CITATION.cff")  # fmt: skip
TOUR = Path("notebooks/00_tour.ipynb")  # it tells one paper's story, and that paper declares it


def tracked() -> list[Path]:
    """Files of the checkout, tracked or new."""
    command = ["git", "-C", str(paths.ROOT), "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\n")
    return [Path(name) for name in listed if name and (paths.ROOT / name).is_file()]


def is_own(file: Path) -> bool:
    """Whether a file may name papers and methods: the papers' own files, and tests that are named after a paper, a network or a layer."""
    if any(file.full_match(pattern) if hasattr(file, "full_match") else _matches(file, pattern) for pattern in OWN):
        return True
    return file.parts[0] == "tests"


def _matches(file: Path, pattern: str) -> bool:
    """`Path.full_match` of later Pythons."""
    expression = re.escape(pattern).replace(r"\*\*", ".*").replace(r"\*", "[^/]*")
    return re.fullmatch(expression, file.as_posix()) is not None


def shared_files() -> list[Path]:
    return [file for file in tracked() if not is_own(file)]


def code_of(file: Path) -> str:
    """Names and texts of a Python file or of a notebook's code, without docstrings and comments; other files as they are.

    The docstring of a layer or task may say which paper and equation it follows. Parameters of a notebook are a choice, not a condition.
    """
    text = (paths.ROOT / file).read_text(encoding="utf-8")
    if file.suffix == ".ipynb":
        cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
        text = "\n".join(
            "".join(cell["source"]) for cell in cells if "parameters" not in cell["metadata"].get("tags", [])
        )
    elif file.suffix != ".py":
        return text
    tree = ast.parse(text)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if (
            isinstance(body, list)
            and body
            and isinstance(body[0], ast.Expr)
            and isinstance(body[0].value, ast.Constant)
        ):
            body[0].value = ast.Constant("")
    return ast.unparse(tree)


def named(text: str, names: list[str]) -> list[str]:
    return sorted({name for name in names if re.search(rf"(?<![\w-]){re.escape(name)}(?![\w])", text, re.IGNORECASE)})


def test_no_shared_file_names_a_paper():
    folders = list(papers.papers())
    printed = [name for paper in papers.papers().values() for name in paper.short.split(" / ")]
    found = {}
    for file in shared_files():
        if file.suffix in (".py", ".ipynb", ".j2", ""):
            # A layer may carry the name that its paper gave it.
            names = folders if file.parts[:3] == ("lib", "invdenoise", "layers") else [*folders, *printed]
            found[str(file)] = [
                name for name in names if re.search(rf"(?<![\w]){re.escape(name)}(?![\w])", code_of(file))
            ]
    tour = str(TOUR)
    assert {file: who for file, who in found.items() if who and file != tour} == {}


def test_no_shared_code_names_a_method_or_a_dataset_of_a_paper():
    declared = papers.papers().values()
    methods = [name for paper in declared for name in (*paper.networks, *paper.authors)]
    classes = sorted({network.model.rpartition(".")[2] for paper in declared for network in paper.networks.values()})
    sets = sorted(
        {name for paper in declared for score in paper.scores.values() for runs in score.runs for name in runs.sets}
    )
    assert len(methods) > 20 and len(classes) >= 4 and len(sets) >= 2  # else the test would find nothing
    code = [file for file in shared_files() if file.suffix in (".py", ".ipynb", ".j2") and file != TOUR]
    found = {
        str(file): named(code_of(file), [*methods, *classes, *sets])
        for file in [*code, Path("Snakefile"), Path("Makefile")]
    }
    assert {file: who for file, who in found.items() if who} == {}


# --- Imports


def modules() -> dict[str, Path]:
    return {
        ".".join(["invdenoise", *file.relative_to(LIB).with_suffix("").parts]).removesuffix(".__init__"): file
        for file in sorted(LIB.rglob("*.py"))
    }


def imports(file: Path, known: dict[str, Path]) -> set[str]:
    """Modules of the library that a file imports, anywhere in it: an import inside a function counts."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name in known}
        elif isinstance(node, ast.ImportFrom) and node.module in known:
            inner = {f"{node.module}.{alias.name}" for alias in node.names} & set(known)
            found |= inner if len(inner) == len(node.names) else inner | {node.module}
    return found


@pytest.fixture(scope="module")
def graph() -> dict[str, set[str]]:
    known = modules()
    # The package itself offers `load_denoiser` and the like when they are first asked for; nothing in the library imports it.
    return {name: imports(file, known) - {name} for name, file in known.items() if name != "invdenoise"}


def test_there_is_no_import_circle(graph):
    def reaches(name: str, seen: frozenset[str] = frozenset()) -> set[str]:
        found: set[str] = set()
        waiting = list(graph[name])
        while waiting:
            other = waiting.pop()
            if other not in found and other in graph:
                found.add(other)
                waiting += graph[other]
        return found

    assert {name for name in graph if name in reaches(name)} == set()
    assert all("invdenoise" not in found for found in graph.values())


def test_rooms_know_those_before_them_only(graph):
    """layers <- models <- methods <- tasks <- plan; kernels know layers and models."""
    allowed = {
        "layers": {"layers"},
        "models": {"models", "layers"},
        "kernels": {"kernels", "models", "layers"},
        "data": {"data"},
        "tasks": {"tasks", "kernels", "models", "layers", "data"},
        "report": {"report", "tasks", "data"},
    }
    for name, found in graph.items():
        room = name.split(".")[1]
        if room in allowed:
            others = {other.split(".")[1] for other in found} & set(ROOMS)
            assert others <= allowed[room], f"{name} imports {others - allowed[room]}"
    assert not any("invdenoise.plan" in found for name, found in graph.items() if name.split(".")[1] in ROOMS[:-1])


# --- A new paper


TOY = {
    "lib/invdenoise/models/toy.py": '''
        """A network of one number, for the test of the house."""

        import torch
        from torch import nn


        class Gain(nn.Module):
            """Multiplies a picture by a learned number."""

            def __init__(self, start: float = 1.0):
                super().__init__()
                self.gain = nn.Parameter(torch.tensor(start))
                self.prepared = 0

            def prepare(self, dark, bright):
                self.prepared += 1

            def training_loss(self, dark, bright):
                error = (self.gain * dark - bright).square().mean()
                return error, {"gain": self.gain.detach(), "error": error.detach().sqrt()}

            def brighten(self, dark):
                with torch.no_grad():
                    return (self.gain * dark).clamp(0, 1)

            def num_parameters(self):
                return 1
    ''',
    "lib/invdenoise/tasks/toy.py": '''
        """Darkened pictures, and how well they are brightened."""

        import torch

        from invdenoise.data.pictures import PictureSet, load_pictures
        from invdenoise.tasks.base import Case, Task
        from invdenoise.tasks.metrics import Metric

        ERROR = Metric("error", "%", False, 0.5, 2.0, 1)


        class Darkened:
            """Source of dark patches and the bright ones that they come from."""

            @classmethod
            def load(cls, set, darkness=0.5, *, validation, patch_size, batch_size, sampling, augment, seed, device):
                source = cls()
                pictures = load_pictures(set, stand_in=False)
                source.pictures, source.darkness, source.seed = pictures.pictures[:-validation], darkness, seed
                source.held_out = PictureSet("validation", "validation", pictures.pictures[-validation:], pictures.sha256)
                source.name, source.sha256, source.batch_size, source.patch_size = set, pictures.sha256, batch_size, patch_size
                return source

            def __len__(self):
                return len(self.pictures)

            def batch(self, step):
                bright = self.pictures[(self.seed + step) % len(self)].tensor()[..., : self.patch_size, : self.patch_size]
                return {"dark": self.darkness * bright, "bright": bright}


        class Brighten(Task):
            """Undo a darkening by a known factor."""

            keys = ("darkness",)
            metrics = (ERROR,)

            def cases(self, pictures, seed, darkness=0.5):
                for picture in pictures:
                    bright = picture.tensor()
                    yield Case(picture.name, {"darkness": darkness}, {"dark": darkness * bright}, bright, bright.numel() / 1e6)

            def run(self, method, case, **options):
                return method.brighten(case.given["dark"])

            def score(self, outputs, case):
                return {"error": 100 * (outputs - case.truth).abs().mean().item()}
    ''',
    "notebooks/toy/paper.yaml": '''
        title: A toy paper
        short: Toy
        order: 99
        cite: Nobody, "A toy paper", 2026
        anchors:
          gain: &gain {model: toy.Gain, source: {kind: tasks.toy.Darkened, set: toyset}, task: toy.Brighten, recipe: gain}
        recipes:
          gain:
            smoke: &few {steps: 40, batch_size: 1, patch_size: 16, optimizer: adam, lr: 5.0e-2, warmup: 2, ema: 0.5, clip: 0, compile: false,
                         precision: float32, validation: 1, validate_every: 20, checkpoint_every: 20}
            laptop: *few
            paper: *few
        networks:
          toy-gain: {<<: *gain}
          toy-wild: {<<: *gain, options: {start: 4.0}}
        scores:
          table: &table
            task: toy.Brighten
            runs: [{methods: [toy-gain, toy-wild], sets: toyset, conditions: {darkness: [0.5]}}]
            smoke: [{methods: [toy-gain, toy-wild], sets: toyset, conditions: {darkness: [0.5]}, precision: float32}]
        figures:
          errors: {reads: table, captions: {toy-errors.png: Errors of both.}}
        compare:
          Table 1: {title: Error, metric: error, reads: table, across: dataset, rows: {gain: {label: Gain, ours: {toy-gain: ""}}, wild: {label: Wild, ours: {toy-wild: ""}}}}
        claims:
          better: {says: Gain errs less than Wild., place: Section 1, test: {paired: [[toy-gain, toy-wild]], reads: table, metric: error, most: 0}}
    ''',
    "data/published/toy.csv": '''
        paper,place,row,column,dataset,sigma,metric,unit,value,printed,method,note
        toy,Table 1,Gain,error,toyset,,error,%,0.0,0.0,gain,
        toy,Table 1,Wild,error,toyset,,error,%,90.0,90.0,wild,
    ''',
}  # fmt: skip

FIGURE = [
    ("markdown", "# Toy, errors", []),
    ("code", 'scores = "released"  # released or local', ["parameters"]),
    (
        "code",
        "import matplotlib.pyplot as plt\n\nfrom invdenoise.report import figures, tables\nfrom invdenoise.tasks.base import summarise\n\n"
        'means = summarise(tables.scores_of("toy", "table", scores=scores)).set_index("method")\n'
        'figure, ax = plt.subplots()\nax.bar(means.index, means["error"])\nfigures.save_figure(figure, "toy-errors")\n'
        'tables.save_table(means.reset_index()[["method", "error"]], "toy-errors");',
        [],
    ),
]


def write_notebook(path: Path, cells) -> None:
    nodes = []
    for number, (kind, source, tags) in enumerate(cells):
        node = {"cell_type": kind, "id": f"cell-{number}", "metadata": {"tags": tags}, "source": source}
        nodes.append(node | ({"outputs": [], "execution_count": None} if kind == "code" else {}))
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    path.write_text(json.dumps({"cells": nodes, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}))


def hashes(folder: Path, files: list[Path]) -> dict[str, str]:
    return {str(file): hashlib.sha256((folder / file).read_bytes()).hexdigest() for file in files}


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """A copy of the checkout with one more paper, regenerated: the folder, the shared files before, and what the command said."""
    folder = tmp_path_factory.mktemp("house") / "checkout"
    files = [file for file in tracked() if not file.parts[0] == "results"]
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(paths.ROOT / file, folder / file)
    before = hashes(folder, files)
    for name, text in TOY.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(textwrap.dedent(text).lstrip("\n"))
    write_notebook(folder / "notebooks" / "toy" / "errors.ipynb", FIGURE)
    mirror = folder.parent / "mirror"
    lines = ["file,bytes,sha256,source_repo,source_path,conversion"]
    (mirror / "toyset").mkdir(parents=True)
    for number in range(4):
        picture = mirror / "toyset" / f"{number}.png"
        Image.fromarray(np.random.default_rng(number).integers(60, 255, (24, 24), dtype=np.uint8)).save(picture)
        content = picture.read_bytes()
        lines.append(
            f"toyset/{number}.png,{len(content)},{hashlib.sha256(content).hexdigest()},nobody/toy,{number}.png,made"
        )
    (folder / "data" / "registry" / "toyset.csv").write_text("\n".join(lines) + "\n")
    entry = {"title": "Toy set", "about": "Four pictures.", "files": "registry/toyset.csv", "num_files": 4, "channels": 1,
             "addresses": {"nobody/toy": "https://localhost/{path}"}, "terms": "none", "terms_short": "none", "upstream": [], "cite": []}  # fmt: skip
    with open(folder / "data" / "sources.yaml", "a") as handle:
        handle.write("\n" + yaml.safe_dump({"toyset": entry}, sort_keys=False))
    environment = os.environ | {
        "PYTHONPATH": str(folder / "lib"),
        "DATA_MIRROR": str(mirror),
        "INVDENOISE_RESULTS": str(folder / "results"),
    }
    command = [sys.executable, "-m", "invdenoise.run", "--budget", "smoke", "--paper", "toy", "--cores", "2"]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        pytest.fail(done.stdout[-3000:] + done.stderr[-3000:])
    return folder, before, done.stdout


@pytest.mark.graph
def test_a_new_paper_is_regenerated_from_its_own_files(toy):
    folder, _, said = toy
    results = folder / "results" / "smoke"
    scores = {file.name: pd.read_csv(file) for file in (results / "scores" / "toy" / "table").glob("*.csv")}
    assert set(scores) == {"toy-gain.toyset.csv", "toy-wild.toyset.csv"}
    for table in scores.values():
        assert len(table) == 4 and set(table["darkness"]) == {0.5} and set(table["dataset"]) == {"toyset"}
    means = pd.read_csv(results / "tables" / "toy-errors.csv").set_index("method")["error"]
    assert means["toy-gain"] == pytest.approx(scores["toy-gain.toyset.csv"]["error"].mean(), abs=1e-4)
    assert means["toy-gain"] < means["toy-wild"]
    assert (results / "figures" / "toy-errors.png").stat().st_size > 1000
    curve = pd.read_csv(folder / "results" / "runs" / "toy-gain" / "smoke" / "curve.csv")
    assert {"gain", "error", "val_error"} <= set(curve.columns)
    assert curve["gain"].iloc[-1] > 1.3  # it was 1 at the start and should become 2
    page = (results / "site" / "toy.html").read_text()
    assert (results / "site" / "toy.html") in follow(results / "report.html")
    assert "A toy paper" in page and "Gain errs less than Wild." in page and "Errors of both." in page
    assert re.search(r"holds", page) and "Error" in page
    verdicts = [
        word for word in ("exceeded", "reproduced", "smaller budget", "not reproduced", "close") if word in said
    ]
    assert said.splitlines()[-2].startswith("Toy, ") and verdicts


@pytest.mark.graph
def test_a_new_paper_changes_no_shared_file(toy):
    folder, before, _ = toy
    after = hashes(folder, [Path(name) for name in before])
    assert [name for name in before if before[name] != after[name]] == ["data/sources.yaml"]
    original = (paths.ROOT / "data" / "sources.yaml").read_text()
    assert (
        (folder / "data" / "sources.yaml").read_text().startswith(original)
    )  # its entry of the registry is added, nothing else


# --- Citation


def test_readme_and_citation_name_the_papers_that_are_built():
    readme = (paths.ROOT / "README.md").read_text()
    citation = yaml.safe_load((paths.ROOT / "CITATION.cff").read_text())
    titles = {reference["title"] for reference in citation["references"]}
    for paper in papers.papers().values():
        assert paper.cite in readme
        assert paper.title in titles
    assert citation["license"] == "MIT" and (paths.ROOT / "LICENSE").read_text().startswith("MIT License")
    assert len(readme.splitlines()) <= 120
