"""Training the backbone to say which pipeline made a patch; stopped, it goes on from its last checkpoint."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import safetensors
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lorax.network import traces
from lorax.network.residual import ResidualBackbone
from lorax.storage import write_whole
from scripts.pretraining.examples import Examples
from scripts.pretraining.network import CROP, trainable, write

_SMALL = 64
"""The side of the crops of the first steps, which cost less than half."""

_WARMUP = 300
_LEAST_RATE = 0.003
"""Of the peak rate, at the end."""

_MOST_GRADIENT = 2.0

_SCALED_BY = 12
"""Batches by whose traces all later ones are scaled."""

_LEAST_SCALE = 1e-3

Told = Callable[[int, Tensor], None]
"""Told after each step how many were made, and its losses and accuracies; see `Pretext`."""


@dataclass(frozen=True)
class Plan:
    """How many steps on small crops and then on whole ones, the peak rate, how often a checkpoint is left."""

    small_steps: int = 11_000
    whole_steps: int = 1_300
    rate: float = 3e-3
    save_every: int = 500

    @property
    def steps(self) -> int:
        return self.small_steps + self.whole_steps

    def side(self, step: int) -> int:
        """Of a step's crops."""
        return _SMALL if step < self.small_steps else CROP

    def rate_at(self, step: int) -> float:
        """Linear warm-up, then a cosine."""
        cosine = (1 + math.cos(math.pi * step / self.steps)) / 2 + _LEAST_RATE
        return self.rate * min(1.0, (step + 1) / _WARMUP) * cosine


class OtherPlanError(ValueError):
    """A checkpoint is of a training with other options."""


class Both(nn.Module):
    """The backbone's feature, and what its front says, from one pass; traces are made ready beside it."""

    def __init__(self, backbone: ResidualBackbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, levels: Tensor, found: Tensor) -> tuple[Tensor, Tensor]:
        tokens, front = self.backbone.read(traces.residuals(levels), found)
        return self.backbone.encode(tokens), front


class Pretext(nn.Module):
    """Heads that name the pipeline from the feature, from the front, and from both, by the sum of their logits.

    Each of the three is asked, so that front and blocks each learn all they can.
    """

    def __init__(self, backbone: ResidualBackbone, pipelines: int) -> None:
        super().__init__()
        widths = (backbone.head_hidden_size, backbone.texture_width - traces.WIDTH)
        self.norms = nn.ModuleList(nn.BatchNorm1d(width, affine=False) for width in widths)
        self.heads = nn.ModuleList(nn.Linear(width, pipelines + 1) for width in widths)

    def forward(self, feature: Tensor, front: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The loss, and what is told of it: three losses, accuracy, accuracy of untouched or not: (5,)."""
        inputs = (feature.float(), front.float())
        blocks, front = (head(norm(x)) for head, norm, x in zip(self.heads, self.norms, inputs, strict=True))
        losses = [F.cross_entropy(logits, labels) for logits in (blocks + front, blocks, front)]
        said = (blocks + front).argmax(1)
        right = [(said == labels).float().mean(), ((said == 0) == (labels == 0)).float().mean()]
        return losses[0] + 0.5 * (losses[1] + losses[2]), torch.stack([*losses, *right]).detach()


class Training:
    """The backbone, its pretext and optimiser, and where they are kept.

    Args:
        examples: what is shown.
        plan: how long.
        checkpoint: file of all that training changes; gone on from if it is there.
        weights: file that users get, written with every checkpoint.
        compiled: let torch compile the network first, which takes a C++ compiler and a minute.

    Raises:
        OtherPlanError: the checkpoint was left by another plan.
    """

    def __init__(
        self, examples: Examples, plan: Plan, checkpoint: Path, weights: Path, *, compiled: bool = False
    ) -> None:
        self.examples, self.plan, self.checkpoint, self.weights = examples, plan, checkpoint, weights
        torch.manual_seed(examples.seed)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.backbone = trainable().to(self.device, memory_format=torch.channels_last)
        self.pretext = Pretext(self.backbone, examples.bank.pipelines).to(self.device)
        both = Both(self.backbone)
        self._run = torch.compile(both) if compiled else both
        self.parameters = [*self.backbone.parameters(), *self.pretext.parameters()]
        groups = [
            {"params": [p for p in self.parameters if p.ndim > 1], "weight_decay": 0.02},
            {"params": [p for p in self.parameters if p.ndim < 2], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=plan.rate, betas=(0.9, 0.98))
        self.step = 0
        if checkpoint.exists():
            self._resume()
        else:
            self._scale_traces()

    def run(self, told: Told) -> None:
        """Train to the last step; its weights are then in `weights`."""
        for images, found, labels in self._batches():
            said = self._learn(images.to(self.device), found.to(self.device), labels.to(self.device))
            self.step += 1
            if self.step % self.plan.save_every == 0 or self.step == self.plan.steps:
                self._save()
            told(self.step, said)

    def _learn(self, images: Tensor, found: Tensor, labels: Tensor) -> Tensor:
        for group in self.optimizer.param_groups:
            group["lr"] = self.plan.rate_at(self.step)
        # no cache of cast weights: the thread that draws the next batch empties it, and gradients' bits would differ
        with torch.autocast(self.device.type, torch.bfloat16, cache_enabled=False):
            feature, front = self._run(images.float(), found)
        loss, said = self.pretext(feature, front, labels)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.backbone.parameters(), _MOST_GRADIENT)
        self.optimizer.step()
        told: Tensor = said
        return told

    def _batches(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """The batches of the steps to come, each made ready while the one before is in use."""
        with ThreadPoolExecutor(max_workers=1) as pool:
            draw = self._drawn
            steps = range(self.step, self.plan.steps)
            coming = [pool.submit(draw, step, self.plan.side(step)) for step in steps[:1]]
            for step in steps:
                batch = coming.pop().result()
                if step + 1 < self.plan.steps:
                    coming.append(pool.submit(draw, step + 1, self.plan.side(step + 1)))
                yield batch

    @property
    def _plan(self) -> str:
        """What a checkpoint must agree in to be gone on from."""
        examples = self.examples
        shown = {"batch": examples.batch, "seed": examples.seed, "pipelines": examples.bank.pipelines}
        lengths = asdict(self.plan)
        del lengths["save_every"]
        return json.dumps(lengths | shown, sort_keys=True)

    def _drawn(self, step: int, side: int) -> tuple[Tensor, Tensor, Tensor]:
        """A step's images as bytes, their traces, and labels."""
        images, labels = self.examples.drawn(step, side)
        return images, traces.traces(images.float()), labels

    def _scale_traces(self) -> None:
        """Let traces have mean 0 and deviation 1 over some batches."""
        found = torch.cat([self._drawn(step, CROP)[1] for step in range(_SCALED_BY)])
        self.backbone.trace_mean.copy_(found.mean(0))
        self.backbone.trace_scale.copy_(found.std(0) + _LEAST_SCALE)

    def _tensors(self) -> dict[str, Tensor]:
        """Everything that training changes, by name; the same tensors, not copies."""
        found = {f"backbone.{name}": value for name, value in self.backbone.state_dict().items()}
        found |= {f"pretext.{name}": value for name, value in self.pretext.state_dict().items()}
        for i, parameter in enumerate(self.parameters):
            for name, value in self.optimizer.state[parameter].items():
                found[f"optimizer.{i:03d}.{name}"] = value
        return found

    def _save(self) -> None:
        tensors = {name: value.detach().cpu().contiguous() for name, value in self._tensors().items()}
        metadata = {"step": str(self.step), "plan": self._plan}
        write_whole(self.checkpoint, safetensors.torch.save(tensors, metadata=metadata))
        write(self.backbone.state_dict(), self.weights)

    def _resume(self) -> None:
        with safetensors.safe_open(self.checkpoint, framework="pt") as file:
            if file.metadata()["plan"] != self._plan:
                raise OtherPlanError(
                    f"{self.checkpoint} was left by another plan: {file.metadata()['plan']}; asked is {self._plan}. "
                    "Give the same options to go on, remove the file, or name another --root."
                )
            self.step = int(file.metadata()["step"])
            saved = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
        for part, module in (("backbone.", self.backbone), ("pretext.", self.pretext)):
            module.load_state_dict({n.removeprefix(part): w for n, w in saved.items() if n.startswith(part)})
        for i, parameter in enumerate(self.parameters):
            prefix = f"optimizer.{i:03d}."
            self.optimizer.state[parameter] = {
                name.removeprefix(prefix): value.to("cpu" if name.endswith(".step") else self.device)
                for name, value in saved.items()
                if name.startswith(prefix)
            }
