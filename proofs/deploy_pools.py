"""What deploy/ holds, as a real Prefect server, its workers' own classes and Kubernetes' schemas take it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from proofs import bench

DEPLOY = Path(__file__).parents[1] / "deploy"
PINNED = ("prefect==3.9.1", "prefect-docker==0.7.4", "prefect-kubernetes==0.8.0", "kubernetes-validate==1.37.0")
IMAGE = os.environ.get("LORAX_IMAGE", "registry.example.org/lorax:1")
POOLS = {"docker": "gpu-docker", "kubernetes": "gpu-kubernetes"}

_ENVIRONMENT = {"MLFLOW_TRACKING_URI": "https://mlflow.example.org"}
JOB_VARIABLES: Mapping[str, Mapping[str, Any]] = {
    "docker": {"image": IMAGE, "volumes": ["/srv/models:/models:ro"], "env": _ENVIRONMENT},
    "kubernetes": {"image": IMAGE, "memory_limit": "32Gi", "env": _ENVIRONMENT},
}
"""As docs/how-to/containers.md and docs/how-to/kubernetes.md show them."""

_REPOSITORY = "https://git.example.org/team/detector.git"
_TOKEN = "{{ prefect.blocks.secret.git-token }}"
_CLONE = "prefect.deployments.steps.git_clone"


def prove_pools() -> bool:
    """Both job templates on a real server, what workers make of them, and every manifest by its strict schema."""
    manifests = _manifests()
    with tempfile.TemporaryDirectory(prefix="deploy-") as folder:
        home = Path(folder)
        python = with_workers(home)
        with prefect_server(home) as environment:
            render = Path(__file__).with_name("deploy_render.py")
            run([python, render, "secrets"], home, environment)
            for kind, variables in JOB_VARIABLES.items():
                make_pool(python, home, environment, kind)
                write_deployment(
                    home, kind, variables, "https://git.example.org/team/detector.git", access_token=_TOKEN
                )
                deploy(home, environment)
            asked = {"pools": POOLS, "manifests": [manifest for _, manifest in manifests]}
            (home / "asked.json").write_text(json.dumps(asked))
            run([python, render, home], home, environment)
        rendered = json.loads((home / "rendered.json").read_text())
    checks = [*_docker_checks(rendered["made"]["docker"]), *_kubernetes_checks(rendered["made"]["kubernetes"])]
    schema = f"schema of Kubernetes {rendered['kubernetes']}, strict"
    for (name, manifest), found in zip(manifests, rendered["objections"], strict=True):
        checks.append((f"{name}: {manifest['kind']} {manifest['metadata']['name']}: {schema}", not found, found))
    checks.append(
        (f"the job: {schema}, but for two keys that Prefect itself puts", not rendered["job"], rendered["job"])
    )
    checks.append(("and what the schema says of these", bool(rendered["job_as_it_is"]), rendered["job_as_it_is"]))
    checks.append(("the server keeps no secret in pools and deployments", not rendered["told"], rendered["told"]))
    checks += _dockerfile_checks()
    return told(checks)


Check = tuple[str, bool, object]
"""What is claimed, whether it holds, and what was found."""


def told(checks: Sequence[Check]) -> bool:
    """Print each; whether all hold."""
    for claim, holds, found in checks:
        print(f"  {'ok ' if holds else 'BAD'}  {claim}{f'  ({found})' if found else ''}", flush=True)
    return all(holds for _, holds, _ in checks)


def _manifests() -> list[tuple[str, dict[str, Any]]]:
    paths = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
    return [(path.name, manifest) for path in paths for manifest in yaml.safe_load_all(path.read_text()) if manifest]


def with_workers(home: Path) -> Path:
    """The Python of a fresh environment that has the workers' packages."""
    run([sys.executable, "-m", "venv", home / "venv"], home, {})
    python = home / "venv/bin/python"
    run(
        [python, "-m", "pip", "install", "--quiet", "--constraint", DEPLOY.parent / "constraints.txt", *PINNED],
        home,
        {},
    )
    return python


@contextmanager
def prefect_server(home: Path) -> Iterator[dict[str, str]]:
    """A real server on a free loopback port, with its own home; gives what its clients' environment needs."""
    address = f"http://127.0.0.1:{(port := bench.free_port())}"
    environment = {"PREFECT_HOME": str(home / "prefect"), "PREFECT_API_URL": f"{address}/api", "DO_NOT_TRACK": "true"}
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with running(command, home, {**environment, "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}):
        bench.wait_for(lambda: answers(f"{address}/api/ready"), 120, "Prefect's server")
        yield environment


@contextmanager
def running(command: Sequence[Any], home: Path, environment: Mapping[str, str]) -> Iterator[None]:
    """A program that goes on until the block ends; what it says is added to home/log."""
    with (home / "log").open("a") as log:
        server = subprocess.Popen(command, cwd=home, env={**os.environ, **environment}, stdout=log, stderr=log)
    try:
        yield
    finally:
        server.terminate()
        server.wait(60)


def answers(address: str | urllib.request.Request) -> int:
    """The status that an address answers with; 0 for none."""
    try:
        with urllib.request.urlopen(address, timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def make_pool(python: Path, home: Path, environment: Mapping[str, str], kind: str) -> None:
    """A pool by Prefect's command, from its template."""
    create = ("create", POOLS[kind], "--type", kind, "--base-job-template", DEPLOY / f"pools/{kind}.json")
    run([python, "-m", "prefect", "--no-prompt", "work-pool", *create], home, environment)


def write_deployment(home: Path, kind: str, variables: Mapping[str, Any], repository: str, **secret: str) -> None:
    """prefect.yaml as `lorax init` writes it, with a pool of this kind and the checkout that a container lacks."""
    content = yaml.safe_load((DEPLOY.parent / "prefect.yaml").read_text())
    [part] = content["deployments"]
    part["name"] = kind
    part["pull"] = [{_CLONE: {"repository": repository, "branch": "main", **secret}}]
    pool = part["work_pool"]
    env = {**pool["job_variables"]["env"], **variables["env"]}
    pool.update(name=POOLS[kind], job_variables={**pool["job_variables"], **variables, "env": env})
    (home / "prefect.yaml").write_text(yaml.safe_dump(content))


def deploy(home: Path, environment: Mapping[str, str]) -> None:
    """`prefect deploy --all`, with the flows of this checkout."""
    run([sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"], home, environment)


def run(command: Sequence[Any], home: Path, environment: Mapping[str, str]) -> str:
    """What a command prints that ended well; `environment` is laid over this process's."""
    done = subprocess.run(
        [str(word) for word in command], cwd=home, env={**os.environ, **environment}, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command[1:4]))} failed:\n{(done.stdout + done.stderr)[-3000:]}")
    return done.stdout


def _docker_checks(made: Mapping[str, Any]) -> list[Check]:
    kwargs, env = made["container_create_kwargs"], made["env"]
    gpus = [{"count": -1, "capabilities": [["gpu"]]}]
    return [
        ("docker: the image", made["image"] == IMAGE, made["image"]),
        ("docker: the command runs the flow", made["command"] == _FLOW_RUN, made["command"]),
        ("docker: all GPUs", kwargs["device_requests"] == gpus, kwargs["device_requests"]),
        ("docker: shared memory", kwargs["shm_size"] == "2g", kwargs["shm_size"]),
        ("docker: no capabilities", kwargs["cap_drop"] == ["ALL"], ""),
        ("docker: volumes", made["volumes"] == ["/srv/models:/models:ro"], made["volumes"]),
        ("docker: secrets from Prefect's blocks", env["AWS_SECRET_ACCESS_KEY"] == "the s3-secret", ""),
        ("docker: settings of prefect.yaml beside them", _has_settings(env), ""),
        ("docker: the run and the server", bool(env["PREFECT__FLOW_RUN_ID"]) and bool(env["PREFECT_API_URL"]), ""),
    ]


def _kubernetes_checks(made: Mapping[str, Any]) -> list[Check]:
    pod = made["job_manifest"]["spec"]["template"]["spec"]
    [container] = pod["containers"]
    env = {one["name"]: one["value"] for one in container["env"]}
    limits, sources = container["resources"]["limits"], container["envFrom"]
    memory = {volume["name"]: volume["emptyDir"] for volume in pod["volumes"]}["shm"]
    return [
        ("kubernetes: the image", container["image"] == IMAGE, container["image"]),
        ("kubernetes: the command runs the flow", container["args"] == _FLOW_RUN.split(), container["args"]),
        ("kubernetes: a GPU, and the deployment's memory", limits == {"memory": "32Gi", "nvidia.com/gpu": 1}, limits),
        ("kubernetes: secrets", {"secretRef": {"name": "lorax-worker"}} in sources, sources),
        ("kubernetes: no secret in the job", "AWS_SECRET_ACCESS_KEY" not in env, ""),
        ("kubernetes: shared memory", memory == {"medium": "Memory", "sizeLimit": "2Gi"}, memory),
        ("kubernetes: settings of prefect.yaml", _has_settings(env), ""),
        ("kubernetes: the run and the server", bool(env["PREFECT__FLOW_RUN_ID"]) and bool(env["PREFECT_API_URL"]), ""),
    ]


_FLOW_RUN = "prefect flow-run execute"


def _has_settings(env: Mapping[str, str]) -> bool:
    return env["LORAX_SERVICE"] == "flow" and env["MLFLOW_TRACKING_URI"] == "https://mlflow.example.org"


def _dockerfile_checks() -> list[Check]:
    """What can be told of it without an engine: it is whole, has a user that is a number, and the pinned worker."""
    text = re.sub(r"(?m)^\s*#.*\n", "", (DEPLOY / "Dockerfile").read_text()).replace("\\\n", " ")
    steps = [line.split(maxsplit=1) for line in text.splitlines() if line.strip()]
    known = {"FROM", "RUN", "ARG", "COPY", "USER", "WORKDIR", "ENV", "CMD"}
    users = [step[1] for step in steps if step[0] == "USER"]
    return [
        ("Dockerfile: instructions that there are", steps[0][0] == "FROM" and {step[0] for step in steps} <= known, ""),
        ("Dockerfile: not root, by number", users == ["1000"], users),
        ("Dockerfile: the worker as pinned here", f" {PINNED[2]}" in text, PINNED[2]),
    ]
