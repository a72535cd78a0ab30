"""The space: neither how strongly an adapter was trained nor the order of a collection is seen in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lorax.atlas.index import Atlas
from lorax.atlas.searching import search
from lorax.atlas.space import MOST_FITTED, directions, drawn, fit_basis
from tests.atlas.made import adapter, layers_of, made, zoo


def weaker(name: str, family: int, member: int, strength: float):
    """A member of a family whose alpha is another."""
    layers = layers_of()
    factors = made("", family, member).factors()
    return adapter(name, [(a, b * strength) for a, b in factors], layers)


@pytest.mark.parametrize("members", [2, 6], ids=["plain", "with a basis"])
def test_what_was_learned_counts_and_not_how_strongly(tmp_path: Path, members: int) -> None:
    atlas = Atlas.open(tmp_path)
    atlas.add(weaker(f"f{f}-{m}", f, m, (1.0, 0.05)[m % 2]) for f in range(5) for m in range(members))
    assert (atlas.view().basis is None) == (members == 2)
    for strength in (0.02, 1.0, 30.0):
        first, second, *others = search(atlas, weaker("again", 3, 0, strength), k=5 * members).neighbours
        assert (first.name, second.name[:2]) == ("f3-0", "f3")
        assert first.similarity == pytest.approx(1, abs=1e-4)
        unrelated = [n.similarity for n in others if not n.name.startswith("f3")]
        assert max(unrelated) < min(0.5, second.similarity)


@pytest.mark.parametrize("members", [3, 6], ids=["plain", "with a basis"])
def test_layers_that_hardly_changed_do_not_drown_the_one_that_learned(tmp_path: Path, members: int) -> None:
    """As in LoRAs of real networks: where little was learned, those are alike that started alike, whatever they saw."""

    def learned(family: int, start: int):
        pairs = zip(layers_of(), made("", family, start).factors(), made("", 50 + start).factors(), strict=True)
        factors = [own if layer.name == "blocks_2_mlp_fc2" else (a, b / 5) for layer, own, (a, b) in pairs]
        return adapter(f"f{family}-{start}", factors, layers_of())

    atlas = Atlas.open(tmp_path)
    atlas.add(learned(family, start) for family in range(5) for start in range(members))
    assert (atlas.view().basis is None) == (members == 3)
    for query in ("f0-0", "f1-1", "f4-2"):
        nearest = search(atlas, query, k=members - 1).neighbours
        assert {neighbour.name[:2] for neighbour in nearest} == {query[:2]}


def test_what_is_usual_of_newcomers_does_not_depend_on_the_order_of_adding(tmp_path: Path) -> None:
    atlas = Atlas.open(tmp_path)
    atlas.add(zoo(10, 5)[0])
    rows = atlas.frame("product", "all").to_numpy().reshape(10, 5, -1)
    by_family, by_turns = (directions(r.reshape(50, -1)) for r in (rows, rows.swapaxes(0, 1)))
    one, other = (fit_basis(r, 16).limit for r in (by_family, by_turns))
    assert one == pytest.approx(other, abs=0.1)
    unseen = directions(np.stack([atlas.describer.describe(made("", 90 + i).factors())["product"] for i in range(9)]))
    for basis in (fit_basis(by_family, 16), fit_basis(by_turns, 16)):
        assert basis.is_drifting(basis.project(unseen, newcomers=True)[1])


def test_a_basis_is_fitted_on_all_of_a_small_collection_and_on_a_draw_from_a_large_one() -> None:
    assert drawn(3).tolist() == [0, 1, 2]
    numbers = drawn(10 * MOST_FITTED)
    assert len(set(numbers.tolist())) == MOST_FITTED
    assert np.array_equal(numbers, drawn(10 * MOST_FITTED))
    for families in (2, 7, 10):
        assert np.bincount(numbers % families).min() > 0.8 * MOST_FITTED / families
