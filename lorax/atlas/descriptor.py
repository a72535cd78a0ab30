"""Descriptors: an adapter's factors as one row of numbers, by which adapters are compared.

    factors    A and B as they are, one after the other: only for adapters of one base, one rank and one start of A
    product    a fixed random sketch of each layer's B A: the same for every choice of factors, and for every rank
    spectrum   each layer's norm and singular values: what two adapters of different bases have in common, too

B A itself is never formed: it has as many numbers as the layer's own weight.

Source: Liu et al., A LoRA is Worth a Thousand Pictures (arXiv 2412.12048) for `factors`; the invariance of B A and its
singular values through QR: Putterman et al., Learning on LoRAs (arXiv 2410.04207); norms and spectra as traces of the
training set: Salama et al., DSiRe (arXiv 2406.19395).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lorax.atlas.adapter import Adapter, Factors, Layer
from lorax.atlas.groups import groups
from lorax.atlas.record import DescriberRecord
from lorax.atlas.segments import counted
from lorax.errors import AdapterError

DESCRIPTORS = ("product", "spectrum", "factors")

SINGULAR_VALUES = 8
"""How many of a layer's are kept, the largest; zeros where its rank is lower."""

_SKETCH_NUMBERS = 16384
_SIDES = (32, 16, 8, 4)
_NO_NORM = 1e-12

_AT_ONCE = 2**17
"""Numbers of so many layers' A or B that stay in the processor's cache while something is made of them."""

Numbers = NDArray[Any]

_QUIET = np.errstate(over="ignore", invalid="ignore")
"""Whoever asks for rows looks whether they are finite; and BLAS now and then calls finite ones invalid."""


class Describer:
    """What is computed of every adapter of one collection.

    Args:
        layers: that every adapter of the collection has; their ranks matter to `factors` only.
        descriptors: which ones, of `DESCRIPTORS`.
        side: of the sketch, which has side x side numbers for each layer; by default the largest for which all layers
            together have no more than some ten thousand.
        seed: of the sketch. Rows can be compared only with rows of an equal sketch.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        descriptors: Sequence[str] = ("product", "spectrum"),
        side: int | None = None,
        seed: int = 0,
    ) -> None:
        self.layers, self.descriptors, self.seed = tuple(layers), tuple(descriptors), seed
        fitting = [s for s in _SIDES if s * s * len(self.layers) <= _SKETCH_NUMBERS]
        self.side = side or (fitting[0] if fitting else _SIDES[-1])
        self.groups = groups(self.layers)
        self._signs: dict[tuple[str, int, np.dtype[Any]], Numbers] = {}

    def record(self) -> DescriberRecord:
        """All that `from_record` needs."""
        layers = [(x.part, x.name, x.outputs, x.inputs, x.rank) for x in self.layers]
        fields = {"layers": layers, "descriptors": list(self.descriptors), "side": self.side, "seed": self.seed}
        return DescriberRecord.model_validate(fields)

    @classmethod
    def from_record(cls, record: DescriberRecord) -> Describer:
        return cls([Layer(*entry) for entry in record.layers], record.descriptors, record.side, record.seed)

    def check(self, adapter: Adapter, descriptors: Sequence[str] | None = None) -> None:
        """Refuse an adapter whose rows could not be compared with the others'.

        Args:
            descriptors: by which it is to be compared; all, if not given.

        Raises:
            AdapterError: it adapts other layers, or layers of other shapes; or, for factors, its rank differs.
        """
        ours, theirs = {x.place: x for x in self.layers}, {x.place: x for x in adapter.layers}
        lacking, extra = (
            [x for p, x in ours.items() if p not in theirs],
            [x for p, x in theirs.items() if p not in ours],
        )
        if lacking or extra:
            raise AdapterError(
                f"{adapter.source} adapts {counted(len(theirs), 'layer')}, the atlas's adapters {len(ours)}; it "
                f"{_differing(lacking, extra)}. "
                "Adapters of other base models or targets belong in an atlas of their own (--atlas DIR), or are "
                "compared through their spectra: 'lorax atlas search PATH --descriptor spectrum'."
            )
        if "factors" in (self.descriptors if descriptors is None else descriptors):
            for place, layer in ours.items():
                if theirs[place].rank != layer.rank:
                    raise AdapterError(
                        f"{adapter.source} has rank {theirs[place].rank} at {layer.name}, the atlas's adapters have "
                        f"{layer.rank}, and factors can be compared at one rank only. Compare it by product, or add it "
                        "to an atlas that was begun without --with-factors."
                    )

    def describe(self, factors: Sequence[Factors], descriptors: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Each descriptor's row (F,) of one adapter.

        Args:
            factors: of every layer, in the collection's order; rows have their precision, at least float32.
            descriptors: which ones; all of the collection's, if not given.
        """
        wanted = self.descriptors if descriptors is None else descriptors
        made = {"product": self._sketches, "spectrum": _grams}
        found = _by_layer(factors, {name: make for name, make in made.items() if name in wanted})
        rows = {"factors": torch.cat([x.flatten() for pair in factors for x in pair])} if "factors" in wanted else {}
        if "product" in found:
            rows["product"] = torch.from_numpy(np.stack(found["product"])).flatten()
        if "spectrum" in found:
            dtype = factors[0][0].detach().numpy().dtype
            rows["spectrum"] = torch.from_numpy(_spectra(found["spectrum"], dtype)).flatten()
        return rows

    def columns(self, descriptor: str, group: str) -> np.ndarray:
        """The numbers of a row's columns that belong to a module group.

        Raises:
            AdapterError: the collection's layers have no such group.
        """
        if group not in self.groups:
            raise AdapterError(f"there is no module group {group!r} here; there are {', '.join(self.groups)}.")
        widths = self._layer_widths(descriptor)
        ends = np.cumsum(widths)
        return np.concatenate([np.arange(ends[i] - widths[i], ends[i]) for i in self.groups[group]])

    @property
    def widths(self) -> dict[str, int]:
        """Each descriptor's F."""
        return {name: sum(self._layer_widths(name)) for name in self.descriptors}

    def _layer_widths(self, descriptor: str) -> list[int]:
        if descriptor == "factors":
            return [x.rank * (x.inputs + x.outputs) for x in self.layers]
        return [self.side**2 if descriptor == "product" else 1 + SINGULAR_VALUES] * len(self.layers)

    def _sketches(self, a: Numbers, b: Numbers) -> Numbers:
        """(P B)(A Q) / side of each layer: (n, side, side).

        P and Q are fixed random signs, so that two rows' inner product is, on average over sketches, that of the two
        products B A, and rows are linear in B A.

        Source: sketches by random signs: Achlioptas (2003), for both sides of a matrix as in randomised SVD (Halko et
        al., arXiv 0909.4061).
        """
        right = self._sign("inputs", a.shape[2], a.dtype) @ a.swapaxes(1, 2)  # (side, r) of each layer
        return np.asarray(self._sign("outputs", b.shape[1], b.dtype) @ b @ right.swapaxes(1, 2) / self.side)

    def _sign(self, end: str, size: int, dtype: np.dtype[Any]) -> Numbers:
        """Random signs (side, size), from the seed, the end and the size alone."""
        if (end, size, dtype) not in self._signs:
            words = np.random.PCG64(np.random.SeedSequence([self.seed, end == "inputs", size])).random_raw(
                self.side * size
            )
            signs = np.where(words >> np.uint64(63), 1.0, -1.0).reshape(self.side, size)
            self._signs[end, size, dtype] = signs.astype(dtype)
        return self._signs[end, size, dtype]


def _grams(a: Numbers, b: Numbers) -> Numbers:
    """A Aᵀ and Bᵀ B of each layer, in float64: (n, 2, r, r).

    One side is a copy: where both are one array NumPy has BLAS use that, and is some times slower.
    """
    one, other = a.astype(np.float64), b.astype(np.float64)
    return np.stack((one.copy() @ one.swapaxes(1, 2), other.swapaxes(1, 2) @ other.copy()), axis=1)


@_QUIET
def _spectra(grams: Sequence[Numbers], dtype: np.dtype[Any]) -> Numbers:
    """Each layer's log norm (base 10) and its largest singular values as shares of the norm: (L, 9)."""
    alike: dict[int, list[int]] = defaultdict(list)
    for number, gram in enumerate(grams):
        alike[gram.shape[-1]].append(number)
    out = np.zeros((len(grams), 1 + SINGULAR_VALUES), dtype)
    for numbers in alike.values():
        of_a, of_b = np.stack([grams[i] for i in numbers], axis=1)
        values = singular_values(of_a, of_b).astype(dtype)
        norms = np.maximum(np.sqrt(np.square(values).sum(1, keepdims=True)), _NO_NORM)
        kept = values[:, :SINGULAR_VALUES] / norms
        out[numbers, :1] = np.log10(norms)
        out[numbers, 1 : 1 + kept.shape[1]] = kept
    return out


@_QUIET
def singular_values(gram_a: Numbers, gram_b: Numbers) -> Numbers:
    """Of B A, for A Aᵀ and Bᵀ B (..., r, r) in float64, the largest first: (..., r); NaN where these are not finite.

    With Bᵀ B = S Sᵀ their squares are the eigenvalues of Sᵀ A Aᵀ S. Gram matrices in float64 lose less than QR in
    float32, and cost less; a layer of lower rank than r, even zero, is no exception to an eigendecomposition,
    which takes longer than Cholesky's.
    """
    if not np.isfinite(gram_a.sum() + gram_b.sum()):  # LAPACK may never end
        return np.full(gram_a.shape[:-1], np.nan)
    try:
        root = np.linalg.cholesky(gram_b)
    except np.linalg.LinAlgError:
        values, vectors = np.linalg.eigh(gram_b)
        root = vectors * np.sqrt(values.clip(0))[..., None, :]
    squares = np.linalg.eigvalsh(root.swapaxes(-1, -2) @ gram_a @ root)
    return np.asarray(np.sqrt(squares[..., ::-1].clip(0)))


def pooled_spectrum(layers: Sequence[Layer], row: Numbers) -> Numbers:
    """A spectrum row (L · 9,) as one that has the same width for every base model, by which bases are compared.

    For each of six cells, attention, feed-forward and all layers, early and late: the mean of its layers' singular
    value shares, and how far its mean log norm lies above all layers'. Cells without layers are zero.
    """
    table = row.reshape(len(layers), -1)
    norm = table[:, 0].mean()
    pooled = np.zeros((len(cells := _cells(tuple(layers))), table.shape[1]), table.dtype)
    for cell, chosen in zip(pooled, cells, strict=True):
        if chosen:
            cell[:] = table[chosen].mean(0)
            cell[0] -= norm
    return pooled.reshape(-1)


@lru_cache(maxsize=16)  # the same layers come in every file of a collection
def _cells(layers: tuple[Layer, ...]) -> list[list[int]]:
    members = groups(layers)
    return [
        sorted(set(members.get(wide, [])) & set(members.get(half, [])))
        for wide in ("attention", "feed-forward", "all")
        for half in ("early", "late")
    ]


@_QUIET
def _by_layer(
    factors: Sequence[Factors], made: Mapping[str, Callable[[Numbers, Numbers], Numbers]]
) -> dict[str, list[Numbers]]:
    """What each of `made` makes of every layer, by its name.

    Args:
        made: of A (n, r, in) and B (n, out, r) of some layers of the same shapes, n arrays. NumPy multiplies so small
            matrices some times faster than torch, and some at once faster than one by one.
    """
    alike: dict[tuple[torch.Size, torch.Size], list[int]] = defaultdict(list)
    for number, (a, b) in enumerate(factors):
        alike[a.shape, b.shape].append(number)
    of_layers: dict[str, dict[int, Numbers]] = {name: {} for name in made}
    for (of_a, of_b), numbers in alike.items():
        count = max(1, _AT_ONCE // max(of_a.numel(), of_b.numel()))
        for some in (numbers[first : first + count] for first in range(0, len(numbers), count)):
            stacks = [torch.stack([factors[i][end] for i in some]).detach().numpy() for end in (0, 1)]
            for name, make in made.items():
                of_layers[name].update(zip(some, make(*stacks), strict=True))
    return {name: [found[number] for number in range(len(factors))] for name, found in of_layers.items()}


def _differing(lacking: Sequence[Layer], extra: Sequence[Layer]) -> str:
    told = []
    for what, layers in (("lacks", lacking), ("has beside them", extra)):
        if layers:
            named = ", ".join(f"{x.part}.{x.name} ({x.outputs}x{x.inputs})" for x in layers[:2])
            told.append(f"{what} {len(layers)}, such as {named}")
    return " and ".join(told)
