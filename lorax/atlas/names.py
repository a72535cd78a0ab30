"""What tensors, layers and base models are called in LoRA files, and their one canonical name here.

Which layers belong together, in module groups, is told by names alone: those that timm's vision transformers,
diffusers' U-Nets and transformers, and CLIP's text encoders have.

Sources: the writers of these files: PEFT, diffusers (loaders/lora_conversion_utils.py), kohya's sd-scripts (networks/),
LyCORIS; the two spellings of a U-Net's blocks: diffusers against Stability AI's generative-models.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from lorax.atlas.adapter import Layer

PEFT_PREFIX = "base_model.model."
"""Of every tensor in PEFT's files."""

MODEL = "model"
"""The part of a layer whose name doesn't tell what it belongs to."""

_ROLES = {
    ".lora_A.weight": "A", ".lora_B.weight": "B",
    ".lora_A.default.weight": "A", ".lora_B.default.weight": "B",
    ".lora_down.weight": "A", ".lora_up.weight": "B",
    ".lora.down.weight": "A", ".lora.up.weight": "B",
    ".lora_linear_layer.down.weight": "A", ".lora_linear_layer.up.weight": "B",
    "_lora.down.weight": "A", "_lora.up.weight": "B",
    ".alpha": "alpha",
}  # fmt: skip
"""How a tensor's name ends -> what it is of its layer."""

_OLD = "_lora."
"""In the last-but-one spelling, where the factors belonged to an attention's processor."""

_KOHYA_PARTS = {
    "lora_unet_": "unet", "lora_transformer_": "transformer",
    "lora_te_": "text_encoder", "lora_te1_": "text_encoder",
    "lora_te2_": "text_encoder_2", "lora_te3_": "text_encoder_3",
}  # fmt: skip
_DIFFUSERS_PARTS = {
    "unet.": "unet", "transformer.": "transformer", "diffusion_model.": "unet",
    "text_encoder.": "text_encoder", "text_encoder_2.": "text_encoder_2", "text_encoder_3.": "text_encoder_3",
}  # fmt: skip

_PART_OF_MODULE = {
    "down_blocks": "unet", "mid_block": "unet", "up_blocks": "unet", "text_model": "text_encoder",
    "transformer_blocks": "transformer", "single_transformer_blocks": "transformer",
}  # fmt: skip
_PART_OF_CLASS = {
    "UNet2DConditionModel": "unet", "CLIPTextModel": "text_encoder", "CLIPTextModelWithProjection": "text_encoder",
}  # fmt: skip

_OTHER_KINDS = {
    ".lora_mid.": "LoRA of convolutions in CP form (lora_mid)", ".hada_": "LoHa (hada_)", ".lokr_": "LoKr (lokr_)",
    ".dora_scale": "DoRA (dora_scale)", ".lora_magnitude_vector": "DoRA (lora_magnitude_vector)",
    ".oft_": "OFT (oft_)", ".vera_lambda_": "VeRA (vera_lambda_)", ".ia3_": "IA3 (ia3_)", ".on_input": "IA3 (on_input)",
    ".lora_embedding_": "LoRA of an embedding (lora_embedding_)", ".diff.": "whole weights (diff)",
    ".lora_B.bias": "LoRA with biases", ".lora_up.bias": "LoRA with biases", ".modules_to_save.": "whole modules",
}  # fmt: skip
"""What a tensor's name holds -> the kind of adapter that has such tensors, none a plain LoRA."""

_BLOCKS_OF_TRANSFORMERS = ("double_blocks_", "single_blocks_", "joint_blocks_")

_ORIGINAL_LAYERS = {
    "input_blocks_0_0": "conv_in", "out_2": "conv_out",
    "time_embed_0": "time_embedding_linear_1", "time_embed_2": "time_embedding_linear_2",
    "label_emb_0_0": "add_embedding_linear_1", "label_emb_0_2": "add_embedding_linear_2",
}  # fmt: skip
_ORIGINAL_RESIDUAL = {
    "in_layers_2": "conv1", "out_layers_3": "conv2",
    "emb_layers_1": "time_emb_proj", "skip_connection": "conv_shortcut",
}  # fmt: skip
_ORIGINAL_BLOCK = re.compile(r"(input|output)_blocks_([0-9]+)_([0-9]+)_(.+)")
_ORIGINAL_MIDDLE = re.compile(r"middle_block_([012])_(.+)")
_LAYERS_A_LEVEL = 3  # two blocks and a change of size, in every U-Net of Stable Diffusion

_FAMILIES = {
    "sd-1": r"(sd|stablediffusion)v?1[45]?(lora)?|v1[45](pruned)?(emaonly)?(fp16)?",
    "sd-2": r"(sd|stablediffusion)v?2[01]?(base|512|768)?v?(lora)?|v2[01](512|768)(nonema|ema)(pruned)?",
    "sdxl": r"(sd|stablediffusion)xl(v?10?)?(base)?(v?10?)?(lora)?(09vae|10vae)?",
    "flux-1": r"flux1?(dev|d|schnell|s)?(fp8)?(lora)?",
}
"""Families of base models -> their spellings in small letters and digits: model cards, trainers, file names."""


@dataclass(frozen=True)
class Key:
    """What a tensor's name says.

    `role` is "A", "B" or "alpha"; `part` and `layer` name its layer canonically; `path` is that in the file, where
    dots were kept; `format` is "diffusers" or "kohya".
    """

    format: str
    part: str
    layer: str
    path: str
    role: str


def split(name: str) -> tuple[str, str] | None:
    """A tensor's name as its layer's path and its role there; None where it is no LoRA's."""
    for ending, role in _ROLES.items():
        if name.endswith(ending) and len(name) > len(ending):
            return name.removesuffix(ending), role
    return None


@lru_cache(maxsize=1 << 15)  # the same names come in every file of a collection
def single_file_key(name: str) -> Key | None:
    """What a tensor's name in a single file says; None where it is no LoRA's, or of an unknown part."""
    split_name = split(name)
    if split_name is None:
        return None
    path, role = split_name
    for prefix, part in _KOHYA_PARTS.items():
        if path.startswith(prefix):
            return _key("kohya", part, path.removeprefix(prefix), role)
    for prefix, part in _DIFFUSERS_PARTS.items():
        if path.startswith(prefix):
            path = path.removeprefix(prefix)
            return _key("diffusers", part, _modern(part, path) if _OLD in name else path, role)
    bare = part_of([path])
    if bare == MODEL:
        return None
    return _key("diffusers", bare, _modern(bare, path) if _OLD in name else path, role)


def part_of(paths: Iterable[str], model_class: str | None = None) -> str:
    """What layers belong to whose names have no prefix that says so.

    Args:
        paths: of all layers, with dots.
        model_class: of the adapted model, if known.
    """
    if model_class in _PART_OF_CLASS:
        return _PART_OF_CLASS[model_class]
    modules = {path.partition(".")[0] for path in paths}
    return next((part for module, part in _PART_OF_MODULE.items() if module in modules), MODEL)


@lru_cache(maxsize=1 << 15)
def canonical(part: str, path: str) -> str:
    """A layer's one name, whatever file it came from."""
    name = path.replace(".", "_")
    if part == "unet":
        return _diffusers_name(name)
    return (
        name.removeprefix("text_model_") if part.startswith("text_encoder") else name
    )  # newer CLIPs have no text_model


def other_kind(name: str) -> str | None:
    """The kind of adapter that a tensor's name gives away; None where it tells nothing."""
    return next((kind for mark, kind in _OTHER_KINDS.items() if mark in f"{name}."), None)


def family(base: str) -> str:
    """A base model's name: that of its family where many spellings of it are in use, else as it is."""
    last = base.rstrip("/").replace("\\", "/").removesuffix("/lora").rpartition("/")[2]
    squeezed = re.sub(r"[^a-z0-9]", "", re.sub(r"\.(safetensors|ckpt)$", "", last.lower()))
    return next((name for name, spelling in _FAMILIES.items() if re.fullmatch(spelling, squeezed)), base)


def _key(form: str, part: str, path: str, role: str) -> Key:
    name = canonical(part, path)
    if part == "unet" and name.startswith(_BLOCKS_OF_TRANSFORMERS):
        part = "transformer"
    return Key(form, part, name, path, role)


def _modern(part: str, path: str) -> str:
    """attn1.processor.to_out (U-Net) and self_attn.to_out (text encoder) as the layers that they stand for."""
    path = path.replace(".processor.", ".")
    if part.startswith("text_encoder"):
        return re.sub(r"\.to_(q|k|v|out)$", r".\1_proj", path)
    return re.sub(r"\.to_out$", ".to_out.0", path)


def _diffusers_name(name: str) -> str:
    """A U-Net's layer in the original spelling as diffusers spells it; any other name as it is."""
    if name in _ORIGINAL_LAYERS:
        return _ORIGINAL_LAYERS[name]
    if middle := _ORIGINAL_MIDDLE.fullmatch(name):
        number, rest = int(middle[1]), middle[2]
        return f"mid_block_attentions_0_{rest}" if number == 1 else f"mid_block_{_residual(number // 2, rest)}"
    block = _ORIGINAL_BLOCK.fullmatch(name)
    if not block or (block[1] == "input" and int(block[2]) == 0):
        return name
    side, number, inner, rest = block[1], int(block[2]), int(block[3]), block[4]
    level, place = divmod(number - (side == "input"), _LAYERS_A_LEVEL)
    blocks = f"{'down' if side == 'input' else 'up'}_blocks_{level}"
    if rest in ("op", "conv"):
        return f"{blocks}_{'downsamplers' if side == 'input' else 'upsamplers'}_0_conv"
    return f"{blocks}_attentions_{place}_{rest}" if inner else f"{blocks}_{_residual(place, rest)}"


def _residual(place: int, rest: str) -> str:
    return f"resnets_{place}_{_ORIGINAL_RESIDUAL.get(rest, rest)}"


ALL = "all"

_KINDS = {
    "q": r"(to_q|q_proj|add_q_proj|query)",
    "k": r"(to_k|k_proj|add_k_proj|key)",
    "v": r"(to_v|v_proj|add_v_proj|attn_v|value)",
    "qk": r"attn_qk",
    "qkv": r"(attn|attention)_qkv",
    "out": r"(to_out_0|to_add_out|out_proj|attn_proj)",
    "fc1": r"(mlp_fc1|ff(_context)?_net_0_proj)",
    "fc2": r"(mlp_fc2|ff(_context)?_net_2)",
}
"""What a layer does in its block -> how its name ends."""

_WIDER = {"attention": ("q", "k", "v", "qk", "qkv", "out"), "feed-forward": ("fc1", "fc2")}


def kind(layer: Layer) -> str | None:
    """What the layer does in its block: "q", "fc1", ...; None where its name doesn't tell."""
    return next((kind for kind, ending in _KINDS.items() if re.search(f"(^|_){ending}$", layer.name)), None)


def groups(layers: Sequence[Layer]) -> dict[str, list[int]]:
    """Every group that has layers, with the numbers of its layers; "all" comes first.

    "early" and "late" are the halves of each part, in the order in which its blocks are passed through.
    """
    kinds = [kind(layer) for layer in layers]
    members_of = {ALL: list(range(len(layers)))}
    for name, members in _WIDER.items():
        members_of[name] = [i for i, k in enumerate(kinds) if k in members]
    for name in _KINDS:
        members_of[name] = [i for i, k in enumerate(kinds) if k == name]
    parts = sorted({layer.part for layer in layers})
    members_of["early"] = sorted(i for part in parts for i in _halves(layers, part)[0])
    members_of["late"] = sorted(i for part in parts for i in _halves(layers, part)[1])
    for part in parts if len(parts) > 1 else ():
        members_of[part] = [i for i, layer in enumerate(layers) if layer.part == part]
    return {name: members for name, members in members_of.items() if members}


def _halves(layers: Sequence[Layer], part: str) -> tuple[list[int], list[int]]:
    order = sorted((i for i, layer in enumerate(layers) if layer.part == part), key=lambda i: _depth(layers[i].name))
    return order[: (len(order) + 1) // 2], order[(len(order) + 1) // 2 :]


def _depth(name: str) -> list[tuple[int, str]]:
    """Sorts names as their layers are passed through: numbers by value; down, mid, up are in the alphabet's order."""
    return [(int(text), "") if text.isdecimal() else (-1, text) for text in re.split(r"(\d+)", name)]
