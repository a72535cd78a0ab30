"""The stream `real` learned by the plain functions: accuracy, forgetting, and what texture and branches have in it.

    python -m benchmarks.real --root work/real --seeds 0 1 2
    python -m benchmarks.real --tasks waifu2x span --set exemplars.budget=0 training.epochs=2

With `--work FOLDER` a run that was stopped goes on where it was. The photographs and networks that are held apart are
not looked at here.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.demo_streams import Observer, learned
from benchmarks.tasks import TaskFiles
from lorax.learning.folder import EpisodeFolder, Report
from lorax.learning.unknown import auroc
from lorax.params import Params, load_params
from lorax.stream import SCENARIOS, Task

PARAMS = Path(__file__).parents[1] / "params.yaml"


def main() -> None:
    options = _options()
    files = TaskFiles()
    tasks = [files.read(options.root / "set" / name) for name in options.tasks]
    found: dict[str, Any] = {}
    for seed in options.seeds:
        params = load_params(PARAMS, preset=options.preset, overrides=[*options.set, f"run.seed={seed}"])
        order = [tasks[k] for k in np.random.default_rng(seed).permutation(len(tasks))] if options.shuffle else tasks
        with tempfile.TemporaryDirectory() as passing:
            home = options.work or Path(passing)
            folders = learned(files, order, params, home)
            found[str(seed)] = _figures(files, order, folders, params)
        print(json.dumps({seed: found[str(seed)]}, indent=1), flush=True)
    if options.output:
        _record(options.output, options.name, found, options)


def _figures(
    files: TaskFiles, tasks: Sequence[Task], folders: Sequence[EpisodeFolder], params: Params
) -> dict[str, Any]:
    """All that is told of one stream."""
    last = Observer(folders[-1], files, params)
    rows, tests = last.state.accuracy, [sample for task in tasks for sample in task.test]
    looked, ids = last.look(tests), last.ids(tests)
    of_task = torch.tensor([k for k, task in enumerate(tasks) for _ in task.test])
    reals = torch.tensor(last.state.classes.is_real)
    answers = {"all": looked.logits, "branches": looked.branches, "texture": looked.logits - looked.branches}
    seconds = [sum(Report.read(folder.report_path).seconds.values()) for folder in folders]
    forgotten = [max(row[i] for row in rows[i:]) - rows[-1][i] for i in range(len(tasks) - 1)]
    return {
        "average_accuracy": round(float(np.mean(rows[-1])), 4),
        "average_incremental": round(float(np.mean([np.mean(row) for row in rows])), 4),
        "forgetting": round(float(np.mean(forgotten)), 4) if forgotten else 0.0,
        "detection": round(float((reals[looked.logits.argmax(1)] == reals[ids]).double().mean()), 4),
        "false_positives": round(float((~reals[looked.logits.argmax(1)])[reals[ids]].double().mean()), 4),
        **{f"{name}_alone": _accuracy(said, ids, of_task, last) for name, said in answers.items() if name != "all"},
        "unknown_auroc": _unknown(files, tasks, folders, params),
        "last_row": {task.name: round(value, 4) for task, value in zip(tasks, rows[-1], strict=True)},
        "seconds": [round(s, 1) for s in seconds],
    }


def _accuracy(logits: Tensor, ids: Tensor, of_task: Tensor, seen: Observer) -> float:
    """Mean over tasks of the share of right answers, under the multi-real rule."""
    merged = torch.tensor(seen.state.classes.multi_real())
    right = (merged[logits.argmax(1)] == merged[ids]).double()
    return round(float(np.mean([float(right[of_task == k].mean()) for k in range(int(of_task.max()) + 1)])), 4)


def _unknown(
    files: TaskFiles, tasks: Sequence[Task], folders: Sequence[EpisodeFolder], params: Params
) -> dict[str, float | None]:
    """How well the version before each task told its generator from all that it knew."""
    found: dict[str, float | None] = {}
    for k in range(1, len(tasks)):
        before = Observer(folders[k - 1], files, params)
        if before.state.calibration is None:
            continue
        new = before.look([s for s in tasks[k].test if s.class_index])
        known = before.look([s for task in tasks[:k] for s in task.test])
        strange = [before.state.calibration.strangeness(looked.textures) for looked in (known, new)]
        found[tasks[k].name] = round(auroc(strange[1], strange[0]) or 0.0, 4)
    return found


def _record(path: Path, name: str, found: dict[str, Any], options: argparse.Namespace) -> None:
    record = json.loads(path.read_text()) if path.exists() else {}
    command = f"python -m benchmarks.real --name '{name}'"
    if options.preset:
        command += f" --preset {options.preset}"
    if options.set:
        command += " --set " + " ".join(options.set)
    if options.shuffle:
        command += " --shuffle"
    record[name] = {"command": command, "date": time.strftime("%Y-%m-%d"), "by_seed": found}
    path.write_text(json.dumps(record, indent=1) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.real", description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, default=Path("work/real"), help="where 'make real' put the set")
    parser.add_argument("--tasks", nargs="+", default=SCENARIOS["real"])
    parser.add_argument("--preset", default=None)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--shuffle", action="store_true", help="an order of tasks drawn from the seed")
    parser.add_argument("--set", nargs="*", default=[], metavar="SECTION.KEY=VALUE")
    parser.add_argument("--work", type=Path, default=None, help="folder that keeps the episodes, to go on in")
    parser.add_argument("--output", type=Path, default=None, help="JSON file to add the figures to")
    parser.add_argument("--name", default="recipe", help="of this run's entry there")
    return parser.parse_args()


if __name__ == "__main__":
    main()
