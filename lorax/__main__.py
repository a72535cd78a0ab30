"""`python -m lorax` is the `lorax` command."""

from lorax.cli import app

app()
