"""The fast attention gives timm's own numbers."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model

from lorax.network.building import import_timm
from lorax.network.convit import use_fast_attention


def _models(name: str, *, everywhere: bool = False, **arguments: int) -> tuple[torch.nn.Module, torch.nn.Module]:
    torch.manual_seed(0)
    plain = import_timm().create_model(name, pretrained=False, num_classes=0, **arguments)
    for module in plain.modules():
        if type(module).__name__ == "GPSA":
            torch.nn.init.normal_(module.gating_param)
            torch.nn.init.normal_(module.pos_proj.weight)
    targets = r".*(attn\.(qk|v|qkv)|mlp\.fc[12])" if everywhere else r".*attn\.(qk|v)"
    config = LoraConfig(r=4, target_modules=targets, init_lora_weights=False)
    plain = get_peft_model(plain, config)
    fast = copy.deepcopy(plain)
    use_fast_attention(fast)
    return plain.eval(), fast.eval()


@pytest.mark.parametrize("everywhere", [False, True])
@pytest.mark.parametrize("name", ["convit_tiny", "convit_small", "convit_base"])
def test_forward_and_gradients_equal_timms_with_lora(name: str, everywhere: bool) -> None:
    plain, fast = _models(name, everywhere=everywhere, img_size=64, depth=3, local_up_to_layer=2)
    images = torch.randn(2, 3, 64, 64)
    outputs, direction = [], None
    for model in (plain, fast):
        feature = model(images)
        direction = torch.randn_like(feature) if direction is None else direction  # the last norm fixes sum and length
        (feature * direction).sum().backward()
        gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None and ".lora_" in n}
        outputs.append((feature.detach(), gradients))
    (expected, expected_gradients), (found, found_gradients) = outputs
    assert torch.allclose(found, expected, atol=1e-5, rtol=1e-5)
    assert len(found_gradients) == len(expected_gradients) == (22 if everywhere else 8)
    for parameter, gradient in expected_gradients.items():
        error = (found_gradients[parameter] - gradient).norm() / gradient.norm()
        assert error < 1e-4, (parameter, float(error))


def test_a_pass_that_begins_in_the_middle_of_the_first_one_says_the_same() -> None:
    """As another thread's does, since threads take parts of a batch: the first one keeps maps for all."""
    _, fast = _models("convit_tiny", img_size=32, depth=2, local_up_to_layer=2)
    attention = next(module for module in fast.modules() if type(module).__name__ == "GPSA")
    images, keep, found = torch.randn(2, 3, 32, 32), attention.register_buffer, []

    def keep_and_begin(name: str, tensor: torch.Tensor, persistent: bool = True) -> None:
        keep(name, tensor, persistent=persistent)
        if name == "gated_positions":
            found.append(fast(images))

    attention.register_buffer = keep_and_begin
    assert torch.equal(fast(images), found[0])


def test_an_attention_with_dropout_keeps_timms_forward() -> None:
    model = import_timm().create_model("convit_tiny", img_size=32, depth=2, local_up_to_layer=1, attn_drop_rate=0.1)
    assert use_fast_attention(model) == 0


def test_a_plain_vision_transformer_is_left_alone() -> None:
    assert use_fast_attention(import_timm().create_model("vit_tiny_patch16_224", img_size=32, depth=1)) == 0


def test_a_pooled_convit_keeps_all_tokens_of_its_last_block() -> None:
    torch.manual_seed(0)
    model = import_timm().create_model("convit_tiny", num_classes=0, global_pool="avg", img_size=32, depth=3).eval()
    images = torch.randn(2, 3, 32, 32)
    expected = model(images)
    assert use_fast_attention(model) == 3
    assert torch.allclose(model(images), expected, atol=1e-5)
