"""Several branches in one pass: linear layers that apply to each part of a batch the weight of its own branch."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class _Active(threading.local):
    """What this thread's pass applies; another thread may be in a pass over other branches."""

    weights: Mapping[str, Tensor] = MappingProxyType({})


_active = _Active()


def make_stackable(linears: Mapping[str, nn.Linear]) -> None:
    """Let these layers, by name, heed `stacked`; outside of it they are what they were."""
    for name, linear in linears.items():
        linear.forward = partial(_forward, name, linear)  # type: ignore[method-assign]


@contextmanager
def stacked(weights: Mapping[str, Tensor]) -> Iterator[None]:
    """While the block runs, named layers apply a stack of weights (G, out, in) to inputs (G·B, ..., in)."""
    _active.weights = weights
    try:
        yield
    finally:
        _active.weights = MappingProxyType({})


def _forward(name: str, linear: nn.Linear, x: Tensor) -> Tensor:
    weights = _active.weights.get(name)
    if weights is None:
        return F.linear(x, linear.weight, linear.bias)
    if len(weights) == 1:
        return F.linear(x, weights[0], linear.bias)
    parts = x.reshape(len(weights), -1, x.shape[-1])
    out = torch.bmm(parts, weights.mT) if linear.bias is None else torch.baddbmm(linear.bias, parts, weights.mT)
    return out.view(*x.shape[:-1], -1)
