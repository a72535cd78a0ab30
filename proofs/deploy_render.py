"""What Prefect's own workers make of a run, and Kubernetes' schemas of manifests; `deploy_pools` runs this.

`python deploy_render.py secrets` saves the blocks that the templates name. `python deploy_render.py FOLDER` reads
FOLDER/asked.json (the pools' names, manifests), makes a run of each pool's deployment on the server that
PREFECT_API_URL names, and writes FOLDER/rendered.json.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
from prefect.blocks.system import Secret
from prefect.client.orchestration import get_client
from prefect_docker.worker import DockerWorkerJobConfiguration
from prefect_kubernetes.worker import KubernetesWorkerJobConfiguration

WORKERS = {"docker": DockerWorkerJobConfiguration, "kubernetes": KubernetesWorkerJobConfiguration}


async def save_secrets() -> None:
    """Blocks with values that are found again wherever they are told."""
    for name in ("s3-key", "s3-secret", "git-token"):
        await Secret(value=f"the {name}").save(name, overwrite=True)


async def told(pools: dict[str, str]) -> list[str]:
    """The secrets that the server has in what it keeps of pools and deployments."""
    async with get_client() as client:
        kept = [await client.read_work_pool(pool) for pool in pools.values()]
        kept += [await client.read_deployment_by_name(f"learn/{kind}") for kind in pools]
    text = "".join(one.model_dump_json() for one in kept)
    return [value for value in ("the s3-key", "the s3-secret", "the git-token") if value in text]


async def configurations(pools: dict[str, str]) -> dict[str, Any]:
    """Each pool's configuration of a run of its deployment, as its worker prepares it: pool's type -> what it holds."""
    made: dict[str, Any] = {}
    async with get_client() as client:
        for kind, pool in pools.items():
            deployment = await client.read_deployment_by_name(f"learn/{kind}")
            run = await client.create_flow_run_from_deployment(deployment.id)
            configuration = await WORKERS[kind].resolve_for_flow_run(
                run,
                client=client,
                work_pool=await client.read_work_pool(pool),
                worker_name="proof",
                deployment=deployment,
            )
            made[kind] = configuration.model_dump(mode="json")
            await client.delete_flow_run(run.id)
    return made


def objections(manifest: dict[str, Any], version: str) -> str:
    """What the strict schema of this version of Kubernetes objects to; '' for nothing."""
    try:
        kubernetes_validate.validate(manifest, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        return f"{'.'.join(map(str, error.path))}: {error.message}"
    return ""


def main(folder: Path) -> None:
    """Read what is asked, write what came of it."""
    asked = json.loads((folder / "asked.json").read_text())
    version = kubernetes_validate.latest_version()
    made = asyncio.run(configurations(asked["pools"]))
    found = [objections(manifest, version) for manifest in asked["manifests"]]
    rendered = {"kubernetes": version, "made": made, "objections": found}
    rendered["told"] = asyncio.run(told(asked["pools"]))
    if "kubernetes" in made:
        job = made["kubernetes"]["job_manifest"]
        rendered["job_as_it_is"] = objections(job, version)
        for theirs in (
            "parallelism",
            "completions",
        ):  # of a Job, which Prefect's template has in its pod, and asks for there
            job["spec"]["template"]["spec"].pop(theirs)
        rendered["job"] = objections(job, version)
    (folder / "rendered.json").write_text(json.dumps(rendered))


if __name__ == "__main__":
    if sys.argv[1] == "secrets":
        asyncio.run(save_secrets())
    else:
        main(Path(sys.argv[1]))
