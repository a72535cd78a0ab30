"""A sweep on real Prefect, MLflow and Ray, killed in the middle and started again, by the command that a person types.

One workspace is used from top to bottom: the tests of this file run in order, each finding what the last one left.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from lorax import reconcile
from lorax.commands.init import initialize, with_values
from lorax.data import landing, versions
from lorax.learning.episode import Episode, learn_episode
from lorax.learning.folder import EpisodeFolder, Plan
from lorax.learning.state_files import state_digest
from lorax.params import load_params
from lorax.services import embedded
from lorax.sweeps.plan import plan_sweep
from lorax.workspace import Workspace
from tests.conftest import write_task_files
from tests.flows.commands import lorax, start, told
from tests.mlflow_server import Server, free_port
from tests.tiny_learner import tiny_params

# the servers alone take minutes to come up on a machine that is busy
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SWEEP = "scenarios: [[alpha, beta]]\nmethods: [lorax, linear]\nseeds: [0, 1]\n"


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory, server: Server) -> Iterator[Workspace]:
    """A workspace where two tasks landed and a third, whose images are lost; its own server is stopped in the end."""
    folder = tmp_path_factory.mktemp("sweep")
    workspace = initialize(
        folder / "a workspace", values={"services": {"prefect_port": free_port()}, "registry": {"model": "swept"}}
    )
    os.environ["MLFLOW_TRACKING_URI"] = server.uri
    changes = {**tiny_params(folder).learning(), "landing": {"min_train": 1, "min_val": 1}}
    workspace.params_path.write_text(with_values(workspace.params_path.read_text(), changes))
    for seed, name in enumerate(("alpha", "beta", "gone")):
        raw = write_task_files(folder / "raw" / name, {"0_real": 3, "1_fake": 3}, seed=seed, side=20)
        landing.land(workspace, raw, name)
    samples = versions.read_task(workspace, "gone").train
    shutil.rmtree(workspace.data_dir / "gone")
    for path in versions.cache_paths(workspace, [sample.md5 for sample in samples]).values():
        path.unlink()
    (workspace.root / "tiny.yaml").write_text(SWEEP)
    yield workspace
    embedded.down(workspace)


def cells(workspace: Workspace) -> dict[str, tuple[int, bytes]]:
    """What there is of each finished cell, and when it was written."""
    found = sorted((workspace.work_dir / "sweeps" / "tiny" / "cells").glob("[!.]*.json"))
    return {path.stem: (path.stat().st_mtime_ns, path.read_bytes()) for path in found}


def test_finished_cells_of_a_killed_sweep_are_not_run_again_and_one_that_fails_stops_no_other(
    workspace: Workspace, server: Server
) -> None:
    killed = start(workspace, "sweep", "tiny.yaml", MLFLOW_TRACKING_URI=server.uri)
    while not cells(workspace) and killed.poll() is None:
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    before = cells(workspace)
    assert killed.returncode == -signal.SIGKILL
    assert 1 <= len(before) < 4
    (workspace.root / "tiny.yaml").write_text(SWEEP.replace("beta]]", "beta], [gone]]"))
    planned = json.loads(told(workspace, "sweep", "tiny.yaml", "--dry-run", "--json"))
    assert {cell["key"] for cell in planned["cells"] if cell["finished"]} == set(before)
    errors = lorax(workspace, "sweep", "tiny.yaml", code=1, MLFLOW_TRACKING_URI=server.uri)
    for method, seed in ((method, seed) for method in ("lorax", "linear") for seed in (0, 1)):
        assert f"gone, {method}, seed {seed}, order 0: failed: 6 of " in errors
    assert before.items() <= cells(workspace).items()
    assert len(cells(workspace)) == 4


def test_the_table_has_every_finished_cell(workspace: Workspace) -> None:
    folder = workspace.work_dir / "sweeps" / "tiny"
    table = json.loads((folder / "table.json").read_text())["table"]
    found = [(line["scenario"], line["method"], line["cells"]) for line in table]
    assert found == [("alpha, beta", method, 2) for method in ("lorax", "linear")]
    measured = [json.loads(text)["metrics"]["average_accuracy"] for _, text in cells(workspace).values()]
    means = [line["figures"]["average_accuracy"]["mean"] for line in table]
    assert sum(means) / len(means) == pytest.approx(sum(measured) / len(measured))
    with Image.open(folder / "plot.png") as picture:
        picture.load()


def test_each_cell_has_one_run_below_the_sweep_s_and_the_registry_is_untouched(workspace: Workspace) -> None:
    registry = reconcile.registry_of_server(workspace, load_params(workspace.params_path))
    client = registry.client
    runs = client.search_runs([client.get_experiment_by_name(f"{registry.name}-sweeps").experiment_id])
    [parent] = [run for run in runs if run.data.tags["lorax.role"] == "sweep"]
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert sorted(run.data.tags["lorax.cell"] for run in children) == sorted(cells(workspace))
    assert {run.info.status for run in runs} == {"FINISHED"}
    measured = {run.data.tags["lorax.cell"]: run.data.metrics["average_accuracy"] for run in children}
    for key, (_, text) in cells(workspace).items():
        assert measured[key] == json.loads(text)["metrics"]["average_accuracy"]
    files = {file.path for file in client.list_artifacts(parent.info.run_id)}
    assert files == {"table.json", "table.csv", "table.md", "plot.png"}
    assert registry.versions() == []


def test_a_cell_beside_others_learns_what_its_episodes_learn_alone(workspace: Workspace, tmp_path: Path) -> None:
    plan = plan_sweep(workspace, workspace.root / "tiny.yaml")
    cell = next(cell for cell in plan.cells if (cell.method, cell.seed) == ("lorax", 1))
    base, read_task = None, partial(versions.read_task, workspace)
    for name in cell.tasks:
        home = EpisodeFolder.open(tmp_path, Plan.of(base, read_task(name), plan.params_of(cell), plan.revision))
        learn_episode(Episode.open(home, read_task, partial(versions.fetch, workspace)))
        base = home.state_dir
    assert base is not None
    assert json.loads(cells(workspace)[cell.key][1])["state"] == state_digest(base)
