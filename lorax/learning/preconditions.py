"""What must hold before an episode begins."""

from __future__ import annotations

import json

from lorax.errors import StateError
from lorax.learning.state import LearnerState
from lorax.params import HeadParams
from lorax.stream import Task


def check_learnable(base: LearnerState, task: Task) -> None:
    """See that a task is new, that what it extends is known, and that there are real images to tell others from.

    Raises:
        StateError: one of these does not hold.
    """
    if task.name in {t.name for t in base.tasks}:
        raise StateError(f"task {task.name!r} is in the learner state already; an episode learns a new task.")
    if task.extends:
        _check_extends(base, task)
    if not any(c.is_real for c in task.classes) and not any(e.is_real for e in base.classes.entries):
        raise StateError(
            f"task {task.name!r} brings no real images and no earlier task did: there is nothing to tell its images "
            "from. Land a task with a 0_real folder first."
        )


def check_solver(base: LearnerState, head: HeadParams) -> None:
    """See that what params.yaml wants of the head can be had on top of `base`.

    Raises:
        StateError: the base's tasks were learned with the other solver, or for other kinds of perturbation.
    """
    if not base.tasks:
        return
    tasks = ", ".join(task.name for task in base.tasks)
    before = "ridge" if base.statistics else "gradient"
    if before != head.solver:
        why = "kept no sums of its images" if head.solver == "ridge" else "has a head that the other can't go on with"
        raise StateError(
            f"head.solver is {head.solver}, but the learner state of {tasks} was learned with head.solver {before} and "
            f"{why}. Set head.solver: {before}, or learn its tasks anew under another registry.model."
        )
    kept, wanted = list(base.statistics)[1:], list(head.perturbations)
    if base.statistics and kept != wanted:
        raise StateError(
            f"head.perturbations is {wanted}, but the learner state of {tasks} kept sums of images perturbed by "
            f"{kept}. Set head.perturbations: {json.dumps(kept)}, or learn its tasks anew under another registry.model."
        )


def _check_extends(base: LearnerState, task: Task) -> None:
    known = {(entry.task, entry.index) for entry in base.classes.entries}
    if any((task.extends, one.index) not in known for one in task.classes):
        tasks = ", ".join(entry.name for entry in base.tasks) or "none"
        raise StateError(
            f"task {task.name!r} brings more images of {task.extends!r}, whose classes the champion does not know (it "
            f"knows {tasks}). If {task.extends} is held, 'lorax release {task.extends}' has it learned first; then "
            f"'lorax release {task.name}', where this is held, too."
        )
