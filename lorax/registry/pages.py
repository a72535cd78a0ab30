"""Addresses on MLflow's page, from '#' on, as its pages link to each other; commands put a server's address before."""

from __future__ import annotations

from collections.abc import Mapping

ACCURACY_VIEW = "lorax-accuracy"
"""Which of an experiment's saved views has all tasks' accuracy in one chart."""

TIMELINE_FIGURE = "figures/task_accuracy.png"
"""Among the artifacts of a timeline's run, or a scenario's."""

_TRAINING = "workflowType=machine_learning"
"""Else another's server takes a browser that it never saw to pages of generative AI."""


def model(name: str) -> str:
    """A registered model: its versions."""
    return f"#/models/{name}"


def version(name: str, number: int) -> str:
    """A model version."""
    return f"#/models/{name}/versions/{number}"


def runs(experiment: str) -> str:
    """An experiment's runs."""
    return f"#/experiments/{experiment}/runs?{_TRAINING}"


def accuracy(experiment: str) -> str:
    """The chart of all tasks' accuracy over an experiment's timelines."""
    return f"{runs(experiment)}&viewStateShareKey={ACCURACY_VIEW}&compareRunsMode=CHART"


def run(experiment: str, run_id: str, tab: str = "") -> str:
    """A run, or a tab of its page."""
    return f"#/experiments/{experiment}/runs/{run_id}{'/' if tab else ''}{tab}?{_TRAINING}"


def artifact(experiment: str, run_id: str, path: str) -> str:
    """A file among a run's artifacts."""
    return run(experiment, run_id, f"artifacts/{path}")


def image(run_id: str, path: str) -> str:
    """Where a page has a picture among a run's artifacts from."""
    return f"get-artifact?path={path}&run_uuid={run_id}"


def listed(links: Mapping[str, str]) -> str:
    """Links by their names as a line of Markdown."""
    return " · ".join(f"[{name}]({address})" for name, address in links.items())
