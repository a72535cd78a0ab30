#!/usr/bin/env bash
# PEFT 0.21.2: add_weighted_adapter makes rsLoRA too strong by the new rank's root, and loses the trained head.
#
# Expected: combination_type "cat" is precise, says its documentation: the sum of the adapters' changes at the given
#   weights. A head that one of them trained (modules_to_save; two would be refused) is the combined adapter's as well.
# Behaviour: the factors get the old scales, the new adapter lora_alpha = r so that its own scale be 1; but use_rslora
#   is copied, too, and the scale is r / sqrt(r). Likewise for "svd" and the others. The new adapter's head is a fresh
#   copy of the base model's. Both silently.
# Output seen (Python 3.11, torch 2.13.0 on a CPU, 2026-11-30):
#   change of the combined adapter over the sum of both: LoRA 1.0000, rsLoRA 2.8284 (new rank 8)
#   distance of the head from the base model's: first 1.0, combined 0.0
# Exits 0 while this holds, 1 when it changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
export DO_NOT_TRACK=true HF_HUB_OFFLINE=1 PIP_DISABLE_PIP_VERSION_CHECK=1
python3 -m venv env
env/bin/pip install --quiet 'torch==2.13.0' 'peft==0.21.2'
cat > weighted.py <<'PY'
import sys

import peft
import torch
from torch import nn


def combined(is_rs: bool) -> tuple[float, nn.Module]:
    torch.manual_seed(0)
    common = {"r": 4, "lora_alpha": 8, "target_modules": ["0"], "use_rslora": is_rs, "init_lora_weights": False}
    base = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 2))
    model = peft.get_peft_model(base, peft.LoraConfig(modules_to_save=["1"], **common), adapter_name="first")
    model.add_adapter("second", peft.LoraConfig(**common))
    layer, head = model.base_model.model
    head.modules_to_save["first"].weight.data += 1  # as if trained
    model.add_weighted_adapter(["first", "second"], [1.0, 1.0], "both", combination_type="cat")
    parts, whole = (layer.get_delta_weight(name) for name in ("first", "second")), layer.get_delta_weight("both")
    return float((whole.norm() / sum(parts).norm()).detach()), head


ratios = [combined(is_rs)[0] for is_rs in (False, True)]
print(f"change of the combined adapter over the sum of both: LoRA {ratios[0]:.4f}, rsLoRA {ratios[1]:.4f} (new rank 8)")
heads = combined(False)[1]
apart = [heads.modules_to_save[name].weight - heads.original_module.weight for name in ("first", "both")]
moved = [float(difference.detach().abs().max()) for difference in apart]
print(f"distance of the head from the base model's: first {moved[0]:.1f}, combined {moved[1]:.1f}")
found = [*ratios, *moved]
sys.exit(any(abs(value - seen) > 1e-3 for value, seen in zip(found, (1, 8**0.5, 1, 0), strict=True)))
PY
env/bin/python -W ignore weighted.py
