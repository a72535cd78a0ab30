"""LoRAX: keep a synthetic-image attribution model up to date, one LoRA branch per new generator."""

__version__ = "0.1.0"
