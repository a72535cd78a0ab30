"""Pretrain the small ConViT that ships with the package: `python scripts/pretrain_backbone.py` reproduces its weights.

The task: say which resampling pipeline made an image (`pretraining_images.py`), by eight labels at once and by
contrast (images of one pipeline lie together). docs/backbone.md says what came of it, and how long it takes.
"""

from __future__ import annotations

import argparse
import json
import math
import time
import types
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import torch.nn.functional as F
from pretraining_contents import Contents
from pretraining_images import LABELS, TO_YCC, PipelineBatches, dct_matrix
from torch import Tensor, nn

from lorax.network.building import import_timm

NAME = "convit_tiny"  # timm's ConViT, whose arguments are then replaced
ARGUMENTS = {
    "img_size": 64,
    "patch_size": 8,
    "embed_dim": 32,  # for each of the heads
    "num_heads": 4,
    "depth": 4,
    "local_up_to_layer": 2,
    "mlp_ratio": 2.0,
}
MEAN, STD = 0.5, 0.25
TEMPERATURE = 0.1
OUTPUT = Path(__file__).parents[1] / "lorax" / "network" / "weights" / "convit_small64.safetensors"


class Readout(nn.Module):
    """What is asked of the feature while pretraining: every label, and where it lies among the others."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.labels = nn.ModuleList(nn.Linear(width, answers) for answers in LABELS.values())
        self.place = nn.Sequential(nn.Linear(width, 128), nn.GELU(), nn.Linear(128, 64))

    def forward(self, feature: Tensor, labels: Tensor, made_by: Tensor) -> tuple[Tensor, Tensor]:
        """Feature (B, D), labels (B, L), pipeline (B,) -> the labels' summed cross-entropy, the contrastive loss."""
        said = [F.cross_entropy(layer(feature), labels[:, i]) for i, layer in enumerate(self.labels)]
        return torch.stack(said).sum(), contrast(self.place(feature), made_by)


def contrast(place: Tensor, made_by: Tensor) -> Tensor:
    """Supervised contrastive loss of places (B, P): those made by one pipeline attract each other.

    Source: Khosla et al., Supervised Contrastive Learning (arXiv 2004.11362), equation 2.
    """
    place = F.normalize(place, dim=1)
    itself = torch.eye(len(place), dtype=torch.bool)
    logits = (place @ place.T / TEMPERATURE).masked_fill(itself, -1e9)
    same = ((made_by[:, None] == made_by) & ~itself).float()
    surprise = logits - logits.logsumexp(1, keepdim=True)
    return -((surprise * same).sum(1) / same.sum(1)).mean()


def attend_positionally(self: Any, x: Tensor) -> Tensor:
    """GPSA's forward with the positional map computed once a batch, not once an image; (B, T, D) -> (B, T, D)."""
    batch, tokens, width = x.shape
    if self.rel_indices.shape[1] != tokens:
        self.rel_indices = self.get_rel_indices(tokens)
    shape = (batch, tokens, self.num_heads, width // self.num_heads)
    q, k = (part.reshape(shape).transpose(1, 2) for part in self.qk(x).chunk(2, dim=-1))
    v = self.v(x).reshape(shape).transpose(1, 2)
    positional = self.pos_proj(self.rel_indices).permute(0, 3, 1, 2).softmax(dim=-1)
    gate = torch.sigmoid(self.gating_param).view(1, -1, 1, 1)
    content = ((q * self.scale) @ k.transpose(-1, -2)).softmax(dim=-1)
    mixed = ((1 - gate) * content + gate * positional).to(v.dtype) @ v
    out: Tensor = self.proj(mixed.transpose(1, 2).reshape(batch, tokens, width))
    return out


def build(contents: Contents) -> Any:
    """The untrained network: timm's initial values, but a patch embedding that starts as whitened cosine coefficients.

    Artefacts lie in high frequencies, whose coefficients are a hundredth of the low ones; whitened, they all count from
    the first step.
    """
    model = import_timm().create_model(NAME, pretrained=False, num_classes=0, **ARGUMENTS)
    for module in model.modules():
        if type(module).__name__ == "GPSA":
            module.forward = types.MethodType(attend_positionally, module)
    d, order = dct_matrix(), sorted(((i, j) for i in range(8) for j in range(8)), key=lambda ij: (sum(ij), ij))
    waves = torch.stack([torch.outer(d[i], d[j]) for i, j in order])
    chroma = waves[: (model.embed_dim - 64) // 2]
    filters = torch.cat([w[:, None] * c.view(1, 3, 1, 1) for w, c in zip((waves, chroma, chroma), TO_YCC, strict=True)])
    said = F.conv2d((contents.draw(1024).clamp(0, 255) / 255 - MEAN) / STD, filters, stride=8)
    mean, spread = said.mean((0, 2, 3)), said.std((0, 2, 3))
    with torch.no_grad():
        model.patch_embed.proj.weight.copy_(filters / spread.view(-1, 1, 1, 1))
        model.patch_embed.proj.bias.copy_(-mean / spread)
    return model


def optimizer_for(*modules: nn.Module) -> torch.optim.AdamW:
    """AdamW that decays matrices only."""
    parameters = [p for module in modules for p in module.parameters()]
    matrices, vectors = [p for p in parameters if p.ndim > 1], [p for p in parameters if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.02}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, betas=(0.9, 0.98))


def pretrain(steps: int, peak: float, seed: int, output: Path) -> None:
    """Train for `steps` batches with a warm-up of 100 steps and a cosine to 0; save every 500 steps and at the end."""
    torch.manual_seed(seed)
    batches = PipelineBatches(seed)
    model = build(batches.contents)
    readout = Readout(model.embed_dim)
    optimizer, started, recent = optimizer_for(model, readout), time.perf_counter(), torch.zeros(2)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = peak * min(1.0, (step + 1) / 100) * (1 + math.cos(math.pi * step / steps)) / 2
        images, labels, made_by = batches.draw()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            feature = model((images / 255 - MEAN) / STD)
        asked, apart = readout(feature.float(), labels, made_by)
        optimizer.zero_grad(set_to_none=True)
        (asked + 0.5 * apart).backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        recent += torch.stack([asked, apart]).detach() / 100
        if (step + 1) % 100 == 0:
            print(f"step {step + 1}/{steps}, {time.perf_counter() - started:.0f} s: {recent.tolist()}", flush=True)
            recent.zero_()
        if (step + 1) % 500 == 0 or step + 1 == steps:
            save(model, output)


def save(model: nn.Module, output: Path) -> None:
    """Weights as float16 safetensors, and beside them what is needed to build the network and feed it."""
    weights = {name: value.detach().half().contiguous() for name, value in sorted(model.state_dict().items())}
    record = {"name": NAME, "arguments": ARGUMENTS, "crop": 64, "mean": [MEAN] * 3, "std": [STD] * 3}
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_bytes(safetensors.torch.save(weights))
    output.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--learning-rate", type=float, default=1.5e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.set_flush_denormal(True)
    pretrain(arguments.steps, arguments.learning_rate, arguments.seed, arguments.output)


if __name__ == "__main__":
    main()
