"""Adapter files by the libraries that people train with: how far what is read lies from what each library adds.

`python -m proofs.atlas writers`. The libraries are development dependencies (pyproject.toml): PEFT, diffusers, LyCORIS.
"""

from __future__ import annotations

import time
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

from lorax.atlas.formats import read_adapter
from tests.atlas.writers import CASES, Write

CLOSE = 1e-5
"""How far a layer's change may lie from the library's, relative to its norm."""


def prove_writers() -> bool:
    """Every library's files are read as the changes that it makes itself."""
    print(", ".join(f"{name} {version(name)}" for name in ("peft", "diffusers", "lycoris-lora")))
    print(f"{'written by':<36} {'read as':<44} {'layers':>6} {'error':>8} {'ms':>6}")
    worst = max(_error(what, write) for what, write in CASES.items())
    print(f"{len(CASES)} files; at most {worst:.1e} of a change's norm; asked: {CLOSE:.0e}")
    return worst <= CLOSE


def _error(what: str, write: Write) -> float:
    """The largest of a file's layers; infinite where it has other layers."""
    with TemporaryDirectory() as folder:
        path, changes = write(Path(folder))
        began = time.perf_counter()
        adapter = read_adapter(path)
        factors = adapter.factors()
        took = time.perf_counter() - began
    found = {f"{x.part}.{x.name}": b.double() @ a.double() for x, (a, b) in zip(adapter.layers, factors, strict=True)}
    if found.keys() != changes.keys():
        error = float("inf")
    else:
        error = max(float((found[name] - change).norm() / change.norm()) for name, change in changes.items())
    print(f"{what:<36} {adapter.algorithm:<44} {len(found):>6} {error:>8.1e} {1000 * took:>6.1f}", flush=True)
    return error
