"""One pass of ConViT-Tiny on one thread, plain and of a branch: against DeiT-Tiny, and as a share of the matrix rate.

    python benchmarks/one_pass.py

Both are 192 wide; DeiT is timm's own, and sees as many images at once as ours does. The rate is the
most that a product reaches, of 2048^3 or of the shapes of a pass. Operations are those of products, of convolutions and
of attention; times are the processor's, so that others' work is not in them.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time

import torch
from measure import Row, Work, report, spread
from setting import Setting, add_options, opened, operations, result_name

from lorax.network.building import import_timm, open_backbone

_AT_ONCE = 8


def processor_s(work: Work) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def rate(tokens: int, width: int) -> float:
    """Floating-point operations a second."""
    shapes = [(2048, 2048, 2048), *((tokens * n, width, k * width) for n in (1, 8, 16) for k in (1, 2, 4))]
    best = 0.0
    for rows, inner, columns in shapes:
        left, right, out = torch.randn(rows, inner), torch.randn(inner, columns), torch.empty(rows, columns)
        taken = min(processor_s(lambda a=left, b=right, o=out: torch.mm(a, b, out=o)) for _ in range(10))
        best = max(best, 2 * rows * inner * columns / taken)
    return best


def measured(setting: Setting, batch: int, rounds: int) -> Row:
    params = setting.params()
    backbone = open_backbone(params.backbone)
    backbone.add_branch(params.lora, seed=0)
    peer = import_timm().create_model("deit_tiny_patch16_224", num_classes=0, img_size=setting.crop).eval()
    images = setting.images(batch)
    pixels = images.float()

    def plain() -> None:
        for part in images.split(_AT_ONCE):
            backbone.plain_feature(part)

    def branch() -> None:
        backbone.features(images, range(1))

    @torch.no_grad()
    def deit() -> None:
        for part in pixels.split(_AT_ONCE):
            peer(part)

    load, works = os.getloadavg()[0], {"plain": plain, "branch": branch, "deit": deit}
    gflop = {name: operations(work) / batch / 1e9 for name, work in works.items()}
    taken = [{name: processor_s(work) for name, work in works.items()} for _ in range(rounds)]
    fastest = rate((setting.crop // 16) ** 2, backbone.width)
    ms = {name: 1000 * statistics.median(t[name] for t in taken) / batch for name in taken[0]}
    return {
        "batch": batch,
        **{f"{name}_ms": value for name, value in ms.items()},
        **{f"{name}_gflop": value for name, value in gflop.items()},
        **spread([t["plain"] / t["deit"] for t in taken]),
        "branch_ratio": statistics.median(t["branch"] / t["deit"] for t in taken),
        **{f"{name}_matrix_share": gflop[name] / ms[name] * 1e12 / fastest for name in ms},
        "gflop_per_s": fastest / 1e9,
        "load_before": load,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, batch=[1, 16, 64], rounds=5)
    parser.set_defaults(threads=1)
    arguments = parser.parse_args()
    with opened(arguments) as setting:
        rows = [measured(setting, batch, arguments.rounds) for batch in arguments.batch]
    report(result_name("one_pass", arguments), rows)


if __name__ == "__main__":
    main()
