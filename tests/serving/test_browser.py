"""Who gets verdicts in a real browser: the server's own page, and nobody else's."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from lorax.serving.model import Served
from lorax.serving.requests import VERDICTS
from tests.browser import STRANGER, browsing, page_of_a_stranger
from tests.serving.conftest import Running, Start, image

pytestmark = pytest.mark.slow

_ASK = """
const [url, data, done] = arguments;
const body = JSON.stringify({images: [{data}]});
fetch(url, {method: "POST", headers: {"Content-Type": "application/json"}, body})
  .then(answer => answer.text()).then(done, () => done("refused"));
"""
_SEND = """
const [url, data, done] = arguments;
fetch(url, {method: "POST", mode: "no-cors", body: JSON.stringify({images: [{data}]})})
  .then(() => done("sent"), () => done("not sent"));
"""


def test_a_servers_own_page_gets_a_verdict_and_no_other_page_asks_or_reads(
    start: Start, model: Served, tmp_path: Path
) -> None:
    running = start(model)
    server, data = running.http.base_url, base64.b64encode(image()).decode()
    url = f"{str(server).rstrip('/')}{VERDICTS}"
    with browsing(tmp_path) as browser, page_of_a_stranger() as port:
        for own in (server.host, "localhost"):
            browser.open(f"http://{own}:{server.port}/docs")
            browser.until(lambda: VERDICTS in browser.text())
            assert '"verdict"' in browser.run(_ASK, url.replace(server.host, own), data)
        judged = _judged(running)
        for other in (STRANGER, server.host):
            browser.open(f"http://{other}:{port}/")
            assert browser.run(_ASK, url, data) == "refused"
            browser.run(_SEND, url, data)
        browser.open(f"http://{STRANGER}:{server.port}/version")
        assert "its own pages only" in browser.text()
        assert _judged(running) == judged


def _judged(running: Running) -> list[str]:
    """How many images had which verdict so far."""
    return [line for line in running.http.get("/metrics").text.splitlines() if line.startswith("lorax_images_total{")]
