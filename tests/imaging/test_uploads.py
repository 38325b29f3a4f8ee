"""Uploads: what is refused, and what becomes of every kind of picture that is accepted."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import time
import zlib

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms, PngImagePlugin

from banatie.errors import ValidationError
from banatie.imaging import decoding
from banatie.imaging.decoding import Refused, normalise
from banatie.imaging.uploads import Upload, decode_upload

LIMIT = 1_000_000


def picture(mode: str = "RGB", size: tuple[int, int] = (40, 24)) -> Image.Image:
    """Red on the left, blue on the right, so that a turn shows."""
    image = Image.new("RGB", size, "red")
    image.paste("blue", (size[0] // 2, 0, *size))
    return image.convert(mode)


def file_of(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def decoded(data: bytes, keep_metadata: bool = False) -> Image.Image:
    """The normalised picture, decoded in this process."""
    facts, encoded = normalise(data, LIMIT, keep_metadata)
    image = Image.open(io.BytesIO(encoded))
    image.load()
    assert (image.width, image.height) == (facts["width"], facts["height"])
    assert image.format.lower() == facts["image_format"]
    return image


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(side: int) -> bytes:
    """A PNG of a few bytes whose header says that it is huge."""
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_an_upload_comes_back_in_its_format(form: str) -> None:
    data = file_of(picture(), form)
    upload = decode_upload(data)
    assert upload.mime_type == Image.MIME[form]
    assert (upload.width, upload.height) == (40, 24)
    found = Image.open(io.BytesIO(upload.data))
    assert (found.format, found.mode) == (form, "RGB")
    original = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
    assert np.abs(np.asarray(found) - original).mean() < 4


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not a PNG, JPEG or WebP"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a PNG, JPEG or WebP"),
        (file_of(picture(), "GIF"), "not a PNG, JPEG or WebP"),
        (file_of(picture(), "TIFF"), "not a PNG, JPEG or WebP"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a PNG, JPEG or WebP"),
        (bomb(5_000), "5000 × 5000 pixels, more than the 1,000,000"),
        (file_of(picture(), save_all=True, append_images=[picture().rotate(90)]), "animated"),
        (
            file_of(picture(), "WEBP", save_all=True, append_images=[picture().rotate(90)]),
            "animated",
        ),
        (file_of(picture())[:-30], "truncated or damaged"),
        (file_of(picture(size=(200, 200)), "JPEG")[:700], "truncated or damaged"),
        (file_of(picture(size=(200, 200)), "WEBP")[:60], "damaged"),
        (file_of(picture())[:20], "damaged"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_used_is_refused_by_its_bytes(data: bytes, reason: str) -> None:
    with pytest.raises(Refused, match=reason):
        normalise(data, LIMIT, False)


def test_a_refusal_names_the_field() -> None:
    with pytest.raises(ValidationError, match="60000 × 60000") as caught:
        decode_upload(bomb(60_000))
    assert [detail.field for detail in caught.value.details] == ["file"]
    with pytest.raises(ValidationError, match="more than the 100 that are accepted"):
        decode_upload(file_of(picture()), max_pixels=100)


def test_a_decoder_that_hangs_is_ended() -> None:
    started = time.monotonic()
    with pytest.raises(ValidationError, match=r"longer than 0\.05 seconds"):
        decode_upload(file_of(picture(size=(3000, 3000))), timeout=0.05)
    assert time.monotonic() - started < 5


def test_a_decoder_that_takes_too_much_memory_is_only_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Announces what no machine has, and is let through.
    with pytest.raises(ValidationError, match="damaged, or takes too much memory"):
        decode_upload(bomb(60_000), max_pixels=2**62)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_is_turned_upright(orientation: int) -> None:
    upright = picture()
    transposes = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        # What the camera saw is turned the other way.
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    seen = upright.transpose(transposes[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    found = decoded(file_of(seen, "JPEG", quality=95, exif=exif), keep_metadata=True)
    assert found.size == upright.size
    assert np.abs(np.asarray(found).astype(int) - np.asarray(upright)).mean() < 8
    assert found.getexif().get(ExifTags.Base.Orientation, 1) == 1


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("keep", [False, True])
def test_metadata_is_stripped_unless_it_is_kept(form: str, keep: bool) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Artist] = "Somebody"
    exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitude] = (52.0, 30.0, 0.0)
    options: dict[str, object] = {"exif": exif}
    if form == "PNG":
        options["pnginfo"] = texts = PngImagePlugin.PngInfo()
        texts.add_text("Comment", "at home")
    if form == "JPEG":
        options["comment"] = "at home"
    found = decoded(file_of(picture(), form, **options), keep_metadata=keep)
    kept = found.getexif()
    assert (kept.get(ExifTags.Base.Artist) == "Somebody") is keep
    assert bool(kept.get_ifd(ExifTags.IFD.GPSInfo)) is keep
    assert ("at home" in str(found.info)) is (keep and form == "PNG")


@pytest.mark.parametrize(
    ("image", "options", "mode"),
    [
        (picture("L"), {}, "RGB"),
        (picture("1"), {}, "RGB"),
        (picture("P"), {}, "RGB"),
        (picture("LA"), {}, "RGBA"),
        (picture("RGBA"), {}, "RGBA"),
        (picture().quantize(2), {"transparency": 0}, "RGBA"),
        (picture(), {"transparency": (255, 0, 0)}, "RGBA"),
    ],
)
def test_every_kind_of_pixels_becomes_rgb(
    image: Image.Image, options: dict[str, object], mode: str
) -> None:
    found = decoded(file_of(image, "PNG", **options))
    assert found.mode == mode
    expected = np.asarray(image.convert("RGB"))
    visible = np.asarray(found.convert("RGBA"))[..., 3] > 0
    assert np.array_equal(np.asarray(found.convert("RGB"))[visible], expected[visible])
    assert bool(options) == (not visible.all())


def test_sixteen_bits_become_eight() -> None:
    levels = np.linspace(0, 65535, 40 * 24).reshape(24, 40).astype(np.uint16)
    found = decoded(file_of(Image.fromarray(levels)))
    assert np.array_equal(np.asarray(found)[..., 0], levels >> 8)


def test_cmyk_becomes_rgb() -> None:
    found = decoded(file_of(picture("CMYK"), "JPEG", quality=95))
    assert np.abs(np.asarray(found).astype(int) - np.asarray(picture())).mean() < 8


def test_other_colour_profiles_become_srgb() -> None:
    # In this space the same numbers are other colours.
    lab = ImageCms.createProfile("LAB")
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    image = Image.new("RGB", (16, 16), (200, 40, 40))
    swapped = _with_primaries_swapped(srgb.tobytes())
    found = decoded(file_of(image, icc_profile=swapped))
    assert found.getpixel((8, 8))[2] > 150
    assert found.getpixel((8, 8))[0] < 100
    assert "icc_profile" not in found.info
    for harmless in (srgb.tobytes(), ImageCms.ImageCmsProfile(lab).tobytes(), b"no profile"):
        plain = decoded(file_of(image, icc_profile=harmless))
        assert plain.getpixel((8, 8)) == (200, 40, 40)
        assert "icc_profile" not in plain.info


def _with_primaries_swapped(profile: bytes) -> bytes:
    """An RGB profile whose red is blue, under another name."""
    tags = profile.replace(b"rXYZ", b"????").replace(b"bXYZ", b"rXYZ").replace(b"????", b"bXYZ")
    return tags.replace("sRGB".encode("utf-16-be"), "other".encode("utf-16-be")[:8])


def test_a_picture_behind_the_picture_is_not_stored() -> None:
    several = file_of(picture(), "MPO", save_all=True, append_images=[Image.new("RGB", (9, 9))])
    found = decoded(several)
    assert (found.format, found.size) == ("JPEG", (40, 24))
    hidden = decoded(file_of(picture()) + b"PK\x03\x04 an archive")
    assert hidden.tobytes() == picture().tobytes()


def test_what_is_stored_is_accepted_again_and_nothing_is_lost() -> None:
    for form in ("PNG", "JPEG", "WEBP"):
        once = decoded(file_of(picture(size=(64, 64)), form))
        _, data = normalise(file_of(picture(size=(64, 64)), form), LIMIT, False)
        again = decoded(data)
        assert np.abs(np.asarray(again).astype(int) - np.asarray(once)).mean() < 2


def test_the_decoder_s_process_loads_little() -> None:
    code = (
        "import sys, banatie.imaging.decoding; "
        "print([name for name in ('torch', 'litestar', 'sqlite3') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"


def test_an_upload_is_a_value() -> None:
    assert Upload(b"x", "png", 1, 1) == Upload(b"x", "png", 1, 1)
    assert set(decoding.FORMATS.values()) == {"png", "jpeg", "webp"}
