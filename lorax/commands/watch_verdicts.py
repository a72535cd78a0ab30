"""`lorax watch-verdicts`: says when images that are like nothing known become more, so that an episode is due."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.status import Status

from flows import events
from lorax.commands.followed import AT_ONCE, CalibratedVersions
from lorax.commands.predict import json_line
from lorax.errors import ServiceError, printable
from lorax.params import Params
from lorax.verdicts import watched
from lorax.verdicts.alert import Rise, report, sheet_name
from lorax.verdicts.predictor import Predictor
from lorax.verdicts.rate import Window
from lorax.verdicts.watched import Sighting
from lorax.workspace import Workspace

STDIN = "-"

_FALSE_ALARMS_TIMES = 3.0
"""The rate to watch for, unless one is given, by the version's stated false alarms. New images of known kinds are
called strange more often than calibration images were, twice as often and more (docs/log.md)."""

_SUCH_AS = 3
_EMPTY = Window(1, 1.0)


@dataclass(frozen=True)
class Settings:
    """What is watched for: a `rate` (None: see `_FALSE_ALARMS_TIMES`) over the last `window` images."""

    window: int
    rate: float | None
    once: bool

    def fresh(self, predictor: Predictor) -> Window:
        """An empty window for a version's verdicts."""
        assert predictor.calibration is not None  # CalibratedVersions opens no other
        usual = min(1.0, _FALSE_ALARMS_TIMES * predictor.calibration.false_alarms)
        return Window(self.window, usual if self.rate is None else self.rate)


def watch(workspace: Workspace, params: Params, source: str, version: str, settings: Settings, teller: Teller) -> int:
    """Watch a stream of images or verdicts, and tell of every rise.

    Args:
        workspace, params: whose versions.
        source: a folder of images, a file that `lorax predict --json` writes, or `-` for its lines on stdin.
        version: which version judges a folder's images, as `lorax predict` takes it; lines name their own.
        settings: what is watched for.
        teller: who tells.

    Returns:
        How often it rose.

    Raises:
        RegistryError, StateError: the version can't be opened, or is not calibrated.
        StorageError: a report can't be written.
    """
    versions = CalibratedVersions(workspace, params, teller.err)
    if source == STDIN:
        found = watched.from_lines(iter(sys.stdin.buffer.readline, b""), teller.tell_bad)
    elif Path(source).is_dir():
        opened = lambda: versions.named(version)  # noqa: E731
        found = watched.from_folder(Path(source), opened, teller.tell_bad, once=settings.once)
    else:
        found = watched.from_lines(watched.followed(Path(source), once=settings.once), teller.tell_bad)
    watch = _Watch(versions, settings, teller, workspace.work_dir / "watch")
    with teller.err.status("waiting for images") as status:
        for batch in found:
            for sighting in batch:
                watch.take(sighting, status)
            status.update(str(watch.window))
    watch.end()
    return watch.rises


@dataclass
class _Watch:
    """What was seen so far: a window for each version, since another one's scores have another threshold."""

    versions: CalibratedVersions
    settings: Settings
    teller: Teller
    watch_dir: Path
    rises: int = 0
    windows: dict[int, Window] = field(default_factory=dict)
    images: Counter[int] = field(default_factory=Counter)

    @property
    def window(self) -> Window:
        """That of the version that judged last."""
        return next(reversed(self.windows.values()), _EMPTY)

    def take(self, sighting: Sighting, status: Status) -> None:
        """Take in one more verdict; tell what changes with it."""
        version = sighting.version
        predictor = self.versions.numbered(version)
        window = self.windows.pop(version, None) or self.settings.fresh(predictor)
        while len(self.windows) >= AT_ONCE:
            del self.windows[next(iter(self.windows))]
        self.windows[version] = window  # the last
        self.images[version] += 1
        change = window.add(sighting)
        if not change:
            return
        status.stop()
        if change == "rising":
            self.rises += 1
            self.teller.tell_rise(report(window, predictor, self.watch_dir), str(window), self.images[version])
        else:
            self.teller.tell(change, window)
        status.start()

    def end(self) -> None:
        """Tell how it is at the end, by each version that judged."""
        for version, window in sorted(self.windows.items()):
            if len(self.windows) > 1:
                self.teller.tell_version(version)
            self.teller.tell("end", window, self.images[version])
        if not self.windows:
            self.teller.tell("end", _EMPTY, 0)


@dataclass(frozen=True)
class Teller:
    """Who tells people, scripts and Prefect's server.

    Args:
        workspace: whose server.
        model: the registered model's name.
        out: where rises are told.
        err: where bad files are told, and the share now while it is a terminal.
        as_json: lines of JSON.
    """

    workspace: Workspace
    model: str
    out: Console
    err: Console
    as_json: bool

    def tell_bad(self, text: str) -> None:
        """Tell of a file or line that is left out."""
        self.err.print(f"lorax: skipped {printable(text)}", markup=False)

    def tell(self, change: str, window: Window, count: int | None = None) -> None:
        """Tell that the share has fallen, or, with how many images there were, how it is at the end."""
        if self.as_json:
            low, high = window.interval
            of_window = {
                "share": window.share,
                "interval": [low, high],
                "rate": window.rate,
                "window": len(window.seen),
            }
            counted = {} if count is None else {"images": count, "verdicts": window.verdicts}
            version = window.seen[-1].version if window.seen else None
            self._write({"change": change, "at": _now(), "version": version} | of_window | counted)
        elif count is None:
            self.out.print(f"{_now()} fallen: {window}", markup=False)
        else:
            self.out.print(f"{count:,} images: {window}" if count else "no images", markup=False)

    def tell_version(self, version: int) -> None:
        """Say to people whose window comes next; JSON names it in each line."""
        if not self.as_json:
            self.out.print(f"by version {version}:", markup=False)

    def tell_rise(self, rise: Rise, share: str, count: int) -> None:
        """Tell of a rise, after so many images; Prefect's server too."""
        not_announced = self._announced(rise)
        if self.as_json:
            self._write({"change": "rising", **rise.summary, "images": count, "announced": not not_announced})
        else:
            self._print_rise(rise, share)
        if not_announced:
            self.err.print(f"lorax: {events.UNKNOWN_RISING} is not announced: {not_announced}", markup=False)

    def _announced(self, rise: Rise) -> str:
        """Why Prefect's server did not take the event; '' when it did."""
        try:
            events.emit_rise(self.workspace, self.model, rise.summary)
        except ServiceError as error:
            return str(error)
        return ""

    def _print_rise(self, rise: Rise, share: str) -> None:
        lines = [f"{rise.summary['at']} rising: {share}"]
        for number, cluster in enumerate(rise.clusters):
            lines.append(
                f"  cluster {number}: {len(cluster.members)} images, cohesion {cluster.cohesion:.2f}, "
                f"furthest from usual in branch {cluster.branch}: "
                f"{rise.folder / sheet_name(number)}"
            )
            lines += [f"    {printable(sighting.file)}" for sighting in cluster.members[:_SUCH_AS]]
        lines.append(f"  {rise.summary['unclustered']} in no cluster; all of it: {rise.summary['report']}")
        lines.append(
            "Next: look at the sheets. Is a cluster one new generator? Then gather its images in NAME/train/1_fake and "
            "NAME/val/1_fake, and real ones in 0_real beside them; 'lorax land NAME --task NAME' has it learned."
        )
        for line in lines:
            self.out.print(line, markup=False)

    def _write(self, value: dict[str, Any]) -> None:
        self.out.file.write(json_line(value) + "\n")
        self.out.file.flush()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
