"""What tensors and their layers are called in LoRA files, and a layer's one canonical name here.

Canonical is diffusers' name, '_' for every '.'. What a name means may depend on the others of its file: so a file's
names are read together. Of diffusion transformers: `lorax.atlas.families`; of U-Nets: `lorax.atlas.unet_names`.

Sources: the writers of these files: PEFT, diffusers (loaders/lora_conversion_utils.py), kohya's sd-scripts and
musubi-tuner (networks/), LyCORIS, OneTrainer, ComfyUI (comfy/lora.py).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from lorax.atlas.adapter import Layer
from lorax.atlas.families import Family, Sizes, family_of, names_in, renamed
from lorax.atlas.kinds import ASIDE, ROLES, size_of
from lorax.atlas.tensors import Stored
from lorax.atlas.unet_names import diffusers_name

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

_UNET = re.compile(
    r"(down_blocks|mid_block|up_blocks|input_blocks|middle_block|output_blocks)_|(conv_in|conv_out|out_2)$"
    r"|time_embed_[02]$|label_emb_0_[02]$|(time|add)_embedding_linear_[12]$"
)
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
        part = place.part or (denoiser if place.part == _DENOISER else bare)
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


def outdated(layers: Sequence[Layer]) -> Layer | None:
    """The first layer that has no canonical name, as an older lorax left it in its atlas; None where all have."""
    sizes: dict[str, Sizes | None] = {layer.name: (layer.outputs, layer.inputs) for layer in layers}
    family = family_of(sizes)
    part = _part_of(sizes, family)
    for layer in layers:
        strange = part == "transformer" and layer.part in ("unet", MODEL)
        if strange or (layer.part.startswith("transformer") and family and renamed(family, layer.name) != layer.name):
            return layer
    return None


@lru_cache(maxsize=1 << 15)  # the same names come in every file of a collection
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
    shapes: dict[str, dict[str, tuple[int, ...]]] = defaultdict(dict)
    for name, place in places.items():
        if place.part in (None, _DENOISER, "transformer", "transformer_2"):
            shapes[place.flat][place.role] = tensors[name].shape
    sizes = {flat: size_of(of) for flat, of in shapes.items()}
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
        return diffusers_name(name)
    if part.startswith("transformer") and family:
        return renamed(family, name)
    return name.removeprefix("text_model_") if part.startswith("text_encoder") else name  # newer CLIPs have none


def _redundant(keys: Mapping[str, Key]) -> set[str]:
    """Tensors of transformers' layers that are there in diffusers' spelling, too: as diffusers does, that is taken."""
    spelled = {
        (key.part, key.layer)
        for key in keys.values()
        if key.path.replace(".", "_") == key.layer and key.role not in ("alpha", *ASIDE)
    }
    return {
        name
        for name, key in keys.items()
        if key.part.startswith("transformer")
        and key.path.replace(".", "_") != key.layer
        and all((key.part, each) in spelled for each in names_in(key.layer))
    }


def _modern(part: str, path: str) -> str:
    """attn1.processor.to_out (U-Net) and self_attn.to_out (text encoder) as the layers that they stand for."""
    path = path.replace(".processor.", ".")
    if part.startswith("text_encoder"):
        return re.sub(r"\.to_(q|k|v|out)$", r".\1_proj", path)
    return re.sub(r"\.to_out$", ".to_out.0", path)
