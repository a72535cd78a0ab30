"""What a long life costs: 60 tasks learned one after the other by real flows, then versions to 200.

python -m proofs.many_versions [--tasks 60] [--versions 200]

At a quarter, half and all of the tasks, and once there are all versions: seconds of `lorax status`, `lorax history` and
of listing the registry, each in a process of its own, by clock and by processor (the command's and both servers'); of
every episode what orchestration, registry and bookkeeping add to its own steps, and all that it costs processors; rows
and bytes of what is kept; and the exponent of each in the number of tasks. Learners are tiny, servers real, on this
machine. Everything happens in a temporary folder; the figures go to benchmarks/results/many_versions.json.
"""

from __future__ import annotations

import argparse
import math
import os
import resource
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import psutil

from benchmarks.measure import report
from lorax.data.landing import land
from lorax.learning.folder import Report
from lorax.learning.state_files import load_state, save_state
from lorax.params import GateParams, load_params
from lorax.reconcile import open_registry
from lorax.registry.candidate import open_candidate
from lorax.services.prefect_api import PrefectApi
from lorax.tidying import size
from lorax.workspace import Workspace
from proofs.bench import LORAX, OPEN_GATE, TINY, change_params, environment, lorax, new_workspace, remove_workspace
from tests.tiny_learner import make_task, tiny_params

ROUNDS, LOOKED_AT = 3, 5
GATE = GateParams.model_validate(OPEN_GATE)
LIST = "from pathlib import Path; from lorax.workspace import Workspace; from lorax.params import load_params; " \
    "from lorax.reconcile import open_registry; w = Workspace(Path.cwd()); " \
    "open_registry(w, load_params(w.params_path)).versions()"  # fmt: skip
COMMANDS = {
    "lorax --help": (*LORAX, "--help"),
    "lorax status": (*LORAX, "status", "--json"),
    "lorax history": (*LORAX, "history", "--json"),
    "listing the registry": (sys.executable, "-c", LIST),
}


@contextmanager
def served(folder: Path) -> Iterator[Workspace]:
    """An empty workspace of tiny learners, its servers up."""
    root = new_workspace(folder, "workspace", tiny=False)
    tiny = {"landing": TINY["landing"], "gate": OPEN_GATE, "robustness": {"per_class": 0}}
    change_params(root, {**tiny_params(folder).learning(), **tiny})
    try:
        lorax("up", "--no-worker", cwd=root)
        yield Workspace(root)
    finally:
        remove_workspace(root)


@dataclass(frozen=True)
class Taken:
    """What something took: seconds by the clock, and of processors, this process's children's and both servers'."""

    clock_s: float
    processor_s: float


def seconds(workspace: Workspace, *command: str) -> Taken:
    """What a command takes in the workspace."""
    began, before = time.perf_counter(), processor_s(workspace)
    subprocess.run(command, cwd=workspace.root, env=environment(), stdout=subprocess.DEVNULL, check=True)
    return Taken(time.perf_counter() - began, processor_s(workspace) - before)


def processor_s(workspace: Workspace) -> float:
    """Of processors so far: of the commands that were run and have ended, and of the workspace's servers."""
    services = load_params(workspace.params_path).services
    ports = {str(services.prefect_port), str(services.mlflow_port)}
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    total = ended.ru_utime + ended.ru_stime
    for process in psutil.process_iter(["cmdline", "cpu_times"]):
        command, times = process.info["cmdline"], process.info["cpu_times"]
        if command and command[-1] in ports and times:
            total += times.user + times.system
    return total


def learned(workspace: Workspace, first: int, last: int) -> dict[str, float]:
    """Land and learn tasks number `first` to `last` in one process; what their episodes cost."""
    for number in range(first, last + 1):
        name = f"task{number:02d}"
        make_task(workspace.root.parent / "raw", name)
        land(workspace, workspace.root.parent / "raw" / name, name)
    taken = seconds(workspace, *LORAX, "learn")
    api = PrefectApi.of(workspace, load_params(workspace.params_path))
    episodes = {"flows": {"name": {"any_": ["episode"]}}, "sort": "START_TIME_ASC"}
    began = [datetime.fromisoformat(one["start_time"]).timestamp() for one in api.rows("flow_runs/filter", episodes)]
    reports = {one.episode: one for one in map(Report.read, workspace.episodes_dir.glob("*/report.json"))}
    spans = [after - before for before, after in pairwise(began)]
    last_five = range(max(first - 1, last - 1 - LOOKED_AT), last - 1)  # the last one of all has none behind it
    overheads = [spans[k] - sum(reports[k].seconds.values()) for k in last_five]
    return {
        "episode_overhead_s": statistics.median(overheads),
        "episode_processor_s": taken.processor_s / (last - first + 1),
    }


def timed(workspace: Workspace) -> dict[str, float]:
    """Median seconds of each command."""
    figures = {}
    for name, command in COMMANDS.items():
        taken = [seconds(workspace, *command) for _ in range(ROUNDS)]
        figures[f"{name}_s"] = statistics.median(one.clock_s for one in taken)
        figures[f"{name}_processor_s"] = statistics.median(one.processor_s for one in taken)
    return figures


def kept(workspace: Workspace) -> dict[str, float]:
    """What both servers hold: rows of all tables, bytes of databases and of artifacts; and a learner state's bytes."""
    services, figures = workspace.services_dir, dict[str, float]()
    for server in ("mlflow", "prefect"):
        database = services / server / f"{server}.db"
        figures[f"{server}_bytes"] = sum(path.stat().st_size for path in database.parent.glob(f"{database.name}*"))
        with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as opened:
            tables = [name for (name,) in opened.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            counts = {name: opened.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0] for name in tables}
        figures[f"{server}_rows"] = sum(counts.values())
        figures |= {f"{server}_rows_{name}": counts[name] for name in sorted(counts, key=counts.__getitem__)[-3:]}
    figures["artifact_bytes"] = size(services / "mlflow" / "artifacts")
    figures["state_bytes"] = max(size(state) for state in workspace.states_dir.glob("[!.]*/"))
    return figures


def add_versions(workspace: Workspace, until: int) -> float:
    """Register the last learner anew under other data revisions; median seconds of registering, judging, promoting."""
    registry = open_registry(workspace, load_params(workspace.params_path))
    champion = registry.champion()
    assert champion is not None
    state = load_state(registry.download_state(champion.version, workspace.states_dir))
    report = max(map(Report.read, workspace.episodes_dir.glob("*/report.json")), key=lambda one: one.episode)
    taken = []
    for number in range(len(registry.versions()) + 1, until + 1):
        folder = workspace.root.parent / "states" / str(number)
        save_state(replace(state, revision=replace(state.revision, commit=f"{number:040d}")), folder)
        candidate = open_candidate(folder, report, None, None, None)
        began = time.perf_counter()
        registry.register(candidate)
        registry.judge(candidate, GATE)
        registry.promote_passed(candidate, GATE)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=60)
    parser.add_argument("--versions", type=int, default=200)
    options = parser.parse_args()
    marks = [options.tasks // 4, options.tasks // 2, options.tasks]
    if marks[0] < 2:
        parser.error("at least 8 tasks: of the first quarter's episodes one needs another behind it")
    with tempfile.TemporaryDirectory() as folder, served(Path(folder)) as workspace:
        rows = list[dict[str, float]]()
        for before, mark in pairwise([0, *marks]):
            costs = learned(workspace, before + 1, mark)
            rows.append({"tasks": mark, "versions": mark, **costs, **timed(workspace), **kept(workspace), **load()})
            print(rows[-1], flush=True)
        registering = {"register_s": add_versions(workspace, options.versions)}
        last = {"tasks": options.tasks, "versions": options.versions, **registering}
        rows.append({**last, **timed(workspace), **kept(workspace), **load()})
    report("many_versions", rows)
    few, many = rows[0], rows[len(marks) - 1]
    for name in few.keys() & many.keys() - {"tasks", "versions", "load"}:
        exponent = math.log(many[name] / few[name]) / math.log(marks[-1] / marks[0])
        print(f"exponent in the number of tasks, {name}: {exponent:.2f}")


def load() -> dict[str, float]:
    """Who else is at work."""
    return {"load": os.getloadavg()[0]}


if __name__ == "__main__":
    main()
