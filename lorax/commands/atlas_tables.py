"""How `lorax atlas` prints its records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lorax.atlas.entry import DERIVED, counted
from lorax.commands.tables import print_table
from lorax.errors import printable

Record = dict[str, Any]

_MOST_LINES = 30
_MOST_NAMES = 6
_LONGEST = 80
_COLUMNS = ("name", "label", "kind", "format", "rank", "base", "added")


def print_added(record: Record, out: Console) -> None:
    """What came in, what each newcomer is nearest to, and what was refused."""
    added = record["added"]
    if added:
        placed = any(entry["residual"] is not None for entry in added)
        table = _table(
            "name", "label", "nearest", "its label", "similarity", *(["outside the basis"] if placed else [])
        )
        for entry in added[:_MOST_LINES]:
            near = entry["nearest"] or {"name": "", "label": "", "similarity": None}
            table.add_row(
                *_texts(entry["name"], entry["label"], near["name"], near["label"]),
                _number(near["similarity"]), *([_share(entry["residual"])] if placed else []),
            )  # fmt: skip
        print_table(table, out)
        _more(len(added), out)
        out.print(f"compared by {record['compared by']}", markup=False)
    for reason in record["refused"]:
        out.print(f"refused: {reason}", markup=False)
    if record["unused labels"]:
        names = _some(record["unused labels"])
        out.print(f"labels of {len(record['unused labels'])} that were not among them: {names}", markup=False)
    out.print(f"{len(added)} added: {record['entries']} in {record['atlas']}", markup=False)
    if record.get("refit advised"):
        out.print(f"A refit is advised, 'lorax atlas fit': {record['refit advised']}.", markup=False)


def print_found(record: Record, out: Console) -> None:
    """The neighbours of a query, ranked."""
    kinds = ["kind"] if any(near["kind"] == DERIVED for near in record["neighbours"]) else []
    table = _table("rank", "name", "label", *kinds, "similarity")
    for rank, near in enumerate(record["neighbours"], 1):
        cells = (near[column] for column in ("name", "label", *kinds))
        table.add_row(str(rank), *_texts(*cells), _number(near["similarity"]))
    print_table(table, out)
    out.print(f"compared by {record['compared by']}", markup=False)
    if record["note"]:
        out.print(record["note"], markup=False)
    if record["in the atlas as"]:
        out.print(f"{record['query']} is in the atlas as {record['in the atlas as']}", markup=False)
    if record["residual"] is not None and record["residual"] > record["usual residual"]:
        out.print(
            f"{_share(record['residual'])} of it lies outside the basis, where up to "
            f"{_share(record['usual residual'])} is usual: it is unlike what the atlas holds.",
            markup=False,
        )


def print_clusters(record: Record, out: Console) -> None:
    """The clusters, and why so many."""
    from rich.markup import escape

    table = _table("cluster", "entries", "labels", "members")
    for number, cluster in enumerate(record["clusters"], 1):
        labels = ", ".join(f"{_short(label)} {count}" for label, count in cluster["labels"].items())
        table.add_row(str(number), str(len(cluster["members"])), escape(labels), escape(_some(cluster["members"])))
    print_table(table, out)
    out.print(f"compared by {record['compared by']}", markup=False)
    if record["best"]:
        best = ", ".join(f"{of['clusters']} ({of['silhouette']:.3f})" for of in record["best"])
        out.print(f"best numbers of clusters, by silhouette: {best}")
    out.print(_why(record), markup=False)
    if record["nmi"] is not None:
        out.print(f"against the labels: NMI {record['nmi']:.3f}, ARI {record['ari']:.3f}")
    if record["left out"]:
        out.print(f"{record['left out']} left out: their training began at another entry's weights.")


def _why(record: Record) -> str:
    if record["asked for"] is not None:
        of = "" if record["silhouette"] is None else f", of silhouette {record['silhouette']:.3f}"
        return f"{counted(record['count'], 'cluster')}, as asked for{of}."
    part = "'--clusters N' parts them all the same."
    if record["without families"] is None:
        few = "1 entry is" if record["entries"] == 1 else f"{record['entries']} entries are"
        return f"No families are seen: {few} too few to tell. {part}"
    chance = f"a single cloud of the same spread reaches {record['without families']:.3f}"
    if record["count"] == 1:
        return f"No families are seen: {chance}. {part}"
    return f"{record['count']} clusters: {chance}, so they are more than chance."


def print_compared(record: Record, out: Console) -> None:
    """Layer by layer, then all."""
    table = _table("layer", "cosine", "norm", "norm", "stable rank", "stable rank")
    for like in record["layers"]:
        norms, ranks = (f"{norm:.4g}" for norm in like["norms"]), (_rank(rank) for rank in like["ranks"])
        table.add_row(*_texts(like["name"]), _number(like["cosine"]), *norms, *ranks)
    table.add_section()
    table.add_row("all", _number(record["cosine"]), *(f"{norm:.4g}" for norm in record["norms"]), "", "")
    print_table(table, out)
    for which, layers in (("first", record["only first"]), ("second", record["only second"])):
        if layers:
            out.print(f"{counted(len(layers), 'layer')} that only the {which} has: {_some(layers)}", markup=False)
    if record["exact"]:
        out.print("exact, from the factors")
    else:
        least, most = record["error"]
        out.print(
            f"cosines are estimates from the atlas's sketches, a layer's typically off by {least:.2f} to {most:.2f}; "
            "norms and ranks are exact. Name two files for exact cosines."
        )


def print_fitted(record: Record, out: Console) -> None:
    """What the new basis is."""
    out.print(f"{record['compared by']}", markup=False)
    if record["usual residual"] is None:
        out.print("outside the basis: nothing, it has as many components as there are columns")
        return
    out.print(
        f"outside the basis: {_share(record['median residual'])} of a newcomer like them, up to "
        f"{_share(record['usual residual'])} of 19 in 20"
    )


def print_entries(rows: Sequence[Record], out: Console) -> None:
    """The entries, in the order of adding."""
    table = _table(*_COLUMNS)
    for row in rows:
        table.add_row(*_texts(*(row[column] for column in _COLUMNS)))
    print_table(table, out)


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        right = column in ("rank", "similarity", "cosine", "norm", "stable rank", "outside the basis", "entries")
        table.add_column(column, justify="right" if right else "left", overflow="fold")
    return table


def _texts(*values: object) -> list[str]:
    """Cells without markup: names may hold brackets."""
    from rich.markup import escape

    return [escape(_short(str(value))) for value in values]


def _short(name: str) -> str:
    """A name on one line, that leaves room for other columns."""
    name = printable(name)
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _rank(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f} %"


def _some(names: Sequence[str]) -> str:
    more = len(names) - _MOST_NAMES
    return ", ".join(map(_short, names[:_MOST_NAMES])) + (f" and {more} more" if more > 0 else "")


def _more(count: int, out: Console) -> None:
    if count > _MOST_LINES:
        out.print(f"and {count - _MOST_LINES} more; --json tells all")


def print_attribution(record: Mapping[str, Any], out: Console) -> None:
    """For people: the generators, the most similar first, and the classifier's answer beside them."""
    for problem in record["problems"]:
        out.print(f"passed over: {problem}", style="yellow", markup=False)
    table = Table(title=f"{record['images']} images, by a probe", title_justify="left")
    for name in ("known generator", "similarity"):
        table.add_column(name, justify="right" if name == "similarity" else "left")
    for match in record["generators"]:
        table.add_row(Text(match["label"]), f"{match['similarity']:.2f}")
    print_table(table, out)
    said = ", ".join(f"{verdict} {count}" for verdict, count in record["classifier"].items())
    out.print(f"the classifier says: {said}", markup=False)
