"""What the registry says: the champion, the versions, the journal, the holds. Nothing here changes anything."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from lorax.addresses import without_password
from lorax.errors import RegistryError
from lorax.registry import journal, tracking
from lorax.registry.client import connect, is_missing, is_missing_database, is_server, mlflow_errors
from lorax.registry.journal import Entry, Hold
from lorax.registry.lineage import ancestors
from lorax.registry.package import fetch_state, is_whole
from lorax.registry.versions import ModelVersion, is_ours, read_version
from lorax.storage import locked, whole_directory

CHAMPION, CHALLENGER = "champion", "challenger"
_PAGE = 200
_TRAINING = "workflowType=machine_learning"
"""MLflow's page begins among evaluations of generative AI otherwise, in a browser that has not seen it before."""


class RegisteredModel:
    """One registered model and its experiment. Nothing is opened before it is needed.

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
            RegistryError: the alias was lost (deleted by hand, or with its version), or MLflow doesn't answer.
        """
        if self._is_unused():
            return None
        with self._talking("look up the champion"):
            model = self._model()
            if model is None:
                return None
            if CHAMPION not in model.aliases:
                self._refuse_lost_alias(journal.read(model.tags))
                return None
            return self._read(model, str(model.aliases[CHAMPION]))

    def aliased(self, alias: str) -> ModelVersion:
        """The version that an alias points to now.

        Raises:
            RegistryError: none has it.
        """
        known = [self.champion()] if alias == CHAMPION else self.versions()
        found = next((v for v in known if v is not None and alias in v.aliases), None)
        if found is None:
            raise RegistryError(f"there is no {alias} yet of {self.name!r}: see 'lorax history', or 'lorax learn'.")
        return found

    def versions(self) -> list[ModelVersion]:
        """All versions that lorax registered, oldest first.

        Raises:
            RegistryError: MLflow doesn't answer, or a version's tags were edited by hand.
        """
        if self._is_unused():
            return []
        with self._talking("list the versions"):
            model = self._model()
            found = self._search() if model else []
            versions = [read_version(v, _aliases(model, v.version)) for v in found if is_ours(v)]
        return sorted(versions, key=lambda v: v.version)

    def find(self, state_digest: str) -> ModelVersion | None:
        """The version that holds the learner state with this digest."""
        return next((v for v in self.versions() if v.state_digest == state_digest), None)

    def version(self, number: int) -> ModelVersion:
        """The model version with this number.

        Raises:
            RegistryError: there is none, or lorax did not register it.
        """
        with self._talking(f"read version {number}"):
            known = [] if self._is_unused() else self.versions()
        found = next((v for v in known if v.version == number), None)
        if found is None:
            there = ", ".join(str(v.version) for v in known) or "none yet"
            raise RegistryError(
                f"model {self.name!r} has no version {number}; there are: {there}. See 'lorax history'."
            )
        return found

    def version_before(self, task: str) -> ModelVersion:
        """The newest version that the champion descends from and that does not know `task`.

        Raises:
            RegistryError: the champion does not know it, or there is no such version (any more).
        """
        champion = self.champion()
        known = [known.name for known in champion.tasks] if champion else []
        if champion is None or task not in known:
            raise RegistryError(
                f"the champion does not know task {task!r}, so there is nothing to learn anew; it knows "
                f"{', '.join(known) or 'nothing yet'}. A task that is held: 'lorax release {task}'."
            )
        line = ancestors(champion, self.versions())
        found = next((v for v in line if task not in {known.name for known in v.tasks}), None)
        if found is None:
            why = "it was learned first" if known[0] == task else "the versions before it are gone"
            raise RegistryError(
                f"no version without task {task!r} is left to go back to: {why}. Learn the whole stream anew beside "
                "this model, which is served meanwhile: set another registry.model in params.yaml, then 'lorax learn'."
            )
        return found

    def journal(self) -> list[Entry]:
        """Who moved the champion, what was refused, held and released: oldest first."""
        if self._is_unused():
            return []
        with self._talking("read the journal"):
            model = self._model()
            return journal.read(model.tags) if model else []

    def held(self) -> list[Hold]:
        """The tasks that must not be learned with the bytes that a hold names, less what the champion knows."""
        champion = self.champion()
        known = {(task.name, task.digest) for task in champion.tasks} if champion else set()
        return [hold for hold in self.all_holds() if (hold.task, hold.digest) not in known]

    def all_holds(self) -> list[Hold]:
        """The same with those that the champion knows; for this no champion is needed, whose alias may be lost."""
        return journal.holds(self.journal())

    def waiting(self) -> ModelVersion | None:
        """The challenger that passed the gate and waits for a person's approval."""
        champion = self.champion()
        base = champion.state_digest if champion else None
        return next((v for v in self.versions() if v.outcome == journal.WAITING and v.parent_digest == base), None)

    def breakage(self) -> list[str]:
        """What was deleted in MLflow itself, and what that broke: a sentence each."""
        if self._is_unused():
            return []
        known = {v.version: v for v in self.versions()}
        entries = self.journal()
        deleted = {e.version for e in entries if e.kind == journal.DELETED}
        lost = sorted({e.version for e in entries} - deleted - set(known) - {journal.NO_VERSION})
        found = [
            f"version {n} was deleted in MLflow: it can't be rolled back to, and 'lorax history' lacks it" for n in lost
        ]
        move = journal.last_move(entries)
        with self._talking("look for the champion's alias"):
            model = self._model()
        if model and move and CHAMPION not in model.aliases:
            found.insert(0, _lost_alias(self.name, move))
            return found
        champion = self.champion()
        line = ancestors(champion, known.values()) if champion else []
        if line and line[-1].parent_digest:
            found.append(
                f"the champion's ancestor before version {line[-1].version} (state {line[-1].parent_digest[:12]}) is "
                "gone: serving and learning go on, but no rollback goes further back, a new line's curves begin later"
            )
        return found

    def download_state(self, version: int, into: Path) -> Path:
        """Fetch a version's learner state into `into/<digest>`, where it is looked up first.

        Args:
            version: number of the model version.
            into: the folder that holds local copies, one sub-folder per state digest.

        Returns:
            The state's directory, whole and with the digest that the version names.

        Raises:
            RegistryError: the artifacts can't be fetched, or are not the ones that were registered.
            StorageError: the disk is full.
        """
        digest = self._version(version).state_digest
        final = into / digest
        if is_whole(final, digest):
            return final
        self._require_server()
        with locked(into / ".lock"):  # what another process has just fetched is being read
            if not is_whole(final, digest):
                shutil.rmtree(final, ignore_errors=True)
                self._fetch(version, digest, final)
        return final

    def _fetch(self, version: int, digest: str, final: Path) -> None:
        with self._talking(f"fetch the learner state of version {version}"), whole_directory(final) as draft:
            fetch_state(self._client, self.uri, self.name, version, draft)
            if not is_whole(draft, digest):
                raise RegistryError(
                    f"the artifacts of version {version} of {self.name!r} are not the learner state {digest[:12]} "
                    "that was registered: they were changed on the server. "
                    "Restore the artifact store from a backup, or grow from another version."
                )

    def pages(self) -> dict[str, str]:
        """Addresses of MLflow's pages for a browser: the timeline's curves and the model's versions."""
        self._require_server()
        with self._talking("find the timeline"):
            champion = self.champion()
            experiment = tracking.experiment_id(self._client, self.uri, self.name)
            page = without_password(self.uri)
            pages = {
                "model": f"{page}/#/models/{self.name}",
                "runs": f"{page}/#/experiments/{experiment}/runs?{_TRAINING}",
            }
            if champion:
                run_id = tracking.timeline_run(self._client, experiment, champion.line)
                pages["timeline"] = f"{page}/#/experiments/{experiment}/runs/{run_id}/model-metrics?{_TRAINING}"
        return pages

    def _is_unused(self) -> bool:
        """Whether there is only a database, and no server has used it yet."""
        return is_missing_database(self.uri)

    def _version(self, number: int) -> ModelVersion:
        with self._talking(f"read version {number}"):
            return self._read(self._model(), str(number))

    def _read(self, model: Any, number: str) -> ModelVersion:
        return read_version(self._get(number), _aliases(model, number))

    def _get(self, number: str) -> Any:
        """MLflow's model version."""
        return self._client.get_model_version(self.name, number)

    def _search(self) -> list[Any]:
        found, token = [], None
        while True:
            page = self._client.search_model_versions(f"name = '{self.name}'", max_results=_PAGE, page_token=token)
            found.extend(page)
            token = page.token
            if not token:
                return found

    def _model(self) -> Any:
        """MLflow's registered model, or None."""
        from mlflow.exceptions import MlflowException

        try:
            return self._client.get_registered_model(self.name)
        except MlflowException as error:
            if is_missing(error):
                return None
            raise

    def _refuse_lost_alias(self, entries: Sequence[Entry]) -> None:
        move = journal.last_move(entries)
        if move is not None and not self.is_cut_off(move):
            raise RegistryError(f"{_lost_alias(self.name, move)}.")

    def is_cut_off(self, move: Entry) -> bool:
        """Whether the gate noted this promotion and was cut off before it was done; registering again completes it."""
        named = next((v for v in self.versions() if v.version == move.version), None)
        return not move.is_by_hand and named is not None and not named.outcome

    def _require_server(self) -> None:
        if not is_server(self.uri):
            raise RegistryError(
                f"{without_password(self.uri)} is MLflow's database, which lorax only looks things up in. "
                "Start the server with 'lorax up' and use its address."
            )

    def _talking(self, doing: str) -> Any:
        return mlflow_errors(self.uri, doing)

    @cached_property
    def _client(self) -> Any:
        return connect(self.uri)


def _lost_alias(name: str, move: Entry) -> str:
    return (
        f"model {name!r} has no alias {CHAMPION!r} any more: it was on version {move.version}, and the alias or that "
        "version was deleted in MLflow, so nothing can be served or learned. Choose the version to go on from: "
        "'lorax promote VERSION --reason TEXT'"
    )


def _aliases(model: Any, version: int | str) -> tuple[str, ...]:
    """The aliases of a version, which only the registered model lists."""
    return tuple(sorted(alias for alias, number in model.aliases.items() if str(number) == str(version)))
