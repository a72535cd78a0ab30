"""What adapters are known to have learned, as `lorax atlas add` is told: one text for all, or a CSV."""

from __future__ import annotations

import csv
from dataclasses import dataclass, field
from pathlib import Path

from lorax.atlas.entry import printable
from lorax.errors import AdapterError


@dataclass
class Labels:
    """Labels by an adapter's name, or by its path.

    Args:
        everyone: the label of all, or None.
        by_name: of adapters by name.
        by_path: of adapters by absolute path.
    """

    everyone: str | None = None
    by_name: dict[str, str] = field(default_factory=dict)
    by_path: dict[Path, str] = field(default_factory=dict)
    _used: set[str | Path] = field(default_factory=set)

    @classmethod
    def read(cls, path: Path) -> Labels:
        """Read a CSV whose columns are name or path, and label; paths may be relative to its folder.

        Raises:
            AdapterError: it can't be read, or has other columns.
        """
        found = cls()
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
                    if row.get("name"):
                        found.by_name[row["name"]] = row["label"] or ""
                    if row.get("path"):
                        found.by_path[(path.parent / row["path"]).resolve()] = row["label"] or ""
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise AdapterError(f"{path} can't be read as a CSV of labels: {error}. Check the path.") from error
        return found

    def of(self, name: str, path: Path, known: str | None) -> str | None:
        """The label of an adapter.

        Args:
            name: its own.
            path: where it was read from.
            known: what is taken if nothing is told of it.
        """
        if self.everyone is not None:
            return self.everyone
        if name in self.by_name:
            self._used.add(name)
            return self.by_name[name]
        if (place := path.resolve()) in self.by_path:
            self._used.add(place)
            return self.by_path[place]
        return known

    @property
    def unused(self) -> list[str]:
        """What the CSV names and nothing that was read has."""
        return [str(key) for key in (*self.by_name, *self.by_path) if key not in self._used]
