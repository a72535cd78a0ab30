"""What the served version knows, and what the registry tells of it: for the page, and for whoever wants to show it."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from lorax.errors import LoraxError
from lorax.params import ServingParams
from lorax.registry import ModelVersion
from lorax.registry.assessment_log import NEAREST_SIMILARITY
from lorax.registry.reading import RegisteredModel
from lorax.serving.answers import Description, KnownTask, Limits, ServedClass
from lorax.serving.model import Served

_log = logging.getLogger(__name__)

_ROBUSTNESS = "robustness_accuracy/"


class Describer:
    """Asks the registry once for each version; where it can't tell all, again the next time.

    Args:
        registry: None where there is none to ask.
        alias: what names the version that is served; None where it is pinned.
    """

    def __init__(self, registry: RegisteredModel | None, alias: str | None, params: ServingParams) -> None:
        self._registry, self._alias, self._limits = registry, alias, limits_of(params)
        self._told: tuple[int, list[ModelVersion], str] | None = None

    def describe(self, model: Served) -> Description:
        """All that is known of a version; takes as long as the registry does."""
        line, card, problem = self._ask(model.version)
        state, newest = model.predictor.state, line[0] if line else None
        learned_by = {one.task: one for one in line}
        fitted = model.predictor.calibration
        labels = [entry.label for entry in state.classes.entries]
        groups = fitted.relatives.groups if fitted and fitted.relatives else ()
        metrics = newest.metrics if newest else {}
        return Description(
            **model.record,
            alias=self._alias,
            calibrated=fitted is not None,
            made_at=newest and newest.created_at,
            promoted_at=newest and newest.promoted_at,
            classes=served_classes(model),
            tasks=[_known(task, place, model, learned_by.get(task)) for place, task in enumerate(state.names)],
            average=[sum(row) / len(row) for row in state.accuracy],
            confused=[[labels[i] for i in group] for group in groups],
            robustness={k.removeprefix(_ROBUSTNESS): v for k, v in metrics.items() if k.startswith(_ROBUSTNESS)},
            card=card,
            problem=problem,
            limits=self._limits,
        )

    def _ask(self, version: int) -> tuple[Sequence[ModelVersion], str | None, str]:
        if self._registry is None:
            return (), None, "no registry is at hand"
        if self._told and self._told[0] == version:
            return self._told[1], self._told[2], ""
        line: list[ModelVersion] = []
        try:
            line = self._registry.line(version)
            card = self._registry.card(version)
        except LoraxError as error:
            _log.warning("the registry can't tell all of version %d: %s", version, error)  # names paths and addresses
            return line, None, "the registry did not tell all of this version; the server's log says why"
        self._told = version, line, card
        return line, card, ""


def served_classes(model: Served) -> list[ServedClass]:
    """The classes that a version knows, in the order of its outputs."""
    entries = model.predictor.classes.entries
    return [ServedClass(label=entry.label, task=entry.task, is_real=entry.is_real) for entry in entries]


def limits_of(params: ServingParams) -> Limits:
    """What a request may bring."""
    return Limits(**params.model_dump(include=set(Limits.model_fields)))


def _known(task: str, place: int, model: Served, learned: ModelVersion | None) -> KnownTask:
    state = model.predictor.state
    return KnownTask(
        name=task,
        generators=[e.label for e in state.classes.entries if e.task == task and not e.is_real],
        accuracy=[row[place] for row in state.accuracy[place:]],
        version=learned and learned.version,
        learned_at=learned and learned.created_at,
        nearest=learned.nearest if learned else "",
        similarity=learned and learned.metrics.get(NEAREST_SIMILARITY),
    )
