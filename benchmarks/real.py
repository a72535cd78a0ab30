"""The stream `real` learned by the plain functions, and what it is to be compared with.

    python -m benchmarks.real --root work/real --seeds 0 1 2
    python -m benchmarks.real --tasks waifu2x span --set exemplars.budget=0 training.epochs=2
    python -m benchmarks.real --joint      all tasks learned as one: one real class and each network's
    python -m benchmarks.real --alone      each task by one branch on top of nothing

With `--work FOLDER` a run that was stopped goes on where it was. With `--output FILE` figures are added to those that
are there of the same name and seed. The photographs and networks that are held apart are not looked at here.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.demo_streams import learned
from benchmarks.real_figures import alone_figures, joint_figures, joint_task, read_photographs, stream_figures
from benchmarks.tasks import TaskFiles
from lorax.params import Params, load_params
from lorax.stream import SCENARIOS, Task

_PLACES = ("--root", "--work", "--output")
"""Options that change no figure."""

PARAMS = Path(__file__).parents[1] / "params.yaml"


def main() -> None:
    options = _options()
    files = TaskFiles()
    tasks = [_fewer(files.read(options.root / "set" / name), options.images) for name in options.tasks]
    found: dict[str, Any] = {}
    for seed in options.seeds:
        params = load_params(PARAMS, preset=options.preset, overrides=[*options.set, f"run.seed={seed}"])
        order = [tasks[k] for k in np.random.default_rng(seed).permutation(len(tasks))] if options.shuffle else tasks
        with tempfile.TemporaryDirectory() as passing:
            found[str(seed)] = _figures(files, order, params, options.work or Path(passing), options)
        print(json.dumps({seed: found[str(seed)]}, indent=1), flush=True)
    if options.output:
        _record(options.output, options.name, found)


def _figures(
    files: TaskFiles, tasks: Sequence[Task], params: Params, home: Path, options: argparse.Namespace
) -> dict[str, Any]:
    if options.joint:
        return joint_figures(files, tasks, learned(files, [joint_task(tasks)], params, home)[0], params)
    if options.alone:
        return alone_figures(files, tasks, [learned(files, [task], params, home)[0] for task in tasks], params)
    photographs = read_photographs(files, options.reals) if options.reals else None
    return stream_figures(files, tasks, learned(files, tasks, params, home), params, photographs)


def _fewer(task: Task, images: int | None) -> Task:
    """The task with at most so many train images of each class."""
    if images is None:
        return task
    kept = [[s for s in task.train if s.class_index == c.index][:images] for c in task.classes]
    return replace(task, train=tuple(sample for part in kept for sample in part))


def _record(path: Path, name: str, found: dict[str, Any]) -> None:
    record = json.loads(path.read_text()) if path.exists() else {}
    entry = record.setdefault(name, {"commands": [], "by_seed": {}})
    words = [word for before, word in pairwise(["", *sys.argv[1:]]) if not {before, word} & set(_PLACES)]
    words = [Path(word).name if Path(word).is_absolute() else word for word in words]
    command = " ".join(["python -m benchmarks.real", shlex.join(words)]).strip()
    entry["commands"] = [*(c for c in entry["commands"] if c != command), command]
    entry["date"] = time.strftime("%Y-%m-%d")
    for seed, figures in found.items():
        entry["by_seed"][seed] = entry["by_seed"].get(seed, {}) | figures
    path.write_text(json.dumps(record, indent=1) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.real", description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, default=Path("work/real"), help="where 'make real' put the set")
    parser.add_argument("--tasks", nargs="+", default=SCENARIOS["real"])
    parser.add_argument("--preset", default=None)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--joint", action="store_true", help="learn all tasks as one")
    mode.add_argument("--alone", action="store_true", help="learn each task on top of nothing")
    parser.add_argument("--images", type=int, default=None, help="train images of each class, the first ones")
    parser.add_argument("--reals", type=Path, default=None, help="folder of photographs that no task brings")
    parser.add_argument("--shuffle", action="store_true", help="an order of tasks drawn from the seed")
    parser.add_argument("--set", nargs="*", default=[], metavar="SECTION.KEY=VALUE")
    parser.add_argument("--work", type=Path, default=None, help="folder that keeps the episodes, to go on in")
    parser.add_argument("--output", type=Path, default=None, help="JSON file to add the figures to")
    parser.add_argument("--name", default="recipe", help="of this run's entry there")
    return parser.parse_args()


if __name__ == "__main__":
    main()
