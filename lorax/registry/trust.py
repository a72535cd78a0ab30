"""What MLflow shows of how far a version's verdicts can be trusted: metrics, tables, figures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # these import torch, which a look-up can do without
    from lorax.learning.assessment import Assessment, Reliability

_CLEAN, _ALL = "clean", "all"
_UNKNOWN = {
    "unknown_auroc": "auroc",
    "unknown_detection": "detection",
    "unknown_detection_at_5": "detection_at_5",
    "unknown_false_alarms": "false_alarms",
}
_TABLES_TAG = "mlflow.loggedArtifacts"
"""Names the files that MLflow's page shows as tables, and that `client.load_table` finds."""


def trust_metrics(assessment: Assessment | None) -> dict[str, float]:
    """An assessment's figures by the names they are logged under; docs/method.md explains each."""
    if assessment is None:
        return {}
    found: dict[str, float | None] = {}
    for reliability in assessment.reliability:
        found |= _reliability_metrics(reliability)
    if assessment.foreseen:
        told = asdict(assessment.foreseen)
        found |= {name: told[key] for name, key in _UNKNOWN.items()}
    found |= {f"robustness_accuracy/{row.perturbation}": row.accuracy for row in assessment.card if row.task == _ALL}
    return {name: value for name, value in (found | {"robustness": assessment.robustness}).items() if value is not None}


def write_trust(client: Any, run_id: str, assessment: Assessment) -> None:
    """Fill an episode's run with an assessment: the record itself, tables, figures; the same files every time.

    MLflow's own `log_table` would append to a table that is there already.
    """
    from lorax.registry.figures import save_trust_figures

    tables = {
        "calibration.json": [asdict(row) for row in assessment.reliability],
        "robustness.json": [asdict(row) for row in assessment.card],
    }
    shown = [name for name, rows in tables.items() if rows]
    with TemporaryDirectory(prefix="lorax-") as folder:
        assessment.write(Path(folder) / "assessment.json")
        save_trust_figures(Path(folder) / "figures", assessment)
        for name in shown:
            _write_table(Path(folder) / name, tables[name])
        client.log_artifacts(run_id, folder)
    client.set_tag(run_id, _TABLES_TAG, json.dumps([{"path": name, "type": "table"} for name in shown]))


def _reliability_metrics(found: Reliability) -> dict[str, float | None]:
    under = "" if found.perturbation == _CLEAN else f"{found.perturbation}/"  # MLflow's page has a section for each
    return {
        f"{under}calibration_error": found.error_after,
        f"{under}calibration_error_before": found.error_before,
        f"{under}calibration_error_floor": found.floor,
        f"{under}log_loss": found.loss_after,
        f"{under}log_loss_before": found.loss_before,
    }


def _write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows of equal keys as the table that MLflow reads; what holds no plain value is left out."""
    columns = [key for key in rows[0] if key != "bins"]
    path.write_text(json.dumps({"columns": columns, "data": [[row[key] for key in columns] for row in rows]}))
