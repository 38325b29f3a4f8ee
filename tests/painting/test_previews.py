"""The previews' map: what it is fitted to, and how it looks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from banatie.painting.previews import PREVIEW_SIDE, LatentToRgb

CHANNELS = 5


def decoder(factor: int):
    """A decoder that is a linear map, each latent one patch of pixels."""
    mix = torch.randn(3 * factor**2, CHANNELS, generator=torch.Generator().manual_seed(3)) / 8

    def decode(latents: torch.Tensor) -> torch.Tensor:
        colours = torch.einsum("oc,bchw->bohw", mix, latents) + 0.1
        return torch.nn.functional.pixel_shuffle(colours, factor)

    return decode


@pytest.mark.parametrize(("factor", "side", "patch"), [(8, 16, 8), (8, 40, 2), (8, 168, 1)])
def test_a_decoder_that_is_linear_is_found(factor: int, side: int, patch: int) -> None:
    decode = decoder(factor)
    colours = LatentToRgb(CHANNELS, factor, side)
    colours.guess(decode)
    latents = torch.randn(CHANNELS, 10, side, generator=torch.Generator().manual_seed(1))
    drawn = colours.draw(latents)
    assert drawn.size == (side * patch, 10 * patch)
    assert max(drawn.size) <= max(PREVIEW_SIDE, side)
    pixels = torch.nn.functional.adaptive_avg_pool2d(decode(latents[None]), drawn.size[::-1])[0]
    expected = (pixels.clamp(-1, 1) * 127.5 + 127.5).permute(1, 2, 0).numpy()
    assert np.abs(np.asarray(drawn) - expected).mean() < 2


def test_what_was_painted_corrects_the_guess() -> None:
    colours = LatentToRgb(CHANNELS, 8, 16)
    colours.guess(decoder(8))
    latents = torch.randn(CHANNELS, 16, 16, generator=torch.Generator().manual_seed(2)) * 3
    # The true decoder is another one: what random latents said of it is wrong.
    pixels = -decoder(8)(latents[None])[0]

    def error() -> float:
        expected = (pixels.clamp(-1, 1) * 127.5 + 127.5).permute(1, 2, 0).numpy()
        return float(np.abs(np.asarray(colours.draw(latents)) - expected).mean())

    before = error()
    colours.learn(latents, pixels)
    assert error() < before / 3


def test_a_guess_is_made_once() -> None:
    asked = []

    def decode(latents: torch.Tensor) -> torch.Tensor:
        asked.append(latents)
        return decoder(8)(latents)

    colours = LatentToRgb(CHANNELS, 8, 16)
    colours.guess(decode)
    colours.guess(decode)
    assert len(asked) == 1


def test_numbers_that_are_none_are_drawn_all_the_same() -> None:
    colours = LatentToRgb(CHANNELS, 8, 16)
    colours.guess(decoder(8))
    assert colours.draw(torch.full((CHANNELS, 4, 4), float("nan"))).size == (32, 32)
