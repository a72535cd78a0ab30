"""Every trace of a withdrawn task's images is removed: from registry, DVC and work/; then it is looked for.

What is derived and would have to be searched (features, probes) is removed whole: it is computed again when needed.
Cut off at any point, the same call goes on: which images there were is known by git's history and DVC's lists of files,
which hold digests only and stay.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from lorax import drafts
from lorax.atlas.index import remove as remove_entries
from lorax.atlas.segments import BRANCH, AtlasEntry
from lorax.data import forgetting as images_of_tasks
from lorax.data.forgetting import Images, Place
from lorax.network.features import FeatureCache
from lorax.params import Params
from lorax.registry import ModelVersion, Registry, withdrawal
from lorax.workspace import Workspace


@dataclass(frozen=True)
class Traces:
    """What is there of a withdrawn task: its images, and the versions that know it."""

    task: str
    images: Images
    versions: tuple[ModelVersion, ...]


def traces(workspace: Workspace, registry: Registry, params: Params, task: str) -> Traces:
    """What is to be forgotten. Nothing is changed.

    Raises:
        DataVersionError: the task is landed, or what stays can't be read.
        RegistryError: the champion knows it, or MLflow doesn't answer.
    """
    versions = withdrawal.knowing(registry, task)
    gone = {version.state_digest for version in versions}
    kept = {version.state_digest for version in registry.versions()} - gone
    return Traces(task, images_of_tasks.images_of(workspace, task, kept, params.reals.path), tuple(versions))


def forget(
    workspace: Workspace, registry: Registry, found: Traces, *, by: str, told: Callable[[str], None]
) -> list[Place]:
    """Remove all traces, then look for them: every place that was looked at, with what is still there.

    Args:
        by: who, for the registry's journal.
    """
    for version in found.versions:
        told(f"deleting version {version.version}")
        withdrawal.erase(registry, version, by=by, reason=f"to forget {found.task}")
    told("removing what was derived")
    kept = {version.state_digest for version in registry.versions()}
    for folder in (*_knowing(workspace.states_dir, kept), *_episodes(workspace, found.task, kept)):
        drafts.discard(folder)
    for cache in (workspace.episodes_dir, *_from_scratch(workspace)):
        FeatureCache(cache / "features").evict(0)
    shutil.rmtree(workspace.work_dir / "probes", ignore_errors=True)
    remove_entries(workspace.atlas_dir, lambda entry: _is_of(entry, found.images.branches))
    told("removing images")
    images_of_tasks.forget_states(workspace, kept)
    images_of_tasks.remove(workspace, found.images.gone)
    told("looking for what was removed")
    return [*images_of_tasks.look_for(workspace, found.images.gone), *_versions_left(registry, found.task)]


def _knowing(states_dir: Path, kept: set[str]) -> Iterator[Path]:
    """Local copies of states that are no more."""
    return (path for path in states_dir.glob("[!.]*/") if path.name not in kept)


def _episodes(workspace: Workspace, task: str, kept: set[str]) -> Iterator[Path]:
    """Folders of episodes that learned a task, or grew from a state that is no version's: it may know the task.

    So may what the fast way cut out of one, whose plan names no base but has one.
    """
    homes = (workspace.episodes_dir, *_from_scratch(workspace))
    for path in (path for home in homes for path in home.glob("*/plan.json")):
        plan = json.loads(path.read_bytes())
        is_from_scratch = workspace.episodes_dir not in path.parents
        is_cut = plan["base"] is None and plan.get("base_dir") is not None
        if is_from_scratch or is_cut or plan["task"]["name"] == task or plan["base"] not in {None, *kept}:
            yield path.parent


def _from_scratch(workspace: Workspace) -> list[Path]:
    """Where episodes of scenarios and sweeps lie."""
    return [*workspace.work_dir.glob("scenarios/*/"), *workspace.work_dir.glob("sweeps/*/episodes/")]


def _is_of(entry: AtlasEntry, tasks: Collection[str]) -> bool:
    return entry.format == BRANCH and entry.name.partition("@")[0] in tasks


def _versions_left(registry: Registry, task: str) -> list[Place]:
    left = tuple(f"version {version.version}" for version in withdrawal.knowing(registry, task))
    return [Place("MLflow's registry and its store", left)]
