"""LoRAs (arXiv:2106.09685): applied to a pipeline for one job, and taken off after it.

The pipeline's own weights are never touched: peft wraps each layer that a LoRA changes, and is
unwrapped again. Knows no folder and no catalog; which file a name stands for is told to it.
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
"""What the libraries raise about files that are damaged or do not fit."""


@dataclass(frozen=True)
class Lora:
    """A LoRA's file and how strongly it is to work: 0 not at all, 1 as it was trained."""

    name: str
    file: Path
    weight: float


@contextmanager
def applied(
    pipeline: StableDiffusionXLPipeline, loras: Sequence[Lora], changed: Callable[[], None]
) -> Iterator[None]:
    """Let the pipeline paint with these, all at once, and be exactly what it was afterwards.

    `changed` is called whenever the text encoders have become others: what was kept of theirs is
    true no more. Raises ModelBroken, naming the LoRA, when one is damaged or does not fit, and
    PaintingError when the UNet is kept in float8.
    """
    if not loras:
        yield
        return
    # peft gives a LoRA the format of what it wraps; most of its numbers would be nothing there.
    if any(weight.dtype == torch.float8_e4m3fn for weight in pipeline.unet.parameters()):
        raise PaintingError(
            "LoRAs need more memory than this machine has to spare: the painting model is kept in "
            "float8 here; leave them out"
        )
    with _uncompiled(pipeline.unet):
        try:
            for number, lora in enumerate(loras):
                _load(pipeline, lora, _adapter(number))
            names = [_adapter(number) for number in range(len(loras))]
            pipeline.set_adapters(names, [lora.weight for lora in loras])
            changed()
            yield
        finally:
            pipeline.unload_lora_weights()
            changed()


@contextmanager
def _uncompiled(model: torch.nn.Module) -> Iterator[None]:
    """Let compiled blocks run as they were written, and be the compiled ones again afterwards.

    To compile them anew for one picture would take longer than to paint it.
    """
    compiled = {
        module: module._compiled_call_impl
        for module in model.modules()
        if module._compiled_call_impl is not None
    }
    for module in compiled:
        module._compiled_call_impl = None
    try:
        yield
    finally:
        for module, call in compiled.items():
            module._compiled_call_impl = call


def _adapter(number: int) -> str:
    # A name of our own: peft has no use for dots, which a LoRA's may have.
    return f"banatie_{number}"


def _load(pipeline: StableDiffusionXLPipeline, lora: Lora, adapter: str) -> None:
    verbosity = diffusers_logging.get_verbosity()
    try:
        tensors = read_header(lora.file).tensors
        # It would tell of every text encoder that a LoRA leaves as it is.
        diffusers_logging.set_verbosity(logging.CRITICAL)
        with warnings.catch_warnings():
            # peft warns of a second one, and when a broken one has to make way for the first.
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
    # diffusers passes over what it finds no place for.
    brought = sum(t.numel for name, t in tensors.items() if not name.endswith(".alpha"))
    taken = sum(
        weight.numel()
        for model in (pipeline.unet, pipeline.text_encoder, pipeline.text_encoder_2)
        for name, weight in model.named_parameters()
        if f".{adapter}." in name
    )
    if taken != brought:
        raise ModelBroken(
            f"the LoRA {lora.name!r} does not fit the painting model: of its {brought:,} numbers "
            f"{taken:,} have a place there"
        )
