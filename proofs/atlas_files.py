"""LoRA files: exact descriptors whatever the factors, and bad files that change nothing."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lorax.atlas.adapter import Layer
from lorax.atlas.descriptor import DESCRIPTORS, Describer
from proofs.bench import lorax
from tests.atlas.bad_files import NOT_FINITE, UNFIT, UNREADABLE, WriteBad
from tests.atlas.files import (
    TEXT_ENCODER,
    UNET,
    Weights,
    weights,
    write_diffusers,
    write_kohya,
    write_peft,
)

HOME = Path("work/proofs/atlas/files").resolve()

CONDITIONS, RANKS, DRAWS = (1.0, 10.0, 100.0, 1000.0), (4, 8, 16), 5
EXACT = 1e-10
"""How far a descriptor in float64 may move, relative to its length."""

GOOD = 4
"""Entries of the atlas that bad files are added to."""

BLOCK = "unet.down_blocks.1.attentions.0.transformer_blocks.0"
SIZES = {
    **{f"{BLOCK}.attn1.{name}": (640, 640) for name in ("to_q", "to_k", "to_v", "to_out.0")},
    **{f"{BLOCK}.attn2.{name}": (640, inputs) for name, inputs in (("to_q", 640), ("to_k", 768), ("to_v", 768))},
    f"{BLOCK}.ff.net.0.proj": (5120, 640),
    f"{BLOCK}.ff.net.2": (640, 2560),
}
"""One block of Stable Diffusion 1.5's U-Net: layer -> (outputs, inputs)."""


def prove_exact() -> bool:
    """`product` is the same for every choice of factors: (A, B) against (R⁻¹ A, B R), in float64."""
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


def prove_bad_files() -> bool:
    """Bad files through the real command: one clear error each, and not a byte of the atlas changes."""
    shutil.rmtree(HOME, ignore_errors=True)
    good, bad = HOME / "good", HOME / "bad"
    for seed in range(GOOD):
        write_kohya(good / f"good{seed}.safetensors", weights(seed=seed), base="sd_v1")
    lorax("atlas", "add", str(good), "--atlas", str(HOME / "atlas"), cwd=HOME)
    listed, before = _listed(), _bytes()
    print(f"an atlas of {len(listed)} entries; what 'lorax atlas add' says of each, and whether it is as it was:")
    files = {what: write for what, (write, _) in (UNREADABLE | UNFIT | NOT_FINITE).items()} | _UNWANTED
    failed = []
    for what, write in files.items():
        shutil.rmtree(bad, ignore_errors=True)
        bad.mkdir()
        done = lorax("atlas", "add", str(write(bad)), "--atlas", str(HOME / "atlas"), cwd=HOME, check=False)
        said = " ".join(done.stderr.split()).replace(f"{HOME}/", "")
        is_clear = done.returncode == 1 and said.startswith("lorax: error: ") and "Traceback" not in said
        if not is_clear or said.count("lorax: error:") != 1 or _bytes() != before:
            failed.append(what)
        print(
            f"  {'FAILED' if what in failed else 'as it was'}  {what}: {said.removeprefix('lorax: error: ')}",
            flush=True,
        )
    is_same = _listed() == listed
    print(f"{len(files)} bad files, {len(failed)} failed {failed}; 'lorax atlas list' as before: {is_same}")
    return is_same and not failed


def _listed() -> list[dict[str, Any]]:
    """`lorax atlas list --json`."""
    return list(json.loads(lorax("atlas", "list", "--json", "--atlas", str(HOME / "atlas"), cwd=HOME).stdout))


def _bytes() -> dict[str, str]:
    """Every file of the atlas, and the sha256 of its bytes."""
    files = sorted(path for path in (HOME / "atlas").rglob("*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _turned(made: Weights) -> Weights:
    """Other factors of the same product: (R⁻¹ A, B R)."""
    r = _conditioned(4, 3.0, torch.Generator().manual_seed(0)).float()
    return {name: (torch.linalg.solve(r, a), b @ r) for name, (a, b) in made.items()}


def _twice(folder: Path) -> Path:
    """Two files of one adapter that the atlas doesn't hold."""
    write_kohya(folder / "both" / "one.safetensors", weights(seed=77), base="sd_v1")
    write_diffusers(folder / "both" / "other.safetensors", weights(seed=77))
    return folder / "both"


def _one_bad(folder: Path) -> Path:
    """A good new file, and one that was cut short."""
    good = write_kohya(folder / "both" / "good.safetensors", weights(seed=78), base="sd_v1")
    (folder / "both" / "short.safetensors").write_bytes(good.read_bytes()[:-1])
    return folder / "both"


_WIDER = {name: (outputs, inputs + 8) for name, (outputs, inputs) in UNET.items()}

_UNWANTED: dict[str, WriteBad] = {
    "another base model": lambda folder: write_kohya(folder / "x.safetensors", weights(seed=99), base="sdxl_base_v1-0"),
    "a duplicate": lambda folder: write_kohya(folder / "x.safetensors", weights(seed=0), base="sd_v1"),
    "a duplicate, as a PEFT folder": lambda folder: write_peft(folder / "x", weights(seed=0)),
    "a duplicate in other factors": lambda folder: write_diffusers(folder / "x.safetensors", _turned(weights(seed=0))),
    "one new adapter twice": _twice,
    "one good, one bad": _one_bad,
    "other layers": lambda folder: write_kohya(folder / "x.safetensors", weights(TEXT_ENCODER)),
    "fewer layers": lambda folder: write_kohya(folder / "x.safetensors", dict(list(weights(seed=9).items())[:4])),
    "other shapes": lambda folder: write_kohya(folder / "x.safetensors", weights(_WIDER)),
    "not trained": lambda folder: write_kohya(
        folder / "x.safetensors", {name: (a, torch.zeros_like(b)) for name, (a, b) in weights().items()}
    ),
}
"""Whole LoRA files that this atlas can't take in."""


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
