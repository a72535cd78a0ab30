"""`kill -9` of a landing at each of its steps."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import bench
import psutil

from lorax.data import versions
from lorax.workspace import Workspace

_STAGES: dict[str, Callable[[_Landing], bool]] = {
    "reading": lambda at: at.locked_again(),
    "copying": lambda at: any((at.root / "work/landing/draft").rglob("*.png")),
    "notes made": lambda at: (at.root / "work/landing/undo/notes.json").exists(),
    "data/ changed": lambda at: (at.root / "data" / at.task).exists(),
    "data.dvc changed": lambda at: at.pins() != at.before,
    "stream written": lambda at: f"task: {at.task}".encode() in at.pins(),
    "committed": lambda at: at.head() != at.commit,
    "dvc push": lambda at: at.head() != at.commit and at.runs("push"),
}
"""How far a landing has come, told from outside."""


class _Landing:
    """A landing of `task` in `root`, started when this is made, and what was there before."""

    def __init__(self, root: Path, task: str, source: Path) -> None:
        self.root, self.task, self.source = root, task, source
        self.before, self.commit = self.pins(), self.head()
        self._lock_time = (root / "work/landing.lock").stat().st_mtime_ns
        self.command = ("land", str(source), "--task", task)
        self.process = bench.start_lorax(*self.command, cwd=root, log=root.parent / f"{task}.log")

    def pins(self) -> bytes:
        return (self.root / "data.dvc").read_bytes()

    def head(self) -> str:
        return (self.root / ".git/refs/heads/main").read_text()

    def locked_again(self) -> bool:
        return (self.root / "work/landing.lock").stat().st_mtime_ns != self._lock_time

    def runs(self, what: str) -> bool:
        """Whether a child of the landing runs this command of DVC's."""
        try:
            children = psutil.Process(self.process.pid).children()
            return any("dvc" in child.cmdline() and what in child.cmdline() for child in children)
        except psutil.Error:
            return False


def prove_kill_landing() -> bool:
    """kill -9 of a landing at each of its steps, alone and with its children; a second `lorax land` finishes it."""
    home = bench.HOME / "kill-landing"
    shutil.rmtree(home, ignore_errors=True)
    root = bench.new_workspace(home, "workspace", tiny=True, remote=home / "remote")
    bench.land_tiny(root, "first")
    expected = {"first": home / "raw/first"}
    print(f"{'killed':<16} {'at':<17} {'git':<9} {'data.dvc':<9} after 'lorax land' again", flush=True)
    passed = True
    for number, stage in enumerate(_STAGES):
        for group in (False, True):
            task = f"task{2 * number + group:02}"
            expected[task] = bench.tiny_task(home / "raw", task, seed=0, train=60, val=20)
            passed &= _kill_landing(root, task, expected, stage, group)
    return passed


def _kill_landing(root: Path, task: str, expected: dict[str, Path], stage: str, group: bool) -> bool:
    """Kill one landing at one stage, look, land again, look."""
    at = _Landing(root, task, expected[task])
    while at.process.poll() is None and not _STAGES[stage](at):
        time.sleep(0.0005)
    hit = at.process.poll() is None
    if hit:
        (os.killpg if group else os.kill)(at.process.pid, signal.SIGKILL)
    at.process.wait()
    git = "as before" if at.head() == at.commit else "landed"
    pins = "as before" if at.pins() == at.before else "landed" if git == "landed" else "changed"
    others = {name: folder for name, folder in expected.items() if name != task}
    kept = all(_holds(root / "data" / name, folder) for name, folder in others.items())
    again = bench.lorax(*at.command, cwd=root, check=False)
    whole = again.returncode == 0 and _is_whole(root, expected)
    said = "everything has landed, once" if whole else f"NOT whole: {again.stderr.strip()}"
    missed = "" if hit else "; MISSED: it was over before"
    who = "with children" if group else "the command"
    print(f"{who:<16} {stage:<17} {git:<9} {pins:<9} {said}{missed}{'' if kept else '; FILES LOST'}", flush=True)
    return hit and kept and whole


def _is_whole(root: Path, expected: dict[str, Path]) -> bool:
    """Every task is pinned, committed and pushed with exactly its files, in landing order; no landing left a trace."""
    workspace = Workspace(root)
    files = {
        f"{task}/{path.relative_to(folder)}": versions.md5_of(path)
        for task, folder in expected.items()
        for path in folder.rglob("*.png")
    }
    stored = all((root.parent / "remote/files/md5" / md5[:2] / md5[2:]).is_file() for md5 in files.values())
    clean = bench.git("status", "--porcelain", cwd=root) == ""
    order = [task.name for task in versions.landed(workspace)] == list(expected)
    traces = [name for name in ("draft", "undo") if (root / "work/landing" / name).exists()]
    pinned = dict(versions.manifest(workspace)) == files
    held = all(_holds(root / "data" / task, folder) for task, folder in expected.items())
    return clean and order and pinned and stored and held and not traces


def _holds(folder: Path, source: Path) -> bool:
    """Whether a folder has the very files of another."""
    found, wanted = (
        {path.relative_to(place): path.read_bytes() for path in place.rglob("*.png")} for place in (folder, source)
    )
    return found == wanted


PARTS: dict[str, Callable[[], bool]] = {"kill-landing": prove_kill_landing}
