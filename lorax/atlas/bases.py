"""What base models are called: by those who state them, and here."""

from __future__ import annotations

import re
from collections.abc import Sequence

from lorax.atlas.adapter import Layer
from lorax.atlas.families import Family

_SPELLINGS = {
    "sd-1": r"(sd|stablediffusion)v?1[45]?|v1[45](pruned)?(emaonly)?(fp16)?",
    "sd-2": r"(sd|stablediffusion)v?2[01]?(base|512|768)?v?|v2[01](512|768)(nonema|ema)(pruned)?",
    "sdxl": r"(sd|stablediffusion)xl(v?10?)?(base)?(v?10?)?(09vae|10vae)?",
    "sd-3": r"(sd|stablediffusion)v?3(m|medium)?(diffusers)?",
    "sd-3.5": r"(sd|stablediffusion)v?35(m|l|medium|large)?(turbo)?(diffusers)?",
    "flux-1": r"flux1?(dev|d|schnell|s)?(fp8)?",
    "flux-2": r"flux2(dev|d)?",
    "chroma": r"chroma1?(hd|base)?",
    "lumina-2": r"lumina(image)?20?",
    "hunyuan-video": r"hunyuanvideo",
    "hunyuan-image-2.1": r"hunyuanimage21(diffusers)?",
    "wan-2.1": r"wan(video)?21(t2v)?(13b|14b)?(diffusers)?",
    "wan-2.2": r"wan22(t2v)?(a?14b)?(diffusers)?",
    "qwen-image": r"qwenimage",
    "z-image": r"zimage(turbo|base)?",
    "hidream": r"hidream(i1)?(full|dev|fast)?",
    "anima": r"anima(preview)?",
    "krea-2": r"krea2",
    "ideogram-4": r"ideogram4",
    "ltx-2": r"ltxv?2",
}
"""Families of base models -> their spellings in small letters and digits: model cards, trainers, file names.

Sources: the trainers' ss_base_model_version and modelspec.architecture: kohya's and musubi-tuner's sai_model_spec.py,
ai-toolkit.
"""

_TEXTS = {768: "sd-1", 1024: "sd-2", 2048: "sdxl"}
"""How wide the texts are that a U-Net is conditioned on."""


def family(base: str) -> str:
    """A base model's name: that of its family where many spellings of it are in use, else as it is."""
    last = base.rstrip("/").replace("\\", "/").removesuffix("/lora").rpartition("/")[2]
    squeezed = re.sub(r"[^a-z0-9]", "", re.sub(r"\.(safetensors|ckpt)$", "", last.lower())).removesuffix("lora")
    return next((name for name, spelling in _SPELLINGS.items() if re.fullmatch(spelling, squeezed)), base)


def guessed(layers: Sequence[Layer], of: Family | None) -> str | None:
    """The base model that layers look like: of a transformer by their names, of a U-Net by their inputs."""
    if of:
        return of.name
    found = (_TEXTS.get(x.inputs) for x in layers if x.part == "unet" and x.name.endswith("_attn2_to_k"))
    return next(found, None)
