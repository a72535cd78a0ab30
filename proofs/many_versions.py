"""What a long life costs: 60 tasks learned one after the other by real flows, then versions to 200.

python -m proofs.many_versions [--tasks 60] [--versions 200]

At a quarter, half and all of the tasks, and once there are all versions: seconds of `lorax status`, `lorax history` and
of listing the registry, each in a process of its own, and the exponent in the number of tasks; and of every episode
what orchestration, registry and bookkeeping add to its own steps. Learners are tiny, servers real, on this machine.
Everything happens in a temporary folder.
"""

from __future__ import annotations

import argparse
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from itertools import pairwise
from pathlib import Path

from lorax.data.landing import land
from lorax.learning.folder import Report
from lorax.learning.state_files import load_state, save_state
from lorax.params import GateParams, load_params
from lorax.reconcile import open_registry
from lorax.registry.candidate import open_candidate
from lorax.services.prefect_api import PrefectApi
from lorax.workspace import Workspace
from proofs.bench import LORAX, OPEN_GATE, TINY, change_params, environment, lorax, new_workspace, remove_workspace
from tests.tiny_learner import make_task, tiny_params

ROUNDS = 3
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


def seconds(workspace: Workspace, *command: str) -> float:
    """What a command takes in the workspace."""
    began = time.perf_counter()
    subprocess.run(command, cwd=workspace.root, env=environment(), stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


def learned(workspace: Workspace, first: int, last: int) -> list[float]:
    """Land and learn tasks number `first` to `last` in one process; of each but the last, its overhead in seconds."""
    for number in range(first, last + 1):
        name = f"task{number:02d}"
        make_task(workspace.root.parent / "raw", name)
        land(workspace, workspace.root.parent / "raw" / name, name)
    lorax("learn", cwd=workspace.root)
    api = PrefectApi.of(workspace, load_params(workspace.params_path))
    episodes = {"flows": {"name": {"any_": ["episode"]}}, "sort": "START_TIME_ASC"}
    began = [datetime.fromisoformat(one["start_time"]).timestamp() for one in api.rows("flow_runs/filter", episodes)]
    reports = sorted(map(Report.read, workspace.episodes_dir.glob("*/report.json")), key=lambda report: report.episode)
    own = [sum(report.seconds.values()) for report in reports]
    spans = [after - before - steps for (before, after), steps in zip(pairwise(began), own, strict=False)]
    return spans[first - 1 : last - 1]


def timed(workspace: Workspace) -> dict[str, float]:
    """Median seconds of each command."""
    return {
        name: statistics.median(seconds(workspace, *command) for _ in range(ROUNDS))
        for name, command in COMMANDS.items()
    }


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
    with tempfile.TemporaryDirectory() as folder, served(Path(folder)) as workspace:
        rows, overheads, before = {}, {}, 0
        for mark in marks:
            overheads[mark] = learned(workspace, before + 1, mark)
            rows[mark], before = timed(workspace), mark
            ends = f"{statistics.median(overheads[mark][-5:]):.2f}"
            print(f"{mark} tasks and versions: an episode's overhead (median of the last five) {ends} s; "
                  + ", ".join(f"{name} {taken:.2f} s" for name, taken in rows[mark].items()), flush=True)  # fmt: skip
        registering = add_versions(workspace, options.versions)
        last = timed(workspace)
        print(f"{options.versions} versions: registering one {registering:.2f} s; "
              + ", ".join(f"{name} {taken:.2f} s" for name, taken in last.items()))  # fmt: skip
    growths = {name: (rows[marks[0]][name], rows[marks[-1]][name]) for name in COMMANDS}
    growths["an episode's overhead"] = tuple(statistics.median(overheads[mark][-5:]) for mark in (marks[0], marks[-1]))
    for name, (few, many) in growths.items():
        print(f"exponent in the number of tasks, {name}: {math.log(many / few) / math.log(marks[-1] / marks[0]):.2f}")


if __name__ == "__main__":
    main()
