"""One canonical name for a layer, a part and a base model, whatever a file's writer called them."""

from __future__ import annotations

import pytest
import torch

from lorax.atlas.bases import family
from lorax.atlas.names import MODEL, Key, peft_keys, single_file_keys
from lorax.atlas.tensors import Stored


def key(name: str) -> Key | None:
    """What a tensor's name says in a file of that tensor."""
    return single_file_keys({name: Stored(torch.float32, (4, 4))}).keys.get(name)


def layer(path: str, part: str = "unet") -> str:
    found = key(f"{part}.{path}.lora_A.weight")
    assert found
    return found.layer


def part_of(path: str, model_class: str | None = None) -> str:
    """Of a PEFT folder's layer."""
    keys = peft_keys({f"base_model.model.{path}.lora_A.weight": Stored(torch.float32, (4, 4))}, model_class).keys
    return next(iter(keys.values())).part


BLOCK = "transformer_blocks_0_attn1_to_q"


@pytest.mark.parametrize(
    ("original", "diffusers"),
    [
        (f"input_blocks_4_1_{BLOCK}", f"down_blocks_1_attentions_0_{BLOCK}"),
        (f"input_blocks_5_1_{BLOCK}", f"down_blocks_1_attentions_1_{BLOCK}"),
        (f"input_blocks_8_1_{BLOCK}", f"down_blocks_2_attentions_1_{BLOCK}"),
        (f"middle_block_1_{BLOCK}", f"mid_block_attentions_0_{BLOCK}"),
        (f"output_blocks_0_1_{BLOCK}", f"up_blocks_0_attentions_0_{BLOCK}"),
        (f"output_blocks_5_1_{BLOCK}", f"up_blocks_1_attentions_2_{BLOCK}"),
        ("input_blocks_4_1_proj_in", "down_blocks_1_attentions_0_proj_in"),
        ("input_blocks_1_0_in_layers_2", "down_blocks_0_resnets_0_conv1"),
        ("input_blocks_2_0_emb_layers_1", "down_blocks_0_resnets_1_time_emb_proj"),
        ("input_blocks_4_0_skip_connection", "down_blocks_1_resnets_0_conv_shortcut"),
        ("input_blocks_3_0_op", "down_blocks_0_downsamplers_0_conv"),
        ("output_blocks_8_0_out_layers_3", "up_blocks_2_resnets_2_conv2"),
        ("output_blocks_2_2_conv", "up_blocks_0_upsamplers_0_conv"),
        ("output_blocks_2_1_conv", "up_blocks_0_upsamplers_0_conv"),
        ("middle_block_2_in_layers_2", "mid_block_resnets_1_conv1"),
        ("input_blocks_0_0", "conv_in"),
        ("out_2", "conv_out"),
        ("time_embed_2", "time_embedding_linear_2"),
        ("label_emb_0_0", "add_embedding_linear_1"),
    ],
)
def test_a_layer_of_the_original_u_net_has_the_name_that_diffusers_gives_it(original: str, diffusers: str) -> None:
    assert layer(original) == diffusers == layer(diffusers)


def test_every_layer_of_a_whole_sdxl_u_net_keeps_a_name_of_its_own() -> None:
    inner = [(i, 1) for i in (4, 5, 7, 8)], [(i, 1) for i in range(6)]
    names = [f"input_blocks_{i}_{j}_{BLOCK}" for i, j in inner[0]]
    names += [f"output_blocks_{i}_{j}_{BLOCK}" for i, j in inner[1]] + [f"middle_block_1_{BLOCK}"]
    expected = {f"{side}_blocks_{level}_attentions_{place}_{BLOCK}" for side, level, place in
                [("down", 1, 0), ("down", 1, 1), ("down", 2, 0), ("down", 2, 1)]
                + [("up", level, place) for level in (0, 1) for place in (0, 1, 2)]}  # fmt: skip
    assert {layer(name) for name in names} == expected | {f"mid_block_attentions_0_{BLOCK}"}


def test_names_that_only_resemble_the_original_u_nets_are_kept() -> None:
    for name in ("input_blocks_0_1_op", "input_blocks_x_1_op", "middle_block_3_a", "down_blocks_0_attn", "out_2_more"):
        assert layer(name) == name
    assert layer("input_blocks_4_1_x", "transformer") == "input_blocks_4_1_x"


@pytest.mark.parametrize(
    ("name", "part", "layer", "role"),
    [
        ("unet.mid_block.attn1.to_q.lora_A.weight", "unet", "mid_block_attn1_to_q", "A"),
        ("unet.mid_block.attn1.to_out.0.lora.up.weight", "unet", "mid_block_attn1_to_out_0", "B"),
        ("unet.mid_block.attn1.processor.to_out_lora.up.weight", "unet", "mid_block_attn1_to_out_0", "B"),
        ("mid_block.attn1.processor.to_k_lora.down.weight", "unet", "mid_block_attn1_to_k", "A"),
        ("unet.mid_block.attn1.to_q.alpha", "unet", "mid_block_attn1_to_q", "alpha"),
        ("lora_unet_mid_block_attn1_to_q.lora_down.weight", "unet", "mid_block_attn1_to_q", "A"),
        ("transformer.x.attn.to_q.lora_B.weight", "transformer", "x_attn_to_q", "B"),
        ("transformer.x.attn.to_q.lora_B.default.weight", "transformer", "x_attn_to_q", "B"),
        ("lora_transformer_x_attn_to_q.lora_up.weight", "transformer", "x_attn_to_q", "B"),
        ("unet.base_model.model.mid_block.attn1.to_q.lora_A.weight", "unet", "mid_block_attn1_to_q", "A"),
        ("transformer_2.blocks.0.attn1.to_q.lora_A.weight", "transformer_2", "blocks_0_attn1_to_q", "A"),
        ("lycoris_mid_block_attn1_to_q.lora_down.weight", "unet", "mid_block_attn1_to_q", "A"),
        (
            "lycoris_transformer_blocks_0_attn_to_q.lora_down.weight",
            "transformer",
            "transformer_blocks_0_attn_to_q",
            "A",
        ),
        (
            "lora_prior_unet_down_blocks_0_2_attention_to_q.lora_up.weight",
            "prior",
            "down_blocks_0_2_attention_to_q",
            "B",
        ),
        ("transformer_blocks.0.attn1.to_q.lora_A", "transformer", "transformer_blocks_0_attn1_to_q", "A"),
        ("text_encoders.clip_l.transformer.text_model.encoder.a.lora_A.weight", "text_encoder", "encoder_a", "A"),
        ("text_encoders.clip_g.transformer.text_model.encoder.a.lora_A.weight", "text_encoder_2", "encoder_a", "A"),
        (
            "text_encoders.qwen25_7b.transformer.model.layers.0.mlp.lora_A.weight",
            "text_encoder",
            "model_layers_0_mlp",
            "A",
        ),
        ("lora_te_text_model_encoder_layers_0_mlp_fc1.alpha", "text_encoder", "encoder_layers_0_mlp_fc1", "alpha"),
        ("lora_te1_text_model_encoder_layers_0_mlp_fc1.alpha", "text_encoder", "encoder_layers_0_mlp_fc1", "alpha"),
        ("lora_te2_text_model_encoder_layers_0_mlp_fc1.alpha", "text_encoder_2", "encoder_layers_0_mlp_fc1", "alpha"),
        ("text_encoder.text_model.encoder.a.to_q_lora.up.weight", "text_encoder", "encoder_a_q_proj", "B"),
        ("text_encoder.encoder.a.out_proj.lora_linear_layer.up.weight", "text_encoder", "encoder_a_out_proj", "B"),
        ("text_encoder_2.text_model.encoder.a.lora_A.weight", "text_encoder_2", "encoder_a", "A"),
    ],
)
def test_every_spelling_of_a_tensors_name_gives_its_part_layer_and_role(
    name: str, part: str, layer: str, role: str
) -> None:
    found = key(name)
    assert found and (found.part, found.layer, found.role) == (part, layer, role)


def test_a_name_with_kohyas_prefix_is_kohyas_and_others_are_diffusers() -> None:
    assert key("lora_te_x.alpha") == Key("kohya", "text_encoder", "x", "x", "alpha")
    assert key("unet.x.alpha") == Key("diffusers", "unet", "x", "x", "alpha")


@pytest.mark.parametrize("name", ["unet.x.weight", "x.lora_A.weight", "vae.x.alpha", ".alpha", "", "a.up.weight"])
def test_a_name_of_no_known_part_or_role_says_nothing(name: str) -> None:
    assert key(name) is None


def test_a_part_is_told_by_its_modules_or_by_the_adapted_models_class() -> None:
    assert part_of("up_blocks.0.x") == "unet"
    assert part_of("text_model.encoder.layers.0.x") == "text_encoder"
    assert part_of("single_transformer_blocks.0.x") == part_of("blocks.0.attn1.to_q") == "transformer"
    assert part_of("blocks.0.attn.qk") == part_of("blocks.0.attn.qkv") == part_of("blocks.0.mlp.fc1") == MODEL
    assert part_of("encoder.layers.0.x", "CLIPTextModel") == "text_encoder"
    assert part_of("x", "WanTransformer3DModel") == part_of("x", "SD3Transformer2DModel") == "transformer"


def test_what_a_diffusion_model_saves_by_itself_needs_no_prefix() -> None:
    names = {"proj_in.lora_A.weight": Stored(torch.float32, (4, 4))}
    assert not single_file_keys(names).keys
    assert [found.part for found in single_file_keys(names, is_own=True).keys.values()] == ["transformer"]


@pytest.mark.parametrize(
    ("name", "spellings"),
    [
        ("sd-1", ["sd_v1", "SD 1.5", "runwayml/stable-diffusion-v1-5", "stable-diffusion-v1/lora",
                  "CompVis/stable-diffusion-v1-4", "v1-5-pruned-emaonly.safetensors", "sd-1"]),
        ("sd-2", ["sd_v2", "sd_v2_v", "stabilityai/stable-diffusion-2-1-base", "stable-diffusion-v2-768-v/lora"]),
        ("sdxl", ["sdxl_base_v1-0", "stabilityai/stable-diffusion-xl-base-1.0", "stable-diffusion-xl-v1-base/lora",
                  "sd_xl_base_1.0.safetensors", "SDXL"]),
        ("flux-1", ["flux1", "black-forest-labs/FLUX.1-dev", "flux-1-dev/lora", "FLUX.1-schnell"]),
        ("sd-3", ["sd3", "stabilityai/stable-diffusion-3-medium-diffusers", "stable-diffusion-3-medium/lora"]),
        ("wan-2.1", ["wan_2.1", "wan2.1", "Wan-AI/Wan2.1-T2V-14B-Diffusers"]),
        ("qwen-image", ["qwen_image", "Qwen/Qwen-Image", "Qwen-Image/lora"]),
        ("z-image", ["zimage", "Tongyi-MAI/Z-Image-Turbo", "Z-Image/lora"]),
        ("lumina-2", ["lumina2", "lumina-2/lora", "Alpha-VLLM/Lumina-Image-2.0"]),
    ],
)  # fmt: skip
def test_the_spellings_of_one_base_model_give_one_name(name: str, spellings: list[str]) -> None:
    assert {family(spelling) for spelling in spellings} == {name}


@pytest.mark.parametrize("base", ["Lykon/dreamshaper-xl-1-0", "stable-diffusion-xl-refiner-1.0", "gpt2", "1", ""])
def test_any_other_base_model_keeps_its_name(base: str) -> None:
    assert family(base) == base
