"""How numbers, times and lists are written for people, wherever they are printed."""

from __future__ import annotations

from collections.abc import Sequence

_MEBIBYTE, _GIBIBYTE = 2**20, 2**30
_DIGITS = 12


def percent(share: float | None) -> str:
    """A fraction in percent; '' for None."""
    return "" if share is None else f"{100 * share:.1f} %"


def size(count: int) -> str:
    """Of so many bytes."""
    return f"{count / _GIBIBYTE:.1f} GiB" if count >= _GIBIBYTE else f"{count / _MEBIBYTE:.1f} MiB"


def minute(at: str) -> str:
    """A time of ISO 8601 to the minute."""
    return at[:16].replace("T", " ")


def short(digest: str | None) -> str:
    """A digest or commit, as far as people compare it."""
    return (digest or "none")[:_DIGITS]


def some(names: Sequence[str], most: int) -> str:
    """The first of the names, and how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more:,} more" if more > 0 else "")
