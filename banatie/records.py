"""The domain's frozen types: generations, images, keys and projects.

Plain values without behaviour. How they are stored, shown or created is unknown here. Times are
whole milliseconds since 1970 in UTC.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

AspectRatio = Literal["1:1", "16:9", "9:16", "3:2", "21:9"]
TemplateName = Literal[
    "general", "photorealistic", "illustration", "minimalist", "sticker", "product", "comic"
]
Status = Literal["pending", "processing", "success", "failed"]
KeyType = Literal["project", "master"]
"""A master key may also administer keys; for everything else it is a key of its project."""
PromptSyntax = Literal["plain", "webui"]
"""How a prompt is read: as words, or with the weights of Stable Diffusion WebUI."""
ImageFormat = Literal["png", "jpeg", "webp"]
ImageSource = Literal["uploaded", "generated"]

ASPECT_RATIOS: tuple[AspectRatio, ...] = get_args(AspectRatio)
TEMPLATE_NAMES: tuple[TemplateName, ...] = get_args(TemplateName)

CANCELLED = "Cancelled"
"""The error message of a generation that was cancelled or deleted before it ended."""

DEFAULT_SLUG = "default"
"""The organisation, and the project, of a key that is created without naming one."""


@dataclass(frozen=True)
class Project:
    """A project of an organisation; keys, generations and images belong to one."""

    id: str
    slug: str
    organization_slug: str
    organization_id: str


@dataclass(frozen=True)
class Key:
    """An API key as the database knows it, without its text."""

    id: str
    project: Project
    type: KeyType
    name: str
    hint: str
    """The key's first characters, enough to recognise it in a list."""
    requests_per_hour: int | None
    """None: the configured limit applies."""
    created_at: int
    expires_at: int | None = None
    revoked_at: int | None = None


@dataclass(frozen=True)
class Session:
    """A browser that has signed in, as the database knows it, without its cookie."""

    id: str
    key: Key
    """Whose rights it has."""
    name: str
    """What the browser calls itself."""
    created_at: int
    expires_at: int
    revoked_at: int | None = None


@dataclass(frozen=True)
class Scope:
    """A group of live URLs' images in a project."""

    id: str
    project_id: str
    slug: str
    allow_new_generations: bool
    new_generations_limit: int | None
    """New images an hour; None: the configured limit applies."""
    meta: Mapping[str, Any]
    current_generations: int
    """How many images are in it."""
    last_generated_at: int | None
    created_at: int
    updated_at: int


@dataclass(frozen=True)
class LoraUse:
    """A LoRA that a picture is painted with, and the weight of its effect."""

    name: str
    weight: float = 1.0


@dataclass(frozen=True)
class Submission:
    """What a client asks for; None where the worker or the model decides."""

    prompt: str
    aspect_ratio: AspectRatio = "1:1"
    auto_enhance: bool = True
    template: TemplateName = "general"
    meta: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None
    negative_prompt: str = ""
    steps: int | None = None
    guidance_scale: float | None = None
    loras: tuple[LoraUse, ...] = ()
    size: tuple[int, int] | None = None
    """Width and height in pixels; None: the model's size for the aspect ratio."""
    flow_id: str | None = None
    starts_flow: bool = False
    """Without a flow id: whether to offer one, under which a flow can be made later."""
    alias: str | None = None
    flow_alias: str | None = None
    references: tuple[str, ...] = ()
    """Images by their ids or aliases; those that the prompt names are added."""
    reference_strength: float | None = None
    mask: str | None = None
    """An image by its id or alias."""
    upscale: float | None = None
    output_format: ImageFormat = "png"
    quality: int | None = None
    sampler: str | None = None
    """By its name in `models.samplers`; None: the model's own."""
    scheduler: str | None = None
    """The sampler's noise schedule; None: the model's own."""
    prompt_syntax: PromptSyntax = "plain"
    webhook: str | None = None
    """A URL that is told of the end."""


@dataclass(frozen=True)
class Reference:
    """An image that a picture is painted from, and the alias by which it was named, if any."""

    image_id: str
    alias: str | None
    storage_key: str


@dataclass(frozen=True)
class EnhancementNote:
    """How a prompt was enhanced: in mode `lexicon`, `guided` or `free`."""

    template: str
    model: str
    mode: str
    seconds: float


@dataclass(frozen=True)
class FocalPoint:
    """The point of an image that matters most, each coordinate from 0 to 1 of its size."""

    x: float
    y: float


@dataclass(frozen=True)
class Flow:
    """A chain of generations and images that belong together."""

    id: str
    project_id: str
    aliases: Mapping[str, str]
    """The ids of the images that have a name within the flow."""
    generation_count: int
    image_count: int
    created_at: int
    updated_at: int


@dataclass(frozen=True)
class Image:
    """A picture in the storage folder."""

    id: str
    project_id: str
    storage_key: str
    """Its path below the storage folder, with forward slashes."""
    mime_type: str
    width: int
    height: int
    file_size: int
    created_at: int
    flow_id: str | None = None
    source: ImageSource = "generated"
    alias: str | None = None
    """Its name in the project."""
    focal_point: FocalPoint | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)
    generation_id: str | None = None
    """The generation whose output it is."""


@dataclass(frozen=True)
class Generation:
    """One request for a picture and its state, as its row has it."""

    id: str
    project_id: str
    revision: int
    """Grows with every change of any generation: a later state has a larger revision."""
    status: Status
    stage: Literal["enhance", "paint", "done"]
    """What happens next; clients see only the status."""
    prompt: str
    original_prompt: str
    auto_enhance: bool
    template: TemplateName
    aspect_ratio: AspectRatio
    negative_prompt: str
    seed: int
    steps: int | None
    guidance_scale: float | None
    loras: tuple[LoraUse, ...]
    width: int | None
    """Of the picture before it is enlarged; None: the model's size for the aspect ratio."""
    height: int | None
    flow_id: str | None
    """Of a flow that exists, or of one that is made when the id is used again."""
    alias: str | None
    """The name that the image takes over in the project when the generation succeeds."""
    flow_alias: str | None
    """The same in the flow."""
    reference_images: tuple[Reference, ...]
    reference_strength: float | None
    """From 0 (not seen at all) to 1 (hardly anything else); None where the worker decides."""
    reference_mode: str | None
    """How the references were used; None until the worker has decided."""
    mask_image_id: str | None
    upscale: float | None
    """The factor by which the finished picture is enlarged."""
    output_format: ImageFormat
    quality: int | None
    """Of JPEG and WebP, from 1 to 100."""
    sampler: str | None
    """None: the model's own."""
    scheduler: str | None
    """The sampler's noise schedule; None: the model's own."""
    prompt_syntax: PromptSyntax
    meta: Mapping[str, Any]
    warnings: tuple[str, ...]
    enhancement: EnhancementNote | None
    model: str | None
    step: int
    retry_count: int
    crashes: int
    """How often a worker died while it held this row; after too many, the row fails."""
    error_message: str | None
    image: Image | None
    """While the generation is made again, still that of before."""
    processing_time_ms: int | None
    created_at: int
    updated_at: int
    enhanced_at: int | None
    deleted_at: int | None
    favourite: bool
    request_id: str | None
    """The id of the HTTP request that submitted it, for the logs."""

    @property
    def is_ended(self) -> bool:
        """Whether it has reached its final status."""
        return self.status in ("success", "failed")
