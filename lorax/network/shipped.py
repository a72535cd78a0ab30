"""The backbones that ship with the package."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lorax.errors import BackboneError

_WEIGHTS = Path(__file__).parent / "weights"
_FILES = {"shipped": _WEIGHTS / "convit_small64.json", "residual": _WEIGHTS / "residual.json"}

SHIPPED = tuple(_FILES)
"""What `backbone.name` calls them."""


def shipped(name: str) -> dict[str, Any]:
    """timm's name and arguments, mean and std of the one that `backbone.name` calls so; its crop if it has but one."""
    found: dict[str, Any] = json.loads(_FILES[name].read_text())
    return found


def shipped_weights(model: str) -> Path:
    """The weights' file of the one that is timm's `model`.

    Raises:
        BackboneError: none is.
    """
    for name, path in _FILES.items():
        if shipped(name)["name"] == model:
            return path.with_suffix(".safetensors")
    raise BackboneError(
        f"the learner state names a shipped backbone {model!r}, which this release of lorax hasn't. Open it with the "
        "release that made it, or a newer one."
    )
