"""What an adapter's B is multiplied by, from PEFT's settings; and which of these settings make no plain LoRA."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lorax.atlas.tensors import shown
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
            rank: of the layer.
        """
        alpha = next((alpha for pattern, alpha in self.alphas.items() if _matches(pattern, path)), self.alpha)
        return alpha / (math.sqrt(rank) if self.is_rslora else rank)


def parse_settings(record: Mapping[str, Any], where: str) -> LoraSettings:
    """Settings from adapter_config.json, or from what diffusers keeps of it.

    Args:
        record: the settings by PEFT's names.
        where: they were found, for messages.

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
