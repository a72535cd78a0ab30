"""An adapter: LoRA factors over some layers of a base model, whatever file they came from."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np
from torch import Tensor

from lorax.errors import AdapterError

Factors = tuple[Tensor, Tensor]
"""A (r, in) and B (out, r) of one layer, the scale already in B: W x becomes W x + B A x."""


class Reading(NamedTuple):
    """Factors of all layers, in their order, at least float32; and the share of the squared norm that they lack."""

    factors: list[Factors]
    lost: float = 0.0


@dataclass(frozen=True, order=True)
class Layer:
    """One adapted layer.

    `name` is the canonical one, the same in every file format: a path within its part, with '_' for every '.'.
    `part` is what it belongs to: "model", "unet", "transformer", "text_encoder", "text_encoder_2", ...
    A convolution's kernel counts as inputs.
    """

    part: str
    name: str
    outputs: int
    inputs: int
    rank: int

    @property
    def place(self) -> tuple[str, str, int, int]:
        """What must be equal for two adapters' layers to be compared: everything but the rank."""
        return self.part, self.name, self.outputs, self.inputs


@dataclass(frozen=True)
class Adapter:
    """Its layers are known; its factors are read when they are asked for."""

    name: str  # what people call it
    source: str  # where it was read from, for messages
    format: str  # "peft", "diffusers", "kohya" or "branch" (of a learner state)
    base: str | None  # the base model that it states, or None
    layers: tuple[Layer, ...]  # sorted
    read: Callable[[], Reading] = field(repr=False, compare=False)
    label: str = ""  # what it is known to have learned, or ""
    # of a branch that did not start as fresh ones do, the name of the one whose weights it started from, or "" from
    # before fresh branches had a common start; None of all others
    start: str | None = None
    guess: str | None = None  # the base model that its layers look like, or None
    algorithm: str = "LoRA"  # the kinds of its layers, and what they leave aside; see `lorax.atlas.kinds`

    def factors(self) -> list[Factors]:
        """Of every layer, in order.

        Raises:
            AdapterError: the file is damaged, or a number is not finite.
        """
        factors = self.read().factors
        self.check(factors)
        return factors

    def check(self, factors: Sequence[Factors]) -> None:
        """Refuse factors of its layers that are no numbers.

        Raises:
            AdapterError: one is NaN or infinite.
        """
        for layer, pair in zip(self.layers, factors, strict=True):
            if not all(is_finite(factor) for factor in pair):
                raise AdapterError(
                    f"{self.source}: {layer.part}.{layer.name} holds NaN or infinite numbers; expected finite LoRA "
                    "factors. The file is damaged, or its training diverged: fetch it again, or leave it out."
                )

    @cached_property
    def digest(self) -> str:
        """One hash for the same numbers, whatever the file: over layers and factors, the scale applied."""
        return digest_of(self.layers, self.factors())


def is_finite(numbers: Tensor) -> bool:
    """Whether none is NaN or infinite. A sum tells it many times faster, but may overflow."""
    return math.isfinite(numbers.sum()) or bool(numbers.isfinite().all())


def digest_of(layers: Sequence[Layer], factors: Sequence[Factors]) -> str:
    """sha256 (hex) over places, ranks and float32 values."""
    digest = hashlib.sha256()
    for said, pair in zip(_said(tuple(layers)), factors, strict=True):
        digest.update(said)
        for factor in pair:
            digest.update(np.ascontiguousarray(factor.detach().numpy(), np.float32).data)
    return digest.hexdigest()


@lru_cache(maxsize=32)  # the same layers come in every file of a collection
def _said(layers: tuple[Layer, ...]) -> list[bytes]:
    return [f"{layer.place} {layer.rank}\n".encode() for layer in layers]
