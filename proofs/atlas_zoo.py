"""A zoo for the atlas: LoRAs of simulated generators, or of real networks, each learned from a data set of its own.

Eight generators, six LoRAs each, from 20 to 150 images of either kind. Within a generator the first three start from
one shared A, the others each from one of its own; the head starts alike for all. Beside every LoRA lies what image
features say of its data set: the mean of the frozen backbone's class-token feature, and of its texture, over the
synthetic images. Simulated generators are learned on the small ConViT; real networks, of which the simulated ones'
texture says all, on the residual backbone.

    python -m proofs.atlas_zoo [SEED ...] [--real FOLDER]

FOLDER is what `python -m scripts.real` makes: NETWORK/train/0_real and 1_fake.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from PIL import Image

from lorax.data.generators import GENERATORS, Ints
from lorax.data.images import Images, decode
from lorax.data.pixels import Pixels
from lorax.data.simulate import cut_patches
from lorax.learning.probe import Context, train_probe
from lorax.network.backbone import Backbone
from lorax.network.building import open_backbone
from lorax.params import AtlasParams, BackboneParams, LoraParams, Params, RunParams
from lorax.storage import canonical_json, whole_directory
from lorax.stream import Sample
from proofs.verdicts_watch import scanlines

HOME = Path("work/proofs/atlas").resolve()

SIZES = (20, 72, 124, 46, 98, 150)
"""Images of either kind in a generator's six data sets; the first three LoRAs share their start."""

SHARED = 3
SHOWN = 960
"""Images that training shows in all, however few there are: a LoRA learned in earnest, not a probe."""

TARGETS = (r"blocks\.\d+\.attn\.(qk|v)", r"blocks\.\d+\.mlp\.fc[12]")


def levels(patch: Ints) -> Ints:
    """A decoder whose output has few levels: every value is rounded to a multiple of 12."""
    return (patch + 6) // 12 * 12


def columns(patch: Ints) -> Ints:
    """A decoder that upsamples across by three: every third column is a little darker, the others bluer."""
    third = np.arange(patch.shape[1]) % 3 == 0
    shift = np.where(third[:, None], np.array([-7, -7, -7]), np.array([0, 0, 6]))
    return patch + shift[None]


ZOO: dict[str, Callable[[Ints], Ints]] = {**GENERATORS, "scanlines": scanlines, "levels": levels, "columns": columns}


NETWORKS = ("waifu2x", "span", "style26", "arbitrary", "ffdnet", "oidn", "rivagan", "realcugan")
"""Of the real ones: upscalers, denoisers, styles, a watermark and a colourist, two and two where there are."""

REAL = BackboneParams(name="residual", crop=128)


def make_zoo(seed: int) -> Path:
    """The zoo's folder; what is there is kept, so that a run that was ended goes on."""
    patches = cut_patches("train", 1000 + seed)

    def drawn(name: str, count: int) -> tuple[list[Pixels], list[Pixels]]:
        return _drawn(patches, np.asarray, count), _drawn(patches, ZOO[name], count)

    return _made(HOME / f"zoo-{seed}", Params().backbone, LoraParams(targets=TARGETS), seed, list(ZOO), drawn)


def make_real_zoo(seed: int, folder: Path, rank: int = 16, members: Sequence[int] = range(len(SIZES))) -> Path:
    """The same of real networks, of whose training images each of its LoRAs has some that no other one has.

    Args:
        folder: of the images.
        rank: of the LoRAs. A member has the same images at each.
        members: which are learned.
    """
    random = np.random.default_rng(seed)
    queues = {
        place: iter(random.permutation(sorted((folder / place).iterdir())).tolist())
        for place in (f"{name}/train/{kind}" for name in NETWORKS for kind in ("0_real", "1_fake"))
    }

    def drawn(name: str, count: int) -> tuple[list[Pixels], list[Pixels]]:
        real, synthetic = (
            [decode(next(queues[f"{name}/train/{kind}"])) for _ in range(count)] for kind in ("0_real", "1_fake")
        )
        return real, synthetic

    home = HOME / (f"real-zoo-{seed}" if rank == LoraParams().rank else f"real-zoo-{seed}-rank-{rank}")
    return _made(home, REAL, LoraParams(rank=rank, alpha=rank), seed, NETWORKS, drawn, members)


def _made(
    home: Path,
    backbone: BackboneParams,
    lora: LoraParams,
    seed: int,
    names: Sequence[str],
    drawn: Callable[[str, int], tuple[list[Pixels], list[Pixels]]],
    members: Sequence[int] = range(len(SIZES)),
) -> Path:
    opened = open_backbone(backbone)
    for number, name in enumerate(names):
        for member, count in enumerate(SIZES):
            place = home / f"{name}-{member}"
            real, synthetic = drawn(name, count)
            if member in members and not place.exists():
                a_seed = 0 if member < SHARED else 1000 + len(SIZES) * number + member
                learn(place, opened, lora, real, synthetic, seed, a_seed)
    return home


def _drawn(patches: Iterator[Pixels], generator: Callable[..., Ints], count: int) -> list[Pixels]:
    images = (generator(next(patches).astype(np.int64)).clip(0, 255).astype(np.uint8) for _ in range(count))
    return list(images)


def learn(
    place: Path,
    backbone: Backbone,
    lora: LoraParams,
    real: list[Pixels],
    synthetic: list[Pixels],
    seed: int,
    a_seed: int,
) -> None:
    """Leave a LoRA below `place` that tells synthetic images from real ones, with its images and their features.

    Args:
        place: a folder that is not there yet.
        backbone: that it adapts.
        lora: of which form.
        real: images, as many as there are synthetic ones.
        synthetic: images of one generator.
        seed: of the head and of all that is drawn.
        a_seed: of the start of A; 0: the one that `seed` gives.
    """
    began = time.perf_counter()
    atlas = AtlasParams(probe_shown=SHOWN)
    params = Params(lora=lora, run=RunParams(seed=seed), atlas=atlas)
    with whole_directory(place) as draft:
        paths: dict[str, Path] = {}
        kinds = [_written(draft / "images", kind, pixels, paths) for kind, pixels in enumerate((real, synthetic))]
        fetch = lambda samples: {s.md5: paths[s.md5] for s in samples}  # noqa: E731
        context = Context(backbone.identity, tuple(kinds[0]), params)
        other = replace(context, params=params.model_copy(update={"run": RunParams(seed=a_seed)})).start
        branch, rows = train_probe(context, kinds[1], fetch, other if a_seed else None)
        for name, data in branch.files().items():
            (draft / name).write_bytes(data)
        safetensors.torch.save_file(_features(backbone, kinds[1], paths), draft / "features.safetensors")
        seconds = time.perf_counter() - began
        record = {"images": len(real), "accuracy": rows[-1].train_accuracy, "a_seed": a_seed, "seconds": seconds}
        (draft / "zoo.json").write_text(canonical_json(record))
    print(f"  {place.name}: {json.dumps(record)}", flush=True)


def _written(folder: Path, kind: int, pixels: list[Pixels], paths: dict[str, Path]) -> list[Sample]:
    samples = []
    for number, image in enumerate(pixels):
        path = folder / ("0_real", "1_fake")[kind] / f"{number:04d}.bmp"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
        md5 = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
        paths[md5] = path
        samples.append(Sample(str(path), md5, "zoo", kind))
    return samples


def _features(backbone: Backbone, samples: list[Sample], paths: dict[str, Path]) -> dict[str, torch.Tensor]:
    images = Images.load(samples, paths, backbone.identity.crop)
    pixels = images.batch(range(len(images)), images.center()[:, 0])
    return {"feature": backbone.plain_feature(pixels).mean(0), "texture": backbone.texture(pixels).mean(0)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--real", type=Path, metavar="FOLDER", help="of real networks' images")
    given = parser.parse_args()
    for each in given.seeds:
        print(f"zoo {each}", flush=True)
        make_real_zoo(each, given.real) if given.real else make_zoo(each)
