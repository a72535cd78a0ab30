"""Images in, verdicts out: one saved learner, ready to judge.

Five answers are possible: real, synthetic by a generator that the learner knows, synthetic by one of several that it
confuses or by none for sure, synthetic by none that it knows, and undecided. The last three need a calibration; a
version without one answers real or a generator, and says so. Whatever the version, an image that shows too little is
left undecided. Only pixels count: whatever else a file holds is never looked at here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lorax.data.crops import crops_of, is_telling
from lorax.data.images import decode
from lorax.data.pixels import Pixels
from lorax.errors import StateError
from lorax.learning.calibration import Calibration
from lorax.learning.relatives import Relatives
from lorax.learning.state import LearnerState, open_network
from lorax.learning.state_files import load_state
from lorax.network.features import images_at_once, side_by_side
from lorax.network.network import Network
from lorax.stream import ClassTable

REAL, SYNTHETIC, UNKNOWN, UNDECIDED = "real", "synthetic", "synthetic:unknown", "undecided"
TOO_LITTLE = f"{UNDECIDED}: too little to see"
_NAMED = f"{SYNTHETIC}:"

_BATCH_SIZE = 32
_ROUNDING = 1e-3
_MORE_LIKELY_THAN_NOT = 0.5


@dataclass(frozen=True)
class Verdict:
    """What the learner says of one image, with the numbers that it follows from, averages over its crops."""

    source: str
    verdict: str  # real, synthetic:<generator>, synthetic (no single one is sure), synthetic:unknown, undecided, or
    # where the image hardly shows anything, "undecided: too little to see"
    generator: str | None  # the class's label where there is one
    probability: float  # of what the verdict says; of an undecided one that of the likeliest answer
    probabilities: Mapping[str, float]  # of every class by label
    calibrated: bool = False
    real: float = math.nan  # the sum over the real classes
    strangeness: float | None = None  # the out-of-distribution score; None where the version is not calibrated
    threshold: float | None = None  # beyond it: like nothing that was learned
    crops: int = 1
    one_of: tuple[str, ...] = ()  # labels of relatives of which one it is, where it is "synthetic" and so much is sure

    @property
    def is_ood(self) -> bool:
        """Whether the image is like nothing that was learned; never where that can't be told."""
        if self.strangeness is None or self.threshold is None or self.verdict == TOO_LITTLE:
            return False
        return self.strangeness > self.threshold


@dataclass(frozen=True)
class Judged:
    """A verdict, and what it was made from, averaged over the crops, float32 on the CPU."""

    verdict: Verdict
    features: Tensor  # (K·D,), the branches'
    texture: Tensor  # (L·D,); none where the version is not calibrated


class Predictor:
    """A learner that judges images.

    Args:
        network: the one that `state` describes.
        state: a learner that knows at least one task.
        batch_size: how many images are held at once, and at most how many crops go through the network in one pass.
    """

    def __init__(self, network: Network, state: LearnerState, batch_size: int = _BATCH_SIZE) -> None:
        self.network, self.state, self.batch_size = network, state, batch_size

    @property
    def classes(self) -> ClassTable:
        """What the network's outputs stand for."""
        return self.state.classes

    @property
    def calibration(self) -> Calibration | None:
        """What makes logits probabilities that can be trusted, and textures out-of-distribution scores; or None."""
        return self.state.calibration

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
        return cls(open_network(state, device, mixed_precision=mixed), state)

    def predict(self, paths: Sequence[Path]) -> list[Verdict]:
        """Judge image files.

        Raises:
            ImageError: names the first file that can't be decoded.
        """
        verdicts: list[Verdict] = []
        for start in range(0, len(paths), self.batch_size):
            batch = paths[start : start + self.batch_size]
            verdicts += self.judge([decode(path) for path in batch], [str(path) for path in batch])
        return verdicts

    def judge(self, pixels: Sequence[Pixels], sources: Sequence[str]) -> list[Verdict]:
        """Judge decoded images.

        Args:
            pixels: RGB images (H, W, 3), uint8, of any size; see `crops_of` for what is looked at.
            sources: what to call each of them.
        """
        side = self.network.crop
        return [judged.verdict for judged in self.look([crops_of(image, side) for image in pixels], sources)]

    def look(self, crops: Sequence[Pixels], sources: Sequence[str]) -> list[Judged]:
        """Judge images of which crops are cut already.

        Args:
            crops: of each image, (n, crop, crop, 3), uint8.
        """
        judged: list[Judged] = []
        for start in range(0, len(crops), self.batch_size):
            part = slice(start, start + self.batch_size)
            judged += self._look(crops[part], sources[part])
        return judged

    def _look(self, crops: Sequence[Pixels], sources: Sequence[str]) -> list[Judged]:
        every = np.concatenate(crops)
        at_once = images_at_once(self.network, self.batch_size)
        passes = [every[i : i + at_once] for i in range(0, len(every), at_once)]
        with side_by_side(self.network.device, len(passes)) as over:
            answers = list(over(self._ask, passes))
        parts = [torch.cat(part).split([len(own) for own in crops]) for part in zip(*answers, strict=True)]
        judged = []
        for source, seen, *own in zip(sources, crops, *parts, strict=True):
            features, texture, probabilities, ood_score = (part.mean(0) for part in own)
            judged.append(Judged(self._decide(source, probabilities, float(ood_score), seen), features, texture))
        return judged

    @torch.no_grad()
    def _ask(self, crops: Pixels) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Features (B, K·D), texture (B, L·D), probabilities (B, C) and out-of-distribution scores (B,), on the CPU.

        Without calibration the scores are NaN, and there is no texture (B, 0) unless a head reads it.
        """
        images = torch.from_numpy(crops).permute(0, 3, 1, 2).contiguous()
        embedded = self.network.embed(images)
        features = self.network.features(embedded)
        texture = torch.empty(len(crops), 0)
        if self.calibration or self.network.texture_head:
            texture = self.network.texture(embedded)
        logits = self.network.logits(features, texture)
        if self.calibration is None:
            probabilities, ood_score = logits.softmax(dim=1), torch.full((len(crops),), math.nan)
        else:
            probabilities, ood_score = self.calibration.probabilities(logits), self.calibration.ood_score(texture)
        return features.cpu(), texture.cpu(), probabilities.double().cpu(), ood_score.double().cpu()

    def _decide(self, source: str, probabilities: Tensor, ood_score: float, crops: Pixels) -> Verdict:
        if self.calibration is None:
            return decide(source, probabilities, self.classes, crops=len(crops), is_telling=is_telling(crops))
        return decide(
            source,
            probabilities,
            self.classes,
            ood_score=ood_score,
            threshold=float(self.calibration.threshold),
            undecided_below=self.state.undecided_below,
            relatives=self.calibration.relatives,
            crops=len(crops),
            is_telling=is_telling(crops),
        )


def check_predicts(predictor: Predictor) -> None:
    """See that a learner has an answer to an image.

    Raises:
        StateError: its answers are no probabilities.
    """
    side = predictor.network.crop
    noise = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    [verdict] = predictor.judge([noise], ["noise"])
    total = sum(verdict.probabilities.values())
    if not math.isclose(total, 1, abs_tol=_ROUNDING):  # which NaN is not
        raise StateError(
            f"the learner does not predict: its probabilities for an image add up to {total}. "
            "Its weights are no use: choose another version."
        )


def decide(
    source: str,
    probabilities: Tensor,
    classes: ClassTable,
    *,
    ood_score: float | None = None,
    threshold: float | None = None,
    undecided_below: float = 0.0,
    relatives: Relatives | None = None,
    crops: int = 1,
    is_telling: bool = True,
) -> Verdict:
    """The verdict that follows from the numbers.

    The candidates are "real", with the probability of all real classes together, since it is one answer wherever the
    photo came from, and each synthetic class; the likelier wins. Where it is known which generators are confused, they
    are "real" and "synthetic", all synthetic classes together; of the latter as much is named as is sure. A strange
    image is none of them: it is synthetic by an unknown generator where it is more likely synthetic than not, else
    undecided. So is one whose likeliest candidate is less likely than `undecided_below`, and one that hardly shows
    anything, whatever the numbers.

    Args:
        source: what the image is called.
        probabilities: (C,), in the order of `classes`.
        classes: what each stands for.
        ood_score, threshold: None where the version is not calibrated.
        undecided_below: 0 where it is not.
        relatives: which generators are confused; None where that is not known.
        crops: how many the numbers are the average of.
        is_telling: whether they show enough.
    """
    named = {entry.label: float(p) for entry, p in zip(classes.entries, probabilities, strict=True)}
    real = sum(named[entry.label] for entry in classes.entries if entry.is_real)
    synthetic = {entry.label: named[entry.label] for entry in classes.entries if not entry.is_real}
    fake, likeliest = sum(synthetic.values()), max(synthetic, key=synthetic.__getitem__, default=None)
    labels: tuple[str, ...] = ()
    if likeliest is None or real >= (fake if relatives else synthetic[likeliest]):
        verdict, probability = REAL, real
    else:
        labels = _labels(probabilities, classes, relatives, undecided_below) if relatives else (likeliest,)
        probability = sum(synthetic[label] for label in labels) if labels else fake
        verdict = f"{_NAMED}{labels[0]}" if len(labels) == 1 else SYNTHETIC
    if not is_telling:
        verdict, labels = TOO_LITTLE, ()
    elif ood_score is not None and threshold is not None and ood_score > threshold:
        labels, is_fake = (), fake >= _MORE_LIKELY_THAN_NOT
        verdict, probability = (UNKNOWN, fake) if is_fake else (UNDECIDED, probability)
    elif probability < undecided_below:
        verdict, labels = UNDECIDED, ()
    generator, one_of = (labels[0], ()) if len(labels) == 1 else (None, labels)
    calibrated = threshold is not None
    numbers = (named, calibrated, real, ood_score, threshold, crops)
    return Verdict(source, verdict, generator, probability, *numbers, one_of)


def _labels(probabilities: Tensor, classes: ClassTable, relatives: Relatives, least: float) -> tuple[str, ...]:
    return tuple(classes.entries[i].label for i in relatives.of(probabilities, classes.is_real, least))
