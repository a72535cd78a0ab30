"""Image files sent as base64, as programs write it."""

from __future__ import annotations

import base64

import pytest

from lorax.data import encoding
from lorax.data.encoding import from_base64
from lorax.errors import ImageError

DATA = bytes(range(256)) + b"\xfb\xff\xfe"
PLAIN = base64.b64encode(DATA)
WRITTEN = {
    "plainly": PLAIN,
    "by 'base64 FILE'": base64.encodebytes(DATA),
    "with DOS line ends": base64.encodebytes(DATA).replace(b"\n", b"\r\n"),
    "url-safe": base64.urlsafe_b64encode(DATA),
    "as a data: URI": b"data:image/png;charset=x;base64," + PLAIN,
}


@pytest.mark.parametrize("missing", [0, 1, 2])
@pytest.mark.parametrize("how", WRITTEN)
def test_base64_is_taken_however_programs_write_it(monkeypatch: pytest.MonkeyPatch, how: str, missing: int) -> None:
    expected = DATA[: len(DATA) - missing]
    text = WRITTEN[how] if not missing else WRITTEN[how].replace(PLAIN, base64.b64encode(expected))
    if missing and text == WRITTEN[how]:
        text = base64.encodebytes(expected)
    for piece in (1, 5, 2**20):
        monkeypatch.setattr(encoding, "_PIECE", piece)
        assert from_base64(text, "x") == from_base64(memoryview(text.rstrip(b"=\r\n")), "x") == expected


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"AAA*", r"x is not base64: found b'\*' in it"),
        (b"AA==BBBB", "found b'B' (in it|behind its end)"),
        (b"AA==\n\n\n\nBBBB", "found b'B' (in it|behind its end)"),
        (b"AAAAA", "breaks off"),
        ("ä".encode(), "is not base64"),
        (b"data:text/plain,hello", "data: URI of something else"),
    ],
)
def test_what_is_none_is_told_why(monkeypatch: pytest.MonkeyPatch, text: bytes, why: str) -> None:
    for piece in (4, 2**20):
        monkeypatch.setattr(encoding, "_PIECE", piece)
        with pytest.raises(ImageError, match=why):
            from_base64(text, "x")
