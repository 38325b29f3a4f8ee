"""Decoding latents with the pipeline's VAE, in float32 where half precision overflows."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL
from PIL import Image

from banatie.errors import UnusablePicture


def decode_finite(vae: AutoencoderKL, latents: torch.Tensor) -> torch.Tensor | UnusablePicture:
    """The pixels of one picture's latents (channels, height, width), as (3, height, width).

    Pixels are from -1 to 1 and may exceed that a little. The result is an UnusablePicture when the
    latents or the pixels are not finite, even in float32.
    """
    if not torch.isfinite(latents).all():
        return UnusablePicture("the model gave no usable numbers; try other parameters")
    pixels = decode(vae, latents[None])
    if not torch.isfinite(pixels).all() and vae.dtype != torch.float32:
        half = vae.dtype
        vae.to(torch.float32)
        try:
            pixels = decode(vae, latents[None])
        finally:
            vae.to(half)
    if not torch.isfinite(pixels).all():
        return UnusablePicture("the model's VAE gave no usable numbers, even in float32")
    return pixels[0]


def decode(vae: AutoencoderKL, latents: torch.Tensor) -> torch.Tensor:
    """The pixels of a batch of latents, scaled as diffusers' pipeline does."""
    latents = latents.to(vae.device, vae.dtype) / vae.config.scaling_factor
    mean, deviation = vae.config.get("latents_mean"), vae.config.get("latents_std")
    if mean is not None and deviation is not None:
        column = (1, -1, 1, 1)
        latents = latents * latents.new_tensor(deviation).view(column)
        latents = latents + latents.new_tensor(mean).view(column)
    return vae.decode(latents, return_dict=False)[0]


def to_image(pixels: torch.Tensor) -> Image.Image:
    """The picture of pixels (3, height, width) from -1 to 1."""
    levels = pixels.float().mul(0.5).add_(0.5).clamp_(0, 1).mul_(255).round_().byte()
    return Image.fromarray(levels.permute(1, 2, 0).contiguous().cpu().numpy())
