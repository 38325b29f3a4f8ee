"""Loading a Stable Diffusion XL pipeline from a folder, and the checksum of its UNet's files.

Knows no job and no plan; `offload` places the loaded parts.
"""

from __future__ import annotations

import hashlib
import mmap
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionXLPipeline, UNet2DConditionModel
from diffusers.utils import logging as diffusers_logging
from transformers import CLIPTextModel, CLIPTextModelWithProjection
from transformers.utils import logging as transformers_logging

from banatie.devices.runtime import Runtime
from banatie.errors import ModelBroken
from banatie.models.validate import is_half_precision

MODEL_CLASSES = {
    "unet": UNet2DConditionModel,
    "vae": AutoencoderKL,
    "text_encoder": CLIPTextModel,
    "text_encoder_2": CLIPTextModelWithProjection,
}
CHECKSUM_DIGITS = 10


def load_pipeline(
    folder: Path, weights: Mapping[str, Sequence[Path]], runtime: Runtime
) -> StableDiffusionXLPipeline:
    """Load a folder in the diffusers layout into main memory; `weights` are its parts' files.

    Opens no connection. Raises ModelBroken when a part lacks tensors, and whatever the libraries
    raise about damaged files.
    """
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    models = {}
    for name, model_class in MODEL_CLASSES.items():
        dtype = runtime.dtype
        # SDXL's VAE overflows in float16, which shows as a black picture. Kept in float32, it need
        # not be cast back and forth for each picture, as diffusers does.
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
        # Both libraries would fill missing tensors with random numbers.
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
    return pipeline


class Checksum:
    """The SHA-256 of some files, computed once in a background thread.

    A UNet of 5 GB takes seconds, which pass while the first picture is painted. It is not stored: a
    stored hash would be wrong once the file has changed.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self._digits = ""
        self._thread = threading.Thread(target=self._compute, args=(files,), daemon=True)
        self._thread.start()

    def digits(self) -> str:
        """The first hexadecimal digits; waits until they are computed.

        Empty when a file could not be read.
        """
        self._thread.join()
        return self._digits

    def _compute(self, files: Sequence[Path]) -> None:
        digest = hashlib.sha256()
        try:
            for file in files:
                with (
                    file.open("rb") as opened,
                    # Mapped, so that one call hashes the whole file without the GIL.
                    mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content,
                ):
                    digest.update(content)
        except OSError:
            return
        self._digits = digest.hexdigest()[:CHECKSUM_DIGITS]
