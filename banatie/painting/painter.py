"""The painter: a Stable Diffusion XL pipeline that turns jobs into pictures.

It paints one job, or several of one shape, reports each step, and raises Banatie's own errors.
After an error it is ready for the next job. The same job gives the same picture whatever was
painted before.
Knows no file formats, no queue and no database.
"""

from __future__ import annotations

import logging
import textwrap
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from diffusers import StableDiffusionXLPipeline
from PIL import Image

from banatie.devices.memory_plan import ALL_RESIDENT, Plan
from banatie.devices.runtime import Runtime, free_memory, is_out_of_memory
from banatie.errors import ModelBroken, OutOfMemory, PaintingError, UnusablePicture
from banatie.models.types import IpAdapter, PaintingModel
from banatie.models.validate import check_pipeline
from banatie.painting.denoising import Denoiser
from banatie.painting.image_prompt import ImagePrompter, ImageTokens
from banatie.painting.job import OnStep, PaintJob
from banatie.painting.library_internals import CompilationError, drop_compiled_calls
from banatie.painting.lora import LOADING_ERRORS, applied
from banatie.painting.offload import PipelineOffload
from banatie.painting.passes import PicturePasses
from banatie.painting.pipeline import Checksum, load_pipeline
from banatie.painting.previews import LatentToRgb
from banatie.painting.schedulers import configured_scheduler, sampler_name
from banatie.painting.text_encoding import PromptEncoder, TextEmbedding
from banatie.painting.vae import decode

logger = logging.getLogger(__name__)


class Painter:
    """One loaded model; for one thread at a time, except for counting tokens."""

    def __init__(
        self,
        pipeline: StableDiffusionXLPipeline,
        model: PaintingModel,
        runtime: Runtime,
        weights: Sequence[Path],
        compiled: bool = False,
    ) -> None:
        self._pipeline = pipeline
        self._runtime = runtime
        self._offload = PipelineOffload(pipeline, runtime, self._forget_places)
        self._encoder = PromptEncoder(
            (pipeline.tokenizer, pipeline.tokenizer_2),
            (pipeline.text_encoder, pipeline.text_encoder_2),
            pipeline.config.force_zeros_for_empty_prompt,
            self._offload.encoders_on_device,
        )
        self._keeps_unet = True
        self._keeps_adapter = True
        self._scheduler = configured_scheduler(pipeline.scheduler, model)
        self._checksum = Checksum(weights)
        factor = pipeline.vae_scale_factor
        self._preview_map = LatentToRgb(
            pipeline.unet.config.out_channels, factor, max(map(max, model.sizes.values())) // factor
        )
        self._denoiser = Denoiser(pipeline, self._scheduler, runtime.device)
        self.uses_graphs = runtime.device.startswith("cuda") and not compiled
        """Whether the UNet's kernels may be recorded; can be changed between two pictures."""
        self._passes = PicturePasses(pipeline, self._denoiser, self._preview_map, model)
        self._image_prompter: ImagePrompter | None = None

    @classmethod
    def load(
        cls,
        model: PaintingModel,
        runtime: Runtime,
        plan: Plan = ALL_RESIDENT,
        compiled: bool = False,
        ip_adapter: IpAdapter | None = None,
    ) -> Painter:
        """Load the model from its folder onto the runtime's device, placed as the plan says.

        `compiled` compiles the UNet's repeated blocks while the first picture of each size is
        painted. An IP-Adapter that is damaged or does not fit is logged and left out. Opens no
        connection. Raises ModelNotFound or ModelBroken, naming the file and the
        remedy, or OutOfMemory.
        """
        weights = check_pipeline(model.folder)
        try:
            pipeline = load_pipeline(model.folder, weights, runtime)
            painter = cls(pipeline, model, runtime, weights["unet"], compiled)
            if ip_adapter is not None:
                painter.load_ip_adapter(ip_adapter)
            painter.arrange(plan)
            if compiled:
                # The blocks are alike, so that one compilation serves all of them.
                pipeline.unet.compile_repeated_blocks(fullgraph=True)
        except (*LOADING_ERRORS, ImportError, MemoryError) as error:
            if not is_out_of_memory(error):
                reason = textwrap.shorten(str(error), 300)
                raise ModelBroken(
                    f"{model.folder} cannot be loaded ({reason}); copy the model's folder again"
                ) from error
        else:
            return painter
        free_memory(runtime.device)
        raise OutOfMemory(f"the model {model.name!r} does not fit the memory of {runtime.device}")

    def load_ip_adapter(self, adapter: IpAdapter) -> None:
        """Load an adapter into main memory; one that is broken or does not fit is logged."""
        try:
            self._image_prompter = ImagePrompter.load(adapter, self._pipeline.unet, self._runtime)
        except ModelBroken as error:
            logger.error("several references cannot be combined: %s", error)

    @property
    def reads_pictures(self) -> bool:
        """Whether jobs may have `image_prompts`."""
        return self._image_prompter is not None

    def arrange(self, plan: Plan) -> None:
        """Place the model's parts as the plan says; see `PipelineOffload.apply`."""
        self._offload.apply(plan)
        self._keeps_adapter = plan.painter == "resident"
        self._move_adapter(self._runtime.device)
        self._keeps_unet = not plan.painter.startswith("offload-layers")
        self._passes.max_pixels = plan.max_pixels

    @property
    def max_pixels(self) -> int:
        """The plan's `max_pixels`; can be changed between two pictures."""
        return self._passes.max_pixels

    @max_pixels.setter
    def max_pixels(self, pixels: int) -> None:
        self._passes.max_pixels = pixels

    def move_to(self, device: str) -> None:
        """Move all parts that the plan keeps on the device, between two pictures."""
        self._offload.move_to(device)
        self._move_adapter(device)

    @property
    def fingerprint(self) -> str:
        """The first ten hexadecimal digits of the SHA-256 of the UNet's files.

        Empty if a file could not be read. The first call waits until the hash is computed.
        """
        return self._checksum.digits()

    @property
    def sampler(self) -> str:
        """The name under which other programs know the model's scheduler."""
        return sampler_name(self._scheduler)

    def count_tokens(self, text: str) -> int:
        """The larger of both tokenizers' counts, without the special tokens."""
        return self._encoder.count_tokens(text)

    def chunks(self, job: PaintJob) -> int:
        """The number of chunks of tokens of the job's longer text; see `text_encoding`."""
        texts = job.texts if self._is_guided(job) else job.texts[:1]
        return max(self._encoder.chunks(text) for text in texts)

    def paint(self, job: PaintJob, on_step: OnStep) -> Image.Image:
        """Paint one picture, as `paint_batch` does, but raise its error instead of returning it."""
        [picture] = self.paint_batch([job], on_step)
        if isinstance(picture, PaintingError):
            raise picture
        return picture

    def paint_batch(
        self, jobs: Sequence[PaintJob], on_step: OnStep
    ) -> list[Image.Image | UnusablePicture]:
        """Paint several jobs of one `batch_key` at once, whose texts are of one length.

        `on_step` is called after each denoising step; an exception from it stops the painting.
        Raises OutOfMemory after freeing the memory, ModelBroken when a LoRA does not fit, or
        PaintingError when the model cannot paint in that many steps.
        """
        try:
            return self._paint(jobs, on_step)
        except CompilationError as error:
            # A missing or outdated compiler shows only now.
            reason = textwrap.shorten(str(error), 300)
            logger.warning("the UNet cannot be compiled and runs uncompiled: %s", reason)
        drop_compiled_calls(self._pipeline.unet)
        return self._paint(jobs, on_step)

    def previews(self) -> list[Image.Image]:
        """Small pictures of the jobs in progress; to be called inside `on_step`."""
        pred_x0 = self._denoiser.pred_x0
        if pred_x0 is None:
            return []
        self._preview_map.fit_random(lambda latents: decode(self._pipeline.vae, latents))
        return [self._preview_map.render(latents) for latents in pred_x0.float().cpu()]

    def _paint(
        self, jobs: Sequence[PaintJob], on_step: OnStep
    ) -> list[Image.Image | UnusablePicture]:
        # A LoRA or an IP-Adapter changes layers for one job. Recording these has not been tried on
        # a card.
        is_changed = bool(jobs[0].loras or jobs[0].image_prompts)
        self._denoiser.graphs.enabled = self.uses_graphs and self._keeps_unet and not is_changed
        try:
            with (
                applied(self._pipeline, jobs[0].loras, self._clear_embeddings),
                torch.inference_mode(),
            ):
                texts = self._encode(jobs)
                with self._steering(jobs) as image_tokens:
                    return self._passes.paint(jobs, *texts, on_step, image_tokens)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        finally:
            self._denoiser.pred_x0 = None
        # Raised here, because the error's traceback keeps its tensors alive, and an error raised
        # inside the handler would keep that one.
        self._denoiser.graphs.clear()
        free_memory(self._runtime.device)
        width, height = jobs[0].final_size
        raise OutOfMemory(
            f"{self._runtime.device} ran out of memory for a picture of {width} × {height}; close "
            "other programs that use it, or choose a smaller model"
        )

    def _encode(self, jobs: Sequence[PaintJob]) -> tuple[TextEmbedding, TextEmbedding | None]:
        return self._encoder.encode_batch(
            [job.texts[0] for job in jobs],
            [job.texts[1] for job in jobs] if self._is_guided(jobs[0]) else [],
        )

    def _steering(self, jobs: Sequence[PaintJob]) -> AbstractContextManager[ImageTokens | None]:
        """The jobs' pictures in the UNet, if they have any and these are to be seen."""
        if not jobs[0].image_prompts or jobs[0].reference_strength == 0:
            return nullcontext()
        if self._image_prompter is None:
            raise ValueError("no IP-Adapter is loaded")
        return self._image_prompter.steering(self._pipeline.unet, jobs)

    def _move_adapter(self, device: str) -> None:
        if self._image_prompter is not None:
            self._image_prompter.move_to(device, stays=self._keeps_adapter)

    def _is_guided(self, job: PaintJob) -> bool:
        """Whether classifier-free guidance is used, for which a negative prompt is encoded."""
        return job.guidance_scale > 1 and self._pipeline.unet.config.time_cond_proj_dim is None

    def _clear_embeddings(self) -> None:
        self._encoder.clear_cache()

    def _forget_places(self) -> None:
        """Drop what refers to where the weights were."""
        self._clear_embeddings()
        self._denoiser.graphs.clear()
