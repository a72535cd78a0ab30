"""The share of images that are like nothing known, over the last so many, and when it rises above a rate."""

from __future__ import annotations

import math
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from lorax.verdicts.watched import WatchedVerdict

LEAST_SEEN = 20
"""Images before anything is said: a few unknown ones in a row are no rise."""

CONFIDENCE = math.erf(2.576 / math.sqrt(2))
"""Of the share's interval, 99 in 100: it is looked at after every image, not once."""

Change = Literal["rising", "fallen", ""]


@dataclass
class Window:
    """The last `size` verdicts.

    Counted is what is *out of distribution* (`ood`): the verdict "synthetic:unknown", and of "undecided" those images
    that are like nothing known but not clearly synthetic, as a new generator's may be. An image that is undecided
    between known classes does not count: it is no sign of anything new. So in a stream of known classes the share is
    the false-alarm rate.

    It rises when the lower end of the share's interval passes `rate`, and can rise again only after it has fallen: when
    the share itself is below the rate.
    """

    size: int
    rate: float
    is_rising: bool = False
    seen: deque[WatchedVerdict] = field(default_factory=deque)

    def add(self, verdict: WatchedVerdict) -> Change:
        """Take in one more verdict and say what changed; a file that is among the last already is no news."""
        if any(verdict.sha256 == other.sha256 for other in self.seen):
            return ""
        self.seen.append(verdict)
        if len(self.seen) > self.size:
            self.seen.popleft()
        is_enough = len(self.seen) >= min(LEAST_SEEN, self.size)
        if not self.is_rising and is_enough and self.share > self.rate and self.interval[0] > self.rate:
            self.is_rising = True
            return "rising"
        if self.is_rising and self.share < self.rate:
            self.is_rising = False
            return "fallen"
        return ""

    @property
    def ood(self) -> list[WatchedVerdict]:
        return [verdict for verdict in self.seen if verdict.is_ood]

    @property
    def share(self) -> float:
        return len(self.ood) / len(self.seen) if self.seen else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """Where the true share lies; (0, 1) when nothing was looked at."""
        return interval(len(self.ood), len(self.seen), CONFIDENCE) if self.seen else (0.0, 1.0)

    @property
    def verdicts(self) -> dict[str, int]:
        """How many there are of each verdict."""
        return dict(Counter(verdict.verdict for verdict in self.seen).most_common())

    def record(self) -> dict[str, Any]:
        """The share now, for scripts."""
        at = {"share": self.share, "interval": list(self.interval)}
        return at | {"rate": self.rate, "window": len(self.seen)}

    def __str__(self) -> str:
        low, high = self.interval
        return (
            f"{100 * self.share:.1f} % of the last {len(self.seen):,} are like nothing known "
            f"({100 * low:.1f} to {100 * high:.1f} %), rate {100 * self.rate:.1f} %"
        )


def interval(found: int, of: int, confidence: float = 0.95) -> tuple[float, float]:
    """Where the true share lies where `found` of `of` were seen: Wilson's interval."""
    from scipy.stats import binomtest

    low, high = binomtest(found, of).proportion_ci(confidence, method="wilson")
    return float(low), float(high)
