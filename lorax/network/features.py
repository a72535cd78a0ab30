"""What frozen branches said of images, kept: it never changes, so it is computed once.

A *view* of an image is a crop, named by the image's md5 and the crop's corner, or the centre. What one branch says of
one view is a *feature* (D numbers). Features lie in files, one for each branch, as records that are only appended, and
are read through memory maps, so that steps, episodes and resumed runs find what earlier ones computed.

A matrix product's last bits depend on the batch's size, the number of threads, the chip and torch itself. So every
batch is filled up to one fixed size, each branch is asked alone, and all these name the file: a feature is the same
number whether it is computed or found, and a learner state doesn't depend on what was kept.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lorax.network.network import Network
from lorax.network.team import ALONE, Team
from lorax.storage import storage_errors, write_whole

Views = NDArray[np.bytes_]
"""Names of views (N,), 24 bytes each."""

Read = Callable[[NDArray[np.int64]], Tensor]
"""Gives the images of some views by index: (B,) -> bytes (B, 3, crop, crop)."""

OnKept = Callable[[int, int], None]
"""Told how many features have been computed, of how many."""

_CODE = 1
"""Raised when features are computed in another way, so that older ones are not found."""

CENTER = -1
"""In place of a corner's coordinates: the crop in the middle, wherever that is."""

_CHECKED_AT_ONCE = 8192


def views_of(md5s: Sequence[str], corners: NDArray[np.int64]) -> Views:
    """Names of one view of each image: the crop at its corner (N, 2), which may be (CENTER, CENTER)."""
    names = np.empty((len(md5s), 24), np.uint8)
    names[:, :16] = np.frombuffer(bytes.fromhex("".join(md5s)), np.uint8).reshape(-1, 16)
    names[:, 16:] = corners.astype(">i4").view(np.uint8).reshape(-1, 8)
    return names.view("S24").ravel()


@dataclass(frozen=True)
class Kept:
    """What one branch said of N views: the rows of a memory-mapped file that hold it."""

    records: NDArray[Any]
    rows: NDArray[np.int64]

    def take(self, views: NDArray[np.int64] | slice = slice(None)) -> Tensor:
        """The features of some of the views: (B, D) on the CPU."""
        return torch.from_numpy(np.ascontiguousarray(self.records["feature"][self.rows[views]]))


class FeatureStore:
    """Features of frozen branches in a directory.

    Rows that no one has asked for the longest are dropped first, and only by `shrink`.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def keep(
        self,
        network: Network,
        branches: range,
        views: Views,
        read: Read,
        batch_size: int,
        on_kept: OnKept | None = None,
        team: Team = ALONE,
    ) -> None:
        """Compute what some branches have not said of `views` yet.

        Args:
            network: whose branches.
            branches: which of them.
            views: (N,) names.
            read: gives the images; asked only for views that some branch lacks, and once for all branches that do.
            batch_size: the one size that every batch has.
            on_kept: told after each batch.
            team: shares the batches; each member computes its part.

        Raises:
            StorageError: the disk is full; what was kept before stays.
        """
        if not branches or not len(views):
            return
        shelves = [self._shelf(network, k, batch_size) for k in branches]
        lacking = np.array([shelf.find(views) < 0 for shelf in shelves])  # (K, N)
        batches = list(_batches(lacking, batch_size))
        total, done = sum(len(rows) * len(who) for rows, who in batches), 0
        team.wait()  # until all have seen what is lacking
        for rows, who in batches[team.rank :: team.size]:
            images = read(np.resize(rows, batch_size)).to(network.device)  # np.resize repeats what there is
            for shelf in who:
                features = network.features(images, range(branches[shelf], branches[shelf] + 1))
                shelves[shelf].append(views[rows], features[: len(rows)].cpu().numpy())
            done += len(rows) * len(who) * team.size
            if on_kept:
                on_kept(min(done, total), total)
        team.wait()
        if on_kept and total:
            on_kept(total, total)

    def kept(self, network: Network, branches: range, views: Views, batch_size: int) -> list[Kept]:
        """What each branch said of `views`, which `keep` has seen to before."""
        return [self._shelf(network, k, batch_size).use(views) for k in branches]

    def shrink(self, limit: int) -> int:
        """Drop the rows that no one has asked for the longest, until at most `limit` bytes are left.

        Returns:
            How many bytes are left.
        """
        if not self.root.is_dir():
            return 0
        with self._locked():
            shelves = [_Shelf(path, self._locked) for path in sorted(self.root.glob("*.features"))]
            stamps = [np.array(shelf.records()["used"]) for shelf in shelves]
            sizes = np.repeat([shelf.type.itemsize for shelf in shelves], [len(s) for s in stamps])
            if sizes.sum() > limit:
                newest_first = np.argsort(-np.concatenate(stamps), kind="stable")
                stays = np.zeros(len(sizes), bool)
                stays[newest_first] = np.cumsum(sizes[newest_first]) <= limit
                ends = np.cumsum([len(s) for s in stamps])[:-1]
                for shelf, chosen in zip(shelves, np.split(stays, ends), strict=True):
                    shelf.rewrite(chosen)
                sizes = sizes[stays]
            return int(sizes.sum())

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the directory against other processes that write to it."""
        with storage_errors(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
            with (self.root / ".lock").open("w") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                yield

    def _shelf(self, network: Network, branch: int, batch_size: int) -> _Shelf:
        device = network.device.type
        context = {
            "code": _CODE,
            "branch": network.backbone.branch(branch).digest,
            "backbone": [network.backbone.identity.sha256, network.crop, *network.backbone.identity.mean],
            "std": network.backbone.identity.std,
            "batch_size": batch_size,
            "threads": torch.get_num_threads(),
            "device": [device, torch.cuda.get_device_name() if device == "cuda" else platform.machine()],
            "chip": torch.backends.cpu.get_cpu_capability(),
            "mixed_precision": network.mixed_precision,
            "torch": torch.__version__,
        }
        name = hashlib.sha256(json.dumps(context, sort_keys=True).encode()).hexdigest()[:32]
        return _Shelf(self.root / f"{name}-{network.backbone.width}.features", self._locked)


class _Shelf:
    """The records of one branch: name of the view, checksum, when it was last asked for, feature.

    Args:
        path: `<anything>-<D>.features`.
        locked: holds the directory against other processes.
    """

    def __init__(self, path: Path, locked: Callable[[], AbstractContextManager[None]]) -> None:
        self.path, self._locked = path, locked
        width = int(path.stem.rpartition("-")[2])
        self.type = np.dtype([("view", "S24"), ("check", "<u8"), ("used", "<i8"), ("feature", "<f4", (width,))])

    def records(self, mode: Literal["r", "r+"] = "r") -> NDArray[Any]:
        """All whole records; a killed writer may have left a part of one."""
        count = self.path.stat().st_size // self.type.itemsize if self.path.is_file() else 0
        if not count:
            return np.empty(0, self.type)
        return np.memmap(self.path, self.type, mode, shape=(count,))

    def find(self, views: Views) -> NDArray[np.int64]:
        """The row of each view, -1 where there is none or a damaged one."""
        return _rows(self.records(), views)

    def use(self, views: Views) -> Kept:
        """The rows of `views`, all of which are there, stamped with this moment."""
        records = self.records("r+")
        rows = _rows(records, views)
        assert (rows >= 0).all(), "FeatureStore.keep comes first"
        records["used"][rows] = time.time_ns()
        return Kept(records, rows)

    def append(self, views: Views, features: NDArray[np.float32]) -> None:
        """Add records, whole."""
        new = np.empty(len(views), self.type)
        new["view"], new["feature"], new["used"] = views, features, time.time_ns()
        new["check"] = _checks(features)
        with self._locked(), self.path.open("ab") as file:
            whole = file.tell() // self.type.itemsize * self.type.itemsize
            file.truncate(whole)
            file.write(new.tobytes())

    def rewrite(self, chosen: NDArray[np.bool_]) -> None:
        """Keep the chosen records; who reads the file goes on reading the old one."""
        if chosen.all():
            return
        if chosen.any():
            write_whole(self.path, self.records()[chosen].tobytes())
        else:
            self.path.unlink()


def _rows(records: NDArray[Any], views: Views) -> NDArray[np.int64]:
    names = np.ascontiguousarray(records["view"])
    if not len(names):
        return np.full(len(views), -1)
    order = np.argsort(names, kind="stable")
    places = np.searchsorted(names, views, side="right", sorter=order) - 1  # the newest of equal names
    rows = order[np.maximum(places, 0)]
    found = names[rows] == views
    for part in np.array_split(np.flatnonzero(found), 1 + len(views) // _CHECKED_AT_ONCE):
        found[part] = _checks(records["feature"][rows[part]]) == records["check"][rows[part]]
    return np.where(found, rows, -1)


def _checks(features: NDArray[np.float32]) -> NDArray[np.uint64]:
    """A checksum of each row: the sum of its bits, a word at a time."""
    sums: NDArray[np.uint64] = np.ascontiguousarray(features).view(np.uint32).sum(axis=1, dtype=np.uint64)
    return sums


def _batches(lacking: NDArray[np.bool_], batch_size: int) -> Iterator[tuple[NDArray[np.int64], list[int]]]:
    """Batches of views that the same shelves lack, (shelves, views) -> indices of views, and of shelves."""
    patterns, kind = np.unique(lacking, axis=1, return_inverse=True)
    for number, pattern in enumerate(patterns.T):
        if pattern.any():
            rows = np.flatnonzero(kind.ravel() == number)
            for start in range(0, len(rows), batch_size):
                yield rows[start : start + batch_size], np.flatnonzero(pattern).tolist()
