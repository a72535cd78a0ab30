"""The model registry and the tracking of runs: the only room that knows MLflow."""

from lorax.registry.registry import CHAMPION, Registry
from lorax.registry.versions import KnownTask, ModelVersion

__all__ = ["CHAMPION", "KnownTask", "ModelVersion", "Registry"]
