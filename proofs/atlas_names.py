"""Ninety spellings of LoRA files: which are read, as what, and why the others are not; and one LoRA in two spellings.

The spellings are those of the writers that `lorax.atlas.names` and `lorax.atlas.families` name, one for each thing that
differs: a prefix, a family's layer, an end of a tensor's name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors.torch import save_file

from lorax.atlas.comparing import compare_factors
from lorax.atlas.families import names_in
from lorax.atlas.formats import read_adapter
from lorax.errors import AdapterError
from tests.atlas.files import convolution, weights, write_diffusers, write_kohya, write_peft
from tests.atlas.spellings import SPELLINGS, write_both

H, RANK = 8, 2

LEAST_READ, LEAST_COSINE = 80, 0.999

_PAIRS = {
    "kohya": (".lora_down.weight", ".lora_up.weight"),
    "peft": (".lora_A.weight", ".lora_B.weight"),
    "default": (".lora_A.default.weight", ".lora_B.default.weight"),
    "bare": (".lora_A", ".lora_B"),
    "dots": (".lora.down.weight", ".lora.up.weight"),
    "linear": (".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight"),
    "old": ("_lora.down.weight", "_lora.up.weight"),
    "plain": (".down.weight", ".up.weight"),
}
"""Style -> how the names of A and B end."""

Shapes = dict[str, tuple[int, ...]]
_LORA: Shapes = {"lora_down.weight": (RANK, H), "lora_up.weight": (H, RANK)}
_PEFT: Shapes = {"lora_A.weight": (RANK, H), "lora_B.weight": (H, RANK)}
_KINDS: dict[str, Shapes] = {
    "Tucker": {
        "lora_down.weight": (RANK, H, 1, 1),
        "lora_up.weight": (H, RANK, 1, 1),
        "lora_mid.weight": (RANK, RANK, 3, 3),
    },
    "LoHa": {"hada_w1_a": (H, RANK), "hada_w1_b": (RANK, H), "hada_w2_a": (H, RANK), "hada_w2_b": (RANK, H)},
    "LoKr": {"lokr_w1": (2, 2), "lokr_w2": (H // 2, H // 2)},
    "LoKr, factored": {"lokr_w1": (2, 2), "lokr_w2_a": (H // 2, RANK), "lokr_w2_b": (RANK, H // 2)},
    "DoRA, kohya": _LORA | {"dora_scale": (H, 1)},
    "DoRA, PEFT": _PEFT | {"lora_magnitude_vector.weight": (H,)},
    "DoRA, ai-toolkit": _PEFT | {"magnitude": (H,)},
    "biases": _PEFT | {"lora_B.bias": (H,)},
    "diff_b": _PEFT | {"diff_b": (H,)},
    "diff": {"diff": (H, H)},
    "scalar": _LORA | {"scalar": ()},
    "embedding": {"lora_embedding_A": (RANK, H), "lora_embedding_B": (H, RANK)},
    "reshape": _LORA | {"reshape_weight": (2,)},
    "GLoRA": {f"{end}.weight": (H, H) for end in ("a1", "a2", "b1", "b2")},
    "OFT": {"oft_blocks": (2, H // 2, H // 2)},
    "BOFT": {"oft_blocks": (1, 2, H // 2, H // 2), "rescale": (H, 1)},
    "IA3": {"weight": (H,), "on_input": ()},
    "norm": {"w_norm": (H,), "b_norm": (H,)},
    "set": {"set_weight": (H, H)},
    "norm's scale": {"scale": (H,)},
}
"""Kind -> the ends of its tensors' names, and their shapes."""

_UNET = "down_blocks.1.attentions.0.transformer_blocks.0"
_FLAT = _UNET.replace(".", "_")
_CLIP = "text_model.encoder.layers.0.self_attn.q_proj"
_CLIP_FLAT, _CLIP_NAME = _CLIP.replace(".", "_"), "encoder_layers_0_self_attn_q_proj"
_T5 = "encoder.block.0.layer.0.SelfAttention.q"
_T5_FLAT = _T5.replace(".", "_")
_BLOCK, _SINGLE = "transformer.transformer_blocks_0_", "transformer.single_transformer_blocks_0_"
_QKV = f"{_BLOCK}attn_{{to_q|to_k|to_v}}"

NAMES: tuple[tuple[str, str, str], ...] = (
    # U-Nets
    (f"lora_unet_{_FLAT}_attn1_to_q", "kohya", f"unet.{_FLAT}_attn1_to_q"),
    (f"lora_unet_{_FLAT}_attn2_to_out_0", "kohya", f"unet.{_FLAT}_attn2_to_out_0"),
    (f"lora_unet_{_FLAT}_ff_net_0_proj", "kohya", f"unet.{_FLAT}_ff_net_0_proj"),
    ("lora_unet_down_blocks_0_resnets_0_conv1", "kohya", "unet.down_blocks_0_resnets_0_conv1"),
    ("lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q", "kohya", f"unet.{_FLAT}_attn1_to_q"),
    ("lora_unet_middle_block_1_proj_in", "kohya", "unet.mid_block_attentions_0_proj_in"),
    ("lora_unet_output_blocks_0_1_proj_in", "kohya", "unet.up_blocks_0_attentions_0_proj_in"),
    ("lora_unet_input_blocks_0_0", "kohya", "unet.conv_in"),
    ("lora_unet_out_2", "kohya", "unet.conv_out"),
    ("lora_unet_time_embed_0", "kohya", "unet.time_embedding_linear_1"),
    ("lora_unet_label_emb_0_0", "kohya", "unet.add_embedding_linear_1"),
    (f"unet.{_UNET}.attn1.to_q", "peft", f"unet.{_FLAT}_attn1_to_q"),
    (f"unet.{_UNET}.attn1.to_q", "dots", f"unet.{_FLAT}_attn1_to_q"),
    (f"unet.{_UNET}.attn1.processor.to_q", "old", f"unet.{_FLAT}_attn1_to_q"),
    (f"{_UNET}.attn1.to_q", "peft", f"unet.{_FLAT}_attn1_to_q"),
    (f"unet.base_model.model.{_UNET}.attn1.to_q", "peft", f"unet.{_FLAT}_attn1_to_q"),
    (f"lycoris_{_FLAT}_attn1_to_q", "kohya", f"unet.{_FLAT}_attn1_to_q"),
    ("lora_prior_unet_down_blocks_0_2_attention_to_q", "kohya", "prior.down_blocks_0_2_attention_to_q"),
    # Text encoders
    (f"lora_te_{_CLIP_FLAT}", "kohya", f"text_encoder.{_CLIP_NAME}"),
    (f"lora_te1_{_CLIP_FLAT}", "kohya", f"text_encoder.{_CLIP_NAME}"),
    (f"lora_te2_{_CLIP_FLAT}", "kohya", f"text_encoder_2.{_CLIP_NAME}"),
    (f"lora_te3_{_T5_FLAT}", "kohya", f"text_encoder_3.{_T5_FLAT}"),
    (f"lora_prior_te_{_CLIP_FLAT}", "kohya", f"text_encoder.{_CLIP_NAME}"),
    (f"text_encoder.{_CLIP}", "linear", f"text_encoder.{_CLIP_NAME}"),
    (f"text_encoder_2.{_CLIP}", "peft", f"text_encoder_2.{_CLIP_NAME}"),
    ("text_encoder.text_model.encoder.layers.0.self_attn.to_q", "old", f"text_encoder.{_CLIP_NAME}"),
    (f"text_encoders.clip_l.transformer.{_CLIP}", "peft", f"text_encoder.{_CLIP_NAME}"),
    (f"text_encoders.clip_g.transformer.{_CLIP}", "peft", f"text_encoder_2.{_CLIP_NAME}"),
    (f"text_encoders.t5xxl.transformer.{_T5}", "peft", f"text_encoder_3.{_T5_FLAT}"),
    ("text_encoders.qwen25_7b.transformer.model.layers.0.mlp.up_proj", "peft",
     "text_encoder.model_layers_0_mlp_up_proj"),
    # Flux, Flux.2, Chroma
    ("lora_unet_double_blocks_0_img_attn_qkv:3", "kohya", _QKV),
    ("lora_unet_double_blocks_0_txt_attn_proj", "kohya", f"{_BLOCK}attn_to_add_out"),
    ("lora_unet_double_blocks_0_img_mlp_0:4", "kohya", f"{_BLOCK}ff_net_0_proj"),
    ("lora_unet_double_blocks_0_img_mod_lin:6", "kohya", f"{_BLOCK}norm1_linear"),
    ("lora_unet_single_blocks_0_linear1:7", "kohya", f"{_SINGLE}{{attn_to_q|attn_to_k|attn_to_v|proj_mlp}}"),
    ("lora_unet_single_blocks_0_modulation_lin:3", "kohya", f"{_SINGLE}norm_linear"),
    ("transformer.transformer_blocks.0.attn.to_q", "peft", f"{_BLOCK}attn_to_q"),
    ("lora_transformer_transformer_blocks_0_attn_to_q", "kohya", f"{_BLOCK}attn_to_q"),
    ("double_blocks.0.processor.qkv_lora1:3", "plain", _QKV),
    ("single_blocks.0.processor.proj_lora", "plain", f"{_SINGLE}proj_out"),
    ("diffusion_model.double_blocks.0.processor.qkv_lora2:3", "plain",
     f"{_BLOCK}attn_{{add_q_proj|add_k_proj|add_v_proj}}"),
    ("double_blocks.0.img_attn.qkv:3", "peft", _QKV),
    ("base_model.model.double_blocks.0.img_attn.qkv:3", "peft", _QKV),
    ("diffusion_model.double_blocks.0.img_attn.qkv:3", "peft", _QKV),
    ("diffusion_model.single_blocks.0.linear1:9", "peft", f"{_SINGLE}attn_to_qkv_mlp_proj"),
    ("diffusion_model.single_stream_modulation.lin:3", "peft", "transformer.single_stream_modulation_linear"),
    ("diffusion_model.distilled_guidance_layer.layers.0.in_layer", "peft",
     "transformer.distilled_guidance_layer_layers_0_linear_1"),
    # Other transformers
    ("lora_unet_joint_blocks_0_x_block_attn_qkv:3", "kohya", _QKV),
    ("base_model.model.transformer_blocks.0.attn.add_q_proj", "peft", f"{_BLOCK}attn_add_q_proj"),
    ("transformer.double_blocks.0.img_attn_qkv:3", "peft", _QKV),
    ("diffusion_model.txt_in.individual_token_refiner.blocks.0.self_attn_qkv:3", "peft",
     "transformer.context_embedder_token_refiner_refiner_blocks_0_attn_{to_q|to_k|to_v}"),
    ("diffusion_model.blocks.0.self_attn.q", "peft", "transformer.blocks_0_attn1_to_q"),
    ("diffusion_model.blocks.0.cross_attn.k_img", "peft", "transformer.blocks_0_attn2_add_k_proj"),
    ("lora_unet_blocks_0_self_attn_q", "kohya", "transformer.blocks_0_attn1_to_q"),
    ("lora_unet__blocks_0_ffn_0", "kohya", "transformer.blocks_0_ffn_net_0_proj"),
    ("transformer_2.blocks.0.attn1.to_q", "peft", "transformer_2.blocks_0_attn1_to_q"),
    ("transformer_blocks.0.attn.to_q", "default", f"{_BLOCK}attn_to_q"),
    ("lora_unet_transformer_blocks_0_img_mod_1:6", "kohya", f"{_BLOCK}img_mod_1"),
    ("diffusion_model.layers.0.attention.qkv:3", "peft", "transformer.layers_0_attention_{to_q|to_k|to_v}"),
    ("lora_unet_layers_0_attention_to_q", "kohya", "transformer.layers_0_attention_to_q"),
    ("layers.0.attention.to.q", "dots", "transformer.layers_0_attention_to_q"),
    ("diffusion_model.layers.0.attention.qkv:5/3", "peft", "transformer.layers_0_attn_{to_q|to_k|to_v}"),
    ("diffusion_model.double_stream_blocks.0.block.attn1.to_q", "peft",
     "transformer.double_stream_blocks_0_block_attn1_to_q"),
    ("diffusion_model.blocks.0.attn.wq", "peft", f"{_BLOCK}attn_to_q"),
    ("diffusion_model.blocks.0.cross_attn.output_proj", "peft", f"{_BLOCK}attn2_to_out_0"),
    ("conditional_transformer.layers.0.attention.o", "peft", "transformer.layers_0_attention_to_out_0"),
    ("blocks.0.attn.qkv_proj:3", "peft", _QKV),
    ("base_model.model.layers.0.cross_attn.q_proj", "peft", "transformer.layers_0_cross_attn_to_q"),
    ("diffusion_model.transformer_blocks.0.attn1.to_q", "peft", f"{_BLOCK}attn1_to_q"),
    ("transformer_blocks.0.attn1.to_q", "bare", f"{_BLOCK}attn1_to_q"),
    # Other kinds
    (f"lora_unet_{_FLAT}_conv", "Tucker", f"unet.{_FLAT}_conv"),
    (f"lora_unet_{_FLAT}_attn1_to_q", "LoHa", f"unet.{_FLAT}_attn1_to_q"),
    (f"lora_unet_{_FLAT}_attn1_to_q", "LoKr", f"unet.{_FLAT}_attn1_to_q"),
    ("lycoris_transformer_blocks_0_attn_to_q", "LoKr, factored", f"{_BLOCK}attn_to_q"),
    (f"lora_unet_{_FLAT}_attn1_to_q", "DoRA, kohya", f"unet.{_FLAT}_attn1_to_q"),
    (f"unet.{_UNET}.attn1.to_q", "DoRA, PEFT", f"unet.{_FLAT}_attn1_to_q"),
    ("transformer.transformer_blocks.0.attn.to_q", "DoRA, ai-toolkit", f"{_BLOCK}attn_to_q"),
    ("double_blocks.0.img_attn.proj", "biases", f"{_BLOCK}attn_to_out_0"),
    ("diffusion_model.blocks.0.self_attn.q", "diff_b", "transformer.blocks_0_attn1_to_q"),
    (f"lora_unet_{_FLAT}_attn1_to_q", "diff", f"unet.{_FLAT}_attn1_to_q"),
    ("text_encoder.text_model.embeddings.token_embedding", "embedding", "text_encoder.embeddings_token_embedding"),
    ("diffusion_model.blocks.0.self_attn.q", "reshape", "reshaped weight"),
    (f"lora_unet_{_FLAT}_attn1_to_q", "scalar", "scalar' beside its LoRA factors"),
    (f"lora_unet_{_FLAT}_attn1_to_q", "GLoRA", "GLoRA"),
    (f"oft_unet_{_FLAT}_attn1_to_q", "OFT", "OFT"),
    (f"lora_unet_{_FLAT}_attn1_to_q", "BOFT", "OFT"),
    (f"lora_unet_{_FLAT}_attn1_to_q", "IA3", "IA3"),
    (f"lora_unet_{_FLAT}_norm1", "norm", "norm"),
    ("diffusion_model.img_in", "set", "set_weight"),
    ("double_blocks.0.img_attn.norm.key_norm", "norm's scale", "norm"),
)  # fmt: skip
"""A layer in a file, ':n' behind one that has n times as many outputs as inputs; how its tensors are called; and the
part and layers that it is, or what the refusal must say."""


def prove_names() -> bool:
    """Of ninety spellings at least eighty are read, none wrongly; and one LoRA in two spellings is one."""
    found = [(name, style, *_outcome(name, style, expected)) for name, style, expected in NAMES]
    for number, (name, style, outcome, told) in enumerate(found, 1):
        print(f"{number:>3} {outcome:<8} {name.partition(':')[0]} ({style}): {told}")
    counts = Counter(outcome for _, _, outcome, _ in found)
    print(f"{len(found)} spellings: {', '.join(f'{count} {what}' for what, count in counts.most_common())}\n")
    return _same_in_all_spellings() and counts["read"] >= LEAST_READ and not counts["WRONG"]


def _outcome(name: str, style: str, expected: str) -> tuple[str, str]:
    """read, refused or WRONG; and the layers, or the reason."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "x.safetensors"
        save_file(_tensors(name, style), path)
        try:
            adapter = read_adapter(path)
        except AdapterError as error:
            told = str(error).replace(str(path), "the file")
            return "refused" if expected in told else "WRONG", told
        layers = {f"{layer.part}.{layer.name}" for layer in adapter.layers}
        adapter.factors()
    return ("read" if layers == set(names_in(expected)) else "WRONG"), ", ".join(sorted(layers))


def _tensors(name: str, style: str) -> dict[str, torch.Tensor]:
    stem, _, ratio = name.partition(":")
    over, _, under = ratio.partition("/")
    inputs = 6 if under else H
    outputs = inputs * int(over or 1) // int(under or 1)
    shapes = {f".{end}": shape for end, shape in _KINDS.get(style, {}).items()}
    if style in _PAIRS:
        down, up = _PAIRS[style]
        shapes = {down: (RANK, inputs), up: (outputs, RANK)}
    if style == "kohya" or "lora_down.weight" in _KINDS.get(style, {}):
        shapes[".alpha"] = ()
    return {f"{stem}{end}": torch.ones(shape) for end, shape in shapes.items()}


def _same_in_all_spellings() -> bool:
    """Each LoRA against diffusers' spelling of it; where one has alpha, the other has none, and alpha is the rank."""
    worst = 1.0
    with TemporaryDirectory() as folder:
        pairs = [(what, *write_both(Path(folder) / what, what)) for what in SPELLINGS]
        for what, first, second in [*pairs, *_unets(Path(folder))]:
            diffusers, other = read_adapter(first), read_adapter(second)
            cosine = compare_factors(diffusers, other).cosine
            same = diffusers.layers == other.layers
            bits = "bit for bit" if diffusers.digest == other.digest else ""
            print(f"{what:<32}{len(other.layers):>3} layers, the same: {'yes' if same else 'NO'}, {cosine:.6f} {bits}")
            worst = min(worst, cosine if same and cosine is not None else -1.0)
    print(f"lowest cosine with diffusers' file {worst:.6f}, asked: {LEAST_COSINE}")
    return worst >= LEAST_COSINE


def _unets(home: Path) -> Iterator[tuple[str, Path, Path]]:
    """One LoRA of a U-Net, with a convolution in it, in every spelling and with alpha wherever it may be kept."""
    made = weights() | convolution()
    original = {
        name: name.replace("unet.down_blocks.1.attentions.0", "lora_unet_input_blocks_4_1").replace(".", "_")
        for name in made
        if ".down_blocks.1." in name
    }
    first = write_diffusers(home / "unet.safetensors", made)
    yield "U-Net, PEFT folder", first, write_peft(home / "peft", made)
    yield "U-Net, kohya", first, write_kohya(home / "kohya.safetensors", made)
    yield "U-Net, kohya, original names", first, write_kohya(home / "sgm.safetensors", made, names=original)
    for spelling in ("lora_A", "lora.down", "processor"):
        for alpha in ("metadata", "tensor", "in B"):
            path = home / f"{spelling}-{alpha}.safetensors"
            yield f"U-Net, {spelling}, {alpha}", first, write_diffusers(path, made, spelling=spelling, alpha=alpha)
