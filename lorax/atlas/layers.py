"""Tensors by name as layers with their factors: what belongs together, and whether it fits."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from lorax.atlas.adapter import Factors, Layer
from lorax.atlas.names import Key
from lorax.atlas.scales import check_alpha
from lorax.atlas.tensors import Stored, shown
from lorax.errors import AdapterError

_NAME = re.compile(r"[A-Za-z0-9_-]+")
_MOST_DIMENSIONS = 5
"""A convolution's over volumes; its kernel counts as inputs, and B has none."""

_LEAVE_OUT = "The file is damaged, or its writer erred: fetch it again, or leave it out."


@dataclass(frozen=True)
class StoredLayer:
    """A layer in a file: its path there, and the names of its tensors; `alpha` is None where there is none."""

    layer: Layer
    path: str
    a: str
    b: str
    alpha: str | None


Scale = Callable[[StoredLayer, float | None], float]
"""Of a layer, given the value of its alpha tensor or None: what B is multiplied by."""


def assemble(keys: Mapping[str, Key], tensors: Mapping[str, Stored], source: str) -> list[StoredLayer]:
    """The layers that tensors make up, sorted.

    Args:
        keys: what the tensors' names say, by name.
        tensors: their shapes and types, by name.
        source: where they are, for messages.

    Raises:
        AdapterError: a factor is lacking or there twice, or shapes or types don't fit.
    """
    roles: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    paths: dict[tuple[str, str], str] = {}
    for name, key in keys.items():
        place = key.part, key.layer
        if key.role in roles[place]:
            raise AdapterError(
                f"{source} holds two tensors for one place: {shown(roles[place][key.role])} and {shown(name)}. "
                + _LEAVE_OUT
            )
        roles[place][key.role] = name
        paths[place] = key.path
    return [_layer(place, paths[place], roles[place], tensors, source) for place in sorted(roles)]


def reader(
    stored: Sequence[StoredLayer], read: Callable[[Sequence[str]], list[Tensor]], scale: Scale, source: str
) -> Callable[[Sequence[Layer]], list[Factors]]:
    """What reads the factors of chosen layers, by the names that `stored` gives them.

    Args:
        stored: every layer of the adapter.
        read: gives tensors by their names, their numbers as `at_least_float32`.
        scale: of a layer.
        source: where the tensors are, for messages.
    """
    by_layer = {each.layer: each for each in stored}

    def factors(layers: Sequence[Layer]) -> list[Factors]:
        chosen = [by_layer[layer] for layer in layers]
        names = [name for each in chosen for name in (each.a, each.b, each.alpha) if name is not None]
        tensors = dict(zip(names, read(names), strict=True))
        return [_scaled(each, tensors, scale, source) for each in chosen]

    return factors


def _scaled(of: StoredLayer, tensors: Mapping[str, Tensor], scale: Scale, source: str) -> Factors:
    alpha = None
    if of.alpha is not None:
        alpha = check_alpha(float(tensors[of.alpha]), of.alpha, source)
    factor = scale(of, alpha)
    a, b = tensors[of.a].flatten(1), tensors[of.b].flatten(1)
    if a.dtype != b.dtype:
        a, b = a.double(), b.double()
    return a, b if factor == 1 else b * factor


def _layer(
    place: tuple[str, str], path: str, roles: Mapping[str, str], tensors: Mapping[str, Stored], source: str
) -> StoredLayer:
    part, name = place
    where = f"{source}: layer {shown(path)}"
    if not _NAME.fullmatch(name):
        raise AdapterError(f"{where} is no layer's name; expected letters, digits, '_', '-' and '.'. {_LEAVE_OUT}")
    if lacking := [role for role in "AB" if role not in roles]:
        raise AdapterError(f"{where} has no factor {lacking[0]}; expected A and B. {_LEAVE_OUT}")
    a, b = tensors[roles["A"]], tensors[roles["B"]]
    _check_factors(a, b, where)
    if "alpha" in roles:
        _check_alpha_tensor(tensors[roles["alpha"]], where)
    layer = Layer(part, name, b.shape[0], prod(a.shape[1:]), a.shape[0])
    return StoredLayer(layer, path, roles["A"], roles["B"], roles.get("alpha"))


def _check_factors(a: Stored, b: Stored, where: str) -> None:
    shapes = f"A has shape {list(a.shape)}, B {list(b.shape)}"
    if not a.dtype.is_floating_point or not b.dtype.is_floating_point:
        raise AdapterError(f"{where}: A is of {a.dtype}, B of {b.dtype}; expected floating-point numbers. {_LEAVE_OUT}")
    if not all(2 <= len(factor.shape) <= _MOST_DIMENSIONS for factor in (a, b)):
        raise AdapterError(
            f"{where}: {shapes}; expected 2 dimensions, or up to {_MOST_DIMENSIONS} of a convolution's. {_LEAVE_OUT}"
        )
    if a.shape[0] == 0 or b.shape[1] == 0:
        raise AdapterError(f"{where}: {shapes}; expected a rank of 1 or more, found 0. {_LEAVE_OUT}")
    if a.shape[0] != b.shape[1]:
        groups, rest = divmod(a.shape[0], b.shape[1])
        if len(b.shape) > 2 and groups > 1 and not rest and not b.shape[0] % groups:
            raise AdapterError(
                f"{where} is of a convolution in groups: {shapes}, so each of {groups} groups of outputs has its own "
                f"{b.shape[1]} of the {a.shape[0]} ranks; only plain LoRA can be described. Leave this adapter out."
            )
        raise AdapterError(
            f"{where}: {shapes}; the rank is {a.shape[0]} by A, {b.shape[1]} by B; they must be equal. {_LEAVE_OUT}"
        )
    if 0 in a.shape + b.shape or prod(b.shape[2:]) != 1:
        raise AdapterError(f"{where}: {shapes}; expected A (rank, inputs), B (outputs, rank). {_LEAVE_OUT}")


def _check_alpha_tensor(alpha: Stored, where: str) -> None:
    if alpha.shape not in ((), (1,)) or alpha.dtype == torch.bool:
        raise AdapterError(
            f"{where}: its alpha is of {alpha.dtype} and shape {list(alpha.shape)}; expected one number. {_LEAVE_OUT}"
        )
