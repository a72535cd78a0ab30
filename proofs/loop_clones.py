"""Two clones of one upstream land at once, twenty data sets in all, none of them asking the other."""

from __future__ import annotations

import re
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import bench

from lorax.data import versions
from lorax.workspace import Workspace

EACH = 10


def prove_clones() -> bool:
    """Ten landings in each of two clones, both at once: all there, in one order, in both, and learnable from either."""
    home = bench.HOME / "clones"
    shutil.rmtree(home, ignore_errors=True)
    here = bench.new_workspace(home, "here", tiny=True, remote=home / "store")
    bench.git("init", "--quiet", "--bare", "--initial-branch=main", str(home / "hub"), cwd=home)
    bench.git("commit", "--quiet", "--all", "--allow-empty", "--message", "Begin", cwd=here)
    bench.git("remote", "add", "origin", str(home / "hub"), cwd=here)
    bench.git("push", "--quiet", "--set-upstream", "origin", "main", cwd=here)
    bench.git("clone", "--quiet", str(home / "hub"), str(home / "there"), cwd=home)
    clones = {"here": here, "there": home / "there"}
    began, failed = time.perf_counter(), list[str]()
    threads = [threading.Thread(target=_land_all, args=(root, name, failed)) for name, root in clones.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took_s = time.perf_counter() - began
    for root in clones.values():  # what each learned of the other last
        bench.git("pull", "--quiet", "--ff-only", cwd=root)
    joins = len(re.findall("(?m)^Join", bench.git("log", "--format=%s", cwd=here)))
    print(f"  {2 * EACH} landings in {took_s:.0f} s, {joins} of them overtaken by another and joined with it")
    print("\n".join(f"  {text}" for text in failed) or "  every command ended well")
    checks = [_is_whole(root) for root in clones.values()]
    streams = [[task.name for task in versions.landed(Workspace(root))] for root in clones.values()]
    print(f"  stream here:  {' '.join(streams[0])}\n  stream there: {' '.join(streams[1])}")
    return not failed and all(checks) and streams[0] == streams[1] and _in_own_order(streams[0])


def _land_all(root: Path, name: str, failed: list[str]) -> None:
    """One after the other; each a command of its own, as a person or a watcher runs it."""
    for number in range(EACH):
        task = f"{name}{number}"
        source = bench.tiny_task(root.parent / "raw", task, seed=0, train=3, val=2)
        done = bench.lorax("land", str(source), "--task", task, cwd=root, check=False)
        if done.returncode:
            failed.append(f"{task}: exit {done.returncode}: {done.stderr.strip()}")


def _is_whole(root: Path) -> bool:
    """Every task is pinned with exactly its files, and all of them can be had; git has nothing left to say."""
    workspace = Workspace(root)
    tasks = [versions.read_task(workspace, task.name) for task in versions.landed(workspace)]
    raw = {md5 for folder in (root.parent / "raw").iterdir() for md5 in map(versions.md5_of, folder.rglob("*.png"))}
    samples = [sample for task in tasks for sample in (*task.train, *task.test)]
    found = versions.fetch(workspace, samples)
    clean = bench.git("status", "--porcelain", cwd=root) == ""
    pushed = bench.git("rev-parse", "HEAD", "@{upstream}", cwd=root).split()
    print(f"  {root.name}: {len(tasks)} tasks, {len(found)} of {len(raw)} images, {'clean' if clean else 'NOT clean'}")
    return len(tasks) == 2 * EACH and found.keys() == raw and clean and pushed[0] == pushed[1]


def _in_own_order(stream: list[str]) -> bool:
    """Whether each clone's landings stand in the order in which it made them."""
    return all([t for t in stream if t.startswith(name)] == [f"{name}{i}" for i in range(EACH)] for name in _NAMES)


_NAMES = ("here", "there")

PARTS: dict[str, Callable[[], bool]] = {"clones": prove_clones}
