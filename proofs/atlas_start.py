"""Does a branch learn faster or better from the branch nearest to its probe than from a fresh start?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.demo_streams import demo_files, learned
from flows.attribution import startable
from lorax.learning.folder import EpisodeFolder, Report
from lorax.learning.state import LearnerState, load_state
from lorax.params import load_params
from lorax.stream import Task
from lorax.workspace import Workspace
from proofs.atlas_zoo import HOME

SEEDS = (0, 1, 2)
EPOCHS = (6, 2)


@dataclass(frozen=True)
class Figures:
    """Of the four tasks that had something to start from: first and last epoch's loss, their accuracy when learned."""

    first_loss: float
    last_loss: float
    new: float
    average: float
    starts: tuple[str | None, ...]

    @classmethod
    def of(cls, folders: list[EpisodeFolder]) -> Figures:
        state, reports = load_state(folders[-1].state_dir), [Report.read(f.report_path) for f in folders]
        return cls(
            float(np.mean([r.curves[0].loss for r in reports[1:]])),
            float(np.mean([r.curves[-1].loss for r in reports[1:]])),
            float(np.mean([row[-1] for row in state.accuracy[1:]])),
            float(np.mean(state.accuracy[-1])),
            tuple(branch.start for branch in state.branches[1:]),
        )


def prove_start() -> bool:
    """The demo's stream with fresh branches and with branches that start from the nearest; 6 and 2 epochs, 3 seeds."""
    found: dict[tuple[int, str], list[Figures]] = {}
    print(
        f"  {'epochs':>6} {'start':<8} {'seed':>4} {'first loss':>11} {'last loss':>10} {'new task':>9} {'average':>8}"
    )
    for epochs in EPOCHS:
        for how in ("fresh", "nearest"):
            for seed in SEEDS:
                one = _learned(seed, epochs, how)
                found.setdefault((epochs, how), []).append(one)
                figures = f"{one.first_loss:>11.3f} {one.last_loss:>10.3f} {one.new:>9.3f} {one.average:>8.3f}"
                starts = " ".join(str(s) for s in one.starts) if how == "nearest" else ""
                print(f"  {epochs:>6} {how:<8} {seed:>4} {figures}  {starts}", flush=True)
    for epochs in EPOCHS:
        fresh, nearest = found[epochs, "fresh"], found[epochs, "nearest"]
        gains = [100 * (n.average - f.average) for f, n in zip(fresh, nearest, strict=True)]
        first = np.mean([n.first_loss - f.first_loss for f, n in zip(fresh, nearest, strict=True)])
        print(
            f"  {epochs} epochs, nearest against fresh: average accuracy {np.mean(gains):+.2f} points "
            f"({', '.join(f'{g:+.2f}' for g in gains)}), loss of the first epoch {first:+.3f}"
        )
    return all(start for figures in found[EPOCHS[0], "nearest"] for start in figures.starts)


def _learned(seed: int, epochs: int, how: str) -> Figures:
    overrides = [f"run.seed={seed}", f"training.epochs={epochs}", f"training.branch_init={how}"]
    params, home = load_params(Path("params.yaml"), overrides=overrides), HOME / "attribute"
    files, workspace = demo_files(home), Workspace(home / f"workspace-{seed}")

    def start(state: LearnerState, task: Task) -> str | None:
        if how == "fresh":
            return None
        return startable(workspace, state, params, task, files.fetch, lambda _: None)[0][0]

    return Figures.of(learned(files, files.tasks, params, home / f"seed-{seed}", start))
