"""A whole source: listed once, cut into partitions, and those that are not finished judged, on all cores there are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from lorax.scoring.engine import Engine
from lorax.scoring.images import Entry, file_entries, held_entries, holders
from lorax.scoring.output import Asked, Output, begin, output
from lorax.scoring.partition import Learner, Work, files_of, score
from lorax.scoring.places import Place
from lorax.stream import DataRevision

Progress = Callable[[int, int, str], None]


@dataclass
class Outcome:
    """What there is in the end.

    Args:
        images: in all.
        partitions: in all.
        skipped: those that were finished before.
        bad: images that could not be read.
        verdicts: how often each was given.
    """

    images: int
    partitions: int
    skipped: int = 0
    bad: int = 0
    verdicts: Counter[str] = field(default_factory=Counter)


def score_all(
    place: Place,
    folder: Path,
    asked: Asked,
    state_dir: Path,
    data: DataRevision,
    *,
    device: str,
    connect: Callable[[], AbstractContextManager[Engine]],
    progress: Progress,
) -> Outcome:
    """Judge a source's images into a folder, or those of them that are not judged there yet.

    Args:
        place: where it lies.
        folder: of the verdicts.
        asked: by whom, in which partitions.
        state_dir: the learner state.
        data: what it was learned from.
        device: as `run.device` has it.
        connect: to Ray; not called where all is judged already.
        progress: told after each partition.

    Raises:
        ScoringError: the folder holds other verdicts, the source nothing, or Ray failed.
    """
    with output(folder, asked) as found:
        done = found.finished() if found else {}
        if found is not None and len(done) == found.partitions:
            return _outcome(found, done)
        with connect() as ray:
            made = found or begin(folder, asked, _listed(place, ray, asked.column, progress))
            learner = Learner(ray.share(files_of(state_dir)), asked.state, device if ray.on_gpu else "cpu", asked.exact)
            said = {"version": asked.version, "state": asked.state, "data": asdict(data)}
            return _filled(made, done, ray, Work(learner, place, asked.column, asked.classes, said), progress)


def _listed(place: Place, ray: Engine, column: str | None, progress: Progress) -> Iterator[Entry]:
    """Every image; files that hold some are looked into side by side."""
    files = holders(place)
    if not files:
        yield from file_entries(place)
        return
    found: dict[int, list[Entry]] = {}
    following = 0
    for number, entries in ray.each(held_entries, ((place, file, column) for file in files)):
        found[number] = entries
        progress(number, len(files), "listing")
        while following in found:
            yield from found.pop(following)
            following += 1


def _filled(made: Output, done: dict[int, Counter[str | None]], ray: Engine, work: Work, progress: Progress) -> Outcome:
    outcome, judged = _outcome(made, done), 0
    missing = [number for number in range(made.partitions) if number not in done]
    before = sum(made.rows(number) for number in done)
    progress(before, outcome.images, "judged")
    for index, scored in ray.each(score, ((work, entries) for entries in made.entries(missing))):
        made.write(missing[index], scored.data)
        outcome.verdicts += scored.verdicts
        outcome.bad += scored.bad
        judged += made.rows(missing[index])
        progress(before + judged, outcome.images, "judged")
    return outcome


def _outcome(made: Output, done: dict[int, Counter[str | None]]) -> Outcome:
    """What finished partitions hold."""
    total = sum(done.values(), Counter[str | None]())
    bad = total.pop(None, 0)
    return Outcome(
        made.manifest.images, made.partitions, len(done), bad, Counter({str(k): n for k, n in total.items()})
    )
