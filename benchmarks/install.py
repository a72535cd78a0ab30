"""What installing costs, at one commit or several: megabytes on disk, and seconds of `import lorax` and `lorax --help`.

Each commit is installed into a fresh virtual environment with the versions of its constraints.txt, without extras.
Megabytes are those of all files in site-packages with what Python compiles of them, less pip's own. Of the last commit
it is also told what its extras add, each on top of those before it.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from measure import Row, in_turns, report

ROOT = Path(__file__).parents[1]


class Install:
    """A virtual environment of its own, with what a commit's base asks for."""

    def __init__(self, folder: Path, commit: str) -> None:
        self.commit, self._checkout, self._venv = commit, folder / "checkout", folder / "venv"
        self._checkout.mkdir(parents=True)
        archive = subprocess.run(["git", "archive", commit], cwd=ROOT, check=True, capture_output=True).stdout
        subprocess.run(["tar", "-x"], cwd=self._checkout, check=True, input=archive)
        run(sys.executable, "-m", "venv", self._venv)
        self._empty = self._size()
        self.megabytes = self.add("")

    def add(self, extra: str) -> float:
        """Install the checkout with this extra, '' for none; returns how many megabytes there are now."""
        wanted = f"{self._checkout}[{extra}]" if extra else self._checkout
        pip = (self._venv / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check")
        run(*pip, "--constraint", self._checkout / "constraints.txt", wanted)
        return self._size() - self._empty

    def ran(self, *command: str) -> None:
        """Run a program of the environment's."""
        run(self._venv / "bin" / command[0], *command[1:])

    def _size(self) -> float:
        [packages] = self._venv.glob("lib/python*/site-packages")
        return sum(path.lstat().st_size for path in packages.rglob("*")) / 1e6


def run(*command: str | Path) -> None:
    subprocess.run(list(map(str, command)), cwd=tempfile.gettempdir(), check=True, stdout=subprocess.DEVNULL)


def compared(installs: Sequence[Install], rounds: int) -> list[Row]:
    works = {}
    for one in installs:
        works[f"{one.commit} import"] = partial(one.ran, "python", "-c", "import lorax")
        works[f"{one.commit} help"] = partial(one.ran, "lorax", "--help")
    taken = in_turns(works, rounds)
    return [
        {
            "commit": one.commit,
            "megabytes": one.megabytes,
            "import_s": statistics.median(turn[f"{one.commit} import"] for turn in taken),
            "help_s": statistics.median(turn[f"{one.commit} help"] for turn in taken),
        }
        for one in installs
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("commits", nargs="*", default=["HEAD"])
    parser.add_argument("--extras", nargs="*", default=["serve", "demo", "atlas", "scale", "postgres", "lineage", "s3"])
    parser.add_argument("--rounds", type=int, default=11)
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        installs = [Install(Path(folder, commit), commit) for commit in arguments.commits]
        rows = compared(installs, arguments.rounds)
        size = installs[-1].megabytes
        for extra in arguments.extras:
            more = installs[-1].add(extra)
            rows.append({"extra": extra, "megabytes": more - size})
            size = more
    report("install", rows, rounds=arguments.rounds, load_before=load)


if __name__ == "__main__":
    main()
