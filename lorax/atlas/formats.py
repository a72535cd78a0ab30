"""LoRA files as adapters: PEFT folders, single files of diffusers and kohya, and the branches of learner states.

    PEFT        adapter_config.json and adapter_model.safetensors: base_model.model.<path>.lora_A.weight, .lora_B.weight
    diffusers   one file: unet.<path>.lora_A.weight, or .lora.down.weight, or .processor.to_q_lora.down.weight
    kohya       one file: lora_unet_<path, '_' for '.'>.lora_down.weight, .lora_up.weight, .alpha

The header is read and checked at once, tensors only when factors are asked for. Nothing but safetensors and JSON is
ever opened.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from lorax.atlas.adapter import Adapter
from lorax.atlas.bases import family, guessed
from lorax.atlas.kinds import ASIDE, needing_base
from lorax.atlas.layers import Layout, StoredLayer, assemble, reader, with_own_ranks
from lorax.atlas.names import PEFT_PREFIX, FileKeys, peft_keys, single_file_keys, split
from lorax.atlas.segments import counted
from lorax.atlas.settings import LoraSettings, parse_settings
from lorax.atlas.tensors import (
    Header,
    Stored,
    TensorFile,
    adapter_errors,
    at_least_float32,
    open_tensors,
    parse_json,
    read_json,
    said_of,
    shown,
)
from lorax.errors import AdapterError, StateError
from lorax.learning.state import Branch, LearnerState
from lorax.learning.state_files import load_state

_CONFIG, _WEIGHTS, _STATE = "adapter_config.json", "adapter_model.safetensors", "learner.json"
_ATLAS = "atlas.json"
_SAFE = ".safetensors"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_NO_NAMES = ("adapter_model", "pytorch_lora_weights")
"""Files that every writer calls the same; their folder says more."""

_BASE_KEYS = ("ss_base_model_version", "modelspec.architecture", "ss_sd_model_name")
_SETTINGS_KEY, _OWN = "lora_adapter_metadata", "lora_alpha"
_PEFT_BASE = "base_model_name_or_path"
_CONVERT = "Ask its author for a safetensors file, or convert it where you trust it."


def read_adapter(path: Path, base: str | None = None) -> Adapter:
    """Read an adapter's layers; its factors are read when they are asked for.

    Args:
        path: a PEFT folder, or a safetensors file.
        base: the base model, where the file doesn't say or is not to be believed.

    Raises:
        AdapterError: it is missing, damaged, or no plain LoRA.
    """
    with adapter_errors(path):
        if path.is_dir():
            return _peft_folder(path, base)
        if not path.exists():
            raise AdapterError(f"{path} doesn't exist. Expected a PEFT folder or a safetensors file; check the path.")
        if path.name == _WEIGHTS and (path.parent / _CONFIG).is_file():
            return _peft_folder(path.parent, base)
    if path.suffix.lower() in _PICKLES:
        raise AdapterError(f"{path} is a pickle by its name; pickles are never opened. {_CONVERT}")
    if path.suffix.lower() != _SAFE:
        raise AdapterError(f"{path} is no adapter by its name; expected a PEFT folder or a safetensors file.")
    return _single_file(path, base)


def read_all(path: Path, base: str | None = None) -> list[Adapter]:
    """The adapter at `path`, or every branch of the learner state in this directory.

    Raises:
        AdapterError: as `read_adapter`, or the state is damaged.
    """
    if not _is_state(path):
        return [read_adapter(path, base)]
    try:
        state = load_state(path)
    except StateError as error:
        raise AdapterError(str(error)) from error
    return branches_of(state, path, family(base) if base else None)


def branches_of(state: LearnerState, directory: Path, base: str | None = None) -> list[Adapter]:
    """Every branch of a learner state that was read from `directory`: named by its task, labelled by its generators."""
    known = base or f"{state.backbone.name}@{state.backbone.sha256[:12]}"
    labels: dict[str, list[str]] = defaultdict(list)
    for entry in state.classes.entries:
        labels[entry.task] += [] if entry.is_real else [entry.label]
    return [_branch(directory, branch, known, "+".join(labels[branch.task])) for branch in state.branches]


def find_adapters(paths: Iterable[Path]) -> Iterator[Path]:
    """What `read_all` reads at each path: the path itself, or all PEFT folders, states and files below a folder.

    Hidden folders, those reached by links and atlases are passed over, and an adapter's own folder is not searched
    further.

    Raises:
        AdapterError: a path doesn't exist, or is a folder without any adapter.
    """
    for path in paths:
        with adapter_errors(path):
            if not path.exists():
                raise AdapterError(f"{path} doesn't exist. Check the path.")
            places = list(_below(path)) if path.is_dir() else [path]
            if not places:
                raise AdapterError(_nothing_in(path))
        yield from sorted(places)


def _below(folder: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(folder, onerror=_raise):
        if _CONFIG in files or _STATE in files:
            folders.clear()
            yield Path(place)
            continue
        if _ATLAS in files:
            folders.clear()
            continue
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(place, name) for name in files if name.lower().endswith(_SAFE) and not name.startswith("."))


def _raise(error: OSError) -> None:
    raise error


def _nothing_in(folder: Path) -> str:
    pickles = sum(path.suffix.lower() in _PICKLES for path in folder.rglob("*"))
    beside = f", but {pickles} pickles, which are never opened" if pickles else ""
    return (
        f"{folder} holds no adapter{beside}; expected PEFT folders, learner states or safetensors files. "
        "Check the path."
    )


def _is_state(path: Path) -> bool:
    with adapter_errors(path):
        return (path / _STATE).is_file()


def _peft_folder(folder: Path, base: str | None) -> Adapter:
    config, weights = folder / _CONFIG, folder / _WEIGHTS
    if _is_state(folder):
        raise AdapterError(f"{folder} is a learner state, which has many branches; name one of {folder / 'branches'}.")
    if not config.is_file():
        raise AdapterError(f"{folder} holds no {_CONFIG}; expected a PEFT folder. Name a file, or another folder.")
    if not weights.is_file():
        pickle = folder / "adapter_model.bin"
        beside = f" It has {pickle.name}, a pickle, which is never opened. {_CONVERT}" if pickle.exists() else ""
        raise AdapterError(f"{folder} holds no {_WEIGHTS}; expected it beside {_CONFIG}.{beside}")
    record = read_json(config)
    settings = parse_settings(record, str(config))
    file = open_tensors(weights)
    with said_of(f"{weights}"):
        plan = _peft_plan(file.header, _model_class(record))
    stored = plan.layout.stored
    _check_ranks(stored, {each.layer.part: settings for each in stored}, str(folder))
    read = reader(plan.layout, file.read, lambda each, _: settings.scale(each.path, each.rank), str(weights))
    stated = base or _stated_base([record.get(_PEFT_BASE)], config)
    return Adapter(
        _name(folder), str(folder), "peft", family(stated) if stated else None, plan.layout.layers, read,
        guess=plan.guess, algorithm=plan.layout.algorithm,
    )  # fmt: skip


def _branch(directory: Path, branch: Branch, base: str, label: str) -> Adapter:
    source = f"{directory}: branch {branch.task}"
    settings = parse_settings(branch.config, source)
    tensors = {name: Stored(value.dtype, tuple(value.shape)) for name, value in branch.weights.items()}
    with said_of(source):
        layout = _planned(tensors, peft_keys(tensors), PEFT_PREFIX).layout
    read = reader(
        layout,
        lambda: {name: at_least_float32(weight) for name, weight in branch.weights.items()},
        lambda each, _: settings.scale(each.path, each.rank),
        source,
    )
    return Adapter(branch.task, source, "branch", base, layout.layers, read, label, branch.start)


def _single_file(path: Path, base: str | None) -> Adapter:
    file = open_tensors(path)
    record = _settings_record(file)
    with said_of(f"{path}"):
        plan = _single_plan(file.header, _OWN in record)
    layout = with_own_ranks(plan.layout, file.read)
    settings = _settings_by_part(record, plan.parts, path)
    _check_ranks([each for each in layout.stored if each.alpha is None and each.rank], settings, str(path))

    def scale(each: StoredLayer, alpha: float | None) -> float:
        if each.rank is None:
            return 1.0
        if alpha is not None:
            return alpha / each.rank
        given = settings.get(each.layer.part)
        return given.scale(each.path, each.rank) if given else 1.0

    in_settings = [value for key, value in record.items() if key.endswith(_PEFT_BASE)]
    stated = base or _stated_base([*(file.metadata.get(key) for key in _BASE_KEYS), *in_settings], path)
    return Adapter(
        _name(path), str(path), plan.form, family(stated) if stated else None, layout.layers,
        reader(layout, file.read, scale, str(path)), guess=plan.guess, algorithm=layout.algorithm,
    )  # fmt: skip


class _Plan(NamedTuple):
    """What a file's header alone tells: worked out once for all files with the same."""

    form: str
    parts: set[str]
    layout: Layout
    guess: str | None


@lru_cache(maxsize=8)
def _single_plan(header: Header, is_own: bool) -> _Plan:
    known = single_file_keys(header.tensors, is_own=is_own)
    return _planned(header.tensors, known, "unet., transformer., text_encoder., lora_unet_, lora_te_ or so")


@lru_cache(maxsize=8)
def _peft_plan(header: Header, model_class: str | None) -> _Plan:
    return _planned(header.tensors, peft_keys(header.tensors, model_class), PEFT_PREFIX)


def _planned(tensors: Mapping[str, Stored], known: FileKeys, expected: str) -> _Plan:
    _check_known(tensors, known, expected)
    layout, keys = assemble(known.keys, tensors), known.keys.values()
    return _Plan(next(iter(keys)).format, {key.part for key in keys}, layout, guessed(layout.layers, known.family))


def _check_known(names: Iterable[str], known: FileKeys, expected: str) -> None:
    """Refuse a file with tensors whose names say that they are something else than an adapter's.

    Args:
        names: of all tensors.
        known: what those say that are an adapter's.
        expected: what names begin with.
    """
    strange = [name for name in names if name not in known.keys and name not in known.redundant]
    for name in strange:
        if kind := needing_base(name):
            raise AdapterError(
                f" is of another kind: {kind}, as tensor {shown(name)} shows, whose change of the weights is "
                "known with the base model's only. Leave it out."
            )
    if of_lora := [name for name in strange if (found := split(name)) and found[1] not in ASIDE]:
        raise AdapterError(
            f": tensor {shown(of_lora[0])} is of no part that is known here; expected a name that begins with "
            f"{expected}. If it is PEFT's, put its {_CONFIG} and it into one folder."
        )
    if not known.keys or (strange and all(key.role in ASIDE for key in known.keys.values())):
        first = f", such as {shown(strange[0])}" if strange else ""
        raise AdapterError(
            f" holds no LoRA: {counted(len(strange), 'tensor')}{first}; expected LoRA factors. "
            "A whole model can't be compared: name a LoRA's file."
        )
    parts = {key.part for key in known.keys.values()}
    if "unet" in parts and (known.family or any(part.startswith("transformer") for part in parts)):
        raise AdapterError(
            " holds layers of a U-Net and of a diffusion transformer; expected one base model's. It is of two "
            "adapters: ask its author for each, or leave it out."
        )
    if strange:
        raise AdapterError(
            f" holds tensor {shown(strange[0])} beside its LoRA factors, so they don't say all that it does; "
            "expected a plain LoRA. Leave it out, or convert it to a plain LoRA."
        )


def _settings_record(file: TensorFile) -> dict[str, Any]:
    """What newer diffusers keep of PEFT's settings: by part, or as they are where a model wrote the file by itself."""
    text = file.metadata.get(_SETTINGS_KEY)
    with said_of(f"{_SETTINGS_KEY} in {file.path}"):
        return {} if text is None else parse_json(text)


def _settings_by_part(record: Mapping[str, Any], parts: Iterable[str], path: Path) -> dict[str, LoraSettings]:
    settings = {}
    for part in parts:
        own = {key.removeprefix(f"{part}."): value for key, value in record.items() if key.startswith(f"{part}.")}
        if own or _OWN in record:
            settings[part] = parse_settings(own or record, f"{_SETTINGS_KEY} in {path}")
    return settings


def _check_ranks(layers: Iterable[StoredLayer], settings: Mapping[str, LoraSettings], source: str) -> None:
    for each in layers:
        given = settings.get(each.layer.part)
        if given and each.kind.name != given.kind:
            raise AdapterError(
                f"{source}: layer {shown(each.path)} is of kind {each.kind.name}, its settings are of {given.kind}, "
                "which is scaled otherwise. Settings and tensors are of two adapters: fetch both again."
            )
        if given and not given.is_adalora and each.rank and each.rank not in given.ranks:
            raise AdapterError(
                f"{source}: layer {shown(each.path)} has rank {each.rank}, its settings say "
                f"{' or '.join(map(str, given.ranks))}. Settings and tensors are of two adapters: fetch both again."
            )


def _model_class(record: Mapping[str, Any]) -> str | None:
    mapping = record.get("auto_mapping")
    return str(mapping.get("base_model_class")) if isinstance(mapping, dict) else None


def _stated_base(stated: Iterable[Any], where: Path) -> str | None:
    for base in stated:
        if base is None or base in ("", "None"):
            continue
        if not isinstance(base, str) or not base.isprintable() or len(base) > 300:
            raise AdapterError(f"{where}: its base model is {shown(str(base))}; expected a name. Give one with --base.")
        return base
    return None


def _name(path: Path) -> str:
    path = path.resolve()
    name = path.name.removesuffix(_SAFE)
    return path.parent.name if name in _NO_NAMES else name
