"""The memory plan: which part of which model lies where while pictures are made.

Decided before anything is loaded, from the sizes of the models' files and the memory that is free.
Arithmetic over files' heads only: never imports torch. `placement` carries the plan out.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Literal, get_args

from banatie.config import Config
from banatie.errors import BanatieError, ModelBroken
from banatie.models.disk_space import format_bytes
from banatie.models.safetensors_header import parameter_count
from banatie.models.types import LanguageModel, PaintingModel
from banatie.models.validate import check_language_model, check_pipeline

PainterPlace = Literal["resident", "offload-encoders", "offload-layers", "offload-layers-fp8"]
"""Where the painting model lies, the quickest way first:

whole           all of it on the device
encoders-aside  the text encoders come to the device only to read a prompt
streamed        so do they, and the UNet comes layer by layer
streamed-fp8    the same in 8 bits (E4M3), computed in the usual format: half as much to bring
"""
LanguagePlace = Literal["device", "swap", "cpu"]
"""Where the language model lies: with the painting model, in turns with it, or on the CPU."""
PAINTER_PLACES: tuple[PainterPlace, ...] = get_args(PainterPlace)

UNET_WORKING = 28
"""What the UNet needs beside its weights, in activations of its widest layers; see `sizes_of`."""
VAE_WORKING = 4.0
"""The same of the decoder, on a CPU."""
VAE_WORKING_ON_GPU = 8.6
"""The same elsewhere: 2,200 bytes a pixel and byte of the format, as InvokeAI estimates it."""
TILE_SHARE = 2
"""A tile's side is this part of the side that the VAE was trained for."""
STREAMED_SHARE = 0.1
"""How much of a streamed UNet is on the device at once: the layer at work and the next ones."""
SPARE_SHARE = 0.05
"""Of the free memory, left for what allocators lose between their blocks."""
MOST_AT_ONCE = 8
"""Pictures in a batch where the settings leave their number to the memory."""
TURN_PARAMETERS = 1_000_000_000
"""A language model of this many parameters is too slow on a CPU: it takes turns instead."""


@dataclass(frozen=True)
class Sizes:
    """What there is to be laid out, in bytes."""

    unet: int
    text_encoders: int
    vae: int
    language: int
    language_parameters: int
    unet_working: int
    """For one picture of the largest size, guided."""
    vae_working: int
    tile_working: int


@dataclass(frozen=True)
class Plan:
    """One way to lay the models out."""

    painter: PainterPlace = "resident"
    language: LanguagePlace = "device"
    tiled: bool = False
    """Whether the VAE decodes a picture in overlapping tiles."""
    batch: int = 1
    """How many pictures are painted at once, at most."""
    needed: int = 0
    """Bytes of the device at the highest."""
    why: str = ""

    def __str__(self) -> str:
        painter = {
            "resident": "the painting model on the device",
            "offload-encoders": "the text encoders on the device only to read a prompt",
            "offload-layers": "the UNet streamed from main memory",
            "offload-layers-fp8": "the UNet streamed from main memory in 8 bits",
        }[self.painter]
        language = {
            "device": "the language model beside it",
            "swap": "the language model in turns with it",
            "cpu": "the language model on the CPU",
        }[self.language]
        decoding = ", pictures decoded in tiles" if self.tiled else ""
        batch = f", up to {self.batch} pictures at once" if self.batch > 1 else ""
        return f"{painter}, {language}{decoding}{batch}"

    @property
    def reasoned(self) -> str:
        """The plan with its reason, for people."""
        return f"{self}: {self.why}"


@dataclass(frozen=True)
class PlacementPreferences:
    """What the settings want of a plan."""

    painter: PainterPlace | Literal["auto"] = "auto"
    language: LanguagePlace | Literal["auto"] = "auto"
    batch: int = 1

    @classmethod
    def of(cls, config: Config) -> PlacementPreferences:
        """What these settings want."""
        batch = config.painting.max_batch or MOST_AT_ONCE
        return cls(config.painting.memory, config.enhancement.memory, batch)


WHOLE = Plan()
"""Everything on the device: for whoever has memory enough, or plans nothing."""


def ladder(
    sizes: Sizes, device: str, wanted: PlacementPreferences = PlacementPreferences()
) -> tuple[Plan, ...]:
    """The plans for a device from the quickest to the most frugal; each needs less than the last.

    A place that is wanted leaves out all others. On a CPU or Apple's MPS, where there is one memory
    for all, moving a model frees nothing, whatever is wanted: only tiles and smaller batches are
    left.
    """
    slow_on_cpu = sizes.language_parameters >= TURN_PARAMETERS
    plans: list[Plan] = []
    if not device.startswith("cuda"):
        wanted = PlacementPreferences("resident", "device", wanted.batch)
    for place, beside in product(PAINTER_PLACES, get_args(LanguagePlace)):
        if wanted.painter not in ("auto", place) or wanted.language not in ("auto", beside):
            continue
        if wanted.language == "auto" and not slow_on_cpu and beside == "swap":
            continue
        if wanted.language == "auto" and place != "resident" and beside == "device":
            continue
        counts = [wanted.batch >> halvings for halvings in range(wanted.batch.bit_length())]
        # Tiles cost a few percent; a smaller batch costs as much as batches had brought.
        for count, tiled in product(counts, (False, True)):
            plan = Plan(place, beside, tiled, count)
            needed = _needed(sizes, plan)
            # A rung that frees nothing is none.
            if not plans or needed < plans[-1].needed:
                plans.append(replace(plan, needed=needed))
    return tuple(plans)


def choose(plans: Sequence[Plan], free: int, device: str) -> Plan:
    """The first plan that fits `free` bytes of the device, or else the last; it says why."""
    room = int(free * (1 - SPARE_SHARE))
    for number, plan in enumerate(plans):
        if plan.needed <= room:
            why = f"it takes {format_bytes(plan.needed)} of {format_bytes(free)} free on {device}"
            if number:
                why += f"; {plans[0]} would take {format_bytes(plans[0].needed)}"
            return replace(plan, why=why)
    frugal = plans[-1]
    why = (
        f"nothing fits the {format_bytes(free)} free on {device}; this comes closest, with about "
        f"{format_bytes(frugal.needed)}"
    )
    return replace(frugal, why=why)


def language_place(parameters: int, size: int, spare: int, device: str) -> LanguagePlace:
    """Where a language model goes that comes late, when the painting model leaves `spare` bytes."""
    if size <= spare or not device.startswith("cuda"):
        return "device"
    return "swap" if parameters >= TURN_PARAMETERS else "cpu"


def sizes_of(
    model: PaintingModel,
    language_model: LanguageModel | None,
    device: str,
    *,
    unet_bytes: int,
    vae_bytes: int,
    language_bytes: int,
) -> Sizes:
    """What the models take in number formats of so many bytes a number.

    The working memory is an estimate, in proportion to the widest activations: for the UNet, of
    two pictures (guidance) with the first block's channels at the latents' full size; for the VAE,
    of the second block's channels at the picture's full size. The factors were measured on a CPU
    with SDXL's full-size networks (docs/performance.md). Raises ModelBroken or ModelNotFound.
    """
    weights = check_pipeline(model.folder)
    numbers = {name: parameter_count(files) for name, files in weights.items()}
    encoders = numbers["text_encoder"] + numbers["text_encoder_2"]
    language = 0
    if language_model is not None:
        # One that is broken is told of where it is loaded, and takes nothing.
        with contextlib.suppress(BanatieError):
            language = parameter_count(check_language_model(language_model.folder))
    unet, vae = (_read_config(model.folder / name) for name in ("unet", "vae"))
    try:
        factor = 2 ** (len(vae["block_out_channels"]) - 1)
        pixels = max(width * height for width, height in model.sizes.values())
        tile = min(pixels, (vae["sample_size"] // TILE_SHARE) ** 2)
        widest_unet = 2 * pixels // factor**2 * unet["block_out_channels"][0]
        vae_pixel = vae["block_out_channels"][:2][-1] * vae_bytes
        vae_pixel *= VAE_WORKING if device == "cpu" else VAE_WORKING_ON_GPU
    except (KeyError, TypeError, IndexError) as error:
        raise ModelBroken(f"{model.folder} has an incomplete configuration: {error}") from error
    return Sizes(
        unet=numbers["unet"] * unet_bytes,
        text_encoders=encoders * unet_bytes,
        vae=numbers["vae"] * vae_bytes,
        language=language * language_bytes,
        language_parameters=language,
        unet_working=int(widest_unet * unet_bytes * UNET_WORKING),
        vae_working=int(pixels * vae_pixel),
        tile_working=int(tile * vae_pixel),
    )


def _needed(sizes: Sizes, plan: Plan) -> int:
    streamed = int(sizes.unet * STREAMED_SHARE)
    unet = {"offload-layers": streamed, "offload-layers-fp8": streamed // 2}.get(
        plan.painter, sizes.unet
    )
    decoding = sizes.tile_working if plan.tiled else sizes.vae_working
    painting = unet + sizes.vae + max(sizes.unet_working * plan.batch, decoding)
    if plan.painter == "resident":
        painting += sizes.text_encoders
    else:
        painting = max(painting, unet + sizes.vae + sizes.text_encoders)
    if plan.language == "device":
        return painting + sizes.language
    return max(painting, sizes.language) if plan.language == "swap" else painting


def _read_config(folder: Path) -> dict:
    file = folder / "config.json"
    try:
        return json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ModelBroken(f"{file} cannot be read: {error}") from error
