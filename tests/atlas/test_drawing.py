"""The map: readable as a picture, and as one page that asks nothing of the network."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from matplotlib.text import Text
from PIL import Image

from lorax.atlas import arrangement
from lorax.atlas.arrangement import Rest, arrange
from lorax.atlas.drawing import draw, looks, save_map
from lorax.atlas.index import Atlas
from lorax.atlas.searching import search
from tests.atlas.made import made, zoo
from tests.browser import browsing

pytestmark = pytest.mark.slow

_HOVER = """
const cell = (row, column) => [column, row].map(
  (i, axis) => map.heat[axis] + (i + 0.5) / map.shown.length * map.heat[2 + axis]);
const [x, y] = eval(arguments[0]);  // shares of the figure
const at = new DOMPoint(x * whole[2], y * whole[3]).matrixTransform(svg.getScreenCTM());
svg.dispatchEvent(new MouseEvent("mousemove", {clientX: at.x, clientY: at.y}));
arguments[1](tip.textContent);
"""


@pytest.fixture(scope="module")
def atlas(tmp_path_factory: pytest.TempPathFactory) -> Atlas:
    """Three families of three, and one without a label whose name is markup."""
    found = Atlas.open(tmp_path_factory.mktemp("map") / "atlas")
    found.add(*zoo(3, 3))
    found.add([made("</script><b>x", 7)])
    return found


def test_a_picture_and_a_page_are_written(atlas: Atlas, tmp_path: Path) -> None:
    picture, page = save_map(atlas, tmp_path / "new")
    assert (picture.name, page.name) == ("map.png", "map.html")
    pixels = np.asarray(Image.open(picture).convert("RGB"))
    assert pixels.shape[1] > 1500
    for colour, _ in (looks(arrange(atlas))[kind] for kind in ("f0", "f1", "f2", Rest.UNLABELLED)):
        rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        assert (np.abs(pixels.astype(int) - rgb).max(-1) <= 1).sum() > 50, colour


def test_the_page_needs_nothing_else_and_no_name_is_taken_for_markup(atlas: Atlas, tmp_path: Path) -> None:
    _, path = save_map(atlas, tmp_path)
    page = path.read_text()
    assert path.stat().st_size < 300_000
    assert not re.search(r"""(src|href)=["'](?!data:|#)|url\((?!#)|@import|fetch\(""", page)
    assert set(re.findall(r"https?://[^\s\"]*", page)) == {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert "</script><b>x" not in page
    content = json.loads(re.findall(r'id="map">(.*)</script>', page)[0])
    assert content["names"][-1] == "</script><b>x"
    assert "f1-2 0." in " ".join(content["entries"])


def test_in_a_browser_entries_and_pairs_are_told_under_the_mouse(atlas: Atlas, tmp_path: Path) -> None:
    _, path = save_map(atlas, tmp_path)
    told = arrange(atlas)
    with browsing(tmp_path) as browser:
        browser.open(path.as_uri())
        for entry in (0, len(told.names) - 1):
            assert browser.run(_HOVER, f"map.places[{entry}]").startswith(f"{told.names[entry]}\n")
        first, second, similarity = browser.run(_HOVER, "cell(2, 7)").split("\n")
        assert (first, second) == (told.names[told.shown[2]], told.names[told.shown[7]])
        assert float(similarity) == pytest.approx(told.heat[2, 7], abs=6e-4)
        assert browser.run(_HOVER, "[0.99, 0.01]") == ""


@pytest.mark.parametrize("count", [2, 3, 4])
def test_a_map_of_very_few_can_be_drawn_and_of_one_there_is_none(tmp_path: Path, count: int) -> None:
    few = Atlas.open(tmp_path / "atlas")
    few.add([made("first")])
    assert save_map(few, tmp_path) == []
    few.add([made(f"a name that goes on and on and on {i}", i) for i in range(1, count)])
    assert [path.exists() for path in save_map(few, tmp_path / "out")] == [True, True]


@pytest.mark.filterwarnings("error")
def test_any_text_may_be_a_name_or_a_label(tmp_path: Path) -> None:
    odd = ["$x_{$", "$\\frac$ $a^b$", "_hidden", "no label", "others", "中文 名字", "", "%s {} \\n"]
    atlas = Atlas.open(tmp_path / "atlas")
    adapters = [made(f"{text} {i}", i) for i, text in enumerate(odd)]
    atlas.add(adapters, {a.name: text for a, text in zip(adapters, odd, strict=True)})
    found = arrange(atlas)
    assert len(found.kinds) == len(looks(found)) - 1 == len(odd)
    assert len(save_map(atlas, tmp_path)) == 2
    figure = draw(found)
    [legend] = figure.legends
    assert sorted(text.get_text() for text in legend.get_texts()) == sorted([*filter(None, odd), "no label"])
    assert not any(text.get_parse_math() for text in figure.findobj(Text))


def test_by_hand_rows_stand_in_the_order_of_the_tree(atlas: Atlas) -> None:
    found = arrange(atlas)
    names = [found.names[i] for i in found.shown]
    families = [name[:2] for name in names]
    assert all(families[i : i + 3] == [family] * 3 for family in ("f0", "f1", "f2") for i in [families.index(family)])
    assert np.allclose(np.diag(found.heat), 1, atol=1e-5)
    assert found.heat[names.index("f0-0"), names.index("f0-1")] == pytest.approx(
        next(n.similarity for n in search(atlas, "f0-0", 9).neighbours if n.name == "f0-1"), abs=1e-6
    )
    rows, heights = found.tree
    assert rows.shape == heights.shape == (9, 4)
    assert sorted(rows[heights == 0]) == list(range(10))
    assert found.nearest[found.names.index("f2-0")].startswith("f2-")


def test_a_large_collection_shows_an_even_part_and_the_most_frequent_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrangement, "MOST_SHOWN", 8)
    monkeypatch.setattr(arrangement, "MOST_COLOURED", 3)
    monkeypatch.setattr(arrangement, "MOST_CLUSTERED", 12)
    large = Atlas.open(tmp_path / "atlas")
    large.add(*zoo(5, 4))
    large.add([made("unlabelled", 9)])
    found = arrange(large)
    assert len(found.shown) == len(set(found.shown)) == 8
    assert {found.names[i][:2] for i in found.shown} >= {"f0", "f1", "f2", "f3", "f4"}
    assert found.kinds[:2] == ["f0", "f1"]
    assert set(found.kinds[2:]) == set(Rest)
    assert np.isfinite(found.places).all()
    assert [path.exists() for path in save_map(large, tmp_path)] == [True, True]


def test_what_began_at_anothers_weights_is_in_no_cluster_and_nobodys_nearest(tmp_path: Path) -> None:
    plain = Atlas.open(tmp_path / "atlas")
    plain.add([*zoo(3, 4)[0], made("child", 0, 0, spread=0.28, start="f0-0")])
    found = arrange(plain)
    assert found.groups[-1] == Rest.OTHERS
    assert sorted(set(found.groups[:-1])) == ["cluster 1", "cluster 2", "cluster 3"]
    assert "child" not in " ".join(found.nearest)


@pytest.mark.parametrize("count", [5, 12])
def test_vectors_of_one_number_are_drawn_too(count: int) -> None:
    places, _ = arrangement.places_of(np.linspace(-1, 1, count, dtype=np.float32)[:, None])
    assert places.shape == (count, 2)
    assert np.isfinite(places).all()


def test_without_labels_clusters_are_coloured(tmp_path: Path) -> None:
    plain = Atlas.open(tmp_path / "atlas")
    plain.add(zoo(3, 4)[0])
    found = arrange(plain)
    assert found.title == "12 adapters, coloured by cluster"
    assert sorted(set(found.groups)) == ["cluster 1", "cluster 2", "cluster 3"]
