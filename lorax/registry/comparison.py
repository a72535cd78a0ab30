"""Which branches of a version have like weights, and how its run, its tags and its card tell that."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lorax.drafts import scratch
from lorax.registry.tables import show_tables, write_table
from lorax.storage import canonical_json, write_whole

NEIGHBOURS = "neighbours.json"
"""The record's name in a folder of what an episode is to log of the atlas."""

NEAREST_SIMILARITY = "nearest_similarity"
_FOLDER = "atlas"
_TABLE = "nearest.json"


@dataclass(frozen=True)
class Neighbour:
    """The branch of another task, what that one is of, and how alike it is: a cosine in [-1, 1]."""

    task: str
    generators: str
    similarity: float


@dataclass(frozen=True)
class BranchNeighbours:
    """A branch and the others of its learner state, the most similar first, as far as they were looked up.

    `start` is None for a branch that started as all fresh ones do. Else it names the task from whose weights it
    started: such a branch is like its start whatever it learned, so it is nobody's neighbour, and its own ones make no
    claim. Or it is "", of a branch from before there was a common start, which can't be compared at all.
    """

    task: str
    generators: str
    start: str | None
    nearest: tuple[Neighbour, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """The branches of the state after an episode, compared with each other; one that could not be is not there.

    `described` says by what they were compared, in words.
    """

    episode: int
    task: str
    described: str
    branches: tuple[BranchNeighbours, ...]

    @property
    def newest(self) -> BranchNeighbours | None:
        """Those of the branch that this episode added."""
        return next((branch for branch in self.branches if branch.task == self.task), None)

    @property
    def nearest(self) -> Neighbour | None:
        """The known generators that the episode's own are most like, where that can be said."""
        newest = self.newest
        return newest.nearest[0] if newest and newest.nearest and newest.start is None else None

    def write(self, folder: Path) -> None:
        """Write the record into `folder`."""
        write_whole(folder / NEIGHBOURS, canonical_json(asdict(self)))

    @classmethod
    def read(cls, folder: Path) -> Comparison:
        """The record in `folder`."""
        record = json.loads((folder / NEIGHBOURS).read_text())
        return cls(record["episode"], record["task"], record["described"], tuple(map(_parse, record["branches"])))


def comparison_metrics(found: Comparison | None) -> dict[str, float]:
    """How alike the new branch and its nearest are, by the name it is logged under; docs/method.md explains it."""
    return {NEAREST_SIMILARITY: found.nearest.similarity} if found and found.nearest else {}


def write_comparison(client: Any, run_id: str, folder: Path) -> None:
    """Fill an episode's run with the files in `folder`, below atlas/, and a table of its record beside them."""
    client.log_artifacts(run_id, str(folder), _FOLDER)
    rows = list(_rows(Comparison.read(folder).branches))
    if rows:
        with scratch() as made:
            write_table(Path(made) / _TABLE, rows)
            client.log_artifacts(run_id, made, _FOLDER)
        show_tables(client, run_id, [f"{_FOLDER}/{_TABLE}"])


def _rows(branches: Sequence[BranchNeighbours]) -> Iterator[dict[str, Any]]:
    """One for each branch and neighbour; what matters most comes first, since MLflow's page shows few columns."""
    for branch in branches:
        for place, near in enumerate(branch.nearest, 1):
            yield {
                "branch": branch.task,
                "place": place,
                "neighbour": near.task,
                "similarity": near.similarity,
                "generators": branch.generators,
                "neighbour's generators": near.generators,
                "branch started from": branch.start or "",
            }


def _parse(record: Mapping[str, Any]) -> BranchNeighbours:
    return BranchNeighbours(**{**record, "nearest": tuple(Neighbour(**near) for near in record["nearest"])})
