"""Tables as MLflow's page shows them. MLflow's own `log_table` would append to one that is there already."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

_TABLES_TAG = "mlflow.loggedArtifacts"
"""Names the files that MLflow's page shows as tables, and that `client.load_table` finds."""


def log_tables(client: Any, run_id: str, tables: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Write a run's tables, in place of those that are there: name -> rows of equal keys, where there are any."""
    full = {name: rows for name, rows in tables.items() if rows}
    for name, rows in full.items():
        columns = list(rows[0])
        client.log_dict(run_id, {"columns": columns, "data": [[row[key] for key in columns] for row in rows]}, name)
    shown = json.loads(client.get_run(run_id).data.tags.get(_TABLES_TAG, "[]"))
    wanted = [{"path": name, "type": "table"} for name in full]
    if new := [table for table in wanted if table not in shown]:
        client.set_tag(run_id, _TABLES_TAG, json.dumps([*shown, *new]))
