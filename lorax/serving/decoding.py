"""From an upload to pixels, within limits that are checked before anything large is unpacked."""

from __future__ import annotations

import hashlib
import io
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from PIL import Image, UnidentifiedImageError

from lorax.data.encoding import from_base64
from lorax.data.images import FORMATS, what_is_wrong
from lorax.data.pixels import Pixels
from lorax.data.png import without_notes
from lorax.errors import ImageError
from lorax.params import ServingParams
from lorax.serving.answers import RefusalError
from lorax.serving.unpacking import LARGE, PROCESS_BYTES, unpacked
from lorax.serving.uploads import Upload

MOST_SCANS = 100
"""Honest progressive JPEGs have about ten."""

MOST_SEGMENTS = 4096
"""Before, between and behind scans; the largest of notes come in some hundreds."""

_END, _SCAN = 0xD9, 0xDA
_BARE = frozenset([0x01, *range(0xD0, _END)])
"""Markers that no length follows."""

_MARKER = re.compile(rb"\xff([^\x00\xff])")
_BEHIND_DATA = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])")

_PIECE = 2**20
"""Bytes that are searched at a time; Python runs nothing else meanwhile."""


def scans_of(data: bytes) -> int:
    """How many scans a decoder finds, up to the image's end; what comes behind it, such as a phone's video, is not its.

    Counting ends beyond `MOST_SCANS`, as it does for more than `MOST_SEGMENTS`, which are as bad.
    """
    scans, at, marker = 0, 0, _MARKER
    for _ in range(MOST_SEGMENTS):
        match = _found(marker, data, at)
        if match is None or scans > MOST_SCANS:
            return scans
        kind, at, marker = match[1][0], match.end(), _MARKER
        if kind == _END:
            return scans
        if kind in _BARE:
            continue
        at += int.from_bytes(data[at : at + 2], "big")
        if kind == _SCAN:
            scans, marker = scans + 1, _BEHIND_DATA
    return MOST_SCANS + 1


def _found(marker: re.Pattern[bytes], data: bytes, at: int) -> re.Match[bytes] | None:
    """Where it comes first at or behind `at`."""
    for start in range(at, len(data), _PIECE):
        if match := marker.search(data, start, start + _PIECE + 1):  # its last two bytes may lie on both sides
            return match
    return None


_MB = 1_000_000
_PLAIN, _LAYERED, _FLOATS = 15, 24, 30
"""Bytes a pixel that decoding takes at its peak, as measured, by mode: the image as Pillow holds it and its copies on
the way to an array; alpha needs layers to be composited; 16 and 32 bits are widened to 64, floats more than once."""

_BUFFERED = 10
"""Bytes a pixel on top, as measured: these readers unpack into buffers of their own, or turn the image (TIFF)."""

_UNBUFFERED = frozenset({"PNG", "JPEG", "MPO", "GIF", "BMP"})
_CHARACTERS_PER_BYTE = 1.5
"""Of base64, with line breaks; rounded up."""

_SHORT = 1024
"""Characters that count for nothing: the head of a data: URI, and an end of line."""

_JPEG = b"\xff\xd8"
"""What a JPEG begins with."""

_TILE_TAGS = (322, 323)
"""Of TIFF: width and height of a tile."""


_Cut = TypeVar("_Cut")
"""What is cut out of an image."""


class Room:
    """How many bytes of images may be unpacked at once; who needs more waits."""

    def __init__(self, limit: int) -> None:
        self._limit, self._taken = limit, 0
        self._first, self._change = threading.Lock(), threading.Condition()

    @contextmanager
    def taken(self, size: int) -> Iterator[None]:
        """Wait for this much room and have it during the block; an image that is alone always has room."""
        with self._first, self._change:  # who waits is not overtaken: small images would keep a large one out for ever
            self._change.wait_for(lambda: not self._taken or self._taken + size <= self._limit)
            self._taken += size
        try:
            yield
        finally:
            with self._change:
                self._taken -= size
                self._change.notify_all()


@dataclass(frozen=True)
class _Claim:
    """What a file's header says of its image."""

    format: str | None
    mode: str
    width: int
    height: int
    is_transparent: bool

    @property
    def pixels(self) -> int:
        return self.width * self.height

    @property
    def cost(self) -> int:
        """Bytes that decoding will take at its peak, beside the file's own."""
        each = _PLAIN
        if self.mode == "F":
            each = _FLOATS
        elif self.is_transparent or self.mode in {"LA", "PA", "RGBA"} or self.mode.startswith("I"):
            each = _LAYERED
        return self.pixels * (each if self.format in _UNBUFFERED else each + _BUFFERED)


def encoded(upload: Upload, params: ServingParams) -> bytes:
    """The image file's bytes.

    Raises:
        RefusalError: they were to be base64, and are not, or so many characters that the file is too large.
    """
    if not upload.is_base64:
        return bytes(upload.data)
    if len(upload.data) > params.max_image_mb * _MB * _CHARACTERS_PER_BYTE + _SHORT:
        raise _too_large(f"{len(upload.data)} characters of base64", params)
    try:
        return from_base64(upload.data, "the data")
    except ImageError as error:
        raise RefusalError(422, "bad_base64", str(error)) from error


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def decode(
    data: bytes, side: int, params: ServingParams, room: Room, unpack_large: Callable[[bytes, int], Pixels] = unpacked
) -> Pixels:
    """The crops (n, side, side, 3) that are looked at; the image itself is let go of, so that many may wait.

    Args:
        side: of a crop, pixels.
        unpack_large: what makes crops of an image of more than `LARGE` pixels.

    Raises:
        RefusalError: as `cut`.
    """
    return cut(data, side, params, room, unpacked, unpack_large)


def cut(
    data: bytes,
    side: int,
    params: ServingParams,
    room: Room,
    small: Callable[[bytes, int], _Cut],
    large: Callable[[bytes, int], _Cut],
) -> _Cut:
    """What is cut out of an image, by `small`, or by `large` where it has more than `LARGE` pixels.

    Raises:
        RefusalError: the file is empty, too large, of another format, or damaged.
    """
    _check_file(data, params)
    data = without_notes(data)
    claim = _claimed(data, params)
    is_large = claim.pixels > LARGE
    cost = claim.cost + len(data)  # some readers copy the file
    try:
        with room.taken(cost + len(data) + PROCESS_BYTES if is_large else cost):
            return (large if is_large else small)(data, side)
    except ImageError as error:
        raise RefusalError(422, "damaged", str(error)) from error


def _check_file(data: bytes, params: ServingParams) -> None:
    """See that the file may be looked into at all."""
    if not data:
        raise RefusalError(422, "empty", "the image has no bytes.")
    if len(data) > params.max_image_mb * _MB:
        raise _too_large(f"{len(data)} bytes", params)
    if data.startswith(_JPEG) and scans_of(data) > MOST_SCANS:
        raise RefusalError(422, "damaged", f"the JPEG has more than {MOST_SCANS} scans, which no honest one has.")


def _too_large(found: str, params: ServingParams) -> RefusalError:
    limit = int(params.max_image_mb * _MB)
    return RefusalError(
        413, "image_too_large", f"the image has {found}; expected at most {limit} bytes (serving.max_image_mb)."
    )


def _claimed(data: bytes, params: ServingParams) -> _Claim:
    """What the file's header claims, if that is within the limits; nothing is unpacked."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            is_transparent = "transparency" in image.info or (image.format == "PNG" and b"tRNS" in data)  # at the end
            claim = _Claim(image.format, image.mode, *_unpacked(image), is_transparent)
    except UnidentifiedImageError as error:
        raise RefusalError(415, "not_an_image", f"no image was found; expected one of {', '.join(FORMATS)}.") from error
    except Image.DecompressionBombError as error:
        raise _too_many_pixels("far too many", params) from error
    except Exception as error:  # Pillow's readers raise nearly anything on damaged bytes
        raise RefusalError(422, "damaged", f"the image's header can't be read: {what_is_wrong(error)}.") from error
    if claim.pixels > params.max_pixels:
        raise _too_many_pixels(f"{claim.width} x {claim.height}", params)
    return claim


def _too_many_pixels(found: str, params: ServingParams) -> RefusalError:
    return RefusalError(
        413, "too_many_pixels", f"the image claims {found} pixels; expected at most {params.max_pixels} "
        "(serving.max_pixels). Scale it down first."
    )  # fmt: skip


def _unpacked(image: Image.Image) -> tuple[int, int]:
    """Width and height of what is unpacked for this image; a tile of a TIFF may be larger than the image."""
    tags = getattr(image, "tag_v2", {})
    width, height = (int(tags.get(tag, 0)) for tag in _TILE_TAGS)
    return (width, height) if width * height > image.width * image.height else image.size
