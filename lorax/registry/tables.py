"""Tables as MLflow's page shows them. MLflow's own `log_table` would append to one that is there already."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

_TABLES_TAG = "mlflow.loggedArtifacts"
"""Names the files that MLflow's page shows as tables, and that `client.load_table` finds."""


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows of equal keys, of which there is at least one."""
    columns = list(rows[0])
    path.write_text(json.dumps({"columns": columns, "data": [[row[key] for key in columns] for row in rows]}))


def show_tables(client: Any, run_id: str, names: Iterable[str]) -> None:
    """Make a run's page show these artifacts as tables, beside those that it shows already."""
    shown = json.loads(client.get_run(run_id).data.tags.get(_TABLES_TAG, "[]"))
    wanted = [{"path": name, "type": "table"} for name in names]
    new = [table for table in wanted if table not in shown]
    if new:
        client.set_tag(run_id, _TABLES_TAG, json.dumps([*shown, *new]))
