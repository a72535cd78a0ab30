"""The model card of a version, in Markdown: every figure in it was measured, every fact recorded.

What it says is in model_card.md.j2, what it must not be relied on for in limits.py.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import lorax
from lorax.learning.assessment import ALL
from lorax.learning.false_positives import Slice
from lorax.learning.state import LearnerState
from lorax.network.backbone import BackboneIdentity
from lorax.network.building import import_timm
from lorax.registry.candidate import Candidate
from lorax.registry.limits import limits
from lorax.text import percent, short

_TEMPLATE = "model_card.md.j2"
_PARAMETERS = {
    "lora": ("rank", "alpha"),
    "training": ("epochs", "batch_size", "learning_rate", "views", "augmentation"),
    "exemplars": ("budget",),
    "calibration": ("per_class", "false_alarms", "false_positives", "undecided_below", "set_error"),
    "run": ("seed",),
}


def model_card(model: str, candidate: Candidate) -> str:
    """The card of what an episode left.

    Args:
        model: name of the registered model.
        candidate: the learner state, and what was measured of it.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    state, folder = candidate.state, FileSystemLoader(Path(__file__).parent)
    card = Environment(  # Markdown, so nothing is escaped
        loader=folder, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    card.filters |= {"percent": percent, "number": _number, "short": short, "interval": _interval}
    return card.get_template(_TEMPLATE).render(
        model=model,
        lorax=lorax.__version__,
        candidate=candidate,
        state=state,
        metrics=candidate.metrics,
        assessment=candidate.assessment,
        comparison=candidate.comparison,
        exemplars=Counter(e.class_id for e in state.exemplars),
        held_out=Counter(e.class_id for e in state.calibration_memory),
        weights=Path(state.backbone.source).name,
        licence=backbone_licence(state.backbone),
        parameters=_parameters(state),
        limits=limits(state, candidate.assessment),
        all_tasks=ALL,
    )


def backbone_licence(backbone: BackboneIdentity) -> str:
    """Under which licence the frozen backbone's weights come, as far as is known here."""
    if backbone.source == "shipped":
        return "MIT, with lorax"
    licence = None
    if backbone.source == "hub":
        config = import_timm().models.get_pretrained_cfg(backbone.name)
        licence = config.license if config else None
    return f"{licence}, by timm's word" if licence else "not known here: look it up where the weights come from"


def _parameters(state: LearnerState) -> list[str]:
    """Of the last episode, those that matter most."""
    known = ((section, key) for section, keys in _PARAMETERS.items() for key in keys)
    values = ((section, key, state.parameters.get(section, {}).get(key)) for section, key in known)
    return [f"`{section}.{key}` {value}" for section, key, value in values if value is not None]


def _interval(one: Slice) -> str:
    """Where the share of a slice's images may lie, with 95 % confidence."""
    from scipy.stats import binomtest

    found = binomtest(one.synthetic, one.images).proportion_ci(method="wilson")
    return f"{100 * found.low:.1f} to {100 * found.high:.1f} %"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
