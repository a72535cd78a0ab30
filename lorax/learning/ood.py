"""How unlike everything learned an image is, by its texture: in one of two ways.

Where a head is solved from sums over textures, it is what that head's scores leave over of the nearest answer, measured
by what they leave over of known images that the head never saw. Else it is the Mahalanobis distance to the nearest
class. There one covariance is shared by all classes and estimated from few images in many dimensions (n images, F
numbers of a texture, n < F), so it is shrunk towards a multiple of the identity, by as much as Ledoit and Wolf's
formula asks. What remains is a matrix of rank n plus that multiple, so that neither F x F numbers nor their inverse are
ever formed.

Source: Lee et al., A Simple Unified Framework for Detecting Out-of-Distribution Samples (NeurIPS 2018); Ledoit and
Wolf, A well-conditioned estimator for large-dimensional covariance matrices (Journal of Multivariate Analysis, 2004).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from lorax.network.network import kinds_of

_NO_VARIANCE = 1e-12


@dataclass(frozen=True)
class Distance:
    """A fitted distance."""

    means: Tensor  # (C, F) mean feature of each class
    axes: Tensor  # (r, F) orthonormal directions in which features vary within their class
    gains: Tensor  # (r,) what a unit along each of them counts for, less `base`
    base: float  # what a unit in any other direction counts for

    def tensors(self) -> dict[str, Tensor]:
        return {"means": self.means, "axes": self.axes, "gains": self.gains}

    @classmethod
    def fit(cls, features: Tensor, ids: Tensor) -> Distance:
        """Fit to features (n, F) of images whose classes (n,) are known; each class has at least one."""
        features = features.double()
        kinds, rows = ids.unique(return_inverse=True)
        sums = torch.zeros(len(kinds), features.shape[1], dtype=torch.double).index_add_(0, rows, features)
        means = sums / rows.bincount()[:, None]
        residuals = features - means[rows]
        gram = residuals @ residuals.T / len(features)  # (n, n): its eigenvalues are the covariance's
        shrunk, mean_variance = shrinkage(gram, features.shape[1])
        values, vectors = torch.linalg.eigh(gram)
        alive = values > _NO_VARIANCE + values.max() * 1e-9
        values, vectors = values[alive], vectors[:, alive]
        axes = (vectors / (values * len(features)).sqrt()).T @ residuals
        base = 1 / max(shrunk * mean_variance, _NO_VARIANCE)
        gains = 1 / ((1 - shrunk) * values + shrunk * mean_variance) - base
        return cls(means.float(), axes.float(), gains.float(), float(base))

    def squared(self, features: Tensor) -> Tensor:
        """The squared distance of features (B, F) to the nearest class, (B,)."""
        features = features.double().cpu()
        everywhere = torch.cdist(features, self._means).square() * self.base
        along = torch.cdist(features @ self._weighted, self._means @ self._weighted)
        return (everywhere - along.square()).clamp_min(0).min(dim=1).values

    @cached_property
    def _means(self) -> Tensor:
        return self.means.double()

    @cached_property
    def _weighted(self) -> Tensor:
        """The axes, each as long as what it counts for less than `base`: (F, r). No gain is positive."""
        return self.axes.double().T * (-self.gains.double()).clamp_min(0).sqrt()


@dataclass(frozen=True)
class Residual:
    """How far a texture's scores lie from the nearest answer.

    A head that was solved gives a known image a score of 1 for its answer and of 0 for all others, or nearly.
    """

    weight: Tensor  # (S, F), one row for each score: that of each answer, and maybe others beside them
    bias: Tensor  # (S,)
    answers: Tensor  # (A, S): row a is where the scores of answer a should lie

    @classmethod
    def of_head(cls, weight: Tensor, bias: Tensor) -> Residual:
        """In the scores' own units."""
        return cls(weight, bias, torch.eye(len(bias)))

    def tensors(self) -> dict[str, Tensor]:
        return {"score_weight": self.weight, "score_bias": self.bias, "score_answers": self.answers}

    @classmethod
    def parse(cls, tensors: Mapping[str, Tensor]) -> Residual:
        """The opposite of `tensors`; the first states of format 4 have none of the last, and scores' own units."""
        plain = cls.of_head(tensors["score_weight"], tensors["score_bias"])
        return replace(plain, answers=tensors.get("score_answers", plain.answers))

    def beside(self, weight: Tensor, bias: Tensor, expected: Tensor) -> Residual:
        """The same with more scores (weight (M, F), bias (M,)), which should be `expected` (M,) whatever the answer."""
        answers = torch.cat([self.answers, expected.expand(len(self.answers), -1)], dim=1)
        return Residual(torch.cat([self.weight, weight]), torch.cat([self.bias, bias]), answers)

    def measured(self, textures: Tensor, answers: Tensor) -> Residual:
        """In units of what is left over of known images (Mahalanobis): what often differs together counts little.

        Args:
            textures: (n, F) of images that the head never saw.
            answers: (n,) which row of `answers` each has.
        """
        left_over = self._scores(textures) - self.answers.double()[answers]
        count, width = left_over.shape
        shrunk, mean_variance = shrinkage(left_over @ left_over.T / count, width)
        covariance = (1 - shrunk) * left_over.T @ left_over / count
        covariance.diagonal().add_(max(shrunk * mean_variance, _NO_VARIANCE))
        unit = torch.linalg.cholesky(covariance)
        weight, bias, at = (
            torch.linalg.solve_triangular(unit, part.double(), upper=False).float()
            for part in (self.weight, self.bias[:, None], self.answers.T)
        )
        return Residual(weight, bias[:, 0], at.T.contiguous())

    def squared(self, textures: Tensor) -> Tensor:
        """The squared distance of textures (B, F) to the nearest answer, (B,)."""
        return torch.cdist(self._scores(textures), self.answers.double()).square().min(dim=1).values

    def _scores(self, textures: Tensor) -> Tensor:
        return textures.double().cpu() @ self.weight.double().T + self.bias.double()


@dataclass(frozen=True)
class ByKind:
    """The residual of a head of its own for each kind of perturbation; which is asked, the texture tells.

    A new generator's images may be told to be perturbed. So to be known, an image that is must also look like one: the
    scores of the kinds count beside those of the answers.

    Args:
        residuals: of M kinds, all with as many answers.
        unit: (M,), what a kind's squared distances are divided by, so that all have one threshold.
        kind_weight, kind_bias: (M, F) and (M,), scores of the kinds.
    """

    residuals: tuple[Residual, ...]
    unit: Tensor
    kind_weight: Tensor
    kind_bias: Tensor

    def tensors(self) -> dict[str, Tensor]:
        parts = [residual.tensors() for residual in self.residuals]
        stacked = {name: torch.stack([part[name] for part in parts]) for name in parts[0]}
        kinds = {"score_kind_weight": self.kind_weight, "score_kind_bias": self.kind_bias}
        return stacked | {"score_unit": self.unit} | kinds

    @classmethod
    def parse(cls, tensors: Mapping[str, Tensor]) -> ByKind:
        """The opposite of `tensors`."""
        names = ("score_weight", "score_bias", "score_answers")
        residuals = tuple(Residual(*part) for part in zip(*(tensors[name] for name in names), strict=True))
        return cls(residuals, tensors["score_unit"], tensors["score_kind_weight"], tensors["score_kind_bias"])

    def squared(self, textures: Tensor) -> Tensor:
        """The squared distance of textures (B, F) to the nearest answer of their kind, in its unit, (B,)."""
        textures = textures.cpu()
        kinds = kinds_of(textures.float(), self.kind_weight, self.kind_bias)
        found = torch.empty(len(textures), dtype=torch.double)
        for k in kinds.unique().tolist():
            found[kinds == k] = self.residuals[k].squared(textures[kinds == k]) / float(self.unit[k])
        return found


def shrinkage(gram: Tensor, width: int) -> tuple[float, float]:
    """How much of the covariance to replace by the identity, and the mean variance that this is multiplied by.

    Args:
        gram: (n, n) inner products of the residuals, over n.
        width: F, how many features there are.
    """
    count = len(gram)
    mean_variance = float(gram.trace()) / width
    squares = float(gram.square().sum())  # of the covariance's entries
    spread = squares - width * mean_variance**2
    noise = float((gram.diagonal() * count).square().sum()) / count**2 - squares / count
    return (min(noise, spread) / spread if spread > 0 else 1.0), mean_variance


def as_if_new(
    textures: Tensor, kinds: Tensor, folds: Tensor, fit: Callable[[Tensor, Tensor], Distance | Residual]
) -> Tensor:
    """The squared distance of each image (n,), fitted to the images of the other folds."""
    squared = torch.empty(len(kinds), dtype=torch.double)
    for k in folds.unique():
        new = folds == k
        squared[new] = fit(textures[~new], kinds[~new]).squared(textures[new])
    return squared
