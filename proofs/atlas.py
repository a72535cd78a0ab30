"""The atlas's slow proofs: `make prove-atlas`, or some parts: `python -m proofs.atlas exact scale`.

Everything happens in work/proofs/atlas. Each part prints its figures and ends in PASS or FAIL.
"""

from __future__ import annotations

import os

from proofs.atlas_attribute import prove_attribute
from proofs.atlas_families import prove_families
from proofs.atlas_files import prove_bad_files, prove_exact
from proofs.atlas_names import prove_names
from proofs.atlas_scale import prove_scale
from proofs.atlas_start import prove_next_version, prove_start
from proofs.atlas_writers import prove_writers
from proofs.bench import run_parts

PARTS = {
    "families": prove_families,
    "names": prove_names,
    "writers": prove_writers,
    "exact": prove_exact,
    "bad-files": prove_bad_files,
    "attribute": prove_attribute,
    "start": prove_start,
    "next-version": prove_next_version,
    "scale": prove_scale,
}

# Threads that wait by spinning starve each other
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("DVC_NO_ANALYTICS", "1")


if __name__ == "__main__":
    run_parts(__doc__, PARTS)
