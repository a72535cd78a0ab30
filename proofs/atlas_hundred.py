"""An atlas of 100,000 adapters: what a search costs, in a process that has it open and as a command.

    python -m proofs.atlas_hundred [--count N]

The adapters are random factors of rank 4 over 24 of the layers of SD 1.5's U-Net, in families around a centre each; no
file is written for them, since only what is held matters here.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator

import numpy as np
import torch

from lorax.atlas.adapter import Adapter, Factors, Layer, Reading
from lorax.atlas.index import Atlas
from lorax.atlas.searching import search
from proofs.atlas_scale import sd15_layers
from proofs.atlas_zoo import HOME

FAMILIES, LAYERS, RANK, QUERIES = 200, 24, 4, 50
_OWN = 0.7


def made(number: int, layers: tuple[Layer, ...]) -> Adapter:
    """Adapter `number`, of family number % FAMILIES."""
    of_family, own = (torch.Generator().manual_seed(seed) for seed in (number % FAMILIES, FAMILIES + number))
    sizes = [size for x in layers for size in ((x.rank, x.inputs), (x.outputs, x.rank))]
    total = sum(rows * columns for rows, columns in sizes)
    numbers = torch.randn(total, generator=of_family) + _OWN * torch.randn(total, generator=own)
    parts = [part.view(size) for part, size in zip(numbers.split([r * c for r, c in sizes]), sizes, strict=True)]
    factors: list[Factors] = [(parts[i], parts[i + 1]) for i in range(0, len(parts), 2)]
    return Adapter(f"style-{number:06}", "made", "kohya", "sd-1", layers, lambda: Reading(factors))


def stream(count: int, layers: tuple[Layer, ...]) -> Iterator[Adapter]:
    for number in range(count):
        yield made(number, layers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000)
    count = parser.parse_args().count
    torch.set_num_threads(1)
    home = HOME / "hundred"
    shutil.rmtree(home, ignore_errors=True)
    layers = tuple(sorted(Layer("unet", *sizes, RANK) for sizes in sd15_layers()[:LAYERS]))
    began = time.perf_counter()
    Atlas.open(home).add(stream(count, layers))
    print(f"  {count} adapters of {LAYERS} layers made and added in {time.perf_counter() - began:.0f} s", flush=True)
    began = time.perf_counter()
    atlas = Atlas.open(home)
    opening = time.perf_counter() - began
    began = time.perf_counter()
    atlas.view()
    fitting = time.perf_counter() - began
    print(f"  opened in {opening:.2f} s; basis of {count} entries fitted in {fitting:.0f} s", flush=True)
    took, right = [], []
    for query in range(count, count + QUERIES):
        adapter = made(query, layers)
        began = time.perf_counter()
        nearest = search(atlas, adapter, k=10).neighbours
        took.append(time.perf_counter() - began)
        right.append(np.mean([int(n.name[-6:]) % FAMILIES == query % FAMILIES for n in nearest]))
    size = sum(file.stat().st_size for file in home.rglob("*") if file.is_file()) / 2**20
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    print(
        f"  {QUERIES} searches: median {1000 * statistics.median(took):.1f} ms, slowest {1000 * max(took):.1f} ms "
        f"(asked 50); {10 * np.mean(right):.1f} of ten right; {size:.0f} MB on disk, {memory:.0f} MB at most"
    )
    command = [sys.executable, "-m", "lorax", "atlas", "search", "style-000007", "--atlas", str(home), "--json"]
    began = time.perf_counter()
    told = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    print(f"  as a command: {time.perf_counter() - began:.2f} s, nearest {told['neighbours'][0]['name']}")
    shutil.rmtree(home)


if __name__ == "__main__":
    main()
