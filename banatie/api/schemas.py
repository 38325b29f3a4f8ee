"""The JSON schemas of requests and answers, in camelCase, and how records become answers.

They follow docs/api.md to the letter.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Any, Generic, TypeVar

import msgspec
from msgspec import Meta, Struct

from banatie.api.error_codes import STATUS_OF_CODE
from banatie.limits import (
    MAX_GUIDANCE_SCALE,
    MAX_LORA_WEIGHT,
    MAX_LORAS,
    MAX_SEED,
    MAX_STEPS,
    MIN_STEPS,
)
from banatie.records import (
    AspectRatio,
    Generation,
    Image,
    LoraUse,
    Status,
    Submission,
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


# Many clients write every number as a float: 20.0 is an integer, as in JSON Schema.
_INTEGER = {"type": "integer"}
Seed = Annotated[float, Meta(ge=0, le=MAX_SEED, multiple_of=1, extra_json_schema=_INTEGER)]
Steps = Annotated[
    float, Meta(ge=MIN_STEPS, le=MAX_STEPS, multiple_of=1, extra_json_schema=_INTEGER)
]


class EnhancementOptions(WireIn):
    """How the prompt is enhanced."""

    template: TemplateName | None = None


class LoraCreate(WireIn):
    """A LoRA to apply."""

    name: Annotated[str, Meta(description="As `banatie models list` shows it.")]
    weight: (
        Annotated[
            float,
            Meta(
                ge=-MAX_LORA_WEIGHT,
                le=MAX_LORA_WEIGHT,
                description="Its strength: 1 as trained (default), negative to subtract it.",
            ),
        ]
        | None
    ) = None


class GenerationCreate(WireIn):
    """The body of POST /api/v1/generations; null stands for "not given" in every optional field."""

    prompt: Annotated[
        str,
        Meta(
            description="What the image shows.",
            examples=["a red fox"],
            extra_json_schema={"minLength": 1, "pattern": r"\S"},
        ),
    ]
    aspect_ratio: AspectRatio | None = None
    auto_enhance: bool | None = None
    enhancement_options: EnhancementOptions | None = None
    meta: (
        Annotated[
            dict[str, Any],
            Meta(description="Your own data: stored and returned, never interpreted."),
        ]
        | None
    ) = None
    seed: Seed | None = None
    negative_prompt: str | None = None
    steps: Steps | None = None
    guidance_scale: Annotated[float, Meta(ge=0, le=MAX_GUIDANCE_SCALE)] | None = None
    loras: (
        Annotated[list[LoraCreate], Meta(max_length=MAX_LORAS, description="LoRAs for this image.")]
        | None
    ) = None

    def to_submission(self) -> Submission:
        """Convert to a record, filling in the defaults."""
        options = self.enhancement_options or EnhancementOptions()
        return Submission(
            prompt=self.prompt,
            aspect_ratio=self.aspect_ratio or DEFAULTS.aspect_ratio,
            auto_enhance=DEFAULTS.auto_enhance if self.auto_enhance is None else self.auto_enhance,
            template=options.template or DEFAULTS.template,
            meta=self.meta or {},
            seed=None if self.seed is None else int(self.seed),
            negative_prompt=self.negative_prompt or "",
            steps=None if self.steps is None else int(self.steps),
            guidance_scale=self.guidance_scale,
            loras=tuple(
                LoraUse(lora.name) if lora.weight is None else LoraUse(lora.name, lora.weight)
                for lora in self.loras or ()
            ),
        )


DEFAULTS = Submission(prompt="")


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
    )


def encode(value: object) -> bytes:
    """The JSON of a wire shape."""
    return msgspec.json.encode(value)


def _output_image(image: Image, public_url: str) -> OutputImage:
    return OutputImage(
        id=image.id,
        storage_url=f"{public_url}/storage/{image.storage_key}",
        mime_type=image.mime_type,
        width=image.width,
        height=image.height,
        file_size=image.file_size,
    )
