"""Uploads: pictures from outside, decoded before they are believed.

The decoders read what anybody may have written, so they run in a process of their own with limits
on memory and time (`decoding`): whatever happens there, the server only says what is wrong.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps

import banatie
from banatie.errors import ValidationError
from banatie.imaging.decoding import REFUSED
from banatie.imaging.formats import MIME_TYPES, flatten
from banatie.limits import MAX_UPLOAD_PIXELS
from banatie.records import ImageFormat

DECODING_SECONDS = 30.0
"""A photograph of 12 million pixels takes less than one."""
FIELD = "file"


@dataclass(frozen=True)
class Upload:
    """A decoded upload, encoded again as it is to be stored; width and height in pixels.

    It is upright, in sRGB with 8 bits a channel, RGB or RGBA, and in the format that it came in.
    """

    data: bytes
    image_format: ImageFormat
    width: int
    height: int

    @property
    def mime_type(self) -> str:
        """The MIME type of `data`."""
        return MIME_TYPES[self.image_format]


def decode_upload(
    data: bytes,
    *,
    keep_metadata: bool = False,
    max_pixels: int = MAX_UPLOAD_PIXELS,
    field: str = FIELD,
    timeout: float = DECODING_SECONDS,
) -> Upload:
    """Decode a PNG, JPEG or WebP, told by its bytes, in a process of its own.

    Blocks for a tenth of a second or more: call it in a thread. Raises ValidationError, of the
    request's `field`, when the picture is none of these, truncated or damaged, animated, larger
    than `max_pixels`, or takes longer than `timeout` seconds.
    """
    # No shell and no option of the data's: its bytes are only ever the standard input.
    command = [sys.executable, "-m", "banatie.imaging.decoding", str(max_pixels)]
    try:
        run = subprocess.run(
            [*command, "keep-metadata"] if keep_metadata else command,
            input=data,
            capture_output=True,
            timeout=timeout,
            # So that it is this package that is found there, wherever the server was started.
            cwd=Path(banatie.__file__).parents[1],
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ValidationError.of(
            field,
            f"the picture takes longer than {timeout:g} seconds to decode; upload a smaller one",
        ) from None
    if run.returncode == REFUSED:
        raise ValidationError.of(field, run.stdout.decode())
    if run.returncode != 0:
        raise ValidationError.of(
            field, "the picture cannot be decoded: it is damaged, or takes too much memory"
        )
    head, _, encoded = run.stdout.partition(b"\n")
    return Upload(encoded, **json.loads(head))


def invert_mask(upload: Upload) -> Upload:
    """A decoded mask with black and white exchanged, as a PNG in grey."""
    with Image.open(io.BytesIO(upload.data)) as opened:
        inverted = ImageOps.invert(flatten(opened, "black").convert("L"))
    encoded = io.BytesIO()
    inverted.save(encoded, "PNG")
    return Upload(encoded.getvalue(), "png", upload.width, upload.height)
