"""The head of the texture: sums over textures, from which it is solved exactly, and which of its parts is to be asked.

A texture is what the frozen backbone says of an image, so it never changes, and sums over images add up over tasks: the
head that is solved after the last task is the one that all images at once would give, whatever the exemplar memory
holds. Nothing is forgotten where nothing was approximated.

Compression takes away most of what a generator leaves, and leaves its own: a head that was solved from clean images
says nothing of compressed ones, and one for both is worse on clean ones. So there is one solved regression for each
kind of perturbation: what was done to an image is told first, by its texture; then the head that was solved from images
so perturbed is asked. Sums are kept for each kind, hence nothing is forgotten of any.

Source: Hoerl and Kennard, Ridge Regression (Technometrics 1970); sums that add up over tasks as in Zhuang et al.,
ACIL: Analytic Class-Incremental Learning with Absolute Memorization and Privacy Protection (NeurIPS 2022); pairwise
updates of means and scatter after Chan, Golub and LeVeque (1979).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lorax.data.perturbations import UNCHANGED, of_kind
from lorax.learning.queries import Asker, FeatureQuery
from lorax.stream import ClassTable, Sample

_NO_SPREAD = 1e-3
"""Added to a number's deviation: below it, what varies is rounding."""


@dataclass(frozen=True)
class Statistics:
    """Of the textures (F numbers each) of all images learned from, by class."""

    counts: Tensor  # (C,) images of each class
    means: Tensor  # (C, F) mean texture of each class; zeros where there is no image of it
    scatter: Tensor  # (F, F) summed outer products of what textures differ from the mean of all by

    @classmethod
    def empty(cls, width: int) -> Statistics:
        """Of no image and no class; `width` is F."""
        return cls(*(torch.zeros(size, dtype=torch.double) for size in ((0,), (0, width), (width, width))))

    @property
    def mean(self) -> Tensor:
        """Of all images, (F,)."""
        return self.counts @ self.means / self.counts.sum().clamp(min=1)

    def with_images(self, textures: Tensor, ids: Tensor, classes: int) -> Statistics:
        """The statistics of the images so far and some more.

        Args:
            textures: (n, F).
            ids: (n,) their classes.
            classes: C, of which the new images may be the first.
        """
        textures, old = textures.double().cpu(), self._grown(classes)
        if not len(textures):
            return old
        new_mean, seen = textures.mean(0), old.counts.sum()
        apart = (new_mean - old.mean) if seen else torch.zeros_like(new_mean)
        weight = seen * len(textures) / (seen + len(textures))
        scatter = old.scatter + _outer(textures - new_mean) + weight * torch.outer(apart, apart)
        counts = old.counts + ids.bincount(minlength=classes)
        sums = (old.means * old.counts[:, None]).index_add(0, ids, textures)
        return Statistics(counts, sums / counts.clamp(min=1)[:, None], scatter)

    def without(self, textures: Tensor, kept: Sequence[int]) -> Statistics:
        """The statistics of the classes `kept`, where `textures` (n, F) are those of all images of all others."""
        of_one = torch.zeros(len(textures), dtype=torch.long)
        gone = Statistics.empty(textures.shape[1]).with_images(textures, of_one, 1)
        rest = Statistics(self.counts[list(kept)], self.means[list(kept)], self.scatter)
        stay, leave = rest.counts.sum(), gone.counts.sum()
        apart, weight = gone.mean - rest.mean, stay * leave / (stay + leave).clamp(min=1)
        scatter = self.scatter - gone.scatter - weight * torch.outer(apart, apart)
        scatter.diagonal().clamp_(min=0)  # kept sums are rounded, and what hardly varies must have a deviation
        return Statistics(rest.counts, rest.means, scatter)

    @classmethod
    def pooled(cls, kinds: Sequence[Statistics]) -> Statistics:
        """Of the images of several, whose classes are the kinds themselves."""
        counts = torch.stack([kind.counts.sum() for kind in kinds])
        means = torch.stack([kind.mean for kind in kinds])
        apart = (means - counts @ means / counts.sum().clamp(min=1)) * counts.sqrt()[:, None]
        return cls(counts, means, torch.stack([kind.scatter for kind in kinds]).sum(0) + _outer(apart))

    def solve(self, penalty: float, answers: Sequence[int]) -> tuple[Tensor, Tensor]:
        """The ridge regression from a texture to the class, one-hot: weight (C, F) and bias (C,), float32.

        Classes of one answer have one row, each the same. Every number of a texture counts by its deviation over all
        images; the bias is not penalised.

        Args:
            penalty: λ, in images: what a direction needs more images than, to count.
            answers: of each of the C classes, which answer it is; all real ones are one.
        """
        total, mean = self.counts.sum().clamp(min=1), self.mean
        spread = (self.scatter.diagonal() / total).sqrt() + _NO_SPREAD
        gram = self.scatter / spread / spread[:, None] + penalty * torch.eye(len(spread), dtype=torch.double)
        answer = torch.tensor(answers).unique(return_inverse=True)[1]
        rows = int(answer.max()) + 1
        counts = torch.zeros(rows, dtype=torch.double).index_add(0, answer, self.counts)
        towards = torch.zeros(rows, len(mean), dtype=torch.double)
        towards.index_add_(0, answer, (self.means - mean) * self.counts[:, None] / spread)
        weight = torch.linalg.solve(gram, towards.T).T / spread
        return weight[answer].float(), (counts / total - weight @ mean)[answer].float()

    def tensors(self) -> dict[str, Tensor]:
        """As they are kept: of the symmetric scatter one half."""
        return {
            "counts": self.counts,
            "means": self.means.float(),
            "scatter": self.scatter[_half(self.scatter)].float(),
        }

    @classmethod
    def parse(cls, tensors: Mapping[str, Tensor]) -> Statistics:
        """The opposite of `tensors`.

        Raises:
            ValueError: they don't belong together.
        """
        counts, means, kept = (tensors[name].double() for name in ("counts", "means", "scatter"))
        width = means.shape[-1]
        if means.ndim != 2 or counts.shape != means.shape[:1] or kept.shape != (width * (width + 1) // 2,):
            shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
            raise ValueError(f"the statistics' tensors {shapes} don't belong together")
        scatter = torch.zeros(width, width, dtype=torch.double)
        rows, columns = _half(scatter)
        scatter[rows, columns] = scatter[columns, rows] = kept
        return cls(counts, means, scatter)

    def _grown(self, classes: int) -> Statistics:
        missing = classes - len(self.counts)
        counts = torch.cat([self.counts, self.counts.new_zeros(missing)])
        means = torch.cat([self.means, self.means.new_zeros(missing, len(self.scatter))])
        return Statistics(counts, means, self.scatter)


def _half(scatter: Tensor) -> tuple[Tensor, Tensor]:
    rows, columns = torch.triu_indices(*scatter.shape)
    return rows, columns


def _outer(rows: Tensor) -> Tensor:
    return rows.T @ rows


CLEAN = UNCHANGED.name
"""The kind of images as they are; the first of all kinds."""

_TAKEN_FOR_CLEAN = 0.02
"""Share of held-out perturbed images that may be, so that photographs that were compressed once are clean."""


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
