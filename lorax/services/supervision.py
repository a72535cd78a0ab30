"""supervisord as a daemon of one folder: its configuration, its control socket, and its end.

The folder holds supervisord.conf (generated), its pid file and logs/. The control socket lies in a short folder of its
own below the temporary directory, because a unix socket's path must be shorter than about 107 characters. That folder
is also where all that run under supervisord keep their temporary files: what a killed one leaves goes with it.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from lorax.errors import ServiceError
from lorax.services import configuration, orphans
from lorax.services.configuration import Program
from lorax.services.orphans import FOLDER_VARIABLE

PATIENCE_S = 30.0


@dataclass(frozen=True)
class State:
    """A program as supervisord sees it. Source: supervisor's manual, "Process states"."""

    name: str
    pid: int

    @property
    def is_running(self) -> bool:
        return self.name in ("STARTING", "RUNNING")

    @property
    def has_failed(self) -> bool:
        return self.name in ("BACKOFF", "FATAL", "EXITED", "UNKNOWN")


GONE = State("STOPPED", 0)


def processes(folder: Path) -> dict[str, State]:
    """The programs of `folder`'s supervisord by name; empty when it does not run."""
    try:
        with _control(folder) as supervisor:
            return {info["name"]: State(info["statename"], info["pid"]) for info in supervisor.getAllProcessInfo()}
    except _NotRunningError:
        return {}


def apply(
    folder: Path, programs: Iterable[Program], environment: Mapping[str, str], unwanted: Iterable[str] = ()
) -> None:
    """Have supervisord keep `programs` alive; those that already run as asked are left alone, others are kept.

    Args:
        folder: where the configuration, the pid file and the logs lie.
        programs: those wanted now.
        environment: what a fresh supervisord and all below it run in.
        unwanted: names of programs to stop, if they run.

    Raises:
        ServiceError: supervisord refuses its configuration, does not answer, or was started with other addresses.
    """
    config, programs = configuration.read_config(folder), tuple(programs)
    is_fresh = not processes(folder)
    if is_fresh:
        config = configuration.base_config(folder)
    else:
        _check_values(folder, programs, environment)
    for program in programs:
        config[f"program:{program.name}"] = configuration.section(program)
    for name in unwanted:
        config.remove_section(f"program:{name}")
    configuration.write_config(folder, config)
    if is_fresh:
        _launch(folder, environment)
    else:
        _update(folder)


def _check_values(folder: Path, programs: Iterable[Program], environment: Mapping[str, str]) -> None:
    """Make sure that the supervisord that runs has the values that `programs` would get from a fresh one."""
    wanted = {name: environment.get(name) for program in programs for name in program.environment.values()}
    with _control(folder) as supervisor:
        has = psutil.Process(supervisor.getPID()).environ()
    if wanted != {name: has.get(name) for name in wanted}:
        raise ServiceError(
            "the addresses of the servers (PREFECT_API_URL, MLFLOW_TRACKING_URI) are others than when they were "
            "started. Run 'lorax down', then 'lorax up'."
        )


def stop_programs(folder: Path, names: Iterable[str]) -> None:
    """Stop some programs, until the next `apply`; fine when they do not run."""
    running = {name for name, state in processes(folder).items() if state.is_running}
    with suppress(_NotRunningError), _control(folder) as supervisor:
        for name in running.intersection(names):
            supervisor.stopProcess(name)


def stop(folder: Path) -> None:
    """End `folder`'s supervisord with all below it, and whatever a killed one left behind.

    Raises:
        ServiceError: a process can't be ended.
    """
    mark = str(folder)
    supervisors = [p for p in orphans.find(mark) if p.pid == _read_pid(folder)]
    orphans.stop(supervisors, patience_s=PATIENCE_S)  # it ends its programs in an orderly way
    orphans.stop_all(mark)
    left = orphans.find(mark)
    if left:
        raise ServiceError(f"processes {[p.pid for p in left]} of {folder} do not end; end them by hand.")
    (folder / "supervisord.pid").unlink(missing_ok=True)
    shutil.rmtree(configuration.socket_path(folder).parent, ignore_errors=True)


def check_port(host: str, port: int, whose: str, params_key: str) -> None:
    """Make sure that nobody listens on `port`.

    Raises:
        ServiceError: somebody does.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ServiceError(
                f"{whose} port {port} on {host} can't be used: {error.strerror}. Another program (perhaps another "
                f"workspace's server) holds it: stop that, or set {params_key} in params.yaml to a free port."
            ) from error


def log_path(folder: Path, name: str) -> Path:
    """Where the program's output is kept (the older parts beside it, numbered)."""
    return folder / "logs" / f"{name}.log"


def last_words(folder: Path, name: str, lines: int = 12) -> str:
    """The end of a program's log, and where to read the rest; of supervisord's own, where it could not start it."""
    path = log_path(folder, name)
    text = path.read_text(errors="replace") if path.is_file() else ""
    if not text and name != "supervisord":
        return last_words(folder, "supervisord", lines)
    tail = "\n".join(f"  {line}" for line in text.rstrip().splitlines()[-lines:])
    return f"Its log {path} ends with:\n{tail}" if tail else f"Its log {path} is empty."


class _NotRunningError(Exception):
    """No supervisord answers for this folder."""


@contextmanager
def _control(folder: Path) -> Any:
    """supervisord's own remote interface (XML-RPC over the unix socket)."""
    import http.client
    import xmlrpc.client

    from supervisor.xmlrpc import SupervisorTransport

    path = configuration.socket_path(folder)
    transport = SupervisorTransport(None, None, f"unix://{path}")
    try:
        if not path.exists():
            raise _NotRunningError
        yield xmlrpc.client.ServerProxy(f"http://{folder.name}", transport=transport).supervisor
    except xmlrpc.client.Fault as error:
        raise ServiceError(f"supervisord of {folder} refused: {error.faultString}. Try 'lorax down'.") from error
    except (OSError, http.client.HTTPException) as error:
        raise _NotRunningError from error
    finally:
        transport.close()


def _update(folder: Path) -> None:
    """Let a running supervisord take over the changed configuration, and start again what it gave up on."""
    with _control(folder) as supervisor:
        added, changed, removed = supervisor.reloadConfig()[0]
        for name in (*changed, *removed):
            supervisor.stopProcessGroup(name)
            supervisor.removeProcessGroup(name)
        for name in (*added, *changed):
            supervisor.addProcessGroup(name)
        for info in supervisor.getAllProcessInfo():
            if info["statename"] in ("STOPPED", "EXITED", "FATAL"):
                supervisor.startProcess(info["name"], False)


def _launch(folder: Path, environment: Mapping[str, str]) -> None:
    """Start supervisord as a daemon and wait for its socket."""
    (folder / "logs").mkdir(exist_ok=True)
    own = configuration.socket_path(folder).parent
    _make_own_dir(own)
    command = [sys.executable, "-P", "-m", "supervisor.supervisord", "-c", "supervisord.conf"]
    marked = {**environment, FOLDER_VARIABLE: str(folder), "TMPDIR": str(own)}
    done = subprocess.run(command, cwd=folder, env=marked, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        raise ServiceError(f"supervisord did not start in {folder}: {(done.stdout + done.stderr).strip()}")
    deadline = time.monotonic() + PATIENCE_S
    while not processes(folder):
        if time.monotonic() > deadline:
            raise ServiceError(f"supervisord of {folder} does not answer. {last_words(folder, 'supervisord')}")
        time.sleep(0.05)


def _make_own_dir(path: Path) -> None:
    """Only for us: whoever can write to the socket can run programs as us."""
    path.mkdir(mode=0o700, exist_ok=True)
    if path.is_symlink() or path.stat().st_uid != os.getuid():
        raise ServiceError(f"{path} belongs to somebody else. Remove it, or set TMPDIR to a folder of yours.")
    path.chmod(0o700)


def _read_pid(folder: Path) -> int | None:
    path = folder / "supervisord.pid"
    text = path.read_text().strip() if path.is_file() else ""
    return int(text) if text.isdigit() else None
