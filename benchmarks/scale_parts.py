"""What verdicts and versions are made of, for `scale.py`: processor time of each part, and bytes of what is kept.

    python benchmarks/scale_parts.py

One thread, processor seconds, so that other work on the machine counts little; random weights. Of each backbone: what a
crop costs by the student alone, and by all branches with 1 and 12 of them (through the predictor that serves), and a
training step of an image. Of verdicts: decoding, and a row of Parquet by the number of classes.
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors.torch
import torch
from measure import Row, report
from PIL import Image
from setting import CLASSES, PARAMS, opened
from verdicts import predictor

from lorax.data.reading import read_bytes
from lorax.learning.training import Fit
from lorax.network.building import open_backbone
from lorax.network.network import Network
from lorax.params import Params, load_params
from lorax.scoring.partition import schema
from lorax.verdicts.predictor import Predictor

_BATCH, _IMAGES, _BRANCHES = 32, 64, (1, 12)
_TRAINED_AT_ONCE = 32
_SIDES = (64, 256, 1024)
_CLASSES, _ROWS = (11, 101, 1001), 1024


def processor_ms(work: Callable[[], object], count: int, rounds: int) -> float:
    """Median milliseconds of processor time for one of the `count` things that `work` does."""
    work()
    taken = []
    for _ in range(rounds):
        began = time.process_time()
        work()
        taken.append(time.process_time() - began)
    return 1000 * statistics.median(taken) / count


def of_backbone(name: str, params: Params, rounds: int) -> Row:
    """Milliseconds of a crop, of a training step's image; bytes of a branch; and the widths that others follow from."""
    side = params.backbone.crop
    crops = [np.random.default_rng(i).integers(0, 256, (1, side, side, 3), dtype=np.uint8) for i in range(_IMAGES)]
    row: Row = {"backbone": name, "crop": side, "load_before": os.getloadavg()[0]}
    for branches in _BRANCHES:
        served = predictor(params, branches, crops, 0.0)
        exact = Predictor(served.network, served.state, exact=True)
        row[f"student_{branches}_ms"] = processor_ms(lambda by=served: over(by, crops), _IMAGES, rounds)
        row[f"exact_{branches}_ms"] = processor_ms(lambda by=exact: over(by, crops), _IMAGES, rounds)
    row["step_ms"] = processor_ms(training_step(params), _TRAINED_AT_ONCE, rounds)
    backbone = served.network.backbone
    row["branch_bytes"] = len(safetensors.torch.save(dict(backbone.branch(0).weights)))
    return row | {"width": backbone.width, "texture_width": backbone.texture_width}


def over(judge: Predictor, crops: Sequence[np.ndarray]) -> None:
    for start in range(0, len(crops), _BATCH):
        part = crops[start : start + _BATCH]
        judge.look(part, [""] * len(part))


def training_step(params: Params) -> Callable[[], object]:
    """Of the newest of two branches; what a front gives is there, as in an episode."""
    network = Network.empty(open_backbone(params.backbone))
    for seed in range(2):
        network.grow(params.lora, CLASSES, branch_seed=seed, head_seed=seed)
    fit = Fit(network, range(CLASSES, 2 * CLASSES), params.training, params.run, 1)
    side, count = params.backbone.crop, _TRAINED_AT_ONCE
    images = torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8)
    seen = network.embed(images).tokens if network.backbone.gives_tokens else images
    frozen, labels = torch.randn(count, network.backbone.width), torch.randint(0, 2 * CLASSES, (count,))

    def work() -> None:
        with fit.side_by_side():
            fit.step(seen, frozen, labels)

    return work


def of_decoding(side: int, rounds: int) -> Row:
    """Milliseconds of reading, hashing and decoding a JPEG in memory and cutting its crops."""
    coarse = np.random.default_rng(0).integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize((side, side)).save(file, "JPEG", quality=90)
    data = file.getvalue()
    crop = load_params(PARAMS).backbone.crop

    def work() -> None:
        for _ in range(_IMAGES):
            read_bytes(data, "", crop)

    return {"side": side, "decode_ms": processor_ms(work, _IMAGES, rounds)}


def of_rows(classes: int, rounds: int) -> Row:
    """Milliseconds and bytes of a verdict in a partition of 1024."""
    random, labels = np.random.default_rng(0), [f"generator{i}" for i in range(classes)]
    said = {"version": classes, "state": "0" * 64, "data": {"digest": "0" * 32, "commit": "0" * 40}}
    written = list[int]()

    def work() -> None:
        given = random.dirichlet(np.full(classes, 0.1), _ROWS)
        made = [
            {
                "name": f"folder/{i:08d}.jpg",
                "md5": random.bytes(16).hex(),
                "sha256": random.bytes(32).hex(),
                "verdict": "real",
                "answered_by": "student",
                "probabilities": dict(zip(labels, own.tolist(), strict=True)),
                **dict.fromkeys(("probability", "real", "strangeness", "threshold"), own[0]),
                **said,
            }
            for i, own in enumerate(given)
        ]
        file = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(made, schema(labels)), file, compression="zstd")
        written.append(file.tell())

    return {"classes": classes, "row_ms": processor_ms(work, _ROWS, rounds), "row_bytes": written[-1] / _ROWS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    options = argparse.Namespace(threads=1, crop=224, model="convit_tiny", device="cpu", precision="float32")
    rows = [of_backbone("residual", load_params(PARAMS), rounds)]
    with opened(options) as setting:
        rows.append(of_backbone("convit_tiny", setting.params(), rounds))
    rows += [of_decoding(side, rounds) for side in _SIDES]
    rows += [of_rows(classes, rounds) for classes in _CLASSES]
    report("scale_parts", rows)


if __name__ == "__main__":
    main()
