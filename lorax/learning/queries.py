"""Asking a network about one view of each image, which is what herding, calibration and evaluation look at."""

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

    def _changed(self, indices: Iterable[int]) -> list[tuple[Sample, Perturbation]]:
        return [(self.samples[i], self.changes[i] if self.changes else UNCHANGED) for i in indices]


@dataclass(frozen=True)
class Asker:
    """A network that is asked about images: what it has said before is looked up, and what it says now is kept."""

    network: Network  # whose branches and texture
    cache: FeatureCache  # what has been said
    fetch: Fetch  # finds the images, which are read only where an answer is lacking
    batch_size: int  # of every pass
    group: ProcessGroup = SINGLE  # shares the work

    def ask(
        self,
        query: FeatureQuery,
        *,
        with_texture: bool = False,
        asked_again: bool = False,
        on_cached: OnCached | None = None,
        read: Read | None = None,
    ) -> tuple[Tensor, Tensor]:
        """What is said of images.

        Args:
            asked_again: whether later branches will be asked about the same, which is then cheaper.
            on_cached: told about what is not looked up.
            read: gives the images, where they are at hand.

        Returns:
            All branches' features (N, K·D) and the textures (N, F), or (N, 0) where they are not asked for; on the CPU.
        """
        branches = range(self.network.branches)
        said = self._said([*branches, *([TEXTURE] if with_texture else [])], query, on_cached, read, asked_again)
        textures = said.pop() if with_texture else torch.zeros(len(query.samples), 0)
        return torch.cat(said, dim=1), textures

    def textures(self, query: FeatureQuery, on_cached: OnCached | None = None) -> Tensor:
        """The textures (N, F) alone, which no branch has a say in."""
        return self._said([TEXTURE], query, on_cached)[0]

    def _said(
        self,
        branches: Sequence[int],
        query: FeatureQuery,
        on_cached: OnCached | None = None,
        read: Read | None = None,
        asked_again: bool = False,
    ) -> list[Tensor]:
        read, views = read or query.read_files(self.fetch, self.network.crop), query.views
        shared = (on_cached, self.group)
        self.cache.fill(self.network, branches, views, read, self.batch_size, *shared, keeps_tokens=asked_again)
        return [part.take() for part in self.cache.lookup(self.network, branches, views, self.batch_size)]
