"""Which layers belong together, in module groups: told by their names alone.

Of the names that timm's vision transformers, diffusers' U-Nets and transformers, and CLIP's text encoders have.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from lorax.atlas.adapter import Layer

ALL = "all"

_KINDS = {
    "q": r"(to_q|q_proj|add_q_proj|query)",
    "k": r"(to_k|k_proj|add_k_proj|key)",
    "v": r"(to_v|v_proj|add_v_proj|attn_v|value)",
    "qk": r"attn_qk",
    "qkv": r"(attn|attention)_qkv",
    "out": r"(to_out|to_out_0|to_add_out|out_proj|attn_proj)",
    "fc1": r"(mlp_fc1|(ffn?|ff_context|img_mlp|txt_mlp)_(net_0_proj|linear_in)|proj_mlp|feed_forward_(w|linear_)[13])",
    "fc2": r"(mlp_fc2|(ffn?|ff_context|img_mlp|txt_mlp)_(net_2|linear_out)|feed_forward_(w|linear_)2)",
}
"""What a layer does in its block -> how its name ends."""

_WIDER = {"attention": ("q", "k", "v", "qk", "qkv", "out"), "feed-forward": ("fc1", "fc2")}


def kind(layer: Layer) -> str | None:
    """What the layer does in its block: "q", "fc1", ...; None where its name doesn't tell."""
    return next((kind for kind, ending in _KINDS.items() if re.search(f"(^|_){ending}$", layer.name)), None)


def groups(layers: Sequence[Layer]) -> dict[str, list[int]]:
    """Every group that has layers, with the numbers of its layers; "all" comes first.

    "early" and "late" are the halves of each part, in the order in which its blocks are passed through.
    """
    kinds = [kind(layer) for layer in layers]
    members_of = {ALL: list(range(len(layers)))}
    for name, members in _WIDER.items():
        members_of[name] = [i for i, k in enumerate(kinds) if k in members]
    for name in _KINDS:
        members_of[name] = [i for i, k in enumerate(kinds) if k == name]
    parts = sorted({layer.part for layer in layers})
    members_of["early"] = sorted(i for part in parts for i in _halves(layers, part)[0])
    members_of["late"] = sorted(i for part in parts for i in _halves(layers, part)[1])
    for part in parts if len(parts) > 1 else ():
        members_of[part] = [i for i, layer in enumerate(layers) if layer.part == part]
    return {name: members for name, members in members_of.items() if members}


def _halves(layers: Sequence[Layer], part: str) -> tuple[list[int], list[int]]:
    order = sorted((i for i, layer in enumerate(layers) if layer.part == part), key=lambda i: _depth(layers[i].name))
    return order[: (len(order) + 1) // 2], order[(len(order) + 1) // 2 :]


def _depth(name: str) -> list[tuple[int, str]]:
    """Sorts names as their layers are passed through: numbers by value; down, mid, up are in the alphabet's order.

    A transformer's single blocks, whose texts and images are one, come after its double ones.
    """
    split_name = re.split(r"(\d+)", re.sub("^single_", "~", name))
    return [(int(text), "") if text.isdecimal() else (-1, text) for text in split_name]
