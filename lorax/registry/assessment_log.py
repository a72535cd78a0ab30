"""What MLflow shows beside an episode's own figures: how far verdicts can be trusted, and which branches are alike."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorax.learning.branch_similarity import BranchComparison, BranchNeighbours
from lorax.storage import write_record

if TYPE_CHECKING:
    from lorax.learning.assessment import Assessment, Reliability

Tables = Mapping[str, Sequence[Mapping[str, Any]]]
"""Rows of equal keys by the file's name in a run."""

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
    """An assessment's figures by the names they are logged under (docs/reference/metrics.md)."""
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
    if student := assessment.by_student:
        found |= {"student/share": student.share, "student/differ": student.differ}
    return {name: value for name, value in (found | {"robustness": assessment.robustness}).items() if value is not None}


def write_assessment(folder: Path, assessment: Assessment) -> None:
    """Write an assessment's record and figures below a folder of what its episode's run is to hold."""
    from lorax.registry.figures import save_assessment_figures

    write_record(folder / "assessment.json", assessment)
    save_assessment_figures(folder / "figures", assessment)


def assessment_tables(assessment: Assessment) -> Tables:
    """An assessment as tables of MLflow's page."""
    reliability = [
        {key: value for key, value in asdict(row).items() if key != "bins"} for row in assessment.reliability
    ]
    card = [asdict(row) for row in assessment.card]
    told = assessment.false_positives.slices if assessment.false_positives else ()
    photographs = [asdict(one) | {"share": one.share} for one in told]
    return {"calibration.json": reliability, "robustness.json": card, "false_positives.json": photographs}


def _reliability_metrics(found: Reliability) -> dict[str, float | None]:
    under = "" if found.perturbation == _CLEAN else f"{found.perturbation}/"  # MLflow's page has a section for each
    return {
        f"{under}calibration_error": found.error_after,
        f"{under}calibration_error_before": found.error_before,
        f"{under}calibration_error_floor": found.floor,
        f"{under}log_loss": found.loss_after,
        f"{under}log_loss_before": found.loss_before,
    }


NEAREST_SIMILARITY = "nearest_similarity"
ATLAS = "atlas"
"""The folder of an episode's run that holds what its comparison came from."""

_TABLE = f"{ATLAS}/nearest.json"


def comparison_metrics(found: BranchComparison | None) -> dict[str, float]:
    """How alike the new branch and its nearest are, by the name it is logged under (docs/reference/metrics.md)."""
    return {NEAREST_SIMILARITY: found.nearest.similarity} if found and found.nearest else {}


def comparison_tables(comparison: BranchComparison) -> Tables:
    """A comparison as a table of MLflow's page, beside the files that it came from."""
    return {_TABLE: list(_rows(comparison.branches))}


def _rows(branches: Sequence[BranchNeighbours]) -> Iterator[dict[str, Any]]:
    """One for each branch and neighbour; what matters most comes first, since MLflow's page shows few columns."""
    for branch in branches:
        for place, near in enumerate(branch.nearest, 1):
            yield {
                "branch": branch.task,
                "place": place,
                "neighbour": near.task,
                "similarity": near.similarity,
                "generators": branch.generators,
                "neighbour's generators": near.generators,
                "branch started from": branch.start or "",
            }


_TABLES_TAG = "mlflow.loggedArtifacts"
"""Names the files that MLflow's page shows as tables, and that `client.load_table` finds."""


def write_tables(folder: Path, tables: Tables) -> None:
    """Write tables as MLflow's page reads them below a folder of what a run is to hold; empty ones are left out.

    Numbers are rounded, for MLflow's page shows them as they are; the run's other files have all digits.
    """
    for name, rows in tables.items():
        if rows:
            columns, path = list(rows[0]), folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            data = [[_short(row[key]) for key in columns] for row in rows]
            path.write_text(json.dumps({"columns": columns, "data": data}))


def tables_tag(shown: Mapping[str, str], tables: Tables) -> dict[str, str]:
    """The tag that a run needs beside those that it has, `shown`, for MLflow's page to show these tables, too."""
    before = json.loads(shown.get(_TABLES_TAG, "[]"))
    wanted = [{"path": name, "type": "table"} for name, rows in tables.items() if rows]
    new = [table for table in wanted if table not in before]
    return {_TABLES_TAG: json.dumps([*before, *new])} if new else {}


def _short(value: Any) -> Any:
    return round(value, 4) if isinstance(value, float) else value
