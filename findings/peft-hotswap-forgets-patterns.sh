#!/usr/bin/env bash
# PEFT 0.21.2: hotswap_adapter ignores alpha_pattern and rank_pattern, and keeps the old settings with the new weights.
#
# Expected: an adapter that is swapped for itself answers as before; one that was swapped in answers as if it had been
#   loaded, also when the model is then saved and loaded.
# Behaviour: patterns are matched against the end of a tensor's name ("....0.lora_A.default.weight") in place of its
#   layer's, so none ever fits, and every layer gets lora_alpha / r. The swapped-in lora_alpha and r are applied, but
#   peft_config keeps the old ones, which save_pretrained writes beside the new weights. No error and no warning in
#   either case.
# Output seen (Python 3.11, torch 2.13.0 on a CPU, 2026-11-30), the change of an answer relative to the right one:
#   swapped for itself: plain 1.000, alpha_pattern 0.125, rank_pattern 2.000
#   lora_alpha 32 for 4: swapped in 1.000, then saved and loaded 0.125 (its config says 4)
# Exits 0 while this holds, 1 when it changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
export DO_NOT_TRACK=true HF_HUB_OFFLINE=1 PIP_DISABLE_PIP_VERSION_CHECK=1
python3 -m venv env
env/bin/pip install --quiet 'torch==2.13.0' 'peft==0.21.2'
cat > swap.py <<'PY'
import sys

import peft
import torch
from peft.utils.hotswap import hotswap_adapter
from torch import nn


def base() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 16))


def made(name: str, **settings: object) -> peft.PeftModel:
    common = {"r": 4, "lora_alpha": 4, "target_modules": ["0"], "init_lora_weights": False}
    config = peft.LoraConfig(**common | settings)
    model = peft.get_peft_model(base(), config).eval()
    model.save_pretrained(name)
    return model


@torch.no_grad()
def change(model: nn.Module) -> torch.Tensor:
    return model(X) - base()(X)


X = torch.randn(5, 16)
ratios = {}
for told, pattern in (("plain", None), ("alpha_pattern", {"0": 32}), ("rank_pattern", {"0": 8})):
    model = made(told, **{told: pattern} if pattern else {})
    before = change(model)
    hotswap_adapter(model, told, adapter_name="default", torch_device="cpu")
    ratios[told] = float(change(model).norm() / before.norm())
print("swapped for itself: " + ", ".join(f"{told} {ratio:.3f}" for told, ratio in ratios.items()))
made("weak")
right = change(made("strong", lora_alpha=32))
model = peft.PeftModel.from_pretrained(base(), "weak")
hotswap_adapter(model, "strong", adapter_name="default", torch_device="cpu")
swapped = float(change(model).norm() / right.norm())
model.save_pretrained("again")
loaded = peft.PeftModel.from_pretrained(base(), "again")
again = float(change(loaded).norm() / right.norm())
alpha = loaded.peft_config["default"].lora_alpha
print(f"lora_alpha 32 for 4: swapped in {swapped:.3f}, then saved and loaded {again:.3f} (its config says {alpha})")
found = [*ratios.values(), swapped, again]
sys.exit(any(abs(ratio - seen) > 1e-3 for ratio, seen in zip(found, (1, 0.125, 2, 1, 0.125), strict=True)))
PY
env/bin/python -W ignore swap.py
