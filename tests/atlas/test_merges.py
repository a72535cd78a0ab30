"""What a merged adapter is made of is found among the entries, with the weights that it was merged by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lorax.atlas.adapter import Adapter
from lorax.atlas.index import Atlas
from lorax.atlas.merges import parts_of
from lorax.errors import AdapterError
from tests.atlas.made import adapter, layers_of, made, zoo


@pytest.fixture(scope="module")
def atlas(tmp_path_factory: pytest.TempPathFactory) -> Atlas:
    atlas = Atlas.open(tmp_path_factory.mktemp("atlas") / "atlas")
    atlas.add(zoo(4, 8)[0])
    return atlas


def merged(weights: Mapping[tuple[int, int], float]) -> Adapter:
    """Members of families added up by weights, as a LoRA of their ranks together."""
    members = [(made("x", *which).factors(), weight) for which, weight in weights.items()]
    pairs = zip(*([(a * weight, b) for a, b in factors] for factors, weight in members), strict=True)
    factors = [(torch.cat([a for a, _ in of]), torch.cat([b for _, b in of], dim=1)) for of in pairs]
    return adapter("mix", factors, layers_of(2 * len(weights)))


def test_a_merges_parts_and_weights_are_found(atlas: Atlas) -> None:
    found = parts_of(atlas, merged({(0, 1): 0.7, (2, 5): 0.5, (3, 0): 0.2}))
    assert {part.name: round(part.weight, 3) for part in found.parts} == {"f0-1": 0.7, "f2-5": 0.5, "f3-0": 0.2}
    assert [part.name for part in found.parts] == ["f0-1", "f2-5", "f3-0"]
    assert found.told == pytest.approx(1, abs=1e-4)
    assert sum(part.share for part in found.parts) == pytest.approx(found.told)


def test_a_part_that_the_atlas_lacks_is_the_rest(atlas: Atlas) -> None:
    found = parts_of(atlas, merged({(1, 2): 1.0, (9, 0): 1.0}))
    assert found.parts[0].name == "f1-2"
    assert 0.3 < found.parts[0].share < 0.7
    assert found.told < 0.75


def test_parts_that_take_back_from_each_other_tell_no_more_than_all(tmp_path: Path) -> None:
    atlas = Atlas.open(tmp_path / "atlas")
    both, against = merged({(0, 0): 1, (1, 0): 1}), merged({(0, 0): -0.1, (1, 0): -1})
    atlas.add([replace(both, name="both"), replace(against, name="against")])
    found = parts_of(atlas, made("x"))
    assert [part.name for part in found.parts] == ["both", "against"]
    assert found.parts[1].share < 0
    assert found.told == pytest.approx(1, abs=1e-4)


def test_an_entry_is_no_part_of_itself(atlas: Atlas) -> None:
    found = parts_of(atlas, "f0-1")
    assert "f0-1" not in {part.name for part in found.parts}
    assert {part.name[:2] for part in found.parts} == {"f0"}


def test_an_adapter_before_its_training_is_refused(atlas: Atlas) -> None:
    with pytest.raises(AdapterError, match="as before training"):
        parts_of(atlas, adapter("new", [(a, b * 0) for a, b in made("x").factors()], layers_of()))


def test_what_is_like_no_entry_has_no_parts(tmp_path: Path) -> None:
    atlas = Atlas.open(tmp_path / "atlas")
    atlas.add([made("one", 1)])
    opposite = adapter("not", [(-a, b) for a, b in made("one", 1).factors()], layers_of())
    assert parts_of(atlas, opposite) == parts_of(atlas, "one")
    assert parts_of(atlas, "one").parts == []
