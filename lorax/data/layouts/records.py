"""Rows of tables, lists and archives as images: which column is what, and what its values mean."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lorax.data.layouts.items import FAKE, REAL, Item, Reading
from lorax.data.layouts.words import class_of, listed, plainly, split_in, split_of
from lorax.errors import LayoutError

NAMES: Mapping[str, tuple[str, ...]] = {
    "image": ("image", "image_data", "img", "picture"),
    "path": ("path", "image_path", "file_name", "filename", "file", "filepath"),
    "label": ("label", "label_a", "target"),
    "generator": ("generator", "model", "model_name", "label_b"),
    "split": ("split",),
    "date": ("release_date", "released", "date"),
}
"""What columns are called, in any case; the first that is there counts."""

_NUMBER = re.compile(r"(?:^|[-_.])(?:\d+-of-\d+|0\d+|\d{5,})$")  # of a part; sd-2 and flux1 are names
_CLASSES = {"real": REAL, "fake": FAKE}
_ELSE = "*"


@dataclass(frozen=True)
class Row:
    """What a table says of an image; "" where it says nothing."""

    label: str
    generator: str
    split: str
    date: str


@dataclass
class Labels:
    """What the values of rows mean; what can't be told is gathered, and asked for once.

    Args:
        place: what messages call the table.
        reading: as it was asked for.
        has_label: whether there is a label column.
    """

    place: Path
    reading: Reading
    has_label: bool
    _unknown: dict[str, None] = field(default_factory=dict)
    _numbers: dict[str, None] = field(default_factory=dict)

    def item(self, row: Row, path: Path, shown: str, name: str, own: str, split: str = "") -> Item | None:
        """The image of a row, None where it can't be told what it is.

        Args:
            row: its values.
            path: where its bytes are.
            shown: what messages call it.
            name: of its file once it has landed.
            own: the generator's name where there is no such column.
            split: where there is no such column.
        """
        kind = self._class(row)
        if row.split and not split_of(row.split):
            raise LayoutError(f"{self.place}: {shown}: {row.split!r} is no split; expected train, val or test.")
        generator = row.generator or own
        if kind == REAL:
            generator = row.generator if self._is_named_real(row) else ""
        if kind == FAKE and generator.lstrip("-").isdigit() and generator not in self.reading.generators:
            self._numbers[generator] = None
        if not kind:
            return None
        return Item(path, shown, name, kind, generator, split_of(row.split) or split, "", row.date)

    def check(self) -> None:
        """Ask for what could not be told.

        Raises:
            LayoutError: something could not.
        """
        if self._unknown and self.has_label:
            values = list(self._unknown)
            example = ",".join(f"{value}={kind}" for value, kind in zip(values, ("real", "fake"), strict=False))
            raise LayoutError(
                f"{self.place}: which labels are real and which synthetic is not told by their names: "
                f"{listed(value or '(none)' for value in values)}. Say so, such as --label {example} (if it is so); "
                "* stands for all others. If they name generators, give their column as --generator-column, too."
            )
        if self._unknown:
            raise LayoutError(
                f"{self.place} has no column for the label, so which generators are real is not told: "
                f"{listed(name or '(none)' for name in self._unknown)}. --real NAME names the real one, --real DIR "
                "lends real images from elsewhere, --real none says that none is; or --label-column names the column."
            )
        if self._numbers and not self.reading.generators:
            names = ",".join(f"{number}=NAME" for number in sorted(self._numbers))
            raise LayoutError(
                f"{self.place}: generators are numbers without names, {listed(self._numbers)}. Name them: --generators "
                f"{names}; or --generator-column names another column."
            )

    def _class(self, row: Row) -> str:
        """0_real or 1_fake; '' where it can't be told."""
        if self._is_named_real(row):
            return REAL
        if self.has_label:
            labels = self.reading.labels
            found = _CLASSES.get(labels.get(row.label, ""), "") or class_of(row.label)
            found = found or _CLASSES.get(labels.get(_ELSE, ""), "")
            if not found:
                self._unknown[row.label] = None
            return found
        if class_of(row.generator) == REAL:
            return REAL
        if self.reading.real:
            return FAKE
        self._unknown[row.generator] = None
        return ""

    def _is_named_real(self, row: Row) -> bool:
        return bool(row.generator) and plainly(row.generator) in {plainly(name) for name in self.reading.real}


def told_by_path(shown: str, levels: Sequence[str]) -> tuple[str, str]:
    """Generator and split of a file that holds images, as its path tells; '' for what it does not tell.

    Args:
        shown: its path in the source.
        levels: what each folder is, and last the file's name, without the number of one that is a part.

    Raises:
        LayoutError: a level is none that such a file can have.
    """
    if others := [level for level in levels if level not in ("generator", "split", "*")]:
        raise LayoutError(
            f"--levels: files that hold images have no {others[0]} by their path; expected generator, split, *."
        )
    told = dict(zip(levels, path_names(shown), strict=False))
    split = told.get("split", "")
    if split and not split_of(split):
        raise LayoutError(f"{shown}: {split!r} is no split; expected train, val or test.")
    return told.get("generator", ""), split_of(split) or split_in(shown)


def path_names(shown: str) -> list[str]:
    """A file's folders and its name without ending and number: data, flux of `data/flux-00000-of-00002.parquet`."""
    *folders, name = shown.split("/")
    return [*folders, _NUMBER.sub("", name.rpartition(".")[0])]


def columns(there: Sequence[str], reading: Reading, place: Path, wanted: Iterable[str]) -> dict[str, str]:
    """Which column is what: kind -> name, of those that there are.

    Args:
        there: the columns' names.
        reading: as it was asked for.
        place: what messages call the table.
        wanted: kinds of columns, see `NAMES`.

    Raises:
        LayoutError: one that was asked for is missing.
    """
    by_name = {name.lower(): name for name in reversed(there)}
    found = {}
    for kind in wanted:
        if asked := reading.columns.get(kind):
            if asked not in there:
                raise LayoutError(f"{place} has no column {asked!r}; it has {listed(there, 20)}.")
            found[kind] = asked
        elif name := next((by_name[name] for name in NAMES[kind] if name in by_name), ""):
            found[kind] = name
    return found


def text_of(value: object) -> str:
    """A value as a table's reader gives it."""
    if value is None:
        return ""
    if isinstance(value, datetime.datetime):
        return value.date().isoformat()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return value.isoformat() if isinstance(value, datetime.date) else str(value).strip()
