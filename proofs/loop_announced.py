"""What no event tells of: a released task, a relearned one, a push that a person mended, a server that was away."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import bench
import loop_trigger
from loop_trigger import PATIENCE_S, api_of, runs_of, time_of

from flows import deployment
from lorax import reconcile
from lorax.errors import LoraxError, ServiceError
from lorax.params import load_params
from lorax.services import orphans
from lorax.services.prefect_api import PrefectApi
from lorax.workspace import Workspace

WITHIN_S = 120.0
"""How soon a run must begin by itself once it is needed."""

EPOCHS = 8
"""Enough for an episode in whose middle a server can be killed."""


def prove_announced() -> bool:
    """A release, a relearning, mended pushes and MLflow's restart: each is followed by a run within two minutes."""
    return _by_hand() & _pushes()


def _by_hand() -> bool:
    root = bench.new_workspace(bench.HOME / "announced", "workspace", tiny=True)
    bench.change_params(root, {"training": {"epochs": EPOCHS}})
    with loop_trigger.up(root):
        api = api_of(root)
        for name in ("a", "b"):
            bench.land_tiny(root, name)
        _wait_known(root, api, ["a", "b"])
        bench.lorax("rollback", "--previous", "--reason", "proof", cwd=root)
        passed = _followed(root, api, "lorax release", "b", lambda: bench.lorax("release", "b", cwd=root))
        passed &= _followed(
            root, api, "lorax relearn --no-learn", "b", lambda: bench.lorax("relearn", "b", "--no-learn", cwd=root)
        )
        bench.land_tiny(root, "c")
        passed &= _killed_once(root, api, "c")
        bench.land_tiny(root, "d")
        return passed & _away(root, api, "d")


def _pushes() -> bool:
    """One clone lands without getting it pushed and does what it is told; the other clone's worker learns it."""
    home = bench.HOME / "announced"
    first, second, theirs = loop_trigger.clones(home)
    hub = home / "upstream.git"
    with loop_trigger.up(first, None, "--no-worker"), loop_trigger.up(second, theirs):
        api = api_of(first)
        bench.land_tiny(first, "a")
        _wait_known(first, api, ["a"])
        hub.rename(home / "away.git")
        _not_pushed(first, "b")
        (home / "away.git").rename(hub)
        passed = _followed(first, api, "away: landed again", "b", lambda: bench.land_tiny(first, "b"))
        hook = hub / "hooks/update"
        hook.write_text('#!/bin/sh\n[ "$1" != refs/heads/main ] || { echo "main is protected" >&2; exit 1; }\n')
        hook.chmod(0o755)
        said = _not_pushed(first, "c")
        cure = "git push origin HEAD:refs/heads/landed"
        if f"'{cure}'" not in " ".join(said.split()):
            raise SystemExit(f"the message names no cure '{cure}':\n{said}")

        def mend() -> None:
            bench.git(*cure.split()[1:], cwd=first)
            bench.git("update-ref", "refs/heads/main", "refs/heads/landed", cwd=hub)  # somebody merges it

        return passed & _followed(first, api, "refused: pushed, merged", "c", mend)


def _not_pushed(root: Path, task: str) -> str:
    """Land a task whose push must fail; returns what was said."""
    source = bench.tiny_task(root.parent / "raw", task, seed=0)
    done = bench.lorax("land", str(source), "--task", task, cwd=root, check=False)
    print(f"  landing {task}: exit {done.returncode}: {' '.join(done.stderr.split())[-320:]}")
    if done.returncode == 0:
        raise SystemExit(f"the landing of {task} ended well, though it can't be pushed")
    return done.stderr


def _followed(root: Path, api: PrefectApi, what: str, task: str, act: Callable[[], object]) -> bool:
    """Whether a run begins by itself, soon after `act`, and learns the task."""
    _wait_idle(api)
    act()
    acted = datetime.now(UTC)
    if task in _known(root):
        raise SystemExit(f"{task} is known, so nothing is to follow {what}")
    run = _next_run(api, acted)
    starts_s = (time_of(run["start_time"]) - acted).total_seconds()
    knows_s = bench.wait_for(lambda: task in _known(root), PATIENCE_S, f"{task} is known", every_s=2) + starts_s
    print(f"{what:<26} run begins after {starts_s:5.1f} s, {task} known after {knows_s:5.1f} s", flush=True)
    return starts_s < WITHIN_S


def _killed_once(root: Path, api: PrefectApi, task: str) -> bool:
    """Kill MLflow's server while a branch is trained: the run goes on, or another one does."""
    _in_training(root, task)
    before = datetime.now(UTC)
    print(f"killed while {task} is trained: {_kill_mlflow(root)}")
    known_s = bench.wait_for(lambda: task in _known(root), PATIENCE_S, f"{task} is known", every_s=2)
    ended = [f"{run['name']!r} {run['state_name']}" for run in runs_of(api, "learn") if _touches(run, before)]
    print(f"{'MLflow killed':<26} {task} known after {known_s:5.1f} s; runs since: {', '.join(ended)}", flush=True)
    return True


def _away(root: Path, api: PrefectApi, task: str) -> bool:
    """MLflow's server is killed, and stays away until the run that needs it has failed."""
    _in_training(root, task)
    before = datetime.now(UTC)
    loop_trigger.supervisor(root, "stop", "mlflow")
    _kill_mlflow(root)

    def failed() -> list[str]:
        with suppress(ServiceError):  # the machine is busy
            return [r["state_name"] for r in runs_of(api, "learn") if r["end_time"] and time_of(r["end_time"]) > before]
        return []

    away_s = bench.wait_for(failed, PATIENCE_S, "the run without MLflow ends", every_s=1)
    print(f"without MLflow for {away_s:.0f} s: the run ended {', '.join(failed())}")
    back = datetime.now(UTC)
    loop_trigger.supervisor(root, "start", "mlflow")
    run = _next_run(api, back)
    starts_s = (time_of(run["start_time"]) - back).total_seconds()
    known_s = bench.wait_for(lambda: task in _known(root), PATIENCE_S, f"{task} is known", every_s=2) + starts_s
    print(f"{'MLflow away, then back':<26} run begins after {starts_s:5.1f} s, {task} known after {known_s:5.1f} s")
    return starts_s < WITHIN_S


def _in_training(root: Path, task: str) -> None:
    def look() -> bool:
        plans = (root / "work/episodes").glob("*/plan.json")
        mine = [p.parent for p in plans if json.loads(p.read_text())["task"]["name"] == task]
        return any((home / "training.safetensors").exists() for home in mine)

    bench.wait_for(look, PATIENCE_S, f"{task} is being trained", every_s=0.05)


def _kill_mlflow(root: Path) -> str:
    """Kill the workspace's MLflow server, and nobody else's; returns the processes."""
    found = orphans.find(str(root / "work/services"), "mlflow")
    for process in found:
        process.kill()
    return f"MLflow's processes {', '.join(str(process.pid) for process in found)}"


def _next_run(api: PrefectApi, after: datetime) -> dict[str, Any]:
    """The first run of `learn` that begins after a moment."""
    found: list[dict[str, Any]] = []

    def look() -> bool:
        with suppress(ServiceError):  # the machine is busy
            found[:] = [run for run in runs_of(api, "learn") if time_of(run["start_time"]) > after]
        return bool(found)

    bench.wait_for(look, PATIENCE_S, "a run begins by itself", every_s=0.5)
    return found[0]


def _touches(run: dict[str, Any], since: datetime) -> bool:
    return run["end_time"] is None or time_of(run["end_time"]) > since


def _wait_known(root: Path, api: PrefectApi, tasks: list[str]) -> None:
    bench.wait_for(lambda: set(tasks) <= set(_known(root)), PATIENCE_S, f"{tasks} are known", every_s=2)
    _wait_idle(api)


def _wait_idle(api: PrefectApi) -> None:
    def look() -> bool:
        with suppress(ServiceError):  # the machine is busy
            return not deployment.under_way(api)
        return False

    bench.wait_for(look, PATIENCE_S, "no run is under way", every_s=1)


def _known(root: Path) -> list[str]:
    """What the champion knows; nothing while that can't be told."""
    workspace = Workspace(root)
    with suppress(LoraxError):
        champion = reconcile.look(workspace, load_params(workspace.params_path)).champion()
        return [task.name for task in champion.tasks] if champion else []
    return []


PARTS: dict[str, Callable[[], bool]] = {"announced": prove_announced}
