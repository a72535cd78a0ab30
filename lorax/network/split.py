"""Models in two parts: what all branches have in common, computed once, and what they live in.

A frozen *front* holds no LoRA and turns images into tokens; an encoder with the branches turns tokens into features. Of
any other model nothing can be shared but the pixels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


class SplitModel(nn.Module, ABC):
    """A model that has a front.

    `head_hidden_size` is D, the feature's width; `texture_width` that of the texture which the front gives.
    """

    head_hidden_size: int
    texture_width: int

    @abstractmethod
    def embed(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B, T, ...), and the texture (B, texture_width), float32, of normalised pixels (B, 3, H, W)."""

    @abstractmethod
    def encode(self, tokens: Tensor) -> Tensor:
        """The feature (B, D) of tokens."""

    def glimpse(self, tokens: Tensor) -> Tensor:
        """What a training step sees of tokens; a model may draw a part of them, to learn faster and less by heart."""
        return tokens

    def forward(self, pixels: Tensor) -> Tensor:
        return self.encode(self.embed(pixels)[0])


@dataclass(frozen=True)
class Embedded:
    """What all branches start from: tokens, or a whole model's pixels; and the texture, which only a front gives."""

    tokens: Tensor
    texture: Tensor | None

    def __len__(self) -> int:
        """B."""
        return len(self.tokens)


def embed(model: Any, pixels: Tensor) -> Embedded:
    """What is computed once for all branches; normalised pixels (B, 3, H, W)."""
    return Embedded(*model.embed(pixels)) if isinstance(model, SplitModel) else Embedded(pixels, None)


def encode(model: Any, tokens: Tensor) -> Tensor:
    """The feature (B, D) of what `embed` gave."""
    feature: Tensor = model.encode(tokens) if isinstance(model, SplitModel) else model(tokens)
    return feature
