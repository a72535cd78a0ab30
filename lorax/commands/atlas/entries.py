"""`lorax atlas cluster`, `map`, `fit`, `list`, `export` and `import`: all entries of an atlas, here and elsewhere."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from lorax.commands.atlas.options import (
    MOST_NAMES,
    AtlasDir,
    Descriptor,
    Group,
    algorithm,
    cells,
    clipped,
    folder_of,
    opened_atlas,
    say_waiting,
)
from lorax.commands.console import Json, err, print_record
from lorax.commands.tables import PLAIN, print_table, table
from lorax.errors import AtlasError, printable
from lorax.text import percent, some

if TYPE_CHECKING:
    from lorax.atlas.index import Atlas

_COLUMNS = ("name", "label", "kind", "format", "algorithm", "rank", "base", "added")


def cluster(
    clusters: Annotated[int | None, typer.Option(min=1, help="How many; found by silhouette, if not given.")] = None,
    descriptor: Descriptor = "product",
    group: Group = "all",
    atlas: AtlasDir = None,
    as_json: Json = False,
) -> None:
    """Part the entries into families, say why so many, and how well they agree with the labels.

    Example: `lorax atlas cluster --group feed-forward`
    """
    with err.status("clustering"):
        record = _cluster(opened_atlas(atlas), clusters, descriptor, group)
    print_record(record, _print_clusters, as_json)


def draw(
    out_dir: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Where to; the atlas's folder, if not given.")
    ] = None,
    descriptor: Descriptor = "product",
    group: Group = "all",
    atlas: AtlasDir = None,
    as_json: Json = False,
) -> None:
    """Draw the atlas: map.png, and map.html, which tells more under the mouse and works offline.

    Example: `lorax atlas map --out work/figures`
    """
    drawn = opened_atlas(atlas)
    with err.status("drawing"):
        from lorax.atlas.drawing import save_map

        paths = save_map(drawn, out_dir or drawn.folder, descriptor, group)
    if not paths:
        raise AtlasError(
            f"the atlas at {drawn.folder} holds {len(drawn)} of the two entries or more that a map needs: "
            "'lorax atlas add PATH'."
        )
    record = {"files": [str(path) for path in paths], "compared by": drawn.view(descriptor, group).described}
    print_record(record, lambda record, out: out.print("\n".join(record["files"]), markup=False), as_json)


def _cluster(atlas: Atlas, count: int | None, descriptor: str, group: str) -> dict[str, Any]:
    """Families of the entries; those whose training began at another's weights are left out."""
    from lorax.atlas.clustering import agreement, find_families, most_clusters
    from lorax.atlas.segments import counted

    view = atlas.view(descriptor, group)
    numbers = [i for i, entry in enumerate(atlas.entries) if not entry.is_derived]
    if count is not None and count > (most := most_clusters(len(numbers))):
        of = counted(len(numbers), "entry", "entries")
        raise AtlasError(f"{count} clusters of {of} can't be. Ask for {most} at most.")
    entries = [atlas.entries[i] for i in numbers]
    families = find_families(view.vectors[numbers], count)
    agreed = agreement(families.members, [entry.label for entry in entries])
    clusters = [[entries[i] for i in (families.members == number).nonzero()[0]] for number in range(families.count)]
    return {
        "compared by": view.described,
        "entries": len(entries),
        "left out": len(atlas) - len(entries),
        "asked for": count,
        "count": families.count,
        "silhouette": families.silhouette,
        "best": [{"clusters": n, "silhouette": s} for n, s in families.best],
        "curve": {str(n): s for n, s in families.curve.items()},
        "without families": families.chance,
        "nmi": agreed and agreed[0],
        "ari": agreed and agreed[1],
        "clusters": [
            {"members": [e.name for e in some], "labels": dict(Counter(e.label for e in some if e.label).most_common())}
            for some in clusters
        ],
    }


def _print_clusters(record: dict[str, Any], out: Console) -> None:
    shown = table("cluster", "entries", "labels", "members", right=("entries",), **PLAIN)
    for number, cluster in enumerate(record["clusters"], 1):
        labels = ", ".join(f"{clipped(label)} {count}" for label, count in cluster["labels"].items())
        members = some(list(map(clipped, cluster["members"])), MOST_NAMES)
        shown.add_row(str(number), str(len(cluster["members"])), Text(labels), Text(members))
    print_table(shown, out)
    out.print(f"compared by {record['compared by']}", markup=False)
    if record["best"]:
        best = ", ".join(f"{of['clusters']} ({of['silhouette']:.3f})" for of in record["best"])
        out.print(f"best numbers of clusters, by silhouette: {best}")
    out.print(_why(record))
    if record["nmi"] is not None:
        out.print(f"against the labels: NMI {record['nmi']:.3f}, ARI {record['ari']:.3f}")
    if record["left out"]:
        out.print(f"{record['left out']} left out: their training began at another entry's weights.")


def _why(record: dict[str, Any]) -> str:
    clusters = f"{record['count']} cluster{'s' * (record['count'] > 1)}"
    if record["asked for"] is not None:
        of = "" if record["silhouette"] is None else f", of silhouette {record['silhouette']:.3f}"
        return f"{clusters}, as asked for{of}."
    part = "'--clusters N' parts them all the same."
    if record["without families"] is None:
        few = "1 entry is" if record["entries"] == 1 else f"{record['entries']} entries are"
        return f"No families are seen: {few} too few to tell. {part}"
    chance = f"a single cloud of the same spread reaches {record['without families']:.3f}"
    if record["count"] == 1:
        return f"No families are seen: {chance}. {part}"
    return f"{clusters}: {chance}, so they are more than chance."


def fit(
    descriptor: Descriptor = "product",
    group: Group = "all",
    dims: Annotated[int | None, typer.Option(min=2, help="Principal components at most.")] = None,
    atlas: AtlasDir = None,
    as_json: Json = False,
) -> None:
    """Fit the principal components in which entries are compared anew, over all of them.

    Advised when newcomers lie outside what the last fit has seen. Example: `lorax atlas fit --dims 64`
    """
    fitted = opened_atlas(atlas)
    with err.status("fitting"):
        import numpy as np

        from lorax.atlas.view import DIMS

        view = fitted.fit(descriptor, group, dims or DIMS)
    assert view.basis is not None
    record = {
        "compared by": view.described,
        "entries": len(fitted),
        "dims": len(view.basis.components),
        "median residual": None if view.limit is None else float(np.median(view.basis.usual)),
        "usual residual": view.limit,
    }
    print_record(record, _print_fitted, as_json)


def _print_fitted(record: dict[str, Any], out: Console) -> None:
    out.print(record["compared by"], markup=False)
    if record["usual residual"] is None:
        out.print("outside the basis: nothing, it has as many components as there are columns")
        return
    out.print(
        f"outside the basis: {percent(record['median residual'])} of a newcomer like them, up to "
        f"{percent(record['usual residual'])} of 19 in 20"
    )


def show(
    csv: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the entries to a CSV, too.")] = None,
    atlas: AtlasDir = None,
    as_json: Json = False,
) -> None:
    """List the entries in the order in which they were added.

    Example: `lorax atlas list --csv entries.csv`
    """
    from lorax.storage import write_whole

    entries = opened_atlas(atlas).table()
    if csv is not None:
        write_whole(csv, entries.to_csv(index=False))
    print_record(entries.to_dict("records"), _print_entries, as_json)


def _print_entries(rows: list[dict[str, Any]], out: Console) -> None:
    shown = table(*_COLUMNS, right=("rank",), **PLAIN)
    for row in rows:
        shown.add_row(*cells(*((row | {"algorithm": algorithm(row)})[column] for column in _COLUMNS)))
    print_table(shown, out)


def _address(text: str) -> str:
    if not text:
        raise typer.BadParameter("an empty address was given; expected a folder or a URL.")
    return text


_Address = Annotated[
    str, typer.Argument(metavar="ADDRESS", parser=_address, help="A folder, or a URL such as s3://BUCKET/NAME.")
]


def send(address: _Address, atlas: AtlasDir = None, as_json: Json = False) -> None:
    """Copy the atlas elsewhere, or what it has grown by since; a reader there sees the old revision or the new one.

    Example: `lorax atlas export s3://models/styles --atlas styles`
    """
    from lorax import progress
    from lorax.atlas.sharing import export_atlas

    folder = folder_of(atlas)
    with progress.counting(err) as shown:
        record = export_atlas(folder, address, shown, say_waiting)
    print_record({"atlas": str(folder), "to": address, "entries": record.entries}, _print_copied, as_json)


def bring(address: _Address, atlas: AtlasDir = None, as_json: Json = False) -> None:
    """Copy an atlas from elsewhere, or what it has grown by since; begins the folder that `--atlas` names.

    Example: `lorax atlas import s3://models/styles --atlas styles`
    """
    from lorax import progress
    from lorax.atlas.sharing import import_atlas

    folder = folder_of(atlas)
    with progress.counting(err) as shown:
        record = import_atlas(address, folder, shown, say_waiting)
    print_record({"atlas": str(folder), "from": address, "entries": record.entries}, _print_copied, as_json)


def _print_copied(record: dict[str, Any], out: Console) -> None:
    *_, (which, address), (_, entries) = record.items()
    out.print(f"{record['atlas']}: {entries} entries copied {which} {printable(address)}", markup=False)
