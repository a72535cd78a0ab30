"""`lorax score`: verdicts on whole collections as Parquet, on all cores of a machine or a cluster."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lorax.commands import access
from lorax.commands.console import Json, RayAddress, VersionName, err, opened, out, print_json

if TYPE_CHECKING:
    from lorax.scoring.output import Asked
    from lorax.scoring.run import Outcome


def score(
    source: Annotated[
        str, typer.Argument(help="A folder, Parquet or tar file, a folder of such, or an address: s3://, file://.")
    ],
    folder: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Where verdicts go, a Parquet file a partition.")
    ],
    version: VersionName = "@champion",
    size: Annotated[int, typer.Option("--partition", min=1, help="How many images a partition has.")] = 1024,
    column: Annotated[str | None, typer.Option("--image-column", help="Of Parquet: the one that holds images.")] = None,
    address: RayAddress = None,
    as_json: Json = False,
) -> None:
    """Judge all images of a folder, of Parquet files or of WebDataset's tar files: a row of Parquet for each.

    Each core, or each GPU where there are any, judges a partition at a time. Run the same command again after Ctrl-C
    or a kill: finished partitions stay, by the version that began. A bad image is a row with an `error`; the exit code
    is then 1. Example: `lorax score s3://bucket/crawl --out verdicts`, `lorax score inbox --out verdicts --json`
    """
    from lorax import progress
    from lorax.learning.state_files import load_state
    from lorax.scoring.engine import engine
    from lorax.scoring.output import Asked
    from lorax.scoring.places import place_of
    from lorax.scoring.run import score_all

    workspace, params = opened()
    place = place_of(source)
    chosen, state_dir = access.fetched(workspace, params, version)
    state = load_state(state_dir)
    classes = tuple(entry.label for entry in state.classes.entries)
    asked = Asked(place.source, column, size, chosen.version, chosen.state_digest, params.serving.exact, classes)
    began = time.monotonic()
    with progress.counting(err) as count:
        outcome = score_all(
            place,
            folder,
            asked,
            state_dir,
            state.revision,
            device=params.run.device,
            connect=partial(engine, address or None, wants_gpu=params.run.device != "cpu"),
            progress=count,
        )
    if as_json:
        print_json(_record(outcome, asked, folder, time.monotonic() - began))
    else:
        out.print(_told(outcome, asked, folder), markup=False)
    if outcome.bad:
        raise typer.Exit(1)


def _record(outcome: Outcome, asked: Asked, folder: Path, seconds: float) -> dict[str, Any]:
    return {
        "source": asked.source,
        "out": str(folder),
        "version": asked.version,
        "state": asked.state,
        "images": outcome.images,
        "bad": outcome.bad,
        "verdicts": dict(outcome.verdicts.most_common()),
        "partitions": outcome.partitions,
        "skipped": outcome.skipped,
        "seconds": round(seconds, 3),
    }


def _told(outcome: Outcome, asked: Asked, folder: Path) -> str:
    kinds = ", ".join(f"{name} {count:,}" for name, count in outcome.verdicts.most_common())
    parts = f"{outcome.partitions:,} partition{'s' * (outcome.partitions != 1)}"
    before = f", {outcome.skipped:,} finished before" if outcome.skipped else ""
    return (
        f"{folder}: {outcome.images - outcome.bad:,} judged{f' ({kinds})' if kinds else ''} "
        f"by version {asked.version}, {outcome.bad:,} bad; {parts}{before}"
    )
