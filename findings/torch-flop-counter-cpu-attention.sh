#!/usr/bin/env bash
# torch 2.13.0: FlopCounterMode counts no attention on a CPU where scaled_dot_product_attention runs fused.
#
# Expected: the counter gives what matrix products and attention take; it has formulas for attention fused on a GPU, and for the
#   same attention written as two products and a softmax.
# Behaviour: on a CPU the fused operation is one that its table lacks, so it counts as nothing, without a word; the same attention
#   by the plain kernel (SDPBackend.MATH) is counted.
# Output seen (Python 3.11, 2026-11-30):
#   two products 33554432, fused 0, unfused 33554432
# Exits 0 while this holds, 1 when it changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
export PIP_DISABLE_PIP_VERSION_CHECK=1
python3 -m venv env
env/bin/pip install --quiet 'torch==2.13.0' 'numpy==2.4.6'
cat > count.py <<'PY'
import sys
from collections.abc import Callable

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.flop_counter import FlopCounterMode

q, k, v = (torch.randn(2, 4, 256, 16) for _ in range(3))


def counted(work: Callable[[], torch.Tensor]) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        work()
    return counter.get_total_flops()


def unfused() -> torch.Tensor:
    with sdpa_kernel(SDPBackend.MATH):
        return scaled_dot_product_attention(q, k, v)


products = counted(lambda: (q @ k.mT / 4).softmax(-1) @ v)
found = [counted(lambda: scaled_dot_product_attention(q, k, v)), counted(unfused)]
print(f"two products {products}, fused {found[0]}, unfused {found[1]}")
sys.exit(0 if found == [0, products] else 1)
PY
env/bin/python count.py
