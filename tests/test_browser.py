"""What a reader sees, in a real browser: the tour in JupyterLab as `make lab` opens it, and every page of the site.

`pytest tests/test_browser.py` runs both; `make test` leaves JupyterLab out, which takes some minutes. Debian's package
`chromium` is the browser. INVDENOISE_SCREENSHOTS names a folder for screenshots, which are for a person to look at: without it
there are none of the site.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from browser import PROGRAM, Page, wait_for
from links import follow
from PIL import Image

from invdenoise import paths
from invdenoise.report.compare import read_results
from invdenoise.report.page import write_report
from invdenoise.report.site import notebook_page

pytestmark = [pytest.mark.slow, pytest.mark.skipif(PROGRAM is None, reason="no chromium here")]
KEPT = os.environ.get("INVDENOISE_SCREENSHOTS")
DESKTOP, PHONE = (1280, 900), (390, 844)


@pytest.fixture(scope="module")
def screenshots(tmp_path_factory) -> Path:
    """Where screenshots are kept."""
    return Path(KEPT or tmp_path_factory.mktemp("screenshots"))


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Page(tmp_path_factory.mktemp("profile")) as page:
        yield page


# --- The site


# A page as a reader has scrolled through it: pictures further down load too. Gives those that do not show.
SHOW_ALL = """Promise.all([...document.images].map(one => {
  one.loading = "eager";
  return one.decode().then(() => null, () => one.alt || one.src.slice(0, 80));
})).then(found => found.filter(Boolean))"""
# What makes a page wider than it should be: elements that stick out, other than inside a part that scrolls by itself.
TOO_WIDE = """((width) => {
  if (document.documentElement.scrollWidth <= width) return [];
  const scrolls = one => one !== document.body && ["auto", "scroll", "hidden"].includes(getComputedStyle(one).overflowX);
  const inside = one => one && (scrolls(one) || inside(one.parentElement));
  return [...document.body.querySelectorAll("*")]
    .filter(one => one.getBoundingClientRect().right > width + 1 && !inside(one.parentElement)).slice(0, 3)
    .map(one => `${one.tagName} ${one.className} ${one.textContent.trim().slice(0, 40)}`);
})"""


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """Front page of the released site, written anew."""
    folder = tmp_path_factory.mktemp("site")
    return write_report(read_results(paths.RELEASED), None, "released", folder)


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=lambda size: f"{size[0]} pixels")
def test_every_page_of_the_site_fits_and_loads_without_errors(site, browser, screenshots, size):
    browser.resize(*size)
    wrong = []
    for page in sorted(file for file in follow(site) if file.suffix == ".html"):
        browser.open(page.as_uri())
        name = page.relative_to(site.parent.resolve()).with_suffix("").as_posix()
        wrong += [f"{name}: does not show: {picture}" for picture in browser.evaluate(SHOW_ALL)]
        wrong += [f"{name}: sticks out: {one}" for one in browser.evaluate(f"{TOO_WIDE}({size[0]})")]
        if KEPT:  # whole pages take seconds each
            browser.screenshot(screenshots / f"site-{size[0]}" / f"{name.replace('/', '-')}.png", whole=True)
        wrong += [f"{name}: {error}" for error in browser.errors]
    assert not wrong, "\n".join(wrong)


# The widths of the last picture of a page: as it is shown, as it is stored, and of the page.
WIDTHS = """(() => {
  const one = [...document.images].at(-1);
  return [one.getBoundingClientRect().width, one.naturalWidth, document.documentElement.scrollWidth];
})()"""


def test_a_picture_of_a_notebook_opens_in_full_size_on_a_phone(site, browser, screenshots):
    browser.resize(*PHONE)
    browser.open((site.parent / notebook_page("00_tour")).as_uri())
    small, stored, page = browser.evaluate(WIDTHS)
    assert small < page <= PHONE[0] < stored
    browser.click(".zoom .open")
    browser.wait("location.hash.startsWith('#picture-')", 10, "the picture to open")
    assert browser.evaluate(WIDTHS) == [stored, stored, page]
    if KEPT:
        browser.screenshot(screenshots / "picture.png")
    browser.click(".zoom:target .close")
    browser.wait("location.hash.startsWith('#at-picture-')", 10, "the picture to close")
    assert browser.evaluate(WIDTHS) == [small, stored, page]
    browser.evaluate("history.back()")  # as the button of the phone does
    browser.wait("location.hash.startsWith('#picture-')", 10, "the picture to open again")
    browser.evaluate("history.go(-1)")
    browser.wait("location.hash === ''", 10, "the page without a picture")
    assert browser.evaluate(WIDTHS) == [small, stored, page] and not browser.errors


# --- JupyterLab


CELLS = '[...document.querySelectorAll(".jp-Notebook .jp-Cell")]'
SLIDER = ".jp-OutputArea .widget-hslider:has(.noUi-handle)"
# The last number in dB that stands below the sliders.
SHOWN = f"""(() => {{
  const cell = {CELLS}.find(one => one.querySelector("{SLIDER}"));
  const found = cell ? cell.textContent.match(/denoised ([\\d.]+) dB/) : null;
  return found ? Number(found[1]) : null;
}})()"""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A copy of the checkout, since JupyterLab saves the notebooks that it shows."""
    folder = tmp_path_factory.mktemp("lab") / "invdenoise"
    ignored = shutil.ignore_patterns("__pycache__", "cache", ".ipynb_checkpoints", "runs", "scores", "smoke")
    for name in ("lib", "notebooks", "data", "results/weights"):
        shutil.copytree(paths.ROOT / name, folder / name, ignore=ignored)
    for name in ("Makefile", "README.md"):
        shutil.copy(paths.ROOT / name, folder)
    shutil.copytree(paths.RELEASED / "tables", folder / "results" / "released" / "tables")
    return folder


@pytest.fixture(scope="module")
def lab(checkout, browser):
    """The tour as `make lab` opens it; gives the folder of results."""
    settings, results = checkout.parent / "settings", checkout.parent / "results"
    settings.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = {"open_browser": False, "allow_root": True, "port": port}
    (settings / "jupyter_server_config.json").write_text(json.dumps({"ServerApp": server}))
    places = {
        "JUPYTER_CONFIG_DIR": settings,
        "JUPYTER_RUNTIME_DIR": settings / "runtime",
        "IPYTHONDIR": settings,
        "JUPYTER_DATA_DIR": settings,
    }
    places |= {"INVDENOISE_RESULTS": results, "INVDENOISE_CACHE": paths.cache_dir()}
    log = checkout.parent / "jupyterlab.log"
    with log.open("w") as output:
        server = subprocess.Popen(
            ["make", "lab", f"BIN={Path(sys.executable).parent}"], cwd=checkout, stdout=output, stderr=output,
            env=os.environ | {name: str(place) for name, place in places.items()}, start_new_session=True,
        )  # fmt: skip
        try:
            # The file that JupyterLab hands to the reader's browser: it leads to the server, with the token.
            (front,) = wait_for(
                lambda: [file for file in settings.glob("runtime/*-open.html") if "token=" in file.read_text()],
                120,
                f"JupyterLab; {log}",
            )
            browser.resize(*DESKTOP)
            browser.open(front.as_uri())
            browser.wait(f"{CELLS}.length > 10", 240, "the tour to open")
            yield results
        finally:
            os.killpg(server.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(20)
            with contextlib.suppress(ProcessLookupError):  # kernels that did not listen
                os.killpg(server.pid, signal.SIGKILL)
            server.wait(20)


def run_all(page: Page) -> None:
    """Run ▸ Run All Cells, and wait until the last cell has run; AssertionError for a cell that fails."""
    wait_until_idle(page)
    started = f'{CELLS}.some(one => one.textContent.includes("[*]:"))'
    for _ in range(3):  # a click that comes while JupyterLab is still connecting to the kernel does nothing
        page.click(".jp-Notebook h1")  # the notebook in front, and no menu open
        page.click(".lm-MenuBar-item", "Run")
        page.click(
            ".lm-Menu-item[data-command='notebook:run-all-cells'], .lm-Menu-item[data-command='runmenu:run-all']"
        )
        with contextlib.suppress(AssertionError):
            page.wait(started, 10, "the cells to start")
            break
    else:
        raise AssertionError("no cell started")
    wait_until_idle(page)
    failed = page.evaluate(
        "[...document.querySelectorAll('[data-mime-type=\"application/vnd.jupyter.error\"]')].map(one => one.textContent)"
    )
    assert not failed, failed


def wait_until_idle(page: Page, seconds: float = 300) -> None:
    """Until the kernel is there and no cell waits for it."""
    page.wait(
        "document.querySelector('.jp-Notebook-ExecutionIndicator')?.dataset.status === 'idle' && "
        f'!{CELLS}.some(one => one.textContent.includes("[*]:"))',
        seconds,
        "the kernel to be idle",
    )


def move_slider(page: Page) -> tuple[float, float]:
    """Drag the last slider, of the thresholds, to the left; the PSNR shown before and after."""
    before = page.wait(SHOWN, 60, "a PSNR below the sliders")
    page.click(f"{SLIDER} .noUi-handle", to_right=-40)
    return before, page.wait(f"{SHOWN} !== {before} && {SHOWN}", 60, "another PSNR")


def save_and_reload(page: Page) -> None:
    page.click(".lm-MenuBar-item", "File")
    page.click(".lm-Menu-item[data-command='docmanager:save']")
    page.wait("!document.querySelector('.jp-mod-dirty')", 60, "the notebook to be saved")
    page.open()
    page.wait(f"{CELLS}.length > 10", 240, "the tour to open again")
    wait_until_idle(page)


def set_parameter(page: Page, name: str, value: object) -> None:
    """Write another value in the line of a parameter."""
    begins = f"[...document.querySelectorAll('.cm-line')].map(one => one.textContent).find(one => one.startsWith('{name} ='))"
    page.click(".cm-line", page.evaluate(begins).strip(), times=3)
    page.write(f"{name} = {value!r}\n")


@pytest.mark.lab
def test_the_tour_in_jupyterlab(lab, checkout, browser, screenshots, tmp_path):
    """A reader's visit. After a reload a saved notebook goes on as it was, with its kernel; nothing need be run again."""
    keep = screenshots / "lab"
    # The file browser shows the top of the checkout.
    listed = "[...document.querySelectorAll('.jp-DirListing-itemText')].map(one => one.textContent)"
    wanted = ("README.md", "notebooks", "results")
    browser.wait(" && ".join(f"{listed}.includes('{name}')" for name in wanted), 60, "README.md and results")
    browser.screenshot(keep / "1-opened.png")
    run_all(browser)
    before, after = move_slider(browser)
    assert after < before, "lower thresholds leave noise in"
    browser.screenshot(keep / "2-slider.png")

    save_and_reload(browser)
    assert browser.wait(SHOWN, 60, "the picture below the sliders to come back") == after
    before, after = move_slider(browser)
    assert after < before
    browser.screenshot(keep / "3-slider-after-reload.png")

    own = tmp_path / "mine.png"
    Image.fromarray(np.tile(np.linspace(40, 200, 60).astype(np.uint8), (48, 1))).save(own)
    set_parameter(browser, "picture_path", str(own))
    run_all(browser)
    said = browser.evaluate(f'{CELLS}.map(one => one.textContent).find(one => one.includes("mine: 60 x 48 pixels"))')
    written = sorted((lab / "tour").glob("mine-*.png"))
    assert [Image.open(file).size for file in written] == 2 * [(60, 48)]
    assert said and all(str(file) in said for file in written), "a whole path, as it is outside the checkout"
    browser.evaluate(f'{CELLS}.find(one => one.textContent.includes("mine: 60 x 48 pixels")).scrollIntoView()')
    browser.screenshot(keep / "4-own-picture.png")
