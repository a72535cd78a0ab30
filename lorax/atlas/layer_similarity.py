"""Layer similarity of an episode's branches: what its run logs of it, and the workspace's atlas brought up to date.

A side line of the episode: whatever is wrong with an atlas, the branch that was learned is whole. So whatever goes
wrong here is a warning.
"""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from lorax.atlas.adapter import Adapter
from lorax.atlas.formats import branches_of
from lorax.atlas.index import Atlas
from lorax.atlas.searching import search
from lorax.drafts import scratch
from lorax.errors import AtlasError, LoraxError
from lorax.learning.branch_similarity import NEIGHBOURS, BranchComparison, BranchNeighbours, SimilarBranch
from lorax.learning.folder import EpisodeFolder, Report
from lorax.learning.state import LearnerState
from lorax.learning.state_files import load_state
from lorax.storage import whole_directory, write_record

_FOLDER = "atlas"
_NEAREST = 5
_DIGITS = 4
"""A cosine's last digits depend on the machine, and a version's figures must not."""


def update(
    folder: EpisodeFolder, atlas_dir: Path, warn: Callable[[str], None], state: LearnerState | None = None
) -> str:
    """Compare the branches of the episode's state, unless that was done, and add them to an atlas that lacks them.

    Args:
        folder: the episode's, with its state.
        atlas_dir: the workspace's atlas.
        warn: told of what went wrong.
        state: the episode's, where it has been read.

    Returns:
        What came of it, in a few words.
    """
    told = []
    branches = functools.cache(lambda: branches_of(state or load_state(folder.state_dir), folder.state_dir))
    with _harmless(warn, "the branches were not compared"):
        if not compared_dir(folder):
            compare(folder, branches(), warn)
        told.append(_told(BranchComparison.read(folder.root / _FOLDER)))
    with _harmless(warn, f"the atlas at {atlas_dir} was not updated"):
        told.append(f"{add_branches(branches(), atlas_dir, warn)} in the atlas")
    return ", ".join(told)


def compared_dir(folder: EpisodeFolder) -> Path | None:
    """What the episode's run is to log of its comparison; None where there is none that can be read."""
    kept = folder.root / _FOLDER
    try:
        BranchComparison.read(kept)
    except (OSError, ValueError):
        return None
    return kept


def compare(folder: EpisodeFolder, branches: Sequence[Adapter], warn: Callable[[str], None]) -> None:
    """Compare the branches of the episode's state with each other; leave the record, and of two or more a map.

    They are compared in an atlas of their own, which is thrown away: so what is told of a version follows from its
    state alone, on whatever machine it was learned and whatever lies in the workspace's atlas.
    """
    report = Report.read(folder.report_path)
    shutil.rmtree(folder.root / _FOLDER, ignore_errors=True)  # one that can't be read
    with scratch() as made, whole_directory(folder.root / _FOLDER) as draft:
        atlas = Atlas.open(Path(made))
        with atlas.adding(keep_going=True) as newcomers:
            newcomers.offer_all(branches)
        for reason in newcomers.refused:
            warn(f"a branch can't be compared: {reason}")
        fresh = {branch.name for branch in branches if branch.start is None}
        neighbours = tuple(_neighbours(atlas, branch, fresh) for branch in branches if branch.name in atlas)
        described = atlas.view().described if neighbours else "nothing"
        write_record(draft / NEIGHBOURS, BranchComparison(report.episode, report.task, described, neighbours))
        if len(atlas) > 1:
            with _harmless(warn, "no map was drawn"):
                from lorax.atlas.drawing import save_map

                save_map(atlas, draft)


def add_branches(branches: Sequence[Adapter], atlas_dir: Path, warn: Callable[[str], None]) -> int:
    """Add what an atlas lacks of the branches of an episode's state; returns how many entries it has then.

    Raises:
        AtlasError: it is damaged, or another add is at work in it.
        StorageError: it can't be written.
    """
    atlas = Atlas.open(atlas_dir)
    with atlas.adding(keep_going=True, on_wait=_refuse_to_wait) as newcomers:
        newcomers.offer_all(branches, missing_only=True)
    if refused := newcomers.refused:
        warn(
            f"the atlas at {atlas_dir} refused {len(refused)} of the branches, the first of them since {refused[0]} "
            "Where the backbone or lora.targets changed, rename that folder: the next episode begins a new atlas."
        )
    return len(atlas)


@contextmanager
def _harmless(warn: Callable[[str], None], what: str) -> Iterator[None]:
    """Turn whatever the block raises into a warning."""
    try:
        yield
    except Exception as error:
        kind = "" if isinstance(error, LoraxError) else f"{type(error).__name__}: "
        warn(f"{what}: {kind}{error} The episode goes on.")


def _neighbours(atlas: Atlas, branch: Adapter, fresh: Collection[str]) -> BranchNeighbours:
    """The branches that started as fresh ones do and are most similar to one that can be compared with them."""
    near = search(atlas, branch.name, len(atlas)).neighbours if branch.start != "" else []
    similar = [SimilarBranch(n.name, n.label, round(n.similarity, _DIGITS)) for n in near if n.name in fresh]
    return BranchNeighbours(branch.name, branch.label, branch.start, tuple(similar[:_NEAREST]))


def _told(comparison: BranchComparison) -> str:
    if comparison.nearest:
        return f"nearest {comparison.nearest.task} {comparison.nearest.similarity:.2f}"
    start = comparison.newest.start if comparison.newest else None
    return f"started from {start}" if start else "nothing to compare with"


def _refuse_to_wait() -> NoReturn:
    raise AtlasError("another 'lorax atlas add' is at work in it; the next episode adds what is missing.")
