"""A real browser, driven over its own debugging protocol: Chromium, headless, with a profile of its own."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep
from typing import Final
from urllib.request import Request, urlopen

import pytest
from websockets.sync.client import connect
from websockets.sync.connection import Connection

from greenfly.demo.process import end_process
from tests.cli import dig

_PROGRAMS: Final = ("chromium", "chromium-browser", "google-chrome")
_START_SECONDS: Final = 40.0
_FLAGS: Final = (
    "--headless=new",
    "--remote-debugging-port=0",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-gpu",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--mute-audio",
    "--password-store=basic",
    "--window-size=1280,900",
)


def find_chromium() -> str | None:
    """The browser's program; None where there is none."""
    return next((found for name in _PROGRAMS if (found := shutil.which(name))), None)


@dataclass(slots=True)
class Tab:
    """One tab, and all that was told about it since it was opened."""

    connection: Connection
    errors: list[str] = field(default_factory=list)
    """What its console showed as an error, broken policies and scripts included."""
    requests: list[str] = field(default_factory=list)
    """Every address that it asked for."""
    _number: int = 0
    _loaded: int = 0

    def send(self, method: str, **values: object) -> dict[str, object]:
        """Ask the browser something, and take in what it tells meanwhile."""
        self._number += 1
        number = self._number
        self.connection.send(json.dumps({"id": number, "method": method, "params": values}))
        while True:
            message = self._take(30.0)
            if message.get("id") == number:
                assert "error" not in message, message
                result = message["result"]
                assert isinstance(result, dict)
                return result

    def go(self, address: str) -> None:
        """Open a page, and wait until it is there."""
        before = self._loaded
        told = self.send("Page.navigate", url=address)
        assert "errorText" not in told, told
        self._wait_for_load(before)

    def submit(self, selector: str) -> None:
        """Click what leads to another page, and wait until that is there."""
        before = self._loaded
        self.click(selector)
        self._wait_for_load(before)

    def click(self, selector: str) -> None:
        """Click the first that fits."""
        self.run(f"document.querySelector({json.dumps(selector)}).click()")

    def fill(self, selector: str, text: str) -> None:
        """Write into a field."""
        self.run(f"document.querySelector({json.dumps(selector)}).value = {json.dumps(text)}")

    def run(self, script: str) -> object:
        """The value of an expression in the page."""
        told = self.send("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in told, told
        return dig(told, "result").get("value")  # type: ignore[attr-defined]

    def text(self, selector: str = "main") -> str:
        """What a reader sees of the first that fits."""
        value = self.run(f"document.querySelector({json.dumps(selector)}).innerText")
        assert isinstance(value, str)
        return value

    def wait_until(self, script: str, seconds: float = 20.0) -> None:
        """Wait until an expression is true in the page."""
        until = monotonic() + seconds
        while self.run(script) is not True:
            assert monotonic() < until, f"not true within {seconds:g} s: {script}\n{self.text('body')}"
            sleep(0.1)

    def pause(self, seconds: float) -> None:
        """Take in what the browser tells for so long."""
        until = monotonic() + seconds
        while (left := until - monotonic()) > 0:
            with suppress(TimeoutError):
                self._take(left)

    def picture(self, path: Path) -> None:
        """The page as it is, as a PNG file."""
        told = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=False)
        path.write_bytes(base64.b64decode(str(told["data"])))

    def _wait_for_load(self, before: int) -> None:
        until = monotonic() + 30
        while self._loaded == before:
            self._take(max(0.1, until - monotonic()))

    def _take(self, seconds: float) -> dict[str, object]:
        message = json.loads(self.connection.recv(timeout=seconds))
        assert isinstance(message, dict)
        match message.get("method"):
            case "Page.loadEventFired":
                self._loaded += 1
            case "Network.requestWillBeSent":
                self.requests.append(str(dig(message, "params", "request", "url")))
            case "Runtime.exceptionThrown":
                self.errors.append(json.dumps(message["params"]))
            case "Runtime.consoleAPICalled" if dig(message, "params", "type") in ("error", "assert"):
                self.errors.append(json.dumps(message["params"]))
            case "Log.entryAdded" if dig(message, "params", "entry", "level") == "error":
                self.errors.append(json.dumps(message["params"]))
        return message


@contextmanager
def browser(folder: Path) -> Iterator[Tab]:
    """A browser with one empty tab; skips where there is no Chromium.

    :param folder: for its profile.
    """
    program = find_chromium()
    if program is None:
        pytest.skip(f"no browser: none of {', '.join(_PROGRAMS)} on PATH")
    sandbox = ["--no-sandbox"] if os.getuid() == 0 else []
    process = subprocess.Popen(
        [program, *_FLAGS, *sandbox, f"--user-data-dir={folder}", "about:blank"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        port = _port(folder, process)
        new = Request(f"http://127.0.0.1:{port}/json/new?about:blank", method="PUT")
        with urlopen(new, timeout=20) as answer:  # noqa: S310
            address = json.load(answer)["webSocketDebuggerUrl"]
        with connect(address, max_size=None, proxy=None, close_timeout=0.5) as connection:
            tab = Tab(connection)
            for area in ("Page", "Network", "Runtime", "Log"):
                tab.send(f"{area}.enable")
            yield tab
    finally:
        end_process(process)


def _port(folder: Path, process: subprocess.Popen[bytes]) -> int:
    told, until = folder / "DevToolsActivePort", monotonic() + _START_SECONDS
    while monotonic() < until and process.poll() is None:
        if told.exists() and (lines := told.read_text().splitlines()):
            return int(lines[0])
        sleep(0.05)
    pytest.skip(f"the browser does not start (ended with {process.poll()})")
