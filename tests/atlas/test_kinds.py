"""Low-rank changes: exact, or the leading part and what share it lacks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from lorax.atlas.formats import read_adapter
from lorax.atlas.kinds import MOST_RANK, kind_of
from lorax.atlas.segments import from_csv


def loha(outputs: int, inputs: int, rank: int) -> tuple[dict[str, Tensor], Tensor]:
    """The tensors of one and its change, written out."""
    a1, b1, a2, b2 = (torch.randn(shape) for shape in [(outputs, rank), (rank, inputs)] * 2)
    return {"hada_w1_a": a1, "hada_w1_b": b1, "hada_w2_a": a2, "hada_w2_b": b2}, (a1 @ b1) * (a2 @ b2)


def lokr(first: tuple[int, int], second: tuple[int, int], rank: int = 0) -> tuple[dict[str, Tensor], Tensor]:
    w1, a, b = torch.randn(first), torch.randn(second[0], rank), torch.randn(rank, second[1])
    w2 = a @ b if rank else torch.randn(second)
    return {"lokr_w1": w1, **({"lokr_w2_a": a, "lokr_w2_b": b} if rank else {"lokr_w2": w2})}, torch.kron(w1, w2)


def tucker_lokr(rank: int) -> tuple[dict[str, Tensor], Tensor]:
    """One whose second factor is a 3x3 convolution in Tucker's form."""
    w1, core, left, right = map(torch.randn, [(2, 3), (rank, rank, 3, 3), (rank, 5), (rank, 4)])
    w2 = torch.einsum("ijkl,io,jn->onkl", core, left, right).flatten(1)
    return {"lokr_w1": w1, "lokr_t2": core, "lokr_w2_a": left, "lokr_w2_b": right}, torch.kron(w1, w2)


def whole(outputs: int, inputs: int, fading: float) -> tuple[dict[str, Tensor], Tensor]:
    """Its singular values fall as powers of their numbers do."""
    left, right = (torch.linalg.qr(torch.randn(n, min(outputs, inputs))).Q for n in (outputs, inputs))
    diff = left * torch.arange(1, 1 + min(outputs, inputs)).float() ** -fading @ right.T
    return {"diff": diff}, diff


KINDS = {
    "LoHa": lambda: loha(200, 150, 3),
    "LoHa of more than the most": lambda: loha(500, 300, 12),
    "LoHa of full rank": lambda: loha(160, 140, 12),
    "LoKr": lambda: lokr((8, 4), (20, 30), 3),
    "LoKr, wide and high": lambda: lokr((2, 5), (30, 7)),
    "LoKr of more than the most": lambda: lokr((8, 8), (30, 40)),
    "LoKr in Tucker's form": lambda: tucker_lokr(3),
    "LoKr in Tucker's form of rank 1": lambda: tucker_lokr(1),
    "LoKr of more ranks than sides": lambda: lokr((2, 2), (4, 6), 150),
    "small whole weights": lambda: whole(40, 90, 0.1),
    "whole weights": lambda: whole(300, 200, 0.5),
    "large whole weights": lambda: whole(700, 600, 1.0),
}


@pytest.mark.parametrize("what", KINDS)
def test_a_change_is_the_leading_part_of_what_its_kind_says(what: str) -> None:
    torch.manual_seed(0)
    tensors, expected = KINDS[what]()
    kind = kind_of(tensors)
    assert kind
    change = kind.change(tensors)
    assert kind.size({role: tuple(tensor.shape) for role, tensor in tensors.items()}) == (
        *expected.shape,
        len(change.a),
    )
    assert len(change.a) <= MOST_RANK
    squares = torch.linalg.svdvals(expected.double()).square()
    best = float(squares[MOST_RANK:].sum() / squares.sum())  # no factors of this rank lack less
    left = expected.double() - change.b.double() @ change.a.double()
    assert float(left.square().sum() / squares.sum()) == pytest.approx(change.lost, rel=1e-3, abs=1e-6)
    assert best - 1e-6 <= change.lost <= 1.05 * best + 1e-6


def test_a_layers_size_tells_its_family_whatever_its_kind(tmp_path: Path) -> None:
    path, flux_2 = tmp_path / "x.safetensors", "lora_unet_single_blocks_0_linear1"  # of 9 outputs an input, Flux's of 7
    save_file({f"{flux_2}.lokr_w1": torch.ones(2, 2), f"{flux_2}.lokr_w2": torch.ones(36, 4)}, path)
    assert [x.name for x in read_adapter(path).layers] == ["single_transformer_blocks_0_attn_to_qkv_mlp_proj"]


def test_entries_from_before_there_were_kinds_are_plain_loras() -> None:
    columns = "digest,name,label,kind,source,format,base,rank,length,added"
    row = "d,n,l,adapter,s,kohya,sd-1,4,1.5,2026-11-22"
    (entry,) = from_csv(f"{columns}\n{row}\n")
    assert (entry.algorithm, entry.lost, entry.rank) == ("LoRA", 0.0, 4)
