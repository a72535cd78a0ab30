"""What a new branch starts from: fresh weights, an older version's branch, or the nearest one."""

from __future__ import annotations

from pathlib import Path

from prefect import get_run_logger

from flows.step import Settings, step
from lorax import attribution, progress
from lorax.data import pins, versions
from lorax.errors import StateError
from lorax.learning.state_files import load_state
from lorax.params import Params
from lorax.workspace import Workspace


def choose_start(root: str, base: str | None, name: str, settings: Settings, commit: str = "HEAD") -> str | None:
    """The known task whose branch the new one starts from; None, for a fresh start, unless something asks for one.

    What a commit's data.dvc calls a new version of another starts from that one, whatever params.yaml says of others.
    """
    kept = pins.committed(Workspace(Path(root)), commit).notes_of(name)
    if base is None or kept.extends:
        return None
    if kept.new_version_of:
        return find_older(root, base, kept.new_version_of, settings)
    if Params.model_validate(settings).training.branch_init == "fresh":
        return None
    return find_nearest(root, base, name, settings)


@step("find older branch")
def find_older(root: str, base: str, older: str, settings: Settings) -> str | None:
    """The task that the new one is the next version of, if its branch is known and could be started from."""
    with progress.step("find older branch") as shown:
        state, params = load_state(Path(base)), Params.model_validate(settings)
        if why := attribution.unstartable(state, params, older):
            shown.outcome = f"{why}: a fresh start"
            get_run_logger().warning("the branch starts fresh: %s", why)
            return None
        shown.outcome = older
        return older


@step("find nearest branch")
def find_nearest(root: str, base: str, name: str, settings: Settings) -> str | None:
    """The known task whose branch the new task's probe is most like; None where none could be started from."""
    with progress.step("find nearest branch") as shown:
        workspace, params = Workspace(Path(root)), Params.model_validate(settings)
        new, state, log = versions.read_task(workspace, name), load_state(Path(base)), get_run_logger()
        fetch = lambda samples: versions.fetch(workspace, samples)  # noqa: E731
        try:
            similar = attribution.startable(workspace, state, params, new, fetch, log.info)
        except StateError as error:  # only learning can mend it
            shown.outcome = f"{str(error).partition(', ')[0]}: a fresh start"
            log.warning("the branch starts fresh: %s", error)
            return None
        shown.outcome = ", ".join(f"{task} {cosine:.2f}" for task, cosine in similar) or "none that fits: a fresh start"
        log.info("nearest to its probe: %s", shown.outcome)
        return similar[0][0] if similar else None
