#!/usr/bin/env bash
# prefect-kubernetes 0.8.0 (Prefect 3.9.1): a job template must have `completions` and `parallelism` where Kubernetes does not know them.
#
# Expected: the default job template of a Kubernetes pool is a Job that a strict schema check takes, and one without the two fields, whose
#   defaults are 1 anyway, is as good.
# Behaviour: the default has them in the pod's spec, which has no such fields, so a strict check of the manifest fails. Without them
#   the template is refused: the worker asks for them at /spec/template/spec. So no template can please both.
# Output seen (Python 3.11, prefect 3.9.1, prefect-kubernetes 0.8.0, 2026-11-30):
#   in the default's Job: [], in its pod: ['completions', 'parallelism']
#   known to a Job: ['completions', 'parallelism'], to a pod: []
#   default: taken; without: refused, missing /spec/template/spec/completions and /spec/template/spec/parallelism
# Exits 0 while this holds, 1 when it changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
export DO_NOT_TRACK=true PREFECT_HOME="$folder/prefect" PIP_DISABLE_PIP_VERSION_CHECK=1
python3 -m venv env
env/bin/pip install --quiet 'prefect==3.9.1' 'prefect-kubernetes==0.8.0'
cat > template.py <<'PY'
import copy
import re
import sys

from kubernetes_asyncio.client import V1JobSpec, V1PodSpec
from prefect_kubernetes.worker import KubernetesWorker, KubernetesWorkerJobConfiguration

FIELDS = ("completions", "parallelism")
default = KubernetesWorker.get_default_base_job_template()["job_configuration"]["job_manifest"]
default["metadata"] |= {"labels": {}, "annotations": {}}  # what a deployment fills in
without = copy.deepcopy(default)
for field in FIELDS:
    without["spec"]["template"]["spec"].pop(field, None)


def said(manifest: dict) -> str:
    try:
        KubernetesWorkerJobConfiguration(job_manifest=manifest, namespace="default", stream_output=True)
    except ValueError as error:
        missing = sorted(set(re.findall(r"/spec/[\w/]+", str(error))))
        return "refused, missing " + " and ".join(missing)
    return "taken"


where = [[field for field in FIELDS if field in part] for part in (default["spec"], default["spec"]["template"]["spec"])]
known = [[field for field in FIELDS if field in kind.openapi_types] for kind in (V1JobSpec, V1PodSpec)]
print(f"in the default's Job: {where[0]}, in its pod: {where[1]}")
print(f"known to a Job: {known[0]}, to a pod: {known[1]}")
answers = said(default), said(without)
print(f"default: {answers[0]}; without: {answers[1]}")
as_seen = where == [[], list(FIELDS)] and known == [list(FIELDS), []]
sys.exit(not (as_seen and answers[0] == "taken" and answers[1].startswith("refused, missing /spec/template/spec/")))
PY
env/bin/python template.py
