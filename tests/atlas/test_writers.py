"""Files by the libraries that people train with: each is read as the change that the library itself makes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lorax.atlas.formats import read_adapter
from lorax.errors import AdapterError
from tests.atlas.writers import CASES, NEEDING_BASE, lycoris_network


@pytest.mark.parametrize("what", CASES)
def test_an_adapter_changes_weights_as_its_own_library_does(what: str, tmp_path: Path) -> None:
    path, changes = CASES[what](tmp_path)
    adapter = read_adapter(path)
    pairs = dict(zip(adapter.layers, adapter.factors(), strict=True))
    assert {f"{layer.part}.{layer.name}" for layer in pairs} == changes.keys()
    for layer, (a, b) in pairs.items():
        assert (layer.outputs, layer.inputs, layer.rank) == (len(b), a.shape[1], len(a))
        expected = changes[f"{layer.part}.{layer.name}"].double()
        assert (b.double() @ a.double() - expected).norm() < 1e-5 * expected.norm()


@pytest.mark.parametrize("algo", NEEDING_BASE)
def test_what_is_no_change_without_the_base_model_is_refused_by_name(algo: str, tmp_path: Path) -> None:
    lycoris_network(algo, ["down_blocks.0.to_q"]).save_weights(tmp_path / "made.safetensors", torch.float32, {})
    with pytest.raises(AdapterError, match=f"of another kind: .*{NEEDING_BASE[algo]}.* the base model's only"):
        read_adapter(tmp_path / "made.safetensors")
