"""What a person at a terminal sees of a run that a worker does: asked of Prefect's server, again and again.

Nothing here takes part in the run: who stops looking stops nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.status import Status

from flows import deployment
from flows.deployment import time_of
from lorax.errors import ServiceError
from lorax.services.prefect_api import PrefectApi, Row

POLL_S = 1.0
_END = "Finished in state"
_LOGS_LATE_S = 6.0  # logs are sent in batches, and come after the state that they tell of
_NO_ONE_S = 60.0  # how long nothing may begin until it is said that something is wrong
_EPISODE = "episode "


@dataclass
class RunDisplay:
    """Shows the runs of the deployment `learn` until there is nothing left to learn."""

    api: PrefectApi  # Prefect's server
    console: Console  # where it is shown
    is_done: Callable[[], bool]  # whether everything that was waited for has been learned or refused
    _seen: set[str] = field(default_factory=set)

    def follow(self, since: datetime) -> None:
        """Show the run that learns now, or the next one that is made after `since`; and so on, until `is_done`.

        Raises:
            ServiceError: a run failed, for whatever reason another would fail again; or the server does not answer.
        """
        while True:
            run = self._await_run(since)
            with self.console.status("") as status:
                ended = self._show(run, status)
            if ended["state_type"] == "FAILED":
                raise ServiceError(
                    f"the run {ended['name']!r} failed: {ended['state']['message']} See {self._page(run)}"
                )
            if ended["state_type"] == "CRASHED":
                self.console.print(f"    crashed: {ended['state']['message']}; another run goes on.", markup=False)
            if self.is_done():
                return

    def _await_run(self, since: datetime) -> Row:
        """The run that has begun and was not shown yet."""
        with self.console.status("waiting for a worker to begin") as status:
            while True:
                for run in self._runs(since):
                    if run["id"] not in self._seen and run["start_time"]:
                        self._seen.add(run["id"])
                        after_s = (time_of(run["start_time"]) - since).total_seconds()
                        late = f"began {after_s:.1f} s after that" if after_s > 0 else "runs already"
                        self.console.print(f"  flow run [bold]{escape(run['name'])}[/bold] {late}: {self._page(run)}")
                        return run
                waited_s = (datetime.now(UTC) - since).total_seconds()
                if waited_s > _NO_ONE_S:
                    status.update(f"waiting for a worker to begin for {waited_s:.0f} s ('lorax status' shows workers)")
                time.sleep(POLL_S / 4)

    def _runs(self, since: datetime) -> list[Row]:
        """Runs of the deployment that learn now, or that were made after `since`; the oldest first."""
        begun = deployment.last_begun(self.api)
        return [r for r in reversed(begun) if r["state_type"] not in deployment.ENDED or time_of(r["created"]) > since]

    def _show(self, run: Row, status: Status) -> Row:
        """Print each step as it ends, until the run does; returns it as it ended."""
        printed: set[str] = set()
        while True:
            now = self.api.get(f"flow_runs/{run['id']}") or run
            parts = {"flow_runs": {"parent_flow_run_id": {"any_": [run["id"]]}}, "sort": "START_TIME_ASC"}
            is_whole = True
            for part in self.api.rows("flow_runs/filter", parts):
                if not part["name"].startswith(_EPISODE):  # it has just been made; Prefect names it in a moment
                    is_whole = False
                    continue
                if part["id"] not in printed:
                    printed.add(part["id"])
                    self.console.print(f"  [bold]{escape(part['name'])}[/bold]")
                is_whole = self._show_steps(part, printed, status) and is_whole
            if now["state_type"] in deployment.ENDED and (is_whole or _age_s(now["end_time"]) > _LOGS_LATE_S):
                return now
            time.sleep(POLL_S)

    def _show_steps(self, part: Row, printed: set[str], status: Status) -> bool:
        """Print what has ended of an episode; returns whether nothing is left to print."""
        query = {"flow_runs": {"id": {"any_": [part["id"]]}}, "sort": "EXPECTED_START_TIME_ASC"}
        for step in self.api.rows("task_runs/filter", query):
            if step["id"] in printed:
                continue
            name = step["name"].rsplit("-", 1)[0]
            said, is_whole = self._last_words(step)
            if step["state_type"] not in deployment.ENDED or not (is_whole or _age_s(step["end_time"]) > _LOGS_LATE_S):
                status.update(f"{name}  {said}")
                return False
            printed.add(step["id"])
            self.console.print(f"    {name:<24} {said} [dim]({step['total_run_time']:.1f} s)[/dim]", highlight=False)
        return True

    def _last_words(self, step: Row) -> tuple[str, bool]:
        """What a step logged last, but for Prefect's own words on its end, and whether these have come, too."""
        query = {"logs": {"task_run_id": {"any_": [step["id"]]}}, "sort": "TIMESTAMP_DESC", "limit": 5}
        said = [str(log["message"]) for log in self.api.rows("logs/filter", query)]
        is_whole = any(text.startswith(_END) for text in said)
        return escape(next((text for text in said if not text.startswith(_END)), "")), is_whole

    def _page(self, run: Row) -> str:
        return f"{self.api.url.removesuffix('/api')}/runs/flow-run/{run['id']}"


def _age_s(time: Any) -> float:
    return (datetime.now(UTC) - time_of(time)).total_seconds() if time else 0.0
