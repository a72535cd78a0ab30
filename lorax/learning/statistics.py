"""What is kept of every image ever learned from: sums over textures, from which a linear head is solved exactly.

A texture is what the frozen backbone says of an image, so it never changes, and sums over images add up over tasks: the
head that is solved after the last task is the one that all images at once would give, whatever the exemplar memory
holds. Nothing is forgotten where nothing was approximated.

Source: Hoerl and Kennard, Ridge Regression (Technometrics 1970); sums that add up over tasks as in Zhuang et al.,
ACIL: Analytic Class-Incremental Learning with Absolute Memorization and Privacy Protection (NeurIPS 2022); pairwise
updates of means and scatter after Chan, Golub and LeVeque (1979).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_NO_SPREAD = 1e-3
"""Added to a number's deviation: below it, what varies is rounding."""


@dataclass(frozen=True)
class Statistics:
    """Of the textures (F numbers each) of all images learned from, by class.

    Args:
        counts: (C,) images of each class.
        means: (C, F) mean texture of each class; zeros where there is no image of it.
        scatter: (F, F) summed outer products of what textures differ from the mean of all by.
    """

    counts: Tensor
    means: Tensor
    scatter: Tensor

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
