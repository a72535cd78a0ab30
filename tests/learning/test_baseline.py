"""The stream without branches, for comparison."""

from __future__ import annotations

from lorax.learning.baseline import learn_without_branches
from lorax.params import Params


def test_it_gives_an_accuracy_matrix_and_the_same_one_again(stream, params: Params) -> None:
    rows = learn_without_branches(stream.tasks, stream.fetch, params, epochs=3)
    assert [len(row) for row in rows] == [1, 2, 3]
    assert all(0 <= value <= 1 for row in rows for value in row)
    assert rows == learn_without_branches(stream.tasks, stream.fetch, params, epochs=3)
