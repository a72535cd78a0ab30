"""PNG files without what lies beside their pixels: texts, profiles and notes of any size decide nothing.

A PNG is a list of chunks. Pillow reads all that stand before the pixels, and refuses a file for a text or a profile
that is large or damaged.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import islice

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_HEAD = struct.Struct(">I4s")
_CHECKSUM_BYTES = 4
_ANCILLARY = 0x20  # a bit of the kind's first letter: no decoder needs the chunk
_TRANSPARENT_COLOUR, _END = b"tRNS", b"IEND"
_TEXTS = {b"tEXt", b"zTXt", b"iTXt"}
_LONGEST_KEYWORD = 79  # bytes, as the standard has it

MOST_TEXTS = 1000
"""Of which the keyword is told: a file has room for millions, and whoever asks would get them all."""


def without_notes(data: bytes) -> bytes:
    """The same image with nothing but its pixels; what is no PNG, or has nothing else, comes back as it is."""
    kept: list[bytes | memoryview] = [_SIGNATURE]
    dropped = False
    for kind, chunk in _chunks(data):
        if kind[0] & _ANCILLARY and kind != _TRANSPARENT_COLOUR:
            dropped = True
        else:
            kept.append(chunk)
    return b"".join(kept) if dropped else data


def keywords(data: bytes) -> tuple[str, ...]:
    """What the texts of a PNG are called, sorted, of the first `MOST_TEXTS`; () if it is none, or has none."""
    texts = (chunk[_HEAD.size : -_CHECKSUM_BYTES] for kind, chunk in _chunks(data) if kind in _TEXTS)
    names = (bytes(text[:_LONGEST_KEYWORD]).partition(b"\0")[0] for text in islice(texts, MOST_TEXTS))
    return tuple(sorted({name.decode("latin-1") for name in names}))


def _chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Kind and bytes of each chunk up to the end of the image; what breaks off comes last, with as much as is there."""
    at = len(_SIGNATURE) if data.startswith(_SIGNATURE) else len(data)
    view, kind = memoryview(data), b""
    while at + _HEAD.size <= len(data) and kind != _END:
        size, kind = _HEAD.unpack_from(data, at)
        end = at + _HEAD.size + size + _CHECKSUM_BYTES
        yield kind, view[at:end]
        at = end
