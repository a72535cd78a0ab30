"""Asking every branch about one view of each image, which is what herding and evaluation look at."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lorax.data.images import Images
from lorax.data.perturbations import UNCHANGED, Perturbation
from lorax.network.features import CENTER, TEXTURE, FeatureCache, OnCached, Read, Views, views_of
from lorax.network.network import Network
from lorax.network.process_group import SINGLE, ProcessGroup
from lorax.stream import Sample

Fetch = Callable[[Iterable[Sample]], Mapping[str, Path]]
"""Finds the file of each sample, by md5."""


@dataclass(frozen=True)
class FeatureQuery:
    """N images, each in one view: the crop at its corner (N, 2), or the centre where that is (CENTER, CENTER).

    Each is perturbed by its own of the N `changes` before the crop is cut; () leaves them as they are.
    """

    samples: Sequence[Sample]
    corners: NDArray[np.int64]
    changes: Sequence[Perturbation] = ()

    @classmethod
    def of_centers(cls, samples: Sequence[Sample], changes: Sequence[Perturbation] = ()) -> FeatureQuery:
        return cls(samples, np.full((len(samples), 2), CENTER), changes)

    @property
    def views(self) -> Views:
        named = [change.renamed(sample.md5) for sample, change in self._changed(range(len(self.samples)))]
        return views_of(named, self.corners)

    def read_files(self, fetch: Fetch, crop: int) -> Read:
        """Read the images that are asked for, a batch at a time."""
        paths = functools.cache(lambda: fetch(self.samples))

        def read(indices: NDArray[np.int64]) -> Tensor:
            wanted, asked = self._changed(indices), self.corners[indices]
            looks = {sample.md5: (change,) for sample, change in wanted}
            only_centers = bool((asked == CENTER).all())
            images = Images.load([s for s, _ in wanted], paths(), crop, center_only=only_centers, looks=looks)
            corners = np.where(asked == CENTER, images.center()[: len(indices), 0], asked)
            return images.batch(np.arange(len(indices)), corners)

        return read

    def run(
        self,
        cache: FeatureCache,
        network: Network,
        read: Read,
        batch_size: int,
        on_cached: OnCached | None = None,
        group: ProcessGroup = SINGLE,
        *,
        with_texture: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """What is said of the images, now or before; they are read only where an answer is lacking.

        Returns:
            All branches' features (N, K·D) and the textures (N, F), or (N, 0) where they are not asked for; on the CPU.
        """
        branches = [*range(network.branches), *([TEXTURE] if with_texture else [])]
        cache.fill(network, branches, self.views, read, batch_size, on_cached, group)
        said = [part.take() for part in cache.lookup(network, branches, self.views, batch_size)]
        textures = said.pop() if with_texture else torch.zeros(len(self.samples), 0)
        return torch.cat(said, dim=1), textures

    def run_texture(
        self, cache: FeatureCache, network: Network, read: Read, batch_size: int, group: ProcessGroup = SINGLE
    ) -> Tensor:
        """The textures (N, F) alone, which no branch has a say in; else as `run`."""
        cache.fill(network, [TEXTURE], self.views, read, batch_size, None, group)
        return cache.lookup(network, [TEXTURE], self.views, batch_size)[0].take()

    def _changed(self, indices: Iterable[int]) -> list[tuple[Sample, Perturbation]]:
        return [(self.samples[i], self.changes[i] if self.changes else UNCHANGED) for i in indices]
