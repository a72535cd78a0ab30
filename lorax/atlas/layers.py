"""Tensors by name as layers with their factors: what belongs together, whether it fits, and what B is multiplied by.

Of PEFT's settings some make no plain LoRA.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import torch
from torch import Tensor

from lorax.atlas.adapter import Factors, Layer
from lorax.atlas.families import names_in
from lorax.atlas.fused import Piece, may_be_stacked, pieces_of, unstacked
from lorax.atlas.names import Key
from lorax.atlas.tensors import Stored, shown
from lorax.errors import AdapterError

_PATTERN = re.compile(r"(\^?)([A-Za-z0-9_.-]+)")
_NOT_PLAIN = (
    "use_dora", "lora_bias", "use_qalora", "use_bdlora", "modules_to_save", "trainable_token_indices",
    "target_parameters", "layer_replication", "megatron_config", "arrow_config", "kasa_config", "monteclora_config",
)  # fmt: skip
_CHANGED_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Starts of training that take a part of the base model's weights away, which A and B then hold."""


@dataclass(frozen=True)
class LoraSettings:
    """Of one LoRA, as PEFT names them: the scale is alpha / r, with rsLoRA alpha / sqrt(r).

    `ranks` are those that layers may have; `alphas` are by layer, where they differ from `alpha`.

    Source: Hu et al., LoRA (arXiv 2106.09685), section 4.1; Kalajdzievski, rsLoRA (arXiv 2312.03732).
    """

    ranks: tuple[int, ...]
    alpha: float
    alphas: Mapping[str, float] = field(default_factory=dict)
    is_rslora: bool = False

    def scale(self, path: str, rank: int) -> float:
        """What B of one layer is multiplied by.

        Args:
            path: of the layer, as in the file, with dots.
        """
        alpha = next((alpha for pattern, alpha in self.alphas.items() if _matches(pattern, path)), self.alpha)
        return alpha / (math.sqrt(rank) if self.is_rslora else rank)


def parse_settings(record: Mapping[str, Any], where: str) -> LoraSettings:
    """Settings from adapter_config.json, or from what diffusers keeps of it.

    Args:
        record: the settings by PEFT's names.

    Raises:
        AdapterError: they ask for something that is no plain LoRA, or hold something impossible.
    """
    _check_plain(record, where)
    ranks = {"r": record.get("r")} | _pattern(record, "rank_pattern", where)
    alphas = {key: _alpha(key, value, where) for key, value in _pattern(record, "alpha_pattern", where).items()}
    for pattern in alphas:
        if not _PATTERN.fullmatch(pattern.replace("\\.", ".")):
            raise AdapterError(
                f"{where}: alpha_pattern holds {shown(pattern)}; expected layers' names: a stranger's regular "
                "expressions are not run. Write the names out."
            )
    return LoraSettings(
        tuple(sorted({_rank(key, value, where) for key, value in ranks.items()})),
        _alpha("lora_alpha", record.get("lora_alpha"), where),
        alphas,
        bool(record.get("use_rslora")),
    )


def check_alpha(alpha: float, name: str, where: str) -> float:
    """An alpha that something can be scaled by.

    Raises:
        AdapterError: it is 0, NaN or infinite.
    """
    if not math.isfinite(alpha) or alpha == 0:
        raise _wrong(where, name, alpha, "a finite number other than 0")
    return alpha


def _check_plain(record: Mapping[str, Any], where: str) -> None:
    kind = record.get("peft_type", "LORA")
    if kind != "LORA":
        raise AdapterError(
            f"{where}: its peft_type is {ascii(kind)[:80]}; only LORA can be described. Leave this adapter out."
        )
    asked = [key for key in _NOT_PLAIN if record.get(key)]
    if record.get("bias", "none") not in ("none", None):
        asked.append("bias")
    if str(record.get("init_lora_weights")).lower().startswith(_CHANGED_BASE):
        asked.append("init_lora_weights")
    if asked:
        raise AdapterError(
            f"{where} asks for {asked[0]}: {ascii(record[asked[0]])[:80]}, so A and B don't say all that the adapter "
            "does; expected a plain LoRA. Leave this adapter out, or convert it to a plain LoRA."
        )


def _pattern(record: Mapping[str, Any], key: str, where: str) -> dict[str, Any]:
    pattern = record.get(key) or {}
    if not isinstance(pattern, dict):
        raise _wrong(where, key, pattern, "a table by layer")
    return pattern


def _rank(name: str, value: Any, where: str) -> int:
    if type(value) is not int or value < 1:
        raise _wrong(where, name, value, "a rank, 1 or more")
    return value


def _alpha(name: str, value: Any, where: str) -> float:
    if type(value) not in (int, float) or abs(value) > 1e30:
        raise _wrong(where, name, value, "a finite number other than 0")
    return check_alpha(float(value), name, where)


def _matches(pattern: str, path: str) -> bool:
    """As PEFT matches: a name, or the end of a path at a dot; a name after '^' is the whole path."""
    name = pattern.replace("\\.", ".").removeprefix("^")
    return path == name or (not pattern.startswith("^") and path.endswith("." + name))


def _wrong(where: str, name: str, value: Any, expected: str) -> AdapterError:
    return AdapterError(
        f"{where}: {shown(name)} is {ascii(value)[:80]}; expected {expected}. "
        "The file is damaged, or its writer erred: fetch it again, or leave it out."
    )


_NAME = re.compile(r"[A-Za-z0-9_-]+")
_MOST_DIMENSIONS = 5
"""A convolution's over volumes; its kernel counts as inputs, and B has none."""

_LEAVE_OUT = "The file is damaged, or its writer erred: fetch it again, or leave it out."


@dataclass(frozen=True)
class StoredLayer:
    """A layer in a file: its path there, and the names of its tensors; `alpha` is None where there is none.

    `pieces` are the layers that it holds by their canonical names: mostly one, itself.
    """

    layer: Layer
    path: str
    a: str
    b: str
    alpha: str | None
    pieces: tuple[Piece, ...]


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
    stored = [_layer(place, paths[place], roles[place], tensors, source) for place in sorted(roles)]
    names = Counter((piece.layer.part, piece.layer.name) for each in stored for piece in each.pieces)
    if twice := [".".join(name) for name, count in names.items() if count > 1]:
        raise AdapterError(f"{source} holds two layers that are both {shown(twice[0])}. {_LEAVE_OUT}")
    return stored


def with_own_ranks(stored: Sequence[StoredLayer], read: Callable[[], Mapping[str, Tensor]]) -> list[StoredLayer]:
    """Layers whose pieces were trained apart and stacked, with each piece's own rank; all others as they are.

    Args:
        stored: every layer of the adapter.
        read: gives all tensors by their names; called only where ranks give reason to look.
    """
    others = {each.layer.rank for each in stored if len(each.pieces) == 1}
    suspects = [each for each in stored if may_be_stacked(each.pieces, each.layer.rank, others)]
    if not suspects:
        return list(stored)
    tensors = read()
    seen = {each.b: unstacked(each.pieces, tensors[each.b].flatten(1)) for each in suspects}
    return [replace(each, pieces=seen.get(each.b, each.pieces)) for each in stored]


def layers_of(stored: Sequence[StoredLayer]) -> tuple[Layer, ...]:
    """Every layer by its canonical name, sorted."""
    return tuple(sorted(piece.layer for each in stored for piece in each.pieces))


def reader(
    stored: Sequence[StoredLayer], read: Callable[[], Mapping[str, Tensor]], scale: Scale, source: str
) -> Callable[[], list[Factors]]:
    """What reads the factors of all layers, in the order of `layers_of`.

    Args:
        stored: every layer of the adapter.
        read: gives all tensors by their names, their numbers as `at_least_float32`.
        scale: of a layer.
        source: where the tensors are, for messages.
    """

    layers = [piece.layer for each in stored for piece in each.pieces]
    order = sorted(range(len(layers)), key=layers.__getitem__)

    def factors() -> list[Factors]:
        tensors = read()
        pairs = [
            piece.cut(pair)
            for each, pair in ((each, _scaled(each, tensors, scale, source)) for each in stored)
            for piece in each.pieces
        ]
        return [pairs[number] for number in order]

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
    if not all(map(_NAME.fullmatch, names_in(name))):
        raise AdapterError(f"{where} is no layer's name; expected letters, digits, '_', '-' and '.'. {_LEAVE_OUT}")
    if lacking := [role for role in "AB" if role not in roles]:
        raise AdapterError(f"{where} has no factor {lacking[0]}; expected A and B. {_LEAVE_OUT}")
    a, b = tensors[roles["A"]], tensors[roles["B"]]
    _check_factors(a, b, where)
    if "alpha" in roles:
        _check_alpha_tensor(tensors[roles["alpha"]], where)
    layer = Layer(part, name, b.shape[0], prod(a.shape[1:]), a.shape[0])
    try:
        pieces = pieces_of(layer)
    except ValueError as error:
        raise AdapterError(f"{where}: {error}. {_LEAVE_OUT}") from error
    return StoredLayer(layer, path, roles["A"], roles["B"], roles.get("alpha"), pieces)


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
