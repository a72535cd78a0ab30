"""From a request's body to the images that it brings: read with a cap, as multipart or as JSON."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from lorax.params import ServingParams
from lorax.serving.answers import RefusalError, overloaded, too_many
from lorax.serving.json_body import LONGEST_NAME, read_images

MULTIPART, JSON = "multipart/form-data", "application/json"

_MB = 1_000_000
_PIECE = 2**20
"""Bytes of a form that are parsed at a time."""

_DRAIN_S = 2.0
"""How long the rest of a refused body is still read: a client that is busy sending would not see the answer."""


@dataclass(frozen=True)
class Upload:
    """One image of a request, as it lies in the body."""

    name: str
    data: bytes | memoryview
    is_base64: bool = False


class Held:
    """How many bytes of requests are held at once; used by the event loop's thread alone."""

    def __init__(self, limit: int) -> None:
        self.limit, self.bytes = limit, 0

    def take(self, count: int) -> None:
        """Count these bytes in.

        Raises:
            RefusalError: there is no room for them.
        """
        if self.bytes + count > self.limit:
            raise overloaded("the server holds as many bytes of uploads as it may (serving.memory_mb).")
        self.bytes += count

    def give_back(self, count: int) -> None:
        self.bytes -= count


class Body:
    """The body of one request, read with a cap whether or not its length was announced; use as a context."""

    def __init__(self, chunks: AsyncIterator[bytes], announced: str | None, params: ServingParams, held: Held) -> None:
        self._chunks, self._announced, self._held = chunks, announced, held
        self._limit = int(params.max_request_mb * _MB)
        self._taken = 0
        self._data = bytearray()  # many small chunks would take many times their bytes

    async def read(self) -> bytearray:
        """The whole body.

        Raises:
            RefusalError: it is longer than `serving.max_request_mb`, or there is no room for it.
        """
        try:
            if self._announced is not None and int(self._announced) > self._limit:
                raise self._too_large(f"{self._announced} bytes are announced")
            return await self._read()
        except RefusalError:
            await self._drain()
            raise

    def close(self) -> None:
        """Give the room back."""
        self._held.give_back(self._taken)

    async def _read(self) -> bytearray:
        async for chunk in self._chunks:
            if self._taken + len(chunk) > self._limit:
                raise self._too_large(f"more than {self._limit} bytes came")
            self._held.take(len(chunk))
            self._taken += len(chunk)
            self._data += chunk
        return self._data

    async def _drain(self) -> None:
        try:
            async with asyncio.timeout(_DRAIN_S):
                async for _ in self._chunks:
                    pass
        except TimeoutError:
            return

    def _too_large(self, found: str) -> RefusalError:
        return RefusalError(
            413, "request_too_large", f"{found}; a request may have {self._limit} (serving.max_request_mb)."
        )


def parse(body: bytearray, content_type: str, params: ServingParams) -> list[Upload]:
    """The images of a request.

    Raises:
        RefusalError: the body is not what `content_type` says, of another type, or holds no image or too many.
    """
    kind, options = parse_options_header(content_type)
    if kind == MULTIPART.encode():
        uploads = _multipart(body, options.get(b"boundary", b""), params.max_images)
    elif kind == JSON.encode():
        uploads = _json(body, params.max_images)
    else:
        raise RefusalError(
            415, "unsupported_type", f"the content type is {content_type[:99]!r}; expected {MULTIPART} or {JSON}."
        )
    if not uploads:
        raise RefusalError(400, "no_images", "the request holds no image; expected at least one.")
    return uploads


def _json(body: bytearray, limit: int) -> list[Upload]:
    texts = read_images(body, limit)
    return [Upload(image.name or f"image {i}", image.data, True) for i, image in enumerate(texts)]


class _Parts:
    """Takes down what the multipart parser reads; a part's data stays in the body."""

    def __init__(self, body: bytearray, limit: int) -> None:
        self.uploads: list[Upload] = []
        self.is_whole = False
        self._body = memoryview(body).toreadonly()
        self._limit = limit
        self._headers: dict[bytes, bytes] = {}
        self._field = self._value = b""
        self._piece, self._before = b"", 0
        self._start: int | None = None
        self._size = 0

    def read(self, boundary: bytes) -> None:
        """Have the body parsed, piece by piece, since Python runs nothing else during one."""
        parser = MultipartParser(boundary, self._callbacks())
        for before in range(0, len(self._body), _PIECE):
            self._piece, self._before = bytes(self._body[before : before + _PIECE]), before
            parser.write(self._piece)
        parser.finalize()

    def _callbacks(self) -> Any:
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._on_field,
            "on_header_value": self._on_value,
            "on_header_end": self._on_header,
            "on_part_data": self._on_data,
            "on_part_end": self._end,
            "on_end": self._finish,
        }

    def _begin(self) -> None:
        if len(self.uploads) >= self._limit:
            raise too_many(self._limit)
        self._headers, self._start, self._size = {}, None, 0

    def _on_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _on_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header(self) -> None:
        self._headers[self._field.lower()] = self._value
        self._field = self._value = b""

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        if self._start is None:  # what looked like a boundary at the end of the piece before comes as a copy of one
            self._start = self._before + (start if data is self._piece else start - end)
        self._size += end - start

    def _end(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        name = options.get(b"filename")
        if name is None:
            field = options.get(b"name", b"").decode(errors="replace")[:LONGEST_NAME]
            raise RefusalError(
                400, "bad_multipart", f"part {field!r} is no file; expected files only, as curl -F images=@a.png"
            )
        shown = name.decode(errors="replace")[:LONGEST_NAME] or f"image {len(self.uploads)}"
        start = self._start or 0
        self.uploads.append(Upload(shown, self._body[start : start + self._size]))

    def _finish(self) -> None:
        self.is_whole = True


def _multipart(body: bytearray, boundary: bytes, limit: int) -> list[Upload]:
    if not boundary:
        raise RefusalError(400, "bad_multipart", "the content type names no boundary.")
    parts = _Parts(body, limit)
    try:
        parts.read(boundary)
    except FormParserError as error:
        raise RefusalError(400, "bad_multipart", f"the body is no multipart form: {error}.") from error
    if body and not parts.is_whole:
        raise RefusalError(400, "bad_multipart", "the body ends before its last boundary.")
    return parts.uploads
