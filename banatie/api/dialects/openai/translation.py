"""From a request of the OpenAI Images API to Banatie's submissions: docs/clients.md has the table.

What a client asks for and cannot get is refused by name, or approximated and said in the answer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from banatie.api.dialects.openai.requests import (
    EditRequest,
    GenerationRequest,
    ImageOptions,
    VariationRequest,
)
from banatie.checks import nearest_ratio, parse_size
from banatie.errors import ValidationError
from banatie.imaging.uploads import Upload
from banatie.intake import Intake
from banatie.limits import MAX_SEED, MAX_STEPS
from banatie.records import ImageFormat, LoraUse, Submission

DEFAULTS = Submission(prompt="")
VARIATION_PROMPT = "a picture"
"""Of a variation without a prompt: words that lead nowhere, since the picture itself is to."""
HIGH_FIDELITY_STRENGTH = 0.8
STEP_FACTORS = {"low": 0.5, "high": 1.5, "hd": 1.5}
"""By which a quality changes the model's own number of steps; the others leave it."""
QUALITY_NAMES = {"low": "low", "high": "high", "hd": "high"}
"""What the answer calls a quality; the others are "medium"."""


@dataclass(frozen=True)
class Order:
    """What a request asks for: the submissions, one for each picture, and how to answer."""

    submissions: tuple[Submission, ...]
    quality: str
    wants_url: bool
    is_stream: bool
    partial_images: int
    warnings: tuple[str, ...]
    """What was not taken as it was asked for."""


def order_of(
    request: GenerationRequest | VariationRequest,
    intake: Intake,
    source: Upload | None = None,
    *,
    has_mask: bool = False,
) -> Order:
    """What the request asks for; `source` is the picture that is edited or varied.

    Raises ValidationError.
    """
    _check(request)
    size, warnings = _size(request, intake, source)
    if request.style is not None:
        warnings.append(
            f"style: {request.style!r} is ignored; say it in the prompt, or by a template"
        )
    image_format: ImageFormat = request.output_format or DEFAULTS.output_format
    submission = Submission(
        prompt=VARIATION_PROMPT if request.prompt is None else request.prompt,
        aspect_ratio=nearest_ratio(*size) if size else DEFAULTS.aspect_ratio,
        auto_enhance=_auto_enhance(request),
        template=request.template or DEFAULTS.template,
        meta={} if request.user is None else {"user": request.user},
        seed=None if request.seed is None else int(request.seed),
        negative_prompt=request.negative_prompt or "",
        steps=_steps(request, intake),
        guidance_scale=request.guidance_scale,
        loras=tuple(
            LoraUse(lora.name) if lora.weight is None else LoraUse(lora.name, lora.weight)
            for lora in request.loras or ()
        ),
        size=size,
        reference_strength=_reference_strength(request, has_mask=has_mask),
        output_format=image_format,
        quality=_file_quality(request, image_format),
    )
    return Order(
        submissions=_series(submission, int(request.n or 1)),
        quality=QUALITY_NAMES.get(request.quality or "", "medium"),
        wants_url=request.response_format == "url",
        is_stream=bool(request.stream),
        partial_images=int(request.partial_images or 0),
        warnings=tuple(warnings),
    )


def from_pictures(order: Order, references: Sequence[str], mask: str | None) -> Order:
    """The order, painted from these images and this mask, by their ids."""
    return replace(
        order,
        submissions=tuple(
            replace(submission, references=tuple(references), mask=mask)
            for submission in order.submissions
        ),
    )


def _check(request: ImageOptions) -> None:
    """What no model here can do."""
    if request.background == "transparent":
        raise ValidationError.of(
            "background", "no model here paints transparency; leave it out, or send opaque"
        )
    if request.stream and request.response_format == "url":
        raise ValidationError.of("response_format", "a stream carries b64_json; leave it out")
    if request.partial_images and not request.stream:
        raise ValidationError.of("partial_images", "needs stream: true")


def _size(
    request: ImageOptions, intake: Intake, source: Upload | None
) -> tuple[tuple[int, int] | None, list[str]]:
    """The size to paint, None for the model's own, and a warning if another was asked for."""
    if request.size in (None, "", "auto"):
        if source is None:
            return None, []
        return intake.nearest_size(source.width, source.height, own_pixels=True), []
    asked = parse_size(str(request.size).lower())
    size = intake.nearest_size(*asked)
    if size == asked:
        return size, []
    return size, [
        f"size: {asked[0]}x{asked[1]} is no size for this model; painted was "
        f"{size[0]}x{size[1]}, the nearest that it paints well"
    ]


def _steps(request: ImageOptions, intake: Intake) -> int | None:
    factor = STEP_FACTORS.get(request.quality or "")
    if request.steps is not None or factor is None:
        return None if request.steps is None else int(request.steps)
    model = intake.painting_model()
    return None if model is None else min(math.ceil(model.steps * factor), MAX_STEPS)


def _auto_enhance(request: GenerationRequest | VariationRequest) -> bool:
    if request.auto_enhance is not None:
        return request.auto_enhance
    return DEFAULTS.auto_enhance and request.prompt is not None


def _reference_strength(
    request: GenerationRequest | VariationRequest, *, has_mask: bool
) -> float | None:
    if not isinstance(request, EditRequest | VariationRequest):
        return None
    if request.reference_strength is not None:
        return request.reference_strength
    # With a mask, the rest of the picture is kept anyway.
    is_faithful = isinstance(request, EditRequest) and request.input_fidelity == "high"
    return HIGH_FIDELITY_STRENGTH if is_faithful and not has_mask else None


def _file_quality(request: ImageOptions, image_format: ImageFormat) -> int | None:
    if request.output_compression is None:
        return None
    if image_format != "png":
        # OpenAI's scale begins at 0, that of JPEG and WebP here at 1.
        return max(int(request.output_compression), 1)
    if request.output_compression < 100:
        raise ValidationError.of("output_compression", "is for jpeg and webp; a png loses nothing")
    return None


def _series(submission: Submission, number: int) -> tuple[Submission, ...]:
    """So many pictures; of a given seed, each has the next one, or all would be the same."""
    if submission.seed is None:
        return (submission,) * number
    return tuple(
        replace(submission, seed=(submission.seed + index) % (MAX_SEED + 1))
        for index in range(number)
    )
