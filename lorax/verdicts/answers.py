"""Verdicts on image files as they are read: in lists of up to a batch, in the order of the files."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial

from lorax.data.prefetch import prefetched_batches
from lorax.data.reading import Reading, read_image
from lorax.data.walk import Found
from lorax.verdicts.predictor import Judged, Predictor
from lorax.verdicts.reasons import Evidence, evidence_of


@dataclass(frozen=True)
class Answer:
    """One file's line: what was read, and the verdict unless it could not be read."""

    reading: Reading
    judged: Judged | None
    evidence: Evidence | None = None


def answers(predictor: Predictor, files: Iterable[Found], *, explain: bool = False) -> Iterator[list[Answer]]:
    """Judge files in lists of up to a batch, in order; they are read and decoded ahead, in threads."""
    warnings.filterwarnings("ignore", module="PIL")  # of damaged notes in a file, which nobody asked about
    read = partial(read_image, side=predictor.network.crop, with_container=explain)
    for batch in prefetched_batches(read, files, predictor.batch_size):
        good = [reading for reading in batch if not reading.error]
        judged = iter(predictor.look([r.crops for r in good], [r.name for r in good]))
        pairs = [(reading, None if reading.error else next(judged)) for reading in batch]
        yield [Answer(r, j, evidence_of(predictor, j) if explain and j else None) for r, j in pairs]
