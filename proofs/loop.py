"""The loop's slow proofs: `make prove-loop`, or some parts: `python proofs/loop.py trigger burst`.

Real servers, a real worker and real commands, everything below work/proofs/loop. Each part prints its figures and ends
in PASS or FAIL.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import bench
import loop_announced
import loop_clones
import loop_faults
import loop_many
import loop_random
import loop_rollback
import loop_trigger

PARTS: dict[str, Callable[[], bool]] = {
    **loop_trigger.PARTS,
    **loop_announced.PARTS,
    **loop_many.PARTS,
    **loop_faults.PARTS,
    **loop_rollback.PARTS,
    **loop_random.PARTS,
    **loop_clones.PARTS,
}

# Threads that wait by spinning starve the servers, and single threads are enough for tiny tasks
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("DVC_NO_ANALYTICS", "1")


if __name__ == "__main__":
    bench.HOME.mkdir(parents=True, exist_ok=True)
    bench.run_parts(__doc__, PARTS)
