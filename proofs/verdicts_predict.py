"""`lorax predict` on a folder of 20,000 images, of which 50 are broken."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from threading import Thread

import numpy as np
import psutil
from PIL import Image

from lorax.data.reading import Reading, read_image
from lorax.data.walk import files_named
from lorax.verdicts.predictor import Predictor
from proofs.bench import LORAX
from proofs.verdicts_demo import HOME, learned_workspace

IMAGES, BROKEN = 20_000, 50
_SIDES = (48, 64, 80, 96)
_FORMATS = ("png", "jpg", "bmp", "webp")
_LOOK_S = 0.25
_EVERY = 20
_LEAST_RATIO = 0.9
_MOST_GROWTH_MB = 50


def prove_predict() -> bool:
    """A folder of 20,000 small images, 50 broken: every line, bounded memory, as fast as decoding and network."""
    root, folder = learned_workspace(), HOME / "many"
    broken = _write(folder)
    before = _apart(root, folder)
    lines, errors, code, first_s, lines_s, memory = _run(root, folder)
    after = _apart(root, folder)
    records = [json.loads(line) for line in lines]
    names = [record["file"] for record in records]
    bad = {record["file"] for record in records if "error" in record}
    told = sum(line.startswith("lorax: skipped") for line in errors)
    print(f"lines {len(records):,}: {len(records) - len(bad):,} verdicts, {len(bad)} errors; {told} told; exit {code}")
    in_order = names == [str(found.path) for found in files_named([str(folder)])]
    print(f"every file once and in order: {in_order}; the broken ones are those that were broken: {bad == broken}")
    is_whole = in_order and bad == broken and told == BROKEN and code == 1
    growth = max(memory[len(memory) // 4 :]) - max(memory[: len(memory) // 4])
    quarters = [max(memory[i * len(memory) // 4 : (i + 1) * len(memory) // 4]) for i in range(4)]
    print(f"memory by quarters of the lines, most MB: {', '.join(f'{q:.0f}' for q in quarters)}")
    rate = len(records) / lines_s
    decode_s, network_s = ((one + other) / 2 for one, other in zip(before, after, strict=True))
    apart = 1 / (decode_s + network_s)
    print(f"start to first line {first_s:.1f} s; then {rate:,.0f} images/s")
    print(
        f"apart, of every {_EVERY}th file, before and after: decoding {1000 * decode_s:.2f} ms, "
        f"network {1000 * network_s:.2f} ms an image, that is {apart:,.0f} images/s"
    )
    print(f"ratio {rate / apart:.2f} (asked: at least {_LEAST_RATIO})")
    print(f"memory grew by {growth:+.0f} MB after the first quarter (at most {_MOST_GROWTH_MB})")
    return is_whole and rate / apart >= _LEAST_RATIO and growth <= _MOST_GROWTH_MB


def _write(folder: Path) -> set[str]:
    """Make the folder, once; returns the names of the broken files."""
    random = np.random.default_rng(4)
    chosen = set(random.choice(IMAGES, BROKEN, replace=False).tolist())
    is_there = folder.exists()
    broken = set()
    for number in range(IMAGES):
        kind = _FORMATS[number % len(_FORMATS)]
        path = folder / f"{number % 7}" / f"{number % 83:02d}" / f"{number:05d}.{kind}"
        if number in chosen:
            broken.add(str(path))
        if is_there:
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        side = _SIDES[number % len(_SIDES)]
        coarse = random.integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((side, side)).save(path)
        if number in chosen:
            data = path.read_bytes()
            path.write_bytes((data[: len(data) // 3], b"", b"not an image")[number % 3])
    return broken


def _run(root: Path, folder: Path) -> tuple[list[str], list[str], int, float, float, list[float]]:
    """Run the command: its lines, what it said, its exit code, seconds to the first line and from
    there to the end, and memory meanwhile in MB."""
    began = time.perf_counter()
    process = subprocess.Popen(
        [*LORAX, "predict", str(folder), "--json"],
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stderr is not None
    errors: list[str] = []
    reader = Thread(target=lambda: errors.extend(process.stderr or ()))
    reader.start()
    lines = [process.stdout.readline()]
    first = last = time.perf_counter()
    memory: list[float] = []
    watched = psutil.Process(process.pid)
    for line in process.stdout:
        lines.append(line)
        now = time.perf_counter()
        if now > last + _LOOK_S:
            memory.append(watched.memory_info().rss / 2**20)
            last = now
    last = time.perf_counter()
    reader.join()
    return lines, errors, process.wait(), first - began, last - first, memory


def _apart(root: Path, folder: Path) -> tuple[float, float]:
    """Seconds an image takes to be read and decoded, one after the other, and looked at by the network, in batches."""
    status = json.loads(subprocess.run([*LORAX, "status", "--json"], cwd=root, capture_output=True, text=True).stdout)
    predictor = Predictor.open(root / "work" / "states" / status["champion"]["state_digest"])
    decode_s = network_s = 0.0
    batch: list[Reading] = []
    files = list(files_named([str(folder)]))[::_EVERY]
    for found in [*files, None]:
        started = time.perf_counter()
        if found is not None:
            reading = read_image(found, predictor.network.crop)
            batch += [] if reading.error else [reading]
        decode_s += time.perf_counter() - started
        if batch and (found is None or len(batch) == predictor.batch_size):
            started = time.perf_counter()
            predictor.look([r.crops for r in batch], [r.name for r in batch])
            network_s += time.perf_counter() - started
            batch = []
    return decode_s / len(files), network_s / len(files)
