"""What a generator leaves everywhere in an image, measured without learning: spectrum and colour of the residual.

An enlarger leaves peaks at its grid's frequencies, a denoiser takes high ones away, and a network that draws all three
colours at once ties their finest detail together otherwise than a camera does. Averaged over an image this shows
whatever the image is of, and it costs next to nothing beside a network.

Source: averaged residual spectra after Zhang, Karaman and Chang (arXiv 1907.06515); co-occurrences of quantised
residuals after Fridrich and Kodovsky, Rich Models for Steganalysis of Digital Images (IEEE TIFS 7(3), 2012), here
between colour channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

HIGH_PASS = torch.tensor(
    [
        [[0, 0, 0], [0, -1, 1], [0, 0, 0]],
        [[0, 0, 0], [0, -1, 0], [0, 1, 0]],
        [[0, 1, 0], [1, -4, 1], [0, 1, 0]],
        [[1, -2, 1], [-2, 4, -2], [1, -2, 1]],
    ],
    dtype=torch.float32,
)
"""First differences, Laplacian and second mixed difference: (4, 3, 3)."""

WINDOW = 16
"""Side of the squares whose spectra are averaged, in pixels; half of each overlaps the next."""

_BINS = WINDOW // 2 + 1
_LEVELS = 5  # a residual is quantised to -2 .. 2
_UNITS = HIGH_PASS.abs().sum((1, 2)).div(2).view(1, 1, 4, 1, 1)  # by filter, so that all levels mean grey levels
_PAIRS = ((0, 1), (1, 2))  # red with green, green with blue
_LUMA_CHROMA = torch.tensor([[0.299, 0.587, 0.114], [-0.169, -0.331, 0.5], [0.5, -0.419, -0.081]])
_NO_POWER = 1e-2  # grey levels squared: what rounding to bytes leaves

SPECTRA, SPECTRUM = 3, _BINS**2
"""How many spectra there are, and how wide each is."""

PAIRINGS, COLOURS = len(HIGH_PASS) * len(_PAIRS), _LEVELS**2
"""How many co-occurrences, and how wide each is."""

WIDTH = SPECTRA * SPECTRUM + PAIRINGS * COLOURS


def traces(pixels: Tensor) -> Tensor:
    """Spectrum and colour co-occurrences of the residuals of images (B, 3, H, W) in 0..255 -> (B, WIDTH), float32.

    H and W are at least WINDOW.
    """
    return torch.cat([spectrum(pixels), colour_cooccurrence(pixels)], dim=1)


def split(found: Tensor) -> tuple[Tensor, Tensor]:
    """Traces (B, WIDTH) as spectra (B, SPECTRA, SPECTRUM) and co-occurrences (B, PAIRINGS, COLOURS)."""
    spectra, colours = found.split([SPECTRA * SPECTRUM, PAIRINGS * COLOURS], dim=1)
    return spectra.unflatten(1, (SPECTRA, SPECTRUM)), colours.unflatten(1, (PAIRINGS, COLOURS))


def spectrum(pixels: Tensor) -> Tensor:
    """Log of the residual's mean power by frequency, of luma and both chroma: (B, 3·81).

    Frequencies (y, x) run from 0 to half a cycle a pixel each; (y, x) and (-y, x) are averaged.
    """
    mixed = torch.einsum("ij,bjhw->bihw", _LUMA_CHROMA.to(pixels.device), pixels)
    residual = mixed - F.avg_pool2d(F.pad(mixed, (1, 1, 1, 1), mode="reflect"), 3, stride=1)
    line = torch.hann_window(WINDOW, periodic=True, device=pixels.device)
    squares = residual.unfold(2, WINDOW, WINDOW // 2).unfold(3, WINDOW, WINDOW // 2) * (line[:, None] * line)
    power = torch.view_as_real(torch.fft.rfft2(squares)).square().sum(-1).mean((2, 3))  # (B, 3, WINDOW, BINS)
    mirrored = power.flip(2).roll(1, 2)  # row -y in place of row y
    return torch.log((power + mirrored)[:, :, :_BINS] / 2 + _NO_POWER).flatten(1)


def colour_cooccurrence(pixels: Tensor) -> Tensor:
    """How often two channels' quantised residuals meet at a pixel, as square roots of shares: (B, 4·2·25)."""
    count, _, height, width = pixels.shape
    filters = HIGH_PASS.to(pixels.device)[:, None]
    residual = F.conv2d(pixels.reshape(-1, 1, height, width), filters).view(count, 3, 4, height - 2, width - 2)
    levels = (residual / _UNITS.to(pixels.device)).round_().clamp_(-2, 2).int() + 2
    met = torch.stack([levels[:, a] * _LEVELS + levels[:, b] for a, b in _PAIRS], dim=2)  # (B, 4, pairs, H-2, W-2)
    histograms = met.shape[0] * met.shape[1] * met.shape[2]
    offset = torch.arange(histograms, device=pixels.device, dtype=torch.int32)[:, None] * _LEVELS**2
    found = torch.bincount((met.reshape(histograms, -1) + offset).flatten(), minlength=histograms * _LEVELS**2)
    places = (height - 2) * (width - 2)
    return (found.view(count, -1).float() / places).sqrt()
