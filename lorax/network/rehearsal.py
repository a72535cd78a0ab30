"""One step of a branch before anything is learned: is all of it heard by the model, live and merged alike?

Layers that a model has need not be layers that it calls: some read a layer's weight only, where a live branch changes
nothing, and a merged one does. Others compute a table once for all images, which a pass of several branches can't hold.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from lorax.errors import BackboneError
from lorax.network.branch import LiveBranch, kinds_of, loud_branch, merged
from lorax.network.passes import embed, encode, stacked

_IMAGES = 2

_TOLERANCE = 0.01
"""How far live and merged features may lie apart, measured by what the branch changes."""


class Rehearsal:
    """A model, images for it, and the layers that branches may adapt.

    Args:
        name: what messages call the model.
        model: timm's.
        linears: its linear layers by name.
        normalised: turns bytes into what the model takes.
        crop: side of an image in pixels.
        width: D.

    Raises:
        BackboneError: the model can't look at such images, or its feature is not (B, D) finite numbers.
    """

    def __init__(
        self,
        name: str,
        model: nn.Module,
        linears: Mapping[str, nn.Linear],
        normalised: Callable[[Tensor], Tensor],
        *,
        crop: int,
        width: int,
    ) -> None:
        self.name, self.model, self.linears = name, model, linears
        device = next(model.parameters()).device
        self.random = torch.Generator().manual_seed(0)
        images = torch.randint(0, 256, (_IMAGES, 3, crop, crop), dtype=torch.uint8, generator=self.random)
        try:
            with torch.no_grad():
                self.tokens = embed(model, normalised(images.to(device))).tokens
                self.plain = encode(model, self.tokens)
        except Exception as error:  # whatever the library's many models raise
            raise BackboneError(
                f"{name!r} can't look at images of {crop} x {crop} pixels ({first_line(error)}). Change backbone.crop, "
                "or backbone.arguments, such as img_size, in params.yaml."
            ) from error
        if self.plain.shape != (_IMAGES, width) or not self.plain.isfinite().all():
            raise BackboneError(
                f"{name!r} says {tuple(self.plain.shape)} numbers of {_IMAGES} images; expected {(_IMAGES, width)}, "
                "all finite. Choose another backbone.name, or other backbone.arguments, in params.yaml."
            )
        self.direction = torch.randn(self.plain.shape, generator=self.random).to(device)

    def check(self, layers: Sequence[str], rank: int) -> None:
        """See that a branch over these layers moves the feature by each of them, and as much when merged as when live.

        Raises:
            BackboneError: it names the layers where it does not, and those where it would.
        """
        unheard = self._unheard(layers, rank)
        if not unheard:
            return
        usable = kinds_of(set(self.linears) - set(self._unheard(sorted(self.linears), 1)))
        raise BackboneError(
            f"a branch can't learn in {len(unheard)} of the {len(layers)} layers of {self.name!r} that lora.targets "
            f"matches: {_listed(kinds_of(unheard))}. The model does not call them image by image, so LoRA there does "
            f"nothing, or nothing right. Target layers among these in params.yaml: {_listed(usable)}."
        )

    def _unheard(self, layers: Sequence[str], rank: int) -> list[str]:
        """Those of the layers that don't move the live feature, or move it otherwise when merged."""
        silent = self._silent(layers, rank)
        heard = [layer for layer in layers if layer not in silent]
        if not heard or self._agree(heard, rank):
            return silent
        for kind in kinds_of(heard):
            alike = [layer for layer in heard if re.fullmatch(kind, layer)]
            silent += [] if self._agree(alike, rank) else alike
        return sorted(silent)

    def _silent(self, layers: Sequence[str], rank: int) -> list[str]:
        """The layers whose factors get no gradient: the feature does not depend on them."""
        live = LiveBranch(self.model, loud_branch(layers, self.linears, rank, self.random), _as_they_are)
        feature = live(self.tokens)
        if feature.requires_grad:
            (feature * self.direction).sum().backward()
        return [layer for layer in layers if not live.has_gradient(layer)]

    @torch.no_grad()
    def _agree(self, layers: Sequence[str], rank: int) -> bool:
        """Whether two branches over the layers, merged and together in one pass, say what each says when live."""
        pair = [loud_branch(layers, self.linears, rank, self.random) for _ in range(2)]
        live = torch.stack([LiveBranch(self.model, branch, _as_they_are)(self.tokens) for branch in pair])
        try:
            with stacked({layer: partial(merged, pair, layer, self.linears[layer].weight) for layer in layers}):
                together = encode(self.model, torch.cat([self.tokens] * len(pair))).view_as(live)
        except RuntimeError:  # shapes that don't fit
            return False
        return bool((together - live).norm() <= _TOLERANCE * (live - self.plain).norm())


def _as_they_are(tokens: Tensor) -> Tensor:
    return tokens


def _listed(kinds: Iterable[str]) -> str:
    return ", ".join(kinds) or "none"


def first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
