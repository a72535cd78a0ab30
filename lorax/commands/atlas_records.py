"""What `lorax atlas` does: records for scripts, which `atlas_tables` prints."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lorax.atlas.adapter import Adapter
from lorax.atlas.adding import refusal
from lorax.atlas.branches import StateBranches
from lorax.atlas.clustering import agreement, find_families, most_clusters
from lorax.atlas.entry import BRANCH, Entry, counted
from lorax.atlas.formats import find_adapters, read_all
from lorax.atlas.index import Atlas
from lorax.atlas.labels import Labels
from lorax.atlas.view import DIMS, View
from lorax.errors import AdapterError, AtlasError, WorkspaceError, printable
from lorax.workspace import Workspace

Progress = Callable[[int, int, str], None]
Record = dict[str, Any]

_AT_ONCE = 512


def folder_of(atlas_dir: Path | None) -> Path:
    """The atlas that was named, or the workspace's own.

    Raises:
        AtlasError: none was named, outside a workspace.
    """
    if atlas_dir is not None:
        return atlas_dir
    try:
        return Workspace.find().atlas_dir
    except WorkspaceError as error:
        raise AtlasError(
            f"{Path.cwd()} is not inside a workspace, which would have an atlas of its own. Name one: --atlas DIR."
        ) from error


@dataclass(frozen=True)
class Terms:
    """How `add` takes adapters in."""

    labels: Labels
    base: str | None = None
    keep_going: bool = False
    with_factors: bool = False


def add(atlas_dir: Path, paths: list[Path], terms: Terms, on_wait: Callable[[], None], progress: Progress) -> Record:
    """Add all adapters at paths, and say what each newcomer is nearest to.

    Raises:
        AdapterError: some were refused, and the rest is not to be added.
        AtlasError: the atlas is damaged.
        StorageError: the disk is full.
    """
    atlas = Atlas.open(atlas_dir)
    found, missing = _found(paths)
    if not found:  # so that no atlas is begun at a place where nothing comes
        raise AdapterError(refusal(missing, 0))
    with (
        _interruption_says("the atlas is as it was: run the same command again."),
        atlas.adding(with_factors=terms.with_factors, keep_going=terms.keep_going, on_wait=on_wait) as newcomers,
    ):
        newcomers.refused += missing
        for number, path in enumerate(found):
            progress(number, len(found), f"reading {printable(path.name)}")
            with newcomers.judging():
                for offered in _read(path, terms.base):
                    with newcomers.judging():
                        label = terms.labels.of(offered.adapter.name, path, offered.label)
                        newcomers.offer(offered.adapter, label, offered.kind)
    with _interruption_says(f"{len(newcomers.added)} were added: 'lorax atlas list' shows them."):
        progress(len(found), len(found), "comparing")
        return _added(atlas, newcomers.added, newcomers.refused) | {"unused labels": terms.labels.unused}


@contextmanager
def _interruption_says(what: str) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(what) from error


def _found(paths: list[Path]) -> tuple[list[Path], list[str]]:
    """Where adapters lie, each once, and what is wrong with the other paths."""
    found: dict[str, Path] = {}
    missing = []
    for path in paths:
        try:
            for place in find_adapters([path]):
                found.setdefault(os.path.realpath(place), place)
        except AdapterError as error:
            missing.append(printable(str(error)))
    return list(found.values()), missing


@dataclass(frozen=True)
class _Offered:
    adapter: Adapter
    label: str | None = None
    kind: str | None = None


def _read(path: Path, base: str | None) -> Iterator[_Offered]:
    adapters = read_all(path, base)
    if adapters and adapters[0].format != BRANCH:
        yield from (_Offered(adapter) for adapter in adapters)
        return
    branches = StateBranches.read(path)
    for adapter in adapters:
        yield _Offered(adapter, branches.labels[adapter.name], branches.kinds.get(adapter.name))


def _added(atlas: Atlas, added: list[Entry], refused: list[str]) -> Record:
    record: Record = {"atlas": str(atlas.folder), "entries": len(atlas), "base": atlas.base, "refused": refused}
    if not added:
        return record | {"added": []}
    view = atlas.view()
    numbers = [atlas.number(entry.name) for entry in added]
    nearest = _nearest(atlas, view, numbers)
    residuals = [view.residual_of(number) for number in numbers]
    return record | {
        "compared by": view.described,
        "usual residual": view.limit,
        "refit advised": view.refit_advice(numbers),
        "added": [
            asdict(entry) | {"nearest": near, "residual": residual}
            for entry, near, residual in zip(added, nearest, residuals, strict=True)
        ],
    }


def _nearest(atlas: Atlas, view: View, numbers: list[int]) -> list[Record | None]:
    """Of each of some entries, the nearest other one that is not derived; None where there is none."""
    derived = [i for i, entry in enumerate(atlas.entries) if entry.is_derived]
    found: list[Record | None] = []
    for start in range(0, len(numbers), _AT_ONCE):
        some = numbers[start : start + _AT_ONCE]
        near = view.similarities(view.vectors[some])
        near[np.arange(len(some)), some] = -np.inf
        near[:, derived] = -np.inf
        for row in near:
            best, similarity = atlas.entries[int(row.argmax())], float(row.max())
            record = {"name": best.name, "label": best.label, "similarity": similarity}
            found.append(record if np.isfinite(similarity) else None)
    return found


def cluster(atlas: Atlas, count: int | None, descriptor: str, group: str) -> Record:
    """Families of the entries; those whose training began at another's weights are left out.

    Raises:
        AdapterError: there is no such group.
        AtlasError: the atlas is empty or damaged, or can't be parted into so many clusters.
    """
    view = atlas.view(descriptor, group)
    numbers = [i for i, entry in enumerate(atlas.entries) if not entry.is_derived]
    if count is not None and count > (most := most_clusters(len(numbers))):
        of = counted(len(numbers), "entry", "entries")
        raise AtlasError(f"{count} clusters of {of} can't be. Ask for {most} at most.")
    entries = [atlas.entries[i] for i in numbers]
    found = find_families(view.vectors[numbers], count)
    agreed = agreement(found.members, [entry.label for entry in entries])
    groups = [[e for e, member in zip(entries, found.members, strict=True) if member == i] for i in range(found.count)]
    return {
        "compared by": view.described,
        "entries": len(entries),
        "left out": len(atlas) - len(entries),
        "asked for": count,
        "count": found.count,
        "silhouette": found.silhouette,
        "best": [{"clusters": n, "silhouette": s} for n, s in found.best],
        "curve": {str(n): s for n, s in found.curve.items()},
        "without families": found.chance,
        "nmi": agreed and agreed[0],
        "ari": agreed and agreed[1],
        "clusters": [
            {"members": [e.name for e in some], "labels": dict(Counter(e.label for e in some if e.label).most_common())}
            for some in groups
        ],
    }


def draw(atlas: Atlas, out_dir: Path, descriptor: str, group: str) -> Record:
    """Draw the map.

    Raises:
        AtlasError: there are fewer than two entries, or the atlas is damaged.
        StorageError: the disk is full.
    """
    from lorax.atlas.drawing import save_map

    paths = save_map(atlas, out_dir, descriptor, group)
    if not paths:
        raise AtlasError(
            f"the atlas at {atlas.folder} holds {len(atlas)} of the two entries or more that a map needs: "
            "'lorax atlas add PATH'."
        )
    return {"files": [str(path) for path in paths], "compared by": atlas.view(descriptor, group).described}


def fit(atlas: Atlas, descriptor: str, group: str, dims: int | None) -> Record:
    """Fit a basis over all entries anew.

    Raises:
        AtlasError: there are too few, or the atlas is damaged.
    """
    view = atlas.fit(descriptor, group, dims or DIMS)
    assert view.basis is not None
    return {
        "compared by": view.described,
        "entries": len(atlas),
        "dims": len(view.basis.components),
        "median residual": None if view.limit is None else float(np.median(view.basis.usual)),
        "usual residual": view.limit,
    }
