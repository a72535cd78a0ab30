"""The head of the texture: one solved regression for each kind of perturbation, and which of them is to be asked.

Compression takes away most of what a generator leaves, and leaves its own: a head that was solved from clean images
says nothing of compressed ones, and one for both is worse on clean ones. So what was done to an image is told first, by
its texture; then the head that was solved from images so perturbed is asked. Sums are kept for each kind, hence
nothing is forgotten of any.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lorax.data.perturbations import UNCHANGED, of_kind
from lorax.learning.queries import Asker, FeatureQuery
from lorax.learning.statistics import Statistics
from lorax.stream import ClassTable, Sample

CLEAN = UNCHANGED.name
"""The kind of images as they are; the first of all kinds."""

_TAKEN_FOR_CLEAN = 0.02
"""Share of held-out perturbed images that may be, so that photographs that were compressed once are clean."""


@dataclass(frozen=True)
class TextureWeights:
    """Of a `TextureHead`: M regressions from a texture (F numbers) to C classes.

    Args:
        weight: (M, C, F), as logits.
        bias: (M, C).
        kind_weight: (M, F), scores of the kinds; the highest is asked.
        kind_bias: (M,).
    """

    weight: Tensor
    bias: Tensor
    kind_weight: Tensor
    kind_bias: Tensor

    def tensors(self) -> dict[str, Tensor]:
        names = {"texture_weight": self.weight, "texture_bias": self.bias}
        return names | {"kind_weight": self.kind_weight, "kind_bias": self.kind_bias}

    @classmethod
    def parse(cls, tensors: Mapping[str, Tensor]) -> TextureWeights:
        """The opposite of `tensors`; before format 5 there was one kind."""
        weight, bias = tensors["texture_weight"], tensors["texture_bias"]
        if "kind_weight" not in tensors:
            weight, bias = weight[None], bias[None]
            return cls(weight, bias, torch.zeros(1, weight.shape[-1]), torch.zeros(1))
        return cls(weight, bias, tensors["kind_weight"], tensors["kind_bias"])


def statistics_tensors(statistics: Mapping[str, Statistics]) -> dict[str, Tensor]:
    """Of each kind, as they are kept."""
    return {f"{kind}.{name}": t for kind, sums in statistics.items() for name, t in sums.tensors().items()}


def parse_statistics(tensors: Mapping[str, Tensor], kinds: Sequence[str]) -> dict[str, Statistics]:
    """The opposite; no `kinds`: from before format 5, when there was one.

    Raises:
        KeyError, ValueError: they don't belong together.
    """
    if not kinds:
        return {CLEAN: Statistics.parse(tensors)}
    names = ("counts", "means", "scatter")
    return {kind: Statistics.parse({name: tensors[f"{kind}.{name}"] for name in names}) for kind in kinds}


def perturbed(samples: Sequence[Sample], kind: str) -> FeatureQuery:
    """The centre of images, each perturbed by one of a kind."""
    return FeatureQuery.of_centers(samples, [of_kind(kind, sample.md5) for sample in samples])


def drawn_for(kind: str, kinds: Sequence[str], samples: Sequence[Sample]) -> list[Sample]:
    """Those of a task's images that are learned from perturbed by this kind: each image is by one, told by its md5.

    So perturbed images cost as much as the images themselves, however many kinds there are.
    """
    return [sample for sample in samples if kinds[int(sample.md5[:8], 16) % len(kinds)] == kind]


def with_textures(
    statistics: Mapping[str, Statistics],
    kinds: Sequence[str],
    samples: Sequence[Sample],
    classes: ClassTable,
    textures: Tensor,
    asker: Asker,
) -> dict[str, Statistics]:
    """The statistics of each kind, with a task's images added.

    Args:
        statistics: so far; there may be none.
        kinds: of perturbations.
        samples: the task's n images.
        classes: the table with the task's classes in it.
        textures: (n, F) of the images as they are.
        asker: gives those of perturbed ones.
    """

    def added(kind: str, samples: Sequence[Sample], textures: Tensor) -> Statistics:
        sums = statistics.get(kind) or Statistics.empty(textures.shape[1])
        return sums.with_images(textures, torch.tensor(classes.ids(samples), dtype=torch.long), len(classes))

    extended = {CLEAN: added(CLEAN, samples, textures)}
    for kind in kinds:
        drawn = drawn_for(kind, kinds, samples)
        extended[kind] = added(kind, drawn, asker.textures(perturbed(drawn, kind)))
    return extended


def kind_scores(
    statistics: Mapping[str, Statistics], penalty: float, held: Mapping[str, Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """What tells the kinds apart by texture: weight (M, F) and bias (M,).

    Args:
        statistics: of each kind.
        penalty: as `Statistics.solve` has it.
        held: textures of held-out images of each kind, by which is chosen how sure it must be that an image is not
            clean: photographs were compressed once, too.
    """
    if len(statistics) == 1:
        [only] = statistics.values()
        return torch.zeros(1, len(only.scatter)), torch.zeros(1)
    weight, bias = Statistics.pooled(list(statistics.values())).solve(penalty, range(len(statistics)))
    if not held:
        return weight, bias
    scores = torch.cat(list(held.values())[1:]) @ weight.T + bias
    apart = scores[:, 1:].amax(1) - scores[:, 0]
    return weight, bias + torch.eye(len(bias))[0] * apart.quantile(_TAKEN_FOR_CLEAN).clamp(min=0)
