"""The gate: whether a challenger may take the champion's place.

Two ways to fail: the new task was not learned (its accuracy lies below a floor), or an old one was lost: its accuracy
dropped by more than a set amount *and* by more than chance explains. Both are asked for, since on 90 test images a drop
of three points is noise, and on 2,000 a drop of half a point is real but harmless. Against the champion the same images
are compared one by one (McNemar's exact test: of the images that only one of the two got right, too many were the
champion's); against the accuracy when the task was first learned, whose answers are no longer at hand, two proportions.

Source: McNemar, Note on the sampling error of the difference between correlated proportions (Psychometrika, 1947).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lorax.learning.evaluation import Paired
from lorax.learning.folder import Report
from lorax.params import GateParams


@dataclass(frozen=True)
class TaskVerdict:
    """What the gate says of one task; `chance` is the test's p-value (1.0 where none was made).

    `before` is the accuracy compared with: the champion's on the same images, or the floor for the new task.
    """

    task: str
    kind: str  # "new", "drop" (against the champion) or "forgetting" (against when it was learned)
    before: float
    after: float
    chance: float
    passed: bool

    @property
    def reason(self) -> str:
        """One line for a person."""
        if self.kind == "new":
            return f"{self.task}: accuracy {self.after:.3f}, floor {self.before:.3f}"
        against = "the champion's" if self.kind == "drop" else "when it was learned,"
        return f"{self.task}: accuracy {self.after:.3f}, {against} {self.before:.3f} (p = {self.chance:.2g})"


def judge(report: Report, rows: Sequence[Sequence[float]], tasks: Sequence[str], gate: GateParams) -> list[TaskVerdict]:
    """Judge a challenger task by task; it may pass if every verdict does.

    Args:
        report: of the challenger's episode.
        rows: the challenger's accuracy matrix.
        tasks: names in the matrix's order, the new task last.
        gate: thresholds.

    Returns:
        One verdict for the new task, and two for each old one. What can't be checked has failed.
    """
    new = tasks[-1]
    verdicts = [TaskVerdict(new, "new", gate.floor, rows[-1][-1], 1.0, rows[-1][-1] >= gate.floor)]
    for i, task in enumerate(tasks[:-1]):
        now, first = rows[-1][i], rows[i][i]
        paired = report.against_base.get(task)
        if paired is None or paired.images == 0:
            verdicts.append(TaskVerdict(task, "drop", math.nan, now, math.nan, False))
            continue
        before = now + (paired.only_before - paired.only_after) / paired.images
        chance = mcnemar(paired)
        lost = before - now > gate.max_drop and chance < gate.significance
        verdicts.append(TaskVerdict(task, "drop", before, now, chance, not lost))
        chance = two_proportions(first, now, paired.images)
        lost = first - now > gate.max_forgetting and chance < gate.significance
        verdicts.append(TaskVerdict(task, "forgetting", first, now, chance, not lost))
    return verdicts


def mcnemar(paired: Paired) -> float:
    """One-sided p-value of a drop: how likely chance alone splits the discordant images at least as badly.

    Source: McNemar's test in its exact (binomial) form.
    """
    discordant = paired.only_before + paired.only_after
    worse = sum(math.comb(discordant, k) for k in range(paired.only_before, discordant + 1))
    return worse / 2**discordant


def two_proportions(first: float, now: float, images: int) -> float:
    """One-sided p-value of a drop between two accuracies on `images` images each, taken as independent."""
    pooled = (first + now) / 2
    spread = math.sqrt(2 * pooled * (1 - pooled) / images)
    if spread == 0:
        return 0.0 if now < first else 1.0
    return 0.5 * math.erfc((first - now) / spread / math.sqrt(2))
