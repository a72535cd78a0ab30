"""The `lorax` command: `python -m lorax`, and the script of that name."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command; a Ctrl-C while it is only being loaded ends it as one later does, without a traceback."""
    try:
        from lorax.cli import app

        app()
    except KeyboardInterrupt:
        print("lorax: interrupted.", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
