"""A real browser (Chromium), driven through chromedriver by W3C's WebDriver protocol, and other people's pages."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

PATIENCE_S = 120.0
STRANGER = "stranger.example"
"""A host name that the browser takes for this machine's, as somebody else's name server could have it do."""

_OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-component-update"),
    *("--disable-background-networking", "--disable-sync", "--no-proxy-server", "--disable-dev-shm-usage"),
    f"--host-resolver-rules=MAP {STRANGER} 127.0.0.1",
)
_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # WebDriver's key for a reference to an element


@dataclass(frozen=True)
class Browser:
    """A session. `session` is its address at chromedriver."""

    session: str

    def open(self, url: str) -> None:
        _ask("POST", f"{self.session}/url", {"url": url})

    def run(self, script: str, *arguments: Any) -> Any:
        """What the page's script gives to its last argument, a function."""
        return _ask("POST", f"{self.session}/execute/async", {"script": script, "args": list(arguments)})

    def text(self) -> str:
        """What the page shows."""
        return str(self.run("arguments[0](document.body.innerText)"))

    def type(self, selector: str, text: str) -> None:
        """Type into the first element that a CSS selector finds, once it is there; "\\n" is the Enter key."""
        found = self.until(lambda: self._find(selector))
        _ask("POST", f"{self.session}/element/{found}/value", {"text": text.replace("\n", "\ue007")})

    def until(self, condition: Any) -> Any:
        """Wait until `condition` holds; returns what it said."""
        deadline = time.monotonic() + PATIENCE_S
        while not (found := condition()):
            assert time.monotonic() < deadline, f"waited in vain; the page shows:\n{self.text()}"
            time.sleep(0.2)
        return found

    def _find(self, selector: str) -> str | None:
        found = _ask("POST", f"{self.session}/elements", {"using": "css selector", "value": selector})
        return found[0][_ELEMENT] if found else None


@contextmanager
def browsing(folder: Path) -> Iterator[Browser]:
    """A browser with an empty profile in `folder`; where none is installed, the test is skipped."""
    program, driver = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("no Chromium with chromedriver is installed")
    port = _free_port()
    with subprocess.Popen(
        [driver, f"--port={port}"], stdout=subprocess.DEVNULL, env={**os.environ, "HOME": str(folder)}
    ) as process:
        try:
            address = f"http://127.0.0.1:{port}"
            _await_driver(address)
            options = {"binary": program, "args": [*_OPTIONS, f"--user-data-dir={folder / 'profile'}"]}
            wanted = {"goog:chromeOptions": options, "timeouts": {"script": int(1000 * PATIENCE_S)}}
            made = _ask("POST", f"{address}/session", {"capabilities": {"alwaysMatch": wanted}})
            session = f"{address}/session/{made['sessionId']}"
            try:
                yield Browser(session)
            finally:
                _ask("DELETE", session)  # a browser outlives its driver
        finally:
            process.terminate()


@contextmanager
def page_of_a_stranger() -> Iterator[int]:
    """An empty page on a port of its own, served under any name; yields the port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _EmptyPage)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()


class _EmptyPage(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>elsewhere</title>")

    def log_message(self, *_: Any) -> None:
        return


def _await_driver(address: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            _ask("GET", f"{address}/status")
            return
        except OSError:
            assert time.monotonic() < deadline, "chromedriver does not answer"
            time.sleep(0.1)


def _ask(method: str, url: str, body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=PATIENCE_S) as answer:
        return json.load(answer)["value"]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
