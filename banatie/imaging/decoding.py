"""Decoding an upload: the process that `uploads` starts for each.

    python -m banatie.imaging.decoding MAX_PIXELS [keep-metadata]

reads the file from standard input and writes one line of JSON and the normalised file to standard
output, or why it is refused, with the exit status REFUSED. The pixels are counted from the header,
before anything is decoded.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
from typing import Any

import numpy as np
from PIL import Image, ImageCms, ImageOps, PngImagePlugin, UnidentifiedImageError

REFUSED = 3
"""The exit status for a picture that is refused."""
MEMORY_BYTES = 3 << 30
"""The most address space: the largest picture with a few copies, and what Python takes."""
CPU_SECONDS = 60
JPEG_QUALITY = WEBP_QUALITY = 95
"""Of what has to be encoded anew, because its pixels have changed."""
FORMATS = {"PNG": "png", "JPEG": "jpeg", "MPO": "jpeg", "WEBP": "webp"}
"""By Pillow's names; an MPO is a JPEG with further pictures behind it, as some cameras write."""


class Refused(Exception):
    """The picture is refused; the message says why, to the person who sent it."""


def normalise(data: bytes, max_pixels: int, keep_metadata: bool) -> tuple[dict[str, Any], bytes]:
    """The facts of an upload (format, width, height), and the file as it is to be stored.

    Raises Refused.
    """
    try:
        # JPEG finds out by itself that it is an MPO.
        image = Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP"))
    except UnidentifiedImageError:
        raise Refused("not a PNG, JPEG or WebP picture, or a damaged one") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise Refused(f"the picture is damaged ({error})") from None
    image_format = FORMATS[str(image.format)]
    width, height = image.size
    if width * height > max_pixels:
        raise Refused(
            f"the picture has {width} × {height} pixels, more than the {max_pixels:,} that are "
            "accepted; make it smaller"
        )
    if image.format != "MPO" and getattr(image, "is_animated", False):
        raise Refused("the picture is animated; upload a single frame")
    try:
        image.load()
    except (OSError, SyntaxError, ValueError) as error:
        raise Refused(f"the picture is truncated or damaged ({error})") from None
    metadata = _metadata(image) if keep_metadata else {}
    upright = ImageOps.exif_transpose(image)
    normal = _to_srgb(upright)
    if "exif" in metadata:
        # Without the orientation, which has been applied.
        metadata["exif"] = upright.getexif().tobytes()
    is_untouched = normal is upright and upright.size == image.size and not _is_turned(image)
    encoded = _encode(image if is_untouched else normal, data, image_format, metadata)
    return {"image_format": image_format, "width": normal.width, "height": normal.height}, encoded


def _is_turned(image: Image.Image) -> bool:
    return image.getexif().get(0x0112, 1) != 1


def _metadata(image: Image.Image) -> dict[str, Any]:
    """What Pillow can write again: Exif, XMP, and a PNG's texts."""
    kept: dict[str, Any] = {}
    for name in ("exif", "xmp"):
        if name in image.info:
            kept[name] = image.info[name]
    if isinstance(image, PngImagePlugin.PngImageFile) and image.text:
        texts = PngImagePlugin.PngInfo()
        for keyword, text in image.text.items():
            texts.add_text(keyword, text)
        kept["pnginfo"] = texts
    return kept


def _to_srgb(image: Image.Image) -> Image.Image:
    """The picture in RGB or RGBA with 8 bits a channel; itself if it is that in sRGB already."""
    profile = _profile(image)
    if image.mode.startswith("I"):
        # 16 bits of grey; colours of 16 bits are 8 already when Pillow has decoded them.
        levels = np.asarray(image).astype(np.uint32) >> 8
        image = Image.fromarray(levels.clip(0, 255).astype(np.uint8))
    if image.mode not in ("RGB", "RGBA", "L", "CMYK") or "transparency" in image.info:
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    if profile is not None:
        alpha = image.getchannel("A") if image.mode == "RGBA" else None
        colours = image.convert("RGB") if alpha else image
        converted = None
        # A profile for another kind of picture, or a broken one: the colours are taken as sRGB.
        with contextlib.suppress(ImageCms.PyCMSError):
            converted = ImageCms.profileToProfile(
                colours, profile, ImageCms.createProfile("sRGB"), outputMode="RGB"
            )
        image = converted or colours
        if alpha:
            image.putalpha(alpha)
    return image if image.mode in ("RGB", "RGBA") else image.convert("RGB")


def _profile(image: Image.Image) -> ImageCms.ImageCmsProfile | None:
    """The picture's colour profile; None if it has none, a broken one, or sRGB's."""
    embedded = image.info.get("icc_profile")
    if not embedded:
        return None
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(embedded))
        name = ImageCms.getProfileDescription(profile)
    except (ImageCms.PyCMSError, OSError):
        return None
    return None if name.startswith("sRGB") else profile


def _encode(image: Image.Image, data: bytes, image_format: str, metadata: dict[str, Any]) -> bytes:
    # Pillow writes some of these into the file by itself.
    image.info = {}
    options: dict[str, Any] = {}
    if image_format == "jpeg" and image.format == "JPEG":
        # The same tables as the original, so that nearly nothing is lost.
        options = {"quality": "keep"}
    elif image_format == "jpeg":
        options = {"quality": JPEG_QUALITY, "subsampling": "4:4:4"}
    elif image_format == "webp":
        options = {"lossless": b"VP8L" in data[:64], "quality": WEBP_QUALITY, "method": 2}
    encoded = io.BytesIO()
    image.save(encoded, image_format, **options, **metadata)
    return encoded.getvalue()


def _limit_resources() -> None:
    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))


def main() -> None:
    """Decode standard input as the arguments say."""
    _limit_resources()
    # Counted here, before the decoding.
    Image.MAX_IMAGE_PIXELS = None
    max_pixels, keep_metadata = int(sys.argv[1]), sys.argv[2:] == ["keep-metadata"]
    try:
        facts, encoded = normalise(sys.stdin.buffer.read(), max_pixels, keep_metadata)
    except Refused as refusal:
        sys.stdout.buffer.write(str(refusal).encode())
        raise SystemExit(REFUSED) from None
    sys.stdout.buffer.write(json.dumps(facts).encode() + b"\n" + encoded)


if __name__ == "__main__":
    main()
