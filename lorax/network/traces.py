"""What a generator leaves everywhere in an image, measured without learning: spectrum and colour of the residual.

An enlarger leaves peaks at its grid's frequencies, a denoiser takes high ones away, and a network that draws all three
colours at once ties their finest detail together otherwise than a camera does. Averaged over an image this shows
whatever the image is of, and it costs next to nothing beside a network.

Source: averaged residual spectra after Zhang, Karaman and Chang (arXiv 1907.06515); co-occurrences of quantised
residuals after Fridrich and Kodovsky, Rich Models for Steganalysis of Digital Images (IEEE TIFS 7(3), 2012), here
between colour channels.
"""

from __future__ import annotations

import math

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

RESIDUALS = 3 * len(HIGH_PASS)
"""Of an image: every filter's of every colour."""

WINDOW = 16
"""Side of the squares whose spectra are averaged, in pixels; half of each overlaps the next."""

_BINS = WINDOW // 2 + 1
_STEP = WINDOW // 2
_LEVELS = 5  # a residual is quantised to -2 .. 2
_UNITS = HIGH_PASS.abs().sum((1, 2)) / 2  # by filter, so that all levels mean grey levels
_PAIRS = 2  # red with green, green with blue
_LUMA_CHROMA = torch.tensor([[0.299, 0.587, 0.114], [-0.169, -0.331, 0.5], [0.5, -0.419, -0.081]])
_NO_POWER = 1e-2  # grey levels squared: what rounding to bytes leaves

SPECTRA, SPECTRUM = 3, _BINS**2
"""How many spectra there are, and how wide each is."""

PAIRINGS, COLOURS = len(HIGH_PASS) * _PAIRS, _LEVELS**2
"""How many co-occurrences, and how wide each is."""

WIDTH = SPECTRA * SPECTRUM + PAIRINGS * COLOURS


def residuals(pixels: Tensor) -> Tensor:
    """What each filter leaves of each colour, (B, 3, H, W) -> (B, 12, H, W), zeros around the image.

    Of whole numbers in 0..255 they are whole numbers, exactly; four filters of red come first.
    """
    with torch.autocast(pixels.device.type, enabled=False):
        return F.conv2d(pixels.contiguous(memory_format=torch.channels_last), _BANK.to(pixels.device), padding=1)


def traces(pixels: Tensor, filtered: Tensor | None = None) -> Tensor:
    """Spectrum and colour co-occurrences of the residuals of images (B, 3, H, W) in 0..255 -> (B, WIDTH), float32.

    H and W are at least WINDOW.

    Args:
        pixels: the images.
        filtered: their `residuals`, where those are at hand.
    """
    colours = colour_cooccurrence(residuals(pixels) if filtered is None else filtered)
    return torch.cat([spectrum(pixels), colours], dim=1)


def split(found: Tensor) -> tuple[Tensor, Tensor]:
    """Traces (B, WIDTH) as spectra (B, SPECTRA, SPECTRUM) and co-occurrences (B, PAIRINGS, COLOURS)."""
    spectra, colours = found.split([SPECTRA * SPECTRUM, PAIRINGS * COLOURS], dim=1)
    return spectra.unflatten(1, (SPECTRA, SPECTRUM)), colours.unflatten(1, (PAIRINGS, COLOURS))


def spectrum(pixels: Tensor) -> Tensor:
    """Log of the residual's mean power by frequency, of luma and both chroma: (B, 3·81).

    Frequencies (y, x) run from 0 to half a cycle a pixel each; (y, x) and (-y, x) are averaged. So the power is the sum
    of the squares of four real transforms, cosine or sine along y and along x: products of matrices, which take half
    the time of a fast Fourier transform.
    """
    waves = _WAVES.to(pixels.device)
    mix = _LUMA_CHROMA.to(pixels.device) / 9  # the residual is what a pixel differs by from the mean of the nine around
    residual = (mix @ (9 * pixels - _around(pixels)).flatten(2)).view(pixels.shape)
    down, across = (side // _STEP for side in pixels.shape[2:])  # in steps, of which two are a window
    steps = residual[..., : down * _STEP, : across * _STEP].reshape(len(pixels), -1, _STEP)
    of_halves = torch.cat([waves[:_STEP], waves[_STEP:]], dim=1).expand(len(pixels), -1, -1)
    halves = torch.bmm(steps, of_halves).view(-1, SPECTRA, down * _STEP, across, 4 * _BINS)  # no image beside another
    rows = (halves[..., :-1, : 2 * _BINS] + halves[..., 1:, 2 * _BINS :]).flatten(3)  # (B, 3, H, windows·2·BINS)
    power = torch.zeros((), device=pixels.device)
    for first in (0, 1):  # windows that follow without overlap
        count = (down - first) // 2
        squares = rows[:, :, first * _STEP :][:, :, : count * WINDOW].unflatten(2, (count, WINDOW))
        power = power + (waves.T @ squares).square_().sum(2)  # (B, 3, 2·BINS, windows·2·BINS)
    mean = power.unflatten(3, (across - 1, 2 * _BINS)).mean(3) / (down - 1)
    return torch.log(mean.view(-1, SPECTRA, 2, _BINS, 2, _BINS).sum((2, 4)) + _NO_POWER).flatten(1)


def colour_cooccurrence(filtered: Tensor) -> Tensor:
    """How often two channels' quantised residuals meet at a pixel, as square roots of shares: (B, 4·2·25).

    Args:
        filtered: `residuals` of the images.
    """
    count, of_colour = len(filtered), len(HIGH_PASS)
    within = filtered[:, :, 1:-1, 1:-1].permute(0, 2, 3, 1)
    levels = (within / _UNITS.to(filtered.device).repeat(3)).round_().clamp_(-2, 2)
    histograms = torch.arange(count * PAIRINGS, device=filtered.device).view(count, 1, 1, PAIRINGS)
    met = torch.add(levels[..., of_colour:], levels[..., :-of_colour], alpha=_LEVELS).int()
    bins = met + (histograms * COLOURS + COLOURS // 2).int()
    found = torch.bincount(bins.flatten(), minlength=count * PAIRINGS * COLOURS)
    by_pair = found.view(count, _PAIRS, of_colour, COLOURS).transpose(1, 2).flatten(1)
    return (by_pair.float() / within[0, ..., 0].numel()).sqrt()


def _bank() -> Tensor:
    """Each colour's filters, (12, 3, 3, 3)."""
    of_one = HIGH_PASS[:, None]
    return torch.cat([F.pad(of_one, (0, 0, 0, 0, colour, 2 - colour)) for colour in range(3)])


def _around(pixels: Tensor) -> Tensor:
    """The sum of the nine pixels around each, mirrored at the border: (B, 3, H, W). Convolving is five times slower."""
    padded = F.pad(pixels, (1, 1, 1, 1), mode="reflect")
    lines = padded[:, :, :-2] + padded[:, :, 1:-1] + padded[:, :, 2:]
    return lines[..., :-2] + lines[..., 1:-1] + lines[..., 2:]


def _waves() -> Tensor:
    """Cosines and then sines of each frequency under the window, (WINDOW, 2·BINS)."""
    places, frequencies = torch.arange(WINDOW, dtype=torch.double), torch.arange(_BINS, dtype=torch.double)
    angles = 2 * math.pi / WINDOW * torch.outer(places, frequencies)
    window = torch.hann_window(WINDOW, periodic=True, dtype=torch.double)
    return (torch.cat([angles.cos(), angles.sin()], dim=1) * window[:, None]).float()


_BANK, _WAVES = _bank(), _waves()
