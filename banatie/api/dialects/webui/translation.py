"""From a request of WebUI to submissions, with notes on what is done otherwise than asked."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace

from banatie.api.dialects.webui.requests import Img2Img, Txt2Img
from banatie.checks import nearest_ratio
from banatie.errors import ValidationError
from banatie.intake import Intake
from banatie.limits import MAX_GUIDANCE_SCALE, MAX_SEED, MAX_STEPS, MAX_UPSCALE
from banatie.models.samplers import AUTOMATIC, SamplerChoice, SamplerUnusable, choose_sampler
from banatie.models.types import PaintingModel
from banatie.records import Submission

RANDOM_SEEDS = 2**32
"""WebUI's own range, so that a seed can be taken along there."""


@dataclass(frozen=True)
class SourceImages:
    """The ids of the stored images that img2img paints from."""

    reference: str
    mask: str | None
    size: tuple[int, int]
    """Of the reference, in pixels."""


@dataclass(frozen=True)
class Translated:
    """A submission for each picture."""

    submissions: Sequence[Submission]
    notes: Sequence[str]
    """What is done otherwise than asked."""


def translate(asked: Txt2Img, intake: Intake, source: SourceImages | None = None) -> Translated:
    """The submissions of a request. Raises ValidationError."""
    notes: list[str] = []
    model = intake.painting_model()
    sampler = _sampler(asked, model, notes)
    count = asked.images
    first = secrets.randbelow(RANDOM_SEEDS) if asked.seed < 0 else int(asked.seed)
    if first + count - 1 > MAX_SEED:
        raise ValidationError.of("seed", f"must be at most {MAX_SEED}")
    size = _size(asked, intake, source, notes)
    submission = Submission(
        prompt=asked.prompt,
        negative_prompt=asked.negative_prompt,
        auto_enhance=False,
        steps=_at_most("steps", asked.steps, MAX_STEPS, notes),
        guidance_scale=_guidance(asked, notes),
        size=size,
        aspect_ratio="1:1" if size is None else nearest_ratio(*size),
        upscale=_upscale(asked, size, notes),
        sampler=sampler.sampler if sampler else None,
        scheduler=sampler.schedule if sampler else None,
        prompt_syntax="webui",
    )
    if source is not None and isinstance(asked, Img2Img):
        submission = replace(
            submission,
            references=(source.reference,),
            mask=source.mask,
            reference_strength=round(1 - asked.denoising_strength, 6),
        )
    submissions = [replace(submission, seed=first + number) for number in range(count)]
    return Translated(submissions, notes)


def _sampler(asked: Txt2Img, model: PaintingModel | None, notes: list[str]) -> SamplerChoice | None:
    """The sampler; None: the model's own.

    Clients send one unasked, so one that cannot be used is no error.
    """
    name = asked.sampler_name or asked.sampler_index
    if not name or name.lower() == AUTOMATIC.lower():
        return None
    try:
        return choose_sampler(name, asked.scheduler or None, model)
    except SamplerUnusable as error:
        notes.append(f"{error.field}: {error}")
    try:
        return choose_sampler(name, None, model)
    except SamplerUnusable:
        return None


def _size(
    asked: Txt2Img, intake: Intake, source: SourceImages | None, notes: list[str]
) -> tuple[int, int] | None:
    """The nearest size that the model can paint; None: the model's own."""
    model = intake.painting_model()
    own = model.sizes["1:1"] if model else None
    default = source.size if source else own
    if asked.width is None and asked.height is None and source is None:
        return None
    width = int(asked.width or (default or (512, 512))[0])
    height = int(asked.height or (default or (512, 512))[1])
    size = intake.nearest_size(width, height)
    if size[0] * size[1] < 0.9 * width * height:
        # Much too large: then in the number of pixels that the model paints best.
        size = intake.nearest_size(width, height, own_pixels=True)
    if size != (width, height):
        notes.append(f"width, height: {size[0]}x{size[1]} is painted instead of {width}x{height}")
    return size


def _at_most(name: str, value: float | None, most: int, notes: list[str]) -> int | None:
    if value is None:
        return None
    if value > most:
        notes.append(f"{name}: {most}, the most there can be, instead of {value:g}")
    return int(min(value, most))


def _guidance(asked: Txt2Img, notes: list[str]) -> float | None:
    scale = asked.cfg_scale
    if scale is None or 0 <= scale <= MAX_GUIDANCE_SCALE:
        return scale
    nearest = min(max(scale, 0.0), float(MAX_GUIDANCE_SCALE))
    notes.append(f"cfg_scale: {nearest:g} instead of {scale:g}")
    return nearest


def _upscale(asked: Txt2Img, size: tuple[int, int] | None, notes: list[str]) -> float | None:
    """The factor of `enable_hr`; None without."""
    if not asked.enable_hr:
        return None
    factor = asked.hr_scale or 1.0
    if size is not None and (asked.hr_resize_x or asked.hr_resize_y):
        factor = max(asked.hr_resize_x / size[0], asked.hr_resize_y / size[1])
    nearest = min(max(factor, 1.0), float(MAX_UPSCALE))
    if nearest != factor:
        notes.append(f"hr_scale: {nearest:g} instead of {factor:g}")
    return nearest
