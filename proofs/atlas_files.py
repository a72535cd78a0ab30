"""LoRA files: exact descriptors whatever the factors and the format, and bad files that change nothing."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from lorax.atlas.adapter import Layer
from lorax.atlas.descriptor import DESCRIPTORS, Describer
from lorax.atlas.formats import read_adapter
from tests.atlas.files import convolution, weights, write_diffusers, write_kohya, write_peft

CONDITIONS, RANKS, DRAWS = (1.0, 10.0, 100.0, 1000.0), (4, 8, 16), 5
EXACT = 1e-10
"""How far a descriptor in float64 may move, relative to its length."""

BLOCK = "unet.down_blocks.1.attentions.0.transformer_blocks.0"
ORIGINAL = "lora_unet_input_blocks_4_1_transformer_blocks_0"
"""The same block's name in files that keep the original names."""

SIZES = {
    **{f"{BLOCK}.attn1.{name}": (640, 640) for name in ("to_q", "to_k", "to_v", "to_out.0")},
    **{f"{BLOCK}.attn2.{name}": (640, inputs) for name, inputs in (("to_q", 640), ("to_k", 768), ("to_v", 768))},
    f"{BLOCK}.ff.net.0.proj": (5120, 640),
    f"{BLOCK}.ff.net.2": (640, 2560),
}
"""One block of Stable Diffusion 1.5's U-Net: layer -> (outputs, inputs)."""


def prove_exact() -> bool:
    """`product` is the same for every choice of factors, and every descriptor the same from every file format."""
    is_invariant = _same_for_all_factors()
    return _same_from_all_formats() and is_invariant


def _same_for_all_factors() -> bool:
    """(A, B) against (R⁻¹ A, B R), in float64."""
    print(f"{len(SIZES)} layers of one block of SD 1.5, float64, {DRAWS} draws of A, B and R; the largest change of")
    print(f"{'rank':>6} {'cond(R)':>8} {'product':>10} {'spectrum':>10} {'(factors)':>10}   relative to its length")
    worst = 0.0
    for rank in RANKS:
        for condition in CONDITIONS:
            changes = dict.fromkeys(DESCRIPTORS, 0.0)
            for seed in range(DRAWS):
                for name, change in _changes(rank, condition, seed).items():
                    changes[name] = max(changes[name], change)
            worst = max(worst, changes["product"])
            print(f"{rank:>6} {condition:>8.0f} " + " ".join(f"{changes[name]:>10.1e}" for name in DESCRIPTORS))
    print(f"product: at most {worst:.1e}; asked: {EXACT:.0e}")
    return worst <= EXACT


def _changes(rank: int, condition: float, seed: int) -> dict[str, float]:
    """How far each descriptor moves, relative to its length, when the factors are replaced by equal ones."""
    draw = torch.Generator().manual_seed(seed)
    layers, plain, turned = [], [], []
    for number, (outputs, inputs) in enumerate(SIZES.values()):
        layers.append(Layer("unet", f"layer_{number}", outputs, inputs, rank))
        a, b = (torch.randn(shape, generator=draw, dtype=torch.float64) for shape in ((rank, inputs), (outputs, rank)))
        r = _conditioned(rank, condition, draw)
        plain.append((a, b))
        turned.append((torch.linalg.solve(r, a), b @ r))
    describer = Describer(layers, DESCRIPTORS)
    before, after = describer.describe(plain), describer.describe(turned)
    return {name: float((after[name] - before[name]).norm() / before[name].norm()) for name in DESCRIPTORS}


def _conditioned(rank: int, condition: float, draw: torch.Generator) -> Tensor:
    """A random invertible matrix (rank, rank) with this condition number."""
    left, right = (torch.linalg.qr(torch.randn(rank, rank, generator=draw, dtype=torch.float64)).Q for _ in "ab")
    spread = torch.logspace(0, float(torch.tensor(condition).log10()), rank, dtype=torch.float64)
    return left * spread @ right


def _same_from_all_formats() -> bool:
    """One adapter, with a convolution in it, as PEFT, kohya and three spellings of diffusers write it."""
    made = weights(SIZES) | convolution()
    original = {name: name.replace(BLOCK, ORIGINAL).replace(".", "_") for name in SIZES}
    with TemporaryDirectory() as folder:
        home = Path(folder)
        read = {
            "PEFT folder": read_adapter(write_peft(home / "peft", made)),
            "kohya": read_adapter(write_kohya(home / "kohya.safetensors", made)),
            "kohya, original names": read_adapter(write_kohya(home / "sgm.safetensors", made, names=original)),
        }
        for spelling in ("lora_A", "lora.down", "processor"):
            for alpha in ("metadata", "tensor", "in B"):
                path = home / f"{spelling}-{alpha}.safetensors"
                file = write_diffusers(path, made, spelling=spelling, alpha=alpha)
                read[f"diffusers, {spelling}, alpha: {alpha}"] = read_adapter(file)
        first = read["PEFT folder"]
        describer = Describer(first.layers, DESCRIPTORS)
        rows = {what: describer.describe(adapter.factors()) for what, adapter in read.items()}
        digests = {what: adapter.digest for what, adapter in read.items()}
    print(f"{len(first.layers)} layers, rank {first.layers[0].rank}; equal to the PEFT folder's:")
    passed = True
    for what, adapter in read.items():
        equal = [name for name in DESCRIPTORS if torch.equal(rows[what][name], rows["PEFT folder"][name])]
        same = adapter.layers == first.layers and digests[what] == digests["PEFT folder"]
        print(f"  {what:<38} layers and digest: {'yes' if same else 'NO'}, bit for bit: {', '.join(equal)}")
        passed &= same and len(equal) == len(DESCRIPTORS)
    return passed
