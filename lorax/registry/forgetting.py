"""Versions that know a withdrawn task are deleted for good: with their artifacts, which MLflow's trash would keep.

Their runs stay, since the champion's moves are written in them; they hold figures and names of tasks, but no image and
no list of any.
"""

from __future__ import annotations

from lorax.errors import RegistryError
from lorax.registry import journal
from lorax.registry.package import delete_model, stored_bytes
from lorax.registry.registry import Registry
from lorax.registry.store import CHALLENGER
from lorax.registry.versions import ModelVersion


def knowing(registry: Registry, task: str) -> list[ModelVersion]:
    """The versions that know a task, newest first.

    Raises:
        RegistryError: the champion is one of them, or MLflow made copies of one.
    """
    registry.require_server()
    champion = registry.champion()
    if champion and _knows(champion, task):
        raise RegistryError(
            f"the champion, version {champion.version}, knows task {task!r}. Withdraw it first: 'lorax withdraw {task} "
            "--reason TEXT'."
        )
    found = [version for version in reversed(registry.versions()) if _knows(version, task)]
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
        RegistryError: MLflow doesn't answer, refuses, or its artifact store can't delete.
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


def _knows(version: ModelVersion, task: str) -> bool:
    return task in {known.name for known in version.tasks}
