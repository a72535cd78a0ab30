"""How a model is passed through: in two parts, for several branches at once, and listened to; each thread by itself.

A frozen *front* holds no LoRA and turns images into tokens; an encoder with the branches turns tokens into features. Of
any other model nothing can be shared but the pixels.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn


class SplitModel(nn.Module, ABC):
    """A model that has a front.

    `head_hidden_size` is D, the feature's width; `texture_width` that of the texture which the front gives.
    """

    head_hidden_size: int
    texture_width: int

    @abstractmethod
    def embed(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B, T, ...) and the texture (B, texture_width), float32, of normalised pixels (B, 3, H, W).

        Tokens are float16, so that they are the same whether they were kept or not.
        """

    @abstractmethod
    def encode(self, tokens: Tensor) -> Tensor:
        """The feature (B, D) of tokens."""

    def glimpse(self, tokens: Tensor) -> Tensor:
        """What a training step sees of tokens; a model may draw a part of them, to learn faster and less by heart."""
        return tokens

    def forward(self, pixels: Tensor) -> Tensor:
        return self.encode(self.embed(pixels)[0].float())


@dataclass(frozen=True)
class Embedded:
    """What all branches start from: tokens, or a whole model's pixels; and the texture, which only a front gives."""

    tokens: Tensor
    texture: Tensor | None

    def __len__(self) -> int:
        """B."""
        return len(self.tokens)

    def __getitem__(self, chosen: Tensor | NDArray[np.int64] | slice) -> Embedded:
        """Of some of the images."""
        rows = torch.from_numpy(chosen) if isinstance(chosen, np.ndarray) else chosen
        return Embedded(self.tokens[rows], None if self.texture is None else self.texture[rows])

    def to(self, device: torch.device) -> Embedded:
        """The same on a device."""
        texture = None if self.texture is None else self.texture.to(device, non_blocking=True)
        return Embedded(self.tokens.to(device, non_blocking=True), texture)

    @classmethod
    def join(cls, parts: Sequence[Embedded]) -> Embedded:
        """One after the other; all have textures, or none."""
        textures = [part.texture for part in parts if part.texture is not None]
        with torch.autocast(parts[0].tokens.device.type, enabled=False):  # it can't join float16 on a CPU
            return cls(torch.cat([part.tokens for part in parts]), torch.cat(textures) if textures else None)


_AT_ONCE = 2 * 128**2
"""Pixels that a CPU takes through a front at once, at least an image: what they become then stays in its caches, and in
memory that is used again. Twice as many take 1.3 times as long, since the kernel maps every large tensor anew."""


def embed(model: Any, pixels: Tensor) -> Embedded:
    """What is computed once for all branches; normalised pixels (B, 3, H, W)."""
    if not isinstance(model, SplitModel):
        return Embedded(pixels, None)
    of_one = pixels.shape[2] * pixels.shape[3]
    at_once = max(1, _AT_ONCE // of_one if pixels.device.type == "cpu" else len(pixels))
    return Embedded.join([Embedded(*model.embed(part)) for part in pixels.split(at_once)])


def encode(model: Any, tokens: Tensor) -> Tensor:
    """The feature (B, D) of what `embed` gave."""
    feature: Tensor = model.encode(tokens.float()) if isinstance(model, SplitModel) else model(tokens)
    return feature


class _Active(threading.local):
    """What this thread's pass applies, and draws from; another thread may be in another pass."""

    weights: Mapping[str, Callable[[], Tensor]] = MappingProxyType({})
    generator: torch.Generator | None = None


_active = _Active()


@contextmanager
def drawing(seed: int) -> Iterator[None]:
    """While the block runs, what this thread draws on a CPU follows from the seed alone."""
    _active.generator = torch.Generator().manual_seed(seed)
    try:
        yield
    finally:
        _active.generator = None


def random_source() -> torch.Generator | None:
    """What this thread is to draw from on a CPU; None: torch's own."""
    return _active.generator


def make_stackable(linears: Mapping[str, nn.Linear]) -> None:
    """Let these layers, by name, heed `stacked`; outside of it they are what they were."""
    for name, linear in linears.items():
        linear.forward = partial(_forward, name, linear)  # type: ignore[method-assign]


@contextmanager
def stacked(weights: Mapping[str, Callable[[], Tensor]]) -> Iterator[None]:
    """While the block runs, named layers apply a stack of weights (G, out, in) to inputs (G·B, ..., in).

    A layer asks for its weights when a pass comes to it, and keeps them no longer than that.
    """
    _active.weights = weights
    try:
        yield
    finally:
        _active.weights = MappingProxyType({})


def _forward(name: str, linear: nn.Linear, x: Tensor) -> Tensor:
    ask = _active.weights.get(name)
    if ask is None:
        return F.linear(x, linear.weight, linear.bias)
    weights = ask()
    if len(weights) == 1:
        return F.linear(x, weights[0], linear.bias)
    parts = x.reshape(len(weights), -1, x.shape[-1])
    out = torch.bmm(parts, weights.mT) if linear.bias is None else torch.baddbmm(linear.bias, parts, weights.mT)
    return out.view(*x.shape[:-1], -1)


@contextmanager
def side_by_side(device: torch.device, most: int | None = None) -> Iterator[Callable[..., Iterable[Any]]]:
    """A `map` whose calls, on a CPU, share torch's threads: each runs in one, or in more where `most` are fewer."""
    threads = torch.get_num_threads()
    workers = min(threads, most or threads)
    if device.type != "cpu" or workers == 1:
        yield map
        return
    pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(threads // workers,))
    try:
        yield pool.map
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)


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
