"""What asking the student first costs in answers and spares in passes: the last version of a stream, on all its tests.

    python -m benchmarks.student --seeds 0 1 2                                  the demo's stream
    python -m benchmarks.student --stream real --root work/real --seeds 0 1 2   the stream of real networks
    python -m benchmarks.student --set backbone.name=shipped backbone.crop=64

Beside what is served stand what it was chosen among: the texture's head alone, and the student without the branches
behind it. With `--work FOLDER` a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.demo_streams import Looked, Observer, demo_files, learned
from benchmarks.real import PARAMS
from benchmarks.tasks import TaskFiles
from lorax.learning.calibration import answers_of, right_answers
from lorax.params import Params, load_params
from lorax.stream import SCENARIOS
from lorax.verdicts.predictor import decide


def main() -> None:
    options = _options()
    for seed in options.seeds:
        params = load_params(PARAMS, overrides=[*options.set, f"run.seed={seed}", "robustness.per_class=0"])
        with tempfile.TemporaryDirectory() as passing:
            print(
                json.dumps({str(seed): _figures(params, options, options.work or Path(passing))}, indent=1), flush=True
            )


def _figures(params: Params, options: argparse.Namespace, home: Path) -> dict[str, Any]:
    if options.stream == "demo":
        files = demo_files(home)
    else:
        files = TaskFiles()
        for name in options.tasks:
            files.read(options.root / "set" / name)
    folder = learned(files, files.tasks, params, home / f"episodes-{params.run.seed}")[-1]
    last, tests = Observer(folder, files, params), [sample for task in files.tasks for sample in task.test]
    looked, ids, state = last.look(tests), last.ids(tests), last.state
    if state.calibration is None or state.student is None or (answered := state.ask_student(looked.textures)) is None:
        return {"student": None}
    told, is_given = answered
    of_texture = state.texture_head.answer(looked.textures)[0] if state.texture_head else torch.zeros_like(told)
    ways = {"branches": looked.logits, "served": torch.where(is_given[:, None], told, looked.logits)}
    ways |= {"student": told, "texture": of_texture}
    right = right_answers(ids, state.classes)
    found = {way: _verdicts(last, looked, logits) for way, logits in ways.items()}
    probabilities = {way: state.calibration.probabilities(logits) for way, logits in ways.items()}
    return {
        "tasks": len(files.tasks),
        "images": len(tests),
        "held_out": len(state.calibration_memory),
        "ahead": round(state.student.ahead, 4),
        "asked": _share(~is_given),
        "differ": {
            way: _share([a != b for a, b in zip(said, found["branches"], strict=True)]) for way, said in found.items()
        },
        "accuracy": {
            way: _share(answers_of(each, state.classes).argmax(1) == right) for way, each in probabilities.items()
        },
    }


def _verdicts(last: Observer, looked: Looked, logits: Tensor) -> list[tuple[str, tuple[str, ...]]]:
    fitted = last.state.calibration
    assert fitted is not None
    found = []
    for probabilities, score in zip(fitted.probabilities(logits), fitted.ood_score(looked.textures), strict=True):
        one = decide(
            "",
            probabilities,
            last.state.classes,
            ood_score=float(score),
            threshold=fitted.threshold,
            undecided_below=last.state.undecided_below,
            relatives=fitted.relatives,
        )
        found.append((one.verdict, one.one_of))
    return found


def _share(of: Tensor | list[bool]) -> float:
    return round(float(torch.as_tensor(of).double().mean()), 4)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.student", description=__doc__.splitlines()[0])
    parser.add_argument("--stream", choices=["demo", "real"], default="demo")
    parser.add_argument("--root", type=Path, default=Path("work/real"), help="where 'make real' put the set")
    parser.add_argument("--tasks", nargs="+", default=SCENARIOS["real"], help="of the stream of real networks")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--set", nargs="*", default=[], metavar="SECTION.KEY=VALUE")
    parser.add_argument("--work", type=Path, default=None, help="folder that keeps the episodes, to go on in")
    return parser.parse_args()


if __name__ == "__main__":
    main()
