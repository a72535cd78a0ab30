"""One LoRA of a diffusion transformer is one adapter, whatever its layers are called and held in."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lorax.atlas.adapter import Layer
from lorax.atlas.families import parts_of
from lorax.atlas.formats import read_adapter
from lorax.atlas.groups import groups
from lorax.atlas.index import Atlas
from lorax.errors import AdapterError, AtlasError
from tests.atlas.made import made
from tests.atlas.spellings import RANK, SPELLINGS, H, write_both, write_stacked
from tests.atlas.writers import quiet


@pytest.mark.parametrize("what", SPELLINGS)
def test_a_lora_in_another_spelling_is_the_same_adapter(what: str, tmp_path: Path) -> None:
    diffusers, other = map(read_adapter, write_both(tmp_path, what))
    assert other.layers == diffusers.layers
    assert other.digest == diffusers.digest


_CONVERTERS = {
    "Flux, XLabs": "xlabs_flux", "Flux.2, ai-toolkit": "non_diffusers_flux2", "Wan, Comfy": "non_diffusers_wan",
    "Qwen-Image, musubi": "non_diffusers_qwen", "Z-Image, musubi": "non_diffusers_z_image",
    "Krea 2": "non_diffusers_krea2", "Anima": "non_diffusers_anima",
    "Ideogram 4": "non_diffusers_ideogram4", "MiniMax H3": "non_diffusers_minimax_h3",
    "MiniMax H3, DiffSynth": "non_diffusers_minimax_h3", "ACE-Step": "non_diffusers_ace_step",
    "LTX": "non_diffusers_ltx2",
}  # fmt: skip
"""Spellings whose converters in diffusers take models of any width, and of some layers only."""


@pytest.mark.parametrize("what", _CONVERTERS)
def test_a_spelling_is_read_as_diffusers_own_converter_reads_it(what: str, tmp_path: Path) -> None:
    with quiet():
        from diffusers.loaders import lora_conversion_utils

        convert = getattr(lora_conversion_utils, f"_convert_{_CONVERTERS[what]}_lora_to_diffusers")
        _, other = write_both(tmp_path, what)
        converted = {
            name if name.startswith("transformer.") else f"transformer.{name}": tensor.clone()
            for name, tensor in convert(load_file(other)).items()
        }
    save_file(converted, tmp_path / "converted.safetensors")
    assert read_adapter(other).digest == read_adapter(tmp_path / "converted.safetensors").digest


def test_q_k_and_v_that_were_trained_apart_and_stacked_are_taken_apart(tmp_path: Path) -> None:
    expected = write_stacked(tmp_path / "x.safetensors")
    adapter = read_adapter(tmp_path / "x.safetensors")
    found = dict(zip((layer.name for layer in adapter.layers), adapter.factors(), strict=True))
    assert {layer.rank for layer in adapter.layers} == {RANK}
    for name, (a, b) in expected.items():
        assert torch.equal(found[name][0], a) and torch.equal(found[name][1], b)


def test_stacked_factors_that_mix_keep_their_rank(tmp_path: Path) -> None:
    write_stacked(tmp_path / "x.safetensors", apart=False)
    ranks = {layer.name: layer.rank for layer in read_adapter(tmp_path / "x.safetensors").layers}
    assert ranks == {
        "transformer_blocks_0_attn_to_out_0": RANK,
        **{f"transformer_blocks_0_attn_to_{name}": 3 * RANK for name in "qkv"},
    }


def test_of_a_file_with_two_spellings_of_one_layer_diffusers_is_taken(tmp_path: Path) -> None:
    diffusers, other = write_both(tmp_path, "Z-Image, ai-toolkit")
    fused = {name: tensor for name, tensor in load_file(other).items() if ".attention." in name}
    save_file(load_file(diffusers) | fused, tmp_path / "both.safetensors")
    assert read_adapter(tmp_path / "both.safetensors").digest == read_adapter(diffusers).digest


def test_a_spelling_without_factors_takes_no_others_place(tmp_path: Path) -> None:
    diffusers, other = write_both(tmp_path, "Z-Image, ai-toolkit")
    alphas = {
        f"{name.rpartition('.lora_A')[0]}.alpha": torch.ones(()) for name in load_file(diffusers) if ".lora_A" in name
    }
    save_file(load_file(other) | alphas, tmp_path / "both.safetensors")
    assert read_adapter(tmp_path / "both.safetensors").layers == read_adapter(other).layers


@pytest.mark.parametrize("outputs", [256, 512])
def test_outputs_that_are_no_whole_heads_are_not_parted_by_heads(outputs: int) -> None:
    with pytest.raises(ValueError, match="can't be those of"):
        parts_of("attn_{to_q|to_k|to_v}@heads", outputs, 64)


def test_a_layer_whose_outputs_cant_be_parted_is_refused(tmp_path: Path) -> None:
    name = "lora_unet_double_blocks_0_img_attn_qkv"
    factors = {f"{name}.lora_down.weight": torch.ones(2, H), f"{name}.lora_up.weight": torch.ones(3 * H + 1, 2)}
    save_file(factors, tmp_path / "x.safetensors")
    with pytest.raises(AdapterError, match="19 outputs can't be those of"):
        read_adapter(tmp_path / "x.safetensors")


def test_a_base_model_that_no_file_states_is_guessed_from_its_layers_and_says_so(tmp_path: Path) -> None:
    _, other = write_both(tmp_path, "Wan, musubi")
    atlas = Atlas.open(tmp_path / "atlas")
    (entry,) = atlas.add([read_adapter(other)])
    assert (entry.base, atlas.base) == ("wan (by its layers)", "")


@pytest.mark.parametrize(
    ("layer", "is_old"),
    [
        (Layer("transformer", "double_blocks_0_img_attn_qkv", 18, 6, 2), True),
        (Layer("unet", "transformer_blocks_0_attn_to_q", 6, 6, 2), True),
        (Layer("model", "blocks_0_attn1_to_q", 6, 6, 2), True),
        (Layer("transformer", "blocks_0_attn1_to_q", 6, 6, 2), False),
        (Layer("unet", "down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q", 6, 6, 2), False),
        (Layer("model", "blocks_0_attn_qkv", 18, 6, 2), False),
    ],
    ids=lambda value: f"{value.part}-{value.name}" if isinstance(value, Layer) else "",
)
def test_an_atlas_of_layers_that_are_called_otherwise_today_says_what_to_do(
    layer: Layer, is_old: bool, tmp_path: Path
) -> None:
    Atlas.open(tmp_path).add([made("x", layers=[layer])])
    with pytest.raises(AtlasError, match=r"made by an older lorax.*'lorax atlas add PATH") if is_old else nullcontext():
        Atlas.open(tmp_path)


def test_module_groups_know_every_familys_attention_and_feed_forward(tmp_path: Path) -> None:
    found = [read_adapter(write_both(tmp_path / what, what)[1]).layers for what in ("Flux, kohya", "Wan, Comfy")]
    flux, wan = ({name: [of[i].name for i in members] for name, members in groups(of).items()} for of in found)
    assert len(flux["attention"]) == 11 and flux["fc1"] == ["single_transformer_blocks_0_proj_mlp", *flux["fc1"][1:]]
    assert wan["feed-forward"] == ["blocks_0_ffn_net_0_proj", "blocks_0_ffn_net_2"]
    assert "single_transformer_blocks_0_attn_to_q" in flux["late"]


def test_the_tables_tell_families_apart_that_share_names(tmp_path: Path) -> None:
    guesses = {what.partition(",")[0]: read_adapter(write_both(tmp_path / what, what)[1]).guess for what in SPELLINGS}
    assert guesses == {
        "Flux": "flux-1", "Flux.2": "flux-2", "Chroma": "chroma", "HunyuanVideo": "hunyuan-video", "SD 3": "sd-3",
        "Wan": "wan", "Wan-Fun": "wan", "Qwen-Image": "qwen-image", "Z-Image": "z-image", "Lumina 2": "lumina-2",
        "HiDream": "hidream", "Krea 2": "krea-2", "Anima": "anima", "Ideogram 4": "ideogram-4",
        "MiniMax H3": "minimax-h3", "ACE-Step": "ace-step", "LTX": "ltx",
    }  # fmt: skip
