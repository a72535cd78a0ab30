"""What speed costs: the demo's stream learned the published way and ours, over 5 seeds (`make prove-speed`).

Both learn the same five tasks with params.yaml's values and the same seeds. PASS: the means of their final average
accuracy lie at most one point apart. Each finished stream is kept, so that an interrupted run goes on where it was;
remove the folder to learn all of them again, with other code, say. It takes about an hour on two cores.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.published import PublishedLearner
from benchmarks.tasks import TaskFiles
from lorax.data.simulate import DEMO_TASKS, simulate
from lorax.learning import metrics
from lorax.learning.episode import learn_episode
from lorax.learning.folder import EpisodeFolder, Plan
from lorax.learning.opening import base_state
from lorax.learning.state import LearnedTask, Revision, state_digest
from lorax.params import Params, load_params
from lorax.storage import canonical_json, write_whole

Rows = Sequence[Sequence[float]]
"""The accuracy matrix, a row per episode."""

ALLOWED = 0.01


def learn_published(files: TaskFiles, params: Params, home: Path) -> Rows:
    learner = PublishedLearner(params)
    for task in files.tasks:
        learner.learn(task, files.fetch)
    return learner.accuracy


def learn_ours(files: TaskFiles, params: Params, home: Path) -> Rows:
    base: Path | None = None
    for k, task in enumerate(files.tasks):
        parent, learned = state_digest(base) if base else None, LearnedTask(task.name, task.digest)
        folder = EpisodeFolder.open(home, Plan(parent, learned, params.learning(), Revision("simulated", "none")))
        state = learn_episode(folder, base_state(base, params), task, files.tasks[:k], files.fetch, params)
        base = folder.state_dir
    shutil.rmtree(home)  # its episodes would answer for code that is changed later
    return state.accuracy


WAYS: dict[str, Callable[[TaskFiles, Params, Path], Rows]] = {"published": learn_published, "ours": learn_ours}


def learned(folder: Path, files: TaskFiles, way: str, seed: int) -> Rows:
    """The accuracy matrix of one stream, learned now unless it is kept."""
    path = folder / f"{way}-{seed}.json"
    values = [f"run.seed={seed}", "run.device=cpu", "calibration.per_class=0"]
    params = load_params(Path("params.yaml"), overrides=values)
    if path.is_file():
        record = json.loads(path.read_text())
        if record["parameters"] == params.learning():
            return record["accuracy"]
    started = time.perf_counter()
    rows = WAYS[way](files, params, folder / f"episodes-{seed}")
    seconds = time.perf_counter() - started
    write_whole(path, canonical_json({"accuracy": rows, "parameters": params.learning(), "seconds": seconds}))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("work/proofs/speed"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    arguments = parser.parse_args()
    raw, files = arguments.folder / "mini-cddb", TaskFiles()
    if not raw.exists():
        simulate(raw)
    for task in DEMO_TASKS:
        files.read(raw / task)
    print(f"{'seed':>4} {'published AAF':>13} {'ours AAF':>9} {'difference':>10}   forgetting, published and ours")
    differences = []
    for seed in arguments.seeds:
        published, ours = (learned(arguments.folder, files, way, seed) for way in WAYS)
        figures = [metrics.average_accuracy(rows) for rows in (published, ours)]
        lost = [metrics.forgetting(rows) for rows in (published, ours)]
        differences.append(figures[1] - figures[0])
        print(
            f"{seed:>4} {figures[0]:>13.4f} {figures[1]:>9.4f} {differences[-1]:>+10.4f}   {lost[0]:.4f} {lost[1]:.4f}",
            flush=True,
        )
    mean = statistics.mean(differences)
    passed = abs(mean) <= ALLOWED
    print(f"mean difference {mean:+.4f} (allowed: {ALLOWED} either way): {'PASS' if passed else 'FAIL'}")
    sys.exit(not passed)


if __name__ == "__main__":
    main()
