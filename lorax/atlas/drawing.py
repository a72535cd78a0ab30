"""The map of an atlas: entries in the plane, and their similarities beside the tree that orders them.

One figure, written as a PNG, and into a page that needs nothing else and tells more under the mouse.
"""

from __future__ import annotations

import html
import io
import json
import warnings
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from lorax.atlas.arrangement import Arrangement, Group, Rest, arrange, clipped, text_of
from lorax.atlas.index import Atlas
from lorax.atlas.space import Floats
from lorax.storage import write_whole

_MOST_NAMED = 80
"""Rows of the heatmap that have their names beside them, at most."""

_DPI = 110
_SIZE_IN = (17.5, 8.4)
_PLANE, _TREE, _STRIP, _HEAT, _BAR = (
    (0.03, 0.17, 0.38, 0.70), (0.445, 0.17, 0.075, 0.70), (0.523, 0.17, 0.008, 0.70), (0.533, 0.17, 0.336, 0.70),
    (0.60, 0.095, 0.20, 0.014),
)  # fmt: skip
"""Where the parts are: left, bottom, width, height, as shares of the figure."""

_UNNAMED = dict.fromkeys(("Creator", "Date", "Format", "Type"))
"""Of what matplotlib writes about a drawing, nothing."""

_GREY, _LIGHT_GREY = "#8a8a8a", "#c9c9c9"
_SHAPES = "os^DvPXp<>"
_FEW_COLOURS = [("tab10", i) for i in range(10) if i != 7]  # 7 is grey, which means "no label" here
_MANY_COLOURS = [("tab20", i) for i in range(20)]


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
    figure, picture, page = draw(arrangement), directory / "map.png", directory / "map.html"
    write_whole(picture, _saved(figure, "png"))
    write_whole(page, _page(figure, arrangement))
    return [picture, page]


def draw(arrangement: Arrangement) -> Figure:
    """The map as a figure; its first axes are the plane."""
    figure = Figure(figsize=_SIZE_IN, dpi=_DPI)
    figure.text(0.03, 0.955, arrangement.title, fontsize=15, fontweight="bold")
    figure.text(0.03, 0.915, arrangement.described, fontsize=11, color="#555555")
    _draw_plane(figure, arrangement)
    _draw_tree(figure.add_axes(_TREE), arrangement)
    _draw_strip(figure.add_axes(_STRIP), arrangement)
    _draw_heat(figure, arrangement)
    for text in figure.findobj(Text):
        text.set_parse_math(False)  # a '$' in a name is a dollar
    return figure


def _saved(figure: Figure, form: str, **how: Any) -> bytes:
    data = io.BytesIO()
    with warnings.catch_warnings(), matplotlib.rc_context({"svg.fonttype": "none"}):
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)  # the page's fonts have it
        figure.savefig(data, format=form, **how)
    return data.getvalue()


def _page(figure: Figure, arrangement: Arrangement) -> str:
    """The figure and what its parts tell under the mouse; names are anybody's, so none may end the script."""
    places = figure.transFigure.inverted().transform(figure.axes[0].transData.transform(arrangement.places))
    content: dict[str, Any] = {
        "names": arrangement.names,
        "entries": [_told(arrangement, i) for i in range(len(arrangement.names))],
        "places": [[x, 1 - y] for x, y in places.round(5).tolist()],
        "shown": arrangement.shown,
        "similarities": arrangement.heat.astype(float).round(3).tolist(),
        "strip": _from_above(_STRIP),
        "heat": _from_above(_HEAT),
    }
    return Template((files("lorax") / "templates" / "map.html").read_text()).substitute(
        title=html.escape(arrangement.title),
        figure="<svg" + _saved(figure, "svg", metadata=_UNNAMED).decode().partition("<svg")[2],
        content=json.dumps(content, ensure_ascii=False).replace("<", "\\u003c"),
    )


def _told(arrangement: Arrangement, number: int) -> str:
    near = arrangement.nearest[number].replace(", ", "\n")
    return f"{arrangement.names[number]}\n{text_of(arrangement.groups[number])}\n\nnearest:\n{near}"


def _from_above(part: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    left, bottom, width, height = part
    return left, 1 - bottom - height, width, height


def looks(arrangement: Arrangement) -> dict[Group, tuple[str, str]]:
    """The colour and the shape of each kind; colours repeat only with other shapes beside them."""
    coloured = [kind for kind in arrangement.kinds if not isinstance(kind, Rest)]
    colours = _FEW_COLOURS if len(coloured) <= len(_FEW_COLOURS) else _MANY_COLOURS
    palette = [matplotlib.colormaps[name](i) for name, i in colours]
    both = zip(coloured, palette, _SHAPES * 2, strict=False)
    styles: dict[Group, tuple[str, str]] = {
        kind: (matplotlib.colors.to_hex(colour), shape) for kind, colour, shape in both
    }
    return styles | {Rest.UNLABELLED: (_LIGHT_GREY, "o"), Rest.OTHERS: (_GREY, "o")}


def _draw_plane(figure: Figure, arrangement: Arrangement) -> None:
    axes, look = figure.add_axes(_PLANE), looks(arrangement)
    size = float(np.clip(2600 / len(arrangement.names), 8, 70))
    handles = []
    for kind in reversed(arrangement.kinds):
        members = arrangement.members(kind)
        x, y = arrangement.places[members].T
        colour, shape = look[kind]
        handles.append(
            axes.scatter(x, y, s=size, c=colour, marker=shape, edgecolors="white", linewidths=0.4, alpha=0.9)
        )
    _frame(axes)
    axes.set(xlim=arrangement.frame[0], ylim=arrangement.frame[1])
    axes.set_title(arrangement.rule, fontsize=9, color="#555555", loc="left")
    if arrangement.is_small:
        _name_points(axes, arrangement)
    legend = figure.legend(
        handles[::-1], ["kind"] * len(handles), loc="upper left", bbox_to_anchor=(0.025, 0.155), ncols=5, fontsize=9,
        frameon=False, markerscale=1.0 if size >= 30 else 2.0, handletextpad=0.3,
    )  # fmt: skip
    for text, kind in zip(legend.get_texts(), arrangement.kinds, strict=True):
        text.set_text(clipped(kind))  # given as labels, those that begin with "_" would be left out


def _draw_tree(axes: Axes, arrangement: Arrangement) -> None:
    for rows, distances in zip(*arrangement.tree, strict=True):
        axes.plot(distances, rows, color="#555555", linewidth=0.9, solid_capstyle="butt")
    rows = len(arrangement.shown)
    axes.set(ylim=(rows - 0.5, -0.5), xlim=(max(1.0, float(np.max(arrangement.tree[1], initial=0))) * 1.03, 0))
    axes.set_yticks([])
    axes.tick_params(labelsize=8)
    axes.set_xlabel("1 − mean cosine", fontsize=9)
    axes.set_title("tree", fontsize=9, color="#555555", loc="left")
    for side in ("top", "left", "right"):
        axes.spines[side].set_visible(False)


def _draw_strip(axes: Axes, arrangement: Arrangement) -> None:
    """The colour of each row."""
    look = looks(arrangement)
    colours = [matplotlib.colors.to_rgb(look[arrangement.groups[i]][0]) for i in arrangement.shown]
    axes.imshow(np.array(colours)[:, None], aspect="auto", interpolation="nearest")
    axes.set_axis_off()


def _draw_heat(figure: Figure, arrangement: Arrangement) -> None:
    axes, rows = figure.add_axes(_HEAT), len(arrangement.shown)
    image = axes.imshow(arrangement.heat, vmin=-1, vmax=1, cmap="RdBu_r", aspect="auto", interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    total = len(arrangement.names)
    some = "" if rows == total else f": {rows} of the {total} entries, drawn evenly along their tree"
    axes.set_title(f"similarity{some}", fontsize=9, color="#555555", loc="left")
    if rows <= _MOST_NAMED:
        axes.yaxis.tick_right()
        names = [clipped(arrangement.names[i]) for i in arrangement.shown]
        axes.set_yticks(range(rows), names, fontsize=min(10.0, 400 / rows))
        axes.tick_params(length=0)
    if arrangement.is_small:
        _write_cells(axes, arrangement.heat)
    bar = figure.colorbar(image, cax=figure.add_axes(_BAR), orientation="horizontal")
    bar.set_label("cosine", fontsize=9)
    bar.ax.tick_params(labelsize=8)


def _write_cells(axes: Axes, heat: Floats) -> None:
    for (row, column), value in np.ndenumerate(heat):
        color = "white" if abs(value) > 0.65 else "black"
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=9, color=color)


def _name_points(axes: Axes, arrangement: Arrangement) -> None:
    """Write each point's name towards the middle of the plane, where there is room for it."""
    middle = np.mean(arrangement.frame[0])
    for name, place in zip(arrangement.names, arrangement.places, strict=True):
        side = 1 if place[0] < middle else -1
        axes.annotate(
            clipped(name), place, xytext=(7 * side, 0), textcoords="offset points", fontsize=10, va="center",
            ha="left" if side > 0 else "right",
        )  # fmt: skip


def _frame(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color("#dddddd")
