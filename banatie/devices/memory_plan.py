"""The memory plan: where each part of both models is kept while images are generated.

It is chosen before anything is loaded, from the sizes in the weight files' headers and the free
memory of the device. Only arithmetic: never imports torch. `worker/placement` carries it out.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, Literal, get_args

from banatie.config import Config
from banatie.errors import BanatieError, ModelBroken
from banatie.models.disk_space import format_bytes
from banatie.models.ip_adapter import adapter_parameters
from banatie.models.safetensors_header import parameter_count
from banatie.models.types import IpAdapter, LanguageModel, PaintingModel
from banatie.models.validate import check_language_model, check_pipeline

PainterPlace = Literal["resident", "offload-encoders", "offload-layers", "offload-layers-fp8"]
"""Where the painting model is kept, the fastest first (`painting.memory`):

resident            all of it on the device
offload-encoders    the text encoders in main memory, on the device only while they encode a prompt;
                    an IP-Adapter likewise, only while a picture is painted with it
offload-layers      these too, and each of the UNet's layers on the device only while it computes
offload-layers-fp8  the same with weights of 8 bits (E4M3), computed in the usual format: half as
                    much to transfer
"""
LanguagePlace = Literal["device", "swap", "cpu"]
"""Where the language model is kept, the fastest first (`enhancement.memory`):

device  on the device, beside the painting model
swap    on the device while it works; the painting model is in main memory meanwhile
cpu     in main memory, and computed on the CPU
"""
PAINTER_PLACES: tuple[PainterPlace, ...] = get_args(PainterPlace)
LANGUAGE_PLACES: tuple[LanguagePlace, ...] = get_args(LanguagePlace)

UNET_ACTIVATION_FACTOR = 28
"""The UNet's working memory, in activations of its widest layers; see `sizes_of`."""
VAE_ACTIVATION_FACTOR_CPU = 4.0
"""The same of the decoder, on a CPU."""
VAE_ACTIVATION_FACTOR_GPU = 8.6
"""The same elsewhere: 2,200 bytes a pixel and byte of the format, as InvokeAI estimates it."""
TILE_SHARE = 2
"""A tile's side is this part of the side that the VAE was trained for."""
OFFLOADED_SHARE = 0.1
"""How much of an offloaded UNet is on the device at once: the computing layer and the next ones."""
RESERVED_SHARE = 0.05
"""Part of the free memory that is not planned with: allocators lose it to fragmentation."""
AUTO_MAX_BATCH = 8
"""Images in a batch where the settings leave the number to the memory."""
SWAP_PARAMETERS = 1_000_000_000
"""A language model of this many parameters is too slow on a CPU: it is swapped instead."""


@dataclass(frozen=True)
class Sizes:
    """The memory that the models need, in bytes."""

    unet: int
    text_encoders: int
    vae: int
    language: int
    language_parameters: int
    unet_working: int
    """For one image of the largest size, with guidance."""
    vae_working: int
    tile_working: int
    pixels: int = 0
    """Of the largest size, for which the working memory is estimated."""
    adapter: int = 0
    """Of an IP-Adapter, while pictures are painted with it."""
    image_encoder: int = 0
    """The encoder that it needs to read references."""


@dataclass(frozen=True)
class Plan:
    """One way to place both models."""

    painter: PainterPlace = "resident"
    language: LanguagePlace = "device"
    tiled: bool = False
    """Whether the VAE decodes an image in overlapping tiles."""
    batch: int = 1
    """How many images are painted at once, at most."""
    needed: int = 0
    """The most bytes of the device in use at once."""
    working: int = 0
    """The working memory for one picture of the model's largest size, without tiles."""
    max_pixels: int = 0
    """The largest picture, in pixels, that is painted and decoded whole; one that is enlarged to
    more is painted in tiles. 0: the model's largest."""
    reason: str = ""
    """Why this plan was chosen, for people."""

    def __str__(self) -> str:
        painter = {
            "resident": "the painting model on the device",
            "offload-encoders": "the text encoders offloaded to main memory",
            "offload-layers": "the UNet's layers offloaded to main memory",
            "offload-layers-fp8": "the UNet's layers offloaded to main memory in 8 bits",
        }[self.painter]
        language = {
            "device": "the language model beside it",
            "swap": "swapped with the language model",
            "cpu": "the language model on the CPU",
        }[self.language]
        decoding = ", pictures decoded in tiles" if self.tiled else ""
        batch = f", up to {self.batch} pictures at once" if self.batch > 1 else ""
        return f"{painter}, {language}{decoding}{batch}"

    @property
    def explanation(self) -> str:
        """The plan and the reason for it, for people."""
        return f"{self}: {self.reason}"


@dataclass(frozen=True)
class PlacementPreferences:
    """What the settings ask of a plan."""

    painter: PainterPlace | Literal["auto"] = "auto"
    language: LanguagePlace | Literal["auto"] = "auto"
    batch: int = 1

    @classmethod
    def of(cls, config: Config) -> PlacementPreferences:
        """The preferences of these settings."""
        batch = config.painting.max_batch or AUTO_MAX_BATCH
        return cls(config.painting.memory, config.enhancement.memory, batch)


ALL_RESIDENT = Plan()
"""Everything on the device, one image at a time."""


def ladder(
    sizes: Sizes, device: str, preferences: PlacementPreferences = PlacementPreferences()
) -> tuple[Plan, ...]:
    """The plans for a device, from the fastest to the smallest; each needs less than the last.

    A preferred place excludes the others. A CPU and Apple's MPS have one memory, where moving a
    model frees nothing, whatever is preferred: only tiles and smaller batches are left.
    """
    slow_on_cpu = sizes.language_parameters >= SWAP_PARAMETERS
    plans: list[Plan] = []
    if not device.startswith("cuda"):
        preferences = PlacementPreferences("resident", "device", preferences.batch)
    for painter, language in product(PAINTER_PLACES, LANGUAGE_PLACES):
        if preferences.painter not in ("auto", painter):
            continue
        if preferences.language not in ("auto", language):
            continue
        if preferences.language == "auto" and not slow_on_cpu and language == "swap":
            continue
        if preferences.language == "auto" and painter != "resident" and language == "device":
            continue
        batches = [
            preferences.batch >> halvings for halvings in range(preferences.batch.bit_length())
        ]
        # Tiles cost a few percent; halving a batch costs what the larger batch had gained.
        for batch, tiled in product(batches, (False, True)):
            plan = Plan(painter, language, tiled, batch)
            needed = _needed(sizes, plan)
            # A slower plan that frees nothing is useless.
            if not plans or needed < plans[-1].needed:
                working = max(sizes.unet_working, sizes.vae_working)
                plans.append(replace(plan, needed=needed, working=working, max_pixels=sizes.pixels))
    return tuple(plans)


def choose_plan(plans: Sequence[Plan], free: int, device: str) -> Plan:
    """The first plan that fits `free` bytes of the device, else the last, with the reason.

    What it leaves free is room for a larger picture, painted alone.
    """
    available = int(free * (1 - RESERVED_SHARE))
    for number, plan in enumerate(plans):
        if plan.needed <= available:
            reason = (
                f"it takes {format_bytes(plan.needed)} of {format_bytes(free)} free on {device}"
            )
            if number:
                reason += f"; {plans[0]} would take {format_bytes(plans[0].needed)}"
            growth = 1 + (available - plan.needed) / plan.working if plan.working else 1
            return replace(plan, reason=reason, max_pixels=int(plan.max_pixels * growth))
    smallest = plans[-1]
    reason = (
        f"no plan fits the {format_bytes(free)} free on {device}; this one comes closest, with "
        f"about {format_bytes(smallest.needed)}"
    )
    return replace(smallest, reason=reason)


def place_language_model(parameters: int, size: int, spare: int, device: str) -> LanguagePlace:
    """Where to keep a language model of `size` bytes that is loaded after the painting model.

    `spare` is what the plan leaves free on the device, in bytes.
    """
    if size <= spare or not device.startswith("cuda"):
        return "device"
    return "swap" if parameters >= SWAP_PARAMETERS else "cpu"


def sizes_of(
    model: PaintingModel,
    language_model: LanguageModel | None,
    device: str,
    *,
    unet_bytes: int,
    vae_bytes: int,
    language_bytes: int,
    ip_adapter: IpAdapter | None = None,
) -> Sizes:
    """The memory that the models need, in number formats of so many bytes a number.

    The working memory is an estimate, in proportion to the widest activations: for the UNet, of
    two images (guidance) with the first block's channels at the latents' full size; for the VAE,
    of the second block's channels at the image's full size. Encoding a reference takes less than
    decoding: at full size the encoder has the first block's channels only. The factors were
    measured on a CPU with SDXL's full-size networks (docs/performance.md). Raises ModelBroken or
    ModelNotFound.
    """
    weights = check_pipeline(model.folder)
    numbers = {name: parameter_count(files) for name, files in weights.items()}
    encoders = numbers["text_encoder"] + numbers["text_encoder_2"]
    adapter = image_encoder = language = 0
    if ip_adapter is not None:
        # Likewise for a broken one.
        with contextlib.suppress(BanatieError):
            adapter, image_encoder = adapter_parameters(ip_adapter.folder)
    if language_model is not None:
        # A broken one takes nothing here, and is reported where it is loaded.
        with contextlib.suppress(BanatieError):
            language = parameter_count(check_language_model(language_model.folder))
    unet, vae = (_read_config(model.folder / name) for name in ("unet", "vae"))
    try:
        factor = 2 ** (len(vae["block_out_channels"]) - 1)
        pixels = max(width * height for width, height in model.sizes.values())
        tile = min(pixels, (vae["sample_size"] // TILE_SHARE) ** 2)
        widest_unet = 2 * pixels // factor**2 * unet["block_out_channels"][0]
        vae_pixel = vae["block_out_channels"][:2][-1] * vae_bytes
        vae_pixel *= VAE_ACTIVATION_FACTOR_CPU if device == "cpu" else VAE_ACTIVATION_FACTOR_GPU
    except (KeyError, TypeError, IndexError) as error:
        raise ModelBroken(f"{model.folder} has an incomplete configuration: {error}") from error
    return Sizes(
        unet=numbers["unet"] * unet_bytes,
        text_encoders=encoders * unet_bytes,
        vae=numbers["vae"] * vae_bytes,
        language=language * language_bytes,
        language_parameters=language,
        unet_working=int(widest_unet * unet_bytes * UNET_ACTIVATION_FACTOR),
        vae_working=int(pixels * vae_pixel),
        tile_working=int(tile * vae_pixel),
        pixels=pixels,
        adapter=adapter * unet_bytes,
        image_encoder=image_encoder * unet_bytes,
    )


def _needed(sizes: Sizes, plan: Plan) -> int:
    layers = int(sizes.unet * OFFLOADED_SHARE)
    unet = {"offload-layers": layers, "offload-layers-fp8": layers // 2}.get(
        plan.painter, sizes.unet
    )
    decoding = sizes.tile_working if plan.tiled else sizes.vae_working
    painting = unet + sizes.vae + sizes.adapter + max(sizes.unet_working * plan.batch, decoding)
    if plan.painter == "resident":
        painting += sizes.text_encoders + sizes.image_encoder
    else:
        # One encoder is on the device at a time.
        encoding = max(sizes.text_encoders, sizes.image_encoder + sizes.adapter)
        painting = max(painting, unet + sizes.vae + encoding)
    if plan.language == "device":
        return painting + sizes.language
    return max(painting, sizes.language) if plan.language == "swap" else painting


def _read_config(folder: Path) -> dict[str, Any]:
    file = folder / "config.json"
    try:
        config: dict[str, Any] = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ModelBroken(f"{file} cannot be read: {error}") from error
    return config
