"""The linear classifier over all branches' features, how it grows, and the head that reads the texture."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn


def fresh_head(width: int, classes: int, generator: torch.Generator) -> nn.Linear:
    """A linear layer (classes, width) with Kaiming uniform weights and zero bias."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Initializing zero-element tensors")  # the head of a network without branches
        head = nn.Linear(width, classes)
        nn.init.kaiming_uniform_(head.weight, nonlinearity="linear", generator=generator)
    nn.init.zeros_(head.bias)
    return head


def grown_head(
    old: nn.Linear, width: int, classes: int, generator: torch.Generator, *, branch_seed: int, brings_real: bool = True
) -> nn.Linear:
    """The head with `width` more input columns and `classes` more outputs; the old block is copied bit for bit.

    Between the new branch and the new classes the head starts from the branch's seed alone, the same in every episode:
    which way a branch learns to point is decided there, so that branches started otherwise could not be compared.

    Args:
        old: the head so far.
        width: D.
        classes: how many the task brings.
        generator: for all other new entries.
        branch_seed: of the new branch.
        brings_real: the first new class is the real one; if not, its row of the common start is left out.

    Source: LoRAX (arXiv 2504.08149), "expandable classifier": old weights and biases are inherited, new entries start
    fresh, and the whole head trains on.
    """
    head = fresh_head(old.in_features + width, old.out_features + classes, generator)
    common = torch.Generator().manual_seed(branch_seed + _APART)
    start = fresh_head(width, classes + (not brings_real), common)
    with torch.no_grad():
        head.weight[: old.out_features, : old.in_features] = old.weight
        head.bias[: old.out_features] = old.bias
        head.weight[old.out_features :, old.in_features :] = start.weight[not brings_real :]
    return head


_APART = 2**32
"""Between the seed of a branch's A and that of the head's start for it, whose numbers would else be the same."""


class TextureHead(nn.Module):
    """Linear regressions from the texture, one for each kind of perturbation; the texture tells which is asked.

    Args:
        weight, bias: (M, C, F) and (M, C), as logits; the first kind is "not perturbed".
        kind_weight, kind_bias: (M, F) and (M,), scores of the kinds.
    """

    weight: Tensor
    bias: Tensor
    kind_weight: Tensor
    kind_bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor, kind_weight: Tensor, kind_bias: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)
        self.register_buffer("kind_weight", kind_weight)
        self.register_buffer("kind_bias", kind_bias)

    def forward(self, texture: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, C) of textures (B, F), and of which kind each image is (B,), 0 where it is not perturbed."""
        kinds = kinds_of(texture, self.kind_weight, self.kind_bias)
        logits = torch.einsum("mcf,bf->bmc", self.weight, texture) + self.bias
        return logits[torch.arange(len(texture), device=texture.device), kinds], kinds

    def beside(self, logits: Tensor, texture: Tensor) -> Tensor:
        """The branches' logits (B, C) and these together; branches say nothing of a perturbed image."""
        added, kinds = self.forward(texture)
        return torch.where(kinds[:, None] == 0, logits, 0) + added


def kinds_of(texture: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Which kind of perturbation textures (B, F) tell: (B,), from scores of weight (M, F) and bias (M,)."""
    return nn.functional.linear(texture, weight, bias).argmax(dim=1)
