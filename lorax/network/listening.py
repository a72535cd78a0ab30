"""What layers of a model say on average over an image, caught while it runs; each thread hears its own passes."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

_HEARD = threading.local()


def make_audible(layers: Iterable[nn.Module]) -> None:
    """Let `hearing` hear these layers, in the order in which a pass reaches them."""
    for layer in layers:
        layer.register_forward_hook(_hear)


@contextmanager
def hearing() -> Iterator[list[Tensor]]:
    """A list to which this thread's pass of the model adds each audible layer's mean over all tokens, (B, D)."""
    parts: list[Tensor] = []
    _HEARD.parts = parts
    try:
        yield parts
    finally:
        del _HEARD.parts


def _hear(_: nn.Module, __: Any, out: Any) -> None:
    parts = getattr(_HEARD, "parts", None)
    if parts is not None and isinstance(out, Tensor):
        parts.append(out.flatten(1, -2).mean(dim=1, dtype=torch.float32))
