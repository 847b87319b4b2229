"""Executing notebooks: a wrong parameter stops at once, and a failed run never looks finished."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import nbformat
import papermill
import pytest
from nbformat.v4 import new_code_cell, new_notebook
from papermill.exceptions import PapermillExecutionError
from PIL import Image

from invdenoise import notebooks, paths
from invdenoise.notebooks import (
    check_parameters,
    known_parameters,
    main,
    read_parameters,
    run_notebook,
    set_aside,
    write_html,
)
from invdenoise.plan import make_plan

METADATA = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}


@pytest.fixture
def notebook(tmp_path):
    """Writes where it runs; fails when `divisor` is 0."""
    parameters = new_code_cell("divisor = 2  # what 10 is divided by\nlabel = 'one'", metadata={"tags": ["parameters"]})
    cells = [parameters, new_code_cell("import os\nprint(label, 10 / divisor, os.getcwd())"), new_code_cell("done = 1")]
    path = tmp_path / "tiny.ipynb"
    nbformat.write(new_notebook(cells=cells, metadata=METADATA), path)
    return path


@pytest.fixture
def no_kernel(monkeypatch):
    def refuse(*_, **__):
        pytest.fail("a kernel was started")

    monkeypatch.setattr(papermill, "execute_notebook", refuse)


def printed(path):
    node = nbformat.read(path, as_version=4)
    return "".join(output.get("text", "") for cell in node.cells for output in cell.get("outputs", []))


def test_parameters_are_those_of_the_tagged_cell(notebook):
    assert known_parameters(notebook) == ["divisor", "label"]
    check_parameters(notebook, {"label": "x"})


@pytest.mark.parametrize(
    ("name", "hint"), [("divsor", "did you mean 'divisor'"), ("zzz", "known: divisor, label")], ids=["near", "far"]
)
def test_an_unknown_parameter_is_refused_before_a_kernel_starts(name, hint, notebook, no_kernel, tmp_path):
    output = tmp_path / "out" / "tiny.ipynb"
    with pytest.raises(ValueError, match=rf"tiny.ipynb has no parameter '{name}'; {hint}"):
        run_notebook(notebook, output, {"divisor": 1, name: 3})
    assert not output.parent.exists()


def test_a_missing_notebook_is_named(no_kernel, tmp_path, capsys):
    with pytest.raises(FileNotFoundError, match="no notebook .*nowhere.ipynb"):
        run_notebook(tmp_path / "nowhere.ipynb", tmp_path / "out.ipynb", {})
    assert main([str(tmp_path / "nowhere.ipynb"), str(tmp_path / "out.ipynb")]) == 1
    assert "error: no notebook" in capsys.readouterr().err


@pytest.fixture
def typed(tmp_path):
    """A notebook with a parameter of each kind."""
    lines = [
        "text = ''",
        "count = 2",
        "level = 25.0",
        "flag = True",
        "names = []",
        "table = {'sigma': [25]}",
        "nothing = None",
    ]
    cell = new_code_cell("\n".join(lines), metadata={"tags": ["parameters"]})
    path = tmp_path / "typed.ipynb"
    nbformat.write(new_notebook(cells=[cell], metadata=METADATA), path)
    return path


@pytest.mark.parametrize(
    "name",
    ["my #1 photo.png", "scan: page 3.png", "2024", "010", "no", "null", "1e3", "~", "- a", "[1]", "{x}", "'q'", '"', '"a', "*.png", "a\\b", " x ", ""],
)  # fmt: skip
def test_text_stays_text_whatever_it_looks_like(name, typed):
    assert read_parameters(typed, [("text", name)]) == {"text": name}
    assert read_parameters(typed, [("text", json.dumps(name))]) == {"text": name}  # as the graph writes it


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("count", "7", 7), ("count", "010", 10), ("count", "0.5", 0.5), ("level", "1e3", 1000.0), ("level", "-3", -3),
        ("flag", "false", False), ("flag", "no", False), ("names", "[a, 15]", ["a", 15]), ("table", "{sigma: [15, 25]}", {"sigma": [15, 25]}),
        ("table", '{"sigma": [15]}', {"sigma": [15]}), ("nothing", "3", 3), ("nothing", "abc", "abc"),
    ],
)  # fmt: skip
def test_other_values_are_read_as_what_the_notebook_has(name, text, value, typed):
    found = read_parameters(typed, [(name, text)])[name]
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("count", "1:30", "parameter count is '1:30'; expected a number, such as 2"),
        ("level", "true", "parameter level is 'true'; expected a number, such as 25.0"),
        ("flag", "1", "parameter flag is '1'; expected true or false, such as true"),
        ("names", "a", r"parameter names is 'a'; expected a list, such as \[\]"),
        ("table", "[25]", "parameter table is '\\[25\\]'; expected a mapping, such as"),
        ("table", "{a: [", "parameter table is .*, which is not YAML"),
        ("tabel", "{}", "has no parameter 'tabel'; did you mean 'table'"),
    ],
)
def test_a_value_of_another_kind_is_refused_before_a_kernel_starts(
    name, text, message, typed, no_kernel, tmp_path, capsys
):
    assert main([str(typed), str(tmp_path / "out.ipynb"), "-p", name, text]) == 1
    told = capsys.readouterr().err
    assert re.search(message, told) and told.count("\n") == 1


def test_what_the_graph_passes_arrives_as_it_was_declared():
    found = make_plan("smoke")
    passed = [("evaluate", job.parameters) for job in found.jobs.values()]
    passed += [(drawing.notebook, drawing.parameters) for drawing in found.drawings.values()]
    assert len(passed) > 10
    for name, parameters in passed:
        declared = json.loads(json.dumps(parameters))
        given = [(key, json.dumps(value)) for key, value in parameters.items()]
        assert read_parameters(paths.NOTEBOOKS / f"{name}.ipynb", given) == declared


@pytest.mark.parametrize(
    ("output", "message"), [("out.html", "ends in .ipynb"), ("folder/../tiny.ipynb", "the notebook itself")]
)
def test_an_output_that_would_replace_something_else_is_refused(output, message, notebook, no_kernel, tmp_path):
    (tmp_path / "folder").mkdir()
    before = notebook.read_bytes()
    with pytest.raises(ValueError, match=message):
        run_notebook(notebook, tmp_path / output, {})
    assert notebook.read_bytes() == before


def test_the_copy_of_a_failed_run_has_the_usual_permissions(notebook, monkeypatch, tmp_path):
    def fail(source, copy, **_):
        Path(copy).write_text("as far as it came")
        raise PapermillExecutionError(1, 3, "1 / 0", "ZeroDivisionError", "division by zero", [])

    monkeypatch.setattr(papermill, "execute_notebook", fail)
    output = tmp_path / "out" / "tiny.ipynb"
    mask = os.umask(0o027)
    try:
        with pytest.raises(RuntimeError, match="failed in cell 3"):
            run_notebook(notebook, output, {})
    finally:
        os.umask(mask)
    (failed,) = output.parent.iterdir()
    assert failed == output.with_suffix(".failed.ipynb") and failed.read_text() == "as far as it came"
    assert stat.S_IMODE(failed.stat().st_mode) == 0o640


@pytest.mark.slow
def test_success_writes_the_executed_copy_and_a_page(notebook, tmp_path):
    output = tmp_path / "out" / "tiny.ipynb"
    assert run_notebook(notebook, output, {"divisor": 4, "label": "two"}) == output
    assert printed(output) == f"two 2.5 {notebooks.paths.ROOT}\n"  # from the root, wherever the reader is
    page = output.with_suffix(".html").read_text()
    assert "two 2.5" in page and "<html" in page
    assert "<script src=" not in page and '<link rel="stylesheet" href="http' not in page  # reads without a network
    assert "full size" not in page  # there is no picture
    assert sorted(file.name for file in output.parent.iterdir()) == ["tiny.html", "tiny.ipynb"]


@pytest.mark.slow
def test_a_failure_keeps_the_earlier_output_and_names_cell_and_error(notebook, tmp_path, capsys):
    output = tmp_path / "out" / "tiny.ipynb"
    output.parent.mkdir()
    output.write_text("from an earlier run")
    output.with_suffix(".html").write_text("its page")
    assert main([str(notebook), str(output), "-p", "divisor", "0"]) == 1
    message = capsys.readouterr().err
    failed = output.with_suffix(".failed.ipynb")
    assert message.startswith("error: tiny.ipynb failed in cell 3: ZeroDivisionError: division by zero")
    assert str(failed) in message and "Traceback" not in message
    assert output.read_text() == "from an earlier run" and output.with_suffix(".html").read_text() == "its page"
    assert sorted(file.name for file in output.parent.iterdir()) == ["tiny.failed.ipynb", "tiny.html", "tiny.ipynb"]
    cells = nbformat.read(failed, as_version=4).cells
    assert any(output.output_type == "error" for cell in cells for output in cell.get("outputs", []))


@pytest.mark.slow
def test_a_bar_of_progress_stays_in_no_page(tmp_path):
    count = "from tqdm import tqdm\nwith tqdm(total=2) as bar:\n    bar.write('half')\n    bar.update()\nprint('done')"
    source, output = tmp_path / "count.ipynb", tmp_path / "out" / "count.ipynb"
    cells = [new_code_cell("text = ''", metadata={"tags": ["parameters"]}), new_code_cell(count)]
    nbformat.write(new_notebook(cells=cells, metadata=METADATA), source)
    run_notebook(source, output, {})
    found = [one for cell in nbformat.read(output, as_version=4).cells for one in cell.get("outputs", [])]
    assert [(one.name, one.text) for one in found] == [("stdout", "half\ndone\n")]


LOOK = """
import json, locale, os, sys, time
import matplotlib, skimage
from matplotlib import pyplot
figure = pyplot.figure(figsize=(1, 1))
print("σ–", json.dumps({
    "executable": sys.executable, "usetex": matplotlib.rcParams["text.usetex"], "inline": "inline" in matplotlib.get_backend(),
    "encoding": locale.getpreferredencoding(), "zone": time.tzname[0], "skimage": bool(skimage.__path__), "leaked": sorted(
        name for name in ("by_startup", "by_profile", "by_folder", "by_pythonstartup") if name in globals()),
    "threads": os.environ["OMP_NUM_THREADS"], "results": os.environ["INVDENOISE_RESULTS"],
}))
"""


@pytest.mark.slow
def test_settings_of_the_reader_change_no_page(tmp_path):
    """A locale, a matplotlibrc, kernels, templates, start-up files and modules of the reader, and a home that cannot be written."""
    site = tmp_path / "site"
    files = {
        "matplotlibrc": "text.usetex: True\n",
        "kernels/python3/kernel.json": '{"argv": ["/bin/false"], "display_name": "x", "language": "python"}',
        "nbconvert/templates/basic/conf.json": '{"base_template": "base"}',
        "nbconvert/templates/basic/index.html.j2": "a foreign template",
        "ipython/profile_default/startup/00.py": "by_startup = 1",
        "ipython/profile_default/ipython_kernel_config.py": "c.InteractiveShellApp.exec_lines = ['by_profile = 1']",
        "ipython/profile_default/ipython_config.py": "c.InteractiveShellApp.exec_lines = ['by_profile = 1']",
        "shadows/skimage.py": "__path__ = []",
        "start.py": "by_pythonstartup = 1",
        "home": "no folder",
    }
    for name, text in files.items():
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_text(text)
    cells = [new_code_cell("text = ''", metadata={"tags": ["parameters"]}), new_code_cell(LOOK)]
    source, output = tmp_path / "look.ipynb", tmp_path / "out" / "look.ipynb"
    nbformat.write(new_notebook(cells=cells, metadata=METADATA), source)
    leaks = {
        "LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "TZ": "Asia/Tokyo", "MATPLOTLIBRC": site / "matplotlibrc",
        "MPLBACKEND": "svg", "JUPYTER_PATH": site, "JUPYTER_CONFIG_DIR": site, "IPYTHONDIR": site / "ipython", "PYTHONSTARTUP": site / "start.py",
        "PYTHONPATH": f"{site / 'shadows'}:{paths.ROOT / 'lib'}", "HOME": site / "home", "INVDENOISE_RESULTS": tmp_path / "results",
    }  # fmt: skip
    environment = os.environ | {name: str(value) for name, value in leaks.items()}
    environment.pop("XDG_CACHE_HOME", None)
    command = [sys.executable, "-m", "invdenoise.notebooks", str(source), str(output)]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    mark, _, found = printed(output).partition(" ")
    assert mark == "σ–" and json.loads(found) == {
        "executable": sys.executable, "usetex": False, "inline": True, "encoding": "utf-8", "zone": "UTC", "skimage": True,
        "leaked": [], "threads": "1", "results": str(tmp_path / "results"),
    }  # fmt: skip
    page = output.with_suffix(".html").read_text(encoding="utf-8")
    assert "σ–" in page and "a foreign template" not in page


def test_the_environment_is_as_before_after_a_notebook(notebook, monkeypatch, tmp_path):
    seen = {}

    def look(source, copy, **_):
        seen.update(os.environ)
        raise PapermillExecutionError(1, 3, "1 / 0", "ZeroDivisionError", "division by zero", [])

    monkeypatch.setattr(papermill, "execute_notebook", look)
    monkeypatch.setenv("MPLBACKEND", "svg")
    before = dict(os.environ)
    with pytest.raises(RuntimeError):
        run_notebook(notebook, tmp_path / "out" / "tiny.ipynb", {})
    assert os.environ == before and "MPLBACKEND" not in seen
    assert not Path(seen["IPYTHONDIR"]).parent.exists()


def test_each_picture_opens_in_full_size_without_a_script_or_a_second_copy(tmp_path):
    stored = []
    for shade in (0, 255):
        png = io.BytesIO()
        Image.new("L", (30, 20), shade).save(png, "PNG")
        data = {"image/png": base64.b64encode(png.getvalue()).decode(), "text/plain": "<Figure>"}
        stored.append(nbformat.v4.new_output("display_data", data))
    path = tmp_path / "pictures.ipynb"
    title = nbformat.v4.new_markdown_cell("# Black > white")
    nbformat.write(new_notebook(cells=[title, new_code_cell("draw()", outputs=stored)], metadata=METADATA), path)
    page = write_html(path).read_text()
    assert page.count("data:image/") == page.count("<img ") == 2 and "<script" not in page
    for number in (1, 2):
        assert re.search(f'id="picture-{number}"><a class="open" href="#picture-{number}"[^>]*><img [^>]*></a>', page)
        assert f'<a class="close" href="#at-picture-{number}"' in page and f' id="at-picture-{number}"' in page
    assert "picture-3" not in page and "A picture opens in full size" in page


def test_formulas_are_typeset_in_pages_without_a_script(tmp_path):
    cell = "Costs `$5` and $\\hat x_i * |y|$, then\n\n$$ L = \\frac{1}{N} \\sum_j e_j^2 $$\n\n| a | b |\n|---|---|\n| $|x|$ | $a_1 * b_1 * c_1$ |"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(cell)])
    path = tmp_path / "page.ipynb"
    nbformat.write(notebook, path)
    page = write_html(path).read_text()
    body = page[page.index("<body") :]
    assert "Costs <code>$5</code> and <math" in body
    assert body.count("<math") == 4 and body.count('display="block"') == 1
    assert "\\hat" not in body and "\\frac" not in body and "<em>" not in body
    assert body.count("<td>") == 2  # the bars of |x| are no borders of a table


def test_every_formula_of_the_notebooks_can_be_typeset():
    found = 0
    for path in paths.NOTEBOOKS.rglob("*.ipynb"):
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "markdown":
                formulas: list[str] = []
                set_aside(cell.source, formulas)
                found += len(formulas)
                assert not [formula for formula in formulas if "\\" in formula], path  # a command that is not known
    assert found > 20


def test_stored_outputs_name_no_folder_of_a_machine():
    """Outputs that come with the repository were made somewhere; readers see paths below the checkout only."""
    found = []
    for file in sorted(paths.NOTEBOOKS.rglob("*.ipynb")):
        for cell in json.loads(file.read_text(encoding="utf-8"))["cells"]:
            outputs = [{**output, "data": _texts(output)} for output in cell.get("outputs", [])]
            found += [
                f"{file.name}: {place}" for place in re.findall(r"/(?:tmp|home|root|Users)/[\w./-]*", str(outputs))
            ]
    assert not found


def _texts(output):
    """What an output shows as text; pictures are base64, in which any letters may stand."""
    return {kind: text for kind, text in output.get("data", {}).items() if kind.startswith("text")}
