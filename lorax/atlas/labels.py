"""What adapters are known to have learned, as `lorax atlas add` is told: one text for all, or a CSV."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lorax.errors import AdapterError, printable


@dataclass
class Labels:
    """Labels by an adapter's name, or by its path."""

    everyone: str | None = None  # the label of all, or None
    # by name, or by absolute path, the label and its line in the CSV
    told: dict[str | Path, tuple[str, int]] = field(default_factory=dict)
    used: set[str | Path] = field(default_factory=set)  # the names and paths of those that were asked for

    @classmethod
    def read(cls, path: Path) -> Labels:
        """Read a CSV whose columns are name or path, and label; paths may be relative to its folder.

        Raises:
            AdapterError: it can't be read, has other columns or a line without a label, or tells two labels of one.
        """
        labels = cls()
        try:
            with path.open(newline="", encoding="utf-8-sig") as file:
                rows = csv.DictReader(file)
                columns = list(rows.fieldnames or ())
                if "label" not in columns or not {"name", "path"} & set(columns):
                    raise AdapterError(
                        f"{path} has the columns {printable(', '.join(columns)) or 'none'}; expected label, and name "
                        "or path. Its first line names them: 'name,label'."
                    )
                for row in rows:
                    labels._take(row, path, rows.line_num)
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise AdapterError(f"{path} can't be read as a CSV of labels: {error}. Check the path.") from error
        return labels

    def _take(self, row: Mapping[str, str | None], path: Path, line: int) -> None:
        name, place, label = (row.get(column) or "" for column in ("name", "path", "label"))
        keys: list[str | Path] = ([name] if name else []) + ([(path.parent / place).resolve()] if place else [])
        if keys and not label:
            raise AdapterError(
                f"{path}, line {line}: {printable(name or place)} has no label. Write one, or take the line out."
            )
        for key in keys:
            before, of_line = self.told.setdefault(key, (label, line))
            if before != label:
                raise AdapterError(
                    f"{path} tells two labels of {printable(str(key))}: {printable(before)} in line {of_line}, "
                    f"{printable(label)} in line {line}. Keep one of them."
                )

    def of(self, name: str, path: Path) -> str | None:
        """The label of an adapter by its name, or the path where it was read; None where nothing is told of it."""
        if self.everyone is not None:
            return self.everyone
        for key in (name, path.resolve()):
            if key in self.told:
                self.used.add(key)
                return self.told[key][0]
        return None

    @property
    def unused(self) -> list[str]:
        """What the CSV names and nothing that was read has."""
        return [str(key) for key in self.told if key not in self.used]
