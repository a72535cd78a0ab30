#!/usr/bin/env bash
# MLflow 3.17.2's client: one call that creates a run, whose answer is lost, creates two; likewise a model version.
#
# Expected: a client that never heard whether its POST was done raises an error, or finds out; urllib3's own rule is to
#   send again only what may be done twice (GET, PUT, DELETE ...), not POST.
# Behaviour: MLflow lets urllib3 send every method again (allowed_methods=None), up to seven times by default. A server (or
#   a proxy before it) that dies between doing and answering, and is back in time, then has two of them: nobody is told, and
#   the run that the caller knows nothing of stays RUNNING for ever.
# Output seen (Python 3.11, 2026-11-28):
#   create_run called once, its answer lost: 2 runs, one of them unknown to the caller
#   create_model_version called once, its answer lost: 2 versions
# Exits 0 while this holds, 1 when it changes.
set -euo pipefail
folder=$(mktemp -d)
pids=()
trap 'for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done; wait; rm -rf "$folder"' EXIT
cd "$folder"
export DO_NOT_TRACK=true MLFLOW_DISABLE_TELEMETRY=true PIP_DISABLE_PIP_VERSION_CHECK=1 no_proxy=127.0.0.1
export MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT=true
python3 -m venv env
env/bin/pip install --quiet 'mlflow==3.17.2'
cat > lossy.py <<'PY'
"""Passes everything on to the server, but loses the first answer to each of two requests."""
import http.server
import socket
import sys
import urllib.error
import urllib.request

lost = {"/runs/create", "/model-versions/create"}


class Front(http.server.BaseHTTPRequestHandler):
    def pass_on(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(sys.argv[2] + self.path, body or None, headers, method=self.command)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                code, said = answer.status, answer.read()
        except urllib.error.HTTPError as error:
            code, said = error.code, error.read()
        for path in [path for path in lost if self.path.endswith(path)]:
            lost.discard(path)
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    do_GET = do_POST = do_PATCH = pass_on

    def log_message(self, *_):
        pass


http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Front).serve_forever()
PY
cat > look.py <<'PY'
import logging
import sys

from mlflow import MlflowClient

logging.getLogger("urllib3").setLevel(logging.ERROR)
front, server = (MlflowClient(uri, registry_uri=uri) for uri in sys.argv[1:])
known = front.create_run("0").info.run_id
runs = [run.info.run_id for run in server.search_runs(["0"])]
unknown = "one of them unknown to the caller" if known in runs else "both unknown to the caller"
print(f"create_run called once, its answer lost: {len(runs)} runs, {unknown}")
front.create_registered_model("m")
front.create_model_version("m", source=f"runs:/{known}/model", run_id=known)
versions = server.search_model_versions("name = 'm'")
print(f"create_model_version called once, its answer lost: {len(versions)} versions")
sys.exit(not (len(runs) == len(versions) == 2))
PY
free() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
behind=$(free)
front=$(free)
env/bin/mlflow server --host 127.0.0.1 --port "$behind" --workers 1 --backend-store-uri "sqlite:///$folder/mlflow.db" \
  --artifacts-destination "$folder/artifacts" > server.log 2>&1 &
pids+=($!)
for _ in $(seq 180); do
  python3 -c 'import sys, urllib.request; urllib.request.urlopen(sys.argv[1])' "http://127.0.0.1:$behind/health" 2>/dev/null && break
  sleep 1
done
python3 lossy.py "$front" "http://127.0.0.1:$behind" &
pids+=($!)
sleep 1
env/bin/python look.py "http://127.0.0.1:$front" "http://127.0.0.1:$behind"
