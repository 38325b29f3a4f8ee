"""The pipeline's VAE: latents to pixels and back, in float32 where half precision overflows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
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
    pixels = _finite(vae, lambda: decode(vae, latents[None]))
    if pixels is None:
        return UnusablePicture("the model's VAE gave no usable numbers, even in float32")
    return pixels[0]


def encode_finite(vae: AutoencoderKL, image: Image.Image) -> torch.Tensor:
    """The latents (1, channels, height, width) of an RGB picture: the most likely ones.

    Raises UnusablePicture when they are not finite, even in float32.
    """
    latents = _finite(vae, lambda: encode(vae, to_pixels(image)))
    if latents is None:
        raise UnusablePicture("the model's VAE cannot encode the reference, even in float32")
    return latents


def _finite(vae: AutoencoderKL, compute: Callable[[], torch.Tensor]) -> torch.Tensor | None:
    """What is computed, again in float32 if it is not finite; None if even that is not."""
    result = compute()
    if not torch.isfinite(result).all() and vae.dtype != torch.float32:
        half = vae.dtype
        vae.to(torch.float32)
        try:
            result = compute()
        finally:
            vae.to(half)
    return result if torch.isfinite(result).all() else None


def decode(vae: AutoencoderKL, latents: torch.Tensor) -> torch.Tensor:
    """The pixels of a batch of latents, scaled as diffusers' pipeline does."""
    latents = latents.to(vae.device, vae.dtype) / vae.config.scaling_factor
    if (statistics := _statistics(vae, latents)) is not None:
        mean, deviation = statistics
        latents = latents * deviation + mean
    return vae.decode(latents, return_dict=False)[0]


def encode(vae: AutoencoderKL, pixels: torch.Tensor) -> torch.Tensor:
    """The most likely latents of a batch of pixels from -1 to 1: the inverse of `decode`."""
    latents = vae.encode(pixels.to(vae.device, vae.dtype)).latent_dist.mode()
    if (statistics := _statistics(vae, latents)) is not None:
        mean, deviation = statistics
        latents = (latents - mean) / deviation
    return latents * vae.config.scaling_factor


def _statistics(
    vae: AutoencoderKL, latents: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """The mean and the deviation of each channel, of a VAE whose latents are normalised."""
    mean, deviation = vae.config.get("latents_mean"), vae.config.get("latents_std")
    if mean is None or deviation is None:
        return None
    column = (1, -1, 1, 1)
    return latents.new_tensor(mean).view(column), latents.new_tensor(deviation).view(column)


def to_image(pixels: torch.Tensor) -> Image.Image:
    """The picture of pixels (3, height, width) from -1 to 1."""
    levels = pixels.float().mul(0.5).add_(0.5).clamp_(0, 1).mul_(255).round_().byte()
    return Image.fromarray(levels.permute(1, 2, 0).contiguous().cpu().numpy())


def to_pixels(image: Image.Image) -> torch.Tensor:
    """The pixels (1, 3, height, width) from -1 to 1 of an RGB picture."""
    levels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
    return levels.float().div_(127.5).sub_(1)
