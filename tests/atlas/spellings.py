"""One LoRA of a diffusion transformer in diffusers' spelling and in those of other writers, with tiny layers.

A table has a family's layers as diffusers has them, those that another spelling holds in one together, and beside them
the name there; '~' before it: with the halves of its outputs in the other order. Sources: `lorax.atlas.families`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor

H = 6
"""How wide a model is."""

RANK = 2


class Rows(NamedTuple):
    """Layers of diffusers' that have A in common."""

    names: tuple[str, ...]
    outputs: tuple[int, ...]
    inputs: int = H


def _rows(stem: str, names: str = "", outputs: Sequence[int] = (), inputs: int = H) -> Rows:
    """Layers whose names begin with `stem`: to_q, to_k and to_v, or as `names` has them."""
    all_names = tuple(stem + name for name in names.split()) or (stem,)
    return Rows(all_names, tuple(outputs) or (H,) * len(all_names), inputs)


_Q, _ADDED = "to_q to_k to_v", "add_q_proj add_k_proj add_v_proj"

_FLUX = {
    _rows("transformer_blocks.0.attn.", _Q): "double_blocks.0.img_attn.qkv",
    _rows("transformer_blocks.0.attn.", _ADDED): "double_blocks.0.txt_attn.qkv",
    _rows("transformer_blocks.0.attn.to_out.0"): "double_blocks.0.img_attn.proj",
    _rows("transformer_blocks.0.attn.to_add_out"): "double_blocks.0.txt_attn.proj",
    _rows("transformer_blocks.0.ff.net.0.proj", outputs=[4 * H]): "double_blocks.0.img_mlp.0",
    _rows("transformer_blocks.0.ff_context.net.2", inputs=4 * H): "double_blocks.0.txt_mlp.2",
    _rows("transformer_blocks.0.norm1.linear", outputs=[6 * H]): "double_blocks.0.img_mod.lin",
    _rows("transformer_blocks.0.norm1_context.linear", outputs=[6 * H]): "double_blocks.0.txt_mod.lin",
    _rows("single_transformer_blocks.0.", "attn.to_q attn.to_k attn.to_v proj_mlp", (H, H, H, 4 * H)):
        "single_blocks.0.linear1",
    _rows("single_transformer_blocks.0.proj_out", inputs=5 * H): "single_blocks.0.linear2",
    _rows("single_transformer_blocks.0.norm.linear", outputs=[3 * H]): "single_blocks.0.modulation.lin",
    _rows("x_embedder", inputs=4): "img_in",
    _rows("context_embedder", inputs=4): "txt_in",
    _rows("time_text_embed.timestep_embedder.linear_1"): "time_in.in_layer",
    _rows("time_text_embed.text_embedder.linear_2"): "vector_in.out_layer",
    _rows("time_text_embed.guidance_embedder.linear_1"): "guidance_in.in_layer",
    _rows("norm_out.linear", outputs=[2 * H]): "~final_layer.adaLN_modulation.1",
    _rows("proj_out", outputs=[4]): "final_layer.linear",
}  # fmt: skip
_XLABS = {
    _rows("transformer_blocks.0.attn.", _Q): "double_blocks.0.processor.qkv_lora1",
    _rows("transformer_blocks.0.attn.", _ADDED): "double_blocks.0.processor.qkv_lora2",
    _rows("transformer_blocks.0.attn.to_out.0"): "double_blocks.0.processor.proj_lora1",
    _rows("transformer_blocks.0.attn.to_add_out"): "double_blocks.0.processor.proj_lora2",
    _rows("single_transformer_blocks.0.attn.", _Q): "single_blocks.0.processor.qkv_lora",
    _rows("single_transformer_blocks.0.proj_out", inputs=5 * H): "single_blocks.0.processor.proj_lora",
}
_FLUX_2 = {
    _rows("transformer_blocks.0.attn.", _Q): "double_blocks.0.img_attn.qkv",
    _rows("transformer_blocks.0.attn.to_add_out"): "double_blocks.0.txt_attn.proj",
    _rows("transformer_blocks.0.ff.linear_in", outputs=[6 * H]): "double_blocks.0.img_mlp.0",
    _rows("transformer_blocks.0.ff_context.linear_out", inputs=3 * H): "double_blocks.0.txt_mlp.2",
    _rows("single_transformer_blocks.0.attn.to_qkv_mlp_proj", outputs=[9 * H]): "single_blocks.0.linear1",
    _rows("single_transformer_blocks.0.attn.to_out", inputs=4 * H): "single_blocks.0.linear2",
    _rows("time_guidance_embed.timestep_embedder.linear_1"): "time_in.in_layer",
    _rows("double_stream_modulation_img.linear", outputs=[6 * H]): "double_stream_modulation_img.lin",
}
_CHROMA = dict(list(_FLUX.items())[:6]) | {
    _rows("distilled_guidance_layer.layers.0.linear_1"): "distilled_guidance_layer.layers.0.in_layer",
    _rows("distilled_guidance_layer.layers.0.linear_2"): "distilled_guidance_layer.layers.0.out_layer",
}
_REFINER = "context_embedder.token_refiner.refiner_blocks.0."
_HUNYUAN_VIDEO = {
    _rows("transformer_blocks.0.attn.", _Q): "double_blocks.0.img_attn_qkv",
    _rows("transformer_blocks.0.attn.", _ADDED): "double_blocks.0.txt_attn_qkv",
    _rows("transformer_blocks.0.attn.to_out.0"): "double_blocks.0.img_attn_proj",
    _rows("transformer_blocks.0.ff.net.0.proj", outputs=[4 * H]): "double_blocks.0.img_mlp.fc1",
    _rows("transformer_blocks.0.ff_context.net.2", inputs=4 * H): "double_blocks.0.txt_mlp.fc2",
    _rows("transformer_blocks.0.norm1.linear", outputs=[6 * H]): "double_blocks.0.img_mod.linear",
    _rows("single_transformer_blocks.0.", "attn.to_q attn.to_k attn.to_v proj_mlp", (H, H, H, 4 * H)):
        "single_blocks.0.linear1",
    _rows("single_transformer_blocks.0.norm.linear", outputs=[3 * H]): "single_blocks.0.modulation.linear",
    _rows(f"{_REFINER}attn.", _Q): "txt_in.individual_token_refiner.blocks.0.self_attn_qkv",
    _rows(f"{_REFINER}attn.to_out.0"): "txt_in.individual_token_refiner.blocks.0.self_attn_proj",
    _rows(f"{_REFINER}ff.net.2", inputs=4 * H): "txt_in.individual_token_refiner.blocks.0.mlp.fc2",
    _rows(f"{_REFINER}norm_out.linear", outputs=[2 * H]):
        "txt_in.individual_token_refiner.blocks.0.adaLN_modulation.1",
    _rows("time_text_embed.timestep_embedder.linear_1"): "time_in.mlp.0",
    _rows("norm_out.linear", outputs=[2 * H]): "~final_layer.adaLN_modulation.1",
}  # fmt: skip
_SD_3 = {
    _rows("transformer_blocks.0.attn.", _Q): "joint_blocks.0.x_block.attn.qkv",
    _rows("transformer_blocks.0.attn.", _ADDED): "joint_blocks.0.context_block.attn.qkv",
    _rows("transformer_blocks.0.attn.to_out.0"): "joint_blocks.0.x_block.attn.proj",
    _rows("transformer_blocks.0.attn.to_add_out"): "joint_blocks.0.context_block.attn.proj",
    _rows("transformer_blocks.0.attn2.", _Q): "joint_blocks.0.x_block.attn2.qkv",
    _rows("transformer_blocks.0.ff.net.0.proj", outputs=[4 * H]): "joint_blocks.0.x_block.mlp.fc1",
    _rows("transformer_blocks.0.ff_context.net.2", inputs=4 * H): "joint_blocks.0.context_block.mlp.fc2",
    _rows("transformer_blocks.0.norm1.linear", outputs=[6 * H]): "joint_blocks.0.x_block.adaLN_modulation.1",
    _rows("transformer_blocks.0.norm1_context.linear", outputs=[6 * H]):
        "joint_blocks.0.context_block.adaLN_modulation.1",
    _rows("transformer_blocks.1.norm1_context.linear", outputs=[2 * H]):
        "~joint_blocks.1.context_block.adaLN_modulation.1",
}  # fmt: skip
_WAN = {
    _rows(f"blocks.0.{ours}"): f"blocks.0.{theirs}"
    for ours, theirs in {
        "attn1.to_q": "self_attn.q", "attn1.to_out.0": "self_attn.o", "attn2.to_k": "cross_attn.k",
        "attn2.add_k_proj": "cross_attn.k_img", "attn2.add_v_proj": "cross_attn.v_img", "ffn.net.0.proj": "ffn.0",
        "ffn.net.2": "ffn.2",
    }.items()
} | {
    _rows("condition_embedder.time_embedder.linear_1"): "time_embedding.0",
    _rows("condition_embedder.text_embedder.linear_2"): "text_embedding.2",
    _rows("condition_embedder.time_proj"): "time_projection.1",
    _rows("proj_out"): "head.head",
}  # fmt: skip
_Z_IMAGE = {
    _rows("layers.0.attention.", _Q): "layers.0.attention.qkv",
    _rows("noise_refiner.0.attention.", _Q): "noise_refiner.0.attention.qkv",
    _rows("layers.0.attention.to_out.0"): "layers.0.attention.out",
    _rows("layers.0.feed_forward.w1", outputs=[3 * H]): "layers.0.feed_forward.w1",
}
_LUMINA_2 = {
    _rows("layers.0.attn.", _Q, (H, H // 3, H // 3)): "layers.0.attention.qkv",
    _rows("layers.0.attn.to_out.0"): "layers.0.attention.out",
    _rows("layers.0.feed_forward.linear_1", outputs=[3 * H]): "layers.0.feed_forward.w1",
    _rows("layers.0.norm1.linear", outputs=[4 * H]): "layers.0.adaLN_modulation.1",
}
_IDEOGRAM_4 = {
    _rows("layers.0.attention.", _Q): "layers.0.attention.qkv",
    _rows("layers.0.attention.to_out.0"): "layers.0.attention.o",
    _rows("layers.0.feed_forward.w3", outputs=[3 * H]): "layers.0.feed_forward.w3",
}
_KREA_2 = {
    _rows(f"transformer_blocks.0.{ours}"): f"blocks.0.{theirs}"
    for ours, theirs in {"attn.to_q": "attn.wq", "attn.to_out.0": "attn.wo", "attn.to_gate": "attn.gate",
                         "ff.up": "mlp.up"}.items()
} | {_rows("text_fusion.projector"): "txtfusion.projector"}  # fmt: skip
_ANIMA = {
    _rows(f"transformer_blocks.0.{ours}"): f"blocks.0.{theirs}"
    for ours, theirs in {"attn1.to_q": "self_attn.q_proj", "attn2.to_out.0": "cross_attn.output_proj",
                         "ff.net.0.proj": "mlp.layer1"}.items()
}  # fmt: skip
_ACE_STEP = {
    _rows("layers.0.self_attn.to_q"): "layers.0.self_attn.q_proj",
    _rows("layers.0.cross_attn.to_out.0"): "layers.0.cross_attn.o_proj",
    _rows("layers.0.cross_attn.to_v"): "layers.0.cross_attn.v_proj",
}
_HEADS = 2 * 128
_MINIMAX_H3 = {
    _rows("transformer_blocks.0.attn.", _Q, (_HEADS,) * 3): "blocks.0.attn.qkv_proj",
    _rows("transformer_blocks.0.attn.to_out.0", inputs=_HEADS): "blocks.0.attn.out_proj",
    _rows("transformer_blocks.0.ff.net.0.proj", outputs=[8 * H]): "~blocks.0.mlp.fc1",
}
_LTX = {_rows("proj_in"): "patchify_proj", _rows("transformer_blocks.0.attn1.to_q"): "transformer_blocks.0.attn1.to_q"}
_HIDREAM = {_rows("double_stream_blocks.0.block.attn1.to_q"): "double_stream_blocks.0.block.attn1.to_q"}
_QWEN = {
    _rows(f"transformer_blocks.0.{name}"): f"transformer_blocks.0.{name}"
    for name in ("attn.to_q", "attn.add_q_proj", "attn.to_out.0", "attn.to_add_out", "img_mlp.net.0.proj", "txt_mod.1")
}

Table = Mapping[Rows, str]

SPELLINGS: dict[str, tuple[Table, str, str]] = {
    "Flux, kohya": (_FLUX, "lora_unet_", "kohya"),
    "Flux, Comfy": (_FLUX, "diffusion_model.", "lora_A"),
    "Flux, BFL": (_FLUX, "", "lora_A"),
    "Flux, fal": (_FLUX, "base_model.model.", "lora_A"),
    "Flux, XLabs": (_XLABS, "", "plain"),
    "Flux, XLabs in Comfy": (_XLABS, "diffusion_model.", "plain"),
    "Flux.2, ai-toolkit": (_FLUX_2, "diffusion_model.", "lora_A"),
    "Flux.2, kohya": (_FLUX_2, "lora_unet_", "kohya"),
    "Chroma, kohya": (_CHROMA, "lora_unet_", "kohya"),
    "Chroma, ai-toolkit": (_CHROMA, "diffusion_model.", "lora_A"),
    "HunyuanVideo, transformer.": (_HUNYUAN_VIDEO, "transformer.", "lora_A"),
    "HunyuanVideo, musubi": (_HUNYUAN_VIDEO, "lora_unet_", "kohya"),
    "SD 3, kohya": (_SD_3, "lora_unet_", "kohya"),
    "Wan, Comfy": (_WAN, "diffusion_model.", "lora_A"),
    "Wan, musubi": (_WAN, "lora_unet_", "kohya"),
    "Wan-Fun": (_WAN, "lora_unet__", "kohya"),
    "Wan, bare": (_WAN, "", "default"),
    "Qwen-Image, musubi": (_QWEN, "lora_unet_", "kohya"),
    "Qwen-Image, Comfy": (_QWEN, "diffusion_model.", "lora_A"),
    "Qwen-Image, bare": (_QWEN, "", "default"),
    "Z-Image, ai-toolkit": (_Z_IMAGE, "diffusion_model.", "lora_A"),
    "Z-Image, musubi": (_Z_IMAGE, "lora_unet_", "kohya"),
    "Lumina 2, Comfy": (_LUMINA_2, "diffusion_model.", "lora_A"),
    "Lumina 2, kohya": (_LUMINA_2, "lora_unet_", "kohya"),
    "HiDream, ai-toolkit": (_HIDREAM, "diffusion_model.", "lora_A"),
    "HiDream, SimpleTuner": (_HIDREAM, "lycoris_", "kohya"),
    "Krea 2": (_KREA_2, "diffusion_model.", "lora_A"),
    "Krea 2, ai-toolkit": (_KREA_2, "base_model.model.", "lora_A"),
    "Anima": (_ANIMA, "diffusion_model.", "lora_A"),
    "Ideogram 4": (_IDEOGRAM_4, "conditional_transformer.", "lora_A"),
    "Ideogram 4, musubi": (_IDEOGRAM_4, "lora_unet_", "kohya"),
    "MiniMax H3": (_MINIMAX_H3, "", "lora_A"),
    "MiniMax H3, DiffSynth": (_MINIMAX_H3, "", "heads"),
    "ACE-Step": (_ACE_STEP, "base_model.model.", "lora_A"),
    "LTX": (_LTX, "diffusion_model.", "lora_A"),
}
"""Family and writer -> its layers' names, what they begin with, and how the factors' names end."""

_ENDS = {
    "kohya": (".lora_down.weight", ".lora_up.weight"),
    "lora_A": (".lora_A.weight", ".lora_B.weight"),
    "default": (".lora_A.default.weight", ".lora_B.default.weight"),
    "heads": (".lora_A.default.weight", ".lora_B.default.weight"),
    "plain": (".down.weight", ".up.weight"),
}


def write_both(folder: Path, what: str, *, seed: int = 0) -> tuple[Path, Path]:
    """One LoRA as diffusers writes it, and in another spelling, with alpha where that has it."""
    table, prefix, style = SPELLINGS[what]
    draw, ours, theirs = torch.Generator().manual_seed(seed), {}, {}
    down, up = _ENDS[style]
    for rows, name in table.items():
        a = torch.randn(RANK, rows.inputs, generator=draw)
        bs = [torch.randn(size, RANK, generator=draw) for size in rows.outputs]
        for each, b in zip(rows.names, bs, strict=True):
            ours |= {f"transformer.{each}.lora_A.weight": a.clone(), f"transformer.{each}.lora_B.weight": b}
        path = name.removeprefix("~").replace(".", "_") if style == "kohya" else name.removeprefix("~")
        whole = _by_head(bs) if style == "heads" and len(bs) > 1 else torch.cat(bs)
        whole = torch.cat(whole.chunk(2)[::-1]) if name.startswith("~") else whole
        theirs |= {f"{prefix}{path}{down}": a, f"{prefix}{path}{up}": whole}
        if style == "kohya":
            theirs[f"{prefix}{path}.alpha"] = torch.tensor(float(RANK))
    return _save(folder / "diffusers.safetensors", ours), _save(folder / "other.safetensors", theirs)


def write_stacked(path: Path, *, apart: bool = True) -> dict[str, tuple[Tensor, Tensor]]:
    """A kohya file of Flux whose q, k and v were trained apart, and are stacked; and its three layers' A and B.

    Args:
        path: of the file.
        apart: otherwise B isn't zero outside its blocks.
    """
    draw = torch.Generator().manual_seed(0)
    pairs = [(torch.randn(RANK, H, generator=draw), torch.randn(H, RANK, generator=draw)) for _ in "qkv"]
    b = torch.block_diag(*(b for _, b in pairs)) + (0 if apart else 0.5)
    proj = "lora_unet_double_blocks_0_img_attn_proj"
    qkv = "lora_unet_double_blocks_0_img_attn_qkv"
    tensors = {
        f"{qkv}.lora_down.weight": torch.cat([a for a, _ in pairs]), f"{qkv}.lora_up.weight": b,
        f"{qkv}.alpha": torch.tensor(3.0 * RANK),
        f"{proj}.lora_down.weight": pairs[0][0].clone(), f"{proj}.lora_up.weight": pairs[0][1].clone(),
        f"{proj}.alpha": torch.tensor(float(RANK)),
    }  # fmt: skip
    _save(path, tensors)
    return {f"transformer_blocks_0_attn_to_{name}": pair for name, pair in zip("qkv", pairs, strict=True)}


def _by_head(bs: Sequence[Tensor]) -> Tensor:
    """Each head's q, k and v together, of heads 128 wide."""
    return torch.cat([piece for head in zip(*(b.split(128) for b in bs), strict=True) for piece in head])


def _save(path: Path, tensors: Mapping[str, Tensor]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    return path
