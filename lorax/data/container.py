"""What an image file holds beside its pixels. It is only shown: anyone can write or strip it, so it decides nothing."""

from __future__ import annotations

import io
from contextlib import suppress
from dataclasses import dataclass

from PIL import ExifTags, Image

from lorax.data.images import FORMATS

_EXIF_FOLDER = ExifTags.IFD.Exif


@dataclass(frozen=True)
class Container:
    """A file's format, and which notes are in it, by name and without their values.

    `exif` has tags, `text` the keys of PNG text chunks; `xmp` and `c2pa` say whether such a packet or manifest appears
    to be there (the latter's signature is not checked).
    """

    format: str
    exif: tuple[str, ...]
    text: tuple[str, ...]
    xmp: bool
    c2pa: bool


def container_of(data: bytes) -> Container:
    """What is found in the bytes of an image file; notes that can't be read count as not there."""
    kind = ""
    exif: tuple[str, ...] = ()
    text: tuple[str, ...] = ()
    with (
        suppress(Exception),
        Image.open(io.BytesIO(data), formats=FORMATS) as image,
    ):  # Pillow raises nearly anything on damaged notes
        kind = image.format or ""
        text = tuple(sorted(str(key) for key, value in image.info.items() if isinstance(value, str)))
        tags = image.getexif()
        names = {**tags, **tags.get_ifd(_EXIF_FOLDER)}.keys() - {_EXIF_FOLDER}
        exif = tuple(sorted(ExifTags.TAGS.get(tag, f"tag {tag}") for tag in names))
    return Container(kind, exif, text, b"<x:xmpmeta" in data, b"jumb" in data and b"c2pa" in data)
