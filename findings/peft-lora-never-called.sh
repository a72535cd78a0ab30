#!/usr/bin/env bash
# PEFT 0.21.2 on timm 1.0.31: LoRA on BEiT's attn.qkv attaches and counts as trainable, gets no gradient, and acts once merged.
#
# Expected: a layer that PEFT wraps and lists as trainable is trained, and merging an adapter does not change what the
#   model says; where the wrapped layer is never called, somebody says so.
# Behaviour: timm's BEiT (likewise EVA-02 without qkv_bias_separate, and Swin V2) hands qkv.weight to F.linear itself. PEFT
#   replaces the layer by one of its own, whose `weight` is the old one and whose forward nobody calls. Its factors have
#   no gradient, without a word. merge_and_unload adds them to the weight, which is read: the merged model answers
#   otherwise than the live one. Beside attn.proj, which is called, training looks well.
# Output seen (Python 3.11, torch 2.13.0 on a CPU, 2026-11-28):
#   trainable params: 2,304 || all params: 96,072 || trainable%: 2.3982
#   factors without a gradient: 4 of 8, all of qkv: True
#   the live model with and without its qkv factors differs by 0.0; merged and live by 0.26
# Exits 0 while this holds, 1 when it changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
export DO_NOT_TRACK=true HF_HUB_OFFLINE=1 PIP_DISABLE_PIP_VERSION_CHECK=1
python3 -m venv env
env/bin/pip install --quiet 'torch==2.13.0' 'torchvision==0.28.0' 'timm==1.0.31' 'peft==0.21.2'
cat > dead.py <<'PY'
import sys

import torch

for name in ("nms", "qnms"):  # a CPU build of torch beside another build's torchvision lacks them, and timm imports it
    try:
        torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    except RuntimeError:
        pass
import peft
import timm

torch.manual_seed(0)
small = {"depth": 2, "embed_dim": 48, "num_heads": 3, "img_size": 32, "num_classes": 0}
base = timm.create_model("beit_base_patch16_224", pretrained=False, **small)
config = peft.LoraConfig(r=4, target_modules=["qkv", "attn.proj"], init_lora_weights=False)  # as after training
model = peft.get_peft_model(base, config)
model.print_trainable_parameters()
images, direction = torch.randn(2, 3, 32, 32), torch.randn(48)
(model(images) @ direction).sum().backward()
factors = {name: p for name, p in model.named_parameters() if "lora_" in name}
dead = {name for name, p in factors.items() if p.grad is None}
is_qkv = dead == {name for name in factors if ".qkv." in name}
print(f"factors without a gradient: {len(dead)} of {len(factors)}, all of qkv: {is_qkv}")
model.eval()
with torch.no_grad():
    live = model(images)
    kept = {name: factors[name].clone() for name in dead}
    for name in dead:
        factors[name].zero_()
    without = (model(images) - live).abs().max().item()
    for name in dead:
        factors[name].copy_(kept[name])
    merged = (model.merge_and_unload()(images) - live).abs().max().item()
print(f"the live model with and without its qkv factors differs by {without}; merged and live by {merged:.2f}")
sys.exit(not (dead and is_qkv and without == 0.0 and merged > 0.01))
PY
env/bin/python -W ignore dead.py
