"""A JSON request, read where it lies: nothing is made of a body but the images that it may hold.

Parsers of JSON make objects of a whole body before anything can be asked of them, and 128 MB of `{},` are as many
objects as fill the memory. What may be sent is one shape, so it is read as such, and left at the first thing that is
something else. Strings are found by their ends and stay in the body.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from lorax.serving.answers import RefusalError, too_many

NAME, DATA = "name", "data"
LONGEST_NAME = 255

_LONGEST_ESCAPED = 12 * LONGEST_NAME
"""Bytes of a name's characters, each written as two \\u escapes at most."""

_SHAPE = '{"images": [{"name": "...", "data": "<base64>"}]}'
_BLANKS = re.compile(rb"[ \t\r\n]{0,65536}")  # in steps, since Python runs nothing else during one
_ESCAPE = len(rb"\u0000")
_MANY = 64
"""Backslashes in a row, which neither a name nor base64 has."""

_PIECE = 2**20
"""Bytes of a string that are unescaped at a time."""


@dataclass(frozen=True)
class Text:
    """One image of a request: what it is called, and the base64 that stands for it."""

    name: str
    data: bytes | memoryview


def read_images(body: bytes | bytearray, limit: int) -> list[Text]:
    """The images of a request.

    Args:
        limit: how many images it may hold.

    Raises:
        RefusalError: it holds more, or anything that is no image.
    """
    reader, images = _Reader(body), list[Text]()
    reader.expect(b"{", "body")
    if reader.word("body") != "images":
        raise _bad("body", "another key than 'images'")
    reader.expect(b":", "body")
    reader.expect(b"[", "images")
    if not reader.has(b"]"):
        images.append(_image(reader, "images.0"))
        while reader.has(b","):
            if len(images) == limit:
                raise too_many(limit)
            images.append(_image(reader, f"images.{len(images)}"))
        reader.expect(b"]", "images")
    reader.expect(b"}", "body")
    reader.expect(b"", "body")
    return images


def _image(reader: _Reader, where: str) -> Text:
    fields: dict[str, str | bytes | memoryview] = {}
    reader.expect(b"{", where)
    while not fields or reader.has(b","):
        key = reader.word(where)
        if key in fields or key not in (NAME, DATA):
            raise _bad(where, f"the key {key!r}{' twice' if key in fields else ''}")
        reader.expect(b":", where)
        fields[key] = reader.word(f"{where}.{key}") if key == NAME else reader.string(f"{where}.{key}")
    reader.expect(b"}", where)
    if DATA not in fields:
        raise _bad(where, f"no key {DATA!r}")
    name, data = fields.get(NAME, ""), fields[DATA]
    assert isinstance(name, str)
    assert not isinstance(data, str)
    return Text(name, data)


class _Reader:
    """Walks over the symbols of a body; a string, however long, is one step."""

    def __init__(self, body: bytes | bytearray) -> None:
        self._body, self._at = body, 0
        self._whole = memoryview(body).toreadonly()

    def has(self, symbol: bytes) -> bool:
        """Whether this symbol comes next; it is passed if so. b"" is the end."""
        is_there = self._next() == symbol
        self._at += is_there
        return is_there

    def expect(self, symbol: bytes, where: str) -> None:
        """Pass this symbol, or refuse the body."""
        if not self.has(symbol):
            found = self._next().decode("ascii", "replace")
            raise _bad(where, f"{found!r}" if found else "its end", f"{symbol.decode() or 'its end'!r}")

    def string(self, where: str) -> bytes | memoryview:
        """What stands between the next two quotes, without escapes; line breaks may be in it, as shells leave them."""
        self.expect(b'"', where)
        start = end = self._at
        for _ in range(_LONGEST_ESCAPED):
            end = self._body.find(b'"', end)
            if end < 0:
                raise _bad(where, "no end of its text")
            before = bytes(self._whole[max(start, end - _MANY) : end])
            backslashes = len(before) - len(before.rstrip(b"\\"))
            if backslashes == _MANY:
                break
            if backslashes % 2 == 0:
                self._at = end + 1
                has_escapes = self._body.find(b"\\", start, end) >= 0
                return b"".join(self._unescaped(start, end, where)) if has_escapes else self._whole[start:end]
            end += 1
        raise _bad(where, "a text of quotes and backslashes")

    def word(self, where: str) -> str:
        """A short string's characters."""
        word = self.string(where)
        if len(word) > _LONGEST_ESCAPED:
            raise _bad(where, f"{len(word)} bytes", f"at most {LONGEST_NAME} characters")
        try:
            text = bytes(word).decode()
        except UnicodeDecodeError as error:
            raise _bad(where, "what is no UTF-8") from error
        if len(text) > LONGEST_NAME:
            raise _bad(where, f"{len(text)} characters", f"at most {LONGEST_NAME}")
        return text

    def _next(self) -> bytes:
        while True:
            match = _BLANKS.match(self._body, self._at)
            assert match  # the empty one at least
            if match.end() == self._at:
                return bytes(self._whole[self._at : self._at + 1])
            self._at = match.end()

    def _unescaped(self, start: int, end: int, where: str) -> list[bytes]:
        parts = []
        while start < end:
            stop = min(start + _PIECE, end)
            if stop < end:  # not within an escape
                backslash = self._body.rfind(b"\\", stop - _ESCAPE, stop)
                stop = stop if backslash < 0 else backslash
            try:
                text = json.loads(b'"%b"' % bytes(self._whole[start:stop]), strict=False)
                parts.append(text.encode())
            except ValueError as error:  # no escape, no UTF-8, or half a character
                raise _bad(where, "escapes that stand for no text") from error
            start = stop
        return parts


def _bad(where: str, found: str, expected: str = "") -> RefusalError:
    wanted = f"{expected}, as in {_SHAPE}" if expected else _SHAPE
    return RefusalError(400, "bad_json", f"{where}: found {found}; expected {wanted}.")
