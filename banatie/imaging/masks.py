"""Masks by transparency, as the OpenAI API has them, made into masks by brightness."""

from __future__ import annotations

import io

from PIL import Image, ImageChops

from banatie.errors import ValidationError
from banatie.imaging.uploads import Upload


def mask_of_transparency(upload: Upload, field: str) -> Upload:
    """A mask that is white (painted anew) where the upload is transparent, else black (kept).

    Takes a while for a large picture. Raises ValidationError, of the request's `field`, when the
    upload has no transparency to tell by.
    """
    with Image.open(io.BytesIO(upload.data)) as opened:
        if not opened.has_transparency_data:
            raise ValidationError.of(
                field,
                "has no alpha channel; send a PNG or WebP that is transparent where the picture "
                "is to be painted anew",
            )
        levels = ImageChops.invert(opened.convert("RGBA").getchannel("A"))
    encoded = io.BytesIO()
    levels.save(encoded, "PNG", compress_level=1)
    return Upload(encoded.getvalue(), "png", upload.width, upload.height)
