"""Tensors by name as layers with their factors: what belongs together, whether it fits, and what B is multiplied by."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from math import prod

import torch
from torch import Tensor

from lorax.atlas.adapter import Layer, Reading
from lorax.atlas.families import names_in
from lorax.atlas.fused import Piece, may_be_stacked, pieces_of, unstacked
from lorax.atlas.kinds import ASIDE, Change, Kind, Size, algorithm, kind_of, lacking
from lorax.atlas.names import Key
from lorax.atlas.settings import check_alpha
from lorax.atlas.tensors import Stored, shown
from lorax.errors import AdapterError

_NAME = re.compile(r"[A-Za-z0-9_-]+")
_MOST_NUMBERS = 2**28  # of a weight or factor that a small file may give: more than any layer of a known model has
_MOST_RANK = 2**13  # of a layer: more than any LoRA's, and its Gram matrices still fit into memory
_MOST_DIMENSIONS = 5
"""A convolution's over volumes; its kernel counts as inputs, and B has none."""

_LEAVE_OUT = "The file is damaged, or its writer erred: fetch it again, or leave it out."


@dataclass(frozen=True)
class StoredLayer:
    """A layer in a file."""

    layer: Layer
    path: str  # there
    kind: Kind
    tensors: Mapping[str, str]  # their names by role
    alpha: str | None  # its tensor's name
    rank: int | None  # that alpha is divided by, where the tensors tell
    pieces: tuple[Piece, ...]  # the layers that it holds by their canonical names: mostly one, itself


Scale = Callable[[StoredLayer, float | None], float]
"""Of a layer, given the value of its alpha tensor or None: what B is multiplied by."""


@dataclass(frozen=True, eq=False)
class Layout:
    """The layers that tensors make up."""

    stored: tuple[StoredLayer, ...]  # as they are in the file
    algorithm: str  # what kinds they are of, with what is left aside

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """Every layer by its canonical name, sorted."""
        layers = [piece.layer for each in self.stored for piece in each.pieces]
        return tuple(layers[number] for number in self.order)

    @cached_property
    def order(self) -> list[int]:
        """The number of each of `layers` among the pieces of `stored`."""
        layers = [piece.layer for each in self.stored for piece in each.pieces]
        return sorted(range(len(layers)), key=layers.__getitem__)


def assemble(keys: Mapping[str, Key], tensors: Mapping[str, Stored]) -> Layout:
    """The layers that tensors make up.

    Args:
        keys: what the tensors' names say, by name.
        tensors: their shapes and types, by name.

    Raises:
        AdapterError: a factor is lacking or there twice, shapes or types don't fit, or nothing changes a weight; see
            `lorax.atlas.tensors.said_of`.
    """
    roles: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    paths: dict[tuple[str, str], str] = {}
    aside = set()
    for name, key in keys.items():
        place, role = (key.part, key.layer), key.role
        if role in ASIDE or (role == "diff" and len(tensors[name].shape) < 2):  # of a norm's one weight a channel
            aside.add(role if role in ASIDE else "norms")
            continue
        if role in roles[place]:
            raise AdapterError(
                f" holds two tensors for one place: {shown(roles[place][role])} and {shown(name)}. {_LEAVE_OUT}"
            )
        roles[place][role] = name
        paths[place] = key.path
    stored = tuple(
        _layer(place, paths[place], roles[place], tensors) for place in sorted(roles) if {*roles[place]} != {"alpha"}
    )
    if not stored:
        raise AdapterError(
            f" holds {' and '.join(sorted(aside))} only, which change no weight by themselves; expected an "
            "adapter's factors. Leave it out."
        )
    if all(
        each.kind.name == "LoRA" and each.layer.rank > max(each.layer.outputs, each.layer.inputs) for each in stored
    ):
        layer = stored[0].layer
        raise AdapterError(
            f": every layer's rank exceeds its outputs and inputs, as {shown(stored[0].path)}'s with rank "
            f"{layer.rank} of {layer.outputs} x {layer.inputs}; expected A (rank, inputs) and B (outputs, rank). Its "
            "factors are swapped or transposed: convert it again, or leave it out."
        )
    names = Counter((piece.layer.part, piece.layer.name) for each in stored for piece in each.pieces)
    if twice := [".".join(name) for name, count in names.items() if count > 1]:
        raise AdapterError(f" holds two layers that are both {shown(twice[0])}. {_LEAVE_OUT}")
    return Layout(stored, algorithm((each.kind.name for each in stored), aside))


def with_own_ranks(layout: Layout, read: Callable[[], Mapping[str, Tensor]]) -> Layout:
    """Layers whose pieces were trained apart and stacked, with each piece's own rank; all others as they are.

    Args:
        read: gives all tensors by their names; called only where ranks give reason to look.
    """
    stored = layout.stored
    others = {each.layer.rank for each in stored if len(each.pieces) == 1}
    suspects = [each for each in stored if "B" in each.tensors and may_be_stacked(each.pieces, each.layer.rank, others)]
    if not suspects:
        return layout
    tensors = read()
    seen = {each.layer: unstacked(each.pieces, tensors[each.tensors["B"]].flatten(1)) for each in suspects}
    return replace(layout, stored=tuple(replace(each, pieces=seen.get(each.layer, each.pieces)) for each in stored))


def reader(
    layout: Layout, read: Callable[[], Mapping[str, Tensor]], scale: Scale, source: str
) -> Callable[[], Reading]:
    """What reads the factors of all of a layout's `layers`.

    Args:
        read: gives all tensors by their names, their numbers as `at_least_float32`.
        scale: of a layer.
        source: where the tensors are, for messages.
    """

    def reading() -> Reading:
        tensors = read()
        changes = [_scaled(each, tensors, scale, source) for each in layout.stored]
        pairs = [
            piece.cut((change.a, change.b))
            for each, change in zip(layout.stored, changes, strict=True)
            for piece in each.pieces
        ]
        return Reading([pairs[number] for number in layout.order], _lost(changes))

    return reading


def _scaled(of: StoredLayer, tensors: Mapping[str, Tensor], scale: Scale, source: str) -> Change:
    alpha = None
    if of.alpha is not None:
        alpha = check_alpha(float(tensors[of.alpha]), of.alpha, source)
    factor = scale(of, alpha)
    own = {role: tensors[name] for role, name in of.tensors.items()}
    if len({tensor.dtype for tensor in own.values()}) > 1:
        own = {role: tensor.double() for role, tensor in own.items()}
    change = of.kind.change(own)
    return change if factor == 1 else change._replace(b=change.b * factor)


def _lost(changes: Sequence[Change]) -> float:
    """The share of all layers' squared norm that they lack."""
    if not any(change.lost for change in changes):
        return 0.0
    kept = [float(((change.b.T @ change.b) * (change.a @ change.a.T)).sum()) for change in changes]
    whole = sum(size / (1 - change.lost) for size, change in zip(kept, changes, strict=True))
    return 1 - sum(kept) / whole if whole else 0.0


def _layer(place: tuple[str, str], path: str, roles: Mapping[str, str], tensors: Mapping[str, Stored]) -> StoredLayer:
    part, name = place
    where = f": layer {shown(path)}"
    if not all(map(_NAME.fullmatch, names_in(name))):
        raise AdapterError(f"{where} is no layer's name; expected letters, digits, '_', '-' and '.'. {_LEAVE_OUT}")
    factors = {role: name for role, name in roles.items() if role != "alpha"}
    kind = kind_of(factors)
    if kind is None:
        have, need = (" and ".join(some) for some in (sorted(factors), lacking(factors)))
        what = f"has no factor {need}, but {have}; expected both" if need else f"has {have}; expected one kind's"
        raise AdapterError(f"{where} {what}. {_LEAVE_OUT}")
    if "alpha" in roles:
        _check_alpha_tensor(tensors[roles["alpha"]], where)
    rank = tensors[factors[kind.ranked]].shape[0] if kind.ranked else None
    try:
        layer = Layer(part, name, *_size(kind, tuple((role, tensors[name]) for role, name in factors.items())))
        pieces = pieces_of(layer)
    except ValueError as error:
        raise AdapterError(f"{where}: {error}. {_LEAVE_OUT}") from error
    return StoredLayer(layer, path, kind, factors, roles.get("alpha"), rank, pieces)


@lru_cache(maxsize=1 << 12)  # many layers are of one size
def _size(kind: Kind, stored: tuple[tuple[str, Stored], ...]) -> Size:
    """Of a layer with these tensors by role; a ValueError that says what is wrong."""
    for role, of in stored:
        if not of.dtype.is_floating_point:
            raise ValueError(f"{role} is of {of.dtype}; expected floating-point numbers")
        if not 2 <= len(of.shape) <= _MOST_DIMENSIONS or 0 in of.shape:
            raise ValueError(
                f"{role} has shape {list(of.shape)}; expected 2 dimensions, or up to {_MOST_DIMENSIONS} of a "
                "convolution's, none of them 0"
            )
    try:
        size = kind.size({role: of.shape for role, of in stored})
    except ValueError:
        shapes = ", ".join(f"{role} {list(of.shape)}" for role, of in sorted(stored))
        raise ValueError(f"shapes don't fit together as a {kind.name}'s: {shapes}") from None
    if size.rank > _MOST_RANK:
        raise ValueError(f"its rank is {size.rank}; expected {_MOST_RANK} at most")
    made = max(size.rank, min(size[:2]) if kind.name in ("LoHa", "LoKr") else 0) * max(size[:2])
    if made > max(_MOST_NUMBERS, sum(prod(of.shape) for _, of in stored)):
        raise ValueError(
            f"its change of rank {size.rank} would be of {size.outputs} x {size.inputs}; expected one that fits into "
            "memory"
        )
    return size


def _check_alpha_tensor(alpha: Stored, where: str) -> None:
    if alpha.shape not in ((), (1,)) or alpha.dtype == torch.bool:
        raise AdapterError(
            f"{where}: its alpha is of {alpha.dtype} and shape {list(alpha.shape)}; expected one number. {_LEAVE_OUT}"
        )
