"""Layers that a file holds in one: attention's q, k and v, say, which diffusers keeps as three.

They have A in common, and each has rows of B of its own. A trainer that gave each an A of its own (kohya's and
musubi-tuner's `split_qkv`) stacks these, and B is zero outside its blocks: of three layers of rank r the file's one has
rank 3 r and three times the alpha, so that alpha / rank is each one's own.

Source: diffusers, loaders/lora_conversion_utils.py (_convert_to_ai_toolkit_cat).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from lorax.atlas.adapter import Factors, Layer
from lorax.atlas.families import Ranges, parts_of


@dataclass(frozen=True)
class Piece:
    """One layer of those that a file's layer holds: the rows of B, and the ranks of A and B, that are its own."""

    layer: Layer
    rows: Ranges
    ranks: tuple[int, int]

    def cut(self, factors: Factors) -> Factors:
        """Its own A and B of the file's; views of them where rows lie together."""
        a, b = factors
        start, stop = self.ranks
        if self.rows == ((0, b.shape[0]),) and stop - start == a.shape[0]:
            return factors
        b = torch.cat([b[first:last] for first, last in self.rows]) if len(self.rows) > 1 else b[slice(*self.rows[0])]
        return (a, b) if stop - start == a.shape[0] else (a[start:stop], b[:, start:stop])


@lru_cache(maxsize=1 << 13)  # the same layers come in every file of a collection
def pieces_of(layer: Layer) -> tuple[Piece, ...]:
    """The layers that a file's layer holds, as `families.renamed` names it.

    Raises:
        ValueError: its outputs can't be parted so.
    """
    return tuple(
        Piece(
            Layer(layer.part, name, sum(last - first for first, last in rows), layer.inputs, layer.rank),
            rows,
            (0, layer.rank),
        )
        for name, rows in parts_of(layer.name, layer.outputs, layer.inputs)
    )


def may_be_stacked(pieces: Sequence[Piece], rank: int, others: set[int]) -> bool:
    """Whether each piece may have an A of its own, by the file's rank; `others` are those of unparted layers."""
    return len(pieces) > 1 and not rank % len(pieces) and rank not in others


def unstacked(pieces: Sequence[Piece], b: Tensor) -> tuple[Piece, ...]:
    """The pieces with the ranks that are each one's own, if B (outputs, ranks) is zero outside their blocks."""
    rank = b.shape[1] // len(pieces)
    own = tuple(
        replace(piece, ranks=(i * rank, (i + 1) * rank), layer=replace(piece.layer, rank=rank))
        for i, piece in enumerate(pieces)
    )
    outside = b.clone()
    for piece in own:
        for first, last in piece.rows:
            outside[first:last, slice(*piece.ranks)] = 0
    return tuple(pieces) if outside.any() else own
