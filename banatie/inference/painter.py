"""The painter: a Stable Diffusion XL pipeline that turns one job into one picture.

It loads a folder in the diffusers layout, paints, tells of each step and says in Banatie's own
errors what went wrong, after which it is ready for the next job. The same job gives the same
picture whatever was painted before. Knows no file formats, no queue and no database.
"""

from __future__ import annotations

import gc
import hashlib
import mmap
import re
import textwrap
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    SchedulerMixin,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from diffusers.utils import logging as diffusers_logging
from PIL import Image
from safetensors import SafetensorError
from transformers import CLIPTextModel, CLIPTextModelWithProjection
from transformers.utils import logging as transformers_logging

from banatie.errors import ModelBroken, OutOfMemory, PaintingError, UnusablePicture
from banatie.inference.catalog import PaintingModel
from banatie.inference.checking import check_pipeline, is_half
from banatie.inference.conditioning import PromptEncoder
from banatie.inference.loras import Lora, applied
from banatie.inference.runtime import Runtime

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
    "UniPCMultistepScheduler": "UniPC",
}
# Allocators say it in a plain RuntimeError: torch's on the CPU, cuBLAS and cuDNN on their own.
_OUT_OF_MEMORY = re.compile(
    r"out of memory|can't allocate memory|not enough memory|_ALLOC_FAILED", re.IGNORECASE
)
_LOADING_ERRORS = (
    OSError,
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    AttributeError,
    ImportError,
    MemoryError,
    RuntimeError,
    SafetensorError,
)


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
    """One loaded model; for one thread at a time."""

    def __init__(
        self, pipeline: StableDiffusionXLPipeline, runtime: Runtime, weights: Sequence[Path]
    ) -> None:
        self._pipeline = pipeline
        self._runtime = runtime
        self._encoder = PromptEncoder(
            (pipeline.tokenizer, pipeline.tokenizer_2),
            (pipeline.text_encoder, pipeline.text_encoder_2),
            pipeline.config.force_zeros_for_empty_prompt,
        )
        self._scheduler = pipeline.scheduler
        self._fingerprint = _Fingerprint(weights)

    @classmethod
    def load(cls, model: PaintingModel, runtime: Runtime) -> Painter:
        """Load the model from its folder onto the runtime's device; no network is used.

        Raises ModelNotFound or ModelBroken, naming the file and the remedy, or OutOfMemory.
        """
        weights = check_pipeline(model.folder)
        diffusers_logging.disable_progress_bar()
        transformers_logging.disable_progress_bar()
        try:
            pipeline = _load_pipeline(model.folder, weights, runtime)
        except _LOADING_ERRORS as error:
            if not _is_out_of_memory(error):
                reason = textwrap.shorten(str(error), 300)
                raise ModelBroken(
                    f"{model.folder} cannot be loaded ({reason}); copy the model's folder again"
                ) from error
        else:
            return cls(pipeline, runtime, weights["unet"])
        _free_memory(runtime.device)
        raise OutOfMemory(f"the model {model.name!r} does not fit the memory of {runtime.device}")

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

    def paint(self, job: PaintJob, on_step: OnStep) -> Image.Image:
        """Paint one picture and call `on_step` after each denoising step.

        Whatever `on_step` raises stops the painting there. Raises OutOfMemory, with the memory
        freed, UnusablePicture, ModelBroken when a LoRA does not fit, or PaintingError when the
        model cannot paint in that many steps.
        """
        try:
            with applied(self._pipeline, job.loras, self._encoder.forget), torch.inference_mode():
                return self._decode(self._denoise(job, on_step))
        except (RuntimeError, MemoryError) as error:
            if not _is_out_of_memory(error):
                raise
        # Raised out here because the error's frames hold every tensor that was too many, and an
        # error raised while handling another holds that one.
        _free_memory(self._runtime.device)
        raise OutOfMemory(
            f"the memory of {self._runtime.device} did not suffice for a picture of "
            f"{job.width} × {job.height}; close what else uses it, or take a smaller model"
        )

    def unload(self) -> None:
        """Give the memory back; the painter is of no use afterwards."""
        del self._pipeline, self._encoder, self._scheduler
        _free_memory(self._runtime.device)

    def _denoise(self, job: PaintJob, on_step: OnStep) -> torch.Tensor:
        pipeline = self._pipeline
        pipeline.scheduler = self._fresh_scheduler(job.steps)
        generator = torch.Generator("cpu").manual_seed(job.seed)
        factor = pipeline.vae_scale_factor
        shape = (1, pipeline.unet.config.in_channels, job.height // factor, job.width // factor)
        # Always drawn in full precision on the CPU: the same noise on every device.
        noise = torch.randn(shape, generator=generator).to(pipeline.unet.dtype)
        guided = job.guidance_scale > 1 and pipeline.unet.config.time_cond_proj_dim is None
        negative = None
        if guided:
            positive, negative = self._encoder.encode_pair(job.prompt, job.negative_prompt)
        else:
            positive = self._encoder.encode(job.prompt)
        order = pipeline.scheduler.order

        def step_ended(pipeline: StableDiffusionXLPipeline, index: int, *_: object) -> dict:
            # Some schedulers ask the UNet twice for a step, and some once more at the start.
            asked, evaluations = index + 1, pipeline.num_timesteps
            warm_up = max(evaluations - job.steps * order, 0)
            if asked == evaluations:
                on_step(job.steps, job.steps)
            elif asked > warm_up and (asked - warm_up) % order == 0:
                on_step((asked - warm_up) // order, job.steps)
            return {}

        return pipeline(
            prompt_embeds=positive.sequence,
            pooled_prompt_embeds=positive.pooled,
            negative_prompt_embeds=negative.sequence if negative else None,
            negative_pooled_prompt_embeds=negative.pooled if negative else None,
            width=job.width,
            height=job.height,
            num_inference_steps=job.steps,
            guidance_scale=job.guidance_scale,
            latents=noise,
            generator=generator,
            output_type="latent",
            return_dict=False,
            callback_on_step_end=step_ended,
            callback_on_step_end_tensor_inputs=[],
        )[0]

    def _fresh_scheduler(self, steps: int) -> SchedulerMixin:
        # Schedulers remember the picture they are in, so that each picture gets its own.
        scheduler = type(self._scheduler).from_config(self._scheduler.config)
        try:
            scheduler.set_timesteps(steps)
        except ValueError as error:
            raise PaintingError(f"this model cannot paint in {steps} steps: {error}") from error
        return scheduler

    def _decode(self, latents: torch.Tensor) -> Image.Image:
        if not torch.isfinite(latents).all():
            raise UnusablePicture("the model gave no usable numbers; try other parameters")
        vae = self._pipeline.vae
        pixels = self._decode_pixels(latents)
        if not torch.isfinite(pixels).all() and vae.dtype != torch.float32:
            half = vae.dtype
            vae.to(torch.float32)
            try:
                pixels = self._decode_pixels(latents)
            finally:
                vae.to(half)
        if not torch.isfinite(pixels).all():
            raise UnusablePicture("the model's decoder gave no usable numbers, even in float32")
        levels = pixels[0].float().mul(0.5).add_(0.5).clamp_(0, 1).mul_(255).round_().byte()
        return Image.fromarray(levels.permute(1, 2, 0).contiguous().cpu().numpy())

    def _decode_pixels(self, latents: torch.Tensor) -> torch.Tensor:
        vae = self._pipeline.vae
        latents = latents.to(vae.dtype) / vae.config.scaling_factor
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
            variant="fp16" if is_half(weights[name][0]) else None,
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
    return pipeline.to(runtime.device)


def _free_memory(device: str) -> None:
    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
    elif device == "mps":
        torch.mps.empty_cache()


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and bool(_OUT_OF_MEMORY.search(str(error)))
