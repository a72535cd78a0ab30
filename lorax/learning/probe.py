"""A probe: a branch learned in seconds from a handful of images, by which generators are compared.

All probes that are compared come from one context: the same backbone, the same seeded start of branch and head, the
same real images, the same number of steps. So what differs between two of them is what their synthetic images taught.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from lorax.data.images import Images
from lorax.learning.asking import Fetch
from lorax.learning.batches import Showing, TrainingSet
from lorax.learning.opening import device_of
from lorax.learning.state import Branch
from lorax.learning.training import EpochRow, Fit, epoch_seed
from lorax.network.backbone import BackboneIdentity, reopen_backbone
from lorax.network.features import FeatureStore
from lorax.network.network import Network
from lorax.params import LoraParams, RunParams, TrainingParams
from lorax.stream import Sample


@dataclass(frozen=True)
class Recipe:
    """How a probe is learned.

    Args:
        shown: how many images training shows in all, however few there are.
        learning_rate: peak.
        batch_size: images a step.
        seed: where branch and head start, and the order of images.
    """

    shown: int = 960
    learning_rate: float = 4e-3
    batch_size: int = 32
    seed: int = 0

    def training(self, images: int) -> TrainingParams:
        """As an episode's parameters: enough epochs over so many images."""
        return TrainingParams(
            epochs=max(1, math.ceil(self.shown / images)),
            batch_size=self.batch_size,
            learning_rate_first=self.learning_rate,
            learning_rate=self.learning_rate,
            warmup_epochs=1,
        )


def train_probe(
    backbone: BackboneIdentity,
    synthetic: Sequence[Sample],
    real: Sequence[Sample],
    fetch: Fetch,
    lora: LoraParams,
    recipe: Recipe,
    run: RunParams,
    branch_seed: int | None = None,
) -> tuple[Branch, list[EpochRow]]:
    """Learn to tell `synthetic` from `real` images with one branch on the frozen backbone.

    Args:
        backbone: what the branch is learned on.
        synthetic, real: samples; a handful of each will do.
        fetch: gives their files.
        lora: of the branch.
        recipe: how it is learned.
        run: threads and device.
        branch_seed: of the branch's A; the recipe's if None.

    Returns:
        The branch, and what each epoch measured.
    """
    torch.set_num_threads(run.threads)
    network = Network.empty(reopen_backbone(backbone))
    start = recipe.seed if branch_seed is None else branch_seed
    network.grow(lora, 2, branch_seed=start, head_seed=epoch_seed(recipe.seed, 0, 0))
    network.to(device_of(run.device))
    samples = [*real, *synthetic]
    images = Images.load(samples, fetch(samples), network.crop)
    labels = torch.tensor([0] * len(real) + [1] * len(synthetic))
    showing = Showing.draw(samples, 1, 0.0, recipe.seed)
    with TemporaryDirectory(prefix="lorax-probe-") as folder:
        data = TrainingSet.build(network, images, labels, showing.shown, run, FeatureStore(Path(folder)))
        rows = Fit(network, 0, recipe.training(len(samples)), run, 0).run_epochs(data, Path(folder) / "checkpoint")
    learned = network.backbone.branch(0)
    return Branch("probe", learned.config, learned.weights, start), rows
