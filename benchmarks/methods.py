"""LoRAX and the methods that it is compared with, on the demo's stream, with no server.

    python -m benchmarks.methods HOME [--methods NAME ...] [--images TRAIN TEST] [--set KEY=VALUE ...]

Rows are printed as they come: average accuracy (AAF), average incremental accuracy (AA), backward transfer, seconds on
the clock. What lies in HOME is found again, by LoRAX its episodes and by all others what frozen parts say.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from benchmarks.demo_streams import demo_files, learned
from lorax.learning import metrics
from lorax.learning.methods import METHODS
from lorax.learning.state_files import load_state
from lorax.params import load_params


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("home", type=Path, help="a folder, of which the simulated images go into its parent")
    parser.add_argument("--methods", nargs="*", default=["lorax", *METHODS], choices=["lorax", *METHODS])
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="over params.yaml")
    parser.add_argument("--images", nargs=2, type=int, default=(150, 80), help="of each class, to train on and to test")
    arguments = parser.parse_args()
    files = demo_files(arguments.home.parent, *arguments.images)
    params = load_params(Path("params.yaml"), overrides=arguments.set)
    print(f"{'method':<10} {'AAF':>7} {'AA':>7} {'BWT':>8} {'seconds':>8}")
    for name in arguments.methods:
        started = time.perf_counter()
        if name == "lorax":
            rows = load_state(learned(files, files.tasks, params, arguments.home)[-1].state_dir).accuracy
        else:
            rows = METHODS[name](files.tasks, files.fetch, params, arguments.home, None)
        seconds, found = time.perf_counter() - started, metrics.summary(rows)
        figures = [found[key] for key in ("average_accuracy", "average_incremental_accuracy", "backward_transfer")]
        print(f"{name:<10} {figures[0]:>7.4f} {figures[1]:>7.4f} {figures[2]:>+8.4f} {seconds:>8.1f}", flush=True)


if __name__ == "__main__":
    main()
