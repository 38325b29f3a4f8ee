"""LoRAs (arXiv:2106.09685): applied to a pipeline for one job, and removed after it.

The pipeline's own weights are never changed: peft wraps each layer that a LoRA adapts, and the
wrappers are removed again. Knows no folder and no catalog; it is given the files.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import StableDiffusionXLPipeline
from diffusers.utils import logging as diffusers_logging
from safetensors import SafetensorError

from banatie.errors import ModelBroken, PaintingError
from banatie.models.safetensors_header import read_header
from banatie.painting.library_internals import uncompiled

LOADING_ERRORS = (
    OSError,
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    AttributeError,
    RuntimeError,
    SafetensorError,
)
"""What the libraries raise for files that are damaged or do not fit the model."""


@dataclass(frozen=True)
class Lora:
    """A LoRA's file and the weight with which it is applied: 0 not at all, 1 as it was trained."""

    name: str
    file: Path
    weight: float


@contextmanager
def applied(
    pipeline: StableDiffusionXLPipeline,
    loras: Sequence[Lora],
    on_encoders_changed: Callable[[], None],
) -> Iterator[None]:
    """Apply all these LoRAs to the pipeline, and restore it exactly afterwards.

    `on_encoders_changed` is called when the text encoders changed, so that cached embeddings can be
    dropped. Raises ModelBroken, naming the LoRA, when one is damaged or does not fit, and
    PaintingError when the UNet's weights are stored in float8.
    """
    if not loras:
        yield
        return
    # peft casts a LoRA to the dtype of the layer, and most of its values underflow in float8.
    if any(weight.dtype == torch.float8_e4m3fn for weight in pipeline.unet.parameters()):
        raise PaintingError(
            "LoRAs need more memory than is free: the painting model is stored in float8 here; "
            "leave them out"
        )
    # Compiling the blocks again for one picture would take longer than painting it.
    with uncompiled(pipeline.unet):
        try:
            for number, lora in enumerate(loras):
                _load(pipeline, lora, _adapter_name(number))
            names = [_adapter_name(number) for number in range(len(loras))]
            pipeline.set_adapters(names, [lora.weight for lora in loras])
            on_encoders_changed()
            yield
        finally:
            pipeline.unload_lora_weights()
            on_encoders_changed()


def _adapter_name(number: int) -> str:
    # Not the LoRA's own name, which may contain dots, which peft does not allow.
    return f"banatie_{number}"


def _load(pipeline: StableDiffusionXLPipeline, lora: Lora, adapter: str) -> None:
    verbosity = diffusers_logging.get_verbosity()
    try:
        tensors = read_header(lora.file).tensors
        # It would warn about every text encoder that a LoRA does not change.
        diffusers_logging.set_verbosity(logging.CRITICAL)
        with warnings.catch_warnings():
            # peft warns about a second adapter, and when a broken one is removed again.
            warnings.simplefilter("ignore", UserWarning)
            pipeline.load_lora_weights(
                str(lora.file.parent),
                weight_name=lora.file.name,
                adapter_name=adapter,
                use_safetensors=True,
                local_files_only=True,
            )
    except torch.OutOfMemoryError:
        raise
    except (*LOADING_ERRORS, ModelBroken) as error:
        reason = " ".join(str(error).replace(str(lora.file), lora.file.name).split())[:200]
        raise ModelBroken(
            f"the LoRA {lora.name!r} is damaged or does not fit the painting model ({reason})"
        ) from error
    finally:
        diffusers_logging.set_verbosity(verbosity)
    # diffusers ignores tensors for layers that the model does not have.
    expected = sum(t.numel for name, t in tensors.items() if not name.endswith(".alpha"))
    loaded = sum(
        weight.numel()
        for model in (pipeline.unet, pipeline.text_encoder, pipeline.text_encoder_2)
        for name, weight in model.named_parameters()
        if f".{adapter}." in name
    )
    if loaded != expected:
        raise ModelBroken(
            f"the LoRA {lora.name!r} does not fit the painting model: only {loaded:,} of its "
            f"{expected:,} weights belong to layers of the model"
        )
