"""The frozen vision transformer with its branches in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lorax.environment import keep_freed_memory
from lorax.errors import BackboneError
from lorax.network.branch import Branch, LiveBranch, fresh_branch, merged
from lorax.network.passes import (
    Embedded,
    SplitModel,
    embed,
    encode,
    hearing,
    make_audible,
    make_stackable,
    side_by_side,
    stacked,
)
from lorax.network.rehearsal import Rehearsal
from lorax.params import LoraParams

_IMAGES_A_PASS = {"cpu": 8, "cuda": 256}
"""How many images, each counted once for every branch, a pass holds: as long as larger ones are faster. On a CPU larger
ones leave its caches, and merging a branch's weights anew takes less than a hundredth of eight images' time."""


@dataclass(frozen=True)
class BackboneIdentity:
    """Which backbone a state was learned on. The weights are named by their `source` and held to their `sha256`."""

    name: str
    arguments: Mapping[str, Any]
    source: str
    sha256: str
    crop: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


class Backbone(nn.Module):
    """A frozen timm vision transformer and its branches.

    `width` is D, `texture_width` L·D or what a front says. Images go in as bytes (B, 3, crop, crop), features come out
    as (B, K·D).

    Args:
        model: timm's.
        identity: what it was built from.
        front: of another model, which gives the texture in this one's place.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: Any, identity: BackboneIdentity, front: SplitModel | None = None) -> None:
        super().__init__()
        keep_freed_memory()
        self.identity = identity
        self.front = front.requires_grad_(False).eval() if front else None
        self.width = int(model.head_hidden_size)  # of the feature; num_features may be an earlier layer's
        self.model: Any = model.requires_grad_(False).eval()
        self._branches: list[Branch] = []
        self._linears = {
            name: module
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear) and not name.endswith(".pos_proj")  # convit.py counts on these as they are
        }
        make_stackable(self._linears)
        self._layers = _layers(self.model)
        make_audible(self._layers)
        gives_texture = model if isinstance(model, SplitModel) else self.front
        self.texture_width: int = gives_texture.texture_width if gives_texture else len(self._layers) * self.width
        self.register_buffer("mean", torch.tensor(identity.mean).view(1, 3, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(identity.std).view(1, 3, 1, 1) * 255, persistent=False)

    @property
    def branches(self) -> int:
        """K."""
        return len(self._branches)

    def branch(self, k: int) -> Branch:
        return self._branches[k]

    def digest_of(self, k: int) -> str:
        """One hash for all that branch k's features depend on beside the backbone."""
        return self._branches[k].digest

    def add_branch(self, lora: LoraParams, seed: int) -> Branch:
        """Add a branch that starts as the frozen backbone: B is zero, A is drawn from `seed` alone.

        Raises:
            BackboneError: a target matches no module.
        """
        self._branches.append(fresh_branch(lora, self._linears, seed))
        return self._branches[-1]

    def load_branch(self, config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
        """Add a branch from PEFT's configuration and weights.

        Raises:
            BackboneError: the weights are not the ones that this configuration gives on this backbone.
        """
        self._branches.append(Branch(config, weights, self._linears))

    def start_branch(self, k: int, weights: Mapping[str, Tensor]) -> None:
        """Let branch k start from another's weights instead.

        Raises:
            BackboneError: they are of another rank, or of other layers.
        """
        self._replace(k, weights)

    def move_last(self, k: int) -> None:
        """Let branch k come after all others, whose order stays."""
        self._branches.append(self._branches.pop(k))

    def rehearse(self, k: int) -> None:
        """See that all of branch k can learn, before it does.

        Raises:
            BackboneError: the model refuses images of the crop, or does not hear some of the branch's layers.
        """
        crop, branch = self.identity.crop, self._branches[k]
        name, heard = self.identity.name, self._normalised
        Rehearsal(name, self.model, self._linears, heard, crop=crop, width=self.width).check(
            branch.layers, int(branch.config["r"])
        )

    def live_branch(self, k: int) -> LiveBranch:
        """Branch k in a form that learns; `keep_branch` takes over what it learned."""
        return LiveBranch(self.model, self._branches[k], self._tokens)

    def keep_branch(self, k: int, live: LiveBranch) -> None:
        """Replace branch k by what `live` has learned."""
        self._replace(k, live.export())

    def _replace(self, k: int, weights: Mapping[str, Tensor]) -> None:
        self._branches[k] = Branch(self._branches[k].config, weights, self._linears)

    @torch.no_grad()
    def embed(self, images: Tensor) -> Embedded:
        """What is computed once for all branches, and for the texture: bytes (B, 3, crop, crop)."""
        found = embed(self.model, self._normalised(images))
        return replace(found, texture=embed(self.front, images / 255).texture) if self.front else found

    @torch.no_grad()
    def features(self, images: Tensor | Embedded, branches: range) -> Tensor:
        """What some branches say of the images, float32, without dropout: (B, K·D).

        As many branches as a pass has room for go together: all images once for each of them in one batch, the shared
        weights applied to it as a whole, and each adapted weight to its own part. LoRA is merged into a weight when a
        pass comes to it, and nothing merged is kept. On a CPU threads share the passes.

        Args:
            images: bytes (B, 3, crop, crop), or what `embed` gave of them.
        """
        tokens = self._embedded(images).tokens
        most = _IMAGES_A_PASS[tokens.device.type]
        each = -(-len(branches) // torch.get_num_threads()) if tokens.device.type == "cpu" else len(branches)
        together = max(1, min(each, most // max(1, len(tokens))))
        groups = [branches[i : i + together] for i in range(0, len(branches), together)]
        parts, mixed = tokens.split(most), torch.is_autocast_enabled(tokens.device.type)

        def said(job: tuple[Tensor, range]) -> Tensor:
            # both are each thread's own
            with torch.no_grad(), torch.autocast(tokens.device.type, torch.bfloat16, enabled=mixed):
                return self._pass(*job)

        with side_by_side(tokens.device, len(parts) * len(groups)) as over:
            found = list(over(said, [(part, group) for part in parts for group in groups]))
        rows = [torch.cat(found[i : i + len(groups)], dim=1) for i in range(0, len(found), len(groups))]
        return torch.cat(rows).float()

    @property
    def gives_tokens(self) -> bool:
        """Whether there is something to compute once for all branches and epochs."""
        return isinstance(self.model, SplitModel)

    @torch.no_grad()
    def plain_feature(self, images: Tensor) -> Tensor:
        """What the frozen backbone says without any branch: bytes (B, 3, crop, crop) -> (B, D)."""
        feature: Tensor = self.model(self._normalised(images))
        return feature

    @torch.no_grad()
    def texture(self, images: Tensor | Embedded) -> Tensor:
        """What the frozen layers say over an image, without any branch: (B, texture_width), float32.

        A front says it itself. Else it is each layer's average, of the patch embedding and every block but the last.
        What a generator leaves everywhere in an image adds up in such numbers, whatever the image shows.

        Args:
            images: bytes (B, 3, crop, crop), or what `embed` gave of them.

        Raises:
            BackboneError: the model has no such layers.

        Source: the averages over positions of every layer that Lee et al. (NeurIPS 2018) detect strange images by.
        """
        embedded = self._embedded(images)
        if embedded.texture is not None:
            return embedded.texture
        with hearing() as parts:
            self.model(embedded.tokens)
        if not parts or [part.shape[1] for part in parts] != [self.width] * len(self._layers):
            raise BackboneError(
                f"{self.identity.name!r} has no patch embedding and blocks of one width, by which calibration tells "
                "what is strange. Set calibration.per_class: 0, or choose a plain vision transformer."
            )
        return torch.cat(parts, dim=1)

    def _embedded(self, images: Tensor | Embedded) -> Embedded:
        return self.embed(images) if isinstance(images, Tensor) else images

    def _tokens(self, images: Tensor) -> Tensor:
        """What a learning branch starts from, of bytes or of tokens that were kept."""
        with torch.no_grad():
            found = embed(self.model, self._normalised(images)).tokens if images.dtype == torch.uint8 else images
        tokens = found.float()
        return self.model.glimpse(tokens) if isinstance(self.model, SplitModel) else tokens

    def _pass(self, tokens: Tensor, branches: range) -> Tensor:
        """One pass of the model for some branches: what `embed` gave of B images -> (B, G·D)."""
        chosen = [self._branches[k] for k in branches]
        adapted = {name: self._linears[name].weight for branch in chosen for name in branch.layers}
        with stacked({name: partial(merged, chosen, name, weight) for name, weight in adapted.items()}):
            out = encode(self.model, tokens.repeat(len(chosen), *[1] * (tokens.ndim - 1)))
        return out.view(len(chosen), len(tokens), -1).transpose(0, 1).reshape(len(tokens), -1)

    def _normalised(self, images: Tensor) -> Tensor:
        return (images.to(self.mean.dtype) - self.mean) / self.std


def _layers(model: Any) -> list[nn.Module]:
    """The patch embedding and all blocks but the last, which may give one token only; none where there are no such."""
    embedding, blocks = getattr(model, "patch_embed", None), getattr(model, "blocks", None)
    if not isinstance(embedding, nn.Module) or not isinstance(blocks, nn.Sequential | nn.ModuleList):
        return []
    return [embedding, *list(blocks)[:-1]]
