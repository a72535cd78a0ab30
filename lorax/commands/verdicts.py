"""The commands about images: what a version says of them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lorax.commands.console import Json, err, opened, out

if TYPE_CHECKING:
    from lorax.data.walk import Found

verdict_commands = typer.Typer()

Version = Annotated[str, typer.Option(metavar="V|@ALIAS", help="A model version's number, @champion or @challenger.")]

_ROSE = 3
_READER_GONE = 141
"""128 and SIGPIPE's number: what a shell reports of any program whose reader leaves."""


@verdict_commands.command()
def predict(
    paths: Annotated[list[str], typer.Argument(help="Image files, folders, patterns ('a/**/*.png'), or - for stdin.")],
    version: Version = "@champion",
    explain: Annotated[bool, typer.Option("--explain", help="Show what each branch adds to the verdict.")] = False,
    null: Annotated[bool, typer.Option("--null", "-0", help="Names on stdin end with a null, not a line.")] = False,
    as_json: Json = False,
) -> None:
    """Say of each image whether it is real, and if not, which generator made it, or that it is one never seen.

    Lines come in the order of the files, as they are judged; `-` reads files' names from stdin. A bad file is reported
    and the rest goes on; the exit code is then 1. Example: `lorax predict photos/ --json`
    """
    from lorax.commands import predict as judging
    from lorax.commands import running
    from lorax.verdicts.predictor import Predictor

    workspace, params = opened()
    chosen, state_dir = running.fetched(workspace, params, version, err)
    predictor = Predictor.open(state_dir, params.run.device)
    of_version = judging.version_record(predictor, chosen.version, chosen.state_digest)
    with reader_may_leave():
        bad = judging.print_verdicts(
            predictor, of_version, _files(paths, null), out, err, as_json=as_json, explain=explain
        )
    if bad:
        raise typer.Exit(1)


@verdict_commands.command(name="watch-verdicts")
def watch_verdicts(
    source: Annotated[
        str, typer.Argument(metavar="FOLDER|JSONL", help="Where images come in, or what `predict --json` writes; or -.")
    ],
    version: Annotated[
        str, typer.Option(metavar="V|@ALIAS", help="For a folder: as for `lorax predict`; @champion if not given.")
    ] = "",
    window: Annotated[int, typer.Option(min=1, help="How many of the last images count.")] = 200,
    rate: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="The share of unknown images to warn of; three times the false alarms if not given."
        ),
    ] = None,
    once: Annotated[
        bool, typer.Option("--once", help="Look at what is there and end: exit code 3 if it rose.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Say when images that are like nothing known become more: a new generator is about, and an episode is due.

    Then `lorax.unknown.rising` goes to Prefect's server, and work/watch/ gets the images in clusters, with a contact
    sheet each. Example: `lorax watch-verdicts ~/inbox`
    """
    from lorax.commands import watch_verdicts as watching

    if source != watching.STDIN and not Path(source).exists():
        raise typer.BadParameter(
            f"{source} does not exist: expected a folder, or a file of 'lorax predict PATH --json'."
        )
    if version and not Path(source).is_dir():
        raise typer.BadParameter(
            "--version goes with a folder: lines of 'lorax predict PATH --json' name their version."
        )
    workspace, params = opened()
    settings = watching.Settings(window, rate, once)
    teller = watching.Teller(workspace, params.registry.model, out, err, as_json)
    with reader_may_leave():
        rises = watching.watch(workspace, params, source, version or "@champion", settings, teller)
    if rises and once:
        raise typer.Exit(_ROSE)


@contextmanager
def reader_may_leave() -> Iterator[None]:
    """End quietly when who reads stdout has gone, as `head` does."""
    try:
        yield
    except BrokenPipeError:
        # What Python still holds for stdout goes nowhere, or it would complain at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(_READER_GONE) from None


def _files(paths: list[str], null: bool) -> Iterator[Found]:
    from lorax.data.walk import files_named, names_from

    for path in paths:
        if path == "-":
            # Not through Python's buffer: a thread that waits in it would abort the interpreter's end
            names = names_from(lambda most: os.read(sys.stdin.fileno(), most), b"\0" if null else b"\n")
            yield from files_named(names, patterns=False)
        else:
            yield from files_named([path])
