"""Adapters made in memory: families of random LoRAs over a small transformer's layers."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lorax.atlas.adapter import Adapter, Factors, Layer, Reading

PLACES = [(f"blocks_{block}_{name}", out, inputs) for block in range(3) for name, out, inputs in (
    ("attn_qk", 24, 12), ("attn_v", 12, 12), ("mlp_fc1", 32, 12), ("mlp_fc2", 12, 32),
)]  # fmt: skip


def layers_of(rank: int = 2, places: Sequence[tuple[str, int, int]] = PLACES) -> tuple[Layer, ...]:
    return tuple(sorted(Layer("model", name, outputs, inputs, rank) for name, outputs, inputs in places))


def adapter(
    name: str, factors: Sequence[Factors], layers: Sequence[Layer], *, base: str | None = None, form: str = "peft",
    start: str | None = None,
) -> Adapter:  # fmt: skip
    """An adapter of factors that are at hand."""
    return Adapter(name, f"{name}.safetensors", form, base, tuple(layers), lambda: Reading(list(factors)), start=start)


def made(
    name: str, family: int = 0, member: int = 0, *, rank: int = 2, spread: float = 0.3, base: str | None = None,
    form: str = "peft", layers: Sequence[Layer] = (), start: str | None = None,
) -> Adapter:  # fmt: skip
    """A member of a family: the family's factors, and noise of its own of `spread` times their size."""
    of = tuple(layers) or layers_of(rank)
    common, own = torch.Generator().manual_seed(family), torch.Generator().manual_seed(1000 * family + member + 500)
    factors = []
    for x in of:
        a, b = (
            torch.randn(shape, generator=common) + spread * torch.randn(shape, generator=own)
            for shape in ((x.rank, x.inputs), (x.outputs, x.rank))
        )
        factors.append((a, b))
    return adapter(name, factors, of, base=base, form=form, start=start)


def zoo(families: int, members: int, **kwargs: float) -> tuple[list[Adapter], dict[str, str]]:
    """Families of adapters, and the label of each by its name."""
    found = {f"f{f}-{m}": made(f"f{f}-{m}", f, m, **kwargs) for f in range(families) for m in range(members)}
    return list(found.values()), {name: name.partition("-")[0] for name in found}
