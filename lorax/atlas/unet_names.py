"""The two spellings of a U-Net's layers: Stability AI's generative-models', and diffusers', which is canonical here."""

from __future__ import annotations

import re

_ORIGINAL_LAYERS = {
    "input_blocks_0_0": "conv_in", "out_2": "conv_out",
    "time_embed_0": "time_embedding_linear_1", "time_embed_2": "time_embedding_linear_2",
    "label_emb_0_0": "add_embedding_linear_1", "label_emb_0_2": "add_embedding_linear_2",
}  # fmt: skip
_ORIGINAL_RESIDUAL = {
    "in_layers_2": "conv1", "out_layers_3": "conv2",
    "emb_layers_1": "time_emb_proj", "skip_connection": "conv_shortcut",
}  # fmt: skip
_ORIGINAL_BLOCK = re.compile(r"(input|output)_blocks_([0-9]+)_([0-9]+)_(.+)")
_ORIGINAL_MIDDLE = re.compile(r"middle_block_([012])_(.+)")
_LAYERS_A_LEVEL = 3  # two blocks and a change of size, in every U-Net of Stable Diffusion


def diffusers_name(name: str) -> str:
    """A U-Net's layer in the original spelling as diffusers spells it; any other name as it is."""
    if name in _ORIGINAL_LAYERS:
        return _ORIGINAL_LAYERS[name]
    if middle := _ORIGINAL_MIDDLE.fullmatch(name):
        number, rest = int(middle[1]), middle[2]
        return f"mid_block_attentions_0_{rest}" if number == 1 else f"mid_block_{_residual(number // 2, rest)}"
    block = _ORIGINAL_BLOCK.fullmatch(name)
    if not block or (block[1] == "input" and int(block[2]) == 0):
        return name
    side, number, inner, rest = block[1], int(block[2]), int(block[3]), block[4]
    level, place = divmod(number - (side == "input"), _LAYERS_A_LEVEL)
    blocks = f"{'down' if side == 'input' else 'up'}_blocks_{level}"
    if rest in ("op", "conv"):
        return f"{blocks}_{'downsamplers' if side == 'input' else 'upsamplers'}_0_conv"
    return f"{blocks}_attentions_{place}_{rest}" if inner else f"{blocks}_{_residual(place, rest)}"


def _residual(place: int, rest: str) -> str:
    return f"resnets_{place}_{_ORIGINAL_RESIDUAL.get(rest, rest)}"
