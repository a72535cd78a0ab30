"""What the landing contract finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lorax.text import some

Severity = Literal["refused", "warned"]

SHOWN = 3
"""Paths that are named as examples."""


@dataclass(frozen=True)
class Finding:
    """Something about a data set that its owner should know; `paths` are the files concerned, all of them."""

    kind: str
    severity: Severity
    message: str
    paths: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The message and the first paths."""
        return f"{self.kind}: {self.message}" + (f" ({some(self.paths, SHOWN)})" if self.paths else "")
