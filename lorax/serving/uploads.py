"""From a request's body to the images that it brings: read with a cap, as multipart or as JSON."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from lorax.params import ServingParams
from lorax.serving.refusal import RefusalError, overloaded

MULTIPART, JSON = "multipart/form-data", "application/json"

_MB = 1_000_000
_LONGEST_NAME = 255
_DRAIN_S = 2.0
"""How long the rest of a refused body is still read: a client that is busy sending would not see the answer."""


@dataclass(frozen=True)
class Upload:
    """One image of a request, as it was sent."""

    name: str
    data: bytes
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

    async def read(self) -> bytes:
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

    async def _read(self) -> bytes:
        parts = []
        async for chunk in self._chunks:
            if self._taken + len(chunk) > self._limit:
                raise self._too_large(f"more than {self._limit} bytes came")
            self._held.take(len(chunk))
            self._taken += len(chunk)
            parts.append(chunk)
        return b"".join(parts) if len(parts) > 1 else (parts or [b""])[0]

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


def parse(body: bytes, content_type: str, params: ServingParams) -> list[Upload]:
    """The images of a request.

    Raises:
        RefusalError: the body is not what `content_type` says, of another type, or holds no image or too many.
    """
    kind, options = parse_options_header(content_type)
    if kind == MULTIPART.encode():
        found = _multipart(body, options.get(b"boundary", b""), params.max_images)
    elif kind == JSON.encode():
        found = _json(body, params.max_images)
    else:
        raise RefusalError(
            415, "unsupported_type", f"the content type is {content_type[:99]!r}; expected {MULTIPART} or {JSON}."
        )
    if not found:
        raise RefusalError(400, "no_images", "the request holds no image; expected at least one.")
    return found


def too_many(limit: int) -> RefusalError:
    return RefusalError(
        413, "too_many_images", f"the request holds more than {limit} images; expected at most that many "
        "(serving.max_images)."
    )  # fmt: skip


class Base64Image(BaseModel):
    """One image of a JSON request."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"name": "a.png", "data": "iVBORw0K..."}})

    data: str = Field(description="the file's bytes as base64, or a data: URI of them")
    name: str = Field("", max_length=_LONGEST_NAME, description="what the answer calls it; its place if not given")


class Base64Images(BaseModel):
    """A JSON request."""

    model_config = ConfigDict(extra="forbid")

    images: list[Base64Image]


def _json(body: bytes, limit: int) -> list[Upload]:
    try:
        found = Base64Images.model_validate_json(body).images
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"])) or "body"
        raise RefusalError(
            400, "bad_json", f'{where}: {first["msg"]}; expected {{"images": [{{"name": "...", "data": "<base64>"}}]}}.'
        ) from error
    if len(found) > limit:
        raise too_many(limit)
    return [Upload(image.name or f"image {i}", image.data.encode(), True) for i, image in enumerate(found)]


class _Parts:
    """Takes down what the multipart parser reads."""

    def __init__(self, limit: int) -> None:
        self.uploads: list[Upload] = []
        self.is_whole = False
        self._limit = limit
        self._headers: dict[bytes, bytes] = {}
        self._field = self._value = b""
        self._data: list[bytes] = []

    def callbacks(self) -> Any:
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
        self._headers, self._data = {}, []

    def _on_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _on_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header(self) -> None:
        self._headers[self._field.lower()] = self._value
        self._field = self._value = b""

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        self._data.append(data[start:end])

    def _end(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        name = options.get(b"filename")
        if name is None:
            field = options.get(b"name", b"").decode(errors="replace")[:_LONGEST_NAME]
            raise RefusalError(
                400, "bad_multipart", f"part {field!r} is no file; expected files only, as curl -F images=@a.png"
            )
        shown = name.decode(errors="replace")[:_LONGEST_NAME] or f"image {len(self.uploads)}"
        self.uploads.append(Upload(shown, b"".join(self._data)))

    def _finish(self) -> None:
        self.is_whole = True


def _multipart(body: bytes, boundary: bytes, limit: int) -> list[Upload]:
    if not boundary:
        raise RefusalError(400, "bad_multipart", "the content type names no boundary.")
    parts = _Parts(limit)
    try:
        parser = MultipartParser(boundary, parts.callbacks())
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise RefusalError(400, "bad_multipart", f"the body is no multipart form: {error}.") from error
    if body and not parts.is_whole:
        raise RefusalError(400, "bad_multipart", "the body ends before its last boundary.")
    return parts.uploads
