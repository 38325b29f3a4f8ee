"""The map from latents to RGB: what it is fitted to, and what it renders."""

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
        rgb = torch.einsum("oc,bchw->bohw", mix, latents) + 0.1
        return torch.nn.functional.pixel_shuffle(rgb, factor)

    return decode


@pytest.mark.parametrize(("factor", "side", "patch"), [(8, 16, 8), (8, 40, 2), (8, 168, 1)])
def test_a_linear_decoder_is_recovered(factor: int, side: int, patch: int) -> None:
    decode = decoder(factor)
    preview_map = LatentToRgb(CHANNELS, factor, side)
    preview_map.fit_random(decode)
    latents = torch.randn(CHANNELS, 10, side, generator=torch.Generator().manual_seed(1))
    rendered = preview_map.render(latents)
    assert rendered.size == (side * patch, 10 * patch)
    assert max(rendered.size) <= max(PREVIEW_SIDE, side)
    pixels = torch.nn.functional.adaptive_avg_pool2d(decode(latents[None]), rendered.size[::-1])[0]
    expected = (pixels.clamp(-1, 1) * 127.5 + 127.5).permute(1, 2, 0).numpy()
    assert np.abs(np.asarray(rendered) - expected).mean() < 2


def test_painted_pictures_correct_the_first_fit() -> None:
    preview_map = LatentToRgb(CHANNELS, 8, 16)
    preview_map.fit_random(decoder(8))
    latents = torch.randn(CHANNELS, 16, 16, generator=torch.Generator().manual_seed(2)) * 3
    # The true decoder is another one than that of the random latents.
    pixels = -decoder(8)(latents[None])[0]

    def error() -> float:
        expected = (pixels.clamp(-1, 1) * 127.5 + 127.5).permute(1, 2, 0).numpy()
        return float(np.abs(np.asarray(preview_map.render(latents)) - expected).mean())

    before = error()
    preview_map.fit(latents, pixels)
    assert error() < before / 3


def test_random_latents_are_decoded_once() -> None:
    decoded = []

    def decode(latents: torch.Tensor) -> torch.Tensor:
        decoded.append(latents)
        return decoder(8)(latents)

    preview_map = LatentToRgb(CHANNELS, 8, 16)
    preview_map.fit_random(decode)
    preview_map.fit_random(decode)
    assert len(decoded) == 1


def test_latents_that_are_not_finite_are_rendered_all_the_same() -> None:
    preview_map = LatentToRgb(CHANNELS, 8, 16)
    preview_map.fit_random(decoder(8))
    assert preview_map.render(torch.full((CHANNELS, 4, 4), float("nan"))).size == (32, 32)
