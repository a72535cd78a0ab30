"""One LoRA of a diffusion transformer is one adapter, whatever its layers are called and held in."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lorax.atlas.formats import read_adapter
from lorax.errors import AdapterError
from tests.atlas.spellings import RANK, SPELLINGS, H, write_both, write_stacked


@pytest.mark.parametrize("what", SPELLINGS)
def test_a_lora_in_another_spelling_is_the_same_adapter(what: str, tmp_path: Path) -> None:
    diffusers, other = map(read_adapter, write_both(tmp_path, what))
    assert other.layers == diffusers.layers
    assert other.digest == diffusers.digest


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


def test_a_layer_whose_outputs_cant_be_parted_is_refused(tmp_path: Path) -> None:
    name = "lora_unet_double_blocks_0_img_attn_qkv"
    factors = {f"{name}.lora_down.weight": torch.ones(2, H), f"{name}.lora_up.weight": torch.ones(3 * H + 1, 2)}
    save_file(factors, tmp_path / "x.safetensors")
    with pytest.raises(AdapterError, match="19 outputs can't be those of"):
        read_adapter(tmp_path / "x.safetensors")


def test_a_base_model_that_no_file_states_is_guessed_from_its_layers(tmp_path: Path) -> None:
    _, other = write_both(tmp_path, "Wan, musubi")
    assert (read_adapter(other).base, read_adapter(other).guess) == (None, "wan")


def test_the_tables_tell_families_apart_that_share_names(tmp_path: Path) -> None:
    guesses = {what.partition(",")[0]: read_adapter(write_both(tmp_path / what, what)[1]).guess for what in SPELLINGS}
    assert guesses == {
        "Flux": "flux-1", "Flux.2": "flux-2", "Chroma": "chroma", "HunyuanVideo": "hunyuan-video", "SD 3": "sd-3",
        "Wan": "wan", "Wan-Fun": "wan", "Qwen-Image": "qwen-image", "Z-Image": "z-image", "Lumina 2": "lumina-2",
        "HiDream": "hidream", "Krea 2": "krea-2", "Anima": "anima", "Ideogram 4": "ideogram-4",
        "MiniMax H3": "minimax-h3", "ACE-Step": "ace-step", "LTX": "ltx",
    }  # fmt: skip
