"""Executing notebooks: a wrong parameter stops at once, and a failed run never looks finished."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import nbformat
import papermill
import pytest
from nbformat.v4 import new_code_cell, new_notebook
from papermill.exceptions import PapermillExecutionError

from invdenoise import notebooks, paths
from invdenoise.notebooks import check_parameters, known_parameters, main, run_notebook, set_aside, write_html

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


def test_values_on_the_command_line_are_read_as_yaml(notebook, monkeypatch, tmp_path):
    asked = {}
    monkeypatch.setattr(notebooks, "run_notebook", lambda source, output, parameters: asked.update(parameters))
    arguments = [str(notebook), str(tmp_path / "out.ipynb"), "-p", "divisor", "2.5", "-p", "label", "[15, 25]"]
    assert main([*arguments, "-p", "flag", "true", "-p", "name", "dninn-st-s25"]) == 0
    assert asked == {"divisor": 2.5, "label": [15, 25], "flag": True, "name": "dninn-st-s25"}


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
