"""What `lorax land --dry-run --json` says, read as tasks, splits, classes and counts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Plan = Callable[..., Any]
"""Called as plan(*options, path="in"): the JSON of a dry run, or what the command said where it gave none."""


def counts(record: Any) -> dict[str, dict[str, int]]:
    """Task -> split and class folder -> images."""
    assert isinstance(record, dict), record
    assert record["error"] == "", [task["report"]["findings"] for task in record["tasks"]]
    return {task["task"]: task["counts"] for task in record["tasks"]}


def both(train: int, val: int, fake: tuple[int, int] | None = None) -> dict[str, int]:
    """Of a task with so many real images in either split, and as many fake ones, or as given."""
    train_fake, val_fake = fake or (train, val)
    return {"train/0_real": train, "train/1_fake": train_fake, "val/0_real": val, "val/1_fake": val_fake}


def totals(record: Any) -> dict[str, dict[str, int]]:
    """Task -> class folder -> images, without the splits, which may go by content."""
    found: dict[str, dict[str, int]] = {}
    for task, places in counts(record).items():
        found[task] = {}
        for place, images in places.items():
            kind = place.partition("/")[2]
            found[task][kind] = found[task].get(kind, 0) + images
    return found
