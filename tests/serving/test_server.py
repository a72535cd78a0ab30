"""How long a request's head may be, and how long it may take."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from lorax.params import ServingParams
from lorax.serving.model import Served
from lorax.serving.requests import VERDICTS
from lorax.serving.server import MOST_HEAD_BYTES
from tests.serving.conftest import SMALL, Running, running

pytestmark = pytest.mark.slow

HEALTH = b"GET /health HTTP/1.1\r\nHost: localhost\r\n"
CHUNKED = f"POST {VERDICTS} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
LONG = b"x" * 2 * MOST_HEAD_BYTES


@pytest.fixture(scope="module")
def hasty(model: Served) -> Iterator[Running]:
    """A server that waits 0.2 s for headers."""
    with running() as begin:
        yield begin(model, ServingParams(timeout_s=0.2))


@contextmanager
def connection(server: Running) -> Iterator[socket.socket]:
    with socket.create_connection((server.http.base_url.host, server.http.base_url.port or 0), timeout=20) as one:
        yield one


@pytest.mark.parametrize(
    "sent",
    [HEALTH + b"A: " + LONG, b"GET /" + LONG, CHUNKED + b"1;a=" + LONG, CHUNKED + b"1\r\nx\r\n0\r\nA: " + LONG],
    ids=["a header", "the address", "a chunk's size", "behind the last chunk"],
)
def test_headers_without_an_end_are_refused(served: Running, sent: bytes) -> None:
    with connection(served) as one:
        one.sendall(sent)
        assert b"HTTP/1.1 431 " in _all(one)


def test_a_body_in_many_small_chunks_is_none(served: Running) -> None:
    count = 4 * MOST_HEAD_BYTES // 6
    assert count < SMALL.max_request_mb * 1e6
    with connection(served) as one:
        one.sendall(CHUNKED.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        one.sendall(b"1\r\nx\r\n" * count + b"0\r\n\r\n")
        assert _all(one).startswith(b"HTTP/1.1 415 ")


@pytest.mark.parametrize(
    ("sent", "answer"),
    [(b"", b""), (HEALTH, b"HTTP/1.1 408 "), (HEALTH + b"\r\n" + HEALTH, b"HTTP/1.1 200 ")],
    ids=["nothing", "half a head", "half a second head"],
)
def test_headers_that_do_not_come_are_not_waited_for(hasty: Running, sent: bytes, answer: bytes) -> None:
    with connection(hasty) as one:
        one.sendall(sent)
        assert answer in _all(one)


def test_headers_that_trickle_in_are_not_waited_for(hasty: Running) -> None:
    with connection(hasty) as one:
        for byte in HEALTH:
            one.sendall(bytes([byte]))
            one.settimeout(0.02)
            try:
                assert one.recv(999).startswith(b"HTTP/1.1 408 ")
                return
            except TimeoutError:
                continue
    raise AssertionError("all of it was waited for")


def _all(one: socket.socket) -> bytes:
    """What is answered until the connection ends."""
    parts = []
    try:
        while part := one.recv(65536):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)
