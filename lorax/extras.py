"""Packages that only some commands need come with this package's extras, and a command says which it lacks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from lorax.errors import ExtraError


@contextmanager
def extra(name: str, what: str) -> Iterator[None]:
    """What the block imports comes with an extra.

    Args:
        name: of the extra, as in pyproject.toml.
        what: needs it, as a message begins.

    Raises:
        ExtraError: it is not installed, or not as a whole.
    """
    try:
        yield
    except ImportError as error:
        raise ExtraError(f"{what} needs the extra '{name}' ({error}): {install(name)}, then run again.") from error


def install(name: str) -> str:
    """The command that brings an extra."""
    return f"pip install 'lorax-pipeline[{name}]'"
