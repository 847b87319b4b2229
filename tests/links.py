"""Following every link of a site, for the tests of what writes one."""

from __future__ import annotations

import html
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

ADDRESS = re.compile(r'\b(?:href|src)="([^"]*)"')


def follow(front: Path) -> set[Path]:
    """Every page and file that a front page leads to, itself among them.

    AssertionError where a link leads nowhere, or where a page has no way back to the front page.
    """
    waiting, found, dead = [front.resolve()], {}, []
    while waiting:
        page = waiting.pop()
        if page in found:
            continue
        text = found[page] = page.read_text(encoding="utf-8") if page.suffix == ".html" else ""
        for address in ADDRESS.findall(text):
            parts = urlsplit(html.unescape(address))
            if parts.scheme:
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            if not target.is_file():
                dead.append(f"{page}: {address}")
            else:
                waiting.append(target)
                if parts.fragment and f' id="{unquote(parts.fragment)}"' not in target.read_text(encoding="utf-8"):
                    dead.append(f"{page}: {address}")
    assert not dead, "\n".join(dead)
    lost = [page for page, text in found.items() if text and page != front.resolve() and f'{front.name}">' not in text]
    assert not lost, f"no way back from {', '.join(map(str, lost))}"
    return set(found)
