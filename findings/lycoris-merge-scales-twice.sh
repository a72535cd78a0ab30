#!/usr/bin/env bash
# LyCORIS 4.1.3: merging a LoHa or LoKr into the model scales its change by alpha / rank a second time.
#
# Expected: a merged layer answers as the layer with the live adapter does, as for a LoCon.
# Behaviour: LohaModule.get_weight and LokrModule.get_weight return a change that is scaled by alpha / rank already; get_diff_weight,
#   which merging goes through, multiplies it by alpha / rank once more. With alpha 1 and rank 4 a merged LoHa is four times weaker
#   than the one that was trained. Where alpha is the rank nothing is seen. The saved file is right.
# Output seen (Python 3.11, torch 2.13.0 on a CPU, 2026-11-30):
#   merged / live at alpha / rank = 0.25: locon 1.0000, loha 0.2500, lokr 0.2500
# Exits 0 while this holds, 1 when it changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
export PIP_DISABLE_PIP_VERSION_CHECK=1
python3 -m venv env
env/bin/pip install --quiet 'torch==2.13.0' 'numpy==2.4.6' 'lycoris-lora==4.1.3'
cat > merged.py <<'PY'
import logging
import sys

import torch
from torch import nn

logging.disable(logging.CRITICAL)
from lycoris import LycorisNetwork

torch.manual_seed(0)
x = torch.randn(5, 64)


def merged_over_live(algo: str) -> float:
    model = nn.ModuleDict({"q": nn.Linear(64, 64, bias=False)})
    plain = model["q"](x)
    LycorisNetwork.apply_preset({"target_module": [], "target_name": ["q"]})
    network = LycorisNetwork(model, 1.0, 4, 4, 1.0, 1.0, network_module=algo, factor=2)  # rank 4, alpha 1
    network.apply_to()
    for weight in network.parameters():
        weight.data = torch.randn_like(weight)
    live = model["q"](x) - plain
    network.restore()
    network.merge_to(1.0)
    merged = model["q"](x) - plain
    return float(merged.norm() / live.norm())


found = {algo: merged_over_live(algo) for algo in ("locon", "loha", "lokr")}
print("merged / live at alpha / rank = 0.25: " + ", ".join(f"{algo} {ratio:.4f}" for algo, ratio in found.items()))
sys.exit(not all(abs(found[algo] - ratio) < 1e-3 for algo, ratio in (("locon", 1), ("loha", 0.25), ("lokr", 0.25))))
PY
env/bin/python -W ignore merged.py
