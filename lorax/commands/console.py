"""What all commands of `lorax` share: two consoles, errors as one line, the workspace that a command acts on."""

from __future__ import annotations

import getpass
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from typer.core import TyperGroup

from lorax.errors import LoraxError, WorkspaceError, printable

if TYPE_CHECKING:
    from lorax.params import Params
    from lorax.workspace import Workspace


class Screen(Console):
    """A console on which nobody's text moves the cursor, colours or hides: control characters come out escaped."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        """What is to be written, part by part; all that is printed comes through here, a table's cells, too."""
        for part in super().render(renderable, options):
            yield part if part.control else Segment("\n".join(map(printable, part.text.split("\n"))), part.style)


_WIDTH = None if sys.stdout.isatty() else 100_000  # a file or a pipe has no width: a line is a line there
out = Screen(highlight=False, emoji=False, soft_wrap=True, width=_WIDTH)
err = Screen(stderr=True, highlight=False, emoji=False, soft_wrap=True)

Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]
RayAddress = Annotated[
    str | None,
    typer.Option("--ray", envvar="RAY_ADDRESS", metavar="HOST:PORT", help="A Ray cluster's head; else this machine."),
]
Preset = Annotated[str | None, typer.Option(help="Lay this preset of params.yaml over its values.")]
VersionNumber = Annotated[int, typer.Argument(help="A model version's number; see `lorax history`.")]
VersionName = Annotated[
    str, typer.Option(metavar="V|@ALIAS", help="A model version's number, @champion or @challenger.")
]


class Commands(TyperGroup):
    """Every command's errors become one clear line, its interruption a promise, usually that nothing is lost."""

    def invoke(self, ctx: Any) -> Any:
        try:
            with _interruption_insists():
                _check_folder()
                return super().invoke(ctx)
        except LoraxError as error:
            if ctx.params.get("debug"):
                raise
            err.print(f"lorax: error: {error}", markup=False)
            sys.exit(1)
        except KeyboardInterrupt as error:
            if ctx.params.get("debug"):
                raise
            what = str(error) or "nothing is lost: run the same command again."
            err.print(f"lorax: interrupted; {what}", markup=False)
            sys.exit(130)


def _check_folder() -> None:
    """A shell may stand in a folder that is no more, such as that of a workspace that was made anew."""
    try:
        Path.cwd()
    except FileNotFoundError:
        raise WorkspaceError("the current folder was deleted. Change to one that is there: 'cd ...'.") from None


@contextmanager
def _interruption_insists() -> Iterator[None]:
    """A Ctrl-C that was raised where nothing can be (a finaliser, a callback of an extension) comes once more.

    Python drops such an exception with a message, and the command would go on to its end.
    """
    drop, main = sys.unraisablehook, threading.main_thread().ident

    def again(unraisable: sys.UnraisableHookArgs) -> None:
        if issubclass(unraisable.exc_type, KeyboardInterrupt) and main is not None:
            later = threading.Timer(0.05, signal.pthread_kill, (main, signal.SIGINT))
            later.daemon = True
            later.start()
        else:
            drop(unraisable)

    sys.unraisablehook = again
    try:
        yield
    finally:
        sys.unraisablehook = drop


def here() -> Workspace:
    """The workspace that the current folder lies in."""
    from lorax.workspace import Workspace

    return Workspace.find()


def opened(preset: str | None = None) -> tuple[Workspace, Params]:
    """The workspace and its parameters."""
    from lorax.params import load_params

    workspace = here()
    return workspace, load_params(workspace.params_path, preset=preset)


def print_record(record: Any, show: Callable[[Any, Console], None], as_json: bool) -> None:
    """Print what a command found: as JSON, or as `show` tells it to people."""
    if as_json:
        print_json(record)
    else:
        show(record, out)


def print_json(value: Any) -> None:
    """Print a record as it is: what rich makes of a line would take seconds where there are hundreds of thousands."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    try:
        print("\n".join(map(_escaped, text.split("\n"))), file=out.file, flush=True)
    except BrokenPipeError:
        out.on_broken_pipe()


def _escaped(line: str) -> str:
    """A line of JSON in which nothing moves the cursor, colours or hides."""
    return line if line.isprintable() else "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in line)


def who() -> str:
    """Who runs the command, for the registry's journal: user@host."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # in a container the user may have no name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"
