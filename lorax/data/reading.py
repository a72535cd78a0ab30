"""One image file as a verdict needs it: the crops that are looked at, and what tells it from all other files."""

from __future__ import annotations

import hashlib
import io
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
from PIL import ExifTags, Image

from lorax.data.crops import crops_of
from lorax.data.images import FORMATS, decode_bytes, read
from lorax.data.pixels import Pixels
from lorax.data.png import keywords, without_notes
from lorax.data.walk import Found
from lorax.errors import ImageError

LARGEST = 512 * 2**20
"""Bytes of a file; what is larger is no image that would be decoded anyhow, and is not read."""

_EXIF_FOLDER = ExifTags.IFD.Exif
_NOTHING = np.empty((0, 0, 0, 3), np.uint8)


@dataclass(frozen=True)
class Metadata:
    """A file's format, and which notes are in it, by name and without their values; as anyone can write or strip them,
    they are only shown, and decide nothing.

    `exif` has tags, `text` the keys of PNG text chunks; `xmp` and `c2pa` say whether such a packet or manifest appears
    to be there (the latter's signature is not checked).
    """

    format: str
    exif: tuple[str, ...]
    text: tuple[str, ...]
    xmp: bool
    c2pa: bool


@dataclass(frozen=True)
class Reading:
    """What was read; where `error` says why it could not be, there are no crops.

    `sha256` is that of the file's bytes, `crops` are (n, crop, crop, 3). The image itself is let go of, so that many
    may wait for their turn.
    """

    name: str
    error: str = ""
    sha256: str = ""
    width: int = 0
    height: int = 0
    crops: Pixels = field(default_factory=lambda: _NOTHING)
    container: Metadata | None = None


def read_image(found: Found, side: int, *, with_container: bool = False) -> Reading:
    """Read, hash and decode a file and cut its crops; whatever is wrong with it is told in the answer.

    Args:
        found: the file.
        side: of the crops, pixels.
        with_container: look for what it holds beside pixels, too.
    """
    name = str(found.path)
    try:
        data = bytes_of(found)
    except ImageError as error:
        return Reading(name, str(error))
    return read_bytes(data, name, side, with_container=with_container)


def read_bytes(data: bytes, name: str, side: int, *, with_container: bool = False) -> Reading:
    """The same of bytes that are there already.

    Args:
        data: of an image file.
        name: what to call it.
        side, with_container: as above.
    """
    digest = hashlib.sha256(data).hexdigest()
    try:
        pixels = decode_bytes(data, name)
    except ImageError as error:
        return Reading(name, str(error), digest)
    height, width = pixels.shape[:2]
    container = metadata_of(data) if with_container else None
    return Reading(name, "", digest, width, height, crops_of(pixels, side), container)


def metadata_of(data: bytes) -> Metadata:
    """What is found in the bytes of an image file; notes that can't be read count as not there."""
    kind = ""
    exif: tuple[str, ...] = ()
    with suppress(Exception), Image.open(io.BytesIO(without_notes(data)), formats=FORMATS) as image:
        kind = image.format or ""
    with (
        suppress(Exception),
        Image.open(io.BytesIO(data), formats=FORMATS) as image,
    ):  # Pillow raises nearly anything on damaged notes
        tags = image.getexif()
        names = {**tags, **tags.get_ifd(_EXIF_FOLDER)}.keys() - {_EXIF_FOLDER}
        exif = tuple(sorted(ExifTags.TAGS.get(tag, f"tag {tag}") for tag in names))
    return Metadata(kind, exif, keywords(data), b"<x:xmpmeta" in data, b"jumb" in data and b"c2pa" in data)


def bytes_of(found: Found) -> bytes:
    """The bytes of a file.

    Raises:
        ImageError: there is none, or it is too large.
    """
    if found.problem:
        raise ImageError(found.problem)
    try:
        size = found.path.stat().st_size
    except (OSError, ValueError) as error:  # a name may hold a null character
        raise ImageError(f"{found.path} can't be read: {getattr(error, 'strerror', None) or error}.") from error
    if size > LARGEST:
        raise ImageError(
            f"{found.path} has {size:,} bytes; more than {LARGEST:,} are refused, since no image that would be decoded "
            "is so large."
        )
    return read(found.path)
