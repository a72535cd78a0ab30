"""The network: frozen backbone, one branch per task, concatenated features, one growing linear head."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lorax.network.backbone import Backbone
from lorax.network.branch import LiveBranch
from lorax.network.passes import Embedded
from lorax.params import LoraParams


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


@dataclass(frozen=True)
class TextureHead:
    """Linear regressions from the texture, one for each kind of perturbation; the texture tells which is asked.

    Args:
        weight, bias: (M, C, F) and (M, C), as logits; the first kind is "not perturbed".
        kind_weight, kind_bias: (M, F) and (M,), scores of the kinds; the highest is asked.
    """

    weight: Tensor
    bias: Tensor
    kind_weight: Tensor
    kind_bias: Tensor

    def answer(self, texture: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, C) of textures (B, F), and of which kind each image is (B,), 0 where it is not perturbed."""
        weight, bias, *of_kinds = (part.to(texture.device) for part in self.tensors().values())
        kinds = kinds_of(texture, *of_kinds)
        logits = torch.einsum("mcf,bf->bmc", weight, texture) + bias
        return logits[torch.arange(len(texture), device=texture.device), kinds], kinds

    def beside(self, logits: Tensor, texture: Tensor) -> Tensor:
        """The branches' logits (B, C) and these together; branches say nothing of a perturbed image."""
        added, kinds = self.answer(texture)
        return torch.where(kinds[:, None] == 0, logits, 0) + added

    def tensors(self) -> dict[str, Tensor]:
        """As a learner state has them."""
        names = {"texture_weight": self.weight, "texture_bias": self.bias}
        return names | {"kind_weight": self.kind_weight, "kind_bias": self.kind_bias}

    @classmethod
    def parse(cls, tensors: Mapping[str, Tensor]) -> TextureHead:
        """The opposite; before format 5 there was one kind."""
        weight, bias = tensors["texture_weight"], tensors["texture_bias"]
        if "kind_weight" not in tensors:
            weight, bias = weight[None], bias[None]
            return cls(weight, bias, torch.zeros(1, weight.shape[-1]), torch.zeros(1))
        return cls(weight, bias, tensors["kind_weight"], tensors["kind_bias"])


def kinds_of(texture: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Which kind of perturbation textures (B, F) tell: (B,), from scores of weight (M, F) and bias (M,)."""
    return nn.functional.linear(texture, weight, bias).argmax(dim=1)


class Network(nn.Module):
    """K branches on one backbone and a head over their concatenated features (K·D wide).

    Args:
        backbone: with its branches.
        head: (C, K·D).
        texture_head: over the frozen backbone's texture, whose logits are added; of a perturbed image, which branches
            say nothing of, it counts alone. None: only branches count.
        mixed_precision: matrix products in bfloat16 (autocast), for features and in training alike.

    Source: LoRAX (arXiv 2504.08149), section "method".
    """

    def __init__(
        self,
        backbone: Backbone,
        head: nn.Linear,
        *,
        texture_head: TextureHead | None = None,
        mixed_precision: bool = False,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.texture_head = texture_head
        self.mixed_precision = mixed_precision

    @classmethod
    def empty(cls, backbone: Backbone, *, mixed_precision: bool = False) -> Network:
        """A network that knows nothing yet: no branch, no class."""
        return cls(backbone, fresh_head(0, 0, torch.Generator()), mixed_precision=mixed_precision)

    @property
    def branches(self) -> int:
        """K."""
        return self.backbone.branches

    @property
    def crop(self) -> int:
        """Side of the square that the network sees, in pixels."""
        return self.backbone.identity.crop

    @property
    def device(self) -> torch.device:
        return self.head.weight.device

    def grow(
        self, lora: LoraParams, classes: int, *, branch_seed: int, head_seed: int, brings_real: bool = True
    ) -> int:
        """Add a branch and `classes` outputs; what is there keeps its numbers bit for bit.

        Args:
            lora: of the branch.
            classes: how many the task brings; the first is real if it `brings_real` images.
            branch_seed: decides A, and how the head between the branch and these classes starts.
            head_seed: decides the head's other new entries.
            brings_real: see `classes`.

        Returns:
            How many modules carry the new branch.

        Raises:
            BackboneError: the backbone doesn't hear the new branch, or not all of it.
        """
        device = self.device
        branch = self.backbone.add_branch(lora, branch_seed)
        generator = torch.Generator().manual_seed(head_seed)
        old, width = self.head.cpu(), self.backbone.width
        self.head = grown_head(old, width, classes, generator, branch_seed=branch_seed, brings_real=brings_real)
        self.to(device)
        self.backbone.rehearse(self.branches - 1)
        return len(branch.layers)

    def move_last(self, k: int) -> None:
        """Let branch k come after all others, which is where a branch learns; what the network says stays the same."""
        with torch.no_grad():
            parts = list(self.head.weight.split(self.backbone.width, dim=1))
            parts.append(parts.pop(k))
            self.head.weight.copy_(torch.cat(parts, dim=1))
        self.backbone.move_last(k)

    def autocast(self) -> torch.autocast:
        """The block in which matrix products have the network's precision."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.mixed_precision)

    def embed(self, images: Tensor | Embedded) -> Embedded:
        """What branches and texture have in common, computed once, on the network's device.

        Args:
            images: bytes (B, 3, crop, crop), or what this gave of them before.
        """
        if isinstance(images, Embedded):
            return images.to(self.device)
        with self.autocast():
            return self.backbone.embed(images.to(self.device, non_blocking=True))

    def features(self, images: Tensor | Embedded, branches: range | None = None) -> Tensor:
        """Concatenated features of the given branches (default all), (B, K·D).

        They are float32 on the network's device, without gradients or dropout.

        Args:
            images: bytes (B, 3, crop, crop), or what `embed` gave of them.
        """
        chosen = range(self.branches) if branches is None else branches
        if not chosen:
            return torch.zeros(len(images), 0, device=self.device)
        embedded = self.embed(images)
        with self.autocast():
            return self.backbone.features(embedded, chosen)

    def texture(self, images: Tensor | Embedded) -> Tensor:
        """What the frozen backbone says of an image's texture, (B, texture_width), float32; `images` as above."""
        embedded = self.embed(images)
        with self.autocast():
            return self.backbone.texture(embedded)

    def live_feature(self, live: LiveBranch, images: Tensor) -> Tensor:
        """What the learning branch says, with gradients: bytes (B, 3, crop, crop) -> (B, D), float32."""
        with self.autocast():
            return live(images.to(self.device, non_blocking=True)).float()

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        """Probabilities of every class seen: bytes (B, 3, crop, crop) -> (B, C)."""
        embedded = self.embed(images)
        texture = self.texture(embedded) if self.texture_head else None
        return self.logits(self.features(embedded), texture).softmax(dim=1)

    @torch.no_grad()
    def logits(self, features: Tensor, texture: Tensor | None = None) -> Tensor:
        """(B, C) of the branches' features (B, K·D) and the texture (B, F), which a texture head needs."""
        logits: Tensor = self.head(features.to(self.device))
        if self.texture_head is None:
            return logits
        assert texture is not None
        return self.texture_head.beside(logits, texture.to(self.device))


def device_of(name: str) -> torch.device:
    """The device that `run.device` names; "auto" is a GPU where there is one."""
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
