"""The passes of a picture over the model: painted from noise or a reference, then enlarged.

Between the pixels of jobs and the latents of `denoising`. A canvas is a picture whose sides are
whole latents: what a picture of another size lacks is added for the pass and cut off again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple

import torch
from diffusers import StableDiffusionXLPipeline
from PIL import Image

from banatie.errors import UnusablePicture
from banatie.models.types import PaintingModel
from banatie.painting import denoising
from banatie.painting.denoising import Denoiser, DenoisingPass
from banatie.painting.image_prompt import ImageTokens
from banatie.painting.job import OnStep, PaintJob
from banatie.painting.offload import tiled_vae
from banatie.painting.previews import LatentToRgb
from banatie.painting.references import Mask, extend
from banatie.painting.schedulers import steps_of
from banatie.painting.text_encoding import TextEmbedding
from banatie.painting.vae import decode_finite, encode_finite, to_image

UPSCALE_DENOISE = 0.15
"""How much of an enlarged picture is painted over: its details, not its composition."""


class _Prompts(NamedTuple):
    """What a pass is painted after: encoded texts and pictures."""

    positive: TextEmbedding
    negative: TextEmbedding | None
    image_tokens: ImageTokens | None


class PicturePasses:
    """Paints jobs whose texts are encoded; for one thread at a time."""

    def __init__(
        self,
        pipeline: StableDiffusionXLPipeline,
        denoiser: Denoiser,
        preview_map: LatentToRgb,
        model: PaintingModel,
    ) -> None:
        self._pipeline = pipeline
        self._denoiser = denoiser
        self._preview_map = preview_map
        self._factor: int = pipeline.vae_scale_factor
        self._own_pixels = max(width * height for width, height in model.sizes.values())
        self.max_pixels = 0
        """The largest picture that the device has room for, if it is larger than the model's."""

    def paint(
        self,
        jobs: Sequence[PaintJob],
        positive: TextEmbedding,
        negative: TextEmbedding | None,
        on_step: OnStep,
        image_tokens: ImageTokens | None = None,
    ) -> list[Image.Image | UnusablePicture]:
        """Paint the pictures of a batch, each enlarged if that is asked for.

        `image_tokens` are for the IP-Adapter that is in the UNet.
        """
        shared = jobs[0]
        if shared.upscale > 1 and len(jobs) > 1:
            raise ValueError("enlarged pictures are painted one by one")
        first = steps_of(shared.steps, shared.denoise)
        steps = first + (steps_of(shared.steps, UPSCALE_DENOISE) if shared.upscale > 1 else 0)
        prompts = _Prompts(positive, negative, image_tokens)
        references = [job.fitted_reference(job.size) for job in jobs]
        masks = [job.fitted_mask(job.size) for job in jobs]
        pictures = self._run(
            jobs, prompts, shared.denoise, references, masks, lambda done: on_step(done, steps)
        )
        if shared.upscale > 1 and isinstance(pictures[0], Image.Image):
            enlarged = pictures[0].resize(shared.final_size, Image.Resampling.LANCZOS)
            pictures = self._run(
                jobs,
                # At low noise guidance adds nothing (arXiv:2404.07724), and in a tile it would
                # paint all of the prompt once more.
                _Prompts(positive, None, image_tokens),
                UPSCALE_DENOISE,
                [enlarged],
                [None],
                lambda done: on_step(first + done, steps),
            )
        return [
            job.keep_unmasked(picture) if isinstance(picture, Image.Image) else picture
            for job, picture in zip(jobs, pictures, strict=True)
        ]

    def _run(
        self,
        jobs: Sequence[PaintJob],
        prompts: _Prompts,
        denoise: float,
        references: Sequence[Image.Image | None],
        masks: Sequence[Mask | None],
        on_step: denoising.OnStep,
    ) -> list[Image.Image | UnusablePicture]:
        """One pass: the pictures painted from these references, in their size."""
        shared = jobs[0]
        size = shared.size if references[0] is None else references[0].size
        canvas = self._canvas(size)
        with self._vae_for(canvas):
            started = [None if each is None else self._encode(each, canvas) for each in references]
            condition = [
                self._condition(reference, mask, canvas)
                for reference, mask in zip(references, masks, strict=True)
            ]
        latents = self._denoiser.run(
            DenoisingPass(
                height=canvas[1] // self._factor,
                width=canvas[0] // self._factor,
                steps=shared.steps,
                guidance_scale=shared.guidance_scale,
                seeds=[job.seed for job in jobs],
                positive=prompts.positive,
                negative=prompts.negative,
                image_tokens=prompts.image_tokens,
                denoise=denoise,
                reference=_stack(started),
                keep=None if condition[0] is not None else self._kept(masks, canvas),
                condition=_stack(condition),
                sampler=shared.sampler,
                tile=self._tile(canvas, is_enlarged=size != shared.size),
            ),
            on_step,
        )
        with self._vae_for(canvas):
            return [self._decode(each, size) for each in latents]

    def _canvas(self, size: tuple[int, int]) -> tuple[int, int]:
        width, height = (math.ceil(side / self._factor) * self._factor for side in size)
        return width, height

    def _tile(self, canvas: tuple[int, int], is_enlarged: bool) -> int | None:
        """The side of a tile, in latents, for an enlarged picture that the device has no room for.

        What is painted from noise is never divided: each tile would hold a picture of its own.
        """
        if not is_enlarged or canvas[0] * canvas[1] <= max(self.max_pixels, self._own_pixels):
            return None
        return math.isqrt(self._own_pixels) // self._factor

    def _vae_for(self, canvas: tuple[int, int]) -> AbstractContextManager[None]:
        """Tiles for a picture that the device has no room for."""
        has_room = canvas[0] * canvas[1] <= max(self.max_pixels, self._own_pixels)
        return tiled_vae(self._pipeline, needed=not has_room)

    def _encode(self, reference: Image.Image, canvas: tuple[int, int]) -> torch.Tensor:
        """Its latents, (1, channels, height, width), on the device."""
        latents = encode_finite(self._pipeline.vae, extend(reference, canvas))
        return latents.to(self._denoiser.device, self._pipeline.unet.dtype)

    def _condition(
        self, reference: Image.Image | None, mask: Mask | None, canvas: tuple[int, int]
    ) -> torch.Tensor | None:
        """The further channels of an inpainting UNet: the mask, and what is kept of the reference.

        Without a mask, all is to be painted. None for any other UNet.
        """
        unet = self._pipeline.unet
        if unet.config.in_channels == unet.config.out_channels:
            return None
        if reference is None or mask is None:
            mask = Mask(Image.new("L", canvas, 255))
            reference = Image.new("RGB", canvas)
        painted = mask.in_latents(canvas, self._factor)
        kept = self._encode(mask.cut_out(reference), canvas)
        return torch.cat([painted.to(kept), kept], 1)

    def _kept(self, masks: Sequence[Mask | None], canvas: tuple[int, int]) -> torch.Tensor | None:
        """1 where the latents of the reference stay; None without masks."""
        painted = [mask.in_latents(canvas, self._factor) for mask in masks if mask is not None]
        return 1 - torch.cat(painted).to(self._denoiser.device) if painted else None

    def _decode(
        self, latents: torch.Tensor, size: tuple[int, int]
    ) -> Image.Image | UnusablePicture:
        pixels = decode_finite(self._pipeline.vae, latents)
        if isinstance(pixels, UnusablePicture):
            return pixels
        # Without previews the map is not used, so it need not be fitted.
        if self._preview_map.is_fitted:
            self._preview_map.fit(latents.float().cpu(), pixels.float().cpu())
        return to_image(pixels).crop((0, 0, *size))


def _stack(rows: Sequence[torch.Tensor | None]) -> torch.Tensor | None:
    """The rows as one batch; None where there are none."""
    present = [row for row in rows if row is not None]
    return torch.cat(present) if present else None
