"""The JSON schemas of requests, in camelCase, and how they become records.

They follow docs/api.md to the letter.
"""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import UNSET, Meta, UnsetType

from banatie.api.schemas import WireIn
from banatie.checks import nearest_ratio, parse_size
from banatie.errors import ValidationError
from banatie.library import ImageChanges
from banatie.limits import (
    MAX_ALIAS_LENGTH,
    MAX_GUIDANCE_SCALE,
    MAX_LORA_WEIGHT,
    MAX_LORAS,
    MAX_QUALITY,
    MAX_REFERENCES,
    MAX_SEED,
    MAX_SIDE,
    MAX_STEPS,
    MAX_UPSCALE,
    MIN_SIDE,
    MIN_STEPS,
    SIDE_STEP,
)
from banatie.records import (
    AspectRatio,
    FocalPoint,
    ImageFormat,
    LoraUse,
    PromptSyntax,
    Submission,
    TemplateName,
)
from banatie.store.aliases import as_uuid
from banatie.store.regeneration import Changes
from banatie.webhooks import MAX_URL_LENGTH

ALIAS_PATTERN = "^@[A-Za-z0-9_-]+$"
DEFAULTS = Submission(prompt="")

# Many clients write every number as a float: 20.0 is an integer, as in JSON Schema.
_INTEGER = {"type": "integer"}
Seed = Annotated[float, Meta(ge=0, le=MAX_SEED, multiple_of=1, extra_json_schema=_INTEGER)]
Steps = Annotated[
    float, Meta(ge=MIN_STEPS, le=MAX_STEPS, multiple_of=1, extra_json_schema=_INTEGER)
]


Quality = Annotated[float, Meta(ge=1, le=MAX_QUALITY, multiple_of=1, extra_json_schema=_INTEGER)]

_SIDES = "|".join(str(side) for side in range(MIN_SIDE, MAX_SIDE + 1, SIDE_STEP))
# The number of pixels is limited too, by the model (`checks`).
SIZE = f"^({_SIDES})x({_SIDES})$"
FlowId = Annotated[
    str,
    Meta(
        description="Left out: a new one is offered. Null: none. The id of a flow, or a new one.",
        extra_json_schema={"format": "uuid"},
    ),
]
AliasText = Annotated[
    str,
    Meta(
        description="A name for the image; the technical ones (@last, @first, @upload) are taken.",
        examples=["@logo"],
        extra_json_schema={"pattern": ALIAS_PATTERN, "maxLength": MAX_ALIAS_LENGTH},
    ),
]
ImageReference = Annotated[str, Meta(description="An image's id or alias.", examples=["@last"])]


def flow_of(flow_id: str | UnsetType | None) -> tuple[str | None, bool]:
    """The flow's id, if one is given, and whether to offer one. Raises ValidationError."""
    if flow_id is UNSET or flow_id is None:
        return None, flow_id is UNSET
    known = as_uuid(flow_id)
    if known is None:
        raise ValidationError.of("flowId", f"{flow_id!r} is not a UUID")
    return known, False


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


class GenerationUpdate(WireIn):
    """The body of PUT /api/v1/generations/:id: what is to change; null changes nothing.

    Only `flowId` may be null to say something: the generation leaves its flow.
    """

    prompt: Annotated[str, Meta(extra_json_schema={"minLength": 1, "pattern": r"\S"})] | None = None
    aspect_ratio: AspectRatio | None = None
    flow_id: FlowId | UnsetType | None = UNSET
    meta: dict[str, Any] | None = None
    favourite: bool | None = None

    def to_changes(self) -> Changes:
        """Convert to a record. Raises ValidationError."""
        flow_id, _ = flow_of(self.flow_id)
        return Changes(
            prompt=self.prompt,
            aspect_ratio=self.aspect_ratio,
            meta=self.meta,
            favourite=self.favourite,
            flow_id=flow_id,
            moves=self.flow_id is not UNSET,
        )


class FocalPointIn(WireIn):
    """The point of an image that matters most, from its upper left corner."""

    x: Annotated[float, Meta(ge=0, le=1)]
    y: Annotated[float, Meta(ge=0, le=1)]


class ImageUpdate(WireIn):
    """The body of PUT /api/v1/images/:id: what is left out stays as it is."""

    focal_point: FocalPointIn | UnsetType | None = UNSET
    meta: dict[str, Any] | UnsetType = UNSET

    def to_changes(self) -> ImageChanges:
        """Convert to a record."""
        given = {"focal_point": self.focal_point, "meta": self.meta}
        point = self.focal_point
        return ImageChanges(
            frozenset(name for name, value in given.items() if value is not UNSET),
            FocalPoint(point.x, point.y) if isinstance(point, FocalPointIn) else None,
            self.meta if isinstance(self.meta, dict) else None,
        )


class AliasUpdate(WireIn):
    """The body of PUT /api/v1/images/:id/alias; null takes the alias away."""

    alias: AliasText | None


class FlowAliasesUpdate(WireIn):
    """The body of PUT /api/v1/flows/:id/aliases: by alias, an image's id or alias."""

    aliases: Annotated[
        dict[str, ImageReference],
        Meta(
            min_length=1,
            extra_json_schema={"propertyNames": {"pattern": ALIAS_PATTERN}},
        ),
    ]


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

    size: (
        Annotated[str, Meta(examples=["1216x832"], extra_json_schema={"pattern": SIZE})] | None
    ) = None
    flow_id: FlowId | UnsetType | None = UNSET
    alias: AliasText | None = None
    flow_alias: AliasText | None = None
    reference_images: (
        Annotated[
            list[ImageReference],
            Meta(max_length=MAX_REFERENCES, description="Images by their ids or aliases."),
        ]
        | None
    ) = None
    reference_strength: (
        Annotated[
            float,
            Meta(ge=0, le=1, description="0: not seen; 1: hardly anything else."),
        ]
        | None
    ) = None
    mask: (
        Annotated[str, Meta(description="An image by its id or alias: white is painted anew.")]
        | None
    ) = None
    upscale: Annotated[float, Meta(ge=1, le=MAX_UPSCALE)] | None = None
    output_format: ImageFormat | None = None
    quality: Quality | None = None
    sampler: Annotated[str, Meta(examples=["DPM++ 2M Karras"])] | None = None
    scheduler: (
        Annotated[str, Meta(description="The sampler's noise schedule.", examples=["Karras"])]
        | None
    ) = None
    prompt_syntax: PromptSyntax | None = None
    webhook: (
        Annotated[
            str,
            Meta(
                description="A URL that gets the generation when it has ended.",
                examples=["https://example.org/hook"],
                extra_json_schema={"format": "uri", "maxLength": MAX_URL_LENGTH},
            ),
        ]
        | None
    ) = None

    def to_submission(self) -> Submission:
        """Convert to a record, filling in the defaults. Raises ValidationError."""
        flow_id, starts_flow = flow_of(self.flow_id)
        size = None
        if self.size is not None:
            if self.aspect_ratio is not None:
                raise ValidationError.of("size", "stands instead of aspectRatio; give one of them")
            size = parse_size(self.size)
        options = self.enhancement_options or EnhancementOptions()
        return Submission(
            prompt=self.prompt,
            aspect_ratio=(
                nearest_ratio(*size) if size else self.aspect_ratio or DEFAULTS.aspect_ratio
            ),
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
            size=size,
            flow_id=flow_id,
            starts_flow=starts_flow,
            alias=self.alias,
            flow_alias=self.flow_alias,
            references=tuple(self.reference_images or ()),
            reference_strength=self.reference_strength,
            mask=self.mask,
            upscale=self.upscale,
            output_format=self.output_format or DEFAULTS.output_format,
            quality=None if self.quality is None else int(self.quality),
            sampler=self.sampler,
            scheduler=self.scheduler,
            prompt_syntax=self.prompt_syntax or DEFAULTS.prompt_syntax,
            webhook=self.webhook,
        )
