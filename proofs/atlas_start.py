"""Does a branch learn faster or better from the branch nearest to its probe than from a fresh start?

Asked of generators that have no relative among the known ones (the demo's), and of a known one's next version.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.demo_streams import demo_files, learned
from benchmarks.tasks import CLASSES, TaskFiles
from lorax.attribution import startable
from lorax.data.generators import GENERATORS, Ints
from lorax.data.simulate import cut_patches
from lorax.learning.folder import EpisodeFolder, Report
from lorax.learning.state import LearnerState
from lorax.learning.state_files import load_state
from lorax.params import Params, load_params
from lorax.stream import Task
from lorax.workspace import Workspace
from proofs.atlas_zoo import HOME

SEEDS = (0, 1, 2)
EPOCHS = (6, 2)

VERSIONS = ("subpixel", "ripple")
"""Generators whose next version comes as the sixth task."""

FEW, TESTED = 30, 80
"""Images of either kind that the next version brings to train on, and to be tested with."""

Start = Callable[[LearnerState, Task], str | None]


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
    few = zip(found[EPOCHS[-1], "fresh"], found[EPOCHS[-1], "nearest"], strict=True)
    return all(nearest.first_loss < fresh.first_loss for fresh, nearest in few)


def prove_next_version() -> bool:
    """After the demo's five, a known generator's next version with few images: a fresh start, and the nearest."""
    gains, right = [], []
    print(
        f"  {'task':<12} {'seed':>4} {'start':<10} {'first loss':>11} {'next version':>13} {'its old one':>12} average"
    )
    for name in VERSIONS:
        for seed in SEEDS:
            files = demo_files(HOME / "attribute")
            task = files.read(_next_version(name))
            found = {how: _sixth(files, task, seed, how) for how in ("fresh", "nearest")}
            for state, loss in found.values():
                row, start = state.accuracy[-1], state.branches[-1].start
                old = row[[t.name for t in state.tasks].index(name)]
                print(
                    f"  {task.name:<12} {seed:>4} {start or 'fresh':<10} {loss:>11.3f} {row[-1]:>13.3f} {old:>12.3f} "
                    f"{np.mean(row):.3f}",
                    flush=True,
                )
            (fresh, _), (nearest, _) = found["fresh"], found["nearest"]
            gains.append(
                [
                    nearest.accuracy[-1][-1] - fresh.accuracy[-1][-1],
                    np.mean(nearest.accuracy[-1]) - np.mean(fresh.accuracy[-1]),
                ]
            )
            right.append(nearest.branches[-1].start == name)
    new, average = 100 * np.mean(gains, axis=0)
    print(
        f"  nearest against fresh: next version {new:+.2f} points, average {average:+.2f}; "
        f"the start is the version before in {sum(right)} of {len(right)}"
    )
    return all(right)


def _learned(seed: int, epochs: int, how: str) -> Figures:
    files = demo_files(HOME / "attribute")
    params, start = _setting(files, seed, epochs, how)
    return Figures.of(learned(files, files.tasks, params, HOME / "attribute" / f"seed-{seed}", start))


def _sixth(files: TaskFiles, task: Task, seed: int, how: str) -> tuple[LearnerState, float]:
    """The state after the sixth task, and its first epoch's loss; the five before it are learned afresh."""
    params, start = _setting(files, seed, EPOCHS[0], "fresh")
    _, nearest = _setting(files, seed, EPOCHS[0], how)
    chosen: Start = lambda state, new: (nearest if new == task else start)(state, new)  # noqa: E731
    folders = learned(files, files.tasks, params, HOME / "attribute" / f"seed-{seed}", chosen)
    return load_state(folders[-1].state_dir), Report.read(folders[-1].report_path).curves[0].loss


def _setting(files: TaskFiles, seed: int, epochs: int, how: str) -> tuple[Params, Start]:
    overrides = [f"run.seed={seed}", f"training.epochs={epochs}", f"training.branch_init={how}"]
    params = load_params(Path("params.yaml"), overrides=overrides)
    workspace = Workspace(HOME / "attribute" / f"workspace-{seed}")

    def start(state: LearnerState, task: Task) -> str | None:
        if how == "fresh":
            return None
        return startable(workspace, state, params, task, files.fetch, lambda _: None)[0][0]

    return params, start


def _next_version(name: str) -> Path:
    """A data set of the generator's next version, in CDDB's layout."""
    folder = HOME / "attribute" / "versions" / f"{name}-2"
    for split, count in (("train", FEW), ("val", TESTED)):
        patches = cut_patches(split, 77)
        for number, kind in enumerate(CLASSES):
            place = folder / split / kind
            place.mkdir(parents=True, exist_ok=True)
            for i in range(count):
                image = _changed(name, next(patches).astype(np.int64)) if number else next(patches)
                Image.fromarray(np.asarray(image).clip(0, 255).astype(np.uint8)).save(place / f"{i:04d}.bmp")
    return folder


def _changed(name: str, patch: Ints) -> Ints:
    """Three quarters of the generator's own trace, one of the same trace upside down: retrained, it leaves another."""
    generator = GENERATORS[name]
    own, turned = generator(patch) - patch, generator(patch[::-1])[::-1] - patch
    return patch + (3 * own + turned) // 4
