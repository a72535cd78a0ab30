"""What a user does to a workspace while processes are killed around it: the same in every pass, so it ends the same."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import bench
import psutil
from loop_random_kills import Killer

from lorax.data import versions
from lorax.workspace import Workspace

PATIENCE_S = 1200.0
"""How long anything may take: a command, a landing of the watcher, learning."""

TRIES = 25
AGAIN_S = 3.0
"""How soon a user runs a command again that failed."""

Pairs = list[tuple[str, str]]
"""Tasks that a version knows, each with the digest of its bytes, in the order of learning."""


@dataclass(frozen=True)
class Answer:
    """What a command said that did not end well; `is_clear`: one line of error, no traceback."""

    command: str
    code: int
    said: str
    is_clear: bool


@dataclass
class User:
    """The user of `root`; `killer` is told what goes on."""

    root: Path
    killer: Killer
    answers: list[Answer] = field(default_factory=list)
    running: subprocess.Popen[str] | None = None

    def script(self) -> None:
        """Six tasks land, are learned, rolled back, promoted, replaced and relearned."""
        self.run("up", accept="", name="up")
        self.land("a", 0)
        a = self.learned("a")
        self.land("b", 0)
        ab = self.learned("a", "b")
        self.drop("c", 0)
        abc = self.learned("a", "b", "c")
        self.run("rollback", "--to", self.version_of(ab), "--reason", "proof", accept="is the champion already")
        self.land("d", 0)
        self.learned("a", "b", "d")
        self.run("promote", self.version_of(abc), "--reason", "proof", accept="is the champion already")
        self.land("d", 1, "--replace")
        self.learned("a", "b", "c", "d")
        self.drop("e", 0)
        self.begun("e")
        self.land("f", 0)  # while e is learned
        self.learned("a", "b", "c", "d", "e", "f")
        self.land("d", 2, "--replace")
        self.run("relearn", "d", "--no-learn", accept="does not know task 'd'")
        self.learned("a", "b", "c", "d", "e", "f")
        self.run("rollback", "--to", self.version_of(a), "--reason", "proof", accept="is the champion already")
        self.run("promote", self.version_of(self.landed(*"abcdef")), "--reason", "p", accept="is the champion already")

    def land(self, name: str, seed: int, *options: str) -> None:
        """`lorax land` of a task made beside the workspace."""
        source = bench.tiny_task(self.root.parent / f"raw-{seed}", name, seed)
        self.run("land", str(source), "--task", name, *options, name=f"land {name}")

    def drop(self, name: str, seed: int) -> None:
        """Lay a task into the drop folder, and wait until the watcher has taken it away."""
        self.killer.begin(f"drop {name}")
        folder = self.root.parent / "drop"
        source = bench.tiny_task(self.root.parent / f"raw-{seed}", name, seed)
        folder.mkdir(exist_ok=True)
        shutil.copytree(source, folder / f".{name}")
        (folder / f".{name}" / "_READY").touch()
        (folder / f".{name}").rename(folder / name)
        bench.wait_for(lambda: not (folder / name).exists(), PATIENCE_S, f"the watcher lands {name}")

    def run(self, *arguments: str, accept: str = "", name: str | None = None) -> None:
        """Run a command again and again until it ends well, or says that there is nothing left to do (`accept`).

        Raises:
            SystemExit: it never did.
        """
        self.killer.begin(name or arguments[0])
        for _ in range(TRIES):
            log = self.root.parent / "command.log"
            code, said = self._ended(arguments, log)
            if code == 0 or (accept and accept in said):
                return
            if code != -signal.SIGKILL:
                self.answers.append(Answer(" ".join(arguments), code, said, _is_clear(said)))
                time.sleep(AGAIN_S)
        raise SystemExit(f"lorax {' '.join(arguments)} never ended well; it said last: {said[-500:]}")

    def _ended(self, arguments: Sequence[str], log: Path) -> tuple[int, str]:
        self.running = bench.start_lorax(*arguments, cwd=self.root, log=log)
        self.killer.command = psutil.Process(self.running.pid)
        try:
            code = self.running.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            raise SystemExit(f"lorax {' '.join(arguments)} did not end in {PATIENCE_S:.0f} s") from None
        finally:
            self.killer.command = None
        return code, _plain(log.read_text(errors="replace"))

    def learned(self, *names: str) -> Pairs:
        """Wait until the champion knows just these tasks, with the bytes that are landed; returns them."""
        wanted = self.landed(*names)
        self.killer.begin(f"learning {names[-1]}", is_due=True)
        bench.wait_for(lambda: self.champion() == wanted, PATIENCE_S, f"the champion knows {', '.join(names)}")
        self.killer.is_due = False
        return wanted

    def begun(self, name: str) -> None:
        """Wait until an episode that learns `name` has fixed which data revision it learns."""
        self.killer.begin(f"beginning {name}", is_due=True)
        digest = dict(self.landed(name))[name]
        bench.wait_for(lambda: digest in self._planned(), PATIENCE_S, f"an episode of {name} begins")

    def landed(self, *names: str) -> Pairs:
        """The tasks, with the bytes that are landed now."""
        known = {task.name: task.digest for task in versions.landed(Workspace(self.root))}
        return [(name, known[name]) for name in names]

    def champion(self) -> Pairs | None:
        """What the champion knows; None while there is none, or nobody answers."""
        found = self._asked("registered-models/alias?name=lorax&alias=champion")
        return _tasks(found["model_version"]) if found else None

    def version_of(self, wanted: Pairs) -> str:
        """The number of the version that knows just these tasks."""
        found: list[str] = []

        def look() -> bool:
            rows = (self._asked("model-versions/search?filter=name%3D%27lorax%27") or {}).get("model_versions", [])
            found[:] = sorted((row["version"] for row in rows if _tasks(row) == wanted), key=int)
            return bool(found)

        bench.wait_for(look, PATIENCE_S, f"a version knows {', '.join(name for name, _ in wanted)}")
        return found[-1]

    def _planned(self) -> list[str]:
        plans = (self.root / "work/episodes").glob("*/plan.json")
        return [json.loads(plan.read_text())["task"]["digest"] for plan in plans]

    def _asked(self, path: str) -> dict[str, Any] | None:
        try:
            return bench.ask_mlflow(self.root, path)
        except OSError:  # it was killed, or has no champion yet
            return None


def _tasks(version: dict[str, Any]) -> Pairs:
    tags = {tag["key"]: tag["value"] for tag in version["tags"]}
    return [(name, digest) for name, digest in json.loads(tags["mlflow.lorax.tasks"])]


def _is_clear(said: str) -> bool:
    return len(re.findall(r"\berror:", said)) == 1 and "Traceback" not in said


def _plain(text: str) -> str:
    """Without a terminal's colours."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).strip()


Script = Callable[[User], None]
