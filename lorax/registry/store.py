"""The store of a model in MLflow: its versions, aliases, tags and journal, read and written one at a time.

What follows what is decided above: promotion, registration.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from lorax.addresses import without_password
from lorax.errors import RegistryError
from lorax.registry import journal
from lorax.registry.client import connect, is_missing, is_missing_database, is_server, mlflow_errors, upsert
from lorax.registry.journal import Entry, Quarantine
from lorax.registry.package import fetch_state, is_whole
from lorax.registry.versions import (
    DIGEST_TAG,
    MODEL_DESCRIPTION,
    OLD_DIGEST_TAG,
    OUTCOME_TAG,
    ModelVersion,
    is_ours,
    read_version,
)
from lorax.storage import locked, whole_directory

CHAMPION, CHALLENGER = "champion", "challenger"
_PAGE = 200


class Store:
    """One registered model and its experiment. Nothing is opened before it is needed.

    Whatever asks MLflow raises RegistryError where that does not answer, or refuses.

    Args:
        tracking_uri: the MLflow server's address; or, for reading with the server down, its database's, such as
            `sqlite:///` and an absolute path.
        model_name: name of the registered model and of its experiment.
    """

    def __init__(self, tracking_uri: str, model_name: str) -> None:
        self.uri, self.name = tracking_uri.rstrip("/"), model_name

    def champion(self) -> ModelVersion | None:
        """The version that is served and that the next episode grows from; None while none was promoted.

        Raises:
            RegistryError: the alias was lost (deleted by hand, or with its version).
        """
        if self.is_unused():
            return None
        with self.talking("look up the champion"):
            if found := self.aliased_version(CHAMPION):
                return read_version(found)
            if model := self.registered_model():
                self._refuse_lost_alias(journal.read(model.tags))
            return None

    def versions(self, outcome: str = "") -> list[ModelVersion]:
        """All versions that lorax registered, oldest first; or only those of which this became, which is a short list.

        Raises:
            RegistryError: a version's tags were edited by hand.
        """
        if self.is_unused():
            return []
        with self.talking("list the versions"):
            listed = self.registered_versions({OUTCOME_TAG: outcome} if outcome else {})
            versions = [read_version(found) for found in listed if is_ours(found)]
        return sorted(versions, key=lambda v: v.version)

    def find(self, state_digest: str) -> ModelVersion | None:
        """The version that holds the learner state with this digest, the first if there are several."""
        if self.is_unused():
            return None
        with self.talking(f"look for state {state_digest[:12]}"):
            found = self.registered_versions({DIGEST_TAG: state_digest})
            found = found or self.registered_versions({OLD_DIGEST_TAG: state_digest})
            return read_version(min(found, key=lambda v: int(v.version))) if found else None

    def existing(self, number: int) -> ModelVersion | None:
        """The version with this number; None if there is none, or lorax did not register it."""
        if self.is_unused():
            return None
        with self.talking(f"read version {number}"):
            found = self.registered_version(str(number))
            return read_version(found) if found and is_ours(found) else None

    def version(self, number: int) -> ModelVersion:
        """The model version with this number.

        Raises:
            RegistryError: there is none, or lorax did not register it.
        """
        found = self.existing(number)
        if found is None:
            there = ", ".join(str(v.version) for v in self.versions()) or "none yet"
            raise RegistryError(
                f"model {self.name!r} has no version {number}; there are: {there}. See 'lorax history'."
            )
        return found

    def journal(self) -> list[Entry]:
        """Who moved the champion, what was refused, quarantined and released: oldest first."""
        if self.is_unused():
            return []
        with self.talking("read the journal"):
            model = self.registered_model()
            return journal.read(model.tags) if model else []

    def quarantined(self) -> list[Quarantine]:
        """The tasks that must not be learned with the bytes named, less what the champion knows."""
        champion = self.champion()
        known = {(task.name, task.digest) for task in champion.tasks} if champion else set()
        return [one for one in self.all_quarantined() if (one.task, one.digest) not in known]

    def all_quarantined(self) -> list[Quarantine]:
        """The same with those that the champion knows; for this no champion is needed, whose alias may be lost."""
        return journal.quarantined(self.journal())

    def download_state(self, version: int, into: Path) -> Path:
        """Fetch a version's learner state into `into/<digest>`, where it is looked up first.

        Args:
            into: the folder that holds local copies, one sub-folder per state digest.

        Returns:
            The state's directory, whole and with the digest that the version names.

        Raises:
            RegistryError: the artifacts can't be fetched, or are not the ones that were registered.
            StorageError: the disk is full.
        """
        digest = self.version(version).state_digest
        final = into / digest
        if is_whole(final, digest):
            return final
        self.require_server()
        with locked(into / ".lock"):  # what another process has just fetched is being read
            if not is_whole(final, digest):
                shutil.rmtree(final, ignore_errors=True)
                self._fetch(version, digest, final)
        return final

    def _fetch(self, version: int, digest: str, final: Path) -> None:
        with self.talking(f"fetch the learner state of version {version}"), whole_directory(final) as draft:
            fetch_state(self.client, self.uri, self.name, version, draft)
            if not is_whole(draft, digest):
                raise RegistryError(
                    f"the artifacts of version {version} of {self.name!r} are not the learner state {digest[:12]} "
                    "that was registered: they were changed on the server. "
                    "Restore the artifact store from a backup, or grow from another version."
                )

    def ensure_model(self) -> None:
        """Make the registered model, unless it is there: versions and the journal hang on it."""
        if self.registered_model() is None:
            self.client.create_registered_model(self.name, description=MODEL_DESCRIPTION)

    def set_tags(self, version: int, tags: Mapping[str, str]) -> None:
        """Set tags of a model version, one call each, in their order."""
        for tag, value in tags.items():
            upsert(self.client.set_model_version_tag, self.name, str(version), tag, value)

    def set_alias(self, alias: str, version: int) -> None:
        """Put an alias on a version, wherever it was."""
        upsert(self.client.set_registered_model_alias, self.name, alias, str(version))

    def set_description(self, version: int, text: str) -> None:
        """Give a version another description."""
        self.client.update_model_version(self.name, str(version), text)

    def note(self, kind: str, version: int, by: str, reason: str, task: str = "", digest: str = "") -> None:
        """Append to the journal."""
        new = journal.entry(kind, version, by=by, reason=reason, task=task, digest=digest)
        journal.write(self.client, self.name, new)

    def is_unused(self) -> bool:
        """Whether there is only a database, and no server has used it yet."""
        return is_missing_database(self.uri)

    def registered_version(self, number: str) -> Any:
        """MLflow's version with this number, or None."""
        return _unless_missing(self.client.get_model_version, self.name, number)

    def aliased_version(self, alias: str) -> Any:
        """MLflow's version that an alias points to, or None."""
        no_such_alias = "INVALID_PARAMETER_VALUE"  # MLflow's word for it
        return _unless_missing(self.client.get_model_version_by_alias, self.name, alias, or_code=no_such_alias)

    def registered_versions(self, tags: Mapping[str, str]) -> list[Any]:
        """MLflow's versions of the model that have these tags, whoever registered them.

        Their aliases, which a search leaves out, are as the registered model lists them.
        """
        conditions = {"name": self.name, **{f"tags.`{tag}`": value for tag, value in tags.items()}}
        named = " AND ".join(f"{what} = '{value}'" for what, value in conditions.items())
        found, token = [], None
        while True:
            page = self.client.search_model_versions(named, max_results=_PAGE, page_token=token)
            found.extend(page)
            token = page.token
            if not token:
                break
        model = self.registered_model() if found else None
        aliases = model.aliases if model else {}
        for version in found:
            version.aliases = [alias for alias, n in aliases.items() if str(n) == str(version.version)]
        return found

    def registered_model(self) -> Any:
        """MLflow's registered model, or None."""
        return _unless_missing(self.client.get_registered_model, self.name)

    def _refuse_lost_alias(self, entries: Sequence[Entry]) -> None:
        move = journal.last_move(entries)
        if move is not None and not self.is_cut_off(move):
            raise RegistryError(f"{lost_alias(self.name, move)}.")

    def is_cut_off(self, move: Entry) -> bool:
        """Whether the gate noted this promotion and was cut off before it was done; registering again completes it."""
        named = self.existing(move.version)
        return not move.is_by_hand and named is not None and not named.outcome

    def require_server(self) -> None:
        """Refuse to change anything where only MLflow's database is at hand.

        Raises:
            RegistryError: the address is a database's.
        """
        if not is_server(self.uri):
            raise RegistryError(
                f"{without_password(self.uri)} is MLflow's database, which lorax only looks things up in. "
                "Start the server with 'lorax up' and use its address."
            )

    def talking(self, doing: str) -> AbstractContextManager[None]:
        """A block that talks to MLflow, whose errors become ours: "could not <doing>"."""
        return mlflow_errors(self.uri, doing)

    @contextmanager
    def changing(self, doing: str) -> Iterator[None]:
        """The same of a block that changes something, which takes MLflow's server."""
        self.require_server()
        with self.talking(doing):
            yield

    @cached_property
    def client(self) -> Any:
        """MLflow's client, connected at the first call."""
        return connect(self.uri)


def _unless_missing(read: Callable[..., Any], *named: str, or_code: str = "") -> Any:
    from mlflow.exceptions import MlflowException

    try:
        return read(*named)
    except MlflowException as error:
        if is_missing(error) or error.error_code == or_code:
            return None
        raise


def lost_alias(name: str, move: Entry) -> str:
    return (
        f"model {name!r} has no alias {CHAMPION!r} any more: it was on version {move.version}, and the alias or that "
        "version was deleted in MLflow, so nothing can be served or learned. Choose the version to go on from: "
        "'lorax promote VERSION --reason TEXT'"
    )
