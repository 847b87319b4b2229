"""Where each page of the site stands in a results folder, and the templates that all pages share.

`report.html` is the front page. Notebooks are pages too: the executed one of a figure where `make paper` writes it, others below `site/`.
"""

from __future__ import annotations

import html
import json
import os
import re
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

import jinja2

from invdenoise import papers, paths
from invdenoise.papers import Paper

FRONT = "report.html"
WEIGHTS = "site/weights.html"

_LINK = re.compile(r'<a\b[^>]*?\bhref="([^"]*)"[^>]*>(.*?)</a>', re.DOTALL)


def templates() -> jinja2.Environment:
    """The templates of the pages; a name that a template does not get is an error."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip


def relative(file: Path, page: Path) -> str:
    """Address of a file as a page links to it."""
    return quote(Path(os.path.relpath(file, page.parent)).as_posix())


# --- Addresses below a results folder


def paper_page(paper: str) -> str:
    return f"site/{paper}.html"


def notebook_page(notebook: str) -> str:
    """The page of a notebook: that of the first figure that it draws, where it draws one.

    Args:
        notebook: below `notebooks/`, without suffix.
    """
    for paper in papers.papers().values():
        for figure in paper.figures:
            if paper.notebook(figure) == notebook:
                return f"notebooks/figures/{paper.name}/{figure}.html"
    return "notebooks/report.html" if notebook == "report" else f"site/notebooks/{notebook}.html"


def paper_of(page: str) -> Paper | None:
    """The paper that a notebook's page belongs to, by its address; None for a shared one."""
    known, parts = papers.papers(), Path(page).with_suffix("").parts
    if parts[:2] == ("notebooks", "train"):
        return next((paper for paper in known.values() if parts[-1] in {**paper.networks, **paper.ablations}), None)
    return known.get(parts[2]) if len(parts) > 3 else None


def page_of(file: Path) -> str | None:
    """The page that stands for a file of the checkout: a notebook's own, for a paper's README the paper's; None for all others."""
    if not file.is_file() or not file.is_relative_to(paths.NOTEBOOKS):
        return None
    place = file.relative_to(paths.NOTEBOOKS)
    if place.suffix == ".ipynb":
        return notebook_page(place.with_suffix("").as_posix())
    return paper_page(place.parts[0]) if place.name == "README.md" and place.parts[0] in papers.papers() else None


# --- Notebooks as pages


def notebooks() -> dict[str, Path]:
    """Every notebook of the checkout, by its place below `notebooks/` without suffix."""
    found = {file.relative_to(paths.NOTEBOOKS): file for file in sorted(paths.NOTEBOOKS.rglob("*.ipynb"))}
    return {
        place.with_suffix("").as_posix(): file
        for place, file in found.items()
        if not any(part.startswith(".") for part in place.parts)
    }


def title_of(notebook: Path) -> str:
    """A notebook's first heading, or else its name."""
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "markdown" and (found := re.search(r"^# *(.+)", "".join(cell["source"]), re.MULTILINE)):
            return re.sub(r"[*`$]", "", found[1]).strip()
    return notebook.stem


def with_links(text: str, notebook: Path, page: Path, folder: Path) -> str:
    """HTML whose relative links lead to pages of the site. A link to anything else becomes plain text.

    Args:
        text: HTML made from a notebook.
        notebook: of the checkout, whose links are relative to it.
        page: where the HTML will stand.
        folder: results folder of the site.
    """

    def link(found: re.Match) -> str:
        address = urlsplit(html.unescape(found[1]))
        if address.scheme or not address.path:
            return found[0]
        target = page_of((notebook.parent / unquote(address.path)).resolve())
        if target is None or not page.is_relative_to(folder):
            return found[2]
        return f'<a href="{relative(folder / target, page)}">{found[2]}</a>'

    return _LINK.sub(link, text)
