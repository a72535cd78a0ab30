"""An atlas of 10,000 adapters of SD 1.5's U-Net: what adding and searching cost, and what plain PCA can hold.

The adapters are random, of rank 4 and 8, in families around a centre each; a file is written, added, and removed.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import safetensors.torch
import torch

from lorax.atlas.adapter import Adapter, Reading
from lorax.atlas.formats import read_adapter
from lorax.atlas.index import Atlas
from lorax.atlas.searching import search
from proofs.atlas_zoo import HOME

COUNT, COMPARED, QUERIES = 10_000, 1_000, 50
FAMILIES = 40
RANKS = (4, 8)
DIMS = 64
_OWN = 0.5
"""How large an adapter's own part is beside its family's."""

_MEMORY_LEFT_GB = 2.0
_SEARCH_S = 0.05
_LEAST_RIGHT = 9.0
_MOST_RATE = 3.0
"""What adding may cost, in times of reading."""


def sd15_layers() -> list[tuple[str, int, int]]:
    """Name, outputs and inputs of the 192 layers that a LoRA of SD 1.5's U-Net usually adapts."""
    found = []
    widths = [(f"down_blocks_{i}_attentions_{j}", w) for i, w in enumerate((320, 640, 1280)) for j in range(2)]
    widths += [("mid_block_attentions_0", 1280)]
    widths += [(f"up_blocks_{i}_attentions_{j}", w) for i, w in ((1, 1280), (2, 640), (3, 320)) for j in range(3)]
    for place, w in widths:
        block = f"{place}_transformer_blocks_0"
        found += [(f"{place}_proj_in", w, w), (f"{place}_proj_out", w, w)]
        for attention, seen in (("attn1", w), ("attn2", 768)):  # the text encoder's width
            found += [(f"{block}_{attention}_to_q", w, w), (f"{block}_{attention}_to_out_0", w, w)]
            found += [(f"{block}_{attention}_to_{x}", w, seen) for x in "kv"]
        found += [(f"{block}_ff_net_0_proj", 8 * w, w), (f"{block}_ff_net_2", w, 4 * w)]
    return found


class Zoo:
    """Adapters by number, made when they are asked for."""

    def __init__(self, place: Path) -> None:
        self.layers, self.place = sd15_layers(), place
        place.mkdir(parents=True, exist_ok=True)
        self.making_s, self.reading_s, self.most_memory = np.zeros(2), list[np.ndarray](), list[float]()

    def write(self, number: int) -> Path:
        """Adapter `number` as a kohya file: family number % FAMILIES, rank by turns."""
        rank = RANKS[number % len(RANKS)]
        sizes = [rank * (i + o) for _, o, i in self.layers]
        centre = _noise(number % FAMILIES, sum(sizes) * max(RANKS) // rank)[: sum(sizes)]
        numbers = centre + _OWN * _noise(FAMILIES + number, sum(sizes))
        tensors: dict[str, torch.Tensor] = {}
        for (name, outputs, inputs), values in zip(self.layers, numbers.split(sizes), strict=True):
            down, up = values.split([rank * inputs, rank * outputs])
            tensors[f"lora_unet_{name}.lora_down.weight"] = (down / inputs**0.5).half().view(rank, inputs)
            tensors[f"lora_unet_{name}.lora_up.weight"] = (up.view(rank, outputs).T * 0.02).half().contiguous()
            tensors[f"lora_unet_{name}.alpha"] = torch.tensor(float(rank))
        path = self.place / f"style-{number:05}.safetensors"
        safetensors.torch.save_file(tensors, path)
        return path

    def stream(self, numbers: range) -> Iterator[Adapter]:
        """Write, read and remove one after the other; every fifth is also read plainly, both ranks by turns."""
        for number in numbers:
            began = clocks()
            path = self.write(number)
            if number % 5 == 0:
                self.reading_s.append(plain_reading(path))
                self.most_memory.append(psutil.Process().memory_info().rss / 1e6)
            self.making_s += clocks() - began
            yield read_adapter(path)
            path.unlink()


def prove_scale() -> bool:
    """10,000 adapters streamed into an atlas, searched; and scikit-learn's PCA of the stacked factors beside it."""
    torch.set_num_threads(2)
    shutil.rmtree(HOME / "scale", ignore_errors=True)
    zoo = Zoo(HOME / "scale" / "files")
    compared = _compare(zoo)
    atlas = Atlas.open(HOME / "scale" / "atlas")
    rate, bounded = _fill(zoo, atlas)
    searching, right = _search(zoo, atlas)
    size = sum(f.stat().st_size for f in atlas.folder.rglob("*") if f.is_file()) / 1e6
    print(f"  on disk: {size:.0f} MB for {len(atlas)} adapters")
    shutil.rmtree(HOME / "scale")
    return compared and rate < _MOST_RATE and bounded and searching < _SEARCH_S and right >= _LEAST_RIGHT


def _fill(zoo: Zoo, atlas: Atlas) -> tuple[float, bool]:
    """Add all adapters in one call; returns what adding costs, in times of reading, and whether memory was bounded."""
    zoo.making_s, zoo.reading_s, zoo.most_memory = np.zeros(2), [], []
    began = clocks()
    atlas.add(zoo.stream(range(COUNT)))
    (spent, by_clock), (reading, read_by_clock) = (clocks() - began - zoo.making_s) / COUNT, np.mean(zoo.reading_s, 0)
    quarters = [max(part) for part in np.array_split(zoo.most_memory, 4)]
    print(
        f"  {COUNT} adapters of {len(zoo.layers)} layers added in one call: {1000 * spent:.1f} ms of the processor, "
        f"reading all their tensors plainly {1000 * reading:.1f} ms: ratio {spent / reading:.2f}; by the clock "
        f"{1000 * by_clock:.1f} and {1000 * read_by_clock:.1f} ms, {by_clock / read_by_clock:.2f}; "
        f"most memory by quarters, MB: {', '.join(f'{q:.0f}' for q in quarters)}"
    )
    return spent / reading, quarters[3] < quarters[0] + 300


def _search(zoo: Zoo, atlas: Atlas) -> tuple[float, float]:
    """The slowest of 50 searches in seconds, query and atlas at hand; how many of ten neighbours are right."""
    began = time.perf_counter()
    atlas.fit(dims=DIMS)
    fitting = time.perf_counter() - began
    took, right = [], []
    for query in range(COUNT, COUNT + QUERIES):
        path = zoo.write(query)
        adapter = read_adapter(path)
        factors = adapter.factors()
        held = Adapter("query", str(path), adapter.format, adapter.base, adapter.layers, lambda f=factors: Reading(f))
        began = time.perf_counter()
        nearest = search(atlas, held, k=10).neighbours
        took.append(time.perf_counter() - began)
        right.append(np.mean([int(n.name[-5:]) % FAMILIES == query % FAMILIES for n in nearest]))
        path.unlink()
    print(
        f"  basis fitted in {fitting:.1f} s; {QUERIES} searches: median {1000 * statistics.median(took):.1f} ms, "
        f"slowest {1000 * max(took):.1f} ms (asked 50); of ten neighbours {10 * np.mean(right):.1f} are of its family"
    )
    return max(took), float(10 * np.mean(right))


def _compare(zoo: Zoo) -> bool:
    """The same 1,000 adapters: into an atlas with its basis, and plain PCA on their stacked factors."""
    atlas, numbers = HOME / "scale" / "compared", range(0, 2 * COMPARED, len(RANKS))  # one rank, which factors need
    zoo.making_s = np.zeros(2)
    began = clocks()
    made = Atlas.open(atlas)
    made.add(zoo.stream(numbers))
    made.fit(dims=DIMS)
    ours = (clocks() - began - zoo.making_s)[1]
    print(f"  {COMPARED} adapters of rank {RANKS[0]}: atlas and basis in {ours:.0f} s, {max(zoo.most_memory):.0f} MB")
    fitted, failed = 0, 0
    for count in (COMPARED, 1250, 1500, 2000, 2500, 3000, 4000):
        found = _plain_pca(count)
        if found is None:
            failed = count
            break
        fitted = count
        print(f"  plain PCA on {count} stacked: {found['seconds']:.0f} s, {found['memory']:.0f} MB")
    room = psutil.virtual_memory().available / 1e9 - _MEMORY_LEFT_GB
    print(f"  largest that plain PCA holds in {room:.0f} GB: {fitted}; {failed} do not fit; the atlas takes {COUNT}")
    return fitted < COUNT


def _plain_pca(count: int) -> dict[str, float] | None:
    """scikit-learn's PCA in a process of its own that may use what memory is free; None if that does not suffice."""
    limit = int(psutil.virtual_memory().available - _MEMORY_LEFT_GB * 1e9)
    done = subprocess.run(
        [sys.executable, "-m", "proofs.atlas_scale", str(count), str(limit)], capture_output=True, text=True
    )
    return dict(json.loads(done.stdout)) if done.returncode == 0 else None


def _pca_alone(count: int, limit: int) -> None:
    from sklearn.decomposition import PCA

    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    width = sum(RANKS[0] * (i + o) for _, o, i in sd15_layers())
    stacked = np.empty((count, width), np.float32)
    for row in range(count):  # as many numbers as their factors have; which ones does not matter to what it costs
        stacked[row] = _noise(row % FAMILIES, width).numpy() + _OWN * _noise(FAMILIES + row, width).numpy()
    began = time.perf_counter()
    PCA(DIMS, random_state=0).fit_transform(stacked)
    seconds = time.perf_counter() - began
    print(json.dumps({"seconds": seconds, "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3}))


def plain_reading(path: Path) -> np.ndarray:
    """What it takes to read every tensor of a file as float32, the file's pages in memory; see `clocks`."""
    began = clocks()
    for tensor in safetensors.torch.load_file(path).values():
        tensor.float()
    return clocks() - began


def clocks() -> np.ndarray:
    """Seconds of the processor, which other work doesn't change, and by the clock: (2,)."""
    return np.array([time.process_time(), time.perf_counter()])


def _noise(seed: int, count: int) -> torch.Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed))


if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    _pca_alone(int(sys.argv[1]), int(sys.argv[2]))
