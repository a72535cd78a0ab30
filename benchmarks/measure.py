"""Measurements in turns within one run: machines are noisy, ratios of neighbours are not."""

from __future__ import annotations

import json
import os
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"

Work = Callable[[], object]
Row = dict[str, object]


def seconds(work: Work) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def in_turns(works: Mapping[str, Work], rounds: int, *, warm_up: bool = True) -> list[dict[str, float]]:
    """Seconds of each work, a record per round; in every round one is measured right after the other."""
    if warm_up:
        for work in works.values():
            work()
    return [{name: seconds(work) for name, work in works.items()} for _ in range(rounds)]


def spread(ratios: Sequence[float]) -> dict[str, float]:
    """Median and quartiles of the rounds' ratios."""
    low, _, high = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
    return {"ratio": statistics.median(ratios), "ratio_low": low, "ratio_high": high}


def alternate(published: Work, ours: Work, rounds: int, *, warm_up: bool = True) -> dict[str, float]:
    """Median seconds of both and their ratio with its spread, measured in turns."""
    load = os.getloadavg()[0]
    taken = in_turns({"published": published, "ours": ours}, rounds, warm_up=warm_up)
    return {
        "published_s": statistics.median(t["published"] for t in taken),
        "ours_s": statistics.median(t["ours"] for t in taken),
        **spread([t["published"] / t["ours"] for t in taken]),
        "load_before": load,
    }


def machine() -> Row:
    """What the figures depend on besides the code."""
    torch = sys.modules.get("torch")  # landing and start-up are measured without importing it
    info = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    facts: Row = {
        "command": shlex.join(_command()),
        "cores": os.cpu_count(),
        "cpu": names[0] if names else "",
        "torch": version("torch"),
        "threads": torch.get_num_threads() if torch else None,
        "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY", ""),
    }
    if torch and torch.cuda.is_initialized():
        facts["gpu"] = torch.cuda.get_device_name()
    return facts


def _command() -> list[str]:
    """What was typed, without this machine's paths; `python -m` turns a module's name into one."""
    spec = sys.modules["__main__"].__spec__
    typed = ["-m", spec.name, *sys.argv[1:]] if spec else sys.argv
    return ["python", *("CHECKOUT" if Path(word).is_absolute() else word for word in typed)]


def report(name: str, rows: Sequence[Mapping[str, object]], **more: object) -> None:
    """Print the rows and write them, with the machine's facts and `more`, to benchmarks/results/<name>.json."""
    for row in rows:
        print("  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()))
    RESULTS.mkdir(exist_ok=True)
    record = {"machine": machine(), "rows": list(rows), **more}
    (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")


def read_report(name: str) -> dict[str, Any]:
    """What an earlier run of benchmarks/<name>.py has written."""
    path = RESULTS / f"{name}.json"
    if not path.is_file():
        raise SystemExit(f"{path} is missing: run 'python benchmarks/{name}.py' first.")
    record: dict[str, Any] = json.loads(path.read_text())
    return record
