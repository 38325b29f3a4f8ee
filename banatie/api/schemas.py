"""The JSON schemas of answers, in camelCase, and how records become answers.

They follow docs/api.md to the letter.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Any, Generic, TypeVar

import msgspec
from msgspec import Meta, Struct

from banatie.api.error_codes import STATUS_OF_CODE
from banatie.records import (
    AspectRatio,
    Generation,
    Image,
    ImageFormat,
    PromptSyntax,
    Status,
    TemplateName,
)

T = TypeVar("T")

EPOCH = datetime(1970, 1, 1)

# Annotations for the OpenAPI document alone: msgspec does not check them.
Id = Annotated[str, Meta(extra_json_schema={"format": "uuid"})]
Time = Annotated[
    str, Meta(extra_json_schema={"format": "date-time"}, examples=["2025-11-28T10:00:00.000Z"])
]
Url = Annotated[str, Meta(extra_json_schema={"format": "uri"})]
Code = Annotated[str, Meta(extra_json_schema={"enum": list(STATUS_OF_CODE)})]
Yes = Annotated[bool, Meta(extra_json_schema={"const": True})]
No = Annotated[bool, Meta(extra_json_schema={"const": False})]


class Wire(Struct, rename="camel"):
    """A schema of answers."""


class WireIn(Struct, rename="camel", forbid_unknown_fields=True):
    """A schema of requests; an unknown field is an error, never ignored."""


class OutputImage(Wire):
    """A finished image and its URL."""

    id: Id
    storage_url: Url
    mime_type: str
    width: int
    height: int
    file_size: int


class EnhancementView(Wire):
    """How the prompt was enhanced."""

    template: str
    model: str
    mode: str
    seconds: float


class ProgressView(Wire):
    """How many of the denoising steps are done."""

    step: int
    steps: int


class ProgressEvent(Wire):
    """The same in an event, with a preview as the data URL of a JPEG."""

    step: int
    steps: int
    preview: str | None


class LoraView(Wire):
    """A LoRA that is applied."""

    name: str
    weight: float


class ReferencedImage(Wire):
    """An image that the generation is painted from, and the alias by which it was named."""

    image_id: Id
    alias: str | None


class ReferenceImage(Wire):
    """The same with its URL."""

    id: Id
    storage_url: Url
    alias: str | None


class GenerationView(Wire):
    """A generation as a client sees it."""

    id: Id
    project_id: Id
    prompt: str
    original_prompt: str
    auto_enhance: bool
    aspect_ratio: AspectRatio
    status: Status
    output_image_id: Id | None
    output_image: OutputImage | None
    processing_time_ms: int | None
    retry_count: int
    error_message: str | None
    meta: dict[str, Any]
    created_at: Time
    updated_at: Time
    deleted_at: Time | None
    seed: int
    negative_prompt: str
    steps: int | None
    guidance_scale: float | None
    loras: list[LoraView]
    model: str | None
    template: TemplateName
    enhancement: EnhancementView | None
    progress: ProgressView | None
    warnings: list[str]
    flow_id: Id | None
    alias: str | None
    flow_alias: str | None
    referenced_images: list[ReferencedImage]
    reference_images: list[ReferenceImage]
    reference_strength: float | None
    reference_mode: str | None
    mask: Id | None
    size: str | None
    upscale: float | None
    output_format: ImageFormat
    quality: int | None
    sampler: str | None
    scheduler: str | None
    prompt_syntax: PromptSyntax
    favourite: bool


class MonthView(Wire):
    """How many generations were created in a month of UTC, such as `2026-11`."""

    month: str
    count: int


class MonthsView(Wire):
    """The months that have generations, newest first."""

    months: list[MonthView]


class Pagination(Wire):
    """The position of a page in the list."""

    limit: int
    offset: int
    total: int
    has_more: bool


class Success(Wire, Generic[T], kw_only=True):
    """An answer."""

    success: Yes = True
    data: T


class Page(Wire, Generic[T], kw_only=True):
    """A page of a list."""

    success: Yes = True
    data: list[T]
    pagination: Pagination


class Done(Wire, kw_only=True):
    """An answer without data."""

    success: Yes = True
    message: str


class FieldErrorView(Wire):
    """A problem with one parameter."""

    field: str
    message: str


class ErrorBody(Wire, omit_defaults=True):
    """The error; `details` lists the parameters, or is the generation that was waited for."""

    code: Code
    message: str
    details: list[FieldErrorView] | GenerationView | None = None


class Failure(Wire, kw_only=True):
    """The answer to a request that failed."""

    success: No = False
    error: ErrorBody


def timestamp(milliseconds: int) -> str:
    """ISO 8601 in UTC with milliseconds."""
    moment = EPOCH + timedelta(milliseconds=milliseconds)
    return moment.isoformat(timespec="milliseconds") + "Z"


def view(generation: Generation, public_url: str) -> GenerationView:
    """The generation as a client sees it, with picture URLs below `public_url`."""
    image, note = generation.image, generation.enhancement
    progress = None
    if generation.status == "processing" and generation.steps is not None:
        progress = ProgressView(generation.step, generation.steps)
    return GenerationView(
        id=generation.id,
        project_id=generation.project_id,
        prompt=generation.prompt,
        original_prompt=generation.original_prompt,
        auto_enhance=generation.auto_enhance,
        aspect_ratio=generation.aspect_ratio,
        status=generation.status,
        output_image_id=image.id if image else None,
        output_image=_output_image(image, public_url) if image else None,
        processing_time_ms=generation.processing_time_ms,
        retry_count=generation.retry_count,
        error_message=generation.error_message,
        meta=dict(generation.meta),
        created_at=timestamp(generation.created_at),
        updated_at=timestamp(generation.updated_at),
        deleted_at=timestamp(generation.deleted_at) if generation.deleted_at else None,
        seed=generation.seed,
        negative_prompt=generation.negative_prompt,
        steps=generation.steps,
        guidance_scale=generation.guidance_scale,
        loras=[LoraView(lora.name, lora.weight) for lora in generation.loras],
        model=generation.model,
        template=generation.template,
        enhancement=EnhancementView(note.template, note.model, note.mode, round(note.seconds, 3))
        if note
        else None,
        progress=progress,
        warnings=list(generation.warnings),
        flow_id=generation.flow_id,
        alias=generation.alias,
        flow_alias=generation.flow_alias,
        referenced_images=[
            ReferencedImage(each.image_id, each.alias) for each in generation.reference_images
        ],
        reference_images=[
            ReferenceImage(each.image_id, storage_url(each.storage_key, public_url), each.alias)
            for each in generation.reference_images
        ],
        reference_strength=generation.reference_strength,
        reference_mode=generation.reference_mode,
        mask=generation.mask_image_id,
        size=f"{generation.width}x{generation.height}" if generation.width else None,
        upscale=generation.upscale,
        output_format=generation.output_format,
        quality=generation.quality,
        sampler=generation.sampler,
        scheduler=generation.scheduler,
        prompt_syntax=generation.prompt_syntax,
        favourite=generation.favourite,
    )


def storage_url(storage_key: str, public_url: str) -> str:
    """Where a browser opens the image."""
    return f"{public_url}/storage/{storage_key}"


def encode(value: object) -> bytes:
    """The JSON of a wire shape."""
    return msgspec.json.encode(value)


def _output_image(image: Image, public_url: str) -> OutputImage:
    return OutputImage(
        id=image.id,
        storage_url=storage_url(image.storage_key, public_url),
        mime_type=image.mime_type,
        width=image.width,
        height=image.height,
        file_size=image.file_size,
    )
