"""The bodies of txt2img and img2img, and what of them becomes a submission.

Clients send their whole own state, so an unknown field is no error: `Taken.ignored` names what has
no effect here. Values are never kept, because some clients send passwords along.
"""

from __future__ import annotations

import codecs
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Struct

from banatie.errors import ValidationError
from banatie.limits import MAX_SAFE_INTEGER

MAX_IMAGES = 16
"""Of one request: `n_iter` times `batch_size`."""

Whole = Annotated[float, Meta(ge=-MAX_SAFE_INTEGER, le=MAX_SAFE_INTEGER)]

T = TypeVar("T", bound=Struct)

NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "clip_skip": (1,),
    "eta": (1,),
    "hr_upscaler": ("Latent",),
    "hr_additional_modules": (["Use same choices"],),
    "hr_cfg": (1,),
    "hr_denoising_strength": (1,),
    "image_cfg_scale": (1.5, 7),
    "initial_noise_multiplier": (1,),
    "inpainting_fill": (1,),
    "mask_blur": (4,),
    "mask_blur_x": (4,),
    "mask_blur_y": (4,),
    "mask_round": (True,),
    "resize_mode": (0,),
    "s_noise": (1,),
    "seed_resize_from_h": (-1,),
    "seed_resize_from_w": (-1,),
    "subseed": (-1,),
}
"""Values of fields without effect that ask for nothing, besides empty ones and 0."""
WITHOUT_EFFECT_ANYWAY = frozenset(
    # What applies to one request is undone after it in any case, and every picture is kept.
    ("override_settings_restore_afterwards", "save_images", "force_task_id", "task_id", "comments")
)
NEUTRAL_SETTINGS: Mapping[str, tuple[object, ...]] = {
    "CLIP_stop_at_last_layers": (1,),
    "sd_vae": ("Automatic", "None", "auto"),
}


class Txt2Img(Struct):
    """What of a txt2img request has an effect."""

    prompt: str = ""
    negative_prompt: str = ""
    seed: Whole = -1
    sampler_name: str = ""
    sampler_index: str = ""
    """The older name of the same."""
    scheduler: str = ""
    batch_size: Annotated[float, Meta(ge=1)] = 1
    n_iter: Annotated[float, Meta(ge=1)] = 1
    steps: Annotated[float, Meta(ge=1)] | None = None
    cfg_scale: float | None = None
    width: Annotated[float, Meta(ge=1)] | None = None
    height: Annotated[float, Meta(ge=1)] | None = None
    enable_hr: bool = False
    hr_scale: Annotated[float, Meta(ge=0)] = 2
    hr_resize_x: Annotated[float, Meta(ge=0)] = 0
    hr_resize_y: Annotated[float, Meta(ge=0)] = 0
    override_settings: dict[str, Any] = {}
    send_images: bool = True

    @property
    def images(self) -> int:
        """How many are asked for. Raises ValidationError for too many."""
        count = int(self.n_iter) * int(self.batch_size)
        if count > MAX_IMAGES:
            raise ValidationError.of(
                "batch_size", f"times n_iter is {count}; at most {MAX_IMAGES} are made at once"
            )
        return count


class Img2Img(Txt2Img, kw_only=True):
    """What of an img2img request has an effect."""

    init_images: Annotated[list[str], Meta(min_length=1)]
    mask: str = ""
    inpainting_mask_invert: float = 0
    denoising_strength: Annotated[float, Meta(ge=0, le=1)] = 0.75
    include_init_images: bool = False


def read(body: bytes, shape: type[T]) -> tuple[T, list[str]]:
    """The request, and the names of what in it has no effect. Raises ValidationError."""
    fields = read_object(body)
    # null stands for "not given", and many clients send numbers as strings.
    given = {name: value for name, value in fields.items() if value is not None}
    try:
        request = msgspec.convert(given, shape, strict=False)
    except msgspec.ValidationError as error:
        message, _, place = str(error).partition(" - at `$.")
        raise ValidationError.of(place.rstrip("`") or "body", message) from error
    known = {field.name for field in msgspec.structs.fields(shape)}
    ignored = [
        name
        for name, value in given.items()
        if name not in known and name not in WITHOUT_EFFECT_ANYWAY and _asks(name, value, NEUTRAL)
    ]
    return request, ignored


def read_object(body: bytes) -> dict[str, Any]:
    """The body as an object. Raises ValidationError."""
    try:
        fields = msgspec.json.decode(body.removeprefix(codecs.BOM_UTF8), type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValidationError.of("body", "is not a JSON object") from error
    return fields


def ignored_settings(settings: Mapping[str, Any]) -> list[str]:
    """The names of settings that have no effect, as `override_settings.NAME`."""
    return [
        f"override_settings.{name}"
        for name, value in settings.items()
        if name != "sd_model_checkpoint" and _asks(name, value, NEUTRAL_SETTINGS)
    ]


def _asks(name: str, value: object, neutral: Mapping[str, tuple[object, ...]]) -> bool:
    """Whether the value asks for anything."""
    if isinstance(value, float | int | str | list | dict) and not value:
        return False
    return value is not None and value not in neutral.get(name, ())
