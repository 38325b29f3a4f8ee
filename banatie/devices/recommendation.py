"""Which models of the catalog fit a machine: a painting model and a language model.

Only arithmetic over the memory plan, never loads torch; whoever asks knows the device and its
memory. Nothing is downloaded or selected here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from banatie.devices.memory_plan import Plan, Sizes, choose_plan, ladder
from banatie.models.disk_space import format_bytes
from banatie.models.types import LanguageModel

BUNDLED_PAINTING_MODEL = "banatie-small"
SMALL_LANGUAGE_MODEL = "smollm2-135m-instruct"
LARGE_PAINTING_MODEL = "sdxl-lightning-4step"
"""Of the catalog's SDXL models the one that needs the fewest steps under an open licence."""
LARGE_LANGUAGE_MODELS = ("qwen2.5-1.5b-instruct", "smollm2-1.7b-instruct")
"""Those that write freely, under an open licence, the preferred first: it knows more languages."""
BYTES_A_NUMBER = 2
"""GPUs compute in 16 bits."""

SDXL = Sizes(
    unet=5_135_000_000,
    text_encoders=1_635_000_000,
    vae=167_000_000,
    language=0,
    language_parameters=0,
    unet_working=480_000_000,
    vae_working=4_600_000_000,
    tile_working=1_150_000_000,
    pixels=1024 * 1024,
)
"""SDXL base 1.0 and the models made from it, in 16 bits, as `sizes_of` computes them."""


@dataclass(frozen=True)
class Recommendation:
    """A painting model and a language model of the catalog, each with the reason."""

    painting: str
    painting_reason: str
    language: str
    language_reason: str


def recommend(device: str, free: int, language_models: Iterable[LanguageModel]) -> Recommendation:
    """The models for a device with `free` bytes for models.

    On a CPU the small ones, whatever its memory: SDXL takes minutes for a picture there.
    """
    known = {model.name: model for model in language_models}
    small = known[SMALL_LANGUAGE_MODEL]
    small_reason = "looks known things up and chooses among texts, in well under a second"
    if device == "cpu":
        return Recommendation(
            BUNDLED_PAINTING_MODEL,
            "a picture in seconds; SDXL takes minutes for one without a GPU",
            small.name,
            small_reason,
        )
    plan, fits = _plan_with(small, free, device)
    if not fits:
        return Recommendation(
            BUNDLED_PAINTING_MODEL,
            f"SDXL needs {format_bytes(plan.needed)} even in its slowest form",
            small.name,
            small_reason,
        )
    for name in LARGE_LANGUAGE_MODELS:
        with_larger, fits = _plan_with(known[name], free, device)
        # Otherwise each picture would wait until one model has made room for the other.
        if fits and with_larger.painter == "resident" and with_larger.language == "device":
            return Recommendation(
                LARGE_PAINTING_MODEL,
                str(with_larger),
                name,
                "writes freely in many languages, and fits beside the painting model",
            )
    return Recommendation(
        LARGE_PAINTING_MODEL, str(plan), small.name, f"{small_reason}; a larger one does not fit"
    )


def _plan_with(model: LanguageModel, free: int, device: str) -> tuple[Plan, bool]:
    """The plan for SDXL with this language model, and whether it fits."""
    sizes = replace(
        SDXL,
        language=model.parameters * BYTES_A_NUMBER,
        language_parameters=model.parameters,
    )
    plan = choose_plan(ladder(sizes, device), free, device)
    return plan, plan.needed <= free
