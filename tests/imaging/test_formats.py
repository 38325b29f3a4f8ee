"""Formats: what is stored in PNG, JPEG and WebP, and the text in each."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import ExifTags, Image

from banatie.imaging.formats import encode, encode_preview
from banatie.records import ImageFormat

TEXT = "a red cat, größe 猫 🐈\nSteps: 3, Sampler: Euler"
FORMATS: list[ImageFormat] = ["png", "jpeg", "webp"]


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def smooth(size: tuple[int, int] = (96, 64)) -> Image.Image:
    y, x = np.mgrid[0 : size[1], 0 : size[0]]
    bands = [128 + 100 * np.sin(x / 13 + y / (11 + band)) for band in range(3)]
    return Image.fromarray(np.stack(bands, -1).round().astype(np.uint8))


def text_in(image: Image.Image) -> str:
    """The generation parameters, found where image browsers look for them."""
    if image.format == "PNG":
        return image.text.get("parameters", "")
    comment = image.getexif().get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.UserComment, b"")
    assert comment[:8] in (b"", b"UNICODE\0")
    return comment[8:].decode("utf-16-be")


@pytest.mark.parametrize("form", FORMATS)
def test_each_format_is_what_it_says_and_carries_the_text(form: ImageFormat) -> None:
    picture = encode(smooth(), form, 80, TEXT)
    found = opened(picture.data)
    assert found.format == form.upper()
    assert picture.mime_type == f"image/{form}" == Image.MIME[found.format]
    assert (picture.width, picture.height) == found.size == (96, 64)
    assert text_in(found) == TEXT


@pytest.mark.parametrize("form", FORMATS)
def test_without_a_text_there_is_no_metadata(form: ImageFormat) -> None:
    found = opened(encode(smooth(), form, 80).data)
    assert text_in(found) == ""
    assert not found.getexif()
    assert encode(smooth(), form, 80) == encode(smooth(), form, 80)


@pytest.mark.parametrize("form", ["jpeg", "webp"])
def test_a_higher_quality_is_nearer_to_the_picture_and_larger(form: ImageFormat) -> None:
    image = smooth()
    expected = np.asarray(image).astype(int)
    results = []
    for quality in (1, 40, 100):
        data = encode(image, form, quality).data
        error = np.abs(np.asarray(opened(data).convert("RGB")) - expected).mean()
        results.append((len(data), -error))
    assert results == sorted(results)
    assert len({size for size, _ in results}) == 3
    assert encode(image, form, None).data == encode(image, form, 90).data


def test_what_is_transparent_is_white_in_a_jpeg() -> None:
    image = Image.new("RGBA", (16, 16), (255, 0, 0, 0))
    assert opened(encode(image, "jpeg", 90).data).getpixel((8, 8)) == (255, 255, 255)
    assert opened(encode(image, "webp", 90).data).getpixel((8, 8))[3] == 0


def test_a_preview_is_a_small_jpeg() -> None:
    found = opened(encode_preview(smooth()))
    assert (found.format, found.size) == ("JPEG", (96, 64))
