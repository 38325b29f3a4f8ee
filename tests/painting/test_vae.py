"""Decoding: as diffusers does it, and in float32 where half precision overflows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from banatie.errors import UnusablePicture
from banatie.painting.painter import Painter
from tests.support.tiny_models import edit_json
from tests.support.tiny_painter import HALF, JOB, change_weights, hooked, load, paint


def test_latents_that_are_not_finite_fail_one_job(painter: Painter) -> None:
    expected = paint(painter)
    decoded = []
    with (
        hooked(painter._pipeline.unet.conv_out, lambda unet, inputs, out: out * float("nan")),
        hooked(painter._pipeline.vae.decoder, lambda *_: decoded.append(1)),
        pytest.raises(UnusablePicture),
    ):
        paint(painter)
    assert decoded == []
    assert paint(painter) == expected


@pytest.mark.parametrize("force_upcast", [True, False])
def test_a_decoder_that_overflows_in_half_precision_still_gives_a_picture(
    folder: Path, force_upcast: bool
) -> None:
    edit_json(folder / "vae" / "config.json", force_upcast=force_upcast)
    weights = folder / "vae" / "diffusion_pytorch_model.safetensors"
    change_weights(weights, "decoder.conv_in.weight", 1e5)
    painter = load(folder, HALF)
    vae = painter._pipeline.vae
    dtype = torch.float32 if force_upcast else torch.float16
    assert vae.dtype == dtype
    latents = torch.randn(1, 4, 8, 12, generator=torch.Generator().manual_seed(0))
    assert not torch.isfinite(
        load(folder, HALF)._pipeline.vae.half().decode(latents.half())[0]
    ).all()
    picture = paint(painter)
    assert np.frombuffer(picture, np.uint8).std() > 10
    assert vae.dtype == dtype
    assert paint(painter) == picture


def test_a_decoder_that_gives_no_finite_pixels_fails_the_job(folder: Path) -> None:
    weights = folder / "vae" / "diffusion_pytorch_model.safetensors"
    change_weights(weights, "decoder.conv_in.weight", float("nan"))
    edit_json(folder / "vae" / "config.json", force_upcast=False)
    painter = load(folder, HALF)
    with pytest.raises(UnusablePicture, match="even in float32"):
        paint(painter)
    assert painter._pipeline.vae.dtype == torch.float16


def test_a_vae_with_its_own_mean_and_deviation_is_decoded_as_diffusers_does(folder: Path) -> None:
    edit_json(
        folder / "vae" / "config.json",
        latents_mean=[-1.6, 1.7, 0.1, -0.4],
        latents_std=[8.4, 5.9, 5.3, 6.8],
        scaling_factor=0.5,
    )
    painter = load(folder)
    latents = torch.randn(1, 4, 8, 12, generator=torch.Generator().manual_seed(JOB.seed))
    expected = load(folder)._pipeline(
        prompt=JOB.prompt,
        width=JOB.width,
        height=JOB.height,
        num_inference_steps=JOB.steps,
        guidance_scale=5.0,
        latents=latents,
    )
    assert paint(painter) == expected.images[0].tobytes()
