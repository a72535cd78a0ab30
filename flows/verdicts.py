"""Verdicts on image files, as a table or as JSON lines."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from lorax.errors import ImageError
from lorax.predictor import Predictor, Verdict, image_files


def print_verdicts(
    state_dir: Path, device: str, paths: Sequence[Path], out: Console, err: Console, *, as_json: bool
) -> int:
    """Judge images and print one line for each; JSON lines as they come, a table at the end.

    Args:
        state_dir: the learner state.
        device: as `run.device` in params.yaml.
        paths: image files, or folders of them.
        out: where verdicts go.
        err: where bad files are reported.
        as_json: JSON lines instead of a table.

    Returns:
        How many files were bad.
    """
    bad: list[Path] = []

    def on_bad(path: Path, error: ImageError) -> None:
        bad.append(path)
        err.print(f"lorax: skipped {error}", markup=False)

    verdicts = Predictor.open(state_dir, device).stream(image_files(paths), on_bad)
    if as_json:
        for verdict in verdicts:
            out.print(json.dumps(_record(verdict), ensure_ascii=False), markup=False)
    else:
        out.print(_table(list(verdicts)))
    return len(bad)


def _record(verdict: Verdict) -> dict[str, object]:
    return {
        "file": verdict.source,
        "verdict": verdict.verdict,
        "generator": verdict.generator,
        "probability": verdict.probability,
        "probabilities": dict(verdict.probabilities),
    }


def _table(verdicts: Sequence[Verdict]) -> Table:
    table = Table()
    for name in ("file", "verdict", "generator"):
        table.add_column(name, overflow="fold")
    table.add_column("probability, %", justify="right")
    for verdict in verdicts:
        table.add_row(verdict.source, verdict.verdict, verdict.generator or "", f"{100 * verdict.probability:.1f}")
    return table
