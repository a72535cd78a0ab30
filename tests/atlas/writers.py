"""Adapter files by the libraries that people write them with, and what these say each file changes."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lorax.network.building import import_timm

Changes = Mapping[str, Tensor]
"""A layer's part and canonical name -> the change of its weight (outputs, inputs), as the library computes it."""

Write = Callable[[Path], tuple[Path, Changes]]
"""Writes an adapter below an empty folder."""


class Small(nn.Module):
    """Layers of every kind that adapters are put on, by names that a U-Net has."""

    def __init__(self) -> None:
        super().__init__()
        self.down_blocks = nn.ModuleList([nn.ModuleDict({"to_q": nn.Linear(24, 16), "to_v": nn.Linear(6, 4)})])
        self.conv1d, self.conv, self.conv3d = nn.Conv1d(6, 10, 3), nn.Conv2d(24, 20, 3), nn.Conv3d(4, 6, 2)
        self.grouped, self.embedding = nn.Conv2d(8, 6, 3, groups=2), nn.Embedding(11, 7)
        self.norm = nn.GroupNorm(2, 6)

    def forward(self, x: Tensor) -> Tensor:
        return x


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the libraries' advice; what mends the torchvision that they import comes first."""
    import_timm()
    for library in ("LyCORIS", "diffusers"):
        logging.getLogger(library).setLevel(logging.CRITICAL)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def drawn(model: nn.Module, marks: tuple[str, ...]) -> None:
    """Give the adapter's weights random numbers, as if it were trained."""
    draw = torch.Generator().manual_seed(0)
    for name, weight in model.named_parameters():
        if any(mark in name for mark in marks):
            weight.data = torch.randn(weight.shape, generator=draw) / 2


def by_peft(folder: Path, kind: str, targets: list[str], **settings: Any) -> tuple[Path, Changes]:
    """A folder of PEFT's own writer."""
    with quiet():
        import peft

        config = getattr(peft, f"{kind}Config")(target_modules=targets, **settings)
        model = peft.get_peft_model(Small(), config)
        drawn(model, ("lora_", "hada_", "lokr_"))
        model.save_pretrained(str(folder))
        model = peft.PeftModel.from_pretrained(Small(), str(folder))
    found = {}
    for name, module in model.base_model.model.named_modules():
        if hasattr(module, "get_delta_weight"):
            found[f"unet.{name.replace('.', '_')}"] = _delta(module)
    return folder, found


def _delta(module: Any) -> Tensor:
    """Of PEFT's layer; a convolution in groups can't be merged, and is asked for its answers instead."""
    base = module.get_base_layer()
    if hasattr(module, "lora_A") and getattr(base, "groups", 1) > 1:
        a, b = (getattr(module, f"lora_{end}")["default"] for end in "AB")
        ones = torch.eye(a.weight[0].numel()).unflatten(1, a.weight.shape[1:])
        inner = nn.functional.conv2d(ones, a.weight)
        return b(inner)[..., 0, 0].T * module.scaling["default"]
    delta = module.get_delta_weight("default").detach()
    return (delta.T if isinstance(base, nn.Embedding) else delta).flatten(1)


def by_lycoris(folder: Path, algo: str, **settings: Any) -> tuple[Path, Changes]:
    """A file of LyCORIS' own writer, on a linear layer, convolutions and, with `train_norm`, a norm."""
    targets = ["down_blocks.0.to_q", "conv", "conv1d", "conv3d", "grouped", "norm"]
    network = lycoris_network(algo, targets, **settings)
    network.save_weights(folder / "made.safetensors", torch.float32, {})
    return folder / "made.safetensors", {
        lora.lora_name.replace("lora_unet_", "unet."): _added(lora).detach().flatten(1)
        for lora in network.loras
        if lora.shape[1:]
    }


def lycoris_network(algo: str, targets: list[str], *, dim: int = 4, **settings: Any) -> Any:
    """LyCORIS' network on a `Small` model, its weights random."""
    with quiet():
        from lycoris import LycorisNetwork

        LycorisNetwork.apply_preset({"target_module": [], "target_name": targets, "lora_prefix": "lora_unet"})
        network = LycorisNetwork(Small(), 1.0, dim, dim, 3.0, 3.0, network_module=algo, **settings)
        network.apply_to()
        drawn(network, ("",))
    return network


def _added(lora: Any) -> Tensor:
    """What LyCORIS adds to a weight when it runs."""
    kind = type(lora).__name__
    if kind in ("LohaModule", "LokrModule"):  # when they are merged alpha counts twice: see findings/
        return lora.get_weight(lora.shape) * lora.scalar
    if kind == "DyLoraModule":  # whose weight is drawn anew each time: as its file says
        return torch.cat([*lora.up_list], 1) @ torch.cat([*lora.down_list]) * lora.scale
    return lora.get_diff_weight(1, lora.shape)[0]


def by_diffusers(folder: Path, model: str, **settings: Any) -> tuple[Path, Changes]:
    """A file of a pipeline's saver: its denoiser's adapter."""
    pipeline, part = PIPELINES[model][0], _part(model)
    with quiet():
        import diffusers
        import peft

        made = _adapted(model, **settings)
        saved = {
            f"{part}_lora_layers": peft.get_peft_model_state_dict(made),
            f"{part}_lora_adapter_metadata": made.peft_config["default"].to_dict(),
        }
        getattr(diffusers, pipeline).save_lora_weights(str(folder), **saved)
    return folder / "pytorch_lora_weights.safetensors", _deltas(made, part)


def by_a_model(folder: Path, model: str, **settings: Any) -> tuple[Path, Changes]:
    """The file that a model of diffusers saves by itself."""
    with quiet():
        made = _adapted(model, **settings)
        made.save_lora_adapter(str(folder))
    return folder / "pytorch_lora_weights.safetensors", _deltas(made, _part(model))


def _part(model: str) -> str:
    return "unet" if model in ("sd", "sdxl") else "transformer"


def _adapted(model: str, **settings: Any) -> Any:
    import peft

    made = PIPELINES[model][1]()
    config = peft.LoraConfig(r=3, lora_alpha=5, target_modules=_TARGETS, init_lora_weights=False, **settings)
    made.add_adapter(config)
    return made


_TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "ff.net.2", "ffn.net.2", "proj_out", "proj_mlp", "conv1"]


def _deltas(model: nn.Module, part: str) -> Changes:
    return {
        f"{part}.{name.replace('.', '_')}": module.get_delta_weight("default").detach().flatten(1)
        for name, module in model.named_modules()
        if hasattr(module, "get_delta_weight")
    }


def _unet(**more: Any) -> Any:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=8, block_out_channels=(4, 8), layers_per_block=1, norm_num_groups=2, cross_attention_dim=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=2, **more,
    )  # fmt: skip


def _transformer(name: str, **settings: Any) -> Any:
    import diffusers

    return getattr(diffusers, name)(**settings)


PIPELINES: Mapping[str, tuple[str, Callable[[], Any]]] = {
    "sd": ("StableDiffusionPipeline", _unet),
    "sdxl": ("StableDiffusionXLPipeline", _unet),
    "sd3": ("StableDiffusion3Pipeline", partial(
        _transformer, "SD3Transformer2DModel", sample_size=8, patch_size=1, in_channels=4, num_layers=1,
        attention_head_dim=4, num_attention_heads=2, joint_attention_dim=8, caption_projection_dim=8,
        pooled_projection_dim=8, out_channels=4)),
    "flux": ("FluxPipeline", partial(
        _transformer, "FluxTransformer2DModel", in_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=8,
        num_attention_heads=2, joint_attention_dim=8, pooled_projection_dim=8, axes_dims_rope=[2, 2, 4])),
    "wan": ("WanPipeline", partial(
        _transformer, "WanTransformer3DModel", patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12,
        in_channels=4, out_channels=4, text_dim=8, freq_dim=8, ffn_dim=16, num_layers=1)),
    "qwen-image": ("QwenImagePipeline", partial(
        _transformer, "QwenImageTransformer2DModel", in_channels=4, out_channels=4, num_layers=1, attention_head_dim=8,
        num_attention_heads=2, joint_attention_dim=8, axes_dims_rope=(2, 2, 4))),
    "z-image": ("ZImagePipeline", partial(
        _transformer, "ZImageTransformer2DModel", in_channels=4, dim=16, n_layers=1, n_refiner_layers=1, n_heads=2,
        n_kv_heads=2, cap_feat_dim=8, axes_dims=[2, 2, 4], axes_lens=[8, 8, 8])),
    "flux2": ("Flux2Pipeline", partial(
        _transformer, "Flux2Transformer2DModel", in_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=8,
        num_attention_heads=2, joint_attention_dim=8, axes_dims_rope=(2, 2, 2, 2), timestep_guidance_channels=8)),
    "lumina2": ("Lumina2Pipeline", partial(
        _transformer, "Lumina2Transformer2DModel", in_channels=4, hidden_size=16, num_layers=1, num_refiner_layers=1,
        num_attention_heads=2, num_kv_heads=1, multiple_of=4, cap_feat_dim=8, axes_dim_rope=(2, 2, 4))),
    "hunyuan-video": ("HunyuanVideoPipeline", partial(
        _transformer, "HunyuanVideoTransformer3DModel", in_channels=4, out_channels=4, num_attention_heads=2,
        attention_head_dim=8, num_layers=1, num_single_layers=1, num_refiner_layers=1, text_embed_dim=8,
        pooled_projection_dim=8, rope_axes_dim=(2, 2, 4))),
    "ltx": ("LTXPipeline", partial(
        _transformer, "LTXVideoTransformer3DModel", in_channels=4, out_channels=4, num_attention_heads=2,
        attention_head_dim=8, cross_attention_dim=16, num_layers=1, caption_channels=8)),
    "hidream": ("HiDreamImagePipeline", partial(
        _transformer, "HiDreamImageTransformer2DModel", in_channels=4, out_channels=4, num_layers=1,
        num_single_layers=1, attention_head_dim=8, num_attention_heads=2, patch_size=2, caption_channels=[8, 8],
        text_emb_dim=8, axes_dims_rope=(4, 2, 2), max_resolution=(8, 8), llama_layers=[0, 1], num_routed_experts=2,
        num_activated_experts=1)),
}  # fmt: skip
"""A family -> the pipeline that saves its adapters, and a tiny random model of it."""

_LINEAR, _PLAIN = ["to_q", "to_v"], ["to_q", "to_v", "conv", "conv1d"]
_ALL = [*_PLAIN, "conv3d", "grouped", "embedding"]
_LORA: dict[str, Any] = {"kind": "Lora", "r": 2, "lora_alpha": 5, "init_lora_weights": False}
_CUT = {
    "down_blocks.0.to_q.lora_E": [True, False, True, True],
    "down_blocks.0.to_v.lora_E": [True, False, False, True],
}
_BY_LYCORIS: dict[str, dict[str, Any]] = {
    "LoCon": {"algo": "locon"},
    "LoCon, Tucker": {"algo": "locon", "use_tucker": True},
    "LoCon, scalar": {"algo": "locon", "use_scalar": True},
    "LoCon, rsLoRA": {"algo": "locon", "rs_lora": True},
    "LoCon with norms": {"algo": "locon", "train_norm": True},
    "DoRA": {"algo": "locon", "weight_decompose": True},
    "DoRA on inputs": {"algo": "locon", "weight_decompose": True, "wd_on_out": False},
    "LoHa": {"algo": "loha"},
    "LoHa, Tucker": {"algo": "loha", "use_tucker": True},
    "LoHa, DoRA": {"algo": "loha", "weight_decompose": True},
    "LoHa, rsLoRA": {"algo": "loha", "rs_lora": True},
    "LoKr": {"algo": "lokr", "dim": 2},
    "LoKr, w2 whole": {"algo": "lokr", "full_matrix": True},
    "LoKr, both factored": {"algo": "lokr", "dim": 1, "decompose_both": True, "factor": 8},
    "LoKr, Tucker": {"algo": "lokr", "dim": 2, "use_tucker": True},
    "LoKr, scalar": {"algo": "lokr", "dim": 2, "use_scalar": True},
    "full": {"algo": "full"},
    "DyLoRA": {"algo": "dylora"},
}
_OF_MODELS: dict[str, dict[str, Any]] = {
    "sd": {"use_dora": True}, "flux": {"rank_pattern": {"to_q": 2}, "alpha_pattern": {"to_k": 9}},
    "wan": {"use_rslora": True},
}  # fmt: skip

CASES: dict[str, Write] = {
    "PEFT LoRA": partial(by_peft, targets=_ALL, **_LORA),
    "PEFT LoRA, patterns": partial(
        by_peft, targets=_ALL, rank_pattern={"down_blocks.0.to_v": 3}, alpha_pattern={"to_v": 7, "^conv": 11}, **_LORA
    ),
    "PEFT rsLoRA": partial(by_peft, targets=_ALL, use_rslora=True, **_LORA),
    "PEFT DoRA": partial(by_peft, targets=[*_PLAIN, "conv3d"], use_dora=True, **_LORA),
    "PEFT LoRA, biases": partial(by_peft, targets=_PLAIN, lora_bias=True, **_LORA),
    "PEFT AdaLoRA": partial(
        by_peft, kind="AdaLora", targets=_LINEAR, init_r=4, lora_alpha=5, total_step=9, rank_pattern=_CUT
    ),
    "PEFT LoHa": partial(by_peft, kind="LoHa", targets=[*_PLAIN, "grouped"], r=3, alpha=5, alpha_pattern={"to_v": 7}),
    "PEFT LoHa, Tucker": partial(by_peft, kind="LoHa", targets=_PLAIN, r=3, alpha=5, use_effective_conv2d=True),
    "PEFT LoKr": partial(by_peft, kind="LoKr", targets=[*_PLAIN, "grouped"], r=1, alpha=5, decompose_both=True),
    "PEFT LoKr, whole": partial(
        by_peft, kind="LoKr", targets=[*_LINEAR, "conv"], r=32, alpha=5, rank_pattern={"to_v": 16}
    ),
    **{f"LyCORIS {name}": partial(by_lycoris, **settings) for name, settings in _BY_LYCORIS.items()},
    **{f"diffusers {name}": partial(by_diffusers, model=name, **_OF_MODELS.get(name, {})) for name in PIPELINES},
    **{
        f"diffusers {name} by itself": partial(by_a_model, model=name, **_OF_MODELS.get(name, {})) for name in PIPELINES
    },
}
"""What a library writes -> how."""

NEEDING_BASE = {"glora": "GLoRA", "diag-oft": "OFT", "boft": "BOFT", "ia3": "IA3", "tlora": "T-LoRA"}
"""LyCORIS' other algorithms -> what they are called."""
