"""The `lorax` command: what it consists of, in the order of its help. Rooms are imported inside the commands, so that
`lorax --help` answers at once.
"""

from __future__ import annotations

import os
from typing import Annotated

import typer

from lorax import __version__, environment
from lorax.addresses import unproxied
from lorax.commands.atlas import atlas_commands
from lorax.commands.console import Commands
from lorax.commands.demo import demo, simulate
from lorax.commands.diff import diff
from lorax.commands.history import history
from lorax.commands.init import init
from lorax.commands.land import land
from lorax.commands.learn import learn, scenario
from lorax.commands.predict import predict
from lorax.commands.promotion import delete, promote, refuse, relearn, rollback
from lorax.commands.score import score
from lorax.commands.serve import serve
from lorax.commands.services import down, up
from lorax.commands.status import status
from lorax.commands.sweep import sweep
from lorax.commands.tasks import forget, hold, release, withdraw
from lorax.commands.watch_verdicts import watch_verdicts

app = typer.Typer(
    cls=Commands,
    name="lorax",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Keep a detector of synthetic images up to date: each new generator that lands is learned, none is forgotten.",
)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"lorax {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Say which version this is.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks and Prefect's log.")] = False,
) -> None:
    """Options before the command."""
    environment.complete()
    # Threads that wait by spinning starve each other as soon as anything else, such as the servers, wants a core
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.update(unproxied())
    if not debug:
        os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")


for command in (
    *(init, simulate, land, learn, scenario, sweep, status, up, down, demo),
    *(history, diff, rollback, promote, refuse, hold, release, relearn, delete),
    *(withdraw, forget),
    *(serve, predict, score, watch_verdicts),
):
    app.command()(command)
app.add_typer(atlas_commands, name="atlas", help="Compare LoRA adapters by their weights: search, cluster, draw a map.")
