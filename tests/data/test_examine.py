"""What is seen of an image is the same in a copy of it, where it should be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lorax.data import examine
from lorax.data.examine import examine_all, fingerprint


@pytest.mark.parametrize("size", [(256, 256), (500, 300), (97, 640), (40, 128), (1, 1), (9000, 20)])
def test_a_scaled_picture_has_nearly_the_same_perceptual_hash(size: tuple[int, int]) -> None:
    coarse = np.random.default_rng(0).integers(0, 256, (12, 12), dtype=np.uint8)
    picture = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
    scaled = picture.resize(tuple(max(1, side * 7 // 10) for side in size), Image.Resampling.LANCZOS)
    assert (fingerprint(picture) ^ fingerprint(scaled)).bit_count() <= 4


def test_of_many_images_some_say_whether_they_show_a_grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examine, "_GRIDS", 20)
    random = np.random.default_rng(0)
    for number in range(80):
        Image.fromarray(random.integers(0, 256, (16, 16), dtype=np.uint8)).save(tmp_path / f"{number}.png")
    seen = examine_all({path.name: path for path in tmp_path.iterdir()})
    measured = {name for name, file in seen.items() if file.blocks is not None}
    assert 8 < len(measured) < 36
    again = examine_all({f"other {path.name}": path for path in tmp_path.iterdir()})  # drawn by content, not by name
    assert {f"other {name}" for name in measured} == {n for n, file in again.items() if file.blocks is not None}
