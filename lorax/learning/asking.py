"""Asking every branch about one view of each image, which is what herding and evaluation look at."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lorax.data.images import Images
from lorax.data.perturbations import UNCHANGED, Perturbation
from lorax.network.features import CENTER, TEXTURE, FeatureStore, OnKept, Read, Views, views_of
from lorax.network.network import Network
from lorax.network.team import ALONE, Team
from lorax.stream import Sample

Fetch = Callable[[Iterable[Sample]], Mapping[str, Path]]
"""Finds the file of each sample, by md5."""


@dataclass(frozen=True)
class Question:
    """N images, each in one view: the crop at its corner (N, 2), or the centre where that is (CENTER, CENTER).

    All of them are perturbed by `change` before the crop is cut.
    """

    samples: Sequence[Sample]
    corners: NDArray[np.int64]
    change: Perturbation = UNCHANGED

    @classmethod
    def of_centers(cls, samples: Sequence[Sample], change: Perturbation = UNCHANGED) -> Question:
        return cls(samples, np.full((len(samples), 2), CENTER), change)

    @property
    def views(self) -> Views:
        return views_of([self.change.renamed(sample.md5) for sample in self.samples], self.corners)

    def read_files(self, fetch: Fetch, crop: int) -> Read:
        """Read the images that are asked for, a batch at a time."""
        paths = cache(lambda: fetch(self.samples))

        def read(indices: NDArray[np.int64]) -> Tensor:
            part = Question([self.samples[i] for i in indices], self.corners[indices], self.change)
            only_centers = bool((part.corners == CENTER).all())
            looks = {sample.md5: (self.change,) for sample in part.samples}
            images = Images.load(part.samples, paths(), crop, center_only=only_centers, looks=looks)
            corners = np.where(part.corners == CENTER, images.center()[: len(indices), 0], part.corners)
            return images.batch(np.arange(len(indices)), corners)

        return read

    def ask(
        self,
        store: FeatureStore,
        network: Network,
        read: Read,
        batch_size: int,
        on_kept: OnKept | None = None,
        team: Team = ALONE,
        *,
        with_texture: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """What is said of the images, now or before; they are read only where an answer is lacking.

        Returns:
            All branches' features (N, K·D) and the textures (N, F), or (N, 0) where they are not asked for; on the CPU.
        """
        branches = [*range(network.branches), *([TEXTURE] if with_texture else [])]
        store.keep(network, branches, self.views, read, batch_size, on_kept, team)
        said = [part.take() for part in store.kept(network, branches, self.views, batch_size)]
        textures = said.pop() if with_texture else torch.zeros(len(self.samples), 0)
        return torch.cat(said, dim=1), textures
