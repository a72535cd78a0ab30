"""The model card of a version, in Markdown: every figure in it was measured, every fact recorded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import lorax
from lorax.learning.assessment import ALL, Assessment, CardRow
from lorax.learning.branch_similarity import BranchComparison
from lorax.learning.false_positives import Slice
from lorax.learning.state import LearnerState
from lorax.network.backbone import BackboneIdentity, import_timm
from lorax.registry.candidate import Candidate
from lorax.registry.limits import limits

_PARAMETERS = {
    "lora": ("rank", "alpha"),
    "training": ("epochs", "batch_size", "learning_rate", "views", "augmentation"),
    "exemplars": ("budget",),
    "calibration": ("per_class", "false_alarms", "false_positives", "undecided_below", "set_error"),
    "run": ("seed",),
}
_DIGITS = 12


def model_card(model: str, candidate: Candidate) -> str:
    """The card of what an episode left.

    Args:
        model: name of the registered model.
        candidate: the learner state, and what was measured of it.
    """
    state, assessment = candidate.state, candidate.assessment
    sections = [
        _head(model, candidate),
        _knowledge(state),
        _learning(state),
        _accuracy(candidate),
        *(section(assessment) for section in (_calibration, _unknown, _robustness, _false_positives) if assessment),
        *([_neighbours(candidate.comparison)] if candidate.comparison and candidate.comparison.nearest else []),
        ["## Limits", "", *(f"- {limit}" for limit in limits(state, assessment))],
        _use(state),
    ]
    return "\n\n".join("\n".join(lines) for lines in sections) + "\n"


def backbone_licence(backbone: BackboneIdentity) -> str:
    """Under which licence the frozen backbone's weights come, as far as is known here."""
    if backbone.source == "shipped":
        return "MIT, with lorax"
    licence = None
    if backbone.source == "hub":
        config = import_timm().models.get_pretrained_cfg(backbone.name)
        licence = config.license if config else None
    return f"{licence}, by timm's word" if licence else "not known here: look it up where the weights come from"


def _head(model: str, candidate: Candidate) -> list[str]:
    state = candidate.state
    facts = {
        "verdicts": "calibrated" if state.calibration else "**uncalibrated**",
        "registered model": f"`{model}`",
        "learner state": f"`{candidate.digest}`",
        "grew from": f"state `{state.parent[:_DIGITS]}`" if state.parent else "nothing: this is the first task",
        "data": f"data.dvc `{state.revision.digest}`",
        "git commit": f"`{state.revision.commit}`" if state.revision.commit else "none",
        "made with": f"lorax {lorax.__version__}",
    }
    return [
        f"# Model card: {model}, episode {len(state.tasks) - 1} ({state.tasks[-1].name})",
        "",
        "An image in, a verdict out: real, synthetic by a generator that it knows, synthetic by an unknown one, or "
        "undecided. Every figure here was measured on test images when this version was made.",
        "",
        *_table(("", ""), facts.items()),
    ]


def _knowledge(state: LearnerState) -> list[str]:
    exemplars = Counter(e.class_id for e in state.exemplars)
    held_out = Counter(e.class_id for e in state.calibration_memory)
    rows = (
        (e.label, e.task, "real" if e.is_real else "synthetic", exemplars[e.id], held_out[e.id])
        for e in state.classes.entries
    )
    digests = ((task.name, f"`{task.digest[:_DIGITS]}`") for task in state.tasks)
    return [
        "## What it knows",
        "",
        *_table(("class", "task", "kind", "exemplars", "calibration"), rows),
        "",
        f"In all {len(state.exemplars)} exemplars, which are shown again in training, and "
        f"{len(state.calibration_memory)} calibration images, which are held out of training.",
        "",
        *_table(("task", "data digest"), digests),
    ]


def _learning(state: LearnerState) -> list[str]:
    backbone = state.backbone
    known = ((section, key, state.parameters.get(section, {}).get(key)) for section in _PARAMETERS
             for key in _PARAMETERS[section])  # fmt: skip
    values = [f"`{section}.{key}` {value}" for section, key, value in known if value is not None]
    start = state.branches[-1].start
    began = f" The newest began at the weights of {start}'s." if start else ""
    return [
        "## How it was learned",
        "",
        f"One LoRA branch for each task on a frozen {backbone.name} (weights: {Path(backbone.source).name}, sha256 "
        f"`{backbone.sha256[:_DIGITS]}`), which sees squares of {backbone.crop} pixels; one linear "
        f"head over all classes.{began} Last episode: {', '.join(values)}. All parameters are in the state's "
        "learner.json and in the run.",
        "",
        f"Licence of the backbone's weights: {backbone_licence(backbone)}.",
    ]


def _accuracy(candidate: Candidate) -> list[str]:
    state, report, metrics = candidate.state, candidate.report, candidate.metrics
    rows = (
        (name, _percent(state.accuracy[-1][i]), _percent(state.accuracy[i][i]), _percent(report.binary_accuracy[name]))
        for i, name in enumerate(candidate.names)
    )
    return [
        "## Accuracy on each task",
        "",
        *_table(("task", "now", "at first", "detection"), rows),
        "",
        "At first: when it was learned. Detection: real or synthetic told rightly, whichever generator was named.",
        f"Average {_percent(metrics['average_accuracy'])}, "
        f"of detection {_percent(metrics['average_binary_accuracy'])}, "
        f"forgetting {_percent(metrics['forgetting'])}. "
        "Here and below the likeliest answer counts, also where the verdict would be undecided or unknown."
        f"{_replaced(candidate.replaced)}",
    ]


def _replaced(tasks: Sequence[str]) -> str:
    if not tasks:
        return ""
    return f" Now and at first are of other images, since their data was replaced: {', '.join(tasks)}."


def _calibration(found: Assessment) -> list[str]:
    of = found.reliability
    rows = [
        ("test images", *(r.images for r in of)),
        ("error before calibration", *(_percent(r.error_before) for r in of)),
        ("error after calibration", *(_percent(r.error_after) for r in of)),
        ("error by chance alone", *(_percent(r.floor) for r in of)),
        ("log loss before calibration", *(_number(r.loss_before) for r in of)),
        ("log loss after calibration", *(_number(r.loss_after) for r in of)),
    ]
    return [
        "## Calibration",
        "",
        "Error: how far confidence and the share of right answers lie apart; by chance alone: what perfect "
        "probabilities would show on so many images. Log loss: mean of -log of the right answer's probability.",
        "",
        *_table(("", *(r.perturbation for r in of)), rows),
    ]


def _unknown(found: Assessment) -> list[str]:
    told = found.foreseen
    if told is None:
        why = "there was no calibrated version before this one" if found.calibrated else "the version is not calibrated"
        return ["## Unknown generators", "", f"Not measured: {why}."]
    rows = [
        ("AUROC of strangeness", _number(told.auroc)),
        ("found at the version's own threshold", _percent(told.detection)),
        ("found at a threshold with 5 % false alarms", _percent(told.detection_at_5)),
        ("false alarms at the version's own threshold", _percent(told.false_alarms)),
        ("false alarms that the threshold was set for", _percent(told.stated_false_alarms)),
        ("real images of the new task called strange", _percent(told.new_reals)),
    ]
    return [
        "## Unknown generators",
        "",
        f"What the version before this one made of {found.task}, before it was learned: of its synthetic test images "
        ""
        "against the test images of all tasks known then.",
        "",
        *_table((f"{found.task}, not yet learned", ""), rows),
    ]


def _robustness(found: Assessment) -> list[str]:
    if not found.card:
        return ["## Robustness", "", "Not measured: `robustness.per_class` was 0."]
    of_all = found.overall
    rows = (
        (r.perturbation, _percent(r.accuracy), _number(r.auroc), _percent(r.calibration_error), _percent(r.unknown))
        for r in of_all
    )
    columns = ("perturbation", "accuracy", "AUROC", "error", "strange")
    return [
        "## Robustness",
        "",
        f"{of_all[0].images} test images of all tasks, real and synthetic alike. Mean accuracy under the "
        f"perturbations: {_percent(found.robustness)} of that on the clean images. "
        "AUROC: of telling real from synthetic. Error: of calibration. Strange: share called like nothing known.",
        "",
        *_table(columns, rows),
        "",
        "Accuracy on each task:",
        "",
        *(f"- {row.perturbation}: {_by_task(found.card, row.perturbation)}" for row in of_all),
    ]


def _false_positives(found: Assessment) -> list[str]:
    told, title = found.false_positives, ["## False positives on other real photographs", ""]
    if told is None or not told.slices:
        why = "`reals.path` names no folder of real photographs" if told is None else "tasks brought all of them"
        return [*title, f"Not measured: {why}."]
    rows = (
        (s.perturbation, f"{s.synthetic} of {s.images}", _percent(s.share), _range(s), s.unknown, s.undecided)
        for s in told.slices
    )
    return [
        *title,
        f"Of photographs in `{told.folder}` (DVC's `{told.digest[:_DIGITS]}`), which no task brought, so many are "
        "called synthetic by this version's verdict, by name or as of an unknown generator. Interval: where the share "
        "may lie, with 95 % confidence.",
        "",
        *_table(("slice", "synthetic", "share", "interval", "of them unknown", "undecided"), rows),
    ]


def _range(one: Slice) -> str:
    from scipy.stats import binomtest

    found = binomtest(one.synthetic, one.images).proportion_ci(method="wilson")
    return f"{100 * found.low:.1f} to {100 * found.high:.1f} %"


def _neighbours(found: BranchComparison) -> list[str]:
    rows = (
        (near.task, near.generators, f"{near.similarity:.2f}")
        for near in (found.newest.nearest if found.newest else ())
    )
    return [
        "## Nearest known generators",
        "",
        f"How alike the weights of {found.task}'s branch and of others are, by {found.described}. 1: the same, 0: "
        "unrelated; small numbers are no likeness (docs/method.md).",
        "",
        *_table(("task", "generators", "similarity"), rows),
    ]


def _by_task(card: Sequence[CardRow], perturbation: str) -> str:
    rows = (row for row in card if row.perturbation == perturbation and row.task != ALL)
    return ", ".join(f"{row.task} {_percent(row.accuracy)}" for row in rows)


def _use(state: LearnerState) -> list[str]:
    return [
        "## Use",
        "",
        "Meant for sorting images and as one hint among several, by people who know the limits above. Not meant as "
        "evidence by itself, for accusing anybody, or for decisions that nobody looks at.",
        "",
        "    lorax history                                # which version this state became",
        "    lorax predict photo.jpg --version VERSION --explain",
        "    lorax serve",
        "",
        "In Python: `lorax.verdicts.predictor.Predictor.open(state directory)`. MLflow's model takes base64 "
        "images. The answer "
        f"names one of {len(state.classes)} classes' generators, or is `real`, `synthetic` (by one of several that are "
        "confused, or by none for sure), `synthetic:unknown` or `undecided`.",
    ]


def _table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[str]:
    yield f"| {' | '.join(columns)} |"
    yield "|---" * len(columns) + "|"
    for row in rows:
        yield f"| {' | '.join(str(cell) for cell in row)} |"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f} %"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
