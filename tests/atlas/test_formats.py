"""Adapters from files: the same in every format, read lazily, and nothing bad gets through."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lorax.atlas import tensors
from lorax.atlas.adapter import Adapter
from lorax.atlas.formats import find_adapters, read_adapter, read_all
from lorax.errors import AdapterError
from lorax.learning.state_files import load_state
from tests.atlas.bad_files import NOT_FINITE, UNFIT, UNREADABLE
from tests.atlas.files import (
    ALPHA,
    ATTENTION,
    RANK,
    TEXT_ENCODER,
    convolution,
    weights,
    write_diffusers,
    write_kohya,
    write_peft,
)

STATE = Path(__file__).parents[1] / "learning/fixtures/state-format-2"
Q = f"unet.{ATTENTION}.to_q"


def products(adapter: Adapter) -> dict[str, torch.Tensor]:
    """B A of each layer, in float64."""
    pairs = zip(adapter.layers, adapter.factors(), strict=True)
    return {f"{layer.part}.{layer.name}": b.double() @ a.double() for layer, (a, b) in pairs}


def test_one_adapter_is_the_same_from_every_format(tmp_path: Path) -> None:
    made = weights()
    read = [
        read_adapter(write_peft(tmp_path / "peft", made)),
        read_adapter(write_kohya(tmp_path / "kohya.safetensors", made)),
    ]
    for spelling in ("lora_A", "lora.down", "processor"):
        for alpha in ("metadata", "tensor", "in B"):
            path = tmp_path / f"{spelling}-{alpha}.safetensors"
            read.append(read_adapter(write_diffusers(path, made, spelling=spelling, alpha=alpha)))
    assert len({adapter.digest for adapter in read}) == 1
    assert {adapter.layers for adapter in read} == {read[0].layers}
    assert [adapter.format for adapter in read] == ["peft", "kohya"] + ["diffusers"] * 9


def test_a_text_encoder_is_the_same_from_every_format_and_apart_from_the_u_net(tmp_path: Path) -> None:
    text = weights(TEXT_ENCODER)
    read = [
        read_adapter(write_peft(tmp_path / "peft", text)),
        read_adapter(write_kohya(tmp_path / "te.safetensors", text)),
        read_adapter(write_kohya(tmp_path / "te1.safetensors", text, text="lora_te1_")),
        *(
            read_adapter(write_diffusers(tmp_path / f"{s}.safetensors", text, spelling=s))
            for s in ("lora_A", "processor")
        ),
    ]
    assert len({adapter.digest for adapter in read}) == 1
    both = read_adapter(write_kohya(tmp_path / "both.safetensors", text | weights()))
    assert [layer.part for layer in both.layers] == ["text_encoder"] * 3 + ["unet"] * 6
    assert both.layers[:3] == read[0].layers


def test_b_is_scaled_by_alpha_over_the_rank(tmp_path: Path) -> None:
    made = weights()
    adapter = read_adapter(write_kohya(tmp_path / "x.safetensors", made))
    for path, (a, b) in made.items():
        found = products(adapter)[f"unet.{path.removeprefix('unet.').replace('.', '_')}"]
        torch.testing.assert_close(found, ALPHA / RANK * b.double() @ a.double(), rtol=1e-6, atol=1e-6)


def test_without_any_alpha_b_is_taken_as_it_is(tmp_path: Path) -> None:
    a, b = weights()[Q]
    path = tmp_path / "x.safetensors"
    save_file({"lora_unet_q.lora_down.weight": a, "lora_unet_q.lora_up.weight": b}, path)
    (pair,) = read_adapter(path).factors()
    assert torch.equal(pair[0], a) and torch.equal(pair[1], b)


def test_the_original_and_diffusers_names_of_a_u_net_give_one_adapter(tmp_path: Path) -> None:
    made = {Q: weights()[Q]}
    original = {Q: "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q"}
    ours = read_adapter(write_kohya(tmp_path / "original.safetensors", made, names=original))
    assert ours.digest == read_adapter(write_diffusers(tmp_path / "diffusers.safetensors", made)).digest


def test_a_convolutions_kernel_counts_as_inputs(tmp_path: Path) -> None:
    made = convolution()
    flat = {name: (a, b.flatten(1)) for name, (a, b) in made.items()}  # as LyCORIS's DyLoRA keeps B
    read = [
        read_adapter(write_kohya(tmp_path / "kohya.safetensors", made)),
        read_adapter(write_diffusers(tmp_path / "diffusers.safetensors", made)),
        read_adapter(write_peft(tmp_path / "peft", made)),
        read_adapter(write_kohya(tmp_path / "dylora.safetensors", flat)),
    ]
    ((a, b),) = made.values()
    (pair,) = read[0].factors()
    assert torch.equal(pair[0], a.reshape(RANK, 45)) and torch.equal(pair[1], b.reshape(7, RANK) * (ALPHA / RANK))
    assert (read[0].layers[0].outputs, read[0].layers[0].inputs) == (7, 45)
    assert len({adapter.digest for adapter in read}) == 1


def test_diffusers_settings_may_scale_single_layers(tmp_path: Path) -> None:
    path = write_diffusers(tmp_path / "x.safetensors", weights())
    record = {"unet.r": RANK, "unet.lora_alpha": ALPHA, "unet.alpha_pattern": {f"{ATTENTION}.to_q": 2 * ALPHA}}
    save_file(load_file(path), path, {"lora_adapter_metadata": json.dumps(record)})
    plain = products(read_adapter(write_kohya(tmp_path / "kohya.safetensors", weights())))
    for name, found in products(read_adapter(path)).items():
        torch.testing.assert_close(found, plain[name] * (2 if name.endswith("to_q") else 1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float64])
def test_numbers_of_any_precision_are_read_exactly_as_at_least_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    path = tmp_path / "x.safetensors"
    a, b = (factor.to(dtype) for factor in weights()[Q])
    save_file({"unet.q.lora_A.weight": a, "unet.q.lora_B.weight": b}, path)
    (pair,) = read_adapter(path).factors()
    wanted = torch.promote_types(torch.float32, dtype) if dtype.itemsize > 1 else torch.float32
    assert {factor.dtype for factor in pair} == {wanted}
    assert torch.equal(pair[0], a.to(wanted)) and torch.equal(pair[1], b.to(wanted))


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
@pytest.mark.parametrize("first", [True, False])
def test_metadata_and_numbers_may_lie_anywhere(tmp_path: Path, separators: tuple[str, str], first: bool) -> None:
    a, b = weights()[Q]
    data, entries = bytes([2]), {"lora_unet_q.alpha": {"dtype": "I8", "shape": [], "data_offsets": [0, 1]}}
    for name, factor in (("down", a), ("up", b)):
        place = [len(data), len(data) + factor.nbytes]  # odd, for numbers of four bytes
        told = {"dtype": "F32", "shape": list(factor.shape), "data_offsets": place}
        data, entries[f"lora_unet_q.lora_{name}.weight"] = data + factor.numpy().tobytes(), told
    about = {"__metadata__": {"ss_base_model_version": "sdxl_base_v1-0"}}
    header = json.dumps(about | entries if first else entries | about, separators=separators).encode()
    (tmp_path / "x.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + data)
    adapter = read_adapter(tmp_path / "x.safetensors")
    (pair,) = adapter.factors()
    assert adapter.base == "sdxl" and torch.equal(pair[0], a) and torch.equal(pair[1], b * (2 / RANK))


def test_a_file_that_changed_after_its_header_was_read_is_refused(tmp_path: Path) -> None:
    adapter = read_adapter(write_kohya(tmp_path / "x.safetensors", weights()))
    write_kohya(tmp_path / "x.safetensors", weights(rank=2))
    with pytest.raises(AdapterError, match="was changed while it was read"):
        adapter.factors()


@pytest.mark.parametrize("what", UNREADABLE)
def test_a_bad_file_is_refused_in_words(what: str, tmp_path: Path) -> None:
    write, said = UNREADABLE[what]
    path = write(tmp_path)
    with pytest.raises(AdapterError, match=said) as refused:
        for found in find_adapters([path]):
            read_all(found)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 700 and str(tmp_path) in str(refused.value)


@pytest.mark.parametrize("what", UNFIT)
def test_what_is_no_plain_lora_is_refused_by_its_header(what: str, tmp_path: Path) -> None:
    write, said = UNFIT[what]
    with pytest.raises(AdapterError, match=said) as refused:
        read_adapter(write(tmp_path))
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 700 and str(tmp_path) in str(refused.value)


@pytest.mark.parametrize("what", NOT_FINITE)
def test_numbers_that_are_not_finite_are_refused_when_they_are_read(what: str, tmp_path: Path) -> None:
    write, said = NOT_FINITE[what]
    adapter = read_adapter(write(tmp_path))
    with pytest.raises(AdapterError, match=said):
        adapter.factors()


def test_a_lying_file_takes_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a tensor was allocated")

    monkeypatch.setattr(tensors.torch, "empty", refuse)
    for what in ("header of 10 GB", "a tensor of 10 GB", "an impossible shape", "100 GB of zeros"):
        with pytest.raises(AdapterError):
            read_adapter(UNREADABLE[what][0](tmp_path)).factors()


def test_damage_at_random_is_refused_or_harmless(tmp_path: Path) -> None:
    draw, path = random.Random(0), tmp_path / "x.safetensors"
    whole = write_diffusers(tmp_path / "whole.safetensors", weights()).read_bytes()
    refused = 0
    for _ in range(400):
        damaged = bytearray(whole)
        for _ in range(draw.randint(1, 3)):
            damaged[draw.randrange(draw.choice([8, 1500, len(whole)]))] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged[: draw.choice([len(whole), len(whole), draw.randrange(len(whole))])])
        try:
            read_adapter(path).factors()
        except AdapterError:
            refused += 1
    assert refused > 200


@pytest.mark.parametrize(
    ("metadata", "base"),
    [
        ({"ss_base_model_version": "sdxl_base_v1-0", "ss_sd_model_name": "mine.safetensors"}, "sdxl"),
        ({"ss_base_model_version": "None", "modelspec.architecture": "stable-diffusion-v1/lora"}, "sd-1"),
        ({"ss_sd_model_name": "dreamshaper_8.safetensors"}, "dreamshaper_8.safetensors"),
        ({}, None),
    ],
)
def test_the_base_model_is_the_one_that_the_file_states(
    tmp_path: Path, metadata: dict[str, str], base: str | None
) -> None:
    path = write_kohya(tmp_path / "x.safetensors", weights())
    save_file(load_file(path), path, metadata)
    assert read_adapter(path).base == base
    assert read_adapter(path, "SD 2.1").base == "sd-2"


def test_a_transformer_is_the_same_as_a_peft_folder_and_as_diffusers_or_it_itself_writes_it(tmp_path: Path) -> None:
    made = weights({"transformer.blocks.0.attn1.to_q": (8, 8), "transformer.proj_out": (4, 8)})
    pipeline = write_diffusers(tmp_path / "pipeline.safetensors", made)
    own = {name.removeprefix("transformer."): tensor for name, tensor in load_file(pipeline).items()}
    settings = {"r": RANK, "lora_alpha": ALPHA, "base_model_name_or_path": "Wan-AI/Wan2.1-T2V-14B-Diffusers"}
    save_file(own, tmp_path / "own.safetensors", {"lora_adapter_metadata": json.dumps(settings)})
    paths = write_peft(tmp_path / "peft", made), pipeline, tmp_path / "own.safetensors"
    read = [read_adapter(path) for path in paths]
    assert len({adapter.digest for adapter in read}) == 1 and {layer.part for layer in read[0].layers} == {
        "transformer"
    }
    assert read[2].base == "wan-2.1"


def test_a_peft_folder_states_its_base_model(tmp_path: Path) -> None:
    folder = write_peft(tmp_path / "x", weights(), base="stabilityai/stable-diffusion-xl-base-1.0")
    assert read_adapter(folder).base == "sdxl"


def test_an_adapters_name_is_its_files_or_its_folders_where_all_files_are_called_alike(tmp_path: Path) -> None:
    assert read_adapter(write_peft(tmp_path / "monet", weights())).name == "monet"
    assert read_adapter(tmp_path / "monet" / "adapter_model.safetensors").name == "monet"
    assert read_adapter(write_kohya(tmp_path / "degas.safetensors", weights())).name == "degas"
    assert read_adapter(write_diffusers(tmp_path / "manet/pytorch_lora_weights.safetensors", weights())).name == "manet"


def test_a_learner_states_branches_are_adapters(tmp_path: Path) -> None:
    state = load_state(STATE)
    read = read_all(STATE)
    base = f"{state.backbone.name}@{state.backbone.sha256[:12]}"
    assert [(x.name, x.format, x.base) for x in read] == [("stripes", "branch", base), ("bars", "branch", base)]
    folder = read_adapter(STATE / "branches" / "00-stripes")
    assert folder.digest == read[0].digest and folder.layers == read[0].layers
    assert {layer.part for layer in folder.layers} == {"model"}


def test_a_damaged_learner_state_is_refused(tmp_path: Path) -> None:
    (tmp_path / "learner.json").write_text("{}")
    with pytest.raises(AdapterError, match="is damaged"):
        read_all(tmp_path)


def test_adapters_are_found_below_folders_in_the_order_of_their_names(tmp_path: Path) -> None:
    write_kohya(tmp_path / "b" / "2.safetensors", weights())
    write_kohya(tmp_path / "b" / "1.SAFETENSORS", weights())
    write_kohya(tmp_path / ".hidden" / "0.safetensors", weights())
    folder = write_peft(tmp_path / "a", weights())
    write_peft(folder / "checkpoint-1", weights())
    (tmp_path / "b" / "notes.txt").write_text("")
    (tmp_path / "c").symlink_to(tmp_path)
    found = [path.relative_to(tmp_path).as_posix() for path in find_adapters([tmp_path])]
    assert found == ["a", "b/1.SAFETENSORS", "b/2.safetensors"]
    assert list(find_adapters([STATE, folder])) == [STATE, folder]


def test_a_folder_that_holds_pickles_only_says_so(tmp_path: Path) -> None:
    (tmp_path / "model.ckpt").write_bytes(b"")
    with pytest.raises(AdapterError, match="holds no adapter, but 1 pickles, which are never opened"):
        list(find_adapters([tmp_path]))


def test_numbers_whose_sum_overflows_are_finite_all_the_same(tmp_path: Path) -> None:
    large = torch.full((RANK, 8), 3e38)
    save_file({"unet.q.lora_A.weight": large, "unet.q.lora_B.weight": large.T.contiguous()}, tmp_path / "x.safetensors")
    assert len(read_adapter(tmp_path / "x.safetensors").factors()) == 1
