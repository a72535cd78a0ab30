"""The map of an atlas as one HTML file that needs nothing else: the picture's parts, telling more under the mouse."""

from __future__ import annotations

import html
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from lorax.atlas.arrangement import Arrangement, arrange, clipped, text_of
from lorax.atlas.index import Atlas
from lorax.atlas.picture import MOST_NAMED, looks, save_picture
from lorax.storage import write_whole

_HEIGHT_PX = 780
_MOST_DRAWN_ONE_BY_ONE = 3000
_SHAPES = {
    "o": "circle", "s": "square", "^": "triangle-up", "D": "diamond", "v": "triangle-down", "P": "cross", "X": "x",
    "p": "pentagon", "<": "triangle-left", ">": "triangle-right",
}  # fmt: skip
_CONFIG = {
    "displaylogo": False,
    "scrollZoom": True,
    "modeBarButtons": [["toImage", "zoom2d", "pan2d", "resetScale2d"]],  # plotly's own ones upload to its cloud
}
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Atlas: {title}</title>
<style>
body {{ margin: 0; min-width: 62rem; padding: 1rem 1.5rem; }}
body {{ font: 15px/1.5 system-ui, sans-serif; color: #222; background: #fff; }}
h1 {{ font-size: 1.25rem; margin: 0; }}
p {{ margin: .2rem 0 .4rem; color: #555; }}
</style>
</head>
<body>
<h1>{title}</h1>
<p>{described}</p>
{plot}
</body>
</html>
"""


def save_map(atlas: Atlas, directory: Path, descriptor: str = "product", group: str = "all") -> list[Path]:
    """Write map.png and map.html into `directory`, which is made if need be.

    Returns:
        Both paths; none where there are fewer than two entries, of which there is no map.

    Raises:
        AtlasError: the atlas is damaged, or doesn't keep this descriptor.
        AdapterError: there is no such group.
        StorageError: the disk is full.
    """
    if len(atlas) < 2:
        return []
    arrangement = arrange(atlas, descriptor, group)
    picture, page = directory / "map.png", directory / "map.html"
    save_picture(arrangement, picture)
    save_page(arrangement, page)
    return [picture, page]


def save_page(arrangement: Arrangement, path: Path) -> None:
    """Draw a map as a page and write it."""
    figure = make_subplots(
        1, 3, column_widths=[0.47, 0.09, 0.44], horizontal_spacing=0.012,
        subplot_titles=[arrangement.rule, "tree", _heat_title(arrangement)],
    )  # fmt: skip
    _draw_plane(figure, arrangement)
    _draw_tree(figure, arrangement)
    _draw_heat(figure, arrangement)
    figure.update_layout(
        template="plotly_white", height=_HEIGHT_PX, margin={"l": 10, "r": 10, "t": 70, "b": 10},
        legend={"orientation": "h", "y": -0.05, "yanchor": "top", "x": 0, "xanchor": "left", "maxheight": 0.2},
        hoverlabel={"align": "left"}, dragmode="pan",
    )  # fmt: skip
    for title, axis in zip(figure.layout.annotations, ("xaxis", "xaxis2", "xaxis3"), strict=True):
        left = figure.layout[axis].domain[0]
        title.update(x=left, xanchor="left", font={"size": 12, "color": "#555555"})
    plot = figure.to_html(full_html=False, include_plotlyjs=True, config=_CONFIG)
    title, described = html.escape(arrangement.title), html.escape(arrangement.described)
    write_whole(path, _PAGE.format(title=title, described=described, plot=plot))


def _draw_plane(figure: go.Figure, arrangement: Arrangement) -> None:
    look, few = looks(arrangement), arrangement.is_small
    sides = arrangement.name_sides if few else []
    draw = go.Scatter if len(arrangement.names) <= _MOST_DRAWN_ONE_BY_ONE else go.Scattergl
    for kind in arrangement.kinds:
        members = arrangement.members(kind)
        x, y = arrangement.places[members].T
        colour, shape = look[kind]
        marker = {"color": colour, "symbol": _SHAPES[shape], "size": _point_size(arrangement)}
        marker["line"] = {"color": "white", "width": 0.5}
        figure.add_trace(
            draw(
                x=x, y=y, name=html.escape(clipped(kind)), marker=marker, mode="markers+text" if few else "markers",
                text=[html.escape(clipped(arrangement.names[i])) for i in members] if few else None,
                textposition=[_text_position(sides[i]) for i in members] if few else None,
                hovertext=[_told(arrangement, i) for i in members], hoverinfo="text",
            ), 1, 1,
        )  # fmt: skip
    plain = {"showticklabels": False, "showgrid": False, "zeroline": False}
    for update, (low, high) in zip((figure.update_xaxes, figure.update_yaxes), arrangement.frame, strict=True):
        update(**plain, range=[low, high], mirror=True, showline=True, linecolor="#dddddd", row=1, col=1)


def _draw_tree(figure: go.Figure, arrangement: Arrangement) -> None:
    rows, distances = arrangement.tree
    gap = np.full((len(rows), 1), np.nan)
    x, y = np.hstack([distances, gap]).ravel(), np.hstack([rows, gap]).ravel()
    line = {"color": "#555555", "width": 1}
    figure.add_trace(go.Scatter(x=x, y=y, mode="lines", line=line, hoverinfo="skip", showlegend=False), 1, 2)
    look = looks(arrangement)
    colours = [look[arrangement.groups[i]][0] for i in arrangement.shown]
    figure.add_trace(
        go.Scatter(
            x=np.zeros(len(colours)), y=np.arange(len(colours)), mode="markers", showlegend=False, cliponaxis=False,
            marker={"color": colours, "symbol": "square", "size": max(3, min(12, 520 // len(colours)))},
            hovertext=[_told(arrangement, i) for i in arrangement.shown], hoverinfo="text",
        ), 1, 2,
    )  # fmt: skip
    furthest = max(1.0, float(np.max(distances, initial=0)))
    figure.update_xaxes(range=[1.03 * furthest, -0.06 * furthest], showgrid=False, zeroline=False, row=1, col=2)
    figure.update_xaxes(nticks=3, row=1, col=2)
    figure.update_yaxes(range=[len(colours) - 0.5, -0.5], showticklabels=False, showgrid=False, row=1, col=2)
    figure.update_yaxes(zeroline=False, matches="y3", row=1, col=2)


def _draw_heat(figure: go.Figure, arrangement: Arrangement) -> None:
    names = [html.escape(clipped(arrangement.names[i])) for i in arrangement.shown]
    rows = np.arange(len(names))
    pairs = [[f"{one}<br>{other}" for other in names] for one in names]
    bar = {"orientation": "h", "thickness": 9, "len": 0.15, "x": 0.87, "y": 1.005, "yanchor": "bottom", "nticks": 3}
    figure.add_trace(
        go.Heatmap(
            z=np.round(arrangement.heat, 3), x=rows, y=rows, text=pairs,
            hovertemplate="%{text}<br>%{z:.3f}<extra></extra>",
            texttemplate="%{z:.2f}" if arrangement.is_small else None,
            zmin=-1, zmax=1, colorscale="RdBu_r", colorbar=bar,
        ), 1, 3,
    )  # fmt: skip
    named = len(names) <= MOST_NAMED
    figure.update_xaxes(showticklabels=False, showgrid=False, zeroline=False, row=1, col=3)
    figure.update_yaxes(range=[len(names) - 0.5, -0.5], showgrid=False, zeroline=False, side="right", row=1, col=3)
    size = max(7, min(12, 560 // len(names)))
    ticks = {"tickvals": rows, "ticktext": names, "tickfont": {"size": size}} if named else {"showticklabels": False}
    figure.update_yaxes(**ticks, row=1, col=3)


def _heat_title(arrangement: Arrangement) -> str:
    rows, total = len(arrangement.shown), len(arrangement.names)
    return (
        "similarity" if rows == total else f"similarity: {rows} of the {total} entries, drawn evenly along their tree"
    )


def _told(arrangement: Arrangement, number: int) -> str:
    """What hovering over an entry tells; names are anybody's, so they are escaped."""
    name, group = html.escape(arrangement.names[number]), html.escape(text_of(arrangement.groups[number]))
    near = html.escape(arrangement.nearest[number]).replace(", ", "<br>")
    return f"<b>{name}</b><br>{group}<br><br>nearest:<br>{near}"


def _point_size(arrangement: Arrangement) -> float:
    return float(np.clip(1200 / len(arrangement.names), 4, 11))


def _text_position(side: tuple[int, int]) -> str:
    across, up = side
    return f"{ {1: 'top', 0: 'middle', -1: 'bottom'}[up] } { {1: 'right', 0: 'center', -1: 'left'}[across] }"
