#!/usr/bin/env bash
# PEFT 0.21.2: the change of a LoKr on a Conv1d is no Kronecker product of its factors where the second one is whole.
#
# Expected: w1 ⊗ w2 with the kernel's positions left alone, as on a Conv2d with a kernel of (3, 1), and as LyCORIS computes it on a Conv1d.
# Behaviour: w1 (a, c) gets two dimensions more where w2 has four, and none where it has three. torch.kron then pads w1 in front: w2's
#   outputs meet nothing, its inputs meet w1's outputs, its kernel w1's inputs; the result of (b, a d, c k) is reshaped to the
#   weight's shape, which has as many numbers. The adapter trains and merges so, and means something else to whoever reads its file.
# Output seen (Python 3.11, torch 2.13.0 on a CPU, 2026-11-30):
#   distance from w1 ⊗ w2, relative to its norm: Conv1d 1.38, Conv2d 0.00
# Exits 0 while this holds, 1 when it changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
export DO_NOT_TRACK=true HF_HUB_OFFLINE=1 PIP_DISABLE_PIP_VERSION_CHECK=1
python3 -m venv env
env/bin/pip install --quiet 'torch==2.13.0' 'peft==0.21.2'
cat > kronecker.py <<'PY'
import sys

import peft
import torch
from torch import nn


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv1d(16, 16, 3), nn.Conv2d(16, 16, (3, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


torch.manual_seed(0)
config = peft.LoKrConfig(r=16, alpha=16, target_modules=["one", "two"], init_weights=False)
inside = peft.get_peft_model(Two(), config).base_model.model
apart = []
for layer in (inside.one, inside.two):
    product = torch.kron(layer.lokr_w1["default"], layer.lokr_w2["default"].flatten(1))
    change = layer.get_delta_weight("default").flatten(1)
    apart.append(float((change - product).norm() / product.norm()))
print(f"distance from w1 ⊗ w2, relative to its norm: Conv1d {apart[0]:.2f}, Conv2d {apart[1]:.2f}")
sys.exit(not (apart[0] > 0.5 and apart[1] < 1e-5))
PY
env/bin/python -W ignore kronecker.py
