"""The registry's journal: who moved the champion, when and why, and which tasks are quarantined.

MLflow's aliases keep no history, so it is written beside them: one tag of the registered model per entry, never changed
afterwards. An entry's number is greater than all that its writer saw; two writers at once may use the same number, so
the key ends with a few random letters and no entry is lost. Of moves only one can follow another: see claims.py.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from itertools import accumulate
from typing import Any

from lorax.errors import RegistryError
from lorax.registry.client import upsert

PROMOTED, ROLLED_BACK, MOVED = "promoted", "rolled back", "moved"
REFUSED, BASE_MOVED, WAITING, PASSED = "refused", "base moved", "waiting", "passed"
HELD, RELEASED, DELETED, WITHDRAWN = "held", "released", "deleted", "withdrawn"

GATE = "the gate"
"""Who promotes when nobody does it by hand."""

MLFLOW = "MLflow"
"""Who moved the alias when it was done in MLflow itself."""

NO_VERSION = 0
"""Of an entry about a task that no version knows."""

_MOVES = (PROMOTED, ROLLED_BACK, MOVED)
_QUARANTINES = (REFUSED, HELD, WAITING, WITHDRAWN)
_PREFIX = "mlflow.lorax.journal."
"""MLflow's page hides tags whose names begin so; as all others, they would stand above the versions."""

_KEY = re.compile(r"(?:mlflow\.)?lorax\.journal\.(\d+)\..*")
"""Entries from before that begin with lorax."""

_REASON_LENGTH, _NAME_LENGTH = 3000, 300
"""Characters that they may take as JSON. MLflow keeps up to 5000 of a registered model's tag, 6000 of a parameter."""


@dataclass(frozen=True)
class Entry:
    """One line of the journal: a move of the champion, what came of a challenger, of a task, or a deleted version."""

    kind: str  # one of the words above
    version: int  # that is champion now, is a challenger or was deleted; NO_VERSION where no version knows the task
    reason: str
    by: str
    at: datetime
    task: str = ""  # '' where it means nothing; of "rolled back" to be learned anew, of "promoted" to be rid of
    digest: str = ""  # of the bytes that the task has
    number: int = 0
    key: str = ""  # the tag's; '' until the entry has its place in the journal

    @property
    def is_move(self) -> bool:
        return self.kind in _MOVES

    @property
    def is_by_hand(self) -> bool:
        """Whether a person moved the champion; that wins against the gate."""
        return self.is_move and self.by != GATE


@dataclass(frozen=True)
class Quarantine:
    """A task that must not be learned while it has these bytes."""

    task: str
    digest: str
    reason: str
    by: str
    at: datetime
    version: int  # which knew it, or was refused; NO_VERSION: none
    is_withdrawn: bool = False  # it left data.dvc for good


def entry(kind: str, version: int, *, by: str, reason: str, task: str = "", digest: str = "") -> Entry:
    """A new entry, made now."""
    return Entry(kind, version, _cut(reason, _REASON_LENGTH), _cut(by, _NAME_LENGTH), datetime.now(UTC), task, digest)


def read(tags: Mapping[str, str]) -> list[Entry]:
    """The entries among a registered model's tags, oldest first.

    Raises:
        RegistryError: one of them was edited by hand.
    """
    entries = [parse(key, text) for key, text in tags.items() if _KEY.fullmatch(key)]
    return sorted(entries, key=lambda e: (e.number, e.at))


def write(client: Any, model: str, new: Entry) -> None:
    """Append an entry to the journal of a registered model as it is now."""
    put(client, model, numbered(new, read(client.get_registered_model(model).tags)))


def numbered(new: Entry, seen: Sequence[Entry]) -> Entry:
    """The entry with a number and a key of its own.

    Args:
        seen: what the writer decided on. Before a move a number is left free, for what it brings with it.
    """
    number = (seen[-1].number if seen else 0) + (2 if new.is_move else 1)
    return replace(new, number=number, key=f"{_PREFIX}{number:06d}.{secrets.token_hex(3)}")


def beside(move: Entry, kind: str, of: Quarantine) -> Entry:
    """The entry right before a move that says what it did to a task: the same one whoever writes it."""
    mark = hashlib.sha256(f"{of.task} {of.digest}".encode()).hexdigest()[:6]
    number = move.number - 1
    _, _, token = move.key.removeprefix(_PREFIX).partition(".")
    key = f"{_PREFIX}{number:06d}.{token}-{mark}"
    return Entry(kind, of.version, move.reason, move.by, move.at, of.task, of.digest, number, key)


def put(client: Any, model: str, numbered_entry: Entry) -> None:
    """Write an entry that has its key; writing it again changes nothing."""
    upsert(client.set_registered_model_tag, model, numbered_entry.key, text_of(numbered_entry))


def text_of(found: Entry) -> str:
    """The value of an entry's tag; `parse` reads it."""
    record = asdict(found) | {"at": found.at.isoformat()}
    del record["number"], record["key"]
    return json.dumps(record, ensure_ascii=False)


def quarantined(entries: Iterable[Entry]) -> list[Quarantine]:
    """The tasks that are quarantined after all of `entries`, in the order in which they came to be."""
    found: dict[tuple[str, str], Quarantine] = {}
    for e in entries:
        if e.kind in _QUARANTINES:
            is_withdrawn = e.kind == WITHDRAWN
            found[e.task, e.digest] = Quarantine(e.task, e.digest, e.reason, e.by, e.at, e.version, is_withdrawn)
        elif e.kind in (RELEASED, BASE_MOVED):
            found.pop((e.task, e.digest), None)
    return list(found.values())


def last_move(entries: Sequence[Entry]) -> Entry | None:
    """The entry that says which version is champion, or None while there never was one."""
    return next((e for e in reversed(entries) if e.is_move), None)


def moves_after(entries: Sequence[Entry], move: Entry | None) -> list[Entry]:
    """The moves since `move`, oldest first; all of them if that is None."""
    return [e for e in entries if e.is_move and (move is None or e.number > move.number)]


def parse(key: str, text: str) -> Entry:
    """The entry of a tag.

    Raises:
        RegistryError: it was edited by hand.
    """
    try:
        record = json.loads(text)
        at = datetime.fromisoformat(record["at"])
        return Entry(**(record | {"at": at, "number": _number(key), "key": key}))
    except (ValueError, TypeError, KeyError) as error:
        raise RegistryError(
            f"tag {key!r} of the registered model can't be read as an entry of lorax's journal ({error}): it was "
            "edited by hand. Put it right, or delete the tag, in Python: mlflow.MlflowClient has "
            "set_registered_model_tag and delete_registered_model_tag."
        ) from error


def _cut(text: str, limit: int) -> str:
    """So much of a text as takes at most `limit` characters as JSON, where quotes and line breaks take two."""
    taken = accumulate(len(json.dumps(letter, ensure_ascii=False)) - 2 for letter in text[:limit])
    return text[: sum(length <= limit for length in taken)]


def _number(key: str) -> int:
    found = _KEY.fullmatch(key)
    if found is None:
        raise ValueError(f"{key!r} is no entry's key")
    return int(found[1])
