"""One partition: its images judged, in order, as the bytes of a Parquet file; in whichever process it comes to."""

from __future__ import annotations

import hashlib
import io
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorax import __version__
from lorax.data.prefetch import prefetched_batches
from lorax.data.reading import Reading, read_bytes
from lorax.drafts import scratch
from lorax.errors import ImageError, ScoringError
from lorax.scoring.engine import shared
from lorax.scoring.images import Entry, Image, read
from lorax.scoring.places import Place

if TYPE_CHECKING:
    import pyarrow as pa

    from lorax.verdicts.predictor import Judged, Predictor

_PLAIN = (
    "verdict",
    "generator",
    "probability",
    "calibrated",
    "real",
    "strangeness",
    "threshold",
    "crops",
    "answered_by",
)


@dataclass(frozen=True)
class Learner:
    """The version that judges, as every process can open it; equal ones are opened once.

    Args:
        files: shared: of its learner state, path in it -> bytes.
        state: its digest.
        device: where it judges.
        exact: ask all branches, whatever its student says.
        lorax: the version of this program that began.
    """

    files: Any
    state: str
    device: str
    exact: bool
    lorax: str = __version__


@dataclass(frozen=True)
class Work:
    """What is the same for all partitions.

    Args:
        learner: which judges.
        place: where the source lies.
        column: that holds a table's images, where it was named.
        classes: labels of the classes, in order.
        said: what every row says of the version: its `version`, `state` and `data`.
    """

    learner: Learner
    place: Place
    column: str | None
    classes: tuple[str, ...]
    said: Mapping[str, Any]


@dataclass(frozen=True)
class Scored:
    """A partition: its file's bytes, how often each verdict was given, and how many images were bad."""

    data: bytes
    verdicts: Counter[str]
    bad: int


def score(work: Work, entries: Sequence[Entry]) -> Scored:
    """Judge a partition's images; those that can't be read are rows that say why."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from lorax.verdicts.answers import judged

    warnings.filterwarnings("ignore", module="PIL")  # of damaged notes in a file, which nobody asked about
    predictor = _opened(work.learner)
    look = partial(_read, side=predictor.network.crop)
    rows = []
    for batch in prefetched_batches(look, read(work.place, entries, work.column), predictor.batch_size):
        answers = judged(predictor, [reading for _, reading in batch])
        rows += [{**_row(md5, r, answer), **work.said} for (md5, r), answer in zip(batch, answers, strict=True)]
    written = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema(work.classes)), written, compression="zstd")
    verdicts = Counter(row["verdict"] for row in rows if row["error"] is None)
    return Scored(written.getvalue(), verdicts, sum(row["error"] is not None for row in rows))


def schema(classes: Sequence[str]) -> pa.Schema:
    """Columns of a partition; those of a verdict are called as in a line of `lorax predict --json`."""
    import pyarrow as pa

    text, number, whole = pa.string(), pa.float64(), pa.int32()
    return pa.schema(
        [
            *((name, text) for name in ("name", "md5", "sha256", "error", "verdict", "generator", "answered_by")),
            ("one_of", pa.list_(text)),
            ("probability", number),
            ("probabilities", pa.struct([(label, number) for label in classes])),
            *((name, number) for name in ("real", "strangeness", "threshold")),
            ("calibrated", pa.bool_()),
            *((name, whole) for name in ("crops", "width", "height", "version")),
            ("state", text),
            ("data", pa.struct([("digest", text), ("commit", text)])),
        ]
    )


def _read(image: Image, side: int) -> tuple[str, Reading]:
    """The md5 of its bytes, "" where there are none, and what a verdict needs."""
    try:
        data = image.fetch()
    except ImageError as error:
        return "", Reading(image.name, str(error))
    return hashlib.md5(data, usedforsecurity=False).hexdigest(), read_bytes(data, image.name, side)


def _row(md5: str, reading: Reading, judged: Judged | None) -> dict[str, Any]:
    of_bytes = {"name": reading.name, "md5": md5 or None, "sha256": reading.sha256 or None}
    if judged is None:
        return {**of_bytes, "error": reading.error, "verdict": None}
    verdict = judged.verdict
    said = {name: getattr(verdict, name) for name in _PLAIN}
    several = {"one_of": list(verdict.one_of), "probabilities": dict(verdict.probabilities)}
    return {**of_bytes, "error": None, "width": reading.width, "height": reading.height, **said, **several}


@cache
def _opened(learner: Learner) -> Predictor:
    """In this process; one for each core, so torch has a thread."""
    import torch

    from lorax.verdicts.predictor import Predictor

    if learner.lorax != __version__:
        raise ScoringError(
            f"a node has lorax {__version__}, this one {learner.lorax}: install the same version on every node."
        )
    torch.set_num_threads(1)
    with scratch() as folder:
        for name, data in shared(learner.files).items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return Predictor.open(folder, learner.device, exact=learner.exact)


def files_of(state_dir: Path) -> dict[str, bytes]:
    """A learner state as `Learner.files` has it."""
    paths = sorted(path for path in state_dir.rglob("*") if path.is_file())
    return {path.relative_to(state_dir).as_posix(): path.read_bytes() for path in paths}
