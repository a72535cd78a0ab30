"""Whether verdicts can be trusted, on the demo's stream over 3 seeds: calibration, unknown generators, robustness."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.demo_streams import Observer, demo_files, learned, mean
from benchmarks.unknown import OURS, left_out, print_table
from lorax.data.perturbations import CARD, UNCHANGED, jpeg
from lorax.data.simulate import DEMO_TASKS
from lorax.learning.assessment import calibration_error, reliability, sampling_floor
from lorax.learning.calibration import Calibration, answers_of, mean_loss, right_answers
from lorax.params import Params, load_params
from lorax.stream import ClassTable, Sample

HOME = Path("work/proofs/verdicts/trust").resolve()
SEEDS = (0, 1, 2)
FEW = 20
"""Calibration images of each class in the second fit."""


def prove_calibration() -> bool:
    """Calibration error and log-likelihood before and after, clean and under JPEG 75, with 30 and 20 images a class."""
    print(f"{'seed':>4} {'images':<8} {'accuracy':>8} | {'loss before':>11} {'after':>6} {'(20)':>6} | ", end="")
    print(f"{'error before':>12} {'after':>6} {'(20)':>6} {'floor':>6}")
    better = []
    for seed in SEEDS:
        observer, test = _observer(seed, "plain"), _test_images()
        fits = {30: observer.state.calibration, FEW: _fit_to_few(observer)}
        for change in (UNCHANGED, jpeg(75)):
            looked = observer.look(test, change)
            right = right_answers(observer.ids(test), observer.state.classes)
            plain = looked.logits.double().softmax(dim=1)
            found = [plain, *(fit.probabilities(looked.logits) for fit in fits.values() if fit)]
            losses, errors, floors = zip(*(_figures(p, right, observer.state.classes) for p in found), strict=True)
            hits = float((answers_of(found[1], observer.state.classes).argmax(1) == right).double().mean())
            print(
                f"{seed:>4} {change.name:<8} {hits:>8.4f} | {losses[0]:>11.4f} {losses[1]:>6.4f} {losses[2]:>6.4f} | "
                f"{errors[0]:>12.4f} {errors[1]:>6.4f} {errors[2]:>6.4f} {floors[1]:>6.4f}",
                flush=True,
            )
            if change is UNCHANGED:
                better += [losses[1] <= losses[0], losses[2] <= losses[0]]
    print("asked here: on clean images the log loss after is never above that before, with 30 and with 20 images")
    return all(better)


def prove_unknown() -> bool:
    """Unknown generators: each left out in turn, scores compared; asked: AUROC at least 0.80 on average."""
    rows = []
    for seed in SEEDS:
        for generator in DEMO_TASKS:
            rows += left_out(generator, _params(seed, "plain"), HOME)
        print(f"seed {seed} is done", flush=True)
    return print_table(rows)[OURS] >= 0.80


def prove_robustness() -> bool:
    """Accuracy under every perturbation, learned plain and with heads for JPEG and so on; asked: JPEG 75 keeps 0.9."""
    table: dict[str, list[list[float]]] = {"plain": [], "heads": []}
    for seed in SEEDS:
        for way, rows in table.items():
            observer, test = _observer(seed, way), _test_images()
            right = right_answers(observer.ids(test), observer.state.classes)
            rows.append([_accuracy(observer, test, change.name, right) for change in CARD])
            print(f"seed {seed} {way} is done", flush=True)
    print(f"{'accuracy':<12} {'plain':>7} {'heads':>7} {'gain':>7} {'of clean':>9} {'of clean':>9}")
    means = {way: [mean(list(column)) for column in zip(*rows, strict=True)] for way, rows in table.items()}
    for k, change in enumerate(CARD):
        plain, heads = means["plain"][k], means["heads"][k]
        shares = "".join(f" {means[way][k] / means[way][0]:>9.3f}" for way in table)
        print(f"{change.name:<12} {plain:>7.4f} {heads:>7.4f} {heads - plain:>+7.4f}{shares}")
    at = [change.name for change in CARD].index("jpeg-75")
    kept = means["heads"][at] / means["heads"][0]
    print(f"under JPEG 75 heads of their own keep {kept:.3f} of the clean accuracy (asked: 0.9)")
    return kept >= 0.9 and math.isfinite(kept)


def _params(seed: int, way: str) -> Params:
    overrides = [f"run.seed={seed}", "run.device=cpu", *(["head.perturbations=[]"] if way == "plain" else [])]
    return load_params(Path("params.yaml"), overrides=overrides)


def _observer(seed: int, way: str) -> Observer:
    """The learner of the whole stream, learned now or before."""
    files, params = demo_files(HOME), _params(seed, way)
    return Observer(learned(files, files.tasks, params, HOME / f"episodes-{seed}")[-1], files, params)


def _test_images() -> list[Sample]:
    return [sample for task in demo_files(HOME).tasks for sample in task.test]


def _fit_to_few(observer: Observer) -> Calibration:
    few = [entry for entry in observer.state.calibration_memory if entry.rank < FEW]
    looked, ids = observer.look([entry.sample for entry in few]), torch.tensor([entry.class_id for entry in few])
    return Calibration.fit(
        looked.textures, looked.logits, ids, observer.state.classes, false_alarms=0.05, set_error=0.1
    )


def _figures(probabilities: Tensor, right: Tensor, classes: ClassTable) -> tuple[float, float, float]:
    answers = answers_of(probabilities, classes)
    return float(mean_loss(answers, right)), calibration_error(reliability(answers, right)), sampling_floor(answers)


def _accuracy(observer: Observer, test: list[Sample], name: str, right: Tensor) -> float:
    [change] = [change for change in CARD if change.name == name]
    assert observer.state.calibration is not None
    probabilities = observer.state.calibration.probabilities(observer.look(test, change).logits)
    return float((answers_of(probabilities, observer.state.classes).argmax(dim=1) == right).double().mean())
