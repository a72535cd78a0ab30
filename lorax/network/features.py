"""What frozen branches said of images, kept: it never changes, so it is computed once.

A *view* of an image is a crop, named by the image's md5 and the crop's corner, or the centre. What one branch says of
one view is a *feature* (D numbers). Features lie in files, one for each branch, as records that are only appended, and
are read through memory maps, so that steps, episodes and resumed runs find what earlier ones computed. Of images about
which every later branch is asked, tests above all, what a front gives is kept as well: it is two thirds of an answer's
cost.

A learner state must not depend on what happened to be kept, so a feature is the same number whether it is computed or
found. A matrix product's last bits depend on the batch's size, on how threads share it (and so on an image's place in
the batch), on the chip and the libraries. Therefore every batch is filled up to one size, each branch is asked alone
(of tokens that a front, if there is one, computes once for all of them), a batch on a CPU is one thread's work while
others take other batches, and the rest is in the file's name.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lorax.errors import StorageError
from lorax.network.network import Network
from lorax.network.passes import Embedded, side_by_side
from lorax.network.process_group import SINGLE, ProcessGroup
from lorax.storage import locked, storage_errors, write_whole

Views = NDArray[np.bytes_]
"""Names of views (N,), 24 bytes each."""

Read = Callable[[NDArray[np.int64]], Tensor | Embedded]
"""Gives some views by index, (B,) -> bytes (B, 3, crop, crop), or what the network's `embed` gave of them; several
threads may call it."""

OnCached = Callable[[int, int], None]
"""Told how many features have been computed, of how many."""

_CODE = 6
"""Raised when features are computed in another way, so that older ones are not found."""

CENTER = -1
"""In place of a corner's coordinates: the crop in the middle, wherever that is."""

TEXTURE = -1
"""In place of a branch: the texture, which the backbone gives without any (see `Backbone.texture`)."""

_TOKENS = "tokens"
"""In place of a branch: what the front gives (see `Network.embed`)."""

_NUMBERS = {".features": "<f4", ".tokens": "<f2"}
"""Kinds of files, and of their numbers."""

_CHECKED_AT_ONCE = 2**24  # bytes

_MOST_ON_CPU = 16
"""Images of a batch there: it is one thread's work, and where batches are large some threads wait for others. Larger
ones are no faster."""


def views_of(md5s: Sequence[str], corners: NDArray[np.int64]) -> Views:
    """Names of one view of each image: the crop at its corner (N, 2), which may be (CENTER, CENTER)."""
    names = np.empty((len(md5s), 24), np.uint8)
    names[:, :16] = np.frombuffer(bytes.fromhex("".join(md5s)), np.uint8).reshape(-1, 16)
    names[:, 16:] = corners.astype(">i4").view(np.uint8).reshape(-1, 8)
    return names.view("S24").ravel()


@dataclass(frozen=True)
class CachedFeatures:
    """What one branch said of N views: the rows of a memory-mapped file that hold it, -1 where none does."""

    records: NDArray[Any]
    rows: NDArray[np.int64]

    @property
    def is_there(self) -> NDArray[np.bool_]:
        return self.rows >= 0

    def take(self, views: NDArray[np.int64] | slice = slice(None)) -> Tensor:
        """The features of some of the views: (B, D) on the CPU."""
        return torch.from_numpy(np.ascontiguousarray(self.records["feature"][self.rows[views]]))


class FeatureCache:
    """Features of frozen branches in a directory; several processes may add to it.

    Rows that no one has asked for the longest are dropped first, and only by `evict`, which no one may call between
    another's `fill` and `lookup`.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def fill(
        self,
        network: Network,
        branches: Sequence[int],
        views: Views,
        read: Read,
        batch_size: int,
        on_cached: OnCached | None = None,
        group: ProcessGroup = SINGLE,
        *,
        keeps_tokens: bool = False,
    ) -> None:
        """Compute what some branches have not said of `views` yet.

        Args:
            network: whose branches.
            branches: which of them; TEXTURE stands for the backbone without any.
            views: (N,) names.
            read: gives the images; asked only for views that some branch lacks, and once for all branches that do.
            batch_size: the one size that every batch has; on a CPU at most 16.
            on_cached: told after each batch.
            group: shares the batches; each rank computes its part.
            keeps_tokens: keep what a front gives of the images, and start from it where it was kept: for views about
                which other branches will be asked.

        Raises:
            StorageError: the disk is full; what was kept before stays.
        """
        if not branches or not len(views):
            return
        batch_size = images_at_once(network, batch_size)
        files = [self._file(network, k, batch_size) for k in branches]
        lacking = np.array([file.find(views) < 0 for file in files])  # (K, N)
        tokens = self._file(network, _TOKENS, batch_size) if keeps_tokens and network.backbone.gives_tokens else None
        kept = tokens.use(views) if tokens and lacking.any() else None
        is_embedded = kept.is_there if kept else np.zeros(len(views), bool)
        is_embedded &= ~lacking[[k == TEXTURE for k in branches]].any(axis=0)  # of tokens no texture is told
        batches = [*_batches(lacking & ~is_embedded, batch_size), *_batches(lacking & is_embedded, batch_size)]
        total, done = sum(len(rows) * len(who) for rows, who in batches), 0
        group.barrier()  # until all have seen what is lacking

        def ask(batch: tuple[NDArray[np.int64], list[int]]) -> tuple[list[NDArray[np.float32]], Tensor | None]:
            rows, who = batch
            found = Embedded(kept.take(rows), None) if kept and is_embedded[rows[0]] else None
            embedded = network.embed((found or read(rows))[torch.arange(batch_size) % len(rows)])
            said = [_said(network, embedded, branches[i]) for i in who]
            new = embedded.tokens[: len(rows)].cpu() if tokens and not found else None
            return [features[: len(rows)].cpu().numpy() for features in said], new

        mine = batches[group.rank :: group.size]
        with side_by_side(network.device) as over:
            for (rows, who), (found, new) in zip(mine, over(ask, mine), strict=True):
                if tokens and new is not None:
                    with suppress(StorageError):  # it can do without
                        tokens.append(views[rows], new.numpy())
                for i, features in zip(who, found, strict=True):
                    files[i].append(views[rows], features)
                done += len(rows) * len(who) * group.size
                if on_cached:
                    on_cached(min(done, total), total)
        group.barrier()
        if on_cached and total:
            on_cached(total, total)

    def lookup(self, network: Network, branches: Sequence[int], views: Views, batch_size: int) -> list[CachedFeatures]:
        """What each branch said of `views`, which `fill` has seen to before."""
        found = [self._file(network, k, batch_size).use(views) for k in branches]
        assert all(each.is_there.all() for each in found), "FeatureCache.fill comes first"
        return found

    def evict(self, limit: int) -> int:
        """Drop the rows that no one has asked for the longest, until at most `limit` bytes are left.

        Returns:
            How many bytes are left.
        """
        with self._locked():
            for kind in _NUMBERS:
                for draft in self.root.glob(f".*{kind}-*"):  # of an `evict` that was killed
                    draft.unlink()
            paths = sorted(path for kind in _NUMBERS for path in self.root.glob(f"*{kind}"))
            files = [_FeatureFile(path, self._locked) for path in paths]
            total = sum(file.path.stat().st_size for file in files)
            if total <= limit:
                return total
            stamps = [np.array(file.records()["used"]) for file in files]
            sizes = np.repeat([file.type.itemsize for file in files], [len(s) for s in stamps])
            newest_first = np.argsort(-np.concatenate(stamps), kind="stable")
            stays = np.zeros(len(sizes), bool)
            stays[newest_first] = np.cumsum(sizes[newest_first]) <= limit
            ends = np.cumsum([len(s) for s in stamps])[:-1]
            for file, chosen in zip(files, np.split(stays, ends), strict=True):
                file.rewrite(chosen)
            return int(sizes[stays].sum())

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the directory against other processes that write to it."""
        with storage_errors(self.root), locked(self.root / ".lock"):
            yield

    def _file(self, network: Network, branch: int | str, batch_size: int) -> _FeatureFile:
        on_gpu = network.device.type == "cuda"
        backbone, identity = network.backbone, network.backbone.identity
        if isinstance(branch, str):
            shape = network.embed(torch.zeros(1, 3, network.crop, network.crop, dtype=torch.uint8)).tokens.shape[1:]
            size, what = f"{'x'.join(map(str, shape))}.tokens", branch
        elif branch == TEXTURE:
            size, what = f"{backbone.texture_width}.features", "texture"
        else:
            size, what = f"{backbone.width}.features", backbone.digest_of(branch)
        context = {
            "code": _CODE,
            "branch": what,
            "backbone": asdict(identity) | {"source": ""},
            "batch_size": images_at_once(network, batch_size),
            "mixed_precision": network.mixed_precision,
            "chip": torch.cuda.get_device_name() if on_gpu else _processor(),
            "libraries": [version(name) for name in ("torch", "timm", "pillow")],
        }
        name = hashlib.sha256(json.dumps(context, sort_keys=True).encode()).hexdigest()[:32]
        return _FeatureFile(self.root / f"{name}-{size}", self._locked)


def _said(network: Network, embedded: Embedded, branch: int) -> Tensor:
    """(B, D), or the texture."""
    return network.texture(embedded) if branch == TEXTURE else network.features(embedded, range(branch, branch + 1))


class _FeatureFile:
    """The records of one branch: name of the view, checksum, when it was last asked for, feature.

    Args:
        path: `<anything>-<D>.features`, of float32; or `<anything>-<T>x<D>.tokens`, of float16.
        locked: holds the directory against other processes.
    """

    def __init__(self, path: Path, locked: Callable[[], AbstractContextManager[None]]) -> None:
        self.path, self._locked = path, locked
        shape = tuple(map(int, path.stem.rpartition("-")[2].split("x")))
        numbers = ("feature", _NUMBERS[path.suffix], shape)
        self.type = np.dtype([("view", "S24"), ("check", "<u8"), ("used", "<i8"), numbers])

    def records(self, mode: Literal["r", "r+"] = "r") -> NDArray[Any]:
        """All whole records; a killed writer may have left a part of one."""
        try:
            with self.path.open("rb" if mode == "r" else "r+b") as file:
                count = os.fstat(file.fileno()).st_size // self.type.itemsize
                return np.memmap(file, self.type, mode, shape=(count,)) if count else np.empty(0, self.type)
        except FileNotFoundError:
            return np.empty(0, self.type)

    def find(self, views: Views) -> NDArray[np.int64]:
        """The row of each view, -1 where there is none or a damaged one."""
        return _rows(self.records(), views)

    def use(self, views: Views) -> CachedFeatures:
        """The rows of `views`, stamped with this moment where they are there."""
        records = self.records("r+")
        found = CachedFeatures(records, _rows(records, views))
        records["used"][found.rows[found.is_there]] = time.time_ns()
        return found

    def append(self, views: Views, features: NDArray[np.floating]) -> None:
        """Add records, whole."""
        new = np.empty(len(views), self.type)
        new["view"], new["feature"], new["used"] = views, features, time.time_ns()
        new["check"] = _checks(new)
        with self._locked(), self.path.open("ab") as file:
            whole = file.tell() // self.type.itemsize * self.type.itemsize
            file.truncate(whole)
            file.write(new.tobytes())

    def rewrite(self, chosen: NDArray[np.bool_]) -> None:
        """Keep the chosen records; who reads the file goes on reading the old one."""
        if chosen.all():
            return
        if chosen.any():
            write_whole(self.path, self.records()[chosen].view(np.uint8).data)
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
    candidates, at_once = np.flatnonzero(found), max(1, _CHECKED_AT_ONCE // records.itemsize)
    for start in range(0, len(candidates), at_once):
        part = candidates[start : start + at_once]
        chosen = records[rows[part]]
        found[part] = _checks(chosen) == chosen["check"]
    return np.where(found, rows, -1)


def _checks(records: NDArray[Any]) -> NDArray[np.uint64]:
    """A digest of each record's name and feature."""
    names, features = (np.ascontiguousarray(records[field]).view(np.uint8) for field in ("view", "feature"))
    rows = zip(names.reshape(len(records), -1), features.reshape(len(records), -1), strict=True)
    return np.array([_digest(name, feature) for name, feature in rows], np.uint64)


def _digest(name: NDArray[np.uint8], feature: NDArray[np.uint8]) -> int:
    digest = hashlib.blake2b(name.data, digest_size=8)
    digest.update(feature.data)
    return int.from_bytes(digest.digest(), "little")


def images_at_once(network: Network, batch_size: int) -> int:
    """How many images a pass has of those that it may have: on a CPU few, since a pass is one thread's work."""
    return min(batch_size, _MOST_ON_CPU) if network.device.type == "cpu" else batch_size


def _batches(lacking: NDArray[np.bool_], batch_size: int) -> Iterator[tuple[NDArray[np.int64], list[int]]]:
    """Batches of views that the same files lack, (files, views) -> indices of views, and of files."""
    patterns, kind = np.unique(lacking, axis=1, return_inverse=True)
    for number, pattern in enumerate(patterns.T):
        if pattern.any():
            rows = np.flatnonzero(kind.ravel() == number)
            for start in range(0, len(rows), batch_size):
                yield rows[start : start + batch_size], np.flatnonzero(pattern).tolist()


def _processor() -> str:
    """What decides which instructions torch's libraries choose."""
    found = [platform.machine(), torch.backends.cpu.get_cpu_capability()]
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        found += sorted({line for line in lines if line.startswith(("model name", "flags"))})
    return " ".join(found)
