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

from banatie.errors import ModelBroken
from banatie.inference.checking import read_tensors

_LOADING_ERRORS = (
    OSError,
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    AttributeError,
    RuntimeError,
    SafetensorError,
)


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
    true no more. Raises ModelBroken, naming the LoRA, when one is damaged or does not fit.
    """
    if not loras:
        yield
        return
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


def _adapter(number: int) -> str:
    # A name of our own: peft has no use for dots, which a LoRA's may have.
    return f"banatie_{number}"


def _load(pipeline: StableDiffusionXLPipeline, lora: Lora, adapter: str) -> None:
    verbosity = diffusers_logging.get_verbosity()
    try:
        tensors = read_tensors(lora.file).tensors
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
    except (*_LOADING_ERRORS, ModelBroken) as error:
        reason = " ".join(str(error).replace(str(lora.file), lora.file.name).split())[:200]
        raise ModelBroken(
            f"the LoRA {lora.name!r} is damaged or does not fit the painting model ({reason})"
        ) from error
    finally:
        diffusers_logging.set_verbosity(verbosity)
    # diffusers passes over what it finds no place for.
    brought = sum(t.numbers for name, t in tensors.items() if not name.endswith(".alpha"))
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
