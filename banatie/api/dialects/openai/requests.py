"""The requests of the OpenAI Images API, with the fields that Banatie adds.

Fields that nobody knows are refused, as OpenAI does. What each field becomes is in `translation`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from banatie.api.errors import of_field
from banatie.api.requests import LoraCreate, Seed, Steps
from banatie.errors import ValidationError
from banatie.limits import MAX_GUIDANCE_SCALE, MAX_LORAS
from banatie.records import ImageFormat, TemplateName

MAX_IMAGES = 10
"""Pictures of one request."""
MAX_PARTIAL_IMAGES = 3
OWN_NAMES = {
    "negativePrompt": "negative_prompt",
    "guidanceScale": "guidance_scale",
    "autoEnhance": "auto_enhance",
    "referenceStrength": "reference_strength",
}
"""Banatie's own fields as its own API writes them; both are taken."""

T = TypeVar("T", bound="ImageOptions")


class ImageOptions(Struct, forbid_unknown_fields=True, kw_only=True):
    """The fields that all requests for pictures have; null stands for "not given"."""

    model: str | None = None
    n: Annotated[float, Meta(ge=1, le=MAX_IMAGES, multiple_of=1)] | None = None
    size: str | None = None
    quality: Literal["standard", "hd", "low", "medium", "high", "auto"] | None = None
    background: Literal["transparent", "opaque", "auto"] | None = None
    moderation: Literal["low", "auto"] | None = None
    output_format: ImageFormat | None = None
    output_compression: Annotated[float, Meta(ge=0, le=100, multiple_of=1)] | None = None
    response_format: Literal["url", "b64_json"] | None = None
    style: Literal["vivid", "natural"] | None = None
    user: str | None = None
    stream: bool | None = None
    partial_images: Annotated[float, Meta(ge=0, le=MAX_PARTIAL_IMAGES, multiple_of=1)] | None = None
    seed: Seed | None = None
    steps: Steps | None = None
    negative_prompt: str | None = None
    guidance_scale: Annotated[float, Meta(ge=0, le=MAX_GUIDANCE_SCALE)] | None = None
    template: TemplateName | None = None
    auto_enhance: bool | None = None
    loras: Annotated[list[LoraCreate], Meta(max_length=MAX_LORAS)] | None = None


class GenerationRequest(ImageOptions, kw_only=True):
    """The body of /v1/images/generations."""

    prompt: str


class EditRequest(GenerationRequest, kw_only=True):
    """The form of /v1/images/edits without its files."""

    input_fidelity: Literal["high", "low"] | None = None
    reference_strength: Annotated[float, Meta(ge=0, le=1)] | None = None


class VariationRequest(ImageOptions, kw_only=True):
    """The form of /v1/images/variations without its file; OpenAI's has no prompt."""

    prompt: str | None = None
    reference_strength: Annotated[float, Meta(ge=0, le=1)] | None = None


def read_request(fields: Mapping[str, Any], shape: type[T], *, is_text: bool = False) -> T:
    """The fields as this shape; with `is_text`, numbers come as text, as in a form.

    Raises ValidationError naming the field.
    """
    given: dict[str, Any] = {}
    for name, value in fields.items():
        known = OWN_NAMES.get(name, name)
        if known in given:
            raise ValidationError.of(known, "is given more than once")
        given[known] = value
    if is_text and isinstance(given.get("loras"), str):
        try:
            given["loras"] = msgspec.json.decode(given["loras"])
        except msgspec.DecodeError as error:
            raise ValidationError.of("loras", "must be a JSON list, as text") from error
    try:
        return msgspec.convert(given, shape, strict=not is_text)
    except msgspec.ValidationError as error:
        raise of_field(error) from error
