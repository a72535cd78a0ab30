from __future__ import annotations

from pathlib import Path

import numpy as np

from lorax.atlas.index import Atlas, remove
from lorax.atlas.searching import search
from tests.atlas.made import made


def test_what_is_removed_is_in_no_file_and_the_others_are_as_they_were(tmp_path: Path) -> None:
    folder = tmp_path / "atlas"
    assert remove(folder, lambda entry: True) == []
    together = ("beta", "alpha", "gamma", "delta", "epsilon", "zeta", "eta")
    Atlas.open(folder).add([made(name, number) for number, name in enumerate(together)])
    Atlas.open(folder).add([made("beta-2", 7)])
    before = Atlas.open(folder)
    before.fit()
    rows = {name: before.row(name) for name in (*together[1:], "beta-2")}
    assert remove(folder, lambda entry: entry.name == "beta") == ["beta"]
    after = Atlas.open(folder)
    assert [entry.name for entry in after.entries] == list(rows)
    assert all(np.array_equal(after.row(name), row) for name, row in rows.items())
    assert (folder / "bases").exists() is False, "it was fitted to all"
    assert len(search(after, "alpha", 5).neighbours) == 5
    left = [path for path in folder.rglob("*") if path.is_file()]
    assert not any(b"beta," in path.read_bytes() for path in left)
    assert sorted(path.name for path in folder.iterdir()) == ["atlas.json", "atlas.lock", "segments"]
    after.add([made("beta", 0)])
    assert len(after) == 8, "it may come again"
    remove(folder, lambda entry: True)
    assert len(Atlas.open(folder)) == 0
    Atlas.open(folder).add([made("theta", 8, rank=1)])
