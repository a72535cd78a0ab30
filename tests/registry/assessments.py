"""Assessments and comparisons by hand, so that what is made of them can be checked figure by figure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from lorax.learning.assessment import ALL, Assessment, Bin, CardRow, Reliability
from lorax.learning.branch_similarity import BranchComparison, BranchNeighbours, SimilarBranch
from lorax.learning.relatives import Named
from lorax.learning.unknown import FalsePositives, Foreseen, Slice

ACCURACY = {"clean": 0.95, "jpeg-95": 0.9, "jpeg-75": 0.57, "blur-100": 0.8}
"""Of all tasks together; robustness is (0.9 + 0.57 + 0.8) / 3 / 0.95."""

FALSE_POSITIVES = FalsePositives(
    "photographs", "0123456789abcdef.dir", 200, 3, [Slice("clean", 200, 2, 1, 7), Slice("jpeg-75", 200, 24, 4, 9)]
)

FORESEEN = Foreseen(0.91, 0.62, 0.55, 0.17, 0.05, 0.25)


ALONE = BranchComparison(0, "alpha", "product", (BranchNeighbours("alpha", "alpha", None),))
PAIR = BranchComparison(
    1,
    "beta",
    "product",
    (
        BranchNeighbours("alpha", "alpha", None, (SimilarBranch("beta", "beta", 0.6251),)),
        BranchNeighbours("beta", "beta", None, (SimilarBranch("alpha", "alpha", 0.6251),)),
    ),
)
DERIVED = replace(PAIR, branches=(PAIR.branches[0], replace(PAIR.branches[1], start="alpha")))


def assessed(
    episode: int,
    task: str,
    *,
    calibrated: bool = True,
    accuracy: Mapping[str, float] = ACCURACY,
    foreseen: Foreseen | None = None,
    false_positives: FalsePositives | None = None,
) -> Assessment:
    """An assessment after an episode; a task's accuracies lie a hundredth below those of all."""
    return Assessment(
        episode,
        task,
        calibrated,
        [_reliability("clean", 0.02, calibrated), _reliability("jpeg-75", 0.3, calibrated)],
        [
            CardRow(name, of, 50, value - (0.01 if of == task else 0), 0.99, 0.03, 0.04 if calibrated else None)
            for name, value in accuracy.items()
            for of in (task, ALL)
        ],
        foreseen,
        25,
        1.5,
        false_positives,
        Named(80, 60, 4) if calibrated else None,
    )


def _reliability(perturbation: str, error: float, calibrated: bool) -> Reliability:
    bins = [Bin(0.6, 0.6 - error, 40), Bin(0.9, 0.9 - error, 41)]
    after = (0.4, error) if calibrated else (None, None)
    return Reliability(perturbation, 81, 0.50004, after[0], error + 0.1, after[1], 0.015, bins)
