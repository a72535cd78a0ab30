"""Random kills: `python proofs/loop_random.py --seeds 0 1 2 --kills 30`; part `random` of `make prove-loop`.

A user lands six tasks, has them learned, rolls back, promotes, replaces and relearns, once undisturbed and once for
each seed while flow, worker, servers, watcher and the user's own commands are killed at random times. Every pass must
end the same.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import bench
import loop_random_traces as traces
import psutil
from loop_random_kills import Killer, counted
from loop_random_user import User

KILLS = 30
SEEDS = tuple(range(10))
REST_S = 10.0
"""How long the user rests at the end, undisturbed."""

SETTLE_S = 600.0
"""How long the last kill's consequences may take to be mended."""

_SMALL = {**bench.TINY, "calibration": {"per_class": 0}, "robustness": {"per_class": 2}}
_DATES = {"GIT_AUTHOR_DATE": "2026-01-01T00:00:00Z", "GIT_COMMITTER_DATE": "2026-01-01T00:00:00Z"}
"""A learner state names the commit that it was learned at, so equal commits must be equal to the last bit."""


def prove_random(seeds: Sequence[int] = SEEDS, kills: int = KILLS) -> bool:
    """Thirty kills at random times of whatever is alive, ten times: always the end of the undisturbed pass."""
    home = bench.HOME / "random"
    ports = bench.free_port(), bench.free_port()
    idle = Killer(home / "workspace", seed=0, kills=0, lengths_s=[])
    wanted = Pass(home, ports).run("undisturbed", idle)
    passed = _report(wanted, wanted)
    for seed in seeds if wanted.end else ():
        found = Pass(home, ports).run(f"seed {seed}", Killer(home / "workspace", seed, kills, wanted.lengths_s))
        if not _report(found, wanted):
            passed = False
            shutil.copytree(home / "workspace/work/services", bench.HOME / f"failed-{seed}", dirs_exist_ok=True)
    return passed


@dataclass
class Result:
    """What came of one pass."""

    name: str
    seconds: float
    kills: list[dict[str, Any]]
    killed: str
    idle_s: float
    idle_undisturbed_s: float
    idle_during: str
    answers: list[dict[str, Any]]
    lengths_s: list[float]
    end: traces.End | None = None
    stuck: str = ""
    broken: Sequence[str] = ()
    doubled: Sequence[str] = ()
    left: Sequence[str] = ()


@dataclass(frozen=True)
class Pass:
    """One pass of the scenario, in a workspace of its own that is made anew under the same name, with the same ports.

    So the commits of all passes can be the same.
    """

    home: Path
    ports: tuple[int, int]

    @property
    def root(self) -> Path:
        return self.home / "workspace"

    def run(self, name: str, killer: Killer) -> Result:
        """Run it, look how it ended, and end all that it started."""
        with _own_environment() as (mark, temporary):
            user, stuck, seen, began = User(self.root, killer), "", list[traces.Seen](), time.monotonic()
            try:
                self._make()
                killer.start()
                stuck = _stuck(lambda: _play(user, killer)) or _stuck(lambda: _settled(self.root, seen))
            finally:
                lengths_s = killer.lengths()
                killer.stop()
                self._end(user, mark)
            left = traces.left_behind(self.root, temporary, mark) if not stuck else []
            self._end_processes(mark)
        idle = killer.idle
        return Result(
            name=name,
            seconds=round(time.monotonic() - began),
            kills=[asdict(kill) for kill in killer.done],
            killed=counted(killer.done),
            idle_s=round(idle.longest_s),
            idle_undisturbed_s=round(idle.undisturbed_s),
            idle_during=idle.during,
            answers=[asdict(answer) for answer in user.answers],
            lengths_s=lengths_s,
            end=seen[0].end if seen else None,
            stuck=stuck,
            broken=seen[0].broken if seen else [],
            doubled=seen[0].doubled if seen else [],
            left=left,
        )

    def _make(self) -> None:
        bench.remove_workspace(self.root)
        shutil.rmtree(self.home, ignore_errors=True)
        root = bench.new_workspace(self.home, "workspace", tiny=True, remote=self.home / "remote", ports=self.ports)
        bench.change_params(root, {**_SMALL, "landing": {**bench.TINY["landing"], "drop_dir": str(self.home / "drop")}})
        bench.share(root, self.home / "upstream.git")

    def _end(self, user: User, mark: str) -> None:
        if user.running is not None and user.running.poll() is None:
            user.running.kill()
        if (self.root / "params.yaml").is_file():
            done = bench.lorax("down", cwd=self.root, check=False)
            if done.returncode:
                print(f"  lorax down: {done.returncode} {done.stderr.strip()}")

    def _end_processes(self, mark: str) -> None:
        found = traces.processes(self.root, mark)
        for process in found:
            try:
                process.kill()
            except psutil.Error:
                continue
        psutil.wait_procs(found, timeout=10)


def _settled(root: Path, seen: list[traces.Seen]) -> None:
    """Wait until what was killed last is back; then look.

    A last 'lorax learn' must find nothing to learn: it sweeps away what kills left half-made, as every run does.
    """
    bench.wait_for(lambda: _is_up(root), SETTLE_S, "both servers answer again", every_s=3)
    before = len(bench.versions(root))
    bench.lorax("learn", cwd=root)
    if len(bench.versions(root)) != before:
        raise SystemExit("something was left to be learned")
    seen.append(traces.look(root))


def _play(user: User, killer: Killer) -> None:
    user.script()
    killer.begin("at rest")
    time.sleep(REST_S)
    bench.wait_for(killer.is_over, REST_S * (1 + killer.kills), "all kills are done")


def _is_up(root: Path) -> bool:
    return all(service["ready"] for service in bench.status(root)["services"].values())


def _stuck(part: Callable[[], None]) -> str:
    """Why a part could not go on; '' if it did."""
    try:
        part()
    except SystemExit as end:
        return str(end)
    return ""


@contextmanager
def _own_environment() -> Iterator[tuple[str, Path]]:
    """A mark and a folder for temporary files, for this process' children; yields both."""
    before, mark = dict(os.environ), os.urandom(8).hex()
    with tempfile.TemporaryDirectory(prefix="lorax-random-") as folder:
        os.environ |= {**_DATES, traces.MARK: mark, "TMPDIR": folder}
        try:
            yield mark, Path(folder)
        finally:
            os.environ.clear()
            os.environ.update(before)


def _report(found: Result, wanted: Result) -> bool:
    """Tell what came of a pass, property by property; whether all hold. Keep it as JSON, too."""
    unclear = [answer["command"] for answer in found.answers if not answer["is_clear"]]
    differ = traces.differences(found.end, wanted.end) if found.end and wanted.end else ["no end was reached"]
    failed = {
        "went on to the end": [found.stuck] if found.stuck else [],
        "same end as undisturbed": differ,
        "journal = alias, nothing broken": found.broken,
        "no point or version twice": found.doubled,
        "nothing left behind": found.left,
        "every answer one clear line": unclear,
    }
    print(
        f"{found.name}: {found.seconds} s, {len(found.kills)} kills ({found.killed or 'none'}), {len(found.answers)} "
        f"other failures of commands; longest wait for the next run {found.idle_s} s ({found.idle_undisturbed_s} s "
        f"without a kill, {found.idle_during}); state {found.end.digests[-1][:12] if found.end else 'none'}"
    )
    for name, reasons in failed.items():
        print(f"  {'FAIL' if reasons else 'PASS'} {name}{': ' if reasons else ''}{'; '.join(map(str, reasons))[:3000]}")
    path = bench.HOME / f"random-{found.name.replace(' ', '-')}.json"
    path.write_text(json.dumps(asdict(found) | {"failed": failed}, indent=1) + "\n")
    sys.stdout.flush()
    return not any(failed.values())


PARTS: dict[str, Callable[[], bool]] = {"random": prove_random}


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="*", default=SEEDS, help="a pass for each (default: 0 to 9)")
    parser.add_argument("--kills", type=int, default=KILLS, help=f"in each pass (default: {KILLS})")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("told to end"))
    bench.HOME.mkdir(parents=True, exist_ok=True)
    passed = prove_random(given.seeds, given.kills)
    print("PASS" if passed else "FAIL")
    sys.exit(not passed)


if __name__ == "__main__":
    _main()
