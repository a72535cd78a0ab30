"""One adapter in memory, written in every format that people keep LoRAs in; real files, with tiny layers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

Weights = Mapping[str, tuple[Tensor, Tensor]]
"""Part and path of each layer, as diffusers writes them -> A and B, not scaled."""

ALPHA, RANK = 6.0, 4

ATTENTION = "down_blocks.1.attentions.0.transformer_blocks.0.attn1"
UNET = {
    f"unet.{ATTENTION}.to_q": (8, 8),
    f"unet.{ATTENTION}.to_k": (8, 8),
    f"unet.{ATTENTION}.to_v": (8, 8),
    f"unet.{ATTENTION}.to_out.0": (8, 8),
    "unet.mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj": (32, 8),
    "unet.up_blocks.0.attentions.1.transformer_blocks.0.ff.net.2": (8, 16),
}
"""Some layers of a U-Net -> (outputs, inputs)."""

TEXT_ENCODER = {
    "text_encoder.text_model.encoder.layers.0.self_attn.q_proj": (6, 6),
    "text_encoder.text_model.encoder.layers.0.self_attn.out_proj": (6, 6),
    "text_encoder.text_model.encoder.layers.0.mlp.fc1": (24, 6),
}

CONVOLUTION = "unet.down_blocks.0.resnets.0.conv1"

_KOHYA = {"unet": "lora_unet_", "transformer": "lora_transformer_"}
_PROCESSORS = {"to_q": "to_q_lora", "to_k": "to_k_lora", "to_v": "to_v_lora", "to_out.0": "to_out_lora"}
_OLD_TEXT = {"q_proj": "to_q_lora", "k_proj": "to_k_lora", "v_proj": "to_v_lora", "out_proj": "to_out_lora"}


def weights(shapes: Mapping[str, tuple[int, int]] = UNET, *, rank: int = RANK, seed: int = 0) -> dict[str, Any]:
    """Random factors for layers of the given (outputs, inputs)."""
    draw = torch.Generator().manual_seed(seed)
    return {
        path: (torch.randn(rank, inputs, generator=draw), torch.randn(outputs, rank, generator=draw))
        for path, (outputs, inputs) in shapes.items()
    }


def convolution(*, rank: int = RANK, seed: int = 0) -> dict[str, Any]:
    """One 3x3 convolution of 5 inputs and 7 outputs."""
    draw = torch.Generator().manual_seed(seed)
    a, b = torch.randn(rank, 5, 3, 3, generator=draw), torch.randn(7, rank, 1, 1, generator=draw)
    return {CONVOLUTION: (a, b)}


def write_peft(folder: Path, weights: Weights, *, base: str | None = None, **config: Any) -> Path:
    """A PEFT folder of one part's layers; `config` changes adapter_config.json."""
    folder.mkdir(parents=True)
    tensors = {}
    for path, (a, b) in weights.items():
        inside = f"base_model.model.{path.partition('.')[2]}"
        tensors |= {f"{inside}.lora_A.weight": a, f"{inside}.lora_B.weight": b}
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    record = {
        "peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "use_rslora": False, "use_dora": False, "bias": "none",
        "rank_pattern": {}, "alpha_pattern": {}, "modules_to_save": None, "base_model_name_or_path": base,
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(record | config))
    return folder


def write_diffusers(
    path: Path, weights: Weights, *, spelling: str = "lora_A", alpha: str = "metadata", base: str | None = None
) -> Path:
    """A single file as diffusers writes it.

    Args:
        path: of the file.
        weights: of the adapter.
        spelling: of the factors: "lora_A", "lora.down" or "processor".
        alpha: where it is kept: "metadata", "tensor" or "in B".
        base: named in the metadata.
    """
    tensors, metadata = {}, {"format": "pt"} | ({"modelspec.architecture": base} if base else {})
    for name, (a, b) in weights.items():
        down, up = _diffusers_names(name, spelling)
        tensors[down], tensors[up] = a, b * (ALPHA / RANK) if alpha == "in B" else b
        if alpha == "tensor":
            tensors[f"{name}.alpha"] = torch.tensor(ALPHA)
    if alpha == "metadata":
        parts = {name.partition(".")[0] for name in weights}
        record = {f"{part}.{key}": value for part in parts for key, value in (("r", RANK), ("lora_alpha", ALPHA))}
        metadata["lora_adapter_metadata"] = json.dumps(record)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in tensors.items()}, path, metadata)
    return path


def write_kohya(
    path: Path,
    weights: Weights,
    *,
    text: str = "lora_te_",
    base: str | None = None,
    names: Mapping[str, str] | None = None,
) -> Path:
    """A single file as kohya's scripts write it.

    Args:
        path: of the file.
        weights: of the adapter.
        text: how names of the text encoder's layers begin.
        base: named in the metadata.
        names: other names for some layers, the original U-Net's.
    """
    tensors = {}
    for name, (a, b) in weights.items():
        part, _, inside = name.partition(".")
        flat = (names or {}).get(name) or _KOHYA.get(part, text) + inside.replace(".", "_")
        tensors |= {f"{flat}.lora_down.weight": a, f"{flat}.lora_up.weight": b, f"{flat}.alpha": torch.tensor(ALPHA)}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, {"ss_base_model_version": base} if base else None)
    return path


def _diffusers_names(name: str, spelling: str) -> tuple[str, str]:
    if spelling == "lora_A":
        return f"{name}.lora_A.weight", f"{name}.lora_B.weight"
    if spelling == "processor":
        old = _OLD_TEXT if name.startswith("text_encoder") else _PROCESSORS
        for end, changed in old.items():
            if name.endswith(f".{end}"):
                between = "" if name.startswith("text_encoder") else ".processor"
                stem = f"{name.removesuffix(f'.{end}')}{between}.{changed}"
                return f"{stem}.down.weight", f"{stem}.up.weight"
    middle = "lora_linear_layer" if name.startswith("text_encoder") else "lora"
    return f"{name}.{middle}.down.weight", f"{name}.{middle}.up.weight"
