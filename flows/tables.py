"""What the command line prints of the champion, the versions and the workspace; accuracies in percent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from flows import reconcile
from lorax import services
from lorax.data import versions as data_versions
from lorax.params import Params
from lorax.registry import ModelVersion, Registry
from lorax.services import Services
from lorax.workspace import Workspace

_HEADLINES = {
    "average_accuracy": "average accuracy",
    "average_incremental_accuracy": "average incremental accuracy",
    "backward_transfer": "backward transfer",
    "forgetting": "forgetting",
}


def accuracy_matrix(tasks: Sequence[str], rows: Sequence[Sequence[float]]) -> Table:
    """One row per episode, one column per task."""
    table = Table(title="accuracy on each task's test images, %", title_justify="left")
    table.add_column("after learning")
    for task in tasks:
        table.add_column(task, justify="right")
    table.add_column("average", justify="right", style="bold")
    for row in rows:
        values = [f"{100 * value:.1f}" for value in row]
        average = f"{100 * sum(row) / len(row):.1f}"
        table.add_row(tasks[len(row) - 1], *values, *[""] * (len(tasks) - len(row)), average)
    return table


def history(versions: Sequence[ModelVersion]) -> Table:
    """One row per model version, newest first."""
    table = Table()
    for name in ("version", "alias", "learned", "knows", "average accuracy", "forgetting", "made", "state", "parent"):
        table.add_column(name, justify="right" if name in ("version", "average accuracy", "forgetting") else "left")
    for version in reversed(versions):
        table.add_row(
            str(version.version),
            ", ".join(version.aliases),
            version.task,
            f"{len(version.tasks)} task{'s' if len(version.tasks) > 1 else ''}",
            f"{100 * version.metrics['average_accuracy']:.1f}",
            f"{100 * version.metrics['forgetting']:.1f}",
            f"{version.created_at:%Y-%m-%d %H:%M}",
            version.state_digest[:12],
            (version.parent_digest or "")[:12],
        )
    return table


def version_record(version: ModelVersion) -> dict[str, Any]:
    """A model version for scripts."""
    return {
        "version": version.version,
        "aliases": list(version.aliases),
        "task": version.task,
        "tasks": [task.name for task in version.tasks],
        "state_digest": version.state_digest,
        "parent_digest": version.parent_digest,
        "data_digest": version.data_digest,
        "metrics": dict(version.metrics),
        "created_at": version.created_at.isoformat(),
    }


def status_record(workspace: Workspace, params: Params) -> dict[str, Any]:
    """What `lorax status` says, for scripts."""
    landed = data_versions.landed(workspace)
    registry = reconcile.open_registry(workspace, params)
    champion, held = registry.champion(), registry.held()
    found, revision = services.status(workspace, params), data_versions.revision(workspace)
    return {
        "workspace": str(workspace.root),
        "champion": version_record(champion) if champion else None,
        "known": [task.name for task in champion.tasks] if champion else [],
        "waiting": [task.name for task in reconcile.missing_tasks(landed, champion, held)],
        "changed": [task.name for task in reconcile.changed_tasks(landed, champion)],
        "data": {"digest": revision.digest, "commit": revision.commit},
        "services": {s.name: {"address": s.address, "ready": s.is_ready} for s in (found.prefect, found.mlflow)},
    }


def print_status(record: Mapping[str, Any], out: Console) -> None:
    """`lorax status` for people."""
    champion = record["champion"]
    rows = {
        "workspace": record["workspace"],
        "champion": f"version {champion['version']} (state {champion['state_digest'][:12]})"
        if champion
        else "none yet",
        "knows": ", ".join(record["known"]) or "nothing yet",
        "waiting": ", ".join(record["waiting"]) or "nothing to learn",
        "data": f"{record['data']['digest'] or 'nothing landed'} (commit {(record['data']['commit'] or 'none')[:12]})",
    }
    if record["changed"]:
        rows["changed"] = f"{', '.join(record['changed'])}: landed with other bytes than were learned"
    if champion:
        rows |= {title: f"{100 * champion['metrics'][key]:.1f} %" for key, title in _HEADLINES.items()}
    for name, service in record["services"].items():
        rows[name] = f"{service['address']} ({'up' if service['ready'] else 'down'})"
    table = Table.grid(padding=(0, 3))
    for key, value in rows.items():
        table.add_row(key, value)
    out.print(table)


def print_champion(registry: Registry, out: Console) -> None:
    """The accuracy matrix up to the champion, and its metrics."""
    champion = registry.champion()
    if champion is None:
        out.print("no champion yet: land a task first.")
        return
    tasks = [task.name for task in champion.tasks]
    out.print(accuracy_matrix(tasks, reconcile.accuracy_rows(champion, registry.versions())))
    print_metrics(champion.metrics, out)


def print_metrics(metrics: Mapping[str, float], out: Console) -> None:
    """The four figures that sum an accuracy matrix up."""
    table = Table.grid(padding=(0, 3))
    table.add_column()
    table.add_column(justify="right")
    for key, title in _HEADLINES.items():
        table.add_row(title, f"{100 * metrics[key]:.1f} %")
    out.print(table)


def print_pages(found: Services, out: Console) -> None:
    """Where to look next, and how to stop the servers."""
    for title, service in (("Prefect", found.prefect), ("MLflow", found.mlflow)):
        state = "" if service.is_ready else "  (down: start it with 'lorax up')"
        out.print(f"{title:<8} {service.address}{state}", markup=False)
    if any(service.is_embedded and service.is_ready for service in (found.prefect, found.mlflow)):
        out.print(
            "Both keep running. Stop them with 'lorax down' in this workspace; after 'make demo', with 'make clean'."
        )
