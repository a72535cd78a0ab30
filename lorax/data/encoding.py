"""Image files sent as text: base64 as programs write it."""

from __future__ import annotations

import base64
import binascii
import io

import numpy as np
from PIL import Image

from lorax.errors import ImageError

_PIECE = 2**20
"""Bytes of text that are decoded at a time; Python runs nothing else meanwhile."""

_BLANKS = b" \t\r\n\v\f"
_ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_PLAIN = bytes.maketrans(b"-_", b"+/")
_QUANTUM = 4
"""Characters that stand for three bytes."""

_HEAD = 1024
"""Bytes within which a data: URI's head ends."""

_SIDE = 32
"""Of the example, pixels."""


def from_base64(text: bytes | memoryview, name: str) -> bytes:
    """What base64, or a data: URI of it, stands for: with line breaks or without, padded or not, plain or url-safe.

    Args:
        text: the characters, as ASCII.
        name: what an error calls it.

    Raises:
        ImageError: it is no base64.
    """
    start = _behind_the_head(bytes(text[:_HEAD]), name)
    parts, rest, is_ended = [], b"", False
    while start < len(text):
        piece = bytes(text[start : start + _PIECE]).translate(_PLAIN, _BLANKS)
        start += _PIECE
        letters, padding, behind = piece.partition(b"=")
        wrong = letters.translate(None, _ALPHABET) or behind.strip(b"=") or (is_ended and letters)
        if wrong:
            raise ImageError(f"{name} is not base64: found {wrong[:1]!r} {'behind its end' if is_ended else 'in it'}.")
        is_ended = is_ended or bool(padding)
        letters = rest + letters
        cut = len(letters) - len(letters) % _QUANTUM
        parts.append(binascii.a2b_base64(letters[:cut]))
        rest = letters[cut:]
    if len(rest) == 1:
        raise ImageError(f"{name} is not base64: it breaks off, one character behind a multiple of {_QUANTUM}.")
    if rest:
        parts.append(binascii.a2b_base64(rest.ljust(_QUANTUM, b"=")))
    return b"".join(parts)


def _behind_the_head(text: bytes, name: str) -> int:
    """Where the characters begin."""
    if not text.startswith(b"data:"):
        return 0
    head, comma, _ = text.partition(b",")
    if not comma or not head.endswith(b";base64"):
        raise ImageError(f"{name} is a data: URI of something else; expected data:image/png;base64,... .")
    return len(head) + 1


def example_base64() -> str:
    """A small picture with something to see in it, for those who want to know what a request looks like."""
    rows, columns = np.mgrid[:_SIDE, :_SIDE]
    pattern = 127.5 + 60 * np.sin(rows / 3) + 60 * np.cos((rows + columns) / 5)
    file = io.BytesIO()
    Image.fromarray(pattern.astype(np.uint8)).save(file, "png")
    return base64.b64encode(file.getvalue()).decode()
