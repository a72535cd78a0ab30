"""The model card of a version, in Markdown: every figure in it was measured, every fact recorded.

What it says is in model_card.md.j2, what it must not be relied on for is read off the figures here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import lorax
from lorax.learning.assessment import ALL, Assessment, CardRow, Reliability
from lorax.learning.state import LearnerState
from lorax.learning.unknown import Foreseen, Slice
from lorax.network.backbone import BackboneIdentity
from lorax.network.building import import_timm
from lorax.registry.candidate import Candidate
from lorax.text import percent, short
from lorax.verdicts.rate import interval

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
    low, high = interval(one.synthetic, one.images)
    return f"{100 * low:.1f} to {100 * high:.1f} %"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


_KEPT = 0.9
"""Below this share of the clean accuracy, a perturbation is named as one that verdicts don't survive."""

_CLEARLY = 2.0
"""How many times over what is expected (chance's error, the stated false alarms) a figure is worth a warning."""

_WORSE = 1.05
"""How many times over its log loss must be what it was without calibration to be called worse."""


def limits(state: LearnerState, assessment: Assessment | None) -> Iterator[str]:
    """One sentence for each limit, those that are always there last."""
    if state.calibration is None:
        yield (
            "**Uncalibrated**: probabilities are the network's own, which tend to be too sure, and no image is ever "
            "called unknown: that of a generator it never saw is called real, or by another's name."
        )
    if state.cut:
        names = [task.name for task in state.cut]
        started = ", ".join(branch.task for branch in state.branches if branch.start in names)
        yield (
            f"**Cut**: {', '.join(names)} was withdrawn the fast way, so it knows no branch, class, exemplar or "
            "calibration image of it; but what was learned after it was learned beside it"
            f"{f', and the branch of {started} began as its branch' if started else ''}."
        )
    if assessment is None:
        yield "How far its verdicts can be trusted (calibration, unknown generators, robustness) was not measured."
    else:
        yield from _measured(assessment)
    names = state.names
    weakest = min(range(len(names)), key=lambda i: state.accuracy[-1][i])
    yield f"Weakest on {names[weakest]}: accuracy {100 * state.accuracy[-1][weakest]:.1f} %."
    yield f"It knows the {len(state.classes)} classes above, and real images only as these data sets have them."
    yield (
        f"It looks at squares of {state.backbone.crop} pixels: the centre, and of images with twice the side also the "
        "quarters' centres. What was edited elsewhere is not seen. All figures above are of centres."
    )
    if state.backbone.source == "shipped":
        yield f"The shipped backbone {state.backbone.name} is a small one, and never saw a real generator's images."


def _measured(found: Assessment) -> Iterator[str]:
    rows = {row.perturbation: row for row in found.overall}
    clean = rows.pop("clean", None)
    if clean is None:
        yield "Robustness was not measured: don't trust verdicts on images that were saved again or scaled."
    else:
        yield from _perturbed(clean, list(rows.values()))
    for of in found.reliability:
        yield from _unreliable(of)
    if found.false_positives and found.false_positives.worst:
        yield from _false_positives(found.false_positives.worst)
    if found.foreseen:
        yield from _unforeseen(found.task, found.foreseen)
    elif found.calibrated:
        yield "How well it tells unknown generators was not measured: it takes a second task of another generator."


def _perturbed(clean: CardRow, rows: list[CardRow]) -> Iterator[str]:
    lost = sorted((row for row in rows if row.accuracy < _KEPT * clean.accuracy), key=lambda row: row.accuracy)
    if not lost:
        yield f"The card's perturbations took at most {1 - _KEPT:.0%} of the clean accuracy; others were not tried."
        return
    named = ", ".join(f"{row.perturbation} {100 * row.accuracy:.1f} %" for row in lost)
    yield (
        f"Don't trust verdicts on images that went through what is named here: accuracy falls from "
        f"{100 * clean.accuracy:.1f} % to {named}."
    )


def _unreliable(of: Reliability) -> Iterator[str]:
    error = of.error_before if of.error_after is None else of.error_after
    if error > _CLEARLY * of.floor:
        confidence = sum(b.confidence * b.images for b in of.bins) / of.images
        right = sum(b.accuracy * b.images for b in of.bins) / of.images
        which = "too sure" if confidence > right else "not sure enough"
        yield (
            f"On {of.perturbation} images probabilities are {which}: {100 * confidence:.1f} % on average, where "
            f"{100 * right:.1f} % of the answers are right (calibration error {100 * error:.1f} %, "
            f"{100 * of.floor:.1f} % by chance)."
        )
    if of.loss_after is not None and of.loss_after > _WORSE * of.loss_before:
        yield (
            f"Calibration did not help on {of.perturbation} images: log loss {of.loss_after:.3f}, without it "
            f"{of.loss_before:.3f}."
        )


def _false_positives(worst: Slice) -> Iterator[str]:
    if worst.synthetic:
        yield (
            f"Real photographs from elsewhere are called synthetic, too: {100 * worst.share:.1f} % of those looked at "
            f"({worst.perturbation}, the worst slice)."
        )


def _unforeseen(task: str, told: Foreseen) -> Iterator[str]:
    yield (
        f"Not every new generator is noticed: of {task}'s images, before it was learned, "
        f"{100 * told.detection:.1f} % were called strange; the others passed for known."
    )
    if told.false_alarms > _CLEARLY * told.stated_false_alarms:
        yield (
            f"More known images are called strange than was asked for: {100 * told.false_alarms:.1f} % instead of "
            f"{100 * told.stated_false_alarms:.1f} %, in the version before."
        )
    if told.new_reals is not None and told.new_reals > _CLEARLY * told.stated_false_alarms:
        yield (
            f"Real images from a new source may look strange: of {task}'s, before it was learned, "
            f"{100 * told.new_reals:.1f} % did."
        )
