"""The demo's stream learned the published way and ours, side by side, over 5 seeds (`make prove-speed`).

    published   the published way, on the small ConViT
    fast        our way of computing the same: head.solver gradient, the same backbone, exemplars and seeds
    default     params.yaml as it is

PASS: speed costs nothing (the means of the final average accuracy of the first two lie at most one point apart), and
the default is at least as good as the published way on average. Each finished stream is kept, so that an interrupted
run goes on where it was; remove the folder to learn all of them again, with other code, say.
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
from lorax.data.generators import SIDE
from lorax.data.simulate import DEMO_TASKS, simulate
from lorax.learning import metrics
from lorax.learning.episode import Episode, learn_episode
from lorax.learning.folder import EpisodeFolder, Plan
from lorax.params import Params, load_params
from lorax.storage import canonical_json, write_whole
from lorax.stream import DataRevision

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
    for task in files.tasks:
        folder = EpisodeFolder.open(home, Plan.of(base, task, params, DataRevision("simulated", "none")))
        state = learn_episode(Episode.open(folder, {t.name: t for t in files.tasks}.__getitem__, files.fetch))
        base = folder.state_dir
    shutil.rmtree(home)  # its episodes would answer for code that is changed later
    return state.accuracy


Learn = Callable[[TaskFiles, Params, Path], Rows]

AS_PUBLISHED = ("backbone.name=shipped", "head.solver=gradient", "calibration.per_class=0")

WAYS: dict[str, tuple[Learn, Sequence[str]]] = {
    "published": (learn_published, AS_PUBLISHED),
    "fast": (learn_ours, AS_PUBLISHED),
    "default": (learn_ours, (f"backbone.crop={SIDE}",)),
}
"""How each is learned, and with what laid over params.yaml."""


def learned(folder: Path, files: TaskFiles, way: str, seed: int) -> Rows:
    """The accuracy matrix of one stream, learned now unless it is kept."""
    path = folder / f"{way}-{seed}.json"
    learn, values = WAYS[way]
    params = load_params(Path("params.yaml"), overrides=[*values, f"run.seed={seed}", "run.device=cpu"])
    if path.is_file():
        record = json.loads(path.read_text())
        if record["parameters"] == params.learning():
            return record["accuracy"]
    started = time.perf_counter()
    rows = learn(files, params, folder / f"episodes-{way}-{seed}")
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
    print("average accuracy / forgetting")
    print(f"{'seed':>4}" + "".join(f"{way:>18}" for way in WAYS))
    figures: dict[str, list[float]] = {way: [] for way in WAYS}
    for seed in arguments.seeds:
        print(f"{seed:>4}", end="", flush=True)
        for way, averages in figures.items():
            rows = learned(arguments.folder, files, way, seed)
            averages.append(metrics.average_accuracy(rows))
            print(f"{averages[-1]:>9.4f} / {metrics.forgetting(rows):.4f}", end="", flush=True)
        print()
    published, fast, default = (statistics.mean(averages) for averages in figures.values())
    passed = abs(fast - published) <= ALLOWED and default >= published
    print(f"means {published:.4f}, {fast:.4f}, {default:.4f}: {'PASS' if passed else 'FAIL'}")
    sys.exit(not passed)


if __name__ == "__main__":
    main()
