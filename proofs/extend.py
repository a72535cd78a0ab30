"""What becomes of a generator that grows, and of its next version: `python -m proofs.extend`.

On three of the demo's simulated tasks. More images of `subpixel` come, made by a version whose trace changed:
`--extend` against ignoring them, and against learning the union of old and new images from scratch. Then few images of
that version come as a generator of its own: `--new-version-of subpixel`, whose branch starts from the old one's,
against a fresh branch.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.demo_streams import Observer, demo_files, learned
from benchmarks.tasks import CLASSES, TaskFiles
from lorax.data.generators import GENERATORS, SIDE, Ints
from lorax.data.simulate import cut_patches
from lorax.learning.folder import EpisodeFolder
from lorax.learning.state import LearnerState
from lorax.params import Params, load_params
from lorax.stream import Sample, Task

HOME = Path("work/proofs/extend").resolve()
TASKS = ("subpixel", "tiles", "ripple")
GROWS = TASKS[0]
MORE, FEW, TESTED = 100, 30, 80
"""Images of either kind: that an extension brings, that a next version brings, and that either is tested with."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    seeds, files = range(parser.parse_args().seeds), demo_files(HOME)
    kept = [task for name in TASKS for task in files.tasks if task.name == name]
    more, few = (files.read(_changed_images(f"{GROWS}-{what}", count)) for what, count in (("2", MORE), ("next", FEW)))
    grew = np.array([_grow(files, kept, more.as_more_of(kept[0]), seed) for seed in seeds])
    next_one = np.array([_follow(files, kept, few, seed) for seed in seeds])
    ignored, extended, union = 100 * grew.mean(axis=0)
    print("mean, %              old    new    others   (the generator's old and new test images, the other tasks')")
    for name, row in (("ignored", ignored), ("--extend", extended), ("union from scratch", union)):
        print(f"  {name:<18} " + " ".join(f"{value:6.1f}" for value in row))
    fresh, started = 100 * next_one.mean(axis=0)
    print("mean, %              next version   the old one   all")
    for name, row in (("fresh", fresh), ("--new-version-of", started)):
        print(f"  {name:<18} " + "      ".join(f"{value:6.1f}" for value in row))
    good = extended[1] > ignored[1] and extended[0] >= ignored[0] - 1
    print(f"new images up and old ones not down by more than a point: {'yes' if good else 'NO'}")
    raise SystemExit(not good)


def _grow(files: TaskFiles, kept: Sequence[Task], more: Task, seed: int) -> list[list[float]]:
    """Accuracy on old and new test images and on the other tasks': ignored, extended, learned at once from scratch."""
    params, home = _params(seed), HOME / f"seed-{seed}"
    both = replace(
        kept[0], digest=f"{kept[0].digest}+{more.digest}", train=(*kept[0].train, *more.train), test=kept[0].test
    )
    extended, union = learned(files, [*kept, more], params, home), learned(files, [both, *kept[1:]], params, home)
    sets = [kept[0].test, more.test, [sample for task in kept[1:] for sample in task.test]]
    arms = {"ignored": extended[-2], "extended": extended[-1], "union": union[-1]}
    found = [[_accuracy(folder, files, params, samples) for samples in sets] for folder in arms.values()]
    for name, row in zip(arms, found, strict=True):
        print(f"  seed {seed} {name:<10} " + " ".join(f"{100 * value:6.1f}" for value in row), flush=True)
    return found


def _follow(files: TaskFiles, kept: Sequence[Task], few: Task, seed: int) -> list[list[float]]:
    """Accuracy on the next version, on the old one and on all: of a fresh branch, and of one that starts from it."""
    params, home = _params(seed), HOME / f"seed-{seed}"
    sets = [few.test, kept[0].test, [sample for task in (*kept, few) for sample in task.test]]

    def older(_: LearnerState, task: Task) -> str | None:
        return GROWS if task is few else None

    found = []
    for name, start in (("fresh", lambda *_: None), ("started", older)):
        last = learned(files, [*kept, few], params, home, start)[-1]
        found.append([_accuracy(last, files, params, samples) for samples in sets])
        print(f"  seed {seed} {name:<10} " + " ".join(f"{100 * value:6.1f}" for value in found[-1]), flush=True)
    return found


def _params(seed: int) -> Params:
    """As the demo has them."""
    return load_params(Path("params.yaml"), overrides=[f"run.seed={seed}", f"backbone.crop={SIDE}"])


def _accuracy(folder: EpisodeFolder, files: TaskFiles, params: Params, samples: Sequence[Sample]) -> float:
    """By the multi-real rule."""
    observer = Observer(folder, files, params)
    merged = torch.tensor(observer.state.classes.multi_real())
    guessed = merged[observer.look(samples).logits.argmax(dim=1)]
    return float((guessed == merged[observer.ids(samples)]).double().mean())


def _changed_images(name: str, train: int) -> Path:
    """A data set of the generator's changed version, in CDDB's layout; other images for each name."""
    folder = HOME / "changed" / name
    for split, count in (("train", train), ("val", TESTED)):
        patches = cut_patches(split, 1000 + train)
        for number, kind in enumerate(CLASSES):
            place = folder / split / kind
            place.mkdir(parents=True, exist_ok=True)
            for i in range(count):
                image = _changed(next(patches).astype(np.int64)) if number else next(patches)
                Image.fromarray(np.asarray(image).clip(0, 255).astype(np.uint8)).save(place / f"{i:04d}.bmp")
    return folder


def _changed(patch: Ints) -> Ints:
    """A half of the generator's own trace, and a half of the same trace upside down: retrained, it leaves another."""
    generator = GENERATORS[GROWS]
    own, turned = generator(patch) - patch, generator(patch[::-1])[::-1] - patch
    return patch + (own + turned) // 2


if __name__ == "__main__":
    main()
