"""A sweep in MLflow: one run with its table, and below it one for each cell. All of it may be written again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from lorax.registry import tracking
from lorax.registry.registry import Registry

_NOTE = (
    "Sweeps: methods compared over scenarios, seeds and orders by `lorax sweep`. A run has a sweep's table and plot, "
    "the runs below it are its cells; the registered model does not come from here."
)
_SWEEP_TAG, _CELL_TAG = "lorax.sweep", "lorax.cell"


@dataclass(frozen=True)
class SweepRun:
    """A sweep's run; a sweep of the same name goes on in it."""

    registry: Registry
    experiment: str
    run: Any

    @classmethod
    def open(cls, registry: Registry, name: str, commit: str | None) -> SweepRun:
        """Find the run, or make it.

        Raises:
            RegistryError: MLflow does not answer, or has the experiment in its trash.
        """
        with registry.changing(f"track sweep {name!r}"):
            client, identity = registry.client, {tracking.ROLE_TAG: "sweep", _SWEEP_TAG: name}
            experiment = tracking.experiment_id(client, registry.uri, f"{registry.name}-sweeps", _NOTE)
            return cls(
                registry, experiment, tracking.run_of(client, experiment, name, identity, tracking.git_tags(commit))
            )

    @property
    def run_id(self) -> str:
        return str(self.run.info.run_id)

    def tracked(self) -> set[str]:
        """The keys of the cells that are tracked whole."""
        with self.registry.talking("look for a sweep's cells"):
            found, token = list[Any](), None
            while token != "":
                page = self.registry.client.search_runs(
                    [self.experiment], f"tags.`{tracking.PARENT_TAG}` = '{self.run_id}'", page_token=token
                )
                found, token = [*found, *page], page.token or ""
        return {run.data.tags[_CELL_TAG] for run in found if run.info.status == "FINISHED"}

    def track(
        self,
        key: str,
        title: str,
        tasks: Sequence[str],
        rows: Sequence[Sequence[float]],
        params: Mapping[str, Any],
        seconds: float,
    ) -> None:
        """Write a cell's run: the metrics of each episode as steps, what it was a function of, how long it took.

        Args:
            key: names the cell; a run that has it is filled, and no second one made.
            title: the run's name.
            tasks: in the order of learning.
            rows: the accuracy matrix.
            params: what to show as parameters, sections and all.
            seconds: that it took.
        """
        client = self.registry.client
        with self.registry.changing(f"track the cell {title!r}"):
            identity = {tracking.PARENT_TAG: self.run_id, _CELL_TAG: key}
            run = tracking.run_of(client, self.experiment, title, identity, {tracking.ROLE_TAG: "cell"})
            episodes = (tracking.points_at(tracking.matrix_metrics(rows[: j + 1], tasks), j) for j in range(len(rows)))
            took = tracking.points_at({"seconds": seconds}, len(rows) - 1)
            missing = tracking.missing_points(client, run, [*chain.from_iterable(episodes), *took])
            tracking.log_points(client, run.info.run_id, missing, params=tracking.as_params(params))
            tracking.finish_run(client, run)

    def finish(self, files: Iterable[Path]) -> None:
        """Keep the table's files with the sweep's run, in place of older ones, and end it."""
        with self.registry.changing("keep a sweep's table"):
            for file in files:
                self.registry.client.log_artifact(self.run_id, str(file))
            self.registry.client.set_terminated(self.run_id, "FINISHED")
