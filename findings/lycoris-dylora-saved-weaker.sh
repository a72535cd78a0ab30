#!/usr/bin/env bash
# LyCORIS 4.1.3: a DyLoRA that is saved and loaded is block_size times weaker than the one that was trained, at every rank the same.
#
# Expected: loaded from its file, a DyLoRA changes a layer as the live one does at its full rank, and a live one in eval mode answers
#   the same question alike each time.
# Behaviour: the live one scales B A of its first n blocks by alpha / n, n drawn anew at every call, in eval mode, too. The file has alpha
#   and all blocks as one LoRA, and loaded that is scaled by alpha / rank; at full rank n is rank / block_size.
# Output seen (Python 3.11, torch 2.13.0 on a CPU, 2026-11-30):
#   live at full rank / loaded: 4.0000 (block_size 4); different answers to one question in eval mode: 2
# Exits 0 while this holds, 1 when it changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
export PIP_DISABLE_PIP_VERSION_CHECK=1
python3 -m venv env
env/bin/pip install --quiet 'torch==2.13.0' 'numpy==2.4.6' 'lycoris-lora==4.1.3'
cat > weaker.py <<'PY'
import logging
import sys

import torch
from torch import nn

logging.disable(logging.CRITICAL)
from lycoris import LycorisNetwork, create_lycoris_from_weights

torch.manual_seed(0)
model, x = nn.ModuleDict({"q": nn.Linear(24, 16, bias=False)}), torch.randn(5, 24)
plain = model["q"](x)
LycorisNetwork.apply_preset({"target_module": [], "target_name": ["q"]})
network = LycorisNetwork(model, 1.0, 8, 8, 8.0, 8.0, network_module="dylora", block_size=4)
network.apply_to()
for weight in network.parameters():
    weight.data = torch.randn_like(weight)
network.eval()
answers = {round(float((model["q"](x) - plain).norm()), 3) for _ in range(50)}
live, _ = network.loras[0].get_diff_weight(rank=4)  # both blocks
network.save_weights("dylora.safetensors", torch.float32, {})
network.restore()
loaded, _ = create_lycoris_from_weights(1.0, "dylora.safetensors", model)
loaded.apply_to()
change = model["q"](x) - plain
ratio = float((x @ live.T).norm() / change.norm())
print(f"live at full rank / loaded: {ratio:.4f} (block_size 4); different answers to one question in eval mode: {len(answers)}")
sys.exit(not (abs(ratio - 4) < 1e-3 and len(answers) == 2))
PY
env/bin/python -W ignore weaker.py
