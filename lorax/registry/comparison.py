"""How a version's run tells which of its branches have similar weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lorax.learning.branch_similarity import BranchComparison, BranchNeighbours
from lorax.registry.tables import log_tables

NEAREST_SIMILARITY = "nearest_similarity"
_FOLDER = "atlas"
_TABLE = f"{_FOLDER}/nearest.json"


def comparison_metrics(found: BranchComparison | None) -> dict[str, float]:
    """How alike the new branch and its nearest are, by the name it is logged under; docs/method.md explains it."""
    return {NEAREST_SIMILARITY: found.nearest.similarity} if found and found.nearest else {}


def write_comparison(client: Any, run_id: str, folder: Path) -> None:
    """Fill an episode's run with the files in `folder`, below atlas/, and a table of its record beside them."""
    client.log_artifacts(run_id, str(folder), _FOLDER)
    log_tables(client, run_id, {_TABLE: list(_rows(BranchComparison.read(folder).branches))})


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
