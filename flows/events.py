"""What Prefect's server is told: `lorax.dataset.landed`, which starts a run, a landing's report, and
`lorax.unknown.rising`.

An event is posted to the server's API, which says whether it took it (a ServiceError, if not); Prefect's own
`emit_event` never says. A lost event loses nothing, for what there is to learn is read from data.dvc and the registry.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from flows.client import PrefectApi
from lorax.data import versions
from lorax.data.contract import Report
from lorax.errors import ServiceError
from lorax.params import load_params
from lorax.text import short, some
from lorax.workspace import Workspace

LANDED = "lorax.dataset.landed"
UNKNOWN_RISING = "lorax.unknown.rising"

_SHOWN = 5  # paths in a row; `lorax land --json` has them all
_LATER = "a worker learns it within two minutes, 'lorax learn' at once"


def announce(workspace: Workspace, tasks: Sequence[str]) -> str:
    """Tell Prefect's server that a landing is committed; returns a line for people, whatever happens."""
    try:
        emit(workspace, tasks)
    except ServiceError as error:
        return f"not announced: {error} It has landed all the same: {_LATER}."
    return "announced: a worker learns what is new ('lorax up' runs one)."


def emit(workspace: Workspace, tasks: Sequence[str]) -> None:
    """Have Prefect's server take the event that tasks have landed: one for all that one landing brought."""
    revision = versions.revision(workspace)
    first = tasks[0]
    payload = {"task": first, "tasks": [*tasks], "digest": revision.digest, "commit": revision.commit or ""}
    _post(workspace, LANDED, f"lorax.dataset.{first}", first, payload)


def emit_alert(workspace: Workspace, model: str, payload: Mapping[str, Any]) -> None:
    """Have Prefect's server take the event that unknown images are rising."""
    _post(workspace, UNKNOWN_RISING, f"lorax.unknown.{model}", model, payload)


def _post(workspace: Workspace, event: str, resource: str, name: str, payload: Mapping[str, Any]) -> None:
    of = {"prefect.resource.id": resource, "prefect.resource.name": name}
    PrefectApi.of(workspace, load_params(workspace.params_path)).emit(event, of, payload=payload)


def publish(workspace: Workspace, report: Report) -> None:
    """Put a landing's report on Prefect's page, as the artifact `landing-<task>`, where the server answers."""
    params = load_params(workspace.params_path)
    artifact = {
        "key": f"landing-{report.task.replace('_', '-')}",  # Prefect takes no '_' here
        "type": "markdown",
        "description": f"the landing contract's report on {report.task} ({short(report.digest)})",
        "data": _markdown(report),
    }
    with suppress(ServiceError):
        PrefectApi.of(workspace, params).post("artifacts/", artifact)


def _markdown(report: Report) -> str:
    counts = ", ".join(f"{place}: {count:,}" for place, count in report.counts.items()) or "no images"
    leaks = "".join(f"\n\nTold from real by format alone: {name} {value:.2f}" for name, value in report.leaks.items())
    head = f"# {report.task}: {'refused' if report.refused else 'accepted'}\n\n{counts}{leaks}\n\n"
    if not report.findings:
        return head + "Nothing found."
    rows = "".join(
        f"| {f.severity} | {f.kind} | {_cell(f.message)} | {_cell(some(f.paths, _SHOWN))} |\n" for f in report.findings
    )
    return f"{head}| | finding | what | such as |\n|---|---|---|---|\n{rows}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
