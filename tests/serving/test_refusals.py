from __future__ import annotations

import base64
import socket
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import pytest

from lorax.params import ServingParams
from lorax.serving import answers, uploads
from lorax.serving.model import Served
from lorax.serving.requests import VERDICTS
from tests.serving.conftest import Gate, Running, Start, image

pytestmark = pytest.mark.slow


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims to be large."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(9))) + chunk(b"IEND", b"")


JPEG = image(kind="jpeg", size=(64, 64))
BAD_IMAGES = {
    "empty": (b"", 422, "empty"),
    "of nothing known": (b"<html><body>hello</body></html>", 415, "not_an_image"),
    "a truncated JPEG": (JPEG[: len(JPEG) // 2], 422, "damaged"),
    "a PNG that breaks off in its header": (image()[:20], 422, "damaged"),
    "more pixels than allowed": (image(size=(101, 100), kind="jpeg", quality=5), 413, "too_many_pixels"),
    "a bomb for this server": (bomb(20_000, 20_000), 413, "too_many_pixels"),
    "a bomb for Pillow": (bomb(2**30, 2**30), 413, "too_many_pixels"),
    "more bytes than allowed": (image(kind="bmp", size=(99, 99)), 413, "image_too_large"),
    "PostScript, which Ghostscript would run": (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        415,
        "not_an_image",
    ),
    "a JPEG of a thousand scans": (JPEG[:-2] + b"\xff\xda\x00\x03\x01" * 1000 + JPEG[-2:], 422, "damaged"),
}


@pytest.mark.parametrize("kind", BAD_IMAGES)
def test_a_bad_image_is_refused_with_its_reason(served: Running, kind: str) -> None:
    data, status, code = BAD_IMAGES[kind]
    answer = served.post(data)
    found = answers.Refused.model_validate(answer.json())
    assert (answer.status_code, found.error.code) == (status, code)
    assert found.results is not None
    assert found.results[0].error == found.error


def test_the_rest_of_a_request_is_judged_all_the_same(served: Running) -> None:
    answer = served.post(image(1), b"no image", image(2))
    assert answer.status_code == 200
    first, second, third = answers.Verdicts.model_validate(answer.json()).results
    assert isinstance(first, answers.ImageVerdict)
    assert isinstance(second, answers.ImageProblem)
    assert isinstance(third, answers.ImageVerdict)


def test_images_that_are_bad_in_different_ways_are_one_bad_request(served: Running) -> None:
    answer = served.post(b"", b"no image")
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "no_image_judged")
    assert [one["error"]["code"] for one in answer.json()["results"]] == ["empty", "not_an_image"]


BOUNDARY = {"content-type": "multipart/form-data; boundary=b"}
FIELD = b'--b\r\nContent-Disposition: form-data; name="images"\r\n\r\nhello\r\n--b--\r\n'
PNG = base64.b64encode(image()).decode()
BAD_REQUESTS: dict[str, tuple[dict[str, Any], int, str]] = {
    "no content type": ({"content": b"x"}, 415, "unsupported_type"),
    "another content type": ({"content": image(), "headers": {"content-type": "image/png"}}, 415, "unsupported_type"),
    "an encoded body": ({"json": {}, "headers": {"content-encoding": "gzip"}}, 415, "unsupported_type"),
    "no JSON": ({"content": b"{", "headers": {"content-type": "application/json"}}, 400, "bad_json"),
    "JSON too deep": ({"content": b"[" * 9999, "headers": {"content-type": "application/json"}}, 400, "bad_json"),
    "other JSON": ({"json": {"images": "x"}}, 400, "bad_json"),
    "an unknown key": ({"json": {"images": [{"data": PNG, "model": "x"}]}}, 400, "bad_json"),
    "no images": ({"json": {"images": []}}, 400, "no_images"),
    "too many in JSON": ({"json": {"images": [{"data": "aaaa"}] * 5}}, 413, "too_many_images"),
    "too many files": ({"files": [("images", b"x")] * 5}, 413, "too_many_images"),
    "wrong base64": ({"json": {"images": [{"data": "***"}]}}, 422, "bad_base64"),
    "no base64 but text": ({"json": {"images": [{"data": "ä"}]}}, 422, "bad_base64"),
    "no boundary": ({"content": b"x", "headers": {"content-type": "multipart/form-data"}}, 400, "bad_multipart"),
    "no parts": ({"content": b"hello", "headers": BOUNDARY}, 400, "bad_multipart"),
    "cut off": ({"content": FIELD[:70], "headers": BOUNDARY}, 400, "bad_multipart"),
    "a field, no file": ({"content": FIELD, "headers": BOUNDARY}, 400, "bad_multipart"),
    "an empty body": ({"content": b"", "headers": BOUNDARY}, 400, "no_images"),
    "a body too large": ({"content": bytes(60_000), "headers": BOUNDARY}, 413, "request_too_large"),
}


@pytest.mark.parametrize("kind", BAD_REQUESTS)
def test_a_bad_request_is_refused_with_its_reason(served: Running, kind: str) -> None:
    asked, status, code = BAD_REQUESTS[kind]
    answer = served.http.post(VERDICTS, **asked)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert answers.Refused.model_validate(answer.json()).error.reason


@pytest.mark.parametrize("piece", range(1, 12))
def test_a_form_is_read_alike_whatever_pieces_it_is_parsed_in(monkeypatch: pytest.MonkeyPatch, piece: int) -> None:
    monkeypatch.setattr(uploads, "_PIECE", piece)
    head = b'--b\r\nContent-Disposition: form-data; name="a"; filename="a.png"\r\n\r\n'
    datas = [b"", b"\r\n--", b"\r\n--\r\n-", b"x\r\n-\r", b"\r\n--a"]
    body = bytearray(b"\r\n".join(head + data for data in datas) + b"\r\n--b--\r\n")
    found = uploads.parse(body, BOUNDARY["content-type"], ServingParams())
    assert [bytes(one.data) for one in found] == datas


def test_a_body_in_chunks_has_the_same_limit(served: Running) -> None:
    def chunks() -> Iterator[bytes]:
        yield from (bytes(10_000) for _ in range(7))

    answer = served.http.post(VERDICTS, content=chunks(), headers=BOUNDARY)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")


def test_a_body_that_does_not_come_is_not_waited_for(start: Start, model: Served) -> None:
    running = start(model, ServingParams(timeout_s=0.2))
    with socket.create_connection((running.http.base_url.host, running.http.base_url.port or 0)) as connection:
        connection.sendall(f"POST {VERDICTS} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nabc".encode())
        connection.settimeout(20)
        assert connection.recv(9999).startswith(b"HTTP/1.1 408 ")


def test_more_than_may_wait_is_told_to_come_again(start: Start, gated: tuple[Served, Gate]) -> None:
    model, gate = gated
    running = start(model, ServingParams(queue=1))
    try:
        answer = running.post(image(), image())
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "overloaded")
        assert int(answer.headers["retry-after"]) > 0
    finally:
        gate.is_open.set()
    assert running.post(image()).status_code == 200


def test_more_bytes_than_there_is_room_for_are_told_to_come_again(start: Start, model: Served) -> None:
    running = start(model, ServingParams(memory_mb=0.001))
    answer = running.post(image(kind="bmp"))
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "overloaded")
    assert running.post(image(size=(2, 2))).status_code == 200


def test_images_that_are_not_judged_in_time_are_given_up(start: Start, gated: tuple[Served, Gate]) -> None:
    model, gate = gated
    running = start(model, ServingParams(timeout_s=0.2))
    try:
        answer = running.post(image())
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "overloaded")
    finally:
        gate.is_open.set()
    assert running.post(image()).status_code == 200


@pytest.mark.parametrize("address", [VERDICTS, "/health", "/version", "/metrics", "/docs"])
@pytest.mark.parametrize("header", [{"Host": "attacker.example"}, {"Origin": "http://attacker.example"}])
def test_other_peoples_pages_and_names_are_not_answered(served: Running, address: str, header: dict[str, str]) -> None:
    method = "POST" if address == VERDICTS else "GET"
    assert served.http.request(method, address, headers=header).status_code == 403


def test_its_own_page_and_the_names_that_it_was_given_are_answered(start: Start, model: Served) -> None:
    http = start(model, ServingParams(hosts=("Verdicts.example",))).http
    port = http.base_url.port
    for host, origin in (
        (f"localhost:{port}", f"http://127.0.0.1:{port}"),
        ("verdicts.example", "https://verdicts.example"),  # as a proxy passes it on
    ):
        assert http.get("/health", headers={"Host": host, "Origin": origin}).status_code == 200


def test_other_addresses_and_methods_are_told_where_to_look(served: Running) -> None:
    assert served.http.get("/nowhere").json()["error"]["code"] == "not_found"
    assert served.http.get(VERDICTS).json()["error"]["code"] == "method_not_allowed"
