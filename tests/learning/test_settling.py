"""How much the texture counts beside the branches is chosen on held-out images, and in doubt it counts more."""

from __future__ import annotations

import torch

from lorax.learning.settling import chosen_weight
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
