"""The image of deploy/Dockerfile in a real engine: what the manifests start, and a run of Prefect's Docker pool."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from proofs import bench
from proofs import deploy_pools as deploy

_PATIENCE_S = 300.0


def prove_docker() -> bool:
    """Both servers and `lorax serve` as the manifests start them, and an episode in a container of the Docker pool."""
    with tempfile.TemporaryDirectory(prefix="deploy-") as folder:
        home = Path(folder)
        home.chmod(0o777)  # containers run as another user
        with _servers(home) as environment:
            root = _workspace(home)
            passed = deploy.told(_episode(home, root, environment))
            _open(home)
            passed &= deploy.told(_served(home, environment))
        _open(home)  # what containers wrote belongs to their user
    return passed


def _workspace(home: Path) -> Path:
    """One with a tiny task that has landed; everything that it shares lies below `home`."""
    root = bench.new_workspace(home, "workspace", tiny=True, remote=home / "store")
    bench.share(root, home / "upstream")
    bench.land_tiny(root, "first")
    return root


def _episode(home: Path, root: Path, environment: Mapping[str, str]) -> list[deploy.Check]:
    """A run of the deployment, by Prefect's Docker worker."""
    python = deploy.with_workers(home)
    variables = {
        "image": deploy.IMAGE,
        # a worker hands its own settings on, and the home of this proof's clients is not the container's to write
        "env": {"MLFLOW_TRACKING_URI": environment["MLFLOW_TRACKING_URI"], "PREFECT_HOME": "/tmp/prefect"},
        "volumes": [f"{home}:{home}"],
        "device_requests": [],
    }
    _open(home)
    deploy.run([python, Path(__file__).with_name("deploy_render.py"), "secrets"], home, environment)
    deploy.make_pool(python, home, environment, "docker")
    deploy.write_deployment(home, "docker", variables, str(home / "upstream"))
    deploy.deploy(home, environment)
    worker = ["worker", "start", "--pool", deploy.POOLS["docker"], "--type", "docker", "--limit", "1"]
    start = ["deployment", "run", "learn/docker", "--watch", "--watch-timeout", "600"]
    with deploy.running([python, "-m", "prefect", *worker], home, environment):
        said = deploy.run([sys.executable, "-m", "prefect", *start], home, environment)
    champion = bench.status(root, environment)["champion"]
    return [
        ("the Docker pool's run completed", "in 'Completed'" in said, said[-300:].split("\n")[-2]),
        (
            "and its container made the champion",
            bool(champion) and champion["tasks"] == ["first"],
            champion and champion["version"],
        ),
        ("in a checkout of its own", not list((root / "work").glob("episodes/*")), ""),
    ]


def _served(home: Path, environment: Mapping[str, str]) -> list[deploy.Check]:
    """`lorax serve` as serve.yaml has it: ready, asks for the token, judges, drains."""
    port, token = bench.free_port(), secrets.token_hex(8)
    secret = {"LORAX_TOKEN": token, "LORAX_REPOSITORY": str(home / "upstream")}
    address = f"http://127.0.0.1:{port}"
    image = next((home / "raw").rglob("*.png"))
    with _started(home, "serve.yaml", "lorax-serve", port, {**environment, **secret}) as name:
        bench.wait_for(lambda: deploy.answers(f"{address}/health") == 200, _PATIENCE_S, "lorax serve")
        refused, judged = _ask(address, image, ""), _ask(address, image, token)
        began = time.monotonic()
        _docker("kill", "--signal", "TERM", name)
        bench.wait_for(lambda: deploy.answers(f"{address}/health") == 503, 3, "/health says 503", 0.05)
        draining = _ask(address, image, token)
        code = _docker("wait", name)
        took_s = time.monotonic() - began
    return [
        ("lorax serve: 401 without the token", refused == 401, refused),
        ("lorax serve: a verdict with it", judged == 200, judged),
        ("lorax serve: SIGTERM: /health 503, and a verdict all the same", draining == 200, draining),
        ("lorax serve: it ends by itself, with 0", code == "0" and took_s < 60, f"{took_s:.1f} s, exit code {code}"),
    ]


def _ask(address: str, image: Path, token: str) -> int:
    data = b'name="a"; filename="a.png"\r\n\r\n' + image.read_bytes()
    body = b"--edge\r\nContent-Disposition: form-data; " + data + b"\r\n--edge--\r\n"
    headers = {"Content-Type": "multipart/form-data; boundary=edge", "Authorization": f"Bearer {token}"}
    request = urllib.request.Request(f"{address}/v1/verdicts", body, headers)
    return deploy.answers(request)


@contextmanager
def _servers(home: Path) -> Iterator[dict[str, str]]:
    """Prefect's and MLflow's server as servers.yaml has them; gives what their clients' environment needs."""
    ports = {"prefect-server": bench.free_port(), "mlflow-server": bench.free_port()}
    auth = f"admin:{secrets.token_hex(8)}"
    api, mlflow = (f"http://127.0.0.1:{port}" for port in ports.values())
    with (
        _started(
            home, "servers.yaml", "prefect-server", ports["prefect-server"], {"PREFECT_SERVER_API_AUTH_STRING": auth}
        ),
        _started(home, "servers.yaml", "mlflow-server", ports["mlflow-server"], {}),
    ):
        bench.wait_for(lambda: deploy.answers(f"{api}/api/ready") == 200, _PATIENCE_S, "Prefect's server")
        bench.wait_for(lambda: deploy.answers(f"{mlflow}/health") == 200, _PATIENCE_S, "MLflow's server")
        if deploy.answers(f"{api}/api/flows/name/learn") != 401:
            raise SystemExit("Prefect's server answers without its password")
        clients = {"PREFECT_API_URL": f"{api}/api", "PREFECT_API_AUTH_STRING": auth, "MLFLOW_TRACKING_URI": mlflow}
        yield {**clients, "PREFECT_HOME": str(home / "prefect")}


@contextmanager
def _started(home: Path, file: str, deployment: str, port: int, environment: Mapping[str, str]) -> Iterator[str]:
    """A Deployment's containers, init containers first, in Docker under the same restrictions; on a loopback port."""
    manifests = [*_of("config.yaml"), *_of(file)]
    pod = next(m for m in manifests if m["kind"] == "Deployment" and m["metadata"]["name"] == deployment)["spec"][
        "template"
    ]["spec"]
    settings = {m["metadata"]["name"]: m["data"] for m in manifests if m["kind"] == "ConfigMap"}
    folders = {v["name"]: _folder(home, deployment, v["name"]) for v in pod["volumes"]}
    name = f"lorax-proof-{deployment}-{port}"
    for container in (*pod.get("initContainers", ()), *pod["containers"]):
        is_last = container is pod["containers"][-1]
        env = _variables(container, settings) | dict(environment)
        options = [*_restrictions(pod, container), *_mounts(home, container, folders), "--network", "host"]
        options += [f"--env={key}={value}" for key, value in env.items()]
        arguments = [_argument(word, env, port, container) for word in container["args"]]
        wait = ["--detach", "--name", name] if is_last else ["--rm"]
        _docker("run", *wait, *options, deploy.IMAGE, *arguments)
    try:
        yield name
    except SystemExit as end:
        log = subprocess.run(["docker", "logs", "--tail", "20", name], capture_output=True, text=True)
        raise SystemExit(f"{end}\n{deployment} said:\n{log.stdout}{log.stderr}") from end
    finally:
        _docker("rm", "--force", name)


def _of(file: str) -> list[dict[str, Any]]:
    return [one for one in yaml.safe_load_all((deploy.DEPLOY / "kubernetes" / file).read_text()) if one]


def _variables(container: Mapping[str, Any], settings: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """Of the ConfigMaps, and of its own; secrets come from the proof."""
    maps = [one["configMapRef"]["name"] for one in container.get("envFrom", ()) if "configMapRef" in one]
    shared = {key: value for name in maps for key, value in settings[name].items()}
    return {**shared, **{one["name"]: one["value"] for one in container.get("env", ())}}


def _argument(word: str, env: Mapping[str, str], port: int, container: Mapping[str, Any]) -> str:
    """As Kubernetes fills in variables; the port and host are this machine's."""
    for key, value in env.items():
        word = word.replace(f"$({key})", value)
    ports = {str(one["containerPort"]) for one in container.get("ports", ())}
    return {"0.0.0.0": "127.0.0.1", **dict.fromkeys(ports, str(port))}.get(word, word)


def _restrictions(pod: Mapping[str, Any], container: Mapping[str, Any]) -> list[str]:
    user, own = pod["securityContext"], container["securityContext"]
    options = [
        "--user",
        f"{user['runAsUser']}:{user['fsGroup']}",
        *(f"--cap-drop={one}" for one in own["capabilities"]["drop"]),
    ]
    options += ["--read-only"] if own["readOnlyRootFilesystem"] else []
    options += [] if own["allowPrivilegeEscalation"] else ["--security-opt=no-new-privileges"]
    return [*options, *(("--workdir", container["workingDir"]) if "workingDir" in container else ())]


def _mounts(home: Path, container: Mapping[str, Any], folders: Mapping[str, Path]) -> list[str]:
    own = [f"--volume={folders[one['name']]}:{one['mountPath']}" for one in container["volumeMounts"]]
    return [*own, f"--volume={home}:{home}:ro"]


def _folder(home: Path, deployment: str, volume: str) -> Path:
    folder = home / "volumes" / deployment / volume
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    return folder


def _open(home: Path) -> None:
    """Let the containers' user in, as a group of a claim; for git the upstream has to be its own."""
    commands = f"chmod -R a+rwX {home}; test ! -d {home}/upstream || chown -R 1000 {home}/upstream"
    _docker("run", "--rm", "--user", "0", f"--volume={home}:{home}", deploy.IMAGE, "sh", "-c", commands)


def _docker(*arguments: str) -> str:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, env=os.environ)
    if done.returncode:
        raise SystemExit(f"docker {arguments[0]} failed: {done.stderr.strip()[-2000:]}")
    return done.stdout.strip()
