"""What branches say of images' centres: what herding and evaluation look at."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lorax.data.images import Images
from lorax.network.features import FeatureStore, OnKept, views_of
from lorax.network.network import Network
from lorax.network.team import ALONE, Team
from lorax.stream import Sample

Fetch = Callable[[Iterable[Sample]], Mapping[str, Path]]
"""Finds the file of each sample, by md5."""


def keep_centers(
    store: FeatureStore,
    network: Network,
    samples: Sequence[Sample],
    fetch: Fetch,
    batch_size: int,
    on_kept: OnKept | None = None,
    team: Team = ALONE,
) -> None:
    """Ask every branch that has not been asked; only then are images read, a batch at a time."""
    paths = cache(lambda: fetch(samples))

    def read(indices: NDArray[np.int64]) -> Tensor:
        part = [samples[i] for i in indices]
        images = Images.load(part, paths(), network.crop, center_only=True)
        return images.batch(range(len(part)), images.center()[:, 0])

    store.keep(network, range(network.branches), _views(samples), read, batch_size, on_kept, team)


def keep_centers_of(
    store: FeatureStore,
    network: Network,
    images: Images,
    count: int,
    batch_size: int,
    on_kept: OnKept | None,
    team: Team,
) -> None:
    """The same for the first `count` of a set of images that is at hand."""
    corners = images.center()[:, 0]
    views = _views(images.samples[:count])
    read = lambda i: images.batch(i, corners[i])  # noqa: E731
    store.keep(network, range(network.branches), views, read, batch_size, on_kept, team)


def center_features(
    store: FeatureStore, network: Network, samples: Sequence[Sample], fetch: Fetch, batch_size: int
) -> Tensor:
    """What all branches say of the images' centres, (N, K·D) on the CPU, asked or kept."""
    keep_centers(store, network, samples, fetch, batch_size)
    kept = store.kept(network, range(network.branches), _views(samples), batch_size)
    return torch.cat([part.take() for part in kept], dim=1)


def _views(samples: Sequence[Sample]) -> NDArray[np.bytes_]:
    return views_of([sample.md5 for sample in samples])
