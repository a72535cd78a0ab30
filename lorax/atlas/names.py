"""What tensors and their layers are called in LoRA files, and a layer's one canonical name here.

Canonical is diffusers' name, '_' for every '.'. What a name means may depend on the others of its file: so a file's
names are read together.

Sources: the writers of these files: PEFT, diffusers (loaders/lora_conversion_utils.py), kohya's sd-scripts and
musubi-tuner (networks/), LyCORIS, OneTrainer, ComfyUI (comfy/lora.py); the two spellings of a U-Net's blocks: diffusers
against Stability AI's generative-models. Of diffusion transformers: `lorax.atlas.families`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import NamedTuple

from lorax.atlas.families import Family, Sizes, family_of, names_in, renamed
from lorax.atlas.kinds import ROLES
from lorax.atlas.tensors import Stored

PEFT_PREFIX = "base_model.model."
"""Of every tensor in PEFT's files."""

MODEL = "model"
"""The part of a layer whose name doesn't tell what it belongs to."""

_ROLES = {
    ".lora_A.weight": "A", ".lora_B.weight": "B",
    ".lora_A.default.weight": "A", ".lora_B.default.weight": "B",
    ".lora_A": "A", ".lora_B": "B",
    ".lora_down.weight": "A", ".lora_up.weight": "B",
    ".lora.down.weight": "A", ".lora.up.weight": "B",
    ".lora_linear_layer.down.weight": "A", ".lora_linear_layer.up.weight": "B",
    "_lora.down.weight": "A", "_lora.up.weight": "B",
    ".alpha": "alpha", **ROLES,
}  # fmt: skip
"""How a tensor's name ends -> what it is of its layer."""

_OLD = "_lora."
"""In the last-but-one spelling, where the factors belonged to an attention's processor."""

_XLABS = re.compile(r"_lora([12])\.(down|up)\.weight$")
"""1 is the images' half of a block, 2 the texts'."""

_DENOISER = ""
"""The part of a prefix that U-Nets and diffusion transformers have alike."""

_KOHYA_PARTS = {
    "lora_unet_": _DENOISER, "lycoris_": _DENOISER, "lora_transformer_": "transformer",
    "lora_te_": "text_encoder", "lora_te1_": "text_encoder",
    "lora_te2_": "text_encoder_2", "lora_te3_": "text_encoder_3",
    "lora_prior_unet_": "prior", "lora_prior_te_": "text_encoder",
}  # fmt: skip
_DIFFUSERS_PARTS = {
    "diffusion_model.": _DENOISER, "unet.": "unet",
    "transformer.": "transformer", "transformer_2.": "transformer_2", "conditional_transformer.": "transformer",
    "text_encoder.": "text_encoder", "text_encoder_2.": "text_encoder_2", "text_encoder_3.": "text_encoder_3",
    "text_encoders.clip_g.transformer.": "text_encoder_2", "text_encoders.t5xxl.transformer.": "text_encoder_3",
}  # fmt: skip
_COMFY_TEXT = re.compile(r"text_encoders\.\w+\.transformer\.")

_UNET = re.compile(r"(down_blocks|mid_block|up_blocks|input_blocks|middle_block|output_blocks)_")
_TEXT = re.compile(r"text_model_")
_TRANSFORMER = re.compile(
    r"(single_)?transformer_blocks_|.*_(attn\d?|attention)_(to_[qkv]|add_[qkv]_proj|to_out_0|to_add_out)$"
    r"|.*_ffn?_net_(0_proj|2)$"
)
"""How the canonical names of their layers begin, or end."""

_CLASSES = {
    r"UNet.*": "unet",
    r"CLIPText.*|T5Encoder.*|UMT5.*": "text_encoder",
    r".*Transformer\w*Model": "transformer",
}

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


@dataclass(frozen=True)
class Key:
    """What a tensor's name says.

    `role` is what it is of its layer, one of `_ROLES`; `part` and `layer` name its layer canonically, a layer that
    diffusers holds in several as `families` writes it; `path` is that in the file, where dots were kept; `format` is
    "diffusers", "kohya" or "peft".
    """

    format: str
    part: str
    layer: str
    path: str
    role: str


class FileKeys(NamedTuple):
    """What the names of a file's tensors say: by name, without those that say one thing a second time."""

    keys: dict[str, Key]
    redundant: set[str]
    family: Family | None


class _Place(NamedTuple):
    format: str
    part: str | None  # None where no prefix tells it
    path: str
    role: str

    @property
    def flat(self) -> str:
        return self.path.replace(".", "_")


@lru_cache(maxsize=1 << 15)  # the same names come in every file of a collection
def split(name: str) -> tuple[str, str] | None:
    """A tensor's name as its layer's path and its role there; None where it is no LoRA's."""
    name = _XLABS.sub(r"_\1.lora.\2.weight", name)
    for ending, role in _ROLES.items():
        if name.endswith(ending) and len(name) > len(ending):
            return name.removesuffix(ending), role
    return None


def single_file_keys(tensors: Mapping[str, Stored], *, is_own: bool = False) -> FileKeys:
    """What the names of a single file's tensors say, of those that are a LoRA's and of a known part.

    Args:
        tensors: by name.
        is_own: whether the file is a diffusion model's own, so that names need no prefix.
    """
    places = {name: place for name in tensors if (place := _place(name)) is not None}
    family = _family(tensors, places)
    flats = [place.flat for place in places.values() if not place.part]
    denoiser = "unet" if any(map(_UNET.match, flats)) else "transformer"
    bare = denoiser if is_own else _part_of(flats, family)
    keys = {}
    for name, place in places.items():
        part = (bare if place.part is None else denoiser) if not place.part else place.part
        if not place.part and _TEXT.match(place.flat):
            part = "text_encoder"
        if part != MODEL:
            path = _modern(part, place.path) if _OLD in name else place.path
            keys[name] = Key(place.format, part, _canonical(part, path, family), path, place.role)
    redundant = _redundant(keys)
    return FileKeys({name: key for name, key in keys.items() if name not in redundant}, redundant, family)


def peft_keys(tensors: Mapping[str, Stored], model_class: str | None = None) -> FileKeys:
    """What the names of a PEFT folder's tensors say, of those that are its factors.

    Args:
        tensors: by name.
        model_class: of the adapted model, if known.
    """
    places = {
        name: _Place("peft", None, *found)
        for name in tensors
        if name.startswith(PEFT_PREFIX) and (found := split(name.removeprefix(PEFT_PREFIX))) and found[1] != "alpha"
    }
    family = _family(tensors, places)
    of_class = next((part for known, part in _CLASSES.items() if re.fullmatch(known, model_class or "")), None)
    part = of_class or _part_of([place.flat for place in places.values()], family)
    keys = {
        name: Key("peft", part, _canonical(part, path, family), path, role)
        for name, (_, _, path, role) in places.items()
    }
    return FileKeys(keys, set(), family)


@lru_cache(maxsize=1 << 15)
def _place(name: str) -> _Place | None:
    split_name = split(name)
    if split_name is None:
        return None
    path, role = split_name
    for prefix, part in _KOHYA_PARTS.items():
        if path.startswith(prefix):
            return _Place("kohya", part, path.removeprefix(prefix), role)
    path = path.removeprefix(PEFT_PREFIX)
    for prefix, part in _DIFFUSERS_PARTS.items():
        if path.startswith(prefix):
            return _Place("diffusers", part, path.removeprefix(prefix).removeprefix(PEFT_PREFIX), role)
    if comfy := _COMFY_TEXT.match(path):
        return _Place("diffusers", "text_encoder", path[comfy.end() :], role)
    return _Place("diffusers", None, path, role)


def _family(tensors: Mapping[str, Stored], places: Mapping[str, _Place]) -> Family | None:
    sizes: dict[str, Sizes | None] = {}
    ends: dict[str, int] = {}
    for name, place in places.items():
        if place.part in (None, _DENOISER, "transformer", "transformer_2"):
            flat, shape = place.flat, tensors[name].shape
            if place.role in ("A", "B") and shape:
                ends[flat + place.role] = shape[0] if place.role == "B" else prod(shape[1:])
            outputs, inputs = ends.get(flat + "B"), ends.get(flat + "A")
            sizes[flat] = None if outputs is None or inputs is None else (outputs, inputs)
    return family_of(sizes, default=any(".default." in name for name in places))


def _part_of(flats: Iterable[str], family: Family | None) -> str:
    """What layers belong to whose names have no prefix that says so."""
    names = list(flats)
    for pattern, part in ((_UNET, "unet"), (_TEXT, "text_encoder"), (_TRANSFORMER, "transformer")):
        if any(map(pattern.match, names)):
            return part
    return "transformer" if family else MODEL


@lru_cache(maxsize=1 << 15)
def _canonical(part: str, path: str, family: Family | None) -> str:
    """A layer's one name, whatever file it came from."""
    name = path.replace(".", "_")
    if part in ("unet", "prior"):
        return _diffusers_name(name)
    if part.startswith("transformer") and family:
        return renamed(family, name)
    return name.removeprefix("text_model_") if part.startswith("text_encoder") else name  # newer CLIPs have none


def _redundant(keys: Mapping[str, Key]) -> set[str]:
    """Tensors whose layers the file holds in diffusers' spelling, too: as diffusers does, that one is taken."""
    spelled = {(key.part, key.layer) for key in keys.values() if key.path.replace(".", "_") == key.layer}
    return {
        name
        for name, key in keys.items()
        if key.path.replace(".", "_") != key.layer and all((key.part, each) in spelled for each in names_in(key.layer))
    }


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
