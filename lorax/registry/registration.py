"""From a candidate to a model version: its run, the MLflow model, the version over both."""

from __future__ import annotations

from dataclasses import replace

from lorax.registry import tracking
from lorax.registry.assessment_log import write_assessment, write_comparison
from lorax.registry.candidate import Candidate
from lorax.registry.card import model_card
from lorax.registry.client import sent_once
from lorax.registry.package import CARD, logged_model, model_address, replace_card
from lorax.registry.store import CHALLENGER, Store
from lorax.registry.versions import ModelVersion, describe, newer_metric_tags, version_tags


def make_version(store: Store, candidate: Candidate) -> ModelVersion:
    """The episode's run, the model, and last the version that names both."""
    client, state = store.client, candidate.state
    experiment = tracking.experiment_id(client, store.uri, store.name)
    parent = store.find(state.parent) if state.parent else None
    above = tracking.timeline_run(client, experiment, parent.line) if parent and parent.line else None
    run_id = tracking.episode_run(client, experiment, above, state, candidate.digest, candidate.git_commit)
    card = model_card(store.name, candidate)
    _fill_run(store, run_id, candidate, card)
    model_id = logged_model(client, experiment, run_id, store.name, candidate.state_dir, state.classes, card)
    tracking.finish_run(client, run_id)
    return _create_version(store, candidate, run_id, model_id)


def measured_anew(store: Store, version: ModelVersion, candidate: Candidate) -> ModelVersion:
    """The version with what was measured since: in its run, its card and its tags, which come last.

    A point that the run has already stays as it is, since MLflow would keep both: the newest figures are the version's.
    """
    metrics = dict(version.metrics) | candidate.metrics
    if candidate.assessment is None or metrics == version.metrics:
        return version
    client, card = store.client, model_card(store.name, candidate)
    _fill_run(store, version.run_id, candidate, card)
    replace_card(client, store.name, version.version, card)
    text = describe(version.tasks, metrics, version.verdicts)
    store.set_description(version.version, text)
    store.set_tags(version.version, candidate.nearest_tags | newer_metric_tags(metrics))
    return replace(version, metrics=metrics)


def _fill_run(store: Store, run_id: str, candidate: Candidate, card: str) -> None:
    """Metrics, parameters, data, figures and files."""
    client, assessment = store.client, candidate.assessment
    tracking.write_episode(client, run_id, candidate.state, candidate.report, candidate.metrics)
    if assessment:
        write_assessment(client, run_id, assessment)
    if candidate.atlas_dir:
        write_comparison(client, run_id, candidate.atlas_dir)
    client.log_text(run_id, card, CARD)


def _create_version(store: Store, candidate: Candidate, run_id: str, model_id: str) -> ModelVersion:
    client, state, metrics = store.client, candidate.state, candidate.metrics
    tags = version_tags(candidate.digest, state, metrics, candidate.nearest_tags)
    store.ensure_model()
    with sent_once():
        created = client.create_model_version(
            store.name,
            source=model_address(model_id),
            run_id=run_id,
            tags=tags,
            description=describe(state.tasks, metrics, ()),
            model_id=model_id,
        )
    store.set_alias(CHALLENGER, int(created.version))
    return store.version(int(created.version))
