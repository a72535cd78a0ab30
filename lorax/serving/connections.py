"""A connection: uvicorn's, which by itself takes a request's head of any length, and waits for its end for ever."""

from __future__ import annotations

from asyncio import TimerHandle, Transport
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

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
