"""Which of timm's families can be a backbone: the smallest model of each, random weights (about 15 minutes).

Of each are told: whether the whole model's weight file is taken and gives the same feature, which linear layers a
branch can learn in, and whether calibration finds the layers that it needs. PASS: no family ends in another way than
by success or by one clear error.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from lorax.errors import LoraxError
from lorax.network.building import import_timm, open_backbone
from lorax.network.network import Network
from lorax.params import BackboneParams, LoraParams

timm = import_timm()

MOST = 100_000_000
"""Weights of a model that is tried; a larger one would need more memory than a small machine has."""

_ANOTHER = "taken, but another feature"


def smallest_models(only: str) -> Iterator[tuple[str, str, float]]:
    """The model with the fewest weights of each of timm's modules: module, model, weights."""
    from timm.models._registry import _module_to_models

    for module, names in sorted(_module_to_models.items()):
        if re.search(only, module):
            sizes = {name: weights_in(name) for name in sorted(names)}
            smallest = min(sizes, key=sizes.__getitem__)
            yield module, smallest, sizes[smallest]


def weights_in(name: str) -> float:
    """How many; infinite for one that can't be built without memory."""
    try:
        with torch.device("meta"):
            return sum(p.numel() for p in timm.create_model(name, pretrained=False).parameters())
    except Exception:  # whatever the library's many models raise
        return float("inf")


def told(name: str, folder: Path) -> tuple[str, str, str]:
    """What became of the weight file, of LoRA and of calibration."""
    torch.manual_seed(0)
    whole: Any = timm.create_model(name, pretrained=False).eval()
    for parameter in whole.parameters():  # some layers start at zero
        parameter.data += 0.05 * torch.randn_like(parameter)
    path, side = folder / "weights.safetensors", int(whole.pretrained_cfg["input_size"][-1])
    safetensors.torch.save_file({n: w.clone() for n, w in whole.state_dict().items()}, path)
    try:
        backbone = open_backbone(BackboneParams(name=name, weights=str(path), crop=side))
    except LoraxError as error:
        return str(error), "", ""
    images = torch.randint(0, 256, (2, 3, side, side), dtype=torch.uint8)
    with torch.no_grad():
        expected = whole.forward_head(whole.forward_features((images - 127.5) / 127.5), pre_logits=True)
        found = backbone.plain_feature(images)
    same = found.shape == expected.shape and torch.allclose(found, expected, atol=1e-3, rtol=1e-3)
    return "taken" if same else _ANOTHER, tried(branches, backbone), tried(textures, backbone)


def branches(backbone: Any) -> str:
    Network.empty(backbone).grow(LoraParams(rank=2, targets=(".*",)), 2, branch_seed=0, head_seed=0)
    return f"all {len(backbone.branch(0).layers)}"


def textures(backbone: Any) -> str:
    side = backbone.identity.crop
    backbone.texture(torch.zeros(1, 3, side, side, dtype=torch.uint8))
    return "yes"


def tried(question: Any, backbone: Any) -> str:
    try:
        return str(question(backbone))
    except LoraxError as error:
        return str(error)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="a regular expression over timm's module names")
    warnings.simplefilter("ignore")
    counts: Counter[str] = Counter()
    for module, name, weights in smallest_models(parser.parse_args().only):
        row: tuple[str, ...]
        try:
            if weights > MOST:
                row, kind = (f"not tried: {weights:,.0f} weights",), "not tried"
            else:
                with tempfile.TemporaryDirectory() as folder:
                    row = told(name, Path(folder))
                kind = "learns" if row[1].startswith("all ") else "refused"
        except Exception as error:
            row, kind = (f"{type(error).__name__}: {error}",), "fault"
        if row[0] == _ANOTHER:
            kind = "fault"
        counts[kind] += 1
        print(" | ".join((module, name, *row)), flush=True)
    print(", ".join(f"{kind}: {count}" for kind, count in sorted(counts.items())))
    print("FAIL" if counts["fault"] else "PASS")
    sys.exit(bool(counts["fault"]))


if __name__ == "__main__":
    main()
