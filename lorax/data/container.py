"""How an image was stored, as far as its pixels tell; what decoding leaves nothing of is no part of it."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, JpegImagePlugin

from lorax.data.colour import is_plain
from lorax.data.pixels import Pixels

_LOSSLESS = "lossless"
_JPEGS = ("JPEG", "MPO")
_LOSSY = ("AVIF", "JPEG2000")  # they can be lossless, which their bytes don't tell for sure
_LOSSY_IN_TIFF = {"jpeg": "JPEG", "tiff_jpeg": "JPEG", "webp": "WEBP"}
_SAMPLING = {0: "4:4:4", 1: "4:2:2", 2: "4:2:0"}
_TABLE = 64  # entries
_FEW = (2, 16, 256)
_OPAQUE = 255
_LOOK = 16  # every so many pixels, either way, for a first look

_WEBP_HEAD, _CHUNK, _FRAME_HEAD_BYTES = 12, struct.Struct("<4sI"), 16


@dataclass(frozen=True)
class Container:
    """How an image is stored, which must not tell what it shows.

    `codec` is one word for all that keep every pixel, `look` says grey or colour, of how few colours, and whether some
    of it was transparent. `tables` are a JPEG's quantisation tables, one after the other.
    """

    codec: str
    look: str
    width: int
    height: int
    tables: tuple[int, ...] = ()


def container_of(image: Image.Image, pixels: Pixels, data: bytes) -> Container:
    """How an image is stored.

    Args:
        image: loaded.
        pixels: what it became, (H, W, 3).
        data: the file that it was opened from.
    """
    is_grey = _is_grey(pixels)
    quantisation = getattr(image, "quantization", None) or {}  # only JPEGs have any
    tables = tuple(value for number in sorted(quantisation) for value in quantisation[number])
    look = (
        ("grey" if is_grey else "colour")
        + _few(image, pixels, is_grey=is_grey)
        + (", part clear" if _is_clear(image) else "")
    )
    codec = _codec(image, data, is_grey=is_grey)
    return _shared(Container(codec, look, image.width, image.height, tables[:_TABLE] if is_grey else tables))


@lru_cache(maxsize=1024)
def _shared(container: Container) -> Container:
    """The one that is equal: few differ, and each image would hold its own tables."""
    return container


def _codec(image: Image.Image, data: bytes, *, is_grey: bool) -> str:
    """Its name; of a grey image no colours are left that could tell how they were stored."""
    if image.format in _JPEGS:
        sampling = "" if is_grey else f" {_SAMPLING.get(JpegImagePlugin.get_sampling(image), 'other')}"
        return f"JPEG{sampling}"
    if image.format == "WEBP":
        return _LOSSLESS if _is_lossless_webp(data) else "WEBP"
    if image.format == "TIFF":
        return _LOSSY_IN_TIFF.get(image.info.get("compression", ""), _LOSSLESS)
    return image.format if image.format in _LOSSY else _LOSSLESS


def _is_lossless_webp(data: bytes) -> bool:
    """By the first image in it; a frame of an animation holds chunks of its own."""
    at = _WEBP_HEAD
    while at + _CHUNK.size <= len(data):
        kind, size = _CHUNK.unpack_from(data, at)
        if kind in {b"VP8 ", b"VP8L"}:
            return bool(kind == b"VP8L")
        at += _CHUNK.size + (_FRAME_HEAD_BYTES if kind == b"ANMF" else size + size % 2)
    return False


def _is_grey(pixels: Pixels) -> bool:
    parts = (pixels[::_LOOK, ::_LOOK], pixels)
    return all((part[..., 0] == part[..., other]).all() for part in parts for other in (1, 2))


def _few(image: Image.Image, pixels: Pixels, *, is_grey: bool) -> str:
    """How few colours there are, as a palette leaves them; '' where they are many, or all the shades that grey has."""
    shown = image if is_plain(image) else Image.fromarray(pixels)
    found = shown.getcolors(_FEW[-1])  # None for more
    most = next((most for most in (_FEW[:-1] if is_grey else _FEW) if found and len(found) <= most), None)
    return "" if most is None else f", {most} colours"


def _is_clear(image: Image.Image) -> bool:
    """Whether some of it lets white through."""
    if "transparency" not in image.info and image.mode not in {"LA", "La", "PA", "RGBA"}:
        return False
    alpha = image if image.mode in {"LA", "La", "RGBA"} else image.convert("RGBA")
    return bool(np.asarray(alpha.getchannel("A" if "A" in alpha.getbands() else "a")).min(initial=_OPAQUE) < _OPAQUE)
