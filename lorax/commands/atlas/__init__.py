"""`lorax atlas`: LoRA weights compared, searched, clustered."""

from collections.abc import Callable

import typer

from lorax.commands.atlas.add import add
from lorax.commands.atlas.entries import bring, cluster, draw, fit, send, show
from lorax.commands.atlas.search import attribute, compare, parts, search

_COMMANDS: dict[str, Callable[..., None]] = {
    "add": add, "search": search, "parts": parts, "cluster": cluster, "map": draw, "compare": compare,
    "attribute": attribute, "fit": fit, "list": show, "export": send, "import": bring,
}  # fmt: skip

atlas_commands = typer.Typer(no_args_is_help=True)
for name, command in _COMMANDS.items():
    atlas_commands.command(name)(command)
