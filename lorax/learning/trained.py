"""What training leaves in an episode's folder: the new branch, the head, sums over textures, and what was measured."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
from numpy.typing import NDArray
from torch import Tensor

from lorax.learning.folder import damage_told
from lorax.learning.state import Branch
from lorax.learning.statistics import Statistics
from lorax.learning.texture_head import parse_statistics, statistics_tensors
from lorax.learning.training import EpochRow
from lorax.network.network import Network
from lorax.storage import canonical_json, whole_directory


@dataclass(frozen=True)
class Trained:
    """The newest branch and the head as they were trained.

    Args:
        config, weights: the branch's, as PEFT has them.
        head_weight, head_bias: (C, K·D) and (C,).
        statistics: of each kind of perturbation; none where no head reads the texture.
        curves: what each epoch measured.
        seconds: what training took, by part.
        lora_modules: how many modules carry the branch.
        views: (n, 2) the corner of each training image's first view, which herding looks at.
    """

    config: Mapping[str, Any]
    weights: Mapping[str, Tensor]
    head_weight: Tensor
    head_bias: Tensor
    statistics: Mapping[str, Statistics]
    curves: Sequence[EpochRow]
    seconds: Mapping[str, float]
    lora_modules: int
    views: NDArray[np.int64]

    @classmethod
    def of(
        cls,
        network: Network,
        statistics: Mapping[str, Statistics],
        curves: Sequence[EpochRow],
        seconds: Mapping[str, float],
        views: NDArray[np.int64],
    ) -> Trained:
        """The newest branch of a network, and its head."""
        branch, head = network.backbone.branch(network.branches - 1), network.head
        tensors = head.weight.detach().cpu(), head.bias.detach().cpu()
        return cls(branch.config, branch.weights, *tensors, statistics, curves, seconds, len(branch.layers), views)

    @property
    def trainable_parameters(self) -> int:
        """Of the branch."""
        return sum(weight.numel() for weight in self.weights.values())

    def save(self, directory: Path) -> None:
        """Write it whole or not at all."""
        record = {
            "curves": [asdict(row) for row in self.curves],
            "lora_modules": self.lora_modules,
            "trainable_parameters": self.trainable_parameters,
            "seconds": dict(self.seconds),
            "views": self.views.tolist(),
        }
        files = Branch("", self.config, self.weights, seed=0).files()
        files["head.safetensors"] = safetensors.torch.save({"weight": self.head_weight, "bias": self.head_bias})
        if self.statistics:
            files["statistics.safetensors"] = safetensors.torch.save(statistics_tensors(self.statistics))
        with whole_directory(directory) as draft:
            for name, data in files.items():
                (draft / name).write_bytes(data)
            (draft / "training.json").write_text(canonical_json(record))

    @classmethod
    def load(cls, directory: Path, kinds: Sequence[str]) -> Trained:
        """Read it; `kinds` are those of its statistics, () where there are none.

        Raises:
            StateError: a file is missing or damaged.
        """
        head, weights = (_tensors(directory / f"{name}.safetensors") for name in ("head", "adapter_model"))
        with damage_told(directory / "adapter_config.json"):
            config = json.loads((directory / "adapter_config.json").read_text())
        statistics: Mapping[str, Statistics] = {}
        if kinds:
            sums = _tensors(directory / "statistics.safetensors")
            with damage_told(directory / "statistics.safetensors"):
                statistics = parse_statistics(sums, kinds)
        with damage_told(directory / "training.json"):
            record = json.loads((directory / "training.json").read_bytes())
            curves = [EpochRow(**row) for row in record["curves"]]
            views = np.array(record["views"], np.int64).reshape(-1, 2)
            told = (curves, record["seconds"], record["lora_modules"], views)
            return cls(config, weights, head["weight"], head["bias"], statistics, *told)


def _tensors(path: Path) -> dict[str, Tensor]:
    with damage_told(path):
        return dict(safetensors.torch.load_file(path))
