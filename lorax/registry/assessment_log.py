"""What MLflow shows of how far a version's verdicts can be trusted: metrics, tables, figures."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from lorax.drafts import scratch
from lorax.registry.tables import log_tables
from lorax.storage import write_record

if TYPE_CHECKING:  # these import torch, which a look-up can do without
    from lorax.learning.assessment import Assessment, Reliability

FALSE_POSITIVES = "false_positives/"
"""What the metrics' names begin with; a slice's name follows."""

_CLEAN = "clean"
_UNKNOWN = {
    "unknown_auroc": "auroc",
    "unknown_detection": "detection",
    "unknown_detection_at_5": "detection_at_5",
    "unknown_false_alarms": "false_alarms",
}


def assessment_metrics(assessment: Assessment | None) -> dict[str, float]:
    """An assessment's figures by the names they are logged under; docs/method.md explains each."""
    if assessment is None:
        return {}
    found: dict[str, float | None] = {}
    for reliability in assessment.reliability:
        found |= _reliability_metrics(reliability)
    if assessment.foreseen:
        told = asdict(assessment.foreseen)
        found |= {name: told[key] for name, key in _UNKNOWN.items()}
    found |= {f"robustness_accuracy/{row.perturbation}": row.accuracy for row in assessment.overall}
    if assessment.false_positives:
        found |= {f"{FALSE_POSITIVES}{one.perturbation}": one.share for one in assessment.false_positives.slices}
    if (named := assessment.named) and named.images:
        found |= {"named/one": named.one / named.images, "named/missed": named.missed / named.images}
    return {name: value for name, value in (found | {"robustness": assessment.robustness}).items() if value is not None}


def write_assessment(client: Any, run_id: str, assessment: Assessment) -> None:
    """Fill an episode's run with an assessment: the record itself, tables, figures; the same files every time."""
    from lorax.registry.figures import save_assessment_figures

    reliability = [
        {key: value for key, value in asdict(row).items() if key != "bins"} for row in assessment.reliability
    ]
    card = [asdict(row) for row in assessment.card]
    told = assessment.false_positives.slices if assessment.false_positives else ()
    photographs = [asdict(one) | {"share": one.share} for one in told]
    with scratch() as folder:
        write_record(folder / "assessment.json", assessment)
        save_assessment_figures(folder / "figures", assessment)
        client.log_artifacts(run_id, str(folder))
    tables = {"calibration.json": reliability, "robustness.json": card, "false_positives.json": photographs}
    log_tables(client, run_id, tables)


def _reliability_metrics(found: Reliability) -> dict[str, float | None]:
    under = "" if found.perturbation == _CLEAN else f"{found.perturbation}/"  # MLflow's page has a section for each
    return {
        f"{under}calibration_error": found.error_after,
        f"{under}calibration_error_before": found.error_before,
        f"{under}calibration_error_floor": found.floor,
        f"{under}log_loss": found.loss_after,
        f"{under}log_loss_before": found.loss_before,
    }
