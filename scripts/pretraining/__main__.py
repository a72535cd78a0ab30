"""Pretrain the residual backbone: make the bank of random pipelines, then learn to tell them apart."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch

from lorax.storage import locked
from scripts.pretraining import bank
from scripts.pretraining.examples import Examples
from scripts.pretraining.photographs import MissingError, Photos
from scripts.pretraining.training import OtherPlanError, Plan, Training

_ROOT = Path("work") / "pretraining"
_TELL_EVERY = 100
_EXAMPLES = """
examples:
  python -m scripts.pretraining --processes 2              everything, with two processes at the bank
  python -m scripts.pretraining --only bank                the bank alone; training may go on elsewhere
  python -m scripts.pretraining --pipelines 50 --small-steps 200 --whole-steps 20 --root /tmp/try     a try
  python -m scripts.pretraining --weights lorax/network/weights/residual.safetensors     as shipped

It needs the photographs that `make real` keeps in work/real/masters, and opens those of the train split only. Stopped
at any moment, the same command goes on: a shard of the bank is there whole or not at all, and training leaves
checkpoints. A bank of 1000 pipelines takes 1.8 GB.
docs/backbone.md has the card of what comes out.
"""


def main() -> None:
    options = _options()
    root: Path = options.root.absolute()
    with locked(root / ".lock", lambda: print(f"waiting for another run in {root}", flush=True)):
        try:
            bank.make(options.photographs, root / "bank", options.pipelines, options.processes, _Progress("shards"))
            if options.only != "bank":
                _train(options, root)
        except (MissingError, OtherPlanError) as error:
            sys.exit(str(error))


def _train(options: argparse.Namespace, root: Path) -> None:
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    plan = Plan(options.small_steps, options.whole_steps, options.rate)
    shown = bank.Bank(root / "bank", options.pipelines)
    examples = Examples(shown, Photos(options.photographs), options.batch, options.seed)
    weights = options.weights or root / "residual.safetensors"
    training = Training(examples, plan, root / "checkpoint.safetensors", weights, compiled=options.compile)
    tell = _Told(plan.steps)
    training.run(tell)
    print(f"{weights}: {weights.stat().st_size} bytes, after {training.step} steps")


class _Progress:
    """Prints how many of something are made."""

    def __init__(self, what: str) -> None:
        self.what, self.begun = what, time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        print(f"{done} of {total} {self.what}, {time.monotonic() - self.begun:.0f} s", flush=True)


class _Told:
    """Prints means over some steps of what a step tells."""

    def __init__(self, steps: int) -> None:
        self.steps, self.begun, self.said = steps, time.monotonic(), list[torch.Tensor]()

    def __call__(self, step: int, said: torch.Tensor) -> None:
        self.said.append(said)
        if step % _TELL_EVERY and step != self.steps:
            return
        loss, blocks, front, right, untouched = torch.stack(self.said).mean(0).tolist()
        self.said.clear()
        seconds = time.monotonic() - self.begun
        print(
            f"step {step} of {self.steps}, {seconds:.0f} s: loss {loss:.3f} (blocks {blocks:.3f}, "
            f"front {front:.3f}), right {right:.3f}, untouched or not {untouched:.3f}",
            flush=True,
        )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.pretraining",
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    plan = Plan()
    parser.add_argument("--only", choices=["bank"], help="stop behind the bank")
    parser.add_argument("--pipelines", type=int, default=1000, help="how many to tell apart (default: 1000)")
    parser.add_argument("--processes", type=int, default=1, help="that make the bank (default: 1)")
    parser.add_argument("--threads", type=int, default=1, help="of training (default: 1)")
    parser.add_argument("--batch", type=int, default=64, help="patches of a step (default: 64)")
    parser.add_argument("--small-steps", type=int, default=plan.small_steps, help=f"64 px; default {plan.small_steps}")
    parser.add_argument("--whole-steps", type=int, default=plan.whole_steps, help=f"96 px; default {plan.whole_steps}")
    parser.add_argument("--rate", type=float, default=plan.rate, help=f"peak learning rate (default: {plan.rate})")
    parser.add_argument("--seed", type=int, default=0, help="of weights and batches (default: 0)")
    parser.add_argument("--compile", action="store_true", help="let torch compile the network; takes a C++ compiler")
    parser.add_argument("--photographs", type=Path, default=Path("work") / "real", help="default: work/real")
    parser.add_argument("--root", type=Path, default=_ROOT, help=f"where bank and checkpoint go (default: {_ROOT})")
    parser.add_argument("--weights", type=Path, help="file that users get; default: residual.safetensors in the root")
    return parser.parse_args()


if __name__ == "__main__":
    main()
