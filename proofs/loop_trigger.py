"""Landings start learning: by themselves, in another clone of the workspace, in a burst, on PostgreSQL."""

from __future__ import annotations

import configparser
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import bench
import postgres

from lorax.data import versions
from lorax.params import load_params
from lorax.services import servers
from lorax.services.prefect_api import PrefectApi
from lorax.workspace import Workspace

Env = Mapping[str, str] | None

START_S = 30.0
"""How soon after a landing learning must start by itself."""

PATIENCE_S = 900.0
BURST = 20


def prove_trigger(env: Env = None) -> bool:
    """Three landings, with `lorax up` as the only other command: each starts a run within 30 s, the champion moves."""
    home = bench.HOME / "trigger"
    root = bench.new_workspace(home, "workspace", tiny=True)
    passed = True
    with up(root, env):
        print(f"{'landed':<8} {'run starts after':>16} {'champion knows it after':>24}  started by")
        for name in ("first", "second", "third"):
            source = bench.tiny_task(home / "raw", name, seed=0)
            bench.lorax("land", str(source), "--task", name, cwd=root, env=env)
            landed = datetime.now(UTC)
            run = _started(root, name)
            starts_s = (time_of(run["start_time"]) - landed).total_seconds()
            knows_s = (_known(root, run, env) - landed).total_seconds()
            print(f"{name:<8} {starts_s:>14.1f} s {knows_s:>22.1f} s  {_who(run)}", flush=True)
            passed &= starts_s < START_S
        found = bench.line(root, env)
        print(f"champion: version {found[-1]['version']}, knows {', '.join(found[-1]['tasks'])}")
    return passed and found[-1]["tasks"] == ["first", "second", "third"]


def prove_clone() -> bool:
    """A landing in one clone is learned by the worker of another; both share git, the DVC remote and the servers."""
    first, second, theirs = clones(bench.HOME / "clone")
    passed = True
    with up(first, None, "--no-worker"), up(second, theirs):
        print(f"processes of the first: {', '.join(_programs(first))}; of the second: {', '.join(_programs(second))}")
        passed &= _programs(first) == ["mlflow", "prefect"] and _programs(second) == ["announcer", "worker"]
        for name in ("first", "second"):
            bench.land_tiny(first, name)
            run = _started(first, name)
            _known(first, run)
            print(f"landed in first/: {name}; {_worker(first, run)}", flush=True)
        champion = bench.status(first)["champion"]
        print(f"champion as the first sees it: version {champion['version']}, knows {', '.join(champion['tasks'])}")
    episodes = {root.name: len(list((root / "work/episodes").glob("*/report.json"))) for root in (first, second)}
    print(f"episodes learned in each folder: {episodes}")
    return passed and champion["tasks"] == ["first", "second"] and episodes == {"first": 0, "second": 2}


def prove_burst() -> bool:
    """Twenty landings at once, then twenty of which ten come while Prefect's server is down: all learned, once each."""
    return _burst_with_server() & _burst_without_server()


def prove_postgres() -> bool:
    """The parts `trigger` and `rollback` with both servers' databases in PostgreSQL, by environment variables alone."""
    import loop_rollback

    parts: dict[str, Callable[[Env], bool]] = {"trigger": prove_trigger, "rollback": loop_rollback.prove_rollback}
    passed = True
    with postgres.postgres() as server:
        print(server.query("SELECT version()"))
        for name, part in parts.items():
            print(f"-- {name}")
            env = {
                "PREFECT_SERVER_DATABASE_CONNECTION_URL": server.url(f"prefect_{name}", "asyncpg"),
                "MLFLOW_BACKEND_STORE_URI": server.url(f"mlflow_{name}", "psycopg"),
            }
            passed &= part(env)
            runs = int(server.query("SELECT count(*) FROM flow_run", f"prefect_{name}"))
            known = int(server.query("SELECT count(*) FROM model_versions", f"mlflow_{name}"))
            files = [path.name for path in (bench.HOME / name).glob("*/work/services/*/*.db")]
            print(
                f"in PostgreSQL: {runs} flow runs, {known} model versions; SQLite files: {files or 'none'}", flush=True
            )
            passed &= runs > 0 and known > 0 and not files
    return passed


PARTS: dict[str, Callable[[], bool]] = {
    "trigger": prove_trigger,
    "clone": prove_clone,
    "burst": prove_burst,
    "postgres": prove_postgres,
}


@contextmanager
def up(root: Path, env: Env = None, *options: str) -> Iterator[None]:
    """`lorax up` for as long as the block lasts, then `lorax down`."""
    try:
        bench.lorax("up", *options, cwd=root, env=env)
        yield
    finally:
        bench.lorax("down", cwd=root, env=env, check=False)


def clones(home: Path) -> tuple[Path, Path, Env]:
    """Two fresh clones of one upstream, home/upstream.git, and what has the second use the first one's servers."""
    upstream = home / "upstream.git"
    first = bench.new_workspace(home, "first", tiny=True, remote=home / "storage")
    bench.remove_workspace(home / "second")
    bench.share(first, upstream)
    bench.git("clone", "--quiet", str(upstream), str(home / "second"), cwd=home)
    second = home / "second"
    params = load_params(first / "params.yaml").services
    theirs = {  # as from another machine; by 127.0.0.1 the clone would take them for its own, which has the same ports
        "PREFECT_API_URL": f"http://localhost:{params.prefect_port}/api",
        servers.AUTH_VARIABLE: servers.auth_string(servers.prefect_home(Workspace(first))),
        "MLFLOW_TRACKING_URI": f"http://localhost:{params.mlflow_port}",
        "PREFECT_HOME": str(second / "work" / "prefect"),
        "DVC_SITE_CACHE_DIR": str(second / "work" / "dvc"),
    }
    return first, second, theirs


def _burst_with_server() -> bool:
    home = bench.HOME / "burst"
    root = bench.new_workspace(home, "workspace", tiny=True)
    names = [f"task{k:02}" for k in range(BURST)]
    with up(root):
        began = time.perf_counter()
        _land_at_once(root, names)
        print(f"{BURST} landings at once: {time.perf_counter() - began:.0f} s", flush=True)
        return _learned(root, began, exactly=True)


def _burst_without_server() -> bool:
    home = bench.HOME / "burst"
    root = bench.new_workspace(home, "outage", tiny=True)
    names = [f"task{k:02}" for k in range(BURST)]
    with up(root):
        began = time.perf_counter()
        _land_at_once(root, names[: BURST // 2])
        supervisor(root, "stop", "prefect")
        said = _land_at_once(root, names[BURST // 2 :])
        unheard = sum("not announced" in text for text in said)
        print(
            f"{BURST // 2} landings; Prefect's server stopped; {BURST // 2} more, of which {unheard} said that they "
            f"are not announced; the champion knows {len(bench.status(root)['known'])} tasks",
            flush=True,
        )
        bench.lorax("up", cwd=root)
        return _learned(root, began, exactly=False) and unheard == BURST // 2


def _land_at_once(root: Path, names: Sequence[str]) -> list[str]:
    """Start all landings, then wait for them; returns what each printed."""
    sources = [bench.tiny_task(root.parent / "raw", name, seed=0, train=8, val=2) for name in names]
    landings = [
        bench.start_lorax("land", str(source), "--task", name, cwd=root, log=source.parent / f"{name}.log")
        for name, source in zip(names, sources, strict=True)
    ]
    codes = {name: landing.wait() for name, landing in zip(names, landings, strict=True)}
    said = [(source.parent / f"{source.name}.log").read_text() for source in sources]
    if any(codes.values()):
        raise SystemExit(f"landings failed: {codes}\n" + "\n".join(said))
    return said


def _learned(root: Path, began: float, *, exactly: bool) -> bool:
    """Wait until everything is learned; whether it was once each, in data.dvc's order, one at a time.

    Args:
        exactly: no episode was begun twice either.
    """
    bench.wait_for(lambda: not bench.status(root)["waiting"], 3 * PATIENCE_S, "all is learned", every_s=20)
    seconds = time.perf_counter() - began
    api = api_of(root)
    bench.wait_for(lambda: not _due(api), PATIENCE_S, "no run is under way or due", every_s=2)
    stream = [task.name for task in versions.landed(Workspace(root))]
    rows = bench.versions(root)
    in_order = [row["task"] for row in rows] == stream and [row["version"] for row in rows] == [*range(1, BURST + 1)]
    grows = all(row["tasks"] == stream[: k + 1] for k, row in enumerate(rows))
    descends = all(b["parent_digest"] == a["state_digest"] for a, b in pairwise(rows))
    learns, episodes = runs_of(api, "learn"), runs_of(api, "episode")
    alone = _one_at_atime_of(learns) and _one_at_atime_of(episodes)
    states = {state: sum(run["state_name"] == state for run in learns) for state in {r["state_name"] for r in learns}}
    print(f"landed in this order: {' '.join(stream)}")
    print(f"learned in this order: {' '.join(row['task'] for row in rows)} ({seconds:.0f} s since the first landing)")
    print(f"versions 1 to {len(rows)}, each one task more than its parent: {in_order and grows and descends}")
    print(
        f"{len(episodes)} runs of episodes in {len(learns)} runs of learn ({states}), one at a time: {alone}",
        flush=True,
    )
    return in_order and grows and descends and alone and (len(episodes) == BURST or not exactly)


def _one_at_atime_of(runs: Sequence[Mapping[str, Any]]) -> bool:
    """Whether each run had ended before the next began; one that has no end goes on still."""
    now = datetime.now(UTC).isoformat()
    spans = sorted((time_of(run["start_time"]), time_of(run["end_time"] or now)) for run in runs)
    return all(one[1] <= other[0] for one, other in pairwise(spans))


def _due(api: PrefectApi) -> bool:
    """Whether a run goes on or should have begun: of the runs that many landings start, all but one find nothing."""
    states = {"name": {"any_": ["Running", "Pending", "Late", "AwaitingConcurrencySlot", "AwaitingRetry"]}}
    return bool(api.rows("flow_runs/filter", {"flow_runs": {"state": states}, "limit": 1}))


def runs_of(api: PrefectApi, flow: str) -> list[dict[str, Any]]:
    """The flow's runs that have begun."""
    query = {"flows": {"name": {"any_": [flow]}}, "limit": 200, "sort": "START_TIME_ASC"}
    return [run for run in api.rows("flow_runs/filter", query) if run["start_time"]]


def _started(root: Path, task: str) -> dict[str, Any]:
    """The run that a landing's event started, once it runs."""
    found: list[dict[str, Any]] = []

    def look() -> bool:
        found[:] = [run for run in runs_of(api_of(root), "learn") if run["parameters"].get("task") == task]
        return bool(found)

    bench.wait_for(look, PATIENCE_S, f"a run for {task!r} starts", every_s=0.2)
    return found[0]


def _known(root: Path, run: Mapping[str, Any], env: Env = None) -> datetime:
    """Wait for the end of the run that a landing started, see that the champion knows its task; returns when it ended.

    Asked of Prefect's server: a `lorax status` again and again would take from the learner what it costs.
    """
    api, task = api_of(root), run["parameters"]["task"]
    path = f"flow_runs/{run['id']}"
    bench.wait_for(lambda: (api.get(path) or {})["end_time"], PATIENCE_S, f"the run for {task!r} ends", every_s=1)
    ended = api.get(path) or {}
    if task not in bench.status(root, env)["known"]:
        raise SystemExit(f"the run for {task!r} ended ({ended['state_name']}), but the champion does not know it")
    return time_of(ended["end_time"])


def _who(run: Mapping[str, Any]) -> str:
    """What made the run, as Prefect's server has it."""
    made = run["created_by"] or {}
    return f"{made.get('type', '?').lower()} {made.get('display_value', '')!r}"


def _worker(root: Path, run: Mapping[str, Any]) -> str:
    """Which worker took the run, by its own log."""
    query = {"logs": {"flow_run_id": {"any_": [run["id"]]}}, "sort": "TIMESTAMP_ASC", "limit": 200}
    lines = [row["message"] for row in api_of(root).rows("logs/filter", query)]
    taken = next((line for line in lines if "submitting flow run" in line), "nobody says who took it")
    pulled = next((line for line in lines if "checkout" in line), "nothing said of its checkout")
    return f"{taken.split(' submitting')[0]}, {pulled}"


def api_of(root: Path) -> PrefectApi:
    return PrefectApi.of(Workspace(root), load_params(root / "params.yaml"))


def _programs(root: Path) -> list[str]:
    """What the workspace's supervisord keeps alive."""
    config = configparser.RawConfigParser()
    config.read(root / "work/services/supervisord.conf")
    return sorted(name.removeprefix("program:") for name in config.sections() if name.startswith("program:"))


def supervisor(root: Path, *command: str) -> None:
    """Ask the workspace's supervisord for something, such as to stop a server and not to start it again."""
    config = configparser.RawConfigParser()
    config.read(root / "work/services/supervisord.conf")
    address = f"unix://{config['unix_http_server']['file']}"
    subprocess.run([sys.executable, "-m", "supervisor.supervisorctl", "-s", address, *command], check=True)


def time_of(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))
