#!/usr/bin/env bash
# MLflow 3.17.2's server, killed while it makes its SQLite database, can never be started again.
#
# Expected: SQLite undoes what was not committed, so the next start makes the database anew, or goes on with it.
# Behaviour: the tables are made by some forty migrations, each of whose steps is committed by itself while the version
#   that is noted lags behind. The next start begins again at the noted version, finds a column or table that it is about
#   to make, and ends. So does every later one; the message names neither the cause nor the cure (removing the file).
# Output seen (Python 3.11, 2026-11-28; which column or table it is depends on the moment):
#   killed at 118784 bytes; next start: exit 1, ... already exists
#   and once more: exit 1, ... already exists
# Exits 0 while this holds, 1 when it changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
export DO_NOT_TRACK=true MLFLOW_DISABLE_TELEMETRY=true PIP_DISABLE_PIP_VERSION_CHECK=1 TMPDIR=$folder
export MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false MLFLOW_WORKERS=1 no_proxy=127.0.0.1
python3 -m venv env
env/bin/pip install --quiet 'mlflow==3.17.2'
cat > killed.py <<'PY'
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
import urllib.request

database = pathlib.Path("mlflow.db")
with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = str(free.getsockname()[1])
command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", "sqlite:///mlflow.db", "--port", port]


def start():
    return subprocess.Popen(command, start_new_session=True, stdout=log, stderr=subprocess.STDOUT)


def end(server):
    if server.poll() is None:
        os.killpg(server.pid, signal.SIGKILL)
    return server.wait()


def answers():
    try:
        return urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).status == 200
    except OSError:
        return False


with open("log", "wb") as log:
    first = start()
    while not database.exists() or database.stat().st_size < 100_000:
        time.sleep(0.01)
    end(first)
print(f"killed at {database.stat().st_size} bytes", end="; ")
stuck = []
for said in ("next start", "and once more"):
    with open("log", "wb") as log:
        server, deadline = start(), time.monotonic() + 120
        while server.poll() is None and not answers() and time.monotonic() < deadline:
            time.sleep(0.5)
        code = server.poll()
        end(server)
    errors = [line for line in pathlib.Path("log").read_text().splitlines() if "already exists" in line or "duplicate" in line]
    print(f"{said}: {f'exit {code}' if code is not None else 'it runs'}, {errors[-1][-60:] if errors else 'no error'}")
    stuck.append(bool(code) and bool(errors))
sys.exit(not all(stuck))
PY
env/bin/python killed.py
