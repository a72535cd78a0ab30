"""Two adapters layer by layer: how similar their products B A are, how large, and how many directions they use."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from lorax.atlas.adapter import Adapter, Factors, Layer
from lorax.atlas.adding import finite_numbers, rows_of, too_large
from lorax.atlas.descriptor import Describer, singular_values
from lorax.atlas.space import Rows
from lorax.errors import AdapterError

_ZERO = 1e-12

_LARGEST = 1e300
"""A layer's squared norm, so that the sum over all layers is a number still."""


@dataclass(frozen=True)
class LayerSimilarity:
    """Of one layer's products, of the first adapter and the second."""

    name: str  # of the layer, behind its part
    cosine: float | None  # in [-1, 1]; None where one of them is zero
    norms: tuple[float, float]  # Frobenius
    # squared norm over squared largest singular value: how many directions are used, were all used alike; None where
    # it is zero
    ranks: tuple[float | None, float | None]


@dataclass(frozen=True)
class Comparison:
    """Two adapters over the layers that both have."""

    layers: list[LayerSimilarity]  # one by one
    cosine: float | None  # of all layers' products as one vector; None where one adapter is zero
    norms: tuple[float, float]  # of all layers
    only: tuple[list[str], list[str]]  # layers that only the first has, and only the second
    # what a layer's cosine may be off by, typically: least and most; None where it is exact
    error: tuple[float, float] | None


@dataclass(frozen=True)
class Sketched:
    """An adapter by its rows: `product` (L · side²,) and `spectrum` (L · 9,)."""

    product: Rows
    spectrum: Rows

    @classmethod
    def of(cls, adapter: Adapter, describer: Describer) -> Sketched:
        """Those of an adapter that need not be in the atlas.

        Raises:
            AdapterError: it is damaged, or has other layers than the atlas's adapters.
        """
        describer.check(adapter, ("product", "spectrum"))
        return cls(**rows_of(adapter, describer, ("product", "spectrum")))


def compare_factors(one: Adapter, other: Adapter) -> Comparison:
    """Compare two adapters exactly, without ever forming a product.

    ⟨B A, B' A'⟩ = tr((Bᵀ B')(A' Aᵀ)), of matrices whose sides are ranks.

    Raises:
        AdapterError: one is damaged, its numbers are too large, or they have no layer in common.
    """
    mine, theirs = ({layer.place: pair for layer, pair in _read(of)} for of in (one, other))
    both = [layer for layer in one.layers if layer.place in theirs]
    if not both:
        raise AdapterError(
            f"{one.source} and {other.source} have no layer in common: {_first(one)} against {_first(other)}. They are "
            "of different base models; 'lorax atlas search PATH --descriptor spectrum' compares across those."
        )
    compared, inner = [], 0.0
    for layer in both:
        pairs = mine[layer.place], theirs[layer.place]
        sizes = [_size(of, pair) for of, pair in zip((one, other), pairs, strict=True)]
        inner += (product := _inner(*pairs))
        compared.append(_of_layer(layer, product, [norm for norm, _ in sizes], [_ratio(*size) for size in sizes]))
    only = [_names(of.layers, {layer.place for layer in both}) for of in (one, other)]
    return _compared(compared, inner, (only[0], only[1]), None)


def compare_rows(describer: Describer, one: Sketched, other: Sketched) -> Comparison:
    """Compare two adapters of one atlas by what it keeps of them; norms and ranks are exact, cosines estimates."""
    count = len(describer.layers)
    compared, inner = [], 0.0
    products = [of.product.reshape(count, -1).astype(np.float64) for of in (one, other)]
    spectra = [of.spectrum.reshape(count, -1) for of in (one, other)]
    for i, layer in enumerate(describer.layers):
        norms = [10 ** float(table[i, 0]) for table in spectra]
        norms = [norm if norm > _ZERO else 0.0 for norm in norms]
        sketched = float(np.prod([np.linalg.norm(rows[i]) for rows in products]))
        cosine = float(products[0][i] @ products[1][i]) / sketched if sketched else 0.0
        inner += cosine * norms[0] * norms[1]
        ranks = [_ratio(1.0, float(table[i, 1])) for table in spectra]
        compared.append(_of_layer(layer, cosine * norms[0] * norms[1], norms, ranks))
    return _compared(compared, inner, ([], []), (1 / describer.side, 0.7 / math.sqrt(describer.side)))


def _compared(
    layers: list[LayerSimilarity], inner: float, only: tuple[list[str], list[str]], error: tuple[float, float] | None
) -> Comparison:
    first, second = (math.sqrt(sum(layer.norms[i] ** 2 for layer in layers)) for i in (0, 1))
    return Comparison(layers, _cosine(inner, first, second), (first, second), only, error)


def _of_layer(layer: Layer, inner: float, norms: Sequence[float], ranks: Sequence[float | None]) -> LayerSimilarity:
    name = f"{layer.part}.{layer.name}"
    return LayerSimilarity(name, _cosine(inner, *norms), (norms[0], norms[1]), (ranks[0], ranks[1]))


def _read(adapter: Adapter) -> list[tuple[Layer, Factors]]:
    return [(layer, (a.double(), b.double())) for layer, (a, b) in zip(adapter.layers, adapter.factors(), strict=True)]


def _size(of: Adapter, pair: Factors) -> tuple[float, float]:
    """The norm of a layer's product, and its largest singular value."""
    a, b = pair
    with finite_numbers(of):
        squared, top = _inner(pair, pair), float(singular_values((a @ a.T).numpy(), (b.T @ b).numpy())[0])
    if not (squared < _LARGEST and math.isfinite(top)):
        raise too_large(of)
    return math.sqrt(max(0.0, squared)), top


def _inner(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> float:
    (a, b), (a2, b2) = one, other
    return float(((b.T @ b2) * (a @ a2.T)).sum())


def _cosine(inner: float, first: float, second: float) -> float | None:
    return max(-1.0, min(1.0, inner / (first * second))) if first * second > 0 else None


def _ratio(norm: float, top: float) -> float | None:
    return (norm / top) ** 2 if top > _ZERO else None


def _names(layers: Sequence[Layer], both: set[tuple[str, str, int, int]]) -> list[str]:
    return [f"{layer.part}.{layer.name}" for layer in layers if layer.place not in both]


def _first(adapter: Adapter) -> str:
    layer = adapter.layers[0]
    return f"{layer.part}.{layer.name} ({layer.outputs}x{layer.inputs})"
