"""Executing notebooks so that a wrong parameter stops at once, a failed run never looks finished, and the reader's own
settings change nothing.

python -m invdenoise.notebooks notebooks/evaluate.ipynb results/notebooks/evaluate.ipynb -p method bm3d
"""

from __future__ import annotations

import argparse
import ast
import base64
import contextlib
import difflib
import functools
import io
import itertools
import json
import os
import re
import shutil
import signal
import sys
import textwrap
from collections.abc import Iterable, Iterator
from importlib.metadata import EntryPoint
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
from jupyter_client.provisioning import KernelProvisionerFactory, LocalProvisioner
from nbconvert import HTMLExporter, TemplateExporter
from nbconvert.filters import Highlight2HTML
from nbconvert.filters.widgetsdatatypefilter import WidgetsDataTypeFilter
from papermill.exceptions import PapermillExecutionError
from PIL import Image
from pygments.formatters import HtmlFormatter

from invdenoise import hermetic, paths, warm
from invdenoise.files import atomic
from invdenoise.report import site

# The kernel without any configuration file: IPython would read those of the system and of the current folder too.
START = (
    "from ipykernel.kernelapp import IPKernelApp; IPKernelApp.load_config_file = lambda *args, **kwargs: None; "
    "IPKernelApp.launch_instance()"
)

WIDGET = "application/vnd.jupyter.widget-view+json"
LONGEST_ALT = 160  # characters that describe a picture


def run_kernel(arguments: list[str]) -> int:
    """A kernel in a forked process, like `START` in a new one. It ends with its parent."""
    import matplotlib  # here, since runners do without both
    from ipykernel.kernelapp import IPKernelApp

    # It was imported before ipykernel chose its backend, which matplotlib looks for only then.
    matplotlib.rcParams["backend"] = "module://matplotlib_inline.backend_inline"
    sys.path.insert(0, "")
    IPKernelApp.load_config_file = lambda *args, **kwargs: None
    IPKernelApp.launch_instance(arguments, parent_handle=os.getppid())
    return 0


class Provisioner(LocalProvisioner):
    """Starts a kernel as a fork where a server answers (see `warm`), else as a new process."""

    async def launch_kernel(self, cmd: list[str], **options: Any) -> dict[str, Any]:
        arguments, streams = cmd[cmd.index("-f") :], [options.get(name) for name in ("stdout", "stderr")]
        with open(os.devnull) as nothing:
            given = [nothing, *(number if stream is None else stream for number, stream in enumerate(streams, start=1))]
            numbers = [stream if isinstance(stream, int) else stream.fileno() for stream in given]
            job = warm.start(
                f"{__name__}:run_kernel", arguments, options["env"], options.get("cwd") or os.getcwd(), numbers
            )
        if job is None:
            return await super().launch_kernel(cmd, **options)
        self.process, self.pid, self.pgid, self.cwd = job, job.pid, job.pid, options.get("cwd")
        return self.connection_info


# Jupyter finds provisioners by name: JUPYTER_DEFAULT_PROVISIONER_NAME chooses this one for other kernels too.
PROVISIONER = EntryPoint("invdenoise", "invdenoise.notebooks:Provisioner", KernelProvisionerFactory.GROUP_NAME)
KernelProvisionerFactory.provisioners[PROVISIONER.name] = PROVISIONER


class _Kernel(AsyncKernelManager):
    """A kernel on the interpreter that runs this, whichever kernel is installed as "python3"."""

    @property
    def kernel_spec(self) -> KernelSpec:
        argv = [sys.executable, "-c", START, "-f", "{connection_file}"]
        chosen = {"kernel_provisioner": {"provisioner_name": PROVISIONER.name}}
        return KernelSpec(argv=argv, display_name="Python 3", language="python", metadata=chosen)


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
    write_html(output, source=notebook)
    return output


_MARK = "formula-{}-set-aside"
_EMBEDDED = re.compile(r'<img\b[^>]*\bsrc="data:image/[^"]*"[^>]*>')
_PNG = re.compile(r"data:image/png;base64,([A-Za-z0-9+/=\s]+)")
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


def write_html(
    notebook: Path, page: Path | None = None, source: Path | None = None, folder: Path | None = None
) -> Path:
    """Render a notebook with its outputs as one self-contained page.

    Args:
        notebook: with outputs.
        page: to write; beside the notebook if it is None.
        source: the notebook of the checkout that was executed, which relative links start from; the notebook itself if it is None.
        folder: results folder of the site that the links lead to, `results/` if it is None. A page elsewhere leads nowhere.

    Returns:
        The page's path.
    """
    page = notebook.with_suffix(".html") if page is None else page
    source = notebook if source is None else source
    folder = paths.results_dir() if folder is None else folder
    node = nbformat.read(notebook, as_version=4)
    node.metadata.pop("widgets", None)
    formulas: list[str] = []
    above = source.stem
    for cell in node.cells:
        if cell.cell_type == "markdown":
            above = _plain(cell.source) or above
            cell.source = set_aside(cell.source, formulas)
        for output in cell.get("outputs", []):
            _prepare(output, above, formulas)
    with hermetic.applied():  # a template of the reader's own may be called "basic" too
        body, _ = _exporter().from_notebook_node(node)
    body = _PNG.sub(_smaller, body)
    body = site.with_links(body, source, page, folder)
    for number, formula in enumerate(formulas):
        body = body.replace(_MARK.format(number), formula)
    body = with_zoom(body)
    place = page.relative_to(folder).as_posix() if page.is_relative_to(folder) else None
    paper = site.paper_of(place) if place else None
    html = site.templates().get_template("notebook.html.j2").render(
        title=site.title_of(source), body=body, stored=notebook == source, code_style=_code_style(),
        report=site.relative(folder / site.FRONT, page) if place else "", paper=paper, pictures=bool(_EMBEDDED.search(body)),
        paper_page=site.relative(folder / site.paper_page(paper.name), page) if paper else "",
    )  # fmt: skip
    with atomic(page) as temporary:
        temporary.write_text(html, encoding="utf-8")
    return page


class _Exporter(HTMLExporter):
    """Cells to HTML without parsing the result again for pictures that lack a description: `_prepare` gives them one."""

    def from_notebook_node(
        self, nb: nbformat.NotebookNode, resources: dict | None = None, **options: Any
    ) -> tuple[str, dict]:
        resources = self._init_resources(resources)
        language = nb.metadata.get("language_info", {})
        lexer = language.get("pygments_lexer", language.get("name"))
        self.register_filter("highlight_code", Highlight2HTML(pygments_lexer=lexer, parent=self))
        chosen = WidgetsDataTypeFilter(notebook_metadata=self._nb_metadata, parent=self, resources=resources)
        self.register_filter("filter_data_type", chosen)
        return TemplateExporter.from_notebook_node(self, nb, resources, **options)

    def default_filters(self) -> Iterator[tuple[str, Any]]:
        yield from super().default_filters()
        yield "clean_html", lambda code: code  # the template cleans highlighted code, which is escaped already


@functools.cache
def _exporter() -> HTMLExporter:
    """What turns cells into HTML. Making it takes a while, since it compiles its templates."""
    return _Exporter(
        template_name="basic",
        embed_images=True,
        exclude_input_prompt=True,
        exclude_output_prompt=True,
    )


def with_zoom(body: str) -> str:
    """A page's body in which each embedded picture opens in full size, by a link to itself: no script, no second copy.

    The page's style shows the part that the address names over the whole window. Its cross, and the browser's *back*, close it.
    """
    numbers = itertools.count(1)

    def zoom(found: re.Match) -> str:
        number = next(numbers)
        return (
            f'<span id="at-picture-{number}"></span><span class="zoom" id="picture-{number}">'
            f'<a class="open" href="#picture-{number}" title="Open in full size">{found[0]}</a>'
            f'<a class="close" href="#at-picture-{number}" aria-label="Close">×</a></span>'
        )

    return _EMBEDDED.sub(zoom, body)


def _smaller(found: re.Match) -> str:
    """An embedded picture as WebP without loss, where that is smaller."""
    png, webp = base64.b64decode(found[1]), io.BytesIO()
    Image.open(io.BytesIO(png)).save(webp, "WEBP", lossless=True, method=1)
    if webp.tell() >= len(png):
        return found[0]
    return "data:image/webp;base64," + base64.b64encode(webp.getvalue()).decode()


def _prepare(output: nbformat.NotebookNode, above: str, formulas: list[str]) -> None:
    """Set formulas aside, describe pictures by the text above them, and replace what needs a running notebook."""
    data = output.get("data", {})
    if text := data.get("text/markdown"):
        data["text/markdown"] = set_aside(text, formulas)
    if WIDGET in data:
        output["data"] = nbformat.NotebookNode({"text/markdown": "*A control to move: open the notebook for it.*"})
    if "image/png" in data:
        output.setdefault("metadata", nbformat.NotebookNode()).setdefault("image/png", nbformat.NotebookNode())
        output["metadata"]["image/png"]["alt"] = f"Picture of: {above}"


def _plain(markdown: str) -> str:
    """The beginning of a text without its markup."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", markdown)
    text = re.sub(r"^[#>|\-: ]+|[*`$\\]", "", text, flags=re.MULTILINE)
    return textwrap.shorten(text, LONGEST_ALT, placeholder=" …")


def _code_style() -> str:
    """Colours of code, on light and on dark pages."""
    light, dark = (HtmlFormatter(style=name).get_style_defs(".highlight") for name in ("default", "github-dark"))
    return f"{light}\n@media (prefers-color-scheme: dark) {{\n{dark}\n}}\n.highlight {{ background: none; }}"


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


def command(arguments: list[str] | None = None) -> int:
    """`main` in a process of its own, which SIGTERM ends by an exception: the kernel is shut down, temporary files are removed."""
    signal.signal(signal.SIGTERM, _leave)
    return main(arguments)


def _leave(number: int, frame: object) -> None:
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
    sys.exit(command())
