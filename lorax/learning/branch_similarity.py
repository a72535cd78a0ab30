"""Which branches of a learner state have similar weights: an episode's record of it, for its run and its version."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lorax.storage import read_record

NEIGHBOURS = "neighbours.json"
"""The record's name in a folder of what an episode is to log of the atlas."""


@dataclass(frozen=True)
class SimilarBranch:
    """The branch of another task, what that one is of, and how alike it is: a cosine in [-1, 1]."""

    task: str
    generators: str
    similarity: float


@dataclass(frozen=True)
class BranchNeighbours:
    """A branch and the others of its learner state, the most similar first, as far as they were looked up."""

    task: str
    generators: str
    # None for a branch that started as all fresh ones do. Else the task from whose weights it started: such a branch is
    # like its start whatever it learned, so it is nobody's neighbour, and its own ones make no claim. Or "", of a
    # branch from before there was a common start, which can't be compared at all
    start: str | None
    nearest: tuple[SimilarBranch, ...] = ()


@dataclass(frozen=True)
class BranchComparison:
    """The branches of the state after an episode, compared with each other; one that could not be is not there."""

    episode: int
    task: str
    described: str  # by what they were compared, in words
    branches: tuple[BranchNeighbours, ...]

    @property
    def newest(self) -> BranchNeighbours | None:
        """Those of the branch that this episode added."""
        return next((branch for branch in self.branches if branch.task == self.task), None)

    @property
    def nearest(self) -> SimilarBranch | None:
        """The known generators that the episode's own are most like, where that can be said."""
        newest = self.newest
        return newest.nearest[0] if newest and newest.nearest and newest.start is None else None

    @classmethod
    def read(cls, folder: Path) -> BranchComparison:
        """The record in `folder`."""
        return read_record(cls, folder / NEIGHBOURS)
