"""Heat maps, drawn by Pillow: matplotlib lays out every tick and every cell's text, which takes ten times as long."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

_CELL, _LEAST = 74, (456, 228)
"""Pixels of a cell, and of all cells at least, so that the title has room."""

_BESIDE, _ABOVE, _BAR, _TICK = 54, 48, 24, 4
"""Pixels for an axis's name, for the title, of the colours' bar, of a tick."""

_TITLE, _LABEL, _CELL_TEXT = 20.0, 16.7, 13.3
"""Sizes of letters in pixels."""

_LONGEST = 4000
"""Pixels of a side, beyond which everything is drawn smaller."""

_LIGHT_ABOVE = 0.6
"""Cells darker than this get light text."""

_BLACK, _WHITE = (0, 0, 0), (255, 255, 255)


@dataclass(frozen=True)
class HeatMap:
    """Fractions (R, C) as colours, NaN as blank; each with a text, where that is not empty; rows from the top down."""

    values: np.ndarray
    texts: Sequence[Sequence[str]]
    rows: Sequence[str]
    columns: Sequence[str]
    title: str
    down: str  # what the rows are
    across: str  # what the columns are

    def drawn(self) -> Image.Image:
        """The picture: cells of one size however many there are, so that their text stays legible."""
        counts = (len(self.columns), len(self.rows))
        left, below = _widest(self.rows) + _BESIDE, 0.75 * _widest(self.columns) + _BESIDE  # these stand at 45 degrees
        cells = [max(_CELL, least // n) for n, least in zip(counts, _LEAST, strict=True)]
        around = (left + 4 * _BAR + _BESIDE, below + _ABOVE)
        size = [n * cell + more for n, cell, more in zip(counts, cells, around, strict=True)]
        return _Sheet(min(1.0, _LONGEST / max(size)), cells, left).draw(self, size)


class _Sheet:
    """What a heat map is drawn on; lengths are pixels times `scale`."""

    def __init__(self, scale: float, cells: Sequence[int], left: float) -> None:
        self._scale, (self._wide, self._high) = scale, (max(1, round(cell * scale)) for cell in cells)
        self._left, self._top = round(left * scale), round(_ABOVE * scale)

    def draw(self, of: HeatMap, size: Sequence[float]) -> Image.Image:
        self._image = Image.new("RGB", (round(size[0] * self._scale), round(size[1] * self._scale)), _WHITE)
        self._pen = ImageDraw.Draw(self._image)
        width, height = self._wide * len(of.columns), self._high * len(of.rows)
        self._cells(of)
        self._labels(of, height)
        self._bar(self._left + width + self._px(_BAR), height)
        middle = (self._left + width // 2, self._top + height // 2)
        self._pen.text((middle[0], self._top // 2), of.title, _BLACK, self._font(_TITLE), anchor="mm")
        at = (middle[0], self._image.height - self._px(16))
        self._pen.text(at, of.across, _BLACK, self._font(_LABEL), anchor="mm")
        name = self._turned(of.down, 90)
        self._image.paste(_BLACK, (self._px(8), middle[1] - name.height // 2), name)
        return self._image

    def _cells(self, of: HeatMap) -> None:
        colours = np.where(np.isnan(of.values)[..., None], 255, _colours(np.nan_to_num(of.values))).astype(np.uint8)
        block = Image.fromarray(colours.repeat(self._high, axis=0).repeat(self._wide, axis=1))
        self._image.paste(block, (self._left, self._top))
        self._frame(self._left, block.width, block.height)
        font = self._font(_CELL_TEXT)
        for i, row in enumerate(of.texts):
            for j, text in enumerate(row):
                at = (self._left + (j + 0.5) * self._wide, self._top + (i + 0.5) * self._high)
                self._pen.text(at, text, _WHITE if of.values[i, j] > _LIGHT_ABOVE else _BLACK, font, anchor="mm")

    def _labels(self, of: HeatMap, height: int) -> None:
        tick, font = self._px(_TICK), self._font(_LABEL)
        for i, label in enumerate(of.rows):
            y = self._top + (i + 0.5) * self._high
            self._pen.line((self._left - tick, y, self._left, y), _BLACK)
            self._pen.text((self._left - 2 * tick, y), label, _BLACK, font, anchor="rm")
        for j, label in enumerate(of.columns):
            x, y, name = self._left + (j + 0.5) * self._wide, self._top + height, self._turned(label, 45)
            self._pen.line((x, y, x, y + tick), _BLACK)
            self._image.paste(_BLACK, (round(x + tick - name.width), y + 2 * tick), name)

    def _bar(self, left: int, height: int) -> None:
        colours = _colours(np.linspace(1, 0, height))[:, None].astype(np.uint8)
        self._image.paste(Image.fromarray(colours.repeat(self._px(_BAR), axis=1)), (left, self._top))
        self._frame(left, self._px(_BAR), height)
        for percent in range(0, 101, 20):
            y, right = self._top + height * (1 - percent / 100), left + self._px(_BAR)
            self._pen.line((right, y, right + self._px(_TICK), y), _BLACK)
            at = (right + 2 * self._px(_TICK), y)
            self._pen.text(at, f"{percent}%", _BLACK, self._font(_LABEL), anchor="lm")

    def _frame(self, left: int, width: int, height: int) -> None:
        self._pen.rectangle((left, self._top, left + width, self._top + height), outline=_BLACK)

    def _turned(self, text: str, degrees: int) -> Image.Image:
        """A mask of a text that stands at an angle."""
        font = self._font(_LABEL)
        mask = Image.new("L", (round(font.getlength(text)) + 2, self._px(_LABEL * 1.3)))
        ImageDraw.Draw(mask).text((0, mask.height / 2), text, 255, font, anchor="lm")
        return mask.rotate(degrees, Image.Resampling.BICUBIC, expand=True)

    def _font(self, size: float) -> Any:
        return _font(size * self._scale)

    def _px(self, length: float) -> int:
        return max(1, round(length * self._scale))


def _widest(labels: Sequence[str]) -> float:
    """Pixels that the longest of some labels takes."""
    return max(float(_font(_LABEL).getlength(label)) for label in labels)


def _colours(values: np.ndarray) -> np.ndarray:
    """RGB (..., 3), 0 to 255."""
    return np.asarray(matplotlib.colormaps["Blues"](values))[..., :3] * 255


@cache
def _font(size: float) -> Any:
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"), size)
