"""What is done at every request, whatever it asks for: its id, its token, its count, its line in the access log."""

from __future__ import annotations

import hmac
import os
import re
import sys
import time
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import orjson

from lorax.serving.meters import Meters

VERDICTS, TILES, MODEL, HEALTH = "/v1/verdicts", "/v1/tiles", "/v1/model", "/health"
_COUNTED = frozenset({VERDICTS, TILES, MODEL, HEALTH, "/version", "/metrics"})

PAGE, PAGE_FILES = "/", "/page/"
"""Where the page for people is, and what its scripts and styles lie below."""

_OPEN = frozenset({HEALTH, PAGE, "/docs", "/openapi.json"})
"""What needs no token: probes have none, and a page can't be opened with one. They tell nothing that is secret."""

_OPEN_BELOW = (PAGE_FILES, "/static-offline-docs/")
_ID = re.compile(rb"[!-~]{1,128}")
_REQUEST_ID = b"x-request-id"
_UNAUTHORIZED = {
    "code": "unauthorized",
    "reason": "no token, or another one, was sent; expected 'Authorization: Bearer TOKEN' with what LORAX_TOKEN holds "
    "where the server runs.",
}

Scope = MutableMapping[str, Any]
Handler = Callable[[Scope], Awaitable[None]]
_App = Callable[[Scope, Callable[[], Awaitable[Scope]], Handler], Awaitable[None]]


def to_standard_output(line: bytes) -> None:
    """Write a line of the access log; where that can't be, on a full disk or to a reader that has gone, it is lost."""
    with suppress(OSError):  # verdicts go on
        os.write(sys.stdout.fileno(), line)


class Requests:
    """An ASGI application around the server's own.

    An id that comes with a request (X-Request-ID) goes back with the answer; a request without gets one. What a handler
    puts into `request.state` is in the log: `images`, how many it was asked about, and `version`, that judged them.

    Args:
        app: what answers.
        meters: where requests are counted by address and status.
        token: that requests have to bear; '' for none.
        log: told a line of JSON after each answer; None keeps no log.
        is_draining: whether the server is about to end. Connections are then closed after their answer, so that who
            asks next goes elsewhere.
    """

    def __init__(
        self,
        app: _App,
        meters: Meters,
        token: str,
        log: Callable[[bytes], None] | None,
        is_draining: Callable[[], bool],
    ) -> None:
        self._app, self._meters, self._log, self._is_draining = app, meters, log, is_draining
        self._bearer = f"Bearer {token}".encode() if token else b""

    async def __call__(self, scope: Scope, receive: Callable[[], Awaitable[Scope]], send: Handler) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status, headers = time.perf_counter(), 500, dict(scope["headers"])
        given = headers.get(_REQUEST_ID, b"")
        own_id = given if _ID.fullmatch(given) else uuid.uuid4().hex.encode()
        state = scope.setdefault("state", {})

        async def noted(message: Scope) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (_REQUEST_ID, own_id)]
                if self._is_draining():
                    message["headers"].append((b"connection", b"close"))
            await send(message)

        try:
            if self._may_pass(scope["path"], headers.get(b"authorization", b"")):
                await self._app(scope, receive, noted)
            else:
                await _refuse(noted)
        finally:
            path = scope["path"]
            self._meters.requests.labels(path if path in _COUNTED else "other", str(status)).inc()
            if self._log is not None:
                self._log(_line(scope, state, own_id, status, time.perf_counter() - began))

    def _may_pass(self, path: str, said: bytes) -> bool:
        is_open = not self._bearer or path in _OPEN or path.startswith(_OPEN_BELOW)
        return is_open or hmac.compare_digest(said, self._bearer)


async def _refuse(send: Handler) -> None:
    headers = [(b"content-type", b"application/json"), (b"www-authenticate", b"Bearer"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": 401, "headers": headers})
    await send({"type": "http.response.body", "body": orjson.dumps({"error": _UNAUTHORIZED})})


def _line(scope: Scope, state: MutableMapping[str, Any], own_id: bytes, status: int, seconds: float) -> bytes:
    """A request in the access log."""
    record = {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "request_id": own_id.decode(),
        "client": (scope.get("client") or ("",))[0],
        "method": scope["method"],
        "path": scope["path"],
        "status": status,
        "seconds": round(seconds, 6),
        **{name: state[name] for name in ("images", "version") if name in state},
    }
    return orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)
