"""Offloading: on which device each part of a pipeline is, as a memory plan says.

Tiled decoding, layerwise casting to float8, group offloading of the UNet, and text encoders that
are on the device only while they encode a prompt. Knows no jobs; `memory_plan` makes the plans, and
the worker chooses among them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from diffusers import StableDiffusionXLPipeline

from banatie.devices.memory_plan import TILE_SHARE, Plan
from banatie.devices.runtime import Runtime, free_memory
from banatie.painting.library_internals import reapply_group_offloading


class PipelineOffload:
    """Places a pipeline's parts; for one thread at a time.

    `on_encoders_moved` is called after the whole pipeline was moved: embeddings that were kept are
    on another device then.
    """

    def __init__(
        self,
        pipeline: StableDiffusionXLPipeline,
        runtime: Runtime,
        on_encoders_moved: Callable[[], None],
    ) -> None:
        self._pipeline = pipeline
        self._runtime = runtime
        self._on_encoders_moved = on_encoders_moved
        self._device = "cpu"
        self._unet_is_offloaded = False
        self._encoders_are_offloaded = False

    def apply(self, plan: Plan) -> None:
        """Place the parts as the plan says, between two pictures; only ever towards less memory."""
        pipeline = self._pipeline
        if plan.tiled:
            _enable_tiling(pipeline)
        self._encoders_are_offloaded = plan.painter != "resident"
        if plan.painter == "offload-layers-fp8":
            pipeline.unet.enable_layerwise_casting(
                storage_dtype=torch.float8_e4m3fn, compute_dtype=self._runtime.dtype
            )
            reapply_group_offloading(pipeline.unet)
        if plan.painter.startswith("offload-layers") and not self._unet_is_offloaded:
            self._unet_is_offloaded = True
            pipeline.unet.to("cpu")
            pipeline.unet.enable_group_offload(
                onload_device=torch.device(self._runtime.device),
                offload_device=torch.device("cpu"),
                offload_type="leaf_level",
                # Copies the next layer while this one computes.
                use_stream=self._runtime.device.startswith("cuda"),
            )
        self._device = ""
        self.move_to(self._runtime.device)

    def move_to(self, device: str) -> None:
        """Move all parts that the plan keeps on the device; does nothing if they are there."""
        if self._device == device:
            return
        pipeline = self._pipeline
        pipeline.vae.to(device)
        if not self._unet_is_offloaded:
            pipeline.unet.to(device)
        self.move_encoders("cpu" if self._encoders_are_offloaded else device)
        self._on_encoders_moved()
        self._device = device
        free_memory(self._runtime.device)

    @contextmanager
    def encoders_on_device(self) -> Iterator[None]:
        """Have the text encoders on the device, and offload them again if the plan says so."""
        if not self._encoders_are_offloaded:
            yield
            return
        self.move_encoders(self._device)
        try:
            yield
        finally:
            self.move_encoders("cpu")
            free_memory(self._device)

    def move_encoders(self, device: str) -> None:
        """Move both text encoders."""
        self._pipeline.text_encoder.to(device)
        self._pipeline.text_encoder_2.to(device)


@contextmanager
def tiled_vae(pipeline: StableDiffusionXLPipeline, needed: bool) -> Iterator[None]:
    """Have the VAE work in tiles, if that is needed and the plan does not say so already."""
    if not needed or pipeline.vae.use_tiling:
        yield
        return
    _enable_tiling(pipeline)
    try:
        yield
    finally:
        pipeline.vae.disable_tiling()


def _enable_tiling(pipeline: StableDiffusionXLPipeline) -> None:
    vae = pipeline.vae
    vae.enable_tiling()
    # By default a tile is as large as SDXL's whole picture, which would save nothing.
    side = vae.config.sample_size // TILE_SHARE // pipeline.vae_scale_factor
    # Neighbours share a quarter, which must be whole latents for them to fit together.
    vae.tile_latent_min_size = max(side - side % 4, 4)
    vae.tile_sample_min_size = vae.tile_latent_min_size * pipeline.vae_scale_factor
