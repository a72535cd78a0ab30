"""What a verdict costs against the number of generators: all branches asked, the student first, and one plain pass.

    python benchmarks/verdicts.py                        ConViT-Tiny at 224 px, the paper's branches
    python benchmarks/verdicts.py --model residual       the package's own backbone and branches

Random weights; the student is unsure of the share `--asked` of the images, which `benchmarks/student.py` measures on
streams: choose one of its figures. Every way goes through the predictor that serves, over the same images, in turns;
with `--before CHECKOUT` also another build's branches, over as many.
"""

from __future__ import annotations

import argparse
import os
import statistics
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from build import Build
from measure import Row, Work, in_turns, report, spread
from one_pass import rate
from setting import CLASSES, PARAMS, add_options, opened, operations, result_name

from lorax.learning.calibration import Calibration, answers_of
from lorax.learning.ood import Residual
from lorax.learning.state import LearnerState
from lorax.learning.student import Student, margins
from lorax.network.building import open_backbone
from lorax.network.network import Network
from lorax.params import Params, load_params
from lorax.stream import ClassEntry, ClassTable
from lorax.verdicts.predictor import STUDENT, Predictor


def predictor(params: Params, branches: int, crops: list[np.ndarray], asked: float) -> Predictor:
    """With random branches and a random student that is unsure of a share `asked` of the images."""
    network = Network.empty(open_backbone(params.backbone))
    for k in range(branches):
        network.grow(params.lora, CLASSES, branch_seed=k, head_seed=k)
    entries = [(f"task{k}", index, name) for k in range(branches) for index, name in enumerate(("real", f"task{k}"))]
    classes = ClassTable(tuple(ClassEntry(i, *entry) for i, entry in enumerate(entries)))
    random = torch.Generator().manual_seed(0)
    width = network.backbone.texture_width
    weight = torch.randn(len(classes), width, generator=random) / width**0.5
    head = Residual.of_head(weight[:2], torch.zeros(2))
    student = Student(weight, torch.zeros(len(classes)), 0.0)
    fitted = Calibration(1.0, torch.zeros(len(classes)), head, torch.ones(9), 1e9, 0.05, student=student)
    state = LearnerState(network.backbone.identity, classes=classes, calibration=fitted)
    found = Predictor(network.requires_grad_(False), state)
    textures = torch.stack([each.texture for each in found.look(crops, [""] * len(crops))])
    ahead = margins(answers_of(fitted.probabilities(student.answer(textures, None)[0]), classes)).sort().values
    student = replace(student, ahead=float(ahead[round(asked * len(crops)) - 1]) if asked else -1.0)
    return Predictor(network, replace(state, calibration=replace(fitted, student=student)))


def measured(params: Params, branches: int, batch: int, options: argparse.Namespace) -> Row:
    side = params.backbone.crop
    random = np.random.default_rng(0)
    crops = [random.integers(0, 256, (1, side, side, 3), dtype=np.uint8) for _ in range(options.images)]
    served = predictor(params, branches, crops, options.asked)
    exact = Predictor(served.network, served.state, exact=True)

    def over(judge: Predictor) -> None:
        for start in range(0, len(crops), batch):
            part = crops[start : start + batch]
            judge.look(part, [""] * len(part))

    def plain() -> None:
        for start in range(0, len(crops), batch):
            images = torch.from_numpy(np.concatenate(crops[start : start + batch])).permute(0, 3, 1, 2).contiguous()
            served.network.backbone.plain_feature(images)

    by = [each.verdict.answered_by for each in served.look(crops, [""] * len(crops))]
    load = os.getloadavg()[0]
    works: dict[str, Work] = {"exact": lambda: over(exact), "served": lambda: over(served), "plain": plain}
    with ExitStack() as running:
        if options.before:
            asked: dict[str, Any] = {"backbone": params.backbone.model_dump(), "lora": params.lora.model_dump()}
            asked |= {"branches": branches, "images": batch, "threads": torch.get_num_threads()}
            before = running.enter_context(Build(options.before, asked))
            works["before"] = lambda: [before.ask("predict") for _ in range(0, len(crops), batch)]
        taken = in_turns(works, options.rounds)
    ms = {name: 1000 * statistics.median(t[name] for t in taken) / len(crops) for name in taken[0]}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # processor time of several is told too short
    fastest = rate((side // 16) ** 2, served.network.backbone.width) * threads
    torch.set_num_threads(threads)
    found = {
        "branches": branches,
        "batch": batch,
        "asked": 1 - by.count(STUDENT) / len(by),
        **{f"{name}_ms": value for name, value in ms.items()},
        "least_ms": 1000 * operations(plain) / len(crops) / fastest,
        "served_in_plain_passes": statistics.median(t["served"] / t["plain"] for t in taken),
        "exact_in_plain_passes": statistics.median(t["exact"] / t["plain"] for t in taken),
        **spread([t["exact"] / t["served"] for t in taken]),
        "load_before": load,
    }
    if options.before:
        found["before_over_served"] = statistics.median(t["before"] / t["served"] for t in taken)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, batch=[1, 16], branches=[12, 40], rounds=3)
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--before", type=Path, help="a checkout of the build to compare with")
    parser.add_argument("--asked", type=float, default=0.05, help="share of the images of which the student is unsure")
    options = parser.parse_args()
    name = result_name("verdicts", options)
    if options.model == "residual":
        torch.set_num_threads(options.threads)
        rows = [measured(load_params(PARAMS), k, b, options) for k in options.branches for b in options.batch]
        name = "verdicts-residual"
    else:
        with opened(options) as setting:
            rows = [measured(setting.params(), k, b, options) for k in options.branches for b in options.batch]
    report(name, rows)


if __name__ == "__main__":
    main()
