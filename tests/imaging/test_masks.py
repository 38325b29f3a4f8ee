"""Masks by transparency, made into masks by brightness."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from banatie.errors import ValidationError
from banatie.imaging.masks import mask_of_transparency
from banatie.imaging.uploads import Upload


def upload(image: Image.Image) -> Upload:
    encoded = io.BytesIO()
    image.save(encoded, "PNG")
    return Upload(encoded.getvalue(), "png", *image.size)


def test_what_is_transparent_is_white_and_the_rest_black() -> None:
    image = Image.new("RGBA", (3, 1), (200, 10, 10, 255))
    image.putpixel((0, 0), (9, 9, 9, 0))
    image.putpixel((1, 0), (9, 9, 9, 100))
    mask = mask_of_transparency(upload(image), "mask")
    with Image.open(io.BytesIO(mask.data)) as opened:
        assert (opened.format, opened.mode) == ("PNG", "L")
        assert [opened.getpixel((x, 0)) for x in range(3)] == [255, 155, 0]
    assert (mask.width, mask.height) == (3, 1)


def test_a_picture_without_transparency_is_refused() -> None:
    with pytest.raises(ValidationError, match="alpha channel") as raised:
        mask_of_transparency(upload(Image.new("RGB", (3, 1))), "mask")
    assert raised.value.details[0].field == "mask"
