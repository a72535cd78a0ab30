"""What a learned stream `real` says of the photographs and networks that are held apart; to be looked at once.

    python -m benchmarks.held_apart --root work/real --work work/stream --seeds 0 1 2

The stream is learned as by `benchmarks.real` (with the same `--work` it is found again). Then: its accuracy on images
of the photographs held apart; how strange its last version finds each network held apart; each of these networks
alone; and all of them learned on top, one after the other.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.demo_streams import Observer, learned
from benchmarks.real import PARAMS
from benchmarks.real_figures import Tests
from benchmarks.tasks import CLASSES, TaskFiles
from lorax.learning.unknown import auroc
from lorax.params import Params, load_params
from lorax.stream import SCENARIOS, Sample, Task

NETWORKS = ("esrganslim", "cunet")


def main() -> None:
    options = _options()
    found = {str(seed): _figures(options.root, options.work, seed) for seed in options.seeds}
    print(json.dumps(found, indent=1))
    if options.output:
        record = json.loads(options.output.read_text())
        command = f"python -m benchmarks.held_apart --seeds {' '.join(map(str, options.seeds))}"
        record["held apart"] = {"commands": [command], "date": time.strftime("%Y-%m-%d"), "by_seed": found}
        options.output.write_text(json.dumps(record, indent=1) + "\n")


def _figures(root: Path, home: Path, seed: int) -> dict[str, Any]:
    params, files = load_params(PARAMS, overrides=[f"run.seed={seed}"]), TaskFiles()
    tasks = [files.read(root / "set" / name) for name in SCENARIOS["real"]]
    strangers = [files.read(root / "held-apart" / name) for name in NETWORKS]
    known = [_with_test(task, _val(files, root / "held-apart" / task.name)) for task in tasks]
    folders = learned(files, [*tasks, *strangers], params, home)
    last, end = Observer(folders[len(tasks) - 1], files, params), Observer(folders[-1], files, params)
    tests = Tests.of(last, known)
    is_real = torch.tensor(last.state.classes.is_real)
    said_real, true = is_real[tests.looked.logits.argmax(1)], is_real[tests.ids]
    row = tests.accuracy(tests.looked.logits)
    assert last.state.calibration
    ood_score = last.state.calibration.ood_score
    of_known = ood_score(tests.looked.textures)
    unknown = {
        task.name: auroc(ood_score(last.look([s for s in task.test if s.class_index]).textures), of_known)
        for task in strangers
    }
    return {
        "photographs": {
            "average_accuracy": sum(row) / len(row),
            "detection": float((said_real == true).double().mean()),
            "false_positives": float((~said_real)[true].double().mean()),
            "row": dict(zip([task.name for task in tasks], row, strict=True)),
        },
        "networks": {
            "unknown_auroc": unknown,
            "alone": {task.name: _alone(files, task, params, home) for task in strangers},
            "average_accuracy, learned on top": sum(end.state.accuracy[-1]) / len(end.state.accuracy[-1]),
            "row": dict(zip([t.name for t in (*tasks, *strangers)], end.state.accuracy[-1], strict=True)),
        },
    }


def _alone(files: TaskFiles, task: Task, params: Params, home: Path) -> float:
    return Observer(learned(files, [task], params, home)[0], files, params).state.accuracy[-1][-1]


def _val(files: TaskFiles, folder: Path) -> tuple[Sample, ...]:
    """The test images of a task that are held apart."""
    found = []
    for index, name in enumerate(CLASSES):
        for path in sorted((folder / "val" / name).iterdir()):
            md5 = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
            files.paths[md5] = path
            found.append(Sample(path.relative_to(folder).as_posix(), md5, folder.name, index))
    return tuple(found)


def _with_test(task: Task, samples: tuple[Sample, ...]) -> Task:
    return Task(task.name, task.digest, task.classes, task.train, samples)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.held_apart", description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, default=Path("work/real"), help="where 'make real' put the set")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--work", type=Path, required=True, help="folder that keeps the episodes")
    parser.add_argument("--output", type=Path, default=None, help="JSON file of benchmarks.real to add the figures to")
    return parser.parse_args()


if __name__ == "__main__":
    main()
