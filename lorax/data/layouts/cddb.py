"""CDDB's own layout: one task's folder, `{train,val}/[<subject>/]{0_real,1_fake}/*`; it lands as it is."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from lorax.data.layouts.items import Found
from lorax.data.layouts.words import class_of, split_of
from lorax.errors import LayoutError

_OF_A_SPLIT = re.compile(r"(?:train|val)/(?P<subject>[^/]+/)?\d+_[a-z0-9][a-z0-9_-]*/[^/]+")
_UNSPLIT = re.compile(r"(?:[^/]+/)?\d+_[a-z0-9][a-z0-9_-]*/[^/]+")


def read_cddb(root: Path, paths: Sequence[str], task: str, split: float | None) -> Found | None:
    """The task in a folder; None if the folder is not in this layout.

    Args:
        root: the folder.
        paths: of the files in it.
        task: the name that was asked for; '' if none was.
        split: for data without val/: the share of images that goes to train/.

    Raises:
        LayoutError: it can't be told whether it is one task or several.
    """
    if any(_is_of_other_split(path) for path in paths):
        return None
    placed = [match for path in paths if (match := _OF_A_SPLIT.fullmatch(path))]
    subjects = sorted({match["subject"].rstrip("/") for match in placed if match["subject"]})
    if subjects and not task:
        raise LayoutError(
            f"{root} holds {len(subjects)} folders of classes in each split, such as {subjects[0]}/. If they are "
            "subjects of one generator, name it with --task NAME; if each is a generator, say --levels "
            "split/generator/class."
        )
    if placed or (task and split is not None and any(_UNSPLIT.fullmatch(path) for path in paths)):
        return Found("one task in CDDB's layout", as_is={path: root / path for path in paths})
    return None


def _is_of_other_split(path: str) -> bool:
    head, *folders = path.split("/")[:-1] or [""]
    return bool(split_of(head)) and head not in ("train", "val") and any(class_of(folder) for folder in folders)
