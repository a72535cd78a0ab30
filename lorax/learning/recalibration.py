"""The calibration memory after an episode, and what is fitted on it."""

from __future__ import annotations

from collections import Counter

import torch

from lorax.learning.asking import Fetch, Question
from lorax.learning.calibration import LEAST_PER_CLASS, Calibration
from lorax.learning.state import Exemplar, LearnerState
from lorax.network.features import FeatureStore
from lorax.network.network import Network
from lorax.params import Params
from lorax.stream import ClassTable, Sample


def extended_memory(old: tuple[Exemplar, ...], held: tuple[Sample, ...], classes: ClassTable) -> tuple[Exemplar, ...]:
    """The memory with a new task's held-out images; those of older classes stay, whatever the budget of exemplars."""
    ids, drawn = classes.ids(held), {entry.id: 0 for entry in classes.entries}
    memory = list(old)
    for sample, class_id in zip(held, ids, strict=True):
        memory.append(Exemplar(sample, class_id, drawn[class_id]))
        drawn[class_id] += 1
    return tuple(memory)


def recalibrated(
    state: LearnerState, network: Network, store: FeatureStore, fetch: Fetch, params: Params
) -> Calibration | None:
    """Fit to the calibration memory of `state`; None where a class has fewer than two images in it.

    Args:
        state: as the episode leaves it, its memory extended.
        network: the one that it describes.
        store: what branches have said already.
        fetch: finds the images.
        params: the episode's.
    """
    counts = Counter(entry.class_id for entry in state.calibration_memory)
    if any(counts[entry.id] < LEAST_PER_CLASS for entry in state.classes.entries):
        return None
    samples = [entry.sample for entry in state.calibration_memory]
    question = Question.of_centers(samples)
    read = question.read_files(fetch, network.crop)
    features = question.answers(store, network, read, params.run.batch_size)
    textures = question.textures(store, network, read, params.run.batch_size)
    with torch.no_grad():
        logits = network.head(features.to(network.device)).cpu()
    ids = torch.tensor([entry.class_id for entry in state.calibration_memory])
    return Calibration.fit(textures, logits, ids, state.classes, params.calibration.false_alarms)
