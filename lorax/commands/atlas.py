"""The commands about the atlas: LoRA weights compared, searched, clustered."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lorax.commands.console import Json, err, opened, out, print_json

if TYPE_CHECKING:
    from lorax.atlas.index import Atlas

atlas_commands = typer.Typer(no_args_is_help=True)

AtlasDir = Annotated[
    Path | None, typer.Option("--atlas", metavar="DIR", help="The atlas; the workspace's own, if not given.")
]


def _path(text: str) -> Path:
    if not text:
        raise typer.BadParameter("an empty path was given; expected a file or folder.")
    return Path(text)


Descriptor = Annotated[str, typer.Option(help="Compare by product, spectrum or factors.")]
Group = Annotated[str, typer.Option(help="Of which layers: all, attention, feed-forward, early, late, qk, ...")]
Base = Annotated[str | None, typer.Option(metavar="NAME", help="The base model, whatever the files say.")]


@atlas_commands.command()
def add(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="PATH", parser=_path, help="Safetensors files, PEFT folders, learner states, folders of them."
        ),
    ],
    label: Annotated[str | None, typer.Option(help="What all of them learned.")] = None,
    labels: Annotated[
        Path | None, typer.Option(metavar="CSV", help="What each learned: columns name (or path) and label.")
    ] = None,
    base: Base = None,
    keep_going: Annotated[bool, typer.Option("--keep-going", help="Add the good ones if some are refused.")] = False,
    with_factors: Annotated[
        bool, typer.Option("--with-factors", help="Keep A and B, too, for --descriptor factors; said at the first add.")
    ] = False,
    atlas: AtlasDir = None,
    as_json: Json = False,
) -> None:
    """Add LoRA adapters to an atlas, all or none, and say what each newcomer is nearest to.

    The first add makes the atlas; later ones must be of the same base model and layers. If some are refused nothing is
    added and every one is named; the exit code is then 1, also with --keep-going.

    Example: `lorax atlas add ~/loras --labels artists.csv --atlas ~/styles`
    """
    from lorax import progress
    from lorax.atlas.labels import Labels
    from lorax.commands import atlas_records as doing
    from lorax.commands import atlas_tables

    if label is not None and labels is not None:
        raise typer.BadParameter("expected one of --label TEXT and --labels CSV")
    told = Labels.read(labels) if labels is not None else Labels(everyone=label)
    terms = doing.Terms(told, base, keep_going, with_factors)
    with progress.counting(err) as shown:
        record = doing.add(doing.folder_of(atlas), paths, terms, _say_waiting, shown)
    _print(record, atlas_tables.print_added, as_json)
    if record["refused"]:
        raise typer.Exit(1)


@atlas_commands.command()
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
    from lorax.commands import atlas_queries, atlas_tables

    found = _opened(atlas)
    with err.status("comparing"):
        record = atlas_queries.look_up(found, atlas_queries.Query.of(query, found, base), k, descriptor, group)
    _print(record, atlas_tables.print_found, as_json)


@atlas_commands.command()
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
    from lorax.commands import atlas_records as doing
    from lorax.commands import atlas_tables

    with err.status("clustering"):
        record = doing.cluster(_opened(atlas), clusters, descriptor, group)
    _print(record, atlas_tables.print_clusters, as_json)


@atlas_commands.command(name="map")
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
    from lorax.commands import atlas_records as doing

    found = _opened(atlas)
    with err.status("drawing"):
        record = doing.draw(found, out_dir or found.folder, descriptor, group)
    _print(record, lambda record, out: out.print("\n".join(record["files"]), markup=False), as_json)


@atlas_commands.command()
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
    from lorax.commands import atlas_queries, atlas_tables

    _print(atlas_queries.compare(first, second, atlas), atlas_tables.print_compared, as_json)


@atlas_commands.command()
def attribute(
    folder: Annotated[Path, typer.Argument(help="Images of one unknown generator; a handful will do.")],
    version: Annotated[str, typer.Option(metavar="V|@ALIAS", help="Whose branches to compare with.")] = "@champion",
    as_json: Json = False,
) -> None:
    """Say which known generators made images most like these, by a quick branch learned from them.

    The probe learns, in seconds, to tell the images from real exemplars, and its weights are compared with those of
    the version's branches. Example: `lorax atlas attribute ~/unknown`
    """
    from lorax import attribution
    from lorax.commands import access, atlas_tables

    workspace, params = opened()
    _, state_dir = access.fetched(workspace, params, version)
    with err.status("learning a probe") as status:
        record = attribution.attribute(workspace, state_dir, params, folder, lambda what: status.update(what))
    _print(record, atlas_tables.print_attribution, as_json)


@atlas_commands.command()
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
    from lorax.commands import atlas_records as doing
    from lorax.commands import atlas_tables

    found = _opened(atlas)
    with err.status("fitting"):
        record = doing.fit(found, descriptor, group, dims)
    _print(record, atlas_tables.print_fitted, as_json)


@atlas_commands.command(name="list")
def show(
    csv: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the entries to a CSV, too.")] = None,
    atlas: AtlasDir = None,
    as_json: Json = False,
) -> None:
    """List the entries in the order in which they were added.

    Example: `lorax atlas list --csv entries.csv`
    """
    from lorax.commands import atlas_tables
    from lorax.storage import write_whole

    found = _opened(atlas)
    table = found.table()
    if csv is not None:
        write_whole(csv, table.to_csv(index=False))
    _print(table.to_dict("records"), atlas_tables.print_entries, as_json)


def _opened(atlas_dir: Path | None) -> Atlas:
    from lorax.atlas.index import Atlas
    from lorax.commands import atlas_records as doing

    found = Atlas.open(doing.folder_of(atlas_dir))
    found.describer  # noqa: B018  # refuses an empty one
    return found


def _print(record: Any, show: Callable[..., None], as_json: bool) -> None:
    if as_json:
        print_json(record)
    else:
        show(record, out)


def _say_waiting() -> None:
    err.print("another 'lorax atlas add' is at work in this atlas: waiting for it to end.")
