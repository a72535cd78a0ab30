"""The linear classifier over all branches' features, and how it grows."""

from __future__ import annotations

import warnings

import torch
from torch import nn


def fresh_head(width: int, classes: int, generator: torch.Generator) -> nn.Linear:
    """A linear layer (classes, width) with Kaiming uniform weights and zero bias."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Initializing zero-element tensors")  # the head of a network without branches
        head = nn.Linear(width, classes)
        nn.init.kaiming_uniform_(head.weight, nonlinearity="linear", generator=generator)
    nn.init.zeros_(head.bias)
    return head


def grown_head(old: nn.Linear, width: int, classes: int, generator: torch.Generator) -> nn.Linear:
    """The head with `width` more input columns and `classes` more outputs; the old block is copied bit for bit.

    Source: LoRAX (arXiv 2504.08149), "expandable classifier": old weights and biases are inherited, new entries start
    fresh, and the whole head trains on.
    """
    head = fresh_head(old.in_features + width, old.out_features + classes, generator)
    with torch.no_grad():
        head.weight[: old.out_features, : old.in_features] = old.weight
        head.bias[: old.out_features] = old.bias
    return head
