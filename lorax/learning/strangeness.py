"""How unlike everything learned an image is, by its texture: in one of two ways.

Where a head is solved from sums over textures, it is what that head's scores leave over of the nearest answer. Else it
is the Mahalanobis distance to the nearest class. There one covariance is shared by all classes and estimated from few
images in many dimensions (n images, F numbers of a texture, n < F), so it is shrunk towards a multiple of the identity,
by as much as Ledoit and Wolf's formula asks. What remains is a matrix of rank n plus that multiple, so that neither
F x F numbers nor their inverse are ever formed.

Source: Lee et al., A Simple Unified Framework for Detecting Out-of-Distribution Samples (NeurIPS 2018); Ledoit and
Wolf, A well-conditioned estimator for large-dimensional covariance matrices (Journal of Multivariate Analysis, 2004).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

_NO_VARIANCE = 1e-12


@dataclass(frozen=True)
class Distance:
    """A fitted distance.

    Args:
        means: (C, F) mean feature of each class.
        axes: (r, F) orthonormal directions in which features vary within their class.
        gains: (r,) what a unit along each of them counts for, less `base`.
        base: what a unit in any other direction counts for.
    """

    means: Tensor
    axes: Tensor
    gains: Tensor
    base: float

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
    """How far a texture's scores lie from the nearest answer, of which a known image's scores are 1 and all others 0.

    Args:
        weight: (A, F), one row for each answer.
        bias: (A,).
    """

    weight: Tensor
    bias: Tensor

    def tensors(self) -> dict[str, Tensor]:
        return {"score_weight": self.weight, "score_bias": self.bias}

    def squared(self, textures: Tensor) -> Tensor:
        """The squared distance of textures (B, F) to the nearest answer, (B,)."""
        scores = textures.double().cpu() @ self.weight.double().T + self.bias.double()
        return scores.square().sum(1) + 1 - 2 * scores.max(1).values


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
