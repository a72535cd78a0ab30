"""One training step at K branches: as published (every branch forward and backward, through PEFT) against ours.

ConViT-Tiny at 224 px, batch 8, on this CPU. The published step is written here from facts: it switches PEFT's active
adapter for every branch, which turns gradients on for all of them, and keeps timm's own attention.
"""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F
from measure import alternate, report

from lorax.network.backbone import Backbone, BackboneIdentity, import_timm
from lorax.network.convit import use_fast_attention
from lorax.network.network import Network
from lorax.params import LoraParams

LORA = LoraParams(rank=64, alpha=16, dropout=0.1, targets=(r"blocks\.\d+\.attn\.(qk|v)",))
BATCH, CLASSES = 8, 2


def published(branches: int):
    """The published step: K forward and K backward passes."""
    from peft import LoraConfig, get_peft_model

    model = import_timm().create_model("convit_tiny", pretrained=False, num_classes=0)
    width = model.num_features
    config = LoraConfig(r=LORA.rank, lora_alpha=LORA.alpha, lora_dropout=0.1, target_modules=LORA.targets[0])
    model = get_peft_model(model, config, adapter_name="branch0000")
    for k in range(1, branches):
        model.add_adapter(f"branch{k:04d}", config)
    model.train()
    head = torch.nn.Linear(branches * width, branches * CLASSES)
    optimizer = torch.optim.AdamW([*model.parameters(), *head.parameters()], lr=1e-4)
    images = torch.randn(BATCH, 3, 224, 224)
    labels = torch.randint(0, branches * CLASSES, (BATCH,))

    def step() -> None:
        features = []
        for k in range(branches):
            model.set_adapter(f"branch{k:04d}")
            features.append(model(images))
        loss = F.cross_entropy(head(torch.cat(features, dim=1)), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return step


def ours(branches: int):
    """Our step: one forward and one backward pass; the frozen branches' features are looked up."""
    model = import_timm().create_model("convit_tiny", pretrained=False, num_classes=0)
    use_fast_attention(model)
    backbone = Backbone(model, BackboneIdentity("convit_tiny", {}, "hub", "", 224, (0.5,) * 3, (0.5,) * 3))
    network = Network.empty(backbone)
    for _ in range(branches):
        network.grow(LORA, CLASSES, branch_seed=0, head_seed=0)
    parameters = [*backbone.branch_parameters(branches - 1), *network.head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4)
    images = torch.randint(0, 256, (BATCH, 3, 224, 224), dtype=torch.uint8)
    frozen = torch.randn(BATCH, (branches - 1) * backbone.width)
    labels = torch.randint(0, branches * CLASSES, (BATCH,))

    def step() -> None:
        with backbone.training_branch(branches - 1):
            logits = network.head(torch.cat([frozen, backbone.feature(images, branches - 1)], dim=1))
            loss = F.cross_entropy(logits, labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--branches", type=int, nargs="+", default=[1, 2, 4, 8, 12])
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(2)
    rows = [{"branches": k, **alternate(published(k), ours(k), arguments.rounds)} for k in arguments.branches]
    report("training_step", rows)
    print(
        f"ours, {rows[-1]['branches']} branches / {rows[0]['branches']}: {rows[-1]['ours_s'] / rows[0]['ours_s']:.3f}"
    )


if __name__ == "__main__":
    main()
