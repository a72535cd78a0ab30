"""The model registry: learner states as MLflow model versions, and the curves that grow with them."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorax.errors import RegistryError, StateError
from lorax.registry import tracking
from lorax.registry.client import connect, is_missing, is_missing_database, is_server, mlflow_errors
from lorax.registry.lineage import line_of, timeline_points
from lorax.registry.package import fetch_state, is_whole, logged_model, model_address
from lorax.registry.versions import (
    MODEL_DESCRIPTION,
    KnownTask,
    ModelVersion,
    describe,
    is_ours,
    read_version,
    version_tags,
)
from lorax.storage import whole_directory

if TYPE_CHECKING:  # these import torch, which a look-up can do without
    from lorax.learning.folder import Report
    from lorax.learning.state import LearnerState

CHAMPION = "champion"
_CHAMPION_TAG = "lorax.champion"
"""On the registered model: the version that the alias was last set to, so that a lost alias is noticed."""

_PAGE = 200


class Registry:
    """One registered model and its experiment. Nothing is opened before it is needed.

    Args:
        tracking_uri: the MLflow server's address; or, for reading with the server down, its database's, such as
            `sqlite:///` and an absolute path.
        model_name: name of the registered model and of its experiment.
    """

    def __init__(self, tracking_uri: str, model_name: str) -> None:
        self.uri, self.name = tracking_uri.rstrip("/"), model_name

    def champion(self) -> ModelVersion | None:
        """The version that is served and that the next episode grows from; None while nothing was registered.

        Raises:
            RegistryError: the alias was lost (deleted by hand, or with its version), or MLflow doesn't answer.
        """
        if is_missing_database(self.uri):
            return None
        with self._talking("look up the champion"):
            model = self._model()
            if model is None:
                return None
            if CHAMPION not in model.aliases:
                self._refuse_lost_alias(model)
                return None
            number = str(model.aliases[CHAMPION])
            found = self._client.get_model_version(self.name, number)
            return read_version(found, _aliases(model, number))

    def versions(self) -> list[ModelVersion]:
        """All versions that lorax registered, oldest first.

        Raises:
            RegistryError: MLflow doesn't answer, or a version's tags were edited by hand.
        """
        if is_missing_database(self.uri):
            return []
        with self._talking("list the versions"):
            model = self._model()
            found = self._search() if model else []
            versions = [read_version(v, _aliases(model, v.version)) for v in found if is_ours(v)]
        return sorted(versions, key=lambda v: v.version)

    def find(self, state_digest: str) -> ModelVersion | None:
        """The version that holds the learner state with this digest."""
        return next((v for v in self.versions() if v.state_digest == state_digest), None)

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
        shutil.rmtree(final, ignore_errors=True)
        with self._talking(f"fetch the learner state of version {version}"), whole_directory(final) as draft:
            fetch_state(self._client, self.uri, self.name, version, draft)
            if not is_whole(draft, digest):
                raise RegistryError(
                    f"the artifacts of version {version} of {self.name!r} are not the learner state {digest[:12]} "
                    "that was registered: they were changed on the server. "
                    "Restore the artifact store from a backup, or grow from another version."
                )
        return final

    def register(self, state_dir: Path, report: Report, *, git_commit: str | None = None) -> ModelVersion:
        """Register a learner state with its runs and figures, and make it champion.

        Safe to call again after being cut off anywhere: each thing is looked up by the state's digest before it is
        made, and the version, made in one call, marks that everything before it is whole.

        Args:
            state_dir: the learner state that the episode left.
            report: what the episode measured.
            git_commit: commit of the workspace, or None.

        Raises:
            StateError: the state is damaged, or the report belongs to another episode.
            RegistryError: MLflow doesn't answer or refuses.
        """
        from lorax.learning.state import load_state, state_digest

        self._require_server()
        state, digest = load_state(state_dir), state_digest(state_dir)
        _check_report(state, report)
        with self._talking(f"register the state after {report.task!r}"):
            versions = self.versions()
            experiment = tracking.experiment_id(self._client, self.name)
            found = next((v for v in versions if v.state_digest == digest), None)
            line = found.line if found else line_of(digest, state.parent, versions)
            timeline = tracking.timeline_run(self._client, experiment, line)
            if found is None:
                run_id = tracking.episode_run(self._client, experiment, timeline, state, digest, git_commit)
                tracking.write_episode(self._client, run_id, state, report)
                model_id = logged_model(self._client, experiment, run_id, self.name, state_dir, state.classes)
                tracking.finish_run(self._client, run_id)
                found = self._create_version(state, digest, line, report, run_id, model_id)
            self._promote(found, state, [*versions, found], timeline)
        return self._version(found.version)

    def track_scenario(
        self,
        scenario: str,
        state_dir: Path,
        reports: Sequence[Report],
        *,
        git_commit: str | None = None,
        files: Sequence[Path] = (),
        run_id: str | None = None,
    ) -> str:
        """Track a scenario learned from scratch; the registered model and its champion stay as they are.

        May be called after every episode with the reports so far: points that are there are not written again.

        Args:
            scenario: its name.
            state_dir: the learner state after the last of `reports`.
            reports: one per episode so far, in order.
            git_commit: commit of the workspace, or None.
            files: further files to keep with the run.
            run_id: the run that an earlier call returned; None begins one.

        Returns:
            The run's id.

        Raises:
            RegistryError: MLflow doesn't answer or refuses.
        """
        from lorax.learning.state import load_state

        self._require_server()
        state = load_state(state_dir)
        _check_report(state, reports[-1])
        with self._talking(f"track scenario {scenario!r}"):
            experiment = tracking.experiment_id(self._client, f"{self.name}-scenarios")
            run_id = run_id or tracking.scenario_run(self._client, experiment, scenario, git_commit)
            tracking.write_scenario(self._client, run_id, state, reports, files)
            tracking.finish_run(self._client, run_id)
        return run_id

    def pages(self) -> dict[str, str]:
        """Addresses of MLflow's pages for a browser: the timeline's curves and the model's versions."""
        self._require_server()
        with self._talking("find the timeline"):
            champion = self.champion()
            experiment = tracking.experiment_id(self._client, self.name)
            pages = {"model": f"{self.uri}/#/models/{self.name}", "runs": f"{self.uri}/#/experiments/{experiment}/runs"}
            if champion:
                run_id = tracking.timeline_run(self._client, experiment, champion.line)
                pages["timeline"] = f"{self.uri}/#/experiments/{experiment}/runs/{run_id}/model-metrics"
        return pages

    def _promote(
        self, version: ModelVersion, state: LearnerState, versions: Sequence[ModelVersion], timeline: str
    ) -> None:
        """Write the timeline's points and move the alias, last: while it has not moved, the call will be repeated."""
        tracking.write_points(self._client, timeline, timeline_points(state, version.state_digest, versions))
        tracking.finish_run(self._client, timeline)
        self._client.set_registered_model_alias(self.name, CHAMPION, str(version.version))
        self._client.set_registered_model_tag(self.name, _CHAMPION_TAG, str(version.version))

    def _create_version(
        self, state: LearnerState, digest: str, line: str, report: Report, run_id: str, model_id: str
    ) -> ModelVersion:
        tasks = tuple(KnownTask(task.name, task.digest) for task in state.tasks)
        metrics = tracking.episode_metrics(state.accuracy, [task.name for task in tasks], report)
        tags = version_tags(
            state_digest=digest,
            parent_digest=state.parent,
            line=line,
            tasks=tasks,
            data_digest=state.revision.digest,
            data_commit=state.revision.commit,
            metrics=metrics,
        )
        if self._model() is None:
            self._client.create_registered_model(self.name, description=MODEL_DESCRIPTION)
        created = self._client.create_model_version(
            self.name,
            source=model_address(model_id),
            run_id=run_id,
            tags=tags,
            description=describe(tasks, metrics),
            model_id=model_id,
        )
        return read_version(created, ())

    def _version(self, number: int) -> ModelVersion:
        with self._talking(f"read version {number}"):
            found = self._client.get_model_version(self.name, str(number))
            return read_version(found, _aliases(self._model(), number))

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

    def _refuse_lost_alias(self, model: Any) -> None:
        last = model.tags.get(_CHAMPION_TAG)
        if last is not None:
            raise RegistryError(
                f"model {self.name!r} has no alias {CHAMPION!r} any more: it was on version {last}, and the alias or "
                f"that version was deleted in MLflow. Set the alias {CHAMPION!r} on the version to go on from: "
                f"on MLflow's page of model {self.name!r}, or with MlflowClient().set_registered_model_alias()."
            )

    def _require_server(self) -> None:
        if not is_server(self.uri):
            raise RegistryError(
                f"{self.uri} is MLflow's database, which lorax only looks things up in. "
                "Start the server with 'lorax up' and use its address."
            )

    def _talking(self, doing: str) -> Any:
        return mlflow_errors(self.uri, doing)

    @cached_property
    def _client(self) -> Any:
        return connect(self.uri)


def _aliases(model: Any, version: int | str) -> tuple[str, ...]:
    """The aliases of a version, which only the registered model lists."""
    return tuple(sorted(alias for alias, number in model.aliases.items() if str(number) == str(version)))


def _check_report(state: LearnerState, report: Report) -> None:
    if not state.tasks or (report.episode, report.task) != (len(state.tasks) - 1, state.tasks[-1].name):
        newest = state.tasks[-1].name if state.tasks else "nothing"
        raise StateError(
            f"the report is of episode {report.episode} ({report.task!r}), but the learner state knows "
            f"{len(state.tasks)} tasks and learned {newest!r} last. Give the report beside that state."
        )
