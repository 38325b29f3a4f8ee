"""Copies of pictures that are small enough to be part of a message."""

from __future__ import annotations

import io

from PIL import Image

from banatie.imaging.formats import encode
from banatie.imaging.picture import Picture

QUALITY = 85
SIDES = (1024, 768, 512, 384, 256)
"""The longest side of a copy in pixels, until it is small enough."""


def fit_into(content: bytes, most_bytes: int) -> Picture:
    """The picture itself if it has at most `most_bytes`, else a smaller JPEG of it.

    A JPEG of 256 pixels takes less than 100 kB, and is returned whatever the limit is.
    """
    with Image.open(io.BytesIO(content)) as image:
        if len(content) <= most_bytes:
            return Picture(content, Image.MIME[image.format or "PNG"], *image.size)
        for side in SIDES:
            image.thumbnail((side, side), Image.Resampling.LANCZOS)
            copy = encode(image, "jpeg", QUALITY)
            if len(copy.data) <= most_bytes:
                break
    return copy
