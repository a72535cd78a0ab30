"""Sets of generators, on answers drawn so that what is right is known."""

from __future__ import annotations

import math

import pytest
import torch

from lorax.learning.relatives import Relatives, named
from lorax.stream import ClassEntry, ClassTable

NAMES = ("real", "style", "waifu", "cugan", "denoiser", "mosaic")
TABLE = ClassTable(tuple(ClassEntry(i, "t", i, name) for i, name in enumerate(NAMES)))
WAIFU, CUGAN = 2, 3


def drawn(each: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities (n, 6) of `each` images of each class, and the classes: waifu and cugan look the same."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.arange(len(NAMES)).repeat_interleave(each)
    seen = torch.where(ids == CUGAN, WAIFU, ids)
    logits = 2.5 * torch.randn(len(ids), len(NAMES), generator=generator, dtype=torch.double)
    logits[torch.arange(len(ids)), seen] += 12
    gap = torch.randn(len(ids), generator=generator, dtype=torch.double)
    logits[:, CUGAN] = torch.where(seen == WAIFU, logits[:, WAIFU] + gap, logits[:, CUGAN])
    return logits.softmax(dim=1), ids


@pytest.fixture(scope="module")
def fitted() -> Relatives:
    found = Relatives.fit(*drawn(30, seed=0), TABLE, error=0.1)
    assert found is not None
    return found


def test_generators_that_are_confused_form_a_group_and_the_others_none(fitted: Relatives) -> None:
    assert fitted.groups == ((WAIFU, CUGAN),)


def test_an_image_of_relatives_is_said_to_be_by_one_of_them_and_others_are_named(fitted: Relatives) -> None:
    probabilities, ids = drawn(500, seed=1)
    found = [fitted.of(row, TABLE.is_real, 0.5) for row in probabilities]
    of_pair = [group for group, true in zip(found, ids.tolist(), strict=True) if true in (WAIFU, CUGAN)]
    others = [(group, true) for group, true in zip(found, ids.tolist(), strict=True) if true not in (0, WAIFU, CUGAN)]
    assert of_pair.count((WAIFU, CUGAN)) > 0.7 * len(of_pair)
    assert sum(group == (true,) for group, true in others) > 0.95 * len(others)


@pytest.mark.parametrize("error", [0.05, 0.1, 0.3])
def test_the_generator_is_missing_from_as_many_sets_as_was_asked_for_at_most(error: float) -> None:
    """Over many draws of the calibration images, for images whose likeliest generator is one of the relatives."""
    missing, told = 0, 0
    for seed in range(20):
        fitted = Relatives.fit(*drawn(40, seed=100 + seed), TABLE, error)
        probabilities, ids = drawn(60, seed=200 + seed)
        for row, true in zip(probabilities, ids.tolist(), strict=True):
            if int(row[1:].argmax()) + 1 in (WAIFU, CUGAN) and true != 0:
                group = fitted.of(row, TABLE.is_real, 0.0)
                told, missing = told + 1, missing + (bool(group) and true not in group)
    assert told > 2000
    assert 0.2 * error < missing / told < error + 0.015


def test_what_is_said_is_as_likely_as_is_asked_for_or_nothing_in_particular(fitted: Relatives) -> None:
    spread = torch.tensor([0.02, 0.3, 0.2, 0.18, 0.15, 0.15], dtype=torch.double)
    assert fitted.of(spread, TABLE.is_real, 0.3) == (1,)
    assert fitted.of(spread, TABLE.is_real, 0.31) == ()
    pair = torch.tensor([0.02, 0.02, 0.5, 0.44, 0.01, 0.01], dtype=torch.double)
    assert fitted.of(pair, TABLE.is_real, 0.5) == (WAIFU, CUGAN)


def test_too_few_images_promise_nothing() -> None:
    probabilities, ids = drawn(1, seed=0)
    assert Relatives.fit(probabilities, ids, TABLE, error=0.1) is None  # of five images, none may be one in ten


def test_one_that_is_seldom_the_likeliest_takes_the_level_of_all() -> None:
    probabilities, ids = drawn(30, seed=0)
    kept = (ids != 4) | (torch.arange(len(ids)) % 10 == 0)
    found = Relatives.fit(probabilities[kept], ids[kept], TABLE, error=0.1)
    assert math.isfinite(float(found.levels[4]))
    assert found.levels[0] == 0


def test_a_record_is_read_as_it_was(fitted: Relatives) -> None:
    again = Relatives.parse(fitted.record(), fitted.levels)
    assert (again.error, again.groups) == (fitted.error, fitted.groups)


def test_what_was_named_is_counted_among_synthetic_images_that_look_synthetic() -> None:
    sure = Relatives(0.1, ((WAIFU, CUGAN),), torch.tensor([0, 0.9, 0.9, 0.9, 0.9, 0.9]))
    rows = {1: (0, 1, 0, 0, 0, 0), WAIFU: (0, 0, 0.5, 0.5, 0, 0), CUGAN: (0, 0, 1, 0, 0, 0), 4: (0.9, 0, 0, 0, 0.1, 0)}
    probabilities = torch.tensor([*rows.values(), (0, 0, 0, 1.0, 0, 0)]).double()
    found = named(sure, probabilities, torch.tensor([*rows, 0]), TABLE, 0.5)
    assert (found.images, found.one, found.missed) == (3, 2, 1)
