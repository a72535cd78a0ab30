#!/usr/bin/env bash
# PEFT 0.21.2: a saved LoRA with two alpha_pattern entries for one layer is loaded with another scale than was trained.
#
# Expected: of several patterns the first that fits decides, as it does when the adapter is made, and an adapter that is
#   saved and loaded answers as the live one.
# Behaviour: save_pretrained writes adapter_config.json with sorted keys, those of alpha_pattern, too, so the patterns
#   are tried by the alphabet: "proj" comes before "text.proj", is the end of all names that the latter fits, and wins.
#   No error, no warning; only where the particular pattern comes first by the alphabet as well ("image.proj") is all as
#   it was. rank_pattern is sorted likewise.
# Output seen (Python 3.11, torch 2.13.0 on a CPU, 2026-11-30), scales and a change relative to the trained one's:
#   trained: image 8.0, text 16.0; patterns ['image.proj', 'text.proj', 'proj']
#   loaded: image 8.0, text 1.0; patterns ['image.proj', 'proj', 'text.proj']; change of text's answer 0.0625
# Exits 0 while this holds, 1 when it changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
export DO_NOT_TRACK=true HF_HUB_OFFLINE=1 PIP_DISABLE_PIP_VERSION_CHECK=1
python3 -m venv env
env/bin/pip install --quiet 'torch==2.13.0' 'peft==0.21.2'
cat > sorted.py <<'PY'
import sys

import peft
import torch
from torch import nn


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.image = nn.ModuleDict({"proj": nn.Linear(16, 16)})
        self.text = nn.ModuleDict({"proj": nn.Linear(16, 16)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.text["proj"](x)


def scales(model: peft.PeftModel) -> tuple[float, float]:
    inside = model.base_model.model
    return tuple(part["proj"].scaling["default"] for part in (inside.image, inside.text))


pattern = {"image.proj": 32, "text.proj": 64, "proj": 4}
config = peft.LoraConfig(r=4, lora_alpha=4, target_modules=["proj"], alpha_pattern=pattern, init_lora_weights=False)
live = peft.get_peft_model(Two(), config).eval()
live.save_pretrained("adapter")
loaded = peft.PeftModel.from_pretrained(Two(), "adapter")
x = torch.randn(5, 16)
with torch.no_grad():
    plain = Two()(x)
    ratio = float((loaded(x) - plain).norm() / (live(x) - plain).norm())
for told, model in (("trained", live), ("loaded", loaded)):
    image, text = scales(model)
    rest = f"; change of text's answer {ratio:.4f}" if model is loaded else ""
    print(f"{told}: image {image}, text {text}; patterns {list(model.peft_config['default'].alpha_pattern)}{rest}")
sys.exit(not (scales(live) == (8, 16) and scales(loaded) == (8, 1) and abs(ratio - 1 / 16) < 1e-3))
PY
env/bin/python -W ignore sorted.py
