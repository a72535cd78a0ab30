"""Images in, verdicts out: one saved learner, ready to judge.

Five answers are possible: real, synthetic by a generator that the learner knows, synthetic by one of several that it
confuses or by none for sure, synthetic by none that it knows, and undecided. The last three need a calibration; a
version without one answers real or a generator, and says so. Whatever the version, an image that shows too little is
left undecided. Only pixels count: whatever else a file holds is never looked at here.

Where the version has a student, that answers first, and the branches are asked about those images of which it is not
sure; so a verdict costs about as much with forty generators as with one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lorax.data.crops import crops_of, is_telling
from lorax.data.images import decode
from lorax.data.pixels import Pixels
from lorax.errors import StateError
from lorax.learning.calibration import Calibration, answers_of
from lorax.learning.relatives import Relatives
from lorax.learning.state import LearnerState, open_network
from lorax.learning.state_files import load_state
from lorax.network.features import images_at_once
from lorax.network.network import Network
from lorax.network.passes import Embedded, side_by_side
from lorax.stream import ClassTable

REAL, SYNTHETIC, UNKNOWN, UNDECIDED = "real", "synthetic", "synthetic:unknown", "undecided"
TOO_LITTLE = f"{UNDECIDED}: too little to see"
_NAMED = f"{SYNTHETIC}:"

STUDENT, BRANCHES = "student", "branches"
"""Whose answer a verdict is."""

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
    answered_by: str = BRANCHES  # or the student

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
    features: Tensor | None  # (K·D,), the branches'; None where they were not asked
    texture: Tensor  # (L·D,); none where the version is not calibrated


class Predictor:
    """A learner that judges images.

    Args:
        network: the one that `state` describes.
        state: a learner that knows at least one task.
        batch_size: how many images are held at once, and at most how many crops go through the network in one pass.
        exact: ask all branches about every image, whatever the student says.
    """

    def __init__(
        self, network: Network, state: LearnerState, batch_size: int = _BATCH_SIZE, *, exact: bool = False
    ) -> None:
        self.network, self.state, self.batch_size, self.exact = network, state, batch_size, exact

    @property
    def classes(self) -> ClassTable:
        """What the network's outputs stand for."""
        return self.state.classes

    @property
    def calibration(self) -> Calibration | None:
        """What makes logits probabilities that can be trusted, and textures out-of-distribution scores; or None."""
        return self.state.calibration

    @classmethod
    def open(cls, state_dir: Path, device: str = "auto", *, exact: bool = False) -> Predictor:
        """The learner in `state_dir`, on the backbone that it names; `exact` as above.

        Raises:
            StateError: the state is damaged, or knows no task yet.
            BackboneError: its backbone can't be built here, or has other weights than the state names.
        """
        state = load_state(state_dir)
        if not state.tasks:
            raise StateError(f"the learner state in {state_dir} knows no task yet: learn one before predicting.")
        mixed = bool(state.parameters.get("training", {}).get("mixed_precision", False))
        return cls(open_network(state, device, mixed_precision=mixed), state, exact=exact)

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

    @torch.no_grad()
    def _look(self, crops: Sequence[Pixels], sources: Sequence[str]) -> list[Judged]:
        counts = [len(own) for own in crops]
        seen, textures = self._see(torch.from_numpy(np.concatenate(crops)).permute(0, 3, 1, 2).contiguous())
        probabilities, is_settled = self._ask_student(textures, counts)
        rows = (~is_settled).repeat_interleave(torch.tensor(counts)).nonzero()[:, 0]
        features = self._ask_branches(seen, rows)
        if len(rows):
            probabilities[rows] = self._probabilities(self.network.logits(features, textures[rows]).cpu())
        of_branches = iter(features.split([n for n, settled in zip(counts, is_settled, strict=True) if not settled]))
        numbers = (_averages(part, counts) for part in (textures, probabilities, self._ood_scores(textures)))
        judged = []
        for source, own, settled, *of_image in zip(sources, crops, is_settled.tolist(), *numbers, strict=True):
            texture, probable, ood_score = of_image
            verdict = self._decide(source, probable, float(ood_score), own)
            verdict = replace(verdict, answered_by=STUDENT if settled else BRANCHES)
            judged.append(Judged(verdict, None if settled else next(of_branches).mean(0), texture.clone()))
        return judged

    def _see(self, images: Tensor) -> tuple[Tensor | Embedded, Tensor]:
        """What is computed whoever is asked, of crops (B, 3, crop, crop): what branches start from, and the textures.

        Textures are (B, L·D), on the CPU; (B, 0) where nothing reads them.
        """
        if not (self.calibration or self.network.texture_head):
            return images, torch.empty(len(images), 0)

        def see(part: Tensor) -> tuple[Embedded | None, Tensor]:
            embedded = self.network.embed(part)
            return embedded if keeps else None, self.network.texture(embedded).cpu()

        keeps = self.network.backbone.gives_tokens  # else there is nothing but pixels, four times as large as bytes
        embedded, textures = zip(*self._passes(see, images), strict=True)
        return Embedded.join(embedded) if keeps else images, torch.cat(textures)

    def _ask_student(self, textures: Tensor, counts: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Probabilities of every crop (B, C), and whether they are to be given, of every image."""
        student = None if self.exact else self.state.student
        if student is None or self.calibration is None:
            return textures.new_zeros(len(textures), len(self.classes), dtype=torch.double), torch.zeros(
                len(counts), dtype=torch.bool
            )
        told, nothing_to_add = student.answer(textures, self.network.texture_head)
        probabilities = self._probabilities(told)
        of_images = torch.stack(_averages(probabilities, counts))
        is_sure = student.is_sure(answers_of(of_images, self.classes))
        return probabilities, is_sure | torch.tensor([all(part.tolist()) for part in nothing_to_add.split(counts)])

    def _ask_branches(self, seen: Tensor | Embedded, rows: Tensor) -> Tensor:
        """The branches' features (n, K·D) of some crops, on the CPU."""
        if not len(rows):
            return torch.empty(0, self.network.head.in_features)
        return torch.cat(self._passes(lambda part: self.network.features(part).cpu(), seen[rows]))

    def _passes(self, ask: Callable[[Any], Any], seen: Tensor | Embedded) -> list[Any]:
        """The answers to crops, a few at a time."""
        at_once = images_at_once(self.network, self.batch_size)
        parts = [seen[i : i + at_once] for i in range(0, len(seen), at_once)]
        with side_by_side(self.network.device, len(parts)) as over:
            return list(over(torch.no_grad()(ask), parts))

    def _probabilities(self, logits: Tensor) -> Tensor:
        return self.calibration.probabilities(logits) if self.calibration else logits.softmax(dim=1).double()

    def _ood_scores(self, textures: Tensor) -> Tensor:
        """Of crops' textures (B, L·D), (B,); NaN without calibration."""
        return self.calibration.ood_score(textures) if self.calibration else torch.full((len(textures),), math.nan)

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


def _averages(of_crops: Tensor, counts: Sequence[int]) -> list[Tensor]:
    """Each image's average over its crops; of a single one it is that one's, which most images have."""
    if len(of_crops) == len(counts):
        return list(of_crops.unbind(0))
    return [part.mean(0) for part in of_crops.split(counts)]


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
    named = {entry.label: p for entry, p in zip(classes.entries, probabilities.tolist(), strict=True)}
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
