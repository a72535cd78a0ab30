"""What a training step is given: images, what the frozen branches say of them, labels; each batch is ready in time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lorax.data.images import Images, Progress
from lorax.data.perturbations import UNCHANGED, Perturbation, drawn
from lorax.learning.queries import Asker
from lorax.network.features import (
    CENTER,
    CachedFeatures,
    FeatureCache,
    OnCached,
    Read,
    images_at_once,
    views_of,
)
from lorax.network.network import Network
from lorax.network.passes import Embedded, side_by_side
from lorax.network.process_group import SINGLE, ProcessGroup
from lorax.params import Params, RunParams
from lorax.stream import Sample

Batch = tuple[Tensor, Tensor, Tensor]
"""Images (B, 3, crop, crop) as bytes, or what a front made of them (B, T, ...); what the frozen branches say of them
(B, (K-1)·D); labels (B,): all on the network's device."""


Cut = Callable[[NDArray[np.int64]], Tensor]
"""Gives crops by index, (B,) -> bytes (B, 3, crop, crop)."""

_MOST_TOKENS = 2 * 2**30
"""Bytes; beyond them the front is asked again whenever a crop is looked at."""


@dataclass(frozen=True)
class TrainingSet:
    """N images at V views each, and what is known of them before training starts."""

    images: Images
    labels: Tensor  # (N,) class ids
    crops: NDArray[np.int64]  # (M, 3) the distinct crops among the views: image, top, left
    lookup: NDArray[np.int64]  # (N, V) which crop is view v of image n
    frozen: Sequence[CachedFeatures]  # of each frozen branch, what it says of each crop
    embedded: Embedded | None  # what a front made of the M crops; None where it is not kept
    device: torch.device

    @classmethod
    def load(
        cls,
        asker: Asker,
        samples: Sequence[Sample],
        labels: Tensor,
        params: Params,
        overflow: Path | None = None,
        on_progress: Progress | None = None,
        on_cached: OnCached | None = None,
    ) -> TrainingSet:
        """Read N samples, labelled (N,), as often perturbed as `params` say; see `build` and `Images.load`."""
        training, network = params.training, asker.network
        views = min(training.views, training.epochs)  # no epoch would show the others
        showing = Showing.draw(samples, views, training.augmentation, params.run.seed)
        paths = asker.fetch(samples)
        images = Images.load(samples, paths, network.crop, on_progress, looks=showing.looks, overflow=overflow)
        if network.device.type == "cuda":
            images.to(network.device)
        return cls.build(network, images, labels, showing.shown, params.run, asker.cache, on_cached, asker.group)

    @classmethod
    def build(
        cls,
        network: Network,
        images: Images,
        labels: Tensor,
        shown: NDArray[np.int64],
        run: RunParams,
        cache: FeatureCache,
        on_cached: OnCached | None = None,
        group: ProcessGroup = SINGLE,
    ) -> TrainingSet:
        """Draw the crops, drop equal ones (an image of the crop's size has only one) and ask the frozen branches.

        Args:
            shown: (N, V) which of `images` is shown as view v of image n: itself, or itself perturbed.
        """
        views = shown.shape[1]
        offsets = images.offsets(views, run.seed)[shown, np.arange(views)]  # (N, V, 2)
        rows = shown.reshape(-1, 1)
        crops, lookup = np.unique(np.hstack([rows, offsets.reshape(-1, 2)]), axis=0, return_inverse=True)
        md5s = [images.samples[image].md5 for image in crops[:, 0]]
        names, older = views_of(md5s, canonical(images, crops)), range(network.branches - 1)
        cut = lambda i: images.batch(crops[i, 0], crops[i, 1:])  # noqa: E731
        embedded = _embedded(network, cut, len(crops), run.batch_size, on_cached)
        read: Read = cut if embedded is None else embedded.__getitem__
        cache.fill(network, older, names, read, run.batch_size, on_cached, group)
        frozen = cache.lookup(network, older, names, run.batch_size)
        return cls(images, labels, crops, lookup.reshape(shown.shape), frozen, embedded, network.device)

    def first_views(self, count: int) -> NDArray[np.int64]:
        """Corners (count, 2) of the view that epoch 0 shows of the first images."""
        return canonical(self.images, self.crops[self.lookup[:count, 0]])

    def read_first_views(self, indices: NDArray[np.int64]) -> Tensor | Embedded:
        """The view that epoch 0 shows of some images: its pixels, or what the front made of it."""
        return self._crops(self.lookup[indices, 0])

    def batches(self, order: Sequence[Tensor], view: int) -> Iterator[Batch]:
        """The batches of an epoch, each made ready while the one before is in use.

        Args:
            order: indices of the images of each batch.
            view: which view is shown, modulo V.
        """
        with ThreadPoolExecutor(max_workers=1) as pool:
            coming = None
            for indices in order:
                current, coming = coming, pool.submit(self._batch, indices.numpy(), view)
                if current is not None:
                    yield current.result()
            if coming is not None:
                yield coming.result()

    def _batch(self, indices: NDArray[np.int64], view: int) -> Batch:
        rows = self.lookup[indices, view % self.lookup.shape[1]]
        seen = self._crops(rows)
        parts = [kept.take(rows) for kept in self.frozen]
        frozen = torch.cat(parts, dim=1) if parts else torch.zeros(len(rows), 0)
        shown = seen.tokens if isinstance(seen, Embedded) else seen
        return self._moved(shown), self._moved(frozen), self._moved(self.labels[indices])

    def _crops(self, rows: NDArray[np.int64]) -> Tensor | Embedded:
        if self.embedded is not None:
            return self.embedded[rows]
        return self.images.batch(self.crops[rows, 0], self.crops[rows, 1:])

    def _moved(self, tensor: Tensor) -> Tensor:
        """On the device; from pinned memory the copy to a GPU runs beside the step before."""
        if self.device.type == "cuda" and tensor.device.type == "cpu":
            tensor = tensor.pin_memory()
        return tensor.to(self.device, non_blocking=True)


def _embedded(network: Network, cut: Cut, count: int, batch_size: int, on_cached: OnCached | None) -> Embedded | None:
    """What the front makes of `count` crops, so that nobody asks it again; None without one, or where room is short.

    As when features are kept, every batch is filled up to one size, and one thread's work on a CPU.
    """
    if not network.backbone.gives_tokens:
        return None
    batch_size = images_at_once(network, batch_size)
    tokens = network.embed(cut(np.zeros(1, np.int64))).tokens
    if count * tokens[0].numel() * tokens.element_size() > _MOST_TOKENS:
        return None

    def embedded(rows: NDArray[np.int64]) -> Embedded:
        filled = rows[np.arange(batch_size) % len(rows)]
        return network.embed(cut(filled))[: len(rows)].to(torch.device("cpu"))

    batches = [np.arange(start, min(start + batch_size, count)) for start in range(0, count, batch_size)]
    found = []
    with side_by_side(network.device) as over:
        for part in over(embedded, batches):
            found.append(part)
            if on_cached:
                on_cached(min(len(found) * batch_size, count), count)
    return Embedded.join(found)


@dataclass(frozen=True)
class Showing:
    """What training shows of N images over V views."""

    # md5 -> the forms in which that image is shown, as `Images.load` takes them.
    looks: Mapping[str, Sequence[Perturbation]]
    shown: NDArray[np.int64]  # (N, V) the row of `Images` that each view shows

    @classmethod
    def draw(cls, samples: Sequence[Sample], views: int, share: float, seed: int) -> Showing:
        """View 0 shows every image as it is; `share` of the other views show it perturbed."""
        looks, shown, behind = {}, np.repeat(np.arange(len(samples))[:, None], views, axis=1), len(samples)
        for row, sample in enumerate(samples):
            changes = [drawn(sample.md5, view, seed, share) for view in range(1, views)]
            distinct = {change.name: change for change in changes if change is not UNCHANGED}
            place = {name: behind + i for i, name in enumerate(distinct)}
            shown[row, 1:] = [place.get(change.name, row) for change in changes]
            looks[sample.md5] = (UNCHANGED, *distinct.values())
            behind += len(distinct)
        return cls(looks, shown)


def canonical(images: Images, crops: NDArray[np.int64]) -> NDArray[np.int64]:
    """Corners (M, 2) of crops (M, 3), in which the crop at an image's centre goes by (CENTER, CENTER)."""
    at_center = (images.center()[crops[:, 0], 0] == crops[:, 1:]).all(axis=1)
    return np.where(at_center[:, None], CENTER, crops[:, 1:])
