"""The demo on real networks: a small set of the quick ones, landed and learned one after the other; `make real-demo`.

Where `make real` made its set in work/real already, the first images of each class there are taken. Else a set of this
demo's own is made, from few packages. Everything that is written goes below work/real-demo.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from lorax.commands import demo
from lorax.errors import LoraxError
from lorax.storage import whole_directory
from scripts.real import manifest
from scripts.real.tasks import FAKE, REAL, VAL_SHARE

TASKS = ("waifu2x", "span", "demosaicnet", "anime4k")
PHOTOGRAPHS = ("material-kit", "soft-ui-design-system", "@adminkit/core", "startbootstrap-creative")
IMAGES = 150
"""Train images of each class."""

_WHOLE = Path("work") / "real"
_HOME = Path("work") / "real-demo"


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    taken = _HOME / "taken"
    if not taken.is_dir():
        is_there = all(manifest.table_path(_WHOLE, task).exists() for task in TASKS)
        take(_WHOLE if is_there else _made(), taken)
    try:
        demo.run(_HOME / "workspace", None, None, raw=taken, names=TASKS)
    except LoraxError as error:
        sys.exit(f"error: {error}")


def take(root: Path, folder: Path, tasks: Sequence[str] = TASKS, images: int = IMAGES) -> None:
    """Copy so many train images of each class, and their share of val images, from the set below `root`."""
    with whole_directory(folder) as draft:
        for task in tasks:
            for split, count in (("train", images), ("val", images // VAL_SHARE)):
                for kind in (REAL, FAKE):
                    place = Path(task) / split / kind
                    (draft / place).mkdir(parents=True)
                    for number in range(count):
                        shutil.copy(root / "set" / place / f"{number:04d}.png", draft / place)


def _made() -> Path:
    """Where a set of the demo's own lies, which is made first."""
    root = _HOME / "made"
    names = ["--tasks", *TASKS, "--photographs", *PHOTOGRAPHS]
    command = [sys.executable, "-m", "scripts.real", "--root", str(root), "--images", str(IMAGES), *names]
    if subprocess.run(command).returncode:
        sys.exit("without its images there is no demo; the reasons are above.")
    return root


if __name__ == "__main__":
    main()
