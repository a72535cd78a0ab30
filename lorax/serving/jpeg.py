"""How often a JPEG unpacks all its pixels: once for each of its scans."""

from __future__ import annotations

import re

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
