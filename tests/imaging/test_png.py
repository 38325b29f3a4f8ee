"""Image files: the PNG encoder against its specification, and the generation parameters."""

from __future__ import annotations

import dataclasses
import io
import re
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from banatie.imaging.parameters import parameters_text
from banatie.imaging.png import encode_png

SETTING = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
"""WebUI's own expression for one setting (`re_param`), by which image browsers read them."""

FACTS = {
    "prompt": "a red cat",
    "original_prompt": "a red cat",
    "negative_prompt": "",
    "steps": 30,
    "sampler": "Euler",
    "guidance_scale": 5.0,
    "seed": 2**53 - 1,
    "width": 1344,
    "height": 768,
    "model": "banatie-small",
    "hashes": {"Model hash": "0123456789"},
    "version": "Banatie 0.1.0",
}


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def chunks_of(data: bytes) -> list[tuple[bytes, bytes]]:
    chunks, position = [], 8
    while position < len(data):
        (length,) = struct.unpack_from(">I", data, position)
        kind = data[position + 4 : position + 8]
        content = data[position + 8 : position + 8 + length]
        (checksum,) = struct.unpack_from(">I", data, position + 8 + length)
        assert checksum == zlib.crc32(kind + content)
        chunks.append((kind, content))
        position += length + 12
    return chunks


def picture(size: tuple[int, int], mode: str, values: int = 256, seed: int = 0) -> Image.Image:
    shape = (size[1], size[0], len(mode)) if len(mode) > 1 else (size[1], size[0])
    levels = np.random.default_rng(seed).integers(0, values, shape, dtype=np.uint8)
    return Image.fromarray(levels)


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (7, 63), (7, 64), (7, 65), (64, 130)])
# Few values make ties in the prediction, many make overflows.
@pytest.mark.parametrize("values", [2, 5, 256])
def test_every_pixel_comes_back(size: tuple[int, int], mode: str, values: int) -> None:
    image = picture(size, mode, values)
    encoded = encode_png(image, {})
    found = opened(encoded.data)
    assert (found.format, found.mode, found.size) == ("PNG", mode, size)
    assert found.tobytes() == image.tobytes()
    assert (encoded.mime_type, (encoded.width, encoded.height)) == ("image/png", size)


@pytest.mark.parametrize("mode", ["P", "1", "CMYK", "I;16"])
def test_other_modes_become_rgb(mode: str) -> None:
    image = Image.new(mode, (9, 5))
    assert opened(encode_png(image, {}).data).tobytes() == image.convert("RGB").tobytes()


def test_every_combination_of_neighbours_is_predicted_as_the_specification_says() -> None:
    # Left, up and upper left at a spread of levels, against the predictor written out.
    levels = np.array([0, 1, 2, 3, 63, 64, 65, 126, 127, 128, 129, 191, 253, 254, 255])
    left, up, corner = (each.ravel() for each in np.meshgrid(levels, levels, levels))
    pixels = np.zeros((2, 2 * len(left)), np.uint8)
    pixels[0, 0::2], pixels[0, 1::2], pixels[1, 0::2] = corner, up, left
    data = dict(chunks_of(encode_png(Image.fromarray(pixels), {}).data))[b"IDAT"]
    row = np.frombuffer(zlib.decompress(data), np.uint8).reshape(2, -1)[1]
    base = left + up - corner
    distances = [abs(base - left), abs(base - up), abs(base - corner)]
    nearest = np.argmin(distances, axis=0)
    expected = np.choose(nearest, [left, up, corner])
    assert row[0] == 4
    assert np.array_equal((-row[2::2].astype(int)) % 256, expected)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("a red cat", b"tEXt"),
        ("größe, 20 °C\nzwei Zeilen", b"tEXt"),
        ("", b"tEXt"),
        ("漢字 🐈\nSteps: 3", b"iTXt"),
        ("x" * 100_000, b"tEXt"),
        ("猫" * 100_000, b"iTXt"),
    ],
)
def test_texts_come_back(text: str, kind: bytes) -> None:
    data = encode_png(picture((4, 4), "RGB"), {"parameters": text, "Software": "Banatie"}).data
    assert opened(data).text == {"parameters": text, "Software": "Banatie"}
    assert [name for name, _ in chunks_of(data)] == [b"IHDR", kind, b"tEXt", b"IDAT", b"IEND"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a\0b", "a\ufffdb"),
        ("half a pair: \ud83d!", "half a pair: ?!"),
        ("\0\udc00漢", "\ufffd?漢"),
    ],
)
def test_what_no_chunk_can_hold_is_replaced(text: str, found: str) -> None:
    data = encode_png(picture((4, 4), "RGB"), {"parameters": text}).data
    assert opened(data).text == {"parameters": found}


@pytest.mark.parametrize("keyword", ["", "x" * 80, "a\0b"])
def test_a_keyword_that_is_none_is_refused(keyword: str) -> None:
    with pytest.raises(ValueError, match="keyword"):
        encode_png(picture((4, 4), "RGB"), {keyword: "text"})


def test_the_same_picture_gives_the_same_bytes() -> None:
    image, text = picture((300, 200), "RGB"), {"parameters": "漢字"}
    assert encode_png(image, text) == encode_png(image.copy(), dict(text))


@pytest.mark.parametrize("grain", [1.0, 3.0])
@pytest.mark.parametrize("levels", [256, 6])
def test_files_are_about_as_small_as_pillows(grain: float, levels: int) -> None:
    # Without any grain, as only formulas make it, Pillow's long search would find repeats.
    y, x = np.mgrid[0:384, 0:384]
    waves = np.stack([128 + 90 * np.sin(x / 31 + y / (17 + band)) for band in range(3)], -1)
    flattened = np.round(waves / 255 * (levels - 1)) / (levels - 1) * 255
    painted = flattened + np.random.default_rng(0).normal(0, grain, waves.shape)
    image = Image.fromarray(painted.clip(0, 255).round().astype(np.uint8))
    file = io.BytesIO()
    image.save(file, "PNG")
    assert len(encode_png(image, {}).data) < 1.15 * file.tell()


def test_a_picture_is_a_value() -> None:
    encoded = encode_png(picture((4, 4), "RGB"), {})
    with pytest.raises(dataclasses.FrozenInstanceError):
        encoded.width = 5  # type: ignore[misc]


def test_the_parameters_are_in_the_form_that_image_browsers_read() -> None:
    assert parameters_text(**FACTS | {"negative_prompt": "dark, blurry"}) == (
        "a red cat\n"
        "Negative prompt: dark, blurry\n"
        "Steps: 30, Sampler: Euler, CFG scale: 5, Seed: 9007199254740991, Size: 1344x768, "
        "Model hash: 0123456789, Model: banatie-small, Version: Banatie 0.1.0"
    )


def test_absent_facts_are_left_out() -> None:
    text = parameters_text(**FACTS | {"hashes": {"UNet hash": ""}})
    assert "Negative prompt" not in text
    assert "UNet hash" not in text
    assert "Lora hashes" not in text
    assert "Original prompt" not in text
    assert text.startswith("a red cat\nSteps: 30")


def test_loras_end_the_prompt_as_one_would_type_them() -> None:
    text = parameters_text(**FACTS | {"loras": {"pixel-art": 1.0, "ink": -0.35}})
    assert text.startswith("a red cat <lora:pixel-art:1> <lora:ink:-0.35>\nSteps: 30")


def test_hashes_of_loras_are_one_quoted_setting() -> None:
    loras = {"pixel-art": "0123456789ab", "ink": "ba9876543210"}
    line = parameters_text(**FACTS | {"lora_hashes": loras}).splitlines()[-1]
    assert ', Lora hashes: "pixel-art: 0123456789ab, ink: ba9876543210", ' in line


def test_values_that_would_mislead_a_reader_are_quoted() -> None:
    original = 'a cat, "Tom",\nSteps: 99: größe 漢'
    text = parameters_text(**FACTS | {"original_prompt": original, "model": "a, b: c"})
    line = text.splitlines()[-1]
    settings = dict(SETTING.findall(line))
    assert settings["Steps"] == "30"
    assert settings["Model"] == '"a, b: c"'
    assert settings["Original prompt"] == '"a cat, \\"Tom\\",\\nSteps: 99: größe 漢"'
    assert settings["Version"] == "Banatie 0.1.0"


@pytest.mark.parametrize(
    ("guidance", "written"), [(7.0, "7"), (7.5, "7.5"), (0.0, "0"), (1 / 3, "0.333333333333")]
)
def test_guidance_is_written_as_people_write_it(guidance: float, written: str) -> None:
    text = parameters_text(**FACTS | {"guidance_scale": guidance})
    assert f"CFG scale: {written}, " in text


def test_imaging_needs_no_torch() -> None:
    modules = "banatie.imaging.formats, banatie.imaging.uploads, banatie.imaging.thumbnails"
    code = f"import sys, {modules}; print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "False\n"
