"""Executing notebooks so that a wrong parameter stops at once and a failed run never looks finished.

python -m invdenoise.notebooks notebooks/evaluate.ipynb results/notebooks/evaluate.ipynb -p method bm3d
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import sys
from pathlib import Path
from typing import Any

# jsonschema, which checks the form of notebooks, would first build a grammar of web addresses, of which they have none: that
# takes seconds, and every job of the graph starts here.
sys.modules.setdefault("rfc3987_syntax", None)

import latex2mathml.converter
import nbformat
import papermill
import yaml
from nbconvert import HTMLExporter
from papermill.exceptions import PapermillExecutionError

from invdenoise import paths
from invdenoise.files import atomic


def known_parameters(notebook: Path) -> list[str]:
    """Names in the notebook's cell tagged `parameters`."""
    return list(papermill.inspect_notebook(str(notebook)))


def check_parameters(notebook: Path, parameters: dict[str, Any]) -> None:
    """ValueError naming the first parameter that the notebook does not have."""
    known = known_parameters(notebook)
    for name in parameters:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
            raise ValueError(f"{notebook.name} has no parameter {name!r}; {hint}")


def run_notebook(notebook: Path, output: Path, parameters: dict[str, Any]) -> Path:
    """Execute a notebook with these parameters; write the executed copy and an HTML page beside it.

    Returns:
        `output`, which exists only when every cell ran.

    Raises:
        FileNotFoundError: no such notebook.
        ValueError: a parameter that the notebook does not have; no kernel was started.
        RuntimeError: a cell failed; names the cell and the error. The executed copy is `<name>.failed.ipynb`.
    """
    if not notebook.exists():
        raise FileNotFoundError(f"no notebook {notebook}")
    check_parameters(notebook, parameters)
    failed = output.with_suffix(".failed.ipynb")
    failed.unlink(missing_ok=True)
    with atomic(output) as temporary:
        try:
            papermill.execute_notebook(
                str(notebook),
                str(temporary),
                parameters=parameters,
                kernel_name="python3",
                progress_bar=False,
                cwd=str(paths.ROOT),
            )
        except PapermillExecutionError as error:
            with atomic(failed) as copy:
                os.replace(temporary, copy)
            raise RuntimeError(
                f"{notebook.name} failed in cell {error.exec_count}: {error.ename}: {error.evalue}\n"
                f"  read the executed copy: {failed}"
            ) from None
    write_html(output)
    return output


_MARK = "formula-{}-set-aside"
# Code, which may hold dollars; a formula of its own; a formula in a line.
_FORMULA = re.compile(r"(```.*?```|`[^`\n]*`)|\$\$(.+?)\$\$|\$(?!\s)([^$\n]+?)(?<!\s)\$", re.DOTALL)


def set_aside(markdown: str, formulas: list[str]) -> str:
    """Markdown with a mark in the place of each formula, `$...$` or `$$...$$`, which is added to `formulas` as MathML.

    A browser shows MathML without a script. The marks keep it from what reads Markdown.
    """

    def mark(found: re.Match) -> str:
        if found[1] is not None:
            return found[1]
        tex, display = (found[2], "block") if found[2] is not None else (found[3], "inline")
        formulas.append(latex2mathml.converter.convert(" ".join(tex.split()), display=display))
        return _MARK.format(len(formulas) - 1)

    return _FORMULA.sub(mark, markdown)


def write_html(notebook: Path) -> Path:
    """Render an executed notebook beside it as one self-contained page."""
    node = nbformat.read(notebook, as_version=4)
    formulas: list[str] = []
    for cell in node.cells:
        if cell.cell_type == "markdown":
            cell.source = set_aside(cell.source, formulas)
        for output in cell.get("outputs", []):
            if text := output.get("data", {}).get("text/markdown"):
                output["data"]["text/markdown"] = set_aside(text, formulas)
    exporter = HTMLExporter(template_name="lab", embed_images=True)
    html, _ = exporter.from_notebook_node(node, resources={"metadata": {"name": notebook.stem}})
    html = re.sub(r"<script src=[^>]*>\s*</script>", "", html)  # the page must read without a network
    for number, formula in enumerate(formulas):
        html = html.replace(_MARK.format(number), formula)
    page = notebook.with_suffix(".html")
    with atomic(page) as temporary:
        temporary.write_text(html)
    return page


def main(arguments: list[str] | None = None) -> int:
    """Execute one notebook; 0 when every cell ran."""
    parser = argparse.ArgumentParser(prog="python -m invdenoise.notebooks", description=main.__doc__)
    parser.add_argument("notebook", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("-p", dest="parameters", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"))
    options = parser.parse_args(arguments)
    try:
        run_notebook(options.notebook.absolute(), options.output.absolute(), _read(options.parameters))
    except (ValueError, RuntimeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _read(parameters: list[tuple[str, str]]) -> dict[str, Any]:
    """Names with their values, read as YAML; ValueError naming a value that is none."""
    found = {}
    for name, value in parameters:
        try:
            found[name] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            reason = " ".join(str(error).split())
            raise ValueError(
                f"parameter {name} is {value!r}, which is not YAML ({reason}); put text into quotes"
            ) from None
    return found


if __name__ == "__main__":
    sys.exit(main())
