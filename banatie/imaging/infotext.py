"""The generation parameters that a picture's file carries, as `formats` has written them."""

from __future__ import annotations

import io

from PIL import ExifTags, Image

from banatie.imaging.formats import USER_COMMENT_IN_UNICODE


def parameters_of(data: bytes) -> str:
    """The text `parameters` of a PNG, or the Exif user comment of a JPEG or WebP; empty if none.

    Decodes no pixels. Raises OSError, SyntaxError or ValueError for what is no such file.
    """
    with Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP")) as image:
        if isinstance(text := image.info.get("parameters"), str):
            return text
        comment = image.getexif().get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.UserComment, b"")
    if isinstance(comment, bytes) and comment.startswith(USER_COMMENT_IN_UNICODE):
        return comment.removeprefix(USER_COMMENT_IN_UNICODE).decode("utf-16-be", "replace")
    return ""
