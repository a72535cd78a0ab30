"""Traces: a period shows in the spectrum where it belongs, and colours that go together meet on the diagonal."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from lorax.network.traces import COLOURS, PAIRINGS, SPECTRA, SPECTRUM, WIDTH, residuals, split, traces


def noise(*shape: int) -> torch.Tensor:
    return torch.randint(96, 160, shape, generator=torch.Generator().manual_seed(0)).float()


@pytest.mark.parametrize(("period", "row"), [(2, 8), (4, 4)])
def test_lines_every_few_pixels_are_a_peak_at_their_frequency(period: int, row: int) -> None:
    image = noise(1, 3, 64, 64)
    striped = image.clone()
    striped[:, :, ::period] += 20
    before, after = (split(traces(x))[0].view(SPECTRA, 9, 9)[0] for x in (image, striped))
    rise = after - before
    assert divmod(int(rise.argmax()), 9) == (row, 0)
    assert rise[row, 0] > 1 and rise[5, 5].abs() < 0.1


def test_shares_of_a_co_occurrence_add_up_and_grey_lies_on_the_diagonal() -> None:
    grey = noise(2, 1, 32, 32).expand(2, 3, 32, 32)
    colours = split(traces(grey))[1].view(2, PAIRINGS, 5, 5)
    torch.testing.assert_close(colours.square().sum((2, 3)), torch.ones(2, PAIRINGS))
    assert colours.diagonal(dim1=2, dim2=3).square().sum(2).min() == pytest.approx(1)
    apart = split(traces(noise(2, 3, 32, 32)))[1].view(2, PAIRINGS, 5, 5)
    assert apart.diagonal(dim1=2, dim2=3).square().sum(2).max() < 0.9


def test_an_image_says_the_same_beside_others_and_whatever_its_size() -> None:
    images = noise(3, 3, 40, 56)
    together = traces(images)
    assert together.shape == (3, WIDTH) == (3, SPECTRA * SPECTRUM + PAIRINGS * COLOURS)
    assert torch.allclose(together[1:2], traces(images[1:2]), atol=1e-6)


def test_what_is_flat_leaves_no_residual_but_at_the_border() -> None:
    flat = residuals(torch.full((1, 3, 32, 32), 77.0))
    assert flat.shape == (1, 12, 32, 32)
    assert not flat[..., 1:-1, 1:-1].any() and flat.abs().amax() == 2 * 77
    step = torch.zeros(1, 3, 32, 32)
    step[..., 16:] = 2
    assert residuals(step)[0, 0, 8, 15] == 2


def test_a_spectrum_is_the_mean_of_windowed_fourier_transforms() -> None:
    image = noise(1, 3, 40, 59)  # windows don't reach the last columns
    grey = (image[0].double() * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(0)
    around = F.pad(grey[None, None], (1, 1, 1, 1), mode="reflect")[0, 0]
    luma = grey - around.unfold(0, 3, 1).unfold(1, 3, 1).mean((2, 3))
    window = torch.hann_window(16, periodic=True, dtype=torch.double)
    squares = luma.unfold(0, 16, 8).unfold(1, 16, 8) * window[:, None] * window
    power = torch.fft.fft2(squares).abs().square().mean((0, 1))
    folded = (power + power.roll(-1, 0).flip(0)) / 2  # row y and row -y
    expected = torch.log(folded[:9, :9] + 1e-2).float()
    torch.testing.assert_close(split(traces(image))[0][0, 0].view(9, 9), expected, atol=1e-3, rtol=1e-4)
