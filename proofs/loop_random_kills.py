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

from lorax.services.orphans import FOLDER_VARIABLE, SERVICE_VARIABLE

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
    """Kills at random times, in a thread of its own; without kills it only looks how long learning lies idle.

    Every action of the user gets its share of them, each at an even chance over the time that the action takes when
    nobody disturbs it, counted from its begin or from the kill before: spread over the pass as a whole they would all
    fall on learning, and none on a command that takes seconds. What an action ends too early for falls on later ones.

    Args:
        root: the workspace.
        seed: of the times and the victims.
        kills: how many, in all.
        lengths_s: how long each of the user's actions takes undisturbed, in seconds.
    """

    root: Path
    seed: int
    kills: int
    lengths_s: Sequence[float]
    is_due: bool = False
    """Whether something is to be learned: the user knows, and says so here."""

    action: str = ""
    begun_s: list[float] = field(default_factory=list)
    """When each action began, in seconds since the scenario did."""

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
        self.action, self.is_due = action, is_due
        self.begun_s.append(time.monotonic() - self._began)

    def lengths(self) -> list[float]:
        """How long each action took, in seconds; the last is the one that goes on."""
        ends = [*self.begun_s[1:], time.monotonic() - self._began]
        return [end - begun for begun, end in zip(self.begun_s, ends, strict=True)]

    def is_over(self) -> bool:
        """Whether all kills were done."""
        return len(self.done) >= self.kills

    def _run(self) -> None:
        chance, due, aimed_at = random.Random(self.seed), 0.0, 0
        while not self._stop.wait(LOOK_S):
            now, begun, alive = time.monotonic() - self._began, len(self.begun_s), self._alive()
            last = self.done[-1].at_s if self.done else 0.0
            self.idle.look(now, last, self.action, is_idle=self.is_due and "flow" not in alive)
            if self.is_over() or not begun:
                continue
            if aimed_at != begun:
                due, aimed_at = now + self._delay(chance, begun), begun
            if now >= due and alive and len(self.done) * len(self.lengths_s) < self.kills * begun:
                self._kill(chance, alive, now)
                due = time.monotonic() - self._began + self._delay(chance, begun)

    def _delay(self, chance: random.Random, begun: int) -> float:
        return chance.uniform(0, self.lengths_s[min(begun, len(self.lengths_s)) - 1])

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
