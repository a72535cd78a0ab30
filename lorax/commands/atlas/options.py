"""What several commands of `lorax atlas` are told and print: the atlas, what is compared, names in a table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from lorax.commands.console import err
from lorax.errors import AtlasError, WorkspaceError, printable
from lorax.text import percent
from lorax.workspace import Workspace

if TYPE_CHECKING:
    from lorax.atlas.index import Atlas

AtlasDir = Annotated[
    Path | None, typer.Option("--atlas", metavar="DIR", help="The atlas; the workspace's own, if not given.")
]
Descriptor = Annotated[str, typer.Option(help="Compare by product, spectrum or factors.")]
Group = Annotated[str, typer.Option(help="Of which layers: all, attention, feed-forward, early, late, qk, ...")]
Base = Annotated[str | None, typer.Option(metavar="NAME", help="The base model, whatever the files say.")]

MOST_NAMES = 6
"""In a cell or a sentence."""

_LONGEST = 80


def folder_of(atlas_dir: Path | None) -> Path:
    """The atlas that was named, or the workspace's own.

    Raises:
        AtlasError: none was named, outside a workspace.
    """
    if atlas_dir is not None:
        return atlas_dir
    try:
        return Workspace.find().atlas_dir
    except WorkspaceError as error:
        raise AtlasError(
            f"{Path.cwd()} is not inside a workspace, which would have an atlas of its own. Name one: --atlas DIR."
        ) from error


def opened_atlas(atlas_dir: Path | None) -> Atlas:
    """The same, opened.

    Raises:
        AtlasError: it is empty or damaged.
    """
    from lorax.atlas.index import Atlas

    atlas = Atlas.open(folder_of(atlas_dir))
    atlas.describer  # noqa: B018  # refuses an empty one
    return atlas


def say_waiting() -> None:
    """Told before an atlas's lock is waited for."""
    err.print("another 'lorax atlas' command is at work in this atlas: waiting for it to end.")


def clipped(name: str) -> str:
    """A name on one line, that leaves room for other columns."""
    name = printable(name)
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"


def cells(*values: object) -> list[Text]:
    """Cells without markup: names may hold brackets."""
    return [Text(clipped(str(value))) for value in values]


def decimal(value: float | None, digits: int = 3) -> str:
    """A number, or '-' for None."""
    return "-" if value is None else f"{value:.{digits}f}"


def algorithm(entry: Mapping[str, Any]) -> str:
    """What kind of adapter an entry is, and what share of it is lost."""
    return f"{entry['algorithm']}, {percent(entry['lost'])} lost" if entry["lost"] else str(entry["algorithm"])
