"""`lorax atlas search`, `parts`, `compare` and `attribute`: what an adapter, or images, are like or made of."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from lorax.commands import access
from lorax.commands.atlas.options import (
    MOST_NAMES,
    AtlasDir,
    Base,
    Descriptor,
    Group,
    cells,
    clipped,
    decimal,
    folder_of,
    opened_atlas,
)
from lorax.commands.console import Json, VersionName, err, opened, print_record
from lorax.commands.tables import PLAIN, print_table, table
from lorax.errors import AdapterError, AtlasError, printable
from lorax.text import percent, some

if TYPE_CHECKING:
    from lorax.atlas.adapter import Adapter
    from lorax.atlas.comparing import Sketched
    from lorax.atlas.index import Atlas


def search(
    query: Annotated[str, typer.Argument(help="An entry's name; or else a file or folder with one adapter.")],
    k: Annotated[int, typer.Option("-k", min=1, help="How many neighbours.")] = 10,
    descriptor: Descriptor = "product",
    group: Group = "all",
    base: Base = None,
    atlas: AtlasDir = None,
    as_json: Json = False,
) -> None:
    """List the entries that are most similar to an adapter, the nearest first.

    One of another base model is refused; `--descriptor spectrum` compares it by what all base models have in common.

    Example: `lorax atlas search downloads/style.safetensors -k 5 --atlas ~/styles`
    """
    searched = opened_atlas(atlas)
    with err.status("comparing"), _on_one_line():
        record = _search(searched, _Query.of(query, searched, base), k, descriptor, group)
    print_record(record, _print_neighbours, as_json)


def _search(atlas: Atlas, query: _Query, k: int, descriptor: str, group: str) -> dict[str, Any]:
    from lorax.atlas import searching
    from lorax.atlas.adding import check_base
    from lorax.atlas.view import POOLED

    note = ""
    if descriptor == "spectrum" and query.adapter is not None:
        try:
            atlas.describer.check(query.adapter, [descriptor])
            check_base(atlas.base, query.adapter)
        except AdapterError as error:
            descriptor, note = POOLED, f"Only pooled spectra can be compared: {str(error).partition('. ')[0]}."
    result = searching.search(atlas, query.adapter or query.text, k, descriptor, group)
    same = query.adapter and next((e.name for e in atlas.entries if e.digest == query.adapter.digest), None)
    return {
        "query": printable(query.text),
        "compared by": result.described,
        "note": note,
        "in the atlas as": same,
        "residual": result.residual,
        "usual residual": result.limit,
        "neighbours": [asdict(neighbour) for neighbour in result.neighbours],
    }


def _print_neighbours(record: dict[str, Any], out: Console) -> None:
    from lorax.atlas.segments import DERIVED

    columns = ["name", "label", *(["kind"] if any(n["kind"] == DERIVED for n in record["neighbours"]) else [])]
    shown = table("rank", *columns, "similarity", right=("rank", "similarity"), **PLAIN)
    for rank, near in enumerate(record["neighbours"], 1):
        shown.add_row(str(rank), *cells(*(near[column] for column in columns)), decimal(near["similarity"]))
    print_table(shown, out)
    out.print(f"compared by {record['compared by']}", markup=False)
    if record["note"]:
        out.print(record["note"], markup=False)
    if record["in the atlas as"]:
        out.print(f"{record['query']} is in the atlas as {record['in the atlas as']}", markup=False)
    if record["residual"] is not None and record["residual"] > record["usual residual"]:
        out.print(
            f"{percent(record['residual'])} of it lies outside the basis, where up to "
            f"{percent(record['usual residual'])} is usual: it is unlike what the atlas holds."
        )


def parts(
    query: Annotated[str, typer.Argument(help="An entry's name; or else a file or folder with one adapter.")],
    atlas: AtlasDir = None,
    as_json: Json = False,
) -> None:
    """Say which entries an adapter is made of: a merge by weights, a copy, or one that was trained on.

    Example: `lorax atlas parts downloads/mix.safetensors --atlas ~/styles`
    """
    from lorax.atlas.merges import parts_of

    searched = opened_atlas(atlas)
    with err.status("comparing"), _on_one_line():
        asked = _Query.of(query, searched)
        found = parts_of(searched, asked.adapter or asked.text)
    record = {"query": printable(query), "told": found.told, "parts": [asdict(part) for part in found.parts]}
    print_record(record, _print_parts, as_json)


def _print_parts(record: dict[str, Any], out: Console) -> None:
    if record["parts"]:
        shown = table("part", "label", "weight", "share", right=("weight", "share"), **PLAIN)
        for part in record["parts"]:
            shown.add_row(*cells(part["name"], part["label"]), decimal(part["weight"]), percent(part["share"]))
        print_table(shown, out)
    what = "of what it changes is made of these" if record["parts"] else "of it is made of any entry"
    out.print(f"{percent(record['told'])} {what}; the rest the atlas doesn't hold.", markup=False)


def compare(
    first: Annotated[str, typer.Argument(help="A file, a folder, or an entry's name.")],
    second: Annotated[str, typer.Argument(help="Another.")],
    atlas: AtlasDir = None,
    as_json: Json = False,
) -> None:
    """Compare two adapters layer by layer: how similar their products are, their norms and ranks.

    Of two files the figures are exact, and no atlas is needed.

    Example: `lorax atlas compare a.safetensors b.safetensors`
    """
    with _on_one_line():
        record = _compare(first, second, atlas)
    print_record(record, _print_compared, as_json)


def _compare(first: str, second: str, atlas_dir: Path | None) -> dict[str, Any]:
    from lorax.atlas.comparing import compare_factors, compare_rows
    from lorax.atlas.index import Atlas

    try:
        atlas = Atlas.open(folder_of(atlas_dir))
    except AtlasError as error:
        lacking = next((text for text in (first, second) if not _exists(text)), None)
        if atlas_dir is not None:
            raise
        if lacking is not None:
            raise AdapterError(f"{lacking!r} is no file or folder; and as for an atlas's entry: {error}") from error
        atlas = None
    one, other = _Query.of(first, atlas), _Query.of(second, atlas)
    if one.adapter is not None and other.adapter is not None:
        comparison = compare_factors(one.adapter, other.adapter)
    else:
        assert atlas is not None  # one of them is an entry of it
        comparison = compare_rows(atlas.describer, _sketched(atlas, one), _sketched(atlas, other))
    return {
        "first": printable(one.text),
        "second": printable(other.text),
        "exact": comparison.error is None,
        "error": comparison.error,
        "cosine": comparison.cosine,
        "norms": comparison.norms,
        "only first": comparison.only[0],
        "only second": comparison.only[1],
        "layers": [asdict(layer) for layer in comparison.layers],
    }


def _sketched(atlas: Atlas, query: _Query) -> Sketched:
    from lorax.atlas.comparing import Sketched

    if query.adapter is not None:
        return Sketched.of(query.adapter, atlas.describer)
    return Sketched(atlas.row(query.text), atlas.row(query.text, "spectrum"))


def _print_compared(record: dict[str, Any], out: Console) -> None:
    numbers = ("cosine", "norm", "norm", "stable rank", "stable rank")
    shown = table("layer", *numbers, right=numbers, **PLAIN)
    for layer in record["layers"]:
        norms, ranks = (f"{norm:.4g}" for norm in layer["norms"]), (decimal(rank, 2) for rank in layer["ranks"])
        shown.add_row(*cells(layer["name"]), decimal(layer["cosine"]), *norms, *ranks)
    shown.add_section()
    shown.add_row("all", decimal(record["cosine"]), *(f"{norm:.4g}" for norm in record["norms"]), "", "")
    print_table(shown, out)
    for which in ("first", "second"):
        if layers := record[f"only {which}"]:
            counted = f"{len(layers)} layer{'s' * (len(layers) > 1)}"
            out.print(
                f"{counted} that only the {which} has: {some(list(map(clipped, layers)), MOST_NAMES)}", markup=False
            )
    if record["exact"]:
        out.print("exact, from the factors")
    else:
        least, most = record["error"]
        out.print(
            f"cosines are estimates from the atlas's sketches, a layer's typically off by {least:.2f} to {most:.2f}; "
            "norms and ranks are exact. Name two files for exact cosines."
        )


def attribute(
    folder: Annotated[Path, typer.Argument(help="Images of one unknown generator; a handful will do.")],
    version: VersionName = "@champion",
    as_json: Json = False,
) -> None:
    """Say which known generators made images most like these, by a quick branch learned from them.

    The probe learns, in seconds, to tell the images from real exemplars, and its weights are compared with those of
    the version's branches. Example: `lorax atlas attribute ~/unknown`
    """
    from lorax import attribution

    workspace, params = opened()
    _, state_dir = access.fetched(workspace, params, version)
    with err.status("learning a probe") as status:
        record = attribution.attribute(workspace, state_dir, params, folder, lambda what: status.update(what))
    print_record(record, _print_attribution, as_json)


def _print_attribution(record: dict[str, Any], out: Console) -> None:
    for problem in record["problems"]:
        out.print(f"passed over: {problem}", style="yellow", markup=False)
    title = f"{record['images']} images, by a probe"
    shown = table("known generator", "similarity", right=("similarity",), title=title)
    for match in record["generators"]:
        shown.add_row(*cells(match["label"]), f"{match['similarity']:.2f}")
    print_table(shown, out)
    verdicts = ", ".join(f"{verdict} {count}" for verdict, count in record["classifier"].items())
    out.print(f"the classifier says: {verdicts}", markup=False)


@contextmanager
def _on_one_line() -> Iterator[None]:
    """Write out line breaks and escape sequences, which paths may hold, in the errors of a function."""
    try:
        yield
    except (AdapterError, AtlasError) as error:
        raise type(error)(printable(str(error))) from error


@dataclass(frozen=True)
class _Query:
    """An entry's name; or an adapter from elsewhere, and the path that was given."""

    text: str
    adapter: Adapter | None = None

    @classmethod
    def of(cls, text: str, atlas: Atlas | None, base: str | None = None) -> _Query:
        """An entry's name comes first; what is no entry is a path.

        Raises:
            AdapterError: nothing that can be read lies there.
            AtlasError: it is neither.
        """
        from lorax.atlas.formats import read_all

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


def _exists(text: str) -> bool:
    """Whether a file or folder lies there; a text that no path can be is none, and neither is an empty one."""
    try:
        return bool(text) and Path(text).exists()
    except OSError:
        return False
