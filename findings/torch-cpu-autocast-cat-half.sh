#!/usr/bin/env bash
# torch 2.13.0: in a bfloat16 autocast block on a CPU, float16 tensors can't be joined, though all else is done with them.
#
# Expected: autocast chooses the precision of matrix products; two float16 tensors (features that were kept in half precision,
#   for one) are joined by torch.cat as everywhere, or as float64 ones are in the same block.
# Behaviour: a linear layer takes them (its result is bfloat16), they can be added and repeated, and two float64 tensors are
#   joined; torch.cat and torch.stack of float16 raise a RuntimeError that names neither the call nor the dtype. In a float16
#   block, and outside, they are joined.
# Output seen (Python 3.11, 2026-11-29):
#   cat in a bfloat16 block, float16: Unexpected floating ScalarType in at::autocast::prioritize
#   stack in a bfloat16 block, float16: Unexpected floating ScalarType in at::autocast::prioritize
#   add, linear, cat of float64 there, cat in a float16 block: done
# Exits 0 while this holds, 1 when it changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
export PIP_DISABLE_PIP_VERSION_CHECK=1
python3 -m venv env
env/bin/pip install --quiet 'torch==2.13.0' 'numpy==2.4.6'
cat > join.py <<'PY'
import sys
from collections.abc import Callable

import torch
from torch.nn.functional import linear

HALF = torch.ones(2, 2, dtype=torch.float16)


def told(what: Callable[[], torch.Tensor], block: torch.dtype) -> str:
    with torch.autocast("cpu", block):
        try:
            what()
        except RuntimeError as error:
            return str(error).splitlines()[0]
    return "done"


refused = {name: told(lambda join=join: join([HALF, HALF]), torch.bfloat16)
           for name, join in (("cat", torch.cat), ("stack", torch.stack))}
taken = [
    told(lambda: HALF + HALF, torch.bfloat16),
    told(lambda: linear(HALF, HALF), torch.bfloat16),
    told(lambda: torch.cat([HALF.double(), HALF.double()]), torch.bfloat16),
    told(lambda: torch.cat([HALF, HALF]), torch.float16),
]
for name, error in refused.items():
    print(f"{name} in a bfloat16 block, float16: {error}")
print(f"add, linear, cat of float64 there, cat in a float16 block: {', '.join(sorted(set(taken)))}")
sys.exit(0 if set(taken) == {"done"} and all("prioritize" in error for error in refused.values()) else 1)
PY
env/bin/python join.py
