"""Families of diffusion transformers: what their layers are called by those who train them, and by diffusers.

A family's table changes a layer's name, '_' for every '.', into diffusers' name by regular expressions, one after the
other; a name that is diffusers' already stays. A layer that diffusers holds in several is written so:

    x_{to_q|to_k|to_v}           its outputs are theirs, one after the other, as many of each
    x_{to_q|to_k|to_v}@grouped   ... to_q has as many as there are inputs, the others share the rest
    x@swapped                    one layer, but the halves of its outputs change places

`ROWS` has all of these. A line of a table with <a|b> and <c|d> stands for two, with a and c and with b and d.
A new family is a table here, and a line in tests/atlas/test_names.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise

Ranges = tuple[tuple[int, int], ...]
"""Rows of B, from and to."""

Sizes = tuple[int, int]
"""Outputs and inputs."""


@dataclass(frozen=True, eq=False)
class Family:
    """Models of one architecture.

    A file is of the first family that one of its layers is `known_by`, or has the ratio of outputs to inputs that
    `ratios` gives for its name, where names alone don't tell.
    """

    name: str
    known_by: str
    names: tuple[tuple[str, str], ...] = ()
    ratios: tuple[tuple[str, float], ...] = ()

    @cached_property
    def rules(self) -> list[tuple[str, str]]:
        """Its table, a regular expression and what it becomes in each line."""
        return [line for pattern, name in self.names for line in zip(_each(pattern), _each(name), strict=True)]


def _each(text: str) -> list[str]:
    """The texts that one with <a|b> stands for."""
    parts = [part.split("|") if number % 2 else [part] for number, part in enumerate(_CHOICE.split(text))]
    return ["".join(part[i % len(part)] for part in parts) for i in range(max(map(len, parts)))]


_CHOICE = re.compile(r"<([^<>]*\|[^<>]*)>")
_QKV = "{to_q|to_k|to_v}"
_ADDED = "{add_q_proj|add_k_proj|add_v_proj}"
_TIME = "time_text_embed_timestep_embedder_linear_<1|2>"
_NET = "<net_0_proj|net_2>"

_FLUX_BLOCKS = (
    (r"^<double|single>_blocks_(\d+)_(?:processor_)?", r"<|single_>transformer_blocks_\1_"),
    (r"^(transformer_blocks_\d+)_(qkv|proj)_<1|2>$", r"\1_<img|txt>_attn_\2"),  # XLabs
    (r"_img_attn_qkv$", f"_attn_{_QKV}"),
    (r"_txt_attn_qkv$", f"_attn_{_ADDED}"),
    (r"_<img|txt>_attn_proj$", "_attn_<to_out_0|to_add_out>"),
    (r"^<img|txt>_in$", "<x|context>_embedder"),
    (r"^final_layer_linear$", "proj_out"),
    (r"^final_layer_adaLN_modulation_1$", "norm_out_linear@swapped"),
)

# diffusers lora_conversion_utils.py: _convert_non_diffusers_flux2_lora_to_diffusers
_FLUX_2 = Family(
    "flux-2",
    r"_stream_modulation|to_qkv_mlp_proj|_ff(_context)?_linear_(in|out)$|^sformer_blocks",
    (
        *_FLUX_BLOCKS,
        (r"^sformer_blocks", "transformer_blocks"),
        (r"_linear1$", "_attn_to_qkv_mlp_proj"),
        (r"^(single_transformer_blocks_\d+)_linear2$", r"\1_attn_to_out"),
        (r"_img_mlp_<0|2>$", "_ff_linear_<in|out>"),
        (r"_txt_mlp_<0|2>$", "_ff_context_linear_<in|out>"),
        (r"(_stream_modulation(?:_img|_txt)?)_lin$", r"\1_linear"),
        (r"^(time|guidance)_in_<in|out>_layer$", r"time_guidance_embed_\1_embedder_linear_<1|2>"),
        (r"_time_embedder_", "_timestep_embedder_"),
    ),
    ((r"^single_blocks_\d+_linear1$", 9), (r"^single_blocks_\d+_linear2$", 1 / 4), (r"_(img|txt)_mlp_0$", 6)),
)

# The same: _convert_kohya_flux_lora_to_diffusers, ..._xlabs_..., ..._bfl_flux_control_..., ..._hunyuan_video_...; for
# Chroma its checkpoint's conversion
_FLUX = Family(
    "flux-1",
    r"^(double|single)_blocks_\d",
    (
        (r"^txt_in_(.*)_adaLN_modulation_1$", r"txt_in_\1_norm_out_linear"),  # HunyuanVideo's refiner of texts
        (r"^txt_in_t_embedder_mlp_<0|2>$", f"context_embedder_{_TIME}"),
        (r"^txt_in_c_embedder_", "context_embedder_time_text_embed_text_embedder_"),
        (r"^txt_in_input_embedder$", "context_embedder_proj_in"),
        (r"^txt_in_individual_token_refiner_blocks_", "context_embedder_token_refiner_refiner_blocks_"),
        (r"_self_attn_qkv$", f"_attn_{_QKV}"),
        (r"_self_attn_proj$", "_attn_to_out_0"),
        *_FLUX_BLOCKS,
        (r"^(single_transformer_blocks_\d+)_qkv$", rf"\1_attn_{_QKV}"),  # XLabs
        (r"^(single_transformer_blocks_\d+)_proj$", r"\1_proj_out"),
        (r"_linear1$", "_{attn_to_q|attn_to_k|attn_to_v|proj_mlp}@parallel"),
        (r"^(single_transformer_blocks_\d+)_linear2$", r"\1_proj_out"),
        (r"_txt_mlp_(?:<0|2>|fc<1|2>)$", f"_ff_context_{_NET}"),
        (r"(refiner_blocks_\d+|_img)_mlp_(?:<0|2>|fc<1|2>)$", rf"\1_ff_{_NET}"),
        (r"_img_ff_", "_ff_"),
        (r"_<img|txt>_mod_lin(?:ear)?$", "_norm1_<|context_>linear"),
        (r"^(single_transformer_blocks_\d+)_modulation_lin(?:ear)?$", r"\1_norm_linear"),
        (r"^img_in_proj$", "x_embedder_proj"),
        (r"^time_in_(?:<in|out>_layer|mlp_<0|2>)$", _TIME),
        (r"^guidance_in_(?:<in|out>_layer|mlp_<0|2>)$", "time_text_embed_guidance_embedder_linear_<1|2>"),
        (r"^vector_in_<in|out>_layer$", "time_text_embed_text_embedder_linear_<1|2>"),
        (r"^(distilled_guidance_layer_layers_\d+)_<in|out>_layer$", r"\1_linear_<1|2>"),
    ),
)
_CHROMA = Family("chroma", r"^distilled_guidance_layer_", _FLUX.names)
_HUNYUAN_VIDEO = Family(
    "hunyuan-video",
    r"_(img|txt)_mod_linear$|_(img|txt)_mlp_fc[12]$|^single_blocks_\d+_modulation_linear$"
    r"|^(txt_in_individual|context_embedder)_token_refiner_",
    _FLUX.names,
)

# kohya's networks/lora_sd3.py; diffusers scripts/convert_sd3_to_diffusers.py
_SD_3 = Family(
    "sd-3",
    r"^joint_blocks_\d",
    (
        (r"^joint_blocks_(\d+)_", r"transformer_blocks_\1_"),
        (r"_x_block_attn(2?)_qkv$", rf"_attn\1_{_QKV}"),
        (r"_context_block_attn_qkv$", f"_attn_{_ADDED}"),
        (r"_x_block_attn(2?)_proj$", r"_attn\1_to_out_0"),
        (r"_context_block_attn_proj$", "_attn_to_add_out"),
        (r"_x_block_mlp_fc<1|2>$", f"_ff_{_NET}"),
        (r"_context_block_mlp_fc<1|2>$", f"_ff_context_{_NET}"),
        (r"_x_block_adaLN_modulation_1$", "_norm1_linear"),
        (r"_context_block_adaLN_modulation_1$", "_norm1_context_linear@last"),
        (r"^x_embedder_proj$", "pos_embed_proj"),
        (r"^t_embedder_mlp_<0|2>$", _TIME),
        (r"^y_embedder_mlp_<0|2>$", "time_text_embed_text_embedder_linear_<1|2>"),
        (r"^final_layer_linear$", "proj_out"),
        (r"^final_layer_adaLN_modulation_1$", "norm_out_linear@swapped"),
    ),
)

# diffusers: _convert_non_diffusers_wan_lora_to_diffusers, ..._musubi_wan_...
_WAN = Family(
    "wan",
    r"^_?(vace_)?blocks_\d+_((self|cross)_attn_([qkvo]|[kv]_img)|attn[12]_(to_[qkv]|add_[kv]_proj|to_out_0)"
    r"|ffn_(0|2|net_0_proj|net_2))$",
    (
        (r"^_", ""),  # Wan-Fun
        (r"_<self|cross>_attn_([qkv])$", r"_attn<1|2>_to_\1"),
        (r"_<self|cross>_attn_o$", "_attn<1|2>_to_out_0"),
        (r"_cross_attn_([kv])_img$", r"_attn2_add_\1_proj"),
        (r"_ffn_<0|2>$", f"_ffn_{_NET}"),
        (r"^(time|text)_embedding_<0|2>$", r"condition_embedder_\1_embedder_linear_<1|2>"),
        (r"^time_projection_1$", "condition_embedder_time_proj"),
        (r"^img_emb_proj_<1|3>$", f"condition_embedder_image_embedder_ff_{_NET}"),
        (r"^head_head$", "proj_out"),
        (r"^(vace_blocks_\d+)_<before|after>_proj$", r"\1_proj_<in|out>"),
    ),
)

# _convert_non_diffusers_lumina2_lora_to_diffusers: 24 heads, 8 of keys and values
_LUMINA_2 = Family(
    "lumina-2",
    r"(layers|refiner)_\d+_(attn_to_[qkv]|feed_forward_linear_[123]|norm1_linear)$",
    (
        (r"_attention_qkv$", f"_attn_{_QKV}@grouped"),
        (r"_attention_out$", "_attn_to_out_0"),
        (r"_feed_forward_w([123])$", r"_feed_forward_linear_\1"),
        (r"_adaLN_modulation_1$", "_norm1_linear"),
    ),
    ((r"_attention_qkv$", 5 / 3),),
)

# _convert_non_diffusers_ideogram4_lora_to_diffusers
_IDEOGRAM_4 = Family(
    "ideogram-4",
    r"layers_\d+_(attention_o|adaln_modulation)$",
    ((r"_attention_qkv$", f"_attention_{_QKV}"), (r"_attention_o$", "_attention_to_out_0")),
)

# _convert_non_diffusers_z_image_lora_to_diffusers; musubi-tuner's networks/convert_z_image_lora_to_comfy.py
_Z_IMAGE = Family(
    "z-image",
    r"(layers|refiner)_\d+_(attention_(qkv|out|to_[qkv]|to_out_0)|feed_forward_w[123]|adaLN_modulation_[01])$",
    ((r"_attention_qkv$", f"_attention_{_QKV}"), (r"_attention_out$", "_attention_to_out_0")),
)

# _convert_non_diffusers_ace_step_lora_to_diffusers
_ACE_STEP = Family(
    "ace-step",
    r"^layers_\d+_cross_attn_([qkvo]_proj|to_[qkv])$",
    ((r"_([qkv])_proj$", r"_to_\1"), (r"_o_proj$", "_to_out_0")),
)

# _convert_non_diffusers_krea2_lora_to_diffusers
_KREA_2 = Family(
    "krea-2",
    r"^blocks_\d+_attn_(w[qkvo]|gate)$|^transformer_blocks_\d+_(attn_to_gate|ff_gate)$|^txtfusion_",
    (
        (r"^blocks_", "transformer_blocks_"),
        (r"^txtfusion_", "text_fusion_"),
        (r"_attn_w([qkv])$", r"_attn_to_\1"),
        (r"_attn_wo$", "_attn_to_out_0"),
        (r"_attn_gate$", "_attn_to_gate"),
        (r"_mlp_(gate|up|down)$", r"_ff_\1"),
        (r"^first$", "img_in"),
        (r"^last_linear$", "final_layer_linear"),
        (r"^tmlp_<0|2>$", "time_embed_linear_<1|2>"),
        (r"^tproj_1$", "time_mod_proj"),
        (r"^txtmlp_<1|3>$", "txt_in_linear_<1|2>"),
    ),
)

# _convert_non_diffusers_anima_lora_to_diffusers
_ANIMA = Family(
    "anima",
    r"^blocks_\d+_(self|cross)_attn_(q|k|v|output)_proj$|^llm_adapter_",
    (
        (r"^blocks_", "transformer_blocks_"),
        (r"_<self|cross>_attn_([qkv])_proj$", r"_attn<1|2>_to_\1"),
        (r"_<self|cross>_attn_output_proj$", "_attn<1|2>_to_out_0"),
        (r"_mlp_layer<1|2>$", f"_ff_{_NET}"),
        (r"_adaln_modulation_<self_attn|cross_attn|mlp>_([12])$", r"_norm<1|2|3>_linear_\1"),
        (r"^final_layer_adaln_modulation_([12])$", r"norm_out_linear_\1"),
        (r"^final_layer_linear$", "proj_out"),
        (r"^t_embedder_1_", "time_embed_t_embedder_"),
        (r"^x_embedder_proj_1$", "patch_embed_proj"),
    ),
)

# _convert_non_diffusers_minimax_h3_lora_to_diffusers; who writes ".default." has each head's q, k and v together
_MINIMAX_H3 = Family(
    "minimax-h3",
    r"blocks_\d+_attn_qkv_proj$",
    (
        (r"^blocks_", "transformer_blocks_"),
        (r"^token_refiner_blocks_", "token_refiner_refiner_blocks_"),
        (r"_attn_qkv_proj$", f"_attn_{_QKV}"),
        (r"_attn_out_proj$", "_attn_to_out_0"),
        (r"_mlp_fc1$", "_ff_net_0_proj@swapped"),
        (r"_mlp_fc2$", "_ff_net_2"),
        (r"^(video_)?patch_proj$", "proj_in"),
        (r"^audio_patch_proj$", "audio_proj_in"),
        (r"^condition_proj$", "context_embedder"),
        (r"^time_embedder_proj_<in|out>$", "time_embedder_linear_<1|2>"),
        (r"^final_layer_adaln_proj_linear$", "norm_out_linear"),
        (r"^final_layer_<video|audio>_out$", "<|audio_>proj_out"),
    ),
)
_MINIMAX_H3_BY_HEAD = Family(
    "minimax-h3",
    r"blocks_\d+_attn_qkv_proj default$",
    ((r"_attn_qkv_proj$", f"_attn_{_QKV}@heads"), *_MINIMAX_H3.names),
)

# _convert_non_diffusers_ltx2_lora_to_diffusers
_LTX = Family(
    "ltx",
    r"^(audio_)?patchify_proj$|^av_ca_|^audio_adaln_single",
    (
        (r"^patchify_proj$", "proj_in"),
        (r"^audio_patchify_proj$", "audio_proj_in"),
        (r"^av_ca_(video|audio)_scale_shift_adaln_single_", r"av_cross_attn_\1_scale_shift_"),
        (r"^av_ca_<a2v|v2a>_gate_adaln_single_", "av_cross_attn_<video_a2v|audio_v2a>_gate_"),
        (r"^(audio_)?prompt_adaln_single_", r"\1prompt_adaln_"),
        (r"^(audio_)?adaln_single_", r"\1time_embed_"),
    ),
)

# Those whose trainers use diffusers' names
_HIDREAM = Family("hidream", r"^(double|single)_stream_blocks_\d")
_QWEN_IMAGE = Family("qwen-image", r"^transformer_blocks_\d+_(img|txt)_(mlp_net_|mod_1$)")

FAMILIES = (
    _FLUX_2, _CHROMA, _HUNYUAN_VIDEO, _FLUX, _SD_3, _WAN, _LUMINA_2, _IDEOGRAM_4, _Z_IMAGE, _ACE_STEP, _KREA_2, _ANIMA,
    _MINIMAX_H3_BY_HEAD, _MINIMAX_H3, _LTX, _HIDREAM, _QWEN_IMAGE,
)  # fmt: skip
"""In the order in which a file's layers are looked for in them."""


def family_of(sizes: Mapping[str, Sizes | None], *, default: bool = False) -> Family | None:
    """The family of a file's diffusion transformer; None where its layers' names are of none.

    Args:
        sizes: by a layer's name, '_' for every '.'; None where they are not known.
        default: whether tensors' names say that theirs is PEFT's adapter "default".
    """
    lines = "".join(f"{name}{' default' if default and name.endswith('_qkv_proj') else ''}\n" for name in sizes)
    for family in FAMILIES:
        if re.search(family.known_by, lines, re.MULTILINE) or any(
            given and re.search(pattern, name) and abs(given[0] - ratio * given[1]) < 1
            for pattern, ratio in family.ratios
            for name, given in sizes.items()
        ):
            return family
    return None


@lru_cache(maxsize=1 << 15)  # the same names come in every file of a collection
def renamed(family: Family, name: str) -> str:
    """A layer's name as the family's table gives it."""
    for pattern, replacement in family.rules:
        name = re.sub(pattern, replacement, name)
    return name


def _in_order(sizes: Iterable[int]) -> list[Ranges]:
    ends = [0]
    for size in sizes:
        ends.append(ends[-1] + size)
    return [(pair,) for pair in pairwise(ends)]


def _equal(outputs: int, inputs: int, count: int) -> list[Ranges]:
    return _in_order([outputs // count] * count)


def _swapped(outputs: int, inputs: int, count: int) -> list[Ranges]:
    if outputs % 2:
        return []
    return [((outputs // 2, outputs), (0, outputs // 2))]


def _heads(outputs: int, inputs: int, count: int) -> list[Ranges]:
    wide = 128  # of a head, in every released model
    if outputs % (count * wide):
        return []
    return [
        tuple((start, start + wide) for start in range(which * wide, outputs, count * wide)) for which in range(count)
    ]


ROWS: Mapping[str, Callable[[int, int, int], list[Ranges]]] = {
    "": _equal,
    "grouped": lambda outputs, inputs, _: _in_order([inputs, *[(outputs - inputs) // 2] * 2]),
    "parallel": lambda outputs, inputs, _: _in_order([inputs] * 3 + [outputs - 3 * inputs]),
    "swapped": _swapped,
    "last": lambda *sizes: _swapped(*sizes) if sizes[0] == 2 * sizes[1] else _equal(*sizes),  # SD 3's last block
    "heads": _heads,
}
"""How a layer's outputs are parted: for outputs, inputs and the number of parts, the rows of each, or none."""


@lru_cache(maxsize=1 << 15)
def names_in(name: str) -> list[str]:
    """The layers that a layer holds in itself, as `renamed` gives it."""
    before, _, inside = name.partition("@")[0].partition("{")
    return [before + each for each in inside.removesuffix("}").split("|")]


def parts_of(name: str, outputs: int, inputs: int) -> list[tuple[str, Ranges]]:
    """The layers that a layer holds in itself, as `renamed` gives it, and the rows of B that are each one's.

    Raises:
        ValueError: its outputs can't be parted so.
    """
    names, rule = names_in(name), name.partition("@")[2]
    rows = ROWS[rule](outputs, inputs, len(names))
    sizes = [stop - start for ranges in rows for start, stop in ranges]
    if sum(sizes) != outputs or min(sizes, default=0) < 1:
        raise ValueError(f"{outputs} outputs can't be those of {' and '.join(names)}")
    return list(zip(names, rows, strict=True))
