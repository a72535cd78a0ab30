"""Landing against decoding alone: a task of images, checked, copied, pinned and committed; one row per image size.

Both decode every image once, in the same run; what landing adds is hashing, the contract's checks, one copy into data/
and one into DVC's cache. Decoding alone is measured in threads and in processes; landing is held against the faster.
On a busy machine seconds depend on who else is at work, hence the processor's seconds beside the clock's.
"""

from __future__ import annotations

import argparse
import os
import shlex
import statistics
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
from measure import report, seconds
from PIL import Image

from lorax.data import repository, versions
from lorax.data.images import decode, in_threads
from lorax.data.landing import land
from lorax.workspace import Workspace

CLASSES = ("0_real", "1_fake")
PARTS = ("check_s", "copy_s", "dvc_and_git_s")
SHARES = {"train": 0.75, "val": 0.25}


def write_images(folder: Path, images: int, side: int) -> None:
    """Smooth colour noise, alternating PNG and JPEG: it compresses about as photographs do."""
    random = np.random.default_rng(side)
    noises = [random.integers(-6, 7, (side, side, 3), dtype=np.int16) for _ in range(16)]  # drawing it takes longest
    for split, share in SHARES.items():
        for name in CLASSES:
            place = folder / split / name
            place.mkdir(parents=True)
            for number in range(int(images * share / len(CLASSES))):
                coarse = random.integers(0, 256, (max(2, side // 8), max(2, side // 8), 3), dtype=np.uint8)
                image = Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)
                pixels = np.asarray(image).astype(np.int16) + noises[number % 16]
                suffix = ("png", "jpg")[number % 2]
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(
                    place / f"{number}.{suffix}", compress_level=1
                )


def decode_in_threads(folder: Path) -> None:
    in_threads(side_of, sorted(folder.rglob("*.*")), None, "")


def decode_in_processes(folder: Path) -> None:
    with ProcessPoolExecutor() as pool:
        list(pool.map(side_of, sorted(folder.rglob("*.*")), chunksize=64))


def side_of(path: Path) -> int:
    return decode(path).shape[0]


def empty_workspace(root: Path) -> Workspace:
    versions.create_repository(root)
    (root / "params.yaml").write_text("{}\n")
    (root / ".gitignore").write_text("/work/\n/data\n")
    repository.commit(root, ["params.yaml", ".gitignore", ".dvc/config", ".dvc/.gitignore", ".dvcignore"], "Begin")
    return Workspace(root)


def processor_s() -> float:
    """Seconds of the processor that this process and its finished children had."""
    return sum(os.times()[:4])


def landed(workspace: Workspace, raw: Path) -> list[float]:
    """Seconds of checking, of copying, and of DVC and git."""
    began: dict[str, float] = {}

    def note(done: int, total: int, what: str) -> None:
        began.setdefault(what, time.perf_counter())

    start = time.perf_counter()
    land(workspace, raw, "task", progress=note)
    marks = [start, began["copying"], began["adding to DVC"], time.perf_counter()]
    return [after - before for before, after in pairwise(marks)]


def measured(folder: Path, raw: Path, rounds: int) -> dict[str, float]:
    """Median seconds of decoding, of landing, and of landing's parts, in turns."""
    threads, processes, parts, load, processor = [], [], [], [], []
    for number in range(rounds):
        workspace = empty_workspace(folder / f"workspace-{number}")
        load.append(os.getloadavg()[0])
        marks = [processor_s()]
        threads.append(seconds(lambda: decode_in_threads(raw)))
        marks.append(processor_s())
        processes.append(seconds(lambda: decode_in_processes(raw)))
        marks.append(processor_s())
        parts.append(landed(workspace, raw))
        marks.append(processor_s())
        processor.append([after - before for before, after in pairwise(marks)])
    decode_in_threads_s, _, land_s = (statistics.median(column) for column in zip(*processor, strict=True))
    return {
        "load_before": statistics.median(load),
        "decode_in_threads_s": statistics.median(threads),
        "decode_in_processes_s": statistics.median(processes),
        "processor_decode_s": decode_in_threads_s,
        "processor_land_s": land_s,
        "decode_s": min(statistics.median(threads), statistics.median(processes)),
        "land_s": statistics.median(sum(part) for part in parts),
        **{name: statistics.median(part[i] for part in parts) for i, name in enumerate(PARTS)},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--sides", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    rows: list[dict[str, object]] = []
    for side in arguments.sides:
        with tempfile.TemporaryDirectory() as folder:
            raw = Path(folder) / "raw"
            write_images(raw, arguments.images, side)
            found = measured(Path(folder), raw, arguments.rounds)
        rates = {f"{what}_images_per_s": arguments.images / found[f"{what}_s"] for what in ("decode", "land")}
        ratios = {
            "land_over_decode": found["land_s"] / found["decode_s"],
            "land_over_decode_processor": found["processor_land_s"] / found["processor_decode_s"],
        }
        machine = {"cores": os.cpu_count(), "command": shlex.join(sys.argv)}
        rows.append({"images": arguments.images, "side": side, **machine, **found, **rates, **ratios})
    report(f"landing-{arguments.images}", rows)


if __name__ == "__main__":
    main()
