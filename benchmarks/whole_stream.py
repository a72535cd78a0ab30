"""The demo's stream of five episodes, from nothing to the last state, by this build and by another one.

    python -m benchmarks.whole_stream --before CHECKOUT [--rounds 2] [--before-set KEY=VALUE ...] [--set KEY=VALUE ...]

No servers: the plain functions of an episode, in a process of its own for each build, in turns, on the same images.
Each build has the params.yaml of its checkout, so its own backbone; the average accuracy after the last episode stands
beside the seconds. The parts of an episode are told as its report has them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

_CODE = """
import json, os, sys, time
from pathlib import Path
sys.path.insert(0, os.getcwd())
from benchmarks.demo_streams import demo_files, learned
from lorax.params import load_params

home, threads, *overrides = sys.argv[1:]
files = demo_files(Path(home).parent)
params = load_params(Path("params.yaml"), preset=None, overrides=[f"run.threads={threads}", *overrides])
clock, processor = time.perf_counter(), time.process_time()
folders = learned(files, files.tasks, params, Path(home))
found = {"clock_s": time.perf_counter() - clock, "processor_s": time.process_time() - processor}
reports = [json.loads(folder.report_path.read_text()) for folder in folders]
accuracy = [*reports[-1]["accuracy"].values()]
parts = {key: sum(report["seconds"].get(key, 0.0) for report in reports) for key in reports[-1]["seconds"]}
found |= {"accuracy": sum(accuracy) / len(accuracy), "backbone": params.backbone.name, "parts": parts}
print(json.dumps(found))
"""
"""What both builds can run; imports, and drawing the images, come before the clock."""


def learned_by(checkout: Path, folder: Path, threads: int, overrides: list[str]) -> dict[str, Any]:
    """The stream, learned by a checkout's code."""
    with tempfile.TemporaryDirectory(dir=folder) as home:
        command = [sys.executable, "-c", _CODE, home, str(threads), *overrides]
        environment = os.environ | {"PYTHONPATH": str(checkout), "OMP_WAIT_POLICY": "PASSIVE"}
        done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{checkout}: {done.stderr}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    from benchmarks.measure import report, spread

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", type=Path, required=True, help="a checkout of the build to compare with")
    parser.add_argument("--before-set", nargs="*", default=[], metavar="KEY=VALUE", help="over its params.yaml")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="over this build's params.yaml")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    sides = {"before": (given.before.resolve(), given.before_set), "now": (Path(__file__).parents[1], given.set)}
    rounds: list[dict[str, dict[str, Any]]] = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(given.rounds):
            rounds.append({})
            for side, (checkout, overrides) in sides.items():
                load = os.getloadavg()[0]
                found = learned_by(checkout, Path(folder), given.threads, overrides) | {"load": load}
                rounds[-1][side] = found
                print(side, found, flush=True)
    rows = [
        {
            "what": what,
            **{side: statistics.median(one[side][what] for one in rounds) for side in sides},
            **spread([one["before"][what] / one["now"][what] for one in rounds]),
        }
        for what in ("clock_s", "processor_s")
    ]
    report("whole_stream", rows, rounds=rounds)


if __name__ == "__main__":
    main()
