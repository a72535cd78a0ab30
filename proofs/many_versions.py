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
import os
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

from lorax.commands.init import initialize, with_values
from lorax.data.landing import land
from lorax.learning.folder import Report
from lorax.learning.state_files import load_state, save_state
from lorax.params import load_params
from lorax.reconcile import open_registry
from lorax.registry.candidate import open_candidate
from lorax.services import embedded
from lorax.services.prefect_api import PrefectApi
from lorax.workspace import Workspace
from proofs.bench import free_port
from tests.registry.conftest import OPEN
from tests.tiny_learner import make_task, tiny_params

ROUNDS = 3
LORAX = (sys.executable, "-m", "lorax")
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
    ports = {"prefect_port": free_port(), "mlflow_port": free_port()}
    workspace = initialize(folder / "workspace", values={"services": ports})
    values = {
        **tiny_params(folder).learning(),
        "landing": {"min_train": 1, "min_val": 1},
        "gate": OPEN.model_dump(),
        "robustness": {"per_class": 0},
    }
    workspace.params_path.write_text(with_values(workspace.params_path.read_text(), values))
    try:
        run(workspace, *LORAX, "up", "--no-worker")
        yield workspace
    finally:
        embedded.down(workspace)


def run(workspace: Workspace, *command: str) -> float:
    """Seconds that a command takes in the workspace."""
    foreign = ("PREFECT_API_URL", "MLFLOW_TRACKING_URI")
    environment = {key: value for key, value in os.environ.items() if key not in foreign}
    began = time.perf_counter()
    done = subprocess.run(command, cwd=workspace.root, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return time.perf_counter() - began


def learned(workspace: Workspace, first: int, last: int) -> list[float]:
    """Land and learn tasks number `first` to `last` in one process; of each but the last, its overhead in seconds."""
    for number in range(first, last + 1):
        name = f"task{number:02d}"
        make_task(workspace.root.parent / "raw", name)
        land(workspace, workspace.root.parent / "raw" / name, name)
    run(workspace, *LORAX, "learn")
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
        name: statistics.median(run(workspace, *command) for _ in range(ROUNDS)) for name, command in COMMANDS.items()
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
        registry.judge(candidate, OPEN)
        registry.promote_passed(candidate, OPEN)
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
        seconds = add_versions(workspace, options.versions)
        last = timed(workspace)
        print(f"{options.versions} versions: registering one {seconds:.2f} s; "
              + ", ".join(f"{name} {taken:.2f} s" for name, taken in last.items()))  # fmt: skip
    growths = {name: (rows[marks[0]][name], rows[marks[-1]][name]) for name in COMMANDS}
    growths["an episode's overhead"] = tuple(statistics.median(overheads[mark][-5:]) for mark in (marks[0], marks[-1]))
    for name, (few, many) in growths.items():
        print(f"exponent in the number of tasks, {name}: {math.log(many / few) / math.log(marks[-1] / marks[0]):.2f}")


if __name__ == "__main__":
    main()
