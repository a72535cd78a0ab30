"""Rows of numbers: what they must hold, and that they stay what atlases on disk hold."""

from __future__ import annotations

import pytest
import torch

from lorax.atlas.adapter import Layer
from lorax.atlas.descriptor import SINGULAR_VALUES, Describer
from tests.atlas.made import layers_of, made

PRODUCT = [-3.5176444, 0.3642268, -0.3338245, 0.8115054]
SPECTRUM = [1.5228328, 0.7565548, 0.6539302, 1.4933386, 0.8814486, 0.4722799]
"""Of one adapter, as the first version of this package wrote them."""


def test_rows_are_those_that_atlases_on_disk_hold() -> None:
    rows = Describer(layers_of()).describe(made("f1-2", 1, 2).factors())
    assert rows["product"][[0, 1, 5000, -1]].tolist() == pytest.approx(PRODUCT, rel=1e-5)
    assert rows["spectrum"][[0, 1, 2, -9, -8, -7]].tolist() == pytest.approx(SPECTRUM, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_spectrum_is_of_the_products_also_where_these_are_zero_or_of_lower_rank(dtype: torch.dtype) -> None:
    draw = torch.Generator().manual_seed(0)
    factors = []
    for rank, out, inputs in ((4, 30, 20), (4, 3, 20), (2, 30, 20), (12, 30, 20)):
        factors.append((torch.randn(rank, inputs, generator=draw), torch.randn(out, rank, generator=draw)))
    factors[0][0][1] = factors[0][0][0]
    factors.append((factors[0][0], torch.zeros(30, 4)))
    layers = [Layer("unet", str(i), *b.shape[:1], *a.shape[::-1]) for i, (a, b) in enumerate(factors)]
    rows = Describer(layers).describe([(a.to(dtype), b.to(dtype)) for a, b in factors], ["spectrum"])
    found = rows["spectrum"].reshape(5, 1 + SINGULAR_VALUES)
    for row, (a, b) in zip(found[:4], factors[:4], strict=True):
        values = torch.linalg.svdvals(b.double() @ a.double())
        shares = torch.nn.functional.pad(values[:SINGULAR_VALUES] / values.norm(), (0, SINGULAR_VALUES))
        assert row[0].item() == pytest.approx(values.norm().log10().item(), abs=1e-6)
        assert row[1:].tolist() == pytest.approx(shares[:SINGULAR_VALUES].tolist(), abs=1e-6)
    assert found.dtype == dtype
    assert found[4].tolist() == [pytest.approx(-12), *[0] * SINGULAR_VALUES]
