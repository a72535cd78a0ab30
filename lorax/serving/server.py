"""Running the server: its socket, its connections, its log, its end.

A connection is uvicorn's, which by itself takes a request's head of any length, and waits for its end for ever.
"""

from __future__ import annotations

import gc
import logging
import math
import resource
import signal
import socket
import time
import warnings
from asyncio import TimerHandle, Transport
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from lorax.errors import ServiceError
from lorax.network.building import import_timm
from lorax.params import ServingParams

MOST_HEAD_BYTES = 65_536
"""Of the request line and its headers, and of what else is no body: sizes of chunks, and what follows the last."""

MOST_HEAD_S = 10.0
"""From a connection, or a request's first byte, to the end of its headers."""

_AT_ONCE = 16_384
"""Bytes that are parsed at a time: what is whole within them is not counted."""


class Connection(HttpToolsProtocol):
    """Answers 431 to too much that is no body, and ends what does not come to the end of its headers in time.

    Args:
        head_s: at most `MOST_HEAD_S`.
        more: uvicorn's.
    """

    def __init__(self, *, head_s: float, **more: Any) -> None:
        super().__init__(**more)
        self._head_s = head_s
        self._is_within = False  # a request's body
        self._outside = 0  # bytes that came and were no body, since the last request or chunk was whole
        self._end: TimerHandle | None = None

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._set_end()

    def connection_lost(self, exc: Exception | None) -> None:
        self._unset_end()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._end is None and not self._is_within:
            self._set_end()
        for start in range(0, len(data), _AT_ONCE):
            part = data[start : start + _AT_ONCE]
            self._outside += len(part)
            super().data_received(part)
            if self.transport.is_closing():
                return
            if self._outside > MOST_HEAD_BYTES:
                self._refuse(431, f"There are more than {MOST_HEAD_BYTES} bytes of headers.")
                return

    def on_message_begin(self) -> None:
        if self._end is None:
            self._set_end()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._is_within = True
        self._unset_end()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._outside -= len(body)
        super().on_body(body)

    def on_chunk_complete(self) -> None:
        """A chunk was whole; httptools calls this."""
        self._outside = 0

    def on_message_complete(self) -> None:
        self._is_within, self._outside = False, 0
        super().on_message_complete()

    def _set_end(self) -> None:
        self._end = self.loop.call_later(self._head_s, self._give_up)

    def _unset_end(self) -> None:
        if self._end is not None:
            self._end.cancel()
            self._end = None

    def _give_up(self) -> None:
        self._end = None
        if self.cycle is not None and not self.cycle.response_complete:
            self._set_end()  # the request before is not answered yet
        elif self._outside and not self.transport.is_closing():
            self._refuse(408, f"The headers did not come within {self._head_s:g} s.")
        else:
            self.transport.close()

    def _refuse(self, status: int, reason: str) -> None:
        head = f"content-type: text/plain\r\ncontent-length: {len(reason)}\r\nconnection: close\r\n\r\n"
        self.transport.write(STATUS_LINE[status] + head.encode() + reason.encode())
        self.transport.close()


_BACKLOG = 4096
_GRACE_S = 5
_DESCRIPTORS = 10_240
"""That a process may have where none says otherwise: macOS allows no more, though it calls its limit infinite."""


def listen(host: str, port: int) -> socket.socket:
    """A socket of this address, which nobody can connect to yet.

    Raises:
        ServiceError: the address is taken, or not this machine's.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with ExitStack() as unless_bound:
            listener = unless_bound.enter_context(socket.socket(family, kind, protocol))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            unless_bound.pop_all()
    except OSError as error:
        raise ServiceError(
            f"can't listen at {host}:{port}: {error.strerror}. Choose another with --host and --port."
        ) from error
    return listener


def settle() -> None:
    """Import what a model needs, and have the garbage collector pass over all that was imported.

    It would walk half a million objects now and then, and every request would wait for it for half a second. Models are
    opened after this, since they come and go.
    """
    import_timm()
    gc.collect()
    gc.freeze()


class VerdictServer(uvicorn.Server):
    """The HTTP server; finishes what was begun before it ends.

    At SIGTERM it is not ready any more, as /health then says, and goes on answering for a while: who sends requests
    here needs that time to learn of it. After it, or at a second signal, it listens no more.

    Args:
        params: how long a request may take at most, and, up to `MOST_HEAD_S`, its headers; how long it drains.
    """

    def __init__(self, app: FastAPI, params: ServingParams, on_ready: Callable[[], None]) -> None:
        config = uvicorn.Config(
            app,
            http=partial(Connection, head_s=min(params.timeout_s, MOST_HEAD_S)),  # type: ignore[arg-type]  # makes one
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            backlog=_BACKLOG,
            timeout_graceful_shutdown=math.ceil(params.timeout_s) + _GRACE_S,
        )
        super().__init__(config)
        self._app, self._drain_s, self._on_ready = app, params.drain_s, on_ready
        self._ends_at = math.inf

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain at the first SIGTERM, end at any other signal; called by Python between two of its steps."""
        if sig != signal.SIGTERM or self._app.state.is_draining:
            super().handle_exit(sig, frame)
        else:
            self._app.state.is_draining, self._ends_at = True, time.monotonic() + self._drain_s

    async def on_tick(self, counter: int) -> bool:
        """Whether to end now; uvicorn asks ten times a second."""
        if time.monotonic() >= self._ends_at and not self.should_exit:
            super().handle_exit(signal.SIGTERM, None)
        return await super().on_tick(counter)


def run(server: VerdictServer, listener: socket.socket) -> None:
    """Serve until SIGTERM or Ctrl-C.

    Args:
        listener: from `listen`.
    """
    _allow_connections()
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("lorax").setLevel(logging.INFO)
    warnings.filterwarnings("ignore", module="PIL")  # of damaged uploads, which their senders are told about
    with suppress(KeyboardInterrupt):  # what Ctrl-C ends in, after all was answered
        server.run(sockets=[listener])


def _allow_connections() -> None:
    """A connection takes a file descriptor; systems often begin with 1024 of them, or 256, and allow more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _DESCRIPTORS)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    with suppress(OSError, ValueError):  # a system that allows less than it says
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
