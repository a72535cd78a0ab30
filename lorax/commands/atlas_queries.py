"""What `lorax atlas search` and `compare` do: an adapter looked up, two set side by side."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from lorax.atlas.adapter import Adapter
from lorax.atlas.adding import check_base, finite_numbers, too_large
from lorax.atlas.comparing import Comparison, Sketched, compare_factors, compare_rows
from lorax.atlas.formats import read_all
from lorax.atlas.index import KEPT, Atlas
from lorax.atlas.searching import search
from lorax.atlas.view import POOLED
from lorax.commands.atlas_records import Record, folder_of
from lorax.errors import AdapterError, AtlasError, printable


@contextmanager
def _on_one_line() -> Iterator[None]:
    """Write out line breaks and escape sequences, which paths may hold, in the errors of a function."""
    try:
        yield
    except (AdapterError, AtlasError) as error:
        raise type(error)(printable(str(error))) from error


@dataclass(frozen=True)
class Query:
    """What is looked for: an entry of an atlas by its name, or an adapter from elsewhere."""

    text: str
    adapter: Adapter | None = None

    @classmethod
    @_on_one_line()
    def of(cls, text: str, atlas: Atlas | None, base: str | None = None) -> Query:
        """An entry's name comes first; what is no entry is a path.

        Raises:
            AdapterError: nothing that can be read lies there.
            AtlasError: it is neither.
        """
        path = Path(text)
        if atlas is not None and text in atlas:
            return cls(text)
        if atlas is not None and not _exists(text):
            if len(atlas) == 0:
                raise AdapterError(f"{text} doesn't exist, and the atlas at {atlas.folder} is empty. Check the path.")
            atlas.entry(text)
        adapters = read_all(path, base)
        if len(adapters) == 1:
            return cls(text, adapters[0])
        named = ", ".join(adapter.name for adapter in adapters)
        raise AdapterError(
            f"{text} holds {len(adapters)} branches; expected one adapter. Name one: {path / 'branches'}/NUMBER-TASK, "
            f"of {named}."
        )


@_on_one_line()
def look_up(atlas: Atlas, query: Query, k: int, descriptor: str, group: str) -> Record:
    """The entries nearest to a query.

    Raises:
        AdapterError: it is damaged, or can't be compared with the atlas's adapters by this descriptor.
        AtlasError: the atlas is empty or damaged, or doesn't keep the descriptor.
    """
    note = ""
    if descriptor == "spectrum" and query.adapter is not None:
        try:
            atlas.describer.check(query.adapter, [descriptor])
            check_base(atlas.base, query.adapter)
        except AdapterError as error:
            descriptor, note = POOLED, _why_pooled(str(error))
    answer = search(atlas, query.adapter or query.text, k, descriptor, group)
    same = query.adapter and next((e.name for e in atlas.entries if e.digest == query.adapter.digest), None)
    return {
        "query": printable(query.text),
        "compared by": answer.described,
        "note": note,
        "in the atlas as": same,
        "residual": answer.residual,
        "usual residual": answer.limit,
        "neighbours": [asdict(neighbour) for neighbour in answer.neighbours],
    }


def _why_pooled(refusal: str) -> str:
    return f"Only pooled spectra can be compared: {refusal.partition('. ')[0]}."


@_on_one_line()
def compare(first: str, second: str, atlas_dir: Path | None) -> Record:
    """Two adapters layer by layer: exactly, where both are files, of which no atlas has to know.

    Raises:
        AdapterError: one is damaged, or they can't be compared.
        AtlasError: the atlas is damaged.
    """
    try:
        atlas = Atlas.open(folder_of(atlas_dir))
    except AtlasError as error:
        lacking = next((text for text in (first, second) if not _exists(text)), None)
        if atlas_dir is not None:
            raise
        if lacking is not None:
            raise AdapterError(f"{lacking!r} is no file or folder; and as for an atlas's entry: {error}") from error
        atlas = None
    one, other = Query.of(first, atlas), Query.of(second, atlas)
    if one.adapter is not None and other.adapter is not None:
        found = compare_factors(one.adapter, other.adapter)
    else:
        assert atlas is not None  # one of them is an entry of it
        found = compare_rows(atlas.describer, _sketched(atlas, one), _sketched(atlas, other))
    return {"first": printable(one.text), "second": printable(other.text), **_compared(found)}


def _exists(text: str) -> bool:
    """Whether a file or folder lies there; a text that no path can be is none, and neither is an empty one."""
    try:
        return bool(text) and Path(text).exists()
    except OSError:
        return False


def _sketched(atlas: Atlas, query: Query) -> Sketched:
    if query.adapter is None:
        return Sketched(atlas.row(query.text), atlas.row(query.text, "spectrum"))
    atlas.describer.check(query.adapter, KEPT)
    factors = query.adapter.factors()
    with finite_numbers(query.adapter):
        rows = atlas.describer.describe(factors)
    found = Sketched(rows["product"].float().numpy(), rows["spectrum"].float().numpy())
    if not (np.isfinite(found.product).all() and np.isfinite(found.spectrum).all()):
        raise too_large(query.adapter)
    return found


def _compared(found: Comparison) -> Record:
    return {
        "exact": found.error is None,
        "error": found.error,
        "cosine": found.cosine,
        "norms": found.norms,
        "only first": found.only[0],
        "only second": found.only[1],
        "layers": [asdict(like) for like in found.layers],
    }
