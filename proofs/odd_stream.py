"""Six simulated tasks with the oddities of real copies, learned through the default gate: it must refuse none of them.

    subjects    subpixel, in subject folders as CDDB nests some of its tasks
    pair        two generators in one task: tiles and ripple
    sizes       fingerprint, images of 64 to 128 pixels a side
    formats     checkerboard, PNG, JPEG and WebP alike in both classes; as few images as landing takes
    fakes-only  ripple across, a task that brings no real images
    large       fingerprint turned, nearly three times the images, 96 pixels a side

All are innocent: labels are right, and real images differ from synthetic ones by the trace alone. Learning and gate are
the product's own functions, in this process; what the gate refuses is not grown from, as in `lorax learn`. Another
backbone or preset is asked for as in params.yaml:

    python -m proofs.odd_stream --seeds 0 1 2 --set backbone.name=residual
"""

from __future__ import annotations

import argparse
import io
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.tasks import TaskFiles
from lorax.data.generators import SIDE, Ints, checkerboard, fingerprint, ripple, subpixel, tiles
from lorax.data.simulate import PHOTOS, open_photo, train_region, val_region
from lorax.errors import StateError
from lorax.learning import metrics
from lorax.learning.episode import Episode, learn_episode
from lorax.learning.folder import EpisodeFolder, Plan, Report
from lorax.params import Params, load_params
from lorax.registry.candidate import open_candidate
from lorax.registry.gate import reasons
from lorax.stream import DataRevision, Task

Pixels = NDArray[np.uint8]
Generator = Callable[[Ints], Ints]

_LARGEST = 2 * SIDE
_LEAST_VARIANCE = 64.0
_SAVED_AS: dict[str, dict[str, int]] = {"png": {}, "jpeg": {"quality": 95}, "webp": {"quality": 95}}


def turned(generator: Generator) -> Generator:
    """The same trace, lying on its side: another generator."""
    return lambda patch: np.rot90(generator(np.rot90(patch)), -1)


@dataclass(frozen=True)
class Oddity:
    """A task: its generators, and in what it differs from the demo's; `train` and `val` are images of each class."""

    name: str
    generators: Sequence[Generator]
    train: int = 150
    val: int = 80
    sides: Sequence[int] = (SIDE,)
    formats: Sequence[str] = ("png",)
    subjects: Sequence[str] = ("",)
    has_reals: bool = True


STREAM = (
    Oddity("subjects", [subpixel], subjects=("cats", "coffee", "people")),
    Oddity("pair", [tiles, ripple]),
    Oddity("sizes", [fingerprint], sides=(64, 72, 96, 128)),
    Oddity("formats", [checkerboard], train=130, val=45, formats=("png", "jpeg", "webp")),
    Oddity("fakes-only", [turned(ripple)], has_reals=False),
    Oddity("large", [turned(fingerprint)], train=400, val=150, sides=(96,)),
)


def write_stream(root: Path, seed: int) -> TaskFiles:
    """Write the six tasks below `root` and read them as landing would."""
    files, words = TaskFiles(), np.random.default_rng(seed)
    patches = {"train": _patches(train_region, words), "val": _patches(val_region, words)}
    for odd in STREAM:
        for split, count in (("train", odd.train), ("val", odd.val)):
            _write_classes(root / odd.name / split, odd, patches[split], count)
        files.read(root / odd.name)
    return files


def _write_classes(folder: Path, odd: Oddity, patches: Iterator[Ints], count: int) -> None:
    classes: list[tuple[str, Generator]] = [("0_real", lambda patch: patch)] if odd.has_reals else []
    several = len(odd.generators) > 1
    classes += [(f"{n}_{f'trace{n}' if several else 'fake'}", made) for n, made in enumerate(odd.generators, 1)]
    for name, generator in classes:
        for number in range(count):  # classes are alike in all but the trace
            subject = odd.subjects[number % len(odd.subjects)]
            side = odd.sides[number % len(odd.sides)]
            kind = odd.formats[number % len(odd.formats)]
            place = folder / subject / name / f"{number:04d}.{kind}"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(_encoded(_made(generator, next(patches), side), kind))


def _made(generator: Generator, patch: Ints, side: int) -> Pixels:
    """The largest patch re-synthesised, a square of the generators' side at a time, and cut to size."""
    made = patch.copy()
    for top in range(0, _LARGEST, SIDE):
        for left in range(0, _LARGEST, SIDE):
            place = slice(top, top + SIDE), slice(left, left + SIDE)
            made[place] = generator(patch[place])
    return made[:side, :side].clip(0, 255).astype(np.uint8)


def _patches(region: Callable[[Pixels], Pixels], words: np.random.Generator) -> Iterator[Ints]:
    """Patches of the largest side from a split's halves of the photos, without end."""
    regions = [region(open_photo(name)).astype(np.int64) for name in PHOTOS]
    while True:
        photo = regions[words.integers(len(regions))]
        top, left = (int(words.integers(length - _LARGEST + 1)) for length in photo.shape[:2])
        patch = photo[top : top + _LARGEST, left : left + _LARGEST]
        if patch[:SIDE, :SIDE].var() >= _LEAST_VARIANCE:
            yield patch


def _encoded(pixels: Pixels, kind: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **_SAVED_AS[kind])
    return file.getvalue()


def learn(files: TaskFiles, params: Params, home: Path) -> list[str]:
    """Learn the stream through the gate, telling each task; returns the names of those refused."""
    base: Path | None = None
    known: list[Task] = []
    refused: list[str] = []
    rows: Sequence[Sequence[float]] = []
    detected_first: dict[str, float] = {}
    for task in files.tasks:
        started = time.perf_counter()
        folder = EpisodeFolder.open(home, Plan.of(base, task, params, DataRevision("simulated", "none")))
        try:
            state = learn_episode(Episode.open(folder, {t.name: t for t in files.tasks}.__getitem__, files.fetch))
        except StateError as error:  # the only task with real images may have been refused before it
            print(f"  {task.name:<11} could not be learned: {error}", flush=True)
            refused.append(task.name)
            continue
        report = Report.read(folder.report_path)
        candidate = open_candidate(folder.state_dir, report, None, None)
        because = reasons(candidate.judged(params.gate, detected_first))
        after = ", ".join(f"{t.name} {100 * a:.1f}" for t, a in zip(state.tasks, state.accuracy[-1], strict=True))
        after += f"; detection {100 * candidate.metrics['average_binary_accuracy']:.1f}"
        verdict = f"refused: {because}" if because else "passed"
        print(f"  {task.name:<11} {after}  ({time.perf_counter() - started:.0f} s)\n    {verdict}", flush=True)
        if because:
            refused.append(task.name)
        else:
            base, known, rows = folder.state_dir, [*known, task], state.accuracy
            detected_first[task.name] = report.binary_accuracy[task.name]
    if rows:
        average, lost = metrics.average_accuracy(rows), metrics.forgetting(rows)
        print(f"  average accuracy {average:.4f} over {len(known)} tasks, forgetting {lost:.4f}")
    return refused


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("work/proofs/odd-stream"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--preset", help="a preset of params.yaml")
    parser.add_argument("--set", nargs="+", default=[], metavar="SECTION.KEY=VALUE", help="laid over params.yaml")
    arguments = parser.parse_args()
    refused = 0
    for seed in arguments.seeds:
        values = ["run.device=cpu", *arguments.set, f"run.seed={seed}"]
        params = load_params(Path("params.yaml"), preset=arguments.preset, overrides=values)
        shutil.rmtree(arguments.folder, ignore_errors=True)  # its episodes would answer for code that was changed since
        print(f"seed {seed}", flush=True)
        names = learn(write_stream(arguments.folder / "raw", seed), params, arguments.folder / "episodes")
        print(f"  innocent tasks refused: {len(names)} of {len(STREAM)} {' '.join(names)}", flush=True)
        refused += len(names)
    print(f"{refused} of {len(STREAM) * len(arguments.seeds)} refused: {'FAIL' if refused else 'PASS'}")
    sys.exit(refused > 0)


if __name__ == "__main__":
    main()
