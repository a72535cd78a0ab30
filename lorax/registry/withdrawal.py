"""A task leaves the registry: withdrawn, and then forgotten.

In one move the champion is a version that was learned without the task. The champion of before serves until then, and
knows as much but for the task: it is never gone back to less. Versions that know a withdrawn task are deleted for good,
with their artifacts, which MLflow's trash would keep. Their runs stay, since the champion's moves are written in them;
they hold figures and names of tasks, but no image and no list of any.
"""

from __future__ import annotations

from collections.abc import Sequence

from lorax.errors import RegistryError
from lorax.params import GateParams
from lorax.registry import journal, promotion
from lorax.registry.candidate import Candidate
from lorax.registry.gate import reasons
from lorax.registry.journal import Entry
from lorax.registry.lineage import ancestors, detected_first
from lorax.registry.package import delete_model, stored_bytes
from lorax.registry.registry import Registry
from lorax.registry.store import CHALLENGER, Store
from lorax.registry.tracking import BINARY_ACCURACY
from lorax.registry.versions import ModelVersion, outcome_tags
from lorax.stream import PinnedTask


def check_gate(registry: Registry, candidates: Sequence[Candidate], gate: GateParams, task: str) -> None:
    """See that the gate will refuse none of the candidates, each of which grew from the one before it.

    Raises:
        RegistryError: it would; names the reasons. Nothing was changed.
    """
    known = registry.versions()
    first = detected_first(candidates[0].state.parent, known) if candidates else {}
    for candidate in candidates:
        name = candidate.state.names[-1]
        if refused := reasons(candidate.judged(gate, first)):
            raise RegistryError(
                f"without {task!r} the gate would refuse {name!r} ({refused}), so the champion stays what it is and "
                f"nothing was changed. Set the gate in params.yaml, or give --preset, so that it passes, and run the "
                f"same command again, which learns nothing twice; or withdraw {name!r} first."
            )
        first |= {name: candidate.metrics[f"{BINARY_ACCURACY}/{name}"]}


def withdraw(
    registry: Registry, task: PinnedTask, number: int, *, by: str, reason: str, seen: Sequence[Entry]
) -> ModelVersion:
    """Make a version that was learned without a task champion; the task is quarantined as withdrawn.

    Args:
        task: with the bytes that the champion learned.
        seen: the journal as it was when this was decided on.

    Raises:
        RegistryError: the version knows the task, or another person has moved the champion since.
    """
    with registry.changing(f"withdraw {task.name!r}"):
        version = registry.version(number)
        if task.name in version.names:
            raise RegistryError(f"version {number} knows task {task.name!r}, which is to be withdrawn.")
        for between in ancestors(version, registry.versions())[1:]:
            if not between.outcome:
                why = f"passed the gate; version {number} grew from it, to withdraw {task.name}"
                registry.set_tags(between.version, outcome_tags(journal.PASSED, why))
        told = {"by": by, "reason": f"to withdraw {task.name}: {reason}", "task": task.name, "digest": task.digest}
        promotion.move_by_hand(registry, journal.entry(journal.PROMOTED, number, **told), seen)
    return registry.version(number)


def note(registry: Registry, task: PinnedTask, *, by: str, reason: str) -> None:
    """Quarantine a task as withdrawn that the champion does not know; nothing happens to one that is so already.

    A version that knows it and waits for approval is refused, else nothing more would be learned.
    """
    told = f"to withdraw {task.name}: {reason}"
    with registry.changing(f"withdraw {task.name!r}"):
        waiting = registry.waiting()
        registry.ensure_model()
        if waiting and task.name in waiting.names:
            promotion.refuse(registry, waiting, by, told)
        if any(q.is_withdrawn and (q.task, q.digest) == (task.name, task.digest) for q in registry.all_quarantined()):
            return
        registry.note(journal.WITHDRAWN, journal.NO_VERSION, by, told, task.name, task.digest)


def is_withdrawn(registry: Store, task: str) -> bool:
    """Whether a task was withdrawn, with whichever bytes."""
    return any(q.is_withdrawn and q.task == task for q in registry.all_quarantined())


def knowing(registry: Registry, task: str) -> list[ModelVersion]:
    """The versions that know a task, newest first.

    Raises:
        RegistryError: the champion is one of them, or MLflow made copies of one.
    """
    registry.require_server()
    champion = registry.champion()
    if champion and task in champion.names:
        raise RegistryError(
            f"the champion, version {champion.version}, knows task {task!r}. Withdraw it first: 'lorax withdraw {task} "
            "--reason TEXT'."
        )
    found = [version for version in reversed(registry.versions()) if task in version.names]
    for version in found:
        if copies := registry.copies(version.version):
            raise RegistryError(
                f"version {version.version} knows task {task!r} and has the same artifacts as {' and '.join(copies)}. "
                "Delete that on MLflow's page first; nothing was changed."
            )
    return found


def erase(registry: Registry, version: ModelVersion, *, by: str, reason: str) -> None:
    """Delete a version and its artifacts for good; called again after being cut off, it comes to the same end.

    Raises:
        RegistryError: MLflow's artifact store can't delete.
    """
    number = version.version
    with registry.talking(f"delete version {number} with its artifacts"):
        if str(registry.registered_model().aliases.get(CHALLENGER)) == str(number):
            registry.client.delete_registered_model_alias(registry.name, CHALLENGER)
        if not any(e.kind == journal.DELETED and e.version == number for e in registry.journal()):
            registry.note(journal.DELETED, number, by, reason)
        erase_artifacts(registry, number)
        if stored_bytes(registry.client, registry.name, number):
            raise RegistryError(
                f"the artifacts of version {number} are still there: MLflow's store did not delete them. Delete them "
                "there, and run the same command again."
            )
        delete_model(registry.client, registry.name, number)


def erase_artifacts(registry: Registry, number: int) -> None:
    """Delete the files of the MLflow model below a version for good; they may be gone already."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    if stored_bytes(registry.client, registry.name, number):
        place = registry.client.get_model_version_download_uri(registry.name, str(number))
        get_artifact_repository(place, tracking_uri=registry.uri).delete_artifacts()
