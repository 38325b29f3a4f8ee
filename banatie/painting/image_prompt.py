"""Pictures as prompts: an IP-Adapter (arXiv:2308.06721), by which the UNet attends to references.

A CLIP image encoder reads each picture, the adapter projects what it read to a few tokens, and
attention processors beside the text's let the UNet attend to the tokens of all pictures at once.
The processors are in the UNet only while a batch that has such pictures is painted.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file
from transformers import CLIPVisionModelWithProjection

from banatie.devices.runtime import Runtime, free_memory, is_out_of_memory
from banatie.errors import ModelBroken, PaintingError
from banatie.models.ip_adapter import ADAPTER_FILE, IMAGE_ENCODER, check_ip_adapter
from banatie.models.types import IpAdapter
from banatie.models.validate import is_half_precision
from banatie.painting.job import PaintJob
from banatie.painting.library_internals import ip_adapter_layers, uncompiled
from banatie.painting.lora import LOADING_ERRORS
from banatie.painting.references import fit

MEAN = np.array((0.48145466, 0.4578275, 0.40821073), np.float32)
"""Of the pictures that CLIP was trained with, and their deviation (arXiv:2103.00020)."""
DEVIATION = np.array((0.26862954, 0.26130258, 0.27577711), np.float32)


@dataclass(frozen=True)
class ImageTokens:
    """What the UNet attends to beside the text: (batch, pictures, tokens, width) each."""

    positive: torch.Tensor
    negative: torch.Tensor
    """Of no picture, for classifier-free guidance."""


class ImagePrompter:
    """A loaded IP-Adapter; for one thread at a time."""

    def __init__(
        self,
        encoder: CLIPVisionModelWithProjection,
        projection: torch.nn.Module,
        processors: dict[str, torch.nn.Module],
        detailed: bool,
        runtime: Runtime,
    ) -> None:
        self._encoder = encoder
        self._projection = projection
        self._processors = processors
        self._detailed = detailed
        self._runtime = runtime
        self._stays = False

    @classmethod
    def load(
        cls, adapter: IpAdapter, unet: UNet2DConditionModel, runtime: Runtime
    ) -> ImagePrompter:
        """Load an adapter for this UNet into main memory.

        Opens no connection. Raises ModelBroken when its files are damaged or do not fit the UNet,
        and what the libraries raise when memory runs out.
        """
        folder = adapter.folder
        shape, files = check_ip_adapter(folder)
        try:
            encoder, report = CLIPVisionModelWithProjection.from_pretrained(
                folder / IMAGE_ENCODER,
                dtype=runtime.dtype,
                variant="fp16" if is_half_precision(files[0].name) else None,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
            )
            if missing := sorted(report["missing_keys"]):
                raise ModelBroken(f"its image encoder lacks tensors, such as {missing[0]}")
            tensors = load_file(folder / ADAPTER_FILE)
            projection, processors = ip_adapter_layers(unet, tensors)
        except (*LOADING_ERRORS, ImportError, ModelBroken) as error:
            if is_out_of_memory(error):
                raise
            reason = textwrap.shorten(" ".join(str(error).split()), 300)
            raise ModelBroken(
                f"the IP-Adapter {adapter.name!r} is damaged or does not fit the painting model "
                f"({reason})"
            ) from error
        modules = (projection, *processors.values())
        for module in modules:
            module.to(runtime.dtype).eval().requires_grad_(False)
        return cls(encoder.eval(), projection, processors, shape.detailed, runtime)

    def move_to(self, device: str, *, stays: bool) -> None:
        """Move all parts; what does not stay there is moved to the device for each batch."""
        self._stays = stays
        self._move_encoder(device if stays else "cpu")
        self._move_layers(device if stays else "cpu")

    @contextmanager
    def steering(
        self, unet: UNet2DConditionModel, jobs: Sequence[PaintJob]
    ) -> Iterator[ImageTokens]:
        """Have the UNet attend to the jobs' pictures, of which all have equally many.

        It must be given the tokens in every forward, until the block ends.
        """
        before = unet.attn_processors
        # Compiling the blocks again for one picture would take longer than painting it.
        with uncompiled(unet):
            try:
                tokens = self._tokens(jobs)
                self._move_layers(self._runtime.device)
                for processor in self._processors.values():
                    processor.scale = [jobs[0].reference_strength]
                unet.set_attn_processor(before | self._processors)
                yield tokens
            finally:
                unet.set_attn_processor(before)
                if not self._stays:
                    self._move_layers("cpu")
                    free_memory(self._runtime.device)

    def _tokens(self, jobs: Sequence[PaintJob]) -> ImageTokens:
        self._move_encoder(self._runtime.device)
        self._projection.to(self._runtime.device)
        try:
            # One by one, so that a picture's tokens do not depend on what is painted with it.
            rows = [torch.cat([self._encode(each) for each in job.image_prompts]) for job in jobs]
            negative = self._encode(None).expand_as(rows[0])
        finally:
            if not self._stays:
                self._move_encoder("cpu")
        return ImageTokens(torch.stack(rows), torch.stack([negative] * len(rows)))

    def _encode(self, picture: Image.Image | None) -> torch.Tensor:
        """A picture's tokens, (1, tokens, width); those of no picture for None."""
        side = int(self._encoder.config.image_size)
        pixels = torch.zeros(1, 3, side, side)
        if picture is not None:
            fitted = np.asarray(fit(picture, (side, side)), np.float32) / 255
            normalised = (fitted - MEAN) / DEVIATION
            pixels = torch.from_numpy(normalised).permute(2, 0, 1)[None]
        pixels = pixels.to(self._runtime.device, self._runtime.dtype)
        output = self._encoder(pixels, output_hidden_states=self._detailed)
        if self._detailed:
            features = output.hidden_states[-2]
        else:
            features = output.image_embeds
            if picture is None:
                features = torch.zeros_like(features)
        tokens: torch.Tensor = self._projection(features)
        if not bool(torch.isfinite(tokens).all()):
            raise PaintingError(
                "the reference images cannot be read: the IP-Adapter gives no finite numbers"
            )
        return tokens

    def _move_encoder(self, device: str) -> None:
        self._encoder.to(device)

    def _move_layers(self, device: str) -> None:
        for module in (self._projection, *self._processors.values()):
            module.to(device)
