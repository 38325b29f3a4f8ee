"""The forms of /v1/images/edits and /v1/images/variations: pictures and fields."""

from __future__ import annotations

from dataclasses import dataclass

from litestar.datastructures import UploadFile

from banatie.api.dependencies import AppState, HttpRequest, in_thread
from banatie.api.dialects.openai.jobs import SourcePictures
from banatie.errors import ValidationError
from banatie.imaging.masks import mask_of_transparency
from banatie.imaging.uploads import Upload
from banatie.library import check_size
from banatie.limits import MAX_REFERENCES, MAX_UPLOAD_BYTES

IMAGE_FIELDS = ("image", "image[]")
"""A client that sends several calls the field by the second name."""
MASK_FIELD = "mask"
FORM_BYTES = (MAX_REFERENCES + 1) * MAX_UPLOAD_BYTES + 256 * 1024
"""The most bytes of a form: its pictures, a mask and the text."""


@dataclass(frozen=True)
class Form:
    """A form as it was sent."""

    fields: dict[str, str]
    images: tuple[bytes, ...]
    mask: bytes | None

    async def decoded(self, app: AppState) -> SourcePictures:
        """The pictures as they are to be stored. Raises ValidationError and PayloadTooLarge."""
        images = [await in_thread(app.library.decode, data, "image") for data in self.images]
        mask: Upload | None = None
        if self.mask is not None:
            shape = await in_thread(app.library.decode, self.mask, MASK_FIELD)
            mask = await in_thread(mask_of_transparency, shape, MASK_FIELD)
        return SourcePictures(images, mask)


async def read_form(request: HttpRequest, *, most_images: int, takes_mask: bool) -> Form:
    """The form. Raises ValidationError and PayloadTooLarge."""
    try:
        form = await request.form()
    except (UnicodeDecodeError, LookupError) as error:
        raise ValidationError(
            "The form has a field that is no text; pictures need names"
        ) from error
    fields: dict[str, str] = {}
    files: dict[str, list[bytes]] = {"image": [], MASK_FIELD: []}
    for name, value in form.multi_items():
        place = "image" if name in IMAGE_FIELDS else name
        if place == "image" or (place == MASK_FIELD and takes_mask):
            files[place].append(await _content(place, value))
        elif not isinstance(value, str):
            raise ValidationError.of(name, "must be text, not a file")
        elif name in fields:
            raise ValidationError.of(name, "is given more than once")
        else:
            fields[name] = value
    if not files["image"]:
        raise ValidationError.of("image", "is required")
    if len(files["image"]) > most_images:
        raise ValidationError.of("image", f"takes at most {most_images}; send fewer")
    if len(files[MASK_FIELD]) > 1:
        raise ValidationError.of(MASK_FIELD, "is given more than once")
    return Form(fields, tuple(files["image"]), next(iter(files[MASK_FIELD]), None))


async def _content(name: str, value: object) -> bytes:
    if not isinstance(value, UploadFile):
        raise ValidationError.of(name, "must be a file with a file name")
    try:
        data = await value.read(MAX_UPLOAD_BYTES + 1)
    finally:
        await value.close()
    check_size(len(data))
    return data
