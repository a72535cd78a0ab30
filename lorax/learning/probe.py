"""A probe: a branch learned in seconds from a handful of images, by which generators are compared.

All probes that are compared come from one context: the same backbone, the same seeded start of branch and head, the
same real images, the same number of steps. So what differs between two of them is what their synthetic images taught.
"""

from __future__ import annotations

import hashlib
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from lorax.drafts import scratch
from lorax.errors import StateError
from lorax.learning.batches import TrainingSet
from lorax.learning.queries import Asker, Fetch
from lorax.learning.state import Branch, Exemplar, LearnerState
from lorax.learning.training import EpochRow, Fit, epoch_seed
from lorax.network.backbone import BackboneIdentity
from lorax.network.building import reopen_backbone
from lorax.network.features import FeatureCache
from lorax.network.network import Network, device_of
from lorax.params import Params, TrainingParams
from lorax.storage import canonical_json, whole_directory
from lorax.stream import Sample

_BATCH = 32

_KEPT_CONTEXTS = 8
"""Each version of the model has a context of its own; the probes of those asked last stay on disk."""


@dataclass(frozen=True)
class Context:
    """What all probes that are compared have in common."""

    backbone: BackboneIdentity  # that they adapt
    real: tuple[Sample, ...]  # the real images that synthetic ones are told from
    params: Params  # sections `lora`, `atlas` and `run` say how

    @classmethod
    def of_state(cls, state: LearnerState, params: Params) -> Context:
        """The context that a learner state's exemplars give.

        Raises:
            StateError: its memory has no real image.
        """
        real = _first(state, [e.id for e in state.classes.entries if e.is_real], params.atlas.probe_images)
        if not real:
            raise StateError(
                "the exemplar memory has no real images, from which a probe could tell synthetic ones. Set "
                f"exemplars.budget to an image or more for each class, of which {len(state.classes)} are known, and "
                "learn a next task that has real images, or the newest one anew: 'lorax relearn TASK'."
            )
        return cls(state.backbone, real, params)

    @property
    def digest(self) -> str:
        """Equal for probes that may be compared."""
        sections = self.params.model_dump(mode="json", include={"lora", "atlas", "run"})
        content = [self.backbone.sha256, [s.md5 for s in self.real], sections["lora"], sections["atlas"]]
        return hashlib.sha256(canonical_json([*content, self.params.run.seed]).encode()).hexdigest()

    @cached_property
    def start(self) -> Mapping[str, Tensor]:
        """The weights that all of its probes start from, by PEFT's names; an episode's fresh branches do, too."""
        return reopen_backbone(self.backbone).add_branch(self.params.lora, self.params.run.seed).weights

    @property
    def training(self) -> TrainingParams:
        """As an episode's parameters; how many epochs depends on how many images there are."""
        rate = self.params.atlas.probe_rate
        return TrainingParams(
            batch_size=_BATCH, learning_rate_first=rate, learning_rate=rate, views=1, augmentation=0.0
        )


def kept_probe(home: Path, context: Context, synthetic: Sequence[Sample], fetch: Fetch) -> dict[str, Tensor]:
    """A probe's weights by PEFT's names, learned unless they lie below `home`, where they are left in PEFT's format.

    What lies there is derived: a damaged one is learned anew, one that can't be left there is no error, and those of
    contexts that were not asked for long are removed.
    """
    named = hashlib.sha256("\n".join(sorted(s.md5 for s in synthetic)).encode()).hexdigest()
    place = home / context.digest[:16] / named[:16]
    found = _read_probe(place / "adapter_model.safetensors", context)
    if found is not None:
        with suppress(OSError):  # a disk that can't be written to
            os.utime(place.parent)
        return found
    branch, _ = train_probe(context, synthetic, fetch)
    shutil.rmtree(place, ignore_errors=True)  # a damaged one
    with suppress(OSError), whole_directory(place) as draft:  # another process may have been faster, the disk be full
        for name, data in branch.files().items():
            (draft / name).write_bytes(data)
    _forget_contexts(home)
    return dict(branch.weights)


def _read_probe(path: Path, context: Context) -> dict[str, Tensor] | None:
    """The weights in a file; None unless they are a probe's: of the context's names and shapes, and finite."""
    try:
        found = dict(safetensors.torch.load_file(path))
    except (OSError, safetensors.SafetensorError):
        return None
    expected = {name: weight.shape for name, weight in context.start.items()}
    has_form = {name: weight.shape for name, weight in found.items()} == expected
    return found if has_form and all(_is_finite(weight) for weight in found.values()) else None


def _is_finite(weight: Tensor) -> bool:
    return weight.is_floating_point() and bool(weight.isfinite().all())


def _forget_contexts(home: Path) -> None:
    with suppress(OSError):  # another process may be at it
        asked = sorted((path for path in home.iterdir() if path.is_dir()), key=lambda path: path.stat().st_mtime)
        for path in asked[:-_KEPT_CONTEXTS]:
            shutil.rmtree(path, ignore_errors=True)


def known_images(state: LearnerState, params: Params) -> dict[str, tuple[Sample, ...]]:
    """Each known generator's label -> the exemplars that stand for it; one whose memory is empty is not there."""
    synthetic = [entry for entry in state.classes.entries if not entry.is_real]
    found = {entry.label: _first(state, [entry.id], params.atlas.probe_images) for entry in synthetic}
    return {label: samples for label, samples in found.items() if samples}


def train_probe(
    context: Context, synthetic: Sequence[Sample], fetch: Fetch, start: Mapping[str, Tensor] | None = None
) -> tuple[Branch, list[EpochRow]]:
    """Learn to tell `synthetic` images from the context's real ones with one branch on the frozen backbone.

    Args:
        context: all else that matters.
        synthetic: samples; a handful will do.
        fetch: gives the files of these and of the real ones.
        start: weights to start from instead of the context's.

    Returns:
        The branch, and what each epoch measured.
    """
    run = context.params.run
    torch.set_num_threads(run.threads)
    network = Network.empty(reopen_backbone(context.backbone))
    network.grow(context.params.lora, 2, branch_seed=run.seed, head_seed=epoch_seed(run.seed, 0, 0))
    if start is not None:
        network.backbone.start_branch(0, start)
    network.to(device_of(run.device))
    samples = [*context.real, *synthetic]
    labels = torch.tensor([0] * len(context.real) + [1] * len(synthetic))
    epochs = max(1, math.ceil(context.params.atlas.probe_shown / len(samples)))
    params = context.params.model_copy(update={"training": context.training.model_copy(update={"epochs": epochs})})
    with scratch() as folder:
        asker = Asker(network, FeatureCache(folder), fetch, run.batch_size)
        data = TrainingSet.load(asker, samples, labels, params)
        fit = Fit(network, range(2), params.training, run, 0)
        rows = fit.run_epochs(data, folder / "checkpoint")
    learned = network.backbone.branch(0)
    return Branch("probe", learned.config, learned.weights, run.seed), rows


def _first(state: LearnerState, classes: Sequence[int], most: int) -> tuple[Sample, ...]:
    """The exemplars of some classes that were herded first, at most so many of them."""
    chosen: list[Exemplar] = [e for e in state.exemplars if e.class_id in classes]
    return tuple(e.sample for e in sorted(chosen, key=lambda e: (e.rank, e.class_id))[:most])
