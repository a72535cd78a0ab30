"""What branches hold of a predictor's memory, each in a fresh process; against another checkout.

    python benchmarks/branch_memory.py [--before CHECKOUT]

ConViT-Base with the paper's branches, above the bare backbone, after 8 images; and the package's own backbone, as much
with 40 branches as a whole against 5.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from build import Build
from measure import Row, report
from setting import PARAMS, opened

from lorax.params import load_params

HERE = Path(__file__).parents[1]
_IMAGES = 8


def held(checkout: Path, params: Any, branches: int) -> float:
    asked = {"backbone": params.backbone.model_dump(), "lora": params.lora.model_dump()}
    with Build(checkout, asked | {"branches": branches, "images": _IMAGES, "threads": 1}) as build:
        return build.ask("memory")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="a checkout of the build to compare with")
    parser.add_argument("--branches", type=int, default=12)
    parser.add_argument("--model", default="convit_base")
    given = parser.parse_args()
    options = argparse.Namespace(threads=1, crop=224, model=given.model, device="cpu", precision="float32")
    builds = {"before": given.before, "ours": HERE} if given.before else {"ours": HERE}
    with opened(options) as setting:
        above: dict[str, float] = {}
        for name, checkout in builds.items():
            bare = held(checkout, setting.params(), 0)
            above[name] = held(checkout, setting.params(), given.branches) - bare
        found: Row = {f"{name}_mib": value for name, value in above.items()}
        if given.before:
            found["ratio"] = above["before"] / above["ours"]
        rows = [{"model": given.model, "branches": given.branches, **found}]
    few, many = (held(HERE, load_params(PARAMS), k) for k in (5, 40))
    rows.append({"model": "residual", "5_branches_mib": few, "40_branches_mib": many, "ratio": many / few})
    report("branch_memory", rows)


if __name__ == "__main__":
    main()
