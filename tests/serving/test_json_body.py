"""What a JSON request may hold, and that nothing is made of anything else."""

from __future__ import annotations

import json
import tracemalloc

import pytest

from lorax.serving import json_body
from lorax.serving.answers import RefusalError
from lorax.serving.json_body import read_images

ASKED = {"images": [{"name": 'ä "q" \\ \U0001f600', "data": "QUJD+/=="}, {"data": "", "name": "\t"}]}


def read(body: bytes, limit: int = 4) -> list[tuple[str, bytes]]:
    return [(image.name, bytes(image.data)) for image in read_images(body, limit)]


@pytest.mark.parametrize("written", [{}, {"indent": 2}, {"separators": (",", ":")}, {"ensure_ascii": False}])
def test_json_is_read_however_it_is_written(written: dict[str, int]) -> None:
    expected = [(one.get("name", ""), one["data"].encode()) for one in ASKED["images"]]
    assert read(json.dumps(ASKED, **written).encode()) == expected  # type: ignore[arg-type]
    assert read(b'{"images":[]}') == []


def test_escapes_in_base64_are_resolved_wherever_they_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_body, "_PIECE", 7)
    text = rb"AAAA\/\u002BBBB\n\/\/\u002f"
    assert read(b'{"images":[{"data":"%b"}]}' % text) == [("", b"AAAA/+BBB\n///")]


def test_line_breaks_in_a_text_are_taken_as_shells_leave_them() -> None:
    assert read(b'{"images":[{"data":"QUJD\nQUJD"}]}') == [("", b"QUJD\nQUJD")]


@pytest.mark.parametrize(
    ("body", "where"),
    [
        (b"", "body: found its end"),
        (b'{"images":[]} x', "body: found 'x'"),
        (b'{"pictures":[]}', "another key"),
        (b'{"images":[{}]}', "images.0: found '}'"),
        (b'{"images":[{"name":"a"}]}', "no key 'data'"),
        (b'{"images":[{"data":5}]}', "images.0.data: found '5'"),
        (b'{"images":[{"data":"","data":""}]}', "'data' twice"),
        (b'{"images":[{"data":""},]}', "images.1: found ']'"),
        (b'{"images":[{"data":"AAAA', "no end of its text"),
        (b'{"images":[{"data":"\\x"}]}', "escapes that stand for no text"),
        (b'{"images":[{"name":"\\ud800","data":""}]}', "escapes that stand for no text"),
        (b'{"images":[{"name":"\xff","data":""}]}', "no UTF-8"),
        (b'{"images":[{"name":"%b","data":""}]}' % (b"a" * 256), "256 characters"),
        (b'{"images":[{"name":"%b","data":""}]}' % (b"\\\\" * 5000), "quotes and backslashes"),
        (b'{"images":[{"data":"%b"}]}' % (b'\\"' * 5000), "quotes and backslashes"),
    ],
)
def test_anything_else_is_refused_with_its_place(body: bytes, where: str) -> None:
    with pytest.raises(RefusalError, match=r"bad_json") as caught:
        read(body)
    assert where in caught.value.reason


@pytest.mark.parametrize("item", [b'{"x":1}', b"{}", b'{"data":""}', b"[]", b"   "])
def test_a_body_of_many_small_things_takes_no_memory_but_its_own(item: bytes) -> None:
    body = b'{"images":[' + b",".join([item] * (2_000_000 // (len(item) + 1))) + b"]}"
    tracemalloc.start()
    try:
        with pytest.raises(RefusalError):
            read(body)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 100_000
