"""What a command costs before it does anything, and what orchestration and tracking add to an episode.

Measured in a workspace of its own, with real servers on free ports of this machine, on tasks of a few images. A bare
look-up is what any script needs to find the champion: a fresh Python, MLflow's client, one call. An episode's overhead
is the time from its flow's start to the next one's, less what its own steps report (prepare, train, herd, evaluate).
The first one of a process also imports the learning libraries, which is start-up; it has a row of its own, as have the
process around it (torch is imported there) and those imports alone.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from itertools import pairwise
from pathlib import Path

from measure import Row, in_turns, report, seconds
from tasks import write_task

from flows.prefect_api import PrefectApi
from lorax import services
from lorax.data.landing import land
from lorax.initialize import initialize, with_values
from lorax.learning.folder import Report
from lorax.params import load_params
from lorax.workspace import Workspace

LORAX = (sys.executable, "-m", "lorax")
BARE = "import sys, mlflow; mlflow.MlflowClient(sys.argv[1]).get_model_version_by_alias(sys.argv[2], 'champion')"
LEARNING = "import lorax.learning.episode; lorax.network.backbone.import_timm(); import peft"
VALUES = {
    "training": {"epochs": 1},
    "landing": {"min_train": 1, "min_val": 1},
    "gate": {"floor": 0.0, "max_drop": 1.0, "max_forgetting": 1.0},  # so few images teach little
}


@contextmanager
def served_workspace(folder: Path, tasks: int) -> Iterator[Workspace]:
    """A workspace where so many tasks have landed, and its servers, which are stopped in the end."""
    workspace = initialize(folder / "workspace", prefect_port=free_port(), mlflow_port=free_port())
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
        services.down(workspace)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((services.HOST, 0))
        return int(probe.getsockname()[1])


def run(workspace: Workspace, *command: str) -> None:
    foreign = ("PREFECT_API_URL", "MLFLOW_TRACKING_URI")
    environment = {key: value for key, value in os.environ.items() if key not in foreign}
    subprocess.run(command, cwd=workspace.root, env=environment, stdout=subprocess.DEVNULL, check=True)


def learned(workspace: Workspace) -> list[Row]:
    """Learn what has landed in one process: the process, its first episode, and the median of the others."""
    process_s = seconds(lambda: run(workspace, *LORAX, "learn"))
    api = PrefectApi.of(workspace, load_params(workspace.params_path))
    query = {"flows": {"name": {"any_": ["episode"]}}, "sort": "START_TIME_ASC"}
    runs = api.rows("flow_runs/filter", query)
    began = [datetime.fromisoformat(run["start_time"]).timestamp() for run in runs]
    ended = datetime.fromisoformat(runs[-1]["end_time"]).timestamp()
    reports = sorted(map(Report.read, workspace.episodes_dir.glob("*/report.json")), key=lambda r: r.episode)
    own = [sum(report.seconds.values()) for report in reports]
    overheads = [after - before - s for (before, after), s in zip(pairwise([*began, ended]), own, strict=True)]
    return [
        {"what": "process around its episodes", "median_s": process_s - (ended - began[0])},
        {"what": "overhead of a process's first episode", "median_s": overheads[0], "own_steps_s": own[0]},
        {"what": "overhead of an episode", **quartiles(overheads[1:]), "own_steps_s": statistics.median(own[1:])},
    ]


def commands(workspace: Workspace, rounds: int) -> list[Row]:
    """`lorax --help`, a bare look-up, `lorax status` and the learning libraries' imports, in turns."""
    params = load_params(workspace.params_path)
    address = services.environment(workspace, params)["MLFLOW_TRACKING_URI"]
    works = {
        "help": lambda: run(workspace, *LORAX, "--help"),
        "bare look-up": lambda: run(workspace, sys.executable, "-c", BARE, address, params.registry.model),
        "status": lambda: run(workspace, *LORAX, "status"),
        "importing torch, timm and PEFT": lambda: run(workspace, sys.executable, "-c", LEARNING),
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
    parser.add_argument("--rounds", type=int, default=5)
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
