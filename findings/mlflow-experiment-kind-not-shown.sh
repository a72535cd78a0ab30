#!/usr/bin/env bash
# MLflow 3.17.2: an experiment that is tagged as model training opens among traces of generative AI.
#
# Expected: the tag mlflow.experimentKind, which MLflow's page itself sets when a person says what an experiment is for,
#   decides where a browser that opens the experiment begins: at its runs where it says custom_model_development.
# Behaviour: the page no longer reads it. Since the switch "GenAI / Model training" what counts is the browser's own
#   localStorage (mlflow.workflowType_v1) or workflowType in the address; without either it is GenAI, so each new browser
#   sees "Traces 0" and an invitation to detect issues in traces, and no run.
# Output seen (Python 3.11, Chromium 156, 2026-11-30):
#   the experiment's tag: custom_model_development
#   opened as it is: genai, its run is not shown
#   opened with ?workflowType=machine_learning: its run is shown
# Exits 0 while this holds, 1 when it changes. Needs Chromium.
set -euo pipefail
browser=$(command -v chromium || command -v google-chrome)
folder=$(mktemp -d)
trap '[ -z "${pid:-}" ] || kill "$pid" 2>/dev/null || true; wait; rm -rf "$folder"' EXIT
cd "$folder"
export DO_NOT_TRACK=true MLFLOW_DISABLE_TELEMETRY=true PIP_DISABLE_PIP_VERSION_CHECK=1 no_proxy=127.0.0.1 HOME="$folder"
export MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false
python3 -m venv env
env/bin/pip install --quiet 'mlflow==3.17.2'
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
env/bin/mlflow server --host 127.0.0.1 --port "$port" --workers 1 --backend-store-uri "sqlite:///$folder/mlflow.db" \
  --artifacts-destination "$folder/artifacts" > server.log 2>&1 &
pid=$!
for _ in $(seq 180); do
  python3 -c 'import sys, urllib.request; urllib.request.urlopen(sys.argv[1])' "http://127.0.0.1:$port/health" 2>/dev/null && break
  sleep 1
done
cat > make.py <<'PY'
import sys

from mlflow import MlflowClient

client = MlflowClient(sys.argv[1])
made = client.create_experiment("training", tags={"mlflow.experimentKind": "custom_model_development"})
client.create_run(made, run_name="the-first-training")
print("the experiment's tag:", client.get_experiment(made).tags["mlflow.experimentKind"], file=sys.stderr)
print(made)
PY
made=$(env/bin/python make.py "http://127.0.0.1:$port" 2> told)
grep "the experiment's tag" told | tee seen
look() {  # what a browser that was never here shows of a page, a quarter of a minute after it was opened
  "$browser" --headless --no-sandbox --disable-gpu --no-proxy-server --user-data-dir="$folder/profile-$1" \
    --virtual-time-budget=15000 --timeout=60000 --dump-dom "http://127.0.0.1:$port/#/experiments/$made$2" 2> /dev/null
}
look 1 "" > plain.html
look 2 "/runs?workflowType=machine_learning" > asked.html
is_shown() { grep -q the-first-training "$1" && echo "its run is shown" || echo "its run is not shown"; }
kind=$(grep -o 'workflowType=[a-z_]*' plain.html | head -1 | cut -d= -f2)
echo "opened as it is: ${kind:-trainings}, $(is_shown plain.html)" | tee -a seen
echo "opened with ?workflowType=machine_learning: $(is_shown asked.html)" | tee -a seen
diff seen - <<'SEEN'
the experiment's tag: custom_model_development
opened as it is: genai, its run is not shown
opened with ?workflowType=machine_learning: its run is shown
SEEN
