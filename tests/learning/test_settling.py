"""How much the texture counts beside the branches is chosen on held-out images, and in doubt it counts more."""

from __future__ import annotations

import torch

from lorax.learning.settling import chosen_weight, real_bias
from lorax.stream import ClassEntry, ClassTable

TABLE = ClassTable(tuple(ClassEntry(i, "t", i, name) for i, name in enumerate(("real", "one", "two"))))


def drawn(count: int, sure: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores or logits (n, 3) that say the right class by `sure`, with noise; and the classes."""
    ids = torch.arange(count) % 3
    noise = torch.randn(count, 3, generator=torch.Generator().manual_seed(int(100 * sure)))
    return noise + sure * torch.eye(3)[ids], ids


def test_a_texture_that_tells_nothing_counts_least_and_branches_that_tell_nothing_least() -> None:
    telling, ids = drawn(300, 4.0)
    nothing = torch.randn(300, 3, generator=torch.Generator().manual_seed(7))
    assert chosen_weight(telling, nothing, ids, TABLE) == 4.0
    assert chosen_weight(nothing, telling / 10, ids, TABLE) == 128.0


def test_where_both_tell_the_same_the_texture_counts_most() -> None:
    telling, ids = drawn(300, 4.0)
    assert chosen_weight(telling, telling / 10, ids, TABLE) == 128.0


def test_real_images_that_are_called_synthetic_are_at_most_the_share_asked_for() -> None:
    logits, ids = drawn(300, 0.5)
    real = torch.tensor(TABLE.is_real)

    def called(share: float) -> float:
        moved = logits + real * real_bias(logits, real, ids, share)
        return float((moved.softmax(dim=1)[ids == 0][:, ~real].sum(dim=1) > 0.5).float().mean())

    assert called(1.0) > 0.5  # as they are: two generators' probabilities together
    assert [round(100 * called(share)) for share in (0.05, 0.2)] == [4, 19]
    assert called(0.001) == 0.0  # fewer than one image: none


def test_where_real_images_are_told_rightly_nothing_is_moved() -> None:
    logits, ids = drawn(300, 20.0)
    assert real_bias(logits, torch.tensor(TABLE.is_real), ids, 0.05) == 0.0
