"""Ranking known generators by probes, on weights made by hand."""

from __future__ import annotations

import pytest
import torch

from lorax.attribution import rank

START = {"A": torch.ones(2, 3), "B": torch.zeros(3, 2)}


def probe(*taught: float) -> dict[str, torch.Tensor]:
    """What all learn is large; what each generator teaches lies in B's first numbers."""
    b = torch.full((3, 2), 5.0)
    b.view(-1)[: len(taught)] += torch.tensor(taught)
    return {"A": START["A"], "B": b}


def test_the_generator_whose_probes_moved_likewise_comes_first_whatever_all_learn() -> None:
    known = {"x": [probe(1, 0), probe(1, 0.1)], "y": [probe(0, 1), probe(0.1, 1)]}
    first, second = rank(probe(0, 0.8), START, known)
    assert (first.label, second.label) == ("y", "x")
    assert first.similarity == pytest.approx(1, abs=0.1)
    assert second.similarity == pytest.approx(-1, abs=0.1)


def test_a_generator_known_alone_is_compared_as_it_is() -> None:
    [match] = rank(probe(0, 1), START, {"x": [probe(0, 1)]})
    assert match.similarity == pytest.approx(1)
