"""What is made of what a server says, or of its silence."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from lorax.errors import ServiceError
from lorax.services import embedded, prefect_api
from lorax.services.prefect_api import NoAnswerError, PrefectApi

pytestmark = pytest.mark.slow

SAYS: dict[str, list[tuple[int, bytes]]] = {
    "/api/here": [(200, b'{"name": "a"}')],
    "/api/busy": [(503, b"locked"), (503, b"locked"), (200, b'[{"name": "b"}]')],
    "/api/done": [(204, b"")],
    "/api/page": [(200, b"<html>")],
    "/api/refused": [(422, b"no such state")],
    "/api/moved": [(302, b"")],
    "/api/closed": [(401, b"")],
}


@pytest.fixture(scope="module")
def asked() -> Iterator[tuple[str, list[tuple[str, str, Any]]]]:
    """The address of a server that says what `SAYS` has, and what it was asked: path, authorization, body."""
    found: list[tuple[str, str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            found.append((self.path, self.headers.get("Authorization", ""), json.loads(body) if body else None))
            answers = SAYS.get(self.path, [(404, b"")])
            status, text = answers.pop(0) if len(answers) > 1 else answers[0]
            self.send_response(status)
            if status == 302:
                self.send_header("Location", "/api/here")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", found
    server.shutdown()
    server.server_close()


def test_an_answer_nothing_and_what_is_refused_are_told_apart(
    asked: tuple[str, list[tuple[str, str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefect_api, "AGAIN_S", 0.01)
    api = PrefectApi(f"{asked[0]}/api", "Basic x")
    assert api.get("here") == {"name": "a"}
    assert api.get("nowhere") is None
    assert api.rows("busy", {"limit": 1}) == [{"name": "b"}]
    assert api.post("done", [{"id": 1}]) is None
    assert asked[1][-1] == ("/api/done", "Basic x", [{"id": 1}])
    for path, says in (
        ("refused", "refused refused: 422 no such state"), ("moved", "refused moved: 302"),
        ("page", "is not Prefect's API"), ("closed", "it asks who you are"),
    ):  # fmt: skip
        with pytest.raises(ServiceError, match=says) as told:
            api.get(path)
        assert not isinstance(told.value, NoAnswerError)
    with pytest.raises(ServiceError, match="knows no nowhere"):
        api.post("nowhere", {})
    with pytest.raises(ServiceError, match=r"it is another workspace's: .*services\.prefect_port"):
        PrefectApi(f"{asked[0]}/api", is_embedded=True).get("closed")


def test_silence_is_an_error_of_its_own() -> None:
    with pytest.raises(NoAnswerError, match=r"does not answer: .*refused"):
        PrefectApi("http://127.0.0.1:9/api").get("here")


def test_whether_a_server_answers_a_password_in_its_address_is_sent(
    asked: tuple[str, list[tuple[str, str, Any]]],
) -> None:
    assert embedded._answers(f"{asked[0].replace('//', '//ann:p%40ss@')}/api/here", 5)
    assert asked[1][-1][1] == "Basic YW5uOnBAc3M="
    assert embedded._answers(f"{asked[0]}/api/closed", 5)
    assert not embedded._answers(f"{asked[0]}/api/nowhere", 5)
    assert not embedded._answers("http://127.0.0.1:9/health", 5)
