"""The gate: whether a challenger may take the champion's place; `promotion.promote_passed` has it do so, or wait.

Two things are judged apart. *Detection*: real or synthetic told rightly, whichever generator was named. *Attribution*:
the right name as well. Detection is held to strictly; attribution leniently, since generators of one family may be hard
to tell apart, and a new relative is to be refused, or to have old ones refuse it, only where images pass for real.

Of each there are two ways to fail: the new task was not learned (the figure lies below a floor), or an old one was
lost: its figure dropped by more than a set amount *and* by more than chance explains. Both are asked for, since on 90
test images a drop of three points is noise, and on 2,000 a drop of half a point is real but harmless. Against the
champion the same images are compared one by one (McNemar's exact test: of the images that only one of the two got
right, too many were the champion's); against the figure when the task was first learned, whose answers are no longer at
hand, two proportions.

Where `gate.robustness` asks for it there is a third: verdicts that collapse when an image was saved again. And where
`gate.false_positives` does, a fourth: real photographs from elsewhere that are called synthetic, more of them than is
allowed *and* than chance explains where so many are the rule.

Source: McNemar, Note on the sampling error of the difference between correlated proportions (Psychometrika, 1947).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lorax.params import GateParams

if TYPE_CHECKING:  # these import torch, which a look-up can do without
    from lorax.learning.folder import Report
    from lorax.learning.metrics import Paired
    from lorax.learning.unknown import Slice


DETECTION, ATTRIBUTION = "detection", "attribution"

_ROUNDING = 1e-9
_ALL = "all tasks"
_PHOTOGRAPHS = "real photographs that no task brought"


@dataclass(frozen=True)
class TaskVerdict:
    """What the gate says of one task, in one respect. What could not be checked has NaN, and has failed.

    But "forgetting" then passes, since figures on other test images than those of then, or none of then, say nothing.
    """

    task: str
    kind: str  # new (the floor), drop (against the champion), forgetting (when first learned), robustness (of all
    # tasks together), or false positives (of photographs that no task brought)
    before: float  # what it is compared with: the floor, the champion's figure on the same images, the first one, ...
    after: float
    chance: float  # the test's p-value, 1 where none was made
    passed: bool
    figure: str = "accuracy"  # DETECTION or ATTRIBUTION; as it stands of versions from before they were judged apart

    @property
    def reason(self) -> str:
        """One line for a person."""
        if self.kind == "new":
            return f"{self.task}: {self.figure} {100 * self.after:.1f} %, the floor is {100 * self.before:.1f} %"
        if self.kind == "robustness":
            return self._robustness
        if self.kind == "false positives":
            return self._false_positives
        if math.isnan(self.before):
            return f"{self.task}: {self._uncompared}"
        against = "the champion has" if self.kind == "drop" else "when first learned"
        figures = f"{self.figure} {100 * self.after:.1f} %, {against} {100 * self.before:.1f} %"
        return f"{self.task}: {figures} (p = {self.chance:.2g})"

    @property
    def _uncompared(self) -> str:
        if self.kind == "drop":
            return f"{self.figure} could not be compared with the champion"
        return (
            f"{self.figure} was compared with the champion only: its data was replaced since it was learned, or the "
            "version that learned it was deleted"
        )

    @property
    def _false_positives(self) -> str:
        allowed = f"at most {100 * self.before:.1f} % are allowed"
        if math.isnan(self.after):
            return f"{self.task}: none were looked at, {allowed} to be called synthetic"
        return f"{self.task}: {100 * self.after:.1f} % are called synthetic, {allowed} (p = {self.chance:.2g})"

    @property
    def _robustness(self) -> str:
        asked = f"at least {100 * self.before:.1f} % is asked for"
        if math.isnan(self.after):
            return f"robustness was not measured, {asked}"
        return f"robustness {100 * self.after:.1f} %, {asked}: mean accuracy on perturbed images, as a share of clean"


def judge(
    report: Report,
    rows: Sequence[Sequence[float]],
    tasks: Sequence[str],
    gate: GateParams,
    detected_first: Mapping[str, float],
    robustness: float | None = None,
    replaced: Collection[str] = (),
    photographs: Slice | None = None,
) -> list[TaskVerdict]:
    """Judge a challenger task by task; it may pass if every verdict does.

    Args:
        report: of the challenger's episode.
        rows: the challenger's accuracy matrix.
        tasks: names in the matrix's order, the new task last.
        gate: thresholds.
        detected_first: the detection accuracy of old tasks when each was learned, as far as it is known.
        robustness: the challenger's, or None where it was not measured.
        replaced: old tasks that were tested on other images than when they were learned.
        photographs: what was said of real ones that no task brought, or None where none were looked at.

    Returns:
        Of detection, then of attribution: one verdict for the new task, two for each old one. Last, one on robustness
        and one on false positives, where they are asked for. What can't be checked has failed.
    """
    verdicts: list[TaskVerdict] = []
    for figure in _figures(report, rows, tasks, gate, detected_first):
        new = figure.now[tasks[-1]]
        verdicts.append(TaskVerdict(tasks[-1], "new", figure.floor, new, 1.0, new >= figure.floor, figure.name))
        for task in tasks[:-1]:
            verdicts += figure.judge_old(task, gate.significance, is_replaced=task in replaced)
    if gate.robustness > 0:
        found = math.nan if robustness is None else robustness
        verdicts.append(TaskVerdict(_ALL, "robustness", gate.robustness, found, 1.0, found >= gate.robustness))
    if gate.false_positives is not None:
        verdicts.append(_judge_photographs(photographs, gate.false_positives, gate.significance))
    return verdicts


def reasons(verdicts: Iterable[TaskVerdict]) -> str:
    """Why a challenger is refused: every failed verdict; '' if none failed."""
    return "; ".join(verdict.reason for verdict in verdicts if not verdict.passed)


def mcnemar(paired: Paired) -> float:
    """One-sided p-value of a drop: how likely chance alone splits the discordant images at least as badly.

    Source: McNemar's test in its exact (binomial) form.
    """
    from scipy.stats import binom

    return float(binom.sf(paired.only_before - 1, paired.only_before + paired.only_after, 0.5))


def two_proportions(first: float, now: float, images: int) -> float:
    """One-sided p-value of a drop between two accuracies on `images` images each, taken as independent."""
    pooled = (first + now) / 2
    spread = math.sqrt(2 * pooled * (1 - pooled) / images)
    if spread == 0:
        return 0.0 if now < first else 1.0
    return 0.5 * math.erfc((first - now) / spread / math.sqrt(2))


def at_least(found: int, of: int, share: float) -> float:
    """One-sided p-value of a count: how likely `found` or more of `of` are where each is with probability `share`."""
    from scipy.stats import binom

    return float(binom.sf(found - 1, of, share))


def _judge_photographs(found: Slice | None, allowed: float, significance: float) -> TaskVerdict:
    if found is None:
        return TaskVerdict(_PHOTOGRAPHS, "false positives", allowed, math.nan, math.nan, False)
    chance = at_least(found.synthetic, found.images, allowed)
    passed = found.share <= allowed + _ROUNDING or chance >= significance
    return TaskVerdict(_PHOTOGRAPHS, "false positives", allowed, found.share, chance, passed)


@dataclass(frozen=True)
class _Figure:
    """One of the two that are judged: its value on each task, now and at first, against the base, and its limits."""

    name: str
    now: Mapping[str, float]
    first: Mapping[str, float]
    against_base: Mapping[str, Paired]
    floor: float
    drop: float
    forgetting: float

    def judge_old(self, task: str, significance: float, *, is_replaced: bool) -> list[TaskVerdict]:
        now, paired = self.now[task], self.against_base.get(task)
        if paired is None or paired.images == 0:
            return [TaskVerdict(task, "drop", math.nan, now, math.nan, False, self.name)]
        before = now + (paired.only_before - paired.only_after) / paired.images
        drop = self._lost(task, "drop", before, self.drop, mcnemar(paired), significance)
        first = math.nan if is_replaced else self.first.get(task, math.nan)
        if math.isnan(first):
            return [drop, TaskVerdict(task, "forgetting", math.nan, now, math.nan, True, self.name)]
        chance = two_proportions(first, now, paired.images)
        return [drop, self._lost(task, "forgetting", first, self.forgetting, chance, significance)]

    def _lost(
        self, task: str, kind: str, before: float, allowed: float, chance: float, significance: float
    ) -> TaskVerdict:
        now = self.now[task]
        # 8 of 160 images are 0.05, whatever floating point makes of 0.9875 - 0.9375
        is_lost = before - now > allowed + _ROUNDING and chance < significance
        return TaskVerdict(task, kind, before, now, chance, not is_lost, self.name)


def _figures(
    report: Report,
    rows: Sequence[Sequence[float]],
    tasks: Sequence[str],
    gate: GateParams,
    detected_first: Mapping[str, float],
) -> Iterator[_Figure]:
    yield _Figure(
        DETECTION,
        report.binary_accuracy,
        detected_first,
        report.detection_against_base,
        *(gate.detection_floor, gate.detection_drop, gate.detection_forgetting),
    )
    yield _Figure(
        ATTRIBUTION,
        dict(zip(tasks, rows[-1], strict=True)),
        {task: rows[i][i] for i, task in enumerate(tasks)},
        report.against_base,
        *(gate.attribution_floor, gate.attribution_drop, gate.attribution_forgetting),
    )
