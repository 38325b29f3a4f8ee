"""The painter: a Stable Diffusion XL pipeline that turns jobs into pictures.

It loads a folder in the diffusers layout, paints one job or several of one shape, tells of each
step and says in Banatie's own errors what went wrong, after which it is ready for the next job. The
same job gives the same picture whatever was painted before. Where its parts lie, a memory plan
says. Knows no file formats, no queue and no database.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import mmap
import textwrap
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import diffusers
import torch
from diffusers import (
    AutoencoderKL,
    SchedulerMixin,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from diffusers.hooks.group_offloading import _maybe_remove_and_reapply_group_offloading
from diffusers.utils import logging as diffusers_logging
from PIL import Image
from torch._dynamo.exc import TorchDynamoException
from transformers import CLIPTextModel, CLIPTextModelWithProjection
from transformers.utils import logging as transformers_logging

from banatie.devices.memory_plan import TILE_SHARE, WHOLE, Plan
from banatie.devices.runtime import Runtime, free_memory, is_out_of_memory
from banatie.errors import ModelBroken, OutOfMemory, PaintingError, UnusablePicture
from banatie.models.types import PaintingModel
from banatie.models.validate import check_pipeline, is_half_precision
from banatie.painting.lora import LOADING_ERRORS, Lora, applied
from banatie.painting.previews import LatentToRgb
from banatie.painting.text_encoding import PromptEncoder

logger = logging.getLogger(__name__)

OnStep = Callable[[int, int], None]
"""Called with the number of steps done and the number of all; may raise to stop the painting."""

_MODELS = {
    "unet": UNet2DConditionModel,
    "vae": AutoencoderKL,
    "text_encoder": CLIPTextModel,
    "text_encoder_2": CLIPTextModelWithProjection,
}
_SAMPLERS = {
    "DDIMScheduler": "DDIM",
    "DPMSolverMultistepScheduler": "DPM++ 2M",
    "DPMSolverSDEScheduler": "DPM++ SDE",
    "EulerAncestralDiscreteScheduler": "Euler a",
    "EulerDiscreteScheduler": "Euler",
    "HeunDiscreteScheduler": "Heun",
    "LCMScheduler": "LCM",
    "TCDScheduler": "TCD",
    "UniPCMultistepScheduler": "UniPC",
}
_LOADING_ERRORS = (*LOADING_ERRORS, ImportError, MemoryError)


@dataclass(frozen=True)
class PaintJob:
    """One picture to be painted; width and height in pixels, the seed from 0 to 2⁵³ − 1."""

    prompt: str
    negative_prompt: str
    width: int
    height: int
    steps: int
    guidance_scale: float
    seed: int
    loras: tuple[Lora, ...] = ()


class Painter:
    """One loaded model; for one thread at a time, but for what counts tokens."""

    def __init__(
        self,
        pipeline: StableDiffusionXLPipeline,
        model: PaintingModel,
        runtime: Runtime,
        weights: Sequence[Path],
    ) -> None:
        self._pipeline = pipeline
        self._runtime = runtime
        self._encoder = PromptEncoder(
            (pipeline.tokenizer, pipeline.tokenizer_2),
            (pipeline.text_encoder, pipeline.text_encoder_2),
            pipeline.config.force_zeros_for_empty_prompt,
            self._fetching_encoders,
        )
        self._scheduler = _scheduler(pipeline.scheduler, model)
        self._fingerprint = _Fingerprint(weights)
        self._device = "cpu"
        self._streams = self._sets_aside = False
        self._pred_x0: torch.Tensor | None = None
        """What the scheduler takes the finished latents for, while a picture is painted."""
        factor = pipeline.vae_scale_factor
        self._colours = LatentToRgb(
            pipeline.unet.config.in_channels, factor, max(map(max, model.sizes.values())) // factor
        )

    @classmethod
    def load(
        cls, model: PaintingModel, runtime: Runtime, plan: Plan = WHOLE, compiled: bool = False
    ) -> Painter:
        """Load the model from its folder onto the runtime's device, as the plan has it.

        `compiled` has the UNet's repeated blocks compiled while the first picture of each size is
        painted. No network is used. Raises ModelNotFound or ModelBroken, naming the file and the
        remedy, or OutOfMemory.
        """
        weights = check_pipeline(model.folder)
        diffusers_logging.disable_progress_bar()
        transformers_logging.disable_progress_bar()
        try:
            pipeline = _load_pipeline(model.folder, weights, runtime)
            painter = cls(pipeline, model, runtime, weights["unet"])
            painter.arrange(plan)
            if compiled:
                # The blocks are alike, so that one compilation serves all of them.
                pipeline.unet.compile_repeated_blocks(fullgraph=True)
        except _LOADING_ERRORS as error:
            if not is_out_of_memory(error):
                reason = textwrap.shorten(str(error), 300)
                raise ModelBroken(
                    f"{model.folder} cannot be loaded ({reason}); copy the model's folder again"
                ) from error
        else:
            return painter
        free_memory(runtime.device)
        raise OutOfMemory(f"the model {model.name!r} does not fit the memory of {runtime.device}")

    def arrange(self, plan: Plan) -> None:
        """Lay the model out as the plan says; between two pictures, and only ever downwards."""
        pipeline = self._pipeline
        if plan.tiled:
            pipeline.vae.enable_tiling()
            # As it comes, a tile is as large as SDXL's whole picture, and nothing would be saved.
            pipeline.vae.tile_sample_min_size = pipeline.vae.config.sample_size // TILE_SHARE
            pipeline.vae.tile_latent_min_size = (
                pipeline.vae.tile_sample_min_size // pipeline.vae_scale_factor
            )
        self._sets_aside = plan.painter != "resident"
        if plan.painter == "offload-layers-fp8":
            pipeline.unet.enable_layerwise_casting(
                storage_dtype=torch.float8_e4m3fn, compute_dtype=self._runtime.dtype
            )
            _maybe_remove_and_reapply_group_offloading(pipeline.unet)
        if plan.painter.startswith("offload-layers") and not self._streams:
            self._streams = True
            pipeline.unet.to("cpu")
            pipeline.unet.enable_group_offload(
                onload_device=torch.device(self._runtime.device),
                offload_device=torch.device("cpu"),
                offload_type="leaf_level",
                # Brings the next layer while this one computes.
                use_stream=self._runtime.device.startswith("cuda"),
            )
        self._device = ""
        self.move_to(self._runtime.device)

    def move_to(self, device: str) -> None:
        """Bring all that the plan has there, between two pictures; nothing if it is there."""
        if self._device == device:
            return
        pipeline = self._pipeline
        pipeline.vae.to(device)
        if not self._streams:
            pipeline.unet.to(device)
        self._move_encoders("cpu" if self._sets_aside else device)
        self._encoder.forget()
        self._device = device
        free_memory(self._runtime.device)

    @contextmanager
    def _fetching_encoders(self) -> Iterator[None]:
        if not self._sets_aside:
            yield
            return
        self._move_encoders(self._device)
        try:
            yield
        finally:
            self._move_encoders("cpu")
            free_memory(self._device)

    def _move_encoders(self, device: str) -> None:
        self._pipeline.text_encoder.to(device)
        self._pipeline.text_encoder_2.to(device)

    @property
    def fingerprint(self) -> str:
        """The first ten hexadecimal digits of the SHA-256 of the UNet's weights.

        Empty if the files were gone before they were read. Waits on the first call if need be.
        """
        return self._fingerprint.digits()

    @property
    def sampler(self) -> str:
        """The name by which other programs know the model's scheduler."""
        name = type(self._scheduler).__name__
        sampler = _SAMPLERS.get(name, name.removesuffix("Scheduler"))
        return f"{sampler} Karras" if self._scheduler.config.get("use_karras_sigmas") else sampler

    def count_tokens(self, text: str) -> int:
        """The larger of both tokenizers' counts, without the tokens that mark beginning and end."""
        return self._encoder.count_tokens(text)

    def chunks(self, job: PaintJob) -> int:
        """How many chunks of tokens the job's texts are; see `conditioning`."""
        texts = [job.prompt, job.negative_prompt] if self._is_guided(job) else [job.prompt]
        return max(self._encoder.chunks(text) for text in texts)

    def paint(self, job: PaintJob, on_step: OnStep) -> Image.Image:
        """Paint one picture; as `paint_batch`, but raises what would stand in its place."""
        [picture] = self.paint_batch([job], on_step)
        if isinstance(picture, PaintingError):
            raise picture
        return picture

    def paint_batch(
        self, jobs: Sequence[PaintJob], on_step: OnStep
    ) -> list[Image.Image | UnusablePicture]:
        """Paint jobs at once that differ in texts of one length and seed alone; their pictures.

        `on_step` is called after each denoising step, and whatever it raises stops the painting
        there. Raises OutOfMemory, with the memory freed, ModelBroken when a LoRA does not fit, or
        PaintingError when the model cannot paint in that many steps.
        """
        try:
            return self._paint(jobs, on_step)
        except TorchDynamoException as error:
            # A compiler that is missing or too old shows only now. Pictures can be made without.
            reason = textwrap.shorten(str(error), 300)
            logger.warning("the UNet cannot be compiled and paints as it is: %s", reason)
        for block in self._pipeline.unet.modules():
            block._compiled_call_impl = None
        return self._paint(jobs, on_step)

    def previews(self) -> list[Image.Image]:
        """Small pictures of what the jobs are becoming; to be asked for inside `on_step`."""
        if self._pred_x0 is None:
            return []
        self._colours.guess(self._decode_pixels)
        return [self._colours.draw(latents) for latents in self._pred_x0.float().cpu()]

    def _paint(
        self, jobs: Sequence[PaintJob], on_step: OnStep
    ) -> list[Image.Image | UnusablePicture]:
        try:
            with (
                applied(self._pipeline, jobs[0].loras, self._encoder.forget),
                torch.inference_mode(),
            ):
                return [self._decode(latents) for latents in self._denoise(jobs, on_step)]
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        finally:
            self._pred_x0 = None
        # Raised out here because the error's frames hold every tensor that was too many, and an
        # error raised while handling another holds that one.
        free_memory(self._runtime.device)
        raise OutOfMemory(
            f"the memory of {self._runtime.device} did not suffice for a picture of "
            f"{jobs[0].width} × {jobs[0].height}; close what else uses it, or take a smaller model"
        )

    def _denoise(self, jobs: Sequence[PaintJob], on_step: OnStep) -> torch.Tensor:
        pipeline, shared = self._pipeline, jobs[0]
        pipeline.scheduler = self._fresh_scheduler(shared.steps)
        generators = [torch.Generator("cpu").manual_seed(job.seed) for job in jobs]
        factor = pipeline.vae_scale_factor
        shape = (
            1,
            pipeline.unet.config.in_channels,
            shared.height // factor,
            shared.width // factor,
        )
        # Always drawn in full precision on the CPU: the same noise on every device and in a batch.
        noise = torch.cat([torch.randn(shape, generator=generator) for generator in generators])
        noise = noise.to(pipeline.unet.dtype)
        positive, negative = self._encoder.encode_batch(
            [job.prompt for job in jobs],
            [job.negative_prompt for job in jobs] if self._is_guided(shared) else [],
        )
        order = pipeline.scheduler.order

        def step_ended(pipeline: StableDiffusionXLPipeline, index: int, *_: object) -> dict:
            # Some schedulers ask the UNet twice for a step, and some once more at the start.
            asked, evaluations = index + 1, pipeline.num_timesteps
            warm_up = max(evaluations - shared.steps * order, 0)
            if asked == evaluations:
                on_step(shared.steps, shared.steps)
            elif asked > warm_up and (asked - warm_up) % order == 0:
                on_step((asked - warm_up) // order, shared.steps)
            return {}

        return pipeline(
            prompt_embeds=positive.sequence,
            pooled_prompt_embeds=positive.pooled,
            negative_prompt_embeds=negative.sequence if negative else None,
            negative_pooled_prompt_embeds=negative.pooled if negative else None,
            width=shared.width,
            height=shared.height,
            num_inference_steps=shared.steps,
            guidance_scale=shared.guidance_scale,
            latents=noise,
            generator=generators,
            output_type="latent",
            return_dict=False,
            callback_on_step_end=step_ended,
            callback_on_step_end_tensor_inputs=[],
        )[0]

    def _is_guided(self, job: PaintJob) -> bool:
        return job.guidance_scale > 1 and self._pipeline.unet.config.time_cond_proj_dim is None

    def _fresh_scheduler(self, steps: int) -> SchedulerMixin:
        # Schedulers remember the picture they are in, so that each picture gets its own.
        scheduler = type(self._scheduler).from_config(self._scheduler.config)
        try:
            scheduler.set_timesteps(steps)
        except ValueError as error:
            raise PaintingError(f"this model cannot paint in {steps} steps: {error}") from error
        take_step = scheduler.step

        # The pipeline looks at the signature for what the scheduler takes.
        @functools.wraps(take_step)
        def step(*arguments: object, return_dict: bool = True, **options: object) -> tuple:
            taken = take_step(*arguments, return_dict=True, **options)
            pred_x0 = getattr(taken, "pred_original_sample", None)
            self._pred_x0 = taken.prev_sample if pred_x0 is None else pred_x0
            return (taken.prev_sample,)

        scheduler.step = step
        return scheduler

    def _decode(self, latents: torch.Tensor) -> Image.Image | UnusablePicture:
        if not torch.isfinite(latents).all():
            return UnusablePicture("the model gave no usable numbers; try other parameters")
        vae = self._pipeline.vae
        pixels = self._decode_pixels(latents[None])
        if not torch.isfinite(pixels).all() and vae.dtype != torch.float32:
            half = vae.dtype
            vae.to(torch.float32)
            try:
                pixels = self._decode_pixels(latents[None])
            finally:
                vae.to(half)
        if not torch.isfinite(pixels).all():
            return UnusablePicture("the model's decoder gave no usable numbers, even in float32")
        # Where nobody has asked for a preview, there is nothing to learn for.
        if self._colours.are_known:
            self._colours.learn(latents.float().cpu(), pixels[0].float().cpu())
        levels = pixels[0].float().mul(0.5).add_(0.5).clamp_(0, 1).mul_(255).round_().byte()
        return Image.fromarray(levels.permute(1, 2, 0).contiguous().cpu().numpy())

    def _decode_pixels(self, latents: torch.Tensor) -> torch.Tensor:
        vae = self._pipeline.vae
        latents = latents.to(vae.device, vae.dtype) / vae.config.scaling_factor
        mean, deviation = vae.config.get("latents_mean"), vae.config.get("latents_std")
        if mean is not None and deviation is not None:
            column = (1, -1, 1, 1)
            latents = latents * latents.new_tensor(deviation).view(column)
            latents = latents + latents.new_tensor(mean).view(column)
        return vae.decode(latents, return_dict=False)[0]


class _Fingerprint:
    """The SHA-256 of some files, computed once, beside whatever else is going on.

    A UNet of 5 GB takes seconds, which fit into the first picture's painting. Kept nowhere: a
    stored hash would have to be believed when the file has changed.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self._digits = ""
        self._thread = threading.Thread(target=self._read, args=(files,), daemon=True)
        self._thread.start()

    def digits(self) -> str:
        self._thread.join()
        return self._digits

    def _read(self, files: Sequence[Path]) -> None:
        digest = hashlib.sha256()
        try:
            for file in files:
                with (
                    file.open("rb") as opened,
                    # Mapped, so that one call hashes it all without the interpreter's lock.
                    mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content,
                ):
                    digest.update(content)
        except OSError:
            return
        self._digits = digest.hexdigest()[:10]


def _load_pipeline(
    folder: Path, weights: Mapping[str, Sequence[Path]], runtime: Runtime
) -> StableDiffusionXLPipeline:
    models = {}
    for name, model_class in _MODELS.items():
        dtype = runtime.dtype
        # SDXL's VAE overflows in half precision, which shows as a black picture. Kept in full
        # precision, it need not be cast to and fro for each picture, as diffusers does.
        if name == "vae" and dtype == torch.float16:
            config = AutoencoderKL.load_config(folder / name, local_files_only=True)
            dtype = torch.float32 if config.get("force_upcast", True) else dtype
        models[name], report = model_class.from_pretrained(
            folder / name,
            dtype=dtype,
            variant="fp16" if is_half_precision(weights[name][0].name) else None,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
        # Both libraries would go on with random numbers in the missing ones' place.
        if missing := sorted(report["missing_keys"]):
            raise ModelBroken(
                f"{weights[name][0]} lacks {len(missing)} of the model's tensors, such as "
                f"{missing[0]}; copy the model's folder again"
            )
    pipeline = StableDiffusionXLPipeline.from_pretrained(
        folder,
        **models,
        image_encoder=None,
        feature_extractor=None,
        local_files_only=True,
        add_watermarker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    if runtime.device.startswith("cuda"):
        # The order in which its convolutions want the numbers.
        pipeline.unet.to(memory_format=torch.channels_last)
        pipeline.vae.to(memory_format=torch.channels_last)
    return pipeline


def _scheduler(scheduler: SchedulerMixin, model: PaintingModel) -> SchedulerMixin:
    """The pipeline's scheduler, or the one that the model does better with."""
    settings = dict(model.scheduler)
    name = settings.pop("class", type(scheduler).__name__)
    scheduler_class = getattr(diffusers, name, None)
    if scheduler_class is None:
        raise ModelBroken(f"{model.name} asks for the scheduler {name}, which diffusers lacks")
    return scheduler_class.from_config(scheduler.config, **settings)
