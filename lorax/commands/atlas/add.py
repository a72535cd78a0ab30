"""`lorax atlas add`: adapters taken into an atlas, all or none, and what each newcomer is nearest to."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from lorax.commands.atlas.options import (
    MOST_NAMES,
    AtlasDir,
    Base,
    algorithm,
    cells,
    clipped,
    decimal,
    folder_of,
    say_waiting,
)
from lorax.commands.console import Json, err, print_record
from lorax.commands.tables import PLAIN, print_table, table
from lorax.errors import AdapterError, printable
from lorax.text import percent, some

if TYPE_CHECKING:
    from lorax.atlas.index import Atlas
    from lorax.atlas.labels import Labels
    from lorax.atlas.segments import AtlasEntry

_MOST_LINES = 30


def _path(text: str) -> Path:
    if not text:
        raise typer.BadParameter("an empty path was given; expected a file or folder.")
    return Path(text)


def add(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="PATH", parser=_path, help="Safetensors files, PEFT folders, learner states, folders of them."
        ),
    ],
    label: Annotated[str | None, typer.Option(help="What all of them learned.")] = None,
    labels: Annotated[
        Path | None, typer.Option(metavar="CSV", help="What each learned: columns name (or path) and label.")
    ] = None,
    base: Base = None,
    keep_going: Annotated[bool, typer.Option("--keep-going", help="Add the good ones if some are refused.")] = False,
    with_factors: Annotated[
        bool, typer.Option("--with-factors", help="Keep A and B, too, for --descriptor factors; said at the first add.")
    ] = False,
    atlas: AtlasDir = None,
    as_json: Json = False,
) -> None:
    """Add LoRA adapters to an atlas, all or none, and say what each newcomer is nearest to.

    The first add makes the atlas; later ones must be of the same base model and layers. If some are refused nothing is
    added and every one is named; the exit code is then 1, also with --keep-going.

    Example: `lorax atlas add ~/loras --labels artists.csv --atlas ~/styles`
    """
    from lorax import progress
    from lorax.atlas.labels import Labels

    if label is not None and labels is not None:
        raise typer.BadParameter("expected one of --label TEXT and --labels CSV")
    told = Labels.read(labels) if labels is not None else Labels(everyone=label)
    with progress.counting(err) as shown:
        record = _add(folder_of(atlas), paths, told, base, shown, keep_going=keep_going, with_factors=with_factors)
    print_record(record, _print_added, as_json)
    if record["refused"]:
        raise typer.Exit(1)


def _add(
    atlas_dir: Path,
    paths: list[Path],
    labels: Labels,
    base: str | None,
    progress: Callable[[int, int, str], None],
    *,
    keep_going: bool,
    with_factors: bool,
) -> dict[str, Any]:
    """Add all adapters at paths, and say what each newcomer is nearest to.

    Raises:
        AdapterError: some were refused, and the rest is not to be added.
        AtlasError: the atlas is damaged.
        StorageError: the disk is full.
    """
    from lorax.atlas.adding import refusal
    from lorax.atlas.formats import read_all
    from lorax.atlas.index import Atlas

    atlas = Atlas.open(atlas_dir)
    places, missing = _places(paths)
    if not places:  # so that no atlas is begun at a place where nothing comes
        raise AdapterError(refusal(missing, 0))
    adding = atlas.adding(with_factors=with_factors, keep_going=keep_going, on_wait=say_waiting)
    with _interruption_says("the atlas is as it was: run the same command again."), adding as newcomers:
        newcomers.refused += missing
        for number, place in enumerate(places):
            progress(number, len(places), f"reading {printable(place.name)}")
            with newcomers.judging():
                for adapter in read_all(place, base):
                    with newcomers.judging():
                        newcomers.offer(adapter, labels.of(adapter.name, place))
    with _interruption_says(f"{len(newcomers.added)} were added: 'lorax atlas list' shows them."):
        progress(len(places), len(places), "comparing")
        return {
            "atlas": str(atlas.folder),
            "entries": len(atlas),
            "base": atlas.base,
            "refused": newcomers.refused,
            "unused labels": labels.unused,
            **_compared(atlas, newcomers.added),
        }


@contextmanager
def _interruption_says(what: str) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(what) from error


def _places(paths: list[Path]) -> tuple[list[Path], list[str]]:
    """Where adapters lie, each once, and what is wrong with the other paths."""
    from lorax.atlas.formats import find_adapters

    places: dict[str, Path] = {}
    missing = []
    for path in paths:
        try:
            for place in find_adapters([path]):
                places.setdefault(os.path.realpath(place), place)
        except AdapterError as error:
            missing.append(printable(str(error)))
    return list(places.values()), missing


def _compared(atlas: Atlas, added: Sequence[AtlasEntry]) -> dict[str, Any]:
    from lorax.atlas.searching import nearest_others

    if not added:
        return {"added": []}
    view = atlas.view()
    numbers = [atlas.number(entry.name) for entry in added]
    return {
        "compared by": view.described,
        "usual residual": view.limit,
        "refit advised": view.refit_advice(numbers),
        "added": [
            asdict(entry) | {"nearest": next(map(_neighbour, others), None), "residual": view.residual_of(number)}
            for entry, others, number in zip(added, nearest_others(atlas, view, numbers, 1), numbers, strict=True)
        ],
    }


def _neighbour(other: tuple[AtlasEntry, float]) -> dict[str, Any]:
    return {"name": other[0].name, "label": other[0].label, "similarity": other[1]}


def _print_added(record: dict[str, Any], out: Console) -> None:
    added = record["added"]
    if added:
        placed = any(entry["residual"] is not None for entry in added)
        numbers = ("similarity", "outside the basis")[: 1 + placed]
        shown = table("name", "label", "nearest", "its label", *numbers, right=numbers, **PLAIN)
        for entry in added[:_MOST_LINES]:
            near = entry["nearest"] or {"name": "", "label": "", "similarity": None}
            row = cells(entry["name"], entry["label"], near["name"], near["label"], decimal(near["similarity"]))
            shown.add_row(*row, *([percent(entry["residual"])] if placed else []))
        print_table(shown, out)
        if len(added) > _MOST_LINES:
            out.print(f"and {len(added) - _MOST_LINES} more; --json tells all")
        out.print(f"compared by {record['compared by']}", markup=False)
        for entry in [entry for entry in added if entry["algorithm"] != "LoRA"][:_MOST_LINES]:
            out.print(f"{clipped(entry['name'])} is given as a low-rank change: {algorithm(entry)}", markup=False)
    for reason in record["refused"]:
        out.print(f"refused: {reason}", markup=False)
    if unused := record["unused labels"]:
        names = some([clipped(name) for name in unused], MOST_NAMES)
        out.print(f"labels of {len(unused)} that were not among them: {names}", markup=False)
    out.print(f"{len(added)} added: {record['entries']} in {record['atlas']}", markup=False)
    if record.get("refit advised"):
        out.print(f"A refit is advised, 'lorax atlas fit': {record['refit advised']}.", markup=False)
