"""The commands about the atlas: LoRA weights compared, searched, clustered."""

from __future__ import annotations

import typer

atlas_commands = typer.Typer(no_args_is_help=True)
