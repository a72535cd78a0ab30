"""From a candidate to a model version: its run, the MLflow model, the version over both."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lorax.drafts import scratch
from lorax.registry import tracking
from lorax.registry.assessment_log import (
    ATLAS,
    Tables,
    assessment_tables,
    comparison_tables,
    tables_tag,
    write_assessment,
    write_tables,
)
from lorax.registry.candidate import Candidate
from lorax.registry.card import model_card
from lorax.registry.client import sent_once
from lorax.registry.package import CARD, attach_model, logged_model, model_address, replace_card
from lorax.registry.store import CHALLENGER, Store
from lorax.registry.versions import ModelVersion, Origin, describe, newer_metric_tags, version_tags


def make_version(store: Store, candidate: Candidate) -> ModelVersion:
    """The episode's run, the model, and last the version that names both."""
    client, state = store.client, candidate.state
    experiment = tracking.experiment_id(client, store.uri, store.name)
    parent = store.find(state.parent) if state.parent else None
    above = tracking.timeline_run(client, experiment, parent.line).info.run_id if parent and parent.line else None
    run = tracking.episode_run(client, experiment, above, state, candidate.digest, candidate.git_commit)
    card = model_card(store.name, candidate)
    with _filled(client, run, candidate, card):
        model = logged_model(client, run, store.name, candidate.state_dir, state.classes, card)
    attach_model(client, run.info.run_id, model)
    tracking.finish_run(client, run)
    return _create_version(store, candidate, run, model.model_id)


def measured_anew(store: Store, version: ModelVersion, candidate: Candidate) -> None:
    """Give a version what was measured since: in its run, its card and its tags, which come last.

    A point that the run has already stays as it is, since MLflow would keep both: the newest figures are the version's.
    """
    metrics = dict(version.metrics) | candidate.metrics
    if candidate.assessment is None or metrics == version.metrics:
        return
    client, card = store.client, model_card(store.name, candidate)
    with _filled(client, client.get_run(version.run_id), candidate, card):
        pass
    replace_card(client, store.name, version.version, card)
    text = describe(version.tasks, metrics, version.verdicts, version.origin)
    store.set_description(version.version, text)
    store.set_tags(version.version, candidate.nearest_tags | newer_metric_tags(metrics))


@contextmanager
def _filled(client: Any, run: Any, candidate: Candidate, card: str) -> Iterator[None]:
    """Fill a run, as it was found, with metrics, parameters, data, figures and files.

    A thread draws the figures while the block, and what is written without files, waits for MLflow's server.
    """
    tables = {
        **(assessment_tables(candidate.assessment) if candidate.assessment else {}),
        **(comparison_tables(candidate.comparison) if candidate.comparison else {}),
    }
    with scratch() as folder, ThreadPoolExecutor(1) as artist:
        drawn = artist.submit(_write_files, folder, candidate, tables, card)
        tags = tables_tag(run.data.tags, tables)
        tracking.write_episode(client, run, candidate.state, candidate.report, candidate.metrics, tags)
        yield
        drawn.result()
        client.log_artifacts(run.info.run_id, str(folder))


def _write_files(folder: Path, candidate: Candidate, tables: Tables, card: str) -> None:
    """Write all files of an episode's run below `folder`."""
    (folder / CARD).write_text(card)
    write_tables(folder, tables)
    if candidate.atlas_dir:
        shutil.copytree(candidate.atlas_dir, folder / ATLAS, dirs_exist_ok=True)
    tracking.write_report_files(folder, candidate.state, candidate.report)
    if candidate.assessment:
        write_assessment(folder, candidate.assessment)


def _create_version(store: Store, candidate: Candidate, run: Any, model_id: str) -> ModelVersion:
    client, state, metrics, revision = store.client, candidate.state, candidate.metrics, candidate.state.revision
    info, flow_run = run.info, candidate.flow_run
    tags = version_tags(candidate.digest, state, metrics, candidate.nearest_tags, info.experiment_id, flow_run)
    origin = Origin(info.run_id, info.experiment_id, flow_run, revision.digest, revision.commit)
    store.ensure_model()
    with sent_once():
        created = client.create_model_version(
            store.name,
            source=model_address(model_id),
            run_id=info.run_id,
            tags=tags,
            description=describe(state.tasks, metrics, (), origin),
            model_id=model_id,
        )
    store.set_alias(CHALLENGER, int(created.version))
    return store.version(int(created.version))
