"""Methods compared over scenarios, seeds and orders: each cell is a step that Ray runs, on a core of its own.

A cell is learned whole in one of Ray's processes; what it came to comes back, and is written here alone, so that a
process or a node that is lost leaves nothing half done. `lorax` learns by its episodes, whose folders the cells of a
sweep share: orders that begin alike learn their beginning once, and a cell that was cut off goes on where it was.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.futures import as_completed

from flows import steps
from flows.step import Settings, step
from lorax import progress
from lorax.data import versions
from lorax.errors import LoraxError
from lorax.extras import extra
from lorax.learning.folder import EpisodeFolder
from lorax.learning.methods import METHODS
from lorax.learning.state_files import load_state, state_digest
from lorax.learning.training import EpochRow
from lorax.network.features import FeatureCache
from lorax.params import Params, load_params
from lorax.reconcile import registry_of_server
from lorax.registry.figures import save_sweep
from lorax.registry.sweep_runs import SweepRun
from lorax.scoring.engine import engine
from lorax.storage import locked
from lorax.stream import DataRevision
from lorax.sweeps import results
from lorax.sweeps.plan import LORAX, Cell, Plan, plan_sweep
from lorax.sweeps.results import Result
from lorax.text import percent
from lorax.workspace import Workspace


def sweep(workspace_root: str, path: str, address: str | None = None) -> dict[str, Any]:
    """Run the cells of a sweep's file that are not finished yet, and compare what all of them came to.

    Ray is started, or connected, before the flow that needs it: Prefect's runner takes the Ray that is there.

    Args:
        workspace_root: absolute path of the workspace, in which the tasks have landed.
        path: of the file.
        address: of a Ray cluster's head, HOST:PORT; None starts Ray here. Nothing is started if nothing is to be run.

    Returns:
        What the table's file has, and `failed`: cells that failed, by their titles, and why.
    """
    plan = plan_sweep(Workspace(Path(workspace_root)), Path(path))
    if len(results.finished(plan)) == len({cell.key for cell in plan.cells}):
        return compare(workspace_root, path, plan.name)
    with engine(address, wants_gpu=plan.params.run.device != "cpu") as ray:
        with extra("scale", "a sweep"):
            from prefect_ray import RayTaskRunner

        progress.say(f"{ray.places} cells at once")
        return compare.with_options(task_runner=RayTaskRunner())(workspace_root, path, plan.name, ray.on_gpu)


@flow(name="sweep", flow_run_name="sweep {name}", persist_result=False)
def compare(workspace_root: str, path: str, name: str, on_gpu: bool = False) -> dict[str, Any]:
    """Learn what is missing, keep and track it, and write the table; arguments and result as `sweep`."""
    workspace = Workspace(Path(workspace_root))
    plan = plan_sweep(workspace, Path(path))
    run = SweepRun.open(registry_of_server(workspace, plan.params), name, plan.revision.commit)
    with locked(plan.home / ".lock", lambda: progress.say("waiting for another run of this sweep")):
        found, tracked = results.finished(plan), run.tracked()
        for key in found.keys() - tracked:
            track(run, found[key], plan.params_of(found[key].cell).learning())
        missing = [cell for cell in plan.cells if cell.key not in found]
        failed = _learned(plan, run, missing, on_gpu)
        limit_gb = load_params(workspace.params_path).features.limit_gb
        FeatureCache(plan.episodes_dir / "features").evict(int(limit_gb * 1e9))
        return _compared(plan, run, failed)


@task(name="learn cell", task_run_name="{title}", cache_policy=NO_CACHE, persist_result=False)
def learn_cell(
    title: str, root: str, home: str, method: str, tasks: Sequence[str], settings: Settings, revision: DataRevision
) -> dict[str, Any]:
    """Learn tasks in order from nothing by one method; returns rows of the accuracy matrix, seconds and a digest."""
    began, learn = time.monotonic(), _by_episodes if method == LORAX else partial(_by_method, method)
    rows, state = learn(Workspace(Path(root)), Path(home), tasks, settings, revision)
    return {"rows": [list(row) for row in rows], "seconds": time.monotonic() - began, "state": state}


@step("track cell")
def track(run: SweepRun, result: Result, learning: Mapping[str, Any]) -> None:
    """Write a cell's run to MLflow."""
    cell = result.cell
    told = {name: getattr(cell, name) for name in ("scenario", "method", "seed", "order")} | {"tasks": list(cell.tasks)}
    run.track(cell.key, cell.title, cell.tasks, result.rows, {"cell": told, **learning}, result.seconds)


Learned = tuple[Sequence[Sequence[float]], str | None]


def _by_episodes(
    workspace: Workspace, home: Path, tasks: Sequence[str], settings: Settings, revision: DataRevision
) -> Learned:
    """Learn as `lorax scenario` does; of cells that begin alike, one learns and the others wait for it."""
    folder, seed, log = EpisodeFolder(home / "none"), settings["run"]["seed"], get_run_logger()
    for index, name in enumerate(tasks):
        base, lock = str(folder.state_dir) if index else None, home / f".{folder.root.name}-{name}-{seed}.lock"
        with locked(lock, lambda: log.info("another cell learns the same episode")):
            folder = EpisodeFolder(Path(steps.learn_task(str(workspace.root), home, base, name, settings, revision)))
    return load_state(folder.state_dir).accuracy, state_digest(folder.state_dir)


def _by_method(
    method: str, workspace: Workspace, home: Path, tasks: Sequence[str], settings: Settings, revision: DataRevision
) -> Learned:
    """Learn by one of the methods that LoRAX is compared with."""
    commit, log = revision.commit or "HEAD", get_run_logger()

    def on_epoch(row: EpochRow, epochs: int) -> None:
        log.info("epoch %d/%d: loss %.4f", row.epoch + 1, epochs, row.loss)

    stream = [versions.read_task(workspace, name, commit) for name in tasks]
    fetch = partial(versions.fetch, workspace)
    return METHODS[method](stream, fetch, Params.model_validate(settings), home, on_epoch), None


def _learned(plan: Plan, run: SweepRun, cells: Sequence[Cell], on_gpu: bool) -> dict[str, str]:
    """Learn cells side by side, and keep and track what they come to; returns why which failed."""
    if not cells:
        return {}
    from prefect_ray.context import remote_options

    failed, before = dict[str, str](), len(plan.cells) - len(cells)
    with remote_options(num_cpus=1, num_gpus=int(on_gpu)):
        running = {_submitted(plan, cell): cell for cell in cells}
    with progress.step("cells", counts=True) as shown:
        shown.on_progress(before, len(plan.cells), "")
        for done, future in enumerate(as_completed(list(running)), before + 1):
            cell = running[future]
            future.wait()  # Ray's own errors become a state here
            learned = future.result(raise_on_failure=False)
            if isinstance(learned, BaseException):
                failed[cell.title] = _line(learned)
                progress.say(f"  {cell.title}: failed: {failed[cell.title]}", style="red")
            else:
                _keep(plan, run, Result.of(cell, learned["rows"], learned["seconds"], learned["state"]))
            shown.on_progress(done, len(plan.cells), "")
        shown.outcome = f"{before} finished before, {len(cells) - len(failed)} now, {len(failed)} failed"
    return failed


def _keep(plan: Plan, run: SweepRun, result: Result) -> None:
    results.write_result(plan, result)
    track(run, result, plan.params_of(result.cell).learning())
    figures = ", ".join(f"{short} {percent(result.metrics[name])}" for name, short in results.FIGURES.items())
    progress.say(f"  {result.cell.title}: {figures} ({result.seconds:.0f} s)")


def _submitted(plan: Plan, cell: Cell) -> Any:
    settings = plan.params_of(cell).model_dump(mode="json")
    places = str(plan.workspace.root), str(plan.episodes_dir)
    return learn_cell.submit(cell.title, *places, cell.method, cell.tasks, settings, plan.revision)


def _compared(plan: Plan, run: SweepRun, failed: Mapping[str, str]) -> dict[str, Any]:
    """Write the table and the plot of what is finished, here and to MLflow."""
    found = results.finished(plan)
    cells = [found[cell.key] for cell in plan.cells if cell.key in found]
    lines = results.lines_of(cells)
    record = {
        "sweep": plan.name,
        "data": asdict(plan.revision),
        "cells": [asdict(result) for result in cells],
        "table": [asdict(line) for line in lines],
        "failed": dict(failed),
        "run_id": run.run_id,
    }
    if lines:
        run.finish(save_sweep(plan.home, record, results.as_rows(lines), results.as_markdown(lines)))
    return record


def _line(error: BaseException) -> str:
    """Why a cell failed, in a line."""
    told = " ".join(str(error).split())
    return told if isinstance(error, LoraxError) else f"{type(error).__name__}: {told}"[:500]
