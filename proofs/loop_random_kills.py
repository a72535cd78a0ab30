"""`kill -9` at random times of whatever a workspace has at work, and how long learning then lay idle."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from lorax.leftovers import FOLDER_VARIABLE, SERVICE_VARIABLE

LOOK_S = 0.3

_SERVICES = ("flow", "worker", "prefect", "mlflow", "watcher", "announcer")
_WEIGHTS = {"flow": 3, "worker": 1, "prefect": 1, "mlflow": 1, "watcher": 1, "announcer": 1}
_COMMAND_WEIGHT = 5
"""Of a command, which lives for seconds only: else hardly any would be hit."""


@dataclass(frozen=True)
class Kill:
    """One kill: when (seconds since the scenario began), of what, how many processes, during which action."""

    at_s: float
    victim: str
    processes: int
    during: str


@dataclass
class Idle:
    """How long something waited to be learned while no run was at work."""

    longest_s: float = 0.0
    undisturbed_s: float = 0.0
    """The same from the last kill on: what the product alone is to blame for."""

    during: str = ""
    _since: float | None = None

    def look(self, now: float, last_kill: float, during: str, *, is_idle: bool) -> None:
        """Take note of one moment."""
        if not is_idle:
            self._since = None
            return
        self._since = now if self._since is None else self._since
        if now - self._since > self.longest_s:
            self.longest_s, self.during = now - self._since, during
        self.undisturbed_s = max(self.undisturbed_s, now - max(self._since, last_kill))


@dataclass
class Killer:
    """A Poisson stream of kills, in a thread of its own; without kills it only looks how long learning lies idle.

    It pauses where more of the kills than of the user's actions are over, or all would fall on the first of them: what
    was killed takes its time to come back.

    Args:
        root: the workspace.
        seed: of the times and the victims.
        kills: how many, in all.
        gap_s: mean seconds from one to the next.
        actions: how many the user will begin.
    """

    root: Path
    seed: int
    kills: int
    gap_s: float
    actions: int
    is_due: bool = False
    """Whether something is to be learned: the user knows, and says so here."""

    action: str = ""
    begun: int = 0
    command: psutil.Process | None = None
    done: list[Kill] = field(default_factory=list)
    idle: Idle = field(default_factory=Idle)
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None
    _began: float = 0.0

    def start(self) -> None:
        self._began = time.monotonic()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def begin(self, action: str, *, is_due: bool = False) -> None:
        """Take note that the user begins another action, during which something `is_due` to be learned or not."""
        self.action, self.is_due, self.begun = action, is_due, self.begun + 1

    def is_over(self) -> bool:
        """Whether all kills were done."""
        return len(self.done) >= self.kills

    def _run(self) -> None:
        chance = random.Random(self.seed)
        due = chance.expovariate(1 / self.gap_s)
        while not self._stop.wait(LOOK_S):
            now, alive = time.monotonic() - self._began, self._alive()
            last = self.done[-1].at_s if self.done else 0.0
            self.idle.look(now, last, self.action, is_idle=self.is_due and "flow" not in alive)
            may_go_on = len(self.done) * self.actions < self.kills * self.begun and not self.is_over()
            if now >= due:
                if alive and may_go_on:
                    self._kill(chance, alive, now)
                due = now + chance.expovariate(1 / self.gap_s)

    def _alive(self) -> dict[str, list[psutil.Process]]:
        """What could be killed now, by name: the workspace's services, and the command that the user runs."""
        found: dict[str, list[psutil.Process]] = {}
        mark = str(self.root / "work/services")
        for process in psutil.process_iter():
            try:
                marks = process.environ()
            except (psutil.Error, OSError):
                continue
            if marks.get(FOLDER_VARIABLE) == mark and (name := marks.get(SERVICE_VARIABLE)) in _SERVICES:
                found.setdefault(str(name), []).append(process)
        command = self.command
        try:
            if command is not None and command.is_running():
                found[self.action] = [command, *command.children(recursive=True)]
        except psutil.Error:
            pass
        return found

    def _kill(self, chance: random.Random, alive: dict[str, list[psutil.Process]], now: float) -> None:
        """One process of the victim, or all of them: memory runs out for one, a machine stops for all."""
        names = sorted(alive)
        weights = [_WEIGHTS.get(name, _COMMAND_WEIGHT) for name in names]
        victim = chance.choices(names, weights)[0]
        processes = sorted(alive[victim], key=lambda process: process.pid)
        chosen = processes if chance.random() < 0.5 else [chance.choice(processes)]
        for process in chosen:
            try:
                process.kill()
            except psutil.Error:
                continue
        self.done.append(Kill(round(now, 1), victim, len(chosen), self.action))
        print(f"  {now:5.0f} s: {victim} killed ({len(chosen)} of {len(processes)}) during {self.action}", flush=True)


def counted(kills: Sequence[Kill]) -> str:
    """How often each victim was killed."""
    return ", ".join(f"{name} {count}" for name, count in sorted(Counter(kill.victim for kill in kills).items()))
