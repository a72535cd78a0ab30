"""Runs and metrics. Everything written here may be written again: a call cut off half-way is repeated whole.

MLflow keeps both of two points at one step for ever, so points are written only where the history has none.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorax.drafts import scratch
from lorax.errors import RegistryError
from lorax.learning import metrics
from lorax.registry import pages
from lorax.registry.client import at_server, sent_once
from lorax.storage import write_record

if TYPE_CHECKING:  # these import torch, which a look-up can do without
    from lorax.learning.folder import Report
    from lorax.learning.state import LearnerState

BINARY_ACCURACY = "binary_accuracy"
"""The metrics that tell detection: each task's are below it."""

ROLE_TAG, _DIGEST_TAG, _LINE_TAG = "lorax.role", "lorax.state_digest", "lorax.line"
"""What a run is, and of which state or line of descent; by these it is found again."""

PARENT_TAG = "mlflow.parentRunId"
_KIND_TAG, _KIND = "mlflow.experimentKind", "custom_model_development"
"""Without, MLflow's page takes the experiment for one of generative AI."""

_NOTE_TAG = "mlflow.note.content"
"""What MLflow's page shows as description."""
_EPISODES_NOTE = (
    "What lorax learned. A run `timeline` has the curves of one line of model versions; the runs below it are its "
    "episodes, one for each task that was learned, with figures, tables and the model card."
)
SCENARIOS_NOTE = (
    "Whole scenarios, learned from scratch by `lorax scenario`; the registered model does not come from here."
)
_TIMELINE_NOTE = (
    "Accuracy on each task, and what follows from it, over the episodes of one line of versions: step 0 is the first "
    "episode, and each promoted version adds a step. Parameters, figures and model cards: the child runs."
)

_BATCH_POINTS, _BATCH_PARAMS = 850, 100
"""For one log_batch call: MLflow takes 1000 entries, of which 100 parameters and 100 tags."""

_EVERY_STEP_HAS = "average_accuracy"
"""A metric that each step of a timeline has."""

_PARAM_LENGTH = 6000
_DATASET_DIGEST_LENGTH = 36
"""MLflow's column for a data set's digest; the whole digest goes into a tag."""


@dataclass(frozen=True)
class Point:
    """One point of a metric's curve."""

    key: str
    value: float
    step: int


def episode_metrics(rows: Sequence[Sequence[float]], tasks: Sequence[str], report: Report) -> dict[str, float]:
    """The metrics of the last episode of `rows` by the names they are logged under (docs/reference/metrics.md).

    Args:
        rows: the accuracy matrix, `rows[j][i]` after episode j on task i.
        tasks: names of the tasks, in the order of learning.
        report: the episode's report; the figures that the matrix does not hold come from it.
    """
    binary = {f"{BINARY_ACCURACY}/{task}": value for task, value in report.binary_accuracy.items()}
    over_all = {
        f"average_{BINARY_ACCURACY}": sum(binary.values()) / len(binary),
        "pooled_accuracy": report.pooled_accuracy,
    }
    return matrix_metrics(rows, tasks) | binary | over_all


def matrix_metrics(rows: Sequence[Sequence[float]], tasks: Sequence[str]) -> dict[str, float]:
    """The metrics after the last episode of `rows` that the accuracy matrix alone gives."""
    accuracy = {f"accuracy/{task}": value for task, value in zip(tasks, rows[-1], strict=False)}
    return accuracy | metrics.summary(rows)


def points_at(values: Mapping[str, float], step: int) -> list[Point]:
    """`values` as points at one step."""
    return [Point(key, value, step) for key, value in values.items()]


def experiment_id(client: Any, uri: str, name: str, note: str = "") -> str:
    """The experiment called `name`, made with this description if need be; without, with a registered model's.

    Raises:
        RegistryError: it is in MLflow's trash.
    """
    found = find_experiment(client, uri, name)
    made = str(found.experiment_id if found else client.create_experiment(name))
    for tag, value in {_KIND_TAG: _KIND, _NOTE_TAG: note or _front_page(made, name)}.items():
        if found is None or tag not in found.tags:
            client.set_experiment_tag(made, tag, value)
    return made


def _front_page(experiment: str, model: str) -> str:
    links = {"All tasks' accuracy over the versions": pages.accuracy(experiment), "Versions": pages.model(model)}
    return f"{pages.listed(links)}\n\n{_EPISODES_NOTE}"


def find_experiment(client: Any, uri: str, name: str) -> Any:
    """The experiment called `name`, or None.

    Raises:
        RegistryError: it is in MLflow's trash.
    """
    found = client.get_experiment_by_name(name)
    if found is not None and found.lifecycle_stage != "active":
        command = at_server(uri, f"mlflow experiments restore --experiment-id {found.experiment_id}")
        raise RegistryError(
            f"experiment {name!r} was deleted in MLflow, and nothing can be registered without it. Bring it back with "
            f"'{command}', or set another registry.model in params.yaml."
        )
    return found


def timeline_run(client: Any, experiment: str, line: str) -> Any:
    """MLflow's run that carries the curves of one line of descent, made if need be."""
    run = run_of(client, experiment, "timeline", {ROLE_TAG: "timeline", _LINE_TAG: line})
    if _NOTE_TAG not in run.data.tags:
        run_id, links = run.info.run_id, {"In one chart": pages.accuracy(experiment)}
        figure = f"![Accuracy of each task over the versions]({pages.image(run_id, pages.TIMELINE_FIGURE)})"
        client.set_tag(run_id, _NOTE_TAG, f"{pages.listed(links)}\n\n{figure}\n\n{_TIMELINE_NOTE}")
    return run


def episode_run(
    client: Any, experiment: str, timeline: str | None, state: LearnerState, digest: str, git_commit: str | None
) -> Any:
    """MLflow's run of one episode, made if need be, below its parent's timeline; it is known by the state's digest."""
    name = f"{len(state.tasks) - 1:02d} {state.tasks[-1].name}"
    above = {PARENT_TAG: timeline} if timeline else {}
    details = {**above, "lorax.parent_digest": state.parent or "", **git_tags(git_commit)}
    return run_of(client, experiment, name, {ROLE_TAG: "episode", _DIGEST_TAG: digest}, details)


def scenario_run(client: Any, experiment: str, scenario: str, git_commit: str | None) -> Any:
    """A new run of MLflow's for a scenario that begins."""
    identity = {ROLE_TAG: "scenario", "lorax.scenario": scenario}
    return _create_run(client, experiment, scenario, identity | git_tags(git_commit))


def git_tags(git_commit: str | None) -> dict[str, str]:
    """The tag under which MLflow shows a run's source version."""
    return {"mlflow.source.git.commit": git_commit} if git_commit else {}


def missing_points(client: Any, run: Any, points: Iterable[Point]) -> list[Point]:
    """Those points whose metric has none at that step yet."""
    wanted = list(points)
    steps = {key: _steps(client, run.info.run_id, key) for key in {p.key for p in wanted} & set(run.data.metrics)}
    return [p for p in wanted if p.step not in steps.get(p.key, ())]


def write_timeline(client: Any, run_id: str, points: Sequence[Point], at: datetime) -> None:
    """Write those steps of a timeline that it has not yet.

    One metric tells which steps are there: each is written in one call, or with that metric in the last one, and MLflow
    keeps a call's points all or not at all. Of two who write the same points at once it keeps one, if the time `at` is
    the same.
    """
    missing = {p.step for p in points} - _steps(client, run_id, _EVERY_STEP_HAS)
    for step in sorted(missing):
        at_step = (p for p in points if p.step == step)
        log_points(client, run_id, sorted(at_step, key=lambda p: p.key == _EVERY_STEP_HAS), at)


def write_episode(
    client: Any, run: Any, state: LearnerState, report: Report, values: Mapping[str, float], tags: Mapping[str, str]
) -> None:
    """Fill an episode's run as it was found, all but its files: curves, metrics (`values`), parameters, data, tags."""
    _fill(client, run, state, report, [*_curves(report), *points_at(values, report.episode)], tags)


def write_scenario(
    client: Any, run: Any, state: LearnerState, reports: Sequence[Report], files: Sequence[Path]
) -> None:
    """Fill a scenario's run: the same metrics as a timeline's, parameters, data digests, figures and reports."""
    from lorax.registry.figures import save_task_lines

    tasks = state.names
    curves = (
        points_at(episode_metrics(state.accuracy[: report.episode + 1], tasks, report), report.episode)
        for report in reports
    )
    _fill(client, run, state, reports[-1], chain.from_iterable(curves))
    with scratch() as folder:
        write_report_files(folder, state, reports[-1])
        save_task_lines(folder / pages.TIMELINE_FIGURE, tasks, state.accuracy)
        client.log_artifacts(run.info.run_id, str(folder))
    for file in files:
        client.log_artifact(run.info.run_id, str(file))


def _fill(
    client: Any,
    run: Any,
    state: LearnerState,
    report: Report,
    points: Iterable[Point],
    tags: Mapping[str, str] | None = None,
) -> None:
    missing = missing_points(client, run, points)
    log_points(client, run.info.run_id, missing, params=_params(state, report), tags=tags)
    client.log_inputs(run.info.run_id, datasets=_data_inputs(state))


def _params(state: LearnerState, report: Report) -> dict[str, str]:
    """What the episode was a function of; equal values may be written again."""
    values = dict(state.parameters) | {
        "state.backbone_sha256": state.backbone.sha256,
        "network.trainable_parameters": report.trainable_parameters,
        "network.lora_modules": report.lora_modules,
    }
    return as_params(values)


def as_params(values: Mapping[str, Any]) -> dict[str, str]:
    """Nested sections as MLflow takes parameters, by `section.key`."""
    return {key: _text(value)[:_PARAM_LENGTH] for key, value in _flat(values).items()}


def write_report_files(folder: Path, state: LearnerState, report: Report) -> None:
    """Write report.json and the figures below `folder`."""
    from lorax.registry.figures import save_figures

    write_record(folder / "report.json", report)
    save_figures(
        folder / "figures",
        state.names,
        state.accuracy,
        [entry.label for entry in state.classes.entries],
        report.confusion,
    )


def finish_run(client: Any, run: Any) -> None:
    """Mark a run as finished unless it was found so; a finished run may still be written to."""
    if run.info.status != "FINISHED":
        client.set_terminated(run.info.run_id, "FINISHED")


def run_of(
    client: Any, experiment: str, name: str, identity: Mapping[str, str], details: Mapping[str, str] | None = None
) -> Any:
    """MLflow's run whose tags hold `identity`; looked up first, so that a repeated call makes no second one."""
    condition = " and ".join(f"tags.`{key}` = '{value}'" for key, value in identity.items())
    found = client.search_runs([experiment], condition, max_results=1, order_by=["attributes.start_time ASC"])
    if found:
        return found[0]
    return _create_run(client, experiment, name, {**identity, **(details or {})})


def _create_run(client: Any, experiment: str, name: str, tags: Mapping[str, str]) -> Any:
    source = {"mlflow.source.name": "lorax", "mlflow.source.type": "LOCAL"}
    with sent_once():
        return client.create_run(experiment, run_name=name, tags={**tags, **source})


def _curves(report: Report) -> Iterator[Point]:
    """The training curves, step = epoch."""
    for row in report.curves:
        values = asdict(row)
        epoch = values.pop("epoch")
        yield from (Point(f"training/{key}", float(value), epoch) for key, value in values.items() if value is not None)
    yield from points_at({f"seconds/{step}": value for step, value in report.seconds.items()}, report.episode)


def _data_inputs(state: LearnerState) -> list[Any]:
    """One data set per task: the newest was trained on, the others were only tested on."""
    return [_data_input(task.name, task.digest, state) for task in state.tasks]


def _data_input(task: str, digest: str, state: LearnerState) -> Any:
    from mlflow.data.code_dataset_source import CodeDatasetSource
    from mlflow.data.meta_dataset import MetaDataset
    from mlflow.entities import DatasetInput, InputTag

    source = CodeDatasetSource({"dvc.path": f"data/{task}", "git.commit": state.revision.commit or ""})
    dataset = MetaDataset(source, name=task, digest=digest[:_DATASET_DIGEST_LENGTH])
    tags = {
        "mlflow.data.context": "training" if task == state.tasks[-1].name else "evaluation",
        "dvc.md5": state.revision.digest,
        "lorax.task_digest": digest,
    }
    return DatasetInput(dataset._to_mlflow_entity(), [InputTag(key, value) for key, value in tags.items()])


def log_points(
    client: Any,
    run_id: str,
    points: Iterable[Point],
    at: datetime | None = None,
    params: Mapping[str, str] | None = None,
    tags: Mapping[str, str] | None = None,
) -> None:
    """In as few calls as MLflow's limits allow; points that are no number are left out."""
    from mlflow.entities import Metric, Param, RunTag

    at_ms = int((at.timestamp() if at else time.time()) * 1000)
    metrics = [Metric(p.key, p.value, at_ms, p.step) for p in points if math.isfinite(p.value)]
    values = [Param(key, value) for key, value in (params or {}).items()]
    named = [RunTag(key, value) for key, value in (tags or {}).items()]
    while metrics or values or named:
        client.log_batch(run_id, metrics=metrics[:_BATCH_POINTS], params=values[:_BATCH_PARAMS], tags=named)
        metrics, values, named = metrics[_BATCH_POINTS:], values[_BATCH_PARAMS:], []


def _steps(client: Any, run_id: str, key: str) -> set[int]:
    return {metric.step for metric in client.get_metric_history(run_id, key)}


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested sections as `section.key`; an empty section stays as one value."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        flat |= _flat(value, f"{name}.") if isinstance(value, Mapping) and value else {name: value}
    return flat


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
