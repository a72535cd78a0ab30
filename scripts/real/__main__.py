"""Make the stream `real`: photographs' patches, and what published networks make of others; `make real`."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from lorax.storage import locked
from scripts.real import manifest, packages, photographs, reals
from scripts.real.catalogue import CATALOGUE, TASKS

_ROOT = Path("work") / "real"
_EXAMPLES = """
examples:
  python -m scripts.real                          everything, 600 + 600 train images a task
  python -m scripts.real --tasks waifu2x span     two tasks
  python -m scripts.real --images 60 --root /tmp/small   a small set elsewhere, for a try
  python -m scripts.real --reals                  patches of photographs that no task brings, for false positives
  lorax land work/real/set/waifu2x --task waifu2x        then, in a workspace

A task that is finished is not made again, so a run that was stopped goes on where it was. docs/real.md tells more.
"""


def main() -> None:
    options = _options()
    root = options.root.absolute()
    with locked(root / ".lock", lambda: print(f"waiting for another run in {root}", flush=True)):
        packages.clear_drafts(root)
        if options.reals:
            _make_reals(root)
            return
        try:
            photographs.develop(root, options.photographs)
        except (packages.PackageError, photographs.MastersError) as error:
            sys.exit(f"without its photographs there is no set. {error}")
        failed = [task for task in options.tasks if not _is_made(root, task, options.images)]
        finished = [task for task in TASKS if manifest.table_path(root, task).exists()]
        images = manifest.join(root, finished)
    print(f"{root}: {images} images of {len(finished)} tasks, told in manifest.csv")
    if failed:
        sys.exit(f"not made: {', '.join(failed)}; the reasons are above. Run the same command again to go on.")


def _make_reals(root: Path) -> None:
    try:
        images = reals.make(root)
    except packages.PackageError as error:
        sys.exit(str(error))
    print(f"{root / reals.FOLDER}: {images} patches of photographs that no task brings")


def _is_made(root: Path, task: str, images: int) -> bool:
    return is_finished(root, task, images) or _make(root, task, images)


def is_finished(root: Path, task: str, images: int) -> bool:
    """Whether `task` is there, with `images` train images of each class."""
    path = manifest.table_path(root, task)
    return path.exists() and sum(r["split"] == "train" for r in manifest.read(path)) == 2 * images


def _make(root: Path, task: str, images: int) -> bool:
    """Make a task in a process of its own, one thread: a network that crashes takes only itself down."""
    network = CATALOGUE[task]
    print(
        f"{task}: {network.family}, {network.package or 'no network'}; begun at {time.strftime('%H:%M:%S')}", flush=True
    )
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OIDN_NUM_THREADS"), "1")
    environment = {**os.environ, **threads, "OIDN_SET_AFFINITY": "0"}
    command = [sys.executable, "-m", "scripts.real.tasks", str(root), task, str(images)]
    code = subprocess.run(command, env=environment).returncode
    if code < 0:
        print(f"{task}: its process was ended by signal {-code}", file=sys.stderr)
    return code == 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.real",
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--tasks", nargs="+", choices=TASKS, default=TASKS, metavar="TASK", help=f"of {', '.join(TASKS)}; default: all"
    )
    parser.add_argument(
        "--images", type=int, default=600, help="train images of each class; a third as many for val (default: 600)"
    )
    parser.add_argument("--reals", action="store_true", help="only photographs that no task brings")
    parser.add_argument(
        "--photographs",
        nargs="+",
        choices=photographs.PHOTOGRAPH_PACKAGES,
        default=photographs.PHOTOGRAPH_PACKAGES,
        metavar="PACKAGE",
        help=f"whose photographs, of {', '.join(photographs.PHOTOGRAPH_PACKAGES)}; default: all",
    )
    parser.add_argument("--root", type=Path, default=_ROOT, help=f"where all goes (default: {_ROOT})")
    return parser.parse_args()


if __name__ == "__main__":
    main()
