"""Backbones from names: timm's models, our own, and those that ship with lorax; their weights loaded and hashed."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, TypeVar

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lorax.errors import BackboneError
from lorax.network.backbone import Backbone, BackboneIdentity
from lorax.network.convit import use_fast_attention
from lorax.network.rehearsal import first_line
from lorax.network.residual import LEAST_CROP, ResidualBackbone, lorax_residual
from lorax.network.residual import NAME as RESIDUAL
from lorax.params import BackboneParams

_WEIGHTS = Path(__file__).parent / "weights"
_FILES = {"shipped": _WEIGHTS / "convit_small64.json", "residual": _WEIGHTS / "residual.json"}

SHIPPED = tuple(_FILES)
"""What `backbone.name` calls them."""

_FRONTED = "residual+"
"""What a timm model's name begins with whose texture the residual backbone's front gives."""


def shipped(name: str) -> dict[str, Any]:
    """timm's name and arguments, mean and std of the one that `backbone.name` calls so; its crop if it has but one."""
    found: dict[str, Any] = json.loads(_FILES[name].read_text())
    return found


def shipped_weights(model: str) -> Path:
    """The weights' file of the one that is timm's `model`.

    Raises:
        BackboneError: none is.
    """
    for name, path in _FILES.items():
        if shipped(name)["name"] == model:
            return path.with_suffix(".safetensors")
    raise BackboneError(
        f"the learner state names a shipped backbone {model!r}, which this release of lorax hasn't. Open it with the "
        "release that made it, or a newer one."
    )


_B = TypeVar("_B", bound=Backbone)


def open_backbone(params: BackboneParams) -> Backbone:
    """Build the backbone that params.yaml names and load its weights.

    Raises:
        BackboneError: timm doesn't know the model or its arguments, or its weights can't be had or don't fit.
    """
    return open_as(Backbone, params)


def open_as(kind: type[_B], params: BackboneParams) -> _B:
    """The same as a backbone of some kind, whose branches may be others.

    Raises:
        BackboneError: timm doesn't know the model or its arguments, or its weights can't be had or don't fit.
    """
    if (params.name in SHIPPED) != (params.weights == "shipped"):
        raise BackboneError(
            f"backbone.name is {params.name!r} and backbone.weights {params.weights!r}: one that ships with lorax "
            f"has the name {' or '.join(map(repr, SHIPPED))} and weights: shipped; any other timm model needs weights: "
            "hub, or the path of a safetensors file."
        )
    if params.name in SHIPPED:
        own = shipped(params.name)
        crop = own.get("crop", params.crop)
        if "crop" not in own:
            _check_crop(crop)
        return _build(kind, own["name"], own["arguments"], "shipped", crop, own["mean"], own["std"])
    return _build(kind, params.name, params.arguments, params.weights, params.crop, params.mean, params.std)


def reopen_backbone(identity: BackboneIdentity) -> Backbone:
    """Build the backbone that a learner state names, and hold it to its hash.

    The environment variable LORAX_BACKBONE_WEIGHTS names the weights' file where the recorded path doesn't exist here.

    Raises:
        BackboneError: as `open_backbone`, or the weights at hand have another hash.
    """
    source = identity.source
    if source not in ("shipped", "hub") and not Path(source).is_file():
        source = os.environ.get("LORAX_BACKBONE_WEIGHTS", source)
    backbone = _build(Backbone, identity.name, identity.arguments, source, identity.crop, identity.mean, identity.std)
    if backbone.identity.sha256 != identity.sha256:
        raise BackboneError(
            f"backbone {identity.name!r} from {source!r} has sha256 {backbone.identity.sha256[:12]}..., the learner "
            f"state was learned on {identity.sha256[:12]}.... Point LORAX_BACKBONE_WEIGHTS at the file with that hash."
        )
    backbone.identity = identity
    return backbone


def _build(
    kind: type[_B],
    name: str,
    arguments: Mapping[str, Any],
    source: str,
    crop: int,
    mean: Sequence[float],
    std: Sequence[float],
) -> _B:
    timm, named = import_timm(), name
    front = _front(crop) if name.startswith(_FRONTED) else None
    name = name.removeprefix(_FRONTED)
    try:
        with nullcontext() if source == "hub" else _Undrawn():  # all weights come from a file below
            model = timm.create_model(name, pretrained=source == "hub", num_classes=0, **arguments)
    except OSError as error:  # what the hub's client raises when it can't be reached, and its children
        raise BackboneError(_no_hub(name, error)) from error
    except Exception as error:  # the hub's client has its own errors, timm's many models any
        if type(error).__module__.split(".")[0] in ("huggingface_hub", "httpx", "requests", "urllib3"):
            raise BackboneError(_no_hub(name, error)) from error
        why = f"{type(error).__name__}: {first_line(error)}"
        raise BackboneError(f"timm can't build {name!r} with arguments {dict(arguments)} ({why}).") from error
    if source != "hub":
        _load_weights(model, shipped_weights(name) if source == "shipped" else Path(source))
    prepare(model)
    triples = [(float(v[0]), float(v[1]), float(v[2])) for v in (mean, std)]
    sha256 = _weights_sha256(nn.ModuleDict({"front": front, "model": model}) if front else model)
    return kind(model, BackboneIdentity(named, dict(arguments), source, sha256, crop, *triples), front)


class _Undrawn(TorchFunctionMode):
    """Leave new weights as their memory was: to draw ConViT-Base's takes longer than to read and hash them."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        named = kwargs or {}
        if func in _DRAWING:
            return args[0] if args else named["tensor"]
        if func in _SCALING and isinstance(args[0], nn.Parameter):
            return args[0]
        return func(*args, **named)


_DRAWING = frozenset(
    {
        *(Tensor.uniform_, Tensor.normal_, Tensor.erfinv_),
        *(nn.init.uniform_, nn.init.normal_, nn.init.kaiming_uniform_),  # what they call is not seen
    }
)
_SCALING = frozenset({Tensor.mul_, Tensor.add_, Tensor.clamp_})
"""What becomes of drawn numbers; every parameter is in the file, other tensors may be computed."""


def _front(crop: int) -> ResidualBackbone:
    """The residual backbone, for the texture that it gives."""
    _check_crop(crop)
    own = shipped("residual")
    front = lorax_residual(**own["arguments"])
    _load_weights(front, shipped_weights(own["name"]))
    return front.float()


def _check_crop(crop: int) -> None:
    if crop < LEAST_CROP:
        raise BackboneError(
            f"backbone.crop is {crop}, but the residual backbone looks at squares of {LEAST_CROP} pixels or more: "
            "its spectra and convolutions would see hardly anything of fewer. Set backbone.crop: 128, or 64 for "
            "images of that size."
        )


def _no_hub(name: str, error: Exception) -> str:
    return (
        f"pretrained weights of {name!r} can't be fetched from the hub ({type(error).__name__}). Fetch the model's "
        "safetensors file on a machine that can, and name its path as backbone.weights in params.yaml."
    )


def prepare(model: Any) -> None:
    """Make timm's model, its weights loaded, one for branches: exact fast attention, and projections that are called.

    The attentions of BEiT, EVA and Swin V2 only read `qkv.weight`, so that LoRA there would do nothing. timm's own
    switch calls `qkv` and adds the bias afterwards; what is computed is the same but for the last bits.
    """
    model.float()
    use_fast_attention(model)
    for module in model.modules():
        if hasattr(module, "qkv_bias_separate"):
            module.qkv_bias_separate = True


def _load_weights(model: nn.Module, path: Path) -> None:
    try:
        weights = safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise BackboneError(f"backbone weights {path} can't be read as safetensors: {error}.") from error
    own, classifier = model.state_dict(), _classifier(model)
    weights = {n: w for n, w in weights.items() if n in own or not n.startswith(classifier)}
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        first = str(error).strip().splitlines()[-1].strip()
        raise BackboneError(
            f"backbone weights {path} don't fit the model: {first}. Check backbone.name and backbone.arguments."
        ) from error


def _classifier(model: Any) -> tuple[str, ...]:
    """What the names of the classifier's weights begin with, which a model without classes has not."""
    named = model.pretrained_cfg.get("classifier") or "head"
    return tuple(f"{name.split('.')[0]}." for name in ((named,) if isinstance(named, str) else named))


def _weights_sha256(model: nn.Module) -> str:
    """One hash for the same weights, wherever they came from: over sorted names, shapes and float32 values."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().float().cpu().contiguous().numpy().reshape(-1))
    return digest.hexdigest()


def import_timm() -> Any:
    """Import timm, which then knows our own model, also beside a torchvision that was built for another torch.

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

    if not timm.is_model(RESIDUAL):
        timm.models.register_model(lorax_residual)
    return timm
