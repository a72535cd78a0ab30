"""Two adapters layer by layer: exact from factors, near it from what an atlas keeps."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lorax.atlas.comparing import Sketched, compare_factors, compare_rows
from lorax.atlas.descriptor import Describer
from lorax.errors import AdapterError
from tests.atlas.made import PLACES, adapter, layers_of, made


def test_figures_are_those_of_the_products_themselves() -> None:
    one, other = made("one", 0, 0), made("other", 0, 1, rank=3)
    found = compare_factors(one, other)
    products = [[(b @ a).double() for a, b in of.factors()] for of in (one, other)]
    for like, x, y in zip(found.layers, *products, strict=True):
        assert like.cosine == pytest.approx(float((x * y).sum() / (x.norm() * y.norm())), abs=1e-6)
        assert like.norms == pytest.approx((float(x.norm()), float(y.norm())), rel=1e-6)
        values = torch.linalg.svdvals(x)
        assert like.ranks[0] == pytest.approx(float(values.square().sum() / values[0] ** 2), rel=1e-5)
    flat = [torch.cat([x.flatten() for x in of]) for of in products]
    assert found.cosine == pytest.approx(float(flat[0] @ flat[1] / (flat[0].norm() * flat[1].norm())), abs=1e-6)
    assert found.norms == pytest.approx([float(x.norm()) for x in flat], rel=1e-6)
    assert (found.only, found.error) == (([], []), None)


def test_layers_that_only_one_has_are_named_and_left_out() -> None:
    found = compare_factors(made("one"), made("other", layers=layers_of(places=PLACES[2:5])))
    assert len(found.layers) == 3
    assert "model.blocks_0_attn_qk" in found.only[0]
    assert (len(found.only[0]), found.only[1]) == (9, [])
    with pytest.raises(
        AdapterError, match=r"have no layer in common: model.blocks_0_attn_qk \(24x12\) against model.x"
    ):
        compare_factors(made("one"), made("other", layers=layers_of(places=[("x", 4, 4)])))


def test_a_layer_that_is_zero_has_no_cosine_and_no_rank() -> None:
    factors = made("one").factors()
    factors[0] = (factors[0][0], 0 * factors[0][1])
    half = adapter("half", factors, layers_of())
    for found in (compare_factors(half, made("one")), _by_rows(half, made("one"))):
        assert (found.layers[0].cosine, found.layers[0].norms[0], found.layers[0].ranks[0]) == (None, 0, None)
        assert found.layers[1].cosine == pytest.approx(1)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("power", [80, 120, 160])
def test_numbers_that_are_too_large_are_refused(power: int) -> None:
    huge = [(a.double() * 10.0**power, b.double() * 10.0**power) for a, b in made("one").factors()]
    for pair in ((adapter("huge", huge, layers_of()), made("one")), (made("one"), adapter("huge", huge, layers_of()))):
        with pytest.raises(AdapterError, match=r"huge.safetensors: its numbers are too large"):
            compare_factors(*pair)


def _by_rows(one, other, side=None):  # type: ignore[no-untyped-def]
    describer = Describer(one.layers, side=side)
    rows = [{k: v.float().numpy() for k, v in describer.describe(of.factors()).items()} for of in (one, other)]
    return compare_rows(describer, *(Sketched(row["product"], row["spectrum"]) for row in rows))


def test_from_rows_norms_and_ranks_are_exact_and_cosines_as_near_as_is_said() -> None:
    one, other = made("one", 0, 0, spread=1), made("other", 0, 1, spread=1)
    exact, found = compare_factors(one, other), _by_rows(one, other)
    for a, b in zip(exact.layers, found.layers, strict=True):
        assert b.norms == pytest.approx(a.norms, rel=1e-4)
        assert b.ranks == pytest.approx(a.ranks, rel=1e-4)
    apart = np.array([a.cosine - b.cosine for a, b in zip(exact.layers, found.layers, strict=True)])
    assert found.error is not None
    assert 0 < np.sqrt(np.mean(apart**2)) < found.error[1]
    assert found.cosine == pytest.approx(exact.cosine, abs=found.error[0])
