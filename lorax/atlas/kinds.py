"""Kinds of adapters: the tensors that a layer has in each, and the low-rank change of its weight that they make.

    LoRA       B A; of a convolution in CP form, A's and B's ranks are joined by lora_mid, which has the kernel
    AdaLoRA    B diag(E) A
    LoHa       (w1_a w1_b) ∘ (w2_a w2_b), whose rank is at most the product of both ranks
    LoKr       w1 ⊗ w2, whole or as products; its rank is the product of theirs
    whole      diff, the change itself

The change is exact, as factors of `MOST_RANK` or less, or else its leading part and what share of it is lost. A DoRA's
magnitudes, changes of biases and of norms are no such change: they are left aside, and the kind says so.

Sources: LyCORIS, lycoris/modules; PEFT, tuners/{lora,adalora,loha,lokr}; Hyeon-Woo et al., FedPara (arXiv 2108.06098),
for the rank of Hadamard products; Halko et al. (arXiv 0909.4061), algorithm 4.4, for leading parts.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

MOST_RANK = 128
"""Of a change that is not given as a LoRA's two factors."""

_EXACT_SIDE = 512
"""Up to which a matrix's singular vectors are all computed."""

_ROUNDING = 1e-6

_MORE, _ROUNDS = 16, 2  # directions beyond those that are kept, and how often they are turned to the leading ones

_NAMED_ALIKE = (
    "hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2", "diff",
    "lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2",
)  # fmt: skip
ROLES = {
    **{f".{role}": role for role in _NAMED_ALIKE},
    ".lora_mid.weight": "mid", ".lora_E": "E",
    ".lora_embedding_A": "A", ".lora_embedding_B": "B", ".diff.weight": "diff",
    ".dora_scale": "magnitudes", ".magnitude": "magnitudes", ".lora_magnitude_vector": "magnitudes",
    ".lora_magnitude_vector.weight": "magnitudes", ".lora_magnitude_vector.default.weight": "magnitudes",
    ".lora_B.bias": "biases", ".lora_up.bias": "biases", ".lora_B.default.bias": "biases", ".diff_b": "biases",
    ".w_norm": "norms", ".b_norm": "norms", ".key_norm.scale": "norms", ".query_norm.scale": "norms",
    ".norm_q.weight": "norms", ".norm_k.weight": "norms",
    ".norm_added_q.weight": "norms", ".norm_added_k.weight": "norms",
}  # fmt: skip
"""How a tensor's name ends -> what it is of its layer, for all but a plain LoRA's own endings."""

ASIDE = ("magnitudes", "biases", "norms")
"""Roles that are no change of a weight, or none without the base model's."""

_NEEDING = {
    "OFT or BOFT": (".oft_", ".boft_", ".rescale."),
    "GLoRA": (".a1.", ".a2.", ".b1.", ".b2.", ".bm."),
    "IA3": (".ia3_", ".on_input."),
    "T-LoRA": (".lambda_layer.",),
    "VeRA": (".vera_",),
    "whole modules": (".modules_to_save.", ".set_weight."),
    "a LoRA of a reshaped weight": (".reshape_weight.",),
}
"""Kinds whose change of a weight is known with the base model's own only -> what their tensors' names hold."""


Shapes = Mapping[str, tuple[int, ...]]
"""Of a layer's tensors, by role."""


class Size(NamedTuple):
    """Of a layer's change."""

    outputs: int
    inputs: int  # a convolution's kernel counts as inputs
    rank: int


class Change(NamedTuple):
    """Of one layer's weight W (out, in): B A, and the share of its squared norm that B A lacks."""

    a: Tensor  # (r, in)
    b: Tensor  # (out, r)
    lost: float = 0.0


@dataclass(frozen=True)
class Kind:
    """One of them.

    Args:
        name: what people call it.
        size: of the change that tensors of these shapes make; a ValueError where they don't fit together.
        change: that one, of floating-point tensors by role.
        ranked: the role with as many rows as the rank that alpha is divided by; None where alpha has no meaning.
    """

    name: str
    size: Callable[[Shapes], Size]
    change: Callable[[Mapping[str, Tensor]], Change]
    ranked: str | None


def kind_of(roles: Collection[str]) -> Kind | None:
    """The kind of a layer that has these roles, without alpha and those of `ASIDE`; None where there is none."""
    return _KINDS.get(frozenset(roles))


def size_of(shapes: Shapes) -> tuple[int, int] | None:
    """Outputs and inputs of the weight that a layer's tensors change; None where they don't tell."""
    kind = kind_of(shapes.keys() - {*ASIDE, "alpha"})
    try:
        return kind.size(shapes)[:2] if kind else None
    except (ValueError, IndexError):
        return None


def lacking(roles: Collection[str]) -> list[str]:
    """The roles that would make up a kind with the most of these."""
    nearest = max(_KINDS, key=lambda needed: (len(needed & {*roles}), -len(needed)))
    return sorted(nearest - {*roles})


def algorithm(kinds: Iterable[str], aside: Collection[str]) -> str:
    """What an adapter is called: the kinds of its layers, and what it has beside the change of their weights."""
    named = " + ".join(sorted({*kinds}))
    without = " or ".join(role for role in ASIDE if role in aside)
    return (f"DoRA ({named})" if ASIDE[0] in aside else named) + (f" without {without}" if without else "")


def needing_base(name: str) -> str | None:
    """The kind of a tensor whose change needs the base model, as its name tells; None where it tells of none."""
    return next((kind for kind, marks in _NEEDING.items() if any(mark in f"{name}." for mark in marks)), None)


def _size_of_lora(of: Shapes) -> Size:
    a, b = of["A"], of["B"]
    _check(b[1] > 0)
    groups = 1 if len(b) == 2 or len(a) == 2 else max(1, a[0] // b[1])
    _check(a[0] == b[1] * groups and b[0] % groups == 0 and prod(b[2:]) == 1)
    return Size(b[0], prod(a[1:]), a[0])


def _size_of_cp(of: Shapes) -> Size:
    a, b, mid = of["A"], of["B"], of["mid"]
    _check(len(mid) > 2 and mid[:2] == (b[1], a[0]) and prod(a[2:]) == prod(b[2:]) == 1)
    return Size(b[0], a[1] * prod(mid[2:]), b[1])


def _size_of_adalora(of: Shapes) -> Size:
    _check(of["E"] == (of["A"][0], 1) and len(of["A"]) == len(of["B"]) == 2)
    return _size_of_lora(of)


def _size_of_loha(of: Shapes) -> Size:
    one, other = _size_of_product(of, "hada_w1", "hada_t1"), _size_of_product(of, "hada_w2", "hada_t2")
    _check(one[:2] == other[:2])
    return Size(*one[:2], min(one.rank * other.rank, *one[:2], MOST_RANK))


def _size_of_lokr(of: Shapes) -> Size:
    one, other = _size_of_half(of, "lokr_w1"), _size_of_half(of, "lokr_w2", "lokr_t2")
    outputs, inputs, rank = (mine * its for mine, its in zip(one, other, strict=True))
    return Size(outputs, inputs, rank if rank <= MOST_RANK else min(MOST_RANK, min(one) * min(other)))


def _size_of_whole(of: Shapes) -> Size:
    outputs, inputs = of["diff"][0], prod(of["diff"][1:])
    return Size(outputs, inputs, min(outputs, inputs, MOST_RANK))


def _size_of_product(of: Shapes, name: str, joining: str) -> Size:
    left, right = of[f"{name}_a"], of[f"{name}_b"]
    if joining not in of:
        _check(len(left) == 2 and left[1] == right[0])
        return Size(left[0], prod(right[1:]), right[0])
    core = of[joining]
    _check(len(left) == len(right) == 2 < len(core) and core[:2] == (left[0], right[0]))
    return Size(left[1], right[1] * prod(core[2:]), left[0])


def _size_of_half(of: Shapes, name: str, joining: str = "") -> Size:
    if name not in of:
        return _size_of_product(of, name, joining)
    outputs, inputs = of[name][0], prod(of[name][1:])
    return Size(outputs, inputs, min(outputs, inputs))


def _check(fits: bool) -> None:
    if not fits:
        raise ValueError


def _lora(of: Mapping[str, Tensor]) -> Change:
    """B of a convolution in groups has each group's own ranks only."""
    a, b = of["A"].flatten(1), of["B"].flatten(1)
    groups = a.shape[0] // b.shape[1]
    return Change(a, b if groups == 1 else torch.block_diag(*b.reshape(groups, -1, b.shape[1])))


def _cp(of: Mapping[str, Tensor]) -> Change:
    return Change(_joined(of["mid"], of["A"].flatten(1)), of["B"].flatten(1))


def _adalora(of: Mapping[str, Tensor]) -> Change:
    return Change(of["A"] * of["E"], of["B"])


def _loha(of: Mapping[str, Tensor]) -> Change:
    b1, a1 = _product(of, "hada_w1", "hada_t1")
    b2, a2 = _product(of, "hada_w2", "hada_t2")
    if len(a1) * len(a2) >= min(len(b1), a1.shape[1]):
        return _leading((b1 @ a1) * (b2 @ a2))
    # row by row, and column by column, each of one with each of the other (Khatri-Rao)
    return _reduced((a1[:, None] * a2[None]).flatten(0, 1), (b1[:, :, None] * b2[:, None]).flatten(1))


def _lokr(of: Mapping[str, Tensor]) -> Change:
    (b1, a1), (b2, a2) = _half(of, "lokr_w1"), _half(of, "lokr_w2", "lokr_t2")
    if len(a1) * len(a2) <= MOST_RANK:
        return Change(_kron(a1, a2), _kron(b1, b2))
    (u1, s1, v1), (u2, s2, v2) = (_svd(b @ a) for b, a in ((b1, a1), (b2, a2)))
    values = torch.outer(s1, s2).flatten()  # with these singular vectors' Kronecker products: an SVD of the whole
    kept, at = values.topk(min(MOST_RANK, len(values)))
    i, j = at // len(s2), at % len(s2)
    a = (v1[i][:, :, None] * v2[j][:, None]).flatten(1)
    b = (u1[:, i][:, None] * u2[:, j][None]).flatten(0, 1)
    return Change(a, b * kept, _lost(kept, values))


def _kron(one: Tensor, other: Tensor) -> Tensor:
    """torch.kron takes no matrix with a single row that einsum made."""
    return (one[:, None, :, None] * other[:, None]).flatten(2).flatten(0, 1)


def _whole(of: Mapping[str, Tensor]) -> Change:
    return _leading(of["diff"].flatten(1))


def _product(of: Mapping[str, Tensor], name: str, joining: str) -> tuple[Tensor, Tensor]:
    """A matrix that is kept as a product: its left factor (out, r), and its right one (r, in)."""
    left, right = of[f"{name}_a"], of[f"{name}_b"]
    return (left.T.contiguous(), _joined(of[joining], right)) if joining in of else (left, right.flatten(1))


def _half(of: Mapping[str, Tensor], name: str, joining: str = "") -> tuple[Tensor, Tensor]:
    """The same of one that may be kept whole."""
    if name not in of:
        return _product(of, name, joining)
    whole = of[name].flatten(1)
    one = torch.eye(min(whole.shape), dtype=whole.dtype, device=whole.device)
    return (one, whole) if len(whole) <= whole.shape[1] else (whole, one)


def _joined(core: Tensor, right: Tensor) -> Tensor:
    """Tucker's core (r, r, kernel) with its factor (r, in): (r, in · kernel)."""
    return torch.einsum("ijk,jn->ink", core.flatten(2), right).flatten(1)


def _reduced(a: Tensor, b: Tensor) -> Change:
    """B A at `MOST_RANK`, by the singular vectors of a matrix as small as the rank."""
    if len(a) <= MOST_RANK:
        return Change(a, b)
    (qa, ra), (qb, rb) = torch.linalg.qr(a.T), torch.linalg.qr(b)
    change = _leading(rb @ ra.T)
    return Change(change.a @ qa.T, qb @ change.b, change.lost)


def _leading(whole: Tensor) -> Change:
    """The leading part of a matrix; from few random directions where it is large."""
    basis = None
    if min(whole.shape) > _EXACT_SIDE:
        draw = torch.Generator().manual_seed(0)
        start = torch.randn(whole.shape[1], MOST_RANK + _MORE, generator=draw).to(whole)
        basis = torch.linalg.qr(whole @ start).Q
        for _ in range(_ROUNDS):
            basis = torch.linalg.qr(whole @ torch.linalg.qr(whole.T @ basis).Q).Q
    u, values, v = _svd(whole if basis is None else basis.T @ whole)
    kept = values[:MOST_RANK]
    left = (u if basis is None else basis @ u)[:, :MOST_RANK]
    return Change(v[:MOST_RANK], left * kept, _lost(kept, whole))


def _svd(of: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Singular vectors and values; NaN where numbers are not finite, for which LAPACK may never end."""
    if of.isfinite().all():
        u, values, v = torch.linalg.svd(of, full_matrices=False)
        return u, values, v
    count = min(of.shape)
    u, values, v = (of.new_full(shape, torch.nan) for shape in ((len(of), count), (count,), (count, of.shape[1])))
    return u, values, v


def _lost(kept: Tensor, whole: Tensor) -> float:
    """The share of the squared norm that singular values lack which are kept; 0 where that is rounding."""
    total, left = (float(values.double().square().sum()) for values in (whole, kept))
    return share if total and (share := 1 - left / total) > _ROUNDING else 0.0


_LOHA = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
_LEFT = {("lokr_w1",): None, ("lokr_w1_a", "lokr_w1_b"): "lokr_w1_b"}
_RIGHT = {
    ("lokr_w2",): None, ("lokr_w2_a", "lokr_w2_b"): "lokr_w2_b", ("lokr_w2_a", "lokr_w2_b", "lokr_t2"): "lokr_w2_b",
}  # fmt: skip
_KINDS = {
    frozenset("AB"): Kind("LoRA", _size_of_lora, _lora, "A"),
    frozenset(("A", "B", "mid")): Kind("LoRA", _size_of_cp, _cp, "A"),
    frozenset("ABE"): Kind("AdaLoRA", _size_of_adalora, _adalora, "A"),
    frozenset(_LOHA): Kind("LoHa", _size_of_loha, _loha, "hada_w1_b"),
    frozenset((*_LOHA, "hada_t1", "hada_t2")): Kind("LoHa", _size_of_loha, _loha, "hada_w1_b"),
    frozenset(("diff",)): Kind("whole weights", _size_of_whole, _whole, None),
    **{
        frozenset(w1 + w2): Kind("LoKr", _size_of_lokr, _lokr, of_w1 or of_w2)
        for w1, of_w1 in _LEFT.items()
        for w2, of_w2 in _RIGHT.items()
    },
}  # fmt: skip
