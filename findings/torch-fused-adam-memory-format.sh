#!/usr/bin/env bash
# torch 2.13.0 with safetensors 0.8.0: fused AdamW on a CPU mixes up moments that were restored in another memory format.
#
# Expected: a network with channels-last convolutions whose optimiser's moments were saved by safetensors, which wants them
#   contiguous, and loaded by `load_state_dict` goes on as if it had never stopped; without fused=True it does, to the last bit.
# Behaviour: with fused=True the moments are read in the order in which they lie in memory, the parameter in another, so each
#   weight gets another weight's moments. There is no error and no warning.
# Output seen (Python 3.11, 2026-11-29), the largest difference of a weight after two more steps at a rate of 0.1:
#   plain: 0
#   fused: 0.2652
# Exits 0 while this holds, 1 when it changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
export PIP_DISABLE_PIP_VERSION_CHECK=1
python3 -m venv env
env/bin/pip install --quiet 'torch==2.13.0' 'safetensors==0.8.0' 'numpy==2.4.6' 'packaging==26.3'
cat > resume.py <<'PY'
import sys

import safetensors.torch
import torch

SHAPE, LAST = (8, 4, 3, 3), torch.channels_last


def trained(fused: bool, is_stopped: bool) -> torch.Tensor:
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(SHAPE).to(memory_format=LAST))
    gradients = [torch.randn(SHAPE).to(memory_format=LAST) for _ in range(4)]
    optimizer = torch.optim.AdamW([weight], lr=0.1, fused=fused)
    for number, gradient in enumerate(gradients):
        if is_stopped and number == 2:
            state = optimizer.state_dict()
            saved = safetensors.torch.save({name: value.contiguous() for name, value in state["state"][0].items()})
            state["state"][0] = safetensors.torch.load(saved)
            optimizer = torch.optim.AdamW([weight], lr=0.1, fused=fused)
            optimizer.load_state_dict(state)
        weight.grad = gradient
        optimizer.step()
    return weight.detach()


plain, fused = (float((trained(f, True) - trained(f, False)).abs().max()) for f in (False, True))
print(f"plain: {plain:.4g}\nfused: {fused:.4g}")
sys.exit(0 if plain == 0 and fused > 0.01 else 1)
PY
env/bin/python resume.py
