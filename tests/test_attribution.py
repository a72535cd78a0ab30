"""Ranking known generators by probes, on weights made by hand."""

from __future__ import annotations

import pytest
import torch

from lorax.attribution import rank

LAYERS = (("blocks.0.mlp.fc1", 5, 4), ("blocks.0.patch", 3, 2 * 2 * 2))


def probe(seed: int, turned_by: int | None = None) -> dict[str, torch.Tensor]:
    """Random factors of rank 2 of a linear layer and a convolution; `turned_by`: others of the same products."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for layer, outputs, inputs in LAYERS:
        a, b = torch.randn(2, inputs, generator=generator), torch.randn(outputs, 2, generator=generator)
        if turned_by is not None:
            turn = torch.randn(2, 2, generator=torch.Generator().manual_seed(turned_by))
            a, b = turn @ a, b @ turn.inverse()
        is_patch = layer.endswith("patch")
        weights[f"base_model.model.{layer}.lora_A.weight"] = a.view(2, 2, 2, 2) if is_patch else a
        weights[f"base_model.model.{layer}.lora_B.weight"] = b.view(outputs, 2, 1, 1) if is_patch else b
    return weights


def change(weights: dict[str, torch.Tensor]) -> torch.Tensor:
    """B A of all layers, one behind the other."""
    names = [name for name in weights if ".lora_A." in name]
    pairs = [(weights[name.replace("lora_A", "lora_B")], weights[name]) for name in names]
    return torch.cat([(b.flatten(1) @ a.flatten(1)).flatten() for b, a in pairs])


def test_similarity_is_the_mean_cosine_of_what_weights_change() -> None:
    known = {"x": [probe(1), probe(2)], "y": [probe(3)]}
    found = {match.label: match.similarity for match in rank(probe(0), known)}
    of = [float(torch.cosine_similarity(change(probe(0)), change(probe(n)), dim=0)) for n in (1, 2, 3)]
    assert found == pytest.approx({"x": (of[0] + of[1]) / 2, "y": of[2]}, abs=1e-6)


def test_the_generator_whose_probes_change_the_same_comes_first_however_their_factors_say_it() -> None:
    first, second = rank(probe(1, turned_by=7), {"x": [probe(0)], "y": [probe(1)]})
    assert (first.label, first.similarity) == ("y", pytest.approx(1, abs=1e-5))
    assert second.similarity < 0.9
