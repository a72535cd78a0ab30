"""Where and on which model a benchmark runs: ConViT-Tiny on this CPU unless options say otherwise.

Weights are random: neither speed nor memory depends on them.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from measure import Work, alternate, seconds
from published import PublishedNetwork
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop

from lorax.learning.training import epoch_seed
from lorax.network.building import import_timm, open_backbone
from lorax.network.network import Network
from lorax.params import Params, load_params

PARAMS = Path(__file__).parents[1] / "params.yaml"
CLASSES = 2
"""Of each task: real and synthetic."""


@dataclass(frozen=True)
class Setting:
    """One model with random weights, of the `paper` preset's hyper-parameters."""

    device: torch.device
    model: str
    bfloat16: bool
    weights: Path
    crop: int
    shape: dict[str, int]
    """timm's constructor arguments for a crop other than its own."""

    def params(self, *overrides: str) -> Params:
        values = (
            *(f"backbone.name={self.model}", f"backbone.weights={self.weights}", f"backbone.crop={self.crop}"),
            f"backbone.arguments={self.shape}",
            *(f"run.device={self.device.type}", f"run.threads={torch.get_num_threads()}"),
            f"training.mixed_precision={str(self.bfloat16).lower()}",
            *overrides,
        )
        return load_params(PARAMS, preset="paper", overrides=values)

    def published(self, params: Params, branches: int) -> PublishedNetwork:
        network = PublishedNetwork(params.backbone, mixed_precision=self.bfloat16)
        for k in range(branches):
            network.grow(params.lora, CLASSES, branch_seed=0, head_seed=epoch_seed(0, k, 0))
        for name, parameter in network.model.named_parameters():
            if ".lora_B." in name:  # they begin as zero, and then no branch says anything of its own
                nn.init.normal_(parameter, std=0.02)
        return network.to(self.device)

    def ours(self, params: Params, branches: int) -> Network:
        network = Network.empty(open_backbone(params.backbone), mixed_precision=self.bfloat16)
        for k in range(branches):
            network.grow(params.lora, CLASSES, branch_seed=0, head_seed=epoch_seed(0, k, 0))
        return network.to(self.device)

    def ours_like(self, published: PublishedNetwork, params: Params) -> Network:
        """Our network with the same branches and head, to compare what both say."""
        network = Network.empty(open_backbone(params.backbone), mixed_precision=self.bfloat16)
        for k in range(published.branches):
            network.backbone.load_branch(*published.export(k))
        network.head = published.head
        return network.to(self.device)

    def images(self, count: int) -> torch.Tensor:
        """Bytes (count, 3, crop, crop)."""
        return torch.randint(0, 256, (count, 3, self.crop, self.crop), dtype=torch.uint8, device=self.device)

    def compare(self, batch: int, published: Work, ours: Work, rounds: int) -> dict[str, float]:
        """Both in turns; images a second and share of the device's measured matrix throughput; on a GPU memory, too.

        The share's operations are those of matrix products and attention, counted while the work runs once.
        """
        works = {"published": self._finished(published), "ours": self._finished(ours)}
        counted = {name: operations(work) for name, work in works.items()}
        on_gpu = self.device.type == "cuda"
        memory = {f"{name}_peak_mib": self._peak_mib(work) for name, work in works.items()} if on_gpu else {}
        found = alternate(**works, rounds=rounds, warm_up=False)  # counting was one
        throughput = self._matrix_throughput()
        for name, count in counted.items():
            found[f"{name}_images_per_s"] = batch / found[f"{name}_s"]
            found[f"{name}_matrix_share"] = count / found[f"{name}_s"] / throughput
        return found | memory

    def _finished(self, work: Work) -> Work:
        """`work`, until the device has done it."""

        def finished() -> None:
            work()
            if self.device.type == "cuda":
                torch.cuda.synchronize()

        return finished

    def _peak_mib(self, work: Work) -> float:
        """How far the GPU's allocations grow while `work` runs."""
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        work()
        return (torch.cuda.max_memory_allocated() - before) / 2**20

    def _matrix_throughput(self) -> float:
        """Floating point operations a second in one large matrix product, the best of ten."""
        side = 8192 if self.device.type == "cuda" else 2048
        dtype = torch.bfloat16 if self.bfloat16 else torch.float32
        left, right = (torch.randn(side, side, device=self.device, dtype=dtype) for _ in range(2))
        product = self._finished(lambda: left @ right)
        return 2 * side**3 / min(seconds(product) for _ in range(10))


def operations(work: Work) -> int:
    """Floating-point operations of matrix products, convolutions and attention while `work` runs."""
    attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu  # which torch's own table hasn't
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # only this thread's are counted
    with FlopCounterMode(display=False, custom_mapping={attention: _attention_operations}) as counter:
        work()
    torch.set_num_threads(threads)
    return counter.get_total_flops()


def _attention_operations(query: list[int], key: list[int], value: list[int], *_: object, **__: object) -> int:
    return int(sdpa_flop(query, key, value))


def add_options(
    parser: argparse.ArgumentParser, *, rounds: int, batch: list[int] | None = None, branches: list[int] | None = None
) -> None:
    """The options of every script; `--batch` and `--branches` only with a default."""
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--model", default="convit_tiny", help="timm's name, such as convit_base")
    parser.add_argument("--precision", choices=["float32", "bf16"], default="float32")
    parser.add_argument("--crop", type=int, default=224, help="side of the images, pixels")
    for name, default in (("--batch", batch), ("--branches", branches)):
        if default:
            parser.add_argument(name, type=int, nargs="+", default=default)
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--threads", type=int, default=2)


@contextmanager
def opened(arguments: argparse.Namespace) -> Iterator[Setting]:
    """The setting that the options name; its weights' file lives as long as the block."""
    torch.manual_seed(0)
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "random.safetensors"
        shape = {} if arguments.crop == 224 else {"img_size": arguments.crop}
        model = import_timm().create_model(arguments.model, pretrained=False, num_classes=0, **shape)
        safetensors.torch.save_file({n: w.contiguous() for n, w in model.state_dict().items()}, path)
        device = torch.device(arguments.device)
        yield Setting(device, arguments.model, arguments.precision == "bf16", path, arguments.crop, shape)


def result_name(name: str, arguments: argparse.Namespace) -> str:
    """`name` for the default setting, which the documentation cites; another setting's results lie beside it."""
    setting = f"{arguments.model}-{arguments.crop}-{arguments.device}-{arguments.precision}"
    return name if setting == "convit_tiny-224-cpu-float32" else f"{name}-{setting}"
