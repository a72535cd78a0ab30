"""ConViT's attention: timm's own against the exact fast one, in a model with one LoRA branch on qk and v.

Everything but the branch is frozen, as in training; dropout is off, so that outputs and gradients can be compared.
"""

from __future__ import annotations

import argparse
import copy
from functools import partial

import torch
from measure import report
from setting import Setting, add_options, opened, result_name

from lorax.network.convit import use_fast_attention


def models(setting: Setting) -> dict[str, torch.nn.Module]:
    """The same model twice, one with fast attention."""
    network = setting.published(setting.params(), 1).eval()
    network.model.set_adapter(network.model.active_adapter)  # turns the branch's gradients on
    fast = copy.deepcopy(network.model)
    use_fast_attention(fast)
    return {"published": network.model, "ours": fast}


def difference(setting: Setting, pair: dict[str, torch.nn.Module], images: torch.Tensor) -> dict[str, float]:
    """Largest difference of outputs, and of the branch's gradients, over the largest value of either."""
    outputs, gradients = {}, {}
    direction = torch.randn(pair["ours"].num_features, device=setting.device)
    for name, model in pair.items():
        with torch.autocast(setting.device.type, torch.bfloat16, enabled=setting.bfloat16):
            said = model(images)
        (said * direction).sum().backward()  # the last LayerNorm makes plain sums, and sums of squares, constant
        outputs[name] = said.detach()
        gradients[name] = torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad])
        model.zero_grad(set_to_none=True)

    def relative(values: dict[str, torch.Tensor]) -> float:
        return float((values["published"] - values["ours"]).abs().max() / values["published"].abs().max())

    return {"output_difference": relative(outputs), "gradient_difference": relative(gradients)}


def measured(setting: Setting, batch: int, rounds: int) -> list[dict[str, object]]:
    pair = models(setting)
    images = torch.randn(batch, 3, setting.crop, setting.crop, device=setting.device)
    precision = torch.autocast(setting.device.type, torch.bfloat16, enabled=setting.bfloat16)

    def forward(model: torch.nn.Module) -> None:
        with torch.no_grad(), precision:
            model(images)

    def both(model: torch.nn.Module) -> None:
        with precision:
            out = model(images)
        out.sum().backward()

    rows = []
    for what, work in (("forward", forward), ("forward+backward", both)):
        works = {name: partial(work, model) for name, model in pair.items()}
        rows.append({"what": what, "batch": batch, **setting.compare(batch, **works, rounds=rounds)})
    return [row | difference(setting, pair, images) for row in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, batch=[8], rounds=7)
    arguments = parser.parse_args()
    with opened(arguments) as setting:
        rows = [row for batch in arguments.batch for row in measured(setting, batch, arguments.rounds)]
    report(result_name("attention", arguments), rows)


if __name__ == "__main__":
    main()
