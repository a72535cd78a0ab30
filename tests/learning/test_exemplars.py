"""Herding and the shared budget."""

from __future__ import annotations

import torch

from lorax.learning.exemplars import herd, updated_memory
from lorax.learning.state import Exemplar
from lorax.stream import ClassTable, Sample, TaskClass

REAL, FAKE = TaskClass(0, "real"), TaskClass(1, "fake")


def test_herding_takes_the_image_nearest_the_mean_first_by_hand() -> None:
    angles = torch.tensor([0.0, 0.5, 0.6, 2.0])
    features = torch.stack([angles.cos(), angles.sin()], dim=1) * torch.tensor([[1.0], [5.0], [2.0], [3.0]])
    # the normalised mean points to about 0.72 rad: the image at 0.6 first, then the one that pulls the mean back up
    assert herd(features, 2) == [2, 1]
    assert sorted(herd(features, 9)) == [0, 1, 2, 3]


def test_a_shorter_memory_keeps_a_prefix() -> None:
    features = torch.randn(20, 6, generator=torch.Generator().manual_seed(0))
    assert herd(features, 5) == herd(features, 12)[:5]


def _samples(task: str, count: int) -> list[Sample]:
    return [Sample(f"{task}/train/x/{i}.png", f"{task}{i}", task, i % 2) for i in range(count)]


def test_the_budget_is_shared_evenly_over_all_classes_seen() -> None:
    classes = ClassTable().with_task("a", [REAL, FAKE])
    first = updated_memory((), _samples("a", 20), torch.randn(20, 4), classes, budget=13)
    assert len(first) == 12
    more = classes.with_task("b", [REAL, FAKE, TaskClass(2, "other")])
    second = updated_memory(first, _samples("b", 20), torch.randn(20, 4), more, budget=13)
    counts = [sum(e.class_id == c for e in second) for c in range(5)]
    assert counts == [2, 2, 2, 2, 0]  # the third new class brought no image here
    kept = [e for e in second if e.class_id == 0]
    assert kept == [e for e in first if e.class_id == 0 and e.rank < 2]


def test_no_budget_keeps_nothing() -> None:
    classes = ClassTable().with_task("a", [REAL, FAKE])
    old = (Exemplar(_samples("a", 1)[0], 0, 0),)
    assert updated_memory(old, _samples("a", 4), torch.randn(4, 4), classes, budget=1) == ()


def test_what_stands_for_many_images_counts_as_many_in_the_mean_that_is_kept() -> None:
    features = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0]])
    assert herd(features, 1) == [1]
    assert herd(features, 1, torch.tensor([1.0, 1.0, 1.0, 9.0])) == [3]
