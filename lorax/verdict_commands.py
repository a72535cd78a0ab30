"""The commands about images: what a version says of them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from lorax.console import Json, err, opened, out

if TYPE_CHECKING:
    from lorax.data.walk import Found

verdict_commands = typer.Typer()

Version = Annotated[str, typer.Option(metavar="V|@ALIAS", help="A model version's number, @champion or @challenger.")]

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
    from flows import running, verdicts
    from lorax.predictor import Predictor

    workspace, params = opened()
    chosen, state_dir = running.fetched(workspace, params, version, err)
    predictor = Predictor.open(state_dir, params.run.device)
    of_version = verdicts.version_record(predictor, chosen.version, chosen.state_digest)
    with reader_may_leave():
        bad = verdicts.print_verdicts(
            predictor, of_version, _files(paths, null), out, err, as_json=as_json, explain=explain
        )
    if bad:
        raise typer.Exit(1)


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
