"""What MLflow's page shows of a model as a whole: the experiment's front page, and all tasks' accuracy in one picture.

MLflow draws a chart for each metric. The timeline's run gets a figure of all tasks, in colours, and the experiment a
saved view with one chart of them that can be zoomed into; MLflow gives each run one colour, so there dashes tell tasks.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from lorax.drafts import scratch
from lorax.registry import pages
from lorax.registry.lineage import ancestors
from lorax.registry.tracking import ROLE_TAG
from lorax.registry.versions import ModelVersion

if TYPE_CHECKING:  # imports torch, which a look-up can do without
    from lorax.learning.state import LearnerState

_VIEW_TAG = f"mlflow.sharedViewState.{pages.ACCURACY_VIEW}"
_MOST_LINES = 40
"""Of the tasks learned last. MLflow keeps 5000 characters of a tag, and no eye tells more dashes apart."""


def show_timeline(
    client: Any,
    experiment: str,
    run_id: str,
    state: LearnerState,
    version: ModelVersion,
    versions: Sequence[ModelVersion],
) -> None:
    """Draw a timeline up to its newest version: its run's figure, and the experiment's view.

    Args:
        state: the version's.
        versions: all versions, that one among them.
    """
    from lorax.registry.figures import save_task_lines

    numbers = {v.episode: v.version for v in ancestors(version, versions)}
    with scratch() as folder:
        save_task_lines(folder / pages.TIMELINE_FIGURE, state.names, state.accuracy, numbers)
        client.log_artifacts(run_id, str(folder))
    client.set_experiment_tag(experiment, _VIEW_TAG, accuracy_view(state.names, version.created_at))


def accuracy_view(tasks: Sequence[str], at: datetime) -> str:
    """The timelines, all tasks in one chart: a view as MLflow's page saves one (a name, times in ms, what is shown).

    Args:
        tasks: names, in the order of learning.
        at: when it is said to be made.
    """
    keys = [f"accuracy/{task}" for task in tasks[-_MOST_LINES:]] + ["average_accuracy"]
    chart = {
        "type": "LINE",
        "uuid": "tasks",
        "metricSectionId": "tasks",
        "metricKey": keys[0],
        "selectedMetricKeys": keys,
        "yAxisKey": "metric",
        "yAxisExpressions": [],
        "xAxisKey": "step",
        "useGlobalXaxisKey": False,
        "useGlobalLineSmoothing": False,
        "lineSmoothness": 0,
        "displayPoints": True,
    }
    section = {"uuid": "tasks", "name": "Accuracy on each task", "display": True, "isReordered": True}
    shown = {
        "searchFilter": f"tags.`{ROLE_TAG}` = 'timeline'",
        "compareRunSections": [section | {"columns": 1, "cardHeight": 480}],
        "compareRunCharts": [chart],
        "isAccordionReordered": True,
    }
    packed = base64.b64encode(zlib.compress(json.dumps(shown).encode())).decode()
    at_ms = int(at.timestamp() * 1000)
    return json.dumps(
        {"name": "Accuracy on each task", "createdAt": at_ms, "updatedAt": at_ms, "state": f"deflate;{packed}"}
    )
