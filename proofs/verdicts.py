"""Verdicts' slow proofs: `make prove-verdicts`, or some parts: `python -m proofs.verdicts calibration watch`.

Everything happens in work/proofs/verdicts. Each part prints its figures and ends in PASS or FAIL.
"""

from __future__ import annotations

import os

from proofs.bench import run_parts
from proofs.verdicts_fuzz import prove_fuzz
from proofs.verdicts_health import prove_health
from proofs.verdicts_predict import prove_predict
from proofs.verdicts_replicas import prove_replicas
from proofs.verdicts_serve import prove_serve
from proofs.verdicts_trust import prove_calibration, prove_robustness, prove_unknown
from proofs.verdicts_watch import prove_watch

PARTS = {
    "calibration": prove_calibration,
    "unknown": prove_unknown,
    "robustness": prove_robustness,
    "serve": prove_serve,
    "replicas": prove_replicas,
    "health": prove_health,
    "fuzz": prove_fuzz,
    "predict": prove_predict,
    "watch": prove_watch,
}
"""In the order in which verdicts came to be trusted: from one image's probabilities to a stream of images."""

# Threads that wait by spinning starve the servers
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("DVC_NO_ANALYTICS", "1")


if __name__ == "__main__":
    run_parts(__doc__, PARTS)
