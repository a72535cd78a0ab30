"""`python -m flows.watcher PATH`: `lorax land --watch`, as `lorax up` has supervisord run it.

PATH is percent-encoded, for supervisord's configuration takes ' #' for the beginning of a comment.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from urllib.parse import quote, unquote


def arguments(drop_dir: Path) -> tuple[str, ...]:
    """What this Python is to be started with."""
    return ("-m", "flows.watcher", quote(str(drop_dir)))


if __name__ == "__main__":
    os.execv(sys.executable, [sys.executable, "-m", "lorax", "land", "--watch", unquote(sys.argv[1])])
