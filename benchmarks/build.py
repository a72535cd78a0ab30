"""Branches of random weights on a random backbone, in a process of its own, by whichever build's code is on the path.

Run as a script it builds them, and then does what each line of its input says: `predict`, which answers with seconds,
or `memory`, which answers with the mebibytes that the process holds by itself after it has predicted.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any


class Build:
    """A running process of a checkout's code.

    Args:
        checkout: where the package lies.
        asked: params.yaml's `backbone` and `lora` as JSON has them, how many `branches`, `images` and `threads`.
    """

    def __init__(self, checkout: Path, asked: dict[str, Any]) -> None:
        environment = os.environ | {"PYTHONPATH": str(checkout.resolve())}
        self._process = subprocess.Popen(
            [sys.executable, __file__, json.dumps(asked)],
            cwd=checkout,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Build:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()

    def ask(self, what: str) -> float:
        """Seconds or mebibytes."""
        assert self._process.stdin
        assert self._process.stdout
        print(what, file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        assert answer, "the process has ended"
        return float(answer)


def main() -> None:
    import torch

    from lorax.params import BackboneParams, LoraParams

    asked = json.loads(sys.argv[1])
    torch.set_num_threads(asked["threads"])
    torch.manual_seed(0)
    building = "building" if importlib.util.find_spec("lorax.network.building") else "backbone"
    params = BackboneParams.model_validate(asked["backbone"])
    backbone = importlib.import_module(f"lorax.network.{building}").open_backbone(params)
    for _ in range(asked["branches"]):
        backbone.load_branch(*random_branch(backbone, LoraParams.model_validate(asked["lora"])))
    side = params.crop
    images = torch.randint(0, 256, (asked["images"], 3, side, side), dtype=torch.uint8)
    for line in sys.stdin:
        started = time.perf_counter()
        if asked["branches"]:
            backbone.features(images, range(asked["branches"]))
        else:
            backbone.plain_feature(images)
        print(time.perf_counter() - started if line.strip() == "predict" else held_mib(), flush=True)


def random_branch(backbone: Any, lora: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """A configuration and weights as PEFT has them, without its import, which would be held, too."""
    import re

    import torch

    layers = {n: m for n, m in backbone.model.named_modules() if any(re.fullmatch(t, n) for t in lora.targets)}
    targets = "|".join(re.escape(layer) for layer in layers)
    weights = {}
    for name, layer in layers.items():
        weights[f"base_model.model.{name}.lora_A.weight"] = torch.randn(lora.rank, layer.in_features) / 50
        weights[f"base_model.model.{name}.lora_B.weight"] = torch.randn(layer.out_features, lora.rank) / 50
    return {"r": lora.rank, "lora_alpha": lora.alpha, "target_modules": targets, "bias": "none"}, weights


def held_mib() -> float:
    """What the process holds of memory that no file backs."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("Anonymous:"))


if __name__ == "__main__":
    main()
