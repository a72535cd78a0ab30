#!/usr/bin/env bash
# PyTorch 2.13.0: leaving torch.autocast in one thread empties what another thread's autocast has cached, in the middle of its forward.
#
# Expected: autocast is a thread's own (its being enabled and its type are); what a block that does nothing, even one with
#   enabled=False, does in a thread that shares no tensor with this one changes nothing here.
# Behaviour: the cache of weights that were cast belongs to the process, and whichever thread leaves its outermost block empties it.
#   A weight that is used twice in a forward is then cast twice: its gradient is summed in float32 where it was summed in
#   bfloat16. So training beside a thread that prepares data with a block of its own repeats itself only mostly.
#   cache_enabled=False is the way out.
# Output seen (Python 3.11, torch 2.13.0 on a CPU, 2026-11-30):
#   gradients of two runs without the thread equal: True, with it: False (0.8% of the largest), with it and without cache: True
# Exits 0 while this holds, 1 when it changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
export DO_NOT_TRACK=true PIP_DISABLE_PIP_VERSION_CHECK=1
python3 -m venv env
env/bin/pip install --quiet 'torch==2.13.0'
cat > gradients.py <<'PY'
import sys
import threading

import torch


def nothing() -> None:
    with torch.autocast("cpu", enabled=False):
        pass


def gradient(beside: bool, cached: bool = True) -> torch.Tensor:
    torch.manual_seed(0)
    layer, rows = torch.nn.Linear(64, 64), torch.randn(8, 5, 64)
    said = []
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=cached):
        for row in rows:
            said.append(layer(row))
            if beside:
                thread = threading.Thread(target=nothing)
                thread.start()
                thread.join()
    torch.stack(said).float().square().mean().backward()
    return layer.weight.grad


alone, again, beside = gradient(False), gradient(False), gradient(True)
uncached = torch.equal(gradient(False, cached=False), gradient(True, cached=False))
equal, moved = torch.equal(alone, again), float((alone - beside).abs().max() / alone.abs().max())
print(
    f"gradients of two runs without the thread equal: {equal}, with it: {moved == 0} ({moved:.1%} of the largest), "
    f"with it and without cache: {uncached}"
)
sys.exit(not (equal and uncached and moved > 1e-3))
PY
env/bin/python -W ignore gradients.py
