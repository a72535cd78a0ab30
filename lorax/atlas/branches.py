"""A learner state's branches as an atlas takes them in: labelled by their generators, marked where they are derived."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lorax.atlas.adapter import Adapter
from lorax.atlas.entry import DERIVED
from lorax.atlas.formats import branches_of
from lorax.atlas.index import Atlas
from lorax.learning.state import LearnerState
from lorax.learning.state_files import load_state


@dataclass(frozen=True)
class StateBranches:
    """Every branch of a state, the newest last.

    Args:
        adapters: named by their tasks.
        labels: of each, by name: the synthetic classes of its task.
        starts: of those that did not start as fresh branches do, by name: the task whose branch they started from, or
            "" of those from before fresh branches had a common start.
    """

    adapters: list[Adapter]
    labels: Mapping[str, str]
    starts: Mapping[str, str]

    @classmethod
    def read(cls, directory: Path, state: LearnerState | None = None) -> StateBranches:
        """Those of the state in this directory, which is read unless it is given.

        Raises:
            StateError: it is damaged.
            AdapterError: a branch is no plain LoRA.
        """
        state = state or load_state(directory)
        synthetic = [entry for entry in state.classes.entries if not entry.is_real]
        labels = {b.task: "+".join(e.label for e in synthetic if e.task == b.task) for b in state.branches}
        starts = {branch.task: branch.start for branch in state.branches if branch.start is not None}
        return cls(branches_of(state, directory), labels, starts)

    @property
    def kinds(self) -> dict[str, str]:
        """Of those that are not plain branches, by name."""
        return {name: DERIVED for name, start in self.starts.items() if start}

    def add_missing(self, atlas: Atlas, on_wait: Callable[[], None] = lambda: None) -> list[str]:
        """Add what the atlas lacks, also where some can't be taken in.

        Args:
            atlas: of the same base model.
            on_wait: called if another add is at work, before waiting for it.

        Returns:
            Why the others were refused, a message each.

        Raises:
            AtlasError: the atlas is damaged.
            StorageError: the disk is full; the atlas is as it was.
        """
        with atlas.adding(keep_going=True, on_wait=on_wait) as newcomers:
            newcomers.offer_all(self.adapters, self.labels, self.kinds, missing_only=True)
        return newcomers.refused
