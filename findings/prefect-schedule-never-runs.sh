#!/usr/bin/env bash
# Prefect 3.8.8 with SQLAlchemy 2.1.9, which its own requirements admit: a deployment's schedule never makes a run.
#
# Expected: a deployment with an active schedule of 10 seconds has flow runs waiting within a minute of its creation, as it
#   has with the same Prefect and SQLAlchemy 2.0.58.
# Behaviour: with 2.1.9 there is none after 100 s. The server answers, its health is good, the deployment shows its schedule
#   as active; only the server's own log tells that its service 'schedule_deployments' fails each time it is due
#   ("InvalidRequestError: Can't evaluate bulk DML statement"). Prefect 3.9.1 makes runs with SQLAlchemy 2.1.9.
# Output seen (Python 3.11, 2026-11-28):
#   SQLAlchemy 2.0.58: runs waiting
#   SQLAlchemy 2.1.9: no run in 100 s; the server's log has "Can't evaluate bulk DML statement"
# Exits 0 while this holds, 1 when it changes.
set -euo pipefail
folder=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill "$server" 2>/dev/null || true; wait; rm -rf "$folder"' EXIT
cd "$folder"
export DO_NOT_TRACK=true PREFECT_SERVER_ANALYTICS_ENABLED=false PIP_DISABLE_PIP_VERSION_CHECK=1
cat > look.py <<'PY'
import datetime
import sys
import time

from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.schedules import IntervalSchedule


@flow
def tick() -> None:
    pass


every = DeploymentScheduleCreate(schedule=IntervalSchedule(interval=datetime.timedelta(seconds=10)), active=True)
with get_client(sync_client=True) as client:
    client.create_deployment(client.create_flow(tick), name="ticking", schedules=[every])
    end = time.monotonic() + 100
    while not (runs := client.read_flow_runs()) and time.monotonic() < end:
        time.sleep(2)
sys.exit(0 if runs else 3)
PY
python3 -m venv env
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
export PREFECT_API_URL="http://127.0.0.1:$port/api"

look() {  # look VERSION: 0 when the schedule made runs, 3 when it made none
  env/bin/pip install --quiet 'prefect==3.8.8' "SQLAlchemy==$1" 'fastapi==0.150.0'
  PREFECT_HOME="$folder/home-$1" env/bin/prefect server start --host 127.0.0.1 --port "$port" > "server-$1.log" 2>&1 &
  server=$!
  for _ in $(seq 120); do
    python3 -c 'import sys, urllib.request; urllib.request.urlopen(sys.argv[1] + "/health")' "$PREFECT_API_URL" 2>/dev/null && break
    sleep 1
  done
  local found=0
  PREFECT_HOME="$folder/home-$1" env/bin/python look.py || found=$?
  kill "$server"; wait "$server" || true
  server=
  return "$found"
}

older=0; look 2.0.58 || older=$?
newer=0; look 2.1.9 || newer=$?
reason=$(grep -c "Can't evaluate bulk DML statement" server-2.1.9.log || true)
[ "$older" = 0 ] && echo "SQLAlchemy 2.0.58: runs waiting" || echo "SQLAlchemy 2.0.58: no run (exit $older)"
[ "$newer" = 3 ] && echo "SQLAlchemy 2.1.9: no run in 100 s; the server's log has \"Can't evaluate bulk DML statement\"" || echo "SQLAlchemy 2.1.9: exit $newer"
[ "$older" = 0 ] && [ "$newer" = 3 ] && [ "$reason" -gt 0 ]
