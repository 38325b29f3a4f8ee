"""Uploads: pictures of strangers, decoded before they are believed."""

from __future__ import annotations

from dataclasses import dataclass

from banatie.limits import MAX_UPLOAD_PIXELS
from banatie.records import ImageFormat


@dataclass(frozen=True)
class Upload:
    """A decoded upload, encoded again as it is to be stored; width and height in pixels.

    It is upright, in sRGB with 8 bits a channel, RGB or RGBA, and in the format that it came in.
    """

    data: bytes
    image_format: ImageFormat
    mime_type: str
    width: int
    height: int


def decode_upload(
    data: bytes, *, keep_metadata: bool = False, max_pixels: int = MAX_UPLOAD_PIXELS
) -> Upload:
    """Decode a PNG, JPEG or WebP, in a process of its own with limits on memory and time.

    The format is told by the bytes. Blocks for a tenth of a second or more: call it in a thread.
    Raises ValidationError, of the field `file`, when it is none of these, truncated or damaged,
    animated, or larger than `max_pixels`.
    """
    raise NotImplementedError
