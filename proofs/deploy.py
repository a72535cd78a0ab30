"""What lies in deploy/: `python -m proofs.deploy`, or one part: `python -m proofs.deploy pools`.

`pools` takes a few minutes and needs a package index. `docker` needs an engine too (DOCKER_HOST), which has the image
of deploy/Dockerfile under the name in LORAX_IMAGE.
"""

from __future__ import annotations

from proofs.bench import run_parts
from proofs.deploy_docker import prove_docker
from proofs.deploy_pools import prove_pools

PARTS = {"pools": prove_pools, "docker": prove_docker}

if __name__ == "__main__":
    run_parts(__doc__, PARTS)
