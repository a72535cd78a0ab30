"""Files by the libraries that people train with: each is read as the change that the library itself makes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lorax.atlas.comparing import compare_factors
from lorax.atlas.formats import read_adapter
from lorax.errors import AdapterError
from tests.atlas.writers import CASES, NEEDING_BASE, Small, by_peft, lycoris_network, quiet


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


@pytest.mark.parametrize("kind", ["LoHa", "LoKr"])
def test_another_kind_is_the_lora_that_peft_converts_it_to(kind: str, tmp_path: Path) -> None:
    path, _ = by_peft(tmp_path / "kind", kind=kind, targets=["to_q"], r=2, alpha=5)
    with quiet():
        from peft import PeftModel, save_as_lora

        save_as_lora(str(tmp_path / "lora"), PeftModel.from_pretrained(Small(), str(path)), rank=16)
    one, other = read_adapter(path), read_adapter(tmp_path / "lora")
    assert (one.algorithm, other.algorithm) == (kind, "LoRA")
    compared = compare_factors(one, other)
    assert compared.cosine and compared.cosine > 0.9999 and compared.norms[0] == pytest.approx(compared.norms[1])
