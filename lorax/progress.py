"""What a person at a terminal sees of a running flow: a line per finished step, a bar while a branch is trained.

A flow that runs in a worker has no terminal; then nothing is shown, and Prefect's page tells the same from the logs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

_console: ContextVar[Console | None] = ContextVar("console", default=None)


@contextmanager
def showing(console: Console) -> Iterator[None]:
    """Show the flows that run inside the block on `console`."""
    token = _console.set(console)
    try:
        yield
    finally:
        _console.reset(token)


def say(text: str, style: str | None = None) -> None:
    """Print a line, where there is a terminal; `style` is rich's."""
    console = _console.get()
    if console is not None:
        console.print(text, style=style, markup=False)


@dataclass
class Shown:
    """A step on the terminal while it runs; `outcome` is printed behind its name when it ends well."""

    progress: Progress
    bar: TaskID
    outcome: str = ""

    def on_progress(self, done: int, total: int, what: str) -> None:
        """Move the bar."""
        self.progress.update(self.bar, total=total or None, completed=done, detail=what)


@contextmanager
def step(name: str, *, counts: bool = False) -> Iterator[Shown]:
    """Show a step from its beginning to its end.

    Args:
        counts: show a bar, for a step that counts epochs or images.
    """
    console = _console.get() or Console(quiet=True)
    began = time.monotonic()
    bar = (BarColumn(bar_width=30), MofNCompleteColumn(), TextColumn("{task.fields[detail]}")) if counts else ()
    with Progress(
        TextColumn("  "),
        SpinnerColumn(),
        TextColumn("{task.description}"),
        *bar,
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as progress:
        shown = Shown(progress, progress.add_task(name, total=None, detail=""))
        yield shown
    console.print(
        f"    {name:<24} {escape(shown.outcome)} [dim]({time.monotonic() - began:.1f} s)[/dim]", highlight=False
    )


@contextmanager
def counting(console: Console) -> Iterator[Callable[[int, int, str], None]]:
    """A bar for work that counts: yields a function to be called with (done, in all, what)."""
    columns = (TextColumn("  {task.description}"), BarColumn(bar_width=30), MofNCompleteColumn(), TimeRemainingColumn())
    # DVC is first imported under such a bar and keeps the streams that it finds there: its last word at the end of the
    # process, which resets colours, would come out of rich's stand-ins for them as text.
    is_off = not console.is_terminal
    with Progress(
        *columns, console=console, transient=True, disable=is_off, redirect_stdout=False, redirect_stderr=False
    ) as progress:
        bar = progress.add_task("", total=None)

        def show(done: int, total: int, what: str) -> None:
            progress.update(bar, completed=done, total=total or None, description=what)

        yield show
