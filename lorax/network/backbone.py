"""The frozen vision transformer and its LoRA branches: the only room that knows timm and PEFT.

What PEFT calls an adapter is called a branch everywhere else.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from lorax.errors import BackboneError
from lorax.network.convit import use_fast_attention
from lorax.params import BackboneParams, LoraParams

SHIPPED = Path(__file__).parent / "weights" / "convit_small64.json"
"""Constructor arguments of the small ConViT that ships with the package; its weights lie beside it."""


@dataclass(frozen=True)
class BackboneIdentity:
    """Which backbone a state was learned on. The weights are named by their `source` and held to their `sha256`."""

    name: str
    arguments: Mapping[str, Any]
    source: str
    sha256: str
    crop: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> BackboneIdentity:
        """The identity as learner.json holds it."""
        mean, std = tuple(record["mean"]), tuple(record["std"])
        return cls(record["name"], record["arguments"], record["source"], record["sha256"], record["crop"], mean, std)


class Backbone(nn.Module):
    """A frozen timm vision transformer and its branches.

    `width` is D. Images go in as bytes (B, 3, crop, crop), features come out as (B, D).
    """

    model: Any  # timm's model, wrapped by PEFT from the first branch on
    mean: Tensor
    std: Tensor

    def __init__(self, model: Any, identity: BackboneIdentity) -> None:
        super().__init__()
        self.identity = identity
        self.width = int(model.num_features)
        self.branches = 0
        self.model = model.requires_grad_(False).eval()
        self.register_buffer("mean", torch.tensor(identity.mean).view(1, 3, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(identity.std).view(1, 3, 1, 1) * 255, persistent=False)

    def add_branch(self, lora: LoraParams, seed: int) -> int:
        """Add a branch that starts as the frozen backbone: B is zero, A is drawn from `seed` alone.

        Returns:
            How many modules carry the branch.

        Raises:
            BackboneError: a target matches no module.
        """
        matched = match_targets(self._plain_names(), lora.targets)
        self._insert(_peft_config(lora))
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in sorted(self.model.named_parameters()):
            if f".lora_A.{_adapter(self.branches - 1)}." in name:
                start = torch.empty(parameter.shape)
                nn.init.kaiming_uniform_(start, a=math.sqrt(5), generator=generator)
                parameter.data.copy_(start)
        return len(matched)

    def load_branch(self, config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
        """Add a branch from PEFT's configuration and weights.

        Raises:
            BackboneError: the weights are not the ones that this configuration gives on this backbone.
        """
        from peft import LoraConfig, set_peft_model_state_dict

        self._insert(LoraConfig(**config))
        expected = {name: tuple(value.shape) for name, value in self.export_branch(self.branches - 1)[1].items()}
        found = {name: tuple(value.shape) for name, value in weights.items()}
        if found != expected:
            differing = sorted({n for n in expected | found if expected.get(n) != found.get(n)})[:3]
            raise BackboneError(
                f"a branch doesn't fit backbone {self.identity.name!r}: {differing} differ in name or shape. "
                "Open the state with the backbone that it names."
            )
        set_peft_model_state_dict(self.model, dict(weights), adapter_name=_adapter(self.branches - 1))

    def export_branch(self, branch: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """PEFT's configuration and weights of one branch; tensors are copies on the CPU."""
        from peft import get_peft_model_state_dict

        config = self.model.peft_config[_adapter(branch)].to_dict()
        weights = get_peft_model_state_dict(self.model, adapter_name=_adapter(branch), save_embedding_layers=False)
        return json.loads(json.dumps(config, default=sorted)), {k: v.detach().cpu().clone() for k, v in weights.items()}

    def branch_parameters(self, branch: int) -> list[nn.Parameter]:
        """The LoRA factors of one branch, in the order of their names."""
        mark = f".{_adapter(branch)}."
        return [p for name, p in sorted(self.model.named_parameters()) if ".lora_" in name and mark in name]

    @contextmanager
    def training_branch(self, branch: int) -> Iterator[None]:
        """Let gradients and LoRA dropout reach this branch and nothing else while the block runs."""
        parameters = self.branch_parameters(branch)
        name = _adapter(branch)
        modules: list[Any] = list(self.model.modules())
        dropouts = [m.lora_dropout[name] for m in modules if name in getattr(m, "lora_dropout", {})]
        try:
            for parameter in parameters:
                parameter.requires_grad_(True)
            for dropout in dropouts:
                dropout.train()
            yield
        finally:
            for parameter in parameters:
                parameter.requires_grad_(False)
            for dropout in dropouts:
                dropout.eval()

    def feature(self, images: Tensor, branch: int) -> Tensor:
        """What one branch says of the images: bytes (B, 3, crop, crop) -> (B, D)."""
        self._select(branch)
        return self._forward(images)

    def plain_feature(self, images: Tensor) -> Tensor:
        """What the frozen backbone says without any branch: bytes (B, 3, crop, crop) -> (B, D)."""
        with self.model.disable_adapter() if self.branches else nullcontext():
            return self._forward(images)

    def _forward(self, images: Tensor) -> Tensor:
        pixels = (images.to(self.mean.dtype) - self.mean) / self.std
        out: Tensor = self.model(pixels)
        return out

    def _insert(self, config: Any) -> None:
        from peft import get_peft_model

        name = _adapter(self.branches)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PEFT warns of a second adapter, which is what this network is made of
            if self.branches == 0:
                self.model = get_peft_model(self.model, config, adapter_name=name)
            else:
                self.model.add_adapter(name, config)
        self.model.requires_grad_(False).eval()
        self.branches += 1

    def _select(self, branch: int) -> None:
        """Make one branch active; PEFT would turn its gradients on, so which parameters train is put back."""
        if self.model.active_adapter == _adapter(branch):
            return
        trainable = [p for p in self.model.parameters() if p.requires_grad]
        self.model.set_adapter(_adapter(branch))
        self.model.requires_grad_(False)
        for parameter in trainable:
            parameter.requires_grad_(True)

    def _plain_names(self) -> list[str]:
        """Names of the linear layers as timm calls them, whatever PEFT has wrapped around them."""
        names = set()
        for name, module in self.model.named_modules():
            if isinstance(module, nn.Linear) and ".lora_" not in name:
                names.add(name.removeprefix("base_model.model.").removesuffix(".base_layer"))
        return sorted(names)


def _adapter(branch: int) -> str:
    """PEFT's name of a branch: padded, since PEFT looks names up as parts of longer ones ("1" in "blocks.1.attn")."""
    return f"branch{branch:04d}"


def match_targets(names: Sequence[str], targets: Sequence[str]) -> list[str]:
    """The names that at least one full-match regular expression of `targets` matches.

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
                f"LoRA target {target!r} matches none of the backbone's {len(names)} linear layers, such as "
                f"{names[:8]}. Change lora.targets in params.yaml (full-match regular expressions)."
            )
        matched.update(hits)
    return sorted(matched)


def open_backbone(params: BackboneParams) -> Backbone:
    """Build the backbone that params.yaml names and load its weights.

    Raises:
        BackboneError: timm doesn't know the model or its arguments, or its weights can't be had or don't fit.
    """
    if (params.name == "shipped") != (params.weights == "shipped"):
        raise BackboneError(
            f"backbone.name is {params.name!r} and backbone.weights {params.weights!r}: the shipped backbone needs "
            "both to be 'shipped'; any other timm model needs weights: hub, or the path of a safetensors file."
        )
    if params.name == "shipped":
        shipped = json.loads(SHIPPED.read_text())
        return _build(
            shipped["name"], shipped["arguments"], "shipped", shipped["crop"], shipped["mean"], shipped["std"]
        )
    return _build(params.name, params.arguments, params.weights, params.crop, params.mean, params.std)


def reopen_backbone(identity: BackboneIdentity) -> Backbone:
    """Build the backbone that a learner state names, and hold it to its hash.

    The environment variable LORAX_BACKBONE_WEIGHTS names the weights' file where the recorded path doesn't exist here.

    Raises:
        BackboneError: as `open_backbone`, or the weights at hand have another hash.
    """
    source = identity.source
    if source not in ("shipped", "hub") and not Path(source).is_file():
        source = os.environ.get("LORAX_BACKBONE_WEIGHTS", source)
    backbone = _build(identity.name, identity.arguments, source, identity.crop, identity.mean, identity.std)
    if backbone.identity.sha256 != identity.sha256:
        raise BackboneError(
            f"backbone {identity.name!r} from {source!r} has sha256 {backbone.identity.sha256[:12]}..., the learner "
            f"state was learned on {identity.sha256[:12]}.... Point LORAX_BACKBONE_WEIGHTS at the file with that hash."
        )
    backbone.identity = identity
    return backbone


def _build(
    name: str, arguments: Mapping[str, Any], source: str, crop: int, mean: Sequence[float], std: Sequence[float]
) -> Backbone:
    timm = import_timm()
    try:
        model = timm.create_model(name, pretrained=source == "hub", num_classes=0, **arguments)
    except OSError as error:  # what the hub's client raises when it can't be reached, and its children
        raise BackboneError(_no_hub(name, error)) from error
    except (RuntimeError, TypeError, ValueError) as error:
        raise BackboneError(f"timm can't build {name!r} with arguments {dict(arguments)}: {error}.") from error
    except Exception as error:  # the hub's client has its own errors, without a common parent
        if type(error).__module__.split(".")[0] not in ("huggingface_hub", "httpx", "requests", "urllib3"):
            raise
        raise BackboneError(_no_hub(name, error)) from error
    if source != "hub":
        path = SHIPPED.with_suffix(".safetensors") if source == "shipped" else Path(source)
        _load_weights(model, path)
    model.float()
    use_fast_attention(model)
    triples = [(float(v[0]), float(v[1]), float(v[2])) for v in (mean, std)]
    return Backbone(model, BackboneIdentity(name, dict(arguments), source, _weights_sha256(model), crop, *triples))


def _no_hub(name: str, error: Exception) -> str:
    return (
        f"pretrained weights of {name!r} can't be fetched from the hub ({type(error).__name__}). Fetch the model's "
        "safetensors file on a machine that can, and name its path as backbone.weights in params.yaml."
    )


def _load_weights(model: nn.Module, path: Path) -> None:
    try:
        weights = safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise BackboneError(f"backbone weights {path} can't be read as safetensors: {error}.") from error
    weights = {n: w for n, w in weights.items() if not n.startswith("head.")}  # the classifier is not used
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        first = str(error).strip().splitlines()[-1].strip()
        raise BackboneError(
            f"backbone weights {path} don't fit the model: {first}. Check backbone.name and backbone.arguments."
        ) from error


def _weights_sha256(model: nn.Module) -> str:
    """One hash for the same weights, wherever they came from: over sorted names, shapes and float32 values."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _peft_config(lora: LoraParams) -> Any:
    from peft import LoraConfig

    return LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules="|".join(f"(?:{target})" for target in lora.targets),
        bias="none",
        inference_mode=True,
    )


def import_timm() -> Any:
    """Import timm, also beside a torchvision whose compiled operators were built for another torch.

    There `import torchvision` stops at two operators that it never found; declaring their schemas lets it go on. Only
    torchvision's Python transforms are reached through timm, so neither operator is ever called.
    """
    try:
        import torchvision  # noqa: F401
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        for name in [n for n in sys.modules if n.split(".")[0] == "torchvision"]:
            del sys.modules[name]  # what the failed import left behind
        for operator in ("nms", "qnms"):
            schema = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            torch.library.define(f"torchvision::{operator}", schema)
    import timm

    return timm
