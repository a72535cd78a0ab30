"""What a command costs before it does anything, and what orchestration and tracking add to an episode.

Measured in a workspace of its own, with real servers on free ports of this machine, on tasks of a few images. A bare
look-up is what any script needs to find the champion: a fresh Python, MLflow's client, one call. An episode's overhead
is the time from its flow's start to the next one's, less what its own steps report (prepare, train, herd, evaluate).
A process that learns has imports (most of them torch, timm and PEFT) and a first episode, to whose overhead its start
and its end are added; the imports have a row of their own.
"""

from __future__ import annotations

import argparse
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from itertools import pairwise
from pathlib import Path

from measure import Row, in_turns, report
from tasks import write_task

from lorax.commands.init import initialize, with_values
from lorax.data.landing import land
from lorax.learning.folder import Report
from lorax.params import load_params
from lorax.services import embedded, servers
from lorax.services.prefect_api import PrefectApi
from lorax.workspace import Workspace

LORAX = (sys.executable, "-m", "lorax")
BARE = "import sys, mlflow; mlflow.MlflowClient(sys.argv[1]).get_model_version_by_alias(sys.argv[2], 'champion')"
VALUES = {
    "training": {"epochs": 1},
    "landing": {"min_train": 1, "min_val": 1},
    "gate": {  # so few images teach little
        f"{figure}_{limit}": value
        for figure in ("detection", "attribution")
        for limit, value in (("floor", 0.0), ("drop", 1.0), ("forgetting", 1.0))
    },
}


@contextmanager
def served_workspace(folder: Path, tasks: int) -> Iterator[Workspace]:
    """A workspace where so many tasks have landed, and its servers, which are stopped in the end."""
    workspace = initialize(
        folder / "workspace", values={"services": {"prefect_port": free_port(), "mlflow_port": free_port()}}
    )
    path = workspace.params_path
    path.write_text(with_values(path.read_text(), VALUES))
    for number in range(tasks):
        raw = folder / f"task{number}"
        write_task(raw, train=16, test=8, side=64, seed=number)
        land(workspace, raw, raw.name)
    try:
        run(workspace, *LORAX, "up", "--no-worker")
        yield workspace
    finally:
        embedded.down(workspace)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((servers.HOST, 0))
        return int(probe.getsockname()[1])


def run(workspace: Workspace, *command: str) -> str:
    """Run a command in the workspace; returns what it wrote to stderr."""
    foreign = ("PREFECT_API_URL", "MLFLOW_TRACKING_URI")
    environment = {key: value for key, value in os.environ.items() if key not in foreign}
    done = subprocess.run(command, cwd=workspace.root, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return done.stderr


def learned(workspace: Workspace) -> list[Row]:
    """Learn what has landed in one process: its imports, its first episode, and the median of the others."""
    started = time.time()
    said = run(workspace, sys.executable, "-X", "importtime", "-m", "lorax", "learn")
    imports_s = microseconds(r"(\d+) \|", said)
    counted_s = microseconds(r"\d+ \| +(\d+) \| +peft$", said)  # imported inside the first step, which reports it
    process_s = time.time() - started
    api = PrefectApi.of(workspace, load_params(workspace.params_path))
    runs = api.rows("flow_runs/filter", {"flows": {"name": {"any_": ["episode"]}}, "sort": "START_TIME_ASC"})
    began = [datetime.fromisoformat(run["start_time"]).timestamp() for run in runs]
    ended = datetime.fromisoformat(runs[-1]["end_time"]).timestamp()
    reports = sorted(map(Report.read, workspace.episodes_dir.glob("*/report.json")), key=lambda r: r.episode)
    own = [sum(report.seconds.values()) for report in reports]
    first, *others = [after - before - s for (before, after), s in zip(pairwise([*began, ended]), own, strict=True)]
    around = process_s - (ended - began[0])
    return [
        {"what": "imports of a process that learns", "median_s": imports_s},
        {"what": "its first episode's overhead, without imports", "median_s": around + first - imports_s + counted_s},
        {"what": "overhead of each further episode", **quartiles(others), "own_steps_s": statistics.median(own[1:])},
    ]


def microseconds(pattern: str, said: str) -> float:
    """The seconds that `python -X importtime` has printed where `pattern` says, summed."""
    return sum(int(found) for found in re.findall(f"^import time: +{pattern}", said, re.MULTILINE)) / 1e6


def commands(workspace: Workspace, rounds: int) -> list[Row]:
    """`lorax --help`, a bare look-up and `lorax status`, one after the other in each round."""
    params = load_params(workspace.params_path)
    address = servers.environment(workspace, params)["MLFLOW_TRACKING_URI"]
    works = {
        "help": lambda: run(workspace, *LORAX, "--help"),
        "bare look-up": lambda: run(workspace, sys.executable, "-c", BARE, address, params.registry.model),
        "status": lambda: run(workspace, *LORAX, "status"),
    }
    taken = in_turns(works, rounds)
    rows: list[Row] = [{"what": name, **quartiles([turn[name] for turn in taken])} for name in works]
    more = [turn["status"] - turn["bare look-up"] for turn in taken]
    return [*rows, {"what": "status over a bare look-up", **quartiles(more)}]


def quartiles(values: Sequence[float]) -> dict[str, float]:
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median_s": median, "low_s": low, "high_s": high, "worst_s": max(values)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    with (
        tempfile.TemporaryDirectory() as folder,
        served_workspace(Path(folder), arguments.tasks) as workspace,
    ):
        rows = [*learned(workspace), *commands(workspace, arguments.rounds)]
    report("startup", rows, tasks=arguments.tasks, rounds=arguments.rounds, load_before=load)


if __name__ == "__main__":
    main()
