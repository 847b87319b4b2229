"""Executing notebooks so that a wrong parameter stops at once, a failed run never looks finished, and the reader's own
settings change nothing.

python -m invdenoise.notebooks notebooks/evaluate.ipynb results/notebooks/evaluate.ipynb -p method bm3d
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import difflib
import json
import re
import shutil
import signal
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

# jsonschema, which checks the form of notebooks, would first build a grammar of web addresses, of which they have none: that
# takes seconds, and every job of the graph starts here.
sys.modules.setdefault("rfc3987_syntax", None)

import latex2mathml.converter
import nbformat
import papermill
import yaml
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec
from nbconvert import HTMLExporter
from papermill.exceptions import PapermillExecutionError

from invdenoise import hermetic, paths
from invdenoise.files import atomic

# The kernel without any configuration file: IPython would read those of the system and of the current folder too.
START = (
    "from ipykernel.kernelapp import IPKernelApp; IPKernelApp.load_config_file = lambda *args, **kwargs: None; "
    "IPKernelApp.launch_instance()"
)


class _Kernel(AsyncKernelManager):
    """A kernel on the interpreter that runs this, whichever kernel is installed as "python3"."""

    @property
    def kernel_spec(self) -> KernelSpec:
        argv = [sys.executable, "-c", START, "-f", "{connection_file}"]
        return KernelSpec(argv=argv, display_name="Python 3", language="python")


def _literal(path: Path) -> str:
    """The path as papermill takes it, which would fill in `{name}`."""
    return str(path).replace("{", "{{").replace("}", "}}")


def known_parameters(notebook: Path) -> list[str]:
    """Names in the notebook's cell tagged `parameters`."""
    return list(papermill.inspect_notebook(_literal(notebook)))


def _defaults(notebook: Path) -> dict[str, Any]:
    """Values in the notebook's cell tagged `parameters`; None for one that is no plain value."""
    found = {}
    for name, described in papermill.inspect_notebook(_literal(notebook)).items():
        try:
            found[name] = ast.literal_eval(described["default"])
        except (ValueError, SyntaxError):
            found[name] = None
    return found


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
        ValueError: a parameter that the notebook does not have, or an output that is no other notebook; no kernel was started.
        RuntimeError: a cell failed; names the cell and the error. The executed copy is `<name>.failed.ipynb`.
    """
    if not notebook.exists():
        raise FileNotFoundError(f"no notebook {notebook}")
    if output.suffix != ".ipynb":
        raise ValueError(f"the output is {output}; expected a name that ends in .ipynb")
    if output.resolve() == notebook.resolve():
        raise ValueError(f"the output is the notebook itself, {output}; choose another file for the executed copy")
    check_parameters(notebook, parameters)
    failed = output.with_suffix(".failed.ipynb")
    failed.unlink(missing_ok=True)
    with hermetic.applied(), atomic(output) as temporary:
        try:
            papermill.execute_notebook(
                _literal(notebook),
                _literal(temporary),
                parameters=parameters,
                kernel_name="python3",
                kernel_manager_class=_Kernel,
                progress_bar=False,
                cwd=str(paths.ROOT),
            )
        except PapermillExecutionError as error:
            with atomic(failed) as copy:
                shutil.copyfile(temporary, copy)
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
    with hermetic.applied():  # a template of the reader's own may be called "lab" too
        exporter = HTMLExporter(template_name="lab", embed_images=True)
        html, _ = exporter.from_notebook_node(node, resources={"metadata": {"name": notebook.stem}})
    html = re.sub(r"<script src=[^>]*>\s*</script>", "", html)  # the page must read without a network
    for number, formula in enumerate(formulas):
        html = html.replace(_MARK.format(number), formula)
    page = notebook.with_suffix(".html")
    with atomic(page) as temporary:
        temporary.write_text(html, encoding="utf-8")
    return page


def main(arguments: list[str] | None = None) -> int:
    """Execute one notebook; 0 when every cell ran."""
    parser = argparse.ArgumentParser(prog="python -m invdenoise.notebooks", description=main.__doc__)
    parser.add_argument("notebook", type=Path)
    parser.add_argument("output", type=Path, help="the executed copy, .ipynb; an HTML page is written beside it")
    parser.add_argument(
        "-p", dest="parameters", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"),
        help="a parameter of the notebook; text is taken as it is, lists and mappings are YAML",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    notebook, output = options.notebook.expanduser().absolute(), options.output.expanduser().absolute()
    try:
        if not notebook.exists():
            raise FileNotFoundError(f"no notebook {notebook}")
        run_notebook(notebook, output, read_parameters(notebook, options.parameters))
    except (ValueError, RuntimeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _leave(number: int, frame: object) -> None:
    """End by an exception, so that the kernel is shut down and temporary files are removed."""
    raise SystemExit(128 + number)


def read_parameters(notebook: Path, given: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """Values from a command line, each read as what the notebook has for it by default.

    Text is taken as it is, for file names may look like anything; in double quotes it is a JSON string. Numbers and booleans are
    written as such. All others are YAML.

    Raises:
        ValueError: the notebook has no such parameter, or the value is not of its kind.
    """
    given = list(given)
    check_parameters(notebook, dict(given))
    defaults = _defaults(notebook)
    return {name: _value(name, text, defaults[name]) for name, text in given}


def _value(name: str, text: str, default: Any) -> Any:
    if isinstance(default, str):
        return _text(text)
    if type(default) in (int, float):  # YAML reads 010 as 8, 1:30 as 90, and 1e3 as text
        for kind in (int, float):
            with contextlib.suppress(ValueError):
                return kind(text)
        raise ValueError(f"parameter {name} is {text!r}; expected a number, such as {default}")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"parameter {name} is {text!r}, which is not YAML ({reason})") from None
    kinds = {bool: "true or false", list: "a list", dict: "a mapping"}
    if type(default) in kinds and not isinstance(value, type(default)):
        raise ValueError(
            f"parameter {name} is {text!r}; expected {kinds[type(default)]}, such as {json.dumps(default)}"
        )
    return value


def _text(text: str) -> str:
    """The text itself; a JSON string, which the graph writes, without its quotes."""
    if len(text) > 1 and text[0] == text[-1] == '"':
        try:
            return json.loads(text)
        except json.JSONDecodeError:
            pass
    return text


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _leave)
    sys.exit(main())
