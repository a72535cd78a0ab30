"""Exact fast attention for timm's ConViT.

Gated positional self-attention (GPSA) mixes a content map and a positional map by a gate g per head. Both maps are
softmaxes, so each row sums to 1 and so does the mix: timm's last normalisation divides by 1. Hence

    attention @ v = (1 - g) · SDPA(q, k, v) + g · (P @ v)

where the positional map P depends on frozen weights only. P is computed once, and the content part runs fused.

Of the last block only the class token is read, so its attention has one query and its MLP one token.

Source: d'Ascoli et al., ConViT (arXiv 2103.10697), equations 6-8, for what is computed.
"""

from __future__ import annotations

import types
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def use_fast_attention(model: nn.Module) -> int:
    """Give every ConViT attention of `model` the exact fast forward; call again whenever its weights change.

    An attention with dropout, or whose positional projection is not a plain frozen layer, keeps timm's forward.

    Returns:
        How many attentions now run fast (0 for a model that has none).
    """
    fast = 0
    modules: list[Any] = list(model.modules())
    for module in modules:
        kind = type(module).__name__
        if kind == "ConVit":
            _read_only_the_class_token(module)
        if kind not in ("GPSA", "MHSA") or module.attn_drop.p > 0:
            continue
        if kind == "MHSA":
            module.forward = types.MethodType(_mhsa_forward, module)
        elif type(module.pos_proj) is nn.Linear:
            _keep_share_of_content(module)
            tokens = int(module.rel_indices.shape[1])
            if tokens > 1:
                _keep_positional_map(module, tokens)
            module.forward = types.MethodType(_gpsa_forward, module)
        else:
            continue
        fast += 1
    return fast


def _read_only_the_class_token(model: Any) -> None:
    """Let the last block give (B, 1, D) where the model's feature is the class token."""
    last = model.blocks[-1]
    if model.global_pool == "token" and type(last.attn).__name__ == "MHSA" and not last.attn.attn_drop.p:
        last.forward = types.MethodType(_class_token_forward, last)


def _keep_share_of_content(module: Any) -> None:
    """Store 1 - g as a buffer (H, 1) that is not part of the weights."""
    with torch.no_grad():
        module.register_buffer("content_share", 1.0 - torch.sigmoid(module.gating_param).view(-1, 1), persistent=False)


def _keep_positional_map(module: Any, tokens: int) -> Tensor:
    """Store g · P as a buffer (H, T, T), likewise, and return it."""
    with torch.no_grad():
        indices = module.get_rel_indices(tokens)
        positional = module.pos_proj(indices).permute(0, 3, 1, 2).softmax(dim=-1)[0]
        found: Tensor = torch.sigmoid(module.gating_param).view(-1, 1, 1) * positional
        module.rel_indices = indices
        module.register_buffer("gated_positions", found, persistent=False)
    return found


def _gpsa_forward(self: Any, x: Tensor) -> Tensor:
    """(B, T, D) -> (B, T, D)."""
    batch, tokens, width = x.shape
    shape = (batch, tokens, self.num_heads, width // self.num_heads)
    positions = getattr(self, "gated_positions", None)  # read once: other threads may store theirs meanwhile
    if positions is None or positions.shape[-1] != tokens:
        positions = _keep_positional_map(self, tokens)
    q, k = (part.reshape(shape).transpose(1, 2) for part in self.qk(x).chunk(2, dim=-1))  # each (B, H, T, D/H)
    v = self.v(x).reshape(shape)
    content = F.scaled_dot_product_attention(q, k, v.transpose(1, 2), scale=self.scale).transpose(1, 2)
    of_all = v.permute(2, 1, 0, 3).reshape(self.num_heads, tokens, -1)  # (H, T, B·D/H): or P would be copied B times
    placed = torch.bmm(positions.to(v.dtype), of_all).view(self.num_heads, tokens, batch, -1)
    mixed = torch.addcmul(placed.permute(2, 1, 0, 3), content, self.content_share.to(v.dtype))
    out: Tensor = self.proj_drop(self.proj(mixed.reshape(batch, tokens, width)))
    return out


def _class_token_forward(self: Any, x: Tensor) -> Tensor:
    """(B, T, D) -> (B, 1, D), what the whole block gives for the first token."""
    batch, tokens, width = x.shape
    attn = self.attn
    shape = (batch, tokens, attn.num_heads, width // attn.num_heads)
    q, k, v = (part.reshape(shape).transpose(1, 2) for part in attn.qkv(self.norm1(x)).chunk(3, dim=-1))
    mixed = F.scaled_dot_product_attention(q[:, :, :1], k, v, scale=attn.scale).transpose(1, 2).reshape(batch, 1, width)
    x = x[:, :1] + self.drop_path(attn.proj_drop(attn.proj(mixed)))
    out: Tensor = x + self.drop_path(self.mlp(self.norm2(x)))
    return out


def _mhsa_forward(self: Any, x: Tensor) -> Tensor:
    """(B, T, D) -> (B, T, D)."""
    batch, tokens, width = x.shape
    shape = (batch, tokens, self.num_heads, width // self.num_heads)
    q, k, v = (part.reshape(shape).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=-1))
    mixed = F.scaled_dot_product_attention(q, k, v, scale=self.scale).transpose(1, 2).reshape(batch, tokens, width)
    out: Tensor = self.proj_drop(self.proj(mixed))
    return out
