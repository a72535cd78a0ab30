"""`lorax predict`: verdicts on image files as they come, a line of text or JSON each, in the files' order."""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from lorax.commands import access
from lorax.commands.console import Json, VersionName, err, opened, out
from lorax.errors import printable

if TYPE_CHECKING:
    from lorax.data.reading import Metadata
    from lorax.data.walk import Found
    from lorax.verdicts.answers import Answer
    from lorax.verdicts.predictor import Predictor, Verdict

_AGAIN_S = 0.1

_READER_GONE = 141
"""128 and SIGPIPE's number: what a shell reports of any program whose reader leaves."""


def predict(
    paths: Annotated[list[str], typer.Argument(help="Image files, folders, patterns ('a/**/*.png'), or - for stdin.")],
    version: VersionName = "@champion",
    explain: Annotated[bool, typer.Option("--explain", help="Show what each branch adds to the verdict.")] = False,
    null: Annotated[bool, typer.Option("--null", "-0", help="Names on stdin end with a null, not a line.")] = False,
    as_json: Json = False,
) -> None:
    """Say of each image whether it is real, and if not, which generator made it, or that it is one never seen.

    Lines come in the order of the files, as they are judged; `-` reads files' names from stdin. A bad file is reported
    and the rest goes on; the exit code is then 1. Example: `lorax predict photos/ --json`
    """
    from lorax.verdicts.predictor import Predictor

    workspace, params = opened()
    chosen, state_dir = access.fetched(workspace, params, version)
    predictor = Predictor.open(state_dir, params.run.device, exact=explain or params.serving.exact)
    of_version = version_record(predictor, chosen.version, chosen.state_digest)
    with reader_may_leave():
        bad = print_verdicts(predictor, of_version, _files(paths, null), out, err, as_json=as_json, explain=explain)
    if bad:
        raise typer.Exit(1)


@dataclass
class Tally:
    """What the lines were, in all."""

    verdicts: Counter[str] = field(default_factory=Counter)
    bad: int = 0

    @property
    def judged(self) -> int:
        return sum(self.verdicts.values())

    def add(self, answer: Answer) -> None:
        if answer.judged is None:
            self.bad += 1
        else:
            self.verdicts[answer.judged.verdict.verdict] += 1

    def __str__(self) -> str:
        kinds = ", ".join(f"{name} {count:,}" for name, count in self.verdicts.most_common())
        return f"{self.judged:,} judged{f' ({kinds})' if kinds else ''}, {self.bad:,} bad"


def print_verdicts(
    predictor: Predictor,
    version: Mapping[str, Any],
    files: Iterable[Found],
    out: Console,
    err: Console,
    *,
    as_json: bool,
    explain: bool,
) -> int:
    """Judge images and print a line for each as it is judged; then, on `err`, what they were in all.

    Args:
        predictor: the learner.
        version: what each JSON line says of it; see `version_record`.
        files: in the order of the lines.
        out: where verdicts go.
        err: where bad files are told, and progress is shown while `out` is no terminal.
        as_json: lines of JSON.
        explain: say what each branch adds, and what the files hold beside pixels.

    Returns:
        How many files were bad.

    Raises:
        BrokenPipeError: who read the lines has gone.
    """
    from lorax import progress
    from lorax.verdicts.answers import answers

    tally, shown = Tally(), Printed(out, err, version, predictor)
    began = last = time.monotonic()
    with progress.counting(Console(quiet=True) if out.is_terminal else err) as count:
        for batch in answers(predictor, files, explain=explain):
            shown.show(batch, as_json=as_json)
            for answer in batch:
                tally.add(answer)
            if (now := time.monotonic()) > last + _AGAIN_S:
                last = now
                count(tally.judged + tally.bad, 0, f"judged, {(tally.judged + tally.bad) / (now - began):,.0f}/s")
    err.print(f"lorax: {tally}", markup=False)
    return tally.bad


@dataclass(frozen=True)
class Printed:
    """Where lines go, and how wide their columns are."""

    out: Console
    err: Console
    version: Mapping[str, Any]
    predictor: Predictor

    def show(self, batch: Iterable[Answer], *, as_json: bool) -> None:
        """Print the lines of a batch."""
        for answer in batch:
            if answer.reading.error:
                self.err.print(f"lorax: skipped: {printable(answer.reading.error)}", markup=False)
            if as_json:
                self._write(json_line(record(answer, self.version)))
            elif answer.judged is not None:
                self._write(self._row(answer.judged.verdict))
                for line in _reasons(answer):
                    self._write(f"    {line}")
        self.out.file.flush()

    def _row(self, verdict: Verdict) -> str:
        from lorax.verdicts.predictor import REAL, UNDECIDED, UNKNOWN

        labels = [f"synthetic:{e.label}" for e in self.predictor.classes.entries if not e.is_real]
        width = max(len(name) for name in (REAL, UNKNOWN, UNDECIDED, *labels))
        against = _of_threshold(verdict)
        ood = f"  strangeness {against}" if against else ""
        said = f"{verdict.verdict}: one of {', '.join(verdict.one_of)}" if verdict.one_of else verdict.verdict
        return f"{said:<{width}}  {100 * verdict.probability:5.1f} %{ood}  {printable(verdict.source)}"

    def _write(self, line: str) -> None:
        encoding = getattr(self.out.file, "encoding", None) or "utf-8"
        self.out.file.write(line.encode(encoding, "backslashreplace").decode(encoding) + "\n")


def record(answer: Answer, version: Mapping[str, Any]) -> dict[str, Any]:
    """A line of JSON, as docs/how-to/verdicts.md explains it."""
    reading = answer.reading
    if answer.judged is None:
        return {"file": reading.name, "error": reading.error, **version}
    verdict = asdict(answer.judged.verdict)
    of_file = {"sha256": reading.sha256, "width": reading.width, "height": reading.height}
    reasons = {} if answer.evidence is None else {"evidence": asdict(answer.evidence)}
    beside = {} if reading.container is None else {"container": asdict(reading.container)}
    return {"file": verdict.pop("source"), **verdict, **of_file, **version, **reasons, **beside}


def version_record(predictor: Predictor, number: int, digest: str) -> dict[str, Any]:
    """What a line says of the version that judged: its number, its state's digest, and the data it was learned from."""
    return {"version": number, "state": digest, "data": asdict(predictor.state.revision)}


def json_line(value: Mapping[str, Any]) -> str:
    """One line of JSON; a file's name that is no text (any bytes may name a file) comes out escaped, and comes back."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    return text if text.isascii() or _is_text(text) else json.dumps(value, allow_nan=False)


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _of_threshold(verdict: Verdict) -> str:
    """Strangeness against its threshold."""
    if verdict.strangeness is None or verdict.threshold is None:
        return ""
    is_beyond = verdict.strangeness > verdict.threshold
    return f"{verdict.strangeness:.2f} {'>' if is_beyond else '<='} {verdict.threshold:.2f}"


def _reasons(answer: Answer) -> list[str]:
    from lorax.learning.texture_head import CLEAN

    lines = []
    if answer.evidence is not None:
        parts = ", ".join(f"{task} {value:+.2f}" for task, value in answer.evidence.branches.items())
        texture = "" if answer.evidence.texture is None else f"texture {answer.evidence.texture:+.2f}, "
        lines.append(
            f"evidence for {answer.evidence.answer}, by branch: {parts}, "
            f"{texture}rest {answer.evidence.rest:+.2f}; log-odds {answer.evidence.log_odds:+.2f}"
        )
        if answer.evidence.perturbation not in (None, CLEAN):
            lines.append(f"looks perturbed ({answer.evidence.perturbation}): a head of its own is asked, no branch is")
    if answer.reading.container is not None:
        lines.append(f"in the file, not used for the verdict: {_beside(answer.reading.container)}")
    return lines


def _beside(metadata: Metadata) -> str:
    parts = [metadata.format or "unknown format"]
    parts += [f"EXIF {', '.join(metadata.exif)}"] if metadata.exif else []
    parts += [f"text {', '.join(metadata.text)}"] if metadata.text else []
    parts += ["XMP"] if metadata.xmp else []
    parts += ["a C2PA manifest (not checked)"] if metadata.c2pa else []
    return printable("; ".join(parts))


@contextmanager
def reader_may_leave() -> Iterator[None]:
    """End quietly when who reads stdout has gone, as `head` does."""
    try:
        yield
    except BrokenPipeError:
        # What Python still holds for stdout goes nowhere, or it would complain at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(_READER_GONE) from None


def _files(paths: list[str], null: bool) -> Iterator[Found]:
    from lorax.data.walk import files_named, names_from

    for path in paths:
        if path == "-":
            # Not through Python's buffer: a thread that waits in it would abort the interpreter's end
            names = names_from(lambda most: os.read(sys.stdin.fileno(), most), b"\0" if null else b"\n")
            yield from files_named(names, patterns=False)
        else:
            yield from files_named([path])
