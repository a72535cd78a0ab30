"""An adapter's settings, as PEFT names them: what they say of ranks and scales, and which don't say all of it.

Patterns are names of layers here: a stranger's regular expressions are not run.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lorax.atlas.tensors import shown
from lorax.errors import AdapterError

_ADALORA_EPSILON = 1e-5  # in PEFT's formula
_PATTERN = re.compile(r"(\^?)([A-Za-z0-9_.-]+)")
_NOT_ALL = (
    "use_qalora", "use_bdlora", "modules_to_save", "trainable_token_indices", "target_parameters", "layer_replication",
    "megatron_config", "arrow_config", "kasa_config", "monteclora_config",
)  # fmt: skip
"""Settings by which the factors don't say all that the adapter does."""

_CHANGED_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Starts of training that take a part of the base model's weights away, which A and B then hold."""

_MOST_RANK = 2**20

_NAMES = {
    "LORA": ("LoRA", "r", "lora_alpha"), "LOHA": ("LoHa", "r", "alpha"), "LOKR": ("LoKr", "r", "alpha"),
    "ADALORA": ("AdaLoRA", "init_r", "lora_alpha"),
}  # fmt: skip
"""PEFT's kinds that are read -> what `lorax.atlas.kinds` calls them, and what their settings call rank and alpha."""


@dataclass(frozen=True)
class LoraSettings:
    """Of one adapter, as PEFT names them: the scale is alpha / r, with rsLoRA alpha / sqrt(r).

    `rank_of` and `alpha_of` are by layer, where they differ from `rank` and `alpha`.

    Source: Hu et al., LoRA (arXiv 2106.09685), section 4.1; Kalajdzievski, rsLoRA (arXiv 2312.03732).
    """

    rank: int
    alpha: float
    rank_of: Mapping[str, int] = field(default_factory=dict)
    alpha_of: Mapping[str, float] = field(default_factory=dict)
    is_rslora: bool = False
    kind: str = "LoRA"  # of its layers, as `lorax.atlas.kinds` names them

    @property
    def is_adalora(self) -> bool:
        """Its layers are cut to any rank, and all divided by the one that they began with."""
        return self.kind == "AdaLoRA"

    @property
    def ranks(self) -> list[int]:
        """Those that layers may have."""
        return sorted({self.rank, *self.rank_of.values()})

    def scale(self, path: str, rank: int | None) -> float:
        """What B of one layer is multiplied by.

        Args:
            path: of the layer, as in the file, with dots.
            rank: its own; None where its tensors don't tell.
        """
        alpha = _of_layer(self.alpha_of, path, self.alpha)
        if self.is_adalora:
            return alpha / (self.rank + _ADALORA_EPSILON)
        divisor = rank or _of_layer(self.rank_of, path, self.rank)
        return alpha / (math.sqrt(divisor) if self.is_rslora else divisor)


def parse_settings(record: Mapping[str, Any], where: str) -> LoraSettings:
    """Settings from adapter_config.json, or from what diffusers keeps of it.

    Args:
        record: the settings by PEFT's names.

    Raises:
        AdapterError: they ask for something that is no plain LoRA, or hold something impossible.
    """
    kind = record.get("peft_type") or "LORA"
    if not isinstance(kind, str) or kind not in _NAMES:
        raise AdapterError(
            f"{where}: its peft_type is {ascii(kind)[:80]}; only {', '.join(_NAMES)} are known to change "
            "weights by what the file holds alone. Leave this adapter out."
        )
    _check_all(record, where)
    name, r, alpha = _NAMES[kind]
    if type(is_rslora := record.get("use_rslora") or False) is not bool:
        raise _wrong(where, "use_rslora", is_rslora, "true or false")
    ranks = {} if kind == "ADALORA" else _pattern(record, "rank_pattern", where, scales=kind == "LOKR")
    return LoraSettings(
        _rank(r, record.get(r), where),
        _alpha(alpha, record.get(alpha), where),
        {key: _rank(key, value, where) for key, value in ranks.items()},
        {
            key: _alpha(key, value, where)
            for key, value in _pattern(record, "alpha_pattern", where, scales=True).items()
        },
        is_rslora,
        name,
    )


def check_alpha(alpha: float, name: str, where: str) -> float:
    """An alpha that something can be scaled by.

    Raises:
        AdapterError: it is 0, NaN or infinite.
    """
    if not math.isfinite(alpha) or alpha == 0:
        raise _wrong(where, name, alpha, "a finite number other than 0")
    return alpha


def _check_all(record: Mapping[str, Any], where: str) -> None:
    asked = [key for key in _NOT_ALL if record.get(key)]
    if record.get("bias", "none") not in ("none", None):
        asked.append("bias")
    if str(record.get("init_lora_weights")).lower().startswith(_CHANGED_BASE):
        asked.append("init_lora_weights")
    if asked:
        raise AdapterError(
            f"{where} asks for {asked[0]}: {ascii(record[asked[0]])[:80]}, so its factors don't say all that "
            "the adapter does. Leave it out, or convert it to a plain LoRA."
        )


def _pattern(record: Mapping[str, Any], key: str, where: str, *, scales: bool) -> dict[str, Any]:
    pattern = record.get(key) or {}
    if not isinstance(pattern, dict):
        raise _wrong(where, key, pattern, "a table by layer")
    for name in pattern if scales else ():
        if not _PATTERN.fullmatch(name.replace("\\.", ".")):
            raise AdapterError(
                f"{where}: {key} holds {shown(name)}; expected layers' names: a stranger's regular expressions are not "
                "run. Write the names out."
            )
    return pattern


def _of_layer(pattern: Mapping[str, float], path: str, other: float) -> float:
    return next((value for name, value in pattern.items() if _matches(name, path)), other)


def _rank(name: str, value: Any, where: str) -> int:
    if type(value) is not int or not 1 <= value <= _MOST_RANK:
        raise _wrong(where, name, value, f"a rank, 1 to {_MOST_RANK}")
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
