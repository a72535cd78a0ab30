"""Verdicts' slow proofs: `make prove-verdicts`, or some parts: `python -m proofs.verdicts calibration watch`.

Everything happens in work/proofs/verdicts. Each part prints its figures and ends in PASS or FAIL.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import time
from collections.abc import Callable

PARTS = {
    "calibration": "proofs.verdicts_trust",
    "unknown": "proofs.verdicts_trust",
    "robustness": "proofs.verdicts_trust",
    "serve": "proofs.verdicts_serve",
    "fuzz": "proofs.verdicts_fuzz",
    "predict": "proofs.verdicts_predict",
    "watch": "proofs.verdicts_watch",
}
"""Where each part's `prove_<part>` is; in the order of the issue."""

# Threads that wait by spinning starve the servers
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("DVC_NO_ANALYTICS", "1")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help=f"any of {', '.join(PARTS)} (default: all)")
    names = parser.parse_args().parts or list(PARTS)
    if unknown := sorted(set(names) - PARTS.keys()):
        parser.error(f"there is no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    results: dict[str, tuple[bool, float]] = {}
    for name in names:
        prove: Callable[[], bool] = getattr(importlib.import_module(PARTS[name]), f"prove_{name}")
        print(f"\n== {name}: {prove.__doc__}", flush=True)
        started = time.perf_counter()
        passed = prove()
        results[name] = passed, time.perf_counter() - started
        print(f"{'PASS' if passed else 'FAIL'} ({results[name][1]:.0f} s)", flush=True)
    print(f"\n{'part':<14} {'':<5} {'seconds':>8}")
    for name, (passed, seconds) in results.items():
        print(f"{name:<14} {'PASS' if passed else 'FAIL':<5} {seconds:>8.0f}")
    sys.exit(not all(passed for passed, _ in results.values()))


if __name__ == "__main__":
    main()
