"""Images in, verdicts out: one saved learner, ready to judge.

A verdict is the largest of the probability of being real (summed over the real classes of all tasks, since "real" is
one answer wherever the photo came from) and the probability of each synthetic class.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import torch

from lorax.data.images import Images, decode
from lorax.data.pixels import Pixels
from lorax.errors import ImageError, StateError
from lorax.learning.opening import open_network
from lorax.learning.state import load_state
from lorax.network.network import Network
from lorax.stream import ClassTable

_BATCH_SIZE = 32
_ROUNDING = 1e-3

_T = TypeVar("_T")


@dataclass(frozen=True)
class Verdict:
    """What the learner says of one image. `generator` is the synthetic class's label, None for a real image."""

    source: str
    verdict: Literal["real", "synthetic"]
    generator: str | None
    probability: float
    probabilities: Mapping[str, float]


class Predictor:
    """A learner that judges images.

    Args:
        network: of a learner that knows at least one task.
        classes: what its outputs stand for.
        batch_size: how many images are held and judged at once.
    """

    def __init__(self, network: Network, classes: ClassTable, batch_size: int = _BATCH_SIZE) -> None:
        self.network, self.classes, self.batch_size = network, classes, batch_size

    @classmethod
    def open(cls, state_dir: Path, device: str = "auto") -> Predictor:
        """The learner in `state_dir`, on the backbone that it names.

        Raises:
            StateError: the state is damaged, or knows no task yet.
            BackboneError: its backbone can't be built here, or has other weights than the state names.
        """
        state = load_state(state_dir)
        if not state.tasks:
            raise StateError(f"the learner state in {state_dir} knows no task yet: learn one before predicting.")
        mixed = bool(state.parameters.get("training", {}).get("mixed_precision", False))
        return cls(open_network(state, device, mixed_precision=mixed), state.classes)

    def predict(self, paths: Sequence[Path]) -> list[Verdict]:
        """Judge image files.

        Raises:
            ImageError: names the first file that can't be decoded.
        """
        return [v for batch in _batches(paths, self.batch_size) for v in self._judge_files(batch)]

    def stream(self, paths: Iterable[Path], on_bad: Callable[[Path, ImageError], None]) -> Iterator[Verdict]:
        """Judge image files one batch after the other, however many there are.

        Args:
            paths: the files.
            on_bad: told each file that can't be decoded, which is then left out.
        """
        for batch in _batches(paths, self.batch_size):
            readable, pixels = [], []
            for path in batch:
                try:
                    pixels.append(decode(path))
                    readable.append(str(path))
                except ImageError as error:
                    on_bad(path, error)
            yield from self._judge(pixels, readable)

    def judge(self, pixels: Sequence[Pixels], sources: Sequence[str]) -> list[Verdict]:
        """Judge decoded images.

        Args:
            pixels: RGB images (H, W, 3), uint8, of any size; the centre is looked at.
            sources: what to call each of them.
        """
        pairs = _batches(zip(pixels, sources, strict=True), self.batch_size)
        return [v for batch in pairs for v in self._judge([p for p, _ in batch], [s for _, s in batch])]

    def _judge_files(self, paths: Sequence[Path]) -> list[Verdict]:
        return self._judge([decode(path) for path in paths], [str(path) for path in paths])

    def _judge(self, pixels: Sequence[Pixels], sources: Sequence[str]) -> list[Verdict]:
        if not pixels:
            return []
        images = Images((), pixels, self.network.crop)
        batch = images.batch(range(len(pixels)), images.center()[:, 0])
        rows = self.network.predict(batch).double().cpu()
        return [decide(source, row, self.classes) for source, row in zip(sources, rows, strict=True)]


def check_predicts(state_dir: Path, device: str = "auto") -> None:
    """See that a saved learner loads, and that it has an answer to an image.

    Raises:
        StateError: the state is damaged, knows no task, or its answers are no probabilities.
        BackboneError: as `Predictor.open`.
    """
    predictor = Predictor.open(state_dir, device)
    side = predictor.network.crop
    noise = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    [verdict] = predictor.judge([noise], ["noise"])
    total = sum(verdict.probabilities.values())
    if not math.isclose(total, 1, abs_tol=_ROUNDING):  # which NaN is not
        raise StateError(
            f"the learner state in {state_dir} does not predict: its probabilities for an image add up to {total}. "
            "Its weights are no use: choose another version."
        )


def decide(source: str, probabilities: torch.Tensor, classes: ClassTable) -> Verdict:
    """The verdict that follows from the class probabilities.

    Args:
        source: what the image is called.
        probabilities: (C,), in the order of `classes`.
        classes: what each stands for.
    """
    named = {entry.label: float(p) for entry, p in zip(classes.entries, probabilities, strict=True)}
    real = sum(named[entry.label] for entry in classes.entries if entry.is_real)
    synthetic = [entry.label for entry in classes.entries if not entry.is_real]
    likeliest = max(synthetic, key=named.__getitem__, default=None)
    if likeliest is None or real >= named[likeliest]:
        return Verdict(source, "real", None, real, named)
    return Verdict(source, "synthetic", likeliest, named[likeliest], named)


def image_files(paths: Iterable[Path]) -> Iterator[Path]:
    """Each path, or where it is a folder every file below it that is not hidden, sorted by name."""
    for path in paths:
        if path.is_dir():
            below = sorted(p for p in path.rglob("*") if p.is_file())
            yield from (p for p in below if not any(part.startswith(".") for part in p.relative_to(path).parts))
        else:
            yield path


def _batches(items: Iterable[_T], size: int) -> Iterator[list[_T]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
