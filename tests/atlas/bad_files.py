"""Files that are no LoRA, or no whole one: what is sent, found and renamed, each written as such a file is."""

from __future__ import annotations

import json
import math
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tests.atlas.files import RANK, weights, write_diffusers, write_kohya, write_peft

WriteBad = Callable[[Path], Path]
"""Writes below a folder that exists, and returns what to add."""

_A, _B, _SQUARE = torch.ones(RANK, 8), torch.ones(8, RANK), torch.ones(2, 2)


def _raw(data: bytes) -> WriteBad:
    def write(folder: Path) -> Path:
        path = folder / "bad.safetensors"
        path.write_bytes(data)
        return path

    return write


def _header(text: str | bytes, data: bytes = b"") -> WriteBad:
    encoded = text.encode() if isinstance(text, str) else text
    return _raw(len(encoded).to_bytes(8, "little") + encoded + data)


def _tensors(*, alpha: Any = None, name: str = "unet.down_blocks.0.to_q", **changed: torch.Tensor | None) -> WriteBad:
    """A diffusers file of one layer, with factors `a` and `b` as given."""

    def write(folder: Path) -> Path:
        path = folder / "bad.safetensors"
        found = {f"{name}.lora_A.weight": changed.get("a", _A), f"{name}.lora_B.weight": changed.get("b", _B)}
        found[f"{name}.alpha"] = alpha
        save_file({key: value for key, value in found.items() if value is not None}, path)
        return path

    return write


def _named(**others: torch.Tensor) -> WriteBad:
    """A kohya file of one layer, and more tensors of that layer by the ends of their names."""

    def write(folder: Path) -> Path:
        path, layer = folder / "bad.safetensors", "lora_unet_down_blocks_0_to_q"
        found = {f"{layer}.lora_down.weight": _A, f"{layer}.lora_up.weight": _B}
        save_file(found | {f"{layer}.{end.replace('__', '.')}": value for end, value in others.items()}, path)
        return path

    return write


def _sized(**tensors: torch.Tensor) -> WriteBad:
    """A kohya file of one layer of another kind, by the ends of its tensors' names."""

    def write(folder: Path) -> Path:
        path = folder / "bad.safetensors"
        name = "lora_unet_down_blocks_0_to_q"
        save_file({f"{name}.{end.replace('__', '.')}": value.clone() for end, value in tensors.items()}, path)
        return path

    return write


def _of(*names: str, outputs: int = 8) -> WriteBad:
    """A file of good factors of these layers."""

    def write(folder: Path) -> Path:
        ends = {"lora_down.weight": _A, "lora_up.weight": torch.ones(outputs, RANK)}
        found = {f"{name}.{end}": value.clone() for name in names for end, value in ends.items()}
        save_file(found, folder / "bad.safetensors")
        return folder / "bad.safetensors"

    return write


def _only(*names: str) -> WriteBad:
    def write(folder: Path) -> Path:
        save_file({name: torch.ones(3, 3) for name in names}, folder / "bad.safetensors")
        return folder / "bad.safetensors"

    return write


def _with_number(end: str, number: float) -> WriteBad:
    """A good kohya file, but for one number of the last tensor whose name ends so."""

    def write(folder: Path) -> Path:
        path = write_kohya(folder / "bad.safetensors", weights(seed=55))
        found = load_file(path)
        found[max(name for name in found if name.endswith(end))].view(-1)[-1] = number
        save_file(found, path)
        return path

    return write


def _config(**changed: Any) -> WriteBad:
    return lambda folder: write_peft(folder / "bad", weights(), **changed)


def _config_text(text: str) -> WriteBad:
    def write(folder: Path) -> Path:
        made = write_peft(folder / "bad", weights())
        (made / "adapter_config.json").write_text(text)
        return made

    return write


def _pickle(folder: Path) -> Path:
    path = folder / "bad.safetensors"
    path.write_bytes(pickle.dumps({f"layer{i}": [0.0] * 9 for i in range(99)}))
    return path


def _torch_zip(folder: Path) -> Path:
    path = folder / "bad.safetensors"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps([1.0]))
    return path


def _truncated(folder: Path) -> Path:
    path = write_kohya(folder / "bad.safetensors", weights())
    path.write_bytes(path.read_bytes()[:-100])
    return path


def _pickle_suffix(suffix: str) -> WriteBad:
    def write(folder: Path) -> Path:
        path = write_diffusers(folder / "bad.safetensors", weights())
        return path.rename(path.with_suffix(suffix))

    return write


def _only_bin(folder: Path) -> Path:
    made = write_peft(folder / "bad", weights())
    (made / "adapter_model.safetensors").rename(made / "adapter_model.bin")
    return made


def _nothing(folder: Path) -> Path:
    (folder / "bad").mkdir()
    return folder / "bad"


def _metadata(settings: str) -> WriteBad:
    def write(folder: Path) -> Path:
        tensors = {"unet.down_blocks.0.to_q.lora_A.weight": _A, "unet.down_blocks.0.to_q.lora_B.weight": _B}
        save_file(tensors, folder / "bad.safetensors", {"lora_adapter_metadata": settings})
        return folder / "bad.safetensors"

    return write


def _sparse(folder: Path) -> Path:
    """A file of 100 GB of zeros that takes no room on the disk, and a header that fits it."""
    size = 10**11
    one = {"dtype": "F32", "shape": [1, size // 4], "data_offsets": [0, size]}
    path = _header(json.dumps({"unet.down_blocks.0.to_q.lora_A.weight": one}))(folder)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size + size)
    return path


def _ring(folder: Path) -> Path:
    (folder / "bad.safetensors").symlink_to("bad.safetensors")
    return folder / "bad.safetensors"


_ENTRY = '"dtype": "F32", "shape": [1], "data_offsets"'
_TWICE = f'{{"a": {{{_ENTRY}: [0, 4]}}, "a": {{{_ENTRY}: [4, 8]}}}}'
_OVERLAP = f'{{"a": {{{_ENTRY}: [0, 4]}}, "b": {{{_ENTRY}: [2, 6]}}}}'
_HOLE = f'{{"a": {{{_ENTRY}: [0, 4]}}, "b": {{{_ENTRY}: [6, 10]}}}}'
_LYING = f'{{"a": {{{_ENTRY}: [0, 10000000000]}}}}'
_SHAPE = '{"a": {"dtype": "F32", "shape": [99999, 99999], "data_offsets": [0, 4]}}'

UNREADABLE: dict[str, tuple[WriteBad, str]] = {
    "missing": (lambda folder: folder / "none.safetensors", "doesn't exist"),
    "empty": (_raw(b""), "is empty"),
    "seven bytes": (_raw(b"1234567"), "has only 7 bytes"),
    "truncated": (_truncated, "its tensors take"),
    "pickle": (_pickle, "is a pickle, which is never opened"),
    "zip of torch.save": (_torch_zip, "is a zip archive"),
    "web page": (_raw(b"<!DOCTYPE html><html>404</html>"), "is a web page"),
    "git-lfs pointer": (_raw(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"), "pointer of git-lfs"),
    "header of 10 GB": (_raw((10**10).to_bytes(8, "little") + b"{}" * 50), "claims a header of 10000000000 bytes"),
    "no JSON": (_header("{nonsense}"), "no JSON"),
    "no UTF-8": (_header(b'{"\xff\xfe": 1}'), "no JSON"),
    "no object": (_header("[1, 2]"), "begins with something else"),
    "deep JSON": (_header('{"a":' * 99_999), "no JSON"),
    "NaN in the header": (_header('{"a": {"dtype": "F32", "shape": [NaN], "data_offsets": [0, 4]}}'), "NaN is no JSON"),
    "metadata twice": (_header('{"__metadata__":{"a":"b"},"__metadata__":{"a":"b"}}'), "stands there twice"),
    "names twice": (_header(_TWICE, bytes(8)), "stands there twice"),
    "overlapping": (_header(_OVERLAP, bytes(6)), "begins at byte 2, the one before it ends at 4"),
    "a hole": (_header(_HOLE, bytes(10)), "begins at byte 6, the one before it ends at 4"),
    "a tensor of 10 GB": (_header(_LYING, bytes(4)), "needs 4 bytes, has 10000000000"),
    "an impossible shape": (_header(_SHAPE, bytes(4)), "has 4"),
    "negative": (_header(_LYING.replace("[1]", "[-1]"), bytes(4)), "impossible name, shape or place"),
    "no entry": (_header('{"a": 1}'), "can't be understood"),
    "unknown type": (
        _header('{"a": {"dtype": "Q4", "shape": [1], "data_offsets": [0, 4]}}'),
        "is of type 'Q4'; expected",
    ),
    "metadata of numbers": (_header('{"__metadata__": {"a": 1}}'), "not a table of texts"),
    "100 GB of zeros": (_sparse, "a LoRA has less than"),
    "link to itself": (_ring, "loop|symbolic|doesn't exist|can't be read"),
    ".bin": (_pickle_suffix(".bin"), "pickles are never opened"),
    ".pt": (_pickle_suffix(".pt"), "pickles are never opened"),
    ".ckpt": (_pickle_suffix(".ckpt"), "pickles are never opened"),
    "adapter_model.bin": (_only_bin, "adapter_model.bin, a pickle, which is never opened"),
    "empty folder": (_nothing, "holds no adapter"),
}
"""Bad as files: what -> (writes it, what the message says)."""

UNFIT: dict[str, tuple[WriteBad, str]] = {
    "whole checkpoint": (_only("model.diffusion_model.input_blocks.0.0.weight", "cond.weight"), "holds no LoRA"),
    "whole Flux": (_only("double_blocks.0.img_mod.lin.weight", "double_blocks.0.key_norm.scale"), "holds no LoRA"),
    "whole model with norms": (_only("encoder.0.attn.norm_q.weight", "encoder.0.attn.to_q.weight"), "holds no LoRA"),
    "no tensors": (_header("{}"), "holds no LoRA"),
    "unknown prefix": (_tensors(name="vae.encoder.conv"), "of no part that is known"),
    "bare PEFT file": (_tensors(name="base_model.model.h.0.attn"), "of no part that is known"),
    "half a LoHa": (_only("lora_unet_to_q.hada_w1_a", "lora_unet_to_q.hada_w1_b"), "no factor hada_w2_a and hada_w2_b"),
    "half a LoKr": (_only("lora_unet_to_q.lokr_w1"), "no factor lokr_w2, but lokr_w1"),
    "magnitudes alone": (_only("lora_unet_to_q.dora_scale"), "holds magnitudes only"),
    "norms and biases alone": (_only("lora_unet_to_q.w_norm", "lora_unet_to_q.diff_b"), "holds biases and norms only"),
    "OFT": (_only("lora_unet_to_q.oft_blocks"), "another kind: OFT"),
    "GLoRA": (_only("lora_unet_to_q.a1.weight", "lora_unet_to_q.b1.weight"), "another kind: GLoRA"),
    "a core of another rank": (_named(lora_mid__weight=torch.ones(4, 5, 3, 3)), "don't fit together as a LoRA's"),
    "a core without a kernel": (_named(lora_mid__weight=torch.ones(4, 4)), "don't fit together as a LoRA's"),
    "a LoHa's core without a kernel": (
        _sized(**dict.fromkeys(("hada_w1_a", "hada_w1_b", "hada_t1", "hada_w2_a", "hada_w2_b", "hada_t2"), _SQUARE)),
        "don't fit together as a LoHa's",
    ),
    "a LoKr's core without a kernel": (
        _sized(lokr_w1=_SQUARE, lokr_w2_a=_SQUARE, lokr_w2_b=_SQUARE, lokr_t2=_SQUARE), "together as a LoKr's",
    ),
    "a small file's kernel": (
        _sized(lora_down__weight=torch.ones(4, 9999), lora_up__weight=_B, lora_mid__weight=torch.ones(4, 4, 99, 99)),
        "expected one that fits",
    ),
    "a small file's long row": (
        _sized(lokr_w1_a=torch.ones(1, 100), lokr_w1_b=torch.ones(100, 2**10), lokr_w2=torch.ones(1, 2**13)),
        "its change of rank 100 would be of 1 x 8388608; expected one that fits",
    ),
    "many groups": (
        _sized(lora_down__weight=torch.ones(8000, 1, 1, 1), lora_up__weight=torch.ones(80000, 1, 1, 1)),
        "expected one that fits",
    ),
    "rank 9000": (_tensors(a=torch.ones(9000, 8), b=torch.ones(8, 9000)), "its rank is 9000; expected 8192 at most"),
    "transposed": (_tensors(a=torch.ones(8, 4), b=torch.ones(4, 8)), "swapped or transposed"),
    "a convolution's rank 0": (
        _tensors(name="transformer.x", a=torch.ones(4, 8, 1, 1), b=torch.ones(8, 0, 1, 1)), "none of them 0",
    ),
    "groups of no convolution": (_tensors(a=torch.ones(8, 8), b=torch.ones(8, 4, 1, 1)), "don't fit together"),
    "U-Net and Flux": (_of("lora_unet_double_blocks_0_img_mlp_0", "lora_unet_down_blocks_0_to_q"), "of two adapters"),
    "U-Net and transformer": (_of("unet.down_blocks.0.to_q", "transformer.blocks.0.to_q"), "of two adapters"),
    "two spellings of a U-Net": (
        _of("lora_unet_input_blocks_1_1_proj_in", "lora_unet_down_blocks_0_attentions_0_proj_in"), "for one place",
    ),
    "odd halves": (
        _of("lora_unet_double_blocks_0_img_mlp_0", "lora_unet_final_layer_adaLN_modulation_1", outputs=15),
        "15 outputs can't be",
    ),
    "a LoKr of 160000 x 160000": (
        _sized(lokr_w1=torch.ones(400, 400), lokr_w2=torch.ones(400, 400)), "160000 x 160000; expected one that fits",
    ),
    "LoRA and LoKr in one": (_named(lokr_w1=torch.ones(2, 2)), "expected one kind's"),
    "a tensor beside": (_named(surprise=torch.ones(2)), "beside its LoRA factors"),
    "ranks differ": (_tensors(b=torch.ones(8, RANK + 1)), "A \\[4, 8\\], B \\[8, 5\\]"),
    "A without B": (_tensors(b=None), "has no factor B"),
    "B without A": (_tensors(a=None), "has no factor A"),
    "rank 0": (_tensors(a=torch.ones(0, 8), b=torch.ones(8, 0)), "none of them 0"),
    "one dimension": (_tensors(a=torch.ones(8), b=torch.ones(8)), "expected 2 dimensions"),
    "six dimensions": (_tensors(a=torch.ones(RANK, 8, 3, 3, 3, 3), b=torch.ones(8, RANK)), "expected 2 dimensions"),
    "B with a kernel": (_tensors(a=torch.ones(RANK, 8, 3, 3), b=torch.ones(8, RANK, 3, 3)), "don't fit together"),
    "no inputs": (_tensors(a=torch.ones(RANK, 0)), "none of them 0"),
    "integers": (_tensors(a=_A.int()), "expected floating-point"),
    "a wrong alpha": (_tensors(alpha=torch.ones(2)), "expected one number"),
    "biases in PEFT": (_config(bias="all"), "asks for bias"),
    "whole modules in PEFT": (_config(modules_to_save=["head"]), "asks for modules_to_save"),
    "PiSSA": (_config(init_lora_weights="pissa_niter_4"), "asks for init_lora_weights"),
    "another PEFT kind": (_config(peft_type="OFT"), "its peft_type is 'OFT'"),
    "r as text": (_config(r="4"), "'r' is '4'; expected a rank"),
    "r too large for a float": (_config(peft_type="LOKR", r=10**400, alpha=1), "expected a rank"),
    "a kind of PEFT's that is a list": (_config(peft_type=["LORA"]), "its peft_type is \\['LORA'\\]"),
    "settings of another kind": (_config(peft_type="LOKR", alpha=1), "of kind LoRA, its settings are of LoKr"),
    "rsLoRA as text": (_config(use_rslora="false"), "expected true or false"),
    "r of another adapter": (_config(r=8), "has rank 4, its settings say 8"),
    "no r": (_config(r=None), "'r' is None"),
    "alpha 0 in PEFT": (_config(lora_alpha=0), "'lora_alpha' is 0"),
    "alpha too large": (_config(lora_alpha=10**400), "'lora_alpha' is 1000"),
    "pattern is a list": (_config(alpha_pattern=["to_q"]), "expected a table by layer"),
    "pattern is a trap": (_config(alpha_pattern={"(a+)+$": 1}), "regular expressions are not run"),
    "base is a number": (_config(base_model_name_or_path=5), "expected a name"),
    "config with NaN": (_config_text('{"r": NaN}'), "NaN is no JSON"),
    "config with r twice": (_config_text('{"r": 4, "r": 8}'), "stands there twice"),
    "config is a list": (_config_text("[]"), "not an object"),
    "config of 2 MB": (_config_text(" " * 2**21), "more than 1 MiB"),
    "settings are no JSON": (_metadata("{"), "no JSON"),
    "settings without rank": (_metadata('{"unet.lora_alpha": 4}'), "'r' is None"),
}  # fmt: skip
"""Whole files whose header says that they are no plain LoRA."""

NOT_FINITE: dict[str, tuple[WriteBad, str]] = {
    "NaN": (_with_number(".lora_down.weight", math.nan), "holds NaN or infinite numbers"),
    "infinite": (_with_number(".lora_up.weight", math.inf), "holds NaN or infinite numbers"),
    "NaN in a LoKr": (
        _sized(lokr_w1=torch.ones(2, 2), lokr_w2=torch.full((200, 200), math.nan)),
        "holds NaN or infinite numbers",
    ),
    "infinite in whole weights": (_sized(diff=torch.full((600, 600), math.inf)), "holds NaN or infinite numbers"),
    "alpha 0": (_with_number(".alpha", 0), "is 0.0; expected a finite number other than 0"),
    "alpha NaN": (_with_number(".alpha", math.nan), "is nan; expected a finite number other than 0"),
    "alpha infinite": (_with_number(".alpha", math.inf), "is inf; expected a finite number other than 0"),
}
"""Files that only their numbers tell from good ones: found when these are read."""
