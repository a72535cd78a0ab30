"""`kill -9` of a flow, of its worker, and of both, at each step of an episode."""

from __future__ import annotations

import json
import re
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import bench
import psutil
from main import learn_stream

from lorax.data.simulate import DEMO_TASKS
from lorax.learning.state_files import state_digest
from lorax.params import load_params
from lorax.services import orphans
from lorax.services.prefect_api import PrefectApi
from lorax.workspace import Workspace

EPOCHS = 8
CRASHED_WITHIN_S = 120.0
PATIENCE_S = 1200.0
AGAIN_S = 20
"""How soon after one crash another one starts a run: prefect.yaml's `within`, cut so that kills may come faster."""


def prove_kill() -> bool:
    """kill -9 of flow, worker, both, at each step of an episode: it goes on by itself to the uninterrupted digests."""
    passed = [_kill_stream(victim) for victim in ("flow", "worker", "both")]
    return all(passed)


@dataclass
class _Watched:
    """A workspace whose worker learns, and what is known of its processes."""

    root: Path
    api: PrefectApi
    pids: dict[str, list[psutil.Process]] = field(default_factory=dict)
    looked_at: float = 0.0

    def look(self, *, now: bool = False) -> dict[str, list[psutil.Process]]:
        """The processes of the running flow and of the worker; looking takes long, so it is done twice a second."""
        if now or time.monotonic() - self.looked_at > 0.5:
            mark = str(self.root / "work/services")
            self.pids = {service: orphans.find(mark, service) for service in ("flow", "worker")}
            self.looked_at = time.monotonic()
        return self.pids

    def folder(self, task: str) -> Path | None:
        """The folder of the episode that learns `task`."""
        for plan in (self.root / "work/episodes").glob("*/plan.json"):
            if json.loads(plan.read_text())["task"]["name"] == task:
                return plan.parent
        return None

    def runs(self) -> list[dict[str, Any]]:
        """The runs of `learn` that have begun, oldest first."""
        query = {"flows": {"name": {"any_": ["learn"]}}, "limit": 200, "sort": "START_TIME_ASC"}
        return [run for run in self.api.rows("flow_runs/filter", query) if run["start_time"]]


_STEPS: dict[str, Callable[[_Watched, str], bool]] = {
    "train branch": lambda at, task: _has(at, task, "training.safetensors", "trained"),
    "open base state": lambda at, task: _is_drafting(at.root / "work/states"),
    "update exemplars": lambda at, task: _has(at, task, "trained", "exemplars.json"),
    "evaluate": lambda at, task: _has(at, task, "exemplars.json", "state"),
    "register": lambda at, task: _is_registering(at, task),
}
"""How each step is told from outside: what is there already, and what is not. The first task opens no base state."""


def _has(at: _Watched, task: str, there: str, absent: str) -> bool:
    folder = at.folder(task)
    return folder is not None and (folder / there).exists() and not (folder / absent).exists()


def _is_drafting(folder: Path) -> bool:
    return folder.is_dir() and any(path.name.startswith(".") for path in folder.iterdir())


def _is_registering(at: _Watched, task: str) -> bool:
    """The version is in MLflow, and the champion is another yet."""
    if not _has(at, task, "state", "nothing"):
        return False
    model = bench.ask_mlflow(at.root, "registered-models/get?name=lorax")["registered_model"]
    champion = next(a["version"] for a in model["aliases"] if a["alias"] == "champion")
    newest = max(int(version["version"]) for version in model["latest_versions"])
    return newest > int(champion)


def _kill_stream(victim: str) -> bool:
    """Five tasks, one kill each at another step; nothing is done by hand in between."""
    root = bench.new_workspace(bench.HOME / "kill", victim, tiny=True)
    bench.change_params(root, {"training": {"epochs": EPOCHS}})
    path = root / "prefect.yaml"
    path.write_text(re.sub(r"within: \d+", f"within: {AGAIN_S}", path.read_text()))
    for task in DEMO_TASKS:
        bench.land_tiny(root, task)
    params = load_params(root / "params.yaml")
    home = bench.HOME / "kill" / f"{victim}-reference"
    shutil.rmtree(home, ignore_errors=True)
    wanted = [state_digest(path) for path in learn_stream(root, params, home)]
    at = _Watched(root, PrefectApi.of(Workspace(root), params))
    try:
        bench.lorax("up", cwd=root)
        print(f"\n{'killed':<7} {'at step':<17} {'of task':<13} what followed, in seconds after the kill", flush=True)
        hits = [_kill_at(at, victim, step, task) for step, task in zip(_STEPS, DEMO_TASKS, strict=True)]
        bench.wait_for(lambda: not bench.status(root)["waiting"], PATIENCE_S, "all is learned", every_s=3)
        bench.wait_for(lambda: at.runs()[-1]["state_type"] != "RUNNING", PATIENCE_S, "no run is under way")
        passed = _runs_ended_well(at, crashed=0 if victim == "worker" else len(_STEPS))
        return passed & _nothing_lost(root, wanted) & all(hits)
    finally:
        bench.lorax("down", cwd=root)


def _kill_at(at: _Watched, victim: str, step: str, task: str) -> bool:
    """Wait for a step, kill, and see it go on; whether all followed as it should."""
    deadline = time.monotonic() + PATIENCE_S
    while not _STEPS[step](at, task):
        at.look()
        if time.monotonic() > deadline:
            raise SystemExit(f"step {step!r} of {task!r} was never seen")
        time.sleep(0.002)
    chosen = _victims(at, victim)
    _send(chosen, signal.SIGSTOP)  # so that it can't leave the step while it is looked at
    held = victim == "worker" or _STEPS[step](at, task)
    run = next(run for run in reversed(at.runs()) if run["state_type"] == "RUNNING")
    old_workers = {process.pid for process in at.pids["worker"]}
    _send(chosen, signal.SIGKILL)
    killed = datetime.now(UTC)
    follows = {} if victim == "flow" else {"worker again": _worker_again(at, old_workers, killed)}
    follows |= _goes_on_alone(at, run) if victim == "worker" else _runs_again(at, run, killed)
    said = ", ".join(f"{what} {seconds:.0f}" for what, seconds in follows.items())
    print(f"{victim:<7} {step:<17} {task:<13} {said}{'' if held else '; MISSED: the step was over'}", flush=True)
    return held and follows.get("crashed", 0.0) < CRASHED_WITHIN_S


def _victims(at: _Watched, victim: str) -> list[psutil.Process]:
    found = at.look(now=not at.pids.get("flow"))
    chosen = [*found["worker"], *found["flow"]] if victim == "both" else found[victim]
    if not chosen:
        raise SystemExit(f"no process of {victim} was found")
    return chosen


def _send(processes: list[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        try:
            process.send_signal(number)
        except psutil.NoSuchProcess:
            continue


def _runs_again(at: _Watched, run: dict[str, Any], killed: datetime) -> dict[str, float]:
    """Seconds until Prefect's server says that the run crashed, and until another one is at work."""

    def has_crashed() -> bool:
        return bool((at.api.get(f"flow_runs/{run['id']}") or {})["state_type"] == "CRASHED")

    bench.wait_for(has_crashed, PATIENCE_S, "the killed run is marked as crashed")
    crashed = (datetime.now(UTC) - killed).total_seconds()
    bench.wait_for(lambda: at.runs()[-1]["id"] != run["id"], PATIENCE_S, "another run begins")
    at.look(now=True)
    return {"crashed": crashed, "another run": (datetime.now(UTC) - killed).total_seconds()}


def _goes_on_alone(at: _Watched, run: dict[str, Any]) -> dict[str, float]:
    """The flow does not need its worker: it is still the same run."""
    time.sleep(3)
    still = (at.api.get(f"flow_runs/{run['id']}") or {})["state_type"] in ("RUNNING", "COMPLETED")
    if not still:
        raise SystemExit(f"the run {run['name']!r} ended with its worker")
    return {"the run goes on": 3.0}


def _worker_again(at: _Watched, old: set[int], killed: datetime) -> float:
    """Seconds until the supervisor has started another worker."""
    bench.wait_for(
        lambda: {process.pid for process in at.look(now=True)["worker"]} - old, PATIENCE_S, "a worker is back"
    )
    return (datetime.now(UTC) - killed).total_seconds()


def _runs_ended_well(at: _Watched, crashed: int) -> bool:
    """Whether just the killed runs crashed, and the last one completed."""
    states = [run["state_type"] for run in at.runs()]
    print(f"runs of learn: {', '.join(state.lower() for state in states)}")
    return states.count("CRASHED") == crashed and states[-1] == "COMPLETED"


def _nothing_lost(root: Path, wanted: list[str]) -> bool:
    """Each task once, each version once, each point once, and the digests of a stream that nobody interrupted."""
    found, versions = bench.digests(root), bench.versions(root)
    tasks = [row["task"] for row in bench.line(root)]
    curves = [steps for curve in bench.timelines(root).values() for steps in curve.values()]
    once = all(len(steps) == len(set(steps)) for steps in curves)
    print(f"champion's line: {', '.join(tasks)}; {len(versions)} versions in all, states {len(set(found))}")
    print(f"{sum(map(len, curves))} points in {len(curves)} curves, one for each metric and step: {once}")
    print(f"digests  {' '.join(d[:12] for d in found)}\nexpected {' '.join(d[:12] for d in wanted)}", flush=True)
    return found == wanted and tasks == list(DEMO_TASKS) and len(versions) == len(wanted) and once


PARTS: dict[str, Callable[[], bool]] = {"kill": prove_kill}
