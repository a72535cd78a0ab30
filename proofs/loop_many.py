"""Twelve generators in one set of tables: one command lands them, one run learns them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bench
import pyarrow as pa
import pyarrow.parquet as pq
from loop_trigger import api_of, runs_of, up

YEARS = {f"generator-{letter}": 2030 - number for number, letter in enumerate("abcdefghijkl")}
"""Of release, so that the order of names is not that of learning."""

_TYPES = {
    "image": pa.struct({"bytes": pa.binary(), "path": pa.string()}),
    "label": pa.string(),
    "generator": pa.string(),
    "release_date": pa.string(),
}
PATIENCE_S = 3600.0


def prove_many() -> bool:
    """Twelve generators in one Parquet set: one `lorax land`, one run of twelve episodes in the order of release."""
    home = bench.HOME / "many"
    root = bench.new_workspace(home, "workspace", tiny=True)
    bench.change_params(root, {"training": {"epochs": 6}, "exemplars": {"budget": 260}})
    source = _write_tables(home)
    with up(root):
        print(bench.lorax("land", str(source), cwd=root).stdout, flush=True)
        expected = sorted(YEARS, key=lambda name: YEARS[name])
        bench.wait_for(lambda: len(bench.line(root)) == len(YEARS), PATIENCE_S, "twelve versions", every_s=10)
        bench.wait_for(lambda: _ended(root), PATIENCE_S, "the run ends", every_s=2)
        episodes = runs_of(api_of(root), "episode")
        parents = {run["parent_task_run_id"] and _parent(root, run) for run in episodes}
        line = bench.line(root)
    last = line[-1]
    print(f"learned: {', '.join(last['tasks'])}")
    print(f"{len(line)} versions, {len(episodes)} episodes in {len(parents)} run of the flow 'learn'")
    figures = {key: last["metrics"][key] for key in ("average_accuracy", "average_binary_accuracy", "forgetting")}
    print(", ".join(f"{key.replace('_', ' ')} {100 * value:.1f} %" for key, value in figures.items()))
    return last["tasks"] == expected and len(episodes) == len(YEARS) and len(parents) == 1


def _write_tables(home: Path) -> Path:
    """A Parquet file for each split, the newest generator first, real images in common at its end."""
    raw, source = home / "raw", home / "tables"
    shutil.rmtree(source, ignore_errors=True)
    source.mkdir(parents=True)
    for name in YEARS:
        bench.tiny_task(raw, name, seed=0, train=40, val=20)
    for split in ("train", "val"):
        schema = pa.schema(list(_TYPES.items()))
        pq.write_table(pa.Table.from_pylist(list(_rows(raw, split)), schema), source / f"{split}.parquet")
    return source


def _rows(raw: Path, split: str) -> Iterator[dict[str, Any]]:
    for name, year in YEARS.items():
        said = {"label": "fake", "generator": name, "release_date": f"{year}-03-01"}
        for path in sorted((raw / name / split / "1_fake").iterdir()):
            yield {"image": {"bytes": path.read_bytes()}, **said}
    for path in sorted(raw.glob(f"*/{split}/0_real/*")):
        yield {"image": {"bytes": path.read_bytes()}, "label": "real"}


def _ended(root: Path) -> bool:
    return all(run["end_time"] for run in runs_of(api_of(root), "learn"))


def _parent(root: Path, episode: dict[str, Any]) -> str:
    """The flow run whose step an episode is."""
    found = api_of(root).get(f"task_runs/{episode['parent_task_run_id']}")
    return str(found and found["flow_run_id"])


PARTS = {"many": prove_many}
