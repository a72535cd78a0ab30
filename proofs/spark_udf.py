"""The champion as Spark's function: `mlflow.pyfunc.spark_udf` in Spark's local mode says what `lorax predict` says.

pip install pyspark    # 4.x, and Java 17; no dependency of this project
python -m proofs.spark_udf [--images 200]
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import sys
import time
from pathlib import Path

from lorax.params import load_params
from proofs.bench import lorax
from proofs.score_cluster import HOME, learned_workspace, write_images

LOOPBACK = "127.0.0.1"
_TOLERANCE = 1e-5


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=200)
    count = parser.parse_args().images
    root, folder = learned_workspace(), HOME / f"spark-{count}"
    write_images(folder, count, broken_every=0)
    lorax("up", "--no-worker", cwd=root)
    try:
        said = _said_by_spark(root, folder)
        lines = [json.loads(line) for line in lorax("predict", str(folder), "--json", cwd=root).stdout.splitlines()]
    finally:
        lorax("down", cwd=root)
    other = sum(line["verdict"] != said[line["file"]]["verdict"] for line in lines)
    furthest = max(abs(line["real"] - said[line["file"]]["real"]) for line in lines)
    print(
        f"{len(said)} of {len(lines)} images; verdicts that differ {other}; p(real) differs by at most {furthest:.1e}"
    )
    raise SystemExit(len(said) != len(lines) or other > 0 or furthest > _TOLERANCE)


def _said_by_spark(root: Path, folder: Path) -> dict[str, dict[str, object]]:
    """File -> what the function says of it."""
    os.environ |= {"SPARK_LOCAL_IP": LOOPBACK, "PYSPARK_PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    params = load_params(root / "params.yaml")
    os.environ["MLFLOW_TRACKING_URI"] = f"http://{LOOPBACK}:{params.services.mlflow_port}"
    import mlflow
    from pyspark.sql import SparkSession

    builder = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false")
    spark = (
        builder.config("spark.driver.bindAddress", LOOPBACK).config("spark.sql.shuffle.partitions", "2").getOrCreate()
    )
    try:
        judge = mlflow.pyfunc.spark_udf(spark, f"models:/{params.registry.model}@champion", env_manager="local")
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        rows = [(str(path), base64.b64encode(path.read_bytes()).decode()) for path in files]
        frame = spark.createDataFrame(rows, ["file", "image"]).repartition(2)
        began = time.perf_counter()
        found = frame.select("file", judge("image").alias("said")).collect()
        print(
            f"Spark {spark.version}: {len(found) / (time.perf_counter() - began):.1f} images/s with all that it starts"
        )
        return {row["file"]: row["said"].asDict() for row in found}
    finally:
        spark.stop()


if __name__ == "__main__":
    main()
