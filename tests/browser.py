"""A Chromium without a window, driven over its DevTools protocol, for the tests of what a reader sees."""

from __future__ import annotations

import base64
import itertools
import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import requests
import websocket  # comes with JupyterLab

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser")
# The middle of the last element that a selector finds and whose text is the one given; null until it can be clicked there.
MIDDLE = """((selector, text) => {
  const one = [...document.querySelectorAll(selector)].filter(one => text === null || one.textContent.trim() === text).at(-1);
  if (!one) return null;
  const before = one.getBoundingClientRect();
  one.scrollIntoView({block: "center"});
  const box = one.getBoundingClientRect(), x = box.x + box.width / 2, y = box.y + box.height / 2;
  return box.x === before.x && box.y === before.y && one.contains(document.elementFromPoint(x, y)) ? [x, y] : null;
})"""


class Page:
    """The one tab of a browser. `errors` has what went wrong on the page that it shows: console, scripts, and files not found."""

    def __init__(self, folder: Path):
        """Start a browser whose profile is kept in a folder."""
        options = ["--headless=new", "--remote-debugging-port=0", f"--user-data-dir={folder}", "--no-first-run"]
        options += ["--no-sandbox"] if os.geteuid() == 0 else []
        options += ["--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars", "--remote-allow-origins=*"]
        self.process = subprocess.Popen(
            [PROGRAM, *options, "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        port = wait_for(lambda: _first_line(folder / "DevToolsActivePort"), 60, "the browser to start")
        tabs = requests.get(f"http://127.0.0.1:{port}/json/list", timeout=30).json()
        (address,) = [tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page"]
        self._socket = websocket.create_connection(address, timeout=300)
        self._numbers, self.errors, self.loaded = itertools.count(1), [], False
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> Page:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        self.process.terminate()
        self.process.wait(30)

    def call(self, method: str, **parameters: Any) -> dict:
        """The answer to a command of the protocol. Events that come before it are taken in."""
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv())
            if message.get("id") == number:
                if "navigated" in message.get("error", {}).get("message", ""):  # the page was left meanwhile
                    return {"result": {}}
                assert "error" not in message, f"{method}: {message['error']}"
                return message["result"]
            self._take_in(message.get("method"), message.get("params", {}))

    def _take_in(self, event: str | None, about: dict) -> None:
        if event == "Page.loadEventFired":
            self.loaded = True
        elif event == "Page.javascriptDialogOpening":  # "leave this page?"
            self._socket.send(
                json.dumps({"id": 0, "method": "Page.handleJavaScriptDialog", "params": {"accept": True}})
            )
        elif event == "Runtime.exceptionThrown":
            details = about["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description") or details["text"])
        elif event == "Runtime.consoleAPICalled" and about["type"] == "error":
            self.errors.append(" ".join(str(one.get("value", one.get("description"))) for one in about["args"]))
        elif event == "Log.entryAdded" and about["entry"]["level"] == "error":
            self.errors.append(f"{about['entry']['text']} {about['entry'].get('url', '')}")

    def open(self, address: str | None = None, seconds: float = 120) -> None:
        """Go to an address and wait until the page and its files are there; None loads the same page again."""
        self.errors, self.loaded = [], False
        if address is None:
            self.call("Page.reload")
        else:
            answer = self.call("Page.navigate", url=address)
            assert "errorText" not in answer, f"{address}: {answer['errorText']}"
        wait_for(
            lambda: self.evaluate("document.readyState") and self.loaded, seconds, f"{address or 'the page'} to load"
        )

    def resize(self, width: int, height: int) -> None:
        """Give the page a size in pixels; below 600 it is a phone."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )

    def evaluate(self, script: str) -> Any:
        """The value of an expression on the page; a promise is waited for. None where the page is left meanwhile."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, f"{script}: {answer['exceptionDetails']}"
        return answer["result"].get("value")

    def wait(self, script: str, seconds: float, what: str) -> Any:
        """The value of an expression as soon as it is neither empty, false, nor zero."""
        return wait_for(lambda: self.evaluate(script), seconds, what)

    def click(self, selector: str, text: str | None = None, to_right: float = 0, times: int = 1) -> None:
        """Click the last element that a selector finds and that has this text, or drag it so many pixels to the right.

        Clicked three times, a line of text is marked.
        """
        call = f"{MIDDLE}({json.dumps(selector)}, {json.dumps(text)})"
        x, y = self.wait(call, 30, f"{selector} {text or ''} to click")
        for kind, right in (
            ("mouseMoved", 0),
            ("mousePressed", 0),
            ("mouseMoved", to_right),
            ("mouseReleased", to_right),
        ):
            button = "left" if kind != "mouseMoved" or right else "none"
            self.call("Input.dispatchMouseEvent", type=kind, x=x + right, y=y, button=button, clickCount=times)

    def write(self, text: str) -> None:
        """Write where the focus is."""
        self.call("Input.insertText", text=text)

    def screenshot(self, file: Path, whole: bool = False) -> None:
        """Keep what is seen as a PNG; `whole` keeps the page to its end."""
        answer = self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(base64.b64decode(answer["data"]))


def wait_for(condition, seconds: float, what: str) -> Any:
    """What a condition gives as soon as it holds; AssertionError when it does not in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.2)
    raise AssertionError(f"waited {seconds:g} s in vain for {what}")


def _first_line(file: Path) -> str:
    return file.read_text().partition("\n")[0] if file.is_file() else ""
