"""One branch: a LoRA in PEFT's format, frozen or learning. The only room that knows PEFT.

A frozen branch is plain tensors, merged into a layer's weight when a pass comes to it, and PEFT, whose import takes
seconds, is not needed. The one branch that learns is PEFT's own model. What PEFT calls an adapter is called a
branch everywhere else.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from lorax.errors import BackboneError
from lorax.network.passes import encode, random_source
from lorax.params import LoraParams

_ADAPTER = "default"
_PREFIX = "base_model.model."  # of every name in PEFT's files
_UNUSUAL = ("use_dora", "use_rslora", "rank_pattern", "alpha_pattern", "fan_in_fan_out", "lora_bias", "modules_to_save")


class Branch:
    """A LoRA over some linear layers of a backbone: W x becomes W x + scale · B A x.

    Args:
        config: PEFT's configuration (adapter_config.json).
        weights: PEFT's tensors by PEFT's names (adapter_model.safetensors).
        linears: the backbone's linear layers by name.

    Raises:
        BackboneError: the weights are not the ones that this configuration gives on these layers.

    Source: Hu et al., LoRA (arXiv 2106.09685), section 4.1.
    """

    def __init__(
        self, config: Mapping[str, Any], weights: Mapping[str, Tensor], linears: Mapping[str, nn.Linear]
    ) -> None:
        self.config, self.weights = dict(config), dict(weights)
        self.scale = float(config["lora_alpha"]) / int(config["r"])
        self.layers = match_targets(sorted(linears), [config["target_modules"]])
        _check_fits(self.config, self.weights, {name: linears[name] for name in self.layers})
        self._factors = {n: [self.weights[_name(n, f)] for f in "AB"] for n in self.layers}  # (r, in), (out, r)

    @cached_property
    def digest(self) -> str:
        """One hash for the same branch: over its configuration, and its tensors' names, shapes and values."""
        digest = hashlib.sha256(json.dumps(self.config, sort_keys=True).encode())
        for name, value in sorted(self.weights.items()):
            digest.update(f"{name} {tuple(value.shape)} {value.dtype}\n".encode())
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def merge(self, layer: str, weight: Tensor, into: Tensor) -> None:
        """Write the layer's weight (out, in) with this branch in it; the weight itself where it adapts nothing."""
        if layer not in self._factors:
            into.copy_(weight)
            return
        a, b = self._factors[layer] = [factor.to(weight.device) for factor in self._factors[layer]]
        torch.addmm(weight, b, a, alpha=self.scale, out=into)


def merged(branches: Sequence[Branch], layer: str, weight: Tensor) -> Tensor:
    """A layer's weight (out, in) with each of the branches in it: (G, out, in), in the number format of the pass."""
    stack = torch.empty(len(branches), *weight.shape, device=weight.device)
    for branch, into in zip(branches, stack, strict=True):
        branch.merge(layer, weight, into)
    device = weight.device.type
    return stack.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else stack


class Dropout(nn.Module):
    """torch's dropout, drawn four numbers at a time on a CPU, where torch draws one by one and for double precision.

    The probability is rounded to a multiple of 2^-16, and what stays is scaled by what that gives, so its mean is kept.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p
        self._cut = min(max(round(p * 2**16), 1), 2**16 - 1)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or x.device.type != "cpu":
            return nn.functional.dropout(x, self.p, self.training)
        words = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None, generator=random_source())
        least = self._cut - 2**15
        # 0 or 1; a comparison, and truth values made numbers, take four times as long
        stays = words.view(torch.int16)[: x.numel()].view(x.shape).clamp_(least - 1, least).sub_(least - 1)
        return x * stays.to(x.dtype).mul_(2**16 / (2**16 - self._cut))


class LiveBranch:
    """The branch that learns: PEFT's model around a backbone whose weights it shares.

    `parameters` are the LoRA factors, the only ones with gradients, in the order of their names.

    Args:
        model: the backbone's.
        branch: where to start from.
        embedded: turns images into what branches start from.
    """

    def __init__(self, model: nn.Module, branch: Branch, embedded: Callable[[Tensor], Tensor]) -> None:
        from peft import LoraConfig, get_peft_model, set_peft_model_state_dict

        self._embedded = embedded
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a model that has no configuration of its own
            self._model: Any = get_peft_model(_sharing(model), LoraConfig(**branch.config), adapter_name=_ADAPTER)
        set_peft_model_state_dict(self._model, dict(branch.weights), adapter_name=_ADAPTER)
        self._model.requires_grad_(False).eval()
        named = sorted((n, p) for n, p in self._model.named_parameters() if ".lora_" in n)
        self._named = {name: parameter.requires_grad_(True) for name, parameter in named}
        self.parameters: list[nn.Parameter] = list(self._named.values())
        if branch.config["lora_dropout"]:
            for module in self._model.modules():
                if hasattr(module, "lora_dropout"):
                    module.lora_dropout[_ADAPTER] = Dropout(branch.config["lora_dropout"]).train()

    def __call__(self, images: Tensor) -> Tensor:
        """Bytes (B, 3, crop, crop) -> (B, D), with gradients and LoRA dropout."""
        return encode(self._model.get_base_model(), self._embedded(images))

    def has_gradient(self, layer: str) -> bool:
        """Whether the last backward pass reached both factors of a layer."""
        factors = (self._named[f"{_PREFIX}{layer}.lora_{factor}.{_ADAPTER}.weight"] for factor in "AB")
        return all(factor.grad is not None and bool(factor.grad.any()) for factor in factors)

    def export(self) -> dict[str, Tensor]:
        """The tensors as they are now, by PEFT's names; copies."""
        from peft import get_peft_model_state_dict

        found = get_peft_model_state_dict(self._model, adapter_name=_ADAPTER, save_embedding_layers=False)
        return {name: value.detach().clone() for name, value in found.items()}


def fresh_branch(lora: LoraParams, linears: Mapping[str, nn.Linear], seed: int) -> Branch:
    """A branch that starts as the frozen backbone: B is zero, A is drawn from `seed` alone.

    Raises:
        BackboneError: a target is no regular expression, or matches nothing.
    """
    layers = match_targets(sorted(linears), lora.targets)
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for layer in layers:
        linear = linears[layer]
        start = torch.empty(lora.rank, linear.in_features)
        nn.init.kaiming_uniform_(start, a=math.sqrt(5), generator=generator)
        weights[_name(layer, "A")] = start
        weights[_name(layer, "B")] = torch.zeros(linear.out_features, lora.rank)
    return Branch(_config(lora, layers), weights, linears)


def loud_branch(
    layers: Sequence[str], linears: Mapping[str, nn.Linear], rank: int, generator: torch.Generator
) -> Branch:
    """A random branch without dropout that adds to the weight of each layer a third of its own size."""
    exactly = LoraParams(rank=rank, alpha=rank, dropout=0, targets=tuple(re.escape(layer) for layer in layers))
    fresh = fresh_branch(exactly, linears, seed=int(torch.randint(2**31, (), generator=generator)))
    weights = dict(fresh.weights)
    for layer in layers:
        a, b = _name(layer, "A"), _name(layer, "B")
        weights[b] = torch.randn(weights[b].shape, generator=generator)
        size = float(linears[layer].weight.norm()) or 1.0
        weights[b] *= size / 3 / (weights[b] @ weights[a]).norm()
    return Branch(fresh.config, weights, linears)


def kinds_of(layers: Iterable[str]) -> list[str]:
    """Names of layers as few regular expressions, any number in place of each number."""
    return sorted({re.sub(r"\d+", r"\\d+", re.escape(layer)) for layer in layers})


def match_targets(names: Sequence[str], targets: Sequence[str]) -> list[str]:
    """The names that at least one full-match regular expression of `targets` matches, sorted.

    Raises:
        BackboneError: one of the targets is no regular expression, or matches nothing.
    """
    matched: set[str] = set()
    for target in targets:
        try:
            hits = [name for name in names if re.fullmatch(target, name)]
        except re.error as error:
            raise BackboneError(f"LoRA target {target!r} is not a regular expression: {error}.") from error
        if not hits:
            raise BackboneError(
                f"LoRA target {target!r} matches none of the backbone's {len(names)} linear layers: "
                f"{', '.join(kinds_of(names)) or 'none'}. Change lora.targets in params.yaml (full-match regular "
                "expressions)."
            )
        matched.update(hits)
    return sorted(matched)


def _name(layer: str, factor: str) -> str:
    return f"{_PREFIX}{layer}.lora_{factor}.weight"


def _config(lora: LoraParams, layers: Sequence[str]) -> dict[str, Any]:
    """PEFT's configuration as its own writer gives it, with lists in place of sets.

    It names the layers one by one: PEFT would let a regular expression match layers of other kinds, too.
    """
    from peft import LoraConfig

    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules="|".join(re.escape(layer) for layer in layers),
        bias="none",
        inference_mode=True,
    )
    record: dict[str, Any] = json.loads(json.dumps(config.to_dict(), default=sorted))
    return record


def _check_fits(config: Mapping[str, Any], weights: Mapping[str, Tensor], linears: Mapping[str, nn.Linear]) -> None:
    if unusual := [key for key in _UNUSUAL if config.get(key)] + ["bias"] * (config.get("bias", "none") != "none"):
        raise BackboneError(
            f"a branch's adapter_config.json asks for {unusual[0]}: {config[unusual[0]]!r}, which is no plain LoRA. "
            "Fetch the model version again, or restore it from a copy."
        )
    expected = {}
    for layer, linear in linears.items():
        expected[_name(layer, "A")] = (config["r"], linear.in_features)
        expected[_name(layer, "B")] = (linear.out_features, config["r"])
    found = {name: tuple(value.shape) for name, value in weights.items()}
    if found != expected:
        differing = sorted({n for n in expected | found if expected.get(n) != found.get(n)})[:3]
        raise BackboneError(
            f"a branch doesn't fit the backbone: {differing} differ in name or shape. "
            "Open the state with the backbone that it names."
        )


def _sharing(model: nn.Module) -> nn.Module:
    """A copy of the model's structure, for PEFT to change, around the same tensors."""
    return copy.deepcopy(model, {id(tensor): tensor for tensor in chain(model.parameters(), model.buffers())})
