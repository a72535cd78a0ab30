"""The closed schema of params.yaml: every hyper-parameter, checked before anything runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    PositiveFloat,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from lorax.errors import ParamsError, printable

MAX_CROP = 4096
"""Side in pixels of the largest square that a network may see."""

MAX_RANK = 4096

_DAY_S = 86_400


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """YAML reads "yes" and "on" as true, which would count as 1."""
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation in (int, float):
            raise ValueError(f"expected a number, found {value}")
        return value


class BackboneParams(_Section):
    """Which frozen vision transformer, and what it wants to see."""

    name: str = Field(
        "shipped",
        description="'shipped' or 'residual', the package's own, or a timm model name; 'residual+NAME' is timm's NAME "
        "beside the residual backbone's front",
    )
    weights: str = Field("shipped", description="'shipped', 'hub', or the path of a safetensors file")
    arguments: dict[str, JsonValue] = Field(default_factory=dict, description="timm constructor arguments")
    crop: int = Field(
        64, ge=8, le=MAX_CROP, description="side of the square that the network sees, pixels; 'shipped' has 64"
    )
    mean: tuple[float, float, float] = Field(
        (0.5, 0.5, 0.5), description="of red, green and blue from 0 to 1, which timm's model was trained with"
    )
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = Field(
        (0.5, 0.5, 0.5), description="likewise; the package's own backbones bring both themselves"
    )


class LoraParams(_Section):
    """One branch's LoRA."""

    rank: int = Field(16, ge=1, le=MAX_RANK, description="columns of B and rows of A, in every layer")
    alpha: float = Field(16.0, gt=0, description="the change of a layer is B A, times alpha / rank")
    dropout: float = Field(0.1, ge=0, lt=1, description="share of what A reads that is left out, in training only")
    targets: tuple[str, ...] = Field(
        (r"blocks\.\d+\.attn\.(qk|v|qkv)", r"blocks\.\d+\.mlp\.fc[12]"),
        min_length=1,
        description="full-match regular expressions over module names",
    )


class TrainingParams(_Section):
    """How a branch and the head are fitted; the same for every task but the learning rate."""

    epochs: int = Field(6, ge=1, le=10**6, description="how often each image is shown")
    batch_size: int = Field(32, ge=1, le=10**6, description="images of a step, over all processes")
    learning_rate_first: float = Field(4e-3, gt=0, description="peak rate for the first task")
    learning_rate: float = Field(4e-3, gt=0, description="peak rate for every later task")
    warmup_epochs: int = Field(1, ge=0, description="epochs from warmup_rate to the peak; the cosine comes after them")
    warmup_rate: float = Field(5e-4, gt=0, description="rate that the warm-up starts from (may lie above the peak)")
    minimum_rate: float = Field(5e-5, ge=0, description="where the cosine ends")
    weight_decay: float = Field(1e-2, ge=0, description="AdamW's")
    diversity_weight: float = Field(0.1, ge=0, description="of the diversity head's cross-entropy in the loss")
    views: int = Field(1, ge=1, description="random crops drawn once per image; epoch e shows view e mod views")
    augmentation: float = Field(0.0, ge=0, le=1, description="share of the views after the first that are perturbed")
    branch_init: Literal["fresh", "nearest"] = Field(
        "fresh", description="what a new branch starts from: A seeded and B zero, or the nearest known one's weights"
    )
    drop_last: bool = Field(False, description="leave out an epoch's last incomplete batch, as published")
    mixed_precision: bool = Field(False, description="matrix products in bfloat16, in training and for features")


class HeadParams(_Section):
    """What the head reads, and how it comes by its weights."""

    solver: Literal["gradient", "ridge"] = Field(
        "gradient",
        description="the branches' features, learned with the newest branch, as published; or beside it the frozen "
        "backbone's texture, solved exactly from sums over all images ever learned from",
    )
    penalty: float = Field(100.0, gt=0, description="ridge: images that a direction of the texture needs, to count")
    perturbations: tuple[Literal["jpeg", "jpeg-low", "webp", "scaled"], ...] = Field(
        (),
        description="ridge: of which kinds of perturbed images a head of its own is solved; each costs an episode time",
    )


class ExemplarParams(_Section):
    """The exemplar memory."""

    budget: int = Field(250, ge=0, description="images kept in all, shared evenly over the classes seen")


class CalibrationParams(_Section):
    """The calibration memory, and what counts as unknown or undecided.

    A params.yaml without this section is from before it existed, and goes on as it did: nothing is held out.
    """

    per_class: int = Field(0, ge=0, description="training images of each class held out; 0: no calibration")
    false_alarms: float = Field(0.05, gt=0, lt=1, description="share of known images that may be called strange")
    undecided_below: float = Field(0.5, ge=0, le=1, description="an answer less likely than this is not given")
    false_positives: float = Field(
        1.0, gt=0, le=1, description="share of real images, of each perturbation, that may be called synthetic; 1: any"
    )
    set_error: float = Field(
        0.1, gt=0, lt=1, description="share of synthetic images that may be by a generator not among those named"
    )


class RobustnessParams(_Section):
    """The robustness card: test images perturbed as the world perturbs them."""

    per_class: int = Field(25, ge=0, description="test images of each class looked at under each perturbation")


LEAST_PROBE_IMAGES = 5
"""Fewer images of a generator teach a probe what they show rather than what made them."""


_NO_PHOTOGRAPHS = ("data", "work")


class RealsParams(_Section):
    """Real photographs that no task brings, on which false positives are measured."""

    path: str | None = Field(None, min_length=1, description="folder that DVC tracks, relative to the workspace")
    images: int = Field(200, ge=1, description="photographs looked at in each slice, always the same ones")

    @field_validator("path")
    @classmethod
    def _is_a_folder_of_its_own(cls, path: str | None) -> str | None:
        if path is None:
            return None
        place = PurePosixPath(path)
        if place.is_absolute() or ".." in place.parts or place.parts[:1] in ((), *((n,) for n in _NO_PHOTOGRAPHS)):
            raise ValueError(
                f"expected a folder of the workspace, relative to it and apart from data/ and work/, such as "
                f"'photographs', found {path!r}"
            )
        return place.as_posix()


class AtlasParams(_Section):
    """Probes: branches learned in seconds, by which an unknown data set is compared with known generators."""

    probe_images: int = Field(
        40, ge=LEAST_PROBE_IMAGES, description="images of a generator, and as many real ones, that a probe sees"
    )
    probe_shown: int = Field(320, ge=1, description="images that training a probe shows in all")
    probe_rate: float = Field(4e-3, gt=0, description="peak learning rate of a probe")


class RunParams(_Section):
    """What an episode is a pure function of, besides state, data and hyper-parameters."""

    seed: int = Field(0, ge=0, lt=2**63, description="of all that is drawn: weights, views, batches, held-out images")
    threads: int = Field(2, ge=1, le=4096, description="CPU threads of torch; part of the result's last bits")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: a GPU where there is one")
    batch_size: int = Field(
        64, ge=1, le=10**6, description="images per batch where nothing is trained; on a CPU at most 16"
    )
    processes: int = Field(1, ge=1, le=1024, description="processes that share an episode's work: one for each GPU")


class FeaturesParams(_Section):
    """What frozen branches said of images, kept under work/episodes/features."""

    limit_gb: float = Field(10, ge=0, description="beyond it, after an episode, what was not asked for longest goes")


_NOT_IN_A_MODEL_S_NAME = "/:.%\"'"
"""MLflow takes no model whose name holds one of these, which it says only once there is a model to register."""


class RegistryParams(_Section):
    """Under which name MLflow has what is learned."""

    model: str = Field(
        "lorax", min_length=1, max_length=200, description="name of the registered model and of its experiment"
    )

    @field_validator("model")
    @classmethod
    def _can_be_registered(cls, name: str) -> str:
        found = sorted({c for c in name if c in _NOT_IN_A_MODEL_S_NAME or not c.isprintable()})
        if found or not name.strip():
            raise ValueError(
                f"MLflow can't register a model called {name!r}: expected a name without "
                f"{' '.join(_NOT_IN_A_MODEL_S_NAME)}, such as 'team-detector'"
            )
        return name


class LandingParams(_Section):
    """The landing contract: what a new data set must fulfil."""

    min_train: int = Field(130, ge=1, description="least images of each class in train/")
    min_val: int = Field(45, ge=1, description="least images of each class in val/")
    leak_warned: float = Field(0.6, ge=0.5, le=1, description="accuracy of a format leak that is warned of")
    leak_refused: float = Field(0.9, ge=0.5, le=1, description="accuracy of a format leak that is refused")
    near_bits: int = Field(4, ge=0, le=16, description="bits of 64 in which near duplicates' hashes may differ")
    drop_dir: str | None = Field(None, min_length=1, description="drop folder to watch, relative to the workspace")


class GateParams(_Section):
    """When a challenger may become champion."""

    detection_floor: float = Field(0.7, ge=0, le=1, description="least accuracy of real or synthetic on the new task")
    detection_drop: float = Field(0.08, ge=0, le=1, description="its largest drop on an old task against the champion")
    detection_forgetting: float = Field(0.15, ge=0, le=1, description="and against when the task was first learned")
    attribution_floor: float = Field(0.5, ge=0, le=1, description="least accuracy of the generator's name as well")
    attribution_drop: float = Field(0.3, ge=0, le=1, description="its largest drop against the champion")
    attribution_forgetting: float = Field(0.4, ge=0, le=1, description="and against when the task was first learned")
    significance: float = Field(0.05, gt=0, le=1, description="a drop with a larger p-value is taken for chance")
    robustness: float = Field(0.0, ge=0, le=1, description="least accuracy when perturbed over clean; 0: not asked")
    false_positives: float | None = Field(
        None, ge=0, lt=1, description="most real photographs of reals.path called synthetic; null: not asked"
    )
    approval: bool = Field(False, description="what passes waits for a person to promote it")

    @model_validator(mode="before")
    @classmethod
    def _judges_two_figures(cls, values: Any) -> Any:
        old = sorted({"floor", "max_drop", "max_forgetting"} & set(values)) if isinstance(values, dict) else []
        if old:
            raise ValueError(
                f"{', '.join(old)}: real or synthetic and the generator's name are judged apart now. Instead of floor, "
                "max_drop and max_forgetting set detection_floor, detection_drop and detection_forgetting, and "
                "attribution_floor, attribution_drop and attribution_forgetting (docs/how-to/gate.md)"
            )
        return values


class ServicesParams(_Section):
    """Where the embedded servers listen, on loopback."""

    prefect_port: int = Field(4200, ge=1024, le=65535, description="of Prefect's server")
    mlflow_port: int = Field(5000, ge=1024, le=65535, description="of MLflow's server")


class ServingParams(_Section):
    """What `lorax serve` takes from a client, and how often it looks for a new champion."""

    max_images: int = Field(64, ge=1, description="images of a request")
    max_image_mb: float = Field(32, gt=0, description="megabytes of an image file")
    max_request_mb: float = Field(128, gt=0, description="megabytes of a request")
    max_pixels: int = Field(50_000_000, ge=1, le=89_000_000, description="of an image; Pillow has a limit above it")
    timeout_s: float = Field(60, gt=0, le=_DAY_S, description="from a request's headers to its answer")
    queue: int = Field(2048, ge=1, description="images that may wait; beyond it, requests are told to come again")
    memory_mb: float = Field(1024, gt=0, description="of request bodies, and as much again of images being decoded")
    poll_s: float = Field(5, gt=0, le=_DAY_S, description="between two looks at the alias")
    drain_s: float = Field(3, ge=0, le=_DAY_S, description="after SIGTERM, answering, and not ready for more")
    hosts: tuple[str, ...] = Field((), description="names that it may be called by, beside loopback's and --host")
    exact: bool = Field(False, description="ask all branches about every image, as `lorax predict --explain` does")


class Params(_Section):
    """params.yaml, checked; sections are named after rooms."""

    backbone: BackboneParams = BackboneParams()
    lora: LoraParams = LoraParams()
    training: TrainingParams = TrainingParams()
    head: HeadParams = HeadParams()
    exemplars: ExemplarParams = ExemplarParams()
    calibration: CalibrationParams = CalibrationParams()
    robustness: RobustnessParams = RobustnessParams()
    reals: RealsParams = RealsParams()
    atlas: AtlasParams = AtlasParams()
    run: RunParams = RunParams()
    features: FeaturesParams = FeaturesParams()
    registry: RegistryParams = RegistryParams()
    landing: LandingParams = LandingParams()
    gate: GateParams = GateParams()
    services: ServicesParams = ServicesParams()
    serving: ServingParams = ServingParams()

    @model_validator(mode="after")
    def _false_positives_can_be_measured(self) -> Params:
        if self.gate.false_positives is not None and self.reals.path is None:
            raise ValueError(
                "gate.false_positives asks for a figure that needs real photographs: name their folder in reals.path, "
                "or make it null"
            )
        return self

    def learning(self) -> dict[str, Any]:
        """The sections that an episode's result depends on, as plain JSON values; a learner state records them."""
        names = {"backbone", "lora", "training", "head", "exemplars", "calibration", "run"}
        return self.model_dump(mode="json", include=names)


def load_params(path: Path, *, preset: str | None = None, overrides: Iterable[str] = ()) -> Params:
    """Read params.yaml, lay a preset over it, then `section.key=value` overrides.

    Args:
        path: the workspace's params.yaml; its `presets` section maps a preset's name to partial sections.
        preset: name of a preset of that file, or None.
        overrides: `section.key=value` texts; the value is read as YAML.

    Raises:
        ParamsError: unreadable file, unknown preset, unknown key, or a value that the schema refuses.
    """
    raw = _read(path)
    presets = raw.pop("presets", None) or {}
    if preset is not None:
        raw = _merged(raw, _preset(path, presets, preset))
    for text in overrides:
        raw = _merged(raw, _parse_override(text))
    try:
        return Params.model_validate({name: {} if values is None else values for name, values in raw.items()})
    except ValidationError as error:
        found = ((printable(".".join(map(str, e["loc"]))), e["msg"]) for e in error.errors())
        details = "; ".join(": ".join(filter(None, parts)) for parts in found)
        raise ParamsError(f"{path} is not valid: {details}.") from error


def _preset(path: Path, presets: Any, name: str) -> dict[Any, Any]:
    if not isinstance(presets, dict) or name not in presets:
        known = ", ".join(sorted(map(str, presets))) if isinstance(presets, dict) else ""
        raise ParamsError(f"{path} has no preset {name!r}; it has {known or 'none'}.")
    if not isinstance(presets[name], dict):
        found = type(presets[name]).__name__
        raise ParamsError(f"preset {name!r} of {path} holds {found}; expected sections such as 'training:'.")
    return dict(presets[name])


def _read(path: Path) -> dict[Any, Any]:
    try:
        raw = yaml.safe_load(path.read_text()) or {}
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        why = printable(" ".join(str(error).split()))
        raise ParamsError(f"{path} can't be read as YAML: {why}. Restore it from git or 'lorax init'.") from error
    if not isinstance(raw, dict):
        raise ParamsError(f"{path} holds {type(raw).__name__}; expected sections such as 'training:'.")
    return raw


def _parse_override(text: str) -> dict[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or "." not in key:
        raise ParamsError(f"override {text!r} is not understood: expected section.key=value, as in training.epochs=2.")
    section, _, name = key.partition(".")
    try:
        return {section: {name: yaml.safe_load(value)}}
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        why = printable(" ".join(str(error).split()))
        raise ParamsError(f"override {text!r} has a value that can't be read as YAML: {why}.") from error


def _merged(base: Mapping[Any, Any], over: Mapping[Any, Any]) -> dict[Any, Any]:
    """`over` laid on `base`, section by section; a section that is none stays, for the schema to refuse."""
    merged = dict(base)
    for name, values in over.items():
        below, above = merged.get(name) or {}, values or {}
        sound = isinstance(below, dict) and isinstance(above, dict)
        merged[name] = {**below, **above} if sound else (above if isinstance(below, dict) else below)
    return merged
