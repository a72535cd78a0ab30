"""Compare and set for the champion: which move follows which is written once.

MLflow sets an alias or a tag whatever was there before. A run's parameter it takes only once: the first value stays,
and who comes second is refused. So before anything else is written, a move claims its place behind the one that it was
decided on, in the run of the version that is champion then. The claim holds the journal's entry, so that a move whose
mover was cut off is carried out by whoever finds it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lorax.errors import RegistryError
from lorax.registry import journal, tracking
from lorax.registry.client import is_missing
from lorax.registry.journal import Entry
from lorax.registry.store import Store
from lorax.registry.versions import ModelVersion

_PARAMETER = "lorax.after"


def claim(store: Store, base: Entry | None, new: Entry) -> Entry:
    """Have a move follow another.

    Args:
        store: of the model whose champion is to be moved.
        base: the move that it was decided on, None where there never was one.
        new: the move, numbered.

    Returns:
        What follows `base` for ever: `new`, or the move that came first.

    Raises:
        RegistryError: there is no run any more to write it to.
    """
    from mlflow.exceptions import MlflowException

    run, key = _place(store, base)
    try:
        store.client.log_param(run.info.run_id, key, f"{new.key} {journal.text_of(new)}")
    except MlflowException as error:
        if error.error_code != "INVALID_PARAMETER_VALUE":  # another's claim
            raise
    return _read(store.client.get_run(run.info.run_id), key) or new


def following(store: Store, base: Entry | None) -> Entry | None:
    """The move that has claimed to follow `base`, whether it was carried out or not."""
    return _read(*_place(store, base))


def _place(store: Store, base: Entry | None) -> tuple[Any, str]:
    """The run and the parameter that say what follows `base`: the same for all who ask, unless runs are deleted."""
    name = base.key if base else f"{store.name} {store.registered_model().creation_timestamp}"
    for version in _nearest_first(store, base):
        if run := _active(store.client, version.run_id):
            return run, f"{_PARAMETER}/{name}"
    tracking.find_experiment(store.client, store.uri, store.name)
    raise RegistryError(
        f"all runs of the versions of {store.name!r} were deleted in MLflow, and without one the champion can't be "
        "moved. Restore one on the experiment's page in MLflow ('Deleted' runs), and run the command again."
    )


def _nearest_first(store: Store, base: Entry | None) -> Iterator[ModelVersion]:
    """The version of a move, then all; which are listed only if it comes to them: of hundreds that takes seconds."""
    if base and (own := store.existing(base.version)):
        yield own
    yield from store.versions()


def _active(client: Any, run_id: str) -> Any:
    """A run, or None where it was deleted."""
    from mlflow.exceptions import MlflowException

    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if is_missing(error):
            return None
        raise
    return run if run.info.lifecycle_stage == "active" else None


def _read(run: Any, key: str) -> Entry | None:
    text = run.data.params.get(key)
    return journal.parse(*text.split(" ", 1)) if text else None
