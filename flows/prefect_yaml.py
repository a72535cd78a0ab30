"""What a workspace's prefect.yaml may ask of `lorax up` and of the worker that it starts.

The file comes with a clone. Prefect would run its steps, flows and settings of processes as the user, so with the
workspace's own server it may only have run what comes with lorax; what goes beyond is for `prefect deploy` by hand.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from lorax.errors import ServiceError, printable

_PULL = "prefect.deployments.steps.git_clone"
_FLOWS = "flows."
_ENVIRONMENT = (
    *("LORAX_SERVICE", "OMP_WAIT_POLICY", "DO_NOT_TRACK"),
    *("PREFECT_FLOWS_HEARTBEAT_FREQUENCY", "PREFECT_RESULTS_DEFAULT_SERIALIZER"),
)
_BY_HAND = (
    "Remove that; what you trust, deploy by hand from a file of its own: 'prefect deploy --all --prefect-file FILE'."
)

POOL_TEMPLATE: Mapping[str, Any] = {
    "job_configuration": {"stream_output": "{{ stream_output }}", "env": "{{ env }}"},
    "variables": {
        "type": "object",
        "properties": {
            "stream_output": {"type": "boolean", "default": False},
            "env": {
                "type": "object",
                "properties": {name: {"type": "string"} for name in _ENVIRONMENT},
                "additionalProperties": False,
                "default": {},
            },
        },
        "additionalProperties": False,
    },
}
"""Of the process pool: what a run may set of its process. Prefect's own takes any command, folder and variable."""


def check(path: Path) -> None:
    """Make sure that nothing in prefect.yaml has other things run than what comes with lorax.

    Raises:
        ServiceError: something does, or the file can't be read.
    """
    for where, what in _unfit(_read(path)):
        raise ServiceError(f"{path} has {where} {printable(what)!r}, which could run anything here. {_BY_HAND}")


def _read(path: Path) -> Mapping[str, Any]:
    try:
        content = yaml.safe_load(path.read_text())
        if not isinstance(content, dict):
            raise ValueError("expected a mapping")
        parts = content.get("deployments") or []
        if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
            raise ValueError("expected a list of mappings as 'deployments'")
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ServiceError(
            f"{path} can't be read as Prefect's file ({printable(' '.join(str(error).split()))}). Restore it from git."
        ) from error
    return content


def _unfit(content: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What is more than comes with lorax: where in the file, and what."""
    deployments = content.get("deployments") or []
    for part in (content, *deployments):
        for kind in ("build", "push", "pull"):
            yield from (
                (f"the {kind} step", step) for step in _steps(part.get(kind)) if (kind, step) != ("pull", _PULL)
            )
    for part in deployments:
        if not str(part.get("entrypoint", "")).startswith(_FLOWS):
            yield "the entrypoint", str(part.get("entrypoint", ""))
        pool = part.get("work_pool")
        variables = (pool.get("job_variables") if isinstance(pool, dict) else None) or {}
        yield from (("the job variable", str(name)) for name in variables if name not in ("env", "stream_output"))
        environment = variables.get("env") or {}
        yield from (("the variable", str(name)) for name in environment if name not in _ENVIRONMENT)


def _steps(listed: Any) -> list[str]:
    """The names of steps; of what is no list of them, its beginning."""
    if not listed:
        return []
    steps = listed if isinstance(listed, list) else [listed]
    return [str(name) for step in steps for name in (step if isinstance(step, dict) else [step])]
