"""The formats in which pictures are stored: PNG, JPEG and WebP, each with its metadata."""

from __future__ import annotations

import io
from collections.abc import Mapping

from PIL import ExifTags, Image

from banatie.imaging.picture import Picture
from banatie.imaging.png import encode_png
from banatie.records import ImageFormat

DEFAULT_QUALITY = 90
"""Of JPEG and WebP, where no quality is asked for."""
PREVIEW_QUALITY = 80

MIME_TYPES: Mapping[ImageFormat, str] = {
    "png": "image/png",
    "jpeg": "image/jpeg",
    "webp": "image/webp",
}

USER_COMMENT_IN_UNICODE = b"UNICODE\0"
"""Says that a user comment is in Unicode (Exif 2.32, table 9); readers take it as UTF-16."""


def encode(
    image: Image.Image, image_format: ImageFormat, quality: int | None, parameters: str = ""
) -> Picture:
    """Encode a picture for storage; the same input gives the same bytes.

    `quality` is from 1 to 100 for JPEG and WebP; PNG is lossless and ignores it. `parameters` is
    the text that tells how the picture was made: a text chunk of that name in a PNG, the Exif user
    comment elsewhere, where image browsers look for it. JPEG has no alpha: it is laid over white.
    """
    if image_format == "png":
        return encode_png(image, {"parameters": parameters} if parameters else {})
    if quality is None:
        quality = DEFAULT_QUALITY
    exif = _user_comment(parameters) if parameters else b""
    encoded = io.BytesIO()
    if image_format == "jpeg":
        # Colours at full resolution from here on: at lower qualities nobody looks for them.
        subsampling = "4:4:4" if quality >= DEFAULT_QUALITY else "4:2:0"
        flatten(image, "white").save(
            encoded, "JPEG", quality=quality, subsampling=subsampling, optimize=True, exif=exif
        )
    else:
        image.save(encoded, "WEBP", quality=quality, method=4, exif=exif)
    return Picture(encoded.getvalue(), MIME_TYPES[image_format], *image.size)


def encode_preview(image: Image.Image) -> bytes:
    """Encode a small picture as a JPEG of a few kilobytes, for display while a job runs."""
    encoded = io.BytesIO()
    image.save(encoded, "JPEG", quality=PREVIEW_QUALITY)
    return encoded.getvalue()


def flatten(image: Image.Image, background: str) -> Image.Image:
    """The picture in RGB; what is transparent shows the colour `background`."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    below = Image.new("RGBA", image.size, background)
    return Image.alpha_composite(below, image).convert("RGB")


def _user_comment(text: str) -> bytes:
    exif = Image.Exif()
    comment = USER_COMMENT_IN_UNICODE + text.encode("utf-16-be", "replace")
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = comment
    return exif.tobytes()
