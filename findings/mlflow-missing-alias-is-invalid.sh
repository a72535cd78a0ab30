#!/usr/bin/env bash
# MLflow 3.17.2: a registered model that lacks an alias answers INVALID_PARAMETER_VALUE, where all else that is missing answers
# RESOURCE_DOES_NOT_EXIST.
#
# Expected: who asks for the version behind an alias that nobody has set yet is told what is told of a model, a version or
#   a run that isn't there (RESOURCE_DOES_NOT_EXIST, over HTTP 404), so that one "not found" clause serves for all of them.
# Behaviour: the name of the alias counts as a wrong parameter (over HTTP 400), as a letter that no name may have does. Code
#   that goes on without a champion where none is there raises instead, and only the message tells the two apart.
# Output seen (Python 3.11, 2026-11-29):
#   no such model: RESOURCE_DOES_NOT_EXIST
#   no such version: RESOURCE_DOES_NOT_EXIST
#   no such alias: INVALID_PARAMETER_VALUE
#   a name that no alias may have: INVALID_PARAMETER_VALUE
# Exits 0 while this holds, 1 when it changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
export DO_NOT_TRACK=true MLFLOW_DISABLE_TELEMETRY=true PIP_DISABLE_PIP_VERSION_CHECK=1
python3 -m venv env
env/bin/pip install --quiet 'mlflow==3.17.2'
cat > ask.py <<'PY'
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

client = MlflowClient("sqlite:///registry.db")
client.create_registered_model("detector")
client.create_model_version("detector", "models")
asked = {
    "no such model": lambda: client.get_registered_model("other"),
    "no such version": lambda: client.get_model_version("detector", "7"),
    "no such alias": lambda: client.get_model_version_by_alias("detector", "champion"),
    "a name that no alias may have": lambda: client.get_model_version_by_alias("detector", "a b"),
}
for what, ask in asked.items():
    try:
        ask()
    except MlflowException as error:
        print(f"{what}: {error.error_code}")
PY
env/bin/python ask.py 2> log | tee seen || { cat log; exit 1; }
diff seen - <<'SEEN'
no such model: RESOURCE_DOES_NOT_EXIST
no such version: RESOURCE_DOES_NOT_EXIST
no such alias: INVALID_PARAMETER_VALUE
a name that no alias may have: INVALID_PARAMETER_VALUE
SEEN
