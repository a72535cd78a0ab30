"""What is told when unknown images become more: they in clusters, with a contact sheet each, below work/watch."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lorax.data.images import decode
from lorax.data.reading import read_image
from lorax.data.walk import Found
from lorax.errors import ImageError
from lorax.storage import whole_directory
from lorax.verdicts.predictor import Judged, Predictor
from lorax.verdicts.rate import Window
from lorax.verdicts.watched import WatchedVerdict

LEAST_TOGETHER = 5
"""Images that make a cluster; fewer may be alike by chance."""

_MOST_CLUSTERS = 6
_NO_SPREAD = 1e-6
_EQUAL = 1e-4
"""Deviations as long as this, and directions that differ by so little, are those of images with equal pixels."""


def standardized(values: Tensor, usual: Tensor) -> Tensor:
    """Values (n, F) as distances from the mean of the usual ones (m, F), in their standard deviations."""
    if len(usual) < 2:
        return values - values.mean(0)
    return (values - usual.mean(0)) / (usual.std(0) + _NO_SPREAD)


def clusters(deviations: Tensor) -> list[list[int]]:
    """Rows of deviations (n, F) that point the same way: lists of row numbers, the largest first.

    Average linkage by the angle between rows, cut where the silhouette is largest. Directions are compared, since a
    generator's trace is stronger in some images than in others but of one kind. Rows in groups of fewer than
    `LEAST_TOGETHER` are in no list; false alarms, each odd in its own way, mostly end there. So are rows of zeros,
    which point nowhere; where there are no others, or all rows point exactly the same way, they are one group.
    """
    pointing = _pointing(deviations)
    rows = pointing if pointing.any() else ~pointing
    found, numbers = deviations[rows], rows.nonzero()[:, 0]
    labels = _labels(found) if len(found) and cohesion(found) < 1 - _EQUAL else torch.zeros(len(found))
    groups = [numbers[labels == label].tolist() for label in labels.unique()]
    return sorted((group for group in groups if len(group) >= LEAST_TOGETHER), key=len, reverse=True)


def cohesion(deviations: Tensor) -> float:
    """How much rows (n, F) point the same way: 1 where all do, or all are zero, near 0 where each points elsewhere."""
    if not _pointing(deviations).any():
        return 1.0
    directions = deviations / deviations.norm(dim=1, keepdim=True).clamp_min(_NO_SPREAD)
    return float(directions.mean(0).norm())


def responses(deviations: Tensor, branches: int) -> list[float]:
    """For each of K branches, how far its features lie from usual: root mean square of deviations (n, K·D)."""
    per_branch = deviations.unflatten(1, (branches, -1)).square().mean(dim=(0, 2)).sqrt()
    return [float(value) for value in per_branch]


def _labels(deviations: Tensor) -> Tensor:
    """Which cluster each row is in (n,)."""
    from sklearn.cluster import AgglomerativeClustering
    from sklearn.metrics import silhouette_score

    rows = deviations.numpy()
    best, labels = -math.inf, np.zeros(len(rows), int)
    for count in range(2, min(_MOST_CLUSTERS, len(rows) - 1) + 1):
        found = AgglomerativeClustering(count, linkage="average", metric="cosine").fit_predict(rows)
        score = silhouette_score(rows, found, metric="cosine")
        if score > best:
            best, labels = score, found
    return torch.from_numpy(labels)


def _pointing(deviations: Tensor) -> Tensor:
    """Which rows (n, F) are not (near) zero (n,)."""
    lengths: Tensor = torch.linalg.vector_norm(deviations, dim=1)
    return lengths > _EQUAL


REPORT = "clusters.json"

_TILE = 96
_COLUMNS, _ROWS = 8, 8
_GAP = 4
_IN_EVENT = 5


@dataclass(frozen=True)
class Cluster:
    """Unknown images that are alike: how much, from 0 to 1, says `cohesion`.

    `responses` has each branch's task, and how far its features are from usual.
    """

    members: tuple[WatchedVerdict, ...]
    cohesion: float
    responses: dict[str, float]

    @property
    def branch(self) -> str:
        """The task of the branch that responds most."""
        return max(self.responses, key=self.responses.__getitem__)

    def record(self, shown: int | None = None) -> dict[str, Any]:
        """As JSON, with all members or the first so many."""
        members = [{"file": _text(s.file), "sha256": s.sha256, "verdict": s.verdict} for s in self.members[:shown]]
        told = {"size": len(self.members), "cohesion": self.cohesion, "branch": self.branch}
        return told | {"responses": self.responses, "members": members}


@dataclass(frozen=True)
class Alert:
    """What is told of it: `summary` is the event's payload, `folder` holds the report and the sheets."""

    clusters: tuple[Cluster, ...]
    summary: dict[str, Any]
    folder: Path

    def sheet_path(self, number: int) -> Path:
        """Of a cluster's contact sheet."""
        return self.folder / _sheet_name(number)


def raise_alert(window: Window, predictor: Predictor, watch_dir: Path) -> Alert:
    """Cluster the out-of-distribution images of a window and write what was found to a new folder below `watch_dir`.

    Raises:
        StorageError: the disk is full.
    """
    found, lost = _clusters(window, predictor)
    at = datetime.now(UTC)
    folder = _free(watch_dir, at.strftime("%Y%m%d-%H%M%S"))
    summary = {
        "at": at.isoformat(timespec="seconds"),
        **window.record(),
        "verdicts": window.verdicts,
        "version": window.seen[-1].version,
        "unclustered": len(window.ood) - sum(len(cluster.members) for cluster in found),
        "lost": lost,
        "report": str(folder / REPORT),
    }
    with whole_directory(folder) as draft:
        whole = summary | {"clusters": [cluster.record() for cluster in found]}
        (draft / REPORT).write_text(json.dumps(whole, indent=1))
        for number, cluster in enumerate(found):
            _sheet(cluster.members).save(draft / _sheet_name(number))
    return Alert(tuple(found), summary | {"clusters": [cluster.record(_IN_EVENT) for cluster in found]}, folder)


def _sheet_name(number: int) -> str:
    return f"cluster-{number}.png"


def _clusters(window: Window, predictor: Predictor) -> tuple[list[Cluster], int]:
    """The clusters, largest first, and how many of the images are gone, or changed, and were never looked at here.

    Images are clustered by their texture, in which they are unlike what is known; the branches, which look for what
    was known, tell them apart less well (docs/log.md).
    """
    judged = _judged(window.seen, predictor)
    here = [s for s in window.ood if s.sha256 in judged]
    usual = [judged[s.sha256] for s in window.seen if not s.is_ood and s.sha256 in judged]
    ood = [judged[s.sha256] for s in here]
    textures = _deviations([j.texture for j in ood], [j.texture for j in usual])
    features = _deviations(_features(ood), _features(usual))
    names = [branch.task for branch in predictor.state.branches]
    made = []
    for rows in clusters(textures):
        shares = responses(features[rows], len(names))
        members = tuple(here[row] for row in rows)
        made.append(Cluster(members, cohesion(textures[rows]), dict(zip(names, shares, strict=True))))
    return made, len(window.ood) - len(here)


def _features(judged: Iterable[Judged]) -> list[Tensor]:
    """Of images about which an exact predictor was asked."""
    return [each.features for each in judged if each.features is not None]


def _deviations(ood: Sequence[Tensor], usual: Sequence[Tensor]) -> Tensor:
    if not ood:
        return torch.zeros(0, 0)
    return standardized(torch.stack([*ood]), torch.stack([*usual]) if usual else ood[0].new_zeros(0, 0))


def _judged(seen: Sequence[WatchedVerdict], predictor: Predictor) -> dict[str, Judged]:
    """What verdicts were made from, by sha256; of images judged elsewhere, if their files are here as they were."""
    known = {s.sha256: s.judged for s in seen if s.judged is not None}
    readings = [read_image(Found(Path(s.file)), predictor.network.crop) for s in seen if s.sha256 not in known]
    wanted = {s.sha256 for s in seen}
    same = {reading.sha256: reading for reading in readings if reading.sha256 in wanted}
    judged = predictor.look([reading.crops for reading in same.values()], [r.name for r in same.values()])
    return known | dict(zip(same, judged, strict=True))


def _sheet(members: Sequence[WatchedVerdict]) -> Image.Image:
    """A contact sheet of the first members whose files are still there."""
    shown = members[: _COLUMNS * _ROWS]
    step = _TILE + _GAP
    rows = -(-len(shown) // _COLUMNS)
    sheet = Image.new("RGB", (min(len(shown), _COLUMNS) * step + _GAP, rows * step + _GAP), "white")
    for number, member in enumerate(shown):
        try:
            image = Image.fromarray(decode(Path(member.file)))
        except ImageError:
            continue
        scale = _TILE / max(image.size)
        size = [max(1, round(side * scale)) for side in image.size]
        place = (_GAP + number % _COLUMNS * step, _GAP + number // _COLUMNS * step)
        sheet.paste(image.resize((size[0], size[1])), place)
    return sheet


def _text(name: str) -> str:
    """A file's name as servers take it, who may refuse bytes that are no text."""
    return os.fsencode(name).decode(errors="replace")


def _free(watch_dir: Path, name: str) -> Path:
    """A folder that does not exist yet; two alerts may come within a second."""
    watch_dir.mkdir(parents=True, exist_ok=True)
    number, folder = 1, watch_dir / name
    while folder.exists():
        number += 1
        folder = watch_dir / f"{name}-{number}"
    return folder
