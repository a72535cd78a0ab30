"""The model registry and the tracking of runs: the only room that knows MLflow."""

from lorax.registry.gate import TaskVerdict
from lorax.registry.journal import Entry, Quarantine
from lorax.registry.reading import Look
from lorax.registry.registry import Registry
from lorax.registry.store import CHALLENGER, CHAMPION
from lorax.registry.versions import ModelVersion

__all__ = [
    "CHALLENGER",
    "CHAMPION",
    "Entry",
    "Look",
    "ModelVersion",
    "Quarantine",
    "Registry",
    "TaskVerdict",
]
