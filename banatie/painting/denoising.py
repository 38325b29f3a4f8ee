"""Denoising: from noise, or from a noised reference, to finished latents.

The loop of a Stable Diffusion XL pipeline with classifier-free guidance. It may start in the middle
of the schedule, from a reference (arXiv:2108.01073); keep what a mask does not cover, by putting
the noised reference back after each step (arXiv:2201.09865); give an inpainting UNet its further
channels; and predict in overlapping tiles whose predictions are averaged (arXiv:2302.08113), so
that a large picture takes no more memory than a tile and has no seams. Knows no pixels and no jobs.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import SchedulerMixin, StableDiffusionXLPipeline

from banatie.models.samplers import SamplerChoice
from banatie.painting.cuda_graphs import UNetGraphs
from banatie.painting.image_prompt import ImageTokens
from banatie.painting.schedulers import fresh_schedule, steps_done, with_sampler
from banatie.painting.text_encoding import TextEmbedding
from banatie.painting.tiles import Tile, tiles_of

OnStep = Callable[[int], None]
"""Called with the number of steps finished in this pass; may raise to stop it."""


@dataclass(frozen=True)
class DenoisingPass:
    """One pass over a batch of latents, whose rows share everything but texts and seeds.

    Height and width are in latents.
    """

    height: int
    width: int
    steps: int
    """The steps of a whole picture; a pass that starts in the middle does a part of them."""
    guidance_scale: float
    seeds: Sequence[int]
    positive: TextEmbedding
    negative: TextEmbedding | None
    """None: without guidance."""
    denoise: float = 1.0
    """The part of the schedule that is done: 1 starts from pure noise."""
    reference: torch.Tensor | None = None
    """The latents that are noised and started from: (batch, channels, height, width)."""
    keep: torch.Tensor | None = None
    """Where the latents are those of the reference in the end (1) or free (0): (batch, 1, …)."""
    condition: torch.Tensor | None = None
    """The further input channels of an inpainting UNet: (batch, channels, height, width)."""
    sampler: SamplerChoice | None = None
    """None: the scheduler that the denoiser was given."""
    image_tokens: ImageTokens | None = None
    """For the IP-Adapter that is in the UNet."""
    tile: int | None = None
    """Predict in tiles of this side, in latents; None: all at once."""


class Denoiser:
    """The UNet of a pipeline, with a scheduler; for one thread at a time."""

    def __init__(
        self, pipeline: StableDiffusionXLPipeline, scheduler: SchedulerMixin, device: str
    ) -> None:
        """`scheduler` has the configuration; each pass has a fresh one."""
        self._pipeline = pipeline
        self._scheduler = scheduler
        self.device = device
        self.graphs = UNetGraphs(pipeline.unet)
        self.pred_x0: torch.Tensor | None = None
        """The prediction of the finished latents, while a pass runs."""

    def run(self, asked: DenoisingPass, on_step: OnStep) -> torch.Tensor:
        """The finished latents. Raises PaintingError if the scheduler cannot do that many steps."""
        schedule = fresh_schedule(
            with_sampler(self._scheduler, asked.sampler), asked.steps, asked.denoise, self.device
        )
        scheduler, timesteps = schedule.scheduler, schedule.timesteps
        generators = [torch.Generator("cpu").manual_seed(seed) for seed in asked.seeds]
        noise = self._noise(asked, generators)
        latents = noise * scheduler.init_noise_sigma
        if asked.reference is not None and asked.denoise < 1:
            latents = scheduler.add_noise(asked.reference, noise, timesteps[:1])
        options = _step_options(scheduler, generators)
        predict = _Prediction(self._pipeline, self.graphs, asked, self.device)
        for index, timestep in enumerate(timesteps):
            predicted = predict(scheduler.scale_model_input(latents, timestep), timestep)
            output = scheduler.step(predicted, timestep, latents, **options)
            latents = output.prev_sample
            pred_x0 = getattr(output, "pred_original_sample", None)
            if asked.reference is not None and asked.keep is not None:
                known = asked.reference
                if index + 1 < len(timesteps):
                    known = scheduler.add_noise(known, noise, timesteps[index + 1 : index + 2])
                latents = torch.where(asked.keep > 0, known, latents)
                if pred_x0 is not None:
                    pred_x0 = torch.where(asked.keep > 0, asked.reference, pred_x0)
            self.pred_x0 = latents if pred_x0 is None else pred_x0
            done = steps_done(index + 1, len(timesteps), schedule.steps, scheduler.order)
            if done is not None:
                on_step(done)
        return latents

    def _noise(self, asked: DenoisingPass, generators: Sequence[torch.Generator]) -> torch.Tensor:
        unet = self._pipeline.unet
        shape = (1, unet.config.out_channels, asked.height, asked.width)
        # Always drawn in float32 on the CPU: the same noise on every device and in a batch.
        noise = torch.cat([torch.randn(shape, generator=generator) for generator in generators])
        return noise.to(self.device, unet.dtype)


class _Prediction:
    """What the UNet predicts for some latents, with guidance."""

    def __init__(
        self,
        pipeline: StableDiffusionXLPipeline,
        graphs: UNetGraphs,
        asked: DenoisingPass,
        device: str,
    ) -> None:
        self._unet = pipeline.unet
        self._graphs = graphs
        self._asked = asked
        self._factor = pipeline.vae_scale_factor
        texts = [asked.positive] if asked.negative is None else [asked.negative, asked.positive]
        self._passes = len(texts)
        self._sequence = torch.cat([text.sequence for text in texts]).to(device)
        self._pooled = torch.cat([text.pooled for text in texts]).to(device)
        self._image_tokens = None
        if (tokens := asked.image_tokens) is not None:
            rows = [tokens.positive] if self._passes == 1 else [tokens.negative, tokens.positive]
            self._image_tokens = torch.cat(rows).to(device)
        self._guidance_embedding = None
        if (width := self._unet.config.time_cond_proj_dim) is not None:
            # A UNet that was distilled to know the guidance scale (arXiv:2210.03142).
            scale = torch.tensor(asked.guidance_scale - 1).repeat(len(asked.seeds))
            self._guidance_embedding = pipeline.get_guidance_scale_embedding(
                scale, embedding_dim=width
            ).to(device, self._unet.dtype)

    def __call__(self, latents: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        """The prediction for scaled latents of the whole picture."""
        asked = self._asked
        tiles = tiles_of(asked.height, asked.width, asked.tile)
        if len(tiles) == 1:
            return self._predict(latents, timestep, tiles[0])
        total = torch.zeros(latents.shape, dtype=torch.float32, device=latents.device)
        weights = torch.zeros((asked.height, asked.width), device=latents.device)
        for tile in tiles:
            weight = tile.weight().to(latents.device)
            predicted = self._predict(latents[tile.window], timestep, tile)
            total[tile.window] += predicted * weight
            weights[tile.window[-2:]] += weight
        return (total / weights).to(latents.dtype)

    def _predict(self, latents: torch.Tensor, timestep: torch.Tensor, tile: Tile) -> torch.Tensor:
        asked = self._asked
        inputs = [latents]
        if asked.condition is not None:
            inputs.append(asked.condition[tile.window])
        predicted = self._graphs.predict(
            {
                "sample": torch.cat([torch.cat(inputs, 1)] * self._passes),
                "timestep": timestep,
                "encoder_hidden_states": self._sequence,
                "image_tokens": self._image_tokens,
                "timestep_cond": self._guidance_embedding,
                "text_embeds": self._pooled,
                "time_ids": self._time_ids(tile),
            }
        )
        if self._passes == 1:
            return predicted
        unguided, guided = predicted.chunk(2)
        return unguided + asked.guidance_scale * (guided - unguided)

    def _time_ids(self, tile: Tile) -> torch.Tensor:
        """The picture's size, where the tile is in it, and its size (arXiv:2307.01952, 2.2)."""
        asked = self._asked
        latents = (asked.height, asked.width, tile.top, tile.left, tile.height, tile.width)
        pixels = [number * self._factor for number in latents]
        row = torch.tensor([pixels], dtype=self._sequence.dtype, device=self._sequence.device)
        return row.repeat(len(self._sequence), 1)


def _step_options(
    scheduler: SchedulerMixin, generators: Sequence[torch.Generator]
) -> dict[str, Any]:
    known = {"eta": 0.0, "generator": list(generators)}
    accepted = inspect.signature(scheduler.step).parameters
    return {name: value for name, value in known.items() if name in accepted}
