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

    Each is perturbed by its own of the N `changes` before the crop is cut; () leaves them as they are.
    """

    samples: Sequence[Sample]
    corners: NDArray[np.int64]
    changes: Sequence[Perturbation] = ()

    @classmethod
    def of_centers(cls, samples: Sequence[Sample], changes: Sequence[Perturbation] = ()) -> Question:
        return cls(samples, np.full((len(samples), 2), CENTER), changes)

    @property
    def views(self) -> Views:
        named = [change.renamed(sample.md5) for sample, change in self._changed(range(len(self.samples)))]
        return views_of(named, self.corners)

    def read_files(self, fetch: Fetch, crop: int) -> Read:
        """Read the images that are asked for, a batch at a time."""
        paths = cache(lambda: fetch(self.samples))

        def read(indices: NDArray[np.int64]) -> Tensor:
            wanted, asked = self._changed(indices), self.corners[indices]
            looks = {sample.md5: (change,) for sample, change in wanted}
            only_centers = bool((asked == CENTER).all())
            images = Images.load([s for s, _ in wanted], paths(), crop, center_only=only_centers, looks=looks)
            corners = np.where(asked == CENTER, images.center()[: len(indices), 0], asked)
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

    def ask_texture(
        self, store: FeatureStore, network: Network, read: Read, batch_size: int, team: Team = ALONE
    ) -> Tensor:
        """The textures (N, F) alone, which no branch has a say in; else as `ask`."""
        store.keep(network, [TEXTURE], self.views, read, batch_size, None, team)
        return store.kept(network, [TEXTURE], self.views, batch_size)[0].take()

    def _changed(self, indices: Iterable[int]) -> list[tuple[Sample, Perturbation]]:
        return [(self.samples[i], self.changes[i] if self.changes else UNCHANGED) for i in indices]
