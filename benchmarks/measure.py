"""Alternating measurements in one run: machines are noisy, ratios of neighbours are not."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def alternate(published: Callable[[], object], ours: Callable[[], object], rounds: int) -> dict[str, float]:
    """Median seconds of both and their ratio with its spread (quartiles), measured in turns after one warm-up each."""
    published()
    ours()
    pairs = [(seconds(published), seconds(ours)) for _ in range(rounds)]
    ratios = [a / b for a, b in pairs]
    low, _, high = statistics.quantiles(ratios, n=4)
    return {
        "published_s": statistics.median(a for a, _ in pairs),
        "ours_s": statistics.median(b for _, b in pairs),
        "ratio": statistics.median(ratios),
        "ratio_low": low,
        "ratio_high": high,
    }


def report(name: str, rows: list[dict[str, object]]) -> None:
    """Print the rows and write them to benchmarks/results/<name>.json."""
    for row in rows:
        print("  ".join(f"{k} {v:.3f}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(rows, indent=1) + "\n")
