"""A zoo's data sets learned once more, as adapters of other kinds: by PEFT's own modules, on the same backbone."""

from __future__ import annotations

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lorax.data.images import decode
from lorax.learning.training import epoch_seed, learning_rate
from lorax.network.building import import_timm, open_backbone
from lorax.network.passes import drawing
from lorax.params import BackboneParams, TrainingParams
from lorax.storage import whole_directory

KINDS = ("lora", "loha", "lokr")
"""A LoRA, too: whose loop is this one's, so that kinds are compared with nothing else changed."""

RANK = 8
"""A LoHa's change then has rank 64, a LoKr's 128 here; a LoRA is learned at the zoo's own rank."""

_LOUD = 32
"""A LoHa's alpha over its rank: PEFT starts its four factors so small that it would hardly have begun when a LoRA is
done."""

_PART = 8


def learn_kind(kind: str, member: Path, place: Path, backbone: BackboneParams, shown: int, seed: int) -> float:
    """Learn what a LoRA of a zoo has learned as an adapter of `kind`, unless `place` has it.

    Args:
        member: the LoRA's folder, with its images.
        place: where PEFT's folder goes.
        shown: images that training shows in all.
        seed: of all that is drawn.

    Returns:
        The share of the training images that the last epoch classified right; 1 where it was there.
    """
    if place.exists():
        return 1.0
    opened = open_backbone(backbone)
    parts = [sorted((member / "images" / side).iterdir()) for side in ("0_real", "1_fake")]
    labels = torch.tensor([side for side, paths in enumerate(parts) for _ in paths])
    pixels = [torch.from_numpy(decode(path)).permute(2, 0, 1) for paths in parts for path in paths]
    tokens = torch.cat([opened.embed(torch.stack(pixels[i : i + _PART])).tokens for i in range(0, len(pixels), _PART)])
    torch.manual_seed(seed)
    adapted, head = _adapted(kind, opened.model), nn.Linear(opened.width, 2)
    nn.init.zeros_(head.bias)
    right = _fit(adapted, head, tokens, labels, shown, seed)
    with whole_directory(place) as draft:
        adapted.save_pretrained(str(draft))
    return right


def _adapted(kind: str, model: nn.Module) -> nn.Module:
    import_timm()  # mends what PEFT imports
    import peft

    targets = r".*blocks\.\d+\.(attn\.qkv|mlp\.fc[12])"
    configs = {
        "lora": lambda: peft.LoraConfig(r=2 * RANK, lora_alpha=2 * RANK, lora_dropout=0.1, target_modules=targets),
        "loha": lambda: peft.LoHaConfig(r=RANK, alpha=_LOUD * RANK, target_modules=targets),
        "lokr": lambda: peft.LoKrConfig(r=RANK, alpha=RANK, target_modules=targets),
    }
    adapted: nn.Module = peft.PeftModel(model, configs[kind]())
    return adapted.train()


def _fit(adapted: nn.Module, head: nn.Linear, tokens: Tensor, labels: Tensor, shown: int, seed: int) -> float:
    """The recipe of a probe: its rates, its batches, and a glimpse of each image."""
    model = adapted.base_model.model
    epochs = max(1, math.ceil(shown / len(labels)))
    training = TrainingParams(epochs=epochs, views=1)
    learned = [p for p in [*adapted.parameters(), *head.parameters()] if p.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=training.learning_rate_first, weight_decay=training.weight_decay)
    right = 0.0
    for epoch in range(epochs):
        torch.manual_seed(epoch_seed(seed, 0, epoch))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(epoch, training.learning_rate_first, training)
        found = []
        for batch in torch.randperm(len(labels)).split(training.batch_size):
            optimizer.zero_grad()
            for part in batch.split(_PART):
                with drawing(int(torch.randint(2**62, ()))):
                    logits = head(model.encode(model.glimpse(tokens[part].float())))
                (F.cross_entropy(logits, labels[part], reduction="sum") / len(batch)).backward()
                found.append(logits.detach().argmax(1) == labels[part])
            optimizer.step()
        right = float(torch.cat(found).float().mean())
    return right
