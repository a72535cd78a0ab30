"""`lorax watch-verdicts`: says when images that are like nothing known become more, so that an episode is due."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lorax.commands import access
from lorax.commands.console import Json, err, opened, out
from lorax.commands.predict import json_line, reader_may_leave
from lorax.errors import LoraxError, ServiceError, printable
from lorax.verdicts.rate import Window

if TYPE_CHECKING:
    from rich.status import Status

    from lorax.params import Params
    from lorax.verdicts.alert import Alert
    from lorax.verdicts.predictor import Predictor
    from lorax.verdicts.watched import WatchedVerdict
    from lorax.workspace import Workspace

UNKNOWN_RISING = "lorax.unknown.rising"
"""The event that Prefect's server is told."""

_STDIN = "-"
_ROSE = 3

_FALSE_ALARMS_TIMES = 3.0
"""The rate to watch for, unless one is given, by the version's stated false alarms. New images of known kinds are
called unknown more often than calibration images were, twice as often and more (docs/log.md)."""

_AT_ONCE = 4
"""Versions that are held open, and watched, at once: while one takes over from another, lines of both come."""

_LOOK_AGAIN_S = 30.0
_SUCH_AS = 3
_EMPTY = Window(1, 1.0)


def watch_verdicts(
    source: Annotated[
        str, typer.Argument(metavar="FOLDER|JSONL", help="Where images come in, or what `predict --json` writes; or -.")
    ],
    version: Annotated[
        str, typer.Option(metavar="V|@ALIAS", help="For a folder: as for `lorax predict`; @champion if not given.")
    ] = "",
    window: Annotated[int, typer.Option(min=1, help="How many of the last images count.")] = 200,
    rate: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="The share of unknown images to warn of; three times the false alarms if not given."
        ),
    ] = None,
    once: Annotated[
        bool, typer.Option("--once", help="Look at what is there and end: exit code 3 if it rose.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Say when images that are like nothing known become more: a new generator is about, and an episode is due.

    Then `lorax.unknown.rising` goes to Prefect's server, and work/watch/ gets the images in clusters, with a contact
    sheet each. Example: `lorax watch-verdicts ~/inbox`
    """
    if source != _STDIN and not Path(source).exists():
        raise typer.BadParameter(
            f"{source} does not exist: expected a folder, or a file of 'lorax predict PATH --json'."
        )
    if version and not Path(source).is_dir():
        raise typer.BadParameter(
            "--version goes with a folder: lines of 'lorax predict PATH --json' name their version."
        )
    workspace, params = opened()
    versions = CalibratedVersions(workspace, params)
    reporter = Reporter(workspace, params.registry.model, as_json)
    watch = _Watch(versions, reporter, workspace.work_dir / "watch", window, rate)
    with reader_may_leave():
        watch.follow(_verdicts(source, version or "@champion", versions, reporter, once=once))
    if watch.alerts and once:
        raise typer.Exit(_ROSE)


def _verdicts(
    source: str, version: str, versions: CalibratedVersions, reporter: Reporter, *, once: bool
) -> Iterator[list[WatchedVerdict]]:
    """What is watched: a folder of images, a file that `lorax predict --json` writes, or `-` for its lines on stdin.

    A folder's images are judged by `version`, as `lorax predict` takes it; lines name their own.
    """
    from lorax.verdicts import watched

    if source == _STDIN:
        return watched.from_lines(iter(sys.stdin.buffer.readline, b""), reporter.skip)
    if Path(source).is_dir():
        return watched.from_folder(Path(source), lambda: versions.named(version), reporter.skip, once=once)
    return watched.from_lines(watched.followed(Path(source), once=once), reporter.skip)


class CalibratedVersions:
    """Versions that can tell what is like nothing known; those asked for last are held open."""

    def __init__(self, workspace: Workspace, params: Params) -> None:
        self.workspace, self.params = workspace, params
        self.numbered = lru_cache(_AT_ONCE)(self._opened)
        self._named: int | None = None
        self._looked = -_LOOK_AGAIN_S

    def named(self, wanted: str) -> tuple[Predictor, int]:
        """The version that is called so now, and its number; looked up again twice a minute, since an alias moves.

        Raises:
            RegistryError: there is none; once one was found it stays while the registry can't be asked.
            StateError: it is not calibrated.
        """
        if self._named is None or time.monotonic() >= self._looked + _LOOK_AGAIN_S:
            try:
                number = int(access.fetched(self.workspace, self.params, wanted)[0].version)
                self.numbered(number)
                self._named = number
            except LoraxError as error:
                if self._named is None:
                    raise
                err.print(f"lorax: still watching by version {self._named}: {error}", markup=False)
            self._looked = time.monotonic()
        return self.numbered(self._named), self._named

    def _opened(self, number: int) -> Predictor:
        """The version with this number.

        Raises:
            RegistryError: there is none.
            StateError: it is not calibrated.
        """
        from lorax.verdicts.predictor import Predictor
        from lorax.verdicts.watched import not_calibrated

        _, state_dir = access.fetched(self.workspace, self.params, str(number))
        predictor = Predictor.open(state_dir, self.params.run.device, exact=True)  # an alert tells of every branch
        if predictor.calibration is None:
            raise not_calibrated(number)
        return predictor


@dataclass
class _Watch:
    """What was seen so far: a window for each version, since another one's scores have another threshold."""

    versions: CalibratedVersions
    reporter: Reporter
    watch_dir: Path
    size: int  # how many of the last images count
    rate: float | None  # the share to warn of; None: see `_FALSE_ALARMS_TIMES`
    alerts: int = 0
    windows: dict[int, Window] = field(default_factory=dict)
    images: Counter[int] = field(default_factory=Counter)

    @property
    def window(self) -> Window:
        """That of the version that judged last."""
        return next(reversed(self.windows.values()), _EMPTY)

    def follow(self, batches: Iterator[list[WatchedVerdict]]) -> None:
        """Take in verdicts as they come; tell of every alert, and in the end how it is by each version that judged."""
        with err.status("waiting for images") as status:
            for batch in batches:
                for verdict in batch:
                    self._take(verdict, status)
                status.update(str(self.window))
        for version, window in sorted(self.windows.items()):
            if len(self.windows) > 1:
                self.reporter.name_version(version)
            self.reporter.tell("end", window, self.images[version])
        if not self.windows:
            self.reporter.tell("end", _EMPTY, 0)

    def _take(self, verdict: WatchedVerdict, status: Status) -> None:
        """Take in one more verdict; tell what changes with it."""
        version = verdict.version
        predictor = self.versions.numbered(version)
        window = self.windows.pop(version, None) or self._fresh(predictor)
        while len(self.windows) >= _AT_ONCE:
            del self.windows[next(iter(self.windows))]
        self.windows[version] = window  # the last
        self.images[version] += 1
        change = window.add(verdict)
        if not change:
            return
        from lorax.verdicts.alert import raise_alert

        status.stop()
        if change == "rising":
            self.alerts += 1
            alert = raise_alert(window, predictor, self.watch_dir)
            self.reporter.alert(alert, str(window), self.images[version])
        else:
            self.reporter.tell(change, window)
        status.start()

    def _fresh(self, predictor: Predictor) -> Window:
        """An empty window for a version's verdicts."""
        assert predictor.calibration is not None  # CalibratedVersions opens no other
        usual = min(1.0, _FALSE_ALARMS_TIMES * predictor.calibration.false_alarms)
        return Window(self.size, usual if self.rate is None else self.rate)


@dataclass(frozen=True)
class Reporter:
    """Who tells people, scripts and Prefect's server."""

    workspace: Workspace
    model: str  # the registered model's name
    as_json: bool

    def skip(self, text: str) -> None:
        """Tell of a file or line that is left out."""
        err.print(f"lorax: skipped: {printable(text)}", markup=False)

    def tell(self, change: str, window: Window, count: int | None = None) -> None:
        """Tell that the share has fallen, or, with how many images there were, how it is at the end."""
        if self.as_json:
            counted = {} if count is None else {"images": count, "verdicts": window.verdicts}
            version = window.seen[-1].version if window.seen else None
            self._write({"change": change, "at": _now(), "version": version} | window.record() | counted)
        elif count is None:
            out.print(f"{_now()} fallen: {window}", markup=False)
        else:
            out.print(f"{count:,} images: {window}" if count else "no images", markup=False)

    def name_version(self, version: int) -> None:
        """Say to people whose window comes next; JSON names it in each line."""
        if not self.as_json:
            out.print(f"by version {version}:", markup=False)

    def alert(self, alert: Alert, share: str, count: int) -> None:
        """Tell of an alert, after so many images; Prefect's server too."""
        from lorax.services.prefect_api import PrefectApi

        of = {"prefect.resource.id": f"lorax.unknown.{self.model}", "prefect.resource.name": self.model}
        not_announced = ""
        try:
            PrefectApi.of(self.workspace).emit(UNKNOWN_RISING, of, payload=alert.summary)
        except ServiceError as error:
            not_announced = str(error)
        if self.as_json:
            self._write({"change": "rising", **alert.summary, "images": count, "announced": not not_announced})
        else:
            self._print_alert(alert, share)
        if not_announced:
            err.print(f"lorax: {UNKNOWN_RISING} is not announced: {not_announced}", markup=False)

    def _print_alert(self, alert: Alert, share: str) -> None:
        lines = [f"{alert.summary['at']} rising: {share}"]
        for number, cluster in enumerate(alert.clusters):
            lines.append(
                f"  cluster {number}: {len(cluster.members)} images, cohesion {cluster.cohesion:.2f}, "
                f"furthest from usual in branch {cluster.branch}: {alert.sheet_path(number)}"
            )
            lines += [f"    {printable(verdict.file)}" for verdict in cluster.members[:_SUCH_AS]]
        lines.append(f"  {alert.summary['unclustered']} in no cluster; all of it: {alert.summary['report']}")
        lines.append(
            "Next: look at the sheets. Is a cluster one new generator? Then gather its images in NAME/train/1_fake and "
            "NAME/val/1_fake, and real ones in 0_real beside them; 'lorax land NAME --task NAME' has it learned."
        )
        for line in lines:
            out.print(line, markup=False)

    def _write(self, value: dict[str, Any]) -> None:
        out.file.write(json_line(value) + "\n")
        out.file.flush()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
