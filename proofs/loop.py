"""The loop's slow proofs: `make prove-loop`, or some parts: `python proofs/loop.py trigger burst`.

Real servers, a real worker and real commands, everything below work/proofs/loop. Each part prints its figures and ends
in PASS or FAIL.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable

import bench
import loop_faults
import loop_rollback
import loop_trigger

PARTS: dict[str, Callable[[], bool]] = {**loop_trigger.PARTS, **loop_faults.PARTS, **loop_rollback.PARTS}

# Threads that wait by spinning starve the servers, and single threads are enough for tiny tasks
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("DVC_NO_ANALYTICS", "1")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help=f"any of {', '.join(PARTS)} (default: all)")
    names = parser.parse_args().parts or list(PARTS)
    if unknown := sorted(set(names) - PARTS.keys()):
        parser.error(f"there is no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    bench.HOME.mkdir(parents=True, exist_ok=True)
    results: dict[str, tuple[bool, float]] = {}
    for name in names:
        print(f"\n== {name}: {PARTS[name].__doc__}", flush=True)
        started = time.perf_counter()
        passed = _run(PARTS[name])
        results[name] = passed, time.perf_counter() - started
        print(f"{'PASS' if passed else 'FAIL'} ({results[name][1]:.0f} s)", flush=True)
    print(f"\n{'part':<14} {'':<5} {'seconds':>8}")
    for name, (passed, seconds) in results.items():
        print(f"{name:<14} {'PASS' if passed else 'FAIL':<5} {seconds:>8.0f}")
    sys.exit(not all(passed for passed, _ in results.values()))


def _run(part: Callable[[], bool]) -> bool:
    """Run one part; what it could not go on after is told, and the next part has its turn."""
    try:
        return part()
    except SystemExit as end:
        print(f"  {end}")
        return False


if __name__ == "__main__":
    main()
