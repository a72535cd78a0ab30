"""What commands ask of a registered model, beyond what its store says. Nothing here changes anything."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from lorax.addresses import without_password
from lorax.errors import RegistryError
from lorax.registry import journal, pages, tracking
from lorax.registry.lineage import ancestors
from lorax.registry.package import copies, fetch_card, stored_bytes
from lorax.registry.store import CHALLENGER, CHAMPION, Store, lost_alias
from lorax.registry.versions import ModelVersion


class RegisteredModel(Store):
    """One registered model and its experiment."""

    def aliased(self, alias: str) -> ModelVersion:
        """The version that an alias points to now.

        Raises:
            RegistryError: none has it.
        """
        known = [self.champion()] if alias == CHAMPION else self.versions()
        found = next((v for v in known if v is not None and alias in v.aliases), None)
        if found is None and known and alias == CHALLENGER:
            raise RegistryError(
                f"{self.name!r} has no challenger now: the newest version is one until it is promoted. 'lorax history' "
                "shows all; take one by its number, or @champion."
            )
        if found is None:
            raise RegistryError(f"there is no {alias} yet of {self.name!r}: see 'lorax history', or 'lorax learn'.")
        return found

    def line(self, number: int) -> list[ModelVersion]:
        """A version and those that it grew from, newest first, as far as they are still registered.

        Raises:
            RegistryError: there is no such version.
        """
        return ancestors(self.version(number), self.versions())

    def card(self, number: int) -> str:
        """A version's model card, Markdown.

        Raises:
            RegistryError: there is none, or MLflow's server does not answer.
        """
        self.require_server()
        with self.talking(f"fetch the model card of version {number}"):
            return fetch_card(self.client, self.uri, self.name, number)

    def version_before(self, task: str) -> ModelVersion:
        """The newest version that the champion descends from and that does not know `task`.

        Raises:
            RegistryError: the champion does not know it, or there is no such version (any more).
        """
        champion = self.champion()
        known = champion.names if champion else []
        if champion is None or task not in known:
            raise RegistryError(
                f"the champion does not know task {task!r}, so there is nothing to learn anew; it knows "
                f"{', '.join(known) or 'nothing yet'}. A task that is held: 'lorax release {task}'."
            )
        found = self.base_without(champion, task)
        if found is None:
            why = "it was learned first" if known[0] == task else "the versions before it are gone"
            raise RegistryError(
                f"no version without task {task!r} is left to go back to: {why}. Learn the whole stream anew beside "
                "this model, which is served meanwhile: set another registry.model in params.yaml, then 'lorax learn'."
            )
        return found

    def base_without(self, champion: ModelVersion, task: str) -> ModelVersion | None:
        """The newest version that a champion descends from and that does not know a task; None where none is left."""
        return next((v for v in ancestors(champion, self.versions()) if task not in v.names), None)

    def waiting(self) -> ModelVersion | None:
        """The challenger that passed the gate and waits for a person's approval."""
        champion = self.champion()
        base = champion.state_digest if champion else None
        return next((v for v in self.versions(journal.WAITING) if v.parent_digest == base), None)

    def breakage(self) -> list[str]:
        """What was deleted in MLflow itself, and what that broke: a sentence each."""
        if self.is_unused():
            return []
        known = {v.version: v for v in self.versions()}
        entries = self.journal()
        deleted = {e.version for e in entries if e.kind == journal.DELETED}
        lost = sorted({e.version for e in entries} - deleted - set(known) - {journal.NO_VERSION})
        found = [
            f"version {n} was deleted in MLflow: it can't be rolled back to, and 'lorax history' lacks it" for n in lost
        ]
        move = journal.last_move(entries)
        with self.talking("look for the champion's alias"):
            model = self.registered_model()
        if model and move and CHAMPION not in model.aliases:
            found.insert(0, lost_alias(self.name, move))
            return found
        champion = self.champion()
        line = ancestors(champion, known.values()) if champion else []
        if line and line[-1].parent_digest:
            found.append(
                f"the champion's ancestor before version {line[-1].version} (state {line[-1].parent_digest[:12]}) is "
                "gone: serving and learning go on, but no rollback goes further back, a new line's curves begin later"
            )
        return found

    def check_deletable(self, number: int) -> ModelVersion:
        """The version, if it may be deleted.

        Raises:
            RegistryError: an alias is on it, or the champion's or challenger's line of descent needs it.
        """
        self.require_server()
        version, versions = self.version(number), self.versions()
        for other in (v for v in versions if v.aliases):
            if number in {a.version for a in ancestors(other, versions)}:
                alias = " and ".join(other.aliases)
                what = (
                    f"is the {alias}" if other.version == number else f"is an ancestor of the {alias}, {other.version}"
                )
                raise RegistryError(f"version {number} can't be deleted: it {what}. Nothing was changed.")
        return version

    def stored_bytes(self, version: int) -> int:
        """How much room a version's artifacts take on the server."""
        with self.talking(f"look at the artifacts of version {version}"):
            return stored_bytes(self.client, self.name, version)

    def copies(self, version: int) -> list[str]:
        """Versions of other models that MLflow made as copies of this one, or that this is a copy of."""
        with self.talking(f"look for copies of version {version}"):
            return copies(self.client, self.name, version)

    def links(self, version: ModelVersion) -> dict[str, str]:
        """Addresses of MLflow's pages for a browser: a version's own, and all tasks' accuracy over the versions."""
        here = f"{without_password(self.uri)}/"
        found = {f"version {version.version}": f"{here}{pages.version(self.name, version.version)}"}
        if version.experiment:
            found["all tasks' accuracy over the versions"] = f"{here}{pages.accuracy(version.experiment)}"
        return found

    def pages(self) -> dict[str, str]:
        """Addresses of MLflow's pages for a browser: the timeline's curves and the model's versions."""
        self.require_server()
        with self.talking("find the timeline"):
            champion = self.champion()
            experiment = tracking.experiment_id(self.client, self.uri, self.name)
        here = f"{without_password(self.uri)}/"
        found = {"model": f"{here}{pages.model(self.name)}", "runs": f"{here}{pages.runs(experiment)}"}
        return found | ({"timeline": f"{here}{pages.accuracy(experiment)}"} if champion else {})


class Look(RegisteredModel):
    """What MLflow said once is kept: all that a command tells takes two requests, and is of one moment.

    What changes the registry must not decide on this: it looks anew each time, see `promotion`.
    """

    def is_unused(self) -> bool:
        return self._kept_unused

    def registered_model(self) -> Any:
        return self._kept_model

    def registered_versions(self, tags: Mapping[str, str]) -> list[Any]:
        return [v for v in self._kept_versions if tags.items() <= v.tags.items()]

    def aliased_version(self, alias: str) -> Any:
        return next((v for v in self._kept_versions if alias in v.aliases), None)

    def registered_version(self, number: str) -> Any:
        return next((v for v in self._kept_versions if str(v.version) == number), None) or super().registered_version(
            number
        )

    @cached_property
    def _kept_unused(self) -> bool:
        return super().is_unused()

    @cached_property
    def _kept_model(self) -> Any:
        return super().registered_model()

    @cached_property
    def _kept_versions(self) -> list[Any]:
        return super().registered_versions({})
