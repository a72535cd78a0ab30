"""What was found of how alike branches are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from lorax.learning.branch_similarity import NEIGHBOURS, BranchComparison, SimilarBranch
from lorax.storage import write_record
from tests.registry.assessments import ALONE, DERIVED, PAIR


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    write_record(tmp_path / NEIGHBOURS, PAIR)
    assert BranchComparison.read(tmp_path) == PAIR


def test_the_nearest_is_that_of_the_new_branch() -> None:
    assert PAIR.nearest == SimilarBranch("alpha", "alpha", 0.6251)
    assert ALONE.nearest is None


def test_a_branch_that_started_from_another_s_weights_claims_no_nearest() -> None:
    assert DERIVED.nearest is None


def test_a_branch_that_could_not_be_compared_has_no_nearest() -> None:
    assert replace(PAIR, branches=PAIR.branches[:1]).nearest is None
