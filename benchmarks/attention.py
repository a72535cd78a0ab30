"""ConViT's attention: timm's own against the exact fast one, ConViT-Tiny at 224 px on this CPU (batch 8)."""

from __future__ import annotations

import copy

import torch
from measure import alternate, report

from lorax.network.backbone import import_timm
from lorax.network.convit import use_fast_attention


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(2)
    plain = import_timm().create_model("convit_tiny", pretrained=False, num_classes=0)
    fast = copy.deepcopy(plain)
    use_fast_attention(fast)
    images = torch.randn(8, 3, 224, 224)

    def forward(model: torch.nn.Module) -> None:
        with torch.no_grad():
            model(images)

    def both(model: torch.nn.Module) -> None:
        model(images).sum().backward()

    rows = []
    for what, work in (("forward", forward), ("forward+backward", both)):
        measured = alternate(lambda w=work: w(plain), lambda w=work: w(fast), rounds=7)
        rows.append({"what": what, **measured})
    report("attention", rows)


if __name__ == "__main__":
    main()
