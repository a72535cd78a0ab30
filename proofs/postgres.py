"""A PostgreSQL server of Debian's package on a free loopback port, for as long as a `with` block lasts.

    with postgres() as server:
        url = server.url("mlflow")    # postgresql://lorax:...@127.0.0.1:.../mlflow; the database is made

`apt-get install postgresql` brings it; the clusters that the package makes are left alone.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HOST = "127.0.0.1"
USER = "lorax"
PATIENCE_S = 120.0


@dataclass(frozen=True)
class Postgres:
    """A running server; `command` has its programs' folder, `pid` is its own."""

    programs: Path
    port: int
    password: str
    pid: int

    def url(self, database: str, driver: str = "") -> str:
        """The address of `database`, made if it is not there; `driver` as in `postgresql+asyncpg`."""
        if self.query(f"SELECT 1 FROM pg_database WHERE datname = '{database}'") != "1":
            self.query(f'CREATE DATABASE "{database}"')
        return f"postgresql{driver and '+' + driver}://{USER}:{self.password}@{HOST}:{self.port}/{database}"

    def query(self, sql: str, database: str = "postgres") -> str:
        """What psql prints for `sql`, bare."""
        options = ("--host", HOST, "--port", str(self.port), "--username", USER, "--dbname", database)
        quiet = ("--no-psqlrc", "--tuples-only", "--no-align", "--quiet")
        command = [self.programs / "psql", *options, *quiet, "--command", sql]
        environment = {**os.environ, "PGPASSWORD": self.password}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"PostgreSQL refused {sql!r}: {done.stderr.strip()}")
        return done.stdout.strip()


@contextmanager
def postgres(folder: Path | None = None) -> Iterator[Postgres]:
    """Start a fresh server and stop it at the end.

    Args:
        folder: gets the data and the log, and must not exist; a temporary one if None. PostgreSQL refuses root, so
            for root it is run as user `postgres` or `nobody`, who must be able to reach the folder.
    """
    programs, own = _programs(), folder is None
    home = (Path(tempfile.mkdtemp(prefix="postgres-")) if folder is None else folder).resolve()
    home.mkdir(parents=True, exist_ok=own)
    try:
        identity = _identity(home)
        password = secrets.token_urlsafe(12)
        _initialize(programs, home, identity, password)
        process, port = _start(programs, home, identity)
        try:
            server = Postgres(programs, port, password, process.pid)
            _wait(process, port, home / "log")
            yield server
        finally:
            process.send_signal(signal.SIGINT)  # "fast" shutdown: clients are sent away, nothing is lost
            process.wait(PATIENCE_S)
    finally:
        if own:
            shutil.rmtree(home, ignore_errors=True)


def _programs() -> Path:
    """The newest version's programs."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: float(path.parts[-3]))
    if not found:
        raise SystemExit(
            "PostgreSQL is not installed: expected /usr/lib/postgresql/*/bin/postgres. "
            "On Debian or Ubuntu: apt-get install postgresql"
        )
    return found[-1].parent


def _identity(home: Path) -> dict[str, Any]:
    """As whom PostgreSQL is to run, as subprocess wants it; makes `home` that user's."""
    if os.getuid() != 0:
        return {}
    names = {entry.pw_name: entry for entry in pwd.getpwall()}
    user = names.get("postgres") or names["nobody"]
    os.chown(home, user.pw_uid, user.pw_gid)
    identity: dict[str, Any] = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    if subprocess.run(["test", "-w", str(home)], **identity).returncode:
        raise SystemExit(
            f"user {user.pw_name!r}, as whom PostgreSQL runs since it refuses root, can't reach {home}. "
            "Give a folder whose parents everybody may enter, or none for a temporary one."
        )
    return identity


def _initialize(programs: Path, home: Path, identity: dict[str, Any], password: str) -> None:
    secret = home / "password"
    secret.touch(mode=0o600)
    secret.write_text(password)
    if identity:
        os.chown(secret, identity["user"], identity["group"])
    settings = ("--username", USER, "--auth", "scram-sha-256", "--pwfile", str(secret), "--encoding", "UTF8")
    command = [str(programs / "initdb"), "--pgdata", str(home / "data"), *settings, "--locale", "C.UTF-8", "--no-sync"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=home, **identity)
    secret.unlink()
    if done.returncode:
        raise SystemExit(f"PostgreSQL's initdb failed in {home}: {done.stdout}{done.stderr}")


def _start(programs: Path, home: Path, identity: dict[str, Any]) -> tuple[subprocess.Popen[bytes], int]:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = int(probe.getsockname()[1])
    settings = (
        "-c",
        f"listen_addresses={HOST}",
        "-c",
        "unix_socket_directories=",
        "-c",
        "fsync=off",
    )  # thrown away soon
    command = [str(programs / "postgres"), "-D", str(home / "data"), "-p", str(port), *settings]
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=home,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C is for us; we stop it
            **identity,
        )
    return process, port


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while "ready to accept connections" not in log.read_text(errors="replace"):
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"PostgreSQL did not start on port {port}: {log.read_text(errors='replace').strip()}")
        time.sleep(0.1)


if __name__ == "__main__":
    with postgres() as tried:
        print(tried.query("SELECT version()"))
        print(tried.url("mlflow").replace(tried.password, "***"))
